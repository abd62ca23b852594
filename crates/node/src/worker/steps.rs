//! Carries out one action of the planner: thin calls to runtime, network, disk and API, with the events that people expect. It
//! decides nothing and keeps nothing.

use crate::{
    Error,
    agent::Shared,
    claims::{self, Claims},
    env,
    events::PodEvents,
    plan::{Action, Key},
    pod::PodExt,
    pod_files,
    pod_state::{Container, PodState, Sandbox, by_pod, label, sandbox_id},
    resources,
    tokens::PodTokens,
    volumes::{self, Ingredients},
};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container as ContainerSource, Pod, ResourceRequirements};
use kube::{
    Api,
    api::{DeleteParams, Preconditions},
};
use orlop_network::{HostPort, PodLink, Protocol};
use orlop_runtime::{Image, SandboxSpec};
use std::{net::IpAddr, path::PathBuf, sync::Arc, time::Duration};
use tokio_util::sync::CancellationToken;

/// How long ConfigMaps and Secrets are waited for.
const OBJECTS_WAIT: Duration = Duration::from_secs(20);

/// How long a claim is waited for before that is told of, and the pauses between two looks.
const CLAIMS_WAIT: Duration = Duration::from_secs(10);
const FIRST_LOOK: Duration = Duration::from_millis(50);
const LAST_LOOK: Duration = Duration::from_secs(1);

/// How something went.
pub(super) enum Outcome {
    Step(Key, Box<Result<Learnt, Failed>>),
    Status(Result<Box<Pod>, Box<kube::Error>>),
}

/// What a step found out.
pub(super) enum Learnt {
    Sandbox(Sandbox),
    Linked { sandbox: Sandbox, addresses: Vec<IpAddr> },
    Mounted { refresh_at: Option<Timestamp>, begun: Timestamp },
    Unmounted,
    Image { container: String, image: Image },
    Container(Box<Container>),
    Started { container: Box<Container>, resources: Box<ResourceRequirements> },
    Resized { id: String, resources: Box<ResourceRequirements> },
    ContainerRemoved(String),
    Killed(String),
    SandboxStopped { id: String, containers: Vec<Container> },
    SandboxRemoved(String),
    Deleted,
    Nothing,
}

/// Why a step failed.
#[derive(Default)]
pub(super) struct Failed {
    /// As `state.waiting.reason`, where the step is about a container.
    pub reason: String,
    pub message: String,
    /// Its own idea of when to try again.
    pub retry_at: Option<Timestamp>,
    /// What there is of the container all the same.
    pub container: Option<Container>,
    /// It gave up because the pod ends.
    pub cancelled: bool,
}

impl Failed {
    pub fn new(reason: &str, message: impl Into<String>) -> Self {
        Self { reason: reason.into(), message: message.into(), ..Self::default() }
    }

    pub fn cancelled() -> Self {
        Self { cancelled: true, ..Self::default() }
    }
}

impl From<Error> for Failed {
    fn from(error: Error) -> Self {
        Self::new("", error.chain())
    }
}

/// What every step has at hand.
pub(super) struct Step {
    pub shared: Arc<Shared>,
    pub pod: Arc<Pod>,
    pub events: PodEvents,
    pub ending: CancellationToken,
    pub tokens: Arc<tokio::sync::Mutex<PodTokens>>,
    pub claims: Arc<parking_lot::Mutex<Option<Arc<Claims>>>>,
    pub ips: Vec<IpAddr>,
}

impl Step {
    /// Does it.
    pub async fn run(self, action: Action, state: PodState, image: Option<Image>) -> Outcome {
        let (key, name) = (action.key(), action.name());
        let begun = std::time::Instant::now();
        let result = match action {
            Action::CreateSandbox { attempt } => self.create_sandbox(attempt).await,
            Action::Attach { sandbox } => match state.sandboxes.into_iter().find(|s| s.id == sandbox) {
                Some(sandbox) => self.attach(sandbox).await,
                None => Ok(Learnt::Nothing),
            },
            Action::Mount => self.mount().await,
            Action::Pull { container } => self.pull(&container).await,
            Action::Start { container, attempt, sandbox } => {
                Box::pin(self.start(&state, &container, attempt, sandbox, image)).await
            }
            Action::Stop { id, grace, why } => self.stop(&state, &id, grace, why).await,
            Action::Kill { id } => self.kill(&id).await,
            Action::Resize { container, id } => self.resize(&state, &container, &id).await,
            Action::RemoveContainer { id } => self.remove_container(id).await,
            Action::StopSandbox { id } => self.stop_sandbox(id).await,
            Action::RemoveSandbox { id } => self.remove_sandbox(id).await,
            Action::Unmount => self.unmount().await,
            Action::Delete => self.delete().await,
        };
        self.shared.metrics.observe(name, begun.elapsed(), result.as_ref().is_err_and(|e| !e.cancelled));
        Outcome::Step(key, Box::new(result))
    }

