//! Opening a runtime after another one has used its root: finds the shims that live, takes note of what ended meanwhile,
//! removes what was never finished. And the opposite: removing everything.

use crate::{
    Error,
    cgroup::Cgroups,
    container::Container,
    image::snapshot::unmount_all,
    layout::{CONTAINER_RECORD, Layout, SANDBOX_RECORD, read_record},
    migration::Migrations,
    records::{ContainerRecord, SandboxPhase, SandboxRecord},
    runtime::{Inner, Runtime, RuntimeConfig, blocking},
    sandbox::Sandbox,
    shim::{SHIM_CGROUP, container::now},
};
use parking_lot::Mutex;
use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

/// How long a shim that lives may take to answer.
const ADOPT_LIMIT: Duration = Duration::from_secs(5);
/// How long the runtime that used the root before may take to let go of it.
const LOCK_LIMIT: Duration = Duration::from_secs(5);

impl Runtime {
    /// Opens the runtime: finds the shims that live, takes note of what ended meanwhile, removes what was never finished.
    /// Within a tokio runtime.
    pub async fn open(config: RuntimeConfig) -> Result<Self, Error> {
        let layout = Layout::new(config.root.clone());
        layout.create()?;
        let cgroups = Cgroups::detect().map_err(|e| Error::io("looking for cgroups", e))?;
        let inner = Inner {
            _lock: take_lock(&config.root).await?,
            migrations: Migrations::new(cgroups.clone()),
            cgroups,
            bounding_set: bounding_set()?,
            sandboxes: Mutex::new(BTreeMap::new()),
            containers: Mutex::new(BTreeMap::new()),
            events: tokio::sync::broadcast::channel(1024).0,
            layout,
            config,
        };
        let runtime = Self { inner: Arc::new(inner) };
        runtime.adopt_all().await?;
        Ok(runtime)
    }

    async fn adopt_all(&self) -> Result<(), Error> {
        let layout = &self.inner.layout;
        let mut running = BTreeSet::new();
        for folder in folders(&layout.sandboxes())? {
            let record: Option<SandboxRecord> = readable(&folder.join(SANDBOX_RECORD));
            let id = name(&folder);
            let finished =
                record.as_ref().is_some_and(|r| r.phase != SandboxPhase::Making && r.spec.id == id);
            let sandbox = Arc::new(Sandbox::new(folder, record.unwrap_or_else(|| self.nameless(&id))));
            if !finished {
                self.clear_sandbox(&sandbox).await?;
                continue;
            }
            if sandbox.phase() == SandboxPhase::Made {
                match self.join_shim(&sandbox, ADOPT_LIMIT).await {
                    Ok(ids) => running.extend(ids),
                    Err(e) => tracing::warn!(sandbox = %id, "its shim is gone: {e}"),
                }
            }
            self.inner.sandboxes.lock().insert(id, sandbox);
        }
        for folder in folders(&layout.containers())? {
            self.adopt_container(folder, &running).await?;
        }
        let sandboxes: Vec<Arc<Sandbox>> = self.inner.sandboxes.lock().values().cloned().collect();
        for sandbox in sandboxes.iter().filter(|s| !s.is_alive()) {
            self.abandon(sandbox).await;
        }
        Ok(())
    }

    async fn adopt_container(&self, folder: PathBuf, running: &BTreeSet<String>) -> Result<(), Error> {
        let record: Option<ContainerRecord> = readable(&folder.join(CONTAINER_RECORD));
        let known = record.filter(|r| self.inner.sandbox(&r.spec.sandbox_id).is_ok());
        let Some(record) = known else {
            let inner = self.inner.clone();
            return blocking(move || inner.remove_container_folder(&folder)).await;
        };
        let container = Container::new(folder, record);
        if let Some(started) = container.started_record() {
            container.started(started);
        }
        container.take_exit();
        // What once ran, and neither runs nor has left word, died together with those who could have told.
        if container.is_running() && !running.contains(&container.id()) {
            self.empty_cgroup(&container.cgroup()).await?;
            container.lost(now());
        }
        self.inner.containers.lock().insert(container.id(), Arc::new(container));
        Ok(())
    }

