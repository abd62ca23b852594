//! StatefulSet: pods with a name, a place in the network and volumes of their own, made and replaced in order (Kubernetes
//! documentation, "StatefulSets"). There is never more than one pod of an ordinal: its name is its identity.

mod claims;
mod history;
mod identity;
mod plan;
mod status;

use crate::{
    Cluster, Error,
    endings::Endings,
    history::{forget, keep, template_of},
    ownership,
};
use futures::future::BoxFuture;
use jiff::SignedDuration;
use k8s_openapi::api::{
    apps::v1::{ControllerRevision, StatefulSet},
    core::v1::{PersistentVolumeClaim, Pod, PodTemplateSpec},
};
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions},
};
use orlop_client::{EventType, Informer, Key, Queue, api_message, api_reason, found, run_workers};
use plan::{Plan, Step, View};
use serde_json::json;
use std::sync::Arc;

const WORKERS: usize = 5;
const REVISION_LABEL: &str = "controller-revision-hash";
/// Most steps taken at a time.
const AT_ONCE: usize = 64;
/// The longest that a pod that ended waits for its successor.
const LAST_PAUSE: SignedDuration = SignedDuration::from_mins(1);

/// Registers with the caches; the future does the work.
pub(crate) fn start(cluster: &Cluster) -> BoxFuture<'static, ()> {
    let queue = Queue::default();
    ownership::follow(&queue, &cluster.stateful_sets, &cluster.pods, |set, labels| {
        set.spec.as_ref().is_some_and(|s| ownership::selects(&s.selector, labels))
    });
    let claims = Arc::<Informer<PersistentVolumeClaim>>::default();
    let (on_claim, sets) = (queue.clone(), cluster.stateful_sets.clone());
    claims.on_change(move |old, new| {
        // A pod may wait for one that is gone to be made anew.
        let (Some(claim), None) = (old, new) else { return };
        for set in sets.in_namespace(&claim.namespace().unwrap_or_default()) {
            let templates = set.spec.as_ref().and_then(|s| s.volume_claim_templates.as_ref());
            if templates.is_some_and(|t| !t.is_empty()) {
                on_claim.add(Key::of(&*set));
            }
        }
    });
    let sets = StatefulSets { cluster: cluster.clone(), claims, endings: Endings::up_to(LAST_PAUSE) };
    Box::pin(async move {
        let reconcile = async |key| {
            sets.claims.synced().await;
            sets.reconcile(&queue, key).await
        };
        let api = Api::all(sets.cluster.client.clone());
        tokio::join!(
            sets.claims.clone().run(api),
            run_workers("statefulset", queue.clone(), WORKERS, reconcile),
        );
    })
}

struct StatefulSets {
    cluster: Cluster,
    claims: Arc<Informer<PersistentVolumeClaim>>,
    endings: Endings,
}

/// The revisions that pods are made of.
struct Revisions {
    current: (String, PodTemplateSpec),
    update: (String, PodTemplateSpec),
}

impl StatefulSets {
    async fn reconcile(&self, queue: &Queue, key: Key) -> Result<(), Error> {
        let cluster = &self.cluster;
        let Some(set) = cluster.stateful_sets.get(&key.namespace, &key.name) else { return Ok(()) };
        let Some(spec) = &set.spec else { return Ok(()) };
        let now = cluster.now();
        let fits = |pod: &Pod| identity::ordinal_of(&set, pod).is_some();
        let mine =
            ownership::claim_fitting(cluster, &*set, &spec.selector, &cluster.pods, None, fits).await?;
        if set.metadata.deletion_timestamp.is_some() {
            return Ok(());
        }
        let history = keep(cluster, &*set).await?;
        let update = history.present.name_any();
        let current = set.status.as_ref().and_then(|s| s.current_revision.as_deref());
        let current = history.all.iter().find(|r| Some(r.name_any().as_str()) == current);
        let current = current.unwrap_or(&history.present);
        let named = |revision: &ControllerRevision| {
            let template = template_of(revision).unwrap_or_else(|| spec.template.clone());
            (revision.name_any(), template)
        };
        let revisions = Revisions { current: named(current), update: named(&history.present) };

        let uid = set.uid().unwrap_or_default();
        let pause = |ordinal: i64| self.endings.pause(&uid, &ordinal.to_string(), now);
        let plan = plan::plan(&View { set: &set, update: &update, mine: &mine, pause: &pause, now });
        let look_again = plan.look_again;
        let outcome = self.execute(&set, &revisions, plan).await;
        let left = cluster.pods.owned_by(&uid);
        let written = self.write_status(&set, &left, &revisions, now).await;
        let current = current.name_any();
        let in_use = |r: &ControllerRevision| {
            let name = r.name_any();
            name == current || left.iter().any(|p| identity::revision_of(p) == name)
        };
        let forgotten = forget(cluster, &*set, &history, in_use).await;
        if let Some(wait) = look_again {
            queue.add_after(key, wait);
        }
        outcome.and(written).and(forgotten)
    }

    async fn write_status(
        &self,
        set: &Arc<StatefulSet>,
        pods: &[Arc<Pod>],
        revisions: &Revisions,
        now: jiff::Timestamp,
    ) -> Result<(), Error> {
        let names = (revisions.current.0.as_str(), revisions.update.0.as_str());
        let status = status::observed(set, pods, names, now);
        if set.status.clone().map(status::normalized) == Some(status.clone()) {
            return Ok(());
        }
        let mut changed = (**set).clone();
        changed.status = Some(status);
        self.cluster.write_status(&self.cluster.stateful_sets, &changed).await
    }

