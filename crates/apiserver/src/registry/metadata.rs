//! What the registry fills in and carries over in `metadata` (meta/v1 `ObjectMeta`). What is valid in it is
//! `orlop_api::metadata`'s to say. Pure: time, uid and suffixes are handed in.

use jiff::Timestamp;
use serde_json::{Map, Value, json};

/// The longest `generateName` that still leaves room for the suffix.
const GENERATE_NAME_LIMIT: usize = 63 - SUFFIX_LEN;
/// How many characters are appended to `generateName`.
pub(crate) const SUFFIX_LEN: usize = 5;
/// Characters of generated suffixes: no vowels, nothing that looks like another.
const SUFFIX_ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";

/// Time as `metadata` holds it: RFC 3339 in whole seconds.
pub(crate) fn format_time(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// The bytes of a suffix, out of a random number.
pub(crate) fn suffix_of(random: u128) -> [u8; SUFFIX_LEN] {
    std::array::from_fn(|i| random.to_le_bytes()[i])
}

/// The suffix that random bytes stand for.
pub(crate) fn suffix(random: [u8; SUFFIX_LEN]) -> String {
    random.iter().map(|b| char::from(SUFFIX_ALPHABET[*b as usize % SUFFIX_ALPHABET.len()])).collect()
}

/// A name made from `generateName`.
pub(crate) fn generate(base: &str, random: [u8; SUFFIX_LEN]) -> String {
    let mut end = base.len().min(GENERATE_NAME_LIMIT);
    while !base.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}{}", &base[..end], suffix(random))
}

/// `metadata`, made an empty object where it is missing or null.
pub(crate) fn of(object: &mut Value) -> Option<&mut Map<String, Value>> {
    let metadata = object.as_object_mut()?.entry("metadata").or_insert_with(|| json!({}));
    if metadata.is_null() {
        *metadata = json!({});
    }
    metadata.as_object_mut()
}

/// A string of `metadata`, empty where it is missing.
pub(crate) fn text<'a>(object: &'a Value, field: &str) -> &'a str {
    object.get("metadata").and_then(|m| m.get(field)).and_then(Value::as_str).unwrap_or_default()
}

/// `metadata.finalizers`.
pub(crate) fn finalizers(object: &Value) -> Vec<&str> {
    object
        .pointer("/metadata/finalizers")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect()
}

/// Whether the object is being deleted.
pub(crate) fn is_deleting(object: &Value) -> bool {
    !text(object, "deletionTimestamp").is_empty()
}

/// Removes members that are null or empty, which Kubernetes does not show.
pub(crate) fn tidy(metadata: &mut Map<String, Value>) {
    metadata.remove("selfLink");
    metadata.retain(|_, value| match value {
        Value::Null => false,
        Value::String(s) => !s.is_empty(),
        Value::Array(a) => !a.is_empty(),
        Value::Object(o) => !o.is_empty(),
        _ => true,
    });
}

/// Prepares the metadata of a new object.
pub(crate) fn prepare_create(metadata: &mut Map<String, Value>, uid: &str, now: Timestamp) {
    for field in ["deletionTimestamp", "deletionGracePeriodSeconds", "generation", "resourceVersion"] {
        metadata.remove(field);
    }
    metadata.insert("uid".into(), uid.into());
    metadata.insert("creationTimestamp".into(), format_time(now).into());
    tidy(metadata);
}

/// Carries over what no update changes.
pub(crate) fn prepare_update(new: &mut Value, old: &Value) {
    let Some(metadata) = of(new) else { return };
    for field in [
        "name",
        "namespace",
        "uid",
        "creationTimestamp",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "generation",
        "generateName",
        "resourceVersion",
    ] {
        match old.get("metadata").and_then(|m| m.get(field)) {
            Some(value) => metadata.insert(field.into(), value.clone()),
            None => metadata.remove(field),
        };
    }
    tidy(metadata);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_update_cannot_change_what_the_server_owns() {
        let old = json!({"metadata": {"name": "a", "uid": "1", "creationTimestamp": "t", "generation": 3}});
        let mut new = json!({"metadata": {"name": "a", "uid": "2", "generation": 9, "deletionTimestamp": "x", "labels": {}}});
        prepare_update(&mut new, &old);
        assert_eq!(new, old);
    }

    #[test]
    fn generated_names_fit() {
        let name = generate(&"x".repeat(100), [0, 1, 2, 3, 255]);
        assert_eq!(name.len(), 63);
        assert!(generate("web-", [9; 5]).starts_with("web-"));
    }
}
