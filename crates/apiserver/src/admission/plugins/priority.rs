//! Priority: the number behind a pod's `priorityClassName`, and the rule that only one class is the default of all.

use crate::admission::{Operation, Plugin, Request};
use orlop_api::{
    Status,
    object::{flag, int, text},
};
use serde_json::{Value, json};

const CLASSES: (&str, &str, &str) = ("scheduling.k8s.io", "v1", "priorityclasses");
const NODE_CRITICAL: (&str, i64) = ("system-node-critical", 2_000_001_000);
const CLUSTER_CRITICAL: (&str, i64) = ("system-cluster-critical", 2_000_000_000);

pub(super) struct Priority;

impl Plugin for Priority {
    fn handles(&self, request: &Request<'_>) -> bool {
        match request.operation {
            Operation::Create => request.is("", "pods") || request.is(CLASSES.0, CLASSES.2),
            Operation::Update => request.is(CLASSES.0, CLASSES.2),
            _ => false,
        }
    }

    fn mutate(&self, request: &Request<'_>, pod: &mut Value) -> Result<(), Status> {
        if !request.is("", "pods") || !pod.get("spec").is_some_and(Value::is_object) {
            return Ok(());
        }
        let name = text(pod, "/spec/priorityClassName");
        let class =
            if name.is_empty() {
                default_class(&request.look_up_all(CLASSES, ""))
            } else {
                let class = request.look_up(CLASSES, "", name).or_else(|| built_in(name));
                Some(class.ok_or_else(|| {
                    request.forbidden(&format!("no PriorityClass with name {name} was found"))
                })?)
            };
        admit(pod, class.as_ref()).map_err(|why| request.forbidden(&why))
    }

    fn validate(&self, request: &Request<'_>, class: Option<&Value>) -> Result<(), Status> {
        if !request.is(CLASSES.0, CLASSES.2) || !class.is_some_and(|c| flag(c, "/globalDefault")) {
            return Ok(());
        }
        let other = request
            .look_up_all(CLASSES, "")
            .into_iter()
            .find(|c| flag(c, "/globalDefault") && text(c, "/metadata/name") != request.name);
        match other {
            Some(other) => Err(request.forbidden(&format!(
                "PriorityClass {} is already marked as default. Only one default can exist",
                text(&other, "/metadata/name")
            ))),
            None => Ok(()),
        }
    }
}

/// The classes that every cluster has, for the moments before they are made.
fn built_in(name: &str) -> Option<Value> {
    [NODE_CRITICAL, CLUSTER_CRITICAL]
        .into_iter()
        .find(|(n, _)| *n == name)
        .map(|(name, value)| json!({"metadata": {"name": name}, "value": value}))
}

/// The class of pods that name none: of several the one of least value.
fn default_class(classes: &[Value]) -> Option<Value> {
    classes.iter().filter(|c| flag(c, "/globalDefault")).min_by_key(|c| int(c, "/value")).cloned()
}

/// Writes the class into the pod; a pod must not bring a priority of its own.
fn admit(pod: &mut Value, class: Option<&Value>) -> Result<(), String> {
    let priority = class.and_then(|c| int(c, "/value")).unwrap_or(0);
    let policy = class.map_or("", |c| text(c, "/preemptionPolicy"));
    let policy = if policy.is_empty() { "PreemptLowerPriority" } else { policy };
    if let Some(given) = int(pod, "/spec/priority").filter(|given| *given != priority) {
        return Err(format!(
            "the integer value of priority ({given}) must not be provided in pod spec; priority admission controller computed {priority} from the given PriorityClass name"
        ));
    }
    let given = text(pod, "/spec/preemptionPolicy");
    if !given.is_empty() && given != policy {
        return Err(format!(
            "the string value of PreemptionPolicy ({given}) must not be provided in pod spec; priority admission controller computed {policy} from the given PriorityClass name"
        ));
    }
    let spec = &mut pod["spec"];
    spec["priority"] = json!(priority);
    spec["preemptionPolicy"] = json!(policy);
    if let Some(class) = class {
        spec["priorityClassName"] = json!(text(class, "/metadata/name"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn class(name: &str, value: i64) -> Value {
        json!({"metadata": {"name": name}, "value": value})
    }

    #[test]
    fn priority_comes_from_the_class_alone() {
        let mut pod = json!({"spec": {"priorityClassName": "system-node-critical"}});
        admit(&mut pod, built_in("system-node-critical").as_ref()).unwrap();
        assert_eq!(pod["spec"]["priority"], 2_000_001_000);
        let mut liar = json!({"spec": {"priority": 5}});
        assert!(
            admit(&mut liar, None).unwrap_err().starts_with("the integer value of priority (5) must not")
        );
        let mut again = json!({"spec": {"priority": 5, "preemptionPolicy": "PreemptLowerPriority"}});
        admit(&mut again, Some(&class("five", 5))).unwrap();
        assert_eq!(again["spec"]["priorityClassName"], "five");
        let mut never = class("never", 7);
        never["preemptionPolicy"] = json!("Never");
        let mut pod = json!({"spec": {}});
        admit(&mut pod, Some(&never)).unwrap();
        assert_eq!(pod["spec"]["preemptionPolicy"], "Never");
    }

    #[test]
    fn a_pod_without_a_class_gets_the_default_one() {
        let mut default = class("usual", 100);
        default["globalDefault"] = json!(true);
        assert_eq!(default_class(&[class("other", 1), default.clone()]), Some(default));
        assert_eq!(default_class(&[class("other", 1)]), None);
    }
}
