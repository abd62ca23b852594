//! Which kinds the server has, and how people name them: discovery (the aggregated form, or one request a group version
//! where a server does not know it) and the search for `deploy`, `deployments.apps`, `Deployment`.

use crate::{Error, api::Api};
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
use serde_json::Value;

const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,\
                          application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList,application/json";
const SEGMENT: &AsciiSet =
    &CONTROLS.add(b' ').add(b'/').add(b'?').add(b'#').add(b'%').add(b'"').add(b'<').add(b'>');

/// A kind as the server offers it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Resource {
    pub(crate) group: String,
    pub(crate) version: String,
    pub(crate) kind: String,
    pub(crate) plural: String,
    pub(crate) singular: String,
    pub(crate) short_names: Vec<String>,
    pub(crate) categories: Vec<String>,
    pub(crate) namespaced: bool,
    pub(crate) verbs: Vec<String>,
}

impl Resource {
    /// `/apis/apps/v1/namespaces/default/deployments/web`, with as much of it as is given.
    pub(crate) fn path(&self, namespace: Option<&str>, name: Option<&str>) -> String {
        let encode = |part: &str| utf8_percent_encode(part, SEGMENT).to_string();
        let mut path = match self.group.as_str() {
            "" => format!("/api/{}", self.version),
            group => format!("/apis/{group}/{}", self.version),
        };
        if let (true, Some(namespace)) = (self.namespaced, namespace) {
            path += &format!("/namespaces/{}", encode(namespace));
        }
        path += &format!("/{}", self.plural);
        if let Some(name) = name {
            path += &format!("/{}", encode(name));
        }
        path
    }

    /// `deployment.apps`: how an object's kind is written before its name.
    pub(crate) fn label(&self) -> String {
        let singular =
            if self.singular.is_empty() { self.kind.to_lowercase() } else { self.singular.clone() };
        match self.group.as_str() {
            "" => singular,
            group => format!("{singular}.{group}"),
        }
    }

    /// `apps/v1`.
    pub(crate) fn api_version(&self) -> String {
        match self.group.as_str() {
            "" => self.version.clone(),
            group => format!("{group}/{}", self.version),
        }
    }

    fn is_called(&self, name: &str) -> bool {
        let is = |own: &str| own.eq_ignore_ascii_case(name);
        is(&self.plural) || is(&self.singular) || is(&self.kind) || self.short_names.iter().any(|s| is(s))
    }
}

/// All kinds of a server, in its order of preference.
pub(crate) struct Resources(Vec<Resource>);

impl Resources {
    /// Asks the server.
    pub(crate) async fn discover(api: &Api) -> Result<Self, Error> {
        let mut all = Vec::new();
        for root in ["/api", "/apis"] {
            let document = api.get(root, &[], AGGREGATED).await?;
            if document["kind"] == "APIGroupDiscoveryList" {
                all.extend(aggregated(&document));
                continue;
            }
            for group_version in group_versions(&document) {
                let path = format!("{root}/{group_version}");
                let list = api.get(&path, &[], "application/json").await?;
                all.extend(plain(&group_version, &list));
            }
        }
        Ok(Self(all))
    }

    /// The kind that a person means: `po`, `pods`, `Pod`, `deployments.apps`, `deployments.v1.apps`.
    pub(crate) fn find(&self, name: &str) -> Result<&Resource, Error> {
        if name.is_empty() {
            return Err(Error::UnknownResource(String::new()));
        }
        if let Some(found) = self.0.iter().find(|r| r.is_called(name)) {
            return Ok(found);
        }
        let qualified = |r: &&Resource| {
            let Some((first, rest)) = name.split_once('.') else { return false };
            let by_version = rest.split_once('.').unwrap_or((rest, ""));
            r.is_called(first) && (rest == r.group || by_version == (r.version.as_str(), r.group.as_str()))
        };
        self.0.iter().find(qualified).ok_or_else(|| Error::UnknownResource(name.to_string()))
    }

    /// The kind of an object.
    pub(crate) fn find_kind(&self, api_version: &str, kind: &str) -> Option<&Resource> {
        self.0.iter().find(|r| r.kind == kind && r.api_version() == api_version)
    }

