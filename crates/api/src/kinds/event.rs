//! Event (core/v1): what happened to an object, for people to read.

use super::{base, texts};
use crate::{
    FieldError, FieldErrors, Kind, Path, Rules, duration, name,
    object::{has, int, text, time},
    print,
};
use jiff::Timestamp;
use serde_json::Value;

/// The description of Event in the core group.
pub(super) fn kind() -> Kind {
    Kind {
        short_names: texts(&["ev"]),
        columns: vec![
            print::text_column("Last Seen", "How long ago it last happened."),
            print::text_column("Type", "Normal or Warning."),
            print::text_column("Reason", "Why, in one word."),
            print::text_column("Object", "What it happened to."),
            print::wide_column("Subobject", "The part of the object it happened to."),
            print::wide_column("Source", "Who says so."),
            print::text_column("Message", "What happened, for people."),
            print::wide_column("First Seen", "How long ago it first happened."),
            print::wide_column("Count", "How often it happened."),
            crate::Column { priority: 1, ..print::name_column() },
        ],
        selectable_fields: texts(&[
            "involvedObject.kind",
            "involvedObject.namespace",
            "involvedObject.name",
            "involvedObject.uid",
            "involvedObject.apiVersion",
            "involvedObject.resourceVersion",
            "involvedObject.fieldPath",
            "reason",
            "reportingComponent",
            "source",
            "type",
        ]),
        ..base("", "v1", "Event", "events", Event)
    }
}

struct Event;

impl Rules for Event {
    fn validate(&self, object: &Value) -> Vec<FieldError> {
        let mut errors = FieldErrors::new();
        validate_place(object, "involvedObject", &mut errors);
        if has(object, "/eventTime") {
            validate_report(object, "reportingComponent", "message", &mut errors);
            validate_series(object, &mut errors);
        }
        errors.into_vec()
    }

    fn field(&self, object: &Value, path: &str) -> String {
        let reporter = || text(object, "/reportingComponent").to_string();
        match path {
            "source" => Some(text(object, "/source/component"))
                .filter(|s| !s.is_empty())
                .map_or_else(reporter, Into::into),
            "reportingComponent" => reporter(),
            _ => crate::object::field(object, path),
        }
    }

    fn cells(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        let event_time = time(object, "/eventTime");
        let first = time(object, "/firstTimestamp").or(event_time);
        let mut last = time(object, "/lastTimestamp").or(first);
        let mut count = int(object, "/count").filter(|n| *n != 0).unwrap_or(1);
        if has(object, "/series") {
            last = time(object, "/series/lastObservedTime");
            count = int(object, "/series/count").unwrap_or_default();
        }
        let (kind, name) = (text(object, "/involvedObject/kind"), text(object, "/involvedObject/name"));
        let target =
            if name.is_empty() { kind.to_lowercase() } else { format!("{}/{name}", kind.to_lowercase()) };
        vec![
            duration::since(last, now).into(),
            text(object, "/type").into(),
            text(object, "/reason").into(),
            target.into(),
            text(object, "/involvedObject/fieldPath").into(),
            source(object).into(),
            text(object, "/message").trim().into(),
            duration::since(first, now).into(),
            count.into(),
            print::name(object),
        ]
    }
}

/// An event lives where the object is that the field `about` names; one about what lives in no namespace is kept in `default`.
pub(super) fn validate_place(object: &Value, about: &str, errors: &mut FieldErrors) {
    let namespace = text(object, "/metadata/namespace");
    let its = text(object, &format!("/{about}/namespace"));
    let agree = if its.is_empty() { matches!(namespace, "" | "default") } else { its == namespace };
    if !agree {
        errors.invalid(format!("{about}.namespace"), its, "does not match event.namespace");
    }
}

