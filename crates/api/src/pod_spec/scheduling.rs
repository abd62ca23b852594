//! Validation of what steers a pod to nodes: selectors, affinity, tolerations, spreading.

use crate::{FieldError, FieldErrors, NameRule, Path, name, selector};
use k8s_openapi::api::core::v1::{
    Affinity, NodeAffinity, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, PodAffinityTerm,
    PodSpec, Taint, Toleration, TopologySpreadConstraint, WeightedPodAffinityTerm,
};
use std::collections::BTreeSet;

const EFFECTS: [&str; 3] = ["NoSchedule", "PreferNoSchedule", "NoExecute"];

/// All of it.
pub fn validate(spec: &PodSpec, path: &Path, errors: &mut FieldErrors) {
    for (key, value) in spec.node_selector.iter().flatten() {
        let path = path.child("nodeSelector");
        errors.messages(&path, key, name::qualified_name(key));
        errors.messages(&path, value, name::label_value(value));
    }
    if let Some(affinity) = &spec.affinity {
        validate_affinity(affinity, &path.child("affinity"), errors);
    }
    let tolerations = spec.tolerations.as_deref().unwrap_or_default();
    validate_tolerations(tolerations, &path.child("tolerations"), errors);
    let spread = spec.topology_spread_constraints.as_deref().unwrap_or_default();
    validate_spread(spread, &path.child("topologySpreadConstraints"), errors);
    let mut gates = BTreeSet::new();
    for (at, gate) in spec.scheduling_gates.iter().flatten().enumerate() {
        let path = path.child("schedulingGates").index(at);
        errors.messages(&path, &gate.name, name::qualified_name(&gate.name));
        if !gates.insert(&gate.name) {
            errors.duplicate(&path, gate.name.as_str());
        }
    }
    for (at, gate) in spec.readiness_gates.iter().flatten().enumerate() {
        let path = path.child("readinessGates").index(at).child("conditionType");
        errors.messages(&path, &gate.condition_type, name::qualified_name(&gate.condition_type));
    }
}

/// Tolerations, of pods and of others that carry them.
pub fn validate_tolerations(tolerations: &[Toleration], path: &Path, errors: &mut FieldErrors) {
    for (at, toleration) in tolerations.iter().enumerate() {
        let path = path.index(at);
        let key = toleration.key.as_deref().unwrap_or_default();
        let operator = toleration.operator.as_deref().unwrap_or_default();
        let value = toleration.value.as_deref().unwrap_or_default();
        let effect = toleration.effect.as_deref().unwrap_or_default();
        if !key.is_empty() {
            errors.messages(&path.child("key"), key, name::qualified_name(key));
        } else if operator != "Exists" {
            let message =
                "operator must be Exists when `key` is empty, which means \"match all values and all keys\"";
            errors.invalid(path.child("operator"), operator, message);
        }
        if toleration.toleration_seconds.is_some() && effect != "NoExecute" {
            let message = "effect must be 'NoExecute' when `tolerationSeconds` is set";
            errors.invalid(path.child("effect"), effect, message);
        }
        match operator {
            "" | "Equal" => {
                let wrong = name::label_value(value);
                if !wrong.is_empty() {
                    errors.invalid(path.child("operator"), value, wrong.join(";"));
                }
            }
            "Exists" if !value.is_empty() => {
                let message = "value must be empty when `operator` is 'Exists'";
                errors.invalid(path.child("operator"), value, message);
            }
            "Exists" => {}
            other => errors.one_of(&path.child("operator"), other, &["Equal", "Exists"]),
        }
        if !effect.is_empty() {
            errors.one_of(&path.child("effect"), effect, &EFFECTS);
        }
    }
}

/// Taints of a node.
pub fn validate_taints(taints: &[Taint], path: &Path, errors: &mut FieldErrors) {
    let mut seen = BTreeSet::new();
    for (at, taint) in taints.iter().enumerate() {
        let path = path.index(at);
        errors.messages(&path.child("key"), &taint.key, name::qualified_name(&taint.key));
        let value = taint.value.as_deref().unwrap_or_default();
        let wrong = name::label_value(value);
        if !wrong.is_empty() {
            errors.invalid(path.child("value"), value, wrong.join(";"));
        }
        errors.required_one_of(&path.child("effect"), &taint.effect, &EFFECTS);
        if !seen.insert((&taint.key, &taint.effect)) {
            errors.push(FieldError {
                detail: "taints must be unique by key and effect pair".into(),
                ..FieldError::duplicate(&path, serde_json::to_value(taint).unwrap_or_default())
            });
        }
    }
}

