//! ValidatingAdmissionPolicy (Kubernetes documentation, "Validating Admission Policy"): finds the policies and bindings that a
//! request concerns, looks up their parameters, evaluates, and turns broken rules into refusals, warnings and audit notes.

use super::{
    Request,
    expressions::{self, Expressions, Names},
    matching, notes,
};
use crate::identity::Authorizer;
use orlop_api::{
    Status,
    object::{list, text},
    selector::Selector,
};
use orlop_cel::{Budget, Value as Cel};
use serde_json::{Value, json};
use std::sync::Arc;

const POLICIES: (&str, &str, &str) = ("admissionregistration.k8s.io", "v1", "validatingadmissionpolicies");
const BINDINGS: (&str, &str, &str) =
    ("admissionregistration.k8s.io", "v1", "validatingadmissionpolicybindings");
/// The longest message that an expression may make.
const MAX_MESSAGE: usize = 5 << 10;
/// Kubernetes' key for what a binding wants audited.
const FAILURE_KEY: &str = "validation.policy.admission.k8s.io/validation_failure";

/// A rule that was not fulfilled, or that could not be evaluated.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Broken {
    message: String,
    reason: String,
    index: usize,
    /// Whether it is not known if the rule is fulfilled.
    failed: bool,
}

/// What evaluations need.
pub(super) struct Evaluator<'a> {
    pub expressions: &'a Expressions,
    pub authorizer: Option<&'a Arc<dyn Authorizer>>,
}

/// Whether there are any bindings at all: a policy without one does nothing.
pub(super) fn exist(request: &Request<'_>) -> bool {
    request.registry.find(BINDINGS.0, BINDINGS.1, BINDINGS.2).is_some_and(|r| r.cache.len() > 0)
        && !matching::is_exempt(request)
}

/// Whether `matchConstraints` or `matchResources` are about the request.
fn concerns(about: &Value, request: &Request<'_>, object: Option<&Value>) -> bool {
    let policy = text(about, "/matchPolicy");
    let included = list(about, "/resourceRules");
    (included.is_empty() || matching::rules_match(included, policy, request))
        && !matching::rules_match(list(about, "/excludeResourceRules"), policy, request)
        && matching::selectors_match(about, request, object)
}

/// The names that expressions of a policy may use.
pub(super) fn names(policy: &Value) -> Names {
    let variables = list(policy, "/spec/variables").iter().map(|v| text(v, "/name").to_string()).collect();
    Names { policy: true, variables }
}

/// The parameters that a binding refers to. An empty list means that the binding does not apply.
fn params(policy: &Value, binding: &Value, request: &Request<'_>) -> Result<Vec<Value>, String> {
    let Some(kind) = policy.pointer("/spec/paramKind").filter(|k| k.is_object()) else {
        return Ok(vec![Value::Null]);
    };
    let Some(reference) = binding.pointer("/spec/paramRef").filter(|r| r.is_object()) else {
        return Ok(vec![Value::Null]);
    };
    let (group, version) =
        text(kind, "/apiVersion").split_once('/').unwrap_or(("", text(kind, "/apiVersion")));
    let name = text(kind, "/kind");
    let resource = request
        .registry
        .resources()
        .into_iter()
        .find(|r| r.kind.group == group && r.kind.version == version && r.kind.kind == name)
        .ok_or_else(|| {
            format!("failed to configure policy: failed to find resource referenced by paramKind: '{group}/{version}, Kind={name}'")
        })?;
    let place = if resource.kind.namespaced() {
        match (text(reference, "/namespace"), request.namespace) {
            ("", "") => {
                return Err("failed to configure binding: cannot use namespaced paramRef in policy binding that matches cluster-scoped resources".into());
            }
            ("", own) => own,
            (named, _) => named,
        }
    } else {
        ""
    };
    let of = (&*resource.kind.group, &*resource.kind.version, &*resource.kind.plural);
    let name = text(reference, "/name");
    let found: Vec<Value> = if name.is_empty() {
        let selector = Selector::from_json(reference.get("selector")).map_err(|e| e.to_string())?;
        request
            .look_up_all(of, place)
            .into_iter()
            .filter(|o| selector.matches_json(orlop_api::object::map(o, "/metadata/labels")))
            .collect()
    } else {
        request.look_up(of, place, name).into_iter().collect()
    };
    if found.is_empty() && text(reference, "/parameterNotFoundAction") == "Deny" {
        return Err(
            "failed to configure binding: no params found for policy binding with `Deny` parameterNotFoundAction".into(),
        );
    }
    Ok(found)
}

