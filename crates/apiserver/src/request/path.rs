//! From method and path to what is asked of which resource (Kubernetes documentation, "API Concepts", "Resource URIs").

use http::Method;
use percent_encoding::percent_decode_str;

/// What is asked of a resource. The words are those of authorization.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Verb {
    Get,
    List,
    Watch,
    Create,
    Update,
    Patch,
    Delete,
    DeleteCollection,
    /// Of a path that is no resource: the HTTP method decides.
    Other,
}

impl Verb {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Get => "get",
            Self::List => "list",
            Self::Watch => "watch",
            Self::Create => "create",
            Self::Update => "update",
            Self::Patch => "patch",
            Self::Delete => "delete",
            Self::DeleteCollection => "deletecollection",
            Self::Other => "other",
        }
    }
}

/// The resource part of a path.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Target {
    /// API group, empty for core.
    pub group: String,
    pub version: String,
    /// Plural name.
    pub resource: String,
    /// Empty for cluster-scoped resources and for all namespaces.
    pub namespace: String,
    /// Empty for the collection.
    pub name: String,
    /// Empty for the object itself.
    pub subresource: String,
    /// What follows the subresource (`proxy/…`), as it came, without the first slash.
    pub rest: String,
}

impl Target {
    /// The namespace whose roles count: of a namespace itself that is its own.
    pub(crate) fn governing_namespace(&self) -> &str {
        if self.namespace.is_empty() && self.group.is_empty() && self.resource == "namespaces" {
            return &self.name;
        }
        &self.namespace
    }
}

/// A request's address, understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RequestInfo {
    pub verb: Verb,
    /// `None` for paths such as `/healthz` and `/apis/apps/v1`.
    pub target: Option<Target>,
}

fn decode(segment: &str) -> String {
    percent_decode_str(segment).decode_utf8_lossy().into_owned()
}

/// Whether a query asks for a watch.
fn watches(query: &str) -> bool {
    form_urlencoded::parse(query.as_bytes())
        .any(|(k, v)| k == "watch" && (v.is_empty() || v == "true" || v == "1"))
}

