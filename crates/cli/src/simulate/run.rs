//! The simulation itself: a copy of the cluster is set up, what is to be done is done to it, and it is watched until nothing changes.

use super::{
    Times,
    cluster::{Cluster, last_applied, text, title},
    drain::{self, Drain},
    new_nodes::NewNodes,
    outcome::{self, Outcome},
    timeline::Recorder,
};
use crate::{
    ConnectionArgs, Error,
    api::Api,
    apply::{self, ApplyArgs},
    resources::Resources,
};
use orlop_scheduler::config::Configuration;
use orlop_simulation::{NodeSpec, Options, Pace, Rest, World, block_on};
use parking_lot::Mutex;
use serde_json::Value;
use std::{cell::RefCell, collections::BTreeSet, pin::pin, sync::Arc, time::Duration};
use tokio::time::Instant;

/// When nothing changed for so long, nothing will; plus what workloads themselves want to wait.
const QUIET: Duration = Duration::from_secs(60);
/// Nodes show that they live this often: less often than real ones, so that large clusters are simulated quickly.
const HEARTBEAT: Duration = Duration::from_secs(20);

/// What is to be simulated.
pub(crate) struct Plan {
    pub cluster: Cluster,
    /// Objects to apply.
    pub wanted: Vec<Value>,
    /// Where those are that do not say it themselves.
    pub namespace: String,
    pub configuration: Configuration,
    pub new_nodes: Vec<NewNodes>,
    /// Nodes to drain.
    pub drain: Vec<String>,
    pub seed: u64,
    pub times: Times,
}

/// Simulates.
pub(crate) fn simulate(plan: Plan) -> Result<Outcome, Error> {
    let failed = |e: orlop_simulation::Error| {
        let source = std::error::Error::source(&e).map(|s| format!(": {s}")).unwrap_or_default();
        Error::Usage(format!("the simulation could not begin: {e}{source}"))
    };
    block_on(plan.seed, async { Ok(watch(plan, &mut |_| {}).await) }).map_err(failed)?
}

/// Simulates; answers what came of it, and the cluster then.
#[cfg(test)]
pub(crate) fn simulate_and_keep(plan: Plan) -> Result<(Outcome, Vec<Value>), Error> {
    let mut objects = Vec::new();
    let mut keep = |world: &World| {
        for (api_version, kind) in super::cluster::KEPT {
            let table = orlop_api::kinds::table();
            let known = table.iter().find(|k| k.api_version() == api_version && k.kind == kind);
            objects.extend(known.into_iter().flat_map(|k| world.objects(&k.group, &k.plural)));
        }
    };
    let outcome = block_on(plan.seed, async { Ok(watch(plan, &mut keep).await) }).expect("it begins")?;
    Ok((outcome, objects))
}

async fn watch(plan: Plan, end: &mut dyn FnMut(&World)) -> Result<Outcome, Error> {
    let Plan { mut cluster, mut wanted, namespace, mut configuration, new_nodes, drain, seed, times } = plan;
    configuration.seed = Some(seed);
    let same = |time: Duration| (time, time);
    let mut options = Options {
        seed,
        epoch: cluster.newest().unwrap_or(Options::default().epoch),
        pace: Pace {
            start: same(times.start),
            ready: same(times.ready),
            run: same(times.run),
            stop: same(times.stop),
        },
        heartbeat: HEARTBEAT,
        scheduling: configuration.clone(),
        objects: std::mem::take(&mut cluster.objects),
        ..Options::default()
    };
    options.objects.iter_mut().chain(&mut wanted).for_each(stop_the_clock);
    let quiet = QUIET + patience(options.objects.iter().chain(&wanted));
    let known = options.objects.clone();
    let failed = |e: orlop_simulation::Error| Error::Usage(format!("the simulation could not begin: {e}"));
    let world = World::start(options).await.map_err(failed)?;
    let start = Instant::now();
    let before = outcome::loads(&world.objects("", "pods"));
    let unfinished: BTreeSet<String> = outcome::unfinished(&|g, p| world.objects(g, p)).into_keys().collect();
    let api = Api::new(world.client(), "the simulation".into(), namespace);
    let appliers = Appliers { api: &api, resources: Resources::discover(&api).await? };
    appliers.claim(&known, &wanted).await;

    let recorder = Arc::new(Mutex::new(Recorder::default()));
    known.iter().for_each(|object| recorder.lock().know(object));
    let told = recorder.clone();
    world.observe(Box::new(move |batch| {
        let read = |bytes: &[u8]| serde_json::from_slice::<Value>(bytes).ok();
        for change in &batch.changes {
            let before = change.previous.as_ref().and_then(|e| read(&e.value));
            let after = if change.deleted { None } else { read(&change.entry.value) };
            told.lock().changed(start.elapsed(), before.as_ref(), after.as_ref());
        }
    }));

    world.adopt_nodes();
    add_nodes(&world, &new_nodes, &known);
    let refused = appliers.apply(wanted).await?;
    world.start_controllers();
    world.start_scheduler();
    world.start_provisioner();
    let drains = drain.into_iter().map(|node| Drain { node, ..Drain::default() });
    let drains = RefCell::new(drains.collect::<Vec<_>>());
    let rest = until_quiet(&world, &drains, start, quiet, times.longest).await;

    end(&world);
    let objects = |group: &str, plural: &str| world.objects(group, plural);
    let recorder = std::mem::take(&mut *recorder.lock());
    let waiting = outcome::waiting(&objects, &recorder, &configuration);
    let after = outcome::unfinished(&objects);
    Ok(Outcome {
        nodes: outcome::uses(&objects("", "nodes"), &before, &objects("", "pods")),
        placed: outcome::placed(&recorder.events),
        undone: outcome::undone(&after, &unfinished, &waiting, &recorder),
        waiting,
        drains: drains.into_inner(),
        refused,
        busy: (rest == Rest::Busy && still(&recorder, quiet, times.longest)).then_some(times.longest),
        events: recorder.events,
    })
}

