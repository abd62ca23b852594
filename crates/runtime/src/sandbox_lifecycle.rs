//! Making, watching, stopping and removing sandboxes. Every step can be taken again; a step that fails leaves what the
//! next attempt, or the next [`Runtime::open`](crate::Runtime::open), puts right.

use crate::{
    Error, RuntimeEvent, SandboxSpec, SandboxStatus,
    layout::{SANDBOX_RECORD, write_record},
    protocol::{Reply, Request, VERSION},
    records::{SandboxPhase, SandboxRecord},
    runtime::{Inner, Runtime, blocking},
    sandbox::{self, Sandbox},
    shim::container::now,
    shim_client::ShimConnection,
};
use std::{
    path::Path,
    sync::{Arc, Weak},
    time::Duration,
};

/// How long a shim may take to set up its sandbox.
const SETUP_LIMIT: Duration = Duration::from_secs(20);
/// How long a shim may take to kill its containers.
const SHUTDOWN_LIMIT: Duration = Duration::from_secs(15);
/// How long killed processes may take to be gone.
const DEATH_LIMIT: Duration = Duration::from_secs(30);
/// How often to look whether they are: the kernel tells nobody when a cgroup can be removed.
const DEATH_POLL: Duration = Duration::from_millis(2);

impl Runtime {
    pub(crate) async fn make_sandbox(&self, spec: SandboxSpec) -> Result<SandboxStatus, Error> {
        let inner = &self.inner;
        let id = spec.id.clone();
        let folder = inner.layout.sandbox(&id);
        let sandbox = inner
            .sandboxes
            .lock()
            .entry(id.clone())
            .or_insert_with(|| {
                let record = SandboxRecord {
                    spec,
                    created_at: now(),
                    cgroup_root: inner.cgroup_root(),
                    phase: SandboxPhase::Making,
                };
                Arc::new(Sandbox::new(folder, record))
            })
            .clone();
        let _gate = sandbox.gate.lock().await;
        match sandbox.phase() {
            SandboxPhase::Made if sandbox.is_alive() => return Ok(sandbox.status()),
            SandboxPhase::Making => {}
            _ => return Err(Error::State(format!("sandbox {id} has been stopped"))),
        }
        match self.raise_sandbox(&sandbox).await {
            Ok(()) => Ok(sandbox.status()),
            Err(e) => {
                if let Err(leftover) = self.clear_sandbox(&sandbox).await {
                    tracing::warn!(sandbox = %id, "clearing up after a failure: {leftover}");
                }
                self.inner.sandboxes.lock().remove(&id);
                Err(e)
            }
        }
    }

    async fn raise_sandbox(&self, sandbox: &Arc<Sandbox>) -> Result<(), Error> {
        let _start = self.inner.migrations.begin();
        let (inner, made) = (self.inner.clone(), sandbox.clone());
        blocking(move || {
            let record = made.record();
            std::fs::create_dir_all(&made.folder)
                .map_err(|e| Error::io(format!("making {}", made.folder.display()), e))?;
            write_record(&made.folder.join(SANDBOX_RECORD), &record)?;
            let mut warnings = inner.cgroups.create(&record.cgroup());
            warnings.extend(inner.cgroups.apply(&record.cgroup(), &record.spec.resources, false));
            for warning in warnings {
                tracing::warn!(sandbox = %record.spec.id, "{warning}");
            }
            sandbox::spawn_shim(&inner.config, &made.folder)
        })
        .await?;
        self.join_shim(sandbox, SETUP_LIMIT).await?;
        let made = sandbox.clone();
        blocking(move || made.set_phase(SandboxPhase::Made)).await
    }

