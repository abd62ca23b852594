//! CertificateSigningRequests (Kubernetes documentation, "Certificates and Certificate Signing Requests"): those of nodes are
//! approved, what is approved is signed by the signers that Kubernetes brings, and old requests are removed.

mod rules;

use crate::Error;
use futures::future::BoxFuture;
use jiff::Timestamp;
use k8s_openapi::{
    api::{
        authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec},
        certificates::v1::{CertificateSigningRequest as Request, CertificateSigningRequestCondition},
        coordination::v1::Lease,
        core::v1::{Node, Service},
        discovery::v1::EndpointSlice,
    },
    apimachinery::pkg::apis::meta::v1::Time,
};
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, ListParams, PostParams},
};
use orlop_client::{Clock, Informer, Key, Queue, api_reason, run_workers};
use orlop_pki::{
    Authority,
    signing_request::{self, Subject},
};
use rules::{Signer, Verdict};
use std::{collections::BTreeMap, net::IpAddr, sync::Arc, time::Duration};

/// How often old requests are looked for.
const SWEEP: Duration = Duration::from_secs(600);
/// Certificates are valid so long at most.
const LONGEST: i64 = 365 * 24 * 3600;

/// Nodes that show a certificate that is over: they may ask for a new one, as long as they are in the cluster.
const EXPIRED_NODES: &str = "orlop.dev:expired-nodes";

struct Certificates {
    client: Client,
    clock: Clock,
    authority: Arc<Authority>,
    requests: Arc<Informer<Request>>,
}

/// Approves, signs and cleans up until dropped.
pub(crate) fn start(client: Client, clock: Clock, authority: Arc<Authority>) -> BoxFuture<'static, ()> {
    let requests = Arc::<Informer<Request>>::default();
    let queue = Queue::default();
    let on_change = queue.clone();
    requests.on_change(move |_, new| {
        if let Some(request) = new {
            on_change.add(Key::new("", request.name_any()));
        }
    });
    Box::pin(async move {
        let all = Api::all(client.clone());
        let this = Certificates { client, clock, authority, requests: requests.clone() };
        tokio::join!(
            requests.run(all),
            run_workers("certificates", queue, 1, |key: Key| this.reconcile(key)),
            this.sweep()
        );
    })
}

fn has(request: &Request, condition: &str) -> bool {
    let conditions = request.status.iter().flat_map(|s| s.conditions.iter().flatten());
    conditions.into_iter().any(|c| c.type_ == condition)
}

fn certificate(request: &Request) -> Option<String> {
    let bytes = &request.status.as_ref()?.certificate.as_ref()?.0;
    Some(String::from_utf8_lossy(bytes).into_owned()).filter(|text| !text.is_empty())
}

impl Certificates {
    fn now(&self) -> Timestamp {
        (self.clock)()
    }

    fn api(&self) -> Api<Request> {
        Api::all(self.client.clone())
    }

    async fn reconcile(&self, key: Key) -> Result<(), Error> {
        let Some(request) = self.requests.get("", &key.name) else { return Ok(()) };
        if certificate(&request).is_some() || has(&request, "Denied") || has(&request, "Failed") {
            return Ok(());
        }
        let Some(signer) = Signer::named(&request.spec.signer_name) else { return Ok(()) };
        let pem = String::from_utf8_lossy(&request.spec.request.0).into_owned();
        if has(&request, "Approved") {
            return self.sign(&request, signer, &pem).await;
        }
        let subject = signing_request::subject(&pem).map_err(|e| Error::Object(e.to_string()))?;
        if signer == Signer::NodeServing {
            return self.serving(&request, &subject).await;
        }
        if let Some(node) = rules::joining(signer, &request.spec, &subject)
            && let Some(seconds) = self.alive_since(node).await?
        {
            let why = format!(
                "node {node:?} is alive: it was heard of {seconds} s ago. Choose another name, or stop that node and remove it first"
            );
            return self.decide(&request, "Denied", "NameTaken", &why).await;
        }
        if signer == Signer::NodeClient
            && request.spec.groups.iter().flatten().any(|g| g == EXPIRED_NODES)
            && !self.is_registered(&subject).await?
        {
            let why = "the node was removed from the cluster: join it again with a new token";
            return self.decide(&request, "Denied", "NodeRemoved", why).await;
        }
        if let Some(right) = rules::auto_approval(signer, &request.spec, &subject)
            && self.may(&request, right).await?
        {
            self.approve(&request).await?;
        }
        Ok(())
    }

