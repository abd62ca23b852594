//! The kinds of resource.k8s.io as drivers, schedulers and users of devices meet them.

use crate::support::{ask, send, server};
use orlop_apiserver::{ApiServer, Identity};
use serde_json::{Value, json};
use std::sync::Arc;

const CLASSES: &str = "/apis/resource.k8s.io/v1/deviceclasses";
const CLAIMS: &str = "/apis/resource.k8s.io/v1/namespaces/default/resourceclaims";
const TEMPLATES: &str = "/apis/resource.k8s.io/v1/namespaces/default/resourceclaimtemplates";
const SLICES: &str = "/apis/resource.k8s.io/v1/resourceslices";

fn claim(name: &str, more: Value) -> Value {
    let mut request = json!({"name": "gpu", "exactly": {"deviceClassName": "gpu"}});
    request["exactly"].as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    json!({"metadata": {"name": name}, "spec": {"devices": {"requests": [request]}}, "status": {"reservedFor": []}})
}

fn slice(name: &str, node: &str) -> Value {
    json!({"metadata": {"name": name}, "spec": {
        "driver": "d.example.com", "nodeName": node, "pool": {"name": node, "generation": 1, "resourceSliceCount": 1},
        "devices": [{"name": "gpu-0", "attributes": {"model": {"string": "A"}}, "taints": [{"key": "k", "effect": "NoSchedule"}]}],
    }})
}

async fn made(server: &Arc<ApiServer>, uri: &str, body: Value) -> Value {
    let (code, made) = ask(server, "POST", uri, body).await;
    assert_eq!(code, 201, "{made}");
    made
}

async fn refused(server: &Arc<ApiServer>, method: &str, uri: &str, body: Value) -> String {
    let (code, status) = ask(server, method, uri, body).await;
    assert_eq!(code, 422, "{status}");
    status["message"].as_str().unwrap_or_default().to_string()
}

#[tokio::test]
async fn a_claim_is_allocated_used_and_given_back_and_never_asks_for_something_else() {
    let server = server().await;
    let new = made(&server, CLAIMS, claim("c", json!({}))).await;
    assert_eq!(
        new["spec"]["devices"]["requests"][0]["exactly"],
        json!({"deviceClassName": "gpu", "allocationMode": "ExactCount", "count": 1})
    );
    assert!(new.get("status").is_none_or(|s| s == &json!({})), "a create writes no status: {new}");
    let other = json!({"spec": {"devices": {"requests": []}}});
    let said = refused(&server, "PATCH", &format!("{CLAIMS}/c"), other).await;
    assert!(said.contains("spec: Invalid value: ") && said.ends_with(": field is immutable"), "{said}");
    let (code, labelled) =
        ask(&server, "PATCH", &format!("{CLAIMS}/c"), json!({"metadata": {"labels": {"a": "b"}}})).await;
    assert_eq!((code, &labelled["metadata"]["labels"]["a"]), (200, &json!("b")));

    let status = format!("{CLAIMS}/c/status");
    let user = json!([{"resource": "pods", "name": "p", "uid": "1"}]);
    let said = refused(&server, "PATCH", &status, json!({"status": {"reservedFor": user}})).await;
    assert!(said.contains("may not be specified when `allocated` is not set"), "{said}");
    let device = json!({"driver": "d.example.com", "pool": "n", "device": "gpu-0"});
    let mut result = device.clone();
    result["request"] = json!("gpu");
    let allocation = json!({"devices": {"results": [result]}});
    let given = json!({"status": {"allocation": allocation, "reservedFor": user, "devices": [device]}});
    let (code, given) = ask(&server, "PATCH", &status, given).await;
    assert_eq!((code, &given["status"]["allocation"]), (200, &allocation), "{given}");
    let (_, table) = {
        let who = Identity::new("admin", &["system:masters"]);
        let accept = [("accept", "application/json;as=Table;v=v1;g=meta.k8s.io")];
        let (code, _, table) = send(&server, who, "GET", CLAIMS, "", &accept).await;
        (code, table)
    };
    assert_eq!(table["rows"][0]["cells"][1], "allocated,reserved", "{table}");

    let moved = json!({"status": {"allocation": {"devices": {"results": []}}}});
    let said = refused(&server, "PATCH", &status, moved).await;
    assert!(said.contains("status.allocation: Invalid value: "), "{said}");
    let (code, back) =
        ask(&server, "PATCH", &status, json!({"status": {"allocation": null, "reservedFor": null}})).await;
    assert_eq!(code, 200, "{back}");
    assert!(back["status"].get("devices").is_none(), "what the driver said is gone: {back}");
    assert_eq!(ask(&server, "DELETE", &format!("{CLAIMS}/c"), Value::Null).await.0, 200);
}

