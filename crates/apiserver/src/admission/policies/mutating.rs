//! MutatingAdmissionPolicy (Kubernetes documentation, "Mutating Admission Policy"): changes an object by what the policies that it
//! concerns say, one mutation after the other. What cannot be evaluated or applied refuses the request, unless the policy ignores
//! failures.

use super::{Evaluator, Family, Scope, names, params, seen, view};
use crate::admission::{Request, expressions, rounds::Round};
use orlop_api::{
    Status,
    object::{list, text},
};
use orlop_cel::{Message, Value as Cel};
use orlop_schema::{PatchError, TypeRef, Types, apply::overlay, conform, patch::json_patch};
use serde_json::{Map, Value, json};

const FAMILY: Family =
    Family { policies: "mutatingadmissionpolicies", bindings: "mutatingadmissionpolicybindings" };

/// Whether there are any bindings at all: a policy without one does nothing.
pub(in crate::admission) fn exist(request: &Request<'_>) -> bool {
    FAMILY.exists(request)
}

/// A policy with one of its bindings and one set of parameters.
struct Invocation {
    policy: Value,
    /// The version of the resource that its rules name, where that is not the request's.
    version: Option<String>,
    binding: String,
    param: Value,
    /// Whether its conditions held, so that it may be asked again.
    held: bool,
}

/// What a policy could not do.
struct Failure {
    message: String,
    reason: &'static str,
}

/// Why a mutation was not made.
enum Refusal {
    /// The policy's failure policy decides what follows.
    Failed(String),
    /// The request fails, whatever the policy says.
    Fatal(Status),
}

impl From<String> for Refusal {
    fn from(why: String) -> Self {
        Self::Failed(why)
    }
}

/// The policies that a request concerns.
#[derive(Default)]
pub(in crate::admission) struct Invocations {
    all: Vec<Invocation>,
    /// Bindings that are of no use.
    failures: Vec<Failure>,
}

fn failure(policy: &Value, binding: Option<&str>, why: &str, reason: &'static str) -> Option<Failure> {
    let name = text(policy, "/metadata/name");
    if text(policy, "/spec/failurePolicy") == "Ignore" {
        tracing::warn!(policy = name, binding, why, "a mutating policy failed and is ignored");
        return None;
    }
    let message = match binding {
        Some(binding) => format!("policy '{name}' with binding '{binding}' denied request: {why}"),
        None => format!("policy {name:?} denied request: {why}"),
    };
    Some(Failure { message, reason })
}

/// 403 for what could not be done, in the words of the first failure.
fn refuse(request: &Request<'_>, failures: &[Failure]) -> Result<(), Status> {
    let Some(first) = failures.first() else { return Ok(()) };
    let mut status = request.forbidden("admission request denied by policy");
    status.message.clone_from(&first.message);
    if !first.reason.is_empty() {
        status.reason = first.reason;
    }
    if let Some(details) = &mut status.details {
        details["causes"] = failures.iter().map(|f| json!({"message": f.message})).collect();
    }
    Err(status)
}

