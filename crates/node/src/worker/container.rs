//! Starting and ending one container: environment, mounts, confinement, hooks. The order of containers is the planner's.

use super::steps::{Failed, Learnt, Step, blocking, seccomp_folder};
use crate::{
    claims::Claims,
    env::{self, References, expand, service_variables},
    handler::Handler,
    plan::Why,
    pod::PodExt,
    pod_files,
    pod_state::{Container, PodState, container_id, label, spec_hash},
    resources, security,
    volumes::{self, ContainerMounts, container_mounts},
};
use k8s_openapi::api::core::v1::{Container as Spec, Pod};
use orlop_runtime::{ContainerSpec, ContainerState, Device, Error, Image};
use std::{collections::BTreeMap, time::Duration};

/// What a container gets at least after its `preStop` hook has used up the time.
const LEAST_GRACE: Duration = Duration::from_secs(2);

/// All ConfigMaps and Secrets that a pod uses in any way.
pub(super) fn references(pod: &Pod) -> References {
    let mut all = volumes::references(pod);
    let ephemeral = pod.ephemeral();
    let containers = pod.containers().into_iter().map(|(_, container)| container);
    for container in containers.chain(&ephemeral) {
        let of_env = env::references(container);
        all.config_maps.extend(of_env.config_maps);
        all.secrets.extend(of_env.secrets);
    }
    let pull = pod.spec_ref().image_pull_secrets.iter().flatten();
    all.secrets.extend(pull.map(|s| s.name.clone()));
    all
}

/// The devices that a container gets through claims of `volumeMode: Block`.
fn claimed_devices(spec: &Spec, claims: &Claims) -> Result<Vec<Device>, String> {
    let wanted = spec.volume_devices.iter().flatten();
    wanted
        .map(|device| {
            let claimed = claims.get(&device.name).filter(|c| c.block);
            let claimed = claimed.ok_or_else(|| format!("no block device for volume \"{}\"", device.name))?;
            Ok(Device {
                host_path: claimed.path().to_path_buf(),
                container_path: device.device_path.clone().into(),
                permissions: if claimed.read_only { "rm".into() } else { "rwm".into() },
            })
        })
        .collect()
}

impl Step {
    /// Makes and starts a try of a container, and runs its `postStart` hook.
    pub(super) async fn start(
        &self,
        state: &PodState,
        name: &str,
        attempt: u32,
        sandbox: String,
        image: Option<Image>,
    ) -> Result<Learnt, Failed> {
        let (Some(spec), Some(image)) = (self.pod.container(name), image) else { return Ok(Learnt::Nothing) };
        let wanted = match self.container_spec(state, &spec, attempt, sandbox, &image).await {
            Ok(wanted) => wanted,
            Err(why) => {
                self.events.warning(Some(name), "Failed", format!("Error: {why}"));
                return Err(Failed::new("CreateContainerConfigError", why));
            }
        };
        let id = wanted.id.clone();
        if let Err(error) = self.shared.runtime.create_container(wanted).await {
            self.events.warning(Some(name), "Failed", format!("Error: {error}"));
            // Nothing half made may be in the way of the next try.
            let _ = self.shared.runtime.remove_container(&id).await;
            return Err(Failed::new("CreateContainerError", error.to_string()));
        }
        self.events.normal(Some(name), "Created", "Container created");
        if let Err(error) = self.shared.runtime.start_container(&id).await {
            self.events.warning(Some(name), "Failed", format!("Error: {error}"));
            let container = self.status(&id).await.filter(Container::exited);
            if container.is_none() {
                let _ = self.shared.runtime.remove_container(&id).await;
            }
            return Err(Failed { container, ..Failed::new("RunContainerError", error.to_string()) });
        }
        self.events.normal(Some(name), "Started", "Container started");
        self.post_start(&spec, &id).await?;
        match self.status(&id).await {
            Some(container) => {
                let resources = spec.resources.clone().unwrap_or_default();
                Ok(Learnt::Started { container: Box::new(container), resources: Box::new(resources) })
            }
            None => Ok(Learnt::Nothing),
        }
    }

    /// The container whose processes an ephemeral one wants to see.
    fn target(&self, state: &PodState, name: &str) -> Result<Option<String>, String> {
        let looking = self.pod.spec_ref().ephemeral_containers.iter().flatten().find(|c| c.name == name);
        let target = looking.and_then(|c| c.target_container_name.as_deref()).filter(|t| !t.is_empty());
        let Some(target) = target else { return Ok(None) };
        match state.newest(target).filter(|c| c.running()) {
            Some(container) => Ok(Some(container.id.clone())),
            None => Err(format!("unable to find target container \"{target}\"")),
        }
    }

    async fn status(&self, id: &str) -> Option<Container> {
        self.shared.runtime.container_status(id).await.ok().map(Into::into)
    }

