//! Deployment: declared rollouts over ReplicaSets (Kubernetes documentation, "Deployments"). Rolling update and Recreate,
//! pause, history for rollback, proportional scaling, progress deadline.

mod revision;
mod rollout;
mod status;

use crate::{Cluster, Error, ownership, pods};
use futures::future::BoxFuture;
use k8s_openapi::{
    api::apps::v1::{Deployment, DeploymentSpec, ReplicaSet, ReplicaSetSpec},
    apimachinery::pkg::util::intstr::IntOrString,
};
use kube::{
    ResourceExt,
    api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions},
};
use orlop_api::int_or_string::{self, Rounding};
use orlop_client::{EventType, Key, Queue, api_message, api_reason, found, run_workers};
use rollout::{Set, Wanted};
use serde_json::json;
use std::sync::Arc;

const WORKERS: usize = 8;
const DESIRED: &str = "deployment.kubernetes.io/desired-replicas";
const MAX: &str = "deployment.kubernetes.io/max-replicas";

/// Registers with the caches; the future does the work.
pub(crate) fn start(cluster: &Cluster) -> BoxFuture<'static, ()> {
    let queue = Queue::default();
    ownership::follow(&queue, &cluster.deployments, &cluster.replica_sets, |deployment, labels| {
        deployment.spec.as_ref().is_some_and(|s| ownership::selects(&s.selector, labels))
    });
    // Recreate waits for the last old pod to go.
    let (on_pod, sets) = (queue.clone(), cluster.replica_sets.clone());
    cluster.pods.on_change(move |old, new| {
        if let (Some(pod), None) = (old, new)
            && let Some(owner) = ownership::controller_of(&**pod).filter(|o| o.kind == "ReplicaSet")
            && let Some(set) = sets.get(&pod.namespace().unwrap_or_default(), &owner.name)
            && let Some(owner) = ownership::controller_of(&*set)
        {
            on_pod.add(Key::new(pod.namespace().unwrap_or_default(), &owner.name));
        }
    });
    let cluster = cluster.clone();
    Box::pin(async move {
        let reconcile = |key| reconcile(&cluster, &queue, key);
        run_workers("deployment", queue.clone(), WORKERS, reconcile).await;
    })
}

/// The sets of a Deployment: the one with its present template, if it is there, and the others.
struct Sets {
    new: Option<Arc<ReplicaSet>>,
    old: Vec<Arc<ReplicaSet>>,
}

impl Sets {
    fn all(&self) -> impl Iterator<Item = &Arc<ReplicaSet>> {
        self.old.iter().chain(&self.new)
    }
}

async fn reconcile(cluster: &Cluster, queue: &Queue, key: Key) -> Result<(), Error> {
    let Some(deployment) = cluster.deployments.get(&key.namespace, &key.name) else { return Ok(()) };
    let Some(spec) = &deployment.spec else { return Ok(()) };
    let all = ownership::claim(cluster, &*deployment, &spec.selector, &cluster.replica_sets, None).await?;
    let mut sets = sort(spec, all);
    let mut outcome = Ok(());
    if deployment.metadata.deletion_timestamp.is_none() {
        outcome = step(cluster, &deployment, spec, &mut sets).await;
    }
    // A template that is refused is said in the status.
    if matches!(outcome, Ok(()) | Err(Error::Refused(_)))
        && let Some(wait) = status::write(cluster, &deployment, &sets, outcome.as_ref().err()).await?
    {
        queue.add_after(key, wait);
    }
    outcome
}

/// Tells the set with the present template from the others. Should two have it, the older one counts, as in Kubernetes.
fn sort(spec: &DeploymentSpec, mut all: Vec<Arc<ReplicaSet>>) -> Sets {
    all.sort_by_key(|s| (created(s), s.name_any()));
    let new = all.iter().position(|s| revision::same_template(spec, s));
    let new = new.map(|i| all.remove(i));
    Sets { new, old: all }
}

fn created(set: &ReplicaSet) -> i64 {
    set.metadata.creation_timestamp.as_ref().map_or(0, |t| t.0.as_second())
}

