//! The contract between the node agent and a container runtime, in the nouns of the Kubernetes CRI
//! (k8s.io/cri-api `RuntimeService` and `ImageService`), as plain structs.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    pin::Pin,
    time::Duration,
};
use tokio::io::{AsyncRead, AsyncWrite};

/// A sandbox to make: the namespaces that a pod's containers share.
#[derive(Clone, Debug, Default, serde::Serialize, serde::Deserialize)]
pub struct SandboxSpec {
    /// The runtime's name for the sandbox; the agent chooses it (unique, a path segment).
    pub id: String,
    /// For people and for finding it again: pod namespace, name, uid, attempt. Stored, never interpreted.
    pub labels: BTreeMap<String, String>,
    /// Host name inside; `None` with the host's network keeps the host's.
    pub hostname: Option<String>,
    /// Use the host's network, process or IPC namespace instead of an own one.
    pub host_network: bool,
    /// See `host_network`.
    pub host_pid: bool,
    /// See `host_network`.
    pub host_ipc: bool,
    /// One process namespace for all containers of the sandbox (its init is the shim's own tiny one).
    pub share_pid: bool,
    /// Kernel parameters of the sandbox's namespaces, `net.ipv4.ip_unprivileged_port_start=0`.
    pub sysctls: BTreeMap<String, String>,
    /// Where the sandbox's containers live in the cgroup tree, relative to the runtime's root: `burstable/podUID`.
    pub cgroup_parent: String,
    /// Limits for all containers together.
    pub resources: Resources,
    /// Folder for container logs (CRI log format).
    pub log_directory: PathBuf,
}

/// Limits of a container or sandbox.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Resources {
    /// CFS quota in microseconds per `cpu_period`; 0 is no limit.
    pub cpu_quota: i64,
    /// CFS period in microseconds; 0 is the kernel's 100 ms.
    pub cpu_period: u64,
    /// Relative weight as in cgroup v1 (2 to 262,144); 0 leaves the default. Translated for v2.
    pub cpu_shares: u64,
    /// Memory limit in bytes; 0 is none.
    pub memory_limit: i64,
    /// Most processes and threads; 0 is no limit.
    pub pids_limit: i64,
    /// `oom_score_adj` of the processes.
    pub oom_score_adj: Option<i32>,
    /// cpuset, as "0-3,5"; empty is all.
    pub cpuset_cpus: String,
    /// Huge page limits: page size ("2MB") to bytes.
    pub hugepage_limits: BTreeMap<String, u64>,
}

/// How a mount passes on mounts made later.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Propagation {
    /// None either way.
    #[default]
    Private,
    /// From the host into the container.
    HostToContainer,
    /// Both ways.
    Bidirectional,
}

/// A host path bound into a container.
#[derive(Clone, Debug, Default, serde::Serialize, serde::Deserialize)]
pub struct Mount {
    /// On the host. Must exist.
    pub host_path: PathBuf,
    /// In the container.
    pub container_path: PathBuf,
    /// No writing.
    pub read_only: bool,
    /// Later mounts.
    pub propagation: Propagation,
}

/// A device node made in a container.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub struct Device {
    /// On the host.
    pub host_path: PathBuf,
    /// In the container.
    pub container_path: PathBuf,
    /// Of `r`, `w`, `m`.
    pub permissions: String,
}

/// A seccomp profile.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize, serde::Deserialize)]
pub enum Seccomp {
    /// The runtime's default profile.
    #[default]
    RuntimeDefault,
    /// No filter.
    Unconfined,
    /// A profile in the OCI runtime-spec's JSON form, on the host.
    Localhost(PathBuf),
}

/// Who a container runs as. What is not set comes from the image.
#[derive(Clone, Debug, Default, serde::Serialize, serde::Deserialize)]
pub struct User {
    /// Numeric user.
    pub uid: Option<u32>,
    /// Numeric group.
    pub gid: Option<u32>,
    /// More groups, besides those that the image's /etc/group gives.
    pub supplemental_groups: Vec<u32>,
}

/// A container's confinement.
#[derive(Clone, Debug, Default, serde::Serialize, serde::Deserialize)]
pub struct Security {
    /// Everything is allowed, all devices are there.
    pub privileged: bool,
    /// Capabilities to add to the default set, without `CAP_` (`ALL` is all).
    pub capabilities_add: Vec<String>,
    /// Capabilities to drop (`ALL` is all).
    pub capabilities_drop: Vec<String>,
    /// Root file system is read-only.
    pub read_only_rootfs: bool,
    /// `allowPrivilegeEscalation: false`.
    pub no_new_privileges: bool,
    /// System-call filter.
    pub seccomp: Seccomp,
    /// Do not mask or make read-only the usual paths of /proc and /sys (`procMount: Unmasked`).
    pub unmasked_proc: bool,
    /// Identity.
    pub user: User,
}

