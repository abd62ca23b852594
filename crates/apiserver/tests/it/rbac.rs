//! RBAC, from the side of those who lack each right.

use crate::support::{ask, send, server};
use orlop_apiserver::{ApiServer, Identity};
use serde_json::{Value, json};
use std::sync::Arc;

const RBAC: &str = "/apis/rbac.authorization.k8s.io/v1";

async fn by(server: &Arc<ApiServer>, who: &Identity, method: &str, uri: &str, body: Value) -> (u16, Value) {
    let text = if body.is_null() { String::new() } else { body.to_string() };
    let headers = [("content-type", "application/json")];
    let (code, _, value) = send(server, who.clone(), method, uri, text, &headers).await;
    (code, value)
}

fn role(kind: &str, name: &str, rules: Value) -> Value {
    json!({"kind": kind, "metadata": {"name": name}, "rules": rules})
}

fn rule(verbs: &[&str], group: &str, resource: &str) -> Value {
    json!({"verbs": verbs, "apiGroups": [group], "resources": [resource]})
}

fn binding(kind: &str, name: &str, role: (&str, &str), user: &str) -> Value {
    json!({"kind": kind, "metadata": {"name": name}, "roleRef": {"kind": role.0, "name": role.1},
        "subjects": [{"kind": "User", "name": user}]})
}

async fn made(server: &Arc<ApiServer>, uri: &str, body: Value) {
    let (code, answer) = ask(server, "POST", &format!("{RBAC}{uri}"), body).await;
    assert_eq!(code, 201, "{answer}");
}

#[tokio::test]
async fn a_role_gives_a_right_where_it_is_bound_and_takes_it_back_when_it_goes() {
    let server = server().await;
    let jane = Identity::new("jane", &[]);
    let pods = "/api/v1/namespaces/default/pods";
    assert_eq!(by(&server, &jane, "GET", pods, Value::Null).await.0, 403);
    made(&server, "/namespaces/default/roles", role("Role", "r", json!([rule(&["list"], "", "pods")]))).await;
    let bound = binding("RoleBinding", "b", ("Role", "r"), "jane");
    made(&server, "/namespaces/default/rolebindings", bound).await;
    assert_eq!(by(&server, &jane, "GET", pods, Value::Null).await.0, 200);
    assert_eq!(by(&server, &jane, "GET", "/api/v1/namespaces/kube-system/pods", Value::Null).await.0, 403);
    assert_eq!(by(&server, &jane, "GET", "/api/v1/pods", Value::Null).await.0, 403);
    assert_eq!(by(&server, &jane, "GET", &format!("{pods}?watch=1"), Value::Null).await.0, 403);

    ask(&server, "DELETE", &format!("{RBAC}/namespaces/default/roles/r"), Value::Null).await;
    let (code, status) = by(&server, &jane, "GET", pods, Value::Null).await;
    assert_eq!(code, 403);
    assert_eq!(
        status["message"],
        "pods is forbidden: User \"jane\" cannot list resource \"pods\" in API group \"\" in the namespace \"default\": RBAC: role.rbac.authorization.k8s.io \"r\" not found"
    );
}