    async fn post_start(&self, spec: &Spec, id: &str) -> Result<(), Failed> {
        let Some(hook) = spec.lifecycle.as_ref().and_then(|l| l.post_start.as_ref()) else { return Ok(()) };
        let handler = Handler::of_hook(hook, spec, self.ips.first().copied());
        let run = async {
            match &handler {
                Ok(handler) => {
                    let forever = Duration::from_secs(3600);
                    handler.run(&self.shared.runtime, id, forever).await.map_err(|e| e.text().to_string())
                }
                Err(why) => Err(why.clone()),
            }
        };
        let result = tokio::select! {
            result = run => result,
            // The container is stopped next, hook or not.
            () = self.ending.cancelled() => Ok(()),
        };
        let Err(why) = result else { return Ok(()) };
        self.events.warning(Some(&spec.name), "FailedPostStartHook", format!("PostStartHook failed: {why}"));
        self.events.normal(Some(&spec.name), "Killing", "FailedPostStartHook");
        let _ = self.shared.runtime.stop_container(id, Duration::from_secs(self.pod.grace_seconds())).await;
        let container = self.status(id).await;
        Err(Failed { container, ..Failed::new("PostStartHookError", format!("PostStartHook failed: {why}")) })
    }

    async fn container_spec(
        &self,
        state: &PodState,
        spec: &Spec,
        attempt: u32,
        sandbox: String,
        image: &Image,
    ) -> Result<ContainerSpec, String> {
        let environment = self.environment(spec).await?;
        let security = security::of_container(&self.pod, spec, image, &seccomp_folder(&self.shared))?;
        let (shared, pod, ips) = (self.shared.clone(), self.pod.clone(), self.ips.clone());
        let (container, variables) = (spec.clone(), environment.iter().cloned().collect::<BTreeMap<_, _>>());
        let map = variables.clone();
        let claims = self.claims.lock().clone().unwrap_or_default();
        let devices = claimed_devices(spec, &claims)?;
        let (mounts, message) = blocking(move || {
            let files = pod_files::write(&shared.config, &pod, &container, attempt, &ips)?;
            let mounts = container_mounts(&ContainerMounts {
                root: &shared.config.root_dir,
                pod: &pod,
                container: &container,
                env: &map,
                claims: &claims,
                files: files.mounts,
            })?;
            Ok((mounts, files.message))
        })
        .await
        .map_err(|e| e.chain())?;
        let expanded = |list: &Option<Vec<String>>| {
            list.iter().flatten().map(|text| expand(text, |name| variables.get(name))).collect()
        };
        let digest = image.digests.first().unwrap_or(&image.id).clone();
        let labels = [
            (label::POD_NAME, self.pod.name().to_string()),
            (label::POD_NAMESPACE, self.pod.namespace().to_string()),
            (label::POD_UID, self.pod.uid().to_string()),
            (label::CONTAINER_NAME, spec.name.clone()),
            (label::RESTART_COUNT, attempt.to_string()),
            (label::HASH, spec_hash(spec)),
            (label::IMAGE, spec.image.clone().unwrap_or_default()),
            (label::IMAGE_DIGEST, digest),
            (label::MESSAGE_FILE, message.display().to_string()),
        ];
        Ok(ContainerSpec {
            id: container_id(&self.pod, &spec.name, attempt),
            sandbox_id: sandbox,
            labels: labels.into_iter().map(|(k, v)| (k.to_string(), v)).collect(),
            image_id: image.id.clone(),
            command: expanded(&spec.command),
            args: expanded(&spec.args),
            working_dir: spec.working_dir.clone().filter(|d| !d.is_empty()),
            env: environment,
            mounts,
            devices,
            resources: resources::of_container(&self.pod, spec, self.shared.capacity.memory),
            security,
            processes_of: self.target(state, &spec.name)?,
            log_path: pod_files::log_file(&spec.name, attempt),
            tty: spec.tty == Some(true),
            stdin: spec.stdin == Some(true),
            stdin_once: spec.stdin_once == Some(true),
        })
    }

    async fn environment(&self, spec: &Spec) -> Result<Vec<(String, String)>, String> {
        let objects = self.shared.objects.get(self.pod.namespace(), &env::references(spec)).await;
        self.shared.services.synced().await;
        let (namespace, links) =
            (self.pod.namespace(), self.pod.spec_ref().enable_service_links != Some(false));
        let mut services = self.shared.services.in_namespace(namespace);
        services.extend(self.shared.services.get(env::MASTER.0, env::MASTER.1));
        let services = service_variables(&services, namespace, links);
        let host_ips = self.shared.config.node_ips();
        let context = env::FieldContext {
            pod: &self.pod,
            pod_ips: &self.ips,
            host_ips: &host_ips,
            allocatable: &self.shared.capacity.allocatable,
        };
        env::environment(&context, spec, &services, &objects)
    }