    /// Approves what a node serves with, if it is its own name and address. All else is left for a person to decide.
    async fn serving(&self, request: &Request, subject: &Subject) -> Result<(), Error> {
        if rules::check(Signer::NodeServing, &request.spec, subject) != Verdict::Right {
            return Ok(());
        }
        let listing = Error::at("listing what has addresses");
        let nodes = Api::<Node>::all(self.client.clone());
        let nodes = nodes.list(&ListParams::default()).await.map_err(&listing)?;
        let slices = Api::<EndpointSlice>::namespaced(self.client.clone(), "default");
        let of_api = ListParams::default().labels("kubernetes.io/service-name=kubernetes");
        let slices = slices.list(&of_api).await.map_err(&listing)?;
        let service = Api::<Service>::namespaced(self.client.clone(), "default");
        let service = service.get_opt("kubernetes").await.map_err(&listing)?;
        let own = subject.common_name.strip_prefix("system:node:");
        let of_nodes = nodes.items.into_iter().filter(|n| Some(n.name_any().as_str()) != own);
        let addresses = of_nodes
            .flat_map(|n| n.status.and_then(|s| s.addresses).unwrap_or_default())
            .map(|a| a.address)
            .chain(
                slices
                    .items
                    .into_iter()
                    .flat_map(|s| s.endpoints.unwrap_or_default())
                    .flat_map(|e| e.addresses),
            )
            .chain(service.and_then(|s| s.spec).and_then(|s| s.cluster_ips).unwrap_or_default());
        let others: Vec<IpAddr> = addresses.filter_map(|a| a.parse().ok()).collect();
        match rules::may_serve(&request.spec, subject, &others) {
            Ok(()) => self.approve(request).await,
            Err(why) => {
                tracing::warn!(
                    request = request.name_any(),
                    why,
                    "a serving certificate waits for a person's word"
                );
                Ok(())
            }
        }
    }

    /// Seconds since a node was last heard of, if it is alive.
    async fn alive_since(&self, node: &str) -> Result<Option<i64>, Error> {
        let leases = Api::<Lease>::namespaced(self.client.clone(), "kube-node-lease");
        let lease = leases.get_opt(node).await.map_err(Error::at("reading a node's lease"))?;
        Ok(lease.and_then(|l| l.spec).and_then(|spec| rules::alive_since(&spec, self.now())))
    }

    /// Whether the node of the certificate is in the cluster.
    async fn is_registered(&self, subject: &Subject) -> Result<bool, Error> {
        let Some(name) = subject.common_name.strip_prefix("system:node:") else { return Ok(false) };
        let node = Api::<Node>::all(self.client.clone()).get_opt(name).await;
        Ok(node.map_err(Error::at("reading a node"))?.is_some())
    }

