//! Certificates, service-account tokens and kubeconfigs: who a cluster's members are and how they prove it.
//! It holds keys and signs; it decides nothing about what an identity may do.

pub mod authority;
pub mod join_token;
pub mod key_list;
pub mod kubeconfig;
pub mod node_credential;
pub mod rotating;
pub mod shared;
pub mod signing_request;
pub mod tls;
pub mod token;

mod anybody;
mod expired;
mod files;

pub use authority::{Authority, CertificateRequest, Credential, Usage};
pub use join_token::JoinToken;
pub use rotating::Rotating;
pub use token::{Claims, ObjectRef, ServiceAccountKey};

/// Why a certificate, key or token could not be made or trusted.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file could not be read or written.
    #[error("{step}")]
    Io {
        /// What was being done, with the path.
        step: String,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// Making or reading a certificate failed.
    #[error("{step}: {why}")]
    Certificate {
        /// What was being done.
        step: &'static str,
        /// What the library said.
        why: String,
    },
    /// A TLS configuration could not be made.
    #[error("TLS configuration")]
    Tls(#[from] rustls::Error),
    /// A token is malformed, badly signed, expired or not meant for us.
    #[error("invalid token: {0}")]
    Token(String),
}

impl Error {
    /// A step that failed, with the reason.
    pub fn certificate(step: &'static str, why: impl std::fmt::Display) -> Self {
        Self::Certificate { step, why: why.to_string() }
    }
}
