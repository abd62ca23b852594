//! Who asks, and whether they may. Authentication turns a connection's certificate or a bearer token into an
//! [`Identity`]; authorization asks what it may do.

pub(crate) mod authenticate;
pub(crate) mod authorize;
mod bootstrap_token;
pub(crate) mod impersonate;
pub(crate) mod node;
pub(crate) mod rbac;
pub(crate) mod removed_node;
pub(crate) mod reviews;

use std::collections::BTreeMap;

pub(crate) use authorize::{Attributes, Authorizer, Decision};

/// All who proved who they are.
pub const AUTHENTICATED: &str = "system:authenticated";
/// All who did not.
pub const UNAUTHENTICATED: &str = "system:unauthenticated";
/// The controllers that run inside the server. They hold what Kubernetes gives each of its controllers.
pub const CONTROLLERS: &str = "orlop.dev:controllers";
/// Nodes that show a certificate that is over. They may ask for a new one.
pub const EXPIRED_NODES: &str = "orlop.dev:expired-nodes";
/// Those who may do all.
pub const MASTERS: &str = "system:masters";

/// Somebody who uses the API (authentication.k8s.io/v1 `UserInfo`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// The user name.
    pub user: String,
    /// The uid, where there is one (service accounts).
    pub uid: String,
    /// The groups.
    pub groups: Vec<String>,
    /// More that the authenticator knows.
    pub extra: BTreeMap<String, Vec<String>>,
}

impl Identity {
    /// A user with groups; `system:authenticated` is added.
    pub fn new(user: impl Into<String>, groups: &[&str]) -> Self {
        let mut groups: Vec<String> = groups.iter().map(|g| g.to_string()).collect();
        groups.push(AUTHENTICATED.to_string());
        Self { user: user.into(), groups, ..Self::default() }
    }

    /// Somebody who did not say who they are.
    pub fn anonymous() -> Self {
        Self { user: "system:anonymous".into(), groups: vec![UNAUTHENTICATED.to_string()], ..Self::default() }
    }

    /// Whether it is in a group.
    pub fn is_in(&self, group: &str) -> bool {
        self.groups.iter().any(|g| g == group)
    }
}
