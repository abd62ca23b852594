//! `explain connection`: whether NetworkPolicies let a connection come about, and which rule of which one decides, at both ends.
//! It asks the API what there is and judges by the same words as the nodes' rules are made of; it sends no packet.

use crate::{
    ConnectionArgs, Error,
    api::{AS_JSON, Api, Query},
    print,
};
use k8s_openapi::api::{
    core::v1::{Namespace, Pod as ApiPod, Service},
    discovery::v1::EndpointSlice,
    networking::v1::NetworkPolicy,
};
use orlop_network::{
    Protocol,
    policy::{Connection, Direction, Judgement, ObjectName, Pod, Refusal, Verdict, World, judge},
};
use orlop_node::policies::facts;
use serde::de::DeserializeOwned;
use std::{collections::BTreeSet, fmt::Write, net::IpAddr, process::ExitCode};

/// Arguments of `explain connection`.
#[derive(Clone, Debug, clap::Args)]
pub struct ExplainConnectionArgs {
    /// Who opens the connection: pod/NAME[.NAMESPACE], service/NAME[.NAMESPACE] (any of its pods) or an IP address
    #[arg(value_name = "FROM")]
    pub from: String,
    /// To whom: pod/NAME[.NAMESPACE], service/NAME[.NAMESPACE] or an IP address
    #[arg(value_name = "TO")]
    pub to: String,
    /// The destination's port: 80, tcp/80, udp/53, sctp/9, or a port's name in place of the number
    #[arg(value_name = "PORT")]
    pub port: Port,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub connection: ConnectionArgs,
}

/// A port as a person names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    protocol: Protocol,
    which: Which,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Which {
    Number(u16),
    Name(String),
}

impl std::str::FromStr for Port {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (protocol, port) = text.split_once('/').unwrap_or(("tcp", text));
        let protocol = match protocol.to_ascii_lowercase().as_str() {
            "tcp" => Protocol::Tcp,
            "udp" => Protocol::Udp,
            "sctp" => Protocol::Sctp,
            other => return Err(format!("{other:?} is none of tcp, udp, sctp")),
        };
        let which = match port.parse::<u16>() {
            Ok(number) if number > 0 => Which::Number(number),
            Err(_) if port.bytes().any(|byte| byte.is_ascii_alphabetic()) => Which::Name(port.to_owned()),
            _ => return Err(format!("{port:?} is no port")),
        };
        Ok(Self { protocol, which })
    }
}

