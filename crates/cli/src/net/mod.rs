//! `net`: the cluster's network at a glance: networks, addresses, ways from this machine, Services. All but the ways is the API's.

mod routes;

use crate::{
    ConnectionArgs, Error,
    api::{AS_JSON, Api},
    network::{NETWORKS, readiness, texts},
    print,
    table::plain,
};
use routes::Routes;
use serde_json::Value;
use std::{collections::BTreeMap, process::ExitCode};

/// Arguments of `net`.
#[derive(Clone, Debug, clap::Args)]
pub struct NetArgs {
    /// What to show [default: all of it]
    #[arg(value_enum, value_name = "PART")]
    pub parts: Vec<NetPart>,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub connection: ConnectionArgs,
}

/// A part of what is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum NetPart {
    /// The pods' own ranges, and networks that people make
    Networks,
    /// Who has which address: nodes and pods, in all networks
    Addresses,
    /// The ways from this machine to the ranges of nodes
    Routes,
    /// Services with their addresses, ports and endpoints
    Services,
}

pub(crate) async fn run(args: NetArgs) -> Result<ExitCode, Error> {
    let api = args.connection.connect().await?;
    let only = args.connection.namespace.as_deref();
    let nodes = list(&api, "/api/v1/nodes").await?;
    let all = [NetPart::Networks, NetPart::Addresses, NetPart::Routes, NetPart::Services];
    let parts = if args.parts.is_empty() { &all[..] } else { &args.parts };
    let mut sections = Vec::new();
    for part in parts {
        sections.push(match part {
            NetPart::Networks => networks(&nodes, &list(&api, NETWORKS).await?),
            NetPart::Addresses => {
                let pods = list(&api, &in_namespace("/api/v1", only, "pods")).await?;
                let more =
                    list(&api, &in_namespace("/apis/orlop.dev/v1", only, "networkattachments")).await?;
                addresses(&nodes, &pods, &more)
            }
            NetPart::Routes => ways(&nodes, &Routes::of_this_machine()),
            NetPart::Services => {
                let services = list(&api, &in_namespace("/api/v1", only, "services")).await?;
                let slices =
                    list(&api, &in_namespace("/apis/discovery.k8s.io/v1", only, "endpointslices")).await?;
                self::services(&services, &slices)
            }
        });
    }
    print(&sections.join("\n"))?;
    Ok(ExitCode::SUCCESS)
}

fn in_namespace(group: &str, namespace: Option<&str>, plural: &str) -> String {
    match namespace {
        Some(namespace) => format!("{group}/namespaces/{namespace}/{plural}"),
        None => format!("{group}/{plural}"),
    }
}

/// All objects of a kind; none where the server does not know it.
async fn list(api: &Api, path: &str) -> Result<Vec<Value>, Error> {
    match api.get(path, &[], AS_JSON).await {
        Ok(mut list) => Ok(list["items"].as_array_mut().map(std::mem::take).unwrap_or_default()),
        Err(error) if error.is_not_found() => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

fn items<'a>(object: &'a Value, pointer: &str) -> impl Iterator<Item = &'a Value> {
    object.pointer(pointer).and_then(Value::as_array).into_iter().flatten()
}

fn or_dash(text: impl Into<String>) -> String {
    let text = text.into();
    if text.is_empty() { "-".into() } else { text }
}

fn full_name(object: &Value) -> String {
    format!("{}/{}", text(object, "/metadata/namespace"), text(object, "/metadata/name"))
}

