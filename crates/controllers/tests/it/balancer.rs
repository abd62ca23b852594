//! Services of type LoadBalancer and the cluster's own pool.

use crate::cluster::Cluster;
use k8s_openapi::api::core::v1::{Node, Service};
use kube::{ResourceExt, api::DeleteParams};
use orlop_controllers::run_balancer;
use serde_json::{Value, json};
use std::sync::Arc;

fn balanced(name: &str, more: Value) -> Value {
    let mut service = json!({
        "metadata": {"name": name},
        "spec": {"type": "LoadBalancer", "selector": {"app": name}, "ports": [{"port": 80}]},
    });
    for (key, value) in more.as_object().expect("fields") {
        service["spec"][key] = value.clone();
    }
    service
}

/// The addresses of a service and the node that answers for them.
async fn given(c: &Cluster, name: &str) -> (Vec<String>, Option<String>) {
    let service = c.api::<Service>().get(name).await.expect("the service");
    let node = service.annotations().get("orlop.dev/announced-by").cloned();
    let status = service.status.and_then(|s| s.load_balancer).and_then(|s| s.ingress);
    (status.unwrap_or_default().into_iter().filter_map(|i| i.ip).collect(), node)
}

async fn until(c: &Cluster, name: &str, what: &str, test: impl Fn(&[String], Option<&str>) -> bool) {
    c.until(what, async || {
        let (addresses, node) = given(c, name).await;
        test(&addresses, node.as_deref()).then_some(())
    })
    .await;
}

fn with_pool(c: &Cluster, pool: &str) -> tokio::task::JoinHandle<()> {
    let pool = pool.parse().expect("a pool");
    tokio::spawn(run_balancer(c.client.clone(), Arc::new(jiff::Timestamp::now), pool))
}

#[tokio::test(flavor = "multi_thread")]
async fn services_get_addresses_of_the_pool_and_wait_for_those_of_others() {
    let c = Cluster::start(2).await;
    let balancer = with_pool(&c, "192.0.2.8-192.0.2.9");
    for name in ["a", "b"] {
        c.create::<Service>(balanced(name, json!({}))).await;
        until(&c, name, "an address", |ips, node| ips.len() == 1 && node.is_some()).await;
    }
    let ours = [given(&c, "a").await.0, given(&c, "b").await.0].concat();
    assert_ne!(ours[0], ours[1]);
    // One of somebody else's class is not touched, and one more finds the pool empty.
    c.create::<Service>(balanced("other", json!({"loadBalancerClass": "example.com/cloud"}))).await;
    c.create::<Service>(balanced("late", json!({}))).await;
    c.until_event("SyncLoadBalancerFailed", "no IPv4 address is left").await;
    assert_eq!(given(&c, "other").await, (vec![], None));
    c.api::<Service>().delete("a", &DeleteParams::default()).await.expect("a deletion");
    until(&c, "late", "the address of the one that is gone", |ips, _| ips == [ours[0].clone()]).await;
    balancer.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn another_node_answers_when_the_first_is_no_longer_ready() {
    let c = Cluster::start(3).await;
    let balancer = with_pool(&c, "192.0.2.0/28");
    c.create::<Service>(balanced("web", json!({}))).await;
    until(&c, "web", "a node", |_, node| node.is_some()).await;
    let (addresses, first) = given(&c, "web").await;
    let first = first.expect("a node");
    let nodes = kube::Api::<Node>::all(c.client.clone());
    let label =
        json!({"metadata": {"labels": {"node.kubernetes.io/exclude-from-external-load-balancers": ""}}});
    nodes.patch(&first, &Default::default(), &kube::api::Patch::Merge(label)).await.expect("a label");
    until(&c, "web", "another node", |ips, node| node.is_some_and(|node| node != first) && ips == addresses)
        .await;
    // Of local policy only a node with a ready endpoint may answer; there is none.
    let local = json!({"spec": {"externalTrafficPolicy": "Local"}});
    c.api::<Service>()
        .patch("web", &Default::default(), &kube::api::Patch::Merge(local))
        .await
        .expect("a patch");
    until(&c, "web", "no node", |ips, node| node.is_none() && ips == addresses).await;
    // What is no load balancer any more gives its address back.
    let plain = json!({"spec": {"type": "ClusterIP", "externalTrafficPolicy": null}});
    c.api::<Service>()
        .patch("web", &Default::default(), &kube::api::Patch::Merge(plain))
        .await
        .expect("a patch");
    until(&c, "web", "no address", |ips, _| ips.is_empty()).await;
    balancer.abort();
}
