//! ResourceQuota (core/v1): how much all objects of a namespace may ask for together.

use super::{base, texts};
use crate::{
    FieldError, FieldErrors, Kind, Path, Rules, name,
    object::{len, list, map, text},
    print,
    quantity::{Quantity, canonicalize},
};
use jiff::Timestamp;
use serde_json::Value;

/// The description of ResourceQuota.
pub(super) fn kind() -> Kind {
    Kind {
        short_names: texts(&["quota"]),
        has_status: true,
        columns: vec![
            print::name_column(),
            print::text_column("Request", "What is used of what may be requested, and of how many objects."),
            print::text_column("Limit", "What is used of what limits may add up to."),
            print::age_column(),
        ],
        ..base("", "v1", "ResourceQuota", "resourcequotas", ResourceQuota)
    }
}

/// Resources that a quota knows by a short name.
const STANDARD: [&str; 19] = [
    "cpu",
    "memory",
    "ephemeral-storage",
    "requests.cpu",
    "requests.memory",
    "requests.storage",
    "requests.ephemeral-storage",
    "limits.cpu",
    "limits.memory",
    "limits.ephemeral-storage",
    "pods",
    "resourcequotas",
    "services",
    "replicationcontrollers",
    "secrets",
    "persistentvolumeclaims",
    "configmaps",
    "services.nodeports",
    "services.loadbalancers",
];
/// Those that count pods or what pods ask for: scopes make no sense for others.
const OF_PODS: [&str; 10] = [
    "cpu",
    "memory",
    "ephemeral-storage",
    "requests.cpu",
    "requests.memory",
    "requests.ephemeral-storage",
    "limits.cpu",
    "limits.memory",
    "limits.ephemeral-storage",
    "pods",
];
const SCOPES: [&str; 7] = [
    "BestEffort",
    "CrossNamespacePodAffinity",
    "NotBestEffort",
    "NotTerminating",
    "PriorityClass",
    "Terminating",
    "VolumeAttributesClass",
];

struct ResourceQuota;

impl Rules for ResourceQuota {
    fn default(&self, object: &mut Value) {
        for pointer in ["/spec/hard", "/status/hard", "/status/used"] {
            let amounts = object.pointer_mut(pointer).and_then(Value::as_object_mut);
            amounts.into_iter().flatten().for_each(|(_, amount)| canonicalize(amount));
        }
    }

    fn validate(&self, object: &Value) -> Vec<FieldError> {
        let mut errors = FieldErrors::new();
        let path = Path::new("spec");
        validate_amounts(object, "/spec/hard", &path.child("hard"), &mut errors);
        validate_scopes(object, &path.child("scopes"), &mut errors);
        validate_selector(object, &path.child("scopeSelector.matchExpressions"), &mut errors);
        errors.into_vec()
    }

    fn validate_update(&self, new: &Value, old: &Value) -> Vec<FieldError> {
        let mut errors = FieldErrors::new();
        let sorted = |object: &Value| {
            let mut scopes: Vec<String> =
                list(object, "/spec/scopes").iter().map(ToString::to_string).collect();
            scopes.sort();
            scopes
        };
        if sorted(new) != sorted(old) {
            errors.invalid("spec.scopes", list(new, "/spec/scopes").to_vec(), "field is immutable");
        }
        errors.into_vec()
    }

    fn validate_status(&self, new: &Value, _old: &Value) -> Vec<FieldError> {
        let mut errors = FieldErrors::new();
        validate_amounts(new, "/status/hard", &Path::new("status.hard"), &mut errors);
        validate_amounts(new, "/status/used", &Path::new("status.used"), &mut errors);
        errors.into_vec()
    }

    fn cells(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        let mut hard: Vec<(&String, &Value)> = map(object, "/status/hard").into_iter().flatten().collect();
        hard.sort_by_key(|(name, _)| name.as_str());
        let (mut requests, mut limits) = (Vec::new(), Vec::new());
        for (name, hard) in hard {
            let used = object.pointer("/status/used").and_then(|used| used.get(name));
            let shown = format!("{name}: {}/{}", amount(used.unwrap_or(&Value::Null)), amount(hard));
            if name.starts_with("limits.") { &mut limits } else { &mut requests }.push(shown);
        }
        vec![
            print::name(object),
            requests.join(", ").into(),
            limits.join(", ").into(),
            print::age(object, now),
        ]
    }
}

fn amount(value: &Value) -> Quantity {
    Quantity::from_json(value).unwrap_or_default()
}

fn validate_amounts(object: &Value, pointer: &str, path: &Path, errors: &mut FieldErrors) {
    for (name, amount) in map(object, pointer).into_iter().flatten() {
        let path = path.key(name);
        errors.messages(&path, name, name::qualified_name(name));
        let huge = name.starts_with("hugepages-") || name.starts_with("requests.hugepages-");
        if !name.contains('/') && !STANDARD.contains(&name.as_str()) && !huge {
            errors.invalid(&path, name.as_str(), "must be a standard resource for quota");
        }
        match Quantity::from_json(amount) {
            Err(e) => errors.invalid(&path, amount.clone(), e.to_string()),
            Ok(q) if q.is_negative() => {
                errors.invalid(&path, amount.clone(), "must be greater than or equal to 0");
            }
            Ok(q) if counts_objects(name) && !q.is_whole() => {
                errors.invalid(&path, amount.clone(), "must be an integer");
            }
            Ok(_) => {}
        }
    }
}

fn counts_objects(name: &str) -> bool {
    STANDARD[10..].contains(&name) || name.starts_with("count/")
}

