//! What is taken over of the OpenAPI v2 document of another server: the paths of one group-version, and the definitions that they and its
//! kinds need. Pure; what our own document says of a name stays.

use super::digest;
use serde_json::{Map, Value};
use std::collections::BTreeSet;

const DEFINITION: &str = "#/definitions/";

/// A part of another server's OpenAPI v2 document.
#[derive(Clone, Debug, Default)]
pub struct Foreign {
    pub(super) paths: Map<String, Value>,
    pub(super) definitions: Map<String, Value>,
    pub(super) digest: String,
}

impl PartialEq for Foreign {
    fn eq(&self, other: &Self) -> bool {
        self.digest == other.digest
    }
}

impl Foreign {
    /// What `document` says of a group-version.
    pub fn new(document: &Value, group: &str, version: &str) -> Self {
        let root = format!("/apis/{group}/{version}");
        let is_there = |path: &str| {
            path.strip_prefix(&root).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        let empty = Map::new();
        let all = |field: &str| document.get(field).and_then(Value::as_object).unwrap_or(&empty);
        let paths: Map<String, Value> = all("paths")
            .iter()
            .filter(|(path, _)| is_there(path))
            .map(|(p, v)| (p.clone(), v.clone()))
            .collect();
        let definitions = all("definitions");
        let mut wanted = Vec::new();
        paths.values().for_each(|item| references(item, &mut wanted));
        let is_of_kind = |schema: &Value| {
            let kinds = schema.get("x-kubernetes-group-version-kind").and_then(Value::as_array);
            kinds.is_some_and(|kinds| {
                kinds.len() == 1 && kinds[0]["group"] == group && kinds[0]["version"] == version
            })
        };
        wanted.extend(
            definitions.iter().filter(|(_, schema)| is_of_kind(schema)).map(|(name, _)| name.clone()),
        );
        let mut taken = Map::new();
        let mut seen = BTreeSet::new();
        while let Some(name) = wanted.pop() {
            if let Some(schema) = definitions.get(&name).filter(|_| seen.insert(name.clone())) {
                references(schema, &mut wanted);
                taken.insert(name, schema.clone());
            }
        }
        let text = |map: &Map<String, Value>| serde_json::to_vec(map).unwrap_or_default();
        let digest = digest(&[&text(&paths), &text(&taken)]);
        Self { paths, definitions: taken, digest }
    }
}

/// The names of the definitions that a part of a document refers to.
fn references(value: &Value, out: &mut Vec<String>) {
    match value {
        Value::Object(map) => {
            if let Some(name) =
                map.get("$ref").and_then(Value::as_str).and_then(|r| r.strip_prefix(DEFINITION))
            {
                out.push(name.to_string());
            }
            map.values().for_each(|inner| references(inner, out));
        }
        Value::Array(list) => list.iter().for_each(|inner| references(inner, out)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn document() -> Value {
        json!({
            "paths": {
                "/apis/a.b/v1/": {"get": {}},
                "/apis/a.b/v1/things": {"get": {"responses": {"200": {"schema": {"$ref": "#/definitions/ThingList"}}}}},
                "/apis/a.b/v12/things": {}, "/version/": {},
            },
            "definitions": {
                "ThingList": {"properties": {"items": {"items": {"$ref": "#/definitions/Thing"}}}},
                "Thing": {"properties": {"next": {"$ref": "#/definitions/Thing"}, "part": {"$ref": "#/definitions/Missing"}}},
                "Other": {"type": "object"},
                "Unlisted": {"x-kubernetes-group-version-kind": [{"group": "a.b", "version": "v1", "kind": "Unlisted"}]},
            },
        })
    }

    #[test]
    fn the_paths_of_a_group_version_come_with_what_they_need() {
        let taken = Foreign::new(&document(), "a.b", "v1");
        let names = |map: &Map<String, Value>| map.keys().cloned().collect::<BTreeSet<_>>();
        assert_eq!(names(&taken.paths), ["/apis/a.b/v1/", "/apis/a.b/v1/things"].map(String::from).into());
        assert_eq!(names(&taken.definitions), ["Thing", "ThingList", "Unlisted"].map(String::from).into());
    }

    #[test]
    fn nonsense_is_nothing() {
        for document in [json!(null), json!([]), json!({"paths": 1, "definitions": "x"})] {
            assert!(Foreign::new(&document, "a.b", "v1").paths.is_empty());
        }
    }
}
