//! `network`: networks that people make, in the verbs that they know from docker. Behind each stands an object that any client can
//! write: a Network, or the NetworkAttachment of a pod.

use crate::{
    ConnectionArgs, Error,
    api::{AS_JSON, AS_TABLE, Api, Content},
    print,
    table::Printer,
};
use http::Method;
use orlop_api::orlop_v1::{NETWORKS_ANNOTATION, attachment_name, networks_of};
use serde_json::{Map, Value, json};
use std::{
    collections::BTreeMap,
    net::IpAddr,
    process::ExitCode,
    time::{Duration, Instant},
};

pub(crate) const NETWORKS: &str = "/apis/orlop.dev/v1/networks";
const MERGE: &str = "application/merge-patch+json";
/// How long a pod may take to be connected.
const PATIENCE: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(50);

/// Arguments of `network`.
#[derive(Clone, Debug, clap::Args)]
pub struct NetworkArgs {
    /// What to do
    #[command(subcommand)]
    pub verb: NetworkVerb,
}

/// What can be done with networks.
#[derive(Clone, Debug, clap::Subcommand)]
pub enum NetworkVerb {
    /// List networks
    Ls {
        #[command(flatten)]
        #[allow(missing_docs)]
        connection: ConnectionArgs,
    },
    /// Make a network
    Create {
        /// Its name
        name: String,
        /// Range of addresses, one a family; those that are not named are given
        #[arg(long, value_name = "CIDR")]
        subnet: Vec<String>,
        /// The nodes' own address in the range of its family [default: the first]
        #[arg(long, value_name = "ADDRESS")]
        gateway: Vec<IpAddr>,
        /// With a range of IPv6 beside that of IPv4
        #[arg(long)]
        ipv6: bool,
        /// Its members reach others through it, and are reached from their machines
        #[arg(long)]
        open: bool,
        #[command(flatten)]
        #[allow(missing_docs)]
        connection: ConnectionArgs,
    },
    /// Delete networks; no pod may be connected to them
    Rm {
        /// The networks
        #[arg(required = true, value_name = "NETWORK")]
        networks: Vec<String>,
        #[command(flatten)]
        #[allow(missing_docs)]
        connection: ConnectionArgs,
    },
    /// Connect a running pod, and wait until it is
    Connect {
        /// The network
        network: String,
        /// The pod
        pod: String,
        /// Its address there, one a family [default: a free one]
        #[arg(long, value_name = "ADDRESS")]
        ip: Vec<IpAddr>,
        #[command(flatten)]
        #[allow(missing_docs)]
        connection: ConnectionArgs,
    },
    /// Disconnect a running pod
    Disconnect {
        /// The network
        network: String,
        /// The pod
        pod: String,
        #[command(flatten)]
        #[allow(missing_docs)]
        connection: ConnectionArgs,
    },
    /// Show networks and who is connected to them, as JSON
    Inspect {
        /// The networks
        #[arg(required = true, value_name = "NETWORK")]
        networks: Vec<String>,
        #[command(flatten)]
        #[allow(missing_docs)]
        connection: ConnectionArgs,
    },
}

