//! Gives each pod of this node its worker and each worker its news: the API's watch, the runtime's events. It also clears away
//! what the runtime or the disk has of pods that are in the API no more. It decides nothing about a pod but whether the node takes it.

use crate::{
    Error, RunningSandbox,
    admission::{Rejection, admit},
    agent::Shared,
    eviction,
    pod::PodExt,
    pod_state::{PodState, by_pod, label, uid_of_sandbox},
    volumes,
    worker::{Message, Start, Worker},
};
use futures::{StreamExt, future::BoxFuture, stream::FuturesUnordered};
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use orlop_client::{Event, Source, Watcher};
use orlop_runtime::{ContainerStatus, RuntimeEvent, SandboxStatus};
use std::{
    collections::{BTreeMap, HashMap, HashSet},
    path::Path,
    sync::Arc,
    time::Duration,
};
use tokio::{sync::broadcast, task::JoinSet, time::MissedTickBehavior};
use tokio_util::sync::CancellationToken;

/// How often what is believed is compared with what is.
const RESYNC: Duration = Duration::from_secs(60);
/// Most time that containers of a forgotten pod get to end.
const ORPHAN_GRACE: u64 = 30;

/// Runs the pods of this node until `shutdown`.
pub(crate) async fn run(shared: Arc<Shared>, shutdown: CancellationToken) -> Result<(), Error> {
    // Before looking, so that nothing falls between.
    let mut news = shared.runtime.events();
    let (found, sandboxes) = look(&shared).await?;
    shared.network.adopt(running(&found));
    if let Err(error) = shared.network.retain(&sandboxes).await {
        tracing::warn!(%error, "links of vanished sandboxes were not removed");
    }
    let mut dispatcher = Dispatcher::new(shared.clone(), found, shutdown.clone());
    let fields = format!("spec.nodeName={}", shared.config.name);
    let api = Api::<Pod>::all(shared.client.clone());
    let of_node = Source::of(&api).fields(fields);
    let mut pods = std::pin::pin!(Watcher::new(api.into_client(), of_node).into_stream::<Pod>());
    let mut resync = tokio::time::interval(RESYNC);
    resync.set_missed_tick_behavior(MissedTickBehavior::Delay);
    resync.tick().await;
    loop {
        tokio::select! {
            () = shutdown.cancelled() => break,
            Some(event) = pods.next() => match event {
                Ok(event) => dispatcher.watched(event),
                Err(error) => tracing::debug!(%error, "watch of pods interrupted"),
            },
            event = news.recv() => match event {
                Ok(event) => dispatcher.happened(event),
                Err(broadcast::error::RecvError::Lagged(_)) => dispatcher.resync().await,
                Err(broadcast::error::RecvError::Closed) => news = shared.runtime.events(),
            },
            Some(ended) = dispatcher.workers.join_next() => dispatcher.ended(ended).await,
            Some(()) = dispatcher.clearing.next() => {}
            _ = resync.tick() => dispatcher.resync().await,
        }
    }
    // Workers see the same shutdown; their containers live on.
    while dispatcher.workers.join_next().await.is_some() {}
    Ok(())
}

/// What the runtime has, by pod, and the names of all sandboxes.
async fn look(shared: &Shared) -> Result<(BTreeMap<String, PodState>, Vec<String>), Error> {
    let sandboxes: Vec<SandboxStatus> =
        shared.runtime.list_sandboxes().await.map_err(|e| Error::runtime("listing sandboxes", e))?;
    let containers: Vec<ContainerStatus> =
        shared.runtime.list_containers().await.map_err(|e| Error::runtime("listing containers", e))?;
    let ids = sandboxes.iter().map(|s| s.id.clone()).collect();
    Ok((by_pod(sandboxes, containers), ids))
}

/// The sandboxes with networks of their own.
fn running(found: &BTreeMap<String, PodState>) -> Vec<RunningSandbox> {
    let of_pod = |state: &PodState| -> Vec<RunningSandbox> {
        let ready = state.sandboxes.iter().filter(|sandbox| sandbox.ready);
        ready
            .filter_map(|sandbox| {
                let has_containers = state.containers.iter().any(|c| c.sandbox_id == sandbox.id);
                Some(RunningSandbox { id: sandbox.id.clone(), netns: sandbox.netns.clone()?, has_containers })
            })
            .collect()
    };
    found.values().flat_map(of_pod).collect()
}

/// What is remembered of a pod that has a worker.
struct Held {
    pod: Arc<Pod>,
    rejected: bool,
}

struct Dispatcher {
    shared: Arc<Shared>,
    shutdown: CancellationToken,
    /// What the runtime had at the start and no worker has yet.
    found: BTreeMap<String, PodState>,
    held: HashMap<String, Held>,
    workers: JoinSet<(String, bool)>,
    clearing: FuturesUnordered<BoxFuture<'static, ()>>,
    listing: Option<Vec<Pod>>,
    synced: bool,
}