#[tokio::test]
async fn selectors_are_compiled_when_they_are_written() {
    let server = server().await;
    let selectors = |expression: &str| json!({"selectors": [{"cel": {"expression": expression}}]});
    let class =
        |name: &str, expression: &str| json!({"metadata": {"name": name}, "spec": selectors(expression)});
    let good = "device.driver == 'd.example.com' && device.attributes['d.example.com'].model == 'A'";
    assert_eq!(made(&server, CLASSES, class("gpu", good)).await["metadata"]["generation"], 1);
    let said = refused(&server, "POST", CLASSES, class("bad", "device.colour == 'red'")).await;
    assert!(said.contains("spec.selectors[0].cel.expression: Invalid value: \"device.colour == 'red'\": compilation failed: "), "{said}");
    let said = refused(&server, "POST", CLAIMS, claim("bad", selectors("device.driver"))).await;
    assert!(
        said.contains("spec.devices.requests[0].exactly.selectors[0].cel.expression: Invalid value: \"device.driver\": must evaluate to bool"),
        "{said}"
    );
    let (code, changed) =
        ask(&server, "PATCH", &format!("{CLASSES}/gpu"), json!({"spec": selectors("true")})).await;
    assert_eq!((code, &changed["metadata"]["generation"]), (200, &json!(2)));
}

#[tokio::test]
async fn devices_in_use_are_for_namespaces_that_are_labelled_for_it() {
    let server = server().await;
    let admin = json!({"adminAccess": true});
    let template = |name: &str| json!({"metadata": {"name": name}, "spec": {"spec": claim(name, admin.clone())["spec"]}});
    let why = "spec.devices.requests[0].adminAccess: Forbidden: admin access to devices requires the \
        `resource.kubernetes.io/admin-access: true` label on the containing namespace";
    for (uri, body) in [(CLAIMS, claim("c", admin.clone())), (TEMPLATES, template("t"))] {
        let said = refused(&server, "POST", uri, body).await;
        assert!(said.ends_with(why), "{said}");
    }
    let label = json!({"metadata": {"labels": {"resource.kubernetes.io/admin-access": "true"}}});
    assert_eq!(ask(&server, "PATCH", "/api/v1/namespaces/default", label).await.0, 200);
    made(&server, CLAIMS, claim("c", admin.clone())).await;
    made(&server, TEMPLATES, template("t")).await;
    // What was allowed stays, whatever becomes of the namespace.
    let unlabel = json!({"metadata": {"labels": {"resource.kubernetes.io/admin-access": null}}});
    assert_eq!(ask(&server, "PATCH", "/api/v1/namespaces/default", unlabel).await.0, 200);
    let marked = json!({"metadata": {"annotations": {"a": "b"}}});
    assert_eq!(ask(&server, "PATCH", &format!("{CLAIMS}/c"), marked).await.0, 200);
    let result = json!({"request": "gpu", "driver": "d", "pool": "n", "device": "x", "adminAccess": true});
    let grant = json!({"status": {"allocation": {"devices": {"results": [result]}}}});
    let said = refused(&server, "PATCH", &format!("{CLAIMS}/c/status"), grant).await;
    assert!(said.contains("status.allocation.devices.results[0].adminAccess: Forbidden: "), "{said}");
}

#[tokio::test]
async fn slices_are_found_by_node_and_driver_and_a_node_offers_only_its_own() {
    let server = server().await;
    let new = made(&server, SLICES, slice("one", "n1")).await;
    assert!(new["spec"]["devices"][0]["taints"][0]["timeAdded"].is_string(), "{new}");
    made(&server, SLICES, slice("two", "n2")).await;
    let found = async |selector: &str| {
        let (code, list) =
            ask(&server, "GET", &format!("{SLICES}?fieldSelector={selector}"), Value::Null).await;
        assert_eq!(code, 200, "{list}");
        list["items"].as_array().unwrap().iter().map(|s| s["metadata"]["name"].clone()).collect::<Vec<_>>()
    };
    assert_eq!(found("spec.nodeName%3Dn1").await, ["one"]);
    assert_eq!(found("spec.driver%3Dd.example.com").await, ["one", "two"]);
    let said = refused(&server, "PATCH", &format!("{SLICES}/one"), json!({"spec": {"nodeName": "n2"}})).await;
    assert!(said.contains("spec.nodeName: Invalid value: \"n2\": field is immutable"), "{said}");

    let node = || Identity::new("system:node:n1", &["system:nodes", "system:authenticated"]);
    let json = [("content-type", "application/json")];
    for (name, of, want) in [("own", "n1", 201), ("foreign", "n2", 403)] {
        let (code, _, answer) =
            send(&server, node(), "POST", SLICES, slice(name, of).to_string(), &json).await;
        assert_eq!(code, want, "{answer}");
    }
    for (path, want) in [("/own", 200), ("/two", 403), ("?fieldSelector=spec.nodeName%3Dn1", 200), ("", 403)]
    {
        let (code, _, answer) = send(&server, node(), "GET", &format!("{SLICES}{path}"), "", &[]).await;
        assert_eq!(code, want, "{path}: {answer}");
    }
}
