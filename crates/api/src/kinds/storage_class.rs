//! StorageClass (storage.k8s.io/v1): a kind of storage, and who makes volumes of it.

use super::{base, texts};
use crate::{
    FieldError, FieldErrors, Kind, Path, Rules, Scope, name,
    object::{flag, list, map, set_default_nonzero, text},
    print,
};
use jiff::Timestamp;
use serde_json::Value;
use std::collections::BTreeSet;

/// The description of StorageClass.
pub(super) fn kind() -> Kind {
    Kind {
        short_names: texts(&["sc"]),
        scope: Scope::Cluster,
        columns: vec![
            print::name_column(),
            print::text_column("Provisioner", "Who makes volumes of the class."),
            print::text_column("ReclaimPolicy", "What becomes of a volume when its claim goes."),
            print::text_column("VolumeBindingMode", "When a claim gets its volume."),
            print::text_column("AllowVolumeExpansion", "Whether volumes may grow."),
            print::age_column(),
        ],
        ..base("storage.k8s.io", "v1", "StorageClass", "storageclasses", StorageClass)
    }
}

/// The annotation of the class of claims that name none; the second is its older name.
const IS_DEFAULT: [&str; 2] =
    ["storageclass.kubernetes.io/is-default-class", "storageclass.beta.kubernetes.io/is-default-class"];
const MAX_PARAMETERS: usize = 512;
const MAX_PARAMETERS_SIZE: usize = 256 * 1024;

struct StorageClass;

impl Rules for StorageClass {
    fn default(&self, object: &mut Value) {
        set_default_nonzero(object, "reclaimPolicy", "Delete");
        set_default_nonzero(object, "volumeBindingMode", "Immediate");
    }

    fn validate(&self, object: &Value) -> Vec<FieldError> {
        let mut errors = FieldErrors::new();
        validate_provisioner(text(object, "/provisioner"), &Path::new("provisioner"), &mut errors);
        validate_parameters(object, true, &mut errors);
        let policy = text(object, "/reclaimPolicy");
        errors.one_of(&Path::new("reclaimPolicy"), policy, &["Delete", "Retain"]);
        let mode = text(object, "/volumeBindingMode");
        let known = ["Immediate", "WaitForFirstConsumer"];
        errors.required_one_of(&Path::new("volumeBindingMode"), mode, &known);
        validate_topologies(list(object, "/allowedTopologies"), &mut errors);
        errors.into_vec()
    }

    fn validate_update(&self, new: &Value, old: &Value) -> Vec<FieldError> {
        let mut errors = FieldErrors::new();
        for field in ["parameters", "provisioner", "reclaimPolicy"] {
            forbid_change(new, old, field, &mut errors);
        }
        let mode = Path::new("volumeBindingMode");
        errors.immutable(&mode, new.get("volumeBindingMode"), old.get("volumeBindingMode"));
        errors.into_vec()
    }

    fn cells(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        let is_default = IS_DEFAULT.iter().any(|key| {
            map(object, "/metadata/annotations").and_then(|a| a.get(*key)).is_some_and(|v| v == "true")
        });
        let suffix = if is_default { " (default)" } else { "" };
        vec![
            format!("{}{suffix}", text(object, "/metadata/name")).into(),
            text(object, "/provisioner").into(),
            text(object, "/reclaimPolicy").into(),
            text(object, "/volumeBindingMode").into(),
            flag(object, "/allowVolumeExpansion").into(),
            print::age(object, now),
        ]
    }
}

/// A member that is fixed when the object is made.
pub(super) fn forbid_change(new: &Value, old: &Value, field: &str, errors: &mut FieldErrors) {
    if new.get(field) != old.get(field) {
        errors.forbidden(field, format!("updates to {field} are forbidden."));
    }
}

/// The name of a program that makes volumes.
pub(super) fn validate_provisioner(provisioner: &str, path: &Path, errors: &mut FieldErrors) {
    errors.required_and(path, provisioner, |value| name::qualified_name(&value.to_lowercase()));
}

