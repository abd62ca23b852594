//! Which requests are noted, and how much of them: the `Policy` of audit.k8s.io/v1. Pure: reads text, answers questions, and never
//! sees a request's body.

use crate::identity::{Attributes, Identity};
use orlop_api::{FieldError, name};
use serde_json::Value;
use std::fmt;

/// How much of a request is noted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Level {
    /// Nothing.
    None,
    /// Who did what to what, and what came of it.
    Metadata,
    /// The object that was sent, too.
    Request,
    /// The object that was answered, too.
    RequestResponse,
}

impl Level {
    const NAMES: [&str; 4] = ["None", "Metadata", "Request", "RequestResponse"];

    pub(crate) fn name(self) -> &'static str {
        Self::NAMES[self as usize]
    }

    fn parse(name: &str) -> Option<Self> {
        [Self::None, Self::Metadata, Self::Request, Self::RequestResponse]
            .into_iter()
            .find(|level| level.name() == name)
    }
}

/// When a request is noted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// It came.
    RequestReceived,
    /// Its answer began: only of requests that last, such as watches.
    ResponseStarted,
    /// Its answer ended.
    ResponseComplete,
    /// It broke the server.
    Panic,
}

impl Stage {
    const ALL: [Self; 4] =
        [Self::RequestReceived, Self::ResponseStarted, Self::ResponseComplete, Self::Panic];
    const NAMES: [&str; 4] = ["RequestReceived", "ResponseStarted", "ResponseComplete", "Panic"];

    pub(crate) fn name(self) -> &'static str {
        Self::NAMES[self as usize]
    }
}

/// Some of the stages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Stages(u8);

impl Stages {
    fn has(self, stage: Stage) -> bool {
        self.0 & (1 << stage as u8) != 0
    }

    fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// Resources of one group.
#[derive(Clone, Debug, Default)]
struct GroupResources {
    group: String,
    resources: Vec<String>,
    names: Vec<String>,
}

#[derive(Clone, Debug)]
struct Rule {
    decision: Decision,
    users: Vec<String>,
    groups: Vec<String>,
    verbs: Vec<String>,
    resources: Vec<GroupResources>,
    namespaces: Vec<String>,
    paths: Vec<String>,
}

/// What a policy says about a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Decision {
    pub level: Level,
    omitted: Stages,
    /// Whether managed fields of objects are left out.
    pub omit_managed_fields: bool,
}

impl Decision {
    /// Whether a stage is noted.
    pub(crate) fn notes(self, stage: Stage) -> bool {
        self.level > Level::None && !self.omitted.has(stage)
    }
}

/// Why a policy cannot be used: each field that is wrong, as Kubernetes would say it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadPolicy(Vec<String>);

impl fmt::Display for BadPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.as_slice() {
            [one] => f.write_str(one),
            all => write!(f, "[{}]", all.join(", ")),
        }
    }
}

impl std::error::Error for BadPolicy {}

/// The rules; the first that matches a request decides.
#[derive(Clone, Debug)]
pub struct Policy {
    rules: Vec<Rule>,
    omitted: Stages,
}

impl Policy {
    /// Reads a policy, in YAML or JSON.
    pub fn parse(text: &str) -> Result<Self, BadPolicy> {
        let bad = |why: String| BadPolicy(vec![why]);
        let value: Value = serde_saphyr::from_str(text).map_err(|e| bad(format!("failed decoding: {e}")))?;
        let of = |key: &str| value.get(key).and_then(Value::as_str).unwrap_or_default().to_string();
        if (of("apiVersion").as_str(), of("kind").as_str()) != ("audit.k8s.io/v1", "Policy") {
            return Err(bad(format!(
                "unknown group version field {:?}, kind {:?} in policy: it must be audit.k8s.io/v1, Policy",
                of("apiVersion"),
                of("kind")
            )));
        }
        let mut reader = Reader::default();
        let policy = reader.policy(&value);
        if !reader.wrong.is_empty() {
            return Err(BadPolicy(reader.wrong));
        }
        if policy.rules.is_empty() {
            return Err(bad("loaded illegal policy with 0 rules".into()));
        }
        Ok(policy)
    }

    /// What is noted of a request. `who` is who asks, not who they act as; `None` is somebody who could not prove it.
    pub(crate) fn decide(&self, who: Option<&Identity>, what: &Attributes<'_>) -> Decision {
        let found = self.rules.iter().find(|rule| rule.matches(who, what));
        let nothing = Decision { level: Level::None, omitted: self.omitted, omit_managed_fields: false };
        found.map_or(nothing, |rule| rule.decision)
    }
}

