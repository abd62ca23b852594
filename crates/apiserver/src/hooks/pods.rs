//! Pod: what it waits for, and its subresources. Its admission is in `crate::admission`.

use super::{
    bindings, evictions,
    service_account_admission::{self as account, DEFAULT},
};
use crate::{
    registry::{Hooks, ObjectPart, Registry, Subresource, SubresourceRequest, metadata},
    response::Response,
    streaming::{self, Nodes},
};
use async_trait::async_trait;
use orlop_api::{
    Status,
    pod_spec::{ephemeral, resize},
};
use serde_json::Value;
use std::{sync::Arc, time::Duration};

/// How long a new pod waits for the default service account of a namespace that is new as well.
const ACCOUNT_WAIT: Duration = Duration::from_secs(2);

pub(super) struct Pods {
    pub nodes: Arc<Nodes>,
}

const STREAM_VERBS: &[&str] = &["create", "get"];

const SUBRESOURCES: &[Subresource] = &[
    Subresource { name: "attach", kind: ("", "v1", "PodAttachOptions"), verbs: STREAM_VERBS },
    Subresource { name: "binding", kind: ("", "v1", "Binding"), verbs: &["create"] },
    Subresource { name: "eviction", kind: ("policy", "v1", "Eviction"), verbs: &["create"] },
    Subresource { name: "exec", kind: ("", "v1", "PodExecOptions"), verbs: STREAM_VERBS },
    Subresource { name: "log", kind: ("", "v1", "Pod"), verbs: &["get"] },
    Subresource { name: "portforward", kind: ("", "v1", "PodPortForwardOptions"), verbs: STREAM_VERBS },
    Subresource { name: "proxy", kind: ("", "v1", "PodProxyOptions"), verbs: PROXY_VERBS },
];

/// What a proxied request may do.
pub(super) const PROXY_VERBS: &[&str] = &["create", "delete", "get", "patch", "update"];

const PARTS: &[ObjectPart] = &[
    ObjectPart {
        name: "ephemeralcontainers",
        keep: ephemeral::keep_ephemeral_containers,
        validate: ephemeral::validate_change,
    },
    ObjectPart { name: "resize", keep: resize::keep_resources, validate: resize::validate_change },
];

#[async_trait]
impl Hooks for Pods {
    /// A controller makes the default service account of a new namespace; who creates a pod right after the namespace need
    /// not know.
    async fn await_needs(&self, registry: &Registry, namespace: &str, pod: &Value) {
        if account::is_mirror(pod) || account::name(pod) != DEFAULT {
            return;
        }
        let Some(accounts) = registry.find("", "v1", "serviceaccounts") else { return };
        if accounts.get(namespace, DEFAULT).is_ok() {
            return;
        }
        let mut changes = accounts.cache.subscribe();
        let there = async {
            while accounts.get(namespace, DEFAULT).is_err() {
                if changes.changed().await.is_err() {
                    return;
                }
            }
        };
        // A namespace that is being deleted gets no account any more, and the next one of its name is not meant.
        let namespace_lives = registry.find("", "v1", "namespaces").is_none_or(|namespaces| {
            namespaces.get("", namespace).is_ok_and(|n| !metadata::is_deleting(&n.value()))
        });
        if namespace_lives {
            // Whether it came in time is for admission to see.
            let _ = tokio::time::timeout(ACCOUNT_WAIT, there).await;
        }
    }

    fn returns_deleted(&self) -> bool {
        true
    }

    fn parts(&self) -> &'static [ObjectPart] {
        PARTS
    }

    fn subresources(&self) -> &'static [Subresource] {
        SUBRESOURCES
    }

    async fn serve(&self, request: SubresourceRequest) -> Result<Response, Status> {
        match request.target.subresource.as_str() {
            "binding" => bindings::bind(&request).await,
            "eviction" => evictions::evict(&request).await,
            "log" => streaming::pods::log(&self.nodes, request).await,
            "exec" | "attach" | "portforward" => streaming::pods::connect(&self.nodes, request).await,
            "proxy" => streaming::proxy::serve(request).await,
            _ => Err(Status::no_such_resource()),
        }
    }
}
