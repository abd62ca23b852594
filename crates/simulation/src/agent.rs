//! The agent of a simulated node: it registers the node, renews its Lease, follows its pods and tells how they are, as the real one does
//! (`orlop-node`), over the same API with the same rights. What runs is kept by the [`Machine`].

use crate::{
    directories,
    machine::{KILLED, Machine, Pace, Run, Stage},
};
use futures::future::join_all;
use jiff::Timestamp;
use k8s_openapi::{
    api::{
        coordination::v1::{Lease, LeaseSpec},
        core::v1::{Node, Pod},
    },
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, Time},
};
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions},
};
use orlop_api::local_volume::FOLDER_ANNOTATION;
use orlop_client::{Clock, Informer, Source, api_reason, found};
use parking_lot::Mutex;
use serde_json::{Value, json};
use std::{collections::BTreeMap, net::Ipv4Addr, sync::Arc, time::Duration};
use tokio::sync::Notify;

const LEASES: &str = "kube-node-lease";
const LEASE_SECONDS: i32 = 40;
/// How often the node's status is told without need, as the kubelet does.
const REPORT: Duration = Duration::from_secs(300);
/// Where volumes that are directories would be.
const FOLDER: &str = "/var/lib/orlop/volumes";
/// How long the agent waits after something failed.
const AGAIN: Duration = Duration::from_secs(1);

/// A simulated node.
#[derive(Clone, Debug)]
pub struct NodeSpec {
    /// Its name.
    pub name: String,
    /// Its labels, besides the host name's.
    pub labels: BTreeMap<String, String>,
    /// Taints as in `spec.taints`.
    pub taints: Vec<Value>,
    /// What it has: `cpu`, `memory`, `pods`, ….
    pub capacity: BTreeMap<String, String>,
    /// Its Node object is there and says how it is: the agent only shows that it lives.
    pub registered: bool,
}

impl NodeSpec {
    /// A node with so much of everything and 110 pods.
    #[must_use]
    pub fn new(name: impl Into<String>, cpu: &str, memory: &str) -> Self {
        let capacity = [("cpu", cpu), ("memory", memory), ("pods", "110"), ("ephemeral-storage", "100Gi")];
        Self {
            name: name.into(),
            labels: BTreeMap::new(),
            taints: Vec::new(),
            capacity: capacity.map(|(k, v)| (k.to_string(), v.to_string())).into(),
            registered: false,
        }
    }
}

/// Called with node, uid and run when the containers of a pod start, with all that runs anywhere.
pub(crate) type OnStart = Arc<dyn Fn(&str, &str) + Send + Sync>;

/// What the agent of a node needs.
#[derive(Clone)]
pub(crate) struct Agent {
    pub spec: NodeSpec,
    /// Which node of the world it is.
    pub index: u32,
    pub client: Client,
    pub clock: Clock,
    pub seed: u64,
    pub pace: Pace,
    pub heartbeat: Duration,
    pub machine: Arc<Mutex<Machine>>,
    pub started: OnStart,
}

/// What an agent does about one pod.
enum Act {
    Report(Box<Pod>, Value),
    Remove(Box<Pod>),
}

impl Agent {
    /// Runs until dropped.
    pub(crate) async fn run(self) {
        while let Err(error) = self.register().await {
            tracing::debug!(%error, "registering a node");
            tokio::time::sleep(AGAIN).await;
        }
        tokio::join!(
            self.keep_lease(),
            self.keep_status(),
            self.keep_pods(),
            Box::pin(directories::run(self.client.clone(), &self.spec.name)),
        );
    }

    fn nodes(&self) -> Api<Node> {
        Api::all(self.client.clone())
    }

    async fn register(&self) -> Result<(), kube::Error> {
        if self.spec.registered {
            return Ok(());
        }
        let nodes = self.nodes();
        if nodes.get_opt(&self.spec.name).await?.is_none() {
            let mut labels = self.spec.labels.clone();
            for key in ["kubernetes.io/hostname", "kubernetes.io/os", "kubernetes.io/arch"] {
                let value = match key {
                    "kubernetes.io/os" => "linux",
                    "kubernetes.io/arch" => "amd64",
                    _ => &self.spec.name,
                };
                labels.entry(key.into()).or_insert_with(|| value.into());
            }
            let mut spec = json!({});
            if !self.spec.taints.is_empty() {
                spec["taints"] = self.spec.taints.clone().into();
            }
            let node = json!({"spec": spec, "metadata": {
                "name": self.spec.name, "labels": labels, "annotations": {FOLDER_ANNOTATION: FOLDER},
            }});
            let node: Node = serde_json::from_value(node).map_err(kube::Error::SerdeError)?;
            match nodes.create(&PostParams::default(), &node).await {
                Err(error) if api_reason(&error) != Some("AlreadyExists") => return Err(error),
                _ => {}
            }
        }
        self.report_node().await
    }

