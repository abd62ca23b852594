//! FlowSchema (flowcontrol.apiserver.k8s.io/v1): which requests belong to a priority level.

use super::{base, flow_control};
use crate::{
    FieldError, FieldErrors, Kind, Path, Rules, Scope, name,
    object::{flag, has, int, list, set_default, text},
    print,
};
use jiff::Timestamp;
use serde_json::{Value, json};

/// The schema of those whom nothing limits.
const EXEMPT: &str = "exempt";
/// The largest precedence, which is tried last.
const LAST: i64 = 10_000;
/// Verbs that rules may name.
const VERBS: [&str; 9] =
    ["create", "delete", "deletecollection", "get", "list", "patch", "proxy", "update", "watch"];

/// The description of FlowSchema.
pub(super) fn kind() -> Kind {
    Kind {
        scope: Scope::Cluster,
        has_status: true,
        has_generation: true,
        columns: vec![
            print::name_column(),
            print::text_column("PriorityLevel", "The priority level that the requests belong to."),
            print::int_column("MatchingPrecedence", "Schemas with smaller numbers are tried first."),
            print::text_column("DistinguisherMethod", "What tells flows of requests apart."),
            print::age_column(),
            print::text_column("MissingPL", "references a broken or non-existent PriorityLevelConfiguration"),
        ],
        ..base("flowcontrol.apiserver.k8s.io", "v1", "FlowSchema", "flowschemas", FlowSchema)
    }
}

struct FlowSchema;

fn strings<'a>(object: &'a Value, pointer: &str) -> Vec<&'a str> {
    list(object, pointer).iter().filter_map(Value::as_str).collect()
}

/// A list where `*` stands alone. `what` names its entries.
fn wild(errors: &mut FieldErrors, path: &Path, entries: &[&str], missing: &str, what: &str) {
    if entries.is_empty() {
        errors.required(path, missing);
    } else if entries.len() > 1 && entries.contains(&"*") {
        errors.invalid(path, entries.to_vec(), format!("if '*' is present, must not specify other {what}"));
    }
}

fn verbs(errors: &mut FieldErrors, path: &Path, rule: &Value) {
    let given = strings(rule, "/verbs");
    wild(errors, path, &given, "verbs must contain at least one value", "verbs");
    if !given.contains(&"*") && given.iter().any(|v| !VERBS.contains(v)) {
        errors.push(FieldError::not_supported(path, given, &VERBS));
    }
}

fn resource_rule(errors: &mut FieldErrors, path: &Path, rule: &Value) {
    verbs(errors, &path.child("verbs"), rule);
    for (field, missing, what) in [
        ("apiGroups", "resource rules must supply at least one api group", "api groups"),
        ("resources", "resource rules must supply at least one resource", "resources"),
    ] {
        wild(errors, &path.child(field), &strings(rule, &format!("/{field}")), missing, what);
    }
    let (path, namespaces) = (path.child("namespaces"), strings(rule, "/namespaces"));
    if namespaces.is_empty() && !flag(rule, "/clusterScope") {
        let why = "resource rules that are not cluster scoped must supply at least one namespace";
        errors.required(&path, why);
    } else if namespaces.contains(&"*") {
        wild(errors, &path, &namespaces, "", "namespaces");
    } else {
        for (at, namespace) in namespaces.iter().enumerate() {
            for why in name::dns_label(namespace) {
                let why = format!("each member of this list must be '*' or a DNS-1123 label; {why}");
                errors.invalid(path.index(at), *namespace, why);
            }
        }
    }
}

/// Why a path cannot be one of `nonResourceURLs`.
fn wrong_path(path: &str) -> Option<&'static str> {
    let stars = path.matches('*').count();
    match path {
        "" => Some("must not be empty"),
        "/" => None,
        _ if !path.starts_with('/') => Some("must start with slash"),
        _ if path.contains(' ') => Some("must not contain white-space"),
        _ if path.contains("//") => Some("must not contain double slash"),
        _ if stars > 1 || (stars == 1 && !path.ends_with("/*")) => {
            Some("wildcard can only do suffix matching")
        }
        _ => None,
    }
}

fn path_rule(errors: &mut FieldErrors, path: &Path, rule: &Value) {
    verbs(errors, &path.child("verbs"), rule);
    let (path, urls) = (path.child("nonResourceURLs"), strings(rule, "/nonResourceURLs"));
    let missing = "nonResourceURLs must contain at least one value";
    wild(errors, &path, &urls, missing, "non-resource URLs");
    if !urls.contains(&"*") {
        for (at, url) in urls.iter().enumerate() {
            if let Some(why) = wrong_path(url) {
                errors.invalid(path.index(at), *url, why);
            }
        }
    }
}

