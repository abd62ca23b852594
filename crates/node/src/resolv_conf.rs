//! `/etc/resolv.conf` of a pod by its `dnsPolicy` and `dnsConfig` (Kubernetes documentation, "DNS for Services and Pods").
//! Pure: the node's own file is handed in.

use crate::{NodeConfig, pod::PodExt};
use k8s_openapi::api::core::v1::Pod;

/// Most name servers and most search domains that are kept, and the most characters of the latter.
const MAX_SERVERS: usize = 3;
const MAX_SEARCHES: usize = 32;
const MAX_SEARCH_CHARACTERS: usize = 2048;

/// A resolver configuration (resolv.conf(5)).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ResolvConf {
    pub servers: Vec<String>,
    pub searches: Vec<String>,
    pub options: Vec<String>,
}

impl ResolvConf {
    /// Reads a file. The last `search` and all `options` count.
    pub fn parse(text: &str) -> Self {
        let mut conf = Self::default();
        for line in text.lines() {
            let line = line.split(['#', ';']).next().unwrap_or_default();
            let mut words = line.split_whitespace().map(String::from);
            match words.next().as_deref() {
                Some("nameserver") => conf.servers.extend(words.next()),
                Some("search") => conf.searches = words.map(|w| trimmed(&w)).collect(),
                Some("options") => conf.options.extend(words),
                _ => {}
            }
        }
        conf
    }

    /// As a file.
    pub fn text(&self) -> String {
        let mut out = String::new();
        if !self.searches.is_empty() {
            out.push_str(&format!("search {}\n", self.searches.join(" ")));
        }
        for server in &self.servers {
            out.push_str(&format!("nameserver {server}\n"));
        }
        if !self.options.is_empty() {
            out.push_str(&format!("options {}\n", self.options.join(" ")));
        }
        out
    }
}

fn trimmed(domain: &str) -> String {
    if domain == "." { domain.into() } else { domain.trim_end_matches('.').into() }
}

/// The resolver configuration of a pod. `host` is the node's own.
pub(crate) fn of_pod(pod: &Pod, config: &NodeConfig, host: &ResolvConf) -> ResolvConf {
    let spec = pod.spec_ref();
    let policy = spec.dns_policy.as_deref().unwrap_or("ClusterFirst");
    let cluster = match policy {
        "None" | "Default" => false,
        "ClusterFirstWithHostNet" => true,
        _ => !pod.host_network(),
    };
    let mut conf = if policy == "None" {
        ResolvConf::default()
    } else if cluster && !config.cluster_dns.is_empty() {
        let domain = &config.cluster_domain;
        let own = [format!("{}.svc.{domain}", pod.namespace()), format!("svc.{domain}"), domain.clone()];
        ResolvConf {
            servers: config.cluster_dns.iter().map(ToString::to_string).collect(),
            searches: own.into_iter().chain(host.searches.iter().cloned()).collect(),
            options: vec!["ndots:5".into()],
        }
    } else {
        host.clone()
    };
    if let Some(own) = &spec.dns_config {
        conf.servers.extend(own.nameservers.iter().flatten().cloned());
        conf.searches.extend(own.searches.iter().flatten().map(|s| trimmed(s)));
        for option in own.options.iter().flatten() {
            let name = option.name.clone().unwrap_or_default();
            let text = match &option.value {
                Some(value) if !value.is_empty() => format!("{name}:{value}"),
                _ => name.clone(),
            };
            conf.options.retain(|o| o.split(':').next() != Some(&name));
            conf.options.push(text);
        }
    }
    unique(&mut conf.servers);
    unique(&mut conf.searches);
    conf.servers.truncate(MAX_SERVERS);
    limit_searches(&mut conf.searches);
    conf
}

fn unique(list: &mut Vec<String>) {
    let mut seen = std::collections::HashSet::new();
    list.retain(|item| seen.insert(item.clone()));
}

fn limit_searches(searches: &mut Vec<String>) {
    searches.truncate(MAX_SEARCHES);
    let mut length = 0;
    searches.retain(|s| {
        length += s.len() + 1;
        length <= MAX_SEARCH_CHARACTERS + 1
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn run(spec: Value) -> String {
        let pod = json!({"metadata": {"namespace": "shop"}, "spec": spec});
        let pod: Pod = serde_json::from_value(pod).expect("a pod");
        let mut config = NodeConfig::new("n", "/nowhere", "192.0.2.1".parse().expect("an address"));
        config.cluster_dns = vec!["10.96.0.10".parse().expect("an address")];
        let host = ResolvConf::parse(
            "# ours\nnameserver 192.0.2.53\nnameserver 192.0.2.54 # second\nsearch example.com. lab\noptions timeout:1\n",
        );
        of_pod(&pod, &config, &host).text()
    }

    #[test]
    fn each_policy_gives_its_file() {
        let cluster = "search shop.svc.cluster.local svc.cluster.local cluster.local example.com lab\nnameserver 10.96.0.10\noptions ndots:5\n";
        let host =
            "search example.com lab\nnameserver 192.0.2.53\nnameserver 192.0.2.54\noptions timeout:1\n";
        for (spec, expected) in [
            (json!({"containers": []}), cluster),
            (json!({"containers": [], "dnsPolicy": "ClusterFirst"}), cluster),
            (json!({"containers": [], "dnsPolicy": "ClusterFirst", "hostNetwork": true}), host),
            (json!({"containers": [], "dnsPolicy": "ClusterFirstWithHostNet", "hostNetwork": true}), cluster),
            (json!({"containers": [], "dnsPolicy": "Default"}), host),
            (json!({"containers": [], "dnsPolicy": "None"}), ""),
            (
                json!({"containers": [], "dnsPolicy": "None", "dnsConfig": {"nameservers": ["1.2.3.4"],
                    "searches": ["a.b."], "options": [{"name": "ndots", "value": "2"}, {"name": "edns0"}]}}),
                "search a.b\nnameserver 1.2.3.4\noptions ndots:2 edns0\n",
            ),
            (
                json!({"containers": [], "dnsConfig": {"nameservers": ["10.96.0.10", "1.1.1.1", "2.2.2.2", "3.3.3.3"],
                    "searches": ["lab", "more"], "options": [{"name": "ndots", "value": "2"}]}}),
                "search shop.svc.cluster.local svc.cluster.local cluster.local example.com lab more\n\
                 nameserver 10.96.0.10\nnameserver 1.1.1.1\nnameserver 2.2.2.2\noptions ndots:2\n",
            ),
        ] {
            assert_eq!(run(spec.clone()), expected, "{spec}");
        }
    }
}
