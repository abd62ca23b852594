//! Streams between clients and nodes: logs, exec, attach, port forwarding. The server checks the request and finds the
//! node; then the bytes pass through. What they mean is between the client and the node.

mod node;
pub(crate) mod pods;
pub(crate) mod proxy;
mod tls;
pub(crate) mod upgrade;

pub(crate) use node::Nodes;
