//! Admission as clients meet it: quotas under concurrency, webhooks over TLS, policies, pod security.

use crate::{
    support::{ask, send, server},
    webhook::{Webhook, webhook},
};
use base64::{Engine, engine::general_purpose::STANDARD};
use orlop_apiserver::{ApiServer, Identity};
use serde_json::{Value, json};
use std::sync::{Arc, atomic::Ordering};

impl Webhook {
    /// Makes it known. `more` changes the entry of the configuration.
    pub async fn register(&self, server: &Arc<ApiServer>, kind: &str, name: &str, more: Value) {
        let mut hook = json!({
            "name": format!("{name}.example.com"), "admissionReviewVersions": ["v1"], "sideEffects": "None",
            "clientConfig": {"url": self.url, "caBundle": self.bundle},
            "rules": [{"operations": ["*"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["configmaps"]}],
        });
        hook.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let plural = format!("{}s", kind.to_lowercase());
        let object = json!({
            "apiVersion": "admissionregistration.k8s.io/v1", "kind": kind, "metadata": {"name": name},
            "webhooks": [hook],
        });
        let path = format!("/apis/admissionregistration.k8s.io/v1/{plural}");
        let (code, answer) = ask(server, "POST", &path, object).await;
        assert_eq!(code, 201, "{answer}");
    }
}

fn patch(operations: Value) -> Value {
    json!({"allowed": true, "patchType": "JSONPatch", "patch": STANDARD.encode(operations.to_string())})
}

fn map(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"k": "v"}})
}

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const MUTATING: &str = "MutatingWebhookConfiguration";
const VALIDATING: &str = "ValidatingWebhookConfiguration";

