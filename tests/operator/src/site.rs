//! The custom resource in its two versions, with all that `kube` can derive.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The API group.
pub(crate) const GROUP: &str = "sites.example.com";

/// What is the case.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct SiteStatus {
    /// The generation that this is about.
    pub observed_generation: Option<i64>,
    /// How many pods serve the site.
    #[serde(default)]
    pub replicas: i32,
    /// Which pods they are.
    pub selector: Option<String>,
    #[serde(default)]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}

/// A condition as the API's conventions want it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Condition {
    #[serde(rename = "type")]
    pub kind: String,
    pub status: String,
    pub reason: String,
    pub message: String,
}

/// A site of one page.
pub(crate) mod v1 {
    use super::*;
    use kube::CustomResource;

    /// What is wanted.
    #[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
    #[kube(
        group = "sites.example.com",
        version = "v1",
        kind = "Site",
        namespaced,
        shortname = "si",
        category = "web"
    )]
    #[kube(status = "SiteStatus", derive = "PartialEq", deprecated = "sites.example.com/v1 is old: say v2")]
    #[kube(printcolumn(name = "Copies", type_ = "integer", json_path = ".spec.copies"))]
    pub(crate) struct SiteSpec {
        /// The text of the page.
        #[schemars(length(max = 10000))]
        pub page: String,
        /// How many pods are to serve it.
        pub copies: Option<i32>,
    }
}

/// A site of many pages.
pub(crate) mod v2 {
    use super::*;
    use kube::{CustomResource, KubeSchema};
    use std::collections::BTreeMap;

    fn one() -> i32 {
        1
    }

    /// What is wanted.
    #[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
    #[kube(
        group = "sites.example.com",
        version = "v2",
        kind = "Site",
        namespaced,
        shortname = "si",
        category = "web"
    )]
    #[kube(status = "SiteStatus", derive = "PartialEq", selectable = ".spec.theme")]
    #[kube(scale(
        spec_replicas_path = ".spec.replicas",
        status_replicas_path = ".status.replicas",
        label_selector_path = ".status.selector"
    ))]
    #[kube(printcolumn(name = "Wanted", type_ = "integer", json_path = ".spec.replicas"))]
    #[kube(printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Ready")].status"#
    ))]
    #[kube(validation = "self.metadata.name.size() <= 20")]
    #[serde(rename_all = "camelCase")]
    #[x_kube(validation = Rule::new("!has(self.exposure) || self.replicas > 0").message("nobody serves what is exposed"))]
    pub(crate) struct SiteSpec {
        /// Texts by the names of their files.
        pub pages: BTreeMap<String, String>,
        /// How many pods are to serve them.
        #[serde(default = "one")]
        #[schemars(range(min = 0))]
        pub replicas: i32,
        /// How it looks.
        #[serde(default)]
        #[x_kube(validation = "oldSelf != 'Dark' || self == 'Dark'")]
        pub theme: Theme,
        /// Who may see it.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub exposure: Option<Exposure>,
        /// Where it was.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        #[x_kube(merge_strategy = ListMerge::Set)]
        pub aliases: Vec<String>,
    }

    /// An enumeration of words.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
    pub(crate) enum Theme {
        #[default]
        Plain,
        /// What has become dark stays so.
        Dark,
    }

    /// An enumeration of objects: one of these keys.
    #[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
    #[serde(rename_all = "camelCase")]
    pub(crate) enum Exposure {
        /// The cluster.
        Inside {},
        /// Everybody, by a port of each node.
        NodePort { port: Option<i32> },
    }
}
