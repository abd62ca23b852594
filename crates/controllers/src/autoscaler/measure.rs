//! One metric of an autoscaler: fetched, and turned into a number of pods and a line of the status.

use super::{
    calculate::{self, Proposal, Target, Tolerance, View},
    metrics::Metrics,
};
use jiff::Timestamp;
use k8s_openapi::{
    api::{
        autoscaling::v2::{
            ContainerResourceMetricStatus, ExternalMetricStatus, MetricSpec, MetricStatus, MetricTarget,
            MetricValueStatus, ObjectMetricStatus, PodsMetricStatus, ResourceMetricStatus,
        },
        core::v1::Pod,
    },
    apimachinery::pkg::api::resource::Quantity as TypedQuantity,
};
use orlop_api::quantity::Quantity;
use std::{collections::BTreeMap, sync::Arc};

/// What a metric says.
pub(super) struct Measured {
    pub replicas: i32,
    /// The metric, for people.
    pub name: String,
    pub status: MetricStatus,
}

/// Why a metric says nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Unmeasured {
    /// The reason of the condition and the Event.
    pub reason: &'static str,
    /// What they say.
    pub why: String,
    /// What was being done.
    pub doing: String,
}

/// What a metric is measured against.
pub(super) struct Subject<'a> {
    pub metrics: Metrics<'a>,
    pub selector: &'a str,
    pub pods: &'a [Arc<Pod>],
    /// How many pods are asked for, and how many there are.
    pub asked: i32,
    pub there: i32,
    pub tolerance: Tolerance,
    pub now: Timestamp,
}

fn quantity(milli: i64) -> TypedQuantity {
    Quantity::from_milli(milli).into()
}

fn milli(typed: Option<&TypedQuantity>) -> Option<i64> {
    typed.map(|t| Quantity::of(t).milli_value())
}

const NO_TARGET: &str = "neither an average utilization target nor an average value (usage) target was set";

