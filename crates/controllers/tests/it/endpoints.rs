use crate::cluster::{Cluster, template};
use k8s_openapi::api::{
    apps::v1::ReplicaSet,
    core::v1::{Endpoints, Pod, Service},
    discovery::v1::EndpointSlice,
};
use kube::{
    ResourceExt,
    api::{DeleteParams, ListParams},
};
use serde_json::{Value, json};

fn set(replicas: i32, act: &str) -> Value {
    json!({
        "metadata": {"name": "web", "labels": {"app": "web"}},
        "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": "web"}}, "template": template("web", act)},
    })
}

fn service(spec: Value) -> Value {
    let mut service = json!({
        "metadata": {"name": "web", "labels": {"tier": "front"}},
        "spec": {"selector": {"app": "web"}, "ports": [{"name": "web", "port": 8080, "targetPort": "http"}]},
    });
    for (key, value) in spec.as_object().expect("fields") {
        service["spec"][key] = value.clone();
    }
    service
}

async fn slices(c: &Cluster) -> Vec<EndpointSlice> {
    let of_service = ListParams::default().labels("kubernetes.io/service-name=web");
    c.api::<EndpointSlice>().list(&of_service).await.expect("slices").items
}

/// How many endpoints are ready, serving and terminating.
async fn conditions(c: &Cluster) -> (usize, usize, usize, usize) {
    let all: Vec<_> = slices(c).await.into_iter().flat_map(|s| s.endpoints.unwrap_or_default()).collect();
    let count = |test: fn(&k8s_openapi::api::discovery::v1::EndpointConditions) -> Option<bool>| {
        all.iter().filter(|e| e.conditions.as_ref().and_then(test) == Some(true)).count()
    };
    (all.len(), count(|c| c.ready), count(|c| c.serving), count(|c| c.terminating))
}

async fn until(c: &Cluster, wanted: (usize, usize, usize, usize)) {
    c.until(&format!("endpoints {wanted:?}"), async || (conditions(c).await == wanted).then_some(())).await;
}

/// Ready and unready addresses of the older form.
async fn addresses(c: &Cluster) -> Option<(usize, usize)> {
    let subsets = c.api::<Endpoints>().get_opt("web").await.expect("an answer")?.subsets.unwrap_or_default();
    let len = |list: &Option<Vec<_>>| list.as_ref().map_or(0, Vec::len);
    Some((
        subsets.iter().map(|s| len(&s.addresses)).sum(),
        subsets.iter().map(|s| len(&s.not_ready_addresses)).sum(),
    ))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_names_the_pods_that_answer_and_their_state() {
    let c = Cluster::start(1).await;
    c.create::<Service>(service(json!({}))).await;
    until(&c, (0, 0, 0, 0)).await;
    c.create::<ReplicaSet>(set(3, "")).await;
    until(&c, (3, 3, 3, 0)).await;
    let slice = slices(&c).await.remove(0);
    let port = &slice.ports.as_ref().expect("ports")[0];
    assert_eq!((port.name.as_deref(), port.port), (Some("web"), Some(80)), "the named port of the pods");
    assert_eq!(slice.labels().get("tier").map(String::as_str), Some("front"));
    c.until("Endpoints", async || (addresses(&c).await == Some((3, 0))).then_some(())).await;

    let pods = c.pods("web").await;
    c.patch::<Pod>(&pods[0].name_any(), json!({"metadata": {"annotations": {"act": "unready"}}})).await;
    until(&c, (3, 2, 2, 0)).await;
    c.until("Endpoints", async || (addresses(&c).await == Some((2, 1))).then_some(())).await;
    c.patch::<Pod>(&pods[1].name_any(), json!({"metadata": {"annotations": {"act": "linger"}}})).await;
    c.delete::<Pod>(&pods[1].name_any(), &DeleteParams::default()).await;
    // It still serves those who know it, and a new one has come.
    until(&c, (4, 2, 3, 1)).await;

    c.patch::<Service>("web", json!({"spec": {"publishNotReadyAddresses": true}})).await;
    until(&c, (4, 4, 3, 1)).await;
    c.patch::<Service>("web", json!({"spec": {"selector": {"app": "other"}}})).await;
    until(&c, (0, 0, 0, 0)).await;
    c.delete::<Service>("web", &DeleteParams::default()).await;
    c.until("its slices to be gone", async || slices(&c).await.is_empty().then_some(())).await;
    c.until("its Endpoints to be gone", async || addresses(&c).await.is_none().then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_endpoints_take_several_slices_and_a_headless_service_says_so() {
    let c = Cluster::start(2).await;
    c.create::<Service>(service(json!({"clusterIP": "None"}))).await;
    c.create::<ReplicaSet>(set(150, "")).await;
    until(&c, (150, 150, 150, 0)).await;
    let all = slices(&c).await;
    assert!(all.iter().all(|s| s.labels().contains_key("service.kubernetes.io/headless")));
    let mut sizes: Vec<_> = all.iter().map(|s| s.endpoints.as_ref().map_or(0, Vec::len)).collect();
    sizes.sort_unstable();
    assert_eq!((sizes.len(), sizes.iter().sum::<usize>(), sizes[1]), (2, 150, 100));
    c.until("Endpoints", async || (addresses(&c).await == Some((150, 0))).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn endpoints_of_a_service_without_a_selector_are_left_to_others() {
    let c = Cluster::start(0).await;
    c.create::<Endpoints>(json!({"metadata": {"name": "web"},
        "subsets": [{"addresses": [{"ip": "192.0.2.1"}], "ports": [{"name": "web", "port": 80}]}]}))
        .await;
    c.create::<Service>(service(json!({"selector": {}}))).await;
    c.settle().await;
    assert_eq!(addresses(&c).await, Some((1, 0)));
    assert!(slices(&c).await.is_empty());
}
