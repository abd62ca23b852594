//! Which names a CustomResourceDefinition gets: those that nobody else in its group has (conditions `NamesAccepted` and
//! `Established`). Pure.

use jiff::Timestamp;
use orlop_api::object::{condition, list, text};
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// Names that others in a group have already.
#[derive(Clone, Debug, Default)]
pub struct Taken {
    /// Plural, singular and short names.
    pub resources: BTreeSet<String>,
    /// Kinds and list kinds.
    pub kinds: BTreeSet<String>,
}

impl Taken {
    /// Takes in the accepted names of another definition.
    pub fn add(&mut self, definition: &Value) {
        let accepted = |field: &str| text(definition, &format!("/status/acceptedNames/{field}")).to_string();
        for name in [accepted("plural"), accepted("singular")] {
            self.resources.insert(name);
        }
        for name in list(definition, "/status/acceptedNames/shortNames") {
            self.resources.extend(name.as_str().map(str::to_string));
        }
        for name in [accepted("kind"), accepted("listKind")] {
            self.kinds.insert(name);
        }
        self.resources.remove("");
        self.kinds.remove("");
    }
}

/// The status that the definition should have, by its names and those of others.
pub fn status(definition: &Value, taken: &Taken, now: Timestamp) -> Value {
    let requested = definition.pointer("/spec/names").cloned().unwrap_or_default();
    let mut accepted = definition.pointer("/status/acceptedNames").cloned().unwrap_or_default();
    if !accepted.is_object() {
        accepted = json!({"plural": "", "kind": ""});
    }
    let mut conflict: Option<(&str, String)> = None;
    let mut told = |reason: &'static str, name: &str| {
        conflict.get_or_insert((reason, format!("{name:?} is already in use")));
    };
    for (field, reason, kinds) in [
        ("plural", "PluralConflict", false),
        ("singular", "SingularConflict", false),
        ("kind", "KindConflict", true),
        ("listKind", "ListKindConflict", true),
    ] {
        let name = text(&requested, &format!("/{field}"));
        let set = if kinds { &taken.kinds } else { &taken.resources };
        if set.contains(name) {
            told(reason, name);
        } else {
            accepted[field] = name.into();
        }
    }
    let short = list(&requested, "/shortNames");
    match short.iter().filter_map(Value::as_str).find(|n| taken.resources.contains(*n)) {
        Some(name) => told("ShortNamesConflict", name),
        None => put(&mut accepted, "shortNames", requested.get("shortNames")),
    }
    put(&mut accepted, "categories", requested.get("categories"));

    let mut status = definition.get("status").cloned().unwrap_or_else(|| json!({}));
    status["acceptedNames"] = accepted;
    let established = condition(definition, "Established") == "True";
    match &conflict {
        Some((reason, message)) => {
            set(&mut status, ("NamesAccepted", "False"), reason, message, now);
            if !established {
                set(&mut status, ("Established", "False"), "NotAccepted", "not all names are accepted", now);
            }
        }
        None => {
            set(&mut status, ("NamesAccepted", "True"), "NoConflicts", "no conflicts found", now);
            let message = "the initial names have been accepted";
            set(&mut status, ("Established", "True"), "InitialNamesAccepted", message, now);
        }
    }
    status
}

fn put(object: &mut Value, field: &str, value: Option<&Value>) {
    let Some(members) = object.as_object_mut() else { return };
    match value {
        Some(value) => members.insert(field.into(), value.clone()),
        None => members.remove(field),
    };
}

/// Sets a condition; one that is so already keeps its time.
pub fn set(status: &mut Value, (kind, value): (&str, &str), reason: &str, message: &str, now: Timestamp) {
    if !status.get("conditions").is_some_and(Value::is_array) {
        status["conditions"] = json!([]);
    }
    let Some(conditions) = status["conditions"].as_array_mut() else { return };
    let at = conditions.iter().position(|c| text(c, "/type") == kind);
    let time = match at.map(|at| &conditions[at]) {
        Some(old) if text(old, "/status") == value => text(old, "/lastTransitionTime").to_string(),
        _ => now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
    };
    let new = json!({"type": kind, "status": value, "lastTransitionTime": time, "reason": reason, "message": message});
    match at {
        Some(at) => conditions[at] = new,
        None => conditions.push(new),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn definition() -> Value {
        json!({"spec": {"names": {"plural": "foos", "singular": "foo", "kind": "Foo", "listKind": "FooList", "shortNames": ["f"]}}})
    }

    #[test]
    fn names_that_nobody_has_are_accepted() {
        let status = status(&definition(), &Taken::default(), Timestamp::UNIX_EPOCH);
        assert_eq!(status["acceptedNames"], definition()["spec"]["names"]);
        assert_eq!(condition(&json!({"status": status}), "Established"), "True");
        assert_eq!(condition(&json!({"status": status}), "NamesAccepted"), "True");
    }

    #[test]
    fn a_name_that_somebody_has_is_not() {
        let mut taken = Taken::default();
        taken.kinds.insert("Foo".into());
        let status = status(&definition(), &taken, Timestamp::UNIX_EPOCH);
        assert_eq!(status["acceptedNames"]["kind"], "");
        assert_eq!(status["conditions"][0]["reason"], "KindConflict");
        assert_eq!(status["conditions"][0]["message"], "\"Foo\" is already in use");
        assert_eq!(condition(&json!({"status": status}), "Established"), "False");
    }
}
