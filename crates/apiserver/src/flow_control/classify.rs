//! Which FlowSchema a request belongs to: the first whose rules are about it. Whose rules concern somebody is found once an
//! identity, so that a request costs a look-up and a few comparisons. Pure, but for what it remembers.

use super::level::Level;
use crate::{Identity, request::Target};
use http::{HeaderName, HeaderValue};
use k8s_openapi::api::flowcontrol::v1::{
    FlowSchemaSpec, NonResourcePolicyRule, PolicyRulesWithSubjects, ResourcePolicyRule, Subject,
};
use parking_lot::RwLock;
use std::{
    collections::{HashMap, hash_map::RandomState},
    hash::BuildHasher,
    sync::Arc,
};

/// So many identities are remembered.
const KEPT: usize = 4096;
const SCHEMA_UID: HeaderName = HeaderName::from_static("x-kubernetes-pf-flowschema-uid");
const LEVEL_UID: HeaderName = HeaderName::from_static("x-kubernetes-pf-prioritylevel-uid");

/// A request, as far as it matters here.
#[derive(Clone, Copy)]
pub(crate) struct Asked<'a> {
    pub who: &'a Identity,
    /// The verb of authorization, or the method of a path that is no resource, in small letters.
    pub verb: &'a str,
    pub target: Option<&'a Target>,
    pub path: &'a str,
}

impl<'a> Asked<'a> {
    /// A namespace itself lies in it.
    fn namespace(&self) -> &'a str {
        match self.target {
            Some(t) if t.group.is_empty() && t.resource == "namespaces" => &t.name,
            Some(t) => &t.namespace,
            None => "",
        }
    }
}

/// The uids that an answer shows: not names, which are nobody's business.
#[derive(Debug, Default)]
pub(crate) struct Mark {
    schema: Option<HeaderValue>,
    level: Option<HeaderValue>,
}

impl Mark {
    pub(super) fn new(schema: &str, level: &str) -> Self {
        let value = |uid: &str| HeaderValue::from_str(uid).ok().filter(|v| !v.is_empty());
        Self { schema: value(schema), level: value(level) }
    }

    /// Marks an answer.
    pub(crate) fn put<B>(&self, response: &mut http::Response<B>) {
        for (name, value) in [(SCHEMA_UID, &self.schema), (LEVEL_UID, &self.level)] {
            if let Some(value) = value {
                response.headers_mut().insert(name, value.clone());
            }
        }
    }
}

/// What tells the flows of a schema apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum By {
    Nothing,
    User,
    Namespace,
}

/// A FlowSchema whose level is there.
pub(super) struct Schema {
    pub name: String,
    pub spec: FlowSchemaSpec,
    pub level: Arc<Level>,
    pub mark: Arc<Mark>,
}

impl Schema {
    fn by(&self) -> By {
        match self.spec.distinguisher_method.as_ref().map(|m| m.type_.as_str()) {
            Some("ByUser") => By::User,
            Some("ByNamespace") => By::Namespace,
            _ => By::Nothing,
        }
    }

    fn rule(&self, at: u32) -> Option<&PolicyRulesWithSubjects> {
        self.spec.rules.as_ref()?.get(at as usize)
    }
}

/// The rules whose subjects somebody is one of: places in the schemas and in their rules.
struct Known {
    user: String,
    groups: Vec<String>,
    rules: Vec<(u32, u32)>,
}

/// All schemas, in the order in which they are tried. The last takes whatever no other does.
pub(super) struct Schemas {
    ordered: Vec<Schema>,
    known: RwLock<HashMap<u64, Known>>,
    hasher: RandomState,
}

fn is_subject(subject: &Subject, who: &Identity) -> bool {
    match subject.kind.as_str() {
        "User" => subject.user.as_ref().is_some_and(|u| u.name == "*" || u.name == who.user),
        "Group" => subject.group.as_ref().is_some_and(|g| g.name == "*" || who.is_in(&g.name)),
        "ServiceAccount" => subject.service_account.as_ref().is_some_and(|account| {
            let place = who.user.strip_prefix("system:serviceaccount:").and_then(|u| u.split_once(':'));
            place.is_some_and(|(namespace, name)| {
                namespace == account.namespace && (account.name == "*" || account.name == name)
            })
        }),
        _ => false,
    }
}

fn has(list: &[String], wanted: &str) -> bool {
    list.iter().any(|entry| entry == "*" || entry == wanted)
}