#[tokio::test]
async fn a_mutating_webhook_changes_what_is_written_and_a_validating_one_sees_the_result() {
    let server = server().await;
    let changer = webhook(|request| match request["operation"].as_str() {
        Some("DELETE") => json!({"allowed": true}),
        _ => patch(json!([{"op": "add", "path": "/data/by", "value": "webhook"}])),
    })
    .await;
    let judge = webhook(|request| match request["object"]["data"]["by"].as_str() {
        Some("webhook") => json!({"allowed": true, "warnings": ["seen"]}),
        _ => json!({"allowed": false, "status": {"message": "nobody looked at it", "code": 403, "reason": "Forbidden"}}),
    })
    .await;
    changer.register(&server, MUTATING, "changer", json!({})).await;
    let only = json!({"rules": [{"operations": ["CREATE", "UPDATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["configmaps"]}]});
    judge.register(&server, VALIDATING, "judge", only).await;
    let admin = || Identity::new("admin", &["system:masters"]);
    let (code, headers, made) = send(&server, admin(), "POST", MAPS, map("a").to_string(), &[]).await;
    assert_eq!((code, &made["data"]["by"]), (201, &json!("webhook")), "{made}");
    assert_eq!(headers["warning"], "299 - \"seen\"");
    let (code, _) = ask(&server, "DELETE", &format!("{MAPS}/a"), Value::Null).await;
    assert_eq!((code, judge.calls.load(Ordering::SeqCst)), (200, 1));
    let path = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/changer";
    assert_eq!(ask(&server, "DELETE", path, Value::Null).await.0, 200);
    let (code, status) = ask(&server, "POST", MAPS, map("b")).await;
    assert_eq!((code, &status["reason"]), (403, &json!("Forbidden")));
    assert_eq!(
        status["message"],
        "admission webhook \"judge.example.com\" denied the request: nobody looked at it"
    );
}

#[tokio::test]
async fn a_webhook_behind_a_service_is_found_and_must_show_the_services_name() {
    let server = server().await;
    let judge = webhook(|_| json!({"allowed": false, "status": {"message": "not here"}})).await;
    let service = |name: &str| {
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name},
        "spec": {"type": "ExternalName", "externalName": "localhost"}})
    };
    let client = |service: &str| {
        json!({"clientConfig": {"caBundle": judge.bundle,
        "service": {"namespace": "default", "name": service, "port": judge.port, "path": "/review"}}})
    };
    for name in ["judge", "stranger"] {
        let (code, body) = ask(&server, "POST", "/api/v1/namespaces/default/services", service(name)).await;
        assert_eq!(code, 201, "{body}");
    }
    judge.register(&server, VALIDATING, "judge", client("judge")).await;
    let (code, body) = ask(&server, "POST", MAPS, map("a")).await;
    let why = "admission webhook \"judge.example.com\" denied the request: not here";
    assert_eq!((code, body["message"].as_str().unwrap()), (400, why));
    // Its certificate is for judge.default.svc: what only leads to it is not believed.
    let path = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations/judge";
    assert_eq!(ask(&server, "DELETE", path, Value::Null).await.0, 200);
    for (name, error) in
        [("stranger", "tls: failed to verify certificate: "), ("missing", "service \"missing\" not found")]
    {
        judge.register(&server, VALIDATING, "judge", client(name)).await;
        let (code, body) = ask(&server, "POST", MAPS, map("a")).await;
        assert!(code == 500 && body["message"].as_str().unwrap().contains(error), "{body}");
        assert_eq!(ask(&server, "DELETE", path, Value::Null).await.0, 200);
    }
    assert_eq!(judge.calls.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_webhook_is_asked_only_about_what_its_selectors_and_conditions_choose() {
    let server = server().await;
    let judge = webhook(|_| json!({"allowed": false})).await;
    let more = json!({
        "objectSelector": {"matchLabels": {"judged": "yes"}},
        "matchConditions": [{"name": "not-mine", "expression": "request.userInfo.username != 'me' && object.metadata.name != 'spared'"}],
    });
    judge.register(&server, VALIDATING, "judge", more).await;
    let mut labelled = map("b");
    labelled["metadata"]["labels"] = json!({"judged": "yes"});
    assert_eq!(ask(&server, "POST", MAPS, map("a")).await.0, 201);
    let (code, status) = ask(&server, "POST", MAPS, labelled.clone()).await;
    assert_eq!(code, 400);
    assert_eq!(
        status["message"],
        "admission webhook \"judge.example.com\" denied the request without explanation"
    );
    labelled["metadata"]["name"] = json!("spared");
    assert_eq!(ask(&server, "POST", MAPS, labelled).await.0, 201);
}

#[tokio::test]
async fn what_happens_when_a_webhook_fails_is_its_policys_to_say() {
    let server = server().await;
    let broken = webhook(|_| json!({"allowed": true, "patch": "W10="})).await;
    broken.register(&server, MUTATING, "broken", json!({"failurePolicy": "Ignore"})).await;
    assert_eq!(ask(&server, "POST", MAPS, map("a")).await.0, 201);
    let path = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/broken";
    let (code, _) = ask(&server, "PATCH", path, json!({"webhooks": null})).await;
    assert_eq!(code, 200);
    let nowhere = Webhook { url: "https://127.0.0.1:1/x".into(), ..broken };
    nowhere.register(&server, VALIDATING, "gone", json!({})).await;
    let (code, status) = ask(&server, "POST", MAPS, map("b")).await;
    assert_eq!((code, &status["reason"]), (500, &json!("InternalError")));
    let message = status["message"].as_str().unwrap();
    assert!(
        message.starts_with("Internal error occurred: failed calling webhook \"gone.example.com\": failed to call webhook: Post \"https://127.0.0.1:1/x?timeout=10s\": dial tcp 127.0.0.1:1:"),
        "{message}"
    );
}

#[tokio::test]
async fn a_dry_run_asks_only_webhooks_without_side_effects() {
    let server = server().await;
    let hook = webhook(|request| {
        assert_eq!(request["dryRun"], true);
        json!({"allowed": true})
    })
    .await;
    hook.register(&server, VALIDATING, "pure", json!({"sideEffects": "NoneOnDryRun"})).await;
    let (code, _) = ask(&server, "POST", &format!("{MAPS}?dryRun=All"), map("a")).await;
    assert_eq!((code, hook.calls.load(Ordering::SeqCst)), (201, 1));
    assert_eq!(ask(&server, "GET", &format!("{MAPS}/a"), Value::Null).await.0, 404);
}

#[tokio::test]
async fn a_policy_denies_and_warns_in_its_own_words() {
    let server = server().await;
    let base = "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies";
    let policy = |name: &str, expression: &str| {
        json!({
            "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicy",
            "metadata": {"name": name},
            "spec": {
                "paramKind": {"apiVersion": "v1", "kind": "ConfigMap"},
                "matchConstraints": {"resourceRules": [
                    {"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["configmaps"]}]},
                "matchConditions": [{"name": "not-params", "expression": "object.metadata.name != 'limits'"}],
                "variables": [{"name": "size", "expression": "size(object.data)"}],
                "validations": [{"expression": expression, "messageExpression": "'at most ' + params.data.most"}],
            },
        })
    };
    let mut limits = map("limits");
    limits["data"] = json!({"most": "1"});
    assert_eq!(ask(&server, "POST", MAPS, limits).await.0, 201);
    let bad = policy("bad", "object.data.size( > 1");
    let (code, status) = ask(&server, "POST", base, bad).await;
    assert_eq!(code, 422);
    assert!(
        status["message"].as_str().unwrap().contains("spec.validations[0].expression: Invalid value:"),
        "{status}"
    );
    let (code, made) =
        ask(&server, "POST", base, policy("small", "variables.size <= int(params.data.most)")).await;
    assert_eq!(code, 201, "{made}");
    let binding = |name: &str, action: &str| {
        json!({
            "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicyBinding",
            "metadata": {"name": name},
            "spec": {"policyName": "small", "validationActions": [action],
                "paramRef": {"name": "limits", "namespace": "default", "parameterNotFoundAction": "Deny"}},
        })
    };
    let bindings = "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicybindings";
    assert_eq!(ask(&server, "POST", bindings, binding("soft", "Warn")).await.0, 201);
    let mut big = map("big");
    big["data"] = json!({"a": "1", "b": "2"});
    let admin = Identity::new("admin", &["system:masters"]);
    let uri = format!("{MAPS}?dryRun=All");
    let (code, headers, _) = send(&server, admin, "POST", &uri, big.to_string(), &[]).await;
    assert_eq!(code, 201);
    assert_eq!(
        headers["warning"],
        "299 - \"Validation failed for ValidatingAdmissionPolicy 'small' with binding 'soft': at most 1\""
    );
    assert_eq!(ask(&server, "POST", bindings, binding("strict", "Deny")).await.0, 201);
    let (code, status) = ask(&server, "POST", MAPS, big).await;
    assert_eq!((code, &status["reason"]), (422, &json!("Invalid")));
    assert_eq!(
        status["message"],
        "configmaps \"big\" is forbidden: ValidatingAdmissionPolicy 'small' with binding 'strict' denied request: at most 1"
    );
    assert_eq!(ask(&server, "POST", MAPS, map("small")).await.0, 201);
}

#[tokio::test]
async fn a_policy_is_told_what_does_not_fit_the_types_that_it_is_about() {
    let server = server().await;
    let base = "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies";
    let policy = |name: &str, expression: &str| {
        json!({
            "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicy",
            "metadata": {"name": name},
            "spec": {
                "matchConstraints": {"resourceRules": [
                    {"operations": ["CREATE"], "apiGroups": ["apps"], "apiVersions": ["v1"], "resources": ["deployments"]}]},
                "variables": [{"name": "n", "expression": "object.spec.replicas"}],
                "validations": [{"expression": expression}],
            },
        })
    };
    let good = "variables.n > 1 && object.metadata.namespace != 'x' && object.spec.template.spec.containers.all(c, c.name != '')";
    let (code, made) = ask(&server, "POST", base, policy("good", good)).await;
    assert_eq!(
        (code, &made["status"]),
        (201, &json!({"observedGeneration": 1, "typeChecking": {}})),
        "{made}"
    );
    let (code, made) = ask(&server, "POST", base, policy("bad", "variables.n > '1'")).await;
    assert_eq!(code, 201, "{made}");
    let warning = &made["status"]["typeChecking"]["expressionWarnings"][0];
    assert_eq!(warning["fieldRef"], "spec.validations[0].expression");
    let text = warning["warning"].as_str().unwrap();
    assert!(text.starts_with("apps/v1, Kind=Deployment: ERROR: <input>:1:13:"), "{text}");
    let change = json!({"spec": {"validations": [{"expression": "variables.n > 1"}]}});
    let (_, made) = ask(&server, "PATCH", &format!("{base}/bad"), change).await;
    assert_eq!(made["status"], json!({"observedGeneration": 2, "typeChecking": {}}));
}

#[tokio::test]
async fn a_namespace_holds_its_pods_to_a_level_and_warns_about_templates() {
    let server = server().await;
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}});
    assert_eq!(ask(&server, "POST", "/api/v1/namespaces/default/serviceaccounts", account).await.0, 201);
    let labels = json!({"metadata": {"labels": {
        "pod-security.kubernetes.io/enforce": "baseline", "pod-security.kubernetes.io/warn": "baseline"}}});
    assert_eq!(ask(&server, "PATCH", "/api/v1/namespaces/default", labels).await.0, 200);
    let spec = json!({"hostNetwork": true, "containers": [{"name": "c", "image": "x"}]});
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": spec});
    let (code, status) = ask(&server, "POST", "/api/v1/namespaces/default/pods", pod).await;
    assert_eq!(code, 403);
    assert_eq!(
        status["message"],
        "pods \"p\" is forbidden: violates PodSecurity \"baseline:latest\": host namespaces (hostNetwork=true)"
    );
    let deployment = json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"},
        "spec": {"selector": {"matchLabels": {"a": "b"}}, "template": {"metadata": {"labels": {"a": "b"}}, "spec": spec}},
    });
    let admin = Identity::new("admin", &["system:masters"]);
    let uri = "/apis/apps/v1/namespaces/default/deployments";
    let (code, headers, answer) = send(&server, admin, "POST", uri, deployment.to_string(), &[]).await;
    assert_eq!(code, 201, "{answer}");
    assert_eq!(
        headers["warning"],
        "299 - \"would violate PodSecurity \\\"baseline:latest\\\": host namespaces (hostNetwork=true)\""
    );
    let nonsense = json!({"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "tight"}}});
    assert_eq!(ask(&server, "PATCH", "/api/v1/namespaces/default", nonsense).await.0, 422);
}

async fn quota(server: &Arc<ApiServer>, hard: Value) {
    let quota = json!({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "q"}, "spec": {"hard": hard}});
    let (code, answer) = ask(server, "POST", "/api/v1/namespaces/default/resourcequotas", quota).await;
    assert_eq!(code, 201, "{answer}");
}

async fn used(server: &Arc<ApiServer>, name: &str) -> String {
    let (_, quota) = ask(server, "GET", "/api/v1/namespaces/default/resourcequotas/q", Value::Null).await;
    quota["status"]["used"][name].as_str().unwrap_or_default().to_string()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn however_many_write_at_once_a_quota_is_never_exceeded() {
    let server = server().await;
    assert_eq!(ask(&server, "POST", MAPS, map("before")).await.0, 201);
    quota(&server, json!({"configmaps": "6", "count/secrets": "2"})).await;
    let writes = (0..24).map(|n| {
        let server = server.clone();
        tokio::spawn(async move { ask(&server, "POST", MAPS, map(&format!("m{n}"))).await })
    });
    let mut codes = Vec::new();
    for write in writes.collect::<Vec<_>>() {
        let (code, answer) = write.await.unwrap();
        if code == 403 {
            let message = answer["message"].as_str().unwrap();
            assert!(
                message.ends_with("is forbidden: exceeded quota: q, requested: configmaps=1, used: configmaps=6, limited: configmaps=6"),
                "{message}"
            );
        }
        codes.push(code);
    }
    codes.sort_unstable();
    assert_eq!(codes.iter().filter(|c| **c == 201).count(), 5, "{codes:?}");
    assert_eq!(codes.iter().filter(|c| **c == 403).count(), 19, "{codes:?}");
    assert_eq!(used(&server, "configmaps").await, "6");
    assert_eq!(ask(&server, "DELETE", &format!("{MAPS}/before"), Value::Null).await.0, 200);
    assert_eq!(used(&server, "configmaps").await, "5", "what is deleted is free at once");
    let (code, _) = ask(&server, "POST", &format!("{MAPS}?dryRun=All"), map("dry")).await;
    assert_eq!((code, used(&server, "configmaps").await.as_str()), (201, "5"), "a dry run uses nothing");
    assert_eq!(ask(&server, "POST", MAPS, map("last")).await.0, 201);
    assert_eq!(ask(&server, "POST", MAPS, map("more")).await.0, 403);
}

#[tokio::test]
async fn a_limit_range_fills_in_and_holds_to_its_limits() {
    let server = server().await;
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}});
    ask(&server, "POST", "/api/v1/namespaces/default/serviceaccounts", account).await;
    let range = json!({"apiVersion": "v1", "kind": "LimitRange", "metadata": {"name": "r"}, "spec": {"limits": [
        {"type": "Container", "default": {"cpu": "200m"}, "defaultRequest": {"cpu": "100m"}, "max": {"cpu": "300m"}}]}});
    let (code, answer) = ask(&server, "POST", "/api/v1/namespaces/default/limitranges", range).await;
    assert_eq!(code, 201, "{answer}");
    let pod = |name: &str, resources: Value| {
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
            "spec": {"containers": [{"name": "c", "image": "x", "resources": resources}]}})
    };
    let (code, made) = ask(&server, "POST", "/api/v1/namespaces/default/pods", pod("a", json!({}))).await;
    assert_eq!(code, 201, "{made}");
    assert_eq!(
        made["spec"]["containers"][0]["resources"],
        json!({"limits": {"cpu": "200m"}, "requests": {"cpu": "100m"}})
    );
    let (code, status) =
        ask(&server, "POST", "/api/v1/namespaces/default/pods", pod("b", json!({"limits": {"cpu": "1"}})))
            .await;
    assert_eq!(code, 403);
    assert_eq!(
        status["message"],
        "pods \"b\" is forbidden: maximum cpu usage per Container is 300m, but limit is 1"
    );
}
