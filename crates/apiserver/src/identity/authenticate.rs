//! Who is asking: the certificate of the connection, else a service-account token, else nobody we know.

use super::{AUTHENTICATED, Identity};
use crate::{
    Config,
    pipeline::Peer,
    registry::{Registry, metadata},
};
use http::{HeaderMap, header};
use orlop_api::Status;
use orlop_pki::{Claims, ObjectRef, ServiceAccountKey};
use std::{collections::BTreeMap, sync::Arc};

/// Tells identities.
pub(crate) struct Authenticator {
    tokens: Option<Arc<ServiceAccountKey>>,
    issuer: String,
    registry: Arc<Registry>,
}

impl Authenticator {
    pub(crate) fn new(config: &Config, registry: Arc<Registry>) -> Self {
        Self { tokens: config.tokens.clone(), issuer: config.issuer.clone(), registry }
    }

    /// The identity of a request. A bad token is an error; no token is anonymous.
    pub(crate) fn identify(&self, peer: &Peer, headers: &HeaderMap) -> Result<Arc<Identity>, Status> {
        match peer {
            Peer::InProcess(who) | Peer::Certificate(who) => Ok(who.clone()),
            Peer::Stranger => {
                let Some(value) = headers.get(header::AUTHORIZATION) else {
                    return Ok(Arc::new(Identity::anonymous()));
                };
                let text = value.to_str().map_err(|_| Status::unauthorized())?;
                match text.split_once(' ') {
                    Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => {
                        let audiences = [self.issuer.clone()];
                        let (who, _) = self.verify(token.trim(), &audiences).map_err(|why| {
                            tracing::debug!(%why, "a token was refused");
                            Status::unauthorized()
                        })?;
                        Ok(Arc::new(who))
                    }
                    _ => Ok(Arc::new(Identity::anonymous())),
                }
            }
        }
    }

    /// Whom a service-account token stands for, and its audiences; it must be meant for one of `audiences`.
    pub(crate) fn verify(
        &self,
        token: &str,
        audiences: &[String],
    ) -> Result<(Identity, Vec<String>), String> {
        let key = self.tokens.as_ref().ok_or("this server knows no tokens")?;
        let now = self.registry.now().as_second();
        let claims = key.verify(token, &self.issuer, audiences, now).map_err(|e| e.to_string())?;
        self.check_bound(&claims)?;
        Ok((identity(&claims), claims.aud))
    }

    /// What the token is bound to must still be there, and be the same.
    fn check_bound(&self, claims: &Claims) -> Result<(), String> {
        let bound = &claims.kubernetes;
        self.check_object("serviceaccounts", &bound.namespace, &bound.serviceaccount)?;
        if let Some(pod) = &bound.pod {
            self.check_object("pods", &bound.namespace, pod)?;
        }
        if let Some(secret) = &bound.secret {
            self.check_object("secrets", &bound.namespace, secret)?;
        }
        Ok(())
    }

    fn check_object(&self, plural: &str, namespace: &str, wanted: &ObjectRef) -> Result<(), String> {
        let resource = self.registry.find("", "v1", plural).ok_or("its kind is not served")?;
        let object = resource.get(namespace, &wanted.name).map_err(|s| s.message)?;
        let value = object.value();
        if metadata::text(&value, "uid") != wanted.uid {
            return Err(format!("{plural} {:?} is another one now", wanted.name));
        }
        Ok(())
    }
}

fn identity(claims: &Claims) -> Identity {
    let bound = &claims.kubernetes;
    let mut extra = BTreeMap::new();
    extra.insert(
        "authentication.kubernetes.io/credential-id".to_string(),
        vec![format!("JTI={}", claims.jti)],
    );
    if let Some(pod) = &bound.pod {
        extra.insert("authentication.kubernetes.io/pod-name".into(), vec![pod.name.clone()]);
        extra.insert("authentication.kubernetes.io/pod-uid".into(), vec![pod.uid.clone()]);
    }
    if let Some(node) = &bound.node {
        extra.insert("authentication.kubernetes.io/node-name".into(), vec![node.name.clone()]);
        extra.insert("authentication.kubernetes.io/node-uid".into(), vec![node.uid.clone()]);
    }
    Identity {
        user: format!("system:serviceaccount:{}:{}", bound.namespace, bound.serviceaccount.name),
        uid: bound.serviceaccount.uid.clone(),
        groups: vec![
            "system:serviceaccounts".into(),
            format!("system:serviceaccounts:{}", bound.namespace),
            AUTHENTICATED.into(),
        ],
        extra,
    }
}
