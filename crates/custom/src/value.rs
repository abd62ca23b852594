//! Whether an object fits its schema: every keyword that Kubernetes allows, in its words (k8s.io/kube-openapi). Types and
//! formats, bounds, and the choices `allOf`, `anyOf`, `oneOf`, `not`. CEL rules are `rules`'.

use crate::{
    fit::{is_type, type_of},
    lists::same,
    patterns::Patterns,
    place::{child, index, shown},
    schema::{Additional, JsonType, Schema},
};
use base64::Engine;
use orlop_api::{FieldError, FieldErrors, field_error::FieldErrorKind};
use serde_json::Value;

/// All schemas directly below one.
pub fn parts(schema: &Schema) -> Vec<&Schema> {
    let additional = match &schema.additional {
        Some(Additional::Schema(schema)) => Some(&**schema),
        _ => None,
    };
    let one = [additional, schema.items.as_deref(), schema.not.as_deref()].into_iter().flatten();
    let many = schema.all_of.iter().chain(&schema.any_of).chain(&schema.one_of);
    one.chain(schema.properties.values()).chain(many).collect()
}

/// How Go prints a float with `%v`.
pub fn float(number: f64) -> String {
    let magnitude = number.abs();
    if magnitude != 0.0 && !(1e-4..1e6).contains(&magnitude) {
        let text = format!("{number:e}");
        let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
        let (sign, digits) = match exponent.strip_prefix('-') {
            Some(digits) => ('-', digits),
            None => ('+', exponent),
        };
        return format!("{mantissa}e{sign}{digits:0>2}");
    }
    number.to_string()
}

/// What is wrong with a value by its schema.
pub fn validate(schema: &Schema, patterns: &Patterns, value: &Value) -> FieldErrors {
    let mut check = Check { patterns, errors: FieldErrors::new() };
    check.value(schema, value, "", true);
    check.errors
}

/// The same for a part of an object that stands at `path`, which is no whole object itself.
pub fn validate_at(schema: &Schema, patterns: &Patterns, value: &Value, path: &str) -> FieldErrors {
    let mut check = Check { patterns, errors: FieldErrors::new() };
    check.value(schema, value, path, false);
    check.errors
}

struct Check<'a> {
    patterns: &'a Patterns,
    /// When they are full, nothing more is looked at.
    errors: FieldErrors,
}

