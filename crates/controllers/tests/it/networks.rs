//! Pods that are connected to networks by their annotation.

use crate::cluster::{Cluster, object, template};
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, Patch, PatchParams, PostParams},
};
use orlop_api::orlop_v1::{NETWORKS_ANNOTATION, Network, NetworkAttachment};
use serde_json::json;

async fn network(cluster: &Cluster, name: &str) {
    let network = object(json!({"metadata": {"name": name}}));
    cluster
        .everywhere::<Network>()
        .create(&PostParams::default(), &network)
        .await
        .expect("a network is made");
}

async fn pod(cluster: &Cluster, name: &str, networks: &str) {
    let mut pod = template("p", "");
    pod["metadata"]["name"] = json!(name);
    pod["metadata"]["annotations"][NETWORKS_ANNOTATION] = json!(networks);
    cluster.api::<Pod>().create(&PostParams::default(), &object(pod)).await.expect("a pod is made");
}

async fn until_connected(cluster: &Cluster, wanted: &[&str]) -> Vec<NetworkAttachment> {
    let attachments = cluster.api::<NetworkAttachment>();
    let look = async || {
        let mut all = attachments.list(&Default::default()).await.expect("an answer").items;
        all.sort_by_key(ResourceExt::name_any);
        (all.iter().map(ResourceExt::name_any).collect::<Vec<_>>() == wanted).then_some(all)
    };
    cluster.until(&format!("{wanted:?} to be all"), look).await
}

async fn until_counted(cluster: &Cluster, name: &str, count: i32) {
    let networks: Api<Network> = cluster.everywhere();
    let look = async || {
        let network = networks.get(name).await.expect("an answer");
        (network.status.unwrap_or_default().attachments.unwrap_or_default() == count).then_some(())
    };
    cluster.until(&format!("{count} pods in {name}"), look).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_is_connected_as_its_annotation_says_as_long_as_it_runs() {
    let cluster = Cluster::start(1).await;
    network(&cluster, "back").await;
    pod(&cluster, "a", "back,front").await;
    // The other network comes later.
    until_connected(&cluster, &["a.back"]).await;
    network(&cluster, "front").await;
    let all = until_connected(&cluster, &["a.back", "a.front"]).await;
    assert!(all.iter().all(|a| a.spec.addresses.len() == 1), "{all:?}");
    until_counted(&cluster, "back", 1).await;
    let pods = cluster.api::<Pod>();
    let patch = Patch::Merge(json!({"metadata": {"annotations": {NETWORKS_ANNOTATION: "front"}}}));
    pods.patch("a", &PatchParams::default(), &patch).await.expect("the annotation is changed");
    until_connected(&cluster, &["a.front"]).await;
    until_counted(&cluster, "back", 0).await;
    pods.delete("a", &DeleteParams::default()).await.expect("the pod is deleted");
    until_connected(&cluster, &[]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_that_has_ended_gives_its_address_back() {
    let cluster = Cluster::start(1).await;
    network(&cluster, "back").await;
    let mut pod = template("p", "succeed");
    pod["metadata"]["name"] = json!("done");
    pod["metadata"]["annotations"][NETWORKS_ANNOTATION] = json!("back");
    pod["spec"]["restartPolicy"] = json!("Never");
    cluster.api::<Pod>().create(&PostParams::default(), &object(pod)).await.expect("a pod is made");
    let look = async || {
        let pod = cluster.api::<Pod>().get("done").await.expect("an answer");
        (pod.status.and_then(|s| s.phase).as_deref() == Some("Succeeded")).then_some(())
    };
    cluster.until("the pod to end", look).await;
    until_connected(&cluster, &[]).await;
}