    /// Connects to a sandbox's shim and listens to it from now on. Returns what runs in it.
    pub(crate) async fn join_shim(
        &self,
        sandbox: &Arc<Sandbox>,
        limit: Duration,
    ) -> Result<Vec<String>, Error> {
        let id = sandbox.id();
        // First listen, then ask: what ends in between is heard of.
        let mut events = ShimConnection::open(&sandbox.folder, &id).await?;
        events.ask(&Request::Subscribe, &[], limit).await?;
        let mut connection = ShimConnection::open(&sandbox.folder, &id).await?;
        let (reply, _) = connection.ask(&Request::Hello { version: VERSION }, &[], limit).await?;
        let Reply::Hello { pid, running, .. } = reply else {
            return Err(Error::Shim { sandbox: id, why: "it answers in words we do not know".into() });
        };
        let watcher = tokio::spawn(watch(Arc::downgrade(&self.inner), id, events)).abort_handle();
        sandbox.revive(pid, watcher);
        Ok(running)
    }

    /// Kills every container, ends the shim, unpins the namespaces.
    pub(crate) async fn end_sandbox(&self, sandbox: &Arc<Sandbox>) -> Result<(), Error> {
        let _gate = sandbox.gate.lock().await;
        self.halt_sandbox(sandbox).await
    }

    async fn halt_sandbox(&self, sandbox: &Arc<Sandbox>) -> Result<(), Error> {
        let id = sandbox.id();
        if sandbox.phase() != SandboxPhase::Stopped {
            let stopped = sandbox.clone();
            blocking(move || stopped.set_phase(SandboxPhase::Stopped)).await?;
        }
        if sandbox.is_alive() {
            let goodbye = async {
                let mut shim = ShimConnection::open(&sandbox.folder, &id).await?;
                shim.ask(&Request::Shutdown, &[], SHUTDOWN_LIMIT).await
            };
            if let Err(e) = goodbye.await {
                tracing::warn!(sandbox = %id, "its shim does not end by itself: {e}");
            }
        }
        let was_alive = sandbox.bury();
        self.clear_processes(sandbox).await?;
        if was_alive {
            reap(sandbox.shim()).await;
        }
        for container in self.inner.containers_of(&id) {
            if container.is_running() && container.lost(now()) {
                let (sandbox_id, container_id) = (id.clone(), container.id());
                self.inner.emit(RuntimeEvent::Exited { sandbox_id, container_id });
            }
        }
        let folder = sandbox.folder.clone();
        blocking(move || sandbox::unmount(&folder)).await
    }

    /// Removes what is left of a sandbox and its containers.
    pub(crate) async fn erase_sandbox(&self, sandbox: &Arc<Sandbox>) -> Result<(), Error> {
        let _gate = sandbox.gate.lock().await;
        let id = sandbox.id();
        self.halt_sandbox(sandbox).await?;
        for container in self.inner.containers_of(&id) {
            self.erase_container(&container).await?;
        }
        self.clear_sandbox(sandbox).await?;
        self.inner.sandboxes.lock().remove(&id);
        Ok(())
    }

    /// Removes a sandbox's processes, cgroup and folder.
    pub(crate) async fn clear_sandbox(&self, sandbox: &Arc<Sandbox>) -> Result<(), Error> {
        self.clear_processes(sandbox).await?;
        let cgroup = sandbox.record().cgroup();
        if cgroup != self.inner.cgroup_root() {
            self.remove_cgroup(&cgroup).await?;
        }
        let folder = sandbox.folder.clone();
        blocking(move || sandbox::remove_folder(&folder)).await
    }

    /// Kills the shim and whatever is in the sandbox's cgroup, and waits until all are dead.
    async fn clear_processes(&self, sandbox: &Arc<Sandbox>) -> Result<(), Error> {
        let (folder, shim) = (sandbox.folder.clone(), sandbox.clone());
        blocking(move || {
            sandbox::kill_shim(&folder);
            Ok(())
        })
        .await?;
        reap(shim.shim()).await;
        let cgroup = sandbox.record().cgroup();
        // Sandboxes without a group of their own share the runtime's: then each container's group is emptied instead.
        if cgroup == self.inner.cgroup_root() {
            for container in self.inner.containers_of(&sandbox.id()) {
                self.empty_cgroup(&container.cgroup()).await?;
            }
            return Ok(());
        }
        self.empty_cgroup(&cgroup).await
    }

