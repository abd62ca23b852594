//! Pod links, addresses, routes and service rules in the kernel: one veth pair and one route a pod, one nftables table for
//! Services. It knows nothing of the Kubernetes API: it takes plain structs.
//!
//! Pods are routed, not bridged: every packet between two pods passes the address translation and the rules, whether or not
//! the machine's `br_netfilter` is on, and no pod can pose as another.
//!
//! What to know when running it:
//! - Node ports and host ports are on all addresses of the node, 127.0.0.1 included (`::1` is not: the kernel forwards nothing
//!   that came from there).
//! - Chains of others still count: a `forward` chain with `policy drop` (as Docker makes one) drops pod traffic until it is
//!   told to accept `v-INSTANCE-*`.
//! - All is in the tables `ip orlop-INSTANCE` and `ip6 orlop-INSTANCE`, one for each address family that the pods have. Policies
//!   are in a table of their own, `inet orlop-INSTANCE-policy` (see [`policy`]).
//! - The way to pods of other nodes is [`mesh`]'s.
//! - Forwarding is turned on (`net.ipv4.ip_forward`, `net.ipv6.conf.all.forwarding`), and put back by [`Network::remove_all`]
//!   if it was off. Links that heed router advertisements go on doing so.

mod addresses;
mod announce;
mod family;
mod firewall;
mod layout;
pub mod mesh;
pub mod model;
mod netlink;
mod network;
pub mod overlay;
pub mod policy;
mod ruleset;
mod service_rules;
mod sysctl;

pub use model::*;
pub use netlink::{PolicyCounts, PolicyTable};
pub use network::Network;