impl Subject<'_> {
    /// What a metric says of the number of pods.
    pub(super) async fn measure(&self, spec: &MetricSpec) -> Result<Measured, Unmeasured> {
        match spec.type_.as_str() {
            "Resource" => self.resource(spec).await,
            "ContainerResource" => self.container(spec).await,
            "Pods" => self.of_pods(spec).await,
            "Object" => self.object(spec).await,
            "External" => self.external(spec).await,
            other => Err(Unmeasured {
                reason: "InvalidMetricSourceType",
                why: format!("unknown metric source type {other:?}"),
                doing: format!("unknown metric source type {other:?}"),
            }),
        }
    }

    /// What pods use of a resource against the target.
    async fn use_of(
        &self,
        resource: &str,
        container: Option<&str>,
        target: &MetricTarget,
    ) -> Result<(Proposal, bool), String> {
        let (goal, what) = match (milli(target.average_value.as_ref()), target.average_utilization) {
            (Some(average), _) => (Target::Average(average), "usage"),
            (None, Some(share)) => (Target::Utilization(share), "utilization"),
            (None, None) => return Err(format!("invalid resource metric source: {NO_TARGET}")),
        };
        let failed = |why| format!("failed to get {resource} {what}: {why}");
        let samples = self.metrics.of_pods(resource, self.selector, container).await.map_err(failed)?;
        let requests = match goal {
            Target::Utilization(_) => calculate::requests(self.pods, resource, container).map_err(failed)?,
            Target::Average(_) => BTreeMap::new(),
        };
        let view = View { is_cpu: resource == "cpu", ..self.view(&requests, goal) };
        let proposal = calculate::propose(&view, samples).map_err(failed)?;
        Ok((proposal, matches!(goal, Target::Utilization(_))))
    }

    fn view<'a>(&'a self, requests: &'a BTreeMap<String, i64>, target: Target) -> View<'a> {
        View {
            current: self.asked,
            pods: self.pods,
            is_cpu: false,
            requests,
            target,
            tolerance: self.tolerance,
            now: self.now,
        }
    }

    async fn resource(&self, spec: &MetricSpec) -> Result<Measured, Unmeasured> {
        let source = spec.resource.clone().unwrap_or_default();
        let name = source.name;
        let measured = self.use_of(&name, None, &source.target).await;
        let (proposal, share) = measured.map_err(|why| Unmeasured {
            reason: "FailedGetResourceMetric",
            doing: format!("failed to get {name} resource metric value: {why}"),
            why,
        })?;
        let (current, told) = of_use(&proposal, share);
        Ok(Measured {
            replicas: proposal.replicas,
            name: format!("{name} resource{told}"),
            status: MetricStatus {
                type_: spec.type_.clone(),
                resource: Some(ResourceMetricStatus { name, current }),
                ..MetricStatus::default()
            },
        })
    }

    async fn container(&self, spec: &MetricSpec) -> Result<Measured, Unmeasured> {
        let source = spec.container_resource.clone().unwrap_or_default();
        let (name, container) = (source.name, source.container);
        let measured = self.use_of(&name, Some(&container), &source.target).await;
        let (proposal, share) = measured.map_err(|why| Unmeasured {
            reason: "FailedGetContainerResourceMetric",
            doing: format!("failed to get {container} container metric value: {why}"),
            why,
        })?;
        let (current, told) = of_use(&proposal, share);
        Ok(Measured {
            replicas: proposal.replicas,
            name: format!("{name} container resource{told}"),
            status: MetricStatus {
                type_: spec.type_.clone(),
                container_resource: Some(ContainerResourceMetricStatus { name, container, current }),
                ..MetricStatus::default()
            },
        })
    }

    async fn of_pods(&self, spec: &MetricSpec) -> Result<Measured, Unmeasured> {
        let source = spec.pods.clone().unwrap_or_default();
        let name = source.metric.name.clone();
        let measured = async {
            let target = milli(source.target.average_value.as_ref()).unwrap_or(0);
            let metric = (name.as_str(), source.metric.selector.as_ref());
            let samples = self.metrics.custom("pods/*", metric, Some(self.selector)).await;
            let samples = samples.map_err(|why| format!("unable to get metric {name}: {why}"))?;
            calculate::propose(&self.view(&BTreeMap::new(), Target::Average(target)), samples)
        };
        let proposal = measured.await.map_err(|why| Unmeasured {
            reason: "FailedGetPodsMetric",
            doing: format!("failed to get pods metric value: {why}"),
            why,
        })?;
        let current =
            MetricValueStatus { average_value: Some(quantity(proposal.average)), ..Default::default() };
        Ok(Measured {
            replicas: proposal.replicas,
            name: format!("pods metric {name}"),
            status: MetricStatus {
                type_: spec.type_.clone(),
                pods: Some(PodsMetricStatus { metric: source.metric, current }),
                ..MetricStatus::default()
            },
        })
    }

    /// Against a value that is not a pod's own: the number of pods, and the line of the status.
    fn against(&self, value: i64, target: &MetricTarget) -> Result<(i32, MetricValueStatus), String> {
        if let Some(goal) = milli(target.value.as_ref()) {
            let goal = (value, goal);
            let replicas = calculate::propose_for_value(self.asked, self.pods, goal, self.tolerance)?;
            Ok((replicas, MetricValueStatus { value: Some(quantity(value)), ..Default::default() }))
        } else if let Some(goal) = milli(target.average_value.as_ref()) {
            let (replicas, share) = calculate::propose_for_share(self.there, (value, goal), self.tolerance);
            Ok((replicas, MetricValueStatus { average_value: Some(quantity(share)), ..Default::default() }))
        } else {
            Err("neither a value target nor an average value target was set".into())
        }
    }

    async fn object(&self, spec: &MetricSpec) -> Result<Measured, Unmeasured> {
        let source = spec.object.clone().unwrap_or_default();
        let (about, name) = (&source.described_object, source.metric.name.clone());
        let measured = async {
            let group = about.api_version.as_deref().and_then(|v| v.split_once('/')).map(|(g, _)| g);
            let resource =
                self.resource_of(about.api_version.as_deref().unwrap_or("v1"), &about.kind).await?;
            let object = match group {
                // Of a namespace only its own metrics can be had.
                None if about.kind == "Namespace" => "metrics".into(),
                Some(group) => format!("{resource}.{group}/{}", about.name),
                None => format!("{resource}/{}", about.name),
            };
            let metric = (name.as_str(), source.metric.selector.as_ref());
            let value = self.metrics.of_object(&object, metric).await.map_err(|why| {
                format!("unable to get metric {name}: {} on {}: {why}", about.kind, about.name)
            })?;
            self.against(value, &source.target)
        };
        let (replicas, current) = measured.await.map_err(|why| Unmeasured {
            reason: "FailedGetObjectMetric",
            doing: match source.target.type_.as_str() {
                "AverageValue" => {
                    format!("failed to get object metric value: failed to get {name} object metric: {why}")
                }
                _ => format!("failed to get object metric value: {why}"),
            },
            why,
        })?;
        let told = format!("{} metric {name}", about.kind);
        Ok(Measured {
            replicas,
            name: told,
            status: MetricStatus {
                type_: spec.type_.clone(),
                object: Some(ObjectMetricStatus {
                    described_object: source.described_object,
                    metric: source.metric,
                    current,
                }),
                ..MetricStatus::default()
            },
        })
    }

    async fn resource_of(&self, api_version: &str, kind: &str) -> Result<String, String> {
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        let gvk = kube::core::GroupVersionKind::gvk(group, version, kind);
        let found = kube::discovery::pinned_kind(self.metrics.client, &gvk).await;
        let unknown = |_| format!("unable to map kind {kind} in group {group:?}");
        found.map(|(resource, _)| resource.plural).map_err(unknown)
    }

    async fn external(&self, spec: &MetricSpec) -> Result<Measured, Unmeasured> {
        let source = spec.external.clone().unwrap_or_default();
        let name = source.metric.name.clone();
        let measured = async {
            let selector = source.metric.selector.as_ref();
            let value = self.metrics.external(&name, selector).await;
            let value = value.map_err(|why| {
                let namespace = self.metrics.namespace;
                format!("unable to get external metric {namespace}/{name}/{}: {why}", told(selector))
            })?;
            self.against(value, &source.target)
        };
        let (replicas, current) = measured.await.map_err(|why| Unmeasured {
            reason: "FailedGetExternalMetric",
            doing: match &source.target.average_value {
                Some(_) => {
                    format!("failed to get {name} external metric value: failed to get {name} external metric: {why}")
                }
                None => {
                    format!("failed to get {name} external metric value: failed to get external metric {name}: {why}")
                }
            },
            why,
        })?;
        Ok(Measured {
            replicas,
            name: format!("external metric {name}({})", told(source.metric.selector.as_ref())),
            status: MetricStatus {
                type_: spec.type_.clone(),
                external: Some(ExternalMetricStatus { metric: source.metric, current }),
                ..MetricStatus::default()
            },
        })
    }
}

/// A selector as Go prints it.
fn told(selector: Option<&k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector>) -> String {
    let Some(selector) = selector else { return "nil".into() };
    let labels: Vec<_> =
        selector.match_labels.iter().flatten().map(|(key, value)| format!("{key}: {value},")).collect();
    format!(
        "&LabelSelector{{MatchLabels:map[string]string{{{}}},MatchExpressions:[]LabelSelectorRequirement{{}},}}",
        labels.concat()
    )
}

/// What a status says of the use of a resource, and what follows the resource's name there: `share` if it is one of what was requested.
fn of_use(proposal: &Proposal, share: bool) -> (MetricValueStatus, &'static str) {
    let current = MetricValueStatus {
        average_utilization: proposal.utilization,
        average_value: Some(quantity(proposal.average)),
        value: None,
    };
    (current, if share { " utilization (percentage of request)" } else { "" })
}
