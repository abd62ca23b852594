//! What can go wrong in the agent itself. What goes wrong with one pod ends in that pod's status and Events instead.

use std::path::Path;

/// A failed step of the agent.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A request to the API failed.
    #[error("{step}")]
    Api {
        /// What was being done.
        step: String,
        /// The cause.
        #[source]
        source: Box<kube::Error>,
    },
    /// The runtime could not do it.
    #[error("{step}")]
    Runtime {
        /// What was being done.
        step: String,
        /// The cause.
        #[source]
        source: orlop_runtime::Error,
    },
    /// The network could not do it.
    #[error("{step}")]
    Network {
        /// What was being done.
        step: String,
        /// The cause.
        #[source]
        source: orlop_network::Error,
    },
    /// A file or mount could not be made, read or removed.
    #[error("{step}: {source}")]
    Io {
        /// What was being done, with the path.
        step: String,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// What a pod refers to is missing or unusable; the text is for its status and Events.
    #[error("{0}")]
    Pod(String),
}

impl Error {
    pub(crate) fn api(step: impl Into<String>, source: kube::Error) -> Self {
        Self::Api { step: step.into(), source: Box::new(source) }
    }

    pub(crate) fn runtime(step: impl Into<String>, source: orlop_runtime::Error) -> Self {
        Self::Runtime { step: step.into(), source }
    }

    pub(crate) fn network(step: impl Into<String>, source: orlop_network::Error) -> Self {
        Self::Network { step: step.into(), source }
    }

    pub(crate) fn io(step: impl Into<String>, source: impl Into<std::io::Error>) -> Self {
        Self::Io { step: step.into(), source: source.into() }
    }

    pub(crate) fn path(doing: &str, path: &Path, source: impl Into<std::io::Error>) -> Self {
        Self::Io { step: format!("{doing} {}", path.display()), source: source.into() }
    }

    /// The step and all causes in one line, for Events and statuses.
    pub(crate) fn chain(&self) -> String {
        if let Self::Api { step, source } = self
            && let kube::Error::Api(status) = &**source
        {
            return format!("{step}: {}", status.message);
        }
        let mut text = self.to_string();
        let mut cause = std::error::Error::source(self);
        while let Some(e) = cause {
            let words = e.to_string();
            if !text.contains(&words) {
                text.push_str(": ");
                text.push_str(&words);
            }
            cause = e.source();
        }
        text
    }
}
