//! rustls configurations for the cluster's servers and clients, and the identity in a client's certificate.

use crate::{Credential, Error, anybody::Anybody, expired::ExpiredNodes, signing_request::BACKDATE};
use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    client::danger::ServerCertVerifier,
    crypto::CryptoProvider,
    pki_types::{CertificateDer, pem::PemObject},
    server::{WebPkiClientVerifier, danger::ClientCertVerifier},
};
use std::sync::Arc;
use x509_parser::certificate::X509Certificate;

/// The one provider of cryptography in Orlop.
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

pub(crate) fn roots(authority: &str) -> Result<RootCertStore, Error> {
    let mut store = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(authority.as_bytes()) {
        store.add(certificate.map_err(|e| Error::certificate("reading the authority's certificate", e))?)?;
    }
    Ok(store)
}

/// A server that shows `credential` and asks clients for a certificate of `client_authority` (PEM). Clients may come
/// without one: who they are is then decided by their token, or they are anonymous. Nodes may come with one that is over
/// ([`is_over`]), to have it renewed. `required` turns all of these away instead.
pub fn server_config(
    credential: &Credential,
    client_authority: &str,
    required: bool,
    alpn: &[&str],
) -> Result<Arc<ServerConfig>, Error> {
    let verifier = client_verifier(client_authority, required)?;
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .with_client_cert_verifier(verifier)
        .with_single_cert(credential.chain()?, credential.private_key()?)?;
    config.alpn_protocols = alpn.iter().map(|p| p.as_bytes().to_vec()).collect();
    Ok(Arc::new(config))
}

pub(crate) fn client_verifier(authority: &str, required: bool) -> Result<Arc<dyn ClientCertVerifier>, Error> {
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots(authority)?), provider());
    let verifier = if required { verifier } else { verifier.allow_unauthenticated() };
    let verifier =
        verifier.build().map_err(|e| Error::certificate("preparing the check of client certificates", e))?;
    Ok(if required { verifier } else { Arc::new(ExpiredNodes(verifier)) })
}

/// Whether a certificate is no longer valid at `now` (seconds since the epoch); one that cannot be read counts as such.
pub fn is_over(certificate: &CertificateDer<'_>, now: i64) -> bool {
    x509_parser::parse_x509_certificate(certificate)
        .map_or(true, |(_, parsed)| parsed.validity().not_after.timestamp() < now)
}

/// When this cluster's signers issued a client certificate, in seconds since the epoch: they date it back a little. One that cannot be
/// read was issued at the beginning of time.
pub fn issued_at(certificate: &CertificateDer<'_>) -> i64 {
    x509_parser::parse_x509_certificate(certificate)
        .map_or(0, |(_, parsed)| parsed.validity().not_before.timestamp() + BACKDATE)
}

/// A client that trusts `authority` (PEM) and shows `credential`, if it has one.
pub fn client_config(authority: &str, credential: Option<&Credential>) -> Result<Arc<ClientConfig>, Error> {
    let builder = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots(authority)?);
    let config = match credential {
        Some(c) => builder.with_client_auth_cert(c.chain()?, c.private_key()?)?,
        None => builder.with_no_client_auth(),
    };
    Ok(Arc::new(config))
}

/// Trust in whoever answers, for a client that is put together elsewhere.
pub fn anybody() -> Arc<dyn ServerCertVerifier> {
    Arc::new(Anybody(provider()))
}

/// A client that speaks with whoever answers: nobody's certificate is checked.
pub fn trusting_client_config(alpn: &[&str]) -> Result<Arc<ClientConfig>, Error> {
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(anybody())
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|p| p.as_bytes().to_vec()).collect();
    Ok(Arc::new(config))
}

/// User (CN) and groups (O) in a verified client certificate.
pub fn identity(certificate: &CertificateDer<'_>) -> Result<(String, Vec<String>), Error> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate)
        .map_err(|e| Error::certificate("reading a client's certificate", e))?;
    Ok(subject(&parsed))
}

pub(crate) fn subject(certificate: &X509Certificate<'_>) -> (String, Vec<String>) {
    let subject = certificate.subject();
    let text = |a: &x509_parser::x509::AttributeTypeAndValue<'_>| a.as_str().unwrap_or_default().to_string();
    let user = subject.iter_common_name().next().map(text).unwrap_or_default();
    let groups = subject.iter_organization().map(text).collect();
    (user, groups)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Authority, CertificateRequest, Usage};

    #[test]
    fn a_client_certificate_says_who_its_holder_is() {
        let dir = tempfile::tempdir().expect("a folder");
        let authority = Authority::open_or_create(dir.path(), 1_790_000_000).expect("made");
        let request = CertificateRequest {
            common_name: "admin".into(),
            organization: Some("system:masters".into()),
            dns_names: vec![],
            addresses: vec![],
            usage: Usage::Client,
            days: 365,
        };
        let issued = authority.issue(&request, 1_790_000_000).expect("issued");
        let chain = issued.chain().expect("a chain");
        let (user, groups) = identity(&chain[0]).expect("an identity");
        assert_eq!((user.as_str(), groups), ("admin", vec!["system:masters".to_string()]));
        server_config(&issued, authority.certificate(), false, &["h2"]).expect("a server");
        client_config(authority.certificate(), Some(&issued)).expect("a client");
    }
}
