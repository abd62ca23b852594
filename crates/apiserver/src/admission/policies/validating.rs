//! ValidatingAdmissionPolicy (Kubernetes documentation, "Validating Admission Policy"): evaluates the policies that a request
//! concerns, and turns broken rules into refusals, warnings and audit notes.

use super::{Concern, Evaluator, Family, Scope, names, params, seen, view};
use crate::admission::{Request, expressions, notes};
use orlop_api::{
    Status,
    object::{list, text},
};
use orlop_cel::{Budget, Value as Cel};
use serde_json::{Value, json};

const FAMILY: Family =
    Family { policies: "validatingadmissionpolicies", bindings: "validatingadmissionpolicybindings" };
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
    /// Whether it is of an audit annotation: these refuse, whatever the binding says of rules.
    of_annotation: bool,
}

/// What follows from all policies.
#[derive(Default)]
struct Judgement {
    refusal: Option<Status>,
    audited: Vec<Value>,
    annotations: Vec<(String, Vec<String>)>,
}

impl Judgement {
    /// Keeps what a policy wants audited; each of several values once.
    fn annotate(&mut self, key: String, value: String) {
        match self.annotations.iter_mut().find(|(known, _)| *known == key) {
            Some((_, values)) if values.contains(&value) => {}
            Some((_, values)) => values.push(value),
            None => self.annotations.push((key, vec![value])),
        }
    }
}

/// Whether there are any bindings at all: a policy without one does nothing.
pub(in crate::admission) fn exist(request: &Request<'_>) -> bool {
    FAMILY.exists(request)
}

