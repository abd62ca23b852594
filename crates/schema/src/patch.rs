//! The three ways to patch an object that need no type or only its merge keys, with one error: JSON patch
//! (RFC 6902), JSON merge patch (RFC 7386), and, in `strategic`, Kubernetes' own. Never decodes or stores an object.

use crate::parse::{MAX_DEPTH, ParseError, depth};
use json_patch::{PatchErrorKind, PatchOperation};
use orlop_api::Status;
use serde_json::Value;

/// How many operations a JSON patch may have, as in Kubernetes.
pub const MAX_OPERATIONS: usize = 10_000;

/// How deep an object may become in the middle of a JSON patch: deeper ones would overflow the stack of whoever walks them.
const MAX_DEPTH_BETWEEN: usize = 10 * MAX_DEPTH;

/// How many bytes the `copy` operations of one JSON patch may add: the limit of a request body in Kubernetes.
const MAX_COPIED: usize = 3 * 1024 * 1024;

/// Why a patch could not be applied.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum PatchError {
    /// The patch is not written as one.
    #[error("{0}")]
    Malformed(String),
    /// The patch is one, but does not go with the object.
    #[error("the server rejected our request due to an error in our request: {0}")]
    Rejected(String),
    /// The patch has too many operations, or makes too much of the object.
    #[error("{0}")]
    TooLarge(String),
    /// The kind has no merge keys.
    #[error(
        "the body of the request was in an unknown format - accepted media types include: application/json-patch+json, application/merge-patch+json, application/apply-patch+yaml"
    )]
    Unsupported,
}

impl From<PatchError> for Status {
    fn from(error: PatchError) -> Self {
        let message = error.to_string();
        match error {
            PatchError::Malformed(_) => Self::bad_request(message),
            PatchError::Rejected(_) => Self::new(422, "Invalid", message),
            PatchError::TooLarge(_) => Self::too_large(message),
            PatchError::Unsupported => Self::unsupported_media_type(message),
        }
    }
}

/// Applies a JSON merge patch (RFC 7386) to an object.
pub fn merge_patch(object: &mut Value, patch: &Value) -> Result<(), PatchError> {
    if !patch.is_object() {
        return Err(PatchError::Malformed(
            "error decoding patch: a merge patch is a JSON object".to_string(),
        ));
    }
    json_patch::merge(object, patch);
    Ok(())
}

/// Applies a JSON patch (RFC 6902) to an object. When it fails, the object is as it was.
pub fn json_patch(object: &mut Value, patch: &Value) -> Result<(), PatchError> {
    let Value::Array(listed) = patch else {
        return Err(PatchError::Malformed(
            "error decoding patch: a JSON patch is a list of operations".to_string(),
        ));
    };
    if listed.len() > MAX_OPERATIONS {
        return Err(PatchError::TooLarge(format!(
            "The allowed maximum operations in a JSON patch is {MAX_OPERATIONS}, got {}",
            listed.len()
        )));
    }
    let operations: Vec<PatchOperation> = serde_json::from_value(patch.clone())
        .map_err(|e| PatchError::Malformed(format!("error decoding patch: {e}")))?;
    let mut patched = object.clone();
    let (mut copied, mut deepest) = (0, depth(&patched));
    for operation in operations {
        if tests_absence(&operation, &patched) {
            continue;
        }
        deepest = deepest.max(reach(&operation, deepest));
        if deepest > MAX_DEPTH_BETWEEN {
            // That was the most it could be; now for what it is.
            deepest = depth(&patched);
            deepest = deepest.max(reach(&operation, deepest));
        }
        if deepest > MAX_DEPTH_BETWEEN {
            return Err(too_deep());
        }
        if let PatchOperation::Copy(copy) = &operation
            && let Some(source) = patched.pointer(copy.from.as_str())
        {
            copied += size(source);
            if copied > MAX_COPIED {
                return Err(PatchError::TooLarge(format!(
                    "Unable to complete the copy, the accumulated size increase of copy is {copied}, exceeding the limit {MAX_COPIED}"
                )));
            }
        }
        let operation = adds_if_missing(operation, &patched);
        json_patch::patch(&mut patched, std::slice::from_ref(&operation))
            .map_err(|e| told(&operation, &e.kind))?;
    }
    if deepest > MAX_DEPTH && depth(&patched) > MAX_DEPTH {
        return Err(too_deep());
    }
    *object = patched;
    Ok(())
}

