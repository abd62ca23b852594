//! Discovery: which groups, versions and resources there are (Kubernetes documentation, "API Concepts"; the aggregated form
//! is apidiscovery.k8s.io). Made once, when the kinds are known.

mod aggregated;
mod order;

use crate::{
    aggregation::Published,
    component_status,
    hooks::bindings,
    identity::reviews,
    registry::Resource,
    request::negotiate::{accept, ranges},
    resource_metrics,
    response::{self, Response},
};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, header};
pub(crate) use order::priority;
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
            .chain([bindings::described(), component_status::described()])
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
        let groups = order::in_order(groups, others);
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