#[tokio::test]
async fn nobody_gives_themselves_more_than_they_have() {
    let server = server().await;
    let jane = Identity::new("jane", &[]);
    let own = [rule(&["*"], "rbac.authorization.k8s.io", "*"), rule(&["get"], "", "pods")];
    // `*` would also mean escalate and bind.
    let mut narrow = own.clone();
    narrow[0]["verbs"] = json!(["get", "list", "create", "update", "patch", "delete"]);
    made(&server, "/clusterroles", role("ClusterRole", "janes", json!(narrow))).await;
    made(
        &server,
        "/clusterrolebindings",
        binding("ClusterRoleBinding", "janes", ("ClusterRole", "janes"), "jane"),
    )
    .await;

    let roles = format!("{RBAC}/namespaces/default/roles");
    let mine = role("Role", "mine", json!([rule(&["get"], "", "pods")]));
    assert_eq!(by(&server, &jane, "POST", &roles, mine.clone()).await.0, 201);
    let more = role("Role", "more", json!([rule(&["get", "delete"], "", "secrets")]));
    let (code, status) = by(&server, &jane, "POST", &roles, more).await;
    assert_eq!(code, 403);
    assert_eq!(
        status["message"],
        "roles.rbac.authorization.k8s.io \"more\" is forbidden: user \"jane\" (groups=[\"system:authenticated\"]) is attempting to grant RBAC permissions not currently held:\n{APIGroups:[\"\"], Resources:[\"secrets\"], Verbs:[\"get\" \"delete\"]}"
    );
    let mut wider = mine;
    wider["rules"] = json!([rule(&["*"], "*", "*")]);
    assert_eq!(by(&server, &jane, "PUT", &format!("{roles}/mine"), wider).await.0, 403);

    let bindings = format!("{RBAC}/namespaces/default/rolebindings");
    let admin = binding("RoleBinding", "b", ("ClusterRole", "cluster-admin"), "jane");
    assert_eq!(by(&server, &jane, "POST", &bindings, admin.clone()).await.0, 403);
    let own_role = binding("RoleBinding", "own", ("Role", "mine"), "joe");
    assert_eq!(by(&server, &jane, "POST", &bindings, own_role).await.0, 201);
    let none = binding("RoleBinding", "none", ("Role", "none"), "joe");
    let (code, status) = by(&server, &jane, "POST", &bindings, none).await;
    assert_eq!(
        (code, &status["message"]),
        (404, &json!("roles.rbac.authorization.k8s.io \"none\" not found"))
    );

    let aggregated = json!({"kind": "ClusterRole", "metadata": {"name": "a"},
        "aggregationRule": {"clusterRoleSelectors": [{"matchLabels": {"a": "b"}}]}});
    let (code, status) = by(&server, &jane, "POST", &format!("{RBAC}/clusterroles"), aggregated).await;
    assert_eq!(code, 403);
    assert_eq!(
        status["message"],
        "clusterroles.rbac.authorization.k8s.io \"a\" is forbidden: must have cluster-admin privileges to use the aggregationRule"
    );

    let bind = json!({"verbs": ["bind"], "apiGroups": ["rbac.authorization.k8s.io"], "resources": ["clusterroles"],
        "resourceNames": ["cluster-admin"]});
    made(&server, "/clusterroles", role("ClusterRole", "binder", json!([bind]))).await;
    made(
        &server,
        "/clusterrolebindings",
        binding("ClusterRoleBinding", "x", ("ClusterRole", "binder"), "jane"),
    )
    .await;
    assert_eq!(by(&server, &jane, "POST", &bindings, admin).await.0, 201, "who may bind a role may bind it");
}

#[tokio::test]
async fn every_cluster_has_the_default_roles_and_whoever_is_known_may_look_around() {
    let server = server().await;
    let (code, admin) = ask(&server, "GET", &format!("{RBAC}/clusterroles/cluster-admin"), Value::Null).await;
    assert_eq!(code, 200);
    assert_eq!(admin["rules"][1], json!({"nonResourceURLs": ["*"], "verbs": ["*"]}));
    let (_, view) = ask(&server, "GET", &format!("{RBAC}/clusterroles/view"), Value::Null).await;
    assert_eq!(view["metadata"]["labels"]["rbac.authorization.k8s.io/aggregate-to-edit"], "true");
    let anonymous = Identity::anonymous();
    let jane = Identity::new("jane", &[]);
    for (path, of_anonymous, of_jane) in [
        ("/healthz", 200, 200),
        ("/version", 200, 200),
        ("/api", 403, 200),
        ("/openapi/v2", 403, 200),
        ("/metrics", 403, 403),
        ("/api/v1/namespaces", 403, 403),
    ] {
        assert_eq!(by(&server, &anonymous, "GET", path, Value::Null).await.0, of_anonymous, "{path}");
        assert_eq!(by(&server, &jane, "GET", path, Value::Null).await.0, of_jane, "{path}");
    }
    let mut liar = Identity::anonymous();
    liar.user = "jane".into();
    assert_eq!(by(&server, &liar, "GET", "/api", Value::Null).await.0, 403, "a name alone is nothing");
}