    /// Ends a container: hook, signal, patience, SIGKILL.
    pub(super) async fn stop(
        &self,
        state: &PodState,
        id: &str,
        grace: Duration,
        why: Why,
    ) -> Result<Learnt, Failed> {
        let name = state.containers.iter().find(|c| c.id == id).map(|c| c.name.clone()).unwrap_or_default();
        let message = match why {
            Why::PodEnds => format!("Stopping container {name}"),
            Why::Liveness => format!("Container {name} failed liveness probe, will be restarted"),
            Why::Startup => format!("Container {name} failed startup probe, will be restarted"),
            Why::Resized => format!("Container {name} resize requires restart"),
            Why::Changed => format!("Container {name} definition changed, will be restarted"),
            Why::SandboxGone => format!("Container {name} lost its sandbox"),
        };
        self.events.normal(Some(&name), "Killing", message);
        let begun = tokio::time::Instant::now();
        let hooked = match self.pod.container(&name) {
            Some(spec) => self.pre_stop(&spec, id, grace).await,
            None => false,
        };
        // What the hook has used is gone; but something is left for the container itself.
        let rest = grace.saturating_sub(begun.elapsed()).max(LEAST_GRACE.min(grace));
        let left = if hooked { rest } else { grace };
        match self.shared.runtime.stop_container(id, left).await {
            Ok(()) | Err(Error::NotFound { .. }) => {}
            Err(error) => {
                let why = format!("error killing container {name}: {error}");
                self.events.warning(Some(&name), "FailedKillPod", why.clone());
                return Err(Failed::new("", why));
            }
        }
        match self.shared.runtime.container_status(id).await {
            Ok(status) if status.state == ContainerState::Running => {
                Err(Failed::new("", format!("container {name} still runs after it was stopped")))
            }
            Ok(status) => Ok(Learnt::Container(Box::new(status.into()))),
            Err(Error::NotFound { .. }) => Ok(Learnt::ContainerRemoved(id.into())),
            Err(error) => Err(Failed::new("", error.to_string())),
        }
    }

    /// Runs the `preStop` hook, if there is one and time for it.
    async fn pre_stop(&self, spec: &Spec, id: &str, grace: Duration) -> bool {
        let hook = spec.lifecycle.as_ref().and_then(|l| l.pre_stop.as_ref());
        let Some(hook) = hook.filter(|_| !grace.is_zero()) else { return false };
        let result = match Handler::of_hook(hook, spec, self.ips.first().copied()) {
            Ok(handler) => {
                let run = handler.run(&self.shared.runtime, id, grace);
                let result = tokio::time::timeout(grace, run).await;
                result.unwrap_or(Ok(())).map_err(|e| e.text().to_string())
            }
            Err(why) => Err(why),
        };
        if let Err(why) = result {
            self.events.warning(Some(&spec.name), "FailedPreStopHook", format!("PreStopHook failed: {why}"));
        }
        true
    }

    /// Changes what a running container may use, and the pod around it. The pod's own bounds are never narrower than its
    /// containers' in between: they are written before and after.
    pub(super) async fn resize(&self, state: &PodState, name: &str, id: &str) -> Result<Learnt, Failed> {
        let Some(spec) = self.pod.container(name) else { return Ok(Learnt::Nothing) };
        let wanted = resources::of_container(&self.pod, &spec, self.shared.capacity.memory);
        let failed = |e: Error| Failed::new("Error", e.to_string());
        if wanted.memory_limit > 0 {
            let stats = self.shared.runtime.container_stats(id).await.map_err(failed)?;
            let used = i64::try_from(stats.memory_working_set).unwrap_or(i64::MAX);
            if used > wanted.memory_limit {
                let limit = wanted.memory_limit;
                let why = format!(
                    "attempting to set container {name:?} memory limit ({limit}) below current usage ({used})"
                );
                return Err(Failed::new("Error", why));
            }
        }
        let sandbox = state.current_sandbox().map(|s| s.id.clone());
        let whole = resources::of_pod(&self.pod);
        for step in 0..2 {
            if let Some(sandbox) = &sandbox {
                self.shared.runtime.update_sandbox(sandbox, whole.clone()).await.map_err(failed)?;
            }
            if step == 0 {
                self.shared.runtime.update_container(id, wanted.clone()).await.map_err(failed)?;
            }
        }
        let resources = spec.resources.clone().unwrap_or_default();
        Ok(Learnt::Resized { id: id.into(), resources: Box::new(resources) })
    }

    pub(super) async fn kill(&self, id: &str) -> Result<Learnt, Failed> {
        const SIGKILL: i32 = 9;
        match self.shared.runtime.signal_container(id, SIGKILL).await {
            Ok(()) | Err(Error::NotFound { .. } | Error::State(_)) => Ok(Learnt::Killed(id.into())),
            Err(error) => Err(Failed::new("", error.to_string())),
        }
    }
}
