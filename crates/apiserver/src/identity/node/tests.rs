//! What a node may do, request by request.

use super::{
    graph::tests::{pod, put, put_slice},
    *,
};

#[test]
fn a_node_sees_what_its_pods_need_and_writes_what_is_its_own() {
    let rules = crate::identity::rbac::defaults::rules_of("system:node");
    let nodes = NodeAuthorizer::new(rules);
    put(&nodes.graph, "n/p", Some(&pod("a")));
    put_slice(&nodes.graph, "gpus", "a");
    let a = Identity::new("system:node:a", &["system:nodes"]);
    let b = Identity::new("system:node:b", &["system:nodes"]);
    let on_a = [("spec.nodeName".to_string(), "a".to_string())];
    let own_volumes = [("metadata.labels[orlop.dev/node]".to_string(), "a".to_string())];
    let ask = |group, resource: &'static str, verb, namespace, name| {
        let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
        Attributes { verb, group, resource, subresource, namespace, name, ..Attributes::default() }
    };
    let allowed =
        |who: &Identity, what: &Attributes<'_>| nodes.decide(who, what) == Decision::Allow(Because::Unsaid);
    // Only for the node on which the pod runs.
    for what in [
        ask("", "secrets", "get", "n", "env"),
        ask("", "secrets", "watch", "n", "env"),
        ask("", "configmaps", "list", "n", "all"),
        ask("", "persistentvolumeclaims", "get", "n", "data"),
        ask("", "serviceaccounts/token", "create", "n", "robot"),
        ask("", "serviceaccounts", "get", "n", "robot"),
        ask("", "pods", "get", "n", "p"),
        ask("", "nodes", "get", "", "a"),
        ask("coordination.k8s.io", "leases", "update", "kube-node-lease", "a"),
        Attributes { fields: &on_a, ..ask("", "pods", "watch", "", "") },
        Attributes { fields: &own_volumes, ..ask("", "persistentvolumes", "watch", "", "") },
        ask("resource.k8s.io", "resourceclaims", "get", "n", "devices"),
        ask("resource.k8s.io", "resourceslices", "patch", "", "gpus"),
        ask("orlop.dev", "networkattachments/status", "patch", "n", "p.back"),
        Attributes { fields: &on_a, ..ask("resource.k8s.io", "resourceslices", "list", "", "") },
    ] {
        assert!(allowed(&a, &what), "{what:?}");
        assert!(!allowed(&b, &what), "{what:?}");
    }
    // For every node.
    for what in [
        ask("", "services", "list", "", ""),
        ask("", "nodes", "create", "", ""),
        ask("", "nodes/status", "patch", "", "a"),
        ask("", "pods/status", "patch", "n", "p"),
        ask("", "events", "create", "n", ""),
        ask("events.k8s.io", "events", "create", "n", ""),
        ask("resource.k8s.io", "resourceslices", "create", "", ""),
        ask("coordination.k8s.io", "leases", "create", "kube-node-lease", ""),
    ] {
        assert!(allowed(&a, &what) && allowed(&b, &what), "{what:?}");
    }
    // For none.
    let nameless = Identity::new("somebody", &["system:nodes"]);
    let liar = Identity::new("system:node:a", &[]);
    for what in [
        ask("", "secrets", "get", "n", "other"),
        ask("", "secrets", "list", "n", ""),
        ask("", "secrets", "update", "n", "env"),
        ask("", "pods", "list", "", ""),
        ask("", "serviceaccounts", "list", "n", ""),
        ask("", "serviceaccounts", "get", "n", "other"),
        ask("coordination.k8s.io", "leases", "get", "kube-system", "a"),
        ask("apps", "deployments", "get", "n", "d"),
        ask("resource.k8s.io", "resourceslices", "list", "", ""),
        ask("resource.k8s.io", "resourceslices", "get", "", "other"),
        ask("resource.k8s.io", "resourceclaims", "list", "n", ""),
        ask("resource.k8s.io", "resourceclaims/status", "get", "n", "devices"),
    ] {
        assert!(!allowed(&a, &what), "{what:?}");
    }
    let secret = ask("", "secrets", "get", "n", "env");
    assert!(!allowed(&nameless, &secret) && !allowed(&liar, &secret));
    assert_eq!(
        nodes.decide(&b, &secret),
        Decision::NoOpinion("no relationship found between node 'b' and this object".into())
    );
}