fn status(request: &Request<'_>, policy: &str, binding: &str, broken: &Broken) -> Status {
    let message = format!(
        "ValidatingAdmissionPolicy '{policy}' with binding '{binding}' denied request: {}",
        broken.message
    );
    let mut status = request.forbidden(&message);
    (status.code, status.reason) = match broken.reason.as_str() {
        "Forbidden" => (403, "Forbidden"),
        "Unauthorized" => (401, "Unauthorized"),
        "RequestEntityTooLarge" => (413, "RequestEntityTooLarge"),
        _ => (422, "Invalid"),
    };
    if let Some(details) = &mut status.details {
        details["causes"] = json!([{"message": message}]);
    }
    status
}

impl Evaluator<'_> {
    fn eval(
        &self,
        names: &Names,
        source: &str,
        values: &[(&str, Cel)],
        budget: &mut Budget<'_>,
    ) -> Result<Cel, String> {
        let program = self.expressions.program(names, source)?;
        match program.eval(values, budget) {
            Ok(Cel::Failed(why)) => Err(why.to_string()),
            Ok(value) => Ok(value),
            Err(error) => Err(error.to_string()),
        }
    }

    /// All rules of a policy that are broken with one set of parameters, and what it wants audited.
    fn evaluate(&self, policy: &Value, values: &[(&str, Cel)]) -> (Vec<Broken>, Vec<(String, String)>) {
        let names = names(policy);
        let mut budget = expressions::budget();
        let mut values = values.to_vec();
        let variables: Vec<(String, &str)> = list(policy, "/spec/variables")
            .iter()
            .map(|v| (format!("variables.{}", text(v, "/name")), text(v, "/expression")))
            .collect();
        for (name, source) in &variables {
            // What fails is told to whoever looks at it, and to nobody else.
            let value = self
                .eval(&names, source, &values, &mut budget)
                .unwrap_or_else(|why| Cel::Failed(why.as_str().into()));
            values.push((name, value));
        }
        let mut broken = Vec::new();
        for (index, validation) in list(policy, "/spec/validations").iter().enumerate() {
            let source = text(validation, "/expression");
            let (message, failed) = match self.eval(&names, source, &values, &mut budget) {
                Ok(Cel::Bool(true)) => continue,
                Ok(Cel::Bool(false)) => (self.message(&names, validation, &values, &mut budget), false),
                Ok(_) => (format!("expression '{source}' resulted in error: it is not a boolean"), true),
                Err(why) => (format!("expression '{source}' resulted in error: {why}"), true),
            };
            broken.push(Broken { message, reason: text(validation, "/reason").to_string(), index, failed });
        }
        let owner = text(policy, "/metadata/name");
        let mut annotations = Vec::new();
        for annotation in list(policy, "/spec/auditAnnotations") {
            let source = text(annotation, "/valueExpression");
            match self.eval(&names, source, &values, &mut budget) {
                Ok(Cel::String(value)) if !value.trim().is_empty() => {
                    let value = value.trim().chars().take(10 << 10).collect();
                    annotations.push((format!("{owner}/{}", text(annotation, "/key")), value));
                }
                Ok(_) => {}
                Err(why) => broken.push(Broken {
                    message: format!("expression '{source}' resulted in error: {why}"),
                    reason: String::new(),
                    index: 0,
                    failed: true,
                }),
            }
        }
        (broken, annotations)
    }

    fn message(
        &self,
        names: &Names,
        validation: &Value,
        values: &[(&str, Cel)],
        budget: &mut Budget<'_>,
    ) -> String {
        let source = text(validation, "/messageExpression");
        if !source.is_empty()
            && let Ok(Cel::String(made)) = self.eval(names, source, values, budget)
        {
            let made = made.trim();
            if !made.is_empty() && made.len() <= MAX_MESSAGE && !made.contains('\n') {
                return made.to_string();
            }
        }
        match text(validation, "/message").trim() {
            "" => format!("failed expression: {}", text(validation, "/expression").trim()),
            said => said.to_string(),
        }
    }

    /// The broken rules of a policy for one binding, over all its parameters.
    fn judge(
        &self,
        policy: &Value,
        binding: &Value,
        request: &Request<'_>,
        values: &[(&str, Cel)],
    ) -> Result<Vec<Broken>, String> {
        let names = names(policy);
        let mut all = Vec::new();
        for param in params(policy, binding, request)? {
            let mut values = values.to_vec();
            values.push(("params", Cel::from_json(&param)));
            let conditions = list(policy, "/spec/matchConditions");
            if !expressions::conditions_hold(self.expressions, conditions, &names, &values)? {
                continue;
            }
            let (broken, annotations) = self.evaluate(policy, &values);
            all.extend(broken);
            annotations.into_iter().for_each(|(key, value)| notes::annotate(key, value));
        }
        Ok(all)
    }

    /// Holds the request to all policies; the first refusal counts.
    pub(super) fn validate(&self, request: &Request<'_>, object: Option<&Value>) -> Result<(), Status> {
        let bindings = request.look_up_all(BINDINGS, "");
        let mut values = None;
        let mut audited = Vec::new();
        let mut refusal = None;
        for policy in request.look_up_all(POLICIES, "") {
            let name = text(&policy, "/metadata/name");
            let null = Value::Null;
            let constraints = policy.pointer("/spec/matchConstraints").unwrap_or(&null);
            let bound = || bindings.iter().filter(|b| text(b, "/spec/policyName") == name);
            if bound().next().is_none() || !concerns(constraints, request, object) {
                continue;
            }
            for binding in bound() {
                let resources = binding.pointer("/spec/matchResources").filter(|r| r.is_object());
                if resources.is_some_and(|r| !concerns(r, request, object)) {
                    continue;
                }
                let values = values.get_or_insert_with(|| {
                    let mut values = expressions::values(request, object, self.authorizer);
                    let namespace = matching::namespace(request, None).filter(|_| request.kind.namespaced());
                    values.push((
                        "namespaceObject",
                        namespace.map_or(Cel::Null, |n| Cel::from_json(&shown(n))),
                    ));
                    values
                });
                let broken = self.judge(&policy, binding, request, values).unwrap_or_else(|why| {
                    vec![Broken { message: why, reason: String::new(), index: 0, failed: true }]
                });
                let ignores = text(&policy, "/spec/failurePolicy") == "Ignore";
                let binding_name = text(binding, "/metadata/name");
                for broken in broken.into_iter().filter(|b| !(ignores && b.failed)) {
                    for action in list(binding, "/spec/validationActions") {
                        match action.as_str().unwrap_or_default() {
                            "Deny" => {
                                refusal.get_or_insert_with(|| status(request, name, binding_name, &broken));
                            }
                            "Warn" => notes::warn(format!(
                                "Validation failed for ValidatingAdmissionPolicy '{name}' with binding '{binding_name}': {}",
                                broken.message
                            )),
                            _ => audited.push(json!({
                                "message": broken.message, "policy": name, "binding": binding_name,
                                "expressionIndex": broken.index,
                                "validationActions": binding["spec"]["validationActions"],
                            })),
                        }
                    }
                }
            }
        }
        if !audited.is_empty() {
            notes::annotate(FAILURE_KEY, Value::Array(audited).to_string());
        }
        refusal.map_or(Ok(()), Err)
    }
}

