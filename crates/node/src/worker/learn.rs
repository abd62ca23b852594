//! How news change what a worker knows. It starts nothing: the next round decides what follows.

use super::{
    Message, Worker,
    steps::{Failed, Learnt, Outcome},
};
use crate::{
    back_off::BackOff,
    plan::{Failure, Key, Probed},
    pod::PodExt,
    pod_files::{self, termination_message},
    pod_state::{Container, PodState},
    probes::Found,
    resize,
};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use orlop_runtime::ContainerState;
use std::{sync::Arc, time::Duration};

/// Delays between tries of a step that fails.
const FIRST_RETRY: Duration = Duration::from_millis(500);
const LAST_RETRY: Duration = Duration::from_secs(16);
/// How soon it is looked again whether there is room for a resize.
const RESIZE_AGAIN: Duration = Duration::from_secs(5);

fn revision(pod: &Pod) -> Option<u64> {
    pod.metadata.resource_version.as_deref()?.parse().ok()
}

impl Worker {
    /// Takes over what runs of the pod from an agent that is gone.
    pub(super) fn adopt(&mut self) {
        let statuses = self.pod.status.clone().unwrap_or_default();
        let lists = [
            statuses.init_container_statuses,
            statuses.container_statuses,
            statuses.ephemeral_container_statuses,
        ];
        let all = lists.into_iter().flatten().flatten();
        let now = self.shared.now();
        for status in all {
            match self.state.newest(&status.name).cloned() {
                Some(container) => self.adopt_container(&container, &status, now),
                // It ran, says the API, but the runtime knows nothing of it (any more).
                None => self.state.containers.extend(lost(&self.pod, &status, now)),
            }
        }
    }

    /// What the pod asks for now is looked at; gives the time at which to look again.
    pub(super) fn consider_resize(&mut self) -> Option<Timestamp> {
        if self.termination.is_some() || !resize::differs(&self.pod, &self.known.given) {
            self.known.pending = None;
            return None;
        }
        let others = self.shared.others(self.pod.uid());
        let began = self.pod.status.as_ref().is_some_and(|s| s.container_statuses.is_some());
        match resize::judge(&self.pod, &others, &self.shared.capacity.allocatable) {
            Ok(()) => {
                self.known.given = resize::wanted(&self.pod);
                self.known.pending = None;
                self.known.failures.retain(|key, _| !matches!(key, Key::Resize(_)));
                if began {
                    let summary = resize::summary(&self.pod, &self.known.given);
                    self.events.normal(None, "ResizeStarted", format!("Pod resize started: {summary}"));
                }
                None
            }
            Err(pending) => {
                if self.known.pending.as_ref() != Some(&pending) {
                    let event =
                        if pending.reason == "Deferred" { "ResizeDeferred" } else { "ResizeInfeasible" };
                    let summary = resize::summary(&self.pod, &resize::wanted(&self.pod));
                    let message = format!(
                        "Pod resize {}: {summary}: {}",
                        pending.reason.to_lowercase(),
                        pending.message
                    );
                    self.events.warning(None, event, message);
                }
                self.known.pending = Some(pending);
                Some(self.shared.now() + RESIZE_AGAIN)
            }
        }
    }

    /// Tells when the last container has what it was promised.
    fn resized(&mut self) {
        let reported = self.acked.conditions.iter().flatten().any(|c| c.type_ == "PodResizeInProgress");
        let known = &self.known;
        let open = |c: &Container| c.running() && known.resizing(&c.name, &c.id).is_some();
        let changed = self.acked.container_statuses.iter().flatten().any(|s| {
            let id = s.container_id.as_deref().and_then(|id| id.strip_prefix("orlop://"));
            s.resources.is_some() && s.resources.as_ref() != id.and_then(|id| known.applied.get(id))
        });
        if (reported || changed) && !self.state.containers.iter().any(open) {
            let summary = resize::summary(&self.pod, &self.known.given);
            self.events.normal(None, "ResizeCompleted", format!("Pod resize completed: {summary}"));
        }
    }

