//! Where a daemon pod may run, and the pod that is made for a node: pinned to it by affinity, so that the scheduler binds it, and
//! tolerating what must not keep daemons away (Kubernetes documentation, "DaemonSet", "Taints and tolerations").

use super::HASH_LABEL;
use crate::{ownership, pods};
use k8s_openapi::api::{
    apps::v1::DaemonSet,
    core::v1::{
        Affinity, Node, NodeAffinity, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, Pod, PodSpec,
        PodTemplateSpec, Toleration,
    },
};
use kube::ResourceExt;
use orlop_api::{
    node_affinity,
    taint::{Effect, find_untolerated},
};

const NAME_FIELD: &str = "metadata.name";

/// Whether a daemon pod belongs on a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fit {
    /// A new pod belongs there.
    pub may_run: bool,
    /// One that is there may stay.
    pub may_stay: bool,
}

fn tolerations(spec: &PodSpec) -> Vec<Toleration> {
    let tolerate = |key: &str, effect: &str| Toleration {
        key: Some(key.into()),
        operator: Some("Exists".into()),
        effect: Some(effect.into()),
        ..Toleration::default()
    };
    let mut all = spec.tolerations.clone().unwrap_or_default();
    let mut standard = vec![
        tolerate("node.kubernetes.io/not-ready", "NoExecute"),
        tolerate("node.kubernetes.io/unreachable", "NoExecute"),
        tolerate("node.kubernetes.io/disk-pressure", "NoSchedule"),
        tolerate("node.kubernetes.io/memory-pressure", "NoSchedule"),
        tolerate("node.kubernetes.io/pid-pressure", "NoSchedule"),
        tolerate("node.kubernetes.io/unschedulable", "NoSchedule"),
    ];
    if spec.host_network.unwrap_or(false) {
        standard.push(tolerate("node.kubernetes.io/network-unavailable", "NoSchedule"));
    }
    for toleration in standard {
        if !all.contains(&toleration) {
            all.push(toleration);
        }
    }
    all
}

/// Whether pods of the template belong on the node.
pub(super) fn fit(template: &PodTemplateSpec, node: &Node) -> Fit {
    let spec = template.spec.clone().unwrap_or_default();
    let name = node.name_any();
    let named = spec.node_name.as_ref().is_none_or(|n| n.is_empty() || *n == name);
    if !named || !node_affinity::allows(&spec, &name, node.labels()) {
        return Fit { may_run: false, may_stay: false };
    }
    let tolerations = tolerations(&spec);
    let taints = node.spec.as_ref().and_then(|s| s.taints.as_deref()).unwrap_or_default();
    let repelled = |effect| find_untolerated(taints, &tolerations, &[effect]).is_some();
    let may_stay = !repelled(Effect::NoExecute);
    Fit { may_run: may_stay && !repelled(Effect::NoSchedule), may_stay }
}

/// The daemon pod for a node.
pub(super) fn pod_for(set: &DaemonSet, hash: &str, node: &str) -> Pod {
    let template = set.spec.clone().unwrap_or_default().template;
    let namespace = set.namespace().unwrap_or_default();
    let mut pod =
        pods::from_template(&template, &set.name_any(), &namespace, ownership::controller_reference(set));
    pod.metadata.labels.get_or_insert_default().insert(HASH_LABEL.into(), hash.into());
    let spec = pod.spec.get_or_insert_default();
    spec.tolerations = Some(tolerations(spec));
    let this_node = NodeSelectorRequirement {
        key: NAME_FIELD.into(),
        operator: "In".into(),
        values: Some(vec![node.into()]),
    };
    let affinity = spec.affinity.get_or_insert_with(Affinity::default);
    let affinity = affinity.node_affinity.get_or_insert_with(NodeAffinity::default);
    // The node's name replaces what the template requires: whether that holds was looked at already.
    affinity.required_during_scheduling_ignored_during_execution = Some(NodeSelector {
        node_selector_terms: vec![NodeSelectorTerm {
            match_expressions: None,
            match_fields: Some(vec![this_node]),
        }],
    });
    pod
}

/// The node that a daemon pod was made for.
pub(super) fn pinned_to(spec: &PodSpec) -> Option<String> {
    let affinity = spec.affinity.as_ref()?.node_affinity.as_ref()?;
    let terms = &affinity.required_during_scheduling_ignored_during_execution.as_ref()?.node_selector_terms;
    let [term] = terms.as_slice() else { return None };
    let field = term.match_fields.as_ref()?.iter().find(|f| f.key == NAME_FIELD && f.operator == "In")?;
    field.values.as_ref()?.first().cloned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::{NodeSpec, Taint};

    fn node(taints: &[(&str, &str)]) -> Node {
        let mut node = Node::default();
        node.metadata.name = Some("n1".into());
        let taints =
            taints.iter().map(|(k, e)| Taint { key: (*k).into(), effect: (*e).into(), ..Taint::default() });
        node.spec = Some(NodeSpec { taints: Some(taints.collect()), ..NodeSpec::default() });
        node
    }

    #[test]
    fn a_daemon_stays_on_a_cordoned_or_unready_node_but_not_on_one_it_does_not_tolerate() {
        let template = PodTemplateSpec::default();
        let both = Fit { may_run: true, may_stay: true };
        assert_eq!(fit(&template, &node(&[])), both);
        assert_eq!(fit(&template, &node(&[("node.kubernetes.io/unschedulable", "NoSchedule")])), both);
        assert_eq!(fit(&template, &node(&[("gpu", "NoSchedule")])), Fit { may_run: false, may_stay: true });
        assert_eq!(fit(&template, &node(&[("gpu", "NoExecute")])), Fit { may_run: false, may_stay: false });
    }

    #[test]
    fn a_pod_knows_the_node_it_was_made_for() {
        let pod = pod_for(&DaemonSet::default(), "h", "n7");
        assert_eq!(pinned_to(&pod.spec.expect("a spec")).as_deref(), Some("n7"));
    }
}
