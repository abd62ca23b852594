//! Validation of `metadata`, which is the same for all kinds (k8s.io/apimachinery `ValidateObjectMeta`). Filling
//! it in (uid, timestamps, generation) is the registry's.

use crate::{
    FieldError, Kind, NameRule, Scope,
    field_path::{FieldErrors, Path},
    name,
    object::{flag, has, list, map, text},
};
use serde_json::{Map, Value};

/// All annotations of an object together, keys and values, in bytes.
pub const MAX_ANNOTATIONS: usize = 256 * 1024;

/// All that is wrong with the metadata of an object, new or changed.
pub fn validate_object_meta(kind: &Kind, object: &Value) -> Vec<FieldError> {
    let path = Path::new("metadata");
    let mut errors = FieldErrors::new();
    validate_names(kind, object, &path, &mut errors);
    if object.pointer("/metadata/generation").and_then(Value::as_i64).is_some_and(|g| g < 0) {
        errors.invalid(
            path.child("generation"),
            object["metadata"]["generation"].clone(),
            "must be greater than or equal to zero",
        );
    }
    validate_labels(map(object, "/metadata/labels"), &path.child("labels"), &mut errors);
    validate_annotations(map(object, "/metadata/annotations"), &path.child("annotations"), &mut errors);
    validate_owners(object, &path.child("ownerReferences"), &mut errors);
    validate_finalizers(kind, object, &path.child("finalizers"), &mut errors);
    errors.into_vec()
}

fn validate_names(kind: &Kind, object: &Value, path: &Path, errors: &mut FieldErrors) {
    let (name, prefix) = (text(object, "/metadata/name"), text(object, "/metadata/generateName"));
    if !prefix.is_empty() {
        errors.messages(
            &path.child("generateName"),
            prefix,
            name::object_name_prefix(kind.name_rule, prefix),
        );
    }
    if name.is_empty() {
        errors.required(path.child("name"), "name or generateName is required");
    } else {
        errors.messages(&path.child("name"), name, name::object_name(kind.name_rule, name));
    }
    let namespace = text(object, "/metadata/namespace");
    let at = path.child("namespace");
    match kind.scope {
        Scope::Namespaced => {
            errors.required_and(&at, namespace, |n| name::object_name(NameRule::DnsLabel, n))
        }
        Scope::Cluster if !namespace.is_empty() => errors.forbidden(&at, "not allowed on this type"),
        Scope::Cluster => {}
    }
}

/// Label keys and values; also those of node selectors and pod templates.
pub fn validate_labels(labels: Option<&Map<String, Value>>, path: &Path, errors: &mut FieldErrors) {
    for (key, value) in labels.into_iter().flatten() {
        errors.messages(path, key, name::qualified_name(key));
        let value = value.as_str().unwrap_or_default();
        errors.messages(path, value, name::label_value(value));
    }
}

/// Annotation keys, and the size of all together.
pub fn validate_annotations(annotations: Option<&Map<String, Value>>, path: &Path, errors: &mut FieldErrors) {
    let mut size = 0;
    for (key, value) in annotations.into_iter().flatten() {
        // Unlike those of labels, keys of annotations may have capitals in the prefix.
        errors.messages(path, key, name::qualified_name(&key.to_lowercase()));
        size += key.len() + value.as_str().map_or(0, str::len);
    }
    if size > MAX_ANNOTATIONS {
        errors.push(FieldError::too_long(path, MAX_ANNOTATIONS));
    }
}

fn validate_owners(object: &Value, path: &Path, errors: &mut FieldErrors) {
    let owners = list(object, "/metadata/ownerReferences");
    for owner in owners {
        let api_version = text(owner, "/apiVersion");
        if api_version.rsplit('/').next().unwrap_or_default().is_empty() {
            errors.invalid(path.child("apiVersion"), api_version, "version must not be empty");
        }
        for field in ["kind", "name", "uid"] {
            if text(owner, &format!("/{field}")).is_empty() {
                errors.invalid(path.child(field), "", format!("{field} must not be empty"));
            }
        }
        if text(owner, "/kind") == "Event" && matches!(api_version, "v1" | "events.k8s.io/v1") {
            errors.invalid(
                path,
                owner.clone(),
                format!("{api_version}, Kind=Event is disallowed from being an owner"),
            );
        }
    }
    let controllers: Vec<String> = owners
        .iter()
        .filter(|o| flag(o, "/controller"))
        .map(|o| format!("{}/{}", text(o, "/kind"), text(o, "/name")))
        .collect();
    if let [first, second, ..] = controllers.as_slice() {
        let message = format!(
            "Only one reference can have Controller set to true. Found \"true\" in references for {first} and {second}"
        );
        errors.invalid(path, Value::from(owners.to_vec()), message);
    }
}

fn validate_finalizers(kind: &Kind, object: &Value, path: &Path, errors: &mut FieldErrors) {
    let finalizers: Vec<&str> =
        list(object, "/metadata/finalizers").iter().filter_map(Value::as_str).collect();
    // Custom resources have always been allowed short names of their own.
    let built_in = !kind.group.contains('.') || kind.group.ends_with(".k8s.io");
    for (at, finalizer) in finalizers.iter().enumerate() {
        errors.messages(path, finalizer, name::qualified_name(finalizer));
        let standard = matches!(*finalizer, "kubernetes" | "orphan" | "foregroundDeletion");
        if built_in && !finalizer.contains('/') && !standard {
            let message = "name is neither a standard finalizer name nor is it fully qualified";
            errors.invalid(path.index(at), *finalizer, message);
        }
    }
    if finalizers.contains(&"orphan") && finalizers.contains(&"foregroundDeletion") {
        let message = "finalizer orphan and foregroundDeletion cannot be both set";
        errors.invalid(path, finalizers, message);
    }
}

