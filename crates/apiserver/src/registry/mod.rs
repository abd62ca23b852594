//! The generic registry: create, read, change and delete objects of any kind in the table. Objects are JSON; what a kind
//! has of its own comes from its [`orlop_api::Rules`] and its hooks. There is no special case for a kind here.

pub(crate) mod commit;
pub(crate) mod continue_token;
pub(crate) mod create;
pub(crate) mod delete;
pub(crate) mod hooks;
pub(crate) mod list;
pub(crate) mod metadata;
pub(crate) mod patch;
pub(crate) mod scale;
pub(crate) mod schema;
pub(crate) mod selection;
pub(crate) mod table;
pub(crate) mod update;
pub(crate) mod watch;

pub(crate) use hooks::{Cx, Hooks, ObjectPart, Plan, Subresource, SubresourceRequest};

use crate::{
    Identity, admission,
    cache::{Caches, kind_cache::KindCache, object::Object},
    identity::node,
    request::{Target, WriteOptions},
};
use bytes::Bytes;
use jiff::Timestamp;
use orlop_api::{Kind, Status};
use orlop_store::Store;
use serde_json::Value;
use std::{collections::HashMap, sync::Arc};

/// The clock that the server is given.
pub type Clock = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// A kind with its objects and hooks.
pub(crate) struct Resource {
    pub kind: Arc<Kind>,
    pub cache: Arc<KindCache>,
    pub hooks: Arc<dyn Hooks>,
    /// The type of its objects.
    pub types: Option<orlop_schema::TypeRef>,
}

impl Resource {
    /// 403 where a node writes what is not its own.
    pub(crate) fn restrict(
        &self,
        who: &Identity,
        subresource: &str,
        new: Option<&Value>,
        old: Option<&Value>,
    ) -> Result<(), Status> {
        let Some(node) = node::name_of(who) else { return Ok(()) };
        let (group, resource) = (&*self.kind.group, &*self.kind.plural);
        let write = node::restriction::Write { group, resource, subresource, new, old };
        node::restriction::check(node, write).map_err(|why| {
            let name = new.or(old).map_or("", |object| metadata::text(object, "name"));
            Status::forbidden(&self.kind, name, &why)
        })
    }

    /// The part of its objects with that name.
    pub(crate) fn part(&self, name: &str) -> Option<&'static ObjectPart> {
        self.hooks.parts().iter().find(|part| part.name == name)
    }

    /// An object, or 404.
    pub(crate) fn get(&self, namespace: &str, name: &str) -> Result<Arc<Object>, Status> {
        self.cache.get(&self.cache.key(namespace, name)).ok_or_else(|| Status::not_found(&self.kind, name))
    }
}

/// All kinds with their objects.
pub(crate) struct Registry {
    pub store: Arc<dyn Store>,
    pub caches: Arc<Caches>,
    pub clock: Clock,
    pub admission: admission::Chain,
    turns: commit::Turns,
    resources: HashMap<(String, String, String), Arc<Resource>>,
    ordered: Vec<Arc<Resource>>,
}

/// How a write is to be made.
#[derive(Clone)]
pub(crate) struct WriteContext {
    pub options: WriteOptions,
    /// Who writes.
    pub who: Arc<Identity>,
}

/// What of an object is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// All but the status, where that is a subresource.
    Whole,
    /// The status.
    Status,
    /// What another subresource writes; rules and managed fields treat it like the whole, unless it is one of the kind's
    /// [`Hooks::parts`].
    Other(&'static str),
    /// What a subresource of the server writes that may change what no client may: the rules about changes do not apply.
    System(&'static str),
}

impl Part {
    /// The `subresource` of its managed fields.
    pub(crate) fn subresource(self) -> &'static str {
        match self {
            Self::Whole => "",
            Self::Status => "status",
            Self::Other(name) | Self::System(name) => name,
        }
    }
}

/// The result of a write.
#[derive(Debug)]
pub(crate) struct Written {
    /// The object as it is now, or as it would be (dry run).
    pub body: Bytes,
    /// Whether it was not there before.
    pub created: bool,
    /// What the client should be told.
    pub warnings: Vec<String>,
}

impl Registry {
    pub(crate) fn new(
        store: Arc<dyn Store>,
        caches: Arc<Caches>,
        clock: Clock,
        resources: Vec<Arc<Resource>>,
    ) -> Self {
        let by_name = resources
            .iter()
            .map(|r| {
                let kind = &r.kind;
                ((kind.group.to_string(), kind.version.to_string(), kind.plural.to_string()), r.clone())
            })
            .collect();
        Self {
            store,
            caches,
            clock,
            admission: admission::Chain::new(),
            turns: commit::Turns::default(),
            resources: by_name,
            ordered: resources,
        }
    }

    /// The resource with that group, version and plural name.
    pub(crate) fn find(&self, group: &str, version: &str, plural: &str) -> Option<&Arc<Resource>> {
        self.resources.get(&(group.to_string(), version.to_string(), plural.to_string()))
    }

    /// The resource of a path, or 404.
    pub(crate) fn resource(&self, target: &Target) -> Result<&Arc<Resource>, Status> {
        let resource = self
            .find(&target.group, &target.version, &target.resource)
            .ok_or_else(Status::no_such_resource)?;
        let misplaced = if resource.kind.namespaced() {
            target.namespace.is_empty() && !target.name.is_empty()
        } else {
            !target.namespace.is_empty()
        };
        if misplaced { Err(Status::no_such_resource()) } else { Ok(resource) }
    }

    /// All resources, in the order of the table.
    pub(crate) fn resources(&self) -> &[Arc<Resource>] {
        &self.ordered
    }

    /// The time now.
    pub(crate) fn now(&self) -> Timestamp {
        (self.clock)()
    }
}