/// A CronJob makes Jobs as long as it is let: no simulation would come to an end.
fn stop_the_clock(object: &mut Value) {
    if object["kind"] == "CronJob" && object["spec"].is_object() {
        object["spec"]["suspend"] = true.into();
    }
}

/// Whether something happened shortly before the end.
fn still(recorder: &Recorder, quiet: Duration, end: Duration) -> bool {
    recorder.events.iter().any(|e| e.at + quiet > end)
}

/// The longest that a workload waits by its own will between two steps.
fn patience<'a>(objects: impl Iterator<Item = &'a Value>) -> Duration {
    let seconds = objects.filter_map(|o| o.pointer("/spec/minReadySeconds").and_then(Value::as_u64));
    Duration::from_secs(seconds.max().unwrap_or(0))
}

async fn until_quiet(
    world: &World,
    drains: &RefCell<Vec<Drain>>,
    start: Instant,
    quiet: Duration,
    longest: Duration,
) -> Rest {
    let client = world.client();
    let mut draining = pin!(drain::drain(&client, drains, start));
    let mut drained = drains.borrow().is_empty();
    loop {
        let left = longest.saturating_sub(start.elapsed());
        tokio::select! {
            biased;
            () = &mut draining, if !drained => drained = true,
            rest = world.run_until_quiet(quiet, left) => return rest,
        }
    }
}

/// Adds nodes under names that nobody has.
fn add_nodes(world: &World, new: &[NewNodes], known: &[Value]) {
    let taken: BTreeSet<&str> =
        drain::names(known.iter().filter(|o| o["kind"] == "Node")).into_iter().collect();
    let mut free = (1..).map(|n: usize| format!("new-{n}")).filter(|name| !taken.contains(name.as_str()));
    for nodes in new {
        for name in free.by_ref().take(nodes.count) {
            let spec = NodeSpec::new(name, "0", "0");
            world.add_node(NodeSpec {
                capacity: nodes.capacity.clone(),
                labels: nodes.labels.clone(),
                ..spec
            });
        }
    }
}

/// Applies objects in the simulated cluster as `orlop apply --force-conflicts` would in a real one.
struct Appliers<'a> {
    api: &'a Api,
    resources: Resources,
}

impl Appliers<'_> {
    /// Makes ours what kubectl noted that it had applied to objects that are applied again, so that what a file no longer has goes.
    async fn claim(&self, known: &[Value], wanted: &[Value]) {
        let titles: BTreeSet<String> = wanted.iter().map(|o| self.titled(o)).collect();
        for object in known.iter().filter(|o| titles.contains(&title(o))) {
            if let Some(applied) = last_applied(object)
                && let Ok(resource) = apply::resource_of(&self.resources, &applied)
            {
                // What cannot be applied again was not there to be taken away.
                let _ = apply::apply(self.api, &forced(), resource, applied).await;
            }
        }
    }

    fn titled(&self, object: &Value) -> String {
        let mut object = object.clone();
        let namespaced = apply::resource_of(&self.resources, &object).is_ok_and(|r| r.namespaced);
        if namespaced && text(&object, "/metadata/namespace").is_empty() && object["metadata"].is_object() {
            object["metadata"]["namespace"] = self.api.namespace.as_str().into();
        }
        title(&object)
    }

    /// Applies; answers what is refused, in the server's words.
    async fn apply(&self, wanted: Vec<Value>) -> Result<Vec<String>, Error> {
        let mut refused = Vec::new();
        for object in wanted {
            let outcome = match apply::resource_of(&self.resources, &object) {
                Ok(resource) => apply::apply(self.api, &forced(), resource, object).await,
                Err(error) => Err(error),
            };
            match outcome {
                Ok(_) => {}
                Err(error @ Error::Unreachable { .. }) => return Err(error),
                Err(error) => refused.push(error.to_string()),
            }
        }
        Ok(refused)
    }
}

/// Whatever somebody else manages is taken over: what if this were applied?
fn forced() -> ApplyArgs {
    ApplyArgs {
        filenames: Vec::new(),
        recursive: false,
        force_conflicts: true,
        dry_run: false,
        connection: ConnectionArgs::default(),
    }
}