    /// All kinds of a category that can be listed: `all`.
    pub(crate) fn category(&self, name: &str) -> Vec<&Resource> {
        let belongs =
            |r: &&Resource| r.categories.iter().any(|c| c == name) && r.verbs.iter().any(|v| v == "list");
        self.0.iter().filter(belongs).collect()
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_string()
}

fn texts(value: &Value) -> Vec<String> {
    value.as_array().into_iter().flatten().map(text).collect()
}

fn aggregated(document: &Value) -> Vec<Resource> {
    let mut all = Vec::new();
    for group in document["items"].as_array().into_iter().flatten() {
        for version in group["versions"].as_array().into_iter().flatten() {
            for resource in version["resources"].as_array().into_iter().flatten() {
                all.push(Resource {
                    group: text(&group["metadata"]["name"]),
                    version: text(&version["version"]),
                    kind: text(&resource["responseKind"]["kind"]),
                    plural: text(&resource["resource"]),
                    singular: text(&resource["singularResource"]),
                    short_names: texts(&resource["shortNames"]),
                    categories: texts(&resource["categories"]),
                    namespaced: resource["scope"] == "Namespaced",
                    verbs: texts(&resource["verbs"]),
                });
            }
        }
    }
    all
}

/// `v1` from `APIVersions`, `apps/v1` from `APIGroupList`.
fn group_versions(document: &Value) -> Vec<String> {
    let of_groups = document["groups"].as_array().into_iter().flatten();
    texts(&document["versions"])
        .into_iter()
        .chain(of_groups.flat_map(|group| {
            let versions = group["versions"].as_array().into_iter().flatten();
            versions.map(|version| text(&version["groupVersion"])).collect::<Vec<_>>()
        }))
        .collect()
}

fn plain(group_version: &str, list: &Value) -> Vec<Resource> {
    let (group, version) = group_version.split_once('/').unwrap_or(("", group_version));
    let resources = list["resources"].as_array().into_iter().flatten();
    resources
        .filter(|resource| !text(&resource["name"]).contains('/')) // subresources
        .map(|resource| Resource {
            group: group.into(),
            version: version.into(),
            kind: text(&resource["kind"]),
            plural: text(&resource["name"]),
            singular: text(&resource["singularName"]),
            short_names: texts(&resource["shortNames"]),
            categories: texts(&resource["categories"]),
            namespaced: resource["namespaced"] == true,
            verbs: texts(&resource["verbs"]),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn some() -> Resources {
        let document = json!({"items": [
            {"metadata": {}, "versions": [{"version": "v1", "resources": [
                {"resource": "pods", "responseKind": {"kind": "Pod"}, "scope": "Namespaced", "singularResource": "pod",
                 "shortNames": ["po"], "categories": ["all"], "verbs": ["list"]},
                {"resource": "nodes", "responseKind": {"kind": "Node"}, "scope": "Cluster", "singularResource": "node",
                 "verbs": ["list"]},
            ]}]},
            {"metadata": {"name": "apps"}, "versions": [{"version": "v1", "resources": [
                {"resource": "deployments", "responseKind": {"kind": "Deployment"}, "scope": "Namespaced",
                 "singularResource": "deployment", "shortNames": ["deploy"], "categories": ["all"], "verbs": ["list"]},
            ]}]},
        ]});
        Resources(aggregated(&document))
    }

    #[test]
    fn kinds_are_found_by_all_names_that_people_use() {
        let resources = some();
        for name in
            ["deploy", "deployment", "Deployments", "deployments.apps", "deployment.v1.apps", "Deployment"]
        {
            assert_eq!(resources.find(name).unwrap().label(), "deployment.apps", "{name}");
        }
        for name in ["deployments.batch", "foo", "po.apps", ""] {
            let error = resources.find(name).unwrap_err().to_string();
            assert_eq!(error, format!("error: the server doesn't have a resource type {name:?}"));
        }
        assert_eq!(resources.category("all").len(), 2);
        assert!(resources.find_kind("apps/v1", "Deployment").is_some());
        assert!(resources.find_kind("apps/v2", "Deployment").is_none());
    }

    #[test]
    fn paths_are_those_of_the_api() {
        let resources = some();
        let path = |name: &str, ns, object| resources.find(name).unwrap().path(ns, object);
        assert_eq!(path("po", Some("a"), Some("x")), "/api/v1/namespaces/a/pods/x");
        assert_eq!(path("po", None, None), "/api/v1/pods");
        assert_eq!(path("node", Some("a"), Some("x/y")), "/api/v1/nodes/x%2Fy");
        assert_eq!(path("deploy", Some("a"), None), "/apis/apps/v1/namespaces/a/deployments");
    }

    #[test]
    fn the_older_form_of_discovery_says_the_same() {
        let list = json!({"resources": [
            {"name": "deployments", "singularName": "deployment", "namespaced": true, "kind": "Deployment",
             "verbs": ["list"], "shortNames": ["deploy"], "categories": ["all"]},
            {"name": "deployments/status", "namespaced": true, "kind": "Deployment", "verbs": ["get"]},
        ]});
        assert_eq!(plain("apps/v1", &list), [some().find("deploy").unwrap().clone()]);
        let groups = json!({"groups": [{"versions": [{"groupVersion": "apps/v1"}]}]});
        assert_eq!(group_versions(&groups), ["apps/v1"]);
        assert_eq!(group_versions(&json!({"versions": ["v1"]})), ["v1"]);
    }
}
