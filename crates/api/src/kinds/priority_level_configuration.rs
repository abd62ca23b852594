//! PriorityLevelConfiguration (flowcontrol.apiserver.k8s.io/v1): how many requests of a priority are worked on at the same time,
//! and what becomes of the others.

use super::{base, flow_control};
use crate::{
    FieldError, FieldErrors, Kind, Path, Rules, Scope,
    object::{has, int, set_default, text},
    print,
};
use jiff::Timestamp;
use serde_json::{Value, json};

/// The level of those whom nothing limits.
const EXEMPT: &str = "exempt";
/// Queues of one level at most.
const MOST_QUEUES: i64 = 10_000_000;
/// How much of a hash there is to deal a hand of queues from.
const HASH_BITS: f64 = 60.0;

/// The description of PriorityLevelConfiguration.
pub(super) fn kind() -> Kind {
    Kind {
        scope: Scope::Cluster,
        has_status: true,
        has_generation: true,
        columns: vec![
            print::name_column(),
            print::text_column("Type", "Whether the level is limited or exempt from limits."),
            print::text_column("NominalConcurrencyShares", "The level's share of what is done at once."),
            print::text_column("Queues", "How many queues there are."),
            print::text_column("HandSize", "Out of how many queues a flow takes the shortest."),
            print::text_column("QueueLengthLimit", "How many requests may wait in a queue."),
            print::age_column(),
        ],
        ..base(
            "flowcontrol.apiserver.k8s.io",
            "v1",
            "PriorityLevelConfiguration",
            "prioritylevelconfigurations",
            PriorityLevelConfiguration,
        )
    }
}

struct PriorityLevelConfiguration;

/// Bits of a hash that dealing a hand takes.
fn entropy(queues: i64, hand: i64) -> f64 {
    (0..hand).map(|dealt| ((queues - dealt) as f64).log2()).sum::<f64>().ceil()
}

fn shares(errors: &mut FieldErrors, path: &Path, of: &Value) {
    if let Some(shares) = int(of, "/nominalConcurrencyShares").filter(|s| *s < 0) {
        errors.invalid(path.child("nominalConcurrencyShares"), shares, "must be a non-negative integer");
    }
    if let Some(percent) = int(of, "/lendablePercent").filter(|p| !(0..=100).contains(p)) {
        errors.invalid(path.child("lendablePercent"), percent, "must be between 0 and 100, inclusive");
    }
    if let Some(percent) = int(of, "/borrowingLimitPercent").filter(|p| *p < 0) {
        let why = "if specified, must be a non-negative integer";
        errors.invalid(path.child("borrowingLimitPercent"), percent, why);
    }
}

fn queuing(errors: &mut FieldErrors, path: &Path, of: &Value) {
    let number = |field: &str| int(of, &format!("/{field}")).unwrap_or(0);
    let (length, queues, hand) = (number("queueLengthLimit"), number("queues"), number("handSize"));
    for (field, value) in [("queueLengthLimit", length), ("queues", queues)] {
        if value <= 0 {
            errors.invalid(path.child(field), value, "must be positive");
        }
    }
    if queues > MOST_QUEUES {
        errors.invalid(path.child("queues"), queues, format!("must not be greater than {MOST_QUEUES}"));
    }
    let at = path.child("handSize");
    if hand <= 0 {
        errors.invalid(&at, hand, "must be positive");
    } else if hand > queues {
        errors.invalid(&at, hand, format!("should not be greater than queues ({queues})"));
    } else if hand > HASH_BITS as i64 || entropy(queues, hand) > HASH_BITS {
        let why = format!(
            "required entropy bits of deckSize {queues} and handSize {hand} should not be greater than {HASH_BITS}"
        );
        errors.invalid(&at, hand, why);
    }
}

fn limited(errors: &mut FieldErrors, path: &Path, limited: &Value) {
    shares(errors, path, limited);
    let path = path.child("limitResponse");
    let (kind, queues) = (text(limited, "/limitResponse/type"), has(limited, "/limitResponse/queuing"));
    let at = path.child("queuing");
    match (kind, queues) {
        ("Reject", true) => {
            errors.forbidden(&at, "must be nil if limited.limitResponse.type is not Limited");
        }
        ("Queue", false) => {
            errors.required(&at, "must not be empty if limited.limitResponse.type is Limited");
        }
        ("Queue", true) => queuing(errors, &at, &limited["limitResponse"]["queuing"]),
        ("Reject", false) => {}
        (other, _) => errors.one_of(&path.child("type"), other, &["Queue", "Reject"]),
    }
}

