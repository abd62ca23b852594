//! Lets nodes in whose client certificate is over: a machine that slept longer than its certificate is valid must be able to have it
//! renewed. Who comes like this is to be told apart from a node by whoever uses it ([`crate::tls::is_over`]).

use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, SignatureScheme,
    client::danger::HandshakeSignatureValid,
    pki_types::{CertificateDer, UnixTime},
    server::danger::{ClientCertVerified, ClientCertVerifier},
};
use std::{sync::Arc, time::Duration};

const NODES: &str = "system:nodes";

/// Checks as another verifier does, but for the end of nodes' certificates.
#[derive(Debug)]
pub(crate) struct ExpiredNodes(pub(crate) Arc<dyn ClientCertVerifier>);

/// The last second of a node's certificate.
fn end_of_node(certificate: &CertificateDer<'_>) -> Option<UnixTime> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate).ok()?;
    let (_, groups) = crate::tls::subject(&parsed);
    let end = u64::try_from(parsed.validity().not_after.timestamp()).ok()?;
    (groups == [NODES]).then(|| UnixTime::since_unix_epoch(Duration::from_secs(end)))
}

impl ClientCertVerifier for ExpiredNodes {
    fn offer_client_auth(&self) -> bool {
        self.0.offer_client_auth()
    }

    fn client_auth_mandatory(&self) -> bool {
        self.0.client_auth_mandatory()
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.0.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        match self.0.verify_client_cert(certificate, intermediates, now) {
            Err(
                error @ Error::InvalidCertificate(
                    CertificateError::Expired | CertificateError::ExpiredContext { .. },
                ),
            ) => match end_of_node(certificate) {
                Some(end) => self.0.verify_client_cert(certificate, intermediates, end),
                None => Err(error),
            },
            outcome => outcome,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Authority, Credential, signing_request, tls};

    const NOW: i64 = 1_790_000_000;

    fn issue(authority: &Authority, group: &str) -> Credential {
        let (request, key) = signing_request::make("system:node:a", group, &[], &[]).expect("a request");
        let usages = ["digital signature".to_string(), "client auth".to_string()];
        Credential { certificate: authority.sign(&request, &usages, 3600, NOW).expect("signed"), key }
    }

    #[test]
    fn a_nodes_certificate_that_is_over_is_let_in_and_nobody_elses() {
        let (ours, theirs) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
        let authority = Authority::open_or_create(ours.path(), NOW).expect("made");
        let stranger = Authority::open_or_create(theirs.path(), NOW).expect("made");
        let verifier = tls::client_verifier(authority.certificate(), false).expect("a verifier");
        let at = |seconds: i64| UnixTime::since_unix_epoch(Duration::from_secs((NOW + seconds) as u64));
        let check = |credential: &Credential, seconds| {
            let chain = credential.chain().expect("a chain");
            verifier.verify_client_cert(&chain[0], &[], at(seconds)).is_ok()
        };
        let node = issue(&authority, NODES);
        assert!(check(&node, 0) && check(&node, 7200));
        assert!(tls::is_over(&node.chain().expect("a chain")[0], NOW + 7200));
        let person = issue(&authority, "dev");
        assert!(check(&person, 0) && !check(&person, 7200));
        let of_stranger = issue(&stranger, NODES);
        assert!(!check(&of_stranger, 0) && !check(&of_stranger, 7200));
        let strict = tls::client_verifier(authority.certificate(), true).expect("a verifier");
        let chain = node.chain().expect("a chain");
        assert!(strict.verify_client_cert(&chain[0], &[], at(7200)).is_err());
    }
}