fn is_about_resource(rule: &ResourcePolicyRule, asked: &Asked<'_>, target: &Target) -> bool {
    let named = |entry: &String| {
        let (resource, subresource) = entry.split_once('/').unwrap_or((entry, ""));
        entry == "*" || (resource == target.resource && subresource == target.subresource)
    };
    let namespace = asked.namespace();
    has(&rule.verbs, asked.verb)
        && rule.resources.iter().any(named)
        && has(&rule.api_groups, &target.group)
        && if namespace.is_empty() {
            rule.cluster_scope.unwrap_or(false)
        } else {
            rule.namespaces.as_ref().is_some_and(|list| has(list, namespace))
        }
}

fn is_about_path(rule: &NonResourcePolicyRule, asked: &Asked<'_>) -> bool {
    let covers = |url: &String| {
        let prefix = url.strip_suffix('*').unwrap_or(url).trim_end_matches('/');
        url == "*"
            || url == asked.path
            || asked.path.strip_prefix(prefix).is_some_and(|rest| rest.starts_with('/'))
    };
    has(&rule.verbs, asked.verb) && rule.non_resource_urls.iter().any(covers)
}

fn is_about(rule: &PolicyRulesWithSubjects, asked: &Asked<'_>) -> bool {
    match asked.target {
        Some(target) => {
            rule.resource_rules.iter().flatten().any(|rule| is_about_resource(rule, asked, target))
        }
        None => rule.non_resource_rules.iter().flatten().any(|rule| is_about_path(rule, asked)),
    }
}

impl Schemas {
    /// The schemas in the order of their precedence and, where that is the same, of their names.
    pub(super) fn new(mut all: Vec<Schema>) -> Self {
        all.sort_by(|a, b| {
            let key = |s: &Schema| s.spec.matching_precedence.unwrap_or(i32::MAX);
            key(a).cmp(&key(b)).then_with(|| a.name.cmp(&b.name))
        });
        Self { ordered: all, known: RwLock::default(), hasher: RandomState::new() }
    }

    fn rules_for(&self, who: &Identity) -> Vec<(u32, u32)> {
        let mut found = Vec::new();
        for (at, schema) in self.ordered.iter().enumerate() {
            for (nth, rule) in schema.spec.rules.iter().flatten().enumerate() {
                if rule.subjects.iter().any(|subject| is_subject(subject, who)) {
                    found.push((at as u32, nth as u32));
                }
            }
        }
        found
    }

    fn first(&self, rules: &[(u32, u32)], asked: &Asked<'_>) -> Option<&Schema> {
        rules.iter().find_map(|(at, nth)| {
            let schema = self.ordered.get(*at as usize)?;
            schema.rule(*nth).filter(|rule| is_about(rule, asked)).map(|_| schema)
        })
    }

