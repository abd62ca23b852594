//! Talks to registries (OCI distribution-spec) through `oci-client`: which protocol, which credentials, what is worth
//! trying again, and what a failure means to a person. Knows no files.

use super::{
    content::MAX_BLOB,
    digest::Digest,
    manifest::{Descriptor, MANIFEST_TYPES},
    reference::Reference,
};
use crate::RegistryAuth;
use bytes::Bytes;
use futures::StreamExt;
use oci_client::{
    Client, Reference as Wire, RegistryOperation,
    client::{BlobResponse, ClientConfig, ClientProtocol},
    errors::{OciDistributionError, OciErrorCode},
    manifest::OciDescriptor,
    secrets::RegistryAuth as WireAuth,
};
use parking_lot::Mutex;
use std::{
    collections::HashMap,
    net::{Ipv4Addr, Ipv6Addr},
    sync::{Arc, Weak},
    time::Duration,
};
use tokio::sync::mpsc;

/// How often something is tried without getting any further.
const ATTEMPTS: u32 = 4;
/// The pause before the second attempt; each further one is twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
/// How long a connection may take, and how long it may be silent.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);
const SILENCE_TIMEOUT: Duration = Duration::from_secs(60);

/// Why a registry did not give what was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// It will not do so in a second either.
    Final(String),
    /// The connection or the registry is in trouble: worth another attempt.
    Passing(String),
}

impl Failure {
    /// For people.
    pub fn into_message(self) -> String {
        match self {
            Self::Final(message) | Self::Passing(message) => message,
        }
    }
}

type Credentials = (String, Option<RegistryAuth>);

/// Clients of registries. One serves all pulls that run at a time with the same credentials, since it keeps the tokens that
/// it was given; it goes with the last of them.
pub struct Registries {
    insecure: Vec<String>,
    clients: Mutex<HashMap<Credentials, Weak<Client>>>,
}

impl Registries {
    /// `insecure` are the registries, besides those on the loopback, that speak plain HTTP.
    pub fn new(insecure: Vec<String>) -> Self {
        Self { insecure, clients: Mutex::default() }
    }

    /// Prepares to fetch one image.
    pub async fn session(
        &self,
        reference: &Reference,
        auth: Option<RegistryAuth>,
    ) -> Result<Session, Failure> {
        let client = self.client(reference.registry(), auth.clone())?;
        let (registry, repository) = (reference.registry().to_string(), reference.repository().to_string());
        let wire = match (reference.digest(), reference.tag()) {
            (Some(digest), _) => Wire::with_digest(registry, repository, digest.to_string()),
            (None, tag) => Wire::with_tag(registry, repository, tag.unwrap_or("latest").to_string()),
        };
        let session = Session { client, wire, auth: to_wire(auth) };
        session.retry(|| session.authenticate()).await?;
        Ok(session)
    }

    fn client(&self, registry: &str, auth: Option<RegistryAuth>) -> Result<Arc<Client>, Failure> {
        let mut clients = self.clients.lock();
        clients.retain(|_, client| client.strong_count() > 0);
        let key = (registry.to_string(), auth);
        if let Some(client) = clients.get(&key).and_then(Weak::upgrade) {
            return Ok(client);
        }
        let client = Arc::new(make_client(registry, self.is_plain(registry))?);
        clients.insert(key, Arc::downgrade(&client));
        Ok(client)
    }

    /// Whether a registry is spoken to without TLS.
    fn is_plain(&self, registry: &str) -> bool {
        is_loopback(registry) || self.insecure.iter().any(|known| known == registry)
    }
}

fn make_client(registry: &str, plain: bool) -> Result<Client, Failure> {
    // The library asks the process for its cryptography; whoever comes first sets it, and all of Orlop wants the same.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut config = ClientConfig {
        protocol: if plain { ClientProtocol::Http } else { ClientProtocol::Https },
        platform_resolver: None,
        connect_timeout: Some(CONNECT_TIMEOUT),
        read_timeout: Some(SILENCE_TIMEOUT),
        user_agent: concat!("orlop/", env!("CARGO_PKG_VERSION")),
        ..ClientConfig::default()
    };
    if is_loopback(registry) {
        // No proxy can reach this machine's own registry. Naming one that is never used keeps the environment's out.
        config.http_proxy = Some("http://127.0.0.1:9".into());
        config.no_proxy = Some("*,127.0.0.0/8,::1".into());
    }
    Client::try_from(config)
        .map_err(|e| Failure::Final(format!("preparing a client for {registry}: {}", chain(&e))))
}

fn is_loopback(registry: &str) -> bool {
    let host = match registry.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => registry.split(':').next().unwrap_or_default(),
    };
    host == "localhost"
        || host.parse::<Ipv4Addr>().is_ok_and(|a| a.is_loopback())
        || host.parse::<Ipv6Addr>().is_ok_and(|a| a.is_loopback())
}

fn to_wire(auth: Option<RegistryAuth>) -> WireAuth {
    match auth {
        None => WireAuth::Anonymous,
        Some(RegistryAuth { username, password }) => WireAuth::Basic(username, password),
    }
}

