//! The controllers that hold keys: they sign certificates and the tokens that stand in Secrets. Apart from the others, so that
//! no other controller sees a key.

use crate::{bootstrap_token, certificate, legacy_token};
use kube::Client;
use orlop_client::Clock;
use orlop_pki::{Authority, ServiceAccountKey};
use std::sync::Arc;

/// What is signed with.
#[derive(Clone)]
pub struct Keys {
    /// The cluster's certificate authority.
    pub authority: Arc<Authority>,
    /// The key of service-account tokens.
    pub service_accounts: Arc<ServiceAccountKey>,
}

/// Runs them until dropped.
pub async fn run_signers(client: Client, clock: Clock, keys: Keys) {
    let certificates = certificate::start(client.clone(), clock.clone(), keys.authority.clone());
    let tokens = legacy_token::start(client.clone(), keys);
    let bootstrap = bootstrap_token::start(client, clock);
    tokio::join!(certificates, tokens, bootstrap);
}
