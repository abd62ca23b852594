//! What can go wrong, in the words that a person at a terminal reads.

use std::path::PathBuf;

/// Why a verb failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The server's own words (`Status` of meta/v1).
    #[error("Error from server{}: {message}", if reason.is_empty() { String::new() } else { format!(" ({reason})") })]
    Server {
        /// HTTP code.
        code: u16,
        /// `NotFound`, `Conflict`, ….
        reason: String,
        /// For people.
        message: String,
    },
    /// No server answered.
    #[error("error: cannot reach the server {server}: {why}")]
    Unreachable {
        /// Its address.
        server: String,
        /// What happened.
        why: String,
    },
    /// There is no usable kubeconfig.
    #[error("error: {0}")]
    Kubeconfig(String),
    /// A file that describes objects cannot be read.
    #[error("error: {}: {why}", file.display())]
    Manifest {
        /// The file; `-` is standard input.
        file: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The server knows no such kind.
    #[error("error: the server doesn't have a resource type {0:?}")]
    UnknownResource(String),
    /// The arguments do not fit together.
    #[error("error: {0}")]
    Usage(String),
    /// The server's answer is not what the API promises.
    #[error("error: unexpected answer from the server: {0}")]
    Answer(String),
    /// It took too long.
    #[error("error: timed out waiting for {0}")]
    Timeout(String),
    /// An operation of this machine failed.
    #[error("error: {step}: {source}")]
    Io {
        /// What was being done.
        step: String,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// The server on this machine could not do something with images.
    #[error("error: {0}")]
    Image(String),
}

impl Error {
    pub(crate) fn io(step: impl Into<String>, source: std::io::Error) -> Self {
        Self::Io { step: step.into(), source }
    }

    /// Whether the server says that there is no such thing.
    pub(crate) fn is_not_found(&self) -> bool {
        matches!(self, Self::Server { code: 404, .. })
    }
}
