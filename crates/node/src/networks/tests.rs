//! What follows from what is heard.

use super::catalogue::{Catalogue, Made};
use jiff::Timestamp;
use orlop_api::orlop_v1::{Network, NetworkAttachment};
use orlop_client::Event;
use orlop_dns::ServiceTarget;
use orlop_network::overlay::member_mac;
use serde_json::{Value, json};
use std::collections::BTreeMap;

fn network(name: &str, id: i32) -> Network {
    let spec = json!({"id": id, "isolation": "Isolated", "subnets": [{"cidr": "10.60.0.0/24", "gateway": "10.60.0.1"}]});
    serde_json::from_value(json!({"metadata": {"name": name, "uid": name}, "spec": spec})).unwrap()
}

fn attachment(pod: &str, network: &str, address: &str, status: Value) -> NetworkAttachment {
    serde_json::from_value(json!({
        "metadata": {"name": format!("{pod}.{network}"), "namespace": "d", "uid": format!("of-{pod}"), "ownerReferences": [
            {"apiVersion": "v1", "kind": "Pod", "name": pod, "uid": format!("uid-{pod}")}]},
        "spec": {"podName": pod, "networkName": network, "addresses": [address]},
        "status": status,
    }))
    .unwrap()
}

fn ready(node: &str, address: &str) -> Value {
    json!({"nodeName": node, "nodeAddresses": [address], "macAddress": "0a:00:00:00:00:07", "interface": "back",
        "conditions": [{"type": "Ready", "status": "True", "reason": "Connected", "message": "", "lastTransitionTime": now()}]})
}

fn now() -> Timestamp {
    "2026-01-01T00:00:00Z".parse().unwrap()
}

/// Two pods in a network: a here, b elsewhere.
fn catalogue() -> Catalogue {
    let mut catalogue = Catalogue::new("here".into(), "192.0.2.1".parse().unwrap());
    catalogue.network(Event::Init);
    catalogue.network(Event::InitApply(network("back", 65536)));
    catalogue.network(Event::InitDone);
    catalogue.attachment(Event::Init);
    catalogue.attachment(Event::InitApply(attachment("a", "back", "10.60.0.2", json!(null))));
    let elsewhere = ready("there", "192.0.2.2");
    catalogue.attachment(Event::InitApply(attachment("b", "back", "10.60.0.3", elsewhere)));
    catalogue.attachment(Event::InitDone);
    catalogue
}

fn settle(catalogue: &mut Catalogue, failed: &[(&str, &str)]) {
    let overlays = catalogue.overlays();
    let failed: BTreeMap<String, String> =
        failed.iter().map(|(id, why)| ((*id).to_string(), (*why).to_string())).collect();
    catalogue.made(&overlays, &failed);
}

#[test]
fn nothing_is_made_before_all_is_known() {
    let mut catalogue = catalogue();
    assert!(!catalogue.is_complete(), "sandboxes from before are not known yet");
    catalogue.place("uid-a", "uid-a_0", "/ns/a".into());
    catalogue.adopted();
    assert!(catalogue.is_complete() && catalogue.take_news() && !catalogue.take_news());
}

#[test]
fn who_is_here_is_a_member_and_who_is_connected_elsewhere_is_reached_there() {
    let mut catalogue = catalogue();
    catalogue.adopted();
    let overlays = catalogue.overlays();
    assert!(overlays[0].members.is_empty(), "its pod has no sandbox yet");
    assert_eq!(overlays[0].remotes.len(), 1);
    assert_eq!(overlays[0].remotes[0].node.to_string(), "192.0.2.2");
    assert_eq!(overlays[0].remotes[0].mac, [0x0a, 0, 0, 0, 0, 7]);
    catalogue.place("uid-a", "uid-a_0", "/ns/a".into());
    let first = catalogue.overlays()[0].members[0].clone();
    assert_eq!((first.mac, first.interface.as_str()), (member_mac("of-a"), "back"));
    // The pod's sandbox is made anew: other links, with the same hardware address.
    catalogue.place("uid-a", "uid-a_1", "/ns/a1".into());
    catalogue.release("uid-a", "uid-a_0");
    let second = catalogue.overlays()[0].members[0].clone();
    assert_ne!(first.id, second.id);
    assert_eq!((first.mac, first.addresses), (second.mac, second.addresses));
    catalogue.release("uid-a", "uid-a_1");
    assert!(catalogue.overlays()[0].members.is_empty());
}

