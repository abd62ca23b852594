//! Who is asking: the certificate of the connection, else a bearer token, else nobody we know.
//!
//! A service-account token is verified once; afterwards it is known by its hash for a while, and each use only looks whether
//! what it is bound to is still there.

use super::{AUTHENTICATED, Identity, bootstrap_token, removed_node};
use crate::{
    Config,
    cache::object::Object,
    pipeline::Peer,
    registry::{Registry, metadata},
};
use base64::{Engine, prelude::BASE64_STANDARD};
use http::{HeaderMap, header};
use orlop_api::{Status, object::text};
use orlop_pki::{
    Claims, ObjectRef, ServiceAccountKey,
    token::{LegacyClaims, Token},
};
use parking_lot::Mutex;
use sha2::{Digest, Sha256};
use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

/// Seconds that a verified token is known by its hash.
const KNOWN_SECONDS: i64 = 600;
/// How many tokens are known at most.
const KNOWN_TOKENS: usize = 10_000;
/// Seconds that a token outlives the end of what it is bound to: clocks differ, and a pod says goodbye.
const LEEWAY_SECONDS: i64 = 60;

/// Tells identities.
pub(crate) struct Authenticator {
    tokens: Option<Arc<ServiceAccountKey>>,
    issuer: String,
    registry: Arc<Registry>,
    known: Mutex<HashMap<[u8; 32], Arc<Known>>>,
}

/// A service-account token whose signature was found right.
struct Known {
    who: Arc<Identity>,
    audiences: Vec<String>,
    /// When it is no longer valid, or no longer known.
    until: i64,
    bound: Vec<Bound>,
}

/// An object without which a token is worth nothing.
struct Bound {
    plural: &'static str,
    namespace: String,
    object: ObjectRef,
    /// What the object must hold besides, under `data.token`: legacy tokens only.
    token: Option<String>,
    /// The object as it was when it was last found right.
    seen: Mutex<Option<Arc<Object>>>,
}

impl Bound {
    fn new(plural: &'static str, namespace: &str, object: &ObjectRef) -> Self {
        let (namespace, object) = (namespace.to_string(), object.clone());
        Self { plural, namespace, object, token: None, seen: Mutex::default() }
    }

    /// The object must still be there, be the same, and not be long on its way out.
    fn check(&self, registry: &Registry, now: i64) -> Result<(), String> {
        let resource = registry.find("", "v1", self.plural).ok_or("its kind is not served")?;
        let object = resource.get(&self.namespace, &self.object.name).map_err(|s| s.message)?;
        if self.seen.lock().as_ref().is_some_and(|seen| Arc::ptr_eq(seen, &object)) {
            return Ok(());
        }
        let value = object.value();
        let (plural, name) = (self.plural, &self.object.name);
        if !self.object.uid.is_empty() && metadata::text(&value, "uid") != self.object.uid {
            return Err(format!("{plural} {name:?} is another one now"));
        }
        if let Some(token) = &self.token
            && BASE64_STANDARD.decode(text(&value, "/data/token")).unwrap_or_default() != token.as_bytes()
        {
            return Err("Token does not match server's copy".into());
        }
        match metadata::text(&value, "deletionTimestamp") {
            "" => *self.seen.lock() = Some(object),
            at => {
                let gone =
                    at.parse::<jiff::Timestamp>().is_ok_and(|at| at.as_second() + LEEWAY_SECONDS < now);
                if gone {
                    return Err(format!("{plural} {name:?} has been deleted"));
                }
            }
        }
        Ok(())
    }
}

impl Authenticator {
    pub(crate) fn new(config: &Config, registry: Arc<Registry>) -> Self {
        Self {
            tokens: config.tokens.clone(),
            issuer: config.issuer.clone(),
            registry,
            known: Mutex::default(),
        }
    }

    /// The identity of a request. A bad token is an error; no token is anonymous.
    pub(crate) fn identify(&self, peer: &Peer, headers: &HeaderMap) -> Result<Arc<Identity>, Status> {
        match peer {
            Peer::InProcess(who) | Peer::Certificate(who) => Ok(who.clone()),
            Peer::Node(node) if removed_node::is_refused(&self.registry, node) => {
                Err(removed_node::refusal(&node.name))
            }
            Peer::Node(node) => Ok(node.who.clone()),
            Peer::Stranger => {
                let Some(value) = headers.get(header::AUTHORIZATION) else {
                    return Ok(Arc::new(Identity::anonymous()));
                };
                let text = value.to_str().map_err(|_| Status::unauthorized())?;
                match text.split_once(' ') {
                    Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => {
                        let audiences = std::slice::from_ref(&self.issuer);
                        let (who, _) = self.verify(token.trim(), audiences).map_err(|why| {
                            tracing::debug!(%why, "a token was refused");
                            Status::unauthorized()
                        })?;
                        Ok(who)
                    }
                    _ => Ok(Arc::new(Identity::anonymous())),
                }
            }
        }
    }

