//! The generic registry: create, read, change and delete objects of any kind in the table. Objects are JSON; what a kind
//! has of its own comes from its [`orlop_api::Rules`] and its hooks. There is no special case for a kind here.

pub(crate) mod commit;
pub(crate) mod continue_token;
pub(crate) mod create;
pub(crate) mod delete;
pub(crate) mod hooks;
pub(crate) mod list;
pub(crate) mod metadata;
mod newest;
pub(crate) mod patch;
pub(crate) mod scale;
pub(crate) mod schema;
pub(crate) mod selection;
pub(crate) mod table;
pub(crate) mod update;
pub(crate) mod versions;
pub(crate) mod watch;

pub(crate) use hooks::{Cx, Hooks, ObjectPart, Plan, Subresource, SubresourceRequest};
pub(crate) use versions::Versions;

use crate::{
    Identity, admission,
    cache::{Caches, kind_cache::KindCache, object::Object},
    config::LostNodes,
    identity::node,
    request::{Target, WriteOptions},
};
use arc_swap::ArcSwap;
use bytes::Bytes;
use jiff::Timestamp;
use orlop_api::{Kind, Status};
use orlop_store::Store;
use serde_json::Value;
use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

/// The clock that the server is given.
pub type Clock = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// Where random numbers come from: handed in like the clock, so that a simulation can be repeated. Secrets are never made of them.
pub type Random = Arc<dyn Fn() -> u128 + Send + Sync>;

/// A kind with its objects and hooks.
pub(crate) struct Resource {
    /// The kind as it is served.
    pub kind: Arc<Kind>,
    /// Its objects, as they are stored: maybe in another version.
    pub cache: Arc<KindCache>,
    /// How objects get from one version into the other.
    pub versions: Versions,
    /// How a served object begins.
    pub body_prefix: String,
    pub hooks: Arc<dyn Hooks>,
    /// The type of its objects.
    pub types: Option<orlop_schema::TypeRef>,
    /// The schema of a custom kind, for OpenAPI.
    pub schema: Option<Value>,
    /// What every request is warned of.
    pub warning: Option<String>,
    /// Its objects are shown by other rules now: watches end, so that their clients begin anew.
    pub retired: AtomicBool,
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

    /// A built-in kind; `None` where what it is stored as is not served.
    pub(crate) fn built_in(kind: &Arc<Kind>, caches: &Caches, hooks: Arc<dyn Hooks>) -> Option<Self> {
        let (cache, versions) = match &kind.stored_as {
            None => (caches.of(&kind.group, &kind.plural)?, Versions::Stored),
            Some(other) => {
                (caches.of(&other.group, &other.plural)?, Versions::Pure(other.conversion.clone()))
            }
        };
        Some(Self {
            body_prefix: crate::cache::codec::prefix(kind),
            types: orlop_schema::Types::of(&kind.api_version(), &kind.kind),
            kind: kind.clone(),
            cache,
            versions,
            hooks,
            schema: None,
            warning: None,
            retired: AtomicBool::new(false),
        })
    }

    /// Whether watches of it end.
    pub(crate) fn is_retired(&self) -> bool {
        self.retired.load(Ordering::Acquire)
    }

    /// Ends its watches.
    pub(crate) fn retire(&self) {
        self.retired.store(true, Ordering::Release);
        self.cache.publish();
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
    pub random: Random,
    pub admission: admission::Chain,
    turns: commit::Turns,
    newest: newest::Newest,
    served: ArcSwap<Served>,
}

/// What is served at a time.
pub(crate) struct Served {
    /// By `group/version/plural`.
    by_name: HashMap<String, Arc<Resource>>,
    ordered: Vec<Arc<Resource>>,
}

impl Served {
    fn new(ordered: Vec<Arc<Resource>>) -> Self {
        let name = |kind: &Kind| format!("{}/{}/{}", kind.group, kind.version, kind.plural);
        let by_name = ordered.iter().map(|r| (name(&r.kind), r.clone())).collect();
        Self { by_name, ordered }
    }
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
        (clock, random): (Clock, Random),
        resources: Vec<Arc<Resource>>,
        lost_nodes: LostNodes,
    ) -> Self {
        let served = ArcSwap::from_pointee(Served::new(resources));
        Self {
            store,
            caches,
            clock,
            random,
            admission: admission::Chain::new(lost_nodes),
            turns: commit::Turns::default(),
            newest: newest::Newest::default(),
            served,
        }
    }

    /// Replaces what is served. Requests that are under way go on with what they began with.
    pub(crate) fn serve(&self, resources: Vec<Arc<Resource>>) {
        self.served.store(Arc::new(Served::new(resources)));
    }

    /// The resource with that group, version and plural name.
    pub(crate) fn find(&self, group: &str, version: &str, plural: &str) -> Option<Arc<Resource>> {
        self.served.load().by_name.get(&format!("{group}/{version}/{plural}")).cloned()
    }

    /// The resource of a path, or 404.
    pub(crate) fn resource(&self, target: &Target) -> Result<Arc<Resource>, Status> {
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
    pub(crate) fn resources(&self) -> Vec<Arc<Resource>> {
        self.served.load().ordered.clone()
    }

    /// The time now.
    pub(crate) fn now(&self) -> Timestamp {
        (self.clock)()
    }
}
