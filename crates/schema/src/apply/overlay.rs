//! Lays a configuration over an object as an apply does, but for nobody: no field gets an owner, and what is owned as a whole
//! may not be said at all (Kubernetes documentation, "Mutating Admission Policy", "ApplyConfiguration"). Reads no managed fields.

use super::{merge::merge, typed};
use crate::types::{List, Shape, Type, TypeRef};
use serde_json::Value;

/// Why a configuration cannot be laid over an object.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OverlayError {
    /// It is not of the object's type.
    #[error("failed to convert patch object to typed object: {0}: {1}")]
    Untyped(String, String),
    /// It says something of what has one owner as a whole, so that the rest of that would be lost.
    #[error("invalid ApplyConfiguration: may not mutate atomic arrays, maps or structs: {}", .0.join(", "))]
    Atomic(Vec<String>),
}

/// `live` with all that `config` says.
///
/// # Errors
/// Where the configuration does not fit the type, or touches what is atomic.
pub fn overlay(ty: &TypeRef, live: &Value, config: &Value) -> Result<Value, OverlayError> {
    let mut config = config.clone();
    typed(ty, &mut config).map_err(|(path, why)| OverlayError::Untyped(path, why))?;
    let mut found = Vec::new();
    atomic(ty.as_type(), &config, "", &mut found);
    if !found.is_empty() {
        return Err(OverlayError::Atomic(found));
    }
    Ok(merge(Some(ty.as_type()), live, &config))
}

/// The paths of all that is owned as a whole.
fn atomic(ty: Type<'_>, value: &Value, path: &str, found: &mut Vec<String>) {
    let whole = match (ty.shape(), value) {
        (Shape::Struct(shape), Value::Object(_)) => shape.atomic,
        (Shape::Map { atomic, .. }, Value::Object(_)) => atomic,
        (Shape::List { list, .. }, Value::Array(_)) => matches!(list, List::Atomic),
        _ => false,
    };
    if whole {
        found.push(path.to_string());
    }
    match (ty.shape(), value) {
        (Shape::Struct(shape), Value::Object(fields)) => {
            for (key, value) in fields {
                if let Some(field) = shape.field(key) {
                    atomic(field.ty(), value, &format!("{path}.{key}"), found);
                }
            }
        }
        (Shape::List { item, .. }, Value::Array(entries)) => {
            for (at, entry) in entries.iter().enumerate() {
                atomic(item, entry, &format!("{path}[{at}]"), found);
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Types;
    use serde_json::json;

    fn lay(live: Value, config: Value) -> Result<Value, String> {
        let ty = Types::of("apps/v1", "Deployment").unwrap();
        overlay(&ty, &live, &config).map_err(|e| e.to_string())
    }

    #[test]
    fn lists_with_keys_and_maps_are_merged() {
        let live = json!({"metadata": {"labels": {"a": "1"}}, "spec": {"replicas": 1, "template": {"spec": {
            "volumes": [{"name": "x"}, {"name": "y"}],
            "containers": [{"name": "c", "image": "i", "env": [{"name": "A", "value": "1"}]}],
        }}}});
        let config = json!({"metadata": {"labels": {"b": "2"}}, "spec": {"template": {"spec": {
            "volumes": [{"name": "y", "hostPath": {"path": "/a"}}, {"name": "z"}],
            "containers": [{"name": "c", "env": [{"name": "B", "value": "2"}]}],
        }}}});
        assert_eq!(
            lay(live, config).unwrap(),
            json!({"metadata": {"labels": {"a": "1", "b": "2"}}, "spec": {"replicas": 1, "template": {"spec": {
                "volumes": [{"name": "x"}, {"name": "y", "hostPath": {"path": "/a"}}, {"name": "z"}],
                "containers": [{"name": "c", "image": "i", "env": [
                    {"name": "A", "value": "1"}, {"name": "B", "value": "2"}]}],
            }}}})
        );
    }

    #[test]
    fn what_is_no_field_or_owned_as_a_whole_is_refused() {
        for (config, why) in [
            (
                json!({"spec": {"replicasx": 1}}),
                "failed to convert patch object to typed object: .spec.replicasx: field not declared in schema",
            ),
            (
                json!({"spec": {"selector": {"matchLabels": {"l": "v"}}}}),
                "invalid ApplyConfiguration: may not mutate atomic arrays, maps or structs: .spec.selector",
            ),
            (
                json!({"spec": {"template": {"spec": {"containers": [{"name": "c", "args": ["a"]}]}}}}),
                "invalid ApplyConfiguration: may not mutate atomic arrays, maps or structs: .spec.template.spec.containers[0].args",
            ),
            (
                json!({"spec": {"template": {"spec": {"volumes": [{"name": "a"}, {"name": "a"}]}}}}),
                "failed to convert patch object to typed object: .spec.template.spec.volumes: duplicate entries for key [name=\"a\"]",
            ),
        ] {
            assert_eq!(lay(json!({"spec": {}}), config).unwrap_err(), why);
        }
        let wrong = lay(json!({}), json!({"spec": {"replicas": "a"}})).unwrap_err();
        assert!(
            wrong.starts_with("failed to convert patch object to typed object: .spec.replicas: "),
            "{wrong}"
        );
    }
}
