//! HorizontalPodAutoscaler: as many pods as the load wants (Kubernetes documentation, "Horizontal Pod Autoscaling"). Every quarter
//! of a minute it asks for the metrics, and through the `scale` subresource changes whatever can be scaled. What it remembers of
//! the last hour to keep its pace is lost with the process, which then begins as with a new object.

mod behavior;
mod calculate;
mod measure;
mod metrics;

use crate::{Cluster, Error, scale};
use behavior::{Bounds, Normalized, Past, normalize};
use calculate::Tolerance;
use futures::future::BoxFuture;
use jiff::Timestamp;
use k8s_openapi::{
    api::{
        autoscaling::{
            v1::Scale,
            v2::{
                HorizontalPodAutoscaler, HorizontalPodAutoscalerCondition, HorizontalPodAutoscalerSpec,
                HorizontalPodAutoscalerStatus, MetricStatus,
            },
        },
        core::v1::Pod,
    },
    apimachinery::pkg::apis::meta::v1::Time,
};
use kube::ResourceExt;
use measure::Subject;
use metrics::Metrics;
use orlop_api::{quantity::Quantity, selector::Selector};
use orlop_client::{EventType, Key, Queue, api_message, run_workers};
use parking_lot::Mutex;
use std::{collections::HashMap, sync::Arc, time::Duration};

const WORKERS: usize = 5;
const PERIOD: Duration = Duration::from_secs(15);
/// How far from the target it may be, unless something else is said.
const TOLERANCE: f64 = 0.1;

/// Registers with the caches; the future does the work.
pub(crate) fn start(cluster: &Cluster) -> BoxFuture<'static, ()> {
    let queue = Queue::default();
    let on_change = queue.clone();
    cluster.autoscalers.on_change(move |old, new| {
        // Not for the status, which is written each time.
        let wants = |h: Option<&Arc<HorizontalPodAutoscaler>>| h.map(|h| (h.uid(), h.spec.clone()));
        if let Some(any) = new.or(old).filter(|_| wants(old) != wants(new)) {
            on_change.add(Key::of(&**any));
        }
    });
    let cluster = cluster.clone();
    Box::pin(async move {
        let (pasts, selectors) = (Mutex::default(), Mutex::default());
        let reconcile = |key| reconcile(&cluster, &queue, &pasts, &selectors, key);
        run_workers("horizontalpodautoscaler", queue.clone(), WORKERS, reconcile).await;
    })
}

type Pasts = Mutex<HashMap<String, Past>>;

/// What was last seen to be selected: by the autoscaler's name, within a namespace.
type Selectors = Mutex<HashMap<Key, String>>;

async fn reconcile(
    cluster: &Cluster,
    queue: &Queue,
    pasts: &Pasts,
    selectors: &Selectors,
    key: Key,
) -> Result<(), Error> {
    let Some(owner) = cluster.autoscalers.get(&key.namespace, &key.name) else {
        let known: Vec<_> = cluster.autoscalers.all().iter().filter_map(|h| h.uid()).collect();
        pasts.lock().retain(|uid, _| known.contains(uid));
        selectors.lock().remove(&key);
        return Ok(());
    };
    // What went wrong stands in the conditions; another try comes with the next period in any case.
    queue.add_after(key, PERIOD);
    let spec = &owner.spec;
    let uid = owner.uid().unwrap_or_default();
    let past = pasts.lock().get(&uid).cloned().unwrap_or_default();
    let status = owner.status.clone().unwrap_or_default();
    let mut turn = Turn { cluster, owner: &owner, spec, status, past, selectors, now: cluster.now() };
    turn.run().await;
    let Turn { status, past, .. } = turn;
    pasts.lock().insert(uid, past);
    if owner.status.as_ref() == Some(&status) {
        return Ok(());
    }
    let mut changed = (*owner).clone();
    changed.status = Some(status);
    cluster.write_status(&cluster.autoscalers, &changed).await
}

/// One look at an autoscaler.
struct Turn<'a> {
    cluster: &'a Cluster,
    owner: &'a HorizontalPodAutoscaler,
    spec: &'a HorizontalPodAutoscalerSpec,
    status: HorizontalPodAutoscalerStatus,
    past: Past,
    selectors: &'a Selectors,
    now: Timestamp,
}

/// What the metrics want.
struct Wish {
    replicas: i32,
    metric: String,
    statuses: Vec<MetricStatus>,
    /// What was wrong with some of them.
    wrong: Option<String>,
}

