//! What RBAC rules allow, whether a set of rules covers another, and what is valid in roles and bindings
//! (rbac.authorization.k8s.io/v1). Pure: who holds which rules is for the server to know.

mod cover;
mod rule;
pub(crate) mod validate;

pub use cover::{compact, uncovered};
pub use rule::{PolicyRule, Request, describe};

/// The API group of roles and bindings.
pub const GROUP: &str = "rbac.authorization.k8s.io";

/// Everything, everywhere: what `cluster-admin` holds.
pub fn full_authority() -> Vec<PolicyRule> {
    let all = || vec!["*".to_string()];
    vec![
        PolicyRule { verbs: all(), api_groups: all(), resources: all(), ..PolicyRule::default() },
        PolicyRule { verbs: all(), non_resource_urls: all(), ..PolicyRule::default() },
    ]
}

#[cfg(test)]
mod tests;