impl Evaluator<'_> {
    /// The policies that concern a request, each with its parameters.
    pub(in crate::admission) fn invocations(&self, request: &Request<'_>, object: &Value) -> Invocations {
        let mut found = Invocations::default();
        for concern in FAMILY.concerning(request, Some(object)) {
            let policy = &concern.policy;
            for binding in &concern.bindings {
                let name = text(binding, "/metadata/name").to_string();
                match params(policy, binding, request) {
                    Ok(params) => found.all.extend(params.into_iter().map(|param| Invocation {
                        policy: policy.clone(),
                        version: concern.version.clone(),
                        binding: name.clone(),
                        param,
                        held: false,
                    })),
                    Err(why) => found.failures.extend(failure(policy, Some(&name), &why, "")),
                }
            }
        }
        found
    }

    /// Lets the policies of a round change the object; `complete` fills in defaults after each mutation. Tells the place of the
    /// last one that changed it.
    pub(in crate::admission) async fn mutate(
        &self,
        invocations: &mut Invocations,
        request: &Request<'_>,
        object: &mut Value,
        complete: &(impl Fn(&mut Value) + Sync),
        round: Round,
    ) -> Result<Option<usize>, Status> {
        let mut last_change = None;
        let mut failures = std::mem::take(&mut invocations.failures);
        for (at, invocation) in invocations.all.iter_mut().enumerate() {
            let wishes =
                invocation.held && text(&invocation.policy, "/spec/reinvocationPolicy") == "IfNeeded";
            if !round.asks(at, wishes, last_change.is_some()) {
                continue;
            }
            let before = object.clone();
            self.invoke(invocation, request, object, complete, &mut failures).await?;
            if *object != before {
                last_change = Some(at);
            }
        }
        refuse(request, &failures)?;
        Ok(last_change)
    }

    /// Lets one policy change the object, if its conditions hold.
    async fn invoke(
        &self,
        invocation: &mut Invocation,
        request: &Request<'_>,
        object: &mut Value,
        complete: &(impl Fn(&mut Value) + Sync),
        failures: &mut Vec<Failure>,
    ) -> Result<(), Status> {
        let (policy, binding) = (&invocation.policy, Some(invocation.binding.as_str()));
        let mutations = list(policy, "/spec/mutations");
        for (nth, mutation) in mutations.iter().enumerate() {
            // Each mutation sees what those before it have made.
            let view = match view(invocation.version.as_deref(), request, Some(object)).await {
                Ok(view) => view,
                Err(why) => {
                    let why = format!("failed to configure policy: {why}");
                    failures.extend(failure(policy, None, &why, ""));
                    return Ok(());
                }
            };
            let made = {
                let (request, object) = seen(view.as_ref(), request, Some(object));
                let mut values = self.values(&request, object);
                values.push(("params", Cel::from_json(&invocation.param)));
                if nth == 0 {
                    let conditions = list(policy, "/spec/matchConditions");
                    match expressions::conditions_hold(self.expressions, conditions, &names(policy), &values)
                    {
                        Ok(true) => invocation.held = true,
                        Ok(false) => return Ok(()),
                        Err(why) => {
                            failures.extend(failure(policy, binding, &why, "Invalid"));
                            return Ok(());
                        }
                    }
                }
                self.patched(policy, mutation, &request, object.unwrap_or(&Value::Null), &values)
            };
            match made {
                Ok(made) => {
                    let mut made = match &view {
                        Some(view) => view.back(made).await?,
                        None => made,
                    };
                    complete(&mut made);
                    *object = made;
                }
                Err(Refusal::Fatal(status)) => return Err(status),
                Err(Refusal::Failed(why)) => failures.extend(failure(policy, binding, &why, "Invalid")),
            }
        }
        Ok(())
    }

    /// The object as one mutation wants it.
    fn patched(
        &self,
        policy: &Value,
        mutation: &Value,
        request: &Request<'_>,
        object: &Value,
        values: &[(&str, Cel)],
    ) -> Result<Value, Refusal> {
        let ty = type_of(request).ok_or_else(|| Refusal::Fatal(unknown_type(request)))?;
        let is_apply = text(mutation, "/patchType") == "ApplyConfiguration";
        let source =
            text(mutation, if is_apply { "/applyConfiguration/expression" } else { "/jsonPatch/expression" });
        let mut scope = Scope::new(policy, values).with_patches();
        let made = self.eval(&mut scope, source, &mut expressions::budget())?;
        if is_apply { laid_over(&ty, object, &made) } else { patched(&ty, object, &made) }
    }
}

/// The type of the object that is written.
fn type_of(request: &Request<'_>) -> Option<TypeRef> {
    if let Some((group, version, kind)) = request.object_kind {
        let version = if group.is_empty() { version.to_string() } else { format!("{group}/{version}") };
        return Types::of(&version, kind);
    }
    let kind = request.kind;
    request.registry.find(&kind.group, &kind.version, &kind.plural)?.types.clone()
}

