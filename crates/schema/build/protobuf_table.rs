//! Joins `src/protobuf_fields.tsv` into the definitions as `x-protobuf`. A line that names a type or field which does
//! not exist fails the build.

use crate::arena::{PATH_BITS, PATH_DEPTH};
use serde_json::{Map, Value, json};

/// Writes what each line of `table` says into `definitions`.
pub fn join(table: &str, definitions: &mut Map<String, Value>) {
    let mut package = "";
    for line in table.lines().filter(|l| !l.is_empty() && !l.starts_with('#')) {
        if let Some(p) = line.strip_prefix('[').and_then(|l| l.strip_suffix(']')) {
            package = p;
            continue;
        }
        let (ty, fields) = line.split_once('\t').unwrap_or_else(|| panic!("no fields: {line}"));
        let definition = definitions
            .get_mut(&format!("{package}.{ty}"))
            .unwrap_or_else(|| panic!("no such type: {package}.{ty}"));
        let mut taken = Vec::new();
        for word in fields.split(' ') {
            let (name, place) = word.split_once('=').unwrap_or_else(|| panic!("no number: {word}"));
            let path = path(place.trim_end_matches('*'));
            assert!(!taken.contains(&path), "{package}.{ty}: {place} stands twice");
            taken.push(path);
            let schema = definition["properties"]
                .get_mut(name)
                .unwrap_or_else(|| panic!("no such field: {package}.{ty}.{name}"));
            schema["x-protobuf"] = json!({"path": path, "zero": place.ends_with('*')});
        }
    }
}

fn path(numbers: &str) -> u32 {
    let numbers: Vec<u32> = numbers.split('.').map(|n| n.parse().expect("a number")).collect();
    assert!(numbers.len() <= PATH_DEPTH, "too deep: {numbers:?}");
    numbers.into_iter().fold(0, |path, number| {
        assert!(number > 0 && number < 1 << PATH_BITS, "out of range: {number}");
        path << PATH_BITS | number
    })
}
