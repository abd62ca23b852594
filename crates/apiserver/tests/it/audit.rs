//! The audit log, from the side of those who make requests.

use crate::support::{send, server_with};
use http_body_util::BodyExt;
use orlop_apiserver::{
    ApiServer, Identity,
    audit::{AuditConfig, Destination, Policy, Rotation},
};
use serde_json::{Value, json};
use std::{path::PathBuf, sync::Arc, time::Duration};
use tower::Service;

struct Audited {
    server: Arc<ApiServer>,
    path: PathBuf,
    _folder: tempfile::TempDir,
}

const JSON: (&str, &str) = ("content-type", "application/json");

fn admin() -> Identity {
    Identity::new("admin", &["system:masters"])
}

impl Audited {
    /// A server that notes by these rules what `admin` and others do, and nothing that it does itself.
    async fn new(rules: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log/audit.log");
        let policy = format!(
            "apiVersion: audit.k8s.io/v1\nkind: Policy\nrules:\n- {{level: None, users: ['system:apiserver']}}\n{rules}"
        );
        let config = AuditConfig {
            policy: Policy::parse(&policy).unwrap(),
            destination: Some(Destination::File {
                path: path.clone(),
                rotation: Rotation { max_bytes: 1 << 30, max_backups: 0, max_age_days: 0 },
            }),
            webhook: None,
        };
        let server = server_with(|c| c.audit = Some(config)).await;
        Self { server, path, _folder: folder }
    }

    /// The lines about a request, when there are so many.
    async fn lines(&self, id: &str, count: usize) -> Vec<Value> {
        for _ in 0..500 {
            let text = std::fs::read_to_string(&self.path).unwrap_or_default();
            let lines: Vec<Value> = text
                .lines()
                .map(|line| serde_json::from_str::<Value>(line).unwrap())
                .filter(|line| line["auditID"] == id)
                .collect();
            if lines.len() >= count {
                return lines;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("{count} lines about {id} did not come: {:?}", std::fs::read_to_string(&self.path));
    }

    /// Sends a request; the answer is its code and name.
    async fn ask(
        &self,
        who: Identity,
        method: &str,
        uri: &str,
        body: Value,
        more: &[(&str, &str)],
    ) -> (u16, String) {
        let headers: Vec<_> = std::iter::once(JSON).chain(more.iter().copied()).collect();
        let text = if body.is_null() { String::new() } else { body.to_string() };
        let (code, headers, _) = send(&self.server, who, method, uri, text, &headers).await;
        (code, headers["audit-id"].to_str().unwrap().to_string())
    }
}

fn config_map(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"k": "v"}})
}

#[tokio::test]
async fn a_request_is_noted_when_it_comes_and_when_it_is_answered() {
    let log = Audited::new("- {level: RequestResponse, omitManagedFields: true}").await;
    let maps = "/api/v1/namespaces/default/configmaps";
    let more = [("user-agent", "test/1"), ("x-forwarded-for", "1.2.3.4")];
    let (code, id) = log.ask(admin(), "POST", maps, config_map("c"), &more).await;
    assert_eq!(code, 201);
    let [came, done] = &log.lines(&id, 2).await[..] else { panic!("two lines") };
    assert_eq!((&came["stage"], &done["stage"]), (&json!("RequestReceived"), &json!("ResponseComplete")));
    assert_eq!(
        came["objectRef"],
        json!({"resource": "configmaps", "namespace": "default", "apiVersion": "v1"})
    );
    assert_eq!((came.get("requestObject"), came.get("annotations")), (None, None));
    assert_eq!(done["objectRef"]["name"], "c");
    assert_eq!((&done["verb"], &done["requestURI"]), (&json!("create"), &json!(maps)));
    assert_eq!(
        done["user"],
        json!({"username": "admin", "groups": ["system:masters", "system:authenticated"]})
    );
    assert_eq!(
        (&done["userAgent"], &done["sourceIPs"]),
        (&json!("test/1"), &json!(["1.2.3.4", "127.0.0.1"]))
    );
    assert_eq!(done["responseStatus"], json!({"metadata": {}, "code": 201}));
    assert_eq!(done["requestObject"], config_map("c"));
    assert_eq!(done["responseObject"]["data"], json!({"k": "v"}));
    assert!(done["responseObject"]["metadata"]["uid"].is_string());
    assert_eq!(done["responseObject"]["metadata"].get("managedFields"), None);
    assert_eq!(
        done["annotations"],
        json!({"authorization.k8s.io/decision": "allow", "authorization.k8s.io/reason": ""})
    );

    // A patch is noted as it was sent, a failure with its status; the client may name its request.
    let patch = json!({"data": {"k": null}});
    let more = [("content-type", "application/merge-patch+json"), ("audit-id", "mine")];
    let uri = format!("{maps}/none");
    let (code, _, _) = send(&log.server, admin(), "PATCH", &uri, patch.to_string(), &more).await;
    assert_eq!(code, 404);
    let failed = &log.lines("mine", 2).await[1];
    assert_eq!(failed["requestObject"], patch);
    assert_eq!(
        (&failed["responseStatus"]["reason"], &failed["responseStatus"]["code"]),
        (&json!("NotFound"), &json!(404))
    );
}

