//! What `/metrics` shows: requests by verb, resource and code, their duration, streams, objects, watchers, and what the
//! process itself takes. The names are those of Kubernetes where there are some.

use crate::{flow_control::Figures, registry::Registry, request::RequestInfo};
use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::Registry as Prometheus,
};
use std::{sync::atomic::AtomicU64, time::Duration};

/// What a request is counted under.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct Label {
    verb: String,
    group: String,
    resource: String,
    subresource: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Answered {
    verb: String,
    group: String,
    resource: String,
    subresource: String,
    code: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Resource {
    resource: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Service {
    name: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Level {
    priority_level: String,
}

/// What the priority levels are doing.
#[derive(Default)]
struct Levels {
    nominal: Family<Level, Gauge>,
    seats: Family<Level, Gauge>,
    executing: Family<Level, Gauge>,
    waiting: Family<Level, Gauge>,
    dispatched: Family<Level, Counter>,
    rejected: Family<Level, Counter>,
}

impl Levels {
    fn register(&self, prometheus: &mut Prometheus) {
        let gauges = [
            ("nominal_limit_seats", "Seats that a level's shares are worth", &self.nominal),
            ("current_limit_seats", "Seats that a level has now", &self.seats),
            ("current_executing_requests", "Requests that hold a seat", &self.executing),
            ("current_inqueue_requests", "Requests that wait for a seat", &self.waiting),
        ];
        for (name, help, family) in gauges {
            prometheus.register(format!("apiserver_flowcontrol_{name}"), help, family.clone());
        }
        let counters = [
            ("dispatched_requests", "Requests that got a seat", &self.dispatched),
            ("rejected_requests", "Requests that were turned away", &self.rejected),
        ];
        for (name, help, family) in counters {
            prometheus.register(format!("apiserver_flowcontrol_{name}"), help, family.clone());
        }
    }

    fn show(&self, name: String, figures: Figures) {
        let label = Level { priority_level: name };
        self.nominal.get_or_create(&label).set(figures.nominal as i64);
        self.seats.get_or_create(&label).set(figures.seats as i64);
        self.executing.get_or_create(&label).set(figures.executing as i64);
        self.waiting.get_or_create(&label).set(figures.waiting as i64);
        for (family, now) in [(&self.dispatched, figures.dispatched), (&self.rejected, figures.rejected)] {
            let counter = family.get_or_create(&label);
            counter.inc_by(now.saturating_sub(counter.get()));
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Plugin {
    plugin: &'static str,
}

/// Counts lines of the audit log.
#[derive(Clone, Debug, Default)]
pub(crate) struct AuditCounters {
    /// Handed over to be written.
    pub events: Counter,
    errors: Family<Plugin, Counter>,
}

impl AuditCounters {
    /// A line was dropped, or could not be written.
    pub(crate) fn lost(&self) {
        self.errors.get_or_create(&Plugin { plugin: "log" }).inc();
    }

    fn webhook(&self) -> Counter {
        self.errors.get_or_create(&Plugin { plugin: "webhook" }).clone()
    }

    /// So many lines found no room on their way to the webhook, or were not taken there.
    pub(crate) fn undelivered(&self, lines: u64) {
        self.webhook().inc_by(lines);
    }

    #[cfg(test)]
    pub(crate) fn lost_to_the_webhook(&self) -> u64 {
        self.webhook().get()
    }
}

type Durations = Family<Label, Histogram, fn() -> Histogram>;

pub(crate) struct Metrics {
    prometheus: Prometheus,
    requests: Family<Answered, Counter>,
    durations: Durations,
    streams: Family<Label, Gauge>,
    unavailable: Family<Service, Gauge>,
    levels: Levels,
    objects: Family<Resource, Gauge>,
    watchers: Family<Resource, Gauge>,
    revision: Gauge,
    store_bytes: Gauge,
    resident: Gauge,
    cpu: Gauge<f64, AtomicU64>,
    pub(crate) audit: AuditCounters,
}

/// A stream that is open as long as this lives.
pub(crate) struct Open(Gauge);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.dec();
    }
}

fn buckets() -> Histogram {
    Histogram::new(exponential_buckets(0.000_25, 2.0, 18))
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let mut prometheus = Prometheus::default();
        let metrics = Self {
            requests: Family::default(),
            durations: Family::new_with_constructor(buckets),
            streams: Family::default(),
            unavailable: Family::default(),
            levels: Levels::default(),
            objects: Family::default(),
            watchers: Family::default(),
            revision: Gauge::default(),
            store_bytes: Gauge::default(),
            resident: Gauge::default(),
            cpu: Gauge::default(),
            audit: AuditCounters::default(),
            prometheus: Prometheus::default(),
        };
        prometheus.register("apiserver_request", "Requests answered", metrics.requests.clone());
        prometheus.register(
            "apiserver_request_duration_seconds",
            "Time until the answer began",
            metrics.durations.clone(),
        );
        metrics.levels.register(&mut prometheus);
        prometheus.register(
            "aggregator_unavailable_apiservice",
            "APIServices whose servers cannot be used",
            metrics.unavailable.clone(),
        );
        prometheus.register("apiserver_longrunning_requests", "Streams open", metrics.streams.clone());
        prometheus.register("apiserver_storage_objects", "Objects", metrics.objects.clone());
        prometheus.register("apiserver_registered_watchers", "Watches open", metrics.watchers.clone());
        prometheus.register("orlop_store_revision", "Newest revision here", metrics.revision.clone());
        prometheus.register(
            "apiserver_storage_size_bytes",
            "What the state takes on disk",
            metrics.store_bytes.clone(),
        );
        prometheus.register(
            "process_resident_memory_bytes",
            "Resident memory of the process",
            metrics.resident.clone(),
        );
        prometheus.register("process_cpu_seconds", "Processor time of the process", metrics.cpu.clone());
        prometheus.register("apiserver_audit_event", "Lines of the audit log", metrics.audit.events.clone());
        prometheus.register(
            "apiserver_audit_error",
            "Lines of the audit log that were lost",
            metrics.audit.errors.clone(),
        );
        Self { prometheus, ..metrics }
    }

    /// What a request is counted under. Names that a client made up are not used: they would never end.
    /// Those of other servers' resources are not known here: `named` says whether they are.
    pub(crate) fn label(&self, info: &RequestInfo, named: bool) -> Label {
        let verb = info.verb.name().to_string();
        match &info.target {
            Some(t) if named => Label {
                verb,
                group: t.group.clone(),
                resource: t.resource.clone(),
                subresource: t.subresource.clone(),
            },
            Some(t) => {
                Label { verb, group: t.group.clone(), resource: String::new(), subresource: String::new() }
            }
            None => Label { verb, group: String::new(), resource: String::new(), subresource: String::new() },
        }
    }

    /// Counts an answer. One about a resource that does not exist is counted without its name.
    pub(crate) fn observe(&self, mut label: Label, code: u16, duration: Duration) {
        if code == 404 || code == 401 || code == 403 {
            label = Label {
                verb: label.verb,
                group: String::new(),
                resource: String::new(),
                subresource: String::new(),
            };
        }
        self.durations.get_or_create(&label).observe(duration.as_secs_f64());
        let Label { verb, group, resource, subresource } = label;
        self.requests.get_or_create(&Answered { verb, group, resource, subresource, code }).inc();
    }

    /// Counts a stream as long as the answer lives.
    pub(crate) fn stream(&self, label: &Label) -> Open {
        let gauge = self.streams.get_or_create_owned(label);
        gauge.inc();
        Open(gauge)
    }

    /// The text of `/metrics`.
    pub(crate) async fn text(
        &self,
        registry: &Registry,
        levels: Vec<(String, Figures)>,
        others: Vec<(String, bool)>,
    ) -> String {
        self.unavailable.clear();
        for (name, available) in others {
            self.unavailable.get_or_create(&Service { name }).set(i64::from(!available));
        }
        for (name, figures) in levels {
            self.levels.show(name, figures);
        }
        for resource in registry.resources() {
            let name = if resource.kind.group.is_empty() {
                resource.kind.plural.to_string()
            } else {
                format!("{}.{}", resource.kind.plural, resource.kind.group)
            };
            let label = Resource { resource: name };
            self.objects.get_or_create(&label).set(resource.cache.len() as i64);
            self.watchers.get_or_create(&label).set(resource.cache.watchers() as i64);
        }
        self.revision.set(registry.caches.applied().0 as i64);
        if let Ok(size) = registry.store.size().await {
            self.store_bytes.set(size as i64);
        }
        if let Some((resident, cpu)) = process() {
            self.resident.set(resident);
            self.cpu.set(cpu);
        }
        let mut text = String::new();
        if encode(&mut text, &self.prometheus).is_err() {
            text.clear();
        }
        text
    }
}

/// Resident bytes and processor seconds of this process (proc(5)).
fn process() -> Option<(i64, f64)> {
    // Linux has had these since long before anything Orlop runs on.
    const PAGE: i64 = 4096;
    const TICKS: f64 = 100.0;
    let statm = std::fs::read_to_string("/proc/self/statm").ok()?;
    let resident: i64 = statm.split_whitespace().nth(1)?.parse().ok()?;
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    let after = stat.rsplit_once(')')?.1;
    let fields: Vec<&str> = after.split_whitespace().collect();
    let user: f64 = fields.get(11)?.parse().ok()?;
    let system: f64 = fields.get(12)?.parse().ok()?;
    Some((resident * PAGE, (user + system) / TICKS))
}