fn has(list: &[String], value: &str) -> bool {
    list.iter().any(|entry| entry == value)
}

impl Rule {
    fn matches(&self, who: Option<&Identity>, what: &Attributes<'_>) -> bool {
        let user = |who: &Identity| has(&self.users, &who.user);
        let group = |who: &Identity| who.groups.iter().any(|g| has(&self.groups, g));
        let subject = (self.users.is_empty() || who.is_some_and(user))
            && (self.groups.is_empty() || who.is_some_and(group));
        subject && (self.verbs.is_empty() || has(&self.verbs, what.verb)) && self.is_about(what)
    }

    fn is_about(&self, what: &Attributes<'_>) -> bool {
        if !self.namespaces.is_empty() || !self.resources.is_empty() {
            return !what.resource.is_empty()
                && (self.namespaces.is_empty() || has(&self.namespaces, what.namespace))
                && (self.resources.is_empty() || self.resources.iter().any(|r| r.holds(what)));
        }
        self.paths.is_empty()
            || (what.resource.is_empty() && self.paths.iter().any(|path| path_matches(path, what.path)))
    }
}

fn path_matches(pattern: &str, path: &str) -> bool {
    pattern.strip_suffix('*').map_or(pattern == path, |start| path.starts_with(start))
}

impl GroupResources {
    fn holds(&self, what: &Attributes<'_>) -> bool {
        self.group == what.group
            && (self.resources.is_empty()
                || ((self.names.is_empty() || has(&self.names, what.name))
                    && self.resources.iter().any(|pattern| resource_matches(pattern, what))))
    }
}

/// `pods`, `pods/log`, `pods/*`, `*/scale` or `*`. Without a slash a pattern is about no subresource, but `*` is about all.
fn resource_matches(pattern: &str, what: &Attributes<'_>) -> bool {
    match pattern.split_once('/') {
        None => pattern == "*" || (what.subresource.is_empty() && pattern == what.resource),
        Some((resource, "*")) => resource == what.resource,
        Some(("*", subresource)) => !what.subresource.is_empty() && subresource == what.subresource,
        Some((resource, subresource)) => {
            !what.subresource.is_empty() && resource == what.resource && subresource == what.subresource
        }
    }
}

/// Reads a policy and gathers what is wrong with it.
#[derive(Default)]
struct Reader {
    wrong: Vec<String>,
}

impl Reader {
    fn complain(&mut self, error: FieldError) {
        self.wrong.push(error.to_string());
    }

    fn type_error(&mut self, path: &str, wanted: &str) {
        self.wrong.push(format!("{path}: Invalid value: must be {wanted}"));
    }

    /// The members of an object, none of which may be unknown.
    fn known(&mut self, value: &Value, path: &str, fields: &[&str]) {
        let Some(members) = value.as_object() else {
            self.type_error(path, "an object");
            return;
        };
        for key in members.keys().filter(|key| !fields.contains(&key.as_str())) {
            let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
            self.wrong.push(format!("unknown field {path:?}"));
        }
    }

    fn strings(&mut self, value: &Value, path: &str, key: &str) -> Vec<String> {
        let path = join(path, key);
        self.list(value, &path, key)
            .into_iter()
            .enumerate()
            .filter_map(|(index, entry)| {
                let text = entry.as_str().map(str::to_string);
                if text.is_none() {
                    self.type_error(&format!("{path}[{index}]"), "a string");
                }
                text
            })
            .collect()
    }

