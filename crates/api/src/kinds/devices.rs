//! What the kinds of resource.k8s.io have in common: names of drivers, pools, attributes and requests, selectors of devices,
//! their configuration, taints and tolerations. Allocates nothing; whether an expression compiles is asked where
//! expressions can be compiled.

pub(super) mod allocation;
mod capacity;
pub(super) mod claim;
pub(super) mod device;
#[cfg(test)]
mod tests;

use crate::{
    FieldError, FieldErrors, Path, name,
    object::{each, list, set_default_nonzero, text},
};
use serde_json::Value;
use std::collections::BTreeSet;

const MAX_DRIVER: usize = 63;
const MAX_POOL: usize = 253;
const MAX_IDENTIFIER: usize = 32;
const MAX_SELECTORS: usize = 32;
const MAX_EXPRESSION: usize = 10 * 1024;
const MAX_CONFIGURATIONS: usize = 32;
const MAX_PARAMETERS: usize = 10 * 1024;
const MAX_TAINTS: usize = 16;
const MAX_TOLERATIONS: usize = 16;
const MAX_BINDING_CONDITIONS: usize = 4;
const EFFECTS: [&str; 3] = ["NoExecute", "NoSchedule", "None"];
const IDENTIFIER_MESSAGE: &str = "a valid C identifier must start with alphabetic character or '_', followed by a \
    string of alphanumeric characters or '_' (e.g. 'my_name',  or 'MY_NAME',  or 'MyName', regex used for validation is \
    '[A-Za-z_][A-Za-z0-9_]*')";

/// The entries of a list that may have so many. A longer one is wrong as a whole; nobody looks at its entries.
pub(super) fn bounded<'a>(
    owner: &'a Value,
    pointer: &str,
    max: usize,
    path: &Path,
    errors: &mut FieldErrors,
) -> &'a [Value] {
    let entries = list(owner, pointer);
    if entries.len() > max {
        errors.push(FieldError::too_many(path, entries.len(), max));
        return &[];
    }
    entries
}

/// Names the entries whose key an earlier one has.
pub(super) fn distinct(keys: impl IntoIterator<Item = String>, path: &Path, errors: &mut FieldErrors) {
    let mut seen = BTreeSet::new();
    for (at, key) in keys.into_iter().enumerate() {
        if seen.contains(&key) {
            errors.duplicate(path.index(at), key);
        } else {
            seen.insert(key);
        }
    }
}

/// A list of texts, as texts.
fn texts_of(entries: &[Value]) -> impl Iterator<Item = &str> {
    entries.iter().map(|entry| entry.as_str().unwrap_or_default())
}

/// The name of a driver, as CSI's are.
pub(super) fn validate_driver(driver: &str, path: &Path, errors: &mut FieldErrors) {
    if driver.is_empty() {
        errors.required(path, "");
        return;
    }
    if driver.len() > MAX_DRIVER {
        errors.push(FieldError::too_long(path, MAX_DRIVER));
    }
    errors.messages(path, driver, name::dns_subdomain(&driver.to_lowercase()));
}

/// The name of a pool: subdomains between slashes.
pub(super) fn validate_pool(pool: &str, path: &Path, errors: &mut FieldErrors) {
    if pool.is_empty() {
        errors.required(path, "");
        return;
    }
    if pool.len() > MAX_POOL {
        errors.push(FieldError::too_long(path, MAX_POOL));
    }
    for part in pool.split('/') {
        errors.messages(path, part, name::dns_subdomain(part));
    }
}

fn validate_label(value: &str, path: &Path, errors: &mut FieldErrors) {
    errors.messages(path, value, name::dns_label(value));
}

fn validate_identifier(id: &str, path: &Path, errors: &mut FieldErrors) {
    if id.len() > MAX_IDENTIFIER {
        errors.push(FieldError::too_long(path, MAX_IDENTIFIER));
    }
    let good = |(at, c): (usize, char)| c == '_' || c.is_ascii_alphabetic() || (at > 0 && c.is_ascii_digit());
    if id.is_empty() || !id.chars().enumerate().all(good) {
        errors.invalid(path, id, IDENTIFIER_MESSAGE);
    }
}

/// The name of an attribute or capacity: `domain/identifier`, or an identifier in the driver's own domain.
fn validate_qualified(given: &str, path: &Path, errors: &mut FieldErrors) {
    match given.split('/').collect::<Vec<_>>()[..] {
        [id] => validate_identifier(id, path, errors),
        [domain, id] => {
            if domain.is_empty() {
                errors.invalid(path, "", "the domain must not be empty");
            } else {
                validate_driver(domain, path, errors);
            }
            if id.is_empty() {
                errors.invalid(path, "", "the name must not be empty");
            } else {
                validate_identifier(id, path, errors);
            }
        }
        _ => errors.invalid(path, given, "must not contain more than one slash"),
    }
}

/// The name of an attribute where no driver gives it a domain.
fn validate_fully_qualified(given: &str, path: &Path, errors: &mut FieldErrors) {
    validate_qualified(given, path, errors);
    if !given.contains('/') {
        let message = "a fully qualified name must be a domain and a name separated by a slash";
        errors.invalid(path, given, message);
    }
}

