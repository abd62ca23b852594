//! How a machine becomes a member: it fetches the cluster's authority without trust, compares it with the token's pin, and from
//! then on speaks with nobody else; it gets its certificates by signing requests (Kubernetes documentation, "TLS bootstrapping").
//! Nothing is written to disk here.

use crate::{Error, cluster_layout};
use http::Uri;
use k8s_openapi::api::{
    certificates::v1::{
        CertificateSigningRequest as Request, CertificateSigningRequestSpec, CertificateSigningRequestStatus,
    },
    core::v1::{ConfigMap, Secret},
};
use kube::{
    Api, Client,
    api::{ObjectMeta, PostParams},
};
use orlop_client::remote;
use orlop_pki::{Credential, JoinToken, join_token, signing_request, tls};
use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};
use tokio::time::{Instant, sleep};

const NODE_CLIENT: &str = "kubernetes.io/kube-apiserver-client-kubelet";
const NODE_SERVING: &str = "kubernetes.io/kubelet-serving";
const GROUP: &str = "system:nodes";
/// What the server says to a node that was removed, among other words.
const REMOVED: &str = "was removed from the cluster";
/// How long a certificate is waited for before the request is made anew.
const PATIENCE: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_millis(20);
const RETRY: Duration = Duration::from_secs(1);

/// Why something was not given.
#[derive(Debug)]
pub(crate) enum Refusal {
    /// It may be given later: the server cannot be reached, or is busy.
    Later(String),
    /// It will never be given like this.
    Never(String),
}

impl Refusal {
    pub(crate) fn of(error: &kube::Error) -> Self {
        match error {
            kube::Error::Api(status) if status.code == 401 => Self::Never(removal(error).unwrap_or_else(|| {
                "the token is wrong, has expired or was revoked: make a new one on the server with `orlop token create`".into()
            })),
            kube::Error::Api(status) if matches!(status.code, 400 | 403 | 404 | 422) => {
                Self::Never(status.message.clone())
            }
            other => {
                let why = in_words(other);
                if why.contains("invalid peer certificate") {
                    return Self::Never(format!(
                        "the server's certificate does not fit: {why}. Use an address that it is for, or start the server with --tls-san"
                    ));
                }
                Self::Later(why)
            }
        }
    }
}

/// What the server says of a node whose certificate it takes no more, because the node was removed.
pub(crate) fn removal(error: &kube::Error) -> Option<String> {
    match error {
        kube::Error::Api(status) if status.code == 401 && status.message.contains(REMOVED) => {
            Some(status.message.clone())
        }
        _ => None,
    }
}

/// An error with its causes, each said once.
pub(crate) fn in_words(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let said = cause.to_string();
        if !text.contains(&said) {
            text = format!("{text}: {said}");
        }
        next = cause.source();
    }
    text
}

/// Tries something until it works or never will; says at most twice a minute why it does not.
pub(crate) async fn persist<T, F>(what: &str, attempt: impl Fn() -> F) -> Result<T, Error>
where
    F: Future<Output = Result<T, Refusal>>,
{
    let mut said: Option<(String, Instant)> = None;
    loop {
        match attempt().await {
            Ok(done) => return Ok(done),
            Err(Refusal::Never(why)) => return Err(Error::Configuration(format!("{what}: {why}"))),
            Err(Refusal::Later(why)) => {
                let again = said
                    .as_ref()
                    .is_none_or(|(before, at)| *before != why || at.elapsed() > Duration::from_secs(30));
                if again {
                    eprintln!("orlop: {what}: {why}; trying again");
                    said = Some((why, Instant::now()));
                }
            }
        }
        sleep(RETRY).await;
    }
}

/// The cluster's authority (PEM), as the server tells it and the token's pin proves it.
pub(crate) async fn authority(url: &Uri, token: &JoinToken) -> Result<String, Refusal> {
    let never = |e: orlop_pki::Error| Refusal::Never(in_words(&e));
    let trusting = tls::trusting_client_config(&[]).map_err(never)?;
    let client = remote::connect(url, &trusting, None);
    let info = Api::<ConfigMap>::namespaced(client, "kube-public").get("cluster-info").await;
    let info = info.map_err(|e| match &e {
        kube::Error::Api(status) if matches!(status.code, 401 | 403 | 404) => Refusal::Never(format!(
            "what answers at {url} is no Orlop server that can be joined: {}",
            status.message
        )),
        _ => Refusal::of(&e),
    })?;
    let wrong = || Refusal::Never(format!("what {url} tells of its cluster cannot be read"));
    let text = info.data.and_then(|mut d| d.remove("kubeconfig")).ok_or_else(wrong)?;
    let kubeconfig = kube::config::Kubeconfig::from_yaml(&text).map_err(|_| wrong())?;
    let cluster = kubeconfig.clusters.into_iter().next().and_then(|c| c.cluster).ok_or_else(wrong)?;
    let data = cluster.certificate_authority_data.ok_or_else(wrong)?;
    let config = serde_json::from_value::<k8s_openapi::ByteString>(data.into()).map_err(|_| wrong())?;
    let authority = String::from_utf8(config.0).map_err(|_| wrong())?;
    let pin = join_token::pin(&authority).map_err(|_| wrong())?;
    if pin != token.pin {
        return Err(Refusal::Never(format!(
            "the server at {url} is not of the cluster that the token is for: its authority is {pin}, the token's {}. Check --server \
             and --token",
            token.pin
        )));
    }
    Ok(authority)
}

