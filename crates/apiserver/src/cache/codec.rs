//! The form of an object in the store and on the wire. Both begin with a prefix that is fixed for the kind, so that
//! `resourceVersion`, which the store knows better than the value, is spliced in without parsing. Knows no kind.

use bytes::Bytes;
use orlop_api::Kind;
use orlop_store::Revision;
use serde_json::Value;
use std::io::Write;

const FIELD: &str = "\"resourceVersion\":\"";
/// The most that the revision adds: the field, 20 digits, a quote and a comma.
pub(crate) const MARGIN: usize = FIELD.len() + 22;

/// How every stored and served object of a kind begins: up to and with the brace that opens `metadata`.
pub(crate) fn prefix(kind: &Kind) -> String {
    prefix_of(&kind.api_version(), &kind.kind)
}

/// The same, for a version and kind by name.
pub(crate) fn prefix_of(api_version: &str, kind: &str) -> String {
    format!("{{\"apiVersion\":\"{api_version}\",\"kind\":\"{kind}\",\"metadata\":{{")
}

/// The stored form of an object: the kind's prefix, `metadata` without `resourceVersion`, everything else.
pub(crate) fn encode(prefix: &str, object: &Value) -> Bytes {
    let mut out = Vec::with_capacity(1024);
    out.extend_from_slice(prefix.as_bytes());
    if let Some(metadata) = object.get("metadata").and_then(Value::as_object) {
        let members = metadata.iter().filter(|(k, _)| *k != "resourceVersion" && *k != "selfLink");
        write_members(&mut out, members, false);
    }
    out.push(b'}');
    if let Some(object) = object.as_object() {
        let rest = object.iter().filter(|(k, _)| !matches!(k.as_str(), "apiVersion" | "kind" | "metadata"));
        write_members(&mut out, rest, true);
    }
    out.push(b'}');
    out.into()
}

fn write_members<'a>(
    out: &mut Vec<u8>,
    members: impl Iterator<Item = (&'a String, &'a Value)>,
    mut comma: bool,
) {
    for (key, value) in members {
        if comma {
            out.push(b',');
        }
        comma = true;
        // Writing JSON into memory cannot fail: keys are strings and `Vec` takes every byte.
        let _ = serde_json::to_writer(&mut *out, key);
        out.push(b':');
        let _ = serde_json::to_writer(&mut *out, value);
    }
}

/// The wire form of a stored object: with its `resourceVersion`.
pub(crate) fn with_revision(prefix: &str, stored: &[u8], revision: Revision) -> Bytes {
    let mut out = Vec::with_capacity(stored.len() + MARGIN);
    append(prefix.len(), stored, revision, &mut out);
    out.into()
}

/// Appends the wire form of a stored object whose kind's prefix is `prefix` bytes long.
pub(crate) fn append(prefix: usize, stored: &[u8], revision: Revision, out: &mut Vec<u8>) {
    let (head, rest) = stored.split_at(prefix.min(stored.len()));
    out.reserve(stored.len() + MARGIN);
    out.extend_from_slice(head);
    out.extend_from_slice(FIELD.as_bytes());
    // Writing into memory cannot fail.
    let _ = write!(out, "{revision}\"");
    if !rest.starts_with(b"}") {
        out.push(b',');
    }
    out.extend_from_slice(rest);
}

/// Whether bytes from the store have the form that [`encode`] gives them.
pub(crate) fn is_encoded(prefix: &str, stored: &[u8]) -> bool {
    stored.starts_with(prefix.as_bytes()) && !stored[prefix.len()..].starts_with(FIELD.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const PREFIX: &str = "{\"apiVersion\":\"v1\",\"kind\":\"ConfigMap\",\"metadata\":{";

    #[test]
    fn an_object_is_served_with_the_revision_that_wrote_it() {
        let object = json!({
            "apiVersion": "v1", "kind": "ConfigMap", "data": {"a": "ä\n\"b\""},
            "metadata": {"name": "x", "resourceVersion": "7", "labels": {"k": "v"}},
        });
        let stored = encode(PREFIX, &object);
        assert!(is_encoded(PREFIX, &stored));
        let served: Value = serde_json::from_slice(&with_revision(PREFIX, &stored, Revision(12))).unwrap();
        let mut expected = object.clone();
        expected["metadata"]["resourceVersion"] = json!("12");
        assert_eq!(served, expected);
    }

    #[test]
    fn empty_metadata_is_still_json() {
        let stored = encode(PREFIX, &json!({"metadata": {}}));
        let served = with_revision(PREFIX, &stored, Revision(1));
        assert!(serde_json::from_slice::<Value>(&served).is_ok());
    }
}
