//! The edge to the kernel: links, addresses and routes, the nftables table, tracked connections. It decides nothing. All use
//! of the netlink library is in here, so that another one could take its place.

mod conntrack;
mod elements;
mod links;
mod nft;

pub(crate) use conntrack::delete_stale_udp_flows;
pub(crate) use links::{Links, PodEnds};
pub(crate) use nft::Table;

use crate::Error;

/// An error of the kernel (or of the library) at a step.
fn kernel(step: impl Into<String>) -> impl FnOnce(nlink::Error) -> Error {
    let step = step.into();
    move |error| Error::Kernel { step, why: error.to_string() }
}