    fn adopt_container(&mut self, container: &Container, status: &ContainerStatus, now: Timestamp) {
        if container.attempt > 0 {
            let backoff = BackOff::after_failures(container.attempt, container.finished_at.unwrap_or(now));
            self.known.crashes.insert(container.name.clone(), backoff);
        }
        let same = status.container_id.as_deref() == Some(&format!("orlop://{}", container.id));
        if same && container.running() {
            self.known.applied.insert(container.id.clone(), status.resources.clone().unwrap_or_default());
            let probed = Probed {
                container_id: container.id.clone(),
                started: status.started == Some(true),
                ready: status.ready,
                failed: None,
            };
            self.known.probes.insert(container.name.clone(), probed);
        }
    }

    /// Takes in news.
    pub(super) async fn take(&mut self, message: Message) {
        match message {
            Message::Pod(pod) => self.take_pod(pod),
            Message::Gone => self.gone = true,
            Message::Exited(id) => self.refresh(&id).await,
            Message::SandboxLost(id) => {
                if let Some(sandbox) = self.state.sandboxes.iter_mut().find(|s| s.id == id) {
                    sandbox.ready = false;
                }
                let inside: Vec<String> = self
                    .state
                    .containers
                    .iter()
                    .filter(|c| c.sandbox_id == id && !c.exited())
                    .map(|c| c.id.clone())
                    .collect();
                for container in inside {
                    self.refresh(&container).await;
                }
                self.events.normal(
                    None,
                    "SandboxChanged",
                    "Pod sandbox changed, it will be killed and re-created.",
                );
            }
            Message::Finding(finding) => {
                let probed = self.known.probes.get_mut(&finding.container);
                if let Some(probed) = probed.filter(|p| p.container_id == finding.container_id) {
                    match finding.what {
                        Found::Started => probed.started = true,
                        Found::Ready(ready) => probed.ready = ready,
                        Found::Failed(why) => probed.failed = Some(why),
                    }
                }
            }
            Message::ObjectsChanged => self.refresh_volumes(),
            Message::Evict(evicted) => {
                if self.termination.is_none() {
                    self.evicted = Some(evicted.grace);
                    self.why = Some(("Evicted".into(), evicted.message));
                }
            }
            Message::Resync(state) => self.resync(state).await,
        }
    }

    /// The volumes, and whatever failed for want of an object, are looked at again.
    fn refresh_volumes(&mut self) {
        self.known.refresh_at = Some(self.shared.now());
        self.known.failures.retain(|key, _| !matches!(key, Key::Mount | Key::Start(_)));
    }

    fn take_pod(&mut self, pod: Arc<Pod>) {
        if pod.uid() != self.pod.uid() || revision(&pod) < revision(&self.pod) {
            return;
        }
        let shown = |p: &Pod| (p.metadata.labels.clone(), p.metadata.annotations.clone());
        if shown(&pod) != shown(&self.pod) {
            self.refresh_volumes();
        }
        if pod.spec != self.pod.spec {
            let references = super::container::references(&pod);
            self.shared.objects.using(pod.namespace(), pod.uid(), &references);
            // A new image may well be there.
            self.known.failures.retain(|key, _| !matches!(key, Key::Pull(_) | Key::Start(_)));
            self.known.images.clear();
        }
        self.acked = pod.status.clone().unwrap_or_default();
        self.pod = pod;
    }

    /// Asks the runtime how a container is.
    pub(super) async fn refresh(&mut self, id: &str) {
        match self.shared.runtime.container_status(id).await {
            Ok(status) => {
                self.put(status.into());
                self.read_message(id).await;
            }
            Err(orlop_runtime::Error::NotFound { .. }) => self.state.containers.retain(|c| c.id != id),
            Err(error) => tracing::warn!(container = id, %error, "a container's status is not known"),
        }
    }

    /// Puts in what was learnt about a container. What has ended does not come back.
    fn put(&mut self, container: Container) {
        let ended = self.state.containers.iter().any(|c| c.id == container.id && c.exited());
        if !ended || container.exited() {
            self.state.put(container);
        }
    }

