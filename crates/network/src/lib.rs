//! Pod links, addresses, routes and service rules in the kernel: one veth pair and one route a pod, one nftables table for
//! Services. It knows nothing of the Kubernetes API: it takes plain structs.
//!
//! Pods are routed, not bridged: every packet between two pods passes the address translation and the rules, whether or not
//! the machine's `br_netfilter` is on, and no pod can pose as another.
//!
//! What to know when running it:
//! - Node ports and host ports are on all addresses of the node, 127.0.0.1 included (IPv4; `::1` is not translated).
//! - Chains of others still count: a `forward` chain with `policy drop` (as Docker makes one) drops pod traffic until it is
//!   told to accept `v-INSTANCE-*`.
//! - All is in the table `ip orlop-INSTANCE`; `nft list table ip orlop-INSTANCE` shows it.
//! - `net.ipv4.ip_forward` is turned on, and put back by [`Network::remove_all`] if it was off.

mod addresses;
mod firewall;
mod layout;
pub mod model;
mod netlink;
mod network;
mod ruleset;
mod service_rules;
mod sysctl;

pub use model::*;
pub use network::Network;
