//! One rule, and whether it allows a request.

use serde::{Deserialize, Deserializer, Serialize};

/// A rule of a role (rbac.authorization.k8s.io/v1 `PolicyRule`).
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PolicyRule {
    /// What may be done; `*` is everything.
    #[serde(deserialize_with = "strings", skip_serializing_if = "Vec::is_empty")]
    pub verbs: Vec<String>,
    /// To resources of these groups; `*` is any.
    #[serde(deserialize_with = "strings", skip_serializing_if = "Vec::is_empty")]
    pub api_groups: Vec<String>,
    /// `pods`, `pods/log`, `*/scale`, `*`.
    #[serde(deserialize_with = "strings", skip_serializing_if = "Vec::is_empty")]
    pub resources: Vec<String>,
    /// Only to objects of these names; none is all.
    #[serde(deserialize_with = "strings", skip_serializing_if = "Vec::is_empty")]
    pub resource_names: Vec<String>,
    /// To these paths; a `*` at the end stands for anything.
    #[serde(rename = "nonResourceURLs", deserialize_with = "strings", skip_serializing_if = "Vec::is_empty")]
    pub non_resource_urls: Vec<String>,
}

/// A list that may be `null`.
fn strings<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// What somebody wants to do.
#[derive(Clone, Copy, Debug)]
pub enum Request<'a> {
    /// To a resource.
    Resource {
        /// `get`, `list`, ….
        verb: &'a str,
        /// API group, empty for core.
        group: &'a str,
        /// Plural name.
        resource: &'a str,
        /// Subresource, or empty.
        subresource: &'a str,
        /// The object's name, or empty.
        name: &'a str,
    },
    /// To a path that is no resource.
    Path {
        /// The HTTP method in lower case.
        verb: &'a str,
        /// The path.
        path: &'a str,
    },
}

fn has(list: &[String], value: &str) -> bool {
    list.iter().any(|entry| entry == value)
}

fn has_or_all(list: &[String], value: &str) -> bool {
    list.iter().any(|entry| entry == "*" || entry == value)
}

/// Whether `entry` of a rule names the resource: `pods`, `pods/log`, `*/log` or `*`.
fn names_resource(entry: &str, resource: &str, subresource: &str) -> bool {
    if entry == "*" {
        return true;
    }
    if subresource.is_empty() {
        return entry == resource;
    }
    match entry.split_once('/') {
        Some((before, after)) => after == subresource && (before == "*" || before == resource),
        None => false,
    }
}

/// Whether a path of a rule stands for `path`.
pub(super) fn names_path(entry: &str, path: &str) -> bool {
    entry == path || (entry.ends_with('*') && path.starts_with(entry.trim_end_matches('*')))
}

impl PolicyRule {
    /// Whether the rule allows the request.
    pub fn allows(&self, request: Request<'_>) -> bool {
        match request {
            Request::Resource { verb, group, resource, subresource, name } => {
                has_or_all(&self.verbs, verb)
                    && has_or_all(&self.api_groups, group)
                    && self.resources.iter().any(|entry| names_resource(entry, resource, subresource))
                    && (self.resource_names.is_empty() || has(&self.resource_names, name))
            }
            Request::Path { verb, path } => {
                has_or_all(&self.verbs, verb) && self.non_resource_urls.iter().any(|e| names_path(e, path))
            }
        }
    }
}

/// The rule on one line, as it stands in messages: `{APIGroups:[""], Resources:["pods"], Verbs:["get"]}`.
pub fn describe(rule: &PolicyRule) -> String {
    let parts = [
        ("APIGroups", &rule.api_groups),
        ("Resources", &rule.resources),
        ("NonResourceURLs", &rule.non_resource_urls),
        ("ResourceNames", &rule.resource_names),
        ("Verbs", &rule.verbs),
    ];
    let shown: Vec<String> = parts
        .into_iter()
        .filter(|(_, list)| !list.is_empty())
        .map(|(name, list)| {
            let quoted: Vec<String> = list.iter().map(|entry| format!("{entry:?}")).collect();
            format!("{name}:[{}]", quoted.join(" "))
        })
        .collect();
    format!("{{{}}}", shown.join(", "))
}