/// A container to make.
#[derive(Clone, Debug, Default, serde::Serialize, serde::Deserialize)]
pub struct ContainerSpec {
    /// The runtime's name for the container; the agent chooses it (unique, a path segment).
    pub id: String,
    /// The sandbox it belongs to.
    pub sandbox_id: String,
    /// Stored, never interpreted: container name, attempt, a hash of the spec.
    pub labels: BTreeMap<String, String>,
    /// The image's id (config digest), as [`Images::resolve`] returned it.
    pub image_id: String,
    /// Replaces the image's entrypoint if not empty. Then the image's cmd is ignored too (Kubernetes' rule).
    pub command: Vec<String>,
    /// Replaces the image's cmd if not empty.
    pub args: Vec<String>,
    /// Over the image's directory.
    pub working_dir: Option<String>,
    /// After the image's variables, in order; a later one of the same name wins.
    pub env: Vec<(String, String)>,
    /// Bind mounts. `/etc/hosts`, `/etc/resolv.conf` and the like come in here too.
    pub mounts: Vec<Mount>,
    /// Device nodes.
    pub devices: Vec<Device>,
    /// Limits.
    pub resources: Resources,
    /// Confinement.
    pub security: Security,
    /// A running container of the same sandbox whose processes it sees (CRI: namespace mode `TARGET`).
    #[serde(default)]
    pub processes_of: Option<String>,
    /// Log file below the sandbox's log folder: `NAME/0.log`.
    pub log_path: PathBuf,
    /// Give it a terminal.
    pub tty: bool,
    /// Keep standard input open for attach.
    pub stdin: bool,
    /// Close standard input when the first attached client leaves.
    pub stdin_once: bool,
}

/// Where in its life a container is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum ContainerState {
    /// Made, not started.
    Created,
    /// Its process runs.
    Running,
    /// Its process has ended, or never could start.
    Exited,
    /// The shim is gone without leaving word.
    Unknown,
}

/// A container as it is.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub struct ContainerStatus {
    /// The runtime's name.
    pub id: String,
    /// Its sandbox.
    pub sandbox_id: String,
    /// As in the spec.
    pub labels: BTreeMap<String, String>,
    /// As in the spec.
    pub image_id: String,
    /// Where in its life it is.
    pub state: ContainerState,
    /// Nanoseconds since the epoch; 0 is "not yet".
    pub created_at: i64,
    /// See `created_at`.
    pub started_at: i64,
    /// See `created_at`.
    pub finished_at: i64,
    /// Exit code; 128 + n where signal n ended it.
    pub exit_code: i32,
    /// The signal that ended it, or 0.
    pub signal: i32,
    /// `Completed`, `Error`, `OOMKilled`, `StartError`, `ContainerCannotRun`.
    pub reason: String,
    /// For people: why it could not start.
    pub message: String,
    /// Process id on the host while it runs, else 0.
    pub pid: i32,
    /// Its log file.
    pub log_path: PathBuf,
}

/// A sandbox as it is.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub struct SandboxStatus {
    /// The runtime's name.
    pub id: String,
    /// As in the spec.
    pub labels: BTreeMap<String, String>,
    /// Whether its namespaces and its shim are there.
    pub ready: bool,
    /// Nanoseconds since the epoch.
    pub created_at: i64,
    /// Its network namespace, pinned; `None` with the host's network.
    pub netns: Option<PathBuf>,
}

/// What the runtime tells the agent unasked. Events may be lost when the agent is down: compare with `list_containers`
/// after (re)connecting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RuntimeEvent {
    /// A container's main process has ended; its status is final.
    Exited {
        /// Its sandbox.
        sandbox_id: String,
        /// The container.
        container_id: String,
    },
    /// A shim is gone without being asked to: the sandbox is not ready any more.
    SandboxLost {
        /// The sandbox.
        sandbox_id: String,
    },
}

/// A byte stream in one direction or both.
pub type Reader = Pin<Box<dyn AsyncRead + Send>>;
/// See [`Reader`].
pub type Writer = Pin<Box<dyn AsyncWrite + Send>>;

/// What to run in a running container.
#[derive(Clone, Debug, Default, serde::Serialize, serde::Deserialize)]
pub struct ExecSpec {
    /// Program and arguments; not a shell line.
    pub command: Vec<String>,
    /// Give it a terminal; then there is no stderr apart.
    pub tty: bool,
    /// Whether standard input is wanted.
    pub stdin: bool,
    /// Whether standard output is wanted.
    pub stdout: bool,
    /// Whether standard error is wanted (ignored with a terminal).
    pub stderr: bool,
}