fn unknown_type(request: &Request<'_>) -> Status {
    let (group, version, kind) = request.object_kind();
    Status::new(
        503,
        "ServiceUnavailable",
        format!(
            "Resource kind {group}/{version}, Kind={kind} not found. There can be a delay between when CustomResourceDefinitions are created and when they are available."
        ),
    )
}

/// Merges an apply configuration (`Object{…}`) into the object.
fn laid_over(ty: &TypeRef, object: &Value, made: &Cel) -> Result<Value, Refusal> {
    let unsupported =
        || format!("unsupported return type from ApplyConfiguration expression: {}", made.type_name());
    let Cel::Message(message) = made else { return Err(unsupported().into()) };
    if &*message.name != "Object" {
        return Err(unsupported().into());
    }
    let mut config = json(message)?;
    for field in ["apiVersion", "kind"] {
        if let Some(said) = object.get(field) {
            config.insert(field.into(), said.clone());
        }
    }
    let laid = overlay(ty, object, &Value::Object(config));
    Ok(laid.map_err(|why| format!("error applying patch: {why}"))?)
}

/// An object that an expression made, as JSON.
fn json(message: &Message) -> Result<Map<String, Value>, String> {
    message.check_names().map_err(|why| format!("type mismatch: {why}"))?;
    let mut out = Map::new();
    for (name, value) in &message.fields {
        let value = value.to_json().ok_or_else(|| format!("fail to convert field {:?}", &**name))?;
        out.insert(name.to_string(), value);
    }
    Ok(out)
}

/// Applies a JSON patch (`[JSONPatch{…}]`) to the object. Where one of its tests fails, the object stays as it is.
fn patched(ty: &TypeRef, object: &Value, made: &Cel) -> Result<Value, Refusal> {
    let Some(entries) = made.entries() else {
        return Err("type mismatch: JSONPatchType.expression should evaluate to array".to_string().into());
    };
    let operations = entries.iter().map(operation).collect::<Result<Vec<_>, String>>()?;
    let tests = operations.iter().any(|operation| operation["op"] == "test");
    let mut patched = object.clone();
    match json_patch(&mut patched, &Value::Array(operations)) {
        Ok(()) => {}
        Err(PatchError::Rejected(why)) if tests && why.starts_with("testing ") => return Ok(object.clone()),
        Err(PatchError::Rejected(why)) => return Err(format!("JSONPath: {why}").into()),
        Err(why) => return Err(format!("JSONPath: {why}").into()),
    }
    if ty.is_built_in() {
        let internal = |why: String| Refusal::Fatal(Status::internal(why));
        let unknown = conform(ty, &mut patched).map_err(|mismatch| internal(mismatch.to_string()))?;
        if !unknown.is_empty() {
            let unknown: Vec<String> = unknown.iter().map(ToString::to_string).collect();
            return Err(internal(format!("strict decoding error: {}", unknown.join(", "))));
        }
    }
    Ok(patched)
}

