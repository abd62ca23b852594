//! Leader election by a Lease (Kubernetes documentation, "Leases", "Leader election"): one of several candidates leads, until
//! it resigns or has not renewed the Lease for its time. Candidates judge that by when they saw the Lease change, never by
//! another machine's clock. That a leader which was asleep does no harm is not for this module: its writes must be fenced.

use crate::{Clock, api_reason, found};
use jiff::Timestamp;
use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::MicroTime,
};
use kube::{
    Api, Client,
    api::{ObjectMeta, PostParams},
};
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout, timeout_at};

/// How often the Lease is renewed and looked at, and how long it lasts.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// After which a Lease that does not change is anybody's.
    pub lasts: Duration,
    /// After which a leader that could not renew it stops leading; less than `lasts`.
    pub renewed_within: Duration,
    /// Between renewals.
    pub every: Duration,
    /// Between looks of who waits.
    pub look: Duration,
}

impl Default for Timing {
    /// A dead leader is followed within three seconds.
    fn default() -> Self {
        Self {
            lasts: Duration::from_millis(2000),
            renewed_within: Duration::from_millis(1500),
            every: Duration::from_millis(500),
            look: Duration::from_millis(200),
        }
    }
}

/// A candidate.
pub struct Candidate {
    client: Client,
    namespace: String,
    name: String,
    /// Who it is: another one after each start.
    identity: String,
    /// Annotations of the Lease.
    annotations: Vec<(String, String)>,
    timing: Timing,
    clock: Clock,
}

/// A time of leading.
#[derive(Clone, Debug)]
pub struct Term {
    /// The resource version of the write that began it.
    pub began: u64,
}

/// A Lease that we hold.
struct Held {
    lease: Lease,
    /// When the write that is its last one began.
    renewed: Instant,
}

impl Candidate {
    /// A candidate for the Lease `name`. `identity` must be nobody else's, not even that of the same machine before a restart.
    pub fn new(client: Client, namespace: &str, name: &str, identity: String, clock: Clock) -> Self {
        Self {
            client,
            namespace: namespace.into(),
            name: name.into(),
            identity,
            annotations: Vec::new(),
            timing: Timing::default(),
            clock,
        }
    }

    /// Adds an annotation to the Lease where this candidate makes or takes it.
    #[must_use]
    pub fn annotated(mut self, key: &str, value: &str) -> Self {
        self.annotations.push((key.into(), value.into()));
        self
    }

    /// Uses other times.
    #[must_use]
    pub fn timed(self, timing: Timing) -> Self {
        Self { timing, ..self }
    }

    /// Runs what `lead` makes whenever this candidate leads, and drops it when it no longer does. Returns when `resign`
    /// does, or when what it leads ends by itself (then with false), after the Lease has been given back.
    pub async fn run<F: Future<Output = ()>>(
        &self,
        lead: impl Fn(Term) -> F,
        resign: impl Future<Output = ()>,
    ) -> bool {
        tokio::pin!(resign);
        loop {
            let (mut held, term) = tokio::select! {
                biased;
                () = &mut resign => return true,
                won = self.wait() => won,
            };
            tracing::info!(lease = %self.name, identity = %self.identity, "leading");
            let ended = tokio::select! {
                biased;
                () = &mut resign => Some(true),
                () = self.hold(&mut held) => None,
                () = lead(term) => Some(false),
            };
            if let Some(asked) = ended {
                let given = timeout(self.timing.lasts, self.give_back(held)).await;
                if !matches!(given, Ok(Ok(_))) {
                    tracing::warn!(lease = %self.name, "the Lease could not be given back; it runs out");
                }
                return asked;
            }
            tracing::warn!(lease = %self.name, "no longer leading");
        }
    }

    fn api(&self) -> Api<Lease> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// Waits until the Lease is ours.
    async fn wait(&self) -> (Held, Term) {
        let mut seen: Option<(Option<String>, Instant)> = None;
        loop {
            match self.look(&mut seen).await {
                Ok(Some(won)) => return won,
                Ok(None) => {}
                Err(error) => {
                    tracing::debug!(%error, lease = %self.name, "the Lease cannot be read or taken")
                }
            }
            sleep(self.timing.look).await;
        }
    }

