//! ControllerRevision (apps/v1): a template as it was, for rolling back.

use super::base;
use crate::{
    FieldError, FieldErrors, Kind, Path, Rules,
    object::{flag, int, list, text},
    print,
};
use jiff::Timestamp;
use serde_json::Value;

/// The description of ControllerRevision.
pub(super) fn kind() -> Kind {
    Kind {
        columns: vec![
            print::name_column(),
            print::text_column("Controller", "The object whose template it holds."),
            print::text_column("Revision", "Its number in the history."),
            print::age_column(),
        ],
        ..base("apps", "v1", "ControllerRevision", "controllerrevisions", ControllerRevision)
    }
}

struct ControllerRevision;

impl Rules for ControllerRevision {
    fn validate(&self, object: &Value) -> Vec<FieldError> {
        let mut errors = FieldErrors::new();
        match object.get("data").filter(|data| !data.is_null()) {
            None => errors.required("data", "data is mandatory"),
            Some(data) if !data.is_object() => errors.required("data", "data must be a valid JSON object"),
            Some(_) => {}
        }
        errors.not_negative(&Path::new("revision"), int(object, "/revision"));
        errors.into_vec()
    }

    fn validate_update(&self, new: &Value, old: &Value) -> Vec<FieldError> {
        let mut errors = FieldErrors::new();
        errors.immutable(&Path::new("data"), new.get("data"), old.get("data"));
        errors.into_vec()
    }

    fn cells(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        let owner = list(object, "/metadata/ownerReferences").iter().find(|o| flag(o, "/controller"));
        let controller = owner.map_or_else(
            || print::NONE.to_string(),
            |o| {
                let kind = text(o, "/kind").to_lowercase();
                match text(o, "/apiVersion").split_once('/') {
                    Some((group, _)) => format!("{kind}.{group}/{}", text(o, "/name")),
                    None => format!("{kind}/{}", text(o, "/name")),
                }
            },
        );
        vec![
            print::name(object),
            controller.into(),
            print::number(object, "/revision"),
            print::age(object, now),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_was_kept_stays_as_it_was() {
        let old = json!({"data": {"a": 1}, "revision": 1});
        assert!(ControllerRevision.validate(&old).is_empty());
        assert!(
            ControllerRevision.validate_update(&json!({"data": {"a": 1}, "revision": 2}), &old).is_empty()
        );
        assert_eq!(ControllerRevision.validate_update(&json!({"data": {"a": 2}}), &old)[0].path, "data");
        assert_eq!(ControllerRevision.validate(&json!({"revision": -1})).len(), 2);
    }

    #[test]
    fn the_row_names_the_controller() {
        let row = ControllerRevision.cells(
            &json!({"metadata": {"name": "d-1", "ownerReferences": [{"apiVersion": "apps/v1", "kind": "DaemonSet",
                "name": "d", "controller": true}]}, "revision": 3}),
            Timestamp::UNIX_EPOCH,
        );
        assert_eq!(row, [json!("d-1"), json!("daemonset.apps/d"), json!(3), json!("<unknown>")]);
    }
}
