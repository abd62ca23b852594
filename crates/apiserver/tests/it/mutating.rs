//! MutatingAdmissionPolicy as clients meet it.

use crate::{
    support::{ask, send, server},
    webhook::webhook,
};
use base64::{Engine, engine::general_purpose::STANDARD};
use orlop_apiserver::{ApiServer, Identity};
use serde_json::{Value, json};
use std::sync::{Arc, atomic::Ordering};

const GROUP: &str = "/apis/admissionregistration.k8s.io/v1";
const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";

fn map(name: &str, data: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data})
}

fn deployment(name: &str) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name},
        "spec": {"selector": {"matchLabels": {"a": "b"}}, "template": {
            "metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "x"}]}}},
    })
}

/// A policy about what is created and updated. `more` changes its spec.
fn policy(name: &str, (group, resource): (&str, &str), mutation: &Value, more: Value) -> Value {
    let mut spec = json!({
        "matchConstraints": {"resourceRules": [
            {"operations": ["CREATE", "UPDATE"], "apiGroups": [group], "apiVersions": ["v1"], "resources": [resource]}]},
        "mutations": [mutation], "reinvocationPolicy": "Never",
    });
    spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "MutatingAdmissionPolicy",
        "metadata": {"name": name}, "spec": spec,
    })
}

fn apply(expression: &str) -> Value {
    json!({"patchType": "ApplyConfiguration", "applyConfiguration": {"expression": expression}})
}

fn patch(expression: &str) -> Value {
    json!({"patchType": "JSONPatch", "jsonPatch": {"expression": expression}})
}

/// Creates a policy and a binding for everything.
async fn bind(server: &Arc<ApiServer>, policy: Value) {
    let name = policy["metadata"]["name"].clone();
    let (code, answer) = ask(server, "POST", &format!("{GROUP}/mutatingadmissionpolicies"), policy).await;
    assert_eq!((code, &answer["metadata"]["generation"]), (201, &json!(1)), "{answer}");
    assert!(answer.get("status").is_none());
    let binding = json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "MutatingAdmissionPolicyBinding",
        "metadata": {"name": name}, "spec": {"policyName": name},
    });
    let (code, answer) =
        ask(server, "POST", &format!("{GROUP}/mutatingadmissionpolicybindings"), binding).await;
    assert_eq!(code, 201, "{answer}");
}

const ABOUT_MAPS: (&str, &str) = ("", "configmaps");

