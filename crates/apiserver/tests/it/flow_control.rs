//! Priority and fairness as clients meet it.

use crate::support::{ask, send, server};
use orlop_apiserver::{ApiServer, Identity};
use serde_json::{Value, json};
use std::{sync::Arc, time::Duration};

const GROUP: &str = "/apis/flowcontrol.apiserver.k8s.io/v1";
const SCHEMA: &str = "x-kubernetes-pf-flowschema-uid";
const LEVEL: &str = "x-kubernetes-pf-prioritylevel-uid";

fn level(name: &str, limited: Value) -> Value {
    json!({
        "apiVersion": "flowcontrol.apiserver.k8s.io/v1", "kind": "PriorityLevelConfiguration",
        "metadata": {"name": name}, "spec": {"type": "Limited", "limited": limited},
    })
}

/// A schema for all that a user asks.
fn schema(name: &str, level: &str, user: &str) -> Value {
    let rule = json!({
        "subjects": [{"kind": "User", "user": {"name": user}}],
        "resourceRules": [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"], "namespaces": ["*"], "clusterScope": true}],
        "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["*"]}],
    });
    json!({
        "apiVersion": "flowcontrol.apiserver.k8s.io/v1", "kind": "FlowSchema", "metadata": {"name": name},
        "spec": {"priorityLevelConfiguration": {"name": level}, "rules": [rule]},
    })
}

async fn make(server: &Arc<ApiServer>, object: Value) -> Value {
    let plural = format!("{}s", object["kind"].as_str().unwrap().to_lowercase());
    let (code, made) = ask(server, "POST", &format!("{GROUP}/{plural}"), object).await;
    assert_eq!(code, 201, "{made}");
    made
}

async fn uid(server: &Arc<ApiServer>, plural: &str, name: &str) -> String {
    let (code, found) = ask(server, "GET", &format!("{GROUP}/{plural}/{name}"), Value::Null).await;
    assert_eq!(code, 200, "{found}");
    found["metadata"]["uid"].as_str().unwrap().to_string()
}

/// The code and the marks of an answer to a user.
async fn answer(server: &Arc<ApiServer>, user: &str, uri: &str) -> (u16, String, String, http::HeaderMap) {
    let groups: &[&str] = if user == "admin" { &["system:masters"] } else { &[] };
    let (code, headers, _) = send(server, Identity::new(user, groups), "GET", uri, "", &[]).await;
    let mark = |name: &str| headers.get(name).map_or("", |v| v.to_str().unwrap()).to_string();
    (code, mark(SCHEMA), mark(LEVEL), headers)
}

async fn eventually<F: Future<Output = bool>>(mut check: impl FnMut() -> F) {
    for _ in 0..500 {
        if check().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("it never came to be");
}

#[tokio::test]
async fn the_objects_that_every_cluster_has_are_there_and_answers_are_marked_with_their_uids() {
    let server = server().await;
    let (_, levels) = ask(&server, "GET", &format!("{GROUP}/prioritylevelconfigurations"), Value::Null).await;
    let names: Vec<&str> =
        levels["items"].as_array().unwrap().iter().map(|l| l["metadata"]["name"].as_str().unwrap()).collect();
    assert_eq!(
        names,
        [
            "catch-all",
            "exempt",
            "global-default",
            "leader-election",
            "node-high",
            "system",
            "workload-high",
            "workload-low"
        ]
    );
    for (user, uri, schema, level, code) in [
        ("admin", "/api/v1/pods", "exempt", "exempt", 200),
        ("jane", "/livez", "probes", "exempt", 200),
        ("jane", "/api/v1/pods", "global-default", "global-default", 403),
        ("system:kube-scheduler", "/api/v1/pods", "kube-scheduler", "workload-high", 200),
        ("jane", "/api/v1/nothing", "global-default", "global-default", 403),
    ] {
        let found = answer(&server, user, uri).await;
        let wanted = (
            code,
            uid(&server, "flowschemas", schema).await,
            uid(&server, "prioritylevelconfigurations", level).await,
        );
        assert_eq!((found.0, found.1, found.2), wanted, "{user} {uri}");
    }
}

#[tokio::test]
async fn a_schema_takes_requests_to_its_level_which_may_turn_them_away() {
    let server = server().await;
    let before = uid(&server, "flowschemas", "global-default").await;
    let made = make(&server, schema("jail", "jail", "jane")).await;
    assert_eq!(made["spec"]["matchingPrecedence"], 1000);
    let status = || async {
        let (_, now) = ask(&server, "GET", &format!("{GROUP}/flowschemas/jail"), Value::Null).await;
        let condition = &now["status"]["conditions"][0];
        assert!(condition.is_null() || condition["type"] == "Dangling");
        condition["status"].as_str().unwrap_or_default().to_string()
    };
    eventually(|| async { status().await == "True" }).await;
    assert_eq!(answer(&server, "jane", "/version").await.1, before, "a schema that dangles takes nothing");
    let closed = json!({"nominalConcurrencyShares": 0, "borrowingLimitPercent": 0, "limitResponse": {"type": "Reject"}});
    let level = make(&server, level("jail", closed)).await;
    assert_eq!(level["spec"]["limited"]["lendablePercent"], 0);
    eventually(|| async { status().await == "False" }).await;
    let (code, schema, level_uid, headers) = answer(&server, "jane", "/version").await;
    assert_eq!((code, schema.as_str()), (429, made["metadata"]["uid"].as_str().unwrap()));
    assert_eq!(
        (level_uid.as_str(), headers["retry-after"].to_str().unwrap()),
        (level["metadata"]["uid"].as_str().unwrap(), "1")
    );
    assert_eq!(answer(&server, "jack", "/version").await.0, 200, "others go on");
    assert_eq!(answer(&server, "admin", "/version").await.0, 200);
    let (_, metrics) = ask(&server, "GET", "/metrics", Value::Null).await;
    let metrics = metrics.as_str().unwrap();
    for line in [
        "apiserver_flowcontrol_nominal_limit_seats{priority_level=\"jail\"} 0\n",
        "apiserver_flowcontrol_rejected_requests_total{priority_level=\"jail\"} 1\n",
        "apiserver_flowcontrol_current_executing_requests{priority_level=\"exempt\"} 1\n",
    ] {
        assert!(metrics.contains(line), "{line}{metrics}");
    }
    assert_eq!(ask(&server, "DELETE", &format!("{GROUP}/flowschemas/jail"), Value::Null).await.0, 200);
    eventually(|| async { answer(&server, "jane", "/version").await.0 == 200 }).await;
}

#[tokio::test]
async fn watches_hold_their_seat_only_while_they_begin() {
    use tower::Service;
    let server = server().await;
    let one = json!({"nominalConcurrencyShares": 1, "borrowingLimitPercent": 0, "limitResponse": {"type": "Reject"}});
    make(&server, level("narrow", one)).await;
    let made = make(&server, schema("narrow", "narrow", "system:kube-scheduler")).await;
    let patch = json!({"spec": {"matchingPrecedence": 2}});
    assert_eq!(ask(&server, "PATCH", &format!("{GROUP}/flowschemas/narrow"), patch).await.0, 200);
    let own = made["metadata"]["uid"].as_str().unwrap();
    eventually(|| async { answer(&server, "system:kube-scheduler", "/version").await.1 == own }).await;
    let mut open = Vec::new();
    for _ in 0..20 {
        let request =
            http::Request::get("/api/v1/pods?watch=true").body(http_body_util::Empty::<bytes::Bytes>::new());
        let who = Identity::new("system:kube-scheduler", &[]);
        let answer = server.service_for(who).call(request.unwrap()).await.unwrap();
        assert_eq!((answer.status().as_u16(), answer.headers()[SCHEMA].to_str().unwrap()), (200, own));
        open.push(answer);
    }
    assert_eq!(answer(&server, "system:kube-scheduler", "/version").await.0, 200);
}

#[tokio::test]
async fn mandatory_objects_cannot_be_changed_and_the_api_is_that_of_any_kind() {
    let server = server().await;
    let change = json!({"spec": {"matchingPrecedence": 9000}});
    let path = format!("{GROUP}/flowschemas/catch-all");
    let (code, status) = ask(&server, "PATCH", &path, change.clone()).await;
    assert_eq!(code, 422);
    assert!(
        status["message"].as_str().unwrap().ends_with("spec of 'catch-all' must equal the fixed value"),
        "{status}"
    );
    make(&server, schema("mine", "global-default", "nobody")).await;
    let path = format!("{GROUP}/flowschemas/mine");
    let (_, changed) = ask(&server, "PATCH", &path, change).await;
    assert_eq!(changed["metadata"]["generation"], 2);
    let condition = json!({"type": "E2E", "status": "False", "reason": "e2e"});
    let status = json!({"status": {"conditions": [condition]}});
    let (code, told) = ask(&server, "PATCH", &format!("{path}/status"), status).await;
    assert_eq!((code, &told["status"]["conditions"][0]["type"]), (200, &json!("E2E")), "{told}");
    eventually(|| async {
        let (_, now) = ask(&server, "GET", &format!("{path}/status"), Value::Null).await;
        now["status"]["conditions"].as_array().is_some_and(|c| c.len() == 2)
    })
    .await;
    let table = [("accept", "application/json;as=Table;v=v1;g=meta.k8s.io")];
    let admin = Identity::new("admin", &["system:masters"]);
    let (_, _, rows) = send(&server, admin, "GET", &path, "", &table).await;
    let cells = rows["rows"][0]["cells"].as_array().unwrap();
    assert_eq!(
        (&cells[1], &cells[2], &cells[3], &cells[5]),
        (&json!("global-default"), &json!(9000), &json!("<none>"), &json!("False"))
    );
}
