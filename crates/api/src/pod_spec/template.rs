//! Pod templates: their validation beside the selector of what owns them, and the hash by which the pods of one
//! template are told from those of the next.

use super::{
    defaults,
    validate::{validate_host_network, validate_spec},
};
use crate::{
    FieldErrors, Path,
    metadata::{validate_annotations, validate_labels},
    object::map,
    selector::{self, Selector},
};
use k8s_openapi::{
    api::core::v1::{PodSpec, PodTemplateSpec},
    apimachinery::pkg::apis::meta::v1::LabelSelector,
};
use serde_json::Value;

/// Fills in the template at `spec.template` of an object.
pub fn set_defaults(object: &mut Value) {
    if let Some(spec) = object.pointer_mut("/spec/template/spec") {
        defaults::set_template_defaults(spec);
    }
}

/// Validates a template; `restart_policies` are those that the owner allows.
pub fn validate(template: &Value, restart_policies: &[&str], path: &Path, errors: &mut FieldErrors) {
    validate_labels(map(template, "/metadata/labels"), &path.child("labels"), errors);
    validate_annotations(map(template, "/metadata/annotations"), &path.child("annotations"), errors);
    let path = path.child("spec");
    let spec = template.get("spec").unwrap_or(&Value::Null);
    let Some(spec) = decode_spec(spec, &path, errors) else { return };
    if spec.ephemeral_containers.as_ref().is_some_and(|c| !c.is_empty()) {
        errors
            .forbidden(path.child("ephemeralContainers"), "ephemeral containers not allowed in pod template");
    }
    validate_spec(&spec, &path, errors);
    validate_host_network(&spec, false, &path, errors);
    let policy = spec.restart_policy.as_deref().unwrap_or_default();
    errors.one_of(&path.child("restartPolicy"), policy, restart_policies);
}

/// Validates `spec.selector` and `spec.template` of a workload together: the selector must not be empty, and must
/// match the template's labels. Its pods run for ever. `owner` stands in the message about an empty selector.
pub fn validate_with_selector(object: &Value, owner: &str, errors: &mut FieldErrors) {
    let spec = Path::new("spec");
    let template = object.pointer("/spec/template").unwrap_or(&Value::Null);
    let path = spec.child("selector");
    match object.pointer("/spec/selector").filter(|s| !s.is_null()) {
        None => errors.required(&path, ""),
        Some(given) => {
            if let Some(typed) = errors.decode::<LabelSelector>(&path, given) {
                let wrong = selector::validate(&typed, path.as_str());
                let empty = typed.match_labels.iter().flatten().count()
                    + typed.match_expressions.iter().flatten().count()
                    == 0;
                if empty {
                    errors.invalid(&path, given.clone(), format!("empty selector is invalid for {owner}"));
                } else if wrong.is_empty()
                    && !Selector::of(Some(&typed))
                        .is_ok_and(|s| s.matches_json(map(template, "/metadata/labels")))
                {
                    let labels = template.pointer("/metadata/labels").cloned().unwrap_or(Value::Null);
                    let message = "`selector` does not match template `labels`";
                    errors.invalid(spec.child("template.metadata.labels"), labels, message);
                }
                errors.extend(wrong);
            }
        }
    }
    validate(template, &["Always"], &spec.child("template"), errors);
}

/// Reads a pod spec; what is missing shows as missing, not as a type error.
pub(crate) fn decode_spec(spec: &Value, path: &Path, errors: &mut FieldErrors) -> Option<PodSpec> {
    if spec.get("containers").is_none_or(Value::is_null) {
        errors.required(path.child("containers"), "");
        return None;
    }
    errors.decode(path, spec)
}

/// A short name for the content of a template, as it stands in the label `pod-template-hash` and in the names of
/// ReplicaSets. `collisions` makes another one where two templates have got the same.
pub fn hash(template: &PodTemplateSpec, collisions: Option<i32>) -> String {
    let mut hash = Fnv::default();
    if let Ok(value) = serde_json::to_value(template) {
        hash.value(&value);
    }
    if let Some(collisions) = collisions {
        hash.bytes(&collisions.to_le_bytes());
    }
    safe_encode(&hash.0.to_string())
}

/// The hash of any content in that form: the label `controller-revision-hash`.
pub fn content_hash(content: &Value, collisions: Option<i32>) -> String {
    let mut hash = Fnv::default();
    hash.value(content);
    if let Some(collisions) = collisions {
        hash.bytes(&collisions.to_le_bytes());
    }
    safe_encode(&hash.0.to_string())
}

/// FNV-1a with 32 bits over JSON, whatever the order of its keys.
struct Fnv(u32);

impl Default for Fnv {
    fn default() -> Self {
        Self(0x811c_9dc5)
    }
}

impl Fnv {
    fn bytes(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u32::from(*byte)).wrapping_mul(0x0100_0193);
        }
    }

    fn value(&mut self, value: &Value) {
        match value {
            Value::Object(map) => {
                let mut keys: Vec<&String> = map.keys().collect();
                keys.sort_unstable();
                self.bytes(b"{");
                for key in keys.into_iter().filter(|k| !map[*k].is_null()) {
                    self.bytes(key.as_bytes());
                    self.bytes(b":");
                    self.value(&map[key]);
                }
                self.bytes(b"}");
            }
            Value::Array(list) => {
                self.bytes(b"[");
                for item in list {
                    self.value(item);
                    self.bytes(b",");
                }
                self.bytes(b"]");
            }
            other => self.bytes(other.to_string().as_bytes()),
        }
    }
}

/// Letters and digits that spell no words (k8s.io/apimachinery `rand.SafeEncodeString`).
fn safe_encode(text: &str) -> String {
    const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    text.bytes().map(|b| char::from(ALPHABET[usize::from(b) % ALPHABET.len()])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn template(image: &str) -> PodTemplateSpec {
        serde_json::from_value(json!({"metadata": {"labels": {"a": "b"}},
            "spec": {"containers": [{"name": "c", "image": image}]}}))
        .unwrap()
    }

    #[test]
    fn the_hash_follows_the_content_and_the_collisions() {
        let one = hash(&template("x:1"), None);
        assert_eq!(one, hash(&template("x:1"), None));
        assert_ne!(one, hash(&template("x:2"), None));
        assert_ne!(one, hash(&template("x:1"), Some(1)));
        assert!(one.len() <= 10 && crate::name::label_value(&one).is_empty());
    }

    #[test]
    fn a_selector_must_match_the_template() {
        let wrong = |selector: Value| {
            let mut object = json!({"spec": {"selector": selector, "template": {"metadata": {"labels": {"a": "b"}},
                "spec": {"containers": [{"name": "c", "image": "x"}]}}}});
            set_defaults(&mut object);
            let mut errors = FieldErrors::new();
            validate_with_selector(&object, "deployment", &mut errors);
            errors.into_vec().into_iter().map(|e| e.to_string()).collect::<Vec<_>>()
        };
        assert!(wrong(json!({"matchLabels": {"a": "b"}})).is_empty());
        assert_eq!(
            wrong(json!({"matchLabels": {"a": "c"}})),
            [
                "spec.template.metadata.labels: Invalid value: {\"a\":\"b\"}: `selector` does not match template `labels`"
            ]
        );
        assert_eq!(wrong(Value::Null), ["spec.selector: Required value"]);
        assert_eq!(
            wrong(json!({})),
            ["spec.selector: Invalid value: {}: empty selector is invalid for deployment"]
        );
    }
}