#[tokio::test]
async fn bodies_stay_out_of_the_log_below_their_levels() {
    let rules =
        "- {level: Metadata, resources: [{group: '', resources: [secrets]}], omitStages: [RequestReceived]}";
    let log = Audited::new(rules).await;
    let secret = json!({"metadata": {"name": "s"}, "stringData": {"k": "top secret"}});
    let (code, id) = log.ask(admin(), "POST", "/api/v1/namespaces/default/secrets", secret, &[]).await;
    assert_eq!(code, 201);
    let lines = log.lines(&id, 1).await;
    assert_eq!((lines.len(), &lines[0]["objectRef"]["name"]), (1, &json!("s")));
    log.ask(admin(), "POST", "/api/v1/namespaces/default/configmaps", config_map("c"), &[]).await;
    log.server.stop();
    let text = std::fs::read_to_string(&log.path).unwrap();
    assert!(!text.contains("top secret") && !text.contains("dG9wIHNlY3JldA") && !text.contains("configmaps"));
}

#[tokio::test]
async fn a_watch_is_noted_when_it_begins_and_when_it_ends() {
    let log = Audited::new("- {level: RequestResponse, omitStages: [RequestReceived]}").await;
    let request = http::Request::get("/api/v1/namespaces/default/configmaps?watch=1&timeoutSeconds=60")
        .header("audit-id", "watch")
        .body(http_body_util::Empty::<bytes::Bytes>::new())
        .unwrap();
    let response = log.server.service_for(admin()).call(request).await.unwrap();
    let began = log.lines("watch", 1).await;
    assert_eq!(
        (began.len(), &began[0]["stage"], &began[0]["verb"]),
        (1, &json!("ResponseStarted"), &json!("watch"))
    );
    drop(response);
    let ended = &log.lines("watch", 2).await[1];
    assert_eq!(
        (&ended["stage"], &ended["responseStatus"]["code"]),
        (&json!("ResponseComplete"), &json!(200))
    );
}

#[tokio::test]
async fn who_acts_as_somebody_else_is_noted_as_who_they_are() {
    let log = Audited::new("- {level: Metadata, users: [admin]}\n- {level: None}").await;
    let more = [("impersonate-user", "jane"), ("impersonate-group", "dev")];
    let (code, id) = log.ask(admin(), "GET", "/api/v1/namespaces/default/pods", Value::Null, &more).await;
    assert_eq!(code, 403);
    let line = &log.lines(&id, 2).await[1];
    assert_eq!(line["user"]["username"], "admin");
    assert_eq!(
        line["impersonatedUser"],
        json!({"username": "jane", "groups": ["dev", "system:authenticated"]})
    );
    assert_eq!(line["annotations"]["authorization.k8s.io/decision"], "forbid");
    assert!(line["responseStatus"]["message"].as_str().unwrap().contains("User \"jane\" cannot list"));
}

#[tokio::test]
async fn paths_that_are_no_resources_are_noted_without_bodies() {
    let log = Audited::new(
        "- {level: RequestResponse, nonResourceURLs: ['/version*'], omitStages: [RequestReceived]}",
    )
    .await;
    let (code, id) = log.ask(admin(), "GET", "/version", Value::Null, &[]).await;
    assert_eq!(code, 200);
    let line = &log.lines(&id, 1).await[0];
    assert_eq!(
        (&line["verb"], line.get("objectRef"), line.get("responseObject")),
        (&json!("get"), None, None)
    );
}

#[tokio::test]
async fn what_admission_notes_is_in_the_log() {
    let log = Audited::new("- {level: Metadata, omitStages: [RequestReceived]}").await;
    let namespace =
        json!({"metadata": {"name": "n", "labels": {"pod-security.kubernetes.io/audit": "restricted"}}});
    log.ask(admin(), "POST", "/api/v1/namespaces", namespace, &[]).await;
    log.ask(
        admin(),
        "POST",
        "/api/v1/namespaces/n/serviceaccounts",
        json!({"metadata": {"name": "default"}}),
        &[],
    )
    .await;
    let pod = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "x"}]}});
    let (code, id) = log.ask(admin(), "POST", "/api/v1/namespaces/n/pods", pod, &[]).await;
    assert_eq!(code, 201);
    let annotations = &log.lines(&id, 1).await[0]["annotations"];
    assert_eq!(annotations["pod-security.kubernetes.io/enforce-policy"], "privileged:latest");
    assert!(
        annotations["pod-security.kubernetes.io/audit-violations"].as_str().unwrap().contains("restricted"),
        "{annotations}"
    );
}

#[tokio::test]
async fn every_answer_has_a_name_also_where_nothing_is_noted() {
    let server = server_with(|_| {}).await;
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..2 {
        let request =
            http::Request::get("/version").body(http_body_util::Empty::<bytes::Bytes>::new()).unwrap();
        let response = server.service_for(admin()).call(request).await.unwrap();
        seen.insert(response.headers()["audit-id"].to_str().unwrap().to_string());
        response.into_body().collect().await.unwrap();
    }
    assert_eq!(seen.len(), 2);
}