    /// Whom a token stands for, and which of `audiences` it is meant for; it must be one of them.
    pub(crate) fn verify(
        &self,
        token: &str,
        audiences: &[String],
    ) -> Result<(Arc<Identity>, Vec<String>), String> {
        let now = self.registry.now();
        if let Some((id, secret)) = bootstrap_token::split(token) {
            if !audiences.contains(&self.issuer) {
                return Err("a bootstrap token is for the API server alone".into());
            }
            return Ok((Arc::new(self.bootstrap((id, secret), now)?), vec![self.issuer.clone()]));
        }
        let hash: [u8; 32] = Sha256::digest(token).into();
        let known = self.known.lock().get(&hash).filter(|k| now.as_second() < k.until).cloned();
        let known = match known {
            Some(known) => known,
            None => self.read(token, now.as_second()).map(Arc::new)?,
        };
        let meant: Vec<String> = audiences.iter().filter(|a| known.audiences.contains(a)).cloned().collect();
        if meant.is_empty() {
            return Err(format!(
                "token audiences {:?} is invalid for the target audiences {audiences:?}",
                known.audiences
            ));
        }
        for bound in &known.bound {
            if let Err(why) = bound.check(&self.registry, now.as_second()) {
                self.known.lock().remove(&hash);
                return Err(why);
            }
        }
        self.keep(hash, &known, now.as_second());
        Ok((known.who.clone(), meant))
    }

    fn keep(&self, hash: [u8; 32], known: &Arc<Known>, now: i64) {
        let mut all = self.known.lock();
        if all.contains_key(&hash) {
            return;
        }
        if all.len() >= KNOWN_TOKENS {
            all.retain(|_, known| now < known.until);
        }
        if all.len() < KNOWN_TOKENS {
            all.insert(hash, known.clone());
        }
    }

    fn bootstrap(&self, token: (&str, &str), now: jiff::Timestamp) -> Result<Identity, String> {
        let secrets = self.registry.find("", "v1", "secrets").ok_or("Secrets are not served")?;
        let name = bootstrap_token::secret_name(token.0);
        let secret = secrets.get("kube-system", &name).map_err(|s| s.message)?.value();
        bootstrap_token::identity(&secret, token, now)
    }

    /// Reads a service-account token and checks its signature and times.
    fn read(&self, token: &str, now: i64) -> Result<Known, String> {
        let key = self.tokens.as_ref().ok_or("this server knows no tokens")?;
        let until = now + KNOWN_SECONDS;
        match key.read(token, &self.issuer, now).map_err(|e| e.to_string())? {
            Token::Bound(claims) => {
                if claims.kubernetes.warnafter.is_some_and(|after| now > after) {
                    tracing::warn!(user = claims.sub, "a token is in use that should have been renewed");
                }
                Ok(Known {
                    who: Arc::new(identity(&claims)),
                    bound: bound(&claims),
                    until: until.min(claims.exp),
                    audiences: claims.aud,
                })
            }
            Token::Legacy(claims) => Ok(Known {
                who: Arc::new(account(&claims.namespace, &claims.account_name, &claims.account_uid)),
                bound: legacy_bound(&claims, token),
                until,
                audiences: vec![self.issuer.clone()],
            }),
        }
    }
}

fn bound(claims: &Claims) -> Vec<Bound> {
    let claims = &claims.kubernetes;
    let namespace = claims.namespace.as_str();
    let mut all = vec![Bound::new("serviceaccounts", namespace, &claims.serviceaccount)];
    all.extend(claims.secret.as_ref().map(|secret| Bound::new("secrets", namespace, secret)));
    match (&claims.pod, &claims.node) {
        // The node of a pod only says where the pod ran.
        (Some(pod), _) => all.push(Bound::new("pods", namespace, pod)),
        (None, Some(node)) => all.push(Bound::new("nodes", "", node)),
        (None, None) => {}
    }
    all
}

fn legacy_bound(claims: &LegacyClaims, token: &str) -> Vec<Bound> {
    let named = |name: &str, uid: &str| ObjectRef { name: name.into(), uid: uid.into() };
    let account = named(&claims.account_name, &claims.account_uid);
    let secret = Bound::new("secrets", &claims.namespace, &named(&claims.secret_name, ""));
    vec![
        Bound::new("serviceaccounts", &claims.namespace, &account),
        Bound { token: Some(token.to_string()), ..secret },
    ]
}

/// The identity of a service account.
fn account(namespace: &str, name: &str, uid: &str) -> Identity {
    Identity {
        user: format!("system:serviceaccount:{namespace}:{name}"),
        uid: uid.to_string(),
        groups: vec![
            "system:serviceaccounts".into(),
            format!("system:serviceaccounts:{namespace}"),
            AUTHENTICATED.into(),
        ],
        extra: BTreeMap::new(),
        fence: None,
    }
}

fn identity(claims: &Claims) -> Identity {
    let bound = &claims.kubernetes;
    let mut who = account(&bound.namespace, &bound.serviceaccount.name, &bound.serviceaccount.uid);
    let mut tell = |key: &str, value: String| {
        who.extra.insert(format!("authentication.kubernetes.io/{key}"), vec![value]);
    };
    tell("credential-id", format!("JTI={}", claims.jti));
    if let Some(pod) = &bound.pod {
        tell("pod-name", pod.name.clone());
        tell("pod-uid", pod.uid.clone());
    }
    if let Some(node) = &bound.node {
        tell("node-name", node.name.clone());
        tell("node-uid", node.uid.clone());
    }
    who
}