/// Selectors of devices, without a look into their expressions.
pub(super) fn validate_selectors(owner: &Value, path: &Path, errors: &mut FieldErrors) {
    let path = path.child("selectors");
    for (at, selector) in bounded(owner, "/selectors", MAX_SELECTORS, &path, errors).iter().enumerate() {
        let path = path.index(at).child("cel");
        if selector.get("cel").is_none_or(Value::is_null) {
            errors.required(path, "");
        } else if text(selector, "/cel/expression").len() > MAX_EXPRESSION {
            errors.push(FieldError::too_long(path.child("expression"), MAX_EXPRESSION));
        }
    }
}

/// Configurations of a class.
pub(super) fn validate_class_configurations(owner: &Value, path: &Path, errors: &mut FieldErrors) {
    let path = path.child("config");
    let all = bounded(owner, "/config", MAX_CONFIGURATIONS, &path, errors);
    for (at, configuration) in all.iter().enumerate() {
        validate_configuration(configuration, &path.index(at), errors);
    }
}

/// What is handed to a driver.
fn validate_configuration(configuration: &Value, path: &Path, errors: &mut FieldErrors) {
    let path = path.child("opaque");
    let Some(opaque) = configuration.get("opaque").filter(|o| !o.is_null()) else {
        return errors.required(path, "");
    };
    validate_driver(text(opaque, "/driver"), &path.child("driver"), errors);
    validate_raw(opaque.get("parameters"), MAX_PARAMETERS, &path.child("parameters"), errors);
}

/// An object that only a driver understands.
fn validate_raw(raw: Option<&Value>, max: usize, path: &Path, errors: &mut FieldErrors) {
    let Some(raw) = raw.filter(|raw| !raw.is_null()) else { return errors.required(path, "") };
    if raw.to_string().len() > max {
        errors.push(FieldError::too_long(path, max));
    } else if !raw.is_object() {
        errors.invalid(path, "<value omitted>", "must be a valid JSON object");
    }
}

/// A toleration is of a key with its value, where it says nothing else.
fn default_tolerations(owner: &mut Value) {
    each(owner, "tolerations", |toleration| set_default_nonzero(toleration, "operator", "Equal"));
}

fn validate_tolerations(owner: &Value, path: &Path, errors: &mut FieldErrors) {
    let path = path.child("tolerations");
    for (at, toleration) in bounded(owner, "/tolerations", MAX_TOLERATIONS, &path, errors).iter().enumerate()
    {
        let path = path.index(at);
        let field = |name: &str| toleration.get(name).and_then(Value::as_str).unwrap_or_default();
        if !field("key").is_empty() {
            errors.messages(&path.child("key"), field("key"), name::qualified_name(field("key")));
        }
        let value = field("value");
        match field("operator") {
            "Exists" if !value.is_empty() => {
                errors.invalid(path.child("value"), value, "must be empty for operator `Exists`");
            }
            "Exists" => {}
            "Equal" => errors.messages(&path.child("value"), value, name::label_value(value)),
            operator => errors.required_one_of(&path.child("operator"), operator, &["Equal", "Exists"]),
        }
        if !field("effect").is_empty() {
            errors.one_of(&path.child("effect"), field("effect"), &EFFECTS);
        }
    }
}

fn validate_taints(owner: &Value, path: &Path, errors: &mut FieldErrors) {
    let path = path.child("taints");
    for (at, taint) in bounded(owner, "/taints", MAX_TAINTS, &path, errors).iter().enumerate() {
        let path = path.index(at);
        let (key, value) = (text(taint, "/key"), text(taint, "/value"));
        errors.messages(&path.child("key"), key, name::qualified_name(key));
        errors.messages(&path.child("value"), value, name::label_value(value));
        errors.required_one_of(&path.child("effect"), text(taint, "/effect"), &EFFECTS);
    }
}

/// The conditions that binding a pod waits for, and those that end it.
fn validate_binding(owner: &Value, path: &Path, errors: &mut FieldErrors) {
    const FIELDS: [&str; 2] = ["bindingConditions", "bindingFailureConditions"];
    for field in FIELDS {
        let path = path.child(field);
        let entries = bounded(owner, &format!("/{field}"), MAX_BINDING_CONDITIONS, &path, errors);
        for (at, condition) in texts_of(entries).enumerate() {
            errors.messages(&path.index(at), condition, name::qualified_name(condition));
        }
    }
    let [binding, failure] = FIELDS.map(|field| list(owner, &format!("/{field}")));
    distinct(texts_of(binding).map(String::from), &path.child(FIELDS[0]), errors);
    let path = |field| path.child(field);
    distinct(texts_of(failure).map(String::from), &path(FIELDS[1]), errors);
    for (at, condition) in texts_of(failure).enumerate() {
        if texts_of(binding).any(|b| b == condition) {
            let message = "bindingFailureConditions must not overlap with bindingConditions";
            errors.invalid(path(FIELDS[1]).index(at), condition, message);
        }
    }
    if binding.is_empty() && !failure.is_empty() {
        let message = "bindingConditions are required to use bindingFailureConditions";
        errors.invalid(path(FIELDS[0]), Value::Null, message);
    }
    if failure.is_empty() && !binding.is_empty() {
        let message = "bindingFailureConditions are required to use bindingConditions";
        errors.invalid(path(FIELDS[1]), Value::Null, message);
    }
}
