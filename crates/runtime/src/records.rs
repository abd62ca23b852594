//! What the agent writes down about sandboxes and containers before it acts, and what their shims read.

use crate::{ContainerSpec, SandboxSpec, image::RootfsMount, protocol::LogLimits};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// A sandbox: [`crate::layout::SANDBOX_RECORD`].
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct SandboxRecord {
    /// As asked for.
    pub spec: SandboxSpec,
    /// Nanoseconds since the epoch.
    pub created_at: i64,
    /// The runtime's folder at the top of the cgroup hierarchies.
    pub cgroup_root: PathBuf,
    /// How far it has come.
    pub phase: SandboxPhase,
}

impl SandboxRecord {
    /// The group that holds all of its containers.
    pub fn cgroup(&self) -> PathBuf {
        self.cgroup_root.join(self.spec.cgroup_parent.trim_matches('/'))
    }
}

/// How far a sandbox has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum SandboxPhase {
    /// Nobody has been told that it is there: after a crash it is removed.
    #[default]
    Making,
    /// It is, or was, there.
    Made,
    /// It is not to be used any more.
    Stopped,
}

/// A container: [`crate::layout::CONTAINER_RECORD`].
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ContainerRecord {
    /// As asked for.
    pub spec: ContainerSpec,
    /// Nanoseconds since the epoch.
    pub created_at: i64,
    /// Its sandbox's folder.
    pub sandbox_folder: PathBuf,
    /// Its group, relative to the top of the hierarchies.
    pub cgroup: PathBuf,
    /// Its root file system.
    pub rootfs: RootfsMount,
    /// Who the image wants to run as.
    pub image_user: String,
    /// What asks it to end.
    pub stop_signal: i32,
    /// Whole path of its log.
    pub log_path: PathBuf,
    /// When that is put aside.
    pub log_limits: LogLimits,
    /// Whether it has a process namespace of its own.
    pub own_pid_namespace: bool,
    /// Devices that its cgroup allows (`c 1:3 rwm`); all, if there is none.
    pub device_rules: Option<Vec<String>>,
}
