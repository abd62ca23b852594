//! [`Runtime`]: the container half of the runtime as the agent uses it. It keeps what it knows in memory, records it on
//! disk before it acts, and asks the shims; it never forks into a container and never waits for a process itself.

use crate::{
    ContainerRuntime, ContainerSpec, ContainerStatus, Error, ExecOutput, ExecSpec, Resources, RuntimeEvent,
    SandboxSpec, SandboxStatus, Session, Stats,
    cgroup::Cgroups,
    container::Container,
    image::{ImageConfig, ImageStore, RootfsMount},
    layout::{Layout, valid_id},
    migration::Migrations,
    protocol::{LogLimits, Reply, Request},
    sandbox::Sandbox,
    session,
    shim::container::now,
    shim_client::{ShimConnection, ask},
};
use parking_lot::Mutex;
use std::{
    collections::BTreeMap,
    ffi::OsString,
    fs::File,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use tokio::sync::broadcast;

/// What a runtime needs of the images: [`ImageStore`], or something smaller in tests.
pub trait Snapshots: Send + Sync + 'static {
    /// How an image wants to be run.
    fn config(&self, image_id: &str) -> Result<Arc<ImageConfig>, Error>;
    /// Makes the folders of a container's root file system and says how to mount it.
    fn prepare_rootfs(&self, image_id: &str, container_dir: &Path) -> Result<RootfsMount, Error>;
    /// Removes what `prepare_rootfs` made and what the container wrote.
    fn remove_rootfs(&self, container_dir: &Path) -> Result<(), Error>;
}

impl Snapshots for ImageStore {
    fn config(&self, image_id: &str) -> Result<Arc<ImageConfig>, Error> {
        self.config(image_id)
    }

    fn prepare_rootfs(&self, image_id: &str, container_dir: &Path) -> Result<RootfsMount, Error> {
        self.prepare_rootfs(image_id, container_dir)
    }

    fn remove_rootfs(&self, container_dir: &Path) -> Result<(), Error> {
        self.remove_rootfs(container_dir)
    }
}

/// How a runtime is opened.
#[derive(Clone)]
pub struct RuntimeConfig {
    /// Folder that holds everything of it. One runtime at a time uses it.
    pub root: PathBuf,
    /// Name of its folder at the top of the cgroup hierarchies: `orlop`. Two runtimes on a machine need two names.
    pub cgroup_root: String,
    /// The program that becomes a shim: usually `/proc/self/exe`.
    pub shim_binary: PathBuf,
    /// What it is given before the shim's own arguments: usually `shim`.
    pub shim_arguments: Vec<OsString>,
    /// Where images come from.
    pub images: Arc<dyn Snapshots>,
    /// When container logs are put aside.
    pub log_limits: LogLimits,
}

impl RuntimeConfig {
    /// The usual: this program's `shim` command as the shim, the cgroup folder `orlop`, the kubelet's log limits.
    pub fn new(root: PathBuf, images: Arc<dyn Snapshots>) -> Self {
        Self {
            root,
            cgroup_root: "orlop".into(),
            shim_binary: "/proc/self/exe".into(),
            shim_arguments: vec!["shim".into()],
            images,
            log_limits: LogLimits::default(),
        }
    }
}

/// Sandboxes and containers of this machine. Cheap to clone. Dropping it stops nothing: shims and containers live on
/// and are found again by the next [`Runtime::open`].
#[derive(Clone)]
pub struct Runtime {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) config: RuntimeConfig,
    pub(crate) layout: Layout,
    pub(crate) cgroups: Cgroups,
    pub(crate) migrations: Migrations,
    /// Capabilities that containers can get: our own bounding set.
    pub(crate) bounding_set: u64,
    pub(crate) sandboxes: Mutex<BTreeMap<String, Arc<Sandbox>>>,
    pub(crate) containers: Mutex<BTreeMap<String, Arc<Container>>>,
    pub(crate) events: broadcast::Sender<RuntimeEvent>,
    /// Locked while this runtime uses the root.
    pub(crate) _lock: File,
}

impl Inner {
    /// The runtime's group at the top of the hierarchies.
    pub(crate) fn cgroup_root(&self) -> PathBuf {
        Path::new("/").join(&self.config.cgroup_root)
    }

