//! From the bytes of a request body to a JSON value: keys that stand twice are reported, nesting is limited.
//! Knows no types.

use crate::trail::Trail;
use serde::de::{self, Deserialize, DeserializeSeed, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};
use serde_saphyr::Spanned;
use std::fmt;

/// How deep a body may nest. `serde_json` reads 128 levels wherever an object is read again, and a list or a watch
/// event wraps it in a few more.
pub const MAX_DEPTH: usize = 100;

/// So many keys that stand twice are told, as in Kubernetes.
const MOST_DUPLICATES: usize = 100;

/// So many bytes of text may be read from a body, which is smaller: aliases of YAML repeat what was said before.
const MOST_TEXT: usize = 32 << 20;

/// How many levels a value nests: 0 where it is no list and no object.
pub(crate) fn depth(value: &Value) -> usize {
    match value {
        Value::Array(items) => 1 + items.iter().map(depth).max().unwrap_or(0),
        Value::Object(map) => 1 + map.values().map(depth).max().unwrap_or(0),
        _ => 0,
    }
}

/// Why a body could not be read.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum ParseError {
    /// It is no JSON.
    #[error("{0}")]
    Json(String),
    /// It is no YAML.
    #[error("error converting YAML to JSON: {0}")]
    Yaml(String),
    /// It nests too deep.
    #[error("exceeded max depth of {MAX_DEPTH}")]
    TooDeep,
}

/// A key that stood twice in one object; the last one counts. Prints as `duplicate field "spec.replicas"`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Duplicate {
    /// `spec.replicas`.
    pub path: String,
    /// `replicas`.
    pub key: String,
    /// Where it stood again; known of YAML.
    pub line: Option<u64>,
}

impl fmt::Display for Duplicate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "duplicate field \"{}\"", self.path)
    }
}

/// A body that could be read.
#[derive(Clone, Debug, PartialEq)]
pub struct Parsed {
    /// What it says.
    pub value: Value,
    /// Keys that stood twice.
    pub duplicates: Vec<Duplicate>,
}

/// Reads a JSON body.
pub fn parse_json(bytes: &[u8]) -> Result<Parsed, ParseError> {
    let mut found = Found::default();
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let value = Seed { found: &mut found, trail: &Trail::ROOT, depth: 0 }
        .deserialize(&mut reader)
        .and_then(|value| reader.end().map(|()| value));
    match value {
        Ok(value) => Ok(Parsed { value, duplicates: found.duplicates }),
        Err(_) if found.too_deep => Err(ParseError::TooDeep),
        Err(error) => Err(ParseError::Json(error.to_string())),
    }
}

/// Reads a YAML body of one document, the way Kubernetes does: as another way to write JSON.
pub fn parse_yaml(bytes: &[u8]) -> Result<Parsed, ParseError> {
    let text = std::str::from_utf8(bytes).map_err(|e| ParseError::Yaml(e.to_string()))?;
    let mut found = Found { has_lines: true, ..Found::default() };
    let options = serde_saphyr::options! {
        duplicate_keys: serde_saphyr::DuplicateKeyPolicy::LastWins,
        with_snippet: false,
    };
    let value = serde_saphyr::with_deserializer_from_str_with_options(text, options, |reader| {
        Seed { found: &mut found, trail: &Trail::ROOT, depth: 0 }.deserialize(reader)
    });
    match value {
        Ok(value) => Ok(Parsed { value, duplicates: found.duplicates }),
        Err(_) if found.too_deep => Err(ParseError::TooDeep),
        Err(error) => Err(ParseError::Yaml(error.to_string())),
    }
}

#[derive(Default)]
struct Found {
    duplicates: Vec<Duplicate>,
    too_deep: bool,
    /// Whether the reader tells in which line a key stands.
    has_lines: bool,
    text: usize,
}

impl Found {
    fn text<E: de::Error>(&mut self, length: usize) -> Result<(), E> {
        self.text += length;
        if self.text > MOST_TEXT { Err(E::custom("document contains excessive aliasing")) } else { Ok(()) }
    }
}

struct Seed<'a> {
    found: &'a mut Found,
    trail: &'a Trail<'a>,
    depth: usize,
}

