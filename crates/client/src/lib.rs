//! What controllers, scheduler and agent share as clients of the Kubernetes API: caches fed by watches ([`Informer`]),
//! work queues ([`Queue`]) and Events ([`Recorder`]). It knows no kind and decides nothing.

pub mod election;
pub mod events;
pub mod informer;
pub mod queue;
pub mod remote;
pub mod slim;
pub mod watch;
pub mod worker;

pub use events::{EventType, Recorder};
pub use informer::{Caches, Informer, Key};
pub use queue::Queue;
pub use watch::{Event, Source, Watcher};
pub use worker::{Clock, run_all, run_workers};

/// The `Status` reason of a failed API call (`NotFound`, `AlreadyExists`, `Conflict`, …), if it is one.
pub fn api_reason(error: &kube::Error) -> Option<&str> {
    match error {
        kube::Error::Api(status) => Some(status.reason.as_str()),
        _ => None,
    }
}

/// What the server said, for people: the message of the `Status`, without the client's own words around it.
pub fn api_message(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) if !status.message.is_empty() => status.message.clone(),
        other => other.to_string(),
    }
}

/// Turns "it is not there" into `None`.
pub fn found<T>(result: Result<T, kube::Error>) -> Result<Option<T>, kube::Error> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if api_reason(&error) == Some("NotFound") => Ok(None),
        Err(error) => Err(error),
    }
}