    /// Reads what a container that has ended left as its last word, once.
    pub(super) async fn read_message(&mut self, id: &str) {
        let Some(container) = self.state.containers.iter().find(|c| c.id == id && c.exited()).cloned() else {
            return;
        };
        if self.messages.contains_key(id) {
            return;
        }
        let spec = self.pod.container(&container.name);
        let policy = spec.as_ref().and_then(|s| s.termination_message_policy.as_deref());
        let from_log = policy == Some("FallbackToLogsOnError") && container.exit_code != 0;
        let log = from_log.then(|| {
            let folder = pod_files::log_folder(&self.shared.config.root_dir, &self.pod);
            folder.join(pod_files::log_file(&container.name, container.attempt))
        });
        let file = container.message_file;
        let read = move || termination_message(file.as_deref(), log.as_deref());
        let message = tokio::task::spawn_blocking(read).await.unwrap_or_default();
        self.messages.insert(id.into(), message);
    }

    /// Compares with what the runtime has. The comparison may be older than what is known here: what it does not hold is asked
    /// for anew, and what has ended does not come back.
    async fn resync(&mut self, found: PodState) {
        for container in &found.containers {
            let id = container.id.clone();
            self.put(container.clone());
            self.read_message(&id).await;
        }
        for mut sandbox in found.sandboxes.clone() {
            sandbox.ready &= !self.known.stopped.contains(&sandbox.id);
            self.state.put_sandbox(sandbox);
        }
        // Records that only the API remembers are in no sandbox.
        let missing =
            |c: &&Container| !c.sandbox_id.is_empty() && !found.containers.iter().any(|f| f.id == c.id);
        let missing: Vec<String> =
            self.state.containers.iter().filter(missing).map(|c| c.id.clone()).collect();
        for id in missing {
            self.refresh(&id).await;
        }
        if self.state.sandboxes.iter().any(|s| !found.sandboxes.iter().any(|f| f.id == s.id))
            && let Ok(now) = self.shared.runtime.list_sandboxes().await
        {
            self.state.sandboxes.retain(|s| now.iter().any(|f| f.id == s.id));
        }
    }

    /// Takes in how a step went.
    pub(super) async fn learn(&mut self, outcome: Outcome) {
        match outcome {
            Outcome::Status(result) => self.learn_status(result),
            Outcome::Step(key, result) => {
                self.finish(&key);
                match *result {
                    Ok(learnt) => {
                        self.known.failures.remove(&key);
                        self.apply(learnt).await;
                    }
                    Err(failed) => self.fail(key, failed).await,
                }
            }
        }
    }

    fn finish(&mut self, key: &Key) {
        self.known.in_flight.remove(key);
        if let Key::Start(name) = key {
            // The next start looks for its image anew.
            self.known.images.remove(name);
        }
    }

    fn learn_status(&mut self, result: Result<Box<Pod>, Box<kube::Error>>) {
        self.patching = false;
        match result {
            Ok(pod) => {
                self.patch_after = None;
                self.take_pod(Arc::from(pod));
            }
            Err(error) => {
                // Gone or replaced: the watch will say so.
                self.patch_after = Some(self.shared.now() + Duration::from_secs(1));
                tracing::debug!(pod = self.pod.name(), %error, "a pod's status was not written");
            }
        }
    }

    async fn fail(&mut self, key: Key, failed: Failed) {
        if let Some(container) = failed.container {
            let id = container.id.clone();
            self.put(container);
            self.read_message(&id).await;
        }
        if failed.cancelled {
            return;
        }
        tracing::debug!(pod = self.pod.name(), step = ?key, why = failed.message, "a step failed");
        let times = self.known.failures.get(&key).map_or(0, |f| f.times);
        let delay = FIRST_RETRY.saturating_mul(1 << times.min(16)).min(LAST_RETRY);
        let retry_at = failed.retry_at.unwrap_or_else(|| self.shared.now() + delay);
        let failure = Failure {
            reason: failed.reason,
            message: failed.message,
            times: times.saturating_add(1),
            retry_at,
        };
        self.known.failures.insert(key, failure);
    }