#[tokio::test]
async fn a_policy_merges_a_configuration_into_what_is_written() {
    let server = server().await;
    let expression = "Object{
        metadata: Object.metadata{annotations: {'mutated-by': 'policy'}},
        spec: Object.spec{replicas: 1337, template: Object.spec.template{spec: Object.spec.template.spec{
            containers: [Object.spec.template.spec.containers{name: 'side', image: 'y'}]}}},
    }";
    let only =
        json!({"matchConditions": [{"name": "no-spare", "expression": "object.metadata.name != 'spared'"}]});
    bind(&server, policy("p", ("apps", "deployments"), &apply(expression), only)).await;
    let (code, made) = ask(&server, "POST", DEPLOYMENTS, deployment("d")).await;
    assert_eq!(code, 201, "{made}");
    assert_eq!(
        (&made["metadata"]["annotations"], &made["spec"]["replicas"]),
        (&json!({"mutated-by": "policy"}), &json!(1337))
    );
    let containers = made["spec"]["template"]["spec"]["containers"].as_array().unwrap();
    let names: Vec<&str> = containers.iter().map(|c| c["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["c", "side"]);
    assert_eq!(containers[1]["terminationMessagePath"], "/dev/termination-log", "defaults are filled in");
    let scaled = json!({"spec": {"replicas": 1}});
    let (_, made) = ask(&server, "PATCH", &format!("{DEPLOYMENTS}/d"), scaled).await;
    assert_eq!(made["spec"]["replicas"], 1337, "an update is changed too");
    let (_, spared) = ask(&server, "POST", DEPLOYMENTS, deployment("spared")).await;
    assert_eq!(spared["spec"]["replicas"], 1);
}

#[tokio::test]
async fn mutations_see_variables_parameters_and_what_came_before_them() {
    let server = server().await;
    assert_eq!(ask(&server, "POST", MAPS, map("params", json!({"add": "10"}))).await.0, 201);
    let mut made = policy(
        "p",
        ABOUT_MAPS,
        &apply(
            "Object{data: {'n': string(variables.n + int(params.data.add)), 'by': request.userInfo.username}}",
        ),
        json!({
            "paramKind": {"apiVersion": "v1", "kind": "ConfigMap"},
            "variables": [{"name": "n", "expression": "int(object.data.n)"}],
        }),
    );
    let second = "[JSONPatch{op: 'add', path: '/data/' + jsonpatch.escapeKey('twice'), value: string(variables.n * 2)},
                   JSONPatch{op: 'add', path: '/metadata/labels', value: {'ns': namespaceObject.metadata.name}}]";
    made["spec"]["mutations"].as_array_mut().unwrap().push(patch(second));
    let (code, answer) = ask(&server, "POST", &format!("{GROUP}/mutatingadmissionpolicies"), made).await;
    assert_eq!(code, 201, "{answer}");
    let binding = json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "MutatingAdmissionPolicyBinding",
        "metadata": {"name": "b"}, "spec": {
            "policyName": "p", "paramRef": {"name": "params", "namespace": "default", "parameterNotFoundAction": "Deny"},
            "matchResources": {"objectSelector": {"matchLabels": {"count": "me"}}},
        },
    });
    let (code, answer) =
        ask(&server, "POST", &format!("{GROUP}/mutatingadmissionpolicybindings"), binding).await;
    assert_eq!(code, 201, "{answer}");
    let mut counted = map("a", json!({"n": "1"}));
    let (_, unlabelled) = ask(&server, "POST", MAPS, counted.clone()).await;
    assert_eq!(unlabelled["data"], json!({"n": "1"}));
    counted["metadata"] = json!({"name": "b", "labels": {"count": "me"}});
    let (_, made) = ask(&server, "POST", MAPS, counted.clone()).await;
    assert_eq!(made["data"], json!({"n": "11", "by": "admin", "twice": "22"}));
    assert_eq!(made["metadata"]["labels"], json!({"ns": "default"}));
    assert_eq!(ask(&server, "DELETE", &format!("{MAPS}/params"), Value::Null).await.0, 200);
    counted["metadata"]["name"] = json!("c");
    let (code, status) = ask(&server, "POST", MAPS, counted).await;
    assert_eq!((code, &status["reason"]), (403, &json!("Forbidden")));
    assert_eq!(
        status["message"],
        "policy 'p' with binding 'b' denied request: failed to configure binding: no params found for policy binding with `Deny` parameterNotFoundAction"
    );
}

#[tokio::test]
async fn what_fails_refuses_the_request_unless_the_policy_ignores_it() {
    let server = server().await;
    let failing = apply("Object{data: {'x': object.data.missing}}");
    bind(&server, policy("loose", ABOUT_MAPS, &failing, json!({"failurePolicy": "Ignore"}))).await;
    assert_eq!(ask(&server, "POST", MAPS, map("a", json!({}))).await.0, 201);
    bind(&server, policy("strict", ABOUT_MAPS, &failing, json!({}))).await;
    let (code, status) = ask(&server, "POST", MAPS, map("b", json!({}))).await;
    assert_eq!((code, &status["reason"]), (403, &json!("Invalid")));
    let message = "policy 'strict' with binding 'strict' denied request: no such key: missing";
    assert_eq!(
        (&status["message"], &status["details"]["causes"]),
        (&json!(message), &json!([{"message": message}]))
    );
    assert_eq!(ask(&server, "GET", &format!("{MAPS}/b"), Value::Null).await.0, 404);
}

