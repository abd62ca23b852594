//! Other servers that this one calls over TLS (webhooks, aggregated API servers): where they are, by which certificates they are known,
//! and the connection. Knows nothing of what is said over it.

use crate::registry::Registry;
use base64::{Engine, engine::general_purpose::STANDARD};
use orlop_api::object::{int, list, text};
use orlop_pki::Credential;
use rustls::{
    ClientConfig, DigitallySignedStruct, Error as TlsError, RootCertStore, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_name,
    },
    crypto::CryptoProvider,
    pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject},
    server::ParsedCertificate,
};
use serde_json::Value;
use std::sync::Arc;
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

/// The authorities of the machine, for servers that bring none of their own.
const SYSTEM_ROOTS: &str = "/etc/ssl/certs/ca-certificates.crt";

/// Where a server is.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// What to connect to, `host:port` each; the first that answers is taken.
    pub addresses: Vec<String>,
    /// Whose certificate it must show.
    pub server_name: String,
    /// `Host` header.
    pub authority: String,
}

/// The endpoints behind a Service: ready ones of its slices, else its cluster address.
pub(crate) fn service(registry: &Registry, namespace: &str, name: &str, port: i64) -> Result<Place, String> {
    let services = registry.find("", "v1", "services").ok_or("services are not served")?;
    let service = services.get(namespace, name).map_err(|_| format!("service {name:?} not found"))?.value();
    let place = |addresses| Place {
        addresses,
        server_name: format!("{name}.{namespace}.svc"),
        authority: format!("{name}.{namespace}.svc:{port}"),
    };
    if text(&service, "/spec/type") == "ExternalName" {
        return Ok(place(vec![format!("{}:{port}", text(&service, "/spec/externalName"))]));
    }
    let Some(wanted) = list(&service, "/spec/ports").iter().find(|p| int(p, "/port") == Some(port)) else {
        return Err(format!("no service port {port} found for service {name:?}"));
    };
    let mut addresses = Vec::new();
    for slice in slices(registry, namespace, name) {
        addresses.extend(endpoints(&slice, text(wanted, "/name")));
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

/// The EndpointSlices of a Service.
pub(crate) fn slices(registry: &Registry, namespace: &str, service: &str) -> Vec<Value> {
    let Some(slices) = registry.find("discovery.k8s.io", "v1", "endpointslices") else { return Vec::new() };
    let prefix = format!("{}{namespace}/", slices.cache.key_prefix);
    let of_service =
        |slice: &crate::cache::object::Object| slice.label("kubernetes.io/service-name") == Some(service);
    let found = slices.cache.snapshot(&prefix, None, 0, of_service).objects;
    found.iter().map(|slice| slice.value()).collect()
}

fn bracketed(ip: &str) -> String {
    if ip.contains(':') { format!("[{ip}]") } else { ip.to_string() }
}

/// The ready addresses of a slice at the port of that name.
pub(crate) fn endpoints(slice: &Value, port_name: &str) -> Vec<String> {
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

/// Whose servers are trusted.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Trust<'a> {
    /// Those of the authorities in a `caBundle`; where it is empty, of the machine's.
    Bundle(&'a str),
    /// All.
    Anybody,
}

fn verifier(trust: Trust<'_>, provider: &Arc<CryptoProvider>) -> Result<Arc<dyn ServerCertVerifier>, String> {
    let pem = match trust {
        Trust::Anybody => return Ok(orlop_pki::tls::anybody()),
        Trust::Bundle("") => std::fs::read(SYSTEM_ROOTS).unwrap_or_default(),
        Trust::Bundle(bundle) => {
            STANDARD.decode(bundle).map_err(|e| format!("caBundle is not base64: {e}"))?
        }
    };
    let own: Vec<CertificateDer<'static>> =
        CertificateDer::pem_slice_iter(&pem).filter_map(Result::ok).collect();
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(own.iter().cloned());
    if roots.is_empty() {
        return Err("tls: failed to verify certificate: x509: certificate signed by unknown authority".into());
    }
    let usual = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone())
        .build()
        .map_err(|e| e.to_string())?;
    Ok(Arc::new(Verifier { usual, own }))
}

/// How to speak with a server, and who this one is to it.
pub(crate) fn tls(trust: Trust<'_>, credential: Option<&Credential>) -> Result<ClientConfig, String> {
    let provider = orlop_pki::tls::provider();
    let verifier = verifier(trust, &provider)?;
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| e.to_string())?
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    let mut config = match credential {
        None => builder.with_no_client_auth(),
        Some(credential) => {
            let chain = credential.chain().map_err(|e| e.to_string())?;
            let key = credential.private_key().map_err(|e| e.to_string())?;
            builder.with_client_auth_cert(chain, key).map_err(|e| e.to_string())?
        }
    };
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

/// Connects to the first address that answers; tells which.
pub(crate) async fn dial(
    place: &Place,
    config: Arc<ClientConfig>,
) -> Result<(TlsStream<TcpStream>, String), String> {
    let mut connected = Err("no address".to_string());
    for address in &place.addresses {
        connected = match TcpStream::connect(address).await {
            Ok(stream) => Ok((stream, address.clone())),
            Err(error) => Err(format!("dial tcp {address}: {error}")),
        };
        if connected.is_ok() {
            break;
        }
    }
    let (stream, address) = connected?;
    stream.set_nodelay(true).map_err(|e| e.to_string())?;
    let name = ServerName::try_from(place.server_name.clone()).map_err(|e| e.to_string())?;
    let stream = TlsConnector::from(config).connect(name, stream).await;
    Ok((stream.map_err(|e| format!("tls: failed to verify certificate: {e}"))?, address))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

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
