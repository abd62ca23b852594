//! The call of a webhook (admission, conversion) over TLS: where it is (a URL, or a Service whose endpoints are looked up in this process), by which
//! certificates it is known, and one POST. Never decides anything.

use crate::registry::Registry;
use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::{Request, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use orlop_api::object::{int, list, text};
use rustls::{
    ClientConfig, DigitallySignedStruct, Error as TlsError, RootCertStore, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_name,
    },
    pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject},
    server::ParsedCertificate,
};
use serde_json::Value;
use std::{sync::Arc, time::Duration};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// The authorities of the machine, for webhooks that bring none of their own.
const SYSTEM_ROOTS: &str = "/etc/ssl/certs/ca-certificates.crt";

/// Where a webhook is.
#[derive(Debug, PartialEq, Eq)]
struct Place {
    /// What to connect to, `host:port` each; the first that answers is taken.
    addresses: Vec<String>,
    /// Whose certificate it must show.
    server_name: String,
    /// `Host` header.
    authority: String,
    path: String,
}

/// The parts of a webhook's `url`.
fn from_url(url: &str) -> Result<Place, String> {
    let uri: http::Uri = url.parse().map_err(|e| format!("{url:?} is not a URL: {e}"))?;
    let host = uri.host().unwrap_or_default().trim_matches(['[', ']']).to_string();
    if uri.scheme_str() != Some("https") || host.is_empty() {
        return Err(format!("{url:?} is not an https URL"));
    }
    let port = uri.port_u16().unwrap_or(443);
    let address = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
    Ok(Place {
        addresses: vec![address],
        server_name: host,
        authority: uri.authority().map(ToString::to_string).unwrap_or_default(),
        path: uri.path().to_string(),
    })
}

/// The endpoints behind a Service: ready ones of its slices, else its cluster address.
fn from_service(registry: &Registry, reference: &Value) -> Result<Place, String> {
    let (namespace, name) = (text(reference, "/namespace"), text(reference, "/name"));
    let port = int(reference, "/port").unwrap_or(443);
    let services = registry.find("", "v1", "services").ok_or("services are not served")?;
    let service = services.get(namespace, name).map_err(|_| format!("service {name:?} not found"))?.value();
    let place = |addresses| Place {
        addresses,
        server_name: format!("{name}.{namespace}.svc"),
        authority: format!("{name}.{namespace}.svc:{port}"),
        path: match text(reference, "/path") {
            "" => "/".to_string(),
            path => path.to_string(),
        },
    };
    if text(&service, "/spec/type") == "ExternalName" {
        return Ok(place(vec![format!("{}:{port}", text(&service, "/spec/externalName"))]));
    }
    let Some(wanted) = list(&service, "/spec/ports").iter().find(|p| int(p, "/port") == Some(port)) else {
        return Err(format!("no service port {port} found for service {name:?}"));
    };
    let mut addresses = Vec::new();
    if let Some(slices) = registry.find("discovery.k8s.io", "v1", "endpointslices") {
        let prefix = format!("{}{namespace}/", slices.cache.key_prefix);
        let found = slices
            .cache
            .snapshot(&prefix, None, 0, |slice| slice.label("kubernetes.io/service-name") == Some(name));
        for slice in found.objects {
            addresses.extend(endpoints(&slice.value(), text(wanted, "/name")));
        }
    }
    let cluster_ip = text(&service, "/spec/clusterIP");
    if addresses.is_empty() && !matches!(cluster_ip, "" | "None") {
        addresses.push(format!("{}:{port}", bracketed(cluster_ip)));
    }
    if addresses.is_empty() {
        return Err(format!("no endpoints available for service {name:?}"));
    }
    Ok(place(addresses))
}

fn bracketed(ip: &str) -> String {
    if ip.contains(':') { format!("[{ip}]") } else { ip.to_string() }
}

/// The ready addresses of a slice at the port of that name.
fn endpoints(slice: &Value, port_name: &str) -> Vec<String> {
    let port =
        list(slice, "/ports").iter().find(|p| text(p, "/name") == port_name).and_then(|p| int(p, "/port"));
    let Some(port) = port else { return Vec::new() };
    list(slice, "/endpoints")
        .iter()
        .filter(|e| e.pointer("/conditions/ready").is_none_or(|r| *r != false))
        .filter_map(|e| list(e, "/addresses").first()?.as_str())
        .map(|ip| format!("{}:{port}", bracketed(ip)))
        .collect()
}

/// Trusts what the bundle's authorities signed and, as Go does, what is in the bundle itself: a self-signed server.
#[derive(Debug)]
struct Verifier {
    usual: Arc<WebPkiServerVerifier>,
    own: Vec<CertificateDer<'static>>,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        shown: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, TlsError> {
        self.usual.verify_server_cert(shown, chain, name, ocsp, now).or_else(|error| {
            if !self.own.iter().any(|certificate| certificate.as_ref() == shown.as_ref()) {
                return Err(error);
            }
            verify_server_name(&ParsedCertificate::try_from(shown)?, name)?;
            Ok(ServerCertVerified::assertion())
        })
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        self.usual.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        self.usual.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.usual.supported_verify_schemes()
    }
}