/// Whether a path names a key that an object could have and has not.
fn is_missing_key(object: &Value, path: &str) -> bool {
    let parent = path.rsplit_once('/').and_then(|(parent, _)| object.pointer(parent));
    object.pointer(path).is_none() && parent.is_some_and(Value::is_object)
}

/// A key of an object that is replaced need not be there: the library behind Kubernetes' own JSON patches does not look.
fn adds_if_missing(operation: PatchOperation, object: &Value) -> PatchOperation {
    match operation {
        PatchOperation::Replace(replace) if is_missing_key(object, replace.path.as_str()) => {
            PatchOperation::Add(json_patch::AddOperation { path: replace.path, value: replace.value })
        }
        operation => operation,
    }
}

/// Whether it tests that a key is null which is not there at all. RFC 6902 knows no such key; that library takes both for the same,
/// and clients ask so whether an object has no finalizers yet.
fn tests_absence(operation: &PatchOperation, object: &Value) -> bool {
    matches!(operation, PatchOperation::Test(test) if test.value.is_null() && is_missing_key(object, test.path.as_str()))
}

fn too_deep() -> PatchError {
    PatchError::Malformed(ParseError::TooDeep.to_string())
}

/// How deep at most what an operation puts into an object reaches, where nothing in it is deeper than `deepest`.
fn reach(operation: &PatchOperation, deepest: usize) -> usize {
    let steps = |path: &str| path.bytes().filter(|b| *b == b'/').count();
    let to = steps(operation.path().as_str());
    match operation {
        PatchOperation::Add(add) => to + depth(&add.value),
        PatchOperation::Replace(replace) => to + depth(&replace.value),
        PatchOperation::Copy(copy) => to + deepest.saturating_sub(steps(copy.from.as_str())),
        PatchOperation::Move(moved) => to + deepest.saturating_sub(steps(moved.from.as_str())),
        PatchOperation::Remove(_) | PatchOperation::Test(_) => 0,
    }
}

fn told(operation: &PatchOperation, kind: &PatchErrorKind) -> PatchError {
    let path = operation.path();
    PatchError::Rejected(match (operation, kind) {
        (PatchOperation::Test(_), PatchErrorKind::TestFailed) => format!("testing value {path} failed"),
        (PatchOperation::Test(_), _) => format!("testing path {path} failed: it does not exist"),
        (PatchOperation::Remove(_), _) => {
            format!("remove operation does not apply: doc is missing path: \"{path}\"")
        }
        (PatchOperation::Replace(_), _) => {
            format!("replace operation does not apply: doc is missing path: \"{path}\"")
        }
        (PatchOperation::Add(_), _) => {
            format!("add operation does not apply: doc is missing path: \"{path}\"")
        }
        (PatchOperation::Copy(copy), _) => {
            format!("copy operation does not apply: from \"{}\" to \"{path}\"", copy.from)
        }
        (PatchOperation::Move(moved), _) => {
            format!("move operation does not apply: from \"{}\" to \"{path}\"", moved.from)
        }
    })
}