fn validate_affinity(affinity: &Affinity, path: &Path, errors: &mut FieldErrors) {
    if let Some(node) = &affinity.node_affinity {
        validate_node_affinity(node, &path.child("nodeAffinity"), errors);
    }
    let pod = affinity.pod_affinity.as_ref().map(|a| {
        let required = &a.required_during_scheduling_ignored_during_execution;
        (path.child("podAffinity"), required, &a.preferred_during_scheduling_ignored_during_execution)
    });
    let anti = affinity.pod_anti_affinity.as_ref().map(|a| {
        let required = &a.required_during_scheduling_ignored_during_execution;
        (path.child("podAntiAffinity"), required, &a.preferred_during_scheduling_ignored_during_execution)
    });
    for (path, required, preferred) in [pod, anti].into_iter().flatten() {
        for (at, term) in required.iter().flatten().enumerate() {
            let path = path.child("requiredDuringSchedulingIgnoredDuringExecution").index(at);
            validate_pod_term(term, &path, errors);
        }
        for (at, weighted) in preferred.iter().flatten().enumerate() {
            let path = path.child("preferredDuringSchedulingIgnoredDuringExecution").index(at);
            let WeightedPodAffinityTerm { weight, pod_affinity_term } = weighted;
            validate_weight(*weight, &path, errors);
            validate_pod_term(pod_affinity_term, &path.child("podAffinityTerm"), errors);
        }
    }
}

fn validate_weight(weight: i32, path: &Path, errors: &mut FieldErrors) {
    if !(1..=100).contains(&weight) {
        errors.invalid(path.child("weight"), weight, "must be in the range 1-100");
    }
}

fn validate_node_affinity(affinity: &NodeAffinity, path: &Path, errors: &mut FieldErrors) {
    if let Some(required) = &affinity.required_during_scheduling_ignored_during_execution {
        let path = path.child("requiredDuringSchedulingIgnoredDuringExecution");
        validate_node_selector(required, &path, errors);
    }
    let preferred = affinity.preferred_during_scheduling_ignored_during_execution.iter().flatten();
    for (at, preferred) in preferred.enumerate() {
        let path = path.child("preferredDuringSchedulingIgnoredDuringExecution").index(at);
        validate_weight(preferred.weight, &path, errors);
        validate_node_term(&preferred.preference, false, &path.child("preference"), errors);
    }
}

/// A selector of nodes by labels and fields.
pub fn validate_node_selector(selector: &NodeSelector, path: &Path, errors: &mut FieldErrors) {
    let path = path.child("nodeSelectorTerms");
    if selector.node_selector_terms.is_empty() {
        errors.required(&path, "must have at least one node selector term");
    }
    for (at, term) in selector.node_selector_terms.iter().enumerate() {
        validate_node_term(term, true, &path.index(at), errors);
    }
}

/// Values that no label can have are wrong only in what is `required`.
fn validate_node_term(term: &NodeSelectorTerm, required: bool, path: &Path, errors: &mut FieldErrors) {
    for (at, requirement) in term.match_expressions.iter().flatten().enumerate() {
        let path = path.child("matchExpressions").index(at);
        validate_node_requirement(requirement, &path, errors);
        errors.messages(&path.child("key"), &requirement.key, name::qualified_name(&requirement.key));
        for (at, value) in requirement.values.iter().flatten().enumerate() {
            if required {
                errors.messages(&path.child("values").index(at), value, name::label_value(value));
            }
        }
    }
    for (at, requirement) in term.match_fields.iter().flatten().enumerate() {
        let path = path.child("matchFields").index(at);
        let values = requirement.values.iter().flatten();
        if !matches!(requirement.operator.as_str(), "In" | "NotIn") {
            let message = "not a valid selector operator";
            errors.invalid(path.child("operator"), requirement.operator.as_str(), message);
        } else if values.clone().count() != 1 {
            let message = "must be only one value when `operator` is 'In' or 'NotIn' for node field selector";
            errors.required(path.child("values"), message);
        }
        if requirement.key != "metadata.name" {
            let message = "not a valid field selector key";
            errors.invalid(path.child("key"), requirement.key.as_str(), message);
        }
        for (at, value) in values.enumerate() {
            errors.messages(&path.child("values").index(at), value, name::dns_subdomain(value));
        }
    }
}

