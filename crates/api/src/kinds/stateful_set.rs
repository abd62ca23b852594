//! StatefulSet (apps/v1): pods with a name and a volume of their own, one after the other.

use super::{base, persistent_volume_claim, replicas_scale, texts, workload};
use crate::{
    FieldError, FieldErrors, Kind, NameRule, Path, Rules,
    metadata::{validate_annotations, validate_labels},
    object::{carry_over, each, has, int, map, put, set_default, set_default_nonzero, text},
    pod_spec::template,
    print,
    selector::{self, Selector},
};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use serde_json::{Value, json};

/// The description of StatefulSet.
pub(super) fn kind() -> Kind {
    Kind {
        short_names: texts(&["sts"]),
        categories: texts(&["all"]),
        name_rule: NameRule::DnsLabel,
        has_status: true,
        has_generation: true,
        scale: Some(replicas_scale()),
        columns: vec![
            print::name_column(),
            print::text_column("Ready", "How many pods are ready, of how many desired."),
            print::age_column(),
            print::wide_column("Containers", "Names of the containers in the template."),
            print::wide_column("Images", "Images of the containers in the template."),
        ],
        ..base("apps", "v1", "StatefulSet", "statefulsets", StatefulSet)
    }
}

struct StatefulSet;

impl Rules for StatefulSet {
    fn default(&self, object: &mut Value) {
        template::set_defaults(object);
        let Some(spec) = object.get_mut("spec").filter(|s| s.is_object()) else { return };
        set_default(spec, "replicas", 1);
        set_default(spec, "revisionHistoryLimit", 10);
        set_default_nonzero(spec, "podManagementPolicy", "OrderedReady");
        set_default(spec, "updateStrategy", json!({}));
        let strategy = &mut spec["updateStrategy"];
        if text(strategy, "/type").is_empty() {
            set_default_nonzero(strategy, "type", "RollingUpdate");
            set_default(strategy, "rollingUpdate", json!({}));
        }
        if text(strategy, "/type") == "RollingUpdate" && has(strategy, "/rollingUpdate") {
            set_default(&mut strategy["rollingUpdate"], "partition", 0);
            set_default(&mut strategy["rollingUpdate"], "maxUnavailable", 1);
        }
        set_default(spec, "persistentVolumeClaimRetentionPolicy", json!({}));
        for field in ["whenDeleted", "whenScaled"] {
            set_default_nonzero(&mut spec["persistentVolumeClaimRetentionPolicy"], field, "Retain");
        }
        each(spec, "volumeClaimTemplates", |claim| {
            if claim.is_object() {
                put(claim, "apiVersion", "v1");
                put(claim, "kind", "PersistentVolumeClaim");
                persistent_volume_claim::set_defaults(claim);
            }
        });
    }

    fn validate(&self, object: &Value) -> Vec<FieldError> {
        let mut errors = FieldErrors::new();
        let path = Path::new("spec");
        let policy = text(object, "/spec/podManagementPolicy");
        match policy {
            "" => errors.required(path.child("podManagementPolicy"), ""),
            "OrderedReady" | "Parallel" => {}
            _ => errors.invalid(
                path.child("podManagementPolicy"),
                policy,
                "must be 'OrderedReady' or 'Parallel'",
            ),
        }
        validate_strategy(object, &path, &mut errors);
        if has(object, "/spec/persistentVolumeClaimRetentionPolicy") {
            let at = path.child("persistentVolumeClaimRetentionPolicy");
            for field in ["whenDeleted", "whenScaled"] {
                let value = text(object, &format!("/spec/persistentVolumeClaimRetentionPolicy/{field}"));
                errors.one_of(&at.child(field), value, &["Retain", "Delete"]);
            }
        }
        workload::validate_not_negative(object, &["replicas", "minReadySeconds"], &mut errors);
        errors.not_negative(&path.child("ordinals.start"), int(object, "/spec/ordinals/start"));
        validate_template(object, &path, &mut errors);
        errors.into_vec()
    }

    fn validate_update(&self, new: &Value, old: &Value) -> Vec<FieldError> {
        let mut errors = FieldErrors::new();
        let mut kept = new["spec"].clone();
        for field in [
            "replicas",
            "ordinals",
            "template",
            "updateStrategy",
            "revisionHistoryLimit",
            "persistentVolumeClaimRetentionPolicy",
            "minReadySeconds",
        ] {
            carry_over(&mut kept, &old["spec"], field);
        }
        if kept != old["spec"] {
            errors.forbidden(
                "spec",
                "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', \
                 'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and \
                 'minReadySeconds' are forbidden",
            );
        }
        errors.into_vec()
    }