impl RequestInfo {
    /// Understands method, path and query.
    pub(crate) fn parse(method: &Method, path: &str, query: &str) -> Self {
        let other = Self { verb: Verb::Other, target: None };
        let mut parts = path.trim_start_matches('/').split('/').filter(|s| !s.is_empty()).peekable();
        let (group, version) = match parts.next() {
            Some("api") => (String::new(), parts.next()),
            Some("apis") => match parts.next() {
                Some(group) => (decode(group), parts.next()),
                None => return other,
            },
            _ => return other,
        };
        let Some(version) = version else { return other };
        let mut target = Target { group, version: decode(version), ..Target::default() };
        // The old way to ask for a watch: `/api/v1/watch/pods`.
        let old_watch = parts.next_if_eq(&"watch").is_some();
        if parts.peek().is_none() {
            return other;
        }
        let rest: Vec<&str> = parts.collect();
        let rest = match rest.as_slice() {
            // A namespace itself, or one of its own subresources.
            ["namespaces"] | ["namespaces", _] | ["namespaces", _, "status" | "finalize"] => &rest[..],
            ["namespaces", namespace, inner @ ..] => {
                target.namespace = decode(namespace);
                inner
            }
            all => all,
        };
        match rest {
            [resource] => target.resource = decode(resource),
            [resource, name] => (target.resource, target.name) = (decode(resource), decode(name)),
            [resource, name, subresource, more @ ..] => {
                target.resource = decode(resource);
                target.name = decode(name);
                target.subresource = decode(subresource);
                target.rest = more.join("/");
                // A proxied path keeps its last slash: it means something to the other end.
                if !more.is_empty() && path.ends_with('/') {
                    target.rest.push('/');
                }
            }
            [] => return other,
        }
        let one = !target.name.is_empty();
        let verb = match *method {
            Method::GET | Method::HEAD if old_watch || (!one && watches(query)) => Verb::Watch,
            // A watch of one object is a watch of the collection that selects it.
            Method::GET if one && target.subresource.is_empty() && watches(query) => Verb::Watch,
            Method::GET | Method::HEAD if one => Verb::Get,
            Method::GET | Method::HEAD => Verb::List,
            Method::POST => Verb::Create,
            Method::PUT => Verb::Update,
            Method::PATCH => Verb::Patch,
            Method::DELETE if one => Verb::Delete,
            Method::DELETE => Verb::DeleteCollection,
            _ => Verb::Other,
        };
        Self { verb, target: Some(target) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(method: Method, uri: &str) -> (Verb, String) {
        let (path, query) = uri.split_once('?').unwrap_or((uri, ""));
        let info = RequestInfo::parse(&method, path, query);
        let target = info.target.map_or("-".to_string(), |t| {
            [t.group, t.version, t.resource, t.namespace, t.name, t.subresource, t.rest].join(" ")
        });
        (info.verb, target)
    }

    #[test]
    fn a_namespace_is_governed_by_its_own_roles() {
        let governed = |path: &str| {
            let target = RequestInfo::parse(&Method::GET, path, "").target.unwrap();
            target.governing_namespace().to_string()
        };
        for (path, namespace) in [
            ("/api/v1/namespaces", ""),
            ("/api/v1/namespaces/d", "d"),
            ("/api/v1/namespaces/d/finalize", "d"),
            ("/api/v1/namespaces/d/pods/p", "d"),
            ("/api/v1/nodes/n", ""),
            ("/apis/example.com/v1/namespaces/d", ""),
        ] {
            assert_eq!(governed(path), namespace, "{path}");
        }
    }

    #[test]
    fn paths_are_understood_as_kubernetes_does() {
        use Verb::*;
        let cases = [
            (Method::GET, "/healthz", Other, "-"),
            (Method::GET, "/api", Other, "-"),
            (Method::GET, "/api/v1", Other, "-"),
            (Method::GET, "/apis/apps/v1/", Other, "-"),
            (Method::GET, "/api/v1/pods", List, " v1 pods    "),
            (Method::GET, "/api/v1/pods?watch=1", Watch, " v1 pods    "),
            (Method::GET, "/api/v1/pods?watch=false", List, " v1 pods    "),
            (Method::GET, "/api/v1/watch/namespaces/d/pods", Watch, " v1 pods d   "),
            (Method::GET, "/api/v1/namespaces", List, " v1 namespaces    "),
            (Method::GET, "/api/v1/namespaces/d", Get, " v1 namespaces  d  "),
            (Method::PUT, "/api/v1/namespaces/d/finalize", Update, " v1 namespaces  d finalize "),
            (Method::GET, "/api/v1/namespaces/d/pods/p", Get, " v1 pods d p  "),
            (Method::GET, "/api/v1/namespaces/d/pods/p/log?follow=true", Get, " v1 pods d p log "),
            (Method::POST, "/apis/apps/v1/namespaces/d/deployments", Create, "apps v1 deployments d   "),
            (
                Method::PATCH,
                "/apis/apps/v1/namespaces/d/deployments/x/scale",
                Patch,
                "apps v1 deployments d x scale ",
            ),
            (Method::DELETE, "/api/v1/nodes/n", Delete, " v1 nodes  n  "),
            (Method::DELETE, "/api/v1/namespaces/d/pods", DeleteCollection, " v1 pods d   "),
            (Method::GET, "/api/v1/nodes/n/proxy/a/b/", Get, " v1 nodes  n proxy a/b/"),
            (Method::GET, "/api/v1/namespaces/d/pods/a%3Ab", Get, " v1 pods d a:b  "),
        ];
        for (method, uri, verb, target) in cases {
            assert_eq!(parse(method, uri), (verb, target.to_string()), "{uri}");
        }
    }
}