impl Dispatcher {
    fn new(shared: Arc<Shared>, found: BTreeMap<String, PodState>, shutdown: CancellationToken) -> Self {
        Self {
            shared,
            shutdown,
            found,
            held: HashMap::new(),
            workers: JoinSet::new(),
            clearing: FuturesUnordered::new(),
            listing: None,
            synced: false,
        }
    }

    /// Takes in news of the API.
    fn watched(&mut self, event: Event<Pod>) {
        match event {
            Event::Init => self.listing = Some(Vec::new()),
            Event::InitApply(pod) => self.listing.get_or_insert_default().push(pod),
            Event::InitDone => self.listed(),
            Event::Apply(pod) => self.apply(pod),
            Event::Delete(pod) => {
                let uid = pod.uid().to_string();
                self.tell(&uid, Message::Pod(Arc::new(pod)));
                self.tell(&uid, Message::Gone);
            }
        }
    }

    /// Compares with a whole list of the API.
    fn listed(&mut self) {
        let mut pods = self.listing.take().unwrap_or_default();
        // Those that were taken before come first: they keep their place.
        pods.sort_by_key(|p| {
            let started = p.status.as_ref().is_some_and(|s| s.start_time.is_some());
            (!started, p.metadata.creation_timestamp.as_ref().map(|t| t.0))
        });
        let here: HashSet<String> = pods.iter().map(|p| p.uid().to_string()).collect();
        for pod in pods {
            self.apply(pod);
        }
        let gone: Vec<String> = self.held.keys().filter(|uid| !here.contains(*uid)).cloned().collect();
        for uid in gone {
            self.tell(&uid, Message::Gone);
        }
        if !std::mem::replace(&mut self.synced, true) {
            for (uid, state) in std::mem::take(&mut self.found) {
                self.clear_orphan(uid, state);
            }
            self.clear_folders();
        }
    }

    fn tell(&self, uid: &str, message: Message) {
        if let Some(outbox) = self.shared.outboxes.read().get(uid) {
            let _ = outbox.send(message);
        }
    }

    /// Takes in a pod as the API has it.
    fn apply(&mut self, pod: Pod) {
        if pod.spec_ref().node_name.as_deref() != Some(&self.shared.config.name) {
            return;
        }
        let pod = Arc::new(pod);
        let uid = pod.uid().to_string();
        if let Some(held) = self.held.get_mut(&uid) {
            held.pod = pod.clone();
            self.tell(&uid, Message::Pod(pod));
            return;
        }
        let state = self.found.remove(&uid).unwrap_or_default();
        let rejected = self.admit(&pod, &state).err();
        self.start(pod, state, rejected, false);
    }

    fn start(&mut self, pod: Arc<Pod>, state: PodState, rejected: Option<Rejection>, gone: bool) {
        let uid = pod.uid().to_string();
        self.held.insert(uid.clone(), Held { pod: pod.clone(), rejected: rejected.is_some() });
        if let Some(rejection) = &rejected {
            let events = self.shared.events.of_pod(&pod);
            events.warning(None, "FailedAdmission", format!("{}: {}", rejection.reason, rejection.message));
        }
        let rejected = rejected.map(|r| (r.reason, r.message));
        let start = Start { pod, state, rejected, gone };
        let (worker, outbox, inbox) = Worker::new(self.shared.clone(), start);
        self.shared.outboxes.write().insert(uid.clone(), outbox);
        let shutdown = self.shutdown.clone();
        self.workers.spawn(async move { (uid, Box::pin(worker.run(inbox, shutdown)).await) });
    }

    /// Whether the node takes a pod. One that it has taken before stays.
    fn admit(&self, pod: &Pod, state: &PodState) -> Result<(), Rejection> {
        let taken = *state != PodState::default()
            || pod.status.as_ref().is_some_and(|s| s.start_time.is_some())
            || pod.deleting()
            || pod.ended();
        if taken {
            return Ok(());
        }
        if let Some(why) = eviction::refusal(pod, self.shared.eviction.pressure()) {
            return Err(Rejection::of_pressure(why));
        }
        let others = self.held.values().filter(|h| !h.rejected && !h.pod.ended());
        let others: Vec<Arc<Pod>> = others.map(|h| h.pod.clone()).collect();
        admit(pod, &others, &self.shared.capacity.allocatable, &self.shared.node_labels())
    }

    /// Takes in news of the runtime.
    fn happened(&self, event: RuntimeEvent) {
        match event {
            RuntimeEvent::Exited { sandbox_id, container_id } => {
                self.tell(uid_of_sandbox(&sandbox_id), Message::Exited(container_id));
            }
            RuntimeEvent::SandboxLost { sandbox_id } => {
                let uid = uid_of_sandbox(&sandbox_id).to_string();
                self.tell(&uid, Message::SandboxLost(sandbox_id));
            }
        }
    }