    fn validate_status(&self, new: &Value, old: &Value) -> Vec<FieldError> {
        let mut errors = FieldErrors::new();
        let parts = ["readyReplicas", "currentReplicas", "updatedReplicas", "availableReplicas"];
        workload::validate_status_numbers(new, &["replicas", "collisionCount"], &mut errors);
        workload::validate_status_numbers(new, &parts, &mut errors);
        let path = Path::new("status");
        let count = |object: &Value, field: &str| object["status"][field].as_i64().unwrap_or_default();
        for field in parts {
            if count(new, field) > count(new, "replicas") {
                let message = "cannot be greater than status.replicas";
                errors.invalid(path.child(field), count(new, field), message);
            }
        }
        if count(new, "availableReplicas") > count(new, "readyReplicas") {
            let message = "cannot be greater than status.readyReplicas";
            errors.invalid(path.child("availableReplicas"), count(new, "availableReplicas"), message);
        }
        if count(new, "collisionCount") < count(old, "collisionCount") {
            let collisions = count(new, "collisionCount");
            errors.invalid(path.child("collisionCount"), collisions, "cannot be decremented");
        }
        errors.into_vec()
    }

    fn cells(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        let ready = int(object, "/status/readyReplicas").unwrap_or_default();
        let desired = int(object, "/spec/replicas").unwrap_or_default();
        let [containers, images, _] = print::template_cells(object);
        vec![
            print::name(object),
            format!("{ready}/{desired}").into(),
            print::age(object, now),
            containers,
            images,
        ]
    }
}

fn validate_strategy(object: &Value, path: &Path, errors: &mut FieldErrors) {
    let at = path.child("updateStrategy");
    let rolling = object.pointer("/spec/updateStrategy/rollingUpdate").filter(|r| !r.is_null());
    match text(object, "/spec/updateStrategy/type") {
        "" => errors.required(&at, ""),
        "OnDelete" => {
            if let Some(rolling) = rolling {
                let message = "only allowed for updateStrategy 'RollingUpdate'";
                errors.invalid(at.child("rollingUpdate"), rolling.clone(), message);
            }
        }
        "RollingUpdate" => {
            let Some(rolling) = rolling else { return };
            let at = at.child("rollingUpdate");
            errors.not_negative(&at.child("partition"), int(rolling, "/partition"));
            let most = &rolling["maxUnavailable"];
            workload::validate_share(most, &at.child("maxUnavailable"), errors);
            workload::validate_at_most_all(most, &at.child("maxUnavailable"), errors);
            let none =
                most.as_i64() == Some(0) || most.as_str().is_some_and(|s| s.trim_start_matches('0') == "%");
            if none {
                errors.invalid(at.child("maxUnavailable"), most.clone(), "cannot be 0");
            }
        }
        _ => {
            let given = object["spec"]["updateStrategy"].clone();
            errors.invalid(&at, given, "must be 'RollingUpdate' or 'OnDelete'");
        }
    }
}