/// Exits with 0 if the connection is allowed to all that it may lead to, 1 if not, 2 if that cannot be found out.
pub(crate) async fn run(args: ExplainConnectionArgs) -> Result<ExitCode, Error> {
    match explain(&args).await {
        Ok((text, allowed)) => {
            print(&text)?;
            Ok(if allowed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
        Err(error) => {
            // Its text is complete.
            eprintln!("{error}");
            Ok(ExitCode::from(2))
        }
    }
}

async fn explain(args: &ExplainConnectionArgs) -> Result<(String, bool), Error> {
    let api = args.connection.connect().await?;
    let policies: Vec<NetworkPolicy> = list(&api, "/apis/networking.k8s.io/v1/networkpolicies", &[]).await?;
    let pods: Vec<ApiPod> = list(&api, "/api/v1/pods", &[]).await?;
    let namespaces: Vec<Namespace> = list(&api, "/api/v1/namespaces", &[]).await?;
    let world = World {
        namespaces: namespaces.iter().filter_map(facts::namespace).collect(),
        pods: pods.iter().filter_map(facts::pod).collect(),
        policies: policies.iter().filter_map(facts::policy).collect(),
    };
    let from = places(&api, &world, &args.from, None).await?;
    let to = places(&api, &world, &args.to, Some(&args.port)).await?;
    Ok(answer(&world, &from, &to, args.port.protocol))
}

async fn list<T: DeserializeOwned>(api: &Api, path: &str, query: Query<'_>) -> Result<Vec<T>, Error> {
    let mut list = api.get(path, query, AS_JSON).await?;
    let items = list["items"].take();
    let items: Option<Vec<T>> = serde_json::from_value(items).map_err(|e| Error::Answer(e.to_string()))?;
    Ok(items.unwrap_or_default())
}

/// One end of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Place {
    name: String,
    address: IpAddr,
    /// 0 for who opens a connection.
    port: u16,
}

/// What a person may mean.
enum Meant {
    Pod(String),
    Service(String),
    Address(IpAddr),
}

impl Meant {
    fn read(text: &str) -> Result<Self, Error> {
        if let Ok(address) = text.parse() {
            return Ok(Self::Address(address));
        }
        match text.split_once('/') {
            Some(("pod" | "pods" | "po", name)) if !name.is_empty() => Ok(Self::Pod(name.to_owned())),
            Some(("service" | "services" | "svc", name)) if !name.is_empty() => {
                Ok(Self::Service(name.to_owned()))
            }
            _ => Err(Error::Usage(format!(
                "{text:?} is none of pod/NAME[.NAMESPACE], service/NAME[.NAMESPACE], an IP address"
            ))),
        }
    }
}

/// Where a name or address leads to; with a port: of those, the port there.
async fn places(api: &Api, world: &World, text: &str, port: Option<&Port>) -> Result<Vec<Place>, Error> {
    match Meant::read(text)? {
        Meant::Pod(name) => of_pod(find_pod(world, &name, &api.namespace)?, port),
        Meant::Service(name) => {
            let (name, namespace) = name.split_once('.').unwrap_or((&name, &api.namespace));
            let path = format!("/api/v1/namespaces/{namespace}/services/{name}");
            let found = api.get(&path, &[], AS_JSON).await?;
            let found = serde_json::from_value(found).map_err(|e| Error::Answer(e.to_string()))?;
            of_service(api, world, &found, port).await
        }
        Meant::Address(address) => {
            if let Some(pod) = world.pod_at(address) {
                let own = Pod { addresses: vec![address], ..pod.clone() };
                return of_pod(&own, port);
            }
            if port.is_some() {
                let services: Vec<Service> = list(api, "/api/v1/services", &[]).await?;
                if let Some(found) = services.iter().find(|service| has_address(service, address)) {
                    return of_service(api, world, found, port).await;
                }
            }
            let number = match port.map(|port| &port.which) {
                None => 0,
                Some(Which::Number(number)) => *number,
                Some(Which::Name(name)) => {
                    return Err(Error::Usage(format!(
                        "{address} is no pod and no Service that has a port {name:?}"
                    )));
                }
            };
            Ok(vec![Place { name: "no pod".into(), address, port: number }])
        }
    }
}

/// By its name in a namespace, or as NAME.NAMESPACE: names of pods may have dots, those of namespaces do not.
fn find_pod<'a>(world: &'a World, text: &str, namespace: &str) -> Result<&'a Pod, Error> {
    let named = |namespace: &str, name: &str| {
        world.pods.iter().find(|pod| pod.name.namespace == namespace && pod.name.name == name)
    };
    let elsewhere = || text.rsplit_once('.').and_then(|(name, namespace)| named(namespace, name));
    named(namespace, text)
        .or_else(elsewhere)
        .ok_or_else(|| Error::Usage(format!("pods {text:?} not found in namespace {namespace:?}")))
}

fn of_pod(pod: &Pod, port: Option<&Port>) -> Result<Vec<Place>, Error> {
    let addresses = if pod.host_network { &pod.node_addresses } else { &pod.addresses };
    if addresses.is_empty() {
        return Err(Error::Usage(format!("pod {} has no address: it does not run", pod.name)));
    }
    let number = match port {
        None => 0,
        Some(Port { which: Which::Number(number), .. }) => *number,
        Some(Port { which: Which::Name(name), protocol }) => pod
            .ports
            .iter()
            .find(|known| known.name == *name && known.protocol == *protocol)
            .map(|known| known.port)
            .ok_or_else(|| Error::Usage(format!("pod {} has no {protocol} port {name:?}", pod.name)))?,
    };
    let name =
        if pod.host_network { format!("{} in its node's network", pod.name) } else { pod.name.to_string() };
    Ok(addresses
        .iter()
        .map(|address| Place { name: name.clone(), address: *address, port: number })
        .collect())
}

