//! What is written of a pod apart from the rest: bindings, ephemeral containers, resources; and evictions under a budget.

use crate::{
    pods::{account, bind, pod},
    support::{ask, server},
};
use orlop_apiserver::ApiServer;
use serde_json::{Value, json};
use std::sync::Arc;

const PODS: &str = "/api/v1/namespaces/default/pods";
const BUDGETS: &str = "/apis/policy/v1/namespaces/default/poddisruptionbudgets";

/// A pod that runs and is ready.
async fn running(server: &Arc<ApiServer>, name: &str) {
    let mut body = pod(name);
    body["metadata"]["labels"] = json!({"app": "web"});
    body["spec"]["containers"][0]["resources"] = json!({"requests": {"cpu": "1"}});
    let (code, made) = ask(server, "POST", PODS, body).await;
    assert_eq!(code, 201, "{made}");
    assert_eq!(bind(server, name, "n").await.0, 201);
    let status = json!({"status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}],
        "containerStatuses": [{"name": "c", "image": "x", "imageID": "", "ready": true, "restartCount": 0,
            "state": {"running": {}}, "resources": {"requests": {"cpu": "1"}}}]}});
    let (code, answer) = ask(server, "PATCH", &format!("{PODS}/{name}/status"), status).await;
    assert_eq!(code, 200, "{answer}");
}

async fn budget(server: &Arc<ApiServer>, name: &str, allowed: i64) {
    let spec = json!({"minAvailable": 1, "selector": {"matchLabels": {"app": "web"}}});
    let (code, made) = ask(server, "POST", BUDGETS, json!({"metadata": {"name": name}, "spec": spec})).await;
    assert_eq!(code, 201, "{made}");
    let status = json!({"status": {"observedGeneration": 1, "disruptionsAllowed": allowed, "currentHealthy": 2,
        "desiredHealthy": 1, "expectedPods": 2}});
    let (code, answer) = ask(server, "PATCH", &format!("{BUDGETS}/{name}/status"), status).await;
    assert_eq!(code, 200, "{answer}");
}

async fn evict(server: &Arc<ApiServer>, name: &str, query: &str) -> (u16, Value) {
    let body = json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name}});
    ask(server, "POST", &format!("{PODS}/{name}/eviction{query}"), body).await
}