/// One step towards the Deployment's template and size. What changes comes back as events and leads to the next step.
async fn step(
    cluster: &Cluster,
    d: &Deployment,
    spec: &DeploymentSpec,
    sets: &mut Sets,
) -> Result<(), Error> {
    let paused = spec.paused.unwrap_or(false);
    let wanted = wanted(spec);
    if let Some(new) = &sets.new {
        sets.new = Some(revision::keep(cluster, d, new, &sets.old).await?);
    }
    if paused || is_resized(spec, sets) {
        resize(cluster, d, wanted, sets).await?;
        return if paused { forget_history(cluster, d, spec, sets).await } else { Ok(()) };
    }
    if recreates(spec) {
        if scale_all(cluster, d, wanted, &sets.old, |_| 0).await? || old_pods_run(cluster, &sets.old) {
            return Ok(());
        }
        let Some(new) = new_set(cluster, d, spec, wanted, sets).await? else { return Ok(()) };
        scale(cluster, d, wanted, &new, wanted.replicas).await?;
    } else {
        let Some(new) = new_set(cluster, d, spec, wanted, sets).await? else { return Ok(()) };
        let existing: i32 = sets.all().map(|s| replicas(s)).sum();
        let size = match replicas(&new) {
            now if now > wanted.replicas => wanted.replicas,
            now => rollout::new_set_size(wanted, existing, now),
        };
        if scale(cluster, d, wanted, &new, size).await? {
            return Ok(());
        }
        let old: Vec<Set> = sets.old.iter().map(|s| numbers(s)).collect();
        let sizes = rollout::shrink_old(wanted, &numbers(&new), &old);
        let mut sizes = sizes.into_iter();
        scale_all(cluster, d, wanted, &sets.old, |s| sizes.next().unwrap_or_else(|| replicas(s))).await?;
    }
    if status::is_complete(d, sets) {
        forget_history(cluster, d, spec, sets).await?;
    }
    Ok(())
}

fn recreates(spec: &DeploymentSpec) -> bool {
    spec.strategy.as_ref().and_then(|s| s.type_.as_deref()) == Some("Recreate")
}

fn wanted(spec: &DeploymentSpec) -> Wanted {
    let replicas = spec.replicas.unwrap_or(1);
    if recreates(spec) {
        return Wanted { replicas, surge: 0, unavailable: 0 };
    }
    let rolling = spec.strategy.as_ref().and_then(|s| s.rolling_update.clone()).unwrap_or_default();
    // The server fills in 25% for both; an absent one means the same.
    let resolve = |value: Option<&IntOrString>, rounding: Rounding| {
        let quarter = IntOrString::String("25%".into());
        int_or_string::resolve(Some(value.unwrap_or(&quarter)), 0, replicas.into(), rounding) as i32
    };
    let surge = resolve(rolling.max_surge.as_ref(), Rounding::Up);
    let unavailable = resolve(rolling.max_unavailable.as_ref(), Rounding::Down);
    Wanted::new(replicas, surge, unavailable)
}

fn replicas(set: &ReplicaSet) -> i32 {
    set.spec.as_ref().and_then(|s| s.replicas).unwrap_or(1)
}

fn numbers(set: &ReplicaSet) -> Set {
    Set {
        replicas: replicas(set),
        available: set.status.as_ref().and_then(|s| s.available_replicas).unwrap_or(0),
        created: created(set),
        max_replicas: set.annotations().get(MAX).and_then(|v| v.parse().ok()),
    }
}

/// Whether `spec.replicas` changed since the sets were last scaled.
fn is_resized(spec: &DeploymentSpec, sets: &Sets) -> bool {
    let size = spec.replicas.unwrap_or(1).to_string();
    sets.all().any(|s| replicas(s) > 0 && s.annotations().get(DESIRED).is_some_and(|v| *v != size))
}

