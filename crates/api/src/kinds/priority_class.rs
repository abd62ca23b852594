//! PriorityClass (scheduling.k8s.io/v1): a name for how much more important pods are than others.

use super::{base, texts};
use crate::{
    FieldError, FieldErrors, Kind, Path, Rules, Scope,
    object::{flag, int, set_default_nonzero, text},
    print,
};
use jiff::Timestamp;
use serde_json::Value;

/// The description of PriorityClass.
pub(super) fn kind() -> Kind {
    Kind {
        short_names: texts(&["pc"]),
        scope: Scope::Cluster,
        has_generation: true,
        columns: vec![
            print::name_column(),
            print::int_column("Value", "The priority of its pods."),
            print::bool_column("Global-Default", "Whether pods without a class have this one."),
            print::age_column(),
            print::text_column("PreemptionPolicy", "Whether its pods push others away."),
        ],
        ..base("scheduling.k8s.io", "v1", "PriorityClass", "priorityclasses", PriorityClass)
    }
}

/// The classes that every cluster has, with their values.
pub const SYSTEM_CLASSES: [(&str, i64); 2] =
    [("system-node-critical", 2_000_001_000), ("system-cluster-critical", 2_000_000_000)];
/// The highest value of a class that is not the system's.
const HIGHEST: i64 = 1_000_000_000;

struct PriorityClass;

impl Rules for PriorityClass {
    fn default(&self, object: &mut Value) {
        set_default_nonzero(object, "preemptionPolicy", "PreemptLowerPriority");
    }

    fn validate(&self, object: &Value) -> Vec<FieldError> {
        let mut errors = FieldErrors::new();
        let name = text(object, "/metadata/name");
        let value = int(object, "/value").unwrap_or_default();
        if name.starts_with("system-") {
            if let Some(why) = system_mismatch(name, value, flag(object, "/globalDefault")) {
                let message = format!(
                    "priority class names with 'system-' prefix are reserved for system use only. error: {why}"
                );
                errors.forbidden("metadata.name", message);
            }
        } else if value > HIGHEST {
            let message = format!("maximum allowed value of a user defined priority is {HIGHEST}");
            errors.forbidden("value", message);
        }
        let policy = text(object, "/preemptionPolicy");
        if !policy.is_empty() {
            let known = ["Never", "PreemptLowerPriority"];
            errors.one_of(&Path::new("preemptionPolicy"), policy, &known);
        }
        errors.into_vec()
    }

    fn validate_update(&self, new: &Value, old: &Value) -> Vec<FieldError> {
        let mut errors = FieldErrors::new();
        if int(new, "/value").unwrap_or_default() != int(old, "/value").unwrap_or_default() {
            errors.forbidden("value", "may not be changed in an update.");
        }
        let policy = Path::new("preemptionPolicy");
        errors.immutable(&policy, new.get("preemptionPolicy"), old.get("preemptionPolicy"));
        errors.into_vec()
    }

    fn cells(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        vec![
            print::name(object),
            print::number(object, "/value"),
            flag(object, "/globalDefault").into(),
            print::age(object, now),
            text(object, "/preemptionPolicy").into(),
        ]
    }
}

/// Why this is not one of the system's classes.
fn system_mismatch(name: &str, value: i64, global: bool) -> Option<String> {
    match SYSTEM_CLASSES.iter().find(|(known, _)| *known == name) {
        None => Some(format!("{name} is not a known system priority class")),
        Some((_, wanted)) if *wanted != value => {
            Some(format!("value of {name} PriorityClass must be {wanted}"))
        }
        Some(_) if global => Some(format!("globalDefault of {name} PriorityClass must be false")),
        Some(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn class(name: &str, value: i64) -> Value {
        let mut object = json!({"metadata": {"name": name}, "value": value});
        PriorityClass.default(&mut object);
        object
    }

    #[test]
    fn the_highest_values_and_names_are_the_systems() {
        let wrong = |name: &str, value: i64| {
            let errors = PriorityClass.validate(&class(name, value));
            errors.into_iter().map(|e| e.to_string()).collect::<Vec<_>>()
        };
        assert!(wrong("high", HIGHEST).is_empty());
        assert!(wrong("system-node-critical", 2_000_001_000).is_empty());
        assert_eq!(
            wrong("high", HIGHEST + 1),
            ["value: Forbidden: maximum allowed value of a user defined priority is 1000000000"]
        );
        assert_eq!(
            wrong("system-mine", 1),
            [
                "metadata.name: Forbidden: priority class names with 'system-' prefix are reserved for system use only. \
              error: system-mine is not a known system priority class"
            ]
        );
    }

    #[test]
    fn a_value_stays() {
        let old = class("a", 1);
        let errors = PriorityClass.validate_update(&class("a", 2), &old);
        assert_eq!(errors[0].to_string(), "value: Forbidden: may not be changed in an update.");
        let mut new = class("a", 1);
        new["description"] = json!("x");
        assert!(PriorityClass.validate_update(&new, &old).is_empty());
        new["preemptionPolicy"] = json!("Never");
        assert_eq!(PriorityClass.validate_update(&new, &old)[0].path, "preemptionPolicy");
    }
}