    async fn report_node(&self) -> Result<(), kube::Error> {
        let before = self.nodes().get(&self.spec.name).await?;
        let now = Time((self.clock)());
        let conditions = ["MemoryPressure", "DiskPressure", "PIDPressure", "Ready"].map(|type_| {
            let (status, reason) = match type_ {
                "MemoryPressure" => ("False", "KubeletHasSufficientMemory"),
                "DiskPressure" => ("False", "KubeletHasNoDiskPressure"),
                "PIDPressure" => ("False", "KubeletHasSufficientPID"),
                _ => ("True", "KubeletReady"),
            };
            let old = before.status.as_ref().and_then(|s| s.conditions.as_ref()).into_iter().flatten();
            let same = old.into_iter().find(|c| c.type_ == type_ && c.status == status);
            let since = same.and_then(|c| c.last_transition_time.clone()).unwrap_or(now.clone());
            json!({"type": type_, "status": status, "reason": reason, "lastHeartbeatTime": now, "lastTransitionTime": since})
        });
        let status = json!({"status": {
            "capacity": self.spec.capacity, "allocatable": self.spec.capacity, "conditions": conditions,
            "nodeInfo": {"architecture": "amd64", "bootID": "", "containerRuntimeVersion": "simulation://1",
                "kernelVersion": "", "kubeProxyVersion": "", "kubeletVersion": "v1.36.0+orlop", "machineID": "",
                "operatingSystem": "linux", "osImage": "", "systemUUID": ""},
        }});
        let params = PatchParams::default();
        self.nodes().patch_status(&self.spec.name, &params, &Patch::Strategic(status)).await.map(|_| ())
    }

    async fn keep_status(&self) {
        loop {
            tokio::time::sleep(REPORT).await;
            while let Err(error) = self.register().await {
                tracing::debug!(%error, "telling how a node is");
                tokio::time::sleep(AGAIN).await;
            }
        }
    }

    async fn keep_lease(&self) {
        let leases = Api::<Lease>::namespaced(self.client.clone(), LEASES);
        let name = &self.spec.name;
        let mut silent = false;
        loop {
            let spec = LeaseSpec {
                holder_identity: Some(name.clone()),
                lease_duration_seconds: Some(LEASE_SECONDS),
                renew_time: Some(MicroTime((self.clock)())),
                ..LeaseSpec::default()
            };
            let renewal = json!({"spec": {"renewTime": spec.renew_time}});
            let patched = leases.patch(name, &PatchParams::default(), &Patch::Merge(renewal)).await;
            let renewed = match found(patched) {
                Ok(Some(_)) => Ok(()),
                Ok(None) => {
                    let metadata = ObjectMeta { name: Some(name.clone()), ..ObjectMeta::default() };
                    let lease = Lease { metadata, spec: Some(spec) };
                    leases.create(&PostParams::default(), &lease).await.map(|_| ())
                }
                Err(error) => Err(error),
            };
            match renewed {
                // Whoever comes back says at once that it is well.
                Ok(()) if silent => silent = self.register().await.is_err(),
                Ok(()) => {}
                Err(error) => {
                    tracing::debug!(%error, "renewing a lease");
                    silent = true;
                    tokio::time::sleep(AGAIN).await;
                    continue;
                }
            }
            tokio::time::sleep(self.heartbeat).await;
        }
    }

