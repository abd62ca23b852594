//! A runtime, images and a network in memory, for tests: what they are told to do, they do at once, or fail when told to.

use crate::PodNetwork;
use k8s_openapi::api::core::v1::Pod;
use orlop_network::{Error as NetworkError, PodAddress, PodLink};
use orlop_runtime::{
    ContainerRuntime, ContainerSpec, ContainerState, ContainerStatus, Error, ExecOutput, ExecSpec, Image,
    Images, Reader, RegistryAuth, Resources, RuntimeEvent, SandboxSpec, SandboxStatus, Session, Stats,
};
use parking_lot::Mutex;
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::Duration,
};
use tokio::sync::broadcast;

/// What the fake runtime has and was asked.
#[derive(Default)]
pub(crate) struct FakeState {
    pub sandboxes: BTreeMap<String, (SandboxSpec, SandboxStatus)>,
    pub containers: BTreeMap<String, (ContainerSpec, ContainerStatus)>,
    /// Calls in order: `run_sandbox u_0`.
    pub calls: Vec<String>,
    /// Calls that fail, once for each time they stand here: `start_container`.
    pub failing: Vec<String>,
    /// Containers that are deaf to the stop signal, by name.
    pub stubborn: BTreeSet<String>,
    pub linked: BTreeMap<String, PodLink>,
    pub pulls: Vec<(String, Option<RegistryAuth>)>,
    pub images: BTreeMap<String, Image>,
}

/// See the module.
pub(crate) struct FakeRuntime {
    pub state: Mutex<FakeState>,
    events: broadcast::Sender<RuntimeEvent>,
}

impl Default for FakeRuntime {
    fn default() -> Self {
        Self { state: Mutex::default(), events: broadcast::channel(256).0 }
    }
}

fn now() -> i64 {
    i64::try_from(jiff::Timestamp::now().as_nanosecond()).unwrap_or(1)
}

impl FakeRuntime {
    /// Makes an image known.
    pub fn add_image(&self, reference: &str) {
        let id = format!("sha256:{reference}");
        let image =
            Image { id, tags: vec![reference.into()], digests: vec![], size: 1, uid: None, username: None };
        self.state.lock().images.insert(reference.into(), image);
    }

    /// Makes a call fail the next time.
    pub fn fail(&self, call: &str) {
        self.state.lock().failing.push(call.into());
    }

    fn call(&self, call: &str, id: &str) -> Result<(), Error> {
        let mut state = self.state.lock();
        state.calls.push(format!("{call} {id}"));
        match state.failing.iter().position(|f| f == call) {
            Some(at) => {
                state.failing.remove(at);
                Err(Error::State(format!("{call} was told to fail")))
            }
            None => Ok(()),
        }
    }

    /// Ends a container by itself.
    pub fn exit(&self, id: &str, code: i32) {
        let mut state = self.state.lock();
        let Some((_, status)) =
            state.containers.get_mut(id).filter(|(_, s)| s.state == ContainerState::Running)
        else {
            return;
        };
        status.state = ContainerState::Exited;
        status.exit_code = code;
        status.finished_at = now();
        let sandbox_id = status.sandbox_id.clone();
        drop(state);
        let _ = self.events.send(RuntimeEvent::Exited { sandbox_id, container_id: id.into() });
    }

    /// Takes a sandbox's shim away.
    pub fn lose_sandbox(&self, id: &str) {
        let inside: Vec<String> = {
            let mut state = self.state.lock();
            if let Some((_, status)) = state.sandboxes.get_mut(id) {
                status.ready = false;
            }
            let of = state.containers.iter().filter(|(_, (s, _))| s.sandbox_id == id);
            of.map(|(id, _)| id.clone()).collect()
        };
        for container in inside {
            self.exit(&container, 137);
        }
        let _ = self.events.send(RuntimeEvent::SandboxLost { sandbox_id: id.into() });
    }

    /// Names of the containers that run, with their tries.
    pub fn running(&self) -> Vec<String> {
        let state = self.state.lock();
        let all = state.containers.values().filter(|(_, s)| s.state == ContainerState::Running);
        all.map(|(_, s)| s.id.clone()).collect()
    }

    /// The calls so far whose text starts like this.
    pub fn calls(&self, start: &str) -> Vec<String> {
        self.state.lock().calls.iter().filter(|c| c.starts_with(start)).cloned().collect()
    }
}

fn no_container(id: &str) -> Error {
    Error::NotFound { what: "container", id: id.into() }
}