/// Scales what is there to a new size without rolling on: when the Deployment is paused or was resized in the middle.
async fn resize(cluster: &Cluster, d: &Deployment, wanted: Wanted, sets: &Sets) -> Result<(), Error> {
    let active: Vec<_> = sets.all().filter(|s| replicas(s) > 0).cloned().collect();
    // With one active set, or none, it takes all.
    let only = match active.as_slice() {
        [] => sets.new.clone().or_else(|| sets.old.last().cloned()),
        [one] => Some(one.clone()),
        _ => None,
    };
    if let Some(set) = only {
        scale(cluster, d, wanted, &set, wanted.replicas).await?;
        return Ok(());
    }
    let saturated =
        |s: &Arc<ReplicaSet>| replicas(s) == wanted.replicas && numbers(s).available == wanted.replicas;
    if sets.new.as_ref().is_some_and(saturated) {
        scale_all(cluster, d, wanted, &sets.old, |_| 0).await?;
    } else if !recreates(&d.spec.clone().unwrap_or_default()) {
        let numbers: Vec<Set> = active.iter().map(|s| numbers(s)).collect();
        let mut sizes = rollout::proportional(wanted, &numbers).into_iter();
        scale_all(cluster, d, wanted, &active, |s| sizes.next().unwrap_or_else(|| replicas(s))).await?;
    }
    Ok(())
}

fn old_pods_run(cluster: &Cluster, old: &[Arc<ReplicaSet>]) -> bool {
    let pods = old.iter().flat_map(|s| cluster.pods.owned_by(&s.uid().unwrap_or_default()));
    pods.into_iter().any(|p| !pods::is_finished(&p))
}

/// The set with the present template, made if need be. `None` where its name was taken by another: the next try has another.
async fn new_set(
    cluster: &Cluster,
    d: &Deployment,
    spec: &DeploymentSpec,
    wanted: Wanted,
    sets: &mut Sets,
) -> Result<Option<Arc<ReplicaSet>>, Error> {
    if let Some(set) = &sets.new {
        return Ok(Some(set.clone()));
    }
    let existing: i32 = sets.old.iter().map(|s| replicas(s)).sum();
    let size = if recreates(spec) { wanted.replicas } else { rollout::new_set_size(wanted, existing, 0) };
    let collisions = d.status.as_ref().and_then(|s| s.collision_count).unwrap_or(0);
    let hash = pods::template_hash(&spec.template, collisions);
    let label = |labels: &mut Option<std::collections::BTreeMap<String, String>>| {
        labels.get_or_insert_default().insert(revision::HASH_LABEL.into(), hash.clone());
    };
    let mut template = spec.template.clone();
    label(&mut template.metadata.get_or_insert_default().labels);
    let mut selector = spec.selector.clone();
    label(&mut selector.match_labels);

    let mut set = ReplicaSet::default();
    set.metadata.name = Some(format!("{}-{hash}", d.name_any()));
    set.metadata.namespace = d.namespace();
    set.metadata.owner_references = Some(vec![ownership::controller_reference(d)]);
    set.metadata.labels = template.metadata.as_ref().and_then(|m| m.labels.clone());
    let next = revision::highest(&sets.old) + 1;
    let annotations = set.metadata.annotations.get_or_insert_default();
    annotations.extend(revision::inherited(d));
    annotations.insert(revision::REVISION.into(), next.to_string());
    annotations.extend(size_annotations(wanted));
    set.spec = Some(ReplicaSetSpec {
        replicas: Some(size),
        min_ready_seconds: spec.min_ready_seconds,
        selector,
        template: Some(template),
    });
    let api = cluster.api::<ReplicaSet>(&d.namespace().unwrap_or_default());
    match api.create(&PostParams::default(), &set).await {
        Ok(set) => {
            let message = format!("Scaled up replica set {} from 0 to {size}", set.name_any());
            if size > 0 {
                cluster.recorder.event(d, EventType::Normal, "ScalingReplicaSet", message);
            }
            cluster.replica_sets.observe(set.clone());
            revision::note(cluster, d, next).await?;
            let set = Arc::new(set);
            sets.new = Some(set.clone());
            Ok(Some(set))
        }
        Err(error) if api_reason(&error) == Some("AlreadyExists") => {
            let name = set.name_any();
            let taken = found(api.get(&name).await).map_err(Error::at("reading a ReplicaSet"))?;
            let ours = taken.filter(|t| {
                ownership::controller_of(t).is_some_and(|o| Some(&o.uid) == d.metadata.uid.as_ref())
                    && revision::same_template(spec, t)
            });
            if let Some(set) = ours {
                // Made by an earlier try whose answer was lost.
                cluster.replica_sets.observe(set.clone());
                sets.new = Some(Arc::new(set));
                return Ok(sets.new.clone());
            }
            // A status may only be written over what was read.
            let mut changed = d.clone();
            changed.status.get_or_insert_default().collision_count = Some(collisions + 1);
            cluster.write_status(&cluster.deployments, &changed).await?;
            Err(Error::Object(format!("the name {name} is taken")))
        }
        Err(error) if matches!(api_reason(&error), Some("Forbidden" | "Invalid")) => {
            let why = api_message(&error);
            let message = format!("Failed to create new replica set \"{}\": {why}", set.name_any());
            cluster.recorder.event(d, EventType::Warning, "ReplicaSetCreateError", message);
            Err(Error::Refused(why))
        }
        Err(error) => Err(Error::at("creating a ReplicaSet")(error)),
    }
}