    async fn keep_pods(&self) {
        let pods = Arc::<Informer<Pod>>::default();
        let changed = Arc::new(Notify::new());
        let tell = changed.clone();
        pods.on_change(move |_, _| tell.notify_one());
        let all = Source::of(&Api::<Pod>::all(self.client.clone()));
        let mine = all.fields(format!("spec.nodeName={}", self.spec.name));
        let watch = pods.clone().run_selected(self.client.clone(), mine);
        let work = async {
            pods.synced().await;
            loop {
                let (acts, next) = self.look(&pods);
                let failed =
                    join_all(acts.into_iter().map(|act| self.act(&pods, act))).await.contains(&false);
                let wait = next.map(|at| {
                    at.duration_since((self.clock)()).max(jiff::SignedDuration::ZERO).unsigned_abs()
                });
                let wait = if failed { Some(wait.map_or(AGAIN, |w| w.min(AGAIN))) } else { wait };
                tokio::select! {
                    biased;
                    () = changed.notified() => {}
                    () = async { match wait {
                        // A timer is exact to the millisecond: never before what it waits for.
                        Some(wait) => tokio::time::sleep(wait + Duration::from_millis(1)).await,
                        None => std::future::pending().await,
                    }} => {}
                }
            }
        };
        tokio::join!(watch, work);
    }

    /// Brings the machine to what the API says and to this moment; says what must be told.
    fn look(&self, informer: &Informer<Pod>) -> (Vec<Act>, Option<Timestamp>) {
        let now = (self.clock)();
        let mut pods = informer.all();
        pods.sort_by_key(|p| (p.namespace(), p.name_any()));
        let mut acts = Vec::new();
        let mut begun = Vec::new();
        let mut next: Option<Timestamp> = None;
        {
            let mut machine = self.machine.lock();
            let here: BTreeMap<String, &Arc<Pod>> =
                pods.iter().map(|p| (p.uid().unwrap_or_default(), p)).collect();
            // What nobody knows any more is stopped at once.
            machine.runs.retain(|uid, _| here.contains_key(uid));
            for (uid, pod) in &here {
                if !machine.runs.contains_key(uid) {
                    if is_finished(pod) {
                        if pod.metadata.deletion_timestamp.is_some() {
                            acts.extend(self.remove(pod));
                        }
                        continue;
                    }
                    let run = self.adopt(&mut machine, pod, now);
                    machine.runs.insert(uid.clone(), run);
                }
                let Some(run) = machine.runs.get_mut(uid) else { continue };
                if pod.metadata.deletion_timestamp.is_some() && run.stopping.is_none() {
                    let grace = pod.metadata.deletion_grace_period_seconds.unwrap_or(30);
                    run.stop(Duration::from_secs(u64::try_from(grace).unwrap_or(0)), now);
                }
                if run.advance(now) {
                    begun.push(uid.clone());
                }
                let own = run.next(now);
                next = next.into_iter().chain(own).min();
                match report(pod, run, now) {
                    Some(status) => acts.push(Act::Report(Box::new(Pod::clone(pod)), status)),
                    None if matches!(run.stage, Stage::Ended { .. })
                        && pod.metadata.deletion_timestamp.is_some() =>
                    {
                        acts.extend(self.remove(pod));
                    }
                    None => {}
                }
            }
        }
        begun.iter().for_each(|uid| (self.started)(&self.spec.name, uid));
        (acts, next)
    }