/// A namespace as `namespaceObject` shows it.
fn shown(mut namespace: Value) -> Value {
    if let Some(meta) = namespace.get_mut("metadata").and_then(Value::as_object_mut) {
        for field in ["managedFields", "ownerReferences", "selfLink"] {
            meta.remove(field);
        }
    }
    namespace
}

#[cfg(test)]
mod tests {
    use super::*;

    fn evaluate(spec: Value, object: Value) -> (Vec<String>, Vec<(String, String)>) {
        let expressions = Expressions::default();
        let evaluator = Evaluator { expressions: &expressions, authorizer: None };
        let policy = json!({"metadata": {"name": "p"}, "spec": spec});
        let values = [
            ("object", Cel::from_json(&object)),
            ("oldObject", Cel::Null),
            ("request", Cel::Null),
            ("params", Cel::from_json(&json!({"max": 3}))),
            ("namespaceObject", Cel::Null),
        ];
        let (broken, annotations) = evaluator.evaluate(&policy, &values);
        (broken.into_iter().map(|b| b.message).collect(), annotations)
    }

    #[test]
    fn what_is_broken_is_told_in_the_words_that_the_policy_has_for_it() {
        let object = json!({"spec": {"replicas": 5}});
        let spec = json!({
            "variables": [{"name": "n", "expression": "object.spec.replicas"}, {"name": "bad", "expression": "object.none"}],
            "validations": [
                {"expression": "variables.n <= params.max", "messageExpression": "'at most ' + string(params.max)"},
                {"expression": "variables.n < 5", "message": "too many"},
                {"expression": "variables.n < 4"},
                {"expression": "variables.n > 1"},
            ],
            "auditAnnotations": [{"key": "n", "valueExpression": "string(variables.n)"}],
        });
        let (broken, annotations) = evaluate(spec, object);
        assert_eq!(broken, ["at most 3", "too many", "failed expression: variables.n < 4"]);
        assert_eq!(annotations, [("p/n".to_string(), "5".to_string())]);
    }

    #[test]
    fn an_expression_that_fails_is_broken_too() {
        let spec = json!({"validations": [{"expression": "object.missing.field == 1"}]});
        let (broken, _) = evaluate(spec, json!({}));
        assert!(
            broken[0].starts_with("expression 'object.missing.field == 1' resulted in error: "),
            "{broken:?}"
        );
    }
}
