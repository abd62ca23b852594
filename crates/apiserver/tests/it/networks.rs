//! Networks and the pods that are connected to them: ranges and addresses.

use crate::{
    pods,
    support::{ask, server, server_with},
};
use orlop_apiserver::{ApiServer, Config};
use orlop_store::embedded::Embedded;
use serde_json::{Value, json};
use std::{collections::BTreeSet, sync::Arc};

const NETWORKS: &str = "/apis/orlop.dev/v1/networks";
const ATTACHMENTS: &str = "/apis/orlop.dev/v1/namespaces/default/networkattachments";
const PODS: &str = "/api/v1/namespaces/default/pods";

fn network(name: &str, spec: Value) -> Value {
    json!({"apiVersion": "orlop.dev/v1", "kind": "Network", "metadata": {"name": name}, "spec": spec})
}

fn attachment(pod: &str, network: &str, addresses: Value) -> Value {
    json!({"apiVersion": "orlop.dev/v1", "kind": "NetworkAttachment", "metadata": {"name": format!("{pod}.{network}")},
        "spec": {"podName": pod, "networkName": network, "addresses": addresses}})
}

async fn make(server: &Arc<ApiServer>, path: &str, object: Value) -> Value {
    let (code, made) = ask(server, "POST", path, object).await;
    assert_eq!(code, 201, "{made}");
    made
}

async fn refused(server: &Arc<ApiServer>, path: &str, object: Value) -> String {
    let (code, status) = ask(server, "POST", path, object).await;
    assert_eq!(code, 422, "{status}");
    status["message"].as_str().unwrap().to_string()
}

/// Pods need their namespace's account.
async fn with_account() -> Arc<ApiServer> {
    let server = server().await;
    pods::account(&server, "default").await;
    server
}

async fn pod(server: &Arc<ApiServer>, name: &str, spec: Value) -> Value {
    let mut spec = spec;
    spec["containers"] = json!([{"name": "c", "image": "x"}]);
    let object = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec});
    make(server, PODS, object).await
}

#[tokio::test]
async fn networks_made_at_once_never_overlap() {
    let server = server_with(|c| c.network_pools = vec!["10.64.0.0/19".parse().unwrap()]).await;
    let tasks: Vec<_> = (0..32)
        .map(|n| {
            let server = server.clone();
            tokio::spawn(async move {
                let made = make(&server, NETWORKS, network(&format!("n{n}"), json!({}))).await;
                (made["spec"]["subnets"][0]["cidr"].to_string(), made["spec"]["id"].as_i64().unwrap())
            })
        })
        .collect();
    let (mut ranges, mut ids) = (BTreeSet::new(), BTreeSet::new());
    for task in tasks {
        let (range, id) = task.await.unwrap();
        assert!(ranges.insert(range) && ids.insert(id));
    }
    let message = refused(&server, NETWORKS, network("more", json!({}))).await;
    assert!(message.contains("spec.subnets: Required value: no free IPv4 range is left"), "{message}");
    assert_eq!(ask(&server, "DELETE", &format!("{NETWORKS}/n7"), Value::Null).await.0, 200);
    make(&server, NETWORKS, network("more", json!({}))).await;
}

#[tokio::test]
async fn what_a_network_overlaps_is_named_also_after_a_restart() {
    let store = Arc::new(Embedded::in_memory());
    let start = |store: Arc<Embedded>| async move {
        let mut config = Config::new(store);
        config.pod_ranges = vec!["10.42.0.0/16".parse().unwrap()];
        ApiServer::start(config).await.unwrap()
    };
    let subnet = |cidr: &str| json!({"subnets": [{"cidr": cidr}]});
    let server = start(store.clone()).await;
    make(&server, NETWORKS, network("a", subnet("10.60.0.0/16"))).await;
    server.stop();
    let server = start(store).await;
    for (cidr, what) in [
        ("10.60.7.0/24", "overlaps 10.60.0.0/16 of network \"a\""),
        ("10.42.7.0/24", "overlaps 10.42.0.0/16, a range of pods"),
        ("10.43.0.0/24", "overlaps 10.43.0.0/16, the range of Services"),
    ] {
        let message = refused(&server, NETWORKS, network("b", subnet(cidr))).await;
        assert!(message.contains("spec.subnets[0].cidr") && message.contains(what), "{message}");
    }
    let (code, status) = ask(&server, "POST", NETWORKS, network("a", subnet("10.61.0.0/16"))).await;
    assert_eq!(code, 409, "{status}");
}

