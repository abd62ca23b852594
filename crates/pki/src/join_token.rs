//! Join tokens: what a new machine is given so that it and the cluster can trust each other. A token is a bootstrap token
//! (Kubernetes documentation, "Authenticating with Bootstrap Tokens") followed by the pin of the cluster's authority:
//! `ID.SECRET.PIN`. The cluster keeps a hash of the secret only. What a token allows is decided elsewhere.

use crate::{Error, tls};
use rustls::pki_types::{CertificateDer, pem::PemObject};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::{fmt, fmt::Write as _, str::FromStr};

const ID: usize = 6;
const SECRET: usize = 16;
const PIN: usize = 64;
const ALPHABET: &[u8; 36] = b"abcdefghijklmnopqrstuvwxyz0123456789";

/// The type of the Secrets that tokens are kept in.
pub const SECRET_TYPE: &str = "bootstrap.kubernetes.io/token";
/// Those who come with a token for new nodes.
const GROUP: &str = "system:bootstrappers:orlop:nodes";

/// A token with the pin of the authority that made it.
#[derive(Clone, PartialEq, Eq)]
pub struct JoinToken {
    /// Names the token: six characters, no secret.
    pub id: String,
    secret: String,
    /// SHA-256 of the public key of the cluster's authority, in hexadecimal.
    pub pin: String,
}

impl JoinToken {
    /// A new token. `random` are bytes that nobody can guess.
    pub fn new(random: &[u8; 64], pin: String) -> Self {
        // Bytes from 252 on would make the first letters likelier than the others.
        let mut letters =
            random.iter().filter(|b| **b < 252).map(|b| char::from(ALPHABET[usize::from(b % 36)]));
        let mut take = |n: usize| -> String { letters.by_ref().take(n).collect() };
        Self { id: take(ID), secret: take(SECRET), pin }
    }

    /// A new token that nobody can guess.
    pub fn generate(pin: String) -> Result<Self, Error> {
        let mut random = [0; 64];
        let source = tls::provider().secure_random;
        source.fill(&mut random).map_err(|e| Error::Token(format!("no random bytes: {e:?}")))?;
        Ok(Self::new(&random, pin))
    }

    /// The Secret by which the cluster knows the token. `expiration` is a time of RFC 3339; without one it never ends.
    pub fn secret_object(&self, description: &str, expiration: Option<&str>) -> Value {
        let mut data = json!({
            "token-id": self.id,
            "token-hash": self.hash(),
            "usage-bootstrap-authentication": "true",
            "auth-extra-groups": GROUP,
            "description": description,
        });
        if let Some(expiration) = expiration {
            data["expiration"] = json!(expiration);
        }
        json!({
            "apiVersion": "v1", "kind": "Secret", "type": SECRET_TYPE,
            "metadata": {"name": format!("bootstrap-token-{}", self.id), "namespace": "kube-system"},
            "stringData": data,
        })
    }

    /// What is shown to the API server: `ID.SECRET`.
    pub fn bearer(&self) -> String {
        format!("{}.{}", self.id, self.secret)
    }

    /// What the cluster keeps.
    pub fn hash(&self) -> String {
        secret_hash(&self.secret)
    }
}

/// The hash of a token's secret, as the cluster keeps it. The secret is random and long enough to need no salt.
pub fn secret_hash(secret: &str) -> String {
    hex(&Sha256::digest(secret))
}

/// The pin of an authority (PEM): the hash of its public key, so that a renewed certificate of the same key has the same.
pub fn pin(authority: &str) -> Result<String, Error> {
    let failed = |why: String| Error::certificate("reading the authority's certificate", why);
    let der = CertificateDer::from_pem_slice(authority.as_bytes()).map_err(|e| failed(e.to_string()))?;
    let (_, parsed) = x509_parser::parse_x509_certificate(&der).map_err(|e| failed(e.to_string()))?;
    Ok(hex(&Sha256::digest(parsed.public_key().raw)))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut out, byte| {
        // Writing into a String cannot fail.
        let _ = write!(out, "{byte:02x}");
        out
    })
}

impl FromStr for JoinToken {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let wrong = || {
            Error::Token("a join token looks like ID.SECRET.PIN, as `orlop token create` prints it".into())
        };
        let mut parts = text.trim().split('.');
        let mut part = |length: usize, allowed: fn(&u8) -> bool| {
            parts.next().filter(|p| p.len() == length && p.as_bytes().iter().all(allowed)).ok_or_else(wrong)
        };
        let plain = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        let hexadecimal = |b: &u8| b.is_ascii_digit() || (b'a'..=b'f').contains(b);
        let token = Self {
            id: part(ID, plain)?.into(),
            secret: part(SECRET, plain)?.into(),
            pin: part(PIN, hexadecimal)?.into(),
        };
        parts.next().map_or(Ok(token), |_| Err(wrong()))
    }
}

impl fmt::Display for JoinToken {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}.{}.{}", self.id, self.secret, self.pin)
    }
}

/// Its secret is not for logs.
impl fmt::Debug for JoinToken {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "JoinToken({})", self.id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Authority;

    fn random() -> [u8; 64] {
        std::array::from_fn(|i| (i * 37 % 256) as u8)
    }

    #[test]
    fn a_token_is_read_as_it_was_printed() {
        let token = JoinToken::new(&random(), "ab".repeat(32));
        let read: JoinToken = token.to_string().parse().expect("a token");
        assert_eq!(read, token);
        assert_eq!(token.bearer().len(), 23);
        assert_eq!(token.hash(), secret_hash(&token.bearer()[7..]));
        assert!(!format!("{token:?}").contains(&token.bearer()[7..]), "the secret is not for logs");
    }

    #[test]
    fn the_cluster_keeps_no_secret() {
        let token = JoinToken::generate("ab".repeat(32)).expect("a token");
        assert_ne!(token, JoinToken::generate("ab".repeat(32)).expect("another"));
        let kept = token.secret_object("for a test", Some("2026-01-01T00:00:00Z"));
        assert!(!kept.to_string().contains(&token.bearer()[7..]), "{kept}");
        assert_eq!(kept["stringData"]["token-hash"], token.hash());
    }

    #[test]
    fn what_is_no_token_is_refused_with_how_one_looks() {
        let pin = "ab".repeat(32);
        for text in [
            String::new(),
            "abcdef.0123456789abcdef".into(),
            format!("abcde.0123456789abcdef.{pin}"),
            format!("abcdef.0123456789ABCDEF.{pin}"),
            format!("abcdef.0123456789abcdef.{pin}.x"),
            format!("abcdef.0123456789abcdef.{}", "xy".repeat(32)),
        ] {
            let error = text.parse::<JoinToken>().expect_err("refused").to_string();
            assert!(error.contains("ID.SECRET.PIN"), "{error}");
        }
    }

    #[test]
    fn the_pin_is_that_of_the_authoritys_key() {
        let (a, b) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
        let of = |dir: &tempfile::TempDir, now| {
            pin(Authority::open_or_create(dir.path(), now).expect("made").certificate()).expect("a pin")
        };
        assert_eq!(of(&a, 1_790_000_000), of(&a, 1_790_000_000));
        assert_ne!(of(&a, 1_790_000_000), of(&b, 1_790_000_000));
        assert!(pin("nothing").is_err());
    }
}