/// Asks for a client certificate for a node.
pub(crate) async fn client_certificate(client: Client, node: &str) -> Result<Credential, Refusal> {
    certificate(client, node, NODE_CLIENT, "client auth", &[], &[]).await
}

/// Asks for a certificate that a node serves with.
pub(crate) async fn serving_certificate(
    client: Client,
    node: &str,
    addresses: &[IpAddr],
) -> Result<Credential, Refusal> {
    certificate(client, node, NODE_SERVING, "server auth", &[node.to_string()], addresses).await
}

async fn certificate(
    client: Client,
    node: &str,
    signer: &str,
    usage: &str,
    names: &[String],
    addresses: &[IpAddr],
) -> Result<Credential, Refusal> {
    let never = |e: orlop_pki::Error| Refusal::Never(in_words(&e));
    let user = format!("system:node:{node}");
    let (request, key) = signing_request::make(&user, GROUP, names, addresses).map_err(never)?;
    let request = Request {
        metadata: ObjectMeta { generate_name: Some("node-csr-".into()), ..ObjectMeta::default() },
        spec: CertificateSigningRequestSpec {
            request: k8s_openapi::ByteString(request.into_bytes()),
            signer_name: signer.into(),
            usages: Some(vec!["digital signature".into(), usage.into()]),
            ..CertificateSigningRequestSpec::default()
        },
        status: None,
    };
    let api = Api::<Request>::all(client);
    let made = api.create(&PostParams::default(), &request).await.map_err(|e| Refusal::of(&e))?;
    let name = made.metadata.name.unwrap_or_default();
    let begun = Instant::now();
    while begun.elapsed() < PATIENCE {
        let status = api.get(&name).await.map_err(|e| Refusal::of(&e))?.status;
        if let Some(outcome) = status.and_then(verdict) {
            let certificate = outcome?;
            return Ok(Credential { certificate, key });
        }
        sleep(LOOK).await;
    }
    Err(Refusal::Later(format!(
        "the request {name} is not granted yet: look at it on the server with `kubectl get csr`"
    )))
}

fn verdict(status: CertificateSigningRequestStatus) -> Option<Result<String, Refusal>> {
    let certificate = status.certificate.map(|bytes| String::from_utf8_lossy(&bytes.0).into_owned());
    if let Some(certificate) = certificate.filter(|text| !text.is_empty()) {
        return Some(Ok(certificate));
    }
    let no =
        status.conditions.into_iter().flatten().find(|c| matches!(c.type_.as_str(), "Denied" | "Failed"))?;
    Some(Err(Refusal::Never(no.message.or(no.reason).unwrap_or(no.type_))))
}

/// Reads how the cluster is laid out.
pub(crate) async fn cluster(client: Client) -> Result<cluster_layout::ClusterLayout, Refusal> {
    match cluster_layout::read(client).await {
        Ok(layout) => layout.map_err(|e| Refusal::Never(in_words(&e))),
        // A server that has only just begun publishes it in a moment.
        Err(kube::Error::Api(status)) if status.code == 404 => Err(Refusal::Later(status.message)),
        Err(error) => Err(Refusal::of(&error)),
    }
}

/// What is typed on a machine that is to join, with a new token that ends after a day. `None` if it could not be made.
pub(crate) async fn command(client: &Client, authority: &str, server: SocketAddr) -> Option<String> {
    let make = || {
        let token = JoinToken::generate(join_token::pin(authority)?)?;
        let end = jiff::Timestamp::now() + jiff::SignedDuration::from_hours(24);
        let end = end.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        Ok::<_, orlop_pki::Error>((
            token.secret_object("printed by the server at its start", Some(&end)),
            token,
        ))
    };
    let (secret, token) = make().inspect_err(|e| tracing::warn!(error = %e, "no join command")).ok()?;
    let secret: Secret = serde_json::from_value(secret).ok()?;
    let api = Api::<Secret>::namespaced(client.clone(), "kube-system");
    match api.create(&PostParams::default(), &secret).await {
        Ok(_) => Some(orlop_cli::join_command(&format!("https://{server}"), &token)),
        Err(error) => {
            tracing::warn!(%error, "no join command");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::certificates::v1::CertificateSigningRequestCondition as Condition;

    #[test]
    fn a_request_is_waited_for_until_somebody_decides() {
        assert!(verdict(CertificateSigningRequestStatus::default()).is_none());
        let approved = CertificateSigningRequestStatus {
            certificate: Some(k8s_openapi::ByteString(b"PEM".to_vec())),
            ..CertificateSigningRequestStatus::default()
        };
        assert!(matches!(verdict(approved), Some(Ok(pem)) if pem == "PEM"));
        let denied = CertificateSigningRequestStatus {
            conditions: Some(vec![Condition {
                type_: "Denied".into(),
                message: Some("the name is taken".into()),
                ..Condition::default()
            }]),
            ..CertificateSigningRequestStatus::default()
        };
        assert!(matches!(verdict(denied), Some(Err(Refusal::Never(why))) if why == "the name is taken"));
    }

    #[test]
    fn a_refused_token_is_not_tried_again_and_a_busy_server_is() {
        let status = |code: u16| {
            let mut status = kube::core::Status::failure("why", "reason");
            status.code = code;
            kube::Error::Api(status.boxed())
        };
        assert!(
            matches!(Refusal::of(&status(401)), Refusal::Never(why) if why.contains("orlop token create"))
        );
        assert!(matches!(Refusal::of(&status(403)), Refusal::Never(_)));
        assert!(matches!(Refusal::of(&status(503)), Refusal::Later(_)));
    }
}
