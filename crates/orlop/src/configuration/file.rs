//! What stands in a configuration file, with its lines. Knows no key.

use serde::{
    Deserialize, Deserializer,
    de::{Error as _, MapAccess, Visitor},
};
use serde_json::Value;
use serde_saphyr::Spanned;
use std::{collections::HashSet, fmt};

/// What is wrong with a file, and where.
#[derive(Debug)]
pub(super) struct Wrong {
    pub(super) line: u64,
    pub(super) what: String,
}

/// A key and its value.
#[derive(Debug)]
pub(super) struct Setting {
    pub(super) key: String,
    value: Value,
    /// The line of the key.
    pub(super) line: u64,
}

struct Settings(Vec<(Spanned<String>, Value)>);

impl<'de> Deserialize<'de> for Settings {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct InOrder;
        impl<'de> Visitor<'de> for InOrder {
            type Value = Settings;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("keys with values")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Settings, A::Error> {
                let mut all: Vec<(Spanned<String>, Value)> = Vec::new();
                let mut known = HashSet::new();
                while let Some((key, value)) = map.next_entry::<Spanned<String>, Value>()? {
                    if !known.insert(key.value.clone()) {
                        return Err(A::Error::custom(format!("the key {:?} is there twice", key.value)));
                    }
                    all.push((key, value));
                }
                Ok(Settings(all))
            }
        }
        deserializer.deserialize_map(InOrder)
    }
}

/// Reads a file.
pub(super) fn settings(text: &str) -> Result<Vec<Setting>, Wrong> {
    let is_empty = text.lines().all(|line| matches!(line.trim(), "" | "---") || line.trim().starts_with('#'));
    if is_empty {
        return Ok(Vec::new());
    }
    let read: Settings = serde_saphyr::from_str(text).map_err(|error| {
        let line = error.location().map_or(1, |location| location.line());
        let text = error.to_string();
        let what = text.lines().next().unwrap_or_default().trim_start_matches("error: ").to_string();
        Wrong { line, what }
    })?;
    let setting = |(key, value): (Spanned<String>, Value)| Setting {
        line: key.referenced.line(),
        key: key.value,
        value,
    };
    Ok(read.0.into_iter().map(setting).collect())
}

impl Setting {
    /// The values as text. `is_switch`: true or false is wanted; `many`: a list is welcome.
    pub(super) fn values(&self, is_switch: bool, many: bool) -> Result<Vec<String>, String> {
        let key = &self.key;
        match &self.value {
            Value::Bool(value) if is_switch => Ok(vec![value.to_string()]),
            _ if is_switch => Err(format!("{key:?} is true or false")),
            Value::Array(values) if many => values.iter().map(|value| self.scalar(value)).collect(),
            Value::Array(_) => Err(format!("{key:?} takes one value, not a list")),
            value => Ok(vec![self.scalar(value)?]),
        }
    }

    fn scalar(&self, value: &Value) -> Result<String, String> {
        let key = &self.key;
        match value {
            Value::String(text) => Ok(text.clone()),
            Value::Number(number) => Ok(number.to_string()),
            Value::Bool(value) => {
                Err(format!("{key:?} takes text or a number, not {value}: write it in quotes if it is text"))
            }
            Value::Null => Err(format!("{key:?} has no value")),
            Value::Array(_) => Err(format!("{key:?} takes a list of values, not of lists")),
            Value::Object(_) => Err(format!("{key:?} takes a value, not a map")),
        }
    }
}

/// The key that was meant, maybe.
pub(super) fn like<'a>(key: &str, keys: impl Iterator<Item = &'a str>) -> String {
    let nearest = keys.map(|k| (distance(key, k), k)).min();
    match nearest {
        Some((far, like)) if far <= 3 && far < key.len() => format!(": is it {like:?}?"),
        _ => String::new(),
    }
}

/// How many letters must be put in, taken out or changed.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut before = row[0];
        row[0] = i + 1;
        for (j, y) in b.bytes().enumerate() {
            let changed = before + usize::from(x != y);
            before = row[j + 1];
            row[j + 1] = changed.min(row[j] + 1).min(before + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_are_counted() {
        assert_eq!(
            (
                distance("abc", "abc"),
                distance("abc", "abd"),
                distance("", "ab"),
                distance("kitten", "sitting")
            ),
            (0, 1, 2, 3)
        );
    }
}
