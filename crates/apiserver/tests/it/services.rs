//! Services: addresses and node ports.

use crate::support::{ask, server, server_with};
use orlop_apiserver::{ApiServer, Config};
use orlop_store::embedded::Embedded;
use serde_json::{Value, json};
use std::{collections::BTreeSet, sync::Arc};

const SERVICES: &str = "/api/v1/namespaces/default/services";

fn service(name: &str, spec: Value) -> Value {
    let mut spec = spec;
    if spec.get("ports").is_none() {
        spec["ports"] = json!([{"port": 80}]);
    }
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": spec})
}

async fn made(server: &Arc<ApiServer>, name: &str, spec: Value) -> Value {
    let (code, made) = ask(server, "POST", SERVICES, service(name, spec)).await;
    assert_eq!(code, 201, "{made}");
    made
}

#[tokio::test]
async fn every_service_gets_an_address_of_its_own_also_when_many_are_made_at_once() {
    let server = server_with(|c| c.service_ranges = vec!["10.9.0.0/24".parse().unwrap()]).await;
    let tasks: Vec<_> = (0..100)
        .map(|n| {
            let server = server.clone();
            tokio::spawn(async move {
                let spec = json!({"type": "NodePort"});
                let made = made(&server, &format!("s{n}"), spec).await;
                let port = made["spec"]["ports"][0]["nodePort"].as_u64().unwrap();
                (made["spec"]["clusterIP"].as_str().unwrap().to_string(), port)
            })
        })
        .collect();
    let (mut addresses, mut ports) = (BTreeSet::new(), BTreeSet::new());
    for task in tasks {
        let (address, port) = task.await.unwrap();
        assert!(address.starts_with("10.9.0.") && address != "10.9.0.1" && address != "10.9.0.0");
        assert!(addresses.insert(address));
        assert!((30_000..=32_767).contains(&port) && ports.insert(port));
    }
}

#[tokio::test]
async fn addresses_survive_a_restart_and_come_back_when_their_service_goes() {
    let store = Arc::new(Embedded::in_memory());
    let start = |store: Arc<Embedded>| async move {
        let mut config = Config::new(store);
        // Room for the kubernetes Service and five more.
        config.service_ranges = vec!["10.9.0.0/29".parse().unwrap()];
        ApiServer::start(config).await.unwrap()
    };
    let server = start(store.clone()).await;
    let mut taken = BTreeSet::new();
    for n in 0..3 {
        taken.insert(made(&server, &format!("a{n}"), json!({})).await["spec"]["clusterIP"].to_string());
    }
    server.stop();
    let server = start(store).await;
    for n in 0..2 {
        taken.insert(made(&server, &format!("b{n}"), json!({})).await["spec"]["clusterIP"].to_string());
    }
    assert_eq!(taken.len(), 5);
    let (code, status) = ask(&server, "POST", SERVICES, service("full", json!({}))).await;
    assert_eq!(code, 500, "{status}");
    assert!(status["message"].as_str().unwrap().contains("range is full"));
    assert_eq!(ask(&server, "DELETE", &format!("{SERVICES}/a1"), Value::Null).await.0, 200);
    made(&server, "again", json!({})).await;
}

#[tokio::test]
async fn addresses_and_ports_can_be_asked_for_but_not_twice() {
    let server = server().await;
    let spec =
        json!({"type": "NodePort", "clusterIP": "10.43.7.7", "ports": [{"port": 80, "nodePort": 30080}]});
    made(&server, "a", spec).await;
    let cases = [
        (json!({"clusterIP": "10.43.7.7"}), "spec.clusterIPs", "provided IP is already allocated"),
        (json!({"clusterIP": "192.168.1.1"}), "spec.clusterIPs", "is not in the valid range"),
        (
            json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": 30080}]}),
            "spec.ports[0].nodePort",
            "provided port is already allocated",
        ),
        (
            json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": 80}]}),
            "spec.ports[0].nodePort",
            "valid range",
        ),
    ];
    for (spec, field, message) in cases {
        let (code, status) = ask(&server, "POST", SERVICES, service("b", spec)).await;
        assert_eq!((code, &status["details"]["causes"][0]["field"]), (422, &json!(field)), "{status}");
        assert!(status["message"].as_str().unwrap().contains(message), "{status}");
    }
    assert_eq!(ask(&server, "DELETE", &format!("{SERVICES}/a"), Value::Null).await.0, 200);
    made(&server, "b", json!({"clusterIP": "10.43.7.7"})).await;
}

#[tokio::test]
async fn a_service_changes_its_type() {
    let server = server().await;
    let first = made(&server, "a", json!({})).await;
    let address = first["spec"]["clusterIP"].clone();
    let uri = format!("{SERVICES}/a");
    let (code, node) = ask(&server, "PATCH", &uri, json!({"spec": {"type": "NodePort"}})).await;
    assert_eq!(code, 200, "{node}");
    let port = node["spec"]["ports"][0]["nodePort"].clone();
    assert!(port.is_u64());
    assert_eq!(node["spec"]["clusterIP"], address);
    let (code, status) = ask(
        &server,
        "POST",
        SERVICES,
        service("b", json!({"type": "NodePort", "ports": [{"port": 1, "nodePort": port}]})),
    )
    .await;
    assert_eq!(code, 422, "{status}");
    let (_, inner) = ask(&server, "PATCH", &uri, json!({"spec": {"type": "ClusterIP"}})).await;
    assert!(inner["spec"]["ports"][0].get("nodePort").is_none(), "{inner}");
    made(&server, "b", json!({"type": "NodePort", "ports": [{"port": 1, "nodePort": port}]})).await;
    let external =
        json!({"spec": {"type": "ExternalName", "externalName": "example.com", "clusterIP": null}});
    let (code, external) = ask(&server, "PATCH", &uri, external).await;
    assert_eq!(code, 200, "{external}");
    assert!(external["spec"].get("clusterIP").is_none());
    made(&server, "c", json!({"clusterIP": address})).await;
    let (code, status) =
        ask(&server, "PATCH", &format!("{SERVICES}/c"), json!({"spec": {"clusterIP": "10.43.9.9"}})).await;
    assert_eq!(code, 422, "{status}");
}

