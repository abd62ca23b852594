//! Several versions of one stored kind: Events of core/v1 and of events.k8s.io/v1 are the same objects.

use crate::support::{ask, client, server};
use futures::StreamExt;
use k8s_openapi::api::events::v1::Event;
use kube::{
    Api,
    api::{ListParams, WatchEvent, WatchParams},
};
use orlop_apiserver::ApiServer;
use serde_json::{Value, json};
use std::{sync::Arc, time::Duration};

const CORE: &str = "/api/v1/namespaces/default/events";
const NEW: &str = "/apis/events.k8s.io/v1/namespaces/default/events";

fn new_event(name: &str) -> Value {
    json!({
        "apiVersion": "events.k8s.io/v1", "kind": "Event", "metadata": {"name": name},
        "eventTime": "2026-01-01T00:00:00.000000Z", "reportingController": "x.y/z", "reportingInstance": "i",
        "action": "Act", "reason": "Why", "type": "Normal", "note": "said",
        "regarding": {"kind": "Pod", "name": "p", "namespace": "default"},
    })
}

#[tokio::test]
async fn what_is_written_in_one_version_is_read_in_the_other() {
    let server = server().await;
    let (code, written) = ask(&server, "POST", NEW, new_event("a")).await;
    assert_eq!(code, 201, "{written}");
    assert_eq!((&written["apiVersion"], &written["note"]), (&json!("events.k8s.io/v1"), &json!("said")));
    let (_, read) = ask(&server, "GET", &format!("{CORE}/a"), Value::Null).await;
    assert_eq!((&read["apiVersion"], &read["message"]), (&json!("v1"), &json!("said")));
    assert_eq!(read["metadata"]["resourceVersion"], written["metadata"]["resourceVersion"]);

    let patch = json!({"series": {"count": 2, "lastObservedTime": "2026-01-01T00:00:01.000000Z"}});
    let (code, patched) = ask(&server, "PATCH", &format!("{NEW}/a"), patch).await;
    assert_eq!((code, &patched["series"]["count"]), (200, &json!(2)), "{patched}");
    let (code, refused) = ask(&server, "PATCH", &format!("{NEW}/a"), json!({"note": "other"})).await;
    assert_eq!(code, 422, "{refused}");

    let (_, list) = ask(&server, "GET", &format!("{NEW}?fieldSelector=regarding.name=p"), Value::Null).await;
    assert_eq!(list["items"][0]["regarding"]["name"], "p");
    let (_, list) =
        ask(&server, "GET", &format!("{CORE}?fieldSelector=involvedObject.name=q"), Value::Null).await;
    assert_eq!(list["items"], json!([]));
    let (code, gone) = ask(&server, "DELETE", &format!("{CORE}/a"), Value::Null).await;
    assert_eq!(code, 200, "{gone}");
    assert_eq!(ask(&server, "GET", &format!("{NEW}/a"), Value::Null).await.0, 404);
}

#[tokio::test]
async fn a_watch_tells_in_its_own_version_what_was_written_in_another() {
    let server = server().await;
    let events: Api<Event> = Api::default_namespaced(client(&server));
    let start = events.list(&ListParams::default()).await.unwrap().metadata.resource_version.unwrap();
    let mut watch = events.watch(&WatchParams::default(), &start).await.unwrap().boxed();
    let old = json!({
        "apiVersion": "v1", "kind": "Event", "metadata": {"name": "b"}, "message": "said",
        "involvedObject": {"kind": "Pod", "name": "p", "namespace": "default"},
    });
    assert_eq!(ask(&server, "POST", CORE, old).await.0, 201);
    let event = tokio::time::timeout(Duration::from_secs(20), watch.next()).await.unwrap().unwrap().unwrap();
    let WatchEvent::Added(event) = event else { panic!("{event:?}") };
    assert_eq!(event.note.as_deref(), Some("said"));
    assert_eq!(event.regarding.unwrap().name.as_deref(), Some("p"));
}

#[tokio::test]
async fn an_autoscaler_of_the_old_version_is_one_of_the_new() {
    let server = server().await;
    let at =
        |version: &str| format!("/apis/autoscaling/{version}/namespaces/default/horizontalpodautoscalers");
    let spec = json!({"maxReplicas": 5, "targetCPUUtilizationPercentage": 70,
        "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"}});
    let (code, made) =
        ask(&server, "POST", &at("v1"), json!({"metadata": {"name": "h"}, "spec": spec})).await;
    assert_eq!(code, 201, "{made}");
    let (_, new) = ask(&server, "GET", &format!("{}/h", at("v2")), Value::Null).await;
    assert_eq!(new["spec"]["metrics"][0]["resource"]["target"]["averageUtilization"], 70, "{new}");
    let change = json!({"spec": {"metrics": [{"type": "Resource", "resource": {"name": "cpu",
        "target": {"type": "Utilization", "averageUtilization": 50}}}]}});
    let (code, changed) = ask(&server, "PATCH", &format!("{}/h", at("v2")), change).await;
    assert_eq!(code, 200, "{changed}");
    let (_, old) = ask(&server, "GET", &format!("{}/h", at("v1")), Value::Null).await;
    assert_eq!(old["spec"]["targetCPUUtilizationPercentage"], 50);
    assert!(old["spec"].get("metrics").is_none());
    let (_, group) = ask(&server, "GET", "/apis/autoscaling", Value::Null).await;
    assert_eq!(group["preferredVersion"]["version"], "v2");
    assert_eq!(group["versions"].as_array().unwrap().len(), 2);
}

