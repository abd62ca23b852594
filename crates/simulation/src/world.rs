//! The world: what it consists of, and how it is started, changed and looked at.

use crate::{
    Error, Faults, NodeSpec, Pace,
    agent::Agent,
    faults::Chances,
    line::{Life, Line, Server, Serving, Usage},
    machine::{Machine, Run},
    process::{Process, Program},
    random::Random,
    store::{Observer, Witnessed, key_prefix, load},
    usage,
};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::Client;
use orlop_apiserver::{ApiServer, Config, Identity, identity::CONTROLLERS};
use orlop_client::Clock;
use orlop_scheduler::config::Configuration;
use orlop_store::Change;
use parking_lot::{Mutex, RwLock};
use serde::Deserialize;
use serde_json::Value;
use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// The name of the process of all controllers, for [`World::kill`].
pub const CONTROLLER_MANAGER: &str = "controller-manager";
/// The name of the scheduler's process.
pub const SCHEDULER: &str = "scheduler";
/// The name of the process that makes volumes for others.
const PROVISIONER: &str = "provisioner";
/// How long an API server that did not start waits before it tries again.
const RESTART: Duration = Duration::from_secs(1);
/// What pods know the API server by.
const AUTHORITY: &str = "-----BEGIN CERTIFICATE-----";

/// How a world begins.
#[derive(Clone, Debug)]
pub struct Options {
    /// What everything that is drawn follows from.
    pub seed: u64,
    /// What time it is at the beginning.
    pub epoch: Timestamp,
    /// What goes wrong.
    pub faults: Faults,
    /// How long containers take for what.
    pub pace: Pace,
    /// How often nodes show that they live; below the 40 seconds after which they count as gone.
    pub heartbeat: Duration,
    /// The scheduler's configuration.
    pub scheduling: Configuration,
    /// Objects that are there before the API server starts, as an API server shows them: with status, uids and owners. What is missing
    /// of uid and creation time is added.
    pub objects: Vec<Value>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            seed: 0,
            // 2026-01-01T00:00:00Z
            epoch: Timestamp::from_second(1_767_225_600).unwrap_or(Timestamp::UNIX_EPOCH),
            faults: Faults::default(),
            pace: Pace::default(),
            heartbeat: Duration::from_secs(10),
            scheduling: Configuration::default(),
            objects: Vec::new(),
        }
    }
}

/// How a world came to rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rest {
    /// Nothing changes any more.
    Quiet,
    /// It still changes.
    Busy,
}

/// A node of the world.
struct Node {
    agent: Process,
    machine: Arc<Mutex<Machine>>,
    cut_off: Arc<AtomicBool>,
}

/// Tells who looks for it that containers of a pod have started: node and uid.
type Starts = Arc<Mutex<Vec<Box<dyn FnMut(&str, &str) + Send>>>>;

/// See the module.
pub struct World {
    options: Options,
    clock: Clock,
    store: Arc<Witnessed>,
    server: Server,
    /// What each API server starts with.
    config: Arc<dyn Fn() -> Config + Send + Sync>,
    /// How often the API server crashed.
    crashes: Arc<AtomicU64>,
    chances: Arc<Chances>,
    processes: Mutex<BTreeMap<&'static str, Process>>,
    nodes: Arc<Mutex<BTreeMap<String, Node>>>,
    /// How many machines there were: each has addresses of its own.
    machines: AtomicU32,
    starts: Starts,
    /// When something changed last that is no sign of life.
    changed: Arc<Mutex<Instant>>,
}