fn status(request: &Request<'_>, policy: &str, binding: Option<&str>, why: &str, reason: &str) -> Status {
    let binding = binding.map(|name| format!(" with binding '{name}'")).unwrap_or_default();
    let message = format!("ValidatingAdmissionPolicy '{policy}'{binding} denied request: {why}");
    let mut status = request.forbidden(&message);
    (status.code, status.reason) = match reason {
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
    /// All rules of a policy that are broken with one set of parameters, and what it wants audited.
    fn evaluate(&self, policy: &Value, values: &[(&str, Cel)]) -> (Vec<Broken>, Vec<(String, String)>) {
        let (mut scope, mut budget) = (Scope::new(policy, values), expressions::budget());
        let mut broken = Vec::new();
        for (index, validation) in list(policy, "/spec/validations").iter().enumerate() {
            let source = text(validation, "/expression");
            let (message, failed) = match self.eval(&mut scope, source, &mut budget) {
                Ok(Cel::Bool(true)) => continue,
                Ok(Cel::Bool(false)) => (self.message(&mut scope, validation, &mut budget), false),
                Ok(_) => (format!("expression '{source}' resulted in error: it is not a boolean"), true),
                Err(why) => (format!("expression '{source}' resulted in error: {why}"), true),
            };
            let reason = text(validation, "/reason").to_string();
            broken.push(Broken { message, reason, index, failed, of_annotation: false });
        }
        let owner = text(policy, "/metadata/name");
        let mut annotations = Vec::new();
        for annotation in list(policy, "/spec/auditAnnotations") {
            let source = text(annotation, "/valueExpression");
            match self.eval(&mut scope, source, &mut budget) {
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
                    of_annotation: true,
                }),
            }
        }
        (broken, annotations)
    }

    fn message(&self, scope: &mut Scope<'_>, validation: &Value, budget: &mut Budget<'_>) -> String {
        let source = text(validation, "/messageExpression");
        if !source.is_empty()
            && let Ok(Cel::String(made)) = self.eval(scope, source, budget)
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

    /// The broken rules of a policy for one set of parameters, and what it wants audited.
    fn judge(
        &self,
        policy: &Value,
        param: &Value,
        values: &[(&str, Cel)],
    ) -> (Vec<Broken>, Vec<(String, String)>) {
        let mut values = values.to_vec();
        values.push(("params", Cel::from_json(param)));
        let conditions = list(policy, "/spec/matchConditions");
        match expressions::conditions_hold(self.expressions, conditions, &names(policy), &values) {
            Ok(true) => self.evaluate(policy, &values),
            Ok(false) => (Vec::new(), Vec::new()),
            Err(message) => {
                let (reason, index) = (String::new(), 0);
                (vec![Broken { message, reason, index, failed: true, of_annotation: false }], Vec::new())
            }
        }
    }

    /// Holds a request, as the policy sees it, to all that binds it to the policy.
    fn hold(
        &self,
        concern: &Concern,
        request: &Request<'_>,
        values: &[(&str, Cel)],
        judgement: &mut Judgement,
    ) {
        let policy = &concern.policy;
        let name = text(policy, "/metadata/name");
        let ignores = text(policy, "/spec/failurePolicy") == "Ignore";
        for binding in &concern.bindings {
            let binding_name = text(binding, "/metadata/name");
            let refusal = |why: &str, reason: &str| status(request, name, Some(binding_name), why, reason);
            let params = match params(policy, binding, request) {
                Ok(params) => params,
                Err(_) if ignores => continue,
                Err(why) => {
                    judgement.refusal.get_or_insert_with(|| refusal(&why, ""));
                    continue;
                }
            };
            let mut all = Vec::new();
            for param in &params {
                let (broken, annotations) = self.judge(policy, param, values);
                all.extend(broken);
                annotations.into_iter().for_each(|(key, value)| judgement.annotate(key, value));
            }
            for broken in all.into_iter().filter(|b| !(ignores && b.failed)) {
                if broken.of_annotation {
                    judgement.refusal.get_or_insert_with(|| refusal(&broken.message, &broken.reason));
                    continue;
                }
                for action in list(binding, "/spec/validationActions") {
                    match action.as_str().unwrap_or_default() {
                        "Deny" => {
                            judgement.refusal.get_or_insert_with(|| refusal(&broken.message, &broken.reason));
                        }
                        "Warn" => notes::warn(format!(
                            "Validation failed for ValidatingAdmissionPolicy '{name}' with binding '{binding_name}': {}",
                            broken.message
                        )),
                        _ => judgement.audited.push(json!({
                            "message": broken.message, "policy": name, "binding": binding_name,
                            "expressionIndex": broken.index,
                            "validationActions": binding["spec"]["validationActions"],
                        })),
                    }
                }
            }
        }
    }

    /// Holds the request to all policies; the first refusal counts.
    pub(in crate::admission) async fn validate(
        &self,
        request: &Request<'_>,
        object: Option<&Value>,
    ) -> Result<(), Status> {
        let mut judgement = Judgement::default();
        for concern in FAMILY.concerning(request, object) {
            if concern.bindings.is_empty() {
                continue;
            }
            match view(concern.version.as_deref(), request, object).await {
                Ok(view) => {
                    let (request, object) = seen(view.as_ref(), request, object);
                    let values = self.values(&request, object);
                    self.hold(&concern, &request, &values, &mut judgement);
                }
                Err(_) if text(&concern.policy, "/spec/failurePolicy") == "Ignore" => {}
                Err(why) => {
                    let name = text(&concern.policy, "/metadata/name");
                    let why = format!("failed to configure policy: {why}");
                    judgement.refusal.get_or_insert_with(|| status(request, name, None, &why, ""));
                }
            }
        }
        for (key, values) in judgement.annotations {
            notes::annotate(key, values.join(", "));
        }
        if !judgement.audited.is_empty() {
            notes::annotate(FAILURE_KEY, Value::Array(judgement.audited).to_string());
        }
        judgement.refusal.map_or(Ok(()), Err)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admission::expressions::Expressions;

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
    fn a_variable_is_evaluated_when_it_is_looked_at_and_never_twice() {
        let costly = "object.l.all(a, object.l.all(b, object.l.all(c, a + b + c >= 0)))";
        // More of them than all expressions may cost together.
        let mut variables: Vec<Value> =
            (0..12).map(|n| json!({"name": format!("unused{n}"), "expression": costly})).collect();
        variables.push(json!({"name": "size", "expression": "size(object.l)"}));
        variables.push(json!({"name": "twice", "expression": "variables.size * 2"}));
        let mut spec = json!({
            "variables": variables,
            "validations": [{"expression": "variables.twice < 10"}, {"expression": "variables.twice == 180"}],
        });
        let object = json!({"l": vec![1; 90]});
        let (broken, _) = evaluate(spec.clone(), object.clone());
        assert_eq!(broken, ["failed expression: variables.twice < 10"]);
        // Once is within what one expression may cost, ten times would not be within what all may.
        let thrifty = "object.l.all(a, object.l.all(b, object.l.exists_one(c, a + b + c == 2) || a == 1))";
        spec["variables"][0]["expression"] = json!(thrifty);
        spec["validations"] = (0..60).map(|_| json!({"expression": "variables.unused0"})).collect();
        let (broken, _) = evaluate(spec, json!({"l": vec![1; 40]}));
        assert_eq!(broken, Vec::<String>::new());
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