#[tokio::test]
async fn no_two_pods_get_the_same_address_and_all_come_back() {
    let server = with_account().await;
    make(&server, NETWORKS, network("back", json!({"subnets": [{"cidr": "10.60.0.0/28"}]}))).await;
    // 16 without network, broadcast and gateway.
    let tasks: Vec<_> = (0..13)
        .map(|n| {
            let server = server.clone();
            tokio::spawn(async move {
                let name = format!("p{n}");
                let pod = pod(&server, &name, json!({})).await;
                let made = make(&server, ATTACHMENTS, attachment(&name, "back", json!([]))).await;
                assert_eq!(made["metadata"]["ownerReferences"][0]["uid"], pod["metadata"]["uid"]);
                made["spec"]["addresses"][0].as_str().unwrap().to_string()
            })
        })
        .collect();
    let mut given = BTreeSet::new();
    for task in tasks {
        let address = task.await.unwrap();
        assert!(address != "10.60.0.1" && given.insert(address));
    }
    pod(&server, "more", json!({})).await;
    let message = refused(&server, ATTACHMENTS, attachment("more", "back", json!([]))).await;
    assert!(message.contains("no address of 10.60.0.0/28 is left"), "{message}");
    assert_eq!(ask(&server, "DELETE", &format!("{ATTACHMENTS}/p3.back"), Value::Null).await.0, 200);
    make(&server, ATTACHMENTS, attachment("more", "back", json!([]))).await;
}

#[tokio::test]
async fn what_cannot_be_connected_is_refused_with_the_reason() {
    let server = with_account().await;
    make(&server, NETWORKS, network("back", json!({"subnets": [{"cidr": "10.60.0.0/24"}]}))).await;
    pod(&server, "a", json!({})).await;
    pod(&server, "b", json!({})).await;
    pod(&server, "host", json!({"hostNetwork": true})).await;
    make(&server, ATTACHMENTS, attachment("a", "back", json!(["10.60.0.9"]))).await;
    for (object, word) in [
        (attachment("a", "none", json!([])), "spec.networkName: Not found: \"none\""),
        (attachment("none", "back", json!([])), "spec.podName: Not found: \"none\""),
        (attachment("host", "back", json!([])), "the pod has no network of its own"),
        (
            attachment("b", "back", json!(["10.60.0.9"])),
            "spec.addresses: Invalid value: \"10.60.0.9\": is another pod's",
        ),
        (attachment("b", "back", json!(["10.61.0.9"])), "in none of the network's subnets"),
    ] {
        let message = refused(&server, ATTACHMENTS, object).await;
        assert!(message.contains(word), "{message}");
    }
    let (code, status) = ask(&server, "POST", ATTACHMENTS, attachment("a", "back", json!([]))).await;
    assert_eq!(code, 409, "{status}");
}

#[tokio::test]
async fn a_network_with_pods_in_it_stays() {
    let server = with_account().await;
    make(&server, NETWORKS, network("back", json!({}))).await;
    pod(&server, "a", json!({})).await;
    make(&server, ATTACHMENTS, attachment("a", "back", json!([]))).await;
    let path = format!("{NETWORKS}/back");
    let (code, status) = ask(&server, "DELETE", &path, Value::Null).await;
    assert_eq!(code, 409, "{status}");
    assert!(status["message"].as_str().unwrap().contains("default/a.back"), "{status}");
    assert_eq!(ask(&server, "DELETE", &format!("{ATTACHMENTS}/a.back"), Value::Null).await.0, 200);
    assert_eq!(ask(&server, "DELETE", &path, Value::Null).await.0, 200);
}

#[tokio::test]
async fn numbers_that_are_given_are_never_the_pod_networks_own() {
    let server = server().await;
    let made = make(&server, NETWORKS, network("a", json!({}))).await;
    assert_eq!(made["spec"]["id"], 1 << 16);
    assert_eq!(make(&server, NETWORKS, network("b", json!({"id": 7}))).await["spec"]["id"], 7);
}
