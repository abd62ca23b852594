//! Service-account tokens: JWTs (RFC 7519) signed with ES256, with the claims that Kubernetes gives them
//! (documentation, "Managing Service Accounts", "Bound service account tokens").

use crate::{Error, files};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use rcgen::KeyPair;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::path::Path;

/// A named object with its uid.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObjectRef {
    /// Its name.
    pub name: String,
    /// Its uid.
    #[serde(default)]
    pub uid: String,
}

/// The private claim `kubernetes.io`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KubernetesClaims {
    /// Namespace of the service account.
    pub namespace: String,
    /// The service account.
    pub serviceaccount: ObjectRef,
    /// The pod that the token is bound to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<ObjectRef>,
    /// The node of that pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<ObjectRef>,
    /// The secret that the token is bound to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<ObjectRef>,
    /// When a new one should have taken its place: it lives on for those who do not read it anew.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warnafter: Option<i64>,
}

/// The issuer of tokens that stand in Secrets.
const LEGACY_ISSUER: &str = "kubernetes/serviceaccount";

/// The claims of a token that stands in a Secret and has no end (Kubernetes documentation, "Managing Service Accounts",
/// "Long-lived API tokens").
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LegacyClaims {
    /// `kubernetes/serviceaccount`.
    pub iss: String,
    /// `system:serviceaccount:NAMESPACE:NAME`.
    pub sub: String,
    /// Namespace of the service account and of the Secret.
    #[serde(rename = "kubernetes.io/serviceaccount/namespace")]
    pub namespace: String,
    /// The Secret.
    #[serde(rename = "kubernetes.io/serviceaccount/secret.name")]
    pub secret_name: String,
    /// The service account.
    #[serde(rename = "kubernetes.io/serviceaccount/service-account.name")]
    pub account_name: String,
    /// Its uid.
    #[serde(rename = "kubernetes.io/serviceaccount/service-account.uid")]
    pub account_uid: String,
}

impl LegacyClaims {
    /// The claims of the token in a Secret.
    pub fn new(namespace: &str, secret_name: &str, account: &ObjectRef) -> Self {
        Self {
            iss: LEGACY_ISSUER.into(),
            sub: format!("system:serviceaccount:{namespace}:{}", account.name),
            namespace: namespace.into(),
            secret_name: secret_name.into(),
            account_name: account.name.clone(),
            account_uid: account.uid.clone(),
        }
    }
}

/// A token that was signed by the key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Token {
    /// With an end, for an audience.
    Bound(Box<Claims>),
    /// One that stands in a Secret.
    Legacy(LegacyClaims),
}

/// The claims of a service-account token. Times are seconds since the epoch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    /// Whom it is for.
    pub aud: Vec<String>,
    /// When it ends.
    pub exp: i64,
    /// When it was made.
    pub iat: i64,
    /// When it starts.
    pub nbf: i64,
    /// Who made it.
    pub iss: String,
    /// Its own id.
    pub jti: String,
    /// `system:serviceaccount:NAMESPACE:NAME`.
    pub sub: String,
    /// What Kubernetes adds.
    #[serde(rename = "kubernetes.io")]
    pub kubernetes: KubernetesClaims,
}

/// The key that signs and checks service-account tokens.
pub struct ServiceAccountKey {
    encoding: EncodingKey,
    decoding: DecodingKey,
    id: String,
    /// The uncompressed point without its first byte: x and y.
    point: Vec<u8>,
}

impl ServiceAccountKey {
    /// Reads `sa.key` in `dir`, or makes it.
    pub fn open_or_create(dir: &Path) -> Result<Self, Error> {
        files::private_dir(dir)?;
        let path = dir.join("sa.key");
        let key = match files::read(&path)? {
            Some(pem) => KeyPair::from_pem(&pem).map_err(|e| Error::certificate("reading sa.key", e))?,
            None => {
                let key = KeyPair::generate().map_err(|e| Error::certificate("making sa.key", e))?;
                files::write_private(&path, &key.serialize_pem())?;
                key
            }
        };
        let token = |e: jsonwebtoken::errors::Error| Error::certificate("reading sa.key", e);
        let encoding = EncodingKey::from_ec_pem(key.serialize_pem().as_bytes()).map_err(token)?;
        let decoding = DecodingKey::from_ec_pem(key.public_key_pem().as_bytes()).map_err(token)?;
        let raw = key.public_key_raw();
        let id = BASE64_URL_SAFE_NO_PAD.encode(Sha256::digest(raw));
        Ok(Self { encoding, decoding, id, point: raw.get(1..).unwrap_or_default().to_vec() })
    }

    /// Signs claims.
    pub fn sign(&self, claims: &Claims) -> Result<String, Error> {
        self.sign_any(claims)
    }