#[tokio::test]
async fn expressions_are_checked_when_a_policy_is_written() {
    let server = server().await;
    for (mutation, field, why) in [
        (apply("'tea'"), "applyConfiguration", "must evaluate to Object but got string"),
        (
            apply("Object.spec.metadata{}"),
            "applyConfiguration",
            "must evaluate to Object but got Object.spec.metadata",
        ),
        (apply("Object{"), "applyConfiguration", "compilation failed: ERROR: <input>:1:8: Syntax error"),
        (patch("JSONPatch{}"), "jsonPatch", "must evaluate to list(JSONPatch) but got JSONPatch"),
        (
            patch("[JSONPatch{op: 1}]"),
            "jsonPatch",
            "compilation failed: ERROR: <input>:1:14: expected type of field 'op'",
        ),
    ] {
        let bad = policy("bad", ABOUT_MAPS, &mutation, json!({}));
        let (code, status) = ask(&server, "POST", &format!("{GROUP}/mutatingadmissionpolicies"), bad).await;
        let message = status["message"].as_str().unwrap();
        assert_eq!(code, 422, "{status}");
        assert!(
            message.contains(&format!("spec.mutations[0].{field}.expression: Invalid value:")),
            "{message}"
        );
        assert!(message.contains(why), "{message}");
    }
    // Only mutations make objects.
    let variables = json!({"variables": [{"name": "o", "expression": "Object{}"}]});
    let bad = policy("bad", ABOUT_MAPS, &apply("Object{}"), variables);
    let (code, status) = ask(&server, "POST", &format!("{GROUP}/mutatingadmissionpolicies"), bad).await;
    assert_eq!(code, 422);
    assert!(status["message"].as_str().unwrap().contains("undeclared reference to 'Object'"), "{status}");
}

