//! DefaultTolerationSeconds: how long a pod stays on a node that is not ready or not reachable, unless it says otherwise.

use crate::{
    admission::{Operation, Plugin, Request},
    config::LostNodes,
};
use orlop_api::{
    Status,
    object::{list, text},
};
use serde_json::{Value, json};

/// With these times.
pub(super) struct DefaultTolerationSeconds(pub(super) LostNodes);

impl Plugin for DefaultTolerationSeconds {
    fn handles(&self, request: &Request<'_>) -> bool {
        request.operation == Operation::Create && request.is("", "pods")
    }

    fn mutate(&self, _request: &Request<'_>, pod: &mut Value) -> Result<(), Status> {
        tolerate(pod, self.0);
        Ok(())
    }
}

fn tolerate(pod: &mut Value, times: LostNodes) {
    let Some(spec) = pod.get_mut("spec").filter(|s| s.is_object()) else { return };
    for (key, seconds) in [
        ("node.kubernetes.io/not-ready", times.not_ready),
        ("node.kubernetes.io/unreachable", times.unreachable),
    ] {
        let tolerated = list(spec, "/tolerations").iter().any(|t| {
            let its = text(t, "/key");
            (its == key || its.is_empty()) && matches!(text(t, "/effect"), "NoExecute" | "")
        });
        if tolerated {
            continue;
        }
        let toleration = json!({
            "key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": seconds,
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
            tolerate(&mut pod, LostNodes::default());
            tolerate(&mut pod, LostNodes::default());
            assert_eq!(list(&pod, "/spec/tolerations").len(), want, "{pod}");
        }
    }
}
