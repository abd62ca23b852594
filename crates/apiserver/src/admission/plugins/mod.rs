//! The built-in admission plugins, one file each, named and ordered as in Kubernetes.

mod default_class;
mod default_toleration_seconds;
mod devices;
mod expressions;
mod limit_ranger;
mod param_access;
mod persistent_volume_claim_resize;
mod pod_security;
mod pod_security_checks;
mod priority;
mod runtime_class;
mod service_account;
mod storage_object_in_use_protection;

use super::Plugin;
use crate::config::LostNodes;

/// All plugins, in the order in which they run.
pub(super) fn all(lost_nodes: LostNodes) -> Vec<Box<dyn Plugin>> {
    vec![
        Box::new(limit_ranger::LimitRanger),
        Box::new(service_account::ServiceAccount),
        Box::new(pod_security::PodSecurity),
        Box::new(priority::Priority),
        Box::new(default_toleration_seconds::DefaultTolerationSeconds(lost_nodes)),
        Box::new(default_class::DefaultClass),
        Box::new(storage_object_in_use_protection::StorageObjectInUseProtection),
        Box::new(persistent_volume_claim_resize::PersistentVolumeClaimResize),
        Box::new(runtime_class::RuntimeClass),
        Box::new(expressions::CompiledExpressions),
        Box::new(param_access::ParamAccess),
        Box::new(devices::Devices),
    ]
}