fn subject(errors: &mut FieldErrors, path: &Path, subject: &Value) {
    const KINDS: [(&str, &str); 3] =
        [("Group", "group"), ("ServiceAccount", "serviceAccount"), ("User", "user")];
    let given = text(subject, "/kind");
    let known = KINDS.map(|(kind, _)| kind);
    errors.one_of(&path.child("kind"), given, &known);
    if !known.contains(&given) {
        return;
    }
    for (kind, field) in KINDS {
        let path = path.child(field);
        match (kind == given, has(subject, &format!("/{field}"))) {
            (true, false) => {
                errors.required(&path, &format!("{field} is required when subject kind is '{kind}'"));
            }
            (false, true) => {
                errors.forbidden(&path, format!("{field} is forbidden when subject kind is not '{kind}'"));
            }
            (true, true) => {
                let called = text(subject, &format!("/{field}/name"));
                if called.is_empty() {
                    errors.required(path.child("name"), "");
                } else if kind == "ServiceAccount" && called != "*" {
                    errors.messages(&path.child("name"), called, name::dns_subdomain(called));
                }
                let namespace = text(subject, "/serviceAccount/namespace");
                if kind == "ServiceAccount" && namespace.is_empty() {
                    let why = "must specify namespace for service account";
                    errors.required(path.child("namespace"), why);
                } else if kind == "ServiceAccount" {
                    errors.messages(&path.child("namespace"), namespace, name::dns_label(namespace));
                }
            }
            (false, false) => {}
        }
    }
}

fn rule(errors: &mut FieldErrors, path: &Path, rule: &Value) {
    let subjects = list(rule, "/subjects");
    if subjects.is_empty() {
        errors.required(path.child("subjects"), "subjects must contain at least one value");
    }
    for (at, one) in subjects.iter().enumerate() {
        subject(errors, &path.child("subjects").index(at), one);
    }
    let (resources, paths) = (list(rule, "/resourceRules"), list(rule, "/nonResourceRules"));
    if resources.is_empty() && paths.is_empty() {
        let why = "at least one of resourceRules and nonResourceRules has to be non-empty";
        errors.required(path, why);
    }
    for (at, one) in resources.iter().enumerate() {
        resource_rule(errors, &path.child("resourceRules").index(at), one);
    }
    for (at, one) in paths.iter().enumerate() {
        path_rule(errors, &path.child("nonResourceRules").index(at), one);
    }
}

impl Rules for FlowSchema {
    fn default(&self, object: &mut Value) {
        let Some(spec) = object.get_mut("spec").filter(|s| s.is_object()) else { return };
        if int(spec, "/matchingPrecedence").unwrap_or(0) == 0 {
            spec["matchingPrecedence"] = json!(1000);
        }
        set_default(spec, "priorityLevelConfiguration", json!({"name": ""}));
    }

    fn validate(&self, object: &Value) -> Vec<FieldError> {
        let mut errors = FieldErrors::new();
        let path = Path::new("spec");
        let called = text(object, "/metadata/name");
        let precedence = int(object, "/spec/matchingPrecedence").unwrap_or(0);
        let at = path.child("matchingPrecedence");
        if precedence <= 0 {
            errors.invalid(&at, precedence, "must be a positive value");
        }
        if precedence > LAST {
            errors.invalid(&at, precedence, format!("must not be greater than {LAST}"));
        }
        if precedence == 1 && called != EXEMPT {
            let why = "only the schema named 'exempt' may have matchingPrecedence 1";
            errors.invalid(&at, precedence, why);
        }
        if has(object, "/spec/distinguisherMethod") {
            let method = text(object, "/spec/distinguisherMethod/type");
            let at = path.child("distinguisherMethod").child("type");
            errors.one_of(&at, method, &["ByNamespace", "ByUser"]);
        }
        let level = text(object, "/spec/priorityLevelConfiguration/name");
        let at = path.child("priorityLevelConfiguration").child("name");
        if level.is_empty() {
            errors.required(&at, "must reference a priority level");
        } else {
            errors.messages(&at, level, name::dns_subdomain(level));
        }
        for (at, one) in list(object, "/spec/rules").iter().enumerate() {
            rule(&mut errors, &path.child("rules").index(at), one);
        }
        flow_control::fixed(&mut errors, object);
        flow_control::conditions(&mut errors, object);
        errors.into_vec()
    }