    pub(crate) fn sandbox(&self, id: &str) -> Result<Arc<Sandbox>, Error> {
        let known = self.sandboxes.lock().get(id).cloned();
        known.ok_or_else(|| Error::NotFound { what: "sandbox", id: id.to_string() })
    }

    pub(crate) fn container(&self, id: &str) -> Result<Arc<Container>, Error> {
        let known = self.containers.lock().get(id).cloned();
        known.ok_or_else(|| Error::NotFound { what: "container", id: id.to_string() })
    }

    pub(crate) fn containers_of(&self, sandbox: &str) -> Vec<Arc<Container>> {
        self.containers.lock().values().filter(|c| c.sandbox_id() == sandbox).cloned().collect()
    }

    /// A container that runs, with its sandbox.
    fn running(&self, id: &str) -> Result<(Arc<Container>, Arc<Sandbox>), Error> {
        let container = self.container(id)?;
        if !container.is_running() {
            return Err(Error::State(format!("container {id} is not running")));
        }
        let sandbox = self.sandbox(&container.sandbox_id())?;
        Ok((container, sandbox))
    }

    pub(crate) fn emit(&self, event: RuntimeEvent) {
        // Nobody listening is fine: events may be lost.
        let _ = self.events.send(event);
    }
}

/// Runs what blocks (files, mounts, starting a shim) where it may.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|e| Error::io("running a blocking step", std::io::Error::other(e)))?
}

pub(crate) fn check_id(what: &'static str, id: &str) -> Result<(), Error> {
    match valid_id(id) {
        true => Ok(()),
        false => Err(Error::State(format!("{id:?} cannot be the name of a {what}"))),
    }
}

/// Bytes on disk of a folder. What vanishes meanwhile does not count.
fn size_on_disk(folder: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let mut folders = vec![folder.to_path_buf()];
    let mut total = 0;
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
            let Ok(meta) = std::fs::symlink_metadata(entry.path()) else { continue };
            total += meta.blocks() * 512;
            if meta.is_dir() {
                folders.push(entry.path());
            }
        }
    }
    total
}

#[async_trait::async_trait]
impl ContainerRuntime for Runtime {
    async fn run_sandbox(&self, spec: SandboxSpec) -> Result<SandboxStatus, Error> {
        check_id("sandbox", &spec.id)?;
        self.make_sandbox(spec).await
    }

    async fn stop_sandbox(&self, id: &str) -> Result<(), Error> {
        match self.inner.sandbox(id) {
            Ok(sandbox) => self.end_sandbox(&sandbox).await,
            Err(_) => Ok(()),
        }
    }

    async fn remove_sandbox(&self, id: &str) -> Result<(), Error> {
        match self.inner.sandbox(id) {
            Ok(sandbox) => self.erase_sandbox(&sandbox).await,
            Err(_) => Ok(()),
        }
    }

    async fn list_sandboxes(&self) -> Result<Vec<SandboxStatus>, Error> {
        Ok(self.inner.sandboxes.lock().values().map(|s| s.status()).collect())
    }

    async fn create_container(&self, spec: ContainerSpec) -> Result<(), Error> {
        check_id("container", &spec.id)?;
        self.make_container(spec).await
    }

    async fn start_container(&self, id: &str) -> Result<(), Error> {
        let container = self.inner.container(id)?;
        self.launch_container(&container).await
    }

    async fn stop_container(&self, id: &str, grace: Duration) -> Result<(), Error> {
        match self.inner.container(id) {
            Ok(container) => self.end_container(&container, grace).await,
            Err(_) => Ok(()),
        }
    }

    async fn signal_container(&self, id: &str, signal: i32) -> Result<(), Error> {
        let (_, sandbox) = self.inner.running(id)?;
        let request = Request::Signal { id: id.to_string(), signal, all: false };
        ask(&sandbox.folder, &sandbox.id(), &request).await.map(drop)
    }

    async fn remove_container(&self, id: &str) -> Result<(), Error> {
        match self.inner.container(id) {
            Ok(container) => self.erase_container(&container).await,
            Err(_) => Ok(()),
        }
    }