/// What that program is told, at `parameters`.
pub(super) fn validate_parameters(object: &Value, may_be_empty: bool, errors: &mut FieldErrors) {
    let path = Path::new("parameters");
    let parameters = map(object, "/parameters");
    let count = parameters.map_or(0, serde_json::Map::len);
    if count > MAX_PARAMETERS {
        errors.push(FieldError::too_long(&path, MAX_PARAMETERS));
        return;
    }
    let mut size = 0;
    for (key, value) in parameters.into_iter().flatten() {
        if key.is_empty() {
            errors.invalid(&path, "", "field can not be empty.");
        }
        size += key.len() + value.as_str().map_or(0, str::len);
    }
    if size > MAX_PARAMETERS_SIZE {
        errors.push(FieldError::too_long(&path, MAX_PARAMETERS_SIZE));
    }
    if count == 0 && !may_be_empty {
        errors.required(&path, "must contain at least one key/value pair");
    }
}

fn validate_topologies(terms: &[Value], errors: &mut FieldErrors) {
    let mut seen: Vec<&[Value]> = Vec::new();
    for (at, term) in terms.iter().enumerate() {
        let path = Path::new("allowedTopologies").index(at).child("matchLabelExpressions");
        let expressions = list(term, "/matchLabelExpressions");
        let mut keys = BTreeSet::new();
        for (at, expression) in expressions.iter().enumerate() {
            let path = path.index(at);
            let (key, values) = (text(expression, "/key"), list(expression, "/values"));
            if values.is_empty() {
                errors.required(path.child("values"), "");
            }
            let mut different = BTreeSet::new();
            for (at, value) in values.iter().enumerate() {
                if !different.insert(value.to_string()) {
                    errors.duplicate(path.child("values").index(at), value.clone());
                }
            }
            errors.messages(&path.child("key"), key, name::qualified_name(key));
            if !keys.insert(key) {
                errors.duplicate(path.child("key"), key);
            }
        }
        if seen.contains(&expressions) {
            errors.duplicate(&path, "");
        }
        seen.push(expressions);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn class(more: Value) -> Value {
        let mut object = json!({"metadata": {"name": "c"}, "provisioner": "example.com/disk"});
        object.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        StorageClass.default(&mut object);
        object
    }

    #[test]
    fn a_bare_class_makes_volumes_at_once_and_deletes_them() {
        let object = class(json!({}));
        assert_eq!(
            (&object["reclaimPolicy"], &object["volumeBindingMode"]),
            (&json!("Delete"), &json!("Immediate"))
        );
        assert!(StorageClass.validate(&object).is_empty());
    }

    #[test]
    fn wrong_fields_are_named() {
        for (more, want) in [
            (json!({"provisioner": ""}), "provisioner: Required value"),
            (
                json!({"reclaimPolicy": "Recycle"}),
                "reclaimPolicy: Unsupported value: \"Recycle\": supported values: \"Delete\", \"Retain\"",
            ),
            (
                json!({"volumeBindingMode": "Later"}),
                "volumeBindingMode: Unsupported value: \"Later\": supported values: \"Immediate\", \
                 \"WaitForFirstConsumer\"",
            ),
            (json!({"parameters": {"": "x"}}), "parameters: Invalid value: \"\": field can not be empty."),
            (
                json!({"allowedTopologies": [{"matchLabelExpressions": [{"key": "zone", "values": []}]}]}),
                "allowedTopologies[0].matchLabelExpressions[0].values: Required value",
            ),
        ] {
            let found: Vec<String> =
                StorageClass.validate(&class(more.clone())).into_iter().map(|e| e.to_string()).collect();
            assert_eq!(found, [want], "{more}");
        }
    }

    #[test]
    fn a_class_stays_what_it_is_but_may_let_volumes_grow() {
        let old = class(json!({}));
        let said = |more: Value| {
            let errors = StorageClass.validate_update(&class(more), &old);
            errors.into_iter().map(|e| e.to_string()).collect::<Vec<_>>()
        };
        assert!(said(json!({"allowVolumeExpansion": true})).is_empty());
        assert_eq!(
            said(json!({"parameters": {"a": "b"}})),
            ["parameters: Forbidden: updates to parameters are forbidden."]
        );
        assert_eq!(
            said(json!({"volumeBindingMode": "WaitForFirstConsumer"})),
            ["volumeBindingMode: Invalid value: \"WaitForFirstConsumer\": field is immutable"]
        );
    }

    #[test]
    fn the_row_says_which_class_is_the_default() {
        let mut object = class(json!({}));
        object["metadata"]["annotations"] = json!({"storageclass.kubernetes.io/is-default-class": "true"});
        let row = StorageClass.cells(&object, Timestamp::UNIX_EPOCH);
        assert_eq!(row[..2], ["c (default)", "example.com/disk"].map(Value::from));
    }
}
