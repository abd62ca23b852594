//! NetworkPolicy: who may open a connection to whom. [`judge`] is the meaning, written as simply as it can be, and says which rule
//! decides; [`Index`] follows what changes and makes the rules of one node of it ([`PolicyRules`]). Both are pure, know nothing of
//! the Kubernetes API's objects, and must say the same: a test asks the kernel.
//!
//! What Kubernetes leaves open is decided like this:
//! - A decision is about the first packet of a connection. Connections that are open when a policy appears stay open, and so do
//!   flows of UDP as long as they are tracked.
//! - What is denied is dropped, not refused: on another node an address may be known a moment later.
//! - Of protocols without ports (ICMP) rules without `ports` decide; rules with ports never let them through.
//! - Pods in the node's network have the node's address: only an `ipBlock` can mean them, and no policy selects them.
//! - Between a pod and its own node everything is allowed, whatever addresses the node has.

mod block;
mod index;
mod memo;
mod model;
mod rules;
mod verdict;

#[cfg(test)]
mod tests;

pub use index::Index;
pub use model::{
    Direction, Labels, NamedPort, ObjectName, Operator, Peer, Pod, Policy, PortMatch, Ports, Requirement,
    Rule, Selector,
};
pub use rules::{Chain, ChainRule, Change, Content, CounterOf, Element, PeerTest, PolicyRules, PortTest};
pub use verdict::{Allowance, Connection, Judgement, Miss, Refusal, Verdict, World, judge};