    async fn list_containers(&self) -> Result<Vec<ContainerStatus>, Error> {
        Ok(self.inner.containers.lock().values().map(|c| c.status()).collect())
    }

    async fn container_status(&self, id: &str) -> Result<ContainerStatus, Error> {
        self.inner.container(id).map(|c| c.status())
    }

    async fn update_container(&self, id: &str, resources: Resources) -> Result<(), Error> {
        let container = self.inner.container(id)?;
        let inner = self.inner.clone();
        blocking(move || {
            let applied = resources.clone();
            container.change(|record| record.spec.resources = resources)?;
            if container.is_running() {
                for warning in inner.cgroups.apply(&container.cgroup(), &applied, true) {
                    tracing::warn!(container = %container.id(), "{warning}");
                }
            }
            Ok(())
        })
        .await
    }

    async fn update_sandbox(&self, id: &str, resources: Resources) -> Result<(), Error> {
        let sandbox = self.inner.sandbox(id)?;
        let inner = self.inner.clone();
        blocking(move || {
            let applied = resources.clone();
            sandbox.set_resources(resources)?;
            for warning in inner.cgroups.apply(&sandbox.record().cgroup(), &applied, true) {
                tracing::warn!(sandbox = %sandbox.id(), "{warning}");
            }
            Ok(())
        })
        .await
    }

    async fn container_stats(&self, id: &str) -> Result<Stats, Error> {
        let (container, _) = self.inner.running(id)?;
        Ok(self.inner.cgroups.stats(&container.cgroup(), now()))
    }

    async fn container_disk(&self, id: &str) -> Result<u64, Error> {
        let upper = RootfsMount::new(Vec::new(), &self.inner.container(id)?.folder).upperdir;
        blocking(move || Ok(size_on_disk(&upper))).await
    }

    async fn reopen_log(&self, id: &str) -> Result<(), Error> {
        let (_, sandbox) = self.inner.running(id)?;
        ask(&sandbox.folder, &sandbox.id(), &Request::ReopenLog { id: id.to_string() }).await.map(drop)
    }

    async fn exec(&self, id: &str, spec: ExecSpec) -> Result<Session, Error> {
        let (_, sandbox) = self.inner.running(id)?;
        session::exec(&sandbox.folder, &sandbox.id(), id, spec).await
    }

    async fn exec_sync(
        &self,
        id: &str,
        command: Vec<String>,
        timeout: Duration,
    ) -> Result<ExecOutput, Error> {
        let (_, sandbox) = self.inner.running(id)?;
        session::exec_sync(&sandbox.folder, &sandbox.id(), id, command, timeout).await
    }

    async fn attach(&self, id: &str, stdin: bool, stdout: bool, stderr: bool) -> Result<Session, Error> {
        let (container, sandbox) = self.inner.running(id)?;
        session::attach(&sandbox.folder, container, stdin, stdout, stderr).await
    }

    async fn port_forward(&self, sandbox_id: &str, port: u16) -> Result<tokio::net::TcpStream, Error> {
        let sandbox = self.inner.sandbox(sandbox_id)?;
        if !sandbox.is_alive() {
            return Err(Error::State(format!("sandbox {sandbox_id} is not ready")));
        }
        let mut connection = ShimConnection::open(&sandbox.folder, sandbox_id).await?;
        let asked = Request::PortForward { port };
        let (reply, mut descriptors) = connection.ask(&asked, &[], Duration::from_secs(10)).await?;
        let (Reply::Connected, Some(socket)) = (reply, descriptors.pop()) else {
            return Err(Error::Shim { sandbox: sandbox_id.into(), why: "no socket came".into() });
        };
        let step = |e| Error::io(format!("connecting to port {port} of sandbox {sandbox_id}"), e);
        let stream = tokio::net::TcpStream::from_std(std::net::TcpStream::from(socket)).map_err(step)?;
        stream.writable().await.map_err(step)?;
        match stream.take_error().map_err(step)? {
            Some(e) => Err(step(e)),
            None => Ok(stream),
        }
    }

    fn events(&self) -> broadcast::Receiver<RuntimeEvent> {
        self.inner.events.subscribe()
    }
}
