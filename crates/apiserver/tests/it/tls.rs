//! The API over TLS.

use crate::support::server_with;
use orlop_apiserver::ApiServer;
use orlop_pki::{Authority, CertificateRequest, Credential, ServiceAccountKey, Usage, kubeconfig, tls};
use std::{net::SocketAddr, path::PathBuf, process::Command, sync::Arc, time::SystemTime};
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_util::sync::CancellationToken;

pub struct Served {
    pub server: Arc<ApiServer>,
    pub address: SocketAddr,
    pub authority: Arc<Authority>,
    pub shutdown: CancellationToken,
    pub serving: JoinHandle<Result<(), orlop_apiserver::Error>>,
    pub dir: tempfile::TempDir,
}

pub fn now() -> i64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs() as i64
}

pub fn request(name: &str, group: Option<&str>, usage: Usage) -> CertificateRequest {
    CertificateRequest {
        common_name: name.into(),
        organization: group.map(str::to_string),
        dns_names: vec!["localhost".into()],
        addresses: vec!["127.0.0.1".parse().unwrap()],
        usage,
        days: 10,
    }
}

/// A server that listens on a port of its own.
pub async fn served() -> Served {
    let dir = tempfile::tempdir().unwrap();
    let authority = Arc::new(Authority::open_or_create(dir.path(), now()).unwrap());
    let own = authority.issue(&request("kube-apiserver", None, Usage::Both), now()).unwrap();
    let node_tls = tls::client_config(authority.certificate(), Some(&own)).unwrap();
    let tokens = Arc::new(ServiceAccountKey::open_or_create(dir.path()).unwrap());
    let server = server_with(|c| (c.node_tls, c.tokens) = (Some(node_tls), Some(tokens))).await;
    let config = tls::server_config(&own, authority.certificate(), false, &["h2", "http/1.1"]).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let shutdown = CancellationToken::new();
    let serving = tokio::spawn(server.clone().serve(listener, config, shutdown.clone()));
    Served { server, address, authority, shutdown, serving, dir }
}

impl Served {
    pub fn credential(&self, name: &str, group: Option<&str>) -> Credential {
        self.authority.issue(&request(name, group, Usage::Client), now()).unwrap()
    }

    /// A kubeconfig of the administrator.
    pub fn kubeconfig(&self) -> PathBuf {
        let credential = self.credential("admin", Some("system:masters"));
        let server = format!("https://{}", self.address);
        let text = kubeconfig::render(&server, self.authority.certificate(), "admin", &credential);
        let path = self.dir.path().join("kubeconfig");
        kubeconfig::write(&path, &text).unwrap();
        path
    }

    /// Runs kubectl; its output, and whether it succeeded.
    pub async fn kubectl(&self, args: &[&str], input: &str) -> (String, String, bool) {
        let mut command = Command::new("kubectl");
        command.arg("--kubeconfig").arg(self.kubeconfig()).args(args);
        command.env("HOME", self.dir.path());
        command.stdin(std::process::Stdio::piped());
        command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
        let input = input.to_string();
        tokio::task::spawn_blocking(move || {
            use std::io::Write;
            let mut child = command.spawn().expect("kubectl is installed");
            child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
            let output = child.wait_with_output().unwrap();
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            (text(&output.stdout), text(&output.stderr), output.status.success())
        })
        .await
        .unwrap()
    }
}

