//! Conversion by webhook: a ConversionReview over TLS, to a URL or to a Service of the cluster. What is asked and what answer is
//! believed is `orlop-custom`'s to say.

use crate::registry::{Registry, versions::Converter};
use async_trait::async_trait;
use base64::Engine;
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use orlop_api::{
    Status,
    object::{flag, int, list, text},
};
use orlop_custom::conversion;
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};
use serde_json::Value;
use std::{
    sync::{Arc, Weak},
    time::Duration,
};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// How long an answer may take.
const TIMEOUT: Duration = Duration::from_secs(30);
/// How large an answer may be.
const MAX_ANSWER: usize = 64 << 20;

/// A conversion webhook.
pub(crate) struct Webhook {
    registry: Weak<Registry>,
    /// `spec.conversion.webhook.clientConfig`.
    config: Value,
    kind: String,
    tls: Arc<ClientConfig>,
}

/// Where to send the question.
struct Place {
    /// What to connect to: an address or a name, with the port.
    address: String,
    /// Who the certificate must be for.
    name: String,
    path: String,
}

impl Webhook {
    pub(crate) fn new(registry: &Arc<Registry>, definition: &Value) -> Self {
        let config = definition.pointer("/spec/conversion/webhook/clientConfig").cloned().unwrap_or_default();
        let kind =
            format!("{}, Kind={}", text(definition, "/spec/group"), text(definition, "/spec/names/kind"));
        let mut roots = RootCertStore::empty();
        let pem =
            base64::engine::general_purpose::STANDARD.decode(text(&config, "/caBundle")).unwrap_or_default();
        for certificate in CertificateDer::pem_slice_iter(&pem).flatten() {
            // One that cannot be read vouches for nobody.
            let _ = roots.add(certificate);
        }
        let tls = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        Self { registry: Arc::downgrade(registry), config, kind, tls: Arc::new(tls) }
    }

    fn place(&self) -> Result<Place, String> {
        if let Some(rest) = text(&self.config, "/url").strip_prefix("https://") {
            let (authority, path) = rest.find('/').map_or((rest, "/"), |at| rest.split_at(at));
            let (name, port) = match authority.rsplit_once(':').filter(|(_, p)| p.parse::<u16>().is_ok()) {
                Some((name, port)) => (name, port),
                None => (authority, "443"),
            };
            let bare = name.trim_start_matches('[').trim_end_matches(']').to_string();
            return Ok(Place { address: format!("{name}:{port}"), name: bare, path: path.to_string() });
        }
        let service = self.config.get("service").ok_or("it says neither url nor service")?;
        let (namespace, name) = (text(service, "/namespace"), text(service, "/name"));
        let port = int(service, "/port").unwrap_or(443);
        let registry = self.registry.upgrade().ok_or("the server is shutting down")?;
        let address = endpoint(&registry, namespace, name, port)?;
        let path = text(service, "/path");
        let path = if path.starts_with('/') { path.to_string() } else { format!("/{path}") };
        Ok(Place { address, name: format!("{name}.{namespace}.svc"), path })
    }

    async fn ask(&self, question: &Value) -> Result<Value, String> {
        let place = self.place()?;
        let name = ServerName::try_from(place.name.clone()).map_err(|e| e.to_string())?;
        let dial = |e: std::io::Error| format!("dial tcp {}: {e}", place.address);
        let stream = TcpStream::connect(&place.address).await.map_err(dial)?;
        let stream =
            TlsConnector::from(self.tls.clone()).connect(name, stream).await.map_err(|e| e.to_string())?;
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|e| e.to_string())?;
        tokio::spawn(connection);
        let request = http::Request::post(format!("{}?timeout=30s", place.path))
            .header(http::header::HOST, &place.name)
            .header(http::header::CONTENT_TYPE, "application/json")
            .header(http::header::ACCEPT, "application/json")
            .body(Full::new(Bytes::from(question.to_string())))
            .map_err(|e| e.to_string())?;
        let answer = sender.send_request(request).await.map_err(|e| e.to_string())?;
        let code = answer.status();
        let body = Limited::new(answer.into_body(), MAX_ANSWER).collect().await.map_err(|e| e.to_string())?;
        if !code.is_success() {
            return Err(format!("the server answered with {code}"));
        }
        serde_json::from_slice(&body.to_bytes()).map_err(|e| e.to_string())
    }
}

/// An address of a Service's port, where somebody is ready.
fn endpoint(registry: &Registry, namespace: &str, name: &str, port: i64) -> Result<String, String> {
    let find = |group, plural| registry.find(group, "v1", plural).ok_or("Services are not served");
    let service = find("", "services")?
        .get(namespace, name)
        .map_err(|_| format!("service {name:?} not found"))?
        .value();
    let port_name = list(&service, "/spec/ports")
        .iter()
        .find(|p| int(p, "/port") == Some(port))
        .map(|p| text(p, "/name").to_string())
        .ok_or_else(|| format!("no service port {port} found for service {name:?}"))?;
    let slices = find("discovery.k8s.io", "endpointslices")?;
    let prefix = format!("{}{namespace}/", slices.cache.key_prefix);
    let slices =
        slices.cache.snapshot(&prefix, None, 0, |o| o.label("kubernetes.io/service-name") == Some(name));
    for slice in slices.objects {
        let slice = slice.value();
        let port = list(&slice, "/ports")
            .iter()
            .find(|p| text(p, "/name") == port_name)
            .and_then(|p| int(p, "/port"));
        let ready = list(&slice, "/endpoints").iter().find(|e| flag(e, "/conditions/ready"));
        let address = ready.and_then(|e| list(e, "/addresses").first()).and_then(Value::as_str);
        if let (Some(port), Some(address)) = (port, address) {
            let address = if address.contains(':') { format!("[{address}]") } else { address.to_string() };
            return Ok(format!("{address}:{port}"));
        }
    }
    Err(format!("no endpoints available for service {name:?}"))
}

#[async_trait]
impl Converter for Webhook {
    async fn convert(&self, objects: Vec<Value>, api_version: &str) -> Result<Vec<Value>, Status> {
        // What is in the wanted version already is not asked about.
        let there = |o: &Value| text(o, "/apiVersion") == api_version;
        let asked: Vec<Value> = objects.iter().filter(|o| !there(o)).cloned().collect();
        if asked.is_empty() {
            return Ok(objects);
        }
        let failed =
            |why: String| Status::internal(format!("conversion webhook for {} failed: {why}", self.kind));
        let uid = uuid::Uuid::new_v4().to_string();
        let question = conversion::question(&uid, &asked, api_version);
        let review = tokio::time::timeout(TIMEOUT, self.ask(&question))
            .await
            .map_err(|_| failed("context deadline exceeded".into()))?
            .map_err(|why| failed(format!("Post: {why}")))?;
        let mut converted =
            conversion::answer(&review, &uid, &asked, api_version).map_err(failed)?.into_iter();
        let all =
            objects.into_iter().map(|o| if there(&o) { o } else { converted.next().unwrap_or_default() });
        Ok(all.collect())
    }
}
