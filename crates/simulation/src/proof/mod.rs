//! The proof: a cluster lives through what a seed draws, its people change it all the time, everything goes wrong that can, and after every
//! commit and at the end it is checked that what must hold does ([`Invariants`]). The same seed gives the same history.

mod ending;
mod facts;
mod invariants;
mod workload;

pub use facts::{Allowed, Lately, Meta, NodeFacts, PodFacts};
pub use invariants::{Invariants, Violation};

use crate::{
    CONTROLLER_MANAGER, Error, Faults, NodeSpec, Options, Pace, Rest, SCHEDULER, World, block_on,
    machine::Machine, random::Random,
};
use jiff::Timestamp;
use orlop_store::WatchBatch;
use parking_lot::Mutex;
use serde_json::Value;
use std::{fmt, hash::Hasher, sync::Arc, time::Duration};
use workload::Workload;

/// After how long without a change a cluster is at rest.
const QUIET: Duration = Duration::from_secs(75);
/// How often nodes show that they live.
const HEARTBEAT: Duration = Duration::from_secs(15);
/// How long it may take to come to rest.
const LIMIT: Duration = Duration::from_secs(3600);

/// How a seed is lived through.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// What everything follows from.
    pub seed: u64,
    /// How many things people do.
    pub acts: u64,
    /// Whether each commit is printed.
    pub trace: bool,
}

impl Plan {
    /// How many things people do, if nobody says otherwise.
    pub const ACTS: u64 = 20;
}

/// The seeds of a text: `7`, `3,5` or `0..100`; `None` where it names none.
#[must_use]
pub fn seeds(text: &str) -> Option<Vec<u64>> {
    let parts = text.split(',').map(|part| match part.split_once("..") {
        Some((first, end)) => Some((first.trim().parse().ok()?..end.trim().parse().ok()?).collect()),
        None => Some(vec![part.trim().parse().ok()?]),
    });
    Some(parts.collect::<Option<Vec<Vec<u64>>>>()?.concat()).filter(|all| !all.is_empty())
}

/// What came of a seed.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Of every committed change: the same for the same seed.
    pub fingerprint: u64,
    /// How many commits there were.
    pub commits: u64,
    /// How long it took in the world.
    pub time: Duration,
    /// How often processes died.
    pub deaths: u64,
    /// What was wrong.
    pub violations: Vec<Violation>,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { fingerprint, commits, time, deaths, violations } = self;
        write!(f, "{commits} commits in {} s, {deaths} deaths, history {fingerprint:016x}", time.as_secs())?;
        violations.iter().try_for_each(|v| write!(f, "\n  {} {}", v.at, v.what))
    }
}

/// A fingerprint of a history (FNV-1a).
struct Fingerprint(u64);

impl Hasher for Fingerprint {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        self.0 = bytes.iter().fold(self.0, |h, b| (h ^ u64::from(*b)).wrapping_mul(0x0100_0000_01b3));
    }
}

struct Seen {
    invariants: Invariants,
    fingerprint: Fingerprint,
    commits: u64,
    trace: bool,
}

impl Seen {
    fn take_in(&mut self, batch: &WatchBatch, now: Timestamp) {
        self.commits += 1;
        for change in &batch.changes {
            self.fingerprint.write(change.entry.key.as_bytes());
            self.fingerprint.write(&change.entry.value);
            self.fingerprint.write_u64(change.entry.modified.0);
            if self.trace {
                eprintln!("{now} {} {}", batch.revision, told(change));
            }
        }
        self.invariants.take_in(batch, now);
    }
}

/// A change in a line.
fn told(change: &orlop_store::Change) -> String {
    let key = change.entry.key.trim_start_matches("/registry/");
    if change.deleted {
        return format!("{key} is gone");
    }
    let (new, old) = (
        serde_json::from_slice::<Value>(&change.entry.value).unwrap_or_default(),
        change.previous.as_ref().map(|e| serde_json::from_slice::<Value>(&e.value).unwrap_or_default()),
    );
    let mut changed = Vec::new();
    differences("", &new, old.as_ref().unwrap_or(&Value::Null), &mut changed);
    let what = if old.is_none() { "is new" } else { "changes" };
    format!("{key} {what}: {}", changed.join(" "))
}

fn differences(path: &str, new: &Value, old: &Value, out: &mut Vec<String>) {
    const SKIPPED: [&str; 3] = ["/metadata/managedFields", "/spec/template", "/spec/containers"];
    if new == old || SKIPPED.contains(&path) {
        return;
    }
    match new {
        Value::Object(members) => {
            for (key, value) in members {
                differences(&format!("{path}/{key}"), value, old.get(key).unwrap_or(&Value::Null), out);
            }
            let gone = old.as_object().into_iter().flatten().filter(|(key, _)| !members.contains_key(*key));
            out.extend(gone.map(|(key, _)| format!("{path}/{key}=-")));
        }
        other => out.push(format!("{path}={other}")),
    }
}