impl Turn<'_> {
    fn set(&mut self, type_: &str, value: bool, reason: &str, message: impl Into<String>) {
        let value = if value { "True" } else { "False" };
        let all = self.status.conditions.get_or_insert_default();
        let since = all.iter().find(|c| c.type_ == type_ && c.status == value);
        let since = since.and_then(|c| c.last_transition_time.clone()).unwrap_or(Time(self.now));
        let condition = HorizontalPodAutoscalerCondition {
            type_: type_.into(),
            status: value.into(),
            reason: Some(reason.into()),
            message: Some(message.into()),
            last_transition_time: Some(since),
        };
        match all.iter_mut().find(|c| c.type_ == type_) {
            Some(place) => *place = condition,
            None => all.push(condition),
        }
    }

    fn tell(&self, event_type: EventType, reason: &'static str, message: impl Into<String>) {
        self.cluster.recorder.event(self.owner, event_type, reason, message);
    }

    fn no_scale(&mut self, why: &str) {
        self.tell(EventType::Warning, "FailedGetScale", why);
        let message = format!("the HPA controller was unable to get the target's current scale: {why}");
        self.set("AbleToScale", false, "FailedGetScale", message);
    }

    async fn run(&mut self) {
        let namespace = self.owner.namespace().unwrap_or_default();
        let target = &self.spec.scale_target_ref;
        let version = target.api_version.as_deref().unwrap_or("v1");
        let kind = match scale::find(self.cluster, &namespace, version, &target.kind).await {
            Ok(kind) => kind,
            Err(why) => return self.no_scale(&why.to_string()),
        };
        let scale = match kind.get(&target.name).await {
            Ok(Some(scale)) => scale,
            Ok(None) => return self.no_scale(&format!("{} {:?} not found", kind.resource(), target.name)),
            Err(error) => return self.no_scale(&api_message(&error)),
        };
        let message = "the HPA controller was able to get the target's current scale";
        self.set("AbleToScale", true, "SucceededGetScale", message);
        let current = scale.spec.as_ref().and_then(|s| s.replicas).unwrap_or(0);
        let there = scale.status.as_ref().map_or(0, |s| s.replicas);
        self.past.begin(current, self.now);
        self.status.current_replicas = Some(current);

        let Some((desired, why)) = self.decide(&scale, current, there).await else { return };
        if desired != current {
            match kind.set(&target.name, &scale, desired).await {
                Ok(_) => {
                    let message =
                        format!("the HPA controller was able to update the target scale to {desired}");
                    self.set("AbleToScale", true, "SucceededRescale", message);
                    let message = format!("New size: {desired}; reason: {why}");
                    self.tell(EventType::Normal, "SuccessfulRescale", message);
                    self.past.changed(desired - current, self.now);
                    self.status.last_scale_time = Some(Time(self.now));
                }
                Err(error) => {
                    let error = api_message(&error);
                    let message = format!("New size: {desired}; reason: {why}; error: {error}");
                    self.tell(EventType::Warning, "FailedRescale", message);
                    let message =
                        format!("the HPA controller was unable to update the target scale: {error}");
                    self.set("AbleToScale", false, "FailedUpdateScale", message);
                    return;
                }
            }
        }
        self.status.desired_replicas = desired;
        self.status.observed_generation = self.owner.metadata.generation;
    }

    /// How many pods there should be, and why another number; `None` where nothing can be said.
    async fn decide(&mut self, scale: &Scale, current: i32, there: i32) -> Option<(i32, String)> {
        let (least, most) = (self.spec.min_replicas.unwrap_or(1), self.spec.max_replicas);
        if current == 0 && least != 0 {
            let message = "scaling is disabled since the replica count of the target is zero";
            self.set("ScalingActive", false, "ScalingDisabled", message);
            return Some((0, String::new()));
        }
        if current > most {
            return Some((most, "Current number of replicas above Spec.MaxReplicas".into()));
        }
        if current < least {
            return Some((least, "Current number of replicas below Spec.MinReplicas".into()));
        }
        let wish = self.wish(scale, current, there).await?;
        if let Some(wrong) = wish.wrong {
            self.tell(EventType::Warning, "FailedComputeMetricsReplicas", wrong);
        }
        self.status.current_metrics = Some(wish.statuses).filter(|s| !s.is_empty());
        let behavior = self.spec.behavior.as_ref();
        let bounds = Bounds { current, least, most, behavior };
        let Normalized { replicas, stabilized, limited } =
            normalize(&bounds, &mut self.past, wish.replicas, self.now);
        let (reason, message) =
            stabilized.unwrap_or(("ReadyForNewScale", "recommended size matches current size"));
        self.set("AbleToScale", true, reason, message);
        let within = ("DesiredWithinRange", "the desired count is within the acceptable range");
        let (reason, message) = limited.unwrap_or(within);
        self.set("ScalingLimited", limited.is_some(), reason, message);
        let why = if wish.replicas > current {
            format!("{} above target", wish.metric)
        } else {
            "All metrics below target".into()
        };
        Some((replicas, why))
    }

    fn tolerance(&self) -> Tolerance {
        let of = |rules: Option<&k8s_openapi::api::autoscaling::v2::HPAScalingRules>| {
            let given = rules.and_then(|r| r.tolerance.as_ref());
            given.map_or(TOLERANCE, |t| Quantity::of(t).milli_value() as f64 / 1000.0)
        };
        let behavior = self.spec.behavior.as_ref();
        Tolerance {
            up: of(behavior.and_then(|b| b.scale_up.as_ref())),
            down: of(behavior.and_then(|b| b.scale_down.as_ref())),
        }
    }

    /// The pods of the target.
    fn pods(&mut self, selector: &str) -> Option<Vec<Arc<Pod>>> {
        if selector.is_empty() {
            self.tell(EventType::Warning, "SelectorRequired", "selector is required");
            let message = "the HPA target's scale is missing a selector";
            self.set("ScalingActive", false, "InvalidSelector", message);
            return None;
        }
        let parsed = match Selector::parse(selector) {
            Ok(parsed) => parsed,
            Err(error) => {
                let why = format!(
                    "couldn't convert selector into a corresponding internal selector object: {error}"
                );
                self.tell(EventType::Warning, "InvalidSelector", why.as_str());
                self.set("ScalingActive", false, "InvalidSelector", why);
                return None;
            }
        };
        let mut pods = self.cluster.pods.in_namespace(&self.owner.namespace().unwrap_or_default());
        pods.retain(|p| parsed.matches(p.labels()));
        let rivals = self.rivals(selector, &pods);
        if rivals.len() > 1 {
            let rivals = rivals.join(" ");
            let why = format!("pods by selector {selector} are controlled by multiple HPAs: [{rivals}]");
            self.tell(EventType::Warning, "AmbiguousSelector", why.as_str());
            self.set("ScalingActive", false, "AmbiguousSelector", why);
            return None;
        }
        Some(pods)
    }

    /// The autoscalers that select any of these pods, this one among them.
    fn rivals(&self, selector: &str, pods: &[Arc<Pod>]) -> Vec<String> {
        let own = Key::of(self.owner);
        let mut selectors = self.selectors.lock();
        selectors.insert(own.clone(), selector.to_string());
        let selects = |selector: &str| {
            Selector::parse(selector).is_ok_and(|s| pods.iter().any(|p| s.matches(p.labels())))
        };
        let others = selectors.iter().filter(|(key, _)| key.namespace == own.namespace);
        let mut all: Vec<_> =
            others.filter(|(key, s)| **key == own || selects(s)).map(|(key, _)| key.to_string()).collect();
        all.sort();
        all
    }

    /// The most that any metric wants.
    async fn wish(&mut self, scale: &Scale, asked: i32, there: i32) -> Option<Wish> {
        let selector = scale.status.as_ref().and_then(|s| s.selector.clone()).unwrap_or_default();
        let pods = self.pods(&selector)?;
        let namespace = self.owner.namespace().unwrap_or_default();
        let subject = Subject {
            metrics: Metrics { client: &self.cluster.client, namespace: &namespace },
            selector: &selector,
            pods: &pods,
            asked,
            there,
            tolerance: self.tolerance(),
            now: self.now,
        };
        let specs = self.spec.metrics.clone().unwrap_or_default();
        let mut wish = Wish { replicas: 0, metric: String::new(), statuses: Vec::new(), wrong: None };
        let mut failures = Vec::new();
        for spec in &specs {
            match subject.measure(spec).await {
                Ok(measured) => {
                    wish.statuses.push(measured.status);
                    if wish.replicas == 0 || measured.replicas > wish.replicas {
                        wish.replicas = measured.replicas;
                        wish.metric = measured.name;
                    }
                }
                Err(failure) => {
                    self.tell(EventType::Warning, failure.reason, failure.why.as_str());
                    failures.push(failure);
                }
            }
        }
        if let Some(first) = failures.first() {
            let (count, all) = (failures.len(), specs.len());
            let wrong =
                format!("invalid metrics ({count} invalid out of {all}), first error is: {}", first.doing);
            // With a metric missing nothing is taken away: it might be the one that wants more.
            if count >= all || wish.replicas < asked {
                let message = format!("the HPA was unable to compute the replica count: {}", first.why);
                self.set("ScalingActive", false, first.reason, message);
                self.tell(EventType::Warning, "FailedComputeMetricsReplicas", wrong);
                self.status.current_metrics = Some(wish.statuses).filter(|s| !s.is_empty());
                return None;
            }
            wish.wrong = Some(wrong);
        }
        let message =
            format!("the HPA was able to successfully calculate a replica count from {}", wish.metric);
        self.set("ScalingActive", true, "ValidMetricFound", message);
        Some(wish)
    }
}