    async fn create_sandbox(&self, attempt: u32) -> Result<Learnt, Failed> {
        let pod = &*self.pod;
        let spec = pod.spec_ref();
        let config = &self.shared.config;
        let labels = [
            (label::POD_NAME, pod.name().to_string()),
            (label::POD_NAMESPACE, pod.namespace().to_string()),
            (label::POD_UID, pod.uid().to_string()),
            (label::POD_GRACE, pod.grace_seconds().to_string()),
            (label::SANDBOX_ATTEMPT, attempt.to_string()),
        ];
        let sysctls = spec.security_context.as_ref().and_then(|s| s.sysctls.clone()).unwrap_or_default();
        let wanted = SandboxSpec {
            id: sandbox_id(pod, attempt),
            labels: labels.into_iter().map(|(k, v)| (k.to_string(), v)).collect(),
            hostname: (!pod.host_network()).then(|| pod_files::inner_host_name(pod, &config.cluster_domain)),
            host_network: pod.host_network(),
            host_pid: spec.host_pid == Some(true),
            host_ipc: spec.host_ipc == Some(true),
            share_pid: spec.share_process_namespace == Some(true),
            sysctls: sysctls.into_iter().map(|s| (s.name, s.value)).collect(),
            cgroup_parent: resources::cgroup_parent(pod),
            resources: resources::of_pod(pod),
            log_directory: pod_files::log_folder(&config.root_dir, pod),
        };
        match self.shared.runtime.run_sandbox(wanted).await {
            Ok(status) => self.attach(status.into()).await,
            Err(error) => {
                let error = Error::runtime("failed to create pod sandbox", error).chain();
                self.events.warning(
                    None,
                    "FailedCreatePodSandBox",
                    format!("Failed to create pod sandbox: {error}"),
                );
                Err(Failed::new("", error))
            }
        }
    }

    async fn attach(&self, sandbox: Sandbox) -> Result<Learnt, Failed> {
        let Some(netns) = sandbox.netns.clone().filter(|_| !self.pod.host_network()) else {
            return Ok(Learnt::Linked { sandbox, addresses: Vec::new() });
        };
        let link = PodLink { id: sandbox.id.clone(), netns, host_ports: host_ports(&self.pod) };
        let network = &self.shared.network;
        let linked = match network.attach(link).await {
            Ok(given) => match network.protect(&self.pod, &sandbox.id, &given.addresses).await {
                Ok(()) => tokio::select! {
                    connected = network.connected(&self.pod, &sandbox.id) => connected.map(|()| given.addresses),
                    () = self.ending.cancelled() => return Ok(Learnt::Sandbox(sandbox)),
                },
                Err(error) => Err(error),
            },
            Err(error) => Err(error),
        };
        match linked {
            Ok(addresses) => Ok(Learnt::Linked { sandbox, addresses }),
            Err(error) => {
                let error = Error::network("failed to set up sandbox network", error).chain();
                self.events.warning(
                    None,
                    "FailedCreatePodSandBox",
                    format!("Failed to create pod sandbox: {error}"),
                );
                tracing::debug!(pod = self.pod.name(), error, "a sandbox was not linked");
                // The sandbox is there all the same; linking is tried again.
                Ok(Learnt::Sandbox(sandbox))
            }
        }
    }

    async fn mount(&self) -> Result<Learnt, Failed> {
        let begun = self.shared.now();
        let result = tokio::select! {
            result = Box::pin(self.mount_all(begun)) => result,
            () = self.ending.cancelled() => return Err(Failed::cancelled()),
        };
        if let Err(error) = &result {
            self.events.warning(None, "FailedMount", error.chain());
        }
        Ok(Learnt::Mounted { refresh_at: result?, begun })
    }