/// All that is wrong with a change of metadata: what may not change did. To be called besides
/// [`validate_object_meta`], after the registry has carried over what it owns.
pub fn validate_object_meta_update(new: &Value, old: &Value) -> Vec<FieldError> {
    let path = Path::new("metadata");
    let mut errors = FieldErrors::new();
    for field in ["name", "namespace", "uid", "creationTimestamp"] {
        let at = format!("/metadata/{field}");
        errors.immutable(&path.child(field), new.pointer(&at), old.pointer(&at));
    }
    if has(old, "/metadata/deletionTimestamp") {
        for field in ["deletionTimestamp", "deletionGracePeriodSeconds"] {
            let at = format!("/metadata/{field}");
            errors.immutable(&path.child(field), new.pointer(&at), old.pointer(&at));
        }
        let before = list(old, "/metadata/finalizers");
        let added: Vec<String> = list(new, "/metadata/finalizers")
            .iter()
            .filter(|f| !before.contains(f))
            .map(ToString::to_string)
            .collect();
        if !added.is_empty() {
            let message = format!(
                "no new finalizers can be added if the object is being deleted, found new finalizers []string{{{}}}",
                added.join(", ")
            );
            errors.forbidden(path.child("finalizers"), message);
        }
    }
    let generation = |object: &Value| object.pointer("/metadata/generation").and_then(Value::as_i64);
    if let (Some(new), Some(old)) = (generation(new), generation(old))
        && new < old
    {
        errors.invalid(path.child("generation"), new, "must not be decremented");
    }
    errors.into_vec()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds;
    use serde_json::json;

    fn wrong(plural: &str, metadata: Value) -> Vec<String> {
        let kind = kinds::table().into_iter().find(|k| k.plural == plural).unwrap();
        let errors = validate_object_meta(&kind, &json!({"metadata": metadata}));
        errors.into_iter().map(|e| e.to_string()).collect()
    }

    #[test]
    fn names_follow_the_rule_of_the_kind() {
        let none: Vec<String> = Vec::new();
        assert_eq!(wrong("configmaps", json!({"name": "a.b", "namespace": "x"})), none);
        assert_eq!(wrong("namespaces", json!({"name": "a"})), none);
        assert_eq!(
            wrong("namespaces", json!({"name": "a.b", "namespace": "x"})),
            [
                "metadata.name: Invalid value: \"a.b\": must not contain dots",
                "metadata.namespace: Forbidden: not allowed on this type"
            ]
        );
        assert_eq!(
            wrong("pods", json!({})),
            [
                "metadata.name: Required value: name or generateName is required",
                "metadata.namespace: Required value"
            ]
        );
        assert!(wrong("services", json!({"name": "1a", "namespace": "x"}))[0].contains("a DNS-1035 label"));
    }

    #[test]
    fn labels_and_annotations_are_checked() {
        let with = |more: Value| {
            let mut metadata = json!({"name": "a", "namespace": "x"});
            metadata.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            wrong("pods", metadata)
        };
        assert!(
            with(json!({"labels": {"a/b/c": "x"}}))[0]
                .starts_with("metadata.labels: Invalid value: \"a/b/c\"")
        );
        assert!(
            with(json!({"labels": {"a": "x y"}}))[0].starts_with("metadata.labels: Invalid value: \"x y\"")
        );
        assert!(with(json!({"annotations": {"Example.com/A": "any thing"}})).is_empty());
        assert_eq!(
            with(json!({"annotations": {"a": "x".repeat(MAX_ANNOTATIONS)}})),
            ["metadata.annotations: Too long: may not be more than 262144 bytes"]
        );
        assert!(with(json!({"annotations": {"a": "x".repeat(MAX_ANNOTATIONS - 1)}})).is_empty());
    }

    #[test]
    fn owners_and_finalizers_are_checked() {
        let owner = |name: &str| json!({"apiVersion": "v1", "kind": "Pod", "name": name, "uid": "1", "controller": true});
        let with =
            |field: &str, value: Value| wrong("pods", json!({"name": "a", "namespace": "x", field: value}));
        assert!(with("ownerReferences", json!([owner("p")])).is_empty());
        assert!(with("ownerReferences", json!([owner("p"), owner("q")]))[0].contains("Pod/p and Pod/q"));
        assert_eq!(with("ownerReferences", json!([{}])).len(), 4);
        assert!(with("finalizers", json!(["kubernetes", "x.io/y"])).is_empty());
        assert_eq!(
            with("finalizers", json!(["mine"])),
            [
                "metadata.finalizers[0]: Invalid value: \"mine\": name is neither a standard finalizer name nor is it \
              fully qualified"
            ]
        );
    }

    #[test]
    fn what_the_registry_owns_may_not_change() {
        let old = json!({"metadata": {"name": "a", "uid": "1", "generation": 2}});
        let paths = |new: Value, old: &Value| {
            validate_object_meta_update(&new, old).into_iter().map(|e| e.path).collect::<Vec<_>>()
        };
        assert!(paths(old.clone(), &old).is_empty());
        assert_eq!(
            paths(json!({"metadata": {"name": "b", "uid": "2", "generation": 1}}), &old),
            ["metadata.name", "metadata.uid", "metadata.generation"]
        );
        let going = json!({"metadata": {"name": "a", "deletionTimestamp": "2026-01-01T00:00:00Z", "finalizers": ["x.io/a"]}});
        let mut new = going.clone();
        new["metadata"]["finalizers"] = json!([]);
        assert!(paths(new.clone(), &going).is_empty());
        new["metadata"]["finalizers"] = json!(["x.io/a", "x.io/b"]);
        assert_eq!(paths(new, &going), ["metadata.finalizers"]);
    }
}