    fn list<'a>(&mut self, value: &'a Value, path: &str, key: &str) -> Vec<&'a Value> {
        match value.get(key) {
            None | Some(Value::Null) => Vec::new(),
            Some(Value::Array(entries)) => entries.iter().collect(),
            Some(_) => {
                self.type_error(path, "a list");
                Vec::new()
            }
        }
    }

    fn string(&mut self, value: &Value, path: &str, key: &str) -> String {
        match value.get(key) {
            None | Some(Value::Null) => String::new(),
            Some(Value::String(text)) => text.clone(),
            Some(_) => {
                self.type_error(&join(path, key), "a string");
                String::new()
            }
        }
    }

    fn flag(&mut self, value: &Value, path: &str, key: &str) -> Option<bool> {
        match value.get(key) {
            None | Some(Value::Null) => None,
            Some(Value::Bool(flag)) => Some(*flag),
            Some(_) => {
                self.type_error(&join(path, key), "a boolean");
                None
            }
        }
    }

    fn stages(&mut self, value: &Value, path: &str) -> Stages {
        let mut stages = Stages::default();
        for (index, name) in self.strings(value, path, "omitStages").into_iter().enumerate() {
            match Stage::ALL.into_iter().find(|stage| stage.name() == name) {
                Some(stage) => stages.0 |= 1 << stage as u8,
                None => {
                    let why = format!("allowed stages are {}", Stage::NAMES.join(","));
                    let path = format!("{}[{index}]", join(path, "omitStages"));
                    self.complain(FieldError::invalid(path, name, why));
                }
            }
        }
        stages
    }

    fn policy(&mut self, value: &Value) -> Policy {
        let fields = ["apiVersion", "kind", "metadata", "rules", "omitStages", "omitManagedFields"];
        self.known(value, "", &fields);
        let omitted = self.stages(value, "");
        let omit_managed_fields = self.flag(value, "", "omitManagedFields").unwrap_or(false);
        let rules = self
            .list(value, "rules", "rules")
            .into_iter()
            .enumerate()
            .map(|(index, rule)| self.rule(rule, &format!("rules[{index}]"), omitted, omit_managed_fields))
            .collect();
        Policy { rules, omitted }
    }

    fn rule(&mut self, value: &Value, path: &str, omitted: Stages, omit_managed_fields: bool) -> Rule {
        let fields = [
            "level",
            "users",
            "userGroups",
            "verbs",
            "resources",
            "namespaces",
            "nonResourceURLs",
            "omitStages",
            "omitManagedFields",
        ];
        self.known(value, path, &fields);
        let name = self.string(value, path, "level");
        let level = Level::parse(&name).unwrap_or_else(|| {
            let path = join(path, "level");
            self.complain(match name.as_str() {
                "" => FieldError::required(path, ""),
                other => FieldError::not_supported(path, other, &Level::NAMES),
            });
            Level::None
        });
        let rule = Rule {
            decision: Decision {
                level,
                omitted: omitted.and(self.stages(value, path)),
                omit_managed_fields: self
                    .flag(value, path, "omitManagedFields")
                    .unwrap_or(omit_managed_fields),
            },
            users: self.strings(value, path, "users"),
            groups: self.strings(value, path, "userGroups"),
            verbs: self.strings(value, path, "verbs"),
            resources: self.resources(value, path),
            namespaces: self.strings(value, path, "namespaces"),
            paths: self.strings(value, path, "nonResourceURLs"),
        };
        self.paths(&rule, &join(path, "nonResourceURLs"));
        rule
    }

    fn resources(&mut self, value: &Value, path: &str) -> Vec<GroupResources> {
        let path = join(path, "resources");
        let entries = self.list(value, &path, "resources").into_iter().enumerate();
        entries
            .map(|(index, entry)| {
                let path = format!("{path}[{index}]");
                self.known(entry, &path, &["group", "resources", "resourceNames"]);
                let found = GroupResources {
                    group: self.string(entry, &path, "group"),
                    resources: self.strings(entry, &path, "resources"),
                    names: self.strings(entry, &path, "resourceNames"),
                };
                if !found.group.is_empty() {
                    let why = name::dns_subdomain(&found.group).join(",");
                    if !why.is_empty() {
                        self.complain(FieldError::invalid(join(&path, "group"), found.group.clone(), why));
                    }
                }
                if !found.names.is_empty() && found.resources.is_empty() {
                    let why = "using resourceNames requires at least one resource";
                    let names = found.names.clone();
                    self.complain(FieldError::invalid(join(&path, "resourceNames"), names, why));
                }
                found
            })
            .collect()
    }

    fn paths(&mut self, rule: &Rule, path: &str) {
        for (index, url) in rule.paths.iter().enumerate().filter(|(_, url)| *url != "*") {
            let path = format!("{path}[{index}]");
            if !url.starts_with('/') {
                let why = "non-resource URL rules must begin with a '/' character";
                self.complain(FieldError::invalid(path.clone(), url.clone(), why));
            }
            if url.strip_suffix('*').unwrap_or(url).contains('*') {
                let why = "non-resource URL wildcards '*' must be the final character of the rule";
                self.complain(FieldError::invalid(path, url.clone(), why));
            }
        }
        let of_resources = !rule.resources.is_empty() || !rule.namespaces.is_empty();
        if of_resources && !rule.paths.is_empty() {
            let why = "rules cannot apply to both regular resources and non-resource URLs";
            self.complain(FieldError::invalid(path, rule.paths.clone(), why));
        }
    }
}

fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_string() } else { format!("{path}.{key}") }
}

#[cfg(test)]
#[path = "policy_tests.rs"]
mod tests;