fn fits(scope: &str, resource: &str) -> bool {
    match scope {
        "VolumeAttributesClass" => matches!(resource, "persistentvolumeclaims" | "requests.storage"),
        // What a pod without requests counts for is the pod.
        "BestEffort" => resource == "pods",
        _ => OF_PODS.contains(&resource),
    }
}

fn validate_scopes(object: &Value, path: &Path, errors: &mut FieldErrors) {
    let scopes = list(object, "/spec/scopes");
    if scopes.is_empty() {
        return;
    }
    let resources: Vec<&str> =
        map(object, "/spec/hard").into_iter().flatten().map(|(name, _)| name.as_str()).collect();
    for scope in scopes.iter().filter_map(Value::as_str) {
        if !SCOPES.contains(&scope) {
            errors.invalid(path, scopes.to_vec(), "unsupported scope");
        }
        for resource in resources.iter().filter(|r| STANDARD.contains(r)) {
            if SCOPES.contains(&scope) && !fits(scope, resource) {
                errors.invalid(path, scopes.to_vec(), "unsupported scope applied to resource");
            }
        }
    }
    let has = |scope: &str| scopes.iter().any(|s| s == scope);
    for (one, other) in [("BestEffort", "NotBestEffort"), ("Terminating", "NotTerminating")] {
        if has(one) && has(other) {
            errors.invalid(path, scopes.to_vec(), "conflicting scopes");
        }
    }
}

fn validate_selector(object: &Value, path: &Path, errors: &mut FieldErrors) {
    for requirement in list(object, "/spec/scopeSelector/matchExpressions") {
        let (scope, operator) = (text(requirement, "/scopeName"), text(requirement, "/operator"));
        if !SCOPES.contains(&scope) {
            errors.invalid(path.child("scopeName"), scope, "unsupported scope");
        }
        let by_value = matches!(scope, "PriorityClass" | "VolumeAttributesClass");
        if !by_value && SCOPES.contains(&scope) && operator != "Exists" {
            let message = "must be 'Exist' when scope is any of ResourceQuotaScopeTerminating, \
                ResourceQuotaScopeNotTerminating, ResourceQuotaScopeBestEffort, ResourceQuotaScopeNotBestEffort or \
                ResourceQuotaScopeCrossNamespacePodAffinity";
            errors.invalid(path.child("operator"), operator, message);
        }
        let values = len(requirement, "/values");
        match operator {
            "In" | "NotIn" if values == 0 => errors.required(
                path.child("values"),
                "must be at least one value when `operator` is 'In' or 'NotIn' for scope selector",
            ),
            "Exists" | "DoesNotExist" if values > 0 => errors.invalid(
                path.child("values"),
                requirement["values"].clone(),
                "must be no value when `operator` is 'Exists' or 'DoesNotExist' for scope selector",
            ),
            "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
            other => errors.invalid(path.child("operator"), other, "not a valid selector operator"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn wrong(spec: Value) -> Vec<String> {
        ResourceQuota.validate(&json!({"spec": spec})).into_iter().map(|e| e.to_string()).collect()
    }

    #[test]
    fn wrong_fields_are_named() {
        assert_eq!(
            wrong(
                json!({"hard": {"pods": "5", "requests.cpu": "1", "count/jobs.batch": "2", "gold.storageclass.storage.k8s.io/requests.storage": "1Gi"}})
            ),
            Vec::<String>::new()
        );
        for (spec, want) in [
            (
                json!({"hard": {"chairs": "5"}}),
                "spec.hard[chairs]: Invalid value: \"chairs\": must be a standard resource for quota",
            ),
            (
                json!({"hard": {"pods": "1500m"}}),
                "spec.hard[pods]: Invalid value: \"1500m\": must be an integer",
            ),
            (
                json!({"hard": {"pods": "-1"}}),
                "spec.hard[pods]: Invalid value: \"-1\": must be greater than or equal to 0",
            ),
            (
                json!({"hard": {"pods": "1"}, "scopes": ["BestEffort", "NotBestEffort"]}),
                "spec.scopes: Invalid value: [\"BestEffort\",\"NotBestEffort\"]: conflicting scopes",
            ),
            (
                json!({"hard": {"cpu": "1"}, "scopes": ["BestEffort"]}),
                "spec.scopes: Invalid value: [\"BestEffort\"]: unsupported scope applied to resource",
            ),
            (
                json!({"scopeSelector": {"matchExpressions": [{"scopeName": "PriorityClass", "operator": "In"}]}}),
                "spec.scopeSelector.matchExpressions.values: Required value: must be at least one value when `operator` is \
                 'In' or 'NotIn' for scope selector",
            ),
        ] {
            assert_eq!(wrong(spec.clone()), [want], "{spec}");
        }
    }

    #[test]
    fn the_scopes_may_not_change_but_their_order_may() {
        let quota = |scopes: Value| json!({"spec": {"scopes": scopes}});
        let old = quota(json!(["Terminating", "BestEffort"]));
        assert!(ResourceQuota.validate_update(&quota(json!(["BestEffort", "Terminating"])), &old).is_empty());
        assert_eq!(ResourceQuota.validate_update(&quota(json!([])), &old)[0].path, "spec.scopes");
    }

    #[test]
    fn the_row_shows_what_is_used_of_what_there_is() {
        let object = json!({"metadata": {"name": "q"}, "status": {"hard": {"pods": "5", "limits.cpu": "2", "cpu": 1},
            "used": {"pods": "1", "cpu": "250m"}}});
        let row = ResourceQuota.cells(&object, Timestamp::UNIX_EPOCH);
        assert_eq!(row[..3], [json!("q"), json!("cpu: 250m/1, pods: 1/5"), json!("limits.cpu: 0/2")]);
    }
}