    /// Tells every worker what the runtime has, in case news were lost, and clears away what nobody knows.
    async fn resync(&mut self) {
        let (found, _) = match look(&self.shared).await {
            Ok(found) => found,
            Err(error) => {
                tracing::warn!(error = error.chain(), "the runtime was not looked through");
                return;
            }
        };
        for (uid, state) in found {
            if self.held.contains_key(&uid) {
                self.tell(&uid, Message::Resync(state));
            } else if self.synced {
                self.clear_orphan(uid, state);
            }
        }
    }

    /// Takes in that a worker has ended: by itself, or by a panic.
    async fn ended(&mut self, ended: Result<(String, bool), tokio::task::JoinError>) {
        match ended {
            Ok((uid, _)) => {
                self.held.remove(&uid);
                self.shared.outboxes.write().remove(&uid);
            }
            Err(error) => {
                tracing::error!(%error, "a pod's worker failed");
                self.restart_failed().await;
            }
        }
    }

    /// Gives a new worker to every pod whose worker is gone.
    async fn restart_failed(&mut self) {
        let failed: Vec<Arc<Pod>> = {
            let outboxes = self.shared.outboxes.read();
            let dead =
                |uid: &String| outboxes.get(uid).is_none_or(tokio::sync::mpsc::UnboundedSender::is_closed);
            self.held.iter().filter(|(uid, _)| dead(uid)).map(|(_, h)| h.pod.clone()).collect()
        };
        let mut found = look(&self.shared).await.map(|(found, _)| found).unwrap_or_default();
        // What breaks one worker may break the next as well.
        tokio::time::sleep(Duration::from_secs(1)).await;
        for pod in failed {
            let state = found.remove(pod.uid()).unwrap_or_default();
            self.start(pod, state, None, false);
        }
    }

    /// Ends and removes what the runtime has of a pod that the API does not know.
    fn clear_orphan(&self, uid: String, state: PodState) {
        let shared = self.shared.clone();
        self.clearing.push(Box::pin(async move {
            tracing::info!(pod = uid, "ending a pod that is in the API no more");
            let grace = grace_of(&shared, &uid).await;
            let running = state.containers.iter().filter(|c| c.running());
            let stops = running.map(|c| shared.runtime.stop_container(&c.id, grace));
            futures::future::join_all(stops).await;
            for sandbox in &state.sandboxes {
                let _ = shared.runtime.stop_sandbox(&sandbox.id).await;
                let _ = shared.network.detach(&sandbox.id).await;
                if let Err(error) = shared.runtime.remove_sandbox(&sandbox.id).await {
                    tracing::warn!(sandbox = sandbox.id, %error, "a forgotten sandbox was not removed");
                }
            }
            let root = shared.config.root_dir.clone();
            let cleared = tokio::task::spawn_blocking(move || clear_folders(&root, |other| other == uid));
            let _ = cleared.await;
        }));
    }

    /// Removes folders of pods that nobody has.
    fn clear_folders(&self) {
        let held: HashSet<String> = self.held.keys().cloned().collect();
        let root = self.shared.config.root_dir.clone();
        self.clearing.push(Box::pin(async move {
            let clear = move || clear_folders(&root, |uid| !held.contains(uid));
            let _ = tokio::task::spawn_blocking(clear).await;
        }));
    }
}

/// The grace period of a pod that only the runtime remembers.
async fn grace_of(shared: &Shared, uid: &str) -> Duration {
    let sandboxes = shared.runtime.list_sandboxes().await.unwrap_or_default();
    let of_pod = |s: &&SandboxStatus| s.labels.get(label::POD_UID).is_some_and(|u| u == uid);
    let labelled = sandboxes.iter().find(of_pod).and_then(|s| s.labels.get(label::POD_GRACE)?.parse().ok());
    Duration::from_secs(labelled.unwrap_or(1).min(ORPHAN_GRACE))
}

/// Removes volumes, files and logs of the pods that are `unwanted`. Blocks on the disk.
fn clear_folders(root: &Path, unwanted: impl Fn(&str) -> bool) {
    for entry in std::fs::read_dir(root.join("pods")).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let uid = name.to_string_lossy();
        if unwanted(&uid)
            && let Err(error) =
                volumes::tear_down(root, &uid).and_then(|()| volumes::remove_folder(&entry.path()))
        {
            tracing::warn!(pod = %uid, error = error.chain(), "a forgotten pod's files were not removed");
        }
    }
    for entry in std::fs::read_dir(root.join("logs/pods")).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.rsplit('_').next().is_some_and(&unwanted)
            && let Err(error) = volumes::remove_folder(&entry.path())
        {
            tracing::warn!(folder = %name, error = error.chain(), "a forgotten pod's logs were not removed");
        }
    }
}