fn has_address(service: &Service, address: IpAddr) -> bool {
    let Some(spec) = &service.spec else { return false };
    let balancer =
        service.status.as_ref().and_then(|s| s.load_balancer.as_ref()).and_then(|b| b.ingress.as_ref());
    let of_balancer = balancer.into_iter().flatten().filter_map(|ingress| ingress.ip.as_ref());
    let all = spec
        .cluster_ips
        .iter()
        .chain(&spec.external_ips)
        .flatten()
        .chain(&spec.cluster_ip)
        .chain(of_balancer);
    all.filter_map(|text| text.parse::<IpAddr>().ok()).any(|known| known == address)
}

/// The endpoints that traffic for a Service's port goes to.
async fn of_service(
    api: &Api,
    world: &World,
    service: &Service,
    port: Option<&Port>,
) -> Result<Vec<Place>, Error> {
    let name = service.metadata.name.clone().unwrap_or_default();
    let namespace = service.metadata.namespace.clone().unwrap_or_default();
    let ports = service.spec.iter().flat_map(|spec| spec.ports.iter().flatten());
    let port_name = match port {
        None => None,
        Some(port) => {
            let fits = |number: i32, called: Option<&str>| match &port.which {
                Which::Number(wanted) => number == i32::from(*wanted),
                Which::Name(wanted) => called == Some(wanted),
            };
            let found = ports
                .into_iter()
                .find(|p| fits(p.port, p.name.as_deref()) && is(p.protocol.as_deref(), port.protocol))
                .ok_or_else(|| {
                    Error::Usage(format!(
                        "service {namespace}/{name} has no {} port {}",
                        port.protocol, port.which
                    ))
                })?;
            Some(found.name.clone().unwrap_or_default())
        }
    };
    let path = format!("/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices");
    let selector = format!("kubernetes.io/service-name={name}");
    let slices: Vec<EndpointSlice> = list(api, &path, &[("labelSelector", selector.as_str())]).await?;
    let places = endpoints(world, &format!("{namespace}/{name}"), &slices, port_name.as_deref(), port);
    if places.is_empty() {
        return Err(Error::Usage(format!(
            "service {namespace}/{name} has no ready endpoint: whoever asks it is refused"
        )));
    }
    Ok(places)
}

fn is(given: Option<&str>, protocol: Protocol) -> bool {
    given.unwrap_or("TCP").eq_ignore_ascii_case(&protocol.to_string())
}

fn endpoints(
    world: &World,
    service: &str,
    slices: &[EndpointSlice],
    port_name: Option<&str>,
    port: Option<&Port>,
) -> Vec<Place> {
    let mut seen = BTreeSet::new();
    let mut places = Vec::new();
    for slice in slices {
        let number = match (port_name, port) {
            (Some(name), Some(port)) => {
                let mut ports = slice.ports.iter().flatten();
                let found = ports.find(|p| {
                    p.name.as_deref().unwrap_or_default() == name && is(p.protocol.as_deref(), port.protocol)
                });
                let Some(number) = found.and_then(|p| u16::try_from(p.port?).ok()) else { continue };
                number
            }
            _ => 0,
        };
        for endpoint in slice.endpoints.iter().flatten() {
            let ready = endpoint.conditions.as_ref().and_then(|c| c.ready).unwrap_or(true);
            let address = endpoint.addresses.first().and_then(|text| text.parse::<IpAddr>().ok());
            if let Some(address) = address.filter(|address| ready && seen.insert((*address, number))) {
                let whose = world.pod_at(address).map_or_else(|| "no pod".into(), |pod| pod.name.to_string());
                places.push(Place { name: format!("{whose}, of service {service}"), address, port: number });
            }
        }
    }
    places
}

impl std::fmt::Display for Which {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Number(number) => write!(out, "{number}"),
            Self::Name(name) => write!(out, "{name:?}"),
        }
    }
}