    /// What the pod's claims stand for: asked for until all are bound, then kept, for it does not change any more.
    async fn claimed(&self) -> Result<Arc<Claims>, Error> {
        if let Some(known) = self.claims.lock().clone() {
            return Ok(known);
        }
        let labels = self.shared.node_labels();
        let config = &self.shared.config;
        let here = claims::Here { node: &config.name, labels: &labels, folder: &config.volumes_dir };
        let (begun, mut pause) = (tokio::time::Instant::now(), FIRST_LOOK);
        loop {
            match Box::pin(claims::resolve(&self.shared.client, &self.pod, &here)).await {
                Ok(found) => {
                    let found = Arc::new(found);
                    *self.claims.lock() = Some(found.clone());
                    return Ok(found);
                }
                Err(error) if begun.elapsed() >= CLAIMS_WAIT => return Err(error),
                Err(_) => tokio::time::sleep(pause).await,
            }
            pause = (pause * 2).min(LAST_LOOK);
        }
    }

    /// Fetches the images that are volumes, and shows their files. Once shown, they are not fetched again.
    async fn show_images(&self) -> Result<(), Error> {
        for volume in self.pod.spec_ref().volumes.iter().flatten() {
            let Some(source) = &volume.image else { continue };
            let folder = volumes::image_folder(&self.shared.config.root_dir, &self.pod, volume);
            let target = folder.join("rootfs");
            if target.is_dir() && volumes::is_mount_point(&target)? {
                continue;
            }
            let wanted = ContainerSource {
                image: source.reference.clone(),
                image_pull_policy: source.pull_policy.clone(),
                ..ContainerSource::default()
            };
            let secrets = self.pod.spec_ref().image_pull_secrets.iter().flatten().map(|s| s.name.clone());
            let references = env::References { secrets: secrets.collect(), ..Default::default() };
            let objects = self.shared.objects.get(self.pod.namespace(), &references).await;
            let image = self.shared.puller.ensure(&self.pod, &wanted, &objects, &self.events).await;
            let failed = |why: String| {
                Error::Pod(format!("MountVolume.SetUp failed for volume \"{}\" : {why}", volume.name))
            };
            let image = image.map_err(|none| failed(format!("{}: {}", none.reason, none.message)))?;
            self.shared.images.show(&image.id, &folder).await.map_err(|e| failed(e.to_string()))?;
        }
        Ok(())
    }

    async fn mount_all(&self, now: Timestamp) -> Result<Option<Timestamp>, Error> {
        let references = volumes::references(&self.pod);
        let objects = async {
            let get = self.shared.objects.get(self.pod.namespace(), &references);
            tokio::time::timeout(OBJECTS_WAIT, get)
                .await
                .map_err(|_| Error::Pod("timed out waiting for ConfigMaps and Secrets".into()))
        };
        let tokens = async {
            let mut tokens = self.tokens.lock().await;
            tokens.get(&self.shared.client, &self.pod, now).await
        };
        let (objects, tokens, claims, shown) =
            tokio::join!(objects, tokens, self.claimed(), Box::pin(self.show_images()));
        shown?;
        let (objects, (tokens, renew_at), claims) = (objects?, tokens?, claims?);
        let (shared, pod, ips) = (self.shared.clone(), self.pod.clone(), self.ips.clone());
        blocking(move || {
            let limit = resources::of_pod(&pod).memory_limit;
            let host_ips = shared.config.node_ips();
            let with = Ingredients {
                fields: env::FieldContext {
                    pod: &pod,
                    pod_ips: &ips,
                    host_ips: &host_ips,
                    allocatable: &shared.capacity.allocatable,
                },
                objects: &objects,
                tokens: &tokens,
                claims: &claims,
                memory_size: u64::try_from(limit).ok().filter(|l| *l > 0).unwrap_or(shared.capacity.memory),
                now,
            };
            volumes::set_up(&shared.config.root_dir, &pod, &with)
        })
        .await?;
        Ok(renew_at)
    }

    async fn unmount(&self) -> Result<Learnt, Failed> {
        let (root, uid) = (self.shared.config.root_dir.clone(), self.pod.uid().to_string());
        blocking(move || volumes::tear_down(&root, &uid)).await?;
        for volume in self.pod.spec_ref().volumes.iter().flatten().filter(|v| v.image.is_some()) {
            let folder = volumes::image_folder(&self.shared.config.root_dir, &self.pod, volume);
            let hidden = self.shared.images.hide(&folder).await;
            hidden.map_err(|e| Error::runtime(format!("hiding the image of volume {}", volume.name), e))?;
        }
        Ok(Learnt::Unmounted)
    }

