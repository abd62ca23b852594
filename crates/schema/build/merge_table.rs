//! Joins `src/merge_keys.tsv` into the definitions as `x-kubernetes-*` extensions. A line that names a type or field
//! which does not exist fails the build.

use serde_json::{Map, Value, json};

/// Writes what each line of `table` says into `definitions`.
pub fn join(table: &str, definitions: &mut Map<String, Value>) {
    let (mut package, mut name) = ("", String::new());
    for line in table.lines().filter(|l| !l.is_empty() && !l.starts_with('#')) {
        if let Some(p) = line.strip_prefix('[').and_then(|l| l.strip_suffix(']')) {
            package = p;
            continue;
        }
        let (field, words) = match line.strip_prefix('\t') {
            None => {
                let (ty, words) = line.split_once('\t').unwrap_or((line, ""));
                name = format!("{package}.{ty}");
                (None, words)
            }
            Some(rest) => {
                let (field, words) = rest.split_once('\t').unwrap_or_else(|| panic!("no facts: {line}"));
                (Some(field), words)
            }
        };
        let definition = definitions.get_mut(&name).unwrap_or_else(|| panic!("no such type: {name}"));
        let schema = match field {
            None => definition,
            Some(field) => definition
                .pointer_mut(&format!("/properties/{field}"))
                .unwrap_or_else(|| panic!("no such field: {name}.{field}")),
        };
        for word in words.split_ascii_whitespace() {
            annotate(schema, word);
        }
    }
}

fn annotate(schema: &mut Value, word: &str) {
    let (word, argument) = match word.split_once('(') {
        Some((word, rest)) => (word, rest.trim_end_matches(')')),
        None => (word, ""),
    };
    match word {
        "list-atomic" | "list-set" => schema["x-kubernetes-list-type"] = json!(&word[5..]),
        "list-map" => {
            schema["x-kubernetes-list-type"] = json!("map");
            schema["x-kubernetes-list-map-keys"] = json!(argument.split(',').collect::<Vec<_>>());
        }
        "map-atomic" | "map-granular" => schema["x-kubernetes-map-type"] = json!(&word[4..]),
        "default" => schema["default"] = json!(argument),
        _ => {
            let strategy = word.strip_prefix("patch-").unwrap_or_else(|| panic!("unknown word: {word}"));
            schema["x-kubernetes-patch-strategy"] = json!(strategy.replace("-and-", ","));
            if !argument.is_empty() {
                schema["x-kubernetes-patch-merge-key"] = json!(argument);
            }
        }
    }
}