    fn validate_status(&self, new: &Value, _old: &Value) -> Vec<FieldError> {
        let mut errors = FieldErrors::new();
        flow_control::conditions(&mut errors, new);
        errors.into_vec()
    }

    fn cells(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        let method = match text(object, "/spec/distinguisherMethod/type") {
            "" => "<none>",
            method => method,
        };
        let dangling = match crate::object::condition(object, "Dangling") {
            "" => "?",
            status => status,
        };
        vec![
            print::name(object),
            text(object, "/spec/priorityLevelConfiguration/name").into(),
            int(object, "/spec/matchingPrecedence").unwrap_or(0).into(),
            method.into(),
            print::age(object, now),
            dangling.into(),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wrong(change: Value) -> Vec<String> {
        let mut spec = json!({"priorityLevelConfiguration": {"name": "p"}});
        spec.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        let mut object = json!({"metadata": {"name": "mine"}, "spec": spec});
        FlowSchema.default(&mut object);
        FlowSchema.validate(&object).into_iter().map(|e| e.to_string()).collect()
    }

    #[test]
    fn a_schema_names_a_level_and_its_place() {
        assert!(wrong(json!({})).is_empty());
        for (change, why) in [
            (
                json!({"matchingPrecedence": 1}),
                "spec.matchingPrecedence: Invalid value: 1: only the schema named 'exempt' may have matchingPrecedence 1",
            ),
            (
                json!({"matchingPrecedence": 10001}),
                "spec.matchingPrecedence: Invalid value: 10001: must not be greater than 10000",
            ),
            (
                json!({"matchingPrecedence": -1}),
                "spec.matchingPrecedence: Invalid value: -1: must be a positive value",
            ),
            (
                json!({"priorityLevelConfiguration": {}}),
                "spec.priorityLevelConfiguration.name: Required value: must reference a priority level",
            ),
            (
                json!({"distinguisherMethod": {"type": "ByMood"}}),
                "spec.distinguisherMethod.type: Unsupported value: \"ByMood\": supported values: \"ByNamespace\", \"ByUser\"",
            ),
        ] {
            assert_eq!(wrong(change), [why]);
        }
    }

    #[test]
    fn rules_say_whose_requests_for_what() {
        let rules = |rule: Value| {
            let at = "spec.rules[0]";
            let told = wrong(json!({"rules": [rule]}));
            told.into_iter().map(|w| w.replacen(at, "", 1)).collect::<Vec<_>>()
        };
        let jane = json!({"kind": "User", "user": {"name": "jane"}});
        let all = json!({"verbs": ["*"], "nonResourceURLs": ["*"]});
        assert!(rules(json!({"subjects": [jane], "nonResourceRules": [all]})).is_empty());
        assert_eq!(
            rules(json!({})),
            [
                ".subjects: Required value: subjects must contain at least one value",
                ": Required value: at least one of resourceRules and nonResourceRules has to be non-empty",
            ]
        );
        let robot = json!({"kind": "ServiceAccount", "user": {"name": "x"}});
        assert_eq!(
            rules(json!({"subjects": [robot], "nonResourceRules": [all]})),
            [
                ".subjects[0].serviceAccount: Required value: serviceAccount is required when subject kind is 'ServiceAccount'",
                ".subjects[0].user: Forbidden: user is forbidden when subject kind is not 'User'",
            ]
        );
        let paths = json!({"verbs": ["look"], "nonResourceURLs": ["/a", "b", "/a*"]});
        assert_eq!(
            rules(json!({"subjects": [jane], "nonResourceRules": [paths]})),
            [
                ".nonResourceRules[0].verbs: Unsupported value: [\"look\"]: supported values: \"create\", \"delete\", \"deletecollection\", \"get\", \"list\", \"patch\", \"proxy\", \"update\", \"watch\"",
                ".nonResourceRules[0].nonResourceURLs[1]: Invalid value: \"b\": must start with slash",
                ".nonResourceRules[0].nonResourceURLs[2]: Invalid value: \"/a*\": wildcard can only do suffix matching",
            ]
        );
        let resources = json!({"verbs": ["get"], "apiGroups": ["*", "apps"], "resources": ["*"]});
        assert_eq!(
            rules(json!({"subjects": [jane], "resourceRules": [resources]})),
            [
                ".resourceRules[0].apiGroups: Invalid value: [\"*\",\"apps\"]: if '*' is present, must not specify other api groups",
                ".resourceRules[0].namespaces: Required value: resource rules that are not cluster scoped must supply at least one namespace",
            ]
        );
    }
}