fn tls(bundle: &str) -> Result<ClientConfig, String> {
    let pem = if bundle.is_empty() {
        std::fs::read(SYSTEM_ROOTS).unwrap_or_default()
    } else {
        STANDARD.decode(bundle).map_err(|e| format!("caBundle is not base64: {e}"))?
    };
    let own: Vec<CertificateDer<'static>> =
        CertificateDer::pem_slice_iter(&pem).filter_map(Result::ok).collect();
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(own.iter().cloned());
    if roots.is_empty() {
        return Err("tls: failed to verify certificate: x509: certificate signed by unknown authority".into());
    }
    let provider = orlop_pki::tls::provider();
    let usual = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone())
        .build()
        .map_err(|e| e.to_string())?;
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| e.to_string())?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Verifier { usual, own }))
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

/// How much time and room an answer may take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Patience {
    pub timeout: Duration,
    /// Bytes.
    pub largest: usize,
}

impl Patience {
    /// A webhook is told how long it has.
    fn query(self) -> String {
        format!("?timeout={}s", self.timeout.as_secs())
    }
}

/// Posts a review to the webhook that a `clientConfig` names; the answer is JSON. Errors read like Go's.
pub(crate) async fn post(
    registry: &Registry,
    config: &Value,
    patience: Patience,
    review: &Value,
) -> Result<Value, String> {
    let url = text(config, "/url");
    let place = if url.is_empty() {
        from_service(registry, config.get("service").unwrap_or(&Value::Null))?
    } else {
        from_url(url)?
    };
    let target = format!("https://{}{}{}", place.authority, place.path, patience.query());
    let failed = |why: String| format!("Post {target:?}: {why}");
    let config = tls(text(config, "/caBundle")).map_err(failed)?;
    tokio::time::timeout(patience.timeout, exchange(&place, config, patience, review))
        .await
        .unwrap_or_else(|_| Err("context deadline exceeded".into()))
        .map_err(failed)
}

async fn exchange(
    place: &Place,
    config: ClientConfig,
    patience: Patience,
    review: &Value,
) -> Result<Value, String> {
    let mut stream = Err("no address".to_string());
    for address in &place.addresses {
        stream = TcpStream::connect(address).await.map_err(|e| format!("dial tcp {address}: {e}"));
        if stream.is_ok() {
            break;
        }
    }
    let stream = stream?;
    stream.set_nodelay(true).map_err(|e| e.to_string())?;
    let name = ServerName::try_from(place.server_name.clone()).map_err(|e| e.to_string())?;
    let stream = TlsConnector::from(Arc::new(config))
        .connect(name, stream)
        .await
        .map_err(|e| format!("tls: failed to verify certificate: {e}"))?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|e| e.to_string())?;
    let connection = tokio::spawn(connection);
    let request = Request::post(format!("{}{}", place.path, patience.query()))
        .header(header::HOST, &place.authority)
        .header(header::CONTENT_TYPE, "application/json")
        .header(header::ACCEPT, "application/json, */*")
        .header(header::USER_AGENT, "kube-apiserver-admission")
        .body(Full::new(Bytes::from(review.to_string())))
        .map_err(|e| e.to_string())?;
    let answer = async {
        let answer = sender.send_request(request).await.map_err(|e| e.to_string())?;
        let code = answer.status();
        let body = Limited::new(answer.into_body(), patience.largest)
            .collect()
            .await
            .map_err(|e| e.to_string())?
            .to_bytes();
        if !code.is_success() {
            let text = String::from_utf8_lossy(&body);
            let text = text.trim();
            return Err(format!(
                "the server answered {}: {}",
                code.as_u16(),
                &text[..text.floor_char_boundary(256)]
            ));
        }
        serde_json::from_slice(&body).map_err(|e| format!("the answer is not JSON: {e}"))
    };
    let answer = answer.await;
    connection.abort();
    answer
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_url_says_where_and_who() {
        let place = from_url("https://[::1]:8443/mutate").unwrap();
        assert_eq!((place.addresses, place.server_name.as_str()), (vec!["[::1]:8443".to_string()], "::1"));
        assert_eq!(from_url("https://hooks.example.org").unwrap().path, "/");
        assert!(from_url("http://x").is_err() && from_url("nonsense").is_err());
    }

    #[test]
    fn ready_endpoints_are_called_at_the_ports_that_they_listen_on() {
        let slice = json!({
            "ports": [{"name": "web", "port": 8443}, {"name": "other", "port": 1}],
            "endpoints": [
                {"addresses": ["10.0.0.1"], "conditions": {"ready": true}},
                {"addresses": ["10.0.0.2"], "conditions": {"ready": false}},
                {"addresses": ["fd00::1"]},
            ],
        });
        assert_eq!(endpoints(&slice, "web"), ["10.0.0.1:8443", "[fd00::1]:8443"]);
        assert!(endpoints(&slice, "missing").is_empty());
    }
}