    /// Whether the requestor may have node certificates without being asked.
    async fn may(&self, request: &Request, right: &str) -> Result<bool, Error> {
        let spec = &request.spec;
        let extra: Option<BTreeMap<String, Vec<String>>> = spec.extra.clone();
        let review = SubjectAccessReview {
            spec: SubjectAccessReviewSpec {
                user: spec.username.clone(),
                uid: spec.uid.clone(),
                groups: spec.groups.clone(),
                extra,
                resource_attributes: Some(ResourceAttributes {
                    group: Some("certificates.k8s.io".into()),
                    resource: Some("certificatesigningrequests".into()),
                    subresource: Some(right.into()),
                    verb: Some("create".into()),
                    ..ResourceAttributes::default()
                }),
                ..SubjectAccessReviewSpec::default()
            },
            ..SubjectAccessReview::default()
        };
        let answer = Api::<SubjectAccessReview>::all(self.client.clone())
            .create(&PostParams::default(), &review)
            .await
            .map_err(Error::at("asking what a requestor may do"))?;
        Ok(answer.status.is_some_and(|status| status.allowed))
    }

    async fn approve(&self, request: &Request) -> Result<(), Error> {
        let why = match Signer::named(&request.spec.signer_name) {
            Some(Signer::NodeServing) => {
                "Auto approving kubelet serving certificate of the node's own name and addresses."
            }
            _ => "Auto approving kubelet client certificate after SubjectAccessReview.",
        };
        self.decide(request, "Approved", "AutoApproved", why).await
    }

    async fn decide(
        &self,
        request: &Request,
        verdict: &str,
        reason: &str,
        message: &str,
    ) -> Result<(), Error> {
        let mut decided = request.clone();
        let condition = self.condition(verdict, reason, message);
        decided.status.get_or_insert_default().conditions.get_or_insert_default().push(condition);
        let written = self
            .api()
            .replace_subresource("approval", &request.name_any(), &PostParams::default(), &decided)
            .await
            .map_err(Error::at("deciding on a request"))?;
        self.requests.observe(written);
        Ok(())
    }

    async fn sign(&self, request: &Request, signer: Signer, pem: &str) -> Result<(), Error> {
        let mut signed = request.clone();
        let status = signed.status.get_or_insert_default();
        let subject = signing_request::subject(pem).map_err(|e| e.to_string());
        let verdict = subject.map_or_else(Verdict::Wrong, |s| rules::check(signer, &request.spec, &s));
        let made = match verdict {
            Verdict::Wrong(why) => Err(why),
            Verdict::Right => {
                let seconds = request.spec.expiration_seconds.map_or(LONGEST, i64::from).clamp(600, LONGEST);
                let (usages, now) = (request.spec.usages.clone().unwrap_or_default(), self.now().as_second());
                self.authority.sign(pem, &usages, seconds, now).map_err(|e| e.to_string())
            }
        };
        match made {
            Ok(certificate) => {
                status.certificate = Some(k8s_openapi::ByteString(certificate.into_bytes()));
            }
            Err(why) => {
                let condition = self.condition("Failed", "SignerValidationFailure", &why);
                status.conditions.get_or_insert_default().push(condition);
            }
        }
        let written = self
            .api()
            .replace_status(&request.name_any(), &PostParams::default(), &signed)
            .await
            .map_err(Error::at("handing out a certificate"))?;
        self.requests.observe(written);
        Ok(())
    }

    fn condition(&self, kind: &str, reason: &str, message: &str) -> CertificateSigningRequestCondition {
        CertificateSigningRequestCondition {
            type_: kind.into(),
            status: "True".into(),
            reason: Some(reason.into()),
            message: Some(message.into()),
            last_update_time: Some(Time(self.now())),
            ..CertificateSigningRequestCondition::default()
        }
    }

    /// Removes what nobody waits for any more.
    async fn sweep(&self) {
        self.requests.synced().await;
        loop {
            for request in self.requests.all() {
                if !rules::is_old(&request, certificate(&request).as_deref(), self.now()) {
                    continue;
                }
                match self.api().delete(&request.name_any(), &DeleteParams::default()).await {
                    Err(error) if api_reason(&error) != Some("NotFound") => {
                        tracing::debug!(%error, "an old request was not removed");
                    }
                    _ => self.requests.forget(&request),
                }
            }
            tokio::time::sleep(SWEEP).await;
        }
    }
}