/// Terminal size in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct TerminalSize {
    /// Columns.
    pub width: u16,
    /// Rows.
    pub height: u16,
}

/// How an exec ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExitStatus {
    /// Exit code; 128 + n where signal n ended it.
    pub code: i32,
}

/// Streams to a process in a container: an exec, or the main process (attach).
pub struct Session {
    /// Its standard input, if asked for. Dropping it closes the process's input.
    pub stdin: Option<Writer>,
    /// Its standard output (all output, with a terminal).
    pub stdout: Option<Reader>,
    /// Its standard error.
    pub stderr: Option<Reader>,
    /// Terminal sizes go in here.
    pub resize: tokio::sync::mpsc::Sender<TerminalSize>,
    /// Resolves when the process has ended.
    pub exit: Pin<Box<dyn Future<Output = Result<ExitStatus, Error>> + Send>>,
}

/// The outcome of a command that was run to its end.
#[derive(Clone, Debug, Default)]
pub struct ExecOutput {
    /// What it wrote, at most 16 KiB of each, the rest is dropped (probes need no more).
    pub stdout: Vec<u8>,
    /// See `stdout`.
    pub stderr: Vec<u8>,
    /// Exit code.
    pub code: i32,
}

/// What a container uses now.
#[derive(Clone, Copy, Debug, Default, serde::Serialize, serde::Deserialize)]
pub struct Stats {
    /// Nanoseconds since the epoch of the reading.
    pub at: i64,
    /// Processor time used so far, in nanoseconds.
    pub cpu_usage_ns: u64,
    /// Memory that cannot be reclaimed (usage less inactive file pages), in bytes.
    pub memory_working_set: u64,
    /// All memory charged, in bytes.
    pub memory_usage: u64,
    /// Processes and threads.
    pub pids: u64,
}

/// An image on this machine.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub struct Image {
    /// Digest of its configuration, `sha256:…`.
    pub id: String,
    /// Normalized references with a tag (`docker.io/library/nginx:1.27`).
    pub tags: Vec<String>,
    /// References with a manifest digest (`docker.io/library/nginx@sha256:…`).
    pub digests: Vec<String>,
    /// Bytes of its layers as stored.
    pub size: u64,
    /// Numeric user of the configuration, if it is numeric.
    pub uid: Option<u32>,
    /// Named user of the configuration, if it is a name.
    pub username: Option<String>,
}

/// Credentials for a registry.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct RegistryAuth {
    /// User name.
    pub username: String,
    /// Password or token.
    pub password: String,
}

