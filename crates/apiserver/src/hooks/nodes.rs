//! Node: `proxy` reaches the node's own endpoint.

use crate::{
    registry::{Hooks, Subresource, SubresourceRequest},
    response::Response,
    streaming::{self, Nodes},
};
use async_trait::async_trait;
use orlop_api::Status;
use std::sync::Arc;

pub(super) struct NodeHooks {
    pub nodes: Arc<Nodes>,
}

#[async_trait]
impl Hooks for NodeHooks {
    fn subresources(&self) -> &'static [Subresource] {
        &[Subresource {
            name: "proxy",
            kind: ("", "v1", "NodeProxyOptions"),
            verbs: &["create", "delete", "get", "patch", "update"],
        }]
    }

    async fn serve(&self, request: SubresourceRequest) -> Result<Response, Status> {
        streaming::pods::node_proxy(&self.nodes, request).await
    }
}