/// A policy about autoscalers of v2, and a binding for everything. `plural` is that of policies of its kind.
async fn bind(server: &Arc<ApiServer>, plural: &str, match_policy: &str, more: Value) {
    let operations = if plural == VALIDATING { json!(["*"]) } else { json!(["CREATE", "UPDATE"]) };
    let rule = json!({"operations": operations, "apiGroups": ["autoscaling"], "apiVersions": ["v2"],
        "resources": ["horizontalpodautoscalers"]});
    let mut spec = json!({"matchConstraints": {"matchPolicy": match_policy, "resourceRules": [rule]}});
    spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let name = match_policy.to_lowercase();
    let mut bound = json!({"policyName": name});
    if plural == VALIDATING {
        bound["validationActions"] = json!(["Deny"]);
    }
    for (plural, spec) in [(plural.to_string(), spec), (plural.replace("policies", "policybindings"), bound)]
    {
        let object = json!({"metadata": {"name": name}, "spec": spec});
        let uri = format!("/apis/admissionregistration.k8s.io/v1/{plural}");
        let (code, answer) = ask(server, "POST", &uri, object).await;
        assert_eq!(code, 201, "{answer}");
    }
}

const VALIDATING: &str = "validatingadmissionpolicies";
const MUTATING: &str = "mutatingadmissionpolicies";

fn autoscalers(version: &str) -> String {
    format!("/apis/autoscaling/{version}/namespaces/default/horizontalpodautoscalers")
}

fn old_autoscaler(percent: i64) -> Value {
    json!({"metadata": {"name": "h"}, "spec": {"maxReplicas": 5, "targetCPUUtilizationPercentage": percent,
        "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"}}})
}

#[tokio::test]
async fn a_validating_policy_sees_an_object_in_the_version_that_it_is_about() {
    let server = server().await;
    let validations = json!({"validations": [{
        "expression": "(object == null ? oldObject : object).spec.metrics[0].resource.target.averageUtilization <= 50",
        "messageExpression": "request.kind.version + ' of ' + request.requestKind.version",
    }]});
    bind(&server, VALIDATING, "Exact", validations.clone()).await;
    let (code, made) = ask(&server, "POST", &autoscalers("v1"), old_autoscaler(70)).await;
    assert_eq!(code, 201, "another version is no concern of an exact policy: {made}");
    bind(&server, VALIDATING, "Equivalent", validations).await;
    let refused = |version: &str| {
        format!(
            "horizontalpodautoscalers.autoscaling \"h\" is forbidden: ValidatingAdmissionPolicy 'equivalent' with binding 'equivalent' denied request: v2 of {version}"
        )
    };
    let (code, status) = ask(&server, "DELETE", &format!("{}/h", autoscalers("v1")), Value::Null).await;
    assert_eq!((code, &status["message"]), (422, &json!(refused("v1"))), "{status}");
    let less = json!({"spec": {"targetCPUUtilizationPercentage": 40}});
    let (code, changed) = ask(&server, "PATCH", &format!("{}/h", autoscalers("v1")), less).await;
    assert_eq!((code, &changed["spec"]["targetCPUUtilizationPercentage"]), (200, &json!(40)), "{changed}");
    let more = json!({"spec": {"targetCPUUtilizationPercentage": 60}});
    let (code, status) = ask(&server, "PATCH", &format!("{}/h", autoscalers("v1")), more).await;
    assert_eq!((code, &status["message"]), (422, &json!(refused("v1"))), "{status}");
}

#[tokio::test]
async fn a_mutating_policy_changes_an_object_in_the_version_that_it_is_about() {
    let server = server().await;
    let patch = |expression: &str| json!({"patchType": "JSONPatch", "jsonPatch": {"expression": expression}});
    let target = "/spec/metrics/0/resource/target/averageUtilization";
    let mutations = json!({"reinvocationPolicy": "Never", "mutations": [
        patch(&format!("[JSONPatch{{op: 'replace', path: '{target}', value: object.spec.metrics[0].resource.target.averageUtilization - 20}}]")),
        patch(&format!("[JSONPatch{{op: 'test', path: '{target}', value: 50}}, JSONPatch{{op: 'replace', path: '/spec/maxReplicas', value: 9}}]")),
    ]});
    bind(&server, MUTATING, "Exact", mutations.clone()).await;
    let uri = format!("{}?dryRun=All", autoscalers("v1"));
    let (code, made) = ask(&server, "POST", &uri, old_autoscaler(70)).await;
    assert_eq!((code, &made["spec"]["targetCPUUtilizationPercentage"]), (201, &json!(70)), "{made}");
    bind(&server, MUTATING, "Equivalent", mutations).await;
    let (code, made) = ask(&server, "POST", &autoscalers("v1"), old_autoscaler(70)).await;
    assert_eq!(code, 201, "{made}");
    assert_eq!(made["apiVersion"], "autoscaling/v1");
    assert_eq!(
        (&made["spec"]["targetCPUUtilizationPercentage"], &made["spec"]["maxReplicas"]),
        (&json!(50), &json!(9)),
        "each mutation sees what the one before it made: {made}"
    );
    assert!(made["spec"].get("metrics").is_none(), "{made}");
}