    async fn apply(&mut self, learnt: Learnt) {
        match learnt {
            Learnt::Sandbox(sandbox) => self.state.put_sandbox(sandbox),
            Learnt::Linked { sandbox, addresses } => {
                let id = sandbox.id.clone();
                self.state.put_sandbox(sandbox);
                self.known.addresses.insert(id, addresses);
            }
            Learnt::Mounted { refresh_at, begun } => {
                self.known.mounted = true;
                self.known.unmounted = false;
                // What changed while the volumes were being made is not in them.
                if self.known.refresh_at.is_none_or(|at| at <= begun) {
                    self.known.refresh_at = refresh_at;
                }
            }
            Learnt::Unmounted => {
                self.known.mounted = false;
                self.known.unmounted = true;
            }
            Learnt::Image { container, image } => {
                self.known.images.insert(container, image);
            }
            Learnt::Container(container) => {
                let id = container.id.clone();
                self.known.stopping.remove(&id);
                self.put(*container);
                self.read_message(&id).await;
            }
            Learnt::Started { container, resources } => {
                let id = container.id.clone();
                self.known.applied.insert(id.clone(), *resources);
                self.put(*container);
                self.read_message(&id).await;
                self.resized();
            }
            Learnt::Resized { id, resources } => {
                self.known.applied.insert(id, *resources);
                self.resized();
            }
            Learnt::Killed(id) => {
                // It has no time left that could be taken from it.
                self.known.stopping.insert(id, Timestamp::MIN);
            }
            Learnt::ContainerRemoved(id) => {
                self.messages.remove(&id);
                self.known.stopping.remove(&id);
                self.known.applied.remove(&id);
                self.state.containers.retain(|c| c.id != id);
            }
            Learnt::SandboxStopped { id, containers } => {
                for container in containers {
                    let id = container.id.clone();
                    self.put(container);
                    self.read_message(&id).await;
                }
                if let Some(sandbox) = self.state.sandboxes.iter_mut().find(|s| s.id == id) {
                    sandbox.ready = false;
                }
                self.known.stopped.insert(id);
            }
            Learnt::SandboxRemoved(id) => {
                self.state.containers.retain(|c| c.sandbox_id != id);
                self.state.sandboxes.retain(|s| s.id != id);
                self.known.addresses.remove(&id);
                self.known.stopped.remove(&id);
            }
            Learnt::Deleted => self.known.deleted = true,
            Learnt::Nothing => {}
        }
    }
}

/// A record of a container that the API knows and the runtime does not. One that had ended ended as the API says; one that ran
/// was lost.
fn lost(pod: &Pod, status: &ContainerStatus, now: Timestamp) -> Option<Container> {
    let id = status.container_id.as_deref()?.strip_prefix("orlop://")?;
    let ended = status.state.as_ref().and_then(|s| s.terminated.as_ref());
    let ended = ended.or(status.last_state.as_ref().and_then(|s| s.terminated.as_ref()));
    let running = status.state.as_ref().and_then(|s| s.running.as_ref());
    let known = ended.filter(|_| running.is_none());
    Some(Container {
        id: id.into(),
        sandbox_id: String::new(),
        name: status.name.clone(),
        attempt: u32::try_from(status.restart_count).unwrap_or(0),
        hash: String::new(),
        image: status.image.clone(),
        image_digest: status.image_id.clone(),
        state: ContainerState::Exited,
        created_at: pod.metadata.creation_timestamp.as_ref().map(|t| t.0),
        started_at: running
            .and_then(|r| r.started_at.as_ref())
            .or(known.and_then(|t| t.started_at.as_ref()))
            .map(|t| t.0),
        finished_at: known.and_then(|t| t.finished_at.as_ref()).map_or(Some(now), |t| Some(t.0)),
        exit_code: known.map_or(137, |t| t.exit_code),
        signal: known.and_then(|t| t.signal).unwrap_or(0),
        reason: known.and_then(|t| t.reason.clone()).unwrap_or_else(|| "ContainerStatusUnknown".into()),
        message: known.map_or_else(
            || "The container could not be located when the pod was terminated".into(),
            |t| t.message.clone().unwrap_or_default(),
        ),
        message_file: None,
        log_path: Default::default(),
    })
}