/// What events with a time of their own must say: who reports, what was done and why. Two fields have another name in each group.
pub(super) fn validate_report(object: &Value, reporter: &str, note: &str, errors: &mut FieldErrors) {
    errors.required_and(&Path::new(reporter), text(object, &format!("/{reporter}")), name::qualified_name);
    for (field, max) in [("reportingInstance", 128), ("action", 128), ("reason", 128)] {
        let too_long = move |value: &str| {
            if value.len() > max { vec![format!("can have at most {max} characters")] } else { Vec::new() }
        };
        errors.required_and(&Path::new(field), text(object, &format!("/{field}")), too_long);
    }
    if text(object, &format!("/{note}")).len() > 1024 {
        errors.invalid(note, "", "can have at most 1024 characters");
    }
}

/// A series is of several, and has a last one.
pub(super) fn validate_series(object: &Value, errors: &mut FieldErrors) {
    if has(object, "/series") {
        let count = int(object, "/series/count").unwrap_or_default();
        if count < 2 {
            errors.invalid("series.count", count, "should be at least 2");
        }
        if !has(object, "/series/lastObservedTime") {
            errors.required("series.lastObservedTime", "");
        }
    }
}

/// `kubelet, node-1`: the old source, or else the reporter of the newer form.
fn source(object: &Value) -> String {
    let or = |old, new| if text(object, old).is_empty() { text(object, new) } else { text(object, old) };
    let (component, host) =
        (or("/source/component", "/reportingComponent"), or("/source/host", "/reportingInstance"));
    if host.is_empty() { component.to_string() } else { format!("{component}, {host}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_event_lives_where_its_object_does() {
        let wrong = |namespace: &str, involved: &str| {
            let event =
                json!({"metadata": {"namespace": namespace}, "involvedObject": {"namespace": involved}});
            !Event.validate(&event).is_empty()
        };
        assert!(!wrong("a", "a") && !wrong("default", ""));
        assert!(wrong("a", "b") && wrong("a", ""));
    }

    #[test]
    fn an_event_with_a_time_of_its_own_must_say_who_and_what() {
        let event = json!({"metadata": {"namespace": "a"}, "involvedObject": {"namespace": "a"},
            "eventTime": "2026-01-01T00:00:00.000000Z", "series": {"count": 1}});
        let paths: Vec<String> = Event.validate(&event).into_iter().map(|e| e.path).collect();
        assert_eq!(
            paths,
            [
                "reportingComponent",
                "reportingInstance",
                "action",
                "reason",
                "series.count",
                "series.lastObservedTime"
            ]
        );
    }

    #[test]
    fn the_row_shows_when_what_and_to_whom() {
        let now = "2026-01-01T00:10:00Z".parse().unwrap();
        let old = json!({"metadata": {"name": "e"}, "type": "Warning", "reason": "BackOff", "message": " gone\n",
            "involvedObject": {"kind": "Pod", "name": "p", "fieldPath": "spec.containers{a}"},
            "source": {"component": "kubelet", "host": "n"}, "count": 4,
            "firstTimestamp": "2026-01-01T00:00:00Z", "lastTimestamp": "2026-01-01T00:09:30Z"});
        let want = json!([
            "30s",
            "Warning",
            "BackOff",
            "pod/p",
            "spec.containers{a}",
            "kubelet, n",
            "gone",
            "10m",
            4,
            "e"
        ]);
        assert_eq!(Value::from(Event.cells(&old, now)), want);
        let new = json!({"eventTime": "2026-01-01T00:09:00.000000Z", "reportingComponent": "scheduler",
            "involvedObject": {"kind": "Node"}});
        let row = Event.cells(&new, now);
        assert_eq!(
            (&row[0], &row[3], &row[5], &row[8]),
            (&json!("60s"), &json!("node"), &json!("scheduler"), &json!(1))
        );
    }

    #[test]
    fn the_source_falls_back_to_the_reporter() {
        assert_eq!(Event.field(&json!({"reportingComponent": "x"}), "source"), "x");
        assert_eq!(
            Event.field(&json!({"source": {"component": "y"}, "reportingComponent": "x"}), "source"),
            "y"
        );
        assert_eq!(Event.field(&json!({"involvedObject": {"name": "p"}}), "involvedObject.name"), "p");
    }
}