impl Check<'_> {
    fn invalid(&mut self, path: &str, value: &Value, detail: String) {
        let detail =
            if path.is_empty() { format!("in body {detail}") } else { format!("{path} in body {detail}") };
        self.errors.push(FieldError::invalid(shown(path), value.clone(), detail));
    }

    /// An error that no field is named for.
    fn choice(&mut self, path: &str, what: &str) {
        self.errors.push(FieldError::invalid("<nil>", "", format!("{path:?} {what}")));
    }

    fn fits(&self, schema: &Schema, value: &Value, path: &str) -> bool {
        self.errors_of(schema, value, path, 1).is_empty()
    }

    fn value(&mut self, schema: &Schema, value: &Value, path: &str, root: bool) {
        if value.is_null() && schema.nullable || self.errors.is_full() {
            return;
        }
        if !self.right_type(schema, value, path) {
            return;
        }
        self.choices(schema, value, path);
        if let Some(choices) = &schema.choices
            && !choices.iter().any(|c| same(c, value))
        {
            let supported: Vec<String> =
                choices.iter().map(|c| c.as_str().map_or_else(|| c.to_string(), str::to_string)).collect();
            let supported: Vec<&str> = supported.iter().map(String::as_str).collect();
            self.errors.push(FieldError::not_supported(shown(path), value.clone(), &supported));
        }
        match value {
            Value::String(text) => self.text(schema, text, path),
            Value::Number(number) => self.number(schema, number.as_f64().unwrap_or_default(), value, path),
            Value::Array(entries) => self.list(schema, entries, value, path),
            Value::Object(map) => self.object(schema, map, path, root),
            _ => {}
        }
    }

    /// Whether the value has the type of the schema; if not, nothing else is said of it.
    fn right_type(&mut self, schema: &Schema, value: &Value, path: &str) -> bool {
        let wanted = match schema.ty {
            _ if schema.int_or_string => {
                if value.is_string() || type_of(value) == "integer" {
                    return true;
                }
                "integer,string"
            }
            Some(ty) if is_type(ty, value) => return true,
            Some(ty) => ty.name(),
            None => return true,
        };
        let actual = type_of(value);
        let detail = if path.is_empty() {
            format!("in body must be of type {wanted}: {actual:?}")
        } else {
            format!("{path} in body must be of type {wanted}: {actual:?}")
        };
        self.errors.push(FieldError {
            path: shown(path),
            kind: FieldErrorKind::TypeInvalid,
            value: Some(actual.into()),
            detail,
        });
        false
    }

    fn choices(&mut self, schema: &Schema, value: &Value, path: &str) {
        if !schema.any_of.is_empty() {
            let (fitting, best) = self.alternatives(&schema.any_of, value, path, 1);
            if fitting == 0 {
                self.choice(path, "must validate at least one schema (anyOf)");
                // Kubernetes also tells why the best of them does not fit.
                self.errors.append(best);
            }
        }
        if !schema.one_of.is_empty() {
            match self.alternatives(&schema.one_of, value, path, usize::MAX) {
                (1, _) => {}
                (0, best) => {
                    self.choice(path, "must validate one and only one schema (oneOf). Found none valid");
                    self.errors.append(best);
                }
                (n, _) => {
                    let what = format!(
                        "must validate one and only one schema (oneOf). Found {n} valid alternatives"
                    );
                    self.choice(path, &what);
                }
            }
        }
        let mut broken = 0;
        for part in &schema.all_of {
            let errors = self.errors_of(part, value, path, usize::MAX);
            broken += usize::from(!errors.is_empty());
            self.errors.append(errors);
        }
        if broken > 0 {
            let none = if broken == schema.all_of.len() { ". None validated" } else { "" };
            self.choice(path, &format!("must validate all the schemas (allOf){none}"));
        }
        if let Some(not) = &schema.not
            && self.fits(not, value, path)
        {
            self.choice(path, "must not validate the schema (not)");
        }
    }

    /// How many of the schemas the value fits, as soon as there are `enough`, and the errors of the one that it fits best.
    /// Looks at each once: schemas nest, and twice at every level would be without end.
    fn alternatives(
        &self,
        schemas: &[Schema],
        value: &Value,
        path: &str,
        enough: usize,
    ) -> (usize, FieldErrors) {
        let (mut fitting, mut best): (usize, Option<FieldErrors>) = (0, None);
        for schema in schemas {
            let errors = self.errors_of(schema, value, path, usize::MAX);
            fitting += usize::from(errors.is_empty());
            if fitting >= enough {
                break;
            }
            if best.as_ref().is_none_or(|best| errors.len() < best.len()) {
                best = Some(errors);
            }
        }
        (fitting, best.unwrap_or_default())
    }

    fn errors_of(&self, schema: &Schema, value: &Value, path: &str, most: usize) -> FieldErrors {
        let mut check = Check { patterns: self.patterns, errors: self.errors.of_part(most) };
        check.value(schema, value, path, false);
        check.errors
    }

    fn text(&mut self, schema: &Schema, text: &str, path: &str) {
        let value = Value::from(text);
        let length = text.chars().count() as i64;
        if let Some(max) = schema.max_length.filter(|max| length > *max) {
            self.errors.push(FieldError {
                value: None,
                ..FieldError::too_long(shown(path), usize::try_from(max).unwrap_or(0))
            });
        }
        if let Some(min) = schema.min_length.filter(|min| length < *min) {
            self.invalid(path, &value, format!("should be at least {min} chars long"));
        }
        if !schema.pattern.is_empty() && !self.patterns.matches(&schema.pattern, text) {
            self.invalid(path, &value, format!("should match '{}'", schema.pattern));
        }
        if !schema.format.is_empty() && !has_format(&schema.format, text) {
            self.invalid(path, &value, format!("must be of type {}: {text:?}", schema.format));
        }
    }

    fn number(&mut self, schema: &Schema, number: f64, value: &Value, path: &str) {
        if let Some((max, exclusive)) = schema.maximum {
            if exclusive && number >= max {
                self.invalid(path, value, format!("should be less than {}", float(max)));
            } else if !exclusive && number > max {
                self.invalid(path, value, format!("should be less than or equal to {}", float(max)));
            }
        }
        if let Some((min, exclusive)) = schema.minimum {
            if exclusive && number <= min {
                self.invalid(path, value, format!("should be greater than {}", float(min)));
            } else if !exclusive && number < min {
                self.invalid(path, value, format!("should be greater than or equal to {}", float(min)));
            }
        }
        if let Some(factor) = schema.multiple_of
            && factor > 0.0
            && ((number / factor) - (number / factor).round()).abs() > 1e-9
        {
            self.invalid(path, value, format!("should be a multiple of {}", float(factor)));
        }
        let outside = match (schema.format.as_str(), schema.ty) {
            ("int32", Some(JsonType::Integer)) => {
                number < f64::from(i32::MIN) || number > f64::from(i32::MAX)
            }
            _ => false,
        };
        if outside {
            self.invalid(path, value, "Checked value must be of type integer with format int32".to_string());
        }
    }

    fn list(&mut self, schema: &Schema, entries: &[Value], value: &Value, path: &str) {
        let count = entries.len();
        if let Some(max) = schema.max_items.filter(|max| count as i64 > *max) {
            self.errors.push(FieldError::too_many(shown(path), count, usize::try_from(max).unwrap_or(0)));
        }
        if let Some(min) = schema.min_items.filter(|min| (count as i64) < *min) {
            self.invalid(path, &Value::from(count), format!("should have at least {min} items"));
        }
        if schema.unique_items && (1..count).any(|at| entries[..at].contains(&entries[at])) {
            self.invalid(path, value, "shouldn't contain duplicates".to_string());
        }
        if let Some(items) = &schema.items {
            for (at, entry) in entries.iter().enumerate() {
                self.value(items, entry, &index(path, at), false);
            }
        }
    }

    fn object(&mut self, schema: &Schema, map: &serde_json::Map<String, Value>, path: &str, root: bool) {
        let count = map.len();
        if let Some(max) = schema.max_properties.filter(|max| count as i64 > *max) {
            self.errors.push(FieldError::too_many(shown(path), count, usize::try_from(max).unwrap_or(0)));
        }
        if let Some(min) = schema.min_properties.filter(|min| (count as i64) < *min) {
            self.invalid(path, &Value::from(count), format!("should have at least {min} properties"));
        }
        for name in schema.required.iter().filter(|name| !map.contains_key(*name)) {
            self.errors.push(FieldError::required(child(path, name), ""));
        }
        let whole = root || schema.embedded;
        for (key, value) in map {
            // What every object has is checked elsewhere, except for what a schema may say of its name.
            if whole && matches!(key.as_str(), "apiVersion" | "kind") {
                continue;
            }
            if let Some(field) = schema.field(key) {
                self.value(field, value, &child(path, key), false);
            }
        }
    }
}