fn validate_node_requirement(requirement: &NodeSelectorRequirement, path: &Path, errors: &mut FieldErrors) {
    let values = requirement.values.iter().flatten().count();
    match requirement.operator.as_str() {
        "In" | "NotIn" if values == 0 => {
            errors.required(path.child("values"), "must be specified when `operator` is 'In' or 'NotIn'");
        }
        "Exists" | "DoesNotExist" if values > 0 => {
            let message = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'";
            errors.forbidden(path.child("values"), message);
        }
        "Gt" | "Lt" if values != 1 => {
            let message = "must be specified single value when `operator` is 'Lt' or 'Gt'";
            errors.required(path.child("values"), message);
        }
        "In" | "NotIn" | "Exists" | "DoesNotExist" | "Gt" | "Lt" => {}
        other => errors.invalid(path.child("operator"), other, "not a valid selector operator"),
    }
}

fn validate_pod_term(term: &PodAffinityTerm, path: &Path, errors: &mut FieldErrors) {
    for (field, selector) in
        [("labelSelector", &term.label_selector), ("namespaceSelector", &term.namespace_selector)]
    {
        if let Some(selector) = selector {
            errors.extend(selector::validate(selector, path.child(field).as_str()));
        }
    }
    for namespace in term.namespaces.iter().flatten() {
        let wrong = name::object_name(NameRule::DnsLabel, namespace);
        errors.messages(&path.child("namespace"), namespace, wrong);
    }
    let path = path.child("topologyKey");
    if term.topology_key.is_empty() {
        errors.required(&path, "can not be empty");
    }
    errors.messages(&path, &term.topology_key, name::qualified_name(&term.topology_key));
}

fn validate_topology_key(key: &str, path: &Path, errors: &mut FieldErrors) {
    let path = path.child("topologyKey");
    if key.is_empty() {
        errors.required(&path, "can not be empty");
    } else {
        errors.messages(&path, key, name::qualified_name(key));
    }
}

fn validate_spread(constraints: &[TopologySpreadConstraint], path: &Path, errors: &mut FieldErrors) {
    let mut seen = BTreeSet::new();
    for (at, constraint) in constraints.iter().enumerate() {
        let path = path.index(at);
        let unsatisfiable = &constraint.when_unsatisfiable;
        if constraint.max_skew <= 0 {
            errors.invalid(path.child("maxSkew"), constraint.max_skew, "must be greater than zero");
        }
        validate_topology_key(&constraint.topology_key, &path, errors);
        let supported = ["DoNotSchedule", "ScheduleAnyway"];
        errors.one_of(&path.child("whenUnsatisfiable"), unsatisfiable, &supported);
        if !seen.insert((&constraint.topology_key, unsatisfiable)) {
            let shown = format!("{{{}, {unsatisfiable}}}", constraint.topology_key);
            errors.duplicate(path.child("{topologyKey, whenUnsatisfiable}"), shown);
        }
        if let Some(least) = constraint.min_domains {
            if least <= 0 {
                errors.invalid(path.child("minDomains"), least, "must be greater than zero");
            }
            if unsatisfiable != "DoNotSchedule" {
                let message = format!(
                    "can only use minDomains if whenUnsatisfiable=DoNotSchedule, not {unsatisfiable}"
                );
                errors.invalid(path.child("minDomains"), least, message);
            }
        }
        for (field, policy) in [
            ("nodeAffinityPolicy", &constraint.node_affinity_policy),
            ("nodeTaintsPolicy", &constraint.node_taints_policy),
        ] {
            if let Some(policy) = policy {
                errors.one_of(&path.child(field), policy, &["Honor", "Ignore"]);
            }
        }
        if let Some(selector) = &constraint.label_selector {
            errors.extend(selector::validate(selector, path.child("labelSelector").as_str()));
        }
    }
}