/// One operation, as JSON.
fn operation(made: &Cel) -> Result<Value, String> {
    let message = match made {
        Cel::Message(message) if &*message.name == "JSONPatch" => message,
        other => {
            return Err(format!(
                "type mismatch: JSONPatchType.expression should evaluate to array of JSONPatch, got element of {}",
                other.type_name()
            ));
        }
    };
    if let Some(Cel::Message(value)) = message.get("value") {
        value.check_names().map_err(|why| format!("type mismatch: {why}"))?;
    }
    let mut operation = Map::new();
    for (name, value) in &message.fields {
        let value = value.to_json().ok_or(
            "JSONPath valueExpression evaluated to a type that could not marshal to JSON: unsupported type",
        )?;
        operation.insert(name.to_string(), value);
    }
    Ok(Value::Object(operation))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admission::expressions::Expressions;
    use orlop_cel::Budget;

    fn deployment() -> Value {
        json!({
            "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d", "labels": {"y": "1"}},
            "spec": {"replicas": 1, "template": {"spec": {"containers": [{"name": "a"}]}}},
        })
    }

    fn mutate(source: &str) -> Result<Value, String> {
        let names = expressions::Names { policy: true, patches: true, variables: Vec::new() };
        let program = Expressions::default().program(&names, source)?;
        let object = deployment();
        let values = [("object", Cel::from_json(&object))];
        let made = program.eval(&values, &mut Budget::new(10_000, 10_000)).map_err(|e| e.to_string())?;
        let ty = Types::of("apps/v1", "Deployment").unwrap();
        let is_apply = source.starts_with("Object") || source.starts_with('\'');
        let out = if is_apply { laid_over(&ty, &object, &made) } else { patched(&ty, &object, &made) };
        out.map_err(|refusal| match refusal {
            Refusal::Failed(why) => why,
            Refusal::Fatal(status) => format!("{}: {}", status.code, status.message),
        })
    }

    #[test]
    fn a_configuration_is_merged_into_the_object() {
        let source = "Object{metadata: Object.metadata{labels: {'x': '2'}}, spec: Object.spec{replicas: object.spec.replicas + 1}}";
        let made = mutate(source).unwrap();
        assert_eq!(
            (&made["metadata"]["labels"], &made["spec"]["replicas"], &made["kind"]),
            (&json!({"x": "2", "y": "1"}), &json!(2), &json!("Deployment"))
        );
    }

    #[test]
    fn a_patch_is_applied_operation_by_operation() {
        let made = mutate(
            "[JSONPatch{op: 'test', path: '/spec/replicas', value: 1}, JSONPatch{op: 'remove', path: '/metadata/labels/y'},
              JSONPatch{op: 'add', path: '/metadata/labels/' + jsonpatch.escapeKey('a/b~c'), value: 'd'},
              JSONPatch{op: 'add', path: '/spec/template/spec/containers/-', value: Object.spec.template.spec.containers{
                name: 'x', ports: [Object.spec.template.spec.containers.ports{containerPort: 8080}]}}]",
        )
        .unwrap();
        assert_eq!(made["metadata"]["labels"], json!({"a/b~c": "d"}));
        let added = &made["spec"]["template"]["spec"]["containers"][1];
        assert_eq!(*added, json!({"name": "x", "ports": [{"containerPort": 8080}]}));
    }

    #[test]
    fn a_patch_whose_test_fails_changes_nothing() {
        let source = "[JSONPatch{op: 'replace', path: '/spec/replicas', value: 5}, JSONPatch{op: 'test', path: '/spec/replicas', value: 1}]";
        assert_eq!(mutate(source).unwrap(), deployment());
    }

    #[test]
    fn what_cannot_be_done_is_told_in_kubernetes_words() {
        for (source, why) in [
            (
                "Object{spec: Object.specx{replicas: 1}}",
                "type mismatch: unexpected type name \"Object.specx\", expected \"Object.spec\", which matches field name path from root Object type",
            ),
            (
                "Object{spec: Object.spec{replicasx: 1}}",
                "error applying patch: failed to convert patch object to typed object: .spec.replicasx: field not declared in schema",
            ),
            (
                "Object{spec: Object.spec{selector: Object.spec.selector{matchLabels: {'l': 'v'}}}}",
                "error applying patch: invalid ApplyConfiguration: may not mutate atomic arrays, maps or structs: .spec.selector",
            ),
            ("'tea'", "unsupported return type from ApplyConfiguration expression: string"),
            (
                "[JSONPatch{op: 'remove', path: '/spec/nope'}]",
                "JSONPath: remove operation does not apply: doc is missing path: \"/spec/nope\"",
            ),
            (
                "[JSONPatch{op: 'add', path: '/spec/nope', value: 1}]",
                "500: Internal error occurred: strict decoding error: unknown field \"spec.nope\"",
            ),
            (
                "[JSONPatch{op: 'add', path: '/spec', value: Object.spec{selector: Object.nope{}}}]",
                "type mismatch: unexpected type name \"Object.nope\", expected \"Object.spec.selector\", which matches field name path from root Object type",
            ),
        ] {
            assert_eq!(mutate(source).unwrap_err(), why, "{source}");
        }
    }
}