/// Whether a text has a format; unknown formats are no rule.
pub fn has_format(format: &str, text: &str) -> bool {
    let digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
    match format {
        "date-time" | "datetime" => {
            text.len() >= 20
                && matches!(text.as_bytes()[10], b'T' | b't')
                && text.parse::<jiff::Timestamp>().is_ok()
        }
        "date" => text.len() == 10 && text.parse::<jiff::civil::Date>().is_ok(),
        "duration" => orlop_cel::parse_duration(text).is_some(),
        "uuid" | "uuid3" | "uuid4" | "uuid5" => {
            let plain = text.len() == 32 && text.bytes().all(|b| b.is_ascii_hexdigit());
            plain || orlop_cel::is_uuid(text)
        }
        "byte" => base64::engine::general_purpose::STANDARD.decode(text).is_ok(),
        "ipv4" => text.parse::<std::net::Ipv4Addr>().is_ok(),
        "ipv6" => text.parse::<std::net::Ipv6Addr>().is_ok(),
        "ip" => text.parse::<std::net::IpAddr>().is_ok(),
        "cidr" => text.parse::<ipnet::IpNet>().is_ok(),
        "hostname" => {
            !text.is_empty()
                && text.len() <= 255
                && text.trim_end_matches('.').split('.').all(|label| {
                    !label.is_empty()
                        && label.len() <= 63
                        && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
                        && !label.starts_with('-')
                        && !label.ends_with('-')
                })
        }
        "email" => text.split_once('@').is_some_and(|(user, host)| {
            !user.is_empty() && !host.is_empty() && !text.contains(char::is_whitespace)
        }),
        "uri" => orlop_cel::is_uri(text),
        "mac" => {
            let parts: Vec<&str> = text.split([':', '-']).collect();
            matches!(parts.len(), 6 | 8 | 20)
                && parts.iter().all(|p| p.len() == 2 && p.bytes().all(|b| b.is_ascii_hexdigit()))
        }
        "bsonobjectid" => text.len() == 24 && text.bytes().all(|b| b.is_ascii_hexdigit()),
        "isbn" | "isbn10" | "isbn13" => {
            let bare: String = text.chars().filter(|c| !matches!(c, '-' | ' ')).collect();
            match bare.len() {
                10 if format != "isbn13" => digits(bare.get(..9).unwrap_or("-")),
                13 if format != "isbn10" => digits(&bare),
                _ => false,
            }
        }
        "creditcard" => {
            let bare: String = text.chars().filter(char::is_ascii_digit).collect();
            (13..=19).contains(&bare.len())
        }
        "ssn" => {
            let parts: Vec<&str> = text.split(['-', ' ']).collect();
            parts.len() == 3 && parts.iter().zip([3, 2, 4]).all(|(p, n)| p.len() == n && digits(p))
        }
        "hexcolor" => {
            let bare = text.strip_prefix('#').unwrap_or(text);
            matches!(bare.len(), 3 | 6) && bare.bytes().all(|b| b.is_ascii_hexdigit())
        }
        "rgbcolor" => text.strip_prefix("rgb(").and_then(|t| t.strip_suffix(')')).is_some_and(|t| {
            t.split(',').count() == 3 && t.split(',').all(|n| n.trim().parse::<u8>().is_ok())
        }),
        "k8s-short-name" => orlop_api::name::dns_label(text).is_empty(),
        "k8s-long-name" => orlop_api::name::dns_subdomain(text).is_empty(),
        _ => true,
    }
}

/// What is wrong in both, and unchanged: such errors are tolerated (ratcheting). Tells whether the part that an error is
/// about is the same in both objects.
pub fn unchanged(path: &str, new: &Value, old: &Value) -> bool {
    match (at(new, path), at(old, path)) {
        (Some(new), Some(old)) => same(new, old),
        _ => false,
    }
}

/// The value at a path of messages: `spec.list[0].name`.
pub fn at<'a>(value: &'a Value, path: &str) -> Option<&'a Value> {
    let mut here = value;
    for part in path.split('.') {
        let (name, indexes) = part.split_once('[').map_or((part, ""), |(n, i)| (n, i));
        if !name.is_empty() {
            here = here.get(name)?;
        }
        for index in indexes.split('[').filter(|i| !i.is_empty()) {
            let index = index.strip_suffix(']')?;
            here = match here {
                Value::Array(entries) => entries.get(index.parse::<usize>().ok()?)?,
                other => other.get(index)?,
            };
        }
    }
    Some(here)
}