/// The way to one repository.
pub struct Session {
    client: Arc<Client>,
    wire: Wire,
    auth: WireAuth,
}

impl Session {
    async fn authenticate(&self) -> Result<(), Failure> {
        let token = self.client.auth(&self.wire, &self.auth, RegistryOperation::Pull).await;
        token.map(|_| ()).map_err(|e| self.explain(e))
    }

    /// The manifest or index that the reference names, or that a digest names in the same repository. Its digest is not
    /// checked here. (The library reads all the registry sends: its size is not limited.)
    pub async fn manifest(&self, digest: Option<&Digest>) -> Result<Bytes, Failure> {
        let wire = match digest {
            Some(digest) => self.wire.clone_with_digest(digest.to_string()),
            None => self.wire.clone(),
        };
        self.retry(|| async {
            let pulled = self.client.pull_manifest_raw(&wire, &self.auth, MANIFEST_TYPES).await;
            pulled.map(|(body, _)| body).map_err(|e| self.explain(e))
        })
        .await
    }

    /// A small blob (a configuration), checked.
    pub async fn blob(&self, descriptor: &Descriptor) -> Result<Vec<u8>, Failure> {
        let digest = &descriptor.digest;
        if descriptor.size > MAX_BLOB {
            let size = descriptor.size;
            return Err(Failure::Final(format!("{digest} is announced with {size} bytes, too many to read")));
        }
        let (sender, mut receiver) = mpsc::channel(4);
        let collect = async move {
            let mut bytes = Vec::new();
            while let Some(Ok(chunk)) = receiver.recv().await {
                let chunk: Bytes = chunk;
                bytes.extend_from_slice(&chunk);
                if bytes.len() as u64 > descriptor.size {
                    break; // the receiver goes, which tells the sender to stop
                }
            }
            bytes
        };
        let (sent, bytes) = tokio::join!(self.stream(descriptor, sender), collect);
        sent?;
        if bytes.len() as u64 != descriptor.size || !digest.matches(&bytes) {
            let found = Digest::of(&bytes);
            return Err(Failure::Final(format!("bad digest: the registry sent {found} for {digest}")));
        }
        Ok(bytes)
    }

    /// Sends a blob's bytes, as many as are announced, going on after interruptions where it was. Nothing is checked here.
    /// After a failure the last message is an error, so that a blob cut short is not taken for whole. Ends early without error
    /// when nobody listens any more.
    pub async fn stream(
        &self,
        descriptor: &Descriptor,
        sink: mpsc::Sender<Result<Bytes, ()>>,
    ) -> Result<(), Failure> {
        let mut offset = 0;
        let mut attempt = 0;
        while offset < descriptor.size {
            let before = offset;
            let failure = match self.stream_from(descriptor, &mut offset, &sink).await {
                Ok(()) if sink.is_closed() => return Ok(()),
                Ok(()) if offset >= descriptor.size => return Ok(()),
                Ok(()) => Failure::Passing(format!(
                    "{} ends after {offset} of {} bytes",
                    descriptor.digest, descriptor.size
                )),
                Err(failure) => failure,
            };
            attempt = if offset > before { 1 } else { attempt + 1 };
            match failure {
                Failure::Passing(why) if attempt < ATTEMPTS => {
                    tracing::debug!(digest = %descriptor.digest, offset, %why, "download goes on after a pause");
                    tokio::time::sleep(FIRST_PAUSE * 2u32.pow(attempt - 1)).await;
                }
                failure => {
                    let _ = sink.send(Err(())).await; // a listener that is gone need not know
                    return Err(failure);
                }
            }
        }
        Ok(())
    }

    /// One connection's worth of [`Session::stream`].
    async fn stream_from(
        &self,
        descriptor: &Descriptor,
        offset: &mut u64,
        sink: &mpsc::Sender<Result<Bytes, ()>>,
    ) -> Result<(), Failure> {
        let wire = OciDescriptor { digest: descriptor.digest.to_string(), ..Default::default() };
        // Asking for a range, even for all of it, spares the library hashing what is hashed here anyway.
        let response = self
            .client
            .pull_blob_stream_partial(&self.wire, &wire, *offset, None)
            .await
            .map_err(|e| self.explain(e))?;
        // A registry that knows no ranges starts from the beginning.
        let (mut stream, mut skip) = match response {
            BlobResponse::Full(stream) => (stream, *offset),
            BlobResponse::Partial(stream) => (stream, 0),
        };
        let wanted = descriptor.size - (*offset - skip);
        if let Some(announced) = stream.content_length.filter(|announced| *announced != wanted) {
            return Err(Failure::Final(format!(
                "bad size of {}: the registry sends {announced} bytes where {wanted} are expected",
                descriptor.digest
            )));
        }
        while *offset < descriptor.size {
            let Some(chunk) = stream.next().await else { break };
            let mut chunk =
                chunk.map_err(|e| Failure::Passing(format!("download broke off: {}", chain(&e))))?;
            let cut = skip.min(chunk.len() as u64);
            skip -= cut;
            let chunk = chunk.split_off(cut as usize);
            *offset += chunk.len() as u64;
            if !chunk.is_empty() && sink.send(Ok(chunk)).await.is_err() {
                return Ok(());
            }
        }
        Ok(())
    }

