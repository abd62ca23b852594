//! The edge to the kernel: links, addresses and routes, the nftables table, tracked connections. It decides nothing. All use
//! of the netlink library is in here, so that another one could take its place.

mod bridges;
mod conntrack;
mod elements;
mod fence;
mod links;
mod nft;
mod paths;
mod policy;

pub(crate) use bridges::Bridges;
pub(crate) use conntrack::delete_stale_udp_flows;
pub(crate) use fence::FenceTable;
pub(crate) use links::{Links, PodEnds};
pub(crate) use nft::Table;
pub(crate) use paths::{Device, Paths};
pub use policy::{PolicyCounts, PolicyTable};

use crate::Error;
use nft::allow_large_batches;

/// An error of the kernel (or of the library) at a step.
fn kernel(step: impl Into<String>) -> impl FnOnce(nlink::Error) -> Error {
    let step = step.into();
    move |error| Error::Kernel { step, why: error.to_string() }
}
