//! Asks the running containers of a pod how they are: startup, then liveness and readiness side by side, each at its own pace,
//! and tells the pod's worker when an answer changes. What follows from an answer is the planner's.

mod count;

#[cfg(test)]
mod tests;

use crate::{
    events::PodEvents,
    handler::{Handler, Unwell},
    plan::Why,
};
use count::{Count, Thresholds};
use k8s_openapi::api::core::v1::{Container, Probe};
use orlop_runtime::ContainerRuntime;
use std::{net::IpAddr, sync::Arc, time::Duration};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

/// The first wait between questions to a container that is not yet well, doubled each time.
const EAGER: Duration = Duration::from_millis(50);

/// What probes have found out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Finding {
    pub container: String,
    pub container_id: String,
    pub what: Found,
}

/// See [`Finding`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// The startup probe has succeeded.
    Started,
    /// The readiness probe's answer has changed.
    Ready(bool),
    /// The startup or liveness probe has failed for good.
    Failed(Why),
}

/// What probing one container needs.
#[derive(Clone)]
pub(crate) struct Subject {
    pub container: Arc<Container>,
    pub id: String,
    pub ip: Option<IpAddr>,
    pub runtime: Arc<dyn ContainerRuntime>,
    pub events: PodEvents,
    /// How long ago its process was started.
    pub age: Duration,
    /// It was known to be started before the agent was: then no startup probe is needed.
    pub started: bool,
    /// Part of a period that the first question waits longer: of many containers taken over at once, not all are asked at
    /// once.
    pub jitter: f64,
    /// Cancelled when the pod begins to end: from then on only readiness is of interest.
    pub ending: CancellationToken,
    /// Where findings go.
    pub tell: Arc<dyn Fn(Finding) + Send + Sync>,
}

/// The probes of one container; dropping it ends them.
pub(crate) struct Probes(tokio::task::AbortHandle);

impl Drop for Probes {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Whether a container has any probes.
pub(crate) fn has_probes(container: &Container) -> bool {
    container.startup_probe.is_some()
        || container.liveness_probe.is_some()
        || container.readiness_probe.is_some()
}

/// Starts the probes of a running container.
pub(crate) fn start(subject: Subject) -> Probes {
    Probes(tokio::spawn(run(subject)).abort_handle())
}

/// The three kinds of probes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Startup,
    Liveness,
    Readiness,
}

impl Kind {
    fn word(self) -> &'static str {
        match self {
            Self::Startup => "Startup",
            Self::Liveness => "Liveness",
            Self::Readiness => "Readiness",
        }
    }
}

async fn run(subject: Subject) {
    let container = subject.container.clone();
    if let Some(probe) = container.startup_probe.as_ref().filter(|_| !subject.started) {
        watch(&subject, Kind::Startup, probe).await;
    }
    let both = [(Kind::Liveness, &container.liveness_probe), (Kind::Readiness, &container.readiness_probe)];
    let both = both.into_iter().filter_map(|(kind, probe)| Some(watch(&subject, kind, probe.as_ref()?)));
    futures::future::join_all(both).await;
}

fn seconds(given: Option<i32>, default: u64) -> Duration {
    Duration::from_secs(given.and_then(|s| u64::try_from(s).ok()).unwrap_or(default))
}

/// Asks until it is known enough (a startup probe) or for ever.
async fn watch(subject: &Subject, kind: Kind, probe: &Probe) {
    let handler = Handler::of_probe(probe, &subject.container, subject.ip);
    let period = seconds(probe.period_seconds, 10).max(Duration::from_secs(1));
    let timeout = seconds(probe.timeout_seconds, 1).max(Duration::from_secs(1));
    let thresholds = Thresholds {
        success: probe.success_threshold.unwrap_or(1),
        failure: probe.failure_threshold.unwrap_or(3),
    };
    let mut count = Count::new(thresholds);
    let cheap = handler.as_ref().is_ok_and(Handler::is_cheap);
    // Until a container is well for the first time, it is asked more often than it must be, so that it becomes ready the moment
    // it is. Bad answers to such questions do not count.
    let mut eager = (cheap && kind != Kind::Liveness && thresholds.success <= 1).then_some(EAGER);
    let mut due = Instant::now() + seconds(probe.initial_delay_seconds, 0).saturating_sub(subject.age);
    due += period.mul_f64(subject.jitter);
    let mut at = due;
    loop {
        tokio::select! {
            () = sleep_until(at) => {}
            () = subject.ending.cancelled(), if kind != Kind::Readiness => return,
        }
        let answer = match &handler {
            Ok(handler) => handler.run(&subject.runtime, &subject.id, timeout).await,
            Err(why) => Err(Unwell::Errored(why.clone())),
        };
        let now = Instant::now();
        let counts = now >= due || answer.is_ok();
        if counts {
            if let Err(unwell) = &answer {
                report(subject, kind, unwell);
            }
            if let Some(well) = count.take(&answer)
                && !tell(subject, kind, well)
            {
                return;
            }
            while due <= now {
                due += period;
            }
        }
        at = match eager {
            Some(wait) if answer.is_err() => {
                eager = Some(wait * 2);
                due.min(now + wait)
            }
            _ => {
                eager = None;
                due
            }
        };
    }
}

/// Says what has been found out; whether there is more to find out.
fn tell(subject: &Subject, kind: Kind, well: bool) -> bool {
    let (what, more) = match (kind, well) {
        (Kind::Startup, true) => (Found::Started, false),
        (Kind::Startup, false) => (Found::Failed(Why::Startup), true),
        (Kind::Liveness, true) => return true,
        (Kind::Liveness, false) => (Found::Failed(Why::Liveness), true),
        (Kind::Readiness, well) => (Found::Ready(well), true),
    };
    let (container, container_id) = (subject.container.name.clone(), subject.id.clone());
    (subject.tell)(Finding { container, container_id, what });
    more
}

fn report(subject: &Subject, kind: Kind, unwell: &Unwell) {
    let how = if matches!(unwell, Unwell::Failed(_)) { "failed" } else { "errored" };
    let message = format!("{} probe {how}: {}", kind.word(), unwell.text().trim_end());
    subject.events.warning(Some(&subject.container.name), "Unhealthy", message);
}
