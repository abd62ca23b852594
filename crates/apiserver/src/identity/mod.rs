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

use std::{collections::BTreeMap, sync::Arc};

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
    /// For who writes only as long as they lead.
    pub fence: Option<Arc<Fence>>,
}

/// What the writes of a leader depend on: an entry of the store that is written anew when somebody else takes over, in the
/// transaction that takes the Lease. A leader that was asleep meanwhile changes nothing more, whatever it believes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fence {
    pub(crate) key: Arc<str>,
    pub(crate) epoch: orlop_store::Revision,
}

impl Fence {
    /// On a Lease with the annotation [`crate::FENCED`], in the term that began with the write of that resource version.
    pub fn new(namespace: &str, lease: &str, began: u64) -> Self {
        Self {
            key: crate::hooks::leases::fence_key(namespace, lease).into(),
            epoch: orlop_store::Revision(began),
        }
    }
}

impl Identity {
    /// A user with groups; `system:authenticated` is added.
    pub fn new(user: impl Into<String>, groups: &[&str]) -> Self {
        let mut groups: Vec<String> = groups.iter().map(|g| g.to_string()).collect();
        groups.push(AUTHENTICATED.to_string());
        Self { user: user.into(), groups, ..Self::default() }
    }

    /// The same, writing only as long as the fence stands.
    #[must_use]
    pub fn behind(self, fence: Option<Fence>) -> Self {
        Self { fence: fence.map(Arc::new), ..self }
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
