//! Reads request lines: which endpoint a path names, and the parameters behind it. Pure.

use super::target::Target;

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Route {
    Healthz,
    Metrics,
    ResourceMetrics,
    Pods,
    StatsSummary,
    ContainerLogs(Target),
    Exec(Target),
    Attach(Target),
    PortForward(Target),
}

impl Route {
    /// The endpoint that a path names.
    pub fn parse(path: &str) -> Option<Self> {
        let mut segments: Vec<&str> = path.split('/').skip(1).collect();
        if segments.last() == Some(&"") {
            segments.pop();
        }
        if segments.iter().any(|s| s.is_empty()) {
            return None;
        }
        let target = |namespace: &str, pod: &str, uid: Option<&str>, container: &str| Target {
            namespace: namespace.into(),
            pod: pod.into(),
            uid: uid.map(Into::into),
            container: container.into(),
        };
        Some(match segments.as_slice() {
            ["healthz"] => Self::Healthz,
            ["metrics"] => Self::Metrics,
            ["metrics", "resource"] => Self::ResourceMetrics,
            ["pods"] => Self::Pods,
            ["stats", "summary"] => Self::StatsSummary,
            ["containerLogs", ns, pod, container] => Self::ContainerLogs(target(ns, pod, None, container)),
            ["exec", ns, pod, container] => Self::Exec(target(ns, pod, None, container)),
            ["exec", ns, pod, uid, container] => Self::Exec(target(ns, pod, Some(uid), container)),
            ["attach", ns, pod, container] => Self::Attach(target(ns, pod, None, container)),
            ["attach", ns, pod, uid, container] => Self::Attach(target(ns, pod, Some(uid), container)),
            ["portForward", ns, pod] => Self::PortForward(target(ns, pod, None, "")),
            ["portForward", ns, pod, uid] => Self::PortForward(target(ns, pod, Some(uid), "")),
            _ => return None,
        })
    }

    /// The subresource of `nodes` that the kubelet checks access to, for the words of a refusal.
    pub fn subresource(&self) -> &'static str {
        match self {
            Self::Healthz => "healthz",
            Self::Metrics | Self::ResourceMetrics => "metrics",
            Self::Pods => "pods",
            Self::StatsSummary => "stats",
            _ => "proxy",
        }
    }
}

/// The parameters of a request, in order.
#[derive(Clone, Debug, Default)]
pub struct Query(Vec<(String, String)>);

impl Query {
    /// Decodes `a=1&b=x%20y`.
    pub fn parse(query: &str) -> Self {
        Self(form_urlencoded::parse(query.as_bytes()).into_owned().collect())
    }

    /// The first value of a name, if it is not empty.
    pub fn get(&self, name: &str) -> Option<&str> {
        let (_, value) = self.0.iter().find(|(n, _)| n == name)?;
        Some(value.as_str()).filter(|v| !v.is_empty())
    }

    /// All values of a name.
    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    /// Whether a name is there as `1` or `true`.
    pub fn flag(&self, name: &str) -> bool {
        matches!(self.get(name), Some("1" | "t" | "T" | "true" | "True" | "TRUE"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_name_endpoints_with_and_without_a_uid() {
        let target = |uid: Option<&str>| Target {
            namespace: "ns".into(),
            pod: "web".into(),
            uid: uid.map(Into::into),
            container: "app".into(),
        };
        assert_eq!(Route::parse("/exec/ns/web/app"), Some(Route::Exec(target(None))));
        assert_eq!(Route::parse("/attach/ns/web/u-1/app/"), Some(Route::Attach(target(Some("u-1")))));
        let pod_only = Target { container: String::new(), ..target(None) };
        assert_eq!(Route::parse("/portForward/ns/web"), Some(Route::PortForward(pod_only)));
        for path in ["/", "/exec/ns/web", "/exec//web/app", "/containerLogs/ns/web", "/nothing"] {
            assert_eq!(Route::parse(path), None, "{path}");
        }
    }

    #[test]
    fn parameters_are_decoded_and_keep_their_order() {
        let query = Query::parse("command=sh&command=-c&command=echo%20a%26b+c&tty=1&stdin=true&error=");
        assert_eq!(query.all("command").collect::<Vec<_>>(), ["sh", "-c", "echo a&b c"]);
        assert!(query.flag("tty") && query.flag("stdin") && !query.flag("error") && !query.flag("output"));
    }
}
