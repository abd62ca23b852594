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
    },
    apimachinery::pkg::apis::meta::v1::Time,
};
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, PostParams},
};
use orlop_client::{Clock, Informer, Key, Queue, api_reason, run_workers};
use orlop_pki::{Authority, signing_request};
use rules::{Signer, Verdict};
use std::{collections::BTreeMap, sync::Arc, time::Duration};

/// How often old requests are looked for.
const SWEEP: Duration = Duration::from_secs(600);
/// Certificates are valid so long at most.
const LONGEST: i64 = 365 * 24 * 3600;

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
        if let Some(right) = rules::auto_approval(signer, &request.spec, &subject)
            && self.may(&request, right).await?
        {
            self.approve(&request).await?;
        }
        Ok(())
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
        let mut approved = request.clone();
        let condition = self.condition(
            "Approved",
            "AutoApproved",
            "Auto approving kubelet client certificate after SubjectAccessReview.",
        );
        approved.status.get_or_insert_default().conditions.get_or_insert_default().push(condition);
        let written = self
            .api()
            .replace_subresource("approval", &request.name_any(), &PostParams::default(), &approved)
            .await
            .map_err(Error::at("approving a request"))?;
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