    /// Kills everything in a group, until nothing is left.
    pub(crate) async fn empty_cgroup(&self, path: &Path) -> Result<(), Error> {
        let killed = async {
            while self.inner.cgroups.kill(path) > 0 {
                tokio::time::sleep(DEATH_POLL).await;
            }
        };
        tokio::time::timeout(DEATH_LIMIT, killed).await.map_err(|_| Error::Timeout("killing the processes"))
    }

    /// Kills everything in a group and removes it and its empty parents.
    pub(crate) async fn remove_cgroup(&self, path: &Path) -> Result<(), Error> {
        let step = |e| Error::io(format!("removing cgroup {}", path.display()), e);
        let removed = async {
            loop {
                self.inner.cgroups.kill(path);
                match self.inner.cgroups.remove(path) {
                    Ok(true) => return Ok(()),
                    Ok(false) => tokio::time::sleep(DEATH_POLL).await,
                    Err(e) => return Err(step(e)),
                }
            }
        };
        tokio::time::timeout(DEATH_LIMIT, removed)
            .await
            .map_err(|_| Error::Timeout("removing a cgroup"))??;
        self.inner.cgroups.prune_parents(path, &self.inner.cgroup_root());
        Ok(())
    }
}

impl Inner {
    /// A shim is gone without being asked to: whatever it held is dead or killed now.
    async fn sandbox_lost(self: Arc<Self>, id: &str) {
        let Ok(sandbox) = self.sandbox(id) else { return };
        let _gate = sandbox.gate.lock().await;
        if !sandbox.bury() || sandbox.phase() == SandboxPhase::Stopped {
            return;
        }
        tracing::warn!(sandbox = %id, "its shim is gone");
        let runtime = Runtime { inner: self };
        runtime.abandon(&sandbox).await;
        runtime.inner.emit(RuntimeEvent::SandboxLost { sandbox_id: id.to_string() });
    }
}

impl Runtime {
    /// Kills what a lost sandbox has left, and closes its containers' books.
    pub(crate) async fn abandon(&self, sandbox: &Arc<Sandbox>) {
        let id = sandbox.id();
        if let Err(e) = self.clear_processes(sandbox).await {
            tracing::warn!(sandbox = %id, "clearing up after its shim: {e}");
        }
        for container in self.inner.containers_of(&id) {
            if container.is_running() && container.lost(now()) {
                let (sandbox_id, container_id) = (id.clone(), container.id());
                self.inner.emit(RuntimeEvent::Exited { sandbox_id, container_id });
            }
        }
        let folder = sandbox.folder.clone();
        if let Err(e) = blocking(move || sandbox::unmount(&folder)).await {
            tracing::warn!(sandbox = %id, "clearing up after its shim: {e}");
        }
    }
}

/// Listens to a shim until it is gone.
async fn watch(runtime: Weak<Inner>, id: String, mut events: ShimConnection) {
    loop {
        let heard = events.next().await;
        let Some(inner) = runtime.upgrade() else { return };
        match heard {
            Ok(Some((Reply::Exited { id: container_id }, _))) => {
                let Ok(container) = inner.container(&container_id) else { continue };
                let news = blocking(move || Ok(container.take_exit())).await;
                if news.unwrap_or(false) {
                    inner.emit(RuntimeEvent::Exited { sandbox_id: id.clone(), container_id });
                }
            }
            Ok(Some(_)) => {}
            Ok(None) | Err(_) => {
                // Not in this task: it is ended when the sandbox is buried for good.
                let gone = id.clone();
                tokio::spawn(async move { inner.sandbox_lost(&gone).await });
                return;
            }
        }
    }
}

/// Takes a shim's exit status, if it is our child: an earlier agent may have started it.
async fn reap(shim: i32) {
    use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
    if shim <= 0 {
        return;
    }
    for _ in 0..1000 {
        match waitpid(nix::unistd::Pid::from_raw(shim), Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::StillAlive) => tokio::time::sleep(DEATH_POLL).await,
            _ => return,
        }
    }
}
