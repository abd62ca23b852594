//! The label by which a node shows that it runs the control plane. A node must not give itself such a label, so the server
//! gives it, once to each Node object: who removes it is not overruled.

use futures::StreamExt;
use k8s_openapi::api::core::v1::Node;
use kube::{
    Api, Client,
    api::{Patch, PatchParams},
};
use orlop_client::{Source, Watcher};
use serde_json::json;

const LABEL: &str = "node-role.kubernetes.io/control-plane";

/// Labels the node whenever it is registered anew. Runs until dropped.
pub(crate) async fn keep(client: Client, node: String) {
    let api = Api::<Node>::all(client);
    let mut seen: Option<String> = None;
    let mut news =
        std::pin::pin!(Watcher::follow_one::<Node>(api.clone().into_client(), Source::of(&api), &node));
    while let Some(item) = news.next().await {
        let Ok(Some(object)) = item else { continue };
        if object.metadata.uid == seen {
            continue;
        }
        let patch = Patch::Merge(json!({"metadata": {"labels": {LABEL: ""}}}));
        match api.patch_metadata(&node, &PatchParams::default(), &patch).await {
            Ok(_) => seen = object.metadata.uid,
            Err(error) => tracing::debug!(%error, "the node was not labelled"),
        }
    }
}
