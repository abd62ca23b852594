//! Making, starting, stopping and removing containers.

use crate::{
    ContainerSpec, ContainerState, Error,
    container::{Container, Phase},
    layout::{BUNDLE_CONFIG, CONTAINER_RECORD, NAMESPACES, SHM, write_record},
    oci_spec::{Surroundings, translate},
    protocol::{Reply, Request, StartedRecord},
    records::{ContainerRecord, SandboxRecord},
    runtime::{Inner, Runtime, blocking},
    sandbox::Sandbox,
    shim::container::now,
    shim_client::{ShimConnection, ask},
};
use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

/// How long a container may take to start: its volumes may lie on slow file systems.
const START_LIMIT: Duration = Duration::from_secs(120);
/// How long a killed container may take to be gone.
const KILL_LIMIT: Duration = Duration::from_secs(30);

impl Runtime {
    pub(crate) async fn make_container(&self, spec: ContainerSpec) -> Result<(), Error> {
        let sandbox = self.inner.sandbox(&spec.sandbox_id)?;
        if !sandbox.status().ready {
            return Err(Error::State(format!("sandbox {} is not ready", spec.sandbox_id)));
        }
        if self.inner.container(&spec.id).is_ok() {
            return Ok(());
        }
        let inner = self.inner.clone();
        let container = blocking(move || inner.build(spec, &sandbox)).await?;
        let id = container.id();
        self.inner.containers.lock().entry(id).or_insert_with(|| Arc::new(container));
        Ok(())
    }

    pub(crate) async fn launch_container(&self, container: &Arc<Container>) -> Result<(), Error> {
        let _start = self.inner.migrations.begin();
        let _gate = container.gate.lock().await;
        // An earlier agent may have started it and died before it heard of that.
        let told = container.clone();
        blocking(move || Ok(told.take_exit())).await?;
        match container.phase() {
            Phase::Created => {}
            Phase::Running(_) => return Ok(()),
            Phase::Exited(..) => {
                return Err(Error::State(format!("container {} has ended", container.id())));
            }
        }
        let sandbox = self.inner.sandbox(&container.sandbox_id())?;
        let (inner, prepared) = (self.inner.clone(), container.clone());
        blocking(move || inner.make_cgroup(&prepared)).await?;
        let asked = Request::Start(container.start_request());
        let outcome = async {
            let mut shim = ShimConnection::open(&sandbox.folder, &sandbox.id()).await?;
            shim.ask(&asked, &[], START_LIMIT).await
        };
        match outcome.await {
            Ok((Reply::Started { pid, warnings }, _)) => {
                for warning in warnings {
                    tracing::warn!(container = %container.id(), "{warning}");
                }
                let record = container.started_record().unwrap_or(StartedRecord { pid, started_at: now() });
                container.started(record);
                Ok(())
            }
            Ok(_) => {
                Err(Error::Shim { sandbox: sandbox.id(), why: "it answers in words we do not know".into() })
            }
            Err(e) => {
                if matches!(e, Error::Start(_)) {
                    container.failed_to_start(&e.to_string(), now());
                }
                self.empty_cgroup(&container.cgroup()).await?;
                Err(e)
            }
        }
    }

    pub(crate) async fn end_container(
        &self,
        container: &Arc<Container>,
        grace: Duration,
    ) -> Result<(), Error> {
        if !container.is_running() {
            return Ok(());
        }
        let id = container.id();
        let Ok(sandbox) = self.inner.sandbox(&container.sandbox_id()) else { return Ok(()) };
        if !grace.is_zero() {
            let signal = container.record().stop_signal;
            self.signal(&sandbox, &id, signal, false).await?;
            if container.wait_exit(grace).await.is_some() {
                return Ok(());
            }
        }
        self.signal(&sandbox, &id, libc::SIGKILL, true).await?;
        match container.wait_exit(KILL_LIMIT).await {
            Some(_) => Ok(()),
            None => Err(Error::Timeout("killing the container")),
        }
    }

    async fn signal(&self, sandbox: &Sandbox, id: &str, signal: i32, all: bool) -> Result<(), Error> {
        let request = Request::Signal { id: id.to_string(), signal, all };
        match ask(&sandbox.folder, &sandbox.id(), &request).await {
            // It has just ended, or its shim has: either way the news is on its way.
            Ok(_) | Err(Error::State(_) | Error::Shim { .. } | Error::Io { .. }) => Ok(()),
            Err(e) => Err(e),
        }
    }

    /// Removes a container and all it has left, killing it first if need be.
    pub(crate) async fn erase_container(&self, container: &Arc<Container>) -> Result<(), Error> {
        self.end_container(container, Duration::ZERO).await?;
        let _gate = container.gate.lock().await;
        self.remove_cgroup(&container.cgroup()).await?;
        let (inner, folder) = (self.inner.clone(), container.folder.clone());
        blocking(move || inner.remove_container_folder(&folder)).await?;
        self.inner.containers.lock().remove(&container.id());
        Ok(())
    }
}