const MANIFEST: &str = "
apiVersion: v1
kind: ConfigMap
metadata: {name: settings, labels: {app: web}}
data: {color: green}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers:
      - {name: web, image: 'registry.example/web:1', ports: [{containerPort: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  selector: {app: web}
  ports: [{port: 80}]
";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kubectl_works() {
    let served = served().await;
    let ok = async |args: &[&str], input: &str| {
        let (out, err, good) = served.kubectl(args, input).await;
        assert!(good, "kubectl {args:?}\n{out}{err}");
        out
    };
    let out = ok(&["version"], "").await;
    assert!(out.contains("Server Version: v1.36.0+orlop"), "{out}");
    let out = ok(&["auth", "whoami"], "").await;
    assert!(out.contains("admin"), "{out}");
    assert_eq!(ok(&["auth", "can-i", "delete", "nodes"], "").await.trim(), "yes");
    let out = ok(&["create", "deployment", "quick", "--image=registry.example/web:1", "--port=80"], "").await;
    assert!(out.contains("created"), "{out}");
    let out =
        ok(&["get", "deployment", "quick", "-o", "jsonpath={.spec.template.spec.containers[0].ports}"], "")
            .await;
    assert_eq!(out, "[{\"containerPort\":80,\"protocol\":\"TCP\"}]");
    ok(&["create", "secret", "generic", "s", "--from-literal=a=b"], "").await;
    ok(&["create", "service", "nodeport", "np", "--tcp=80:http"], "").await;
    ok(&["delete", "deployment/quick", "secret/s", "service/np"], "").await;
    let out = ok(&["api-resources"], "").await;
    assert!(
        out.lines().any(|l| l.starts_with("deployments") && l.contains("deploy") && l.contains("apps/v1")),
        "{out}"
    );
    let out = ok(&["apply", "-f", "-"], MANIFEST).await;
    assert_eq!(out.matches(" created").count(), 3, "{out}");
    let out = ok(&["apply", "-f", "-"], MANIFEST).await;
    assert_eq!(out.matches(" unchanged").count(), 3, "{out}");
    let changed = MANIFEST.replace("green", "red").replace("replicas: 2", "replicas: 3");
    let (out, _, same) = served.kubectl(&["diff", "-f", "-"], &changed).await;
    assert!(!same && out.contains("-  color: green") && out.contains("+  replicas: 3"), "{out}");
    let out = ok(&["apply", "-f", "-"], &changed).await;
    assert_eq!(out.matches(" configured").count(), 2, "{out}");
    let out = ok(&["apply", "--server-side", "--force-conflicts", "-f", "-"], &changed).await;
    assert_eq!(out.matches(" serverside-applied").count(), 3, "{out}");

    let out = ok(&["get", "deployments,services,configmaps"], "").await;
    assert!(out.contains("deployment.apps/web   0/3"), "{out}");
    assert!(out.contains("kubernetes   ClusterIP   10.43.0.1"), "{out}");
    let out = ok(&["get", "configmap", "settings", "-o", "jsonpath={.data.color}"], "").await;
    assert_eq!(out, "red");
    ok(&["scale", "deployment", "web", "--replicas", "5"], "").await;
    ok(&["label", "deployment", "web", "tier=front"], "").await;
    let out =
        ok(&["get", "deployments", "-l", "tier=front", "-o", "jsonpath={.items[*].spec.replicas}"], "").await;
    assert_eq!(out, "5");
    let out = ok(&["explain", "deployment.spec.replicas"], "").await;
    assert!(out.contains("replicas") && out.contains("integer"), "{out}");
    let (_, err, good) = served
        .kubectl(&["create", "-f", "-"], "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: A_b}")
        .await;
    assert!(!good && err.contains("is invalid: metadata.name"), "{err}");
    ok(&["delete", "deployment/web", "service/web", "configmap/settings"], "").await;
    let (_, err, good) = served.kubectl(&["get", "deployment", "web"], "").await;
    assert!(!good && err.contains("deployments.apps \"web\" not found"), "{err}");
}

#[tokio::test]
async fn a_connection_without_a_certificate_is_anonymous_and_a_bad_token_is_refused() {
    let served = served().await;
    let curl = async |args: &[&str]| {
        let url = format!("https://{}{}", served.address, args[0]);
        let rest: Vec<String> = args[1..].iter().map(|s| s.to_string()).collect();
        tokio::task::spawn_blocking(move || {
            let output = Command::new("curl")
                .args(["-sk", "-o", "/dev/null", "-w", "%{http_code}"])
                .args(rest)
                .arg(url)
                .output()
                .expect("curl is installed");
            String::from_utf8_lossy(&output.stdout).into_owned()
        })
        .await
        .unwrap()
    };
    assert_eq!(curl(&["/readyz"]).await, "200");
    assert_eq!(curl(&["/api/v1/pods"]).await, "403");
    assert_eq!(curl(&["/api/v1/pods", "-H", "Authorization: Bearer nonsense"]).await, "401");
    assert_eq!(curl(&["/livez", "--http1.1"]).await, "200");
}

#[tokio::test]
async fn the_server_stops_although_somebody_watches() {
    let served = served().await;
    let credential = served.credential("admin", Some("system:masters"));
    let mut config = kube::Config::new(format!("https://{}", served.address).parse().unwrap());
    let encode = |text: &str| base64::Engine::encode(&base64::prelude::BASE64_STANDARD, text);
    config.auth_info.client_certificate_data = Some(encode(&credential.certificate));
    config.auth_info.client_key_data = Some(encode(&credential.key).into());
    config.accept_invalid_certs = true;
    let client = kube::Client::try_from(config).unwrap();
    let maps: kube::Api<k8s_openapi::api::core::v1::ConfigMap> = kube::Api::all(client);
    let stream = maps.watch(&kube::api::WatchParams::default(), "0").await.unwrap();
    served.shutdown.cancel();
    let events: Vec<_> = futures::StreamExt::collect(stream).await;
    assert!(events.iter().all(Result::is_ok), "{events:?}");
    tokio::time::timeout(std::time::Duration::from_secs(30), served.serving).await.unwrap().unwrap().unwrap();
    drop(served.server);
}