/// Why the runtime could not do it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No such sandbox, container or image.
    #[error("{what} {id} not found")]
    NotFound {
        /// `sandbox`, `container`, `image`.
        what: &'static str,
        /// Its name.
        id: String,
    },
    /// The image reference cannot be parsed (`InvalidImageName`).
    #[error("invalid image reference {reference:?}: {why}")]
    InvalidReference {
        /// As given.
        reference: String,
        /// What is wrong.
        why: String,
    },
    /// The registry says no, is down, or sent something whose digest is not right (`ErrImagePull`).
    #[error("pulling {reference}: {why}")]
    Pull {
        /// As given.
        reference: String,
        /// What went wrong, for people.
        why: String,
    },
    /// The container's process could not be started (`StartError`, exit code 128; command not found: 127-like text).
    #[error("{0}")]
    Start(String),
    /// The request does not fit the state (exec in a container that does not run, …).
    #[error("{0}")]
    State(String),
    /// It took too long.
    #[error("{0} timed out")]
    Timeout(&'static str),
    /// The archive or image is damaged.
    #[error("damaged image: {0}")]
    Damaged(String),
    /// An operation of the system failed at the named step.
    #[error("{step}")]
    Io {
        /// What was being done, with the path.
        step: String,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// The shim could not be reached or answered with an error.
    #[error("shim of sandbox {sandbox}: {why}")]
    Shim {
        /// The sandbox.
        sandbox: String,
        /// What it said.
        why: String,
    },
}

impl Error {
    /// An I/O error at a step.
    pub fn io(step: impl Into<String>, source: std::io::Error) -> Self {
        Self::Io { step: step.into(), source }
    }
}

/// Sandboxes and containers. Every call is idempotent where its outcome is already there (stopping what is stopped,
/// removing what is gone).
#[async_trait::async_trait]
pub trait ContainerRuntime: Send + Sync + 'static {
    /// Makes the namespaces, pins them, starts the shim. Returns when containers can be made in it. The network namespace is
    /// there but empty except for `lo` (up): linking it is the caller's.
    async fn run_sandbox(&self, spec: SandboxSpec) -> Result<SandboxStatus, Error>;
    /// Kills every container in it, ends the shim, unpins the namespaces. Statuses stay readable until it is removed.
    async fn stop_sandbox(&self, id: &str) -> Result<(), Error>;
    /// Removes what is left of a sandbox and its containers (stopping it first if need be). Logs stay.
    async fn remove_sandbox(&self, id: &str) -> Result<(), Error>;
    /// All sandboxes, ready or not.
    async fn list_sandboxes(&self) -> Result<Vec<SandboxStatus>, Error>;

    /// Makes a snapshot of the image and a container on it, ready to start.
    async fn create_container(&self, spec: ContainerSpec) -> Result<(), Error>;
    /// Starts its process.
    async fn start_container(&self, id: &str) -> Result<(), Error>;
    /// Sends the image's stop signal (SIGTERM by default), waits `grace`, then kills all its processes. Returns when it has exited.
    async fn stop_container(&self, id: &str, grace: Duration) -> Result<(), Error>;
    /// Sends a signal to the main process.
    async fn signal_container(&self, id: &str, signal: i32) -> Result<(), Error>;
    /// Removes a container and its snapshot (killing it first if need be). Its log stays.
    async fn remove_container(&self, id: &str) -> Result<(), Error>;
    /// All containers in all states.
    async fn list_containers(&self) -> Result<Vec<ContainerStatus>, Error>;
    /// One container.
    async fn container_status(&self, id: &str) -> Result<ContainerStatus, Error>;
    /// Changes limits of a running container.
    async fn update_container(&self, id: &str, resources: Resources) -> Result<(), Error>;
    /// Changes the limits of all containers of a sandbox together.
    async fn update_sandbox(&self, id: &str, resources: Resources) -> Result<(), Error>;
    /// What it uses.
    async fn container_stats(&self, id: &str) -> Result<Stats, Error>;
    /// Bytes on disk of what it has written into its root file system.
    async fn container_disk(&self, id: &str) -> Result<u64, Error>;
    /// Closes the log file and opens it anew (after it was renamed away).
    async fn reopen_log(&self, id: &str) -> Result<(), Error>;

    /// Runs a command in a running container and streams with it.
    async fn exec(&self, id: &str, spec: ExecSpec) -> Result<Session, Error>;
    /// Runs a command in a running container to its end; kills it after `timeout`.
    async fn exec_sync(&self, id: &str, command: Vec<String>, timeout: Duration)
    -> Result<ExecOutput, Error>;
    /// Streams with the container's main process. Output is what is written from now on.
    async fn attach(&self, id: &str, stdin: bool, stdout: bool, stderr: bool) -> Result<Session, Error>;
    /// Connects to a TCP port on the sandbox's loopback.
    async fn port_forward(&self, sandbox_id: &str, port: u16) -> Result<tokio::net::TcpStream, Error>;

    /// Unasked news. Each call makes a new subscription.
    fn events(&self) -> tokio::sync::broadcast::Receiver<RuntimeEvent>;
}

/// Images on this machine.
#[async_trait::async_trait]
pub trait Images: Send + Sync + 'static {
    /// The image that a reference names (tag, digest, or image id), if it is here.
    async fn resolve(&self, reference: &str) -> Result<Option<Image>, Error>;
    /// Fetches from the registry, verifying every digest; unpacks; returns the image. Pulls of one image share the work.
    async fn pull(&self, reference: &str, auth: Option<RegistryAuth>) -> Result<Image, Error>;
    /// Reads an OCI layout or docker archive (`docker save`, plain or gzip); returns the images in it. `name` tags an image that
    /// has no name in the archive.
    async fn import(&self, archive: Reader, name: Option<String>) -> Result<Vec<Image>, Error>;
    /// All images.
    async fn list(&self) -> Result<Vec<Image>, Error>;
    /// Mounts an image's files below a folder, to be read; says where. The image is in use until [`Images::hide`]. Again for the
    /// same folder, it gives the same answer.
    async fn show(&self, image_id: &str, folder: &Path) -> Result<PathBuf, Error>;
    /// Unmounts what was shown below a folder, and removes that. Does nothing where there is nothing.
    async fn hide(&self, folder: &Path) -> Result<(), Error>;
    /// Removes a reference, and the content that nothing uses any more.
    async fn remove(&self, reference: &str) -> Result<(), Error>;
}
