//! Patches of every type, and server-side apply by several managers over managed fields that somebody made up.

use crate::sections::sections;
use orlop_schema::{
    TypeRef, Types,
    apply::{self, Writer},
    conform, parse_json, parse_yaml, patch, strategic,
};
use serde_json::{Value, json};

fn json(part: Option<&&[u8]>) -> Option<Value> {
    parse_json(part?).ok().map(|p| p.value)
}

/// An object and a patch: JSON patch where it is a list, merge patch otherwise.
pub(super) fn json_patch(input: &[u8]) {
    let parts = sections(input, 2);
    let (Some(object), Some(change)) = (json(parts.first()), json(parts.get(1))) else { return };
    let mut patched = object.clone();
    if change.is_array() {
        match patch::json_patch(&mut patched, &change) {
            Ok(()) => super::bodies::read_again(&patched),
            Err(_) => assert_eq!(patched, object, "a patch that fails changes nothing"),
        }
    } else if patch::merge_patch(&mut patched, &change).is_ok() {
        super::bodies::read_again(&patched);
        let once = patched.clone();
        patch::merge_patch(&mut patched, &change).expect("it was a patch before");
        assert_eq!(patched, once, "merging twice is merging once");
    }
}

fn typed(object: &mut Value) -> Option<TypeRef> {
    let version = object.get("apiVersion")?.as_str()?;
    let ty = Types::of(version, object.get("kind")?.as_str()?)?;
    conform(&ty, object).ok()?;
    Some(ty)
}

/// An object and a strategic merge patch.
pub(super) fn strategic_merge(input: &[u8]) {
    let parts = sections(input, 2);
    let (Some(mut object), Some(change)) = (json(parts.first()), json(parts.get(1))) else { return };
    let Some(ty) = typed(&mut object) else { return };
    let mut patched = object.clone();
    match strategic::merge(&ty, &mut patched, &change) {
        Ok(()) => super::bodies::read_again(&patched),
        Err(_) => assert_eq!(patched, object, "a patch that fails changes nothing"),
    }
    let mut same = object.clone();
    if strategic::merge(&ty, &mut same, &json!({})).is_ok() {
        assert_eq!(same, object, "an empty patch changes nothing");
    }
}

/// An object with managed fields, and what two managers apply to it in turn.
pub(super) fn apply(input: &[u8]) {
    let parts = sections(input, 3);
    let Some(mut live) = json(parts.first()) else { return };
    let Some(ty) = typed(&mut live) else { return };
    let writer = |manager| Writer {
        manager,
        subresource: "",
        now: jiff::Timestamp::UNIX_EPOCH,
        ignored: &["/status"],
    };
    for (manager, config, force) in
        [("kubectl", 1, false), ("other", 2, false), ("other", 2, true), ("kubectl", 1, true)]
    {
        let Some(config) = parts.get(config).and_then(|p| parse_yaml(p).ok()) else { continue };
        let applied = match apply::apply(&ty, &live, &config.value, &writer(manager), force) {
            Ok(applied) => applied,
            Err(error) => {
                let status = orlop_api::Status::from(error);
                // What does not fit the types of its kind is an error of the server in Kubernetes too.
                let unfit = status.code == 500 && status.message.starts_with("failed to create typed patch");
                assert!(unfit || matches!(status.code, 400 | 409), "{status:?}");
                assert!(!force || status.code != 409, "force leaves no conflict: {status:?}");
                continue;
            }
        };
        let again = apply::apply(&ty, &applied, &config.value, &writer(manager), false)
            .expect("what one has just applied is no conflict with oneself");
        assert_eq!(again, applied, "applying twice is applying once");
        let mut written = applied.clone();
        apply::update_managed_fields(&ty, Some(&applied), &mut written, &writer("writer"));
        assert_eq!(written, applied, "a write that changes nothing changes nobody's fields");
        apply::update_managed_fields(&ty, Some(&live), &mut written, &writer("writer"));
        live = applied;
    }
}