/// The pods' own spec is looked at when the pods are made: only with the claims' volumes is it whole.
fn validate_template(object: &Value, path: &Path, errors: &mut FieldErrors) {
    let template = object.pointer("/spec/template").unwrap_or(&Value::Null);
    let at = path.child("selector");
    match object.pointer("/spec/selector").filter(|s| !s.is_null()) {
        None => errors.required(&at, ""),
        Some(given) => {
            let Some(typed) = errors.decode::<LabelSelector>(&at, given) else { return };
            let wrong = selector::validate(&typed, at.as_str());
            match Selector::of(Some(&typed)) {
                Ok(selector) if selector.is_everything() => {
                    errors.invalid(&at, given.clone(), "empty selector is invalid for statefulset");
                }
                Ok(selector) if !selector.matches_json(map(template, "/metadata/labels")) => {
                    let labels = template.pointer("/metadata/labels").cloned().unwrap_or(Value::Null);
                    let message = "`selector` does not match template `labels`";
                    errors.invalid(path.child("template.metadata.labels"), labels, message);
                }
                _ => {}
            }
            errors.extend(wrong);
        }
    }
    let at = path.child("template");
    validate_labels(map(template, "/metadata/labels"), &at.child("labels"), errors);
    validate_annotations(map(template, "/metadata/annotations"), &at.child("annotations"), errors);
    let policy = text(template, "/spec/restartPolicy");
    errors.one_of(&at.child("spec.restartPolicy"), policy, &["Always"]);
    workload::validate_no_deadline(object, "StatefulSet", errors);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(spec: Value) -> Value {
        let mut object = json!({"metadata": {"name": "s"}, "spec": {"selector": {"matchLabels": {"a": "b"}},
            "serviceName": "s", "template": {"metadata": {"labels": {"a": "b"}},
            "spec": {"containers": [{"name": "c", "image": "x", "volumeMounts": [{"name": "data", "mountPath": "/d"}]}]}},
            "volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": {"accessModes": ["ReadWriteOnce"]}}]}});
        object["spec"].as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
        StatefulSet.default(&mut object);
        object
    }

    fn wrong(spec: Value) -> Vec<String> {
        StatefulSet.validate(&set(spec)).into_iter().map(|e| e.to_string()).collect()
    }

    #[test]
    fn a_bare_set_starts_its_pods_in_order_and_keeps_their_volumes() {
        let object = set(json!({}));
        let spec = &object["spec"];
        assert_eq!(spec["podManagementPolicy"], "OrderedReady");
        let rolling =
            json!({"type": "RollingUpdate", "rollingUpdate": {"partition": 0, "maxUnavailable": 1}});
        assert_eq!(spec["updateStrategy"], rolling);
        // Who names the type has said all.
        let named = json!({"type": "RollingUpdate"});
        assert_eq!(set(json!({"updateStrategy": named}))["spec"]["updateStrategy"], named);
        let retention = json!({"whenDeleted": "Retain", "whenScaled": "Retain"});
        assert_eq!(spec["persistentVolumeClaimRetentionPolicy"], retention);
        let claim = &spec["volumeClaimTemplates"][0];
        assert_eq!(
            (&claim["kind"], &claim["spec"]["volumeMode"]),
            (&json!("PersistentVolumeClaim"), &json!("Filesystem"))
        );
        assert_eq!(claim["status"]["phase"], "Pending");
        assert_eq!(wrong(json!({})), Vec::<String>::new());
    }

    #[test]
    fn wrong_fields_are_named() {
        for (spec, want) in [
            (json!({"replicas": -1}), "spec.replicas: Invalid value: -1: must be greater than or equal to 0"),
            (
                json!({"podManagementPolicy": "Random"}),
                "spec.podManagementPolicy: Invalid value: \"Random\": must be 'OrderedReady' or 'Parallel'",
            ),
            (
                json!({"updateStrategy": {"type": "OnDelete", "rollingUpdate": {"partition": 1}}}),
                "spec.updateStrategy.rollingUpdate: Invalid value: {\"partition\":1}: only allowed for updateStrategy \
                 'RollingUpdate'",
            ),
            (
                json!({"updateStrategy": {"rollingUpdate": {"partition": -1}}}),
                "spec.updateStrategy.rollingUpdate.partition: Invalid value: -1: must be greater than or equal to 0",
            ),
            (
                json!({"updateStrategy": {"rollingUpdate": {"maxUnavailable": 0}}}),
                "spec.updateStrategy.rollingUpdate.maxUnavailable: Invalid value: 0: cannot be 0",
            ),
            (
                json!({"persistentVolumeClaimRetentionPolicy": {"whenScaled": "Keep"}}),
                "spec.persistentVolumeClaimRetentionPolicy.whenScaled: Unsupported value: \"Keep\": supported values: \
                 \"Retain\", \"Delete\"",
            ),
            (
                json!({"selector": {}}),
                "spec.selector: Invalid value: {}: empty selector is invalid for statefulset",
            ),
            (
                json!({"selector": {"matchLabels": {"a": "c"}}}),
                "spec.template.metadata.labels: Invalid value: {\"a\":\"b\"}: `selector` does not match template \
                 `labels`",
            ),
            (
                json!({"ordinals": {"start": -3}}),
                "spec.ordinals.start: Invalid value: -3: must be greater than or equal to 0",
            ),
        ] {
            assert_eq!(wrong(spec.clone()), [want], "{spec}");
        }
    }

    #[test]
    fn only_what_makes_no_other_pods_may_change() {
        let old = set(json!({}));
        let same = set(json!({"replicas": 3, "minReadySeconds": 4, "revisionHistoryLimit": 2}));
        assert!(StatefulSet.validate_update(&same, &old).is_empty());
        for other in [
            json!({"serviceName": "t"}),
            json!({"podManagementPolicy": "Parallel"}),
            json!({"volumeClaimTemplates": []}),
        ] {
            let errors = StatefulSet.validate_update(&set(other), &old);
            assert!(
                errors[0]
                    .to_string()
                    .starts_with("spec: Forbidden: updates to statefulset spec for fields other than")
            );
        }
    }

    #[test]
    fn the_status_must_add_up() {
        let status = |status: Value| {
            let new = json!({"status": status});
            StatefulSet.validate_status(&new, &json!({})).into_iter().map(|e| e.path).collect::<Vec<_>>()
        };
        assert!(status(json!({"replicas": 2, "readyReplicas": 2, "availableReplicas": 1})).is_empty());
        assert_eq!(status(json!({"replicas": 1, "readyReplicas": 2})), ["status.readyReplicas"]);
        assert_eq!(status(json!({"replicas": 1, "availableReplicas": 1})), ["status.availableReplicas"]);
    }
}