    /// The schema of a request and the hash of its flow. There is none only where there are no schemas at all.
    pub(super) fn find(&self, asked: &Asked<'_>) -> Option<(&Schema, u64)> {
        let who = asked.who;
        let hash = self.hasher.hash_one((&who.user, &who.groups));
        let known = self.known.read();
        let found = match known.get(&hash).filter(|k| k.user == who.user && k.groups == who.groups) {
            Some(known) => self.first(&known.rules, asked),
            None => {
                drop(known);
                let rules = self.rules_for(who);
                let found = self.first(&rules, asked);
                let mut known = self.known.write();
                if known.len() >= KEPT {
                    known.clear();
                }
                known.insert(hash, Known { user: who.user.clone(), groups: who.groups.clone(), rules });
                found
            }
        };
        let schema = found.or(self.ordered.last())?;
        let flow = match schema.by() {
            By::Nothing => "",
            By::User => &who.user,
            By::Namespace => asked.namespace(),
        };
        Some((schema, self.hasher.hash_one((&schema.name, flow))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::RequestInfo;
    use orlop_api::kinds::flow_control;
    use serde_json::{Value, json};

    fn schema(object: &Value) -> Schema {
        Schema {
            name: object["metadata"]["name"].as_str().unwrap().to_string(),
            spec: serde_json::from_value(object["spec"].clone()).unwrap(),
            level: Arc::default(),
            mark: Arc::default(),
        }
    }

    /// The defaults, and more.
    fn schemas(more: &[Value]) -> Schemas {
        let defaults = flow_control::defaults().iter().map(|d| &d.object);
        Schemas::new(defaults.filter(|o| o["kind"] == "FlowSchema").chain(more).map(schema).collect())
    }

    fn find(schemas: &Schemas, who: &Identity, method: &str, path: &str) -> (String, u64) {
        let info = RequestInfo::parse(&method.parse().unwrap(), path, "");
        let method = method.to_ascii_lowercase();
        let verb = if info.target.is_some() { info.verb.name() } else { &method };
        let asked = Asked { who, verb, target: info.target.as_ref(), path };
        // The second time it is remembered, which must make no difference.
        let first = schemas.find(&asked).unwrap();
        let (schema, flow) = schemas.find(&asked).unwrap();
        assert_eq!((&schema.name, flow), (&first.0.name, first.1));
        (schema.name.clone(), flow)
    }

    #[test]
    fn the_defaults_tell_the_parts_of_a_cluster_apart() {
        let schemas = schemas(&[]);
        let of = |user: &str, groups: &[&str], method: &str, path: &str| {
            find(&schemas, &Identity::new(user, groups), method, path).0
        };
        let node = ("system:node:a", &["system:nodes"][..]);
        let robot = ("system:serviceaccount:kube-system:x", &["system:serviceaccounts"][..]);
        let pods = "/api/v1/namespaces/default/pods";
        let lease = "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases/x";
        for ((user, groups), method, path, name) in [
            (("admin", &["system:masters"][..]), "POST", pods, "exempt"),
            (("jane", &[]), "GET", "/livez", "probes"),
            (("jane", &[]), "GET", "/livez/ping", "probes"),
            (("jane", &[]), "GET", "/livezz", "global-default"),
            (("jane", &[]), "GET", pods, "global-default"),
            (node, "GET", pods, "system-nodes"),
            (node, "GET", "/version", "system-nodes"),
            (node, "PATCH", "/api/v1/nodes/a/status", "system-node-high"),
            (node, "PATCH", "/api/v1/nodes/a/proxy", "system-nodes"),
            (node, "PUT", lease, "system-node-high"),
            (robot, "PUT", lease, "system-leader-election"),
            (robot, "GET", "/api/v1/namespaces/x/endpoints/y", "workload-leader-election"),
            (robot, "GET", pods, "kube-system-service-accounts"),
            (("system:serviceaccount:apps:x", &["system:serviceaccounts"]), "GET", pods, "service-accounts"),
            (("system:kube-scheduler", &[]), "GET", pods, "kube-scheduler"),
        ] {
            assert_eq!(of(user, groups, method, path), name, "{user} {method} {path}");
        }
        let anonymous = Identity::anonymous();
        assert_eq!(find(&schemas, &anonymous, "GET", "/version").0, "global-default");
    }

    #[test]
    fn flows_are_users_or_namespaces() {
        let schemas = schemas(&[]);
        let of = |user: &str, path: &str| find(&schemas, &Identity::new(user, &[]), "GET", path).1;
        let (a, b) = ("/api/v1/namespaces/a/pods", "/api/v1/namespaces/b/pods");
        assert_eq!(of("jane", a), of("jane", b));
        assert_ne!(of("jane", a), of("jack", a));
        let manager = "system:kube-controller-manager";
        assert_ne!(of(manager, a), of(manager, b));
        assert_eq!(of(manager, a), of(manager, "/api/v1/namespaces/a"), "a namespace lies in itself");
    }

    #[test]
    fn precedence_decides_and_then_the_name() {
        let mine = |name: &str, precedence: u32, verb: &str| {
            let rule = json!({"verbs": [verb], "apiGroups": ["*"], "resources": ["pods", "pods/status"], "namespaces": ["a"]});
            let subject = json!({"kind": "User", "user": {"name": "jane"}});
            json!({"metadata": {"name": name}, "spec": {
                "matchingPrecedence": precedence, "priorityLevelConfiguration": {"name": "p"},
                "rules": [{"subjects": [subject], "resourceRules": [rule]}]}})
        };
        let schemas = schemas(&[mine("b", 50, "get"), mine("a", 50, "get"), mine("c", 40, "list")]);
        let jane = Identity::new("jane", &[]);
        let of = |method: &str, path: &str| find(&schemas, &jane, method, path).0;
        assert_eq!(of("GET", "/api/v1/namespaces/a/pods/x"), "a");
        assert_eq!(of("GET", "/api/v1/namespaces/a/pods/x/status"), "a");
        assert_eq!(of("GET", "/api/v1/namespaces/a/pods"), "c");
        assert_eq!(of("GET", "/api/v1/namespaces/b/pods/x"), "global-default");
        assert_eq!(of("GET", "/api/v1/namespaces/a/pods/x/log"), "global-default");
        assert_eq!(of("GET", "/api/v1/pods"), "global-default");
    }
}
