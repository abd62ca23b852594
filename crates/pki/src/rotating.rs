//! A credential that can be exchanged while it is in use: TLS servers and clients that were made with it show the newest one
//! in each new connection.

use crate::{Credential, Error, tls};
use parking_lot::RwLock;
use rustls::{
    ClientConfig, ServerConfig, SignatureScheme,
    client::ResolvesClientCert,
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use std::sync::Arc;

/// See the module. Clones are the same credential.
#[derive(Clone, Debug)]
pub struct Rotating {
    current: Arc<RwLock<Arc<CertifiedKey>>>,
}

impl Rotating {
    /// Starts with a credential.
    pub fn new(credential: &Credential) -> Result<Self, Error> {
        Ok(Self { current: Arc::new(RwLock::new(certified(credential)?)) })
    }

    /// Exchanges it.
    pub fn set(&self, credential: &Credential) -> Result<(), Error> {
        let new = certified(credential)?;
        *self.current.write() = new;
        Ok(())
    }

    fn get(&self) -> Arc<CertifiedKey> {
        self.current.read().clone()
    }

    /// A client that trusts `authority` (PEM) and shows this credential.
    pub fn client_config(&self, authority: &str) -> Result<Arc<ClientConfig>, Error> {
        let config = ClientConfig::builder_with_provider(tls::provider())
            .with_safe_default_protocol_versions()?
            .with_root_certificates(tls::roots(authority)?)
            .with_client_cert_resolver(Arc::new(self.clone()));
        Ok(Arc::new(config))
    }

    /// A server that shows this credential and wants clients to have a certificate of `client_authority` (PEM).
    pub fn server_config(&self, client_authority: &str, alpn: &[&str]) -> Result<Arc<ServerConfig>, Error> {
        let verifier = tls::client_verifier(client_authority, true)?;
        let mut config = ServerConfig::builder_with_provider(tls::provider())
            .with_safe_default_protocol_versions()?
            .with_client_cert_verifier(verifier)
            .with_cert_resolver(Arc::new(self.clone()));
        config.alpn_protocols = alpn.iter().map(|p| p.as_bytes().to_vec()).collect();
        Ok(Arc::new(config))
    }
}

fn certified(credential: &Credential) -> Result<Arc<CertifiedKey>, Error> {
    let key = CertifiedKey::from_der(credential.chain()?, credential.private_key()?, &tls::provider())?;
    key.keys_match()?;
    Ok(Arc::new(key))
}

impl ResolvesClientCert for Rotating {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.get())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

impl ResolvesServerCert for Rotating {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.get())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Authority, CertificateRequest, Usage};

    const NOW: i64 = 1_790_000_000;

    fn issue(authority: &Authority, name: &str) -> Credential {
        let request = CertificateRequest {
            common_name: name.into(),
            organization: None,
            dns_names: vec![],
            addresses: vec![],
            usage: Usage::Both,
            days: 1,
        };
        authority.issue(&request, NOW).expect("issued")
    }

    #[test]
    fn what_is_exchanged_is_shown_from_then_on() {
        let dir = tempfile::tempdir().expect("a folder");
        let authority = Authority::open_or_create(dir.path(), NOW).expect("made");
        let rotating = Rotating::new(&issue(&authority, "first")).expect("a credential");
        let shown = || {
            let key = ResolvesClientCert::resolve(&rotating, &[], &[]).expect("one");
            tls::identity(&key.cert[0]).expect("an identity").0
        };
        assert_eq!(shown(), "first");
        rotating.set(&issue(&authority, "second")).expect("exchanged");
        assert_eq!(shown(), "second");
        let torn = Credential { key: issue(&authority, "x").key, ..issue(&authority, "third") };
        assert!(rotating.set(&torn).is_err(), "a key of another certificate");
        assert_eq!(shown(), "second");
        rotating.client_config(authority.certificate()).expect("a client");
        rotating.server_config(authority.certificate(), &["http/1.1"]).expect("a server");
    }
}
