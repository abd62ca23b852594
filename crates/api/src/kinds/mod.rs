//! The table of built-in kinds: one file a kind, each with its description and, where it has any, its rules.
//! The registry, discovery, OpenAPI and printing work from this table alone.

mod admission_policy;
mod admission_rules;
mod api_service;
pub mod certificate_signing_request;
mod cluster_role;
mod cluster_role_binding;
pub mod component_status;
mod config_map;
mod controller_revision;
mod cron_job;
mod csi_driver;
mod csi_node;
mod csi_storage_capacity;
mod daemon_set;
mod deployment;
mod device_class;
mod devices;
mod endpoint_slice;
mod endpoints;
mod event;
mod event_v1;
pub mod flow_control;
mod flow_schema;
mod horizontal_pod_autoscaler;
mod horizontal_pod_autoscaler_v1;
mod ingress;
mod ingress_class;
mod ip_address;
mod job;
mod lease;
mod limit_range;
mod mutating_admission_policy;
mod mutating_admission_policy_binding;
mod mutating_webhook_configuration;
mod namespace;
pub mod network;
mod network_attachment;
mod network_policy;
mod node;
mod persistent_volume;
pub(crate) mod persistent_volume_claim;
mod pod;
mod pod_disruption_budget;
mod pod_template;
pub mod priority_class;
mod priority_level_configuration;
mod replica_set;
mod replication_controller;
mod resource_claim;
mod resource_claim_template;
pub mod resource_metrics;
mod resource_quota;
mod resource_slice;
mod role;
mod role_binding;
mod runtime_class;
pub mod scale;
mod secret;
pub mod service;
mod service_account;
mod service_cidr;
mod stateful_set;
mod storage_class;
mod validating_admission_policy;
mod validating_admission_policy_binding;
mod validating_webhook_configuration;
mod volume_attachment;
mod volume_attributes_class;
mod webhook_configuration;
mod workload;

use crate::{Kind, NameRule, Rules, ScalePaths, Scope, kind::Text};
use std::sync::{Arc, LazyLock};

static TABLE: LazyLock<Vec<Arc<Kind>>> = LazyLock::new(|| {
    [
        config_map::kind(),
        endpoints::kind(),
        event::kind(),
        event_v1::kind(),
        limit_range::kind(),
        namespace::kind(),
        node::kind(),
        persistent_volume::kind(),
        persistent_volume_claim::kind(),
        pod::kind(),
        pod_template::kind(),
        replication_controller::kind(),
        resource_quota::kind(),
        secret::kind(),
        service::kind(),
        service_account::kind(),
        controller_revision::kind(),
        daemon_set::kind(),
        deployment::kind(),
        replica_set::kind(),
        stateful_set::kind(),
        horizontal_pod_autoscaler::kind(),
        horizontal_pod_autoscaler_v1::kind(),
        cron_job::kind(),
        job::kind(),
        lease::kind(),
        endpoint_slice::kind(),
        flow_schema::kind(),
        priority_level_configuration::kind(),
        api_service::kind(),
        certificate_signing_request::kind(),
        cluster_role::kind(),
        cluster_role_binding::kind(),
        role::kind(),
        role_binding::kind(),
        ingress::kind(),
        ingress_class::kind(),
        ip_address::kind(),
        network_policy::kind(),
        service_cidr::kind(),
        runtime_class::kind(),
        pod_disruption_budget::kind(),
        device_class::kind(),
        resource_claim::kind(),
        resource_claim_template::kind(),
        resource_slice::kind(),
        priority_class::kind(),
        csi_driver::kind(),
        csi_node::kind(),
        csi_storage_capacity::kind(),
        storage_class::kind(),
        volume_attachment::kind(),
        volume_attributes_class::kind(),
        mutating_admission_policy::kind(),
        mutating_admission_policy_binding::kind(),
        mutating_webhook_configuration::kind(),
        validating_webhook_configuration::kind(),
        validating_admission_policy::kind(),
        validating_admission_policy_binding::kind(),
        network::kind(),
        network_attachment::kind(),
    ]
    .map(Arc::new)
    .into()
});

/// All built-in kinds, group by group.
pub fn table() -> Vec<Arc<Kind>> {
    TABLE.clone()
}

/// The built-in kind with that group (`""` for core), version and plural name.
pub fn find(group: &str, version: &str, plural: &str) -> Option<Arc<Kind>> {
    TABLE.iter().find(|k| k.group == group && k.version == version && k.plural == plural).cloned()
}

/// A namespaced kind with nothing special about it: the base that each file changes where it must.
fn base(
    group: &'static str,
    version: &'static str,
    kind: &'static str,
    plural: &'static str,
    rules: impl Rules + 'static,
) -> Kind {
    Kind {
        group: group.into(),
        version: version.into(),
        kind: kind.into(),
        plural: plural.into(),
        singular: kind.to_lowercase().into(),
        short_names: Vec::new(),
        categories: Vec::new(),
        scope: Scope::Namespaced,
        name_rule: NameRule::DnsSubdomain,
        has_status: false,
        has_generation: false,
        scale: None,
        columns: Vec::new(),
        selectable_fields: Vec::new(),
        stored_as: None,
        rules: Arc::new(rules),
    }
}

fn texts(texts: &[&'static str]) -> Vec<Text> {
    texts.iter().map(|t| Text::Borrowed(*t)).collect()
}

/// The scale of everything with `spec.replicas`, `status.replicas` and a label selector.
fn replicas_scale() -> ScalePaths {
    ScalePaths {
        spec_replicas: "/spec/replicas".into(),
        status_replicas: "/status/replicas".into(),
        selector: "/spec/selector".into(),
    }
}

#[cfg(test)]
mod tests;