    /// A pod that is new to the machine, or that ran here before the power was off.
    fn adopt(&self, machine: &mut Machine, pod: &Pod, now: Timestamp) -> Run {
        let status = pod.status.as_ref();
        let before = status.and_then(|s| s.container_statuses.as_ref()).and_then(|all| all.first());
        let ran = status.and_then(|s| s.phase.as_deref()) == Some("Running");
        machine.addresses += 1;
        // 1,022 addresses a node, one after the other.
        let number = (self.index << 10) + machine.addresses % 1022 + 1;
        let address = Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 64, 0, 0)).wrapping_add(number)).to_string();
        let restarts = before.map_or(0, |c| u32::try_from(c.restart_count).unwrap_or(0)) + u32::from(ran);
        let mut run = Run::new(pod, self.seed, &self.pace, address, restarts, now);
        let never = pod.spec.as_ref().and_then(|s| s.restart_policy.as_deref()) == Some("Never");
        if ran && never {
            run.stage = Stage::Ended { at: now, code: KILLED };
        }
        run
    }

    fn remove(&self, pod: &Arc<Pod>) -> Option<Act> {
        // With a grace period of 0 already, it waits for its finalizers, not for the node.
        let told = pod.metadata.deletion_grace_period_seconds == Some(0);
        (!told).then(|| Act::Remove(Box::new(Pod::clone(pod))))
    }

    /// Whether it worked.
    async fn act(&self, pods: &Informer<Pod>, act: Act) -> bool {
        match act {
            Act::Report(pod, status) => {
                let api = Api::<Pod>::namespaced(self.client.clone(), &pod.namespace().unwrap_or_default());
                let patch = Patch::Strategic(json!({"metadata": {"uid": pod.uid()}, "status": status}));
                match found(api.patch_status(&pod.name_any(), &PatchParams::default(), &patch).await) {
                    Ok(Some(pod)) => pods.observe(pod),
                    Ok(None) => pods.forget(&pod),
                    Err(error) => {
                        tracing::debug!(%error, pod = %pod.name_any(), "telling how a pod is");
                        return false;
                    }
                }
            }
            Act::Remove(pod) => {
                let api = Api::<Pod>::namespaced(self.client.clone(), &pod.namespace().unwrap_or_default());
                let preconditions = Some(Preconditions { uid: pod.uid(), resource_version: None });
                let params =
                    DeleteParams { grace_period_seconds: Some(0), preconditions, ..DeleteParams::default() };
                match found(api.delete(&pod.name_any(), &params).await) {
                    Ok(Some(either::Either::Left(held))) if !held.finalizers().is_empty() => {
                        pods.observe(held)
                    }
                    Ok(_) => pods.forget(&pod),
                    Err(error) => {
                        tracing::debug!(%error, pod = %pod.name_any(), "removing a pod");
                        return false;
                    }
                }
            }
        }
        true
    }
}

fn is_finished(pod: &Pod) -> bool {
    matches!(pod.status.as_ref().and_then(|s| s.phase.as_deref()), Some("Succeeded" | "Failed"))
}

fn second(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// What the pod's status must say, if it does not say so already.
fn report(pod: &Pod, run: &Run, now: Timestamp) -> Option<Value> {
    let status = pod.status.clone().unwrap_or_default();
    let (phase, ready, state) = match run.stage {
        Stage::Stuck => return None,
        Stage::Starting { .. } if run.restarts == 0 => return None,
        Stage::Starting { .. } => ("Running", false, json!({"waiting": {"reason": "CrashLoopBackOff"}})),
        Stage::Running { since, .. } => {
            ("Running", run.is_ready(now), json!({"running": {"startedAt": second(since)}}))
        }
        Stage::Ended { at, code } => {
            let phase = if code == 0 { "Succeeded" } else { "Failed" };
            let reason = if code == 0 { "Completed" } else { "Error" };
            (
                phase,
                false,
                json!({"terminated": {"exitCode": code, "reason": reason, "finishedAt": second(at)}}),
            )
        }
    };
    let said = |type_: &str| status.conditions.iter().flatten().find(|c| c.type_ == type_);
    let restarts = status.container_statuses.as_ref().and_then(|all| all.first()).map(|c| c.restart_count);
    let same = status.phase.as_deref() == Some(phase)
        && said("Ready").is_some_and(|c| (c.status == "True") == ready)
        && restarts == Some(i32::try_from(run.restarts).unwrap_or(i32::MAX));
    if same || is_finished(pod) {
        return None;
    }
    let condition = |type_: &str, holds: bool| {
        let status = if holds { "True" } else { "False" };
        let old = said(type_).filter(|c| c.status == status).and_then(|c| c.last_transition_time.clone());
        json!({"type": type_, "status": status, "lastTransitionTime": old.unwrap_or(Time(now))})
    };
    let containers = pod.spec.iter().flat_map(|s| &s.containers).map(|c| {
        json!({"name": c.name, "image": c.image, "imageID": "", "ready": ready, "started": ready,
            "restartCount": run.restarts, "state": state})
    });
    let mut told = json!({
        "phase": phase, "hostIP": "192.0.2.1", "podIP": run.address, "podIPs": [{"ip": run.address}],
        "conditions": [condition("Initialized", true), condition("ContainersReady", ready), condition("Ready", ready)],
        "containerStatuses": containers.collect::<Vec<_>>(),
    });
    if status.pod_ips.is_some_and(|ips| ips.iter().any(|ip| ip.ip != run.address)) {
        // Lists of addresses are merged otherwise.
        told["podIPs"] = json!([{"$patch": "replace"}, {"ip": run.address}]);
    }
    if status.start_time.is_none() {
        told["startTime"] = json!(second(now));
    }
    Some(told)
}