#[tokio::test]
async fn a_headless_service_has_no_address() {
    let server = server().await;
    let made = made(&server, "a", json!({"clusterIP": "None", "selector": {"a": "b"}})).await;
    assert_eq!(made["spec"]["clusterIPs"], json!(["None"]));
}

#[tokio::test]
async fn the_kubernetes_service_leads_to_this_server() {
    let server = server_with(|c| c.advertise = "192.0.2.7:7443".parse().unwrap()).await;
    let (code, service) = ask(&server, "GET", &format!("{SERVICES}/kubernetes"), Value::Null).await;
    assert_eq!((code, &service["spec"]["clusterIP"]), (200, &json!("10.43.0.1")));
    let uri = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices/kubernetes";
    let (code, slice) = ask(&server, "GET", uri, Value::Null).await;
    assert_eq!(code, 200, "{slice}");
    assert_eq!(slice["endpoints"][0]["addresses"], json!(["192.0.2.7"]));
    assert_eq!(slice["ports"][0]["port"], 7443);
}

#[tokio::test]
async fn a_service_gets_and_loses_addresses_of_both_families_with_its_policy() {
    let server = server_with(|c| {
        c.service_ranges = vec!["10.9.0.0/24".parse().unwrap(), "fd09::/125".parse().unwrap()];
    })
    .await;
    let (uri, families) = (format!("{SERVICES}/web"), |s: &Value| s["spec"]["ipFamilies"].clone());
    let single = made(&server, "web", json!({})).await;
    assert_eq!(
        (families(&single), &single["spec"]["ipFamilyPolicy"]),
        (json!(["IPv4"]), &json!("SingleStack"))
    );
    let policy = |policy: &str| json!({"spec": {"ipFamilyPolicy": policy}});
    let (code, both) = ask(&server, "PATCH", &uri, policy("RequireDualStack")).await;
    assert_eq!((code, families(&both)), (200, json!(["IPv4", "IPv6"])), "{both}");
    assert_eq!(both["spec"]["clusterIPs"][0], single["spec"]["clusterIP"]);
    let second = both["spec"]["clusterIPs"][1].as_str().unwrap().to_string();
    assert!(second.starts_with("fd09::"), "{second}");

    // While it is held nobody else gets it; afterwards somebody does.
    let wish = service("wish", json!({"clusterIPs": [second]}));
    let (code, status) = ask(&server, "POST", SERVICES, wish.clone()).await;
    assert_eq!(code, 422, "{status}");
    assert!(status["message"].as_str().unwrap().contains("provided IP is already allocated"), "{status}");
    let (code, back) = ask(&server, "PATCH", &uri, policy("SingleStack")).await;
    assert_eq!((code, &back["spec"]["clusterIPs"]), (200, &json!([single["spec"]["clusterIP"]])), "{back}");
    let (code, wished) = ask(&server, "POST", SERVICES, wish).await;
    assert_eq!((code, families(&wished)), (201, json!(["IPv6"])), "{wished}");

    let turned =
        made(&server, "turned", json!({"ipFamilyPolicy": "PreferDualStack", "ipFamilies": ["IPv6"]})).await;
    assert_eq!(families(&turned), json!(["IPv6", "IPv4"]));
    assert!(turned["spec"]["clusterIP"].as_str().unwrap().starts_with("fd09::"));
    // The smaller range is full one day, and nothing is lost of the other one.
    for n in 0..4 {
        made(&server, &format!("six-{n}"), json!({"ipFamilies": ["IPv6"]})).await;
    }
    let full = service("full", json!({"ipFamilyPolicy": "RequireDualStack"}));
    let before = ask(&server, "GET", SERVICES, Value::Null).await.1["items"].as_array().unwrap().len();
    made(&server, "six-last", json!({"ipFamilies": ["IPv6"]})).await;
    assert_eq!(ask(&server, "POST", SERVICES, full).await.0, 500);
    assert_eq!(
        ask(&server, "GET", SERVICES, Value::Null).await.1["items"].as_array().unwrap().len(),
        before + 1
    );
}

#[tokio::test]
async fn families_that_the_cluster_does_not_have_are_refused() {
    let server = server().await;
    for (spec, path, words) in [
        (
            json!({"ipFamilyPolicy": "RequireDualStack"}),
            "spec.ipFamilyPolicy",
            "this cluster is not configured for dual-stack services",
        ),
        (json!({"ipFamilies": ["IPv6"]}), "spec.ipFamilies[0]", "not configured on this cluster"),
        (json!({"clusterIP": "fd09::5"}), "spec.clusterIPs[0]", "IPv6 is not configured on this cluster"),
    ] {
        let (code, status) = ask(&server, "POST", SERVICES, service("x", spec)).await;
        assert_eq!(code, 422, "{status}");
        let cause = &status["details"]["causes"][0];
        assert_eq!(cause["field"], path);
        assert!(cause["message"].as_str().unwrap().contains(words), "{cause}");
    }
    let prefers = made(&server, "prefers", json!({"ipFamilyPolicy": "PreferDualStack"})).await;
    assert_eq!(prefers["spec"]["ipFamilies"], json!(["IPv4"]));
}