/// What goes wrong with a seed.
fn faults(random: &mut Random) -> Faults {
    let ms = Duration::from_millis;
    Faults {
        latency: ms(random.pick(&[0, 5, 30, 300]).copied().unwrap_or(0)),
        lags: random.pick(&[0, 0, 20, 100]).copied().unwrap_or(0),
        lag: ms(random.between(500, 8000)),
        breaks: random.pick(&[0, 2, 10]).copied().unwrap_or(0),
        refuses: random.pick(&[0, 0, 10, 50]).copied().unwrap_or(0),
        loses: random.pick(&[0, 0, 0, 10, 50]).copied().unwrap_or(0),
        interferes: random.pick(&[0, 0, 20, 200]).copied().unwrap_or(0),
    }
}

/// Something breaks that is no request. Returns how long it takes until it mends itself.
fn break_something(world: &World, random: &mut Random, nodes: u64) -> Duration {
    let node = format!("n{}", random.below(nodes));
    let polls = random.below(400);
    let away = random.time(Duration::ZERO, Duration::from_secs(15));
    match random.below(8) {
        0..=2 => world.kill(CONTROLLER_MANAGER, polls, away),
        3 => world.kill(SCHEDULER, polls, away),
        4 => world.kill(&node, polls, away),
        5 => {
            // Mostly back before anybody acts on it; sometimes only after its pods were sent away.
            let (least, most) = if random.chance(300) { (345, 400) } else { (1, 60) };
            let away = random.time(Duration::from_secs(least), Duration::from_secs(most));
            world.power_off(&node, away);
            return away;
        }
        6 => world.cut_off(&node, true),
        _ => (0..nodes).for_each(|i| world.cut_off(&format!("n{i}"), false)),
    }
    away
}

/// Sees to it that no two containers of one pod of a StatefulSet run at the same time.
fn watch_identities(world: &Arc<World>, seen: &Arc<Mutex<Seen>>) {
    let (weak, seen) = (Arc::downgrade(world), seen.clone());
    world.observe_starts(move |node, uid| {
        let Some(world) = weak.upgrade() else { return };
        let now = world.now();
        let machines = world.machines();
        let named = |machine: &Machine| machine.runs.get(uid).map(|r| (r.namespace.clone(), r.name.clone()));
        let Some((namespace, name)) =
            machines.iter().find(|(n, _)| n == node).and_then(|(_, m)| named(&m.lock()))
        else {
            return;
        };
        // Names that come again are those of StatefulSets.
        for (other, machine) in &machines {
            let twice = machine.lock().runs.iter().any(|(theirs, run)| {
                theirs != uid && run.namespace == namespace && run.name == name && run.runs_at(now)
            });
            if twice {
                let what = format!("{namespace}/{name} starts on {node} while it still runs on {other}");
                seen.lock().invariants.violated(now, what);
            }
        }
    });
}

/// Lives through a seed.
///
/// # Errors
/// Where the world cannot begin.
pub fn live(plan: Plan) -> Result<Outcome, Error> {
    block_on(plan.seed, async move {
        let mut random = Random::new(plan.seed, "plan");
        let faults = faults(&mut random);
        let range = |from, to| (Duration::from_millis(from), Duration::from_millis(to));
        let pace = Pace {
            start: range(200, 4_000),
            ready: range(0, 4_000),
            run: range(1_000, 20_000),
            stop: range(0, 12_000),
        };
        let world =
            World::start(Options { seed: plan.seed, pace, heartbeat: HEARTBEAT, ..Options::default() })
                .await?;
        let world = Arc::new(world);
        let invariants = Invariants::new(faults.loses == 0);
        let seen = Seen { invariants, fingerprint: Fingerprint(0), commits: 0, trace: plan.trace };
        let seen = Arc::new(Mutex::new(seen));
        let (clock, told) = (world.clock(), seen.clone());
        let begin = world.now();
        world.observe(Box::new(move |batch| told.lock().take_in(batch, clock())));
        watch_identities(&world, &seen);
        world.start_controllers();
        world.start_scheduler();
        let nodes = random.between(2, 4);
        (0..nodes).for_each(|i| world.add_node(NodeSpec::new(format!("n{i}"), "16", "32Gi")));
        let mut workload = Workload::new(&world, plan.seed);
        workload.begin().await;
        world.set_faults(faults);
        let mut mended = tokio::time::Instant::now();
        for _ in 0..plan.acts {
            workload.act().await;
            world.run_for(random.time(Duration::ZERO, Duration::from_secs(12))).await;
            if random.chance(300) {
                let mends = tokio::time::Instant::now() + break_something(&world, &mut random, nodes);
                mended = mended.max(mends);
            }
        }
        // Now all is well again.
        world.set_faults(Faults::default());
        (0..nodes).for_each(|i| world.cut_off(&format!("n{i}"), false));
        tokio::time::sleep_until(mended + Duration::from_secs(5)).await;
        workload.end().await;
        let rest = world.run_until_quiet(QUIET, LIMIT).await;
        let now = world.now();
        {
            let mut seen = seen.lock();
            if rest == Rest::Busy {
                seen.invariants.violated(now, format!("it does not come to rest in {} s", LIMIT.as_secs()));
            }
            for what in ending::check(&world) {
                seen.invariants.violated(now, format!("at rest: {what}"));
            }
        }
        let seen = seen.lock();
        Ok(Outcome {
            fingerprint: seen.fingerprint.finish(),
            commits: seen.commits,
            time: now.duration_since(begin).unsigned_abs(),
            deaths: world.deaths(),
            violations: seen.invariants.violations().to_vec(),
        })
    })
}