impl Seed<'_> {
    fn deeper<E: de::Error>(&mut self) -> Result<usize, E> {
        if self.depth >= MAX_DEPTH {
            self.found.too_deep = true;
            return Err(E::custom("nested too deep"));
        }
        Ok(self.depth + 1)
    }
}

impl<'de> DeserializeSeed<'de> for Seed<'_> {
    type Value = Value;

    fn deserialize<D: de::Deserializer<'de>>(self, reader: D) -> Result<Value, D::Error> {
        reader.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Seed<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: de::Deserializer<'de>>(self, reader: D) -> Result<Value, D::Error> {
        self.deserialize(reader)
    }

    fn visit_bool<E>(self, v: bool) -> Result<Value, E> {
        Ok(v.into())
    }

    fn visit_i64<E>(self, v: i64) -> Result<Value, E> {
        Ok(v.into())
    }

    fn visit_u64<E>(self, v: u64) -> Result<Value, E> {
        Ok(v.into())
    }

    fn visit_f64<E>(self, v: f64) -> Result<Value, E> {
        Ok(v.into())
    }

    fn visit_str<E: de::Error>(self, v: &str) -> Result<Value, E> {
        self.found.text::<E>(v.len())?;
        Ok(v.into())
    }

    fn visit_string<E: de::Error>(self, v: String) -> Result<Value, E> {
        self.found.text::<E>(v.len())?;
        Ok(v.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut items: A) -> Result<Value, A::Error> {
        let depth = self.deeper()?;
        let mut out = Vec::new();
        loop {
            let trail = self.trail.index(out.len());
            match items.next_element_seed(Seed { found: self.found, trail: &trail, depth })? {
                Some(item) => out.push(item),
                None => return Ok(Value::Array(out)),
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut entries: A) -> Result<Value, A::Error> {
        let depth = self.deeper()?;
        let mut out = Map::new();
        loop {
            let (key, line) = if self.found.has_lines {
                let Some(at) = entries.next_key::<Spanned<Key>>()? else { break };
                let line = at.referenced.line();
                (at.value.0, Some(line))
            } else {
                let Some(key) = entries.next_key::<Key>()? else { break };
                (key.0, None)
            };
            let trail = self.trail.key(&key);
            self.found.text::<A::Error>(key.len())?;
            if out.contains_key(&key) && self.found.duplicates.len() < MOST_DUPLICATES {
                self.found.duplicates.push(Duplicate { path: trail.path(), key: key.clone(), line });
            }
            let value = entries.next_value_seed(Seed { found: self.found, trail: &trail, depth })?;
            out.insert(key, value);
        }
        Ok(Value::Object(out))
    }
}

/// A key: YAML allows other scalars than strings, JSON has their text.
struct Key(String);

impl<'de> Deserialize<'de> for Key {
    fn deserialize<D: de::Deserializer<'de>>(reader: D) -> Result<Self, D::Error> {
        reader.deserialize_any(KeyText).map(Self)
    }
}

struct KeyText;

impl Visitor<'_> for KeyText {
    type Value = String;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E>(self, v: &str) -> Result<String, E> {
        Ok(v.to_string())
    }

    fn visit_string<E>(self, v: String) -> Result<String, E> {
        Ok(v)
    }

    fn visit_bool<E>(self, v: bool) -> Result<String, E> {
        Ok(v.to_string())
    }

    fn visit_i64<E>(self, v: i64) -> Result<String, E> {
        Ok(v.to_string())
    }

    fn visit_u64<E>(self, v: u64) -> Result<String, E> {
        Ok(v.to_string())
    }

    fn visit_f64<E>(self, v: f64) -> Result<String, E> {
        Ok(v.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_key_that_stands_twice_is_reported_with_its_path_and_the_last_one_counts() {
        let body = br#"{"spec":{"a":[{"x":1,"x":2}],"b":1},"spec2":{},"spec":{"c":3}}"#;
        let parsed = parse_json(body).unwrap();
        assert_eq!(parsed.value, json!({"spec": {"c": 3}, "spec2": {}}));
        let told: Vec<String> = parsed.duplicates.iter().map(ToString::to_string).collect();
        assert_eq!(told, ["duplicate field \"spec.a[0].x\"", "duplicate field \"spec\""]);
    }

    #[test]
    fn nesting_is_refused_past_the_limit_and_never_overflows_the_stack() {
        let nested = |n: usize| format!("{}{}", "[".repeat(n), "]".repeat(n));
        assert!(parse_json(nested(MAX_DEPTH).as_bytes()).is_ok());
        assert_eq!(parse_json(nested(MAX_DEPTH + 1).as_bytes()), Err(ParseError::TooDeep));
        assert_eq!(parse_json("[".repeat(1_000_000).as_bytes()), Err(ParseError::TooDeep));
        assert!(parse_yaml("{a: ".repeat(100_000).as_bytes()).is_err());
    }

    #[test]
    fn what_is_read_within_the_limit_can_be_read_again_inside_a_list_in_an_event() {
        let body = format!("{}1{}", "{\"a\":".repeat(MAX_DEPTH), "}".repeat(MAX_DEPTH));
        let value = parse_json(body.as_bytes()).unwrap().value;
        let wrapped = json!({"type": "ADDED", "object": {"items": [value]}}).to_string();
        assert!(serde_json::from_str::<Value>(&wrapped).is_ok());
    }

    #[test]
    fn a_number_that_is_written_and_read_again_is_the_same() {
        let mut bits = 1_u64;
        let numbers = (0..2000).map(|_| {
            bits = bits.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            f64::from_bits(bits)
        });
        for number in
            numbers.filter(|n| n.is_finite()).chain([2.222_222_222_222_222_3e107, 0.1, f64::MIN_POSITIVE])
        {
            let value = json!({ "n": number });
            assert_eq!(parse_json(value.to_string().as_bytes()).unwrap().value, value);
        }
    }

    #[test]
    fn broken_json_names_the_place() {
        for body in ["", "{", "{\"a\":}", "{} {}", "nul", "{\"a\":1,}", "\"\u{1}\""] {
            let error = parse_json(body.as_bytes()).unwrap_err();
            assert!(error.to_string().contains("line 1"), "{body}: {error}");
        }
        assert!(parse_json(b"\"\xff\"").is_err());
    }

    #[test]
    fn yaml_is_another_way_to_write_json() {
        let body = "a: 1\nb: [x, 'true', true, ~, 1.5, 0x10]\n1: one\ntrue: yes it is\nc: {d: \"2\"}\n";
        let parsed = parse_yaml(body.as_bytes()).unwrap();
        assert_eq!(
            parsed.value,
            json!({"a": 1, "b": ["x", "true", true, null, 1.5, 16], "1": "one", "true": "yes it is", "c": {"d": "2"}})
        );
        let parsed = parse_yaml(b"a: 1\na: 2\n").unwrap();
        assert_eq!(parsed.value, json!({"a": 2}));
        assert_eq!(parsed.duplicates, [Duplicate { path: "a".into(), key: "a".into(), line: Some(2) }]);
        let parsed = parse_yaml(b"\nb:\n  - x: 1\n    x: 2\n    x: 3\n").unwrap();
        let lines: Vec<Option<u64>> = parsed.duplicates.iter().map(|d| d.line).collect();
        assert_eq!(lines, [Some(4), Some(5)]);
        assert!(matches!(parse_yaml(b"a: [1"), Err(ParseError::Yaml(_))));
    }

    #[test]
    fn very_many_keys_that_stand_twice_below_a_long_one_are_told_within_reason() {
        let body = format!("{{\"{}\":{{{}\"a\":1}}}}", "k".repeat(100_000), "\"a\":1,".repeat(20_000));
        assert_eq!(parse_json(body.as_bytes()).unwrap().duplicates.len(), MOST_DUPLICATES);
    }

    #[test]
    fn yaml_that_says_a_long_text_again_and_again_is_refused() {
        let body = format!("a: &a {}\nb: [{}]\n", "x".repeat(1 << 20), "*a,".repeat(10_000));
        let error = parse_yaml(body.as_bytes()).unwrap_err().to_string();
        assert!(error.starts_with("error converting YAML to JSON: "), "{error}");
    }

    #[test]
    fn yaml_that_multiplies_itself_is_refused() {
        let mut bomb = "a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n".to_string();
        for i in 1..10 {
            let list = vec![format!("*a{}", i - 1); 10].join(",");
            bomb.push_str(&format!("a{i}: &a{i} [{list}]\n"));
        }
        assert!(parse_yaml(bomb.as_bytes()).is_err());
    }
}