fn networks(nodes: &[Value], networks: &[Value]) -> String {
    let of_nodes = nodes.iter().map(|node| {
        let ranges = texts(node.pointer("/spec/podCIDRs").unwrap_or(&Value::Null)).join(",");
        vec![format!("pods on {}", text(node, "/metadata/name")), or_dash(ranges), "-".into(), "-".into()]
    });
    let made = networks.iter().map(|network| {
        let ranges: Vec<&str> = items(network, "/spec/subnets").map(|subnet| text(subnet, "/cidr")).collect();
        let members = network.pointer("/status/attachments").and_then(Value::as_i64).unwrap_or_default();
        let isolation = text(network, "/spec/isolation");
        vec![
            text(network, "/metadata/name").into(),
            or_dash(ranges.join(",")),
            or_dash(isolation),
            members.to_string(),
        ]
    });
    plain(&["NETWORK", "RANGES", "ISOLATION", "MEMBERS"], of_nodes.chain(made).collect())
}

fn addresses(nodes: &[Value], pods: &[Value], attachments: &[Value]) -> String {
    let mut rows = Vec::new();
    for node in nodes {
        let own = items(node, "/status/addresses").filter(|address| text(address, "/type").ends_with("IP"));
        for address in own {
            let name = text(node, "/metadata/name");
            rows.push(vec![
                text(address, "/address").into(),
                format!("node/{name}"),
                name.into(),
                "-".into(),
                "-".into(),
            ]);
        }
    }
    for pod in pods.iter().filter(|pod| pod.pointer("/spec/hostNetwork") != Some(&Value::Bool(true))) {
        if matches!(text(pod, "/status/phase"), "Succeeded" | "Failed") {
            continue;
        }
        for address in items(pod, "/status/podIPs") {
            let node = or_dash(text(pod, "/spec/nodeName"));
            rows.push(vec![
                text(address, "/ip").into(),
                format!("pod/{}", full_name(pod)),
                node,
                "pods".into(),
                "eth0".into(),
            ]);
        }
    }
    for attachment in attachments {
        let (ready, _) = readiness(attachment);
        let interface = text(attachment, "/status/interface");
        let pod =
            format!("pod/{}/{}", text(attachment, "/metadata/namespace"), text(attachment, "/spec/podName"));
        for address in texts(attachment.pointer("/spec/addresses").unwrap_or(&Value::Null)) {
            rows.push(vec![
                address.into(),
                pod.clone(),
                or_dash(text(attachment, "/status/nodeName")),
                text(attachment, "/spec/networkName").into(),
                if ready { interface.into() } else { "(not connected)".into() },
            ]);
        }
    }
    plain(&["ADDRESS", "OF", "NODE", "NETWORK", "INTERFACE"], rows)
}

fn ways(nodes: &[Value], routes: &Routes) -> String {
    let mut rows = Vec::new();
    for node in nodes {
        for range in texts(node.pointer("/spec/podCIDRs").unwrap_or(&Value::Null)) {
            let way = range.parse().ok().and_then(|range| routes.to(&range));
            rows.push(vec![
                range.into(),
                text(node, "/metadata/name").into(),
                way.unwrap_or_else(|| "(none from this machine)".into()),
            ]);
        }
    }
    plain(&["RANGE", "NODE", "WAY FROM HERE"], rows)
}

fn services(services: &[Value], slices: &[Value]) -> String {
    let mut ready: BTreeMap<String, usize> = BTreeMap::new();
    for slice in slices {
        let of = text(slice, "/metadata/labels/kubernetes.io~1service-name");
        let of = format!("{}/{of}", text(slice, "/metadata/namespace"));
        // Who says nothing of itself is ready.
        let count = items(slice, "/endpoints")
            .filter(|endpoint| endpoint.pointer("/conditions/ready") != Some(&Value::Bool(false)));
        *ready.entry(of).or_default() += count.count();
    }
    let rows = services.iter().map(|service| {
        let mut addresses = texts(service.pointer("/spec/clusterIPs").unwrap_or(&Value::Null));
        addresses.extend(texts(service.pointer("/spec/externalIPs").unwrap_or(&Value::Null)));
        addresses.extend(items(service, "/status/loadBalancer/ingress").map(|ingress| text(ingress, "/ip")));
        addresses.push(text(service, "/spec/externalName"));
        addresses.retain(|address| !address.is_empty());
        let ports: Vec<String> = items(service, "/spec/ports").map(port).collect();
        let name = full_name(service);
        let endpoints = ready.get(&name).copied().unwrap_or_default().to_string();
        vec![
            name,
            text(service, "/spec/type").into(),
            or_dash(addresses.join(",")),
            or_dash(ports.join(",")),
            endpoints,
        ]
    });
    plain(&["SERVICE", "TYPE", "ADDRESSES", "PORTS", "READY ENDPOINTS"], rows.collect())
}

