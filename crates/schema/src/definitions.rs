//! The descriptions of the built-in types as JSON schemas, for OpenAPI documents and for custom types that refer to
//! them. Embedded compressed; unpacked for as long as somebody reads them, and never kept.

use serde_json::{Map, Value};
use sha2::{Digest, Sha256};
use std::{
    collections::{BTreeSet, HashMap},
    io::Read,
    ops::Range,
    sync::LazyLock,
};

static PACKED: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/definitions.z"));

/// The definitions, unpacked but not parsed.
pub(crate) struct Definitions {
    text: String,
    places: HashMap<String, Range<usize>>,
}

impl Definitions {
    /// Unpacks them.
    pub(crate) fn unpack() -> Self {
        let mut text = String::new();
        // The build script wrote this; were it damaged, nothing would be found in it.
        let _ = flate2::read::ZlibDecoder::new(PACKED).read_to_string(&mut text);
        let mut places = HashMap::new();
        let mut at = 0;
        for line in text.split_inclusive('\n') {
            if let Some((name, schema)) = line.split_once('\t') {
                let start = at + name.len() + 1;
                places.insert(name.to_string(), start..start + schema.len());
            }
            at += line.len();
        }
        Self { text, places }
    }

    /// What tells this set of definitions from another.
    pub(crate) fn fingerprint() -> &'static [u8] {
        static FINGERPRINT: LazyLock<Vec<u8>> = LazyLock::new(|| Sha256::digest(PACKED).to_vec());
        &FINGERPRINT
    }

    /// One definition. Its `$ref`s are names.
    pub(crate) fn get(&self, name: &str) -> Option<Value> {
        serde_json::from_str(&self.text[self.places.get(name)?.clone()]).ok()
    }

    /// The names of these definitions and of all that they refer to.
    pub(crate) fn closure(&self, names: impl IntoIterator<Item = String>) -> BTreeSet<String> {
        let mut found = BTreeSet::new();
        let mut wanted: Vec<String> = names.into_iter().collect();
        while let Some(name) = wanted.pop() {
            if found.contains(&name) {
                continue;
            }
            if let Some(schema) = self.get(&name) {
                references(&schema, &mut wanted);
                found.insert(name);
            }
        }
        found
    }

    /// These definitions and all that they refer to.
    pub(crate) fn parse(&self, names: &[&str]) -> Map<String, Value> {
        let names = self.closure(names.iter().map(|n| n.to_string()));
        names.into_iter().filter_map(|name| Some((name.clone(), self.get(&name)?))).collect()
    }
}

/// Every definition that `schema` names.
pub(crate) fn references(schema: &Value, out: &mut Vec<String>) {
    match schema {
        Value::Object(fields) => {
            for (key, value) in fields {
                match value {
                    Value::String(target) if key == "$ref" => {
                        out.extend(target.rsplit('/').next().map(str::to_string));
                    }
                    _ => references(value, out),
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|i| references(i, out)),
        _ => {}
    }
}