    async fn pull(&self, name: &str) -> Result<Learnt, Failed> {
        let Some(spec) = self.pod.container(name) else { return Ok(Learnt::Nothing) };
        let secrets = self.pod.spec_ref().image_pull_secrets.iter().flatten().map(|s| s.name.clone());
        let references = env::References { secrets: secrets.collect(), ..Default::default() };
        let ensure = async {
            let objects = self.shared.objects.get(self.pod.namespace(), &references).await;
            self.shared.puller.ensure(&self.pod, &spec, &objects, &self.events).await
        };
        let image = tokio::select! {
            image = ensure => image,
            () = self.ending.cancelled() => return Err(Failed::cancelled()),
        };
        match image {
            Ok(image) => Ok(Learnt::Image { container: name.into(), image }),
            Err(none) => {
                Err(Failed { retry_at: Some(none.retry_at), ..Failed::new(none.reason, none.message) })
            }
        }
    }

    async fn remove_container(&self, id: String) -> Result<Learnt, Failed> {
        match self.shared.runtime.remove_container(&id).await {
            Ok(()) | Err(orlop_runtime::Error::NotFound { .. }) => Ok(Learnt::ContainerRemoved(id)),
            Err(error) => Err(Error::runtime(format!("removing container {id}"), error).into()),
        }
    }

    async fn stop_sandbox(&self, id: String) -> Result<Learnt, Failed> {
        match self.shared.runtime.stop_sandbox(&id).await {
            Ok(()) | Err(orlop_runtime::Error::NotFound { .. }) => {}
            Err(error) => return Err(self.failed_to_kill(Error::runtime("stopping the sandbox", error))),
        }
        if let Err(error) = self.shared.network.detach(&id).await {
            return Err(self.failed_to_kill(Error::network("unlinking the sandbox", error)));
        }
        // What it took down with it has its last status now.
        let containers = match self.shared.runtime.list_containers().await {
            Ok(all) => by_pod(Vec::new(), all).remove(self.pod.uid()).unwrap_or_default().containers,
            Err(error) => return Err(Error::runtime("listing containers", error).into()),
        };
        let containers = containers.into_iter().filter(|c| c.sandbox_id == id).collect();
        Ok(Learnt::SandboxStopped { id, containers })
    }

    fn failed_to_kill(&self, error: Error) -> Failed {
        let why = error.chain();
        self.events.warning(None, "FailedKillPod", format!("error killing pod: {why}"));
        Failed::new("", why)
    }

    async fn remove_sandbox(&self, id: String) -> Result<Learnt, Failed> {
        match self.shared.runtime.remove_sandbox(&id).await {
            Ok(()) | Err(orlop_runtime::Error::NotFound { .. }) => Ok(Learnt::SandboxRemoved(id)),
            Err(error) => Err(Error::runtime(format!("removing sandbox {id}"), error).into()),
        }
    }

    async fn delete(&self) -> Result<Learnt, Failed> {
        let api = Api::<Pod>::namespaced(self.shared.client.clone(), self.pod.namespace());
        let params = DeleteParams {
            grace_period_seconds: Some(0),
            preconditions: Some(Preconditions { uid: Some(self.pod.uid().into()), resource_version: None }),
            ..DeleteParams::default()
        };
        match api.delete(self.pod.name(), &params).await {
            Ok(_) => Ok(Learnt::Deleted),
            // Gone, or another one has taken its name.
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(Learnt::Deleted),
            Err(error) => Err(Error::api("deleting the pod", error).into()),
        }
    }
}

/// Runs what blocks on the disk away from the async threads.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(Error::io("working on the disk", std::io::Error::other(error))),
    }
}

/// The ports of the node that lead to a pod.
pub(crate) fn host_ports(pod: &Pod) -> Vec<HostPort> {
    if pod.host_network() {
        return Vec::new();
    }
    let ports = pod.containers().into_iter().flat_map(|(_, c)| c.ports.iter().flatten());
    ports
        .filter_map(|port| {
            let host_port = u16::try_from(port.host_port?).ok().filter(|p| *p > 0)?;
            let host_ip = port.host_ip.as_deref().and_then(|ip| ip.parse::<IpAddr>().ok());
            Some(HostPort {
                // Unspecified: all addresses of that family.
                host_ip,
                host_port,
                pod_port: u16::try_from(port.container_port).ok()?,
                protocol: match port.protocol.as_deref() {
                    Some("UDP") => Protocol::Udp,
                    Some("SCTP") => Protocol::Sctp,
                    _ => Protocol::Tcp,
                },
            })
        })
        .collect()
}

/// Where seccomp profiles of the type `Localhost` stand.
pub(super) fn seccomp_folder(shared: &Shared) -> PathBuf {
    shared.config.root_dir.join("seccomp")
}
