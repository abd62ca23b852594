//! Whether a pod's node selector and node affinity allow a node (Kubernetes documentation, "Assigning Pods to Nodes").

use k8s_openapi::api::core::v1::{NodeSelectorRequirement, NodeSelectorTerm, PodSpec};
use std::collections::BTreeMap;

/// Whether `spec.nodeSelector` and the required node affinity allow the node.
pub fn allows(spec: &PodSpec, node: &str, labels: &BTreeMap<String, String>) -> bool {
    let selector = spec.node_selector.iter().flatten();
    if selector.into_iter().any(|(k, v)| labels.get(k) != Some(v)) {
        return false;
    }
    let affinity = spec.affinity.as_ref().and_then(|a| a.node_affinity.as_ref());
    let required = affinity.and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref());
    required.is_none_or(|r| r.node_selector_terms.iter().any(|t| term_matches(t, node, labels)))
}

/// Whether a node selector term matches. An empty term matches nothing.
pub fn term_matches(term: &NodeSelectorTerm, node: &str, labels: &BTreeMap<String, String>) -> bool {
    let expressions = term.match_expressions.as_deref().unwrap_or_default();
    let fields = term.match_fields.as_deref().unwrap_or_default();
    if expressions.is_empty() && fields.is_empty() {
        return false;
    }
    expressions.iter().all(|r| requirement_matches(r, labels.get(&r.key).map(String::as_str)))
        && fields.iter().all(|r| requirement_matches(r, (r.key == "metadata.name").then_some(node)))
}

fn requirement_matches(requirement: &NodeSelectorRequirement, value: Option<&str>) -> bool {
    let values = requirement.values.as_deref().unwrap_or_default();
    let listed = |v: &str| values.iter().any(|x| x == v);
    let compared = |test: fn(&i64, &i64) -> bool| {
        let mine = value.and_then(|v| v.parse::<i64>().ok());
        let theirs = values.first().and_then(|v| v.parse::<i64>().ok());
        matches!((mine, theirs), (Some(a), Some(b)) if test(&a, &b))
    };
    match requirement.operator.as_str() {
        "In" => value.is_some_and(listed),
        "NotIn" => value.is_none_or(|v| !listed(v)),
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => compared(i64::gt),
        "Lt" => compared(i64::lt),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn requirement(key: &str, operator: &str, values: &[&str]) -> NodeSelectorRequirement {
        NodeSelectorRequirement {
            key: key.into(),
            operator: operator.into(),
            values: Some(values.iter().map(|v| (*v).to_string()).collect()),
        }
    }

    #[test]
    fn operators_of_node_affinity() {
        let labels =
            BTreeMap::from([("zone".to_string(), "a".to_string()), ("size".to_string(), "8".to_string())]);
        for (key, operator, values, expected) in [
            ("zone", "In", &["a", "b"][..], true),
            ("zone", "In", &["b"], false),
            ("none", "NotIn", &["a"], true),
            ("zone", "NotIn", &["a"], false),
            ("zone", "Exists", &[], true),
            ("none", "DoesNotExist", &[], true),
            ("size", "Gt", &["7"], true),
            ("size", "Gt", &["8"], false),
            ("size", "Lt", &["9"], true),
            ("zone", "Lt", &["9"], false),
        ] {
            let term = NodeSelectorTerm {
                match_expressions: Some(vec![requirement(key, operator, values)]),
                match_fields: None,
            };
            assert_eq!(term_matches(&term, "n1", &labels), expected, "{key} {operator} {values:?}");
        }
        let by_name = NodeSelectorTerm {
            match_expressions: None,
            match_fields: Some(vec![requirement("metadata.name", "In", &["n1"])]),
        };
        assert!(term_matches(&by_name, "n1", &labels));
        assert!(!term_matches(&by_name, "n2", &labels));
        assert!(!term_matches(&NodeSelectorTerm::default(), "n1", &labels), "an empty term matches nothing");
    }
}