#[async_trait::async_trait]
impl ContainerRuntime for FakeRuntime {
    async fn run_sandbox(&self, spec: SandboxSpec) -> Result<SandboxStatus, Error> {
        self.call("run_sandbox", &spec.id)?;
        tokio::task::yield_now().await;
        let status = SandboxStatus {
            id: spec.id.clone(),
            labels: spec.labels.clone(),
            ready: true,
            created_at: now(),
            netns: (!spec.host_network).then(|| "/nowhere".into()),
        };
        self.state.lock().sandboxes.insert(spec.id.clone(), (spec, status.clone()));
        Ok(status)
    }

    async fn stop_sandbox(&self, id: &str) -> Result<(), Error> {
        self.call("stop_sandbox", id)?;
        let inside: Vec<String> = {
            let mut state = self.state.lock();
            if let Some((_, status)) = state.sandboxes.get_mut(id) {
                status.ready = false;
            }
            let of = state.containers.iter().filter(|(_, (s, _))| s.sandbox_id == id);
            of.map(|(id, _)| id.clone()).collect()
        };
        inside.iter().for_each(|c| self.exit(c, 137));
        Ok(())
    }

    async fn remove_sandbox(&self, id: &str) -> Result<(), Error> {
        self.call("remove_sandbox", id)?;
        let mut state = self.state.lock();
        state.sandboxes.remove(id);
        state.containers.retain(|_, (s, _)| s.sandbox_id != id);
        Ok(())
    }

    async fn list_sandboxes(&self) -> Result<Vec<SandboxStatus>, Error> {
        Ok(self.state.lock().sandboxes.values().map(|(_, s)| s.clone()).collect())
    }

    async fn create_container(&self, spec: ContainerSpec) -> Result<(), Error> {
        self.call("create_container", &spec.id)?;
        tokio::task::yield_now().await;
        let status = ContainerStatus {
            id: spec.id.clone(),
            sandbox_id: spec.sandbox_id.clone(),
            labels: spec.labels.clone(),
            image_id: spec.image_id.clone(),
            state: ContainerState::Created,
            created_at: now(),
            started_at: 0,
            finished_at: 0,
            exit_code: 0,
            signal: 0,
            reason: String::new(),
            message: String::new(),
            pid: 0,
            log_path: spec.log_path.clone(),
        };
        let mut state = self.state.lock();
        if !state.sandboxes.get(&spec.sandbox_id).is_some_and(|(_, s)| s.ready) {
            return Err(Error::State("the sandbox is not ready".into()));
        }
        if state.containers.contains_key(&spec.id) {
            return Err(Error::State("the container is there already".into()));
        }
        state.containers.insert(spec.id.clone(), (spec, status));
        Ok(())
    }

    async fn start_container(&self, id: &str) -> Result<(), Error> {
        let failed = self.call("start_container", id);
        let mut state = self.state.lock();
        let (_, status) = state.containers.get_mut(id).ok_or_else(|| no_container(id))?;
        if let Err(error) = failed {
            status.state = ContainerState::Exited;
            (status.exit_code, status.reason, status.finished_at) = (128, "StartError".into(), now());
            return Err(error);
        }
        status.state = ContainerState::Running;
        (status.started_at, status.pid) = (now(), 1);
        Ok(())
    }