pub(crate) async fn run(args: NetworkArgs) -> Result<ExitCode, Error> {
    match args.verb {
        NetworkVerb::Ls { connection } => {
            let table = connection.connect().await?.get(NETWORKS, &[], AS_TABLE).await?;
            print(&Printer { wide: true, ..Printer::default() }.print(&table, true))?;
        }
        NetworkVerb::Create { name, subnet, gateway, ipv6, open, connection } => {
            let network = network(&name, &subnet, &gateway, ipv6, open)?;
            write(&connection.connect().await?, Method::POST, NETWORKS, AS_JSON, &network).await?;
            print(&format!("{name}\n"))?;
        }
        NetworkVerb::Rm { networks, connection } => {
            let api = connection.connect().await?;
            for name in networks {
                let path = format!("{NETWORKS}/{name}");
                api.request(Method::DELETE, &path, &[], AS_JSON, Content::default()).await?;
                print(&format!("{name}\n"))?;
            }
        }
        NetworkVerb::Connect { network, pod, ip, connection } => {
            connect(&connection.connect().await?, &network, &pod, &ip).await?;
        }
        NetworkVerb::Disconnect { network, pod, connection } => {
            disconnect(&connection.connect().await?, &network, &pod).await?;
        }
        NetworkVerb::Inspect { networks, connection } => {
            inspect(&connection.connect().await?, &networks).await?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn write(
    api: &Api,
    method: Method,
    path: &str,
    media_type: &str,
    object: &Value,
) -> Result<Value, Error> {
    let content = Content { media_type, body: object.to_string().into_bytes() };
    Ok(api.request(method, path, &[], AS_JSON, content).await?.1)
}

/// The object of a new network. Which ranges are free the server knows.
fn network(
    name: &str,
    subnets: &[String],
    gateways: &[IpAddr],
    ipv6: bool,
    open: bool,
) -> Result<Value, Error> {
    let mut spec = Map::new();
    let is_v6 = |cidr: &String| cidr.contains(':');
    let mut ranges = Vec::new();
    for cidr in subnets {
        let gateway = gateways.iter().find(|gateway| gateway.is_ipv6() == is_v6(cidr));
        ranges.push(match gateway {
            Some(gateway) => json!({"cidr": cidr, "gateway": gateway.to_string()}),
            None => json!({"cidr": cidr}),
        });
    }
    let lonely = gateways.iter().find(|gateway| !subnets.iter().any(|cidr| is_v6(cidr) == gateway.is_ipv6()));
    if let Some(gateway) = lonely {
        return Err(Error::Usage(format!("--gateway {gateway}: name the --subnet that it is in")));
    }
    if !ranges.is_empty() {
        spec.insert("subnets".into(), json!(ranges));
    }
    if ipv6 {
        spec.insert("families".into(), json!(["IPv4", "IPv6"]));
    }
    if open {
        spec.insert("isolation".into(), json!("Open"));
    }
    Ok(json!({"apiVersion": "orlop.dev/v1", "kind": "Network", "metadata": {"name": name}, "spec": spec}))
}

fn attachments(namespace: &str) -> String {
    format!("/apis/orlop.dev/v1/namespaces/{namespace}/networkattachments")
}

async fn connect(api: &Api, network: &str, pod: &str, addresses: &[IpAddr]) -> Result<(), Error> {
    let (all, name) = (attachments(&api.namespace), attachment_name(pod, network));
    let addresses: Vec<String> = addresses.iter().map(IpAddr::to_string).collect();
    let wanted = json!({"apiVersion": "orlop.dev/v1", "kind": "NetworkAttachment", "metadata": {"name": name},
        "spec": {"podName": pod, "networkName": network, "addresses": addresses}});
    write(api, Method::POST, &all, AS_JSON, &wanted).await?;
    let begun = Instant::now();
    loop {
        let found = api.get(&format!("{all}/{name}"), &[], AS_JSON).await?;
        let (ready, why) = readiness(&found);
        if ready {
            return print(&format!("{}\n", texts(&found["spec"]["addresses"]).join("\n")));
        }
        if begun.elapsed() > PATIENCE {
            let why = if why.is_empty() { "its node has not said anything".into() } else { why };
            return Err(Error::Timeout(format!("pod {pod:?} to be connected to {network:?}: {why}")));
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Whether a pod is connected, and why not.
pub(crate) fn readiness(attachment: &Value) -> (bool, String) {
    let conditions = attachment.pointer("/status/conditions").and_then(Value::as_array);
    let ready = conditions.into_iter().flatten().find(|condition| condition["type"] == "Ready");
    let message = ready.and_then(|ready| ready["message"].as_str()).unwrap_or_default();
    (ready.is_some_and(|ready| ready["status"] == "True"), message.to_string())
}

pub(crate) fn texts(list: &Value) -> Vec<&str> {
    list.as_array().into_iter().flatten().filter_map(Value::as_str).collect()
}

/// What is left of a pod's annotation without a network; `None` where the annotation does not name it.
fn without(pod: &Value, network: &str) -> Option<String> {
    let text = pod["metadata"]["annotations"][NETWORKS_ANNOTATION].as_str()?;
    let annotations = BTreeMap::from([(NETWORKS_ANNOTATION.to_string(), text.to_string())]);
    let mut named = networks_of(Some(&annotations));
    named.remove(network).then(|| named.into_iter().collect::<Vec<_>>().join(","))
}

async fn disconnect(api: &Api, network: &str, pod: &str) -> Result<(), Error> {
    let path = format!("/api/v1/namespaces/{}/pods/{pod}", api.namespace);
    let found = api.get(&path, &[], AS_JSON).await?;
    // Else it would be connected again.
    if let Some(left) = without(&found, network) {
        let left = if left.is_empty() { Value::Null } else { json!(left) };
        let patch = json!({"metadata": {"annotations": {NETWORKS_ANNOTATION: left}}});
        write(api, Method::PATCH, &path, MERGE, &patch).await?;
    }
    let path = format!("{}/{}", attachments(&api.namespace), attachment_name(pod, network));
    match api.request(Method::DELETE, &path, &[], AS_JSON, Content::default()).await {
        // Who follows annotations was faster.
        Err(error) if error.is_not_found() && without(&found, network).is_some() => Ok(()),
        outcome => outcome.map(drop),
    }
}

async fn inspect(api: &Api, networks: &[String]) -> Result<(), Error> {
    let all = api.get("/apis/orlop.dev/v1/networkattachments", &[], AS_JSON).await?;
    let mut shown = Vec::new();
    for name in networks {
        let found = api.get(&format!("{NETWORKS}/{name}"), &[], AS_JSON).await?;
        shown.push(
            json!({"name": name, "created": found["metadata"]["creationTimestamp"], "spec": found["spec"],
            "members": members(&all, name)}),
        );
    }
    let text = serde_json::to_string_pretty(&shown).map_err(|e| Error::Answer(e.to_string()))?;
    print(&format!("{text}\n"))
}

fn members(attachments: &Value, network: &str) -> Vec<Value> {
    let items = attachments["items"].as_array().into_iter().flatten();
    let of = items.filter(|attachment| attachment["spec"]["networkName"] == network);
    of.map(|attachment| {
        let (ready, why) = readiness(attachment);
        let status = &attachment["status"];
        let mut member = json!({"namespace": attachment["metadata"]["namespace"], "pod": attachment["spec"]["podName"],
            "addresses": attachment["spec"]["addresses"], "node": status["nodeName"], "interface": status["interface"],
            "macAddress": status["macAddress"], "connected": ready});
        if !why.is_empty() {
            member["reason"] = json!(why);
        }
        member
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gateway_belongs_to_the_range_of_its_family() {
        let ranges = ["10.60.0.0/24".to_string(), "fd00:60::/64".to_string()];
        let made = network("n", &ranges, &["fd00:60::9".parse().unwrap()], false, true).unwrap();
        let spec = json!({"isolation": "Open", "subnets": [{"cidr": "10.60.0.0/24"},
            {"cidr": "fd00:60::/64", "gateway": "fd00:60::9"}]});
        assert_eq!(made["spec"], spec);
        assert!(network("n", &ranges[1..], &["10.60.0.1".parse().unwrap()], false, false).is_err());
        assert_eq!(
            network("n", &[], &[], true, false).unwrap()["spec"],
            json!({"families": ["IPv4", "IPv6"]})
        );
    }

    #[test]
    fn who_is_disconnected_is_not_asked_for_any_more() {
        let pod = |text: &str| json!({"metadata": {"annotations": {NETWORKS_ANNOTATION: text}}});
        assert_eq!(without(&pod("back, front"), "back"), Some("front".into()));
        assert_eq!(without(&pod("back"), "back"), Some(String::new()));
        assert_eq!(without(&pod("back"), "front"), None);
        assert_eq!(without(&json!({"metadata": {}}), "front"), None);
    }
}