#[test]
fn what_became_of_a_member_is_said_once() {
    let mut catalogue = catalogue();
    catalogue.place("uid-a", "uid-a_0", "/ns/a".into());
    catalogue.adopted();
    assert!(catalogue.statements(now()).is_empty(), "nothing is known yet");
    assert_eq!(catalogue.reason("uid-a", "uid-a_0", "none"), "there is no such network");
    let id = catalogue.overlays()[0].members[0].id.clone();
    settle(&mut catalogue, &[(&id, "no room")]);
    let said = catalogue.statements(now());
    assert_eq!(said.len(), 1, "others are said by their nodes");
    let ready = &said[0].status.conditions[0];
    assert_eq!((&*ready.status, &*ready.reason, &*ready.message), ("False", "NotConnected", "no room"));
    assert_eq!(catalogue.reason("uid-a", "uid-a_0", "back"), "no room");
    settle(&mut catalogue, &[]);
    let [statement] = catalogue.statements(now()).try_into().unwrap();
    assert_eq!(statement.status.node_addresses, ["192.0.2.1"]);
    assert_eq!(statement.status.interface.as_deref(), Some("back"));
    assert_eq!(catalogue.outcome("uid-a", "uid-a_0", "back"), Some(&Made::Connected));
    assert_eq!(catalogue.outcome("uid-a", "uid-a_1", "back"), None, "another sandbox's");
    let written = attachment("a", "back", "10.60.0.2", serde_json::to_value(&statement.status).unwrap());
    catalogue.attachment(Event::Apply(written));
    let later = "2026-01-02T00:00:00Z".parse().unwrap();
    assert!(catalogue.statements(later).is_empty(), "it stands there");
    catalogue.release("uid-a", "uid-a_0");
    settle(&mut catalogue, &[]);
    let [statement] = catalogue.statements(later).try_into().unwrap();
    assert_eq!(statement.status.conditions[0].reason, "SandboxNotReady");
    assert_eq!(statement.status.conditions[0].last_transition_time.0, later);
}

#[test]
fn members_have_names_as_long_as_they_are_connected() {
    let mut catalogue = catalogue();
    let names = |catalogue: &Catalogue| -> Vec<String> {
        let all = catalogue.names();
        let endpoints = all.iter().flat_map(|((network, namespace), record)| match &record.target {
            ServiceTarget::Headless { endpoints } => endpoints
                .iter()
                .map(|e| {
                    let pod = e.hostname.clone().unwrap_or_default();
                    format!("{pod}.{namespace}.{network} {}", e.address)
                })
                .collect::<Vec<_>>(),
            _ => vec![],
        });
        endpoints.collect()
    };
    assert_eq!(names(&catalogue), ["b.d.back 10.60.0.3"]);
    catalogue.attachment(Event::Delete(attachment("b", "back", "10.60.0.3", json!(null))));
    assert!(names(&catalogue).is_empty());
}

#[test]
fn members_are_counted_by_whether_they_are_connected() {
    let mut catalogue = catalogue();
    assert!(super::text(&catalogue.counts()).is_empty(), "nobody is here");
    catalogue.place("uid-a", "uid-a_0", "/ns/a".into());
    let line = |catalogue: &Catalogue| super::text(&catalogue.counts()).lines().last().map(str::to_string);
    assert_eq!(line(&catalogue).unwrap(), "orlop_network_members{network=\"back\",connected=\"false\"} 1");
    settle(&mut catalogue, &[]);
    assert_eq!(line(&catalogue).unwrap(), "orlop_network_members{network=\"back\",connected=\"true\"} 1");
}

#[test]
fn what_is_missing_in_a_new_list_is_gone() {
    let mut catalogue = catalogue();
    catalogue.attachment(Event::Init);
    assert_eq!(catalogue.overlays()[0].remotes.len(), 1, "while a list is made, what is known holds");
    catalogue.attachment(Event::InitDone);
    assert!(catalogue.overlays()[0].remotes.is_empty());
    catalogue.network(Event::Init);
    catalogue.network(Event::InitDone);
    assert!(catalogue.overlays().is_empty());
}
