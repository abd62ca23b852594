//! The built-in admission plugins, one file each, named and ordered as in Kubernetes.

mod default_toleration_seconds;
mod priority;
mod service_account;

use super::Plugin;

/// All plugins, in the order in which they run.
pub(super) fn all() -> Vec<Box<dyn Plugin>> {
    vec![
        Box::new(service_account::ServiceAccount),
        Box::new(priority::Priority),
        Box::new(default_toleration_seconds::DefaultTolerationSeconds),
    ]
}