impl Inner {
    /// Makes a container's folder. Its record is written last: without it the folder is rubbish, and is removed when the
    /// runtime is opened.
    fn build(&self, spec: ContainerSpec, sandbox: &Sandbox) -> Result<Container, Error> {
        let folder = self.layout.container(&spec.id);
        std::fs::create_dir_all(&folder).map_err(|e| Error::io(format!("making {}", folder.display()), e))?;
        let made = self.fill(spec, &sandbox.record(), &folder, &sandbox.folder);
        if made.is_err()
            && let Err(e) = self.remove_container_folder(&folder)
        {
            tracing::warn!("clearing up after a failure: {e}");
        }
        made
    }

    fn fill(
        &self,
        spec: ContainerSpec,
        sandbox: &SandboxRecord,
        folder: &Path,
        sandbox_folder: &Path,
    ) -> Result<Container, Error> {
        let image = self.config.images.config(&spec.image_id)?;
        let pid_namespace = self.process_namespace(&spec, sandbox, sandbox_folder)?;
        let own_pid_namespace = pid_namespace.is_none() && !sandbox.spec.host_pid;
        let cgroup = sandbox.cgroup().join(&spec.id);
        let around = Surroundings {
            hostname: sandbox.spec.hostname.clone(),
            pid_namespace,
            host_pid: sandbox.spec.host_pid,
            shm: match sandbox.spec.host_ipc {
                true => "/dev/shm".into(),
                false => sandbox_folder.join(SHM),
            },
            cgroup: cgroup.clone(),
            unified_cgroups: self.cgroups.is_unified(),
            cgroup_mounts: self.cgroups.telling_mounts(),
            bounding_set: self.bounding_set,
        };
        let translated = translate(&spec, &image, &around)?;
        let rootfs = self.config.images.prepare_rootfs(&spec.image_id, folder)?;
        write_record(&folder.join(BUNDLE_CONFIG), &translated.spec)?;
        let record = ContainerRecord {
            created_at: now(),
            sandbox_folder: sandbox_folder.to_path_buf(),
            cgroup,
            rootfs,
            image_user: image.user.clone(),
            stop_signal: stop_signal(&image.stop_signal),
            log_path: sandbox.spec.log_directory.join(&spec.log_path),
            log_limits: self.config.log_limits,
            own_pid_namespace,
            device_rules: translated.devices,
            spec,
        };
        write_record(&folder.join(CONTAINER_RECORD), &record)?;
        Ok(Container::new(folder.to_path_buf(), record))
    }

    /// The process namespace that a container joins: its sandbox's if that is shared, or that of a container beside it.
    fn process_namespace(
        &self,
        spec: &ContainerSpec,
        sandbox: &SandboxRecord,
        sandbox_folder: &Path,
    ) -> Result<Option<PathBuf>, Error> {
        if sandbox.spec.host_pid {
            return Ok(None);
        }
        if sandbox.spec.share_pid {
            return Ok(Some(sandbox_folder.join(NAMESPACES).join("pid")));
        }
        let Some(id) = &spec.processes_of else { return Ok(None) };
        let beside = self.container(id)?.status();
        if beside.sandbox_id != spec.sandbox_id || beside.state != ContainerState::Running {
            return Err(Error::State(format!("container {id} does not run in sandbox {}", spec.sandbox_id)));
        }
        Ok(Some(format!("/proc/{}/ns/pid", beside.pid).into()))
    }

    /// Makes a container's cgroup with its limits. What the machine cannot limit is only warned of.
    fn make_cgroup(&self, container: &Container) -> Result<(), Error> {
        let record = container.record();
        let mut warnings = self.cgroups.create(&record.cgroup);
        warnings.extend(self.cgroups.apply(&record.cgroup, &record.spec.resources, false));
        if let Some(rules) = &record.device_rules {
            warnings.extend(self.cgroups.restrict_devices(&record.cgroup, rules));
        }
        for warning in warnings {
            tracing::warn!(container = %record.spec.id, "{warning}");
        }
        Ok(())
    }

    /// Removes a container's folder and its root file system.
    pub(crate) fn remove_container_folder(&self, folder: &Path) -> Result<(), Error> {
        self.config.images.remove_rootfs(folder)?;
        match std::fs::remove_dir_all(folder) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                Err(Error::io(format!("removing {}", folder.display()), e))
            }
            _ => Ok(()),
        }
    }
}

/// The signal that an image names (`SIGQUIT`, `QUIT`, `3`); SIGTERM if it names none that there is.
fn stop_signal(name: &str) -> i32 {
    use nix::sys::signal::Signal;
    let upper = name.to_ascii_uppercase();
    let full = if upper.starts_with("SIG") { upper.clone() } else { format!("SIG{upper}") };
    match (name.parse::<i32>(), full.parse::<Signal>()) {
        (Ok(number), _) if Signal::try_from(number).is_ok() => number,
        (_, Ok(signal)) => signal as i32,
        _ => libc::SIGTERM,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stop_signal_is_read_however_it_is_spelt() {
        for (name, want) in [
            ("", libc::SIGTERM),
            ("SIGQUIT", libc::SIGQUIT),
            ("quit", libc::SIGQUIT),
            ("3", 3),
            ("SIGNONE", libc::SIGTERM),
            ("9999", libc::SIGTERM),
        ] {
            assert_eq!(stop_signal(name), want, "{name:?}");
        }
    }
}
