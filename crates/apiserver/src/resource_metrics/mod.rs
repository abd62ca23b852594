//! metrics.k8s.io/v1beta1: what nodes and pods use, for `kubectl top` and autoscalers. Made of what nodes report when somebody asks;
//! nothing is stored, and who cannot be reached is left out.

mod sampler;
mod usage;

use crate::{
    ApiServer,
    cache::object::Object,
    discovery::Described,
    pipeline::Admitted,
    registry::{
        selection::Selection,
        table::{self, IncludeObject, Shape},
    },
    request::{ListOptions, Target, Verb, negotiate},
    response::{self, Response},
};
use bytes::Bytes;
use futures::{StreamExt, stream};
use orlop_api::{Kind, Status, kinds::resource_metrics as kinds, object::text};
pub(crate) use sampler::Sampler;
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};
use usage::Pair;

/// How many nodes are asked at the same time.
const AT_ONCE: usize = 64;

/// The kind that a path is about, if it is one of these.
pub(crate) fn find(target: &Target) -> Option<Kind> {
    let ours =
        target.group == kinds::GROUP && target.version == kinds::VERSION && target.subresource.is_empty();
    match target.resource.as_str() {
        "nodes" if ours && target.namespace.is_empty() => Some(kinds::node_metrics()),
        "pods" if ours && (target.name.is_empty() || !target.namespace.is_empty()) => {
            Some(kinds::pod_metrics())
        }
        _ => None,
    }
}

/// What discovery says of them.
pub(crate) fn described() -> [Described; 2] {
    [kinds::node_metrics(), kinds::pod_metrics()].map(|kind| Described {
        group: kind.group.to_string(),
        version: kind.version.to_string(),
        name: kind.plural.to_string(),
        singular: kind.singular.to_string(),
        namespaced: kind.namespaced(),
        kind: (kind.group.to_string(), kind.version.to_string(), kind.kind.to_string()),
        verbs: vec!["get", "list"],
        short_names: Vec::new(),
        categories: Vec::new(),
    })
}

impl ApiServer {
    /// Answers a question about what is used.
    pub(crate) async fn resource_metrics(
        &self,
        kind: &Kind,
        target: &Target,
        request: &Admitted,
    ) -> Result<Response, Status> {
        let headers = &request.parts.headers;
        let negotiated = negotiate::negotiate(headers, false)?;
        if negotiated.protobuf {
            return Err(negotiate::not_acceptable());
        }
        let include = IncludeObject::parse(request.query.get("includeObject"));
        let shape = Shape { form: negotiated.form, meta: negotiated.meta, include, now: self.registry.now() };
        let body = match request.info.verb {
            Verb::Get => {
                let measured = self.measured(target, &ListOptions::default()).await?;
                let one = measured.first().ok_or_else(|| not_found(kind, target))?;
                table::one(kind, one, shape)
            }
            Verb::List => {
                let options = ListOptions::parse(&request.query, false)?;
                let measured = self.measured(target, &options).await?;
                table::list(kind, &measured, &json!({}), shape)
            }
            _ => {
                return Err(Status::method_not_allowed(
                    "the server does not allow this method on the requested resource",
                ));
            }
        };
        Ok(response::encoded(200, body, negotiated))
    }

    /// What the selected nodes or pods use.
    async fn measured(&self, target: &Target, options: &ListOptions) -> Result<Vec<Bytes>, Status> {
        let resource = self.registry.find("", "v1", &target.resource).ok_or_else(Status::no_such_resource)?;
        let selection = Selection::new(&resource, &target.namespace, options)?;
        let wanted = |object: &Object| {
            (target.name.is_empty() || object.name() == target.name) && selection.selects(object)
        };
        let found = resource.cache.snapshot(&selection.prefix, None, 0, wanted).objects;
        let found: Vec<Value> = found.iter().map(|object| object.value()).collect();
        let of_nodes = target.resource == "nodes";
        let node_of = |object: &Value| {
            text(object, if of_nodes { "/metadata/name" } else { "/spec/nodeName" }).to_string()
        };
        let reports = self.reports(found.iter().map(node_of).collect()).await?;
        let now = self.sampler.time();
        let metrics = found.iter().filter_map(|object| {
            let pair = reports.get(&node_of(object))?;
            if of_nodes { pair.node(object, now) } else { pair.pod(object, now) }
        });
        Ok(metrics.map(|value| Bytes::from(value.to_string())).collect())
    }

    /// What the nodes of these names report, as far as they do.
    async fn reports(&self, names: BTreeSet<String>) -> Result<BTreeMap<String, Arc<Pair>>, Status> {
        let nodes = self.registry.find("", "v1", "nodes").ok_or_else(Status::no_such_resource)?;
        let all = nodes.cache.snapshot(&nodes.cache.key_prefix, None, 0, |_| true).objects;
        let all: Vec<Value> = all.iter().map(|node| node.value()).collect();
        self.sampler.keep_only(&all.iter().map(|node| text(node, "/metadata/uid")).collect::<Vec<_>>());
        let asked = all.into_iter().filter(|node| names.contains(text(node, "/metadata/name")));
        let reports = stream::iter(asked)
            .map(|node| async move {
                let pair = self.sampler.reports(&node).await?;
                Some((text(&node, "/metadata/name").to_string(), pair))
            })
            .buffer_unordered(AT_ONCE)
            .filter_map(std::future::ready)
            .collect()
            .await;
        Ok(reports)
    }
}

fn not_found(kind: &Kind, target: &Target) -> Status {
    if target.namespace.is_empty() {
        return Status::not_found(kind, &target.name);
    }
    Status::not_found(kind, &format!("{}/{}", target.namespace, target.name))
}
