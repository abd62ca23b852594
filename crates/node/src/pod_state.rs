//! What runs of a pod: the runtime's sandboxes and containers, read back from the labels that the agent put on them. That is
//! all the agent remembers over its own death. It changes nothing.

use crate::pod::PodExt;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container as ContainerSpec, Pod};
use orlop_runtime::{ContainerState, ContainerStatus, SandboxStatus};
use std::{
    collections::BTreeMap,
    hash::{DefaultHasher, Hash, Hasher},
    path::PathBuf,
};

/// Labels on sandboxes and containers.
pub(crate) mod label {
    pub const POD_NAME: &str = "io.kubernetes.pod.name";
    pub const POD_NAMESPACE: &str = "io.kubernetes.pod.namespace";
    pub const POD_UID: &str = "io.kubernetes.pod.uid";
    pub const POD_GRACE: &str = "io.kubernetes.pod.terminationGracePeriod";
    pub const SANDBOX_ATTEMPT: &str = "io.kubernetes.pod.attempt";
    pub const CONTAINER_NAME: &str = "io.kubernetes.container.name";
    pub const RESTART_COUNT: &str = "io.kubernetes.container.restartCount";
    pub const HASH: &str = "io.kubernetes.container.hash";
    pub const IMAGE: &str = "io.kubernetes.container.image";
    pub const IMAGE_DIGEST: &str = "io.kubernetes.container.imageID";
    pub const MESSAGE_FILE: &str = "io.kubernetes.container.terminationMessageFile";
}

/// A sandbox of a pod.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Sandbox {
    pub id: String,
    pub attempt: u32,
    pub ready: bool,
    pub netns: Option<PathBuf>,
}

/// A container of a pod: one try of one of its container specs.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Container {
    pub id: String,
    pub sandbox_id: String,
    pub name: String,
    pub attempt: u32,
    pub hash: String,
    pub image: String,
    pub image_digest: String,
    pub state: ContainerState,
    pub created_at: Option<Timestamp>,
    pub started_at: Option<Timestamp>,
    pub finished_at: Option<Timestamp>,
    pub exit_code: i32,
    pub signal: i32,
    pub reason: String,
    pub message: String,
    pub message_file: Option<PathBuf>,
    pub log_path: PathBuf,
}

/// All of a pod that the runtime has.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct PodState {
    pub sandboxes: Vec<Sandbox>,
    pub containers: Vec<Container>,
}

fn time(nanoseconds: i64) -> Option<Timestamp> {
    if nanoseconds == 0 {
        return None;
    }
    Timestamp::from_nanosecond(nanoseconds.into()).ok()
}

fn number(labels: &BTreeMap<String, String>, name: &str) -> u32 {
    labels.get(name).and_then(|v| v.parse().ok()).unwrap_or(0)
}

fn text(labels: &BTreeMap<String, String>, name: &str) -> String {
    labels.get(name).cloned().unwrap_or_default()
}

impl From<SandboxStatus> for Sandbox {
    fn from(s: SandboxStatus) -> Self {
        Self { attempt: number(&s.labels, label::SANDBOX_ATTEMPT), id: s.id, ready: s.ready, netns: s.netns }
    }
}

impl From<ContainerStatus> for Container {
    fn from(s: ContainerStatus) -> Self {
        let l = &s.labels;
        let mut container = Self {
            name: text(l, label::CONTAINER_NAME),
            attempt: number(l, label::RESTART_COUNT),
            hash: text(l, label::HASH),
            image: text(l, label::IMAGE),
            image_digest: text(l, label::IMAGE_DIGEST),
            message_file: l.get(label::MESSAGE_FILE).map(PathBuf::from),
            id: s.id,
            sandbox_id: s.sandbox_id,
            state: s.state,
            created_at: time(s.created_at),
            started_at: time(s.started_at),
            finished_at: time(s.finished_at),
            exit_code: s.exit_code,
            signal: s.signal,
            reason: s.reason,
            message: s.message,
            log_path: s.log_path,
        };
        if s.state == ContainerState::Unknown {
            // How it ended will never be known: the kubelet's words for that.
            container.state = ContainerState::Exited;
            container.exit_code = 137;
            container.reason = "ContainerStatusUnknown".into();
            container.message = "The container could not be located when the pod was terminated".into();
        }
        container
    }
}

impl Container {
    pub fn running(&self) -> bool {
        self.state == ContainerState::Running
    }

    pub fn exited(&self) -> bool {
        self.state == ContainerState::Exited
    }
}

impl PodState {
    /// The sandbox that new containers go into: the newest, if it is ready.
    pub fn current_sandbox(&self) -> Option<&Sandbox> {
        self.newest_sandbox().filter(|s| s.ready)
    }

    /// The sandbox made last, ready or not.
    pub fn newest_sandbox(&self) -> Option<&Sandbox> {
        self.sandboxes.iter().max_by_key(|s| s.attempt)
    }

    /// The last try of a container.
    pub fn newest(&self, name: &str) -> Option<&Container> {
        self.containers.iter().filter(|c| c.name == name).max_by_key(|c| c.attempt)
    }

    /// The last try of a container before another one.
    pub fn before(&self, other: &Container) -> Option<&Container> {
        let earlier = |c: &&Container| c.name == other.name && c.attempt < other.attempt;
        self.containers.iter().filter(earlier).max_by_key(|c| c.attempt)
    }

    /// Puts in what was learnt about a container.
    pub fn put(&mut self, container: Container) {
        match self.containers.iter_mut().find(|c| c.id == container.id) {
            Some(here) => *here = container,
            None => self.containers.push(container),
        }
    }

    /// Puts in what was learnt about a sandbox.
    pub fn put_sandbox(&mut self, sandbox: Sandbox) {
        match self.sandboxes.iter_mut().find(|s| s.id == sandbox.id) {
            Some(here) => *here = sandbox,
            None => self.sandboxes.push(sandbox),
        }
    }
}

/// The runtime's name for a try of a pod's sandbox. The same try has the same name, so making it twice is seen.
pub(crate) fn sandbox_id(pod: &Pod, attempt: u32) -> String {
    format!("{}_{attempt}", pod.uid())
}

/// The runtime's name for a try of a container.
pub(crate) fn container_id(pod: &Pod, name: &str, attempt: u32) -> String {
    format!("{}_{name}_{attempt}", pod.uid())
}

/// The uid of the pod that a sandbox belongs to, from the sandbox's name.
pub(crate) fn uid_of_sandbox(id: &str) -> &str {
    id.rsplit_once('_').map_or(id, |(uid, _)| uid)
}

/// Changes when the container must be replaced to follow its spec. As in the kubelet, only name and image count: all
/// else that may change in place (resources) does not need a restart.
pub(crate) fn spec_hash(spec: &ContainerSpec) -> String {
    let mut hasher = DefaultHasher::new();
    (&spec.name, &spec.image).hash(&mut hasher);
    format!("{:x}", hasher.finish())
}

/// Sorts what the runtime has by pod uid.
pub(crate) fn by_pod(
    sandboxes: Vec<SandboxStatus>,
    containers: Vec<ContainerStatus>,
) -> BTreeMap<String, PodState> {
    let mut pods: BTreeMap<String, PodState> = BTreeMap::new();
    for sandbox in sandboxes {
        let uid = text(&sandbox.labels, label::POD_UID);
        if !uid.is_empty() {
            pods.entry(uid).or_default().sandboxes.push(sandbox.into());
        }
    }
    for container in containers {
        let uid = text(&container.labels, label::POD_UID);
        if !uid.is_empty() {
            pods.entry(uid).or_default().containers.push(container.into());
        }
    }
    pods
}