#[tokio::test]
async fn a_budget_lets_so_many_pods_go_and_then_none() {
    let server = server().await;
    account(&server, "default").await;
    for name in ["a", "b"] {
        running(&server, name).await;
    }
    budget(&server, "web", 1).await;
    let (code, answer) = evict(&server, "a", "?dryRun=All").await;
    assert_eq!(code, 201, "{answer}");
    let (_, untouched) = ask(&server, "GET", &format!("{BUDGETS}/web"), Value::Null).await;
    assert_eq!(untouched["status"]["disruptionsAllowed"], 1);
    assert_eq!(evict(&server, "a", "").await.0, 201);
    let (_, gone) = ask(&server, "GET", &format!("{PODS}/a"), Value::Null).await;
    assert!(gone["metadata"]["deletionTimestamp"].is_string());
    let conditions = gone["status"]["conditions"].as_array().unwrap();
    assert!(
        conditions.iter().any(|c| c["type"] == "DisruptionTarget" && c["reason"] == "EvictionByEvictionAPI")
    );
    let (_, charged) = ask(&server, "GET", &format!("{BUDGETS}/web"), Value::Null).await;
    assert_eq!(charged["status"]["disruptionsAllowed"], 0);
    assert!(charged["status"]["disruptedPods"]["a"].is_string());
    let (code, refused) = evict(&server, "b", "").await;
    assert_eq!((code, &refused["reason"]), (429, &json!("TooManyRequests")), "{refused}");
    assert_eq!(refused["message"], "Cannot evict pod as it would violate the pod's disruption budget.");
    assert_eq!(refused["details"]["causes"][0]["reason"], "DisruptionBudget");
    budget(&server, "too", 1).await;
    let (code, refused) = evict(&server, "b", "").await;
    assert_eq!(code, 500);
    assert!(refused["message"].as_str().unwrap().contains("more than one PodDisruptionBudget"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_evictions_at_once_use_no_allowance_twice() {
    let server = server().await;
    account(&server, "default").await;
    let names: Vec<String> = (0..12).map(|i| format!("p{i}")).collect();
    for name in &names {
        running(&server, name).await;
    }
    budget(&server, "web", 5).await;
    let tasks: Vec<_> = names
        .into_iter()
        .map(|name| {
            let server = server.clone();
            tokio::spawn(async move { evict(&server, &name, "").await.0 })
        })
        .collect();
    let mut codes = Vec::new();
    for task in tasks {
        codes.push(task.await.unwrap());
    }
    assert_eq!(codes.iter().filter(|code| **code == 201).count(), 5, "{codes:?}");
    assert_eq!(codes.iter().filter(|code| **code == 429).count(), 7, "{codes:?}");
    let (_, charged) = ask(&server, "GET", &format!("{BUDGETS}/web"), Value::Null).await;
    assert_eq!(charged["status"]["disruptedPods"].as_object().unwrap().len(), 5);
}

#[tokio::test]
async fn a_pod_gets_containers_to_look_with_and_keeps_them() {
    let server = server().await;
    account(&server, "default").await;
    running(&server, "a").await;
    let at = format!("{PODS}/a/ephemeralcontainers");
    let with = |containers: Value| json!({"spec": {"ephemeralContainers": containers}});
    let debug = json!({"name": "debug", "image": "x", "targetContainerName": "c"});
    let mut change = with(json!([debug]));
    change["spec"]["nodeName"] = json!("elsewhere");
    let (code, answer) = ask(&server, "PATCH", &at, change).await;
    assert_eq!(code, 200, "{answer}");
    assert_eq!(answer["spec"]["ephemeralContainers"][0]["imagePullPolicy"], "Always");
    assert_eq!((&answer["spec"]["nodeName"], &answer["metadata"]["generation"]), (&json!("n"), &json!(2)));
    let (code, refused) = ask(&server, "PATCH", &at, with(json!([]))).await;
    assert_eq!(code, 422);
    assert!(
        refused["message"]
            .as_str()
            .unwrap()
            .contains("existing ephemeral containers \"debug\" may not be removed")
    );
    let (code, refused) = ask(&server, "PATCH", &at, with(json!([debug, {"name": "c", "image": "x"}]))).await;
    assert_eq!((code, &refused["details"]["causes"][0]["reason"]), (422, &json!("FieldValueDuplicate")));
    let mut born = pod("b");
    born["spec"]["ephemeralContainers"] = json!([debug]);
    let (code, refused) = ask(&server, "POST", PODS, born).await;
    assert_eq!(code, 422);
    assert!(
        refused["message"]
            .as_str()
            .unwrap()
            .contains("spec.ephemeralContainers: Forbidden: cannot be set on create")
    );
}

#[tokio::test]
async fn what_a_pod_may_use_changes_through_its_subresource_alone() {
    let server = server().await;
    account(&server, "default").await;
    running(&server, "a").await;
    let change = json!({"spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": "2"}}}]}});
    let kind = [("content-type", "application/strategic-merge-patch+json")];
    let patch = async |at: &str| {
        let who = orlop_apiserver::Identity::new("admin", &["system:masters"]);
        let uri = format!("{PODS}/a{at}");
        let (code, _, answer) =
            crate::support::send(&server, who, "PATCH", &uri, change.to_string(), &kind).await;
        (code, answer)
    };
    let (code, refused) = patch("").await;
    assert_eq!(code, 422, "{refused}");
    let (code, answer) = patch("/resize").await;
    assert_eq!(code, 200, "{answer}");
    assert_eq!(answer["spec"]["containers"][0]["resources"]["requests"]["cpu"], "2");
    assert_eq!(answer["metadata"]["generation"], 2);
}

#[tokio::test]
async fn a_binding_may_be_posted_to_its_collection() {
    let server = server().await;
    account(&server, "default").await;
    ask(&server, "POST", PODS, pod("a")).await;
    let binding = json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": "a"}, "target": {"kind": "Node", "name": "n"}});
    let at = "/api/v1/namespaces/default/bindings";
    assert_eq!(ask(&server, "POST", at, binding).await.0, 201);
    let (_, bound) = ask(&server, "GET", &format!("{PODS}/a"), Value::Null).await;
    assert_eq!(bound["spec"]["nodeName"], "n");
    assert_eq!(ask(&server, "GET", at, Value::Null).await.0, 405);
    let (_, core) = ask(&server, "GET", "/api/v1", Value::Null).await;
    let names: Vec<&str> =
        core["resources"].as_array().unwrap().iter().filter_map(|r| r["name"].as_str()).collect();
    for name in ["bindings", "pods/ephemeralcontainers", "pods/resize", "pods/proxy", "services/proxy"] {
        assert!(names.contains(&name), "{name}");
    }
}
