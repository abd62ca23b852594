//! Pod: admission (service account, tolerations, priority) and its subresources.

use super::{
    bindings, evictions,
    service_account_admission::{self as account, DEFAULT},
};
use crate::{
    registry::{Cx, Hooks, Registry, Subresource, SubresourceRequest, metadata},
    response::Response,
    streaming::{self, Nodes},
};
use async_trait::async_trait;
use orlop_api::{
    Status, kinds,
    object::{list, text},
};
use serde_json::{Value, json};
use std::{sync::Arc, time::Duration};

/// How long a pod may stay on a node that is not ready or not reachable, unless it says otherwise.
const TOLERATION_SECONDS: i64 = 300;
/// How long a new pod waits for the default service account of a namespace that is new as well.
const ACCOUNT_WAIT: Duration = Duration::from_secs(2);

pub(super) struct Pods {
    pub nodes: Arc<Nodes>,
}

const STREAM_VERBS: &[&str] = &["create", "get"];

const SUBRESOURCES: &[Subresource] = &[
    Subresource { name: "attach", kind: ("", "v1", "PodAttachOptions"), verbs: STREAM_VERBS },
    Subresource { name: "binding", kind: ("", "v1", "Binding"), verbs: &["create"] },
    Subresource { name: "eviction", kind: ("policy", "v1", "Eviction"), verbs: &["create"] },
    Subresource { name: "exec", kind: ("", "v1", "PodExecOptions"), verbs: STREAM_VERBS },
    Subresource { name: "log", kind: ("", "v1", "Pod"), verbs: &["get"] },
    Subresource { name: "portforward", kind: ("", "v1", "PodPortForwardOptions"), verbs: STREAM_VERBS },
];

fn forbidden(pod: &Value, why: &str) -> Status {
    match kinds::find("", "v1", "pods") {
        Some(kind) => Status::forbidden(&kind, metadata::text(pod, "name"), why),
        None => Status::new(403, "Forbidden", why),
    }
}

fn admit_account(cx: &Cx<'_>, pod: &mut Value) -> Result<(), Status> {
    if account::is_mirror(pod) {
        return Ok(());
    }
    let Some(accounts) = cx.registry.find("", "v1", "serviceaccounts") else { return Ok(()) };
    let (namespace, name) = (metadata::text(pod, "namespace").to_string(), account::name(pod).to_string());
    let found = accounts.get(&namespace, &name).map_err(|_| {
        forbidden(
            pod,
            &format!(
                "error looking up service account {namespace}/{name}: serviceaccount {name:?} not found"
            ),
        )
    })?;
    account::admit(pod, &found.value(), rand::random());
    Ok(())
}

/// As the admission plugin `DefaultTolerationSeconds`.
fn admit_tolerations(pod: &mut Value) {
    let spec = &mut pod["spec"];
    for key in ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"] {
        let tolerated = list(spec, "/tolerations").iter().any(|t| {
            let its = text(t, "/key");
            (its == key || its.is_empty()) && matches!(text(t, "/effect"), "NoExecute" | "")
        });
        if tolerated {
            continue;
        }
        let toleration = json!({
            "key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": TOLERATION_SECONDS,
        });
        match spec.get_mut("tolerations").and_then(Value::as_array_mut) {
            Some(tolerations) => tolerations.push(toleration),
            None => spec["tolerations"] = json!([toleration]),
        }
    }
}

/// As the admission plugin `Priority`, with the classes that every cluster has.
fn admit_priority(pod: &mut Value) -> Result<(), Status> {
    let class = text(pod, "/spec/priorityClassName").to_string();
    let priority = match class.as_str() {
        "" => 0,
        "system-node-critical" => 2_000_001_000,
        "system-cluster-critical" => 2_000_000_000,
        other => return Err(forbidden(pod, &format!("no PriorityClass with name {other} was found"))),
    };
    match pod.pointer("/spec/priority").and_then(Value::as_i64) {
        Some(given) if given != priority => {
            let why = format!(
                "the integer value of priority ({given}) must not be provided in pod spec; priority admission controller computed {priority} from the given PriorityClass name"
            );
            return Err(forbidden(pod, &why));
        }
        _ => pod["spec"]["priority"] = json!(priority),
    }
    if pod.pointer("/spec/preemptionPolicy").is_none() {
        pod["spec"]["preemptionPolicy"] = json!("PreemptLowerPriority");
    }
    Ok(())
}