/// About how many bytes a value takes as JSON.
fn size(value: &Value) -> usize {
    match value {
        Value::Null | Value::Bool(_) | Value::Number(_) => 8,
        Value::String(s) => s.len() + 3,
        Value::Array(items) => 2 + items.iter().map(size).sum::<usize>(),
        Value::Object(map) => 2 + map.iter().map(|(k, v)| k.len() + 4 + size(v)).sum::<usize>(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_is_not_there_passes_a_test_for_null() {
        let mut object = json!({"a": {}, "b": null, "l": []});
        let patch = json!([
            {"op": "test", "path": "/a/none", "value": null},
            {"op": "test", "path": "/b", "value": null},
            {"op": "add", "path": "/a/none", "value": [1]},
        ]);
        json_patch(&mut object, &patch).unwrap();
        assert_eq!(object, json!({"a": {"none": [1]}, "b": null, "l": []}));
        for (path, value) in
            [("/a/none", json!(null)), ("/x/y", json!(null)), ("/l/0", json!(null)), ("/x", json!(1))]
        {
            let patch = json!([{"op": "test", "path": path, "value": value}]);
            assert!(json_patch(&mut object, &patch).is_err(), "{path}");
        }
    }

    fn status(error: PatchError) -> (u16, String) {
        let status = Status::from(error);
        (status.code, status.message)
    }

    #[test]
    fn copies_into_themselves_nest_no_deeper_than_a_body_may() {
        let mut doubling = vec![json!({"op": "add", "path": "/a", "value": {"b": 1}})];
        doubling.extend((0..18).map(|n| {
            let into = format!("/a{}/c", "/c".repeat((1 << n) - 1));
            json!({"op": "copy", "from": "/a", "path": into})
        }));
        let error = json_patch(&mut json!({}), &doubling.into()).unwrap_err();
        assert_eq!(status(error), (400, "exceeded max depth of 100".to_string()));
        let mut object = json!({"a": {"b": 1}});
        let into = format!("/{}", vec!["x"; MAX_DEPTH].join("/"));
        let mut nesting: Vec<Value> = (1..MAX_DEPTH)
            .map(|n| json!({"op": "add", "path": format!("/{}", vec!["x"; n].join("/")), "value": {}}))
            .collect();
        json_patch(&mut object, &nesting.clone().into()).unwrap();
        nesting.push(json!({"op": "move", "from": "/a", "path": into}));
        assert_eq!(status(json_patch(&mut object, &nesting.into()).unwrap_err()).0, 400);
    }

    #[test]
    fn a_merge_patch_sets_and_deletes() {
        let mut object = json!({"a": {"b": 1, "c": [1, 2]}, "d": 1});
        merge_patch(&mut object, &json!({"a": {"b": null, "c": [3]}, "e": {"f": null, "g": 1}})).unwrap();
        assert_eq!(object, json!({"a": {"c": [3]}, "d": 1, "e": {"g": 1}}));
        assert_eq!(status(merge_patch(&mut object, &json!([1])).unwrap_err()).0, 400);
    }

    #[test]
    fn a_json_patch_does_all_or_nothing() {
        let mut object = json!({"a": [1, 2], "b": {"c/d": 1}});
        let patch = json!([
            {"op": "add", "path": "/a/-", "value": 3},
            {"op": "move", "from": "/b/c~1d", "path": "/e"},
            {"op": "test", "path": "/e", "value": 1},
            {"op": "remove", "path": "/a/0"},
            {"op": "copy", "from": "/a", "path": "/f"}
        ]);
        json_patch(&mut object, &patch).unwrap();
        assert_eq!(object, json!({"a": [2, 3], "b": {}, "e": 1, "f": [2, 3]}));
        let before = object.clone();
        let patch = json!([{"op": "remove", "path": "/e"}, {"op": "test", "path": "/a/0", "value": 9}]);
        let (code, message) = status(json_patch(&mut object, &patch).unwrap_err());
        assert_eq!(code, 422);
        assert!(message.ends_with("testing value /a/0 failed"), "{message}");
        assert_eq!(object, before);
    }

    #[test]
    fn a_json_patch_replaces_a_key_that_is_not_there() {
        let mut object = json!({"a": {}, "l": [1]});
        json_patch(&mut object, &json!([{"op": "replace", "path": "/a/b", "value": 1}])).unwrap();
        assert_eq!(object["a"], json!({"b": 1}));
        let end = json!([{"op": "replace", "path": "/l/-", "value": 1}]);
        assert_eq!(status(json_patch(&mut object, &end).unwrap_err()).0, 422);
    }

    #[test]
    fn a_json_patch_that_makes_no_sense_is_refused_with_its_reason() {
        for (patch, code, words) in [
            (json!({}), 400, "list of operations"),
            (json!([{"op": "jump", "path": "/a"}]), 400, "error decoding patch"),
            (json!([{"op": "add", "path": "a", "value": 1}]), 400, "error decoding patch"),
            (json!([{"op": "remove", "path": "/x"}]), 422, "missing path: \"/x\""),
            (json!([{"op": "replace", "path": "/x/y", "value": 1}]), 422, "missing path"),
            (json!([{"op": "add", "path": "/a/7", "value": 1}]), 422, "missing path"),
            (json!([{"op": "copy", "from": "/x", "path": "/y"}]), 422, "from \"/x\""),
            (json!([{"op": "move", "from": "/a", "path": "/a/0"}]), 422, "move operation"),
        ] {
            let (got, message) = status(json_patch(&mut json!({"a": [1]}), &patch).unwrap_err());
            assert_eq!(got, code, "{patch}");
            assert!(message.contains(words), "{message}");
        }
    }

    #[test]
    fn a_json_patch_cannot_blow_up() {
        let many = json!(vec![json!({"op": "test", "path": "", "value": {}}); MAX_OPERATIONS + 1]);
        assert_eq!(status(json_patch(&mut json!({}), &many).unwrap_err()).0, 413);
        let double = json!(vec![json!({"op": "copy", "from": "/a", "path": "/a/-"}); 60]);
        assert_eq!(status(json_patch(&mut json!({"a": ["x"]}), &double).unwrap_err()).0, 413);
    }
}