impl World {
    /// Starts a world with an API server and nothing else.
    ///
    /// # Errors
    /// Where [`Options::objects`] are no objects.
    pub async fn start(options: Options) -> Result<Self, Error> {
        let (start, epoch) = (Instant::now(), options.epoch);
        let clock: Clock = Arc::new(move || epoch.checked_add(start.elapsed()).unwrap_or(Timestamp::MAX));
        let of_store = clock.clone();
        let chances = Arc::new(Chances::new(options.seed, Faults::default()));
        let store = Witnessed::new(Arc::new(move || SystemTime::from(of_store())), chances.clone()).await?;
        let store = Arc::new(store);
        let random = Mutex::new(Random::new(options.seed, "uids"));
        let random: orlop_apiserver::Random = Arc::new(move || {
            let mut random = random.lock();
            u128::from(random.draw()) << 64 | u128::from(random.draw())
        });
        load(&*store, &options.objects, &random, epoch).await?;
        let (of_config, of_server) = (store.clone(), clock.clone());
        let config: Arc<dyn Fn() -> Config + Send + Sync> = Arc::new(move || Config {
            clock: of_server.clone(),
            random: random.clone(),
            ..Config::new(of_config.clone())
        });
        let server = serve(&config).await?;
        let changed = Arc::new(Mutex::new(Instant::now()));
        let touch = changed.clone();
        store.observe(Box::new(move |batch| {
            if batch.changes.iter().any(|c| !is_sign_of_life(c)) {
                *touch.lock() = Instant::now();
            }
        }));
        chances.set(options.faults.clone());
        Ok(Self {
            clock,
            store,
            server: Arc::new(RwLock::new(Some(server))),
            config,
            crashes: Arc::default(),
            chances,
            processes: Mutex::default(),
            nodes: Arc::default(),
            machines: AtomicU32::new(0),
            starts: Arc::default(),
            changed,
            options,
        })
    }

