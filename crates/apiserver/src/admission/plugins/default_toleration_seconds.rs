//! DefaultTolerationSeconds: how long a pod stays on a node that is not ready or not reachable, unless it says otherwise.

use crate::admission::{Operation, Plugin, Request};
use orlop_api::{
    Status,
    object::{list, text},
};
use serde_json::{Value, json};

/// The time, as in Kubernetes.
const SECONDS: i64 = 300;

pub(super) struct DefaultTolerationSeconds;

impl Plugin for DefaultTolerationSeconds {
    fn handles(&self, request: &Request<'_>) -> bool {
        request.operation == Operation::Create && request.is("", "pods")
    }

    fn mutate(&self, _request: &Request<'_>, pod: &mut Value) -> Result<(), Status> {
        tolerate(pod);
        Ok(())
    }
}

fn tolerate(pod: &mut Value) {
    let Some(spec) = pod.get_mut("spec").filter(|s| s.is_object()) else { return };
    for key in ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"] {
        let tolerated = list(spec, "/tolerations").iter().any(|t| {
            let its = text(t, "/key");
            (its == key || its.is_empty()) && matches!(text(t, "/effect"), "NoExecute" | "")
        });
        if tolerated {
            continue;
        }
        let toleration = json!({
            "key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": SECONDS,
        });
        match spec.get_mut("tolerations").and_then(Value::as_array_mut) {
            Some(tolerations) => tolerations.push(toleration),
            None => spec["tolerations"] = json!([toleration]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_tolerates_a_lost_node_for_a_while_unless_it_says_otherwise() {
        for (own, want) in [
            (json!([]), 2),
            (
                json!([{"key": "node.kubernetes.io/unreachable", "operator": "Exists", "effect": "NoExecute"}]),
                2,
            ),
            (json!([{"operator": "Exists"}]), 1),
            (json!([{"operator": "Exists", "effect": "NoSchedule"}]), 3),
        ] {
            let mut pod = json!({"spec": {"tolerations": own}});
            tolerate(&mut pod);
            tolerate(&mut pod);
            assert_eq!(list(&pod, "/spec/tolerations").len(), want, "{pod}");
        }
    }
}