#[tokio::test]
async fn policies_come_before_webhooks_and_again_after_them_if_they_wish() {
    let server = server().await;
    let hook = webhook(|request| {
        let seen = request["object"]["data"]["trace"].clone();
        let operations = json!([{"op": "replace", "path": "/data/trace", "value": format!("{},hook", seen.as_str().unwrap())}]);
        json!({"allowed": true, "patchType": "JSONPatch", "patch": STANDARD.encode(operations.to_string())})
    })
    .await;
    hook.register(&server, "MutatingWebhookConfiguration", "hook", json!({})).await;
    let trace = |name: &str| {
        patch(&format!(
            "[JSONPatch{{op: 'replace', path: '/data/trace', value: object.data.trace + ',{name}'}}]"
        ))
    };
    bind(&server, policy("a", ABOUT_MAPS, &trace("a"), json!({"reinvocationPolicy": "IfNeeded"}))).await;
    bind(&server, policy("b", ABOUT_MAPS, &trace("b"), json!({}))).await;
    let late = json!({
        "reinvocationPolicy": "IfNeeded",
        "matchConditions": [{"name": "late", "expression": "object.data.trace.contains('hook')"}],
    });
    bind(&server, policy("c", ABOUT_MAPS, &trace("c"), late)).await;
    let (code, made) = ask(&server, "POST", MAPS, map("m", json!({"trace": "start"}))).await;
    assert_eq!(code, 201, "{made}");
    assert_eq!(made["data"]["trace"], "start,a,b,hook,a");
    assert_eq!(hook.calls.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_dry_run_shows_what_policies_would_change_and_policies_are_beyond_policies() {
    let server = server().await;
    let more = json!({"matchConstraints": {"resourceRules": [
        {"operations": ["*"], "apiGroups": ["*"], "apiVersions": ["*"], "resources": ["*"]}]}});
    let label = apply("Object{metadata: Object.metadata{labels: {'by': 'policy'}}}");
    bind(&server, policy("all", ABOUT_MAPS, &label, more)).await;
    let (code, made) = ask(&server, "POST", &format!("{MAPS}?dryRun=All"), map("a", json!({}))).await;
    assert_eq!((code, &made["metadata"]["labels"]), (201, &json!({"by": "policy"})));
    let (_, own) =
        ask(&server, "GET", &format!("{GROUP}/mutatingadmissionpolicybindings/all"), Value::Null).await;
    assert!(own["metadata"].get("labels").is_none(), "{own}");
    assert_eq!(ask(&server, "POST", MAPS, map("b", json!({}))).await.0, 201);
    assert_eq!(
        ask(&server, "DELETE", &format!("{MAPS}/b"), Value::Null).await.0,
        200,
        "a delete has no object"
    );
    // A custom object has its own schema.
    let schema = json!({"type": "object", "properties": {"spec": {"type": "object", "properties": {"n": {"type": "integer"}}}}});
    let definition = json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "toys.example.com"},
        "spec": {"group": "example.com", "scope": "Cluster", "names": {"plural": "toys", "kind": "Toy"},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": schema}}]},
    });
    let path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
    assert_eq!(ask(&server, "POST", path, definition).await.0, 201);
    bind(
        &server,
        policy("toys", ("example.com", "toys"), &apply("Object{spec: Object.spec{n: 7}}"), json!({})),
    )
    .await;
    let toy = json!({"apiVersion": "example.com/v1", "kind": "Toy", "metadata": {"name": "t"}, "spec": {}});
    let mut made = Value::Null;
    for _ in 0..100 {
        let answer = ask(&server, "POST", "/apis/example.com/v1/toys", toy.clone()).await;
        made = answer.1;
        if answer.0 == 201 {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    assert_eq!(
        (&made["spec"]["n"], &made["metadata"]["labels"]["by"]),
        (&json!(7), &json!("policy")),
        "{made}"
    );
}

#[tokio::test]
async fn who_may_not_read_parameters_may_not_make_policies_about_them() {
    let server = server().await;
    let rbac = "/apis/rbac.authorization.k8s.io/v1";
    let role = |name: &str, group: &str, resources: Value| {
        json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": name},
            "rules": [{"verbs": ["*"], "apiGroups": [group], "resources": resources}]})
    };
    let bind = |name: &str| {
        json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": name},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": name},
            "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "jane"}]})
    };
    let policies = role("policies", "admissionregistration.k8s.io", json!(["*"]));
    for (plural, object) in [
        ("clusterroles", policies),
        ("clusterroles", role("secrets", "", json!(["secrets"]))),
        ("clusterrolebindings", bind("policies")),
    ] {
        assert_eq!(ask(&server, "POST", &format!("{rbac}/{plural}"), object).await.0, 201);
    }
    let jane = |plural: &'static str, object: Value| {
        let server = server.clone();
        async move {
            let (who, headers) = (Identity::new("jane", &[]), [("content-type", "application/json")]);
            let (code, _, answer) =
                send(&server, who, "POST", &format!("{GROUP}/{plural}"), object.to_string(), &headers).await;
            (code, answer["message"].as_str().unwrap_or_default().to_string())
        }
    };
    let secrets = json!({"paramKind": {"apiVersion": "v1", "kind": "Secret"}});
    let plain = policy("plain", ABOUT_MAPS, &apply("Object{}"), json!({}));
    assert_eq!(jane("mutatingadmissionpolicies", plain).await.0, 201);
    let nosy = policy("nosy", ABOUT_MAPS, &apply("Object{}"), secrets);
    let (code, message) = jane("mutatingadmissionpolicies", nosy.clone()).await;
    assert_eq!(code, 422);
    let why = "spec.paramKind: Forbidden: user jane must have \"get\" permission on all objects of the referenced paramKind (kind=Secret, apiVersion=v1)";
    assert!(message.ends_with(why), "{message}");
    assert_eq!(ask(&server, "POST", &format!("{GROUP}/mutatingadmissionpolicies"), nosy).await.0, 201);
    let binding = json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "MutatingAdmissionPolicyBinding", "metadata": {"name": "nosy"},
        "spec": {"policyName": "nosy", "paramRef": {"name": "s", "namespace": "default", "parameterNotFoundAction": "Allow"}},
    });
    let (code, message) = jane("mutatingadmissionpolicybindings", binding.clone()).await;
    assert_eq!(code, 422);
    let why = "spec.paramRef: Forbidden: user jane does not have \"get\" permission on the object referenced by paramRef";
    assert!(message.ends_with(why), "{message}");
    assert_eq!(ask(&server, "POST", &format!("{rbac}/clusterrolebindings"), bind("secrets")).await.0, 201);
    assert_eq!(jane("mutatingadmissionpolicybindings", binding).await, (201, String::new()));
}