    async fn execute(&self, set: &StatefulSet, revisions: &Revisions, plan: Plan) -> Result<(), Error> {
        let steps = plan.steps.into_iter().map(|step| Box::pin(self.step(set, revisions, step)));
        if plan.ordered {
            for step in steps {
                step.await?;
            }
            return Ok(());
        }
        // In growing batches, so that a set whose pods are refused asks once, not a thousand times.
        let (mut steps, mut size) = (steps, 1);
        loop {
            let batch: Vec<_> = steps.by_ref().take(size).collect();
            if batch.is_empty() {
                return Ok(());
            }
            let results = futures::future::join_all(batch).await;
            results.into_iter().collect::<Result<(), Error>>()?;
            size = (size * 2).min(AT_ONCE);
        }
    }

    async fn step(&self, set: &StatefulSet, revisions: &Revisions, step: Step) -> Result<(), Error> {
        match step {
            Step::Create { ordinal, current } => {
                let (revision, template) = if current { &revisions.current } else { &revisions.update };
                self.create(set, identity::pod_for(set, template, revision, ordinal), ordinal).await
            }
            Step::Provide(pod) => match identity::ordinal_of(set, &pod) {
                Some(ordinal) => self.provide(set, &pod.name_any(), ordinal).await,
                None => Ok(()),
            },
            Step::Tend(pod) => {
                self.label(set, &pod).await?;
                self.tend_claims(set, &pod).await
            }
            Step::TendClaims(pod) => self.tend_claims(set, &pod).await,
            Step::Delete(pod) => self.delete(set, &pod).await,
            Step::Replace(pod, ordinal) => {
                let uid = set.uid().unwrap_or_default();
                self.endings.note(&uid, &ordinal.to_string(), self.cluster.now());
                self.delete(set, &pod).await
            }
        }
    }

    fn tell(
        &self,
        set: &StatefulSet,
        verb: &str,
        reasons: (&'static str, &'static str),
        pod: &str,
        error: Option<&str>,
    ) {
        let what = format!("{verb} Pod {pod} in StatefulSet {}", set.name_any());
        match error {
            None => {
                let message = format!("{what} successful");
                self.cluster.recorder.event(set, EventType::Normal, reasons.0, message);
            }
            Some(error) => {
                let message = format!("{what} failed error: {error}");
                self.cluster.recorder.event(set, EventType::Warning, reasons.1, message);
            }
        }
    }

    async fn create(&self, set: &StatefulSet, pod: Pod, ordinal: i64) -> Result<(), Error> {
        const REASONS: (&str, &str) = ("SuccessfulCreate", "FailedCreate");
        let name = pod.name_any();
        // A claim that goes with a former pod of this name: the change that takes it away calls us again.
        if self.is_stale(set, &name, ordinal) {
            return Ok(());
        }
        if let Err(error) = self.provide(set, &name, ordinal).await {
            self.tell(set, "create", REASONS, &name, Some(&error.message()));
            return Err(error);
        }
        let api = self.cluster.api::<Pod>(&set.namespace().unwrap_or_default());
        match api.create(&PostParams::default(), &pod).await {
            Ok(made) => {
                self.tell(set, "create", REASONS, &name, None);
                self.cluster.pods.observe(made.clone());
                self.tend_claims(set, &made).await
            }
            Err(error) => {
                // Somebody else's pod of that name may still go.
                if api_reason(&error) != Some("AlreadyExists") {
                    self.tell(set, "create", REASONS, &name, Some(&api_message(&error)));
                }
                Err(Error::at("creating a pod")(error))
            }
        }
    }

    async fn delete(&self, set: &StatefulSet, pod: &Arc<Pod>) -> Result<(), Error> {
        const REASONS: (&str, &str) = ("SuccessfulDelete", "FailedDelete");
        let api = self.cluster.api::<Pod>(&pod.namespace().unwrap_or_default());
        let name = pod.name_any();
        let preconditions = Preconditions { uid: pod.uid(), resource_version: None };
        let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
        match found(api.delete(&name, &params).await) {
            Ok(answer) => {
                match answer {
                    Some(either::Either::Left(dying)) if dying.metadata.deletion_timestamp.is_some() => {
                        self.cluster.pods.observe(dying);
                    }
                    _ => self.cluster.pods.forget(pod),
                }
                self.tell(set, "delete", REASONS, &name, None);
                Ok(())
            }
            Err(error) => {
                self.tell(set, "delete", REASONS, &name, Some(&api_message(&error)));
                Err(Error::at("deleting a pod")(error))
            }
        }
    }

    /// Puts the labels of its name on a pod that has lost them.
    async fn label(&self, set: &StatefulSet, pod: &Pod) -> Result<(), Error> {
        let Some(ordinal) = identity::ordinal_of(set, pod).filter(|_| !identity::is_labeled(pod)) else {
            return Ok(());
        };
        let name = pod.name_any();
        let labels = std::collections::BTreeMap::from(identity::labels(&name, ordinal));
        let patch = Patch::Merge(json!({"metadata": {"uid": pod.uid(), "labels": labels}}));
        let api = self.cluster.api::<Pod>(&pod.namespace().unwrap_or_default());
        const REASONS: (&str, &str) = ("SuccessfulUpdate", "FailedUpdate");
        match found(api.patch(&name, &PatchParams::default(), &patch).await) {
            Ok(written) => {
                written.into_iter().for_each(|pod| self.cluster.pods.observe(pod));
                self.tell(set, "update", REASONS, &name, None);
                Ok(())
            }
            Err(error) => {
                self.tell(set, "update", REASONS, &name, Some(&api_message(&error)));
                Err(Error::at("labeling a pod")(error))
            }
        }
    }
}