    /// Takes the Lease if nobody holds it.
    async fn look(
        &self,
        seen: &mut Option<(Option<String>, Instant)>,
    ) -> Result<Option<(Held, Term)>, kube::Error> {
        let found = found(self.api().get(&self.name).await)?;
        if let Some(lease) = &found {
            let version = lease.metadata.resource_version.clone();
            let now = Instant::now();
            let since = match seen {
                Some((known, since)) if *known == version => *since,
                _ => {
                    *seen = Some((version, now));
                    now
                }
            };
            let held = lease.spec.as_ref().and_then(|s| s.holder_identity.as_deref()).unwrap_or_default();
            // What is ours already (an answer was lost, or it could not be renewed in time) needs no waiting.
            let is_free = held.is_empty() || held == self.identity;
            if !is_free && now.duration_since(since) < self.timing.lasts {
                return Ok(None);
            }
        }
        let renewed = Instant::now();
        let wanted = taken(found.as_ref(), self, (self.clock)());
        let api = self.api();
        let params = PostParams::default();
        let written = match found {
            Some(_) => api.replace(&self.name, &params, &wanted).await,
            None => api.create(&params, &wanted).await,
        };
        match written {
            Ok(lease) => {
                let began = lease.metadata.resource_version.as_deref().and_then(|v| v.parse().ok());
                Ok(Some((Held { lease, renewed }, Term { began: began.unwrap_or_default() })))
            }
            // Somebody was faster.
            Err(error) if matches!(api_reason(&error), Some("Conflict" | "AlreadyExists")) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Renews the Lease; returns when it is lost.
    async fn hold(&self, held: &mut Held) {
        loop {
            sleep(self.timing.every).await;
            let until = held.renewed + self.timing.renewed_within;
            let begun = Instant::now();
            let mut wanted = held.lease.clone();
            if let Some(spec) = &mut wanted.spec {
                spec.renew_time = Some(MicroTime((self.clock)()));
            }
            match timeout_at(until, self.api().replace(&self.name, &PostParams::default(), &wanted)).await {
                Ok(Ok(lease)) => *held = Held { lease, renewed: begun },
                Ok(Err(error)) if api_reason(&error) == Some("Conflict") => {
                    match timeout_at(until, self.api().get(&self.name)).await {
                        // Our own write whose answer was lost, or an annotation of somebody's.
                        Ok(Ok(lease)) if holder(&lease) == self.identity => held.lease = lease,
                        _ => return,
                    }
                }
                Ok(Err(_)) if Instant::now() < until => {}
                Ok(Err(_)) | Err(_) => return,
            }
        }
    }

    async fn give_back(&self, held: Held) -> Result<(), kube::Error> {
        let mut lease = held.lease;
        if let Some(spec) = &mut lease.spec {
            spec.holder_identity = None;
        }
        let api = self.api();
        match api.replace(&self.name, &PostParams::default(), &lease).await {
            Err(error) if api_reason(&error) == Some("Conflict") => {
                let mut lease = api.get(&self.name).await?;
                if holder(&lease) != self.identity {
                    return Ok(());
                }
                if let Some(spec) = &mut lease.spec {
                    spec.holder_identity = None;
                }
                api.replace(&self.name, &PostParams::default(), &lease).await.map(drop)
            }
            other => other.map(drop),
        }
    }
}

fn holder(lease: &Lease) -> &str {
    lease.spec.as_ref().and_then(|s| s.holder_identity.as_deref()).unwrap_or_default()
}

/// The Lease as it is when the candidate has taken it.
fn taken(before: Option<&Lease>, candidate: &Candidate, now: Timestamp) -> Lease {
    let mut lease = before.cloned().unwrap_or_else(|| Lease {
        metadata: ObjectMeta { name: Some(candidate.name.clone()), ..ObjectMeta::default() },
        ..Lease::default()
    });
    lease.metadata.annotations.get_or_insert_default().extend(candidate.annotations.iter().cloned());
    let transitions = lease.spec.as_ref().and_then(|s| s.lease_transitions);
    let lasts = i32::try_from(candidate.timing.lasts.as_secs().max(1)).unwrap_or(i32::MAX);
    lease.spec = Some(LeaseSpec {
        holder_identity: Some(candidate.identity.clone()),
        acquire_time: Some(MicroTime(now)),
        renew_time: Some(MicroTime(now)),
        lease_duration_seconds: Some(lasts),
        lease_transitions: Some(transitions.map_or(0, |n| n.saturating_add(1))),
        ..LeaseSpec::default()
    });
    lease
}