fn size_annotations(wanted: Wanted) -> [(String, String); 2] {
    [
        (DESIRED.into(), wanted.replicas.to_string()),
        (MAX.into(), (wanted.replicas + wanted.surge).to_string()),
    ]
}

async fn scale_all(
    cluster: &Cluster,
    d: &Deployment,
    wanted: Wanted,
    sets: &[Arc<ReplicaSet>],
    mut size: impl FnMut(&ReplicaSet) -> i32,
) -> Result<bool, Error> {
    let mut any = false;
    for set in sets {
        any |= scale(cluster, d, wanted, set, size(set)).await?;
    }
    Ok(any)
}

/// Sets a set's size and notes the Deployment's own; says whether the size changed.
async fn scale(
    cluster: &Cluster,
    d: &Deployment,
    wanted: Wanted,
    set: &ReplicaSet,
    size: i32,
) -> Result<bool, Error> {
    let now = replicas(set);
    let noted = size_annotations(wanted);
    let is_noted = noted.iter().all(|(k, v)| set.annotations().get(k) == Some(v));
    if now == size && (is_noted || size == 0) {
        return Ok(false);
    }
    let annotations: std::collections::BTreeMap<_, _> = noted.into_iter().collect();
    let patch = json!({
        "metadata": {"resourceVersion": set.resource_version(), "annotations": annotations},
        "spec": {"replicas": size},
    });
    let api = cluster.api::<ReplicaSet>(&d.namespace().unwrap_or_default());
    let name = set.name_any();
    let scaled = api
        .patch(&name, &PatchParams::default(), &Patch::Merge(patch))
        .await
        .map_err(Error::at("scaling a ReplicaSet"))?;
    cluster.replica_sets.observe(scaled);
    if now != size {
        let direction = if size > now { "up" } else { "down" };
        let message = format!("Scaled {direction} replica set {name} from {now} to {size}");
        cluster.recorder.event(d, EventType::Normal, "ScalingReplicaSet", message);
    }
    Ok(now != size)
}

/// Deletes old empty sets beyond `revisionHistoryLimit`.
async fn forget_history(
    cluster: &Cluster,
    d: &Deployment,
    spec: &DeploymentSpec,
    sets: &Sets,
) -> Result<(), Error> {
    let keep = usize::try_from(spec.revision_history_limit.unwrap_or(10)).unwrap_or(0);
    let mut empty: Vec<_> = sets
        .old
        .iter()
        .filter(|s| {
            replicas(s) == 0
                && s.status.as_ref().is_none_or(|st| st.replicas == 0)
                && s.metadata.generation <= s.status.as_ref().and_then(|st| st.observed_generation)
                && s.metadata.deletion_timestamp.is_none()
        })
        .collect();
    empty.sort_by_key(|s| revision::of(s));
    let surplus = empty.len().saturating_sub(keep);
    let api = cluster.api::<ReplicaSet>(&d.namespace().unwrap_or_default());
    for set in &empty[..surplus] {
        let preconditions = Preconditions { uid: set.uid(), resource_version: set.resource_version() };
        let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::background() };
        found(api.delete(&set.name_any(), &params).await).map_err(Error::at("deleting an old ReplicaSet"))?;
    }
    Ok(())
}
