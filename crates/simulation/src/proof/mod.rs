//! The proof: a cluster lives through what a seed draws, its people change it all the time, everything goes wrong that can, and after every
//! commit and at the end it is checked that what must hold does ([`Invariants`]). The same seed gives the same history.

mod autoscalers;
mod ending;
mod facts;
mod invariants;
mod trouble;
mod volumes;
mod waiting;
mod workload;

pub use facts::{Allowed, Lately, Meta, NodeFacts, PodFacts};
pub use invariants::{Invariants, Running, Violation};

use crate::{Error, Faults, Options, Pace, Rest, World, block_on, random::Random};
use jiff::Timestamp;
use orlop_store::WatchBatch;
use parking_lot::Mutex;
use serde_json::Value;
use std::{fmt, hash::Hasher, sync::Arc, time::Duration};
use trouble::{Kind, Trouble};
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

/// Everything that runs in a world at this moment.
fn running(world: &World) -> Vec<Running> {
    let now = world.now();
    let mut all = Vec::new();
    for (machine, there) in world.machines() {
        let there = there.lock();
        all.extend(there.runs.iter().filter(|(_, run)| run.runs_at(now)).map(|(uid, run)| Running {
            machine: machine.clone(),
            namespace: run.namespace.clone(),
            name: run.name.clone(),
            uid: uid.clone(),
        }));
    }
    all
}

/// Tells when containers start, with all that run at that moment.
fn watch_starts(world: &Arc<World>, mut tell: impl FnMut(&Running, &[Running], Timestamp) + Send + 'static) {
    let weak = Arc::downgrade(world);
    world.observe_starts(move |node, uid| {
        let Some(world) = weak.upgrade() else { return };
        let all = running(&world);
        if let Some(started) = all.iter().find(|r| r.machine == node && r.uid == uid) {
            tell(started, &all, world.now());
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
        let (kind, faults) = (Kind::draw(&mut random), trouble::faults(&mut random));
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
        // A server that crashes leaves some without their answer.
        let invariants = Invariants::new(faults.loses == 0 && !kind.server_crashes);
        let seen = Seen { invariants, fingerprint: Fingerprint(0), commits: 0, trace: plan.trace };
        let seen = Arc::new(Mutex::new(seen));
        let (clock, told) = (world.clock(), seen.clone());
        let begin = world.now();
        world.observe(Box::new(move |batch| told.lock().take_in(batch, clock())));
        let of_starts = seen.clone();
        watch_starts(&world, move |started, all, now| {
            of_starts.lock().invariants.started(started, all, now);
        });
        world.start_controllers();
        world.start_scheduler();
        let mut trouble = Trouble::new(&world, kind, plan.seed);
        (0..random.between(2, 4)).for_each(|_| trouble.add_node());
        let mut workload = Workload::new(&world, plan.seed, kind.tight);
        workload.begin().await;
        world.set_faults(faults);
        let mut mended = tokio::time::Instant::now();
        for _ in 0..plan.acts {
            workload.act().await;
            world.run_for(random.time(Duration::ZERO, Duration::from_secs(12))).await;
            if random.chance(300) {
                let mends = tokio::time::Instant::now() + trouble.break_something().await;
                mended = mended.max(mends);
            }
        }
        // Now all is well again.
        world.set_faults(Faults::default());
        tokio::time::sleep_until(mended + Duration::from_secs(5)).await;
        trouble.mend().await;
        workload.end().await;
        let mut rest = world.run_until_quiet(QUIET, LIMIT).await;
        if kind.tight && rest == Rest::Quiet {
            let now = world.now();
            for what in waiting::check(&world) {
                seen.lock().invariants.violated(now, format!("at rest: {what}"));
            }
            trouble.make_room();
            rest = world.run_until_quiet(QUIET, LIMIT).await;
        }
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