    async fn retry<T, F: Future<Output = Result<T, Failure>>>(
        &self,
        mut action: impl FnMut() -> F,
    ) -> Result<T, Failure> {
        let mut attempt = 1;
        loop {
            match action().await {
                Err(Failure::Passing(why)) if attempt < ATTEMPTS => {
                    tracing::debug!(registry = self.wire.registry(), %why, "trying again after a pause");
                    tokio::time::sleep(FIRST_PAUSE * 2u32.pow(attempt - 1)).await;
                    attempt += 1;
                }
                other => return other,
            }
        }
    }

    /// What an error means: to a person, and for trying again.
    fn explain(&self, error: OciDistributionError) -> Failure {
        use OciDistributionError as E;
        let registry = self.wire.registry();
        let denied = || match self.auth {
            WireAuth::Anonymous => Failure::Final(format!(
                "{registry} denies access: the repository does not exist or needs credentials (401 Unauthorized)"
            )),
            _ => Failure::Final(format!("{registry} refuses the credentials (401 Unauthorized)")),
        };
        match error {
            E::UnauthorizedError { .. } => denied(),
            E::AuthenticationFailure(reason) => {
                Failure::Final(format!("{registry} refuses authentication: {}", short(&reason)))
            }
            E::RegistryError { envelope, .. } => {
                let said: Vec<&str> = envelope.errors.iter().map(|e| e.message.as_str()).collect();
                let said = short(&said.join("; "));
                match envelope.errors.first().map(|e| &e.code) {
                    Some(
                        OciErrorCode::ManifestUnknown
                        | OciErrorCode::NameUnknown
                        | OciErrorCode::NotFound
                        | OciErrorCode::BlobUnknown
                        | OciErrorCode::ManifestBlobUnknown,
                    ) => Failure::Final(format!("not found in {registry}: {said}")),
                    Some(OciErrorCode::Unauthorized | OciErrorCode::Denied) => denied(),
                    Some(OciErrorCode::Toomanyrequests) => {
                        Failure::Passing(format!("{registry} limits the rate of requests: {said}"))
                    }
                    _ => Failure::Final(format!("{registry} answers: {said}")),
                }
            }
            E::ServerError { code: 404, .. } => Failure::Final(format!("not found in {registry}")),
            E::ServerError { code: 403, .. } => Failure::Final(format!("{registry} forbids access")),
            E::ServerError { code, message, .. } => {
                let text = format!("{registry} answers with status {code} {}", short(&message));
                if code >= 500 || code == 429 || code == 408 {
                    Failure::Passing(text.trim_end().to_string())
                } else {
                    Failure::Final(text.trim_end().to_string())
                }
            }
            E::DigestError(e) => Failure::Final(format!("bad digest: {e}")),
            E::RequestError(e) if e.is_connect() => {
                Failure::Passing(format!("cannot connect to {registry}: {}", chain(&e)))
            }
            E::RequestError(e) => Failure::Passing(format!("request to {registry} failed: {}", chain(&e))),
            E::IoError(e) => Failure::Passing(format!("request to {registry} failed: {e}")),
            other => Failure::Final(format!("{registry}: {}", chain(&other))),
        }
    }
}

/// An error with its causes, each said once.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        next = cause.source();
    }
    text
}

/// A stranger's words, short enough for a pod's status.
fn short(text: &str) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(200) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_machine_and_configured_registries_are_spoken_to_without_tls() {
        let registries = Registries::new(vec!["registry.lan:5000".into()]);
        for plain in
            ["localhost", "localhost:5000", "127.0.0.1:5000", "127.8.9.1", "[::1]:5000", "registry.lan:5000"]
        {
            assert!(registries.is_plain(plain), "{plain}");
        }
        for tls in ["docker.io", "128.0.0.1:5000", "localhost.example.com", "registry.lan", "[::2]:5000"] {
            assert!(!registries.is_plain(tls), "{tls}");
        }
    }

    #[test]
    fn credentials_have_a_client_of_their_own_that_ends_with_the_last_pull() {
        let registries = Registries::new(vec![]);
        let auth = |name: &str| Some(RegistryAuth { username: name.into(), password: "p".into() });
        let one = registries.client("localhost:1", auth("one")).unwrap();
        assert!(Arc::ptr_eq(&one, &registries.client("localhost:1", auth("one")).unwrap()));
        assert!(!Arc::ptr_eq(&one, &registries.client("localhost:1", auth("two")).unwrap()));
        assert!(!Arc::ptr_eq(&one, &registries.client("localhost:1", None).unwrap()));
        drop(one);
        let _other = registries.client("localhost:2", None).unwrap();
        assert_eq!(registries.clients.lock().len(), 1);
    }
}
