//! Discovery in one document: `APIGroupDiscoveryList` of apidiscovery.k8s.io, v2 and v2beta1.

use super::Described;
use crate::{aggregation::Published, request::negotiate::Range};
use serde_json::{Value, json};

/// A version of the document.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Version {
    V2,
    V2Beta1,
}

impl Version {
    /// The version that a media range asks for.
    pub(super) fn wanted(range: &Range<'_>) -> Option<Self> {
        let ours = range.media == "application/json"
            && range.parameter("g") == Some("apidiscovery.k8s.io")
            && range.parameter("as") == Some("APIGroupDiscoveryList");
        match range.parameter("v") {
            Some("v2") if ours => Some(Self::V2),
            Some("v2beta1") if ours => Some(Self::V2Beta1),
            _ => None,
        }
    }

    pub(super) fn content_type(self) -> &'static str {
        match self {
            Self::V2 => "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList",
            Self::V2Beta1 => "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList",
        }
    }

    fn api_version(self) -> &'static str {
        match self {
            Self::V2 => "apidiscovery.k8s.io/v2",
            Self::V2Beta1 => "apidiscovery.k8s.io/v2beta1",
        }
    }
}

/// The documents of `/api` and `/apis`, in both versions.
pub(super) fn documents(
    groups: &[(String, String)],
    described: &[Described],
    others: &[Published],
) -> Vec<((&'static str, Version), Value)> {
    let mut documents = Vec::new();
    for version in [Version::V2, Version::V2Beta1] {
        for root in ["/api", "/apis"] {
            let mut names: Vec<&str> = groups.iter().map(|(g, _)| g.as_str()).collect();
            names.dedup();
            let items: Vec<Value> = names
                .into_iter()
                .filter(|g| g.is_empty() == (root == "/api"))
                .map(|group| {
                    let meta = if group.is_empty() { json!({}) } else { json!({"name": group}) };
                    let versions: Vec<Value> = groups
                        .iter()
                        .filter(|(g, _)| g == group)
                        .map(|(g, v)| match others.iter().find(|o| o.group == *g && o.version == *v) {
                            Some(other) => {
                                let freshness = if other.current { "Current" } else { "Stale" };
                                json!({"version": v, "freshness": freshness, "resources": other.resources})
                            }
                            None => {
                                json!({"version": v, "freshness": "Current", "resources": resources(g, v, described)})
                            }
                        })
                        .collect();
                    json!({"metadata": meta, "versions": versions})
                })
                .collect();
            let list = json!({
                "kind": "APIGroupDiscoveryList", "apiVersion": version.api_version(), "metadata": {}, "items": items,
            });
            documents.push(((root, version), list));
        }
    }
    documents
}

fn gvk(d: &Described) -> Value {
    let (group, version, kind) = &d.kind;
    json!({"group": group, "version": version, "kind": kind})
}

fn resources(group: &str, version: &str, described: &[Described]) -> Vec<Value> {
    let here: Vec<&Described> =
        described.iter().filter(|d| d.group == group && d.version == version).collect();
    here.iter()
        .filter(|d| !d.name.contains('/'))
        .map(|d| {
            let mut value = json!({
                "resource": d.name, "responseKind": gvk(d), "singularResource": d.singular, "verbs": d.verbs,
                "scope": if d.namespaced { "Namespaced" } else { "Cluster" },
            });
            if !d.short_names.is_empty() {
                value["shortNames"] = json!(d.short_names);
            }
            if !d.categories.is_empty() {
                value["categories"] = json!(d.categories);
            }
            let prefix = format!("{}/", d.name);
            let parts: Vec<Value> = here
                .iter()
                .filter_map(|s| {
                    let name = s.name.strip_prefix(&prefix)?;
                    Some(json!({"subresource": name, "responseKind": gvk(s), "verbs": s.verbs}))
                })
                .collect();
            if !parts.is_empty() {
                value["subresources"] = json!(parts);
            }
            value
        })
        .collect()
}
