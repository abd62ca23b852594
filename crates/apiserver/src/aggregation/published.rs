//! What discovery says of aggregated group-versions: an `APIResourceList` turned into the form of aggregated discovery. Pure.

use orlop_api::object::{list, text};
use orlop_schema::openapi::Foreign;
use serde_json::{Value, json};
use std::sync::Arc;

/// A group-version that another server serves.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Published {
    pub group: String,
    pub version: String,
    /// Sorts groups and versions; the higher comes first.
    pub priority: (i64, i64),
    /// Whether the other server can be asked now.
    pub current: bool,
    /// In the form of aggregated discovery, as it was said last.
    pub resources: Vec<Value>,
    /// The hash of its OpenAPI v3 document, if it has one.
    pub openapi: Option<String>,
    /// What its OpenAPI v2 document says, with the `ETag` of that.
    pub openapi_v2: Option<(Arc<Foreign>, String)>,
}

/// The resources of an `APIResourceList` in the form of apidiscovery.k8s.io.
pub(super) fn resources(document: &Value, group: &str, version: &str) -> Vec<Value> {
    let all = list(document, "/resources");
    let kind = |r: &Value| {
        let or = |field: &str, own: &str| match text(r, field) {
            "" => own.to_string(),
            other => other.to_string(),
        };
        json!({"group": or("/group", group), "version": or("/version", version), "kind": text(r, "/kind")})
    };
    all.iter()
        .filter(|r| !text(r, "/name").contains('/'))
        .map(|r| {
            let name = text(r, "/name");
            let mut found = json!({
                "resource": name, "responseKind": kind(r), "singularResource": text(r, "/singularName"),
                "scope": if r["namespaced"] == true { "Namespaced" } else { "Cluster" }, "verbs": r["verbs"],
            });
            for key in ["shortNames", "categories"] {
                if r.get(key).is_some_and(Value::is_array) {
                    found[key] = r[key].clone();
                }
            }
            let parts: Vec<Value> = all
                .iter()
                .filter_map(|part| {
                    let (of, subresource) = text(part, "/name").split_once('/')?;
                    (of == name).then(|| {
                        json!({"subresource": subresource, "responseKind": kind(part), "verbs": part["verbs"]})
                    })
                })
                .collect();
            if !parts.is_empty() {
                found["subresources"] = parts.into();
            }
            found
        })
        .collect()
}

/// The hash of a group-version's document in an index of OpenAPI v3.
pub(super) fn openapi_hash(index: &Value, group: &str, version: &str) -> Option<String> {
    let url =
        index.get("paths")?.get(format!("apis/{group}/{version}"))?.get("serverRelativeURL")?.as_str()?;
    Some(url.split_once("hash=").map_or("", |(_, hash)| hash).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plain_list_becomes_part_of_the_aggregated_document() {
        let plain = json!({"resources": [
            {"name": "flunders", "singularName": "flunder", "namespaced": true, "kind": "Flunder", "verbs": ["get"], "shortNames": ["fl"]},
            {"name": "flunders/status", "namespaced": true, "kind": "Flunder", "verbs": ["patch"]},
            {"name": "flunders/scale", "namespaced": true, "group": "autoscaling", "version": "v1", "kind": "Scale", "verbs": ["get"]},
        ]});
        let own = json!({"group": "wardle.example.com", "version": "v1", "kind": "Flunder"});
        assert_eq!(
            resources(&plain, "wardle.example.com", "v1"),
            [json!({
                "resource": "flunders", "responseKind": own, "singularResource": "flunder", "scope": "Namespaced",
                "verbs": ["get"], "shortNames": ["fl"], "subresources": [
                    {"subresource": "status", "responseKind": own, "verbs": ["patch"]},
                    {"subresource": "scale", "responseKind": {"group": "autoscaling", "version": "v1", "kind": "Scale"}, "verbs": ["get"]},
                ],
            })]
        );
    }

    #[test]
    fn the_hash_is_that_of_the_other_server() {
        let index = json!({"paths": {"apis/a/v1": {"serverRelativeURL": "/openapi/v3/apis/a/v1?hash=12"}}});
        assert_eq!(openapi_hash(&index, "a", "v1").as_deref(), Some("12"));
        assert_eq!(openapi_hash(&index, "a", "v2"), None);
    }
}