impl Rules for PriorityLevelConfiguration {
    fn default(&self, object: &mut Value) {
        if let Some(limited) = object.pointer_mut("/spec/limited").filter(|l| l.is_object()) {
            set_default(limited, "nominalConcurrencyShares", json!(30));
            set_default(limited, "lendablePercent", json!(0));
            if let Some(queuing) = limited.pointer_mut("/limitResponse/queuing").filter(|q| q.is_object()) {
                for (field, value) in [("handSize", 8), ("queues", 64), ("queueLengthLimit", 50)] {
                    if int(queuing, &format!("/{field}")).unwrap_or(0) == 0 {
                        queuing[field] = json!(value);
                    }
                }
            }
        }
        if let Some(exempt) = object.pointer_mut("/spec/exempt").filter(|e| e.is_object()) {
            set_default(exempt, "nominalConcurrencyShares", json!(0));
            set_default(exempt, "lendablePercent", json!(0));
        }
    }

    fn validate(&self, object: &Value) -> Vec<FieldError> {
        let mut errors = FieldErrors::new();
        let path = Path::new("spec");
        let kind = text(object, "/spec/type");
        if (text(object, "/metadata/name") == EXEMPT) != (kind == "Exempt") {
            let why = "type must be 'Exempt' if and only if name is 'exempt'";
            errors.invalid(path.child("type"), kind, why);
        }
        let null = Value::Null;
        let part = |name: &str| object.pointer(&format!("/spec/{name}")).unwrap_or(&null);
        let (said, exempt) = (has(object, "/spec/limited"), has(object, "/spec/exempt"));
        match kind {
            "Exempt" => {
                if said {
                    errors.forbidden(path.child("limited"), "must be nil if the type is not Limited");
                }
                shares(&mut errors, &path.child("exempt"), part("exempt"));
            }
            "Limited" => {
                if exempt {
                    errors.forbidden(path.child("exempt"), "must be nil if the type is Limited");
                }
                if said {
                    limited(&mut errors, &path.child("limited"), part("limited"));
                } else {
                    errors.required(path.child("limited"), "must not be empty when type is Limited");
                }
            }
            other => errors.one_of(&path.child("type"), other, &["Exempt", "Limited"]),
        }
        flow_control::fixed(&mut errors, object);
        flow_control::conditions(&mut errors, object);
        errors.into_vec()
    }

    fn validate_status(&self, new: &Value, _old: &Value) -> Vec<FieldError> {
        let mut errors = FieldErrors::new();
        flow_control::conditions(&mut errors, new);
        errors.into_vec()
    }

    fn cells(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        let number = |pointer: &str| {
            int(object, &format!("/spec/limited/{pointer}")).map_or(json!("<none>"), |n| json!(n))
        };
        vec![
            print::name(object),
            text(object, "/spec/type").into(),
            number("nominalConcurrencyShares"),
            number("limitResponse/queuing/queues"),
            number("limitResponse/queuing/handSize"),
            number("limitResponse/queuing/queueLengthLimit"),
            print::age(object, now),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wrong(name: &str, spec: Value) -> Vec<String> {
        let mut object = json!({"metadata": {"name": name}, "spec": spec});
        PriorityLevelConfiguration.default(&mut object);
        PriorityLevelConfiguration.validate(&object).into_iter().map(|e| e.to_string()).collect()
    }

    #[test]
    fn a_level_is_limited_and_queues_or_rejects() {
        let queue =
            json!({"type": "Limited", "limited": {"limitResponse": {"type": "Queue", "queuing": {}}}});
        assert!(wrong("mine", queue).is_empty());
        for (spec, why) in [
            (
                json!({"type": "Exempt"}),
                "spec.type: Invalid value: \"Exempt\": type must be 'Exempt' if and only if name is 'exempt'",
            ),
            (
                json!({"type": "Limited"}),
                "spec.limited: Required value: must not be empty when type is Limited",
            ),
            (
                json!({"type": "Limited", "limited": {"limitResponse": {"type": "Queue"}}}),
                "spec.limited.limitResponse.queuing: Required value: must not be empty if limited.limitResponse.type is Limited",
            ),
            (
                json!({"type": "Limited", "limited": {"lendablePercent": 101, "limitResponse": {"type": "Reject"}}}),
                "spec.limited.lendablePercent: Invalid value: 101: must be between 0 and 100, inclusive",
            ),
            (
                json!({"type": "Limited", "limited": {"limitResponse": {"type": "Queue", "queuing": {"queues": 4}}}}),
                "spec.limited.limitResponse.queuing.handSize: Invalid value: 8: should not be greater than queues (4)",
            ),
            (
                json!({"type": "Limited", "limited": {"limitResponse": {"type": "Queue", "queuing": {"queues": 512}}}}),
                "spec.limited.limitResponse.queuing.handSize: Invalid value: 8: required entropy bits of deckSize 512 and handSize 8 should not be greater than 60",
            ),
        ] {
            assert_eq!(wrong("mine", spec), [why]);
        }
        assert_eq!(wrong("mine", json!({})).len(), 1);
    }
}