#[async_trait]
impl Hooks for Pods {
    /// A controller makes the default service account of a new namespace; who creates a pod right after the namespace need
    /// not know.
    async fn await_needs(&self, registry: &Registry, namespace: &str, pod: &Value) {
        if account::is_mirror(pod) || account::name(pod) != DEFAULT {
            return;
        }
        let Some(accounts) = registry.find("", "v1", "serviceaccounts") else { return };
        let mut changes = accounts.cache.subscribe();
        let there = async {
            while accounts.get(namespace, DEFAULT).is_err() {
                if changes.changed().await.is_err() {
                    return;
                }
            }
        };
        // A namespace that is being deleted gets no account any more, and the next one of its name is not meant.
        let namespace_lives = registry.find("", "v1", "namespaces").is_none_or(|namespaces| {
            namespaces.get("", namespace).is_ok_and(|n| !metadata::is_deleting(&n.value()))
        });
        if namespace_lives {
            // Whether it came in time is for admission to see.
            let _ = tokio::time::timeout(ACCOUNT_WAIT, there).await;
        }
    }

    fn admit_create(&self, cx: &Cx<'_>, object: &mut Value) -> Result<(), Status> {
        if !object.get("spec").is_some_and(Value::is_object) {
            return Ok(());
        }
        admit_account(cx, object)?;
        admit_tolerations(object);
        admit_priority(object)
    }

    fn returns_deleted(&self) -> bool {
        true
    }

    fn subresources(&self) -> &'static [Subresource] {
        SUBRESOURCES
    }

    async fn serve(&self, request: SubresourceRequest) -> Result<Response, Status> {
        match request.target.subresource.as_str() {
            "binding" => bindings::bind(&request).await,
            "eviction" => evictions::evict(&request).await,
            "log" => streaming::pods::log(&self.nodes, request).await,
            "exec" | "attach" | "portforward" => streaming::pods::connect(&self.nodes, request).await,
            _ => Err(Status::no_such_resource()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_tolerates_a_lost_node_for_a_while_unless_it_says_otherwise() {
        let mut pod = json!({"spec": {}});
        admit_tolerations(&mut pod);
        assert_eq!(list(&pod, "/spec/tolerations").len(), 2);
        let mut own = json!({"spec": {"tolerations": [
            {"key": "node.kubernetes.io/unreachable", "operator": "Exists", "effect": "NoExecute"}
        ]}});
        admit_tolerations(&mut own);
        assert_eq!(list(&own, "/spec/tolerations").len(), 2);
        let mut all = json!({"spec": {"tolerations": [{"operator": "Exists"}]}});
        admit_tolerations(&mut all);
        assert_eq!(list(&all, "/spec/tolerations").len(), 1);
    }

    #[test]
    fn priority_comes_from_the_class_alone() {
        let mut pod =
            json!({"metadata": {"name": "p"}, "spec": {"priorityClassName": "system-node-critical"}});
        admit_priority(&mut pod).unwrap();
        assert_eq!(pod["spec"]["priority"], 2_000_001_000);
        let mut liar = json!({"metadata": {"name": "p"}, "spec": {"priority": 5}});
        assert_eq!(admit_priority(&mut liar).unwrap_err().code, 403);
        let mut unknown = json!({"metadata": {"name": "p"}, "spec": {"priorityClassName": "x"}});
        let message = admit_priority(&mut unknown).unwrap_err().message;
        assert_eq!(message, "pods \"p\" is forbidden: no PriorityClass with name x was found");
    }
}