    /// A stand-in for the record of a sandbox that got none.
    fn nameless(&self, id: &str) -> SandboxRecord {
        let mut record = SandboxRecord { cgroup_root: self.inner.cgroup_root(), ..Default::default() };
        record.spec.id = id.to_string();
        record
    }

    /// Stops and removes every sandbox and container below the root, also those whose shim is half dead, and the cgroups.
    /// For `orlop reset`. Goes on where something cannot be removed, and returns the first error.
    pub async fn destroy_all(&self) -> Result<(), Error> {
        let mut first = Ok(());
        let mut note = |outcome: Result<(), Error>| {
            if let Err(e) = outcome {
                tracing::warn!("removing everything: {e}");
                if first.is_ok() {
                    first = Err(e);
                }
            }
        };
        let sandboxes: Vec<Arc<Sandbox>> = self.inner.sandboxes.lock().values().cloned().collect();
        let mut removals = tokio::task::JoinSet::new();
        for sandbox in sandboxes {
            let runtime = self.clone();
            removals.spawn(async move { runtime.erase_sandbox(&sandbox).await });
        }
        while let Some(outcome) = removals.join_next().await {
            note(outcome.unwrap_or_else(|e| Err(Error::io("removing a sandbox", std::io::Error::other(e)))));
        }
        let containers: Vec<Arc<Container>> = self.inner.containers.lock().values().cloned().collect();
        for container in containers {
            note(self.erase_container(&container).await);
        }
        for group in [self.inner.cgroup_root().join(SHIM_CGROUP), self.inner.cgroup_root()] {
            note(self.remove_cgroup(&group).await);
        }
        let inner = self.inner.clone();
        note(blocking(move || inner.sweep()).await);
        first
    }
}

impl Inner {
    /// Unmounts and removes whatever is still below the root.
    fn sweep(&self) -> Result<(), Error> {
        for top in [self.layout.sandboxes(), self.layout.containers()] {
            let text = std::fs::read_to_string("/proc/self/mountinfo")
                .map_err(|e| Error::io("reading the mounts", e))?;
            let mut points: Vec<PathBuf> = text
                .lines()
                .filter_map(|line| line.split(' ').nth(4).map(PathBuf::from))
                .filter(|point| point.starts_with(&top))
                .collect();
            points.sort();
            for point in points.iter().rev() {
                unmount_all(point)?;
            }
            for folder in folders(&top)? {
                std::fs::remove_dir_all(&folder)
                    .map_err(|e| Error::io(format!("removing {}", folder.display()), e))?;
            }
        }
        Ok(())
    }
}

/// A record that cannot be read is as good as none: what it described was half made.
fn readable<T: serde::de::DeserializeOwned>(path: &Path) -> Option<T> {
    read_record(path).unwrap_or_else(|e| {
        tracing::warn!("{e}");
        None
    })
}

fn name(folder: &Path) -> String {
    folder.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

fn folders(of: &Path) -> Result<Vec<PathBuf>, Error> {
    let step = |e| Error::io(format!("listing {}", of.display()), e);
    let mut found = Vec::new();
    for entry in std::fs::read_dir(of).map_err(step)? {
        found.push(entry.map_err(step)?.path());
    }
    found.sort();
    Ok(found)
}

/// Two runtimes that use one root would remove each other's containers.
async fn take_lock(root: &Path) -> Result<File, Error> {
    let path = root.join("lock");
    let step = |e| Error::io(format!("locking {}", path.display()), e);
    let file = File::options().create(true).truncate(false).write(true).open(&path).map_err(step)?;
    let locked = async {
        while file.try_lock().is_err() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    match tokio::time::timeout(LOCK_LIMIT, locked).await {
        Ok(()) => Ok(file),
        Err(_) => Err(Error::State(format!("another process uses {}", root.display()))),
    }
}

fn bounding_set() -> Result<u64, Error> {
    let text =
        std::fs::read_to_string("/proc/self/status").map_err(|e| Error::io("reading our capabilities", e))?;
    let field = text.lines().find_map(|line| line.strip_prefix("CapBnd:"));
    Ok(field.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()).unwrap_or(0))
}