/// What a person reads, and whether all is allowed. Connections of two families of one pair are told once if their fate is one.
fn answer(world: &World, from: &[Place], to: &[Place], protocol: Protocol) -> (String, bool) {
    let (mut text, mut all_allowed) = (String::new(), true);
    let mut told: Vec<(String, String, u16, Judgement)> = Vec::new();
    for source in from {
        for target in to.iter().filter(|target| target.address.is_ipv4() == source.address.is_ipv4()) {
            let connection =
                Connection { from: source.address, to: target.address, protocol, port: target.port };
            let judgement = judge(world, connection);
            all_allowed &= judgement.is_allowed();
            let same = (source.name.clone(), target.name.clone(), target.port, judgement);
            if !told.contains(&same) {
                text.push_str(&told_of(world, source, target, protocol, &same.3));
                told.push(same);
            }
        }
    }
    if told.is_empty() {
        text.push_str("the two have no addresses of one family: there is no way between them\n");
        all_allowed = false;
    }
    (text, all_allowed)
}

fn told_of(world: &World, from: &Place, to: &Place, protocol: Protocol, judgement: &Judgement) -> String {
    let mut text = String::new();
    let word = if judgement.is_allowed() { "allowed" } else { "denied" };
    let place = |place: &Place| format!("{} ({})", place.address, place.name);
    // Writing to a String cannot fail.
    let _ = writeln!(text, "{} -> {} {protocol}/{}: {word}", place(from), place(to), to.port);
    for (direction, end, verdict) in
        [(Direction::Egress, from, &judgement.egress), (Direction::Ingress, to, &judgement.ingress)]
    {
        let whose =
            world.pod_at(end.address).map_or_else(|| end.address.to_string(), |pod| pod.name.to_string());
        let _ = writeln!(text, "  {} of {whose}: {}", direction.name(), reason(direction, verdict));
    }
    text
}

fn reason(direction: Direction, verdict: &Verdict) -> String {
    match verdict {
        Verdict::NoPod => "allowed, no pod has this address, and NetworkPolicies are about pods".into(),
        Verdict::OwnNode => "allowed, between a pod and its own node everything is".into(),
        Verdict::Itself => "allowed, a pod may talk to itself".into(),
        Verdict::NotSelected => "allowed, no NetworkPolicy selects the pod for this direction".into(),
        Verdict::Allowed(by) => {
            let rules: Vec<String> =
                by.iter().map(|allowance| rule(&allowance.policy, direction, allowance.rule)).collect();
            format!("allowed by {}", rules.join("; "))
        }
        Verdict::Denied(by) => {
            let refusals: Vec<String> = by.iter().map(|refusal| refused(direction, refusal)).collect();
            format!("denied, NetworkPolicies select the pod and none lets this through{}", refusals.concat())
        }
    }
}

fn rule(policy: &ObjectName, direction: Direction, index: usize) -> String {
    format!("NetworkPolicy {policy}, {}[{index}]", direction.name())
}

