//! Which requests a webhook or policy is about (admissionregistration.k8s.io/v1 `RuleWithOperations`, selectors and match
//! policies). Pure, but for the labels of the namespace, which are looked up.

use super::{Operation, Request};
use orlop_api::{
    object::{list, map, text},
    selector::Selector,
};
use serde_json::Value;

const NAMESPACES: (&str, &str, &str) = ("", "v1", "namespaces");

/// Whether it is about admission itself: such objects are never held up, for nobody could mend what holds everything up.
pub(super) fn is_exempt(request: &Request<'_>) -> bool {
    request.kind.group == "admissionregistration.k8s.io"
}

fn names<'a>(rule: &'a Value, pointer: &str) -> impl Iterator<Item = &'a str> {
    list(rule, pointer).iter().filter_map(Value::as_str)
}

fn has(rule: &Value, pointer: &str, wanted: &str) -> bool {
    names(rule, pointer).any(|name| name == "*" || name == wanted)
}

/// Whether one entry of `resources` means the resource and subresource.
fn is_resource(entry: &str, resource: &str, subresource: &str) -> bool {
    let (wanted, sub) = entry.split_once('/').unwrap_or((entry, ""));
    (wanted == "*" || wanted == resource) && (sub == subresource || sub == "*")
}

/// Whether a rule is about an operation on a resource in a version.
fn rule_matches(rule: &Value, request: &Request<'_>, version: &str) -> bool {
    let kind = request.kind;
    let scope = match text(rule, "/scope") {
        "Cluster" => !kind.namespaced(),
        "Namespaced" => kind.namespaced(),
        _ => true,
    };
    let named = list(rule, "/resourceNames");
    scope
        && has(rule, "/operations", request.operation.name())
        && has(rule, "/apiGroups", &kind.group)
        && has(rule, "/apiVersions", version)
        && names(rule, "/resources").any(|entry| is_resource(entry, &kind.plural, request.subresource))
        && (named.is_empty() || named.iter().any(|n| n == request.name))
}

/// Whether any of the rules is about the request.
pub(super) fn rules_match(rules: &[Value], policy: &str, request: &Request<'_>) -> bool {
    matched_version(rules, policy, request).is_some()
}

/// In which version the rules are about the request: in its own or, unless the policy is `Exact`, in another one in which the
/// same resource is served.
pub(super) fn matched_version<'a>(
    rules: &'a [Value],
    policy: &str,
    request: &Request<'a>,
) -> Option<&'a str> {
    let own = &*request.kind.version;
    if rules.iter().any(|rule| rule_matches(rule, request, own)) {
        return Some(own);
    }
    if policy == "Exact" {
        return None;
    }
    let served =
        |version: &str| request.registry.find(&request.kind.group, version, &request.kind.plural).is_some();
    rules.iter().find_map(|rule| {
        names(rule, "/apiVersions").find(|version| rule_matches(rule, request, version) && served(version))
    })
}

fn selects(selector: &Value, labels: Option<&serde_json::Map<String, Value>>) -> bool {
    Selector::from_json(Some(selector)).is_ok_and(|s| s.matches_json(labels))
}

fn is_empty(selector: Option<&Value>) -> bool {
    selector.is_none_or(|s| s.as_object().is_none_or(serde_json::Map::is_empty))
}

/// The namespace that a request is about, as an object; none for what lies in no namespace.
pub(super) fn namespace(request: &Request<'_>, object: Option<&Value>) -> Option<Value> {
    if request.kind.group.is_empty() && request.kind.plural == "namespaces" {
        return object.or(request.old).filter(|o| o.is_object()).cloned();
    }
    request.look_up(NAMESPACES, "", request.namespace).filter(|_| request.kind.namespaced())
}

/// Whether the selectors of namespace and object admit the request.
pub(super) fn selectors_match(about: &Value, request: &Request<'_>, object: Option<&Value>) -> bool {
    let of_namespace = about.get("namespaceSelector");
    if !is_empty(of_namespace)
        && let (Some(selector), Some(namespace)) = (of_namespace, namespace(request, object))
        && !selects(selector, map(&namespace, "/metadata/labels"))
    {
        return false;
    }
    let of_object = about.get("objectSelector");
    if is_empty(of_object) {
        return true;
    }
    let labelled = |o: &Value| {
        // What has no metadata (options of a connection) has no labels either, and is never selected.
        o.get("metadata").is_some()
            && of_object.is_some_and(|selector| selects(selector, map(o, "/metadata/labels")))
    };
    let connects = request.operation == Operation::Connect;
    !connects && (object.is_some_and(labelled) || request.old.is_some_and(labelled))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resources_may_be_wild_and_subresources_must_be_meant() {
        for (entry, resource, subresource, want) in [
            ("pods", "pods", "", true),
            ("pods", "pods", "status", false),
            ("*", "pods", "", true),
            ("*", "pods", "status", false),
            ("*/*", "pods", "", true),
            ("*/*", "pods", "status", true),
            ("pods/*", "pods", "exec", true),
            ("pods/*", "pods", "", true),
            ("*/scale", "deployments", "scale", true),
            ("services", "pods", "", false),
        ] {
            assert_eq!(is_resource(entry, resource, subresource), want, "{entry} {resource}/{subresource}");
        }
    }
}