    /// What time it is.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        (self.clock)()
    }

    /// The clock that everybody in the world reads.
    #[must_use]
    pub fn clock(&self) -> Clock {
        self.clock.clone()
    }

    /// A client that may do all and to whom nothing goes wrong.
    ///
    /// # Panics
    /// Never: the server is there as long as the world is.
    #[must_use]
    pub fn client(&self) -> Client {
        self.client_of(Identity::new("system:admin", &["system:masters"]))
    }

    /// A client with that identity to whom nothing goes wrong.
    #[must_use]
    pub fn client_of(&self, who: Identity) -> Client {
        let calm = Arc::new(Chances::new(0, Faults::default()));
        Client::new(
            Line {
                server: self.server.clone(),
                who,
                usage: self.usage(),
                chances: calm,
                life: Life::default(),
            },
            "default",
        )
    }

    /// Tells of every commit from now on, in order, in the moment that it happens.
    pub fn observe(&self, observer: Observer) {
        self.store.observe(observer);
    }

    /// Tells when containers of a pod start: the node's name and the pod's uid. Not to be called from there: [`World::machines`].
    pub fn observe_starts(&self, observer: impl FnMut(&str, &str) + Send + 'static) {
        self.starts.lock().push(Box::new(observer));
    }

    /// Changes what goes wrong from now on.
    pub fn set_faults(&self, faults: Faults) {
        self.chances.set(faults);
    }

    fn usage(&self) -> Usage {
        let (store, clock) = (self.store.clone(), self.clock.clone());
        Arc::new(move |uri| usage::answer(uri, &store, clock()))
    }

    /// The way to the server of a process that lives this life.
    fn line(&self, who: Identity) -> impl Fn(Life) -> Client + Send + Sync + 'static {
        let (server, chances, usage) = (self.server.clone(), self.chances.clone(), self.usage());
        move |life| {
            let line = Line {
                server: server.clone(),
                who: who.clone(),
                usage: usage.clone(),
                chances: chances.clone(),
                life,
            };
            Client::new(line, "default")
        }
    }

    /// Starts all controllers that do not sign anything.
    pub fn start_controllers(&self) {
        let connect = self.line(Identity::new("system:kube-controller-manager", &[CONTROLLERS]));
        let clock = self.clock.clone();
        self.start_process(
            CONTROLLER_MANAGER,
            Arc::new(move |life| {
                Box::pin(orlop_controllers::run(connect(life), clock.clone(), AUTHORITY.into()))
            }),
        );
    }

    /// Starts the scheduler.
    pub fn start_scheduler(&self) {
        let connect = self.line(Identity::new("system:kube-scheduler", &[]));
        let (clock, configuration) = (self.clock.clone(), self.options.scheduling.clone());
        self.start_process(
            SCHEDULER,
            Arc::new(move |life| {
                Box::pin(orlop_scheduler::run_with(connect(life), clock.clone(), configuration.clone()))
            }),
        );
    }

    /// Starts a provisioner of volumes, for claims of classes whose volumes no controller makes.
    pub fn start_provisioner(&self) {
        let connect = self.line(Identity::new("system:admin", &["system:masters"]));
        self.start_process(
            PROVISIONER,
            Arc::new(move |life| Box::pin(crate::provisioner::run(connect(life)))),
        );
    }

    fn start_process(&self, name: &'static str, program: Program) {
        self.processes.lock().insert(name, Process::start(program));
    }

    /// Kills a process ([`CONTROLLER_MANAGER`], [`SCHEDULER`], or a node's agent by the node's name) when it has been polled `polls` times
    /// more (0: now), and starts it anew after `away`. What it had asked of the server by then may or may not be done. Containers run on.
    pub fn kill(&self, name: &str, polls: u64, away: Duration) {
        if let Some(process) = self.processes.lock().get(name) {
            process.kill_after(polls, away);
        } else if let Some(node) = self.nodes.lock().get(name) {
            node.agent.kill_after(polls, away);
        }
    }

    /// Lets the API server crash: all that it was doing stops where it is, nobody is answered, all watches break. After `away` another
    /// one starts with what is in the store.
    pub fn crash_server(&self, away: Duration) {
        let Some(serving) = self.server.write().take() else { return };
        end(&serving);
        self.crashes.fetch_add(1, Ordering::Relaxed);
        let (server, config) = (Arc::downgrade(&self.server), self.config.clone());
        tokio::spawn(async move {
            tokio::time::sleep(away).await;
            // Whoever interferes may hinder it too.
            loop {
                let started = serve(&config).await;
                let Some(server) = server.upgrade() else { return };
                match started {
                    Ok(serving) => {
                        *server.write() = Some(serving);
                        return;
                    }
                    Err(error) => tracing::warn!(%error, "the API server does not start; again"),
                }
                tokio::time::sleep(RESTART).await;
            }
        });
    }

    /// How often processes were killed.
    #[must_use]
    pub fn deaths(&self) -> u64 {
        let processes: u64 = self.processes.lock().values().map(Process::died).sum();
        self.crashes.load(Ordering::Relaxed)
            + processes
            + self.nodes.lock().values().map(|n| n.agent.died()).sum::<u64>()
    }

    /// Adds a machine with an agent, which registers its node.
    pub fn add_node(&self, spec: NodeSpec) {
        self.add_machine(spec, Machine::default());
    }

    fn add_machine(&self, spec: NodeSpec, machine: Machine) {
        let (machine, cut_off) = (Arc::new(Mutex::new(machine)), Arc::<AtomicBool>::default());
        let name = spec.name.clone();
        let who = Identity::new(format!("system:node:{name}"), &["system:nodes"]);
        let connect = self.line(who);
        let mut nodes = self.nodes.lock();
        let index = self.machines.fetch_add(1, Ordering::Relaxed);
        let (clock, starts) = (self.clock.clone(), self.starts.clone());
        let (seed, pace, heartbeat) = (self.options.seed, self.options.pace, self.options.heartbeat);
        let (on_machine, on_line) = (machine.clone(), cut_off.clone());
        let agent = Process::start(Arc::new(move |life| {
            let starts = starts.clone();
            let life = Life { cut_off: on_line.clone(), ..life };
            let agent = Agent {
                spec: spec.clone(),
                index,
                client: connect(life),
                clock: clock.clone(),
                seed,
                pace,
                heartbeat,
                machine: on_machine.clone(),
                started: Arc::new(move |node, uid| starts.lock().iter_mut().for_each(|tell| tell(node, uid))),
            };
            Box::pin(agent.run())
        }));
        nodes.insert(name, Node { agent, machine, cut_off });
    }

    /// Gives the Node objects of [`Options::objects`] their machines, with the pods on them that ran already. One that says that it is
    /// not ready gets none: nobody answers there.
    pub fn adopt_nodes(&self) {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_string();
        let mut machines: BTreeMap<String, Machine> = BTreeMap::new();
        for object in self.options.objects.iter().filter(|o| o["kind"] == "Pod") {
            let ended = matches!(object["status"]["phase"].as_str(), Some("Succeeded" | "Failed"));
            let Ok(pod) = Pod::deserialize(object) else { continue };
            if !ended {
                let run = Run::inherited(&pod, self.options.seed, &self.options.pace, self.now());
                let machine = machines.entry(text(&object["spec"]["nodeName"])).or_default();
                machine.runs.insert(text(&object["metadata"]["uid"]), run);
            }
        }
        for node in self.options.objects.iter().filter(|o| o["kind"] == "Node") {
            let conditions = node["status"]["conditions"].as_array();
            let ready = conditions.into_iter().flatten().find(|c| c["type"] == "Ready");
            let ready = ready.map(|c| text(&c["status"]));
            if ready.as_deref().is_some_and(|status| status != "True") {
                continue;
            }
            let mut spec = NodeSpec::new(text(&node["metadata"]["name"]), "0", "0");
            spec.registered = ready.is_some();
            let offered = |list: &str| node["status"][list].as_object().filter(|l| !l.is_empty());
            if let Some(offered) = offered("allocatable").or_else(|| offered("capacity")) {
                let amount = |v: &Value| v.as_str().map_or_else(|| v.to_string(), ToString::to_string);
                spec.capacity = offered.iter().map(|(k, v)| (k.clone(), amount(v))).collect();
                spec.capacity.entry("pods".into()).or_insert_with(|| "110".into());
            }
            let machine = machines.remove(&spec.name).unwrap_or_default();
            self.add_machine(spec, machine);
        }
    }

    /// Takes a machine away for good, as if it burned. Its Node object stays.
    pub fn remove_machine(&self, name: &str) {
        self.nodes.lock().remove(name);
    }

    /// Switches a machine off: containers and agent end; they come back (the agent, with an empty machine) after `away`.
    pub fn power_off(&self, name: &str, away: Duration) {
        if let Some(node) = self.nodes.lock().get(name) {
            node.machine.lock().runs.clear();
            node.agent.kill_after(0, away);
        }
    }

    /// Cuts a machine off from the API server, or connects it again. Its containers run on.
    pub fn cut_off(&self, name: &str, cut: bool) {
        if let Some(node) = self.nodes.lock().get(name) {
            node.cut_off.store(cut, Ordering::Relaxed);
        }
    }

    /// What runs where: node name and machine.
    #[must_use]
    pub fn machines(&self) -> Vec<(String, Arc<Mutex<Machine>>)> {
        self.nodes.lock().iter().map(|(name, node)| (name.clone(), node.machine.clone())).collect()
    }

    /// All objects of a resource as they are stored, without `resourceVersion`, in the order of their keys.
    #[must_use]
    pub fn objects(&self, group: &str, plural: &str) -> Vec<Value> {
        self.store.objects(&key_prefix(group, plural))
    }

    /// Lets time pass.
    pub async fn run_for(&self, time: Duration) {
        tokio::time::sleep(time).await;
    }

    /// Lets time pass until nothing but signs of life was written for `quiet` and no container is about to do something, at most `limit`.
    pub async fn run_until_quiet(&self, quiet: Duration, limit: Duration) -> Rest {
        let end = Instant::now() + limit;
        *self.changed.lock() = Instant::now();
        loop {
            let now = Instant::now();
            let until = *self.changed.lock() + quiet;
            let time = self.now();
            let busy =
                self.machines().iter().any(|(_, m)| m.lock().runs.values().any(|r| r.next(time).is_some()));
            if now >= until && !busy {
                return Rest::Quiet;
            }
            if now >= end {
                return Rest::Busy;
            }
            let next = if now >= until { now + Duration::from_secs(1) } else { until };
            tokio::time::sleep_until(next.min(end)).await;
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.processes.lock().clear();
        self.nodes.lock().clear();
        if let Some(serving) = self.server.write().take() {
            end(&serving);
        }
    }
}

async fn serve(config: &Arc<dyn Fn() -> Config + Send + Sync>) -> Result<Serving, Error> {
    Ok(Serving { api: ApiServer::start(config()).await?, ended: CancellationToken::new() })
}

fn end(serving: &Serving) {
    serving.ended.cancel();
    serving.api.stop();
}

/// Whether a change says nothing but that somebody lives, or tells people of what happened.
fn is_sign_of_life(change: &Change) -> bool {
    let key = &change.entry.key;
    if key.starts_with("/registry/coordination.k8s.io/leases/") || key.starts_with("/registry/core/events/") {
        return true;
    }
    let Some(before) = change.previous.as_ref().filter(|_| !change.deleted) else { return false };
    if before.value == change.entry.value {
        return true;
    }
    key.starts_with("/registry/core/nodes/") && {
        let without = |bytes: &[u8]| {
            let mut node: Value = serde_json::from_slice(bytes).unwrap_or_default();
            for condition in node["status"]["conditions"].as_array_mut().into_iter().flatten() {
                condition["lastHeartbeatTime"] = Value::Null;
            }
            node["metadata"]["managedFields"] = Value::Null;
            node
        };
        without(&before.value) == without(&change.entry.value)
    }
}