#[tokio::test]
async fn reviews_answer_from_the_same_rules() {
    let server = server().await;
    made(&server, "/namespaces/default/roles", role("Role", "r", json!([rule(&["list"], "", "pods")]))).await;
    made(&server, "/namespaces/default/rolebindings", binding("RoleBinding", "b", ("Role", "r"), "jane"))
        .await;
    let jane = Identity::new("jane", &[]);
    let uri = |plural: &str| format!("/apis/authorization.k8s.io/v1/{plural}");
    let question = |namespace: &str| json!({"resourceAttributes": {"verb": "list", "resource": "pods", "namespace": namespace}});
    let ask_self = async |namespace: &str| {
        let body = json!({"spec": question(namespace)});
        by(&server, &jane, "POST", &uri("selfsubjectaccessreviews"), body).await.1["status"].take()
    };
    assert_eq!(
        ask_self("default").await,
        json!({"allowed": true, "reason": "RBAC: allowed by RoleBinding \"b/default\" of Role \"r\" to User \"jane\""})
    );
    assert_eq!(ask_self("other").await, json!({"allowed": false}));

    let mut spec = question("default");
    spec["user"] = json!("jane");
    let local = "/apis/authorization.k8s.io/v1/namespaces/default/localsubjectaccessreviews";
    assert_eq!(ask(&server, "POST", local, json!({"spec": spec})).await.1["status"]["allowed"], true);
    let elsewhere = "/apis/authorization.k8s.io/v1/namespaces/other/localsubjectaccessreviews";
    assert_eq!(ask(&server, "POST", elsewhere, json!({"spec": spec})).await.0, 422);
    assert_eq!(by(&server, &jane, "POST", local, json!({"spec": spec})).await.0, 403, "only about oneself");
    let (code, status) =
        ask(&server, "POST", &uri("subjectaccessreviews"), json!({"spec": question("x")})).await;
    assert_eq!(code, 422);
    assert_eq!(
        status["message"],
        "SubjectAccessReview.authorization.k8s.io \"\" is invalid: spec.user: Invalid value: \"\": at least one of user or group must be specified"
    );

    let body = json!({"spec": {"namespace": "default"}});
    let (_, rules) = by(&server, &jane, "POST", &uri("selfsubjectrulesreviews"), body).await;
    let listed = rules["status"]["resourceRules"].as_array().unwrap();
    assert!(listed.contains(&rule(&["list"], "", "pods")), "{rules}");
    assert_eq!(rules["status"]["incomplete"], false);
}

#[tokio::test]
async fn whoever_may_change_things_may_not_make_them_by_changing_what_is_not_there() {
    let server = server().await;
    let jane = Identity::new("jane", &[]);
    let changing = json!([
        rule(&["get", "update", "patch"], "", "configmaps"),
        rule(&["get", "update"], "coordination.k8s.io", "leases")
    ]);
    made(&server, "/namespaces/default/roles", role("Role", "changing", changing)).await;
    made(
        &server,
        "/namespaces/default/rolebindings",
        binding("RoleBinding", "c", ("Role", "changing"), "jane"),
    )
    .await;
    let apply = async || {
        let uri = "/api/v1/namespaces/default/configmaps/x?fieldManager=jane";
        let body =
            json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "x"}, "data": {"a": "b"}});
        let headers = [("content-type", "application/apply-patch+yaml")];
        let (code, _, value) = send(&server, jane.clone(), "PATCH", uri, body.to_string(), &headers).await;
        (code, value)
    };
    let (code, status) = apply().await;
    assert_eq!(code, 403, "{status}");
    assert_eq!(
        status["message"],
        "configmaps \"x\" is forbidden: User \"jane\" cannot create resource \"configmaps\" in API group \"\" in the namespace \"default\""
    );
    let lease = json!({"kind": "Lease", "metadata": {"name": "l"}, "spec": {}});
    let uri = "/apis/coordination.k8s.io/v1/namespaces/default/leases/l";
    assert_eq!(by(&server, &jane, "PUT", uri, lease).await.0, 403);

    let creating = role("Role", "creating", json!([rule(&["create"], "", "configmaps")]));
    made(&server, "/namespaces/default/roles", creating).await;
    made(
        &server,
        "/namespaces/default/rolebindings",
        binding("RoleBinding", "d", ("Role", "creating"), "jane"),
    )
    .await;
    assert_eq!(apply().await.0, 201);
    assert_eq!(apply().await.0, 200);
}

#[tokio::test]
async fn reading_rights_open_no_connection_into_a_pod() {
    let server = server().await;
    let jane = Identity::new("jane", &[]);
    made(&server, "/namespaces/default/roles", role("Role", "r", json!([rule(&["get"], "", "pods/exec")])))
        .await;
    made(&server, "/namespaces/default/rolebindings", binding("RoleBinding", "b", ("Role", "r"), "jane"))
        .await;
    let uri = "/api/v1/namespaces/default/pods/p/exec?command=id";
    let (code, status) = by(&server, &jane, "GET", uri, Value::Null).await;
    assert_eq!(code, 403);
    assert!(status["message"].as_str().unwrap().contains("cannot create resource \"pods/exec\""), "{status}");
}