    /// Signs the claims of a token that stands in a Secret.
    pub fn sign_legacy(&self, claims: &LegacyClaims) -> Result<String, Error> {
        self.sign_any(claims)
    }

    fn sign_any(&self, claims: &impl Serialize) -> Result<String, Error> {
        let mut header = Header::new(Algorithm::ES256);
        header.kid = Some(self.id.clone());
        header.typ = None;
        jsonwebtoken::encode(&header, claims, &self.encoding).map_err(|e| Error::Token(e.to_string()))
    }

    /// Checks signature, times and issuer. Whether the audience is right, and whether the objects that the token is bound to
    /// still exist, is for the caller to see. `now` is in seconds since the epoch.
    pub fn read(&self, token: &str, issuer: &str, now: i64) -> Result<Token, Error> {
        let mut validation = Validation::new(Algorithm::ES256);
        validation.set_issuer(&[issuer, LEGACY_ISSUER]);
        validation.validate_aud = false;
        // Times are checked here, by the clock that was handed in.
        validation.validate_exp = false;
        validation.set_required_spec_claims(&["iss", "sub"]);
        let wrong = |e: &dyn std::fmt::Display| Error::Token(e.to_string());
        let data = jsonwebtoken::decode::<serde_json::Value>(token, &self.decoding, &validation)
            .map_err(|e| wrong(&e))?;
        if data.claims.get("iss").is_some_and(|iss| iss == LEGACY_ISSUER) {
            return serde_json::from_value(data.claims).map(Token::Legacy).map_err(|e| wrong(&e));
        }
        let claims: Claims = serde_json::from_value(data.claims).map_err(|e| wrong(&e))?;
        if now >= claims.exp {
            return Err(Error::Token("service account token has expired".into()));
        }
        if now + 60 < claims.nbf {
            return Err(Error::Token("service account token is not valid yet".into()));
        }
        Ok(Token::Bound(Box::new(claims)))
    }

    /// The public key as a JSON Web Key Set (RFC 7517).
    pub fn jwks(&self) -> serde_json::Value {
        let (x, y) = self.point.split_at(self.point.len() / 2);
        serde_json::json!({"keys": [{
            "use": "sig", "kty": "EC", "crv": "P-256", "alg": "ES256", "kid": self.id,
            "x": BASE64_URL_SAFE_NO_PAD.encode(x), "y": BASE64_URL_SAFE_NO_PAD.encode(y),
        }]})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claims() -> Claims {
        Claims {
            aud: vec!["https://kubernetes.default.svc".into()],
            exp: 2000,
            iat: 1000,
            nbf: 1000,
            iss: "https://kubernetes.default.svc".into(),
            jti: "1".into(),
            sub: "system:serviceaccount:default:web".into(),
            kubernetes: KubernetesClaims {
                namespace: "default".into(),
                serviceaccount: ObjectRef { name: "web".into(), uid: "u".into() },
                pod: None,
                node: None,
                secret: None,
                warnafter: None,
            },
        }
    }

    #[test]
    fn a_token_is_accepted_only_in_its_time_and_unaltered() {
        let dir = tempfile::tempdir().expect("a folder");
        let key = ServiceAccountKey::open_or_create(dir.path()).expect("a key");
        let token = key.sign(&claims()).expect("signed");
        let issuer = "https://kubernetes.default.svc";
        // The same key after a restart.
        let key = ServiceAccountKey::open_or_create(dir.path()).expect("the key again");
        assert_eq!(key.read(&token, issuer, 1500).expect("valid"), Token::Bound(Box::new(claims())));
        assert!(key.read(&token, issuer, 2000).is_err(), "expired");
        assert!(key.read(&token, issuer, 10).is_err(), "not yet valid");
        assert!(key.read(&token, "other", 1500).is_err(), "another issuer");
        let mut forged = token.clone();
        forged.replace_range(token.len() - 4.., "AAAA");
        assert!(key.read(&forged, issuer, 1500).is_err(), "a forged signature");
        let other = tempfile::tempdir().expect("a folder");
        let stranger = ServiceAccountKey::open_or_create(other.path()).expect("a key");
        assert!(stranger.read(&token, issuer, 1500).is_err(), "another key");
    }

    #[test]
    fn a_token_in_a_secret_names_both() {
        let dir = tempfile::tempdir().expect("a folder");
        let key = ServiceAccountKey::open_or_create(dir.path()).expect("a key");
        let account = ObjectRef { name: "robot".into(), uid: "u".into() };
        let claims = LegacyClaims::new("n", "robot-token", &account);
        let token = key.sign_legacy(&claims).expect("signed");
        assert_eq!(key.read(&token, "https://issuer", 1).expect("valid"), Token::Legacy(claims));
    }
}