    async fn stop_container(&self, id: &str, grace: Duration) -> Result<(), Error> {
        self.call("stop_container", id)?;
        let stubborn = {
            let state = self.state.lock();
            let (spec, _) = state.containers.get(id).ok_or_else(|| no_container(id))?;
            state.stubborn.iter().any(|n| spec.id.contains(n))
        };
        if stubborn {
            let ended = async {
                while self.running().iter().any(|r| r == id) {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            };
            if tokio::time::timeout(grace, ended).await.is_err() {
                self.exit(id, 137);
            }
        } else {
            self.exit(id, 143);
        }
        Ok(())
    }

    async fn signal_container(&self, id: &str, signal: i32) -> Result<(), Error> {
        self.call("signal_container", id)?;
        self.exit(id, 128 + signal);
        Ok(())
    }

    async fn remove_container(&self, id: &str) -> Result<(), Error> {
        self.call("remove_container", id)?;
        self.state.lock().containers.remove(id);
        Ok(())
    }

    async fn list_containers(&self) -> Result<Vec<ContainerStatus>, Error> {
        Ok(self.state.lock().containers.values().map(|(_, s)| s.clone()).collect())
    }

    async fn container_status(&self, id: &str) -> Result<ContainerStatus, Error> {
        self.state.lock().containers.get(id).map(|(_, s)| s.clone()).ok_or_else(|| no_container(id))
    }

    async fn update_container(&self, id: &str, _: Resources) -> Result<(), Error> {
        self.call("update_container", id)
    }

    async fn update_sandbox(&self, id: &str, _: Resources) -> Result<(), Error> {
        self.call("update_sandbox", id)
    }

    async fn container_stats(&self, _: &str) -> Result<Stats, Error> {
        Ok(Stats::default())
    }

    async fn container_disk(&self, _: &str) -> Result<u64, Error> {
        Ok(0)
    }

    async fn reopen_log(&self, id: &str) -> Result<(), Error> {
        self.call("reopen_log", id)
    }

    async fn exec(&self, _: &str, _: ExecSpec) -> Result<Session, Error> {
        Err(Error::State("not in the fake".into()))
    }

    /// Knows `true`, `fail CODE` and `sleep`.
    async fn exec_sync(
        &self,
        id: &str,
        command: Vec<String>,
        timeout: Duration,
    ) -> Result<ExecOutput, Error> {
        self.call("exec", &format!("{id} {}", command.join(" ")))?;
        match command.first().map(String::as_str) {
            Some("fail") => {
                let code = command.get(1).and_then(|c| c.parse().ok()).unwrap_or(1);
                Ok(ExecOutput { code, ..ExecOutput::default() })
            }
            Some("sleep") => {
                tokio::time::sleep(timeout).await;
                Err(Error::Timeout("exec"))
            }
            _ => Ok(ExecOutput::default()),
        }
    }

    async fn attach(&self, _: &str, _: bool, _: bool, _: bool) -> Result<Session, Error> {
        Err(Error::State("not in the fake".into()))
    }

    async fn port_forward(&self, _: &str, _: u16) -> Result<tokio::net::TcpStream, Error> {
        Err(Error::State("not in the fake".into()))
    }

    fn events(&self) -> broadcast::Receiver<RuntimeEvent> {
        self.events.subscribe()
    }
}

#[async_trait::async_trait]
impl Images for FakeRuntime {
    async fn resolve(&self, reference: &str) -> Result<Option<Image>, Error> {
        if reference.contains(' ') {
            return Err(Error::InvalidReference { reference: reference.into(), why: "a space".into() });
        }
        Ok(self.state.lock().images.get(reference).cloned())
    }

    async fn pull(&self, reference: &str, auth: Option<RegistryAuth>) -> Result<Image, Error> {
        self.state.lock().pulls.push((reference.into(), auth));
        self.call("pull", reference)
            .map_err(|_| Error::Pull { reference: reference.into(), why: "no such image".into() })?;
        self.add_image(reference);
        self.state.lock().images.get(reference).cloned().ok_or_else(|| no_container(reference))
    }

    async fn import(&self, _: Reader, _: Option<String>) -> Result<Vec<Image>, Error> {
        Ok(Vec::new())
    }

    async fn list(&self) -> Result<Vec<Image>, Error> {
        Ok(self.state.lock().images.values().cloned().collect())
    }

    async fn show(&self, _: &str, folder: &std::path::Path) -> Result<std::path::PathBuf, Error> {
        Ok(folder.join("rootfs"))
    }

    async fn hide(&self, _: &std::path::Path) -> Result<(), Error> {
        Ok(())
    }

    async fn remove(&self, _: &str) -> Result<(), Error> {
        Ok(())
    }
}

#[async_trait::async_trait]
impl PodNetwork for FakeRuntime {
    async fn attach(&self, link: PodLink) -> Result<PodAddress, NetworkError> {
        self.call("attach", &link.id).map_err(|e| NetworkError::Config(e.to_string()))?;
        let mut state = self.state.lock();
        let number = u8::try_from(state.linked.len()).unwrap_or(0) + 2;
        state.linked.insert(link.id.clone(), link);
        Ok(PodAddress { addresses: vec![[127, 1, 0, number].into()], host_link: "veth0".into() })
    }

    async fn detach(&self, id: &str) -> Result<(), NetworkError> {
        self.call("detach", id).map_err(|e| NetworkError::Config(e.to_string()))?;
        self.state.lock().linked.remove(id);
        Ok(())
    }

    async fn retain(&self, ids: &[String]) -> Result<(), NetworkError> {
        self.state.lock().linked.retain(|id, _| ids.contains(id));
        Ok(())
    }

    async fn protect(&self, _: &Pod, sandbox: &str, _: &[IpAddr]) -> Result<(), NetworkError> {
        self.call("protect", sandbox).map_err(|e| NetworkError::Config(e.to_string()))
    }
}
