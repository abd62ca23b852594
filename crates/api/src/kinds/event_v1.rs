//! Event (events.k8s.io/v1): the newer view of the same Events that core/v1 shows, and is stored as.

use super::{base, event, texts};
use crate::{
    Conversion, FieldError, FieldErrors, Kind, Path, Rules, StoredAs,
    kind::Text,
    object::{has, int, text},
};
use jiff::Timestamp;
use serde_json::Value;
use std::sync::Arc;

/// What fields are called here and in core/v1.
const NAMES: [(&str, &str); 7] = [
    ("regarding", "involvedObject"),
    ("note", "message"),
    ("deprecatedSource", "source"),
    ("deprecatedFirstTimestamp", "firstTimestamp"),
    ("deprecatedLastTimestamp", "lastTimestamp"),
    ("deprecatedCount", "count"),
    ("reportingController", "reportingComponent"),
];

/// The description of Event in its own group.
pub(super) fn kind() -> Kind {
    let core = event::kind();
    Kind {
        short_names: core.short_names,
        columns: core.columns,
        selectable_fields: texts(&[
            "regarding.kind",
            "regarding.namespace",
            "regarding.name",
            "regarding.uid",
            "regarding.apiVersion",
            "regarding.resourceVersion",
            "regarding.fieldPath",
            "reason",
            "reportingController",
            "type",
        ]),
        stored_as: Some(StoredAs {
            group: "".into(),
            plural: "events".into(),
            conversion: Arc::new(Event { core: core.rules.clone() }),
        }),
        ..base("events.k8s.io", "v1", "Event", "events", Event { core: core.rules })
    }
}

struct Event {
    core: Arc<dyn Rules>,
}

fn rename(object: &mut Value, names: impl Iterator<Item = (&'static str, &'static str)>) {
    let Some(members) = object.as_object_mut() else { return };
    for (from, to) in names {
        if let Some(value) = members.remove(from) {
            members.insert(to.into(), value);
        }
    }
}

impl Conversion for Event {
    fn to_stored(&self, object: &mut Value) {
        rename(object, NAMES.into_iter());
    }

    fn show_stored(&self, object: &mut Value) {
        rename(object, NAMES.into_iter().map(|(here, there)| (there, here)));
    }

    fn stored_field(&self, path: &str) -> Text {
        let (first, rest) = path.split_once('.').map_or((path, None), |(a, b)| (a, Some(b)));
        let first = NAMES.iter().find(|(here, _)| *here == first).map_or(first, |(_, there)| there);
        Text::Owned(rest.map_or_else(|| first.to_string(), |rest| format!("{first}.{rest}")))
    }
}

impl Rules for Event {
    fn validate(&self, object: &Value) -> Vec<FieldError> {
        let mut errors = FieldErrors::new();
        event::validate_place(object, "regarding", &mut errors);
        // What an old-style reporter wrote through core/v1 may be seen and touched here, too.
        if has(object, "/eventTime") {
            validate_new(object, &mut errors);
        } else if !has(object, "/deprecatedFirstTimestamp") {
            errors.required("eventTime", "");
        }
        errors.into_vec()
    }

    fn validate_update(&self, new: &Value, old: &Value) -> Vec<FieldError> {
        let mut errors = FieldErrors::new();
        if has(old, "/eventTime") {
            for field in [
                "reason",
                "action",
                "regarding",
                "related",
                "note",
                "type",
                "eventTime",
                "reportingController",
                "reportingInstance",
                "deprecatedSource",
                "deprecatedFirstTimestamp",
                "deprecatedLastTimestamp",
                "deprecatedCount",
            ] {
                errors.immutable(&Path::new(field), new.get(field), old.get(field));
            }
        }
        errors.into_vec()
    }

    fn field(&self, object: &Value, path: &str) -> String {
        crate::object::field(object, path)
    }

    fn cells(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        let mut stored = object.clone();
        self.to_stored(&mut stored);
        self.core.cells(&stored, now)
    }
}

fn validate_new(object: &Value, errors: &mut FieldErrors) {
    event::validate_report(object, "reportingController", "note", errors);
    let kind = text(object, "/type");
    if !matches!(kind, "Normal" | "Warning") {
        errors.invalid("type", "", format!("has invalid value: {kind}"));
    }
    for field in ["deprecatedFirstTimestamp", "deprecatedLastTimestamp"] {
        if has(object, &format!("/{field}")) {
            errors.invalid(field, object[field].clone(), "needs to be unset");
        }
    }
    if int(object, "/deprecatedCount").is_some_and(|n| n != 0) {
        errors.invalid("deprecatedCount", object["deprecatedCount"].clone(), "needs to be unset");
    }
    if has(object, "/deprecatedSource/component") || has(object, "/deprecatedSource/host") {
        errors.invalid("deprecatedSource", object["deprecatedSource"].clone(), "needs to be unset");
    }
    event::validate_series(object, errors);
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn rules() -> Event {
        Event { core: event::kind().rules }
    }

    #[test]
    fn both_views_show_the_same_event() {
        let stored = json!({
            "metadata": {"name": "e", "namespace": "x"}, "involvedObject": {"kind": "Pod", "namespace": "x"},
            "message": "m", "source": {"component": "c"}, "count": 2, "type": "Normal", "reason": "R",
        });
        let mut shown = stored.clone();
        rules().show_stored(&mut shown);
        assert_eq!(shown["regarding"]["kind"], "Pod");
        assert_eq!(shown["note"], "m");
        assert_eq!(shown["deprecatedSource"]["component"], "c");
        rules().to_stored(&mut shown);
        assert_eq!(shown, stored);
        assert_eq!(rules().stored_field("regarding.name"), "involvedObject.name");
        assert_eq!(rules().stored_field("reason"), "reason");
    }

    #[test]
    fn a_new_event_says_who_reports_what() {
        let event = json!({"metadata": {"namespace": "x"}, "regarding": {"namespace": "x"}, "eventTime": "2026-01-01T00:00:00.000000Z"});
        let paths: Vec<String> = rules().validate(&event).into_iter().map(|e| e.path).collect();
        assert_eq!(paths, ["reportingController", "reportingInstance", "action", "reason", "type"]);
        let mut old = event.clone();
        old["note"] = json!("a");
        assert_eq!(
            rules().validate_update(&event, &old)[0].to_string(),
            "note: Invalid value: null: field is immutable"
        );
    }
}