fn port(port: &Value) -> String {
    let number = |key: &str| port.get(key).and_then(Value::as_i64).filter(|number| *number > 0);
    let protocol = port.get("protocol").and_then(Value::as_str).unwrap_or("TCP");
    let at_nodes = number("nodePort").map(|number| format!(":{number}")).unwrap_or_default();
    format!("{}{at_nodes}/{protocol}", number("port").unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn node() -> Value {
        json!({"metadata": {"name": "one"}, "spec": {"podCIDRs": ["10.42.0.0/24"]}, "status": {"addresses": [
            {"type": "InternalIP", "address": "192.0.2.1"}, {"type": "Hostname", "address": "one"}]}})
    }

    #[test]
    fn ranges_and_networks_are_listed() {
        let made = json!({"metadata": {"name": "back"}, "status": {"attachments": 2},
            "spec": {"subnets": [{"cidr": "10.64.0.0/24"}, {"cidr": "fd00::/64"}], "isolation": "Isolated"}});
        assert_eq!(
            networks(&[node()], &[made]),
            "NETWORK       RANGES                   ISOLATION   MEMBERS\n\
             pods on one   10.42.0.0/24             -           -\n\
             back          10.64.0.0/24,fd00::/64   Isolated    2\n"
        );
    }

    #[test]
    fn every_address_stands_with_whose_it_is() {
        let pod = |name: &str, more: Value| {
            let mut pod = json!({"metadata": {"namespace": "d", "name": name}, "spec": {"nodeName": "one"},
                "status": {"phase": "Running", "podIPs": [{"ip": "10.42.0.2"}]}});
            pod["status"].as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            pod
        };
        let pods = [pod("a", json!({})), pod("over", json!({"phase": "Succeeded"}))];
        let attachment = |status: &str| {
            json!({"metadata": {"namespace": "d"},
            "spec": {"podName": "a", "networkName": "back", "addresses": ["10.64.0.2"]},
            "status": {"nodeName": "one", "interface": "back", "conditions": [{"type": "Ready", "status": status}]}})
        };
        let shown = addresses(&[node()], &pods, &[attachment("True"), attachment("False")]);
        let lines: Vec<Vec<&str>> =
            shown.lines().map(|line| line.split("   ").map(str::trim).collect()).collect();
        assert_eq!(lines.len(), 5, "{shown}");
        assert!(shown.contains("192.0.2.1   node/one   one"), "{shown}");
        assert!(shown.contains("10.42.0.2   pod/d/a    one    pods"), "{shown}");
        assert!(shown.contains("back\n") && shown.contains("back      (not connected)"), "{shown}");
    }

    #[test]
    fn services_are_shown_with_all_their_addresses_and_who_is_ready() {
        let service = json!({"metadata": {"namespace": "d", "name": "web"}, "spec": {"type": "NodePort",
            "clusterIPs": ["10.43.0.9"], "ports": [{"port": 80, "nodePort": 30080}, {"port": 53, "protocol": "UDP"}]}});
        let slice = json!({"metadata": {"namespace": "d", "labels": {"kubernetes.io/service-name": "web"}}, "endpoints": [
            {"conditions": {"ready": true}}, {"conditions": {"ready": false}}, {}]});
        let shown = services(&[service], &[slice]);
        assert!(shown.contains("d/web     NodePort   10.43.0.9   80:30080/TCP,53/UDP   2\n"), "{shown}");
    }
}
