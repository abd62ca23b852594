//! Discovery: which groups, versions and resources there are (Kubernetes documentation, "API Concepts"; the aggregated form
//! is apidiscovery.k8s.io). Made once, when the kinds are known.

mod aggregated;

use crate::{
    aggregation::Published,
    hooks::bindings,
    identity::reviews,
    registry::Resource,
    request::negotiate::{accept, ranges},
    resource_metrics,
    response::{self, Response},
};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, header};
use orlop_api::Status;
use serde_json::{Value, json};
use std::{
    collections::HashMap,
    hash::{DefaultHasher, Hash, Hasher},
    sync::Arc,
};

/// What discovery says of a resource or subresource.
#[derive(Clone, Debug)]
pub(crate) struct Described {
    pub group: String,
    pub version: String,
    /// `pods` or `pods/log`.
    pub name: String,
    pub singular: String,
    pub namespaced: bool,
    /// Group, version and kind of its objects.
    pub kind: (String, String, String),
    pub verbs: Vec<&'static str>,
    pub short_names: Vec<String>,
    pub categories: Vec<String>,
}

const OBJECT_VERBS: [&str; 8] =
    ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];
const PART_VERBS: [&str; 3] = ["get", "patch", "update"];

/// All documents of discovery.
pub(crate) struct Discovery {
    plain: HashMap<String, Bytes>,
    aggregated: HashMap<(&'static str, aggregated::Version), (Bytes, String)>,
}

impl Discovery {
    /// Of what is served here and of what `others` serve, who take precedence.
    pub(crate) fn new(resources: &[Arc<Resource>], others: &[Published]) -> Self {
        let is_elsewhere =
            |group: &str, version: &str| others.iter().any(|o| o.group == group && o.version == version);
        let described: Vec<Described> = resources
            .iter()
            .flat_map(|r| describe(r))
            .chain([bindings::described()])
            .chain(reviews::described())
            .chain(resource_metrics::described())
            .filter(|d| !is_elsewhere(&d.group, &d.version))
            .collect();
        let mut groups: Vec<(String, String)> = Vec::new();
        for d in &described {
            let group = (d.group.clone(), d.version.clone());
            if !groups.contains(&group) {
                groups.push(group);
            }
        }
        groups.extend(others.iter().map(|o| (o.group.clone(), o.version.clone())));
        let groups = in_order(groups);
        let mut plain = HashMap::new();
        let mut put = |path: String, value: Value| plain.insert(path, Bytes::from(value.to_string()));
        put(
            "/api".into(),
            json!({"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []}),
        );
        let mut named: Vec<&str> = groups.iter().map(|(g, _)| g.as_str()).filter(|g| !g.is_empty()).collect();
        named.dedup();
        let list: Vec<Value> = named.iter().map(|g| group(g, &groups)).collect();
        put("/apis".into(), json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": list}));
        for g in &named {
            let mut value = group(g, &groups);
            value["kind"] = json!("APIGroup");
            value["apiVersion"] = json!("v1");
            put(format!("/apis/{g}"), value);
        }
        for (g, v) in groups.iter().filter(|(g, v)| !is_elsewhere(g, v)) {
            let path = if g.is_empty() { format!("/api/{v}") } else { format!("/apis/{g}/{v}") };
            let group_version = if g.is_empty() { v.clone() } else { format!("{g}/{v}") };
            let list: Vec<Value> =
                described.iter().filter(|d| d.group == *g && d.version == *v).map(plain_resource).collect();
            put(
                path,
                json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group_version, "resources": list}),
            );
        }
        let aggregated = aggregated::documents(&groups, &described, others)
            .into_iter()
            .map(|(key, value)| {
                let text = value.to_string();
                let mut hasher = DefaultHasher::new();
                text.hash(&mut hasher);
                (key, (Bytes::from(text), format!("\"{:016X}\"", hasher.finish())))
            })
            .collect();
        Self { plain, aggregated }
    }

    /// The document at a path, if there is one.
    pub(crate) fn serve(&self, path: &str, headers: &HeaderMap) -> Option<Result<Response, Status>> {
        let plain = self.plain.get(path)?;
        for range in ranges(accept(headers)) {
            if let Some(version) = aggregated::Version::wanted(&range) {
                let root = match path {
                    "/api" => "/api",
                    "/apis" => "/apis",
                    _ => continue,
                };
                if let Some((body, etag)) = self.aggregated.get(&(root, version)) {
                    return Some(Ok(with_etag(body, etag, version.content_type(), headers)));
                }
            }
            if range.parameter("as").is_none()
                && matches!(range.media, "application/json" | "application/*" | "*/*" | "application/yaml")
            {
                break;
            }
        }
        Some(Ok(response::bytes(200, "application/json", plain.clone())))
    }

    /// All paths.
    pub(crate) fn paths(&self) -> impl Iterator<Item = &str> {
        self.plain.keys().map(String::as_str)
    }
}

fn with_etag(body: &Bytes, etag: &str, content_type: &'static str, headers: &HeaderMap) -> Response {
    let known =
        headers.get(header::IF_NONE_MATCH).and_then(|v| v.to_str().ok()).is_some_and(|v| v.contains(etag));
    let mut response = if known {
        response::bytes(304, content_type, Bytes::new())
    } else {
        response::bytes(200, content_type, body.clone())
    };
    if let Ok(value) = HeaderValue::from_str(etag) {
        response.headers_mut().insert(header::ETAG, value);
    }
    response.headers_mut().insert(header::VARY, HeaderValue::from_static("Accept"));
    response
}

fn group(group: &str, groups: &[(String, String)]) -> Value {
    let versions: Vec<Value> = groups
        .iter()
        .filter(|(g, _)| g == group)
        .map(|(_, v)| json!({"groupVersion": format!("{group}/{v}"), "version": v}))
        .collect();
    json!({"name": group, "preferredVersion": versions.first(), "versions": versions})
}

/// Group-versions with those of a group together, the preferred one first: stable before beta before alpha, then the newer
/// (Kubernetes documentation, "Versions in CustomResourceDefinitions", "Version priority").
fn in_order(groups: Vec<(String, String)>) -> Vec<(String, String)> {
    let mut names: Vec<&str> = Vec::new();
    for (group, _) in &groups {
        if !names.contains(&group.as_str()) {
            names.push(group);
        }
    }
    let place = |group: &str| names.iter().position(|n| *n == group);
    let mut sorted = groups.clone();
    sorted.sort_by_key(|(group, version)| (place(group), priority(version)));
    sorted
}

/// Sorts versions: the first is preferred.
fn priority(version: &str) -> (u8, std::cmp::Reverse<(u64, u64)>, String) {
    let digits = |text: &str| text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let other = (3, std::cmp::Reverse((0, 0)), version.to_string());
    let Some(rest) = version.strip_prefix('v') else { return other };
    let (major, rest) = rest.split_at(digits(rest));
    let Ok(major) = major.parse::<u64>() else { return other };
    for (rank, stage) in [(1, "beta"), (2, "alpha")] {
        if let Some(minor) = rest.strip_prefix(stage) {
            return match minor.parse::<u64>() {
                Ok(minor) => (rank, std::cmp::Reverse((major, minor)), String::new()),
                Err(_) => other,
            };
        }
    }
    if rest.is_empty() { (0, std::cmp::Reverse((major, 0)), String::new()) } else { other }
}

fn describe(resource: &Resource) -> Vec<Described> {
    let kind = &resource.kind;
    let base = Described {
        group: kind.group.to_string(),
        version: kind.version.to_string(),
        name: kind.plural.to_string(),
        singular: kind.singular.to_string(),
        namespaced: kind.namespaced(),
        kind: (kind.group.to_string(), kind.version.to_string(), kind.kind.to_string()),
        verbs: OBJECT_VERBS.to_vec(),
        short_names: kind.short_names.iter().map(ToString::to_string).collect(),
        categories: kind.categories.iter().map(ToString::to_string).collect(),
    };
    let part = |name: &str, verbs: Vec<&'static str>| Described {
        name: format!("{}/{name}", kind.plural),
        singular: String::new(),
        verbs,
        short_names: Vec::new(),
        categories: Vec::new(),
        ..base.clone()
    };
    let mut whole = base.clone();
    if !resource.hooks.deletes_collections() {
        whole.verbs.retain(|verb| *verb != "deletecollection");
    }
    let mut all = vec![whole];
    if kind.has_status {
        all.push(part("status", PART_VERBS.to_vec()));
    }
    if kind.scale.is_some() {
        let mut scale = part("scale", PART_VERBS.to_vec());
        scale.kind = ("autoscaling".into(), "v1".into(), "Scale".into());
        all.push(scale);
    }
    all.extend(resource.hooks.parts().iter().map(|p| part(p.name, PART_VERBS.to_vec())));
    for subresource in resource.hooks.subresources() {
        let mut described = part(subresource.name, subresource.verbs.to_vec());
        let (group, version, kind) = subresource.kind;
        described.kind = (group.into(), version.into(), kind.into());
        all.push(described);
    }
    all.sort_by(|a, b| a.name.cmp(&b.name));
    all
}

fn plain_resource(d: &Described) -> Value {
    let (group, version, kind) = &d.kind;
    let mut value = json!({
        "name": d.name, "singularName": d.singular, "namespaced": d.namespaced, "kind": kind, "verbs": d.verbs,
    });
    if (group, version) != (&d.group, &d.version) {
        value["group"] = json!(group);
        value["version"] = json!(version);
    }
    if !d.short_names.is_empty() {
        value["shortNames"] = json!(d.short_names);
    }
    if !d.categories.is_empty() {
        value["categories"] = json!(d.categories);
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stable_and_newest_version_of_a_group_is_preferred() {
        let versions = ["foo1", "v1alpha1", "v2", "v10", "v3beta1", "v1", "v12alpha1", "foo10", "v11beta2"];
        let groups = versions.iter().map(|v| ("x.y".to_string(), v.to_string())).collect();
        let sorted: Vec<String> = in_order(groups).into_iter().map(|(_, v)| v).collect();
        assert_eq!(
            sorted,
            ["v10", "v2", "v1", "v11beta2", "v3beta1", "v12alpha1", "v1alpha1", "foo1", "foo10"]
        );
    }
}
