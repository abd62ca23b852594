//! How much of a device one claim may take, where several share it: what a request for a part of its capacity is rounded to.

use super::{FieldErrors, Path, Value, bounded, distinct, list};
use crate::{object::has, quantity::Quantity};

const MAX_VALUES: usize = 10;

/// An amount, where there is one. The schema has checked its form.
fn amount(of: &Value, field: &str) -> Option<Quantity> {
    Quantity::from_json(of.get(field)?).ok()
}

/// The policy of a capacity. `path` is that of the capacity.
pub(super) fn validate(capacity: &Value, shared: bool, path: &Path, errors: &mut FieldErrors) {
    let Some(policy) = capacity.get("requestPolicy").filter(|policy| !policy.is_null()) else { return };
    let path = path.child("requestPolicy");
    if !shared {
        return errors.forbidden(&path, "allowMultipleAllocations must be true");
    }
    let most = amount(capacity, "value").unwrap_or_default();
    let default = amount(policy, "default");
    match (!list(policy, "/validValues").is_empty(), has(policy, "/validRange")) {
        (true, true) => {
            let message = "exactly one policy can be specified, cannot specify \"validValues\" and \"validRange\" at \
                the same time";
            errors.forbidden(&path, message);
        }
        (true, false) => match default {
            None => errors.required(path.child("default"), "required when validValues is defined"),
            Some(default) => validate_values(policy, default, most, &path.child("validValues"), errors),
        },
        (false, true) => match default {
            None => errors.required(path.child("default"), "required when validRange is defined"),
            Some(default) => {
                let range = policy.get("validRange").unwrap_or(&Value::Null);
                validate_range(range, default, most, &path.child("validRange"), errors);
            }
        },
        (false, false) => {}
    }
}

fn validate_values(policy: &Value, default: Quantity, most: Quantity, path: &Path, errors: &mut FieldErrors) {
    let read = |entries: &[Value]| -> Vec<Quantity> {
        entries.iter().map(|entry| Quantity::from_json(entry).unwrap_or_default()).collect()
    };
    let all = read(list(policy, "/validValues"));
    for (at, pair) in all.windows(2).enumerate() {
        if pair[0] > pair[1] {
            let message = "values must be sorted in ascending order";
            errors.invalid(path.index(at + 1), pair[1].to_string(), message);
        }
    }
    let values = read(bounded(policy, "/validValues", MAX_VALUES, path, errors));
    for (at, value) in values.iter().enumerate() {
        if *value > most {
            let message = format!("option is larger than capacity value: {most}");
            errors.invalid(path.index(at), value.to_string(), message);
        }
    }
    distinct(values.iter().map(|value| value.value().to_string()), path, errors);
    if !values.contains(&default) {
        let message = "default value is not valid according to the requestPolicy";
        errors.invalid(path, default.to_string(), message);
    }
}

fn validate_range(range: &Value, default: Quantity, most: Quantity, path: &Path, errors: &mut FieldErrors) {
    let Some(min) = amount(range, "min") else {
        return errors.required(path.child("min"), "required when validRange is defined");
    };
    let mut wrong = |field: &str, value: Quantity, why: &str, than: Quantity| {
        errors.invalid(path.child(field), value.to_string(), format!("{why}: {than}"));
    };
    if min > most {
        wrong("min", min, "min is larger than capacity value", most);
    }
    if default < min {
        wrong("default", default, "default is less than min", min);
    }
    let max = amount(range, "max");
    if let Some(max) = max {
        if min > max {
            wrong("max", min, "min is larger than max", max);
        }
        if max > most {
            wrong("max", max, "max is larger than capacity value", most);
        }
        if default > max {
            wrong("default", default, "default is more than max", max);
        }
    }
    let Some(step) = amount(range, "step") else { return };
    let path = path.child("step");
    if step <= Quantity::ZERO {
        return errors.invalid(&path, step.to_string(), "must be greater than zero");
    }
    if min + step > most {
        let message = format!("one step {} is larger than capacity value: {most}", min + step);
        errors.invalid(&path, step.to_string(), message);
    }
    for value in std::iter::once(default).chain(max) {
        // In whole units, as Kubernetes counts; wide, so that nothing overflows.
        let [from, to, by] = [min, value, step].map(|quantity| i128::from(quantity.value()));
        if (to - from) % by != 0 {
            let message = format!("value is not a multiple of a given step ({step}) from ({min})");
            errors.invalid(&path, value.to_string(), message);
        }
    }
}