fn refused(direction: Direction, refusal: &Refusal) -> String {
    let (name, other) = match direction {
        Direction::Ingress => ("ingress", "the sender is none of its peers (from)"),
        Direction::Egress => ("egress", "the receiver is none of its peers (to)"),
    };
    if refusal.misses.is_empty() {
        return format!("\n    NetworkPolicy {}: it has no {name} rule", refusal.policy);
    }
    let misses = refusal.misses.iter().enumerate().map(|(index, miss)| {
        let why = match (miss.peers, miss.ports) {
            (true, true) => format!("{other}, and the port none of its ports"),
            (true, false) => other.to_owned(),
            _ => "the port is none of its ports".to_owned(),
        };
        format!("\n    {}: {why}", rule(&refusal.policy, direction, index))
    });
    misses.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn world(policies: Value) -> World {
        let pod = |namespace: &str, name: &str, ip: &str| -> ApiPod {
            serde_json::from_value(json!({
                "metadata": {"namespace": namespace, "name": name, "uid": format!("{namespace}-{name}"), "labels": {"app": name}},
                "spec": {"containers": [{"name": "c", "ports": [{"name": "http", "containerPort": 8080}]}]},
                "status": {"podIP": ip, "hostIP": "192.0.2.1"},
            }))
            .unwrap()
        };
        let pods =
            [pod("x", "web", "10.0.0.1"), pod("x", "web.v2", "10.0.0.2"), pod("y", "client", "10.0.0.3")];
        let policies: Vec<NetworkPolicy> = serde_json::from_value(policies).unwrap();
        World {
            namespaces: [("x".into(), Default::default()), ("y".into(), Default::default())].into(),
            pods: pods.iter().filter_map(facts::pod).collect(),
            policies: policies.iter().filter_map(facts::policy).collect(),
        }
    }

    fn port(text: &str) -> Port {
        text.parse().unwrap()
    }

    fn told(world: &World, from: &str, to: &str, port_text: &str) -> (String, bool) {
        let end =
            |text: &str, port: Option<&Port>| of_pod(find_pod(world, text, "x").unwrap(), port).unwrap();
        let wanted = port(port_text);
        answer(world, &end(from, None), &end(to, Some(&wanted)), wanted.protocol)
    }

    #[test]
    fn ports_are_read_as_people_write_them() {
        assert_eq!(port("80"), Port { protocol: Protocol::Tcp, which: Which::Number(80) });
        assert_eq!(port("udp/53"), Port { protocol: Protocol::Udp, which: Which::Number(53) });
        assert_eq!(port("TCP/http"), Port { protocol: Protocol::Tcp, which: Which::Name("http".into()) });
        for wrong in ["0", "65536", "icmp/1", "tcp/", ""] {
            assert!(wrong.parse::<Port>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_rule_that_lets_through_is_named() {
        let policy = json!([{"metadata": {"namespace": "x", "name": "p"}, "spec": {"podSelector": {"matchLabels": {"app": "web"}},
            "ingress": [{"from": [{"podSelector": {}}]}, {"from": [{"namespaceSelector": {}}], "ports": [{"port": "http"}]}]}}]);
        let (text, allowed) = told(&world(policy), "client.y", "web", "http");
        assert!(allowed);
        assert_eq!(
            text,
            "10.0.0.3 (y/client) -> 10.0.0.1 (x/web) tcp/8080: allowed\n  egress of y/client: allowed, no NetworkPolicy selects the \
             pod for this direction\n  ingress of x/web: allowed by NetworkPolicy x/p, ingress[1]\n"
        );
    }

    #[test]
    fn what_does_not_fit_is_told_of_each_rule() {
        let policies = json!([
            {"metadata": {"namespace": "x", "name": "deny"}, "spec": {"podSelector": {}, "policyTypes": ["Ingress"]}},
            {"metadata": {"namespace": "x", "name": "p"}, "spec": {"podSelector": {}, "ingress": [
                {"from": [{"podSelector": {}}], "ports": [{"port": 1}]}, {"ports": [{"port": 1}]}]}}]);
        let (text, allowed) = told(&world(policies), "client.y", "web.v2", "80");
        assert!(!allowed && text.contains("-> 10.0.0.2 (x/web.v2) tcp/80: denied"), "{text}");
        for line in [
            "    NetworkPolicy x/deny: it has no ingress rule",
            "    NetworkPolicy x/p, ingress[0]: the sender is none of its peers (from), and the port none of its ports",
            "    NetworkPolicy x/p, ingress[1]: the port is none of its ports",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} in {text}");
        }
    }

    #[test]
    fn a_service_leads_to_its_ready_endpoints_at_their_own_port() {
        let slice: EndpointSlice = serde_json::from_value(json!({
            "addressType": "IPv4", "ports": [{"name": "web", "port": 8080, "protocol": "TCP"}],
            "endpoints": [{"addresses": ["10.0.0.1"]}, {"addresses": ["10.0.0.2"], "conditions": {"ready": false}},
                          {"addresses": ["198.51.100.9"]}]}))
        .unwrap();
        let world = world(json!([]));
        let found = endpoints(&world, "x/web", &[slice.clone(), slice], Some("web"), Some(&port("80")));
        let listed: Vec<String> =
            found.iter().map(|p| format!("{} {}:{}", p.name, p.address, p.port)).collect();
        assert_eq!(
            listed,
            ["x/web, of service x/web 10.0.0.1:8080", "no pod, of service x/web 198.51.100.9:8080"]
        );
    }
}
