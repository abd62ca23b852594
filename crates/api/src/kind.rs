//! What the generic registry must know of a kind: a description (names, scope, columns, subresources) and,
//! where it has any, its rules. Adding a kind is adding one file in `kinds/` that returns a [`Kind`].

use crate::FieldError;
use serde_json::Value;
use std::{borrow::Cow, sync::Arc};

/// A string that is either compiled in (built-in kinds) or owned (custom resources).
pub type Text = Cow<'static, str>;

/// Whether objects of a kind live in a namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// One per cluster and name.
    Cluster,
    /// One per namespace and name.
    Namespaced,
}

/// What a `metadata.name` must look like (Kubernetes documentation, "Object Names and IDs").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NameRule {
    /// RFC 1123 subdomain, at most 253 characters: most kinds.
    DnsSubdomain,
    /// RFC 1123 label, at most 63 characters: Namespace and the like.
    DnsLabel,
    /// RFC 1035 label, at most 63 characters, starting with a letter: Service.
    DnsLabelLetter,
    /// Anything that can be one path segment: RBAC kinds.
    PathSegment,
    /// An IP address: IPAddress.
    IpAddress,
}

/// A column of `kubectl get` (meta/v1 `TableColumnDefinition`).
#[derive(Clone, Debug)]
pub struct Column {
    /// Heading.
    pub name: Text,
    /// OpenAPI type: `string`, `integer`, `date`, ….
    pub kind: Text,
    /// OpenAPI format; `name` marks the column that identifies the row.
    pub format: Text,
    /// What it shows.
    pub description: Text,
    /// 0 is always shown, 1 only with `-o wide`.
    pub priority: i32,
}

/// Where the `scale` subresource finds its numbers, as JSON pointers (`/spec/replicas`).
#[derive(Clone, Debug)]
pub struct ScalePaths {
    /// Desired number.
    pub spec_replicas: Text,
    /// Observed number.
    pub status_replicas: Text,
    /// The label selector: either a string or a meta/v1 `LabelSelector` is found there.
    pub selector: Text,
}

/// What a delete request means for an object that has no finalizers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deletion {
    /// It goes at once.
    Now,
    /// It gets a `deletionTimestamp` this many seconds ahead and goes when its owner (the node) says so by a
    /// second delete with grace 0.
    After(i64),
}

/// A kind of object: everything the registry, discovery, printing and OpenAPI need to know.
#[derive(Clone)]
pub struct Kind {
    /// API group, empty for core.
    pub group: Text,
    /// Version within the group.
    pub version: Text,
    /// `Deployment`.
    pub kind: Text,
    /// `deployments`: the resource in paths, and in store keys.
    pub plural: Text,
    /// `deployment`.
    pub singular: Text,
    /// `deploy`.
    pub short_names: Vec<Text>,
    /// `all`.
    pub categories: Vec<Text>,
    /// Where its objects live.
    pub scope: Scope,
    /// What its names look like.
    pub name_rule: NameRule,
    /// Whether `…/status` is a subresource, written apart from the rest.
    pub has_status: bool,
    /// Whether `metadata.generation` counts changes of anything but metadata and status.
    pub has_generation: bool,
    /// Whether and how `…/scale` works.
    pub scale: Option<ScalePaths>,
    /// Columns of `kubectl get`; the cells come from [`Rules::cells`]. The first is Name, the last usually Age.
    pub columns: Vec<Column>,
    /// Fields usable in a field selector besides `metadata.name` and `metadata.namespace`.
    pub selectable_fields: Vec<Text>,
    /// Where it is kept, if it is another view of a kind that is kept under another group or version.
    pub stored_as: Option<StoredAs>,
    /// The rules of the kind.
    pub rules: Arc<dyn Rules>,
}

/// Where objects of a kind are kept that is a view of another one: events.k8s.io/v1 Event of core/v1 Event,
/// autoscaling/v1 HorizontalPodAutoscaler of autoscaling/v2. Both show the same objects.
#[derive(Clone)]
pub struct StoredAs {
    /// Group of the stored kind.
    pub group: Text,
    /// Plural name of the stored kind; the version is whichever of that name has no `stored_as`.
    pub plural: Text,
    /// How objects become those of the other kind.
    pub conversion: Arc<dyn Conversion>,
}

/// The way between a kind and the one that it is stored as. Pure, and without loss in both directions. `apiVersion` and `kind`
/// are set by whoever calls.
pub trait Conversion: Send + Sync {
    /// Makes a stored object out of one of this kind.
    fn to_stored(&self, object: &mut Value);

    /// Makes an object of this kind out of a stored one.
    fn show_stored(&self, object: &mut Value);

    /// What a selectable field of this kind is called in the stored one.
    fn stored_field(&self, path: &str) -> Text {
        Text::Owned(path.to_string())
    }
}

impl Kind {
    /// `apps/v1`, or `v1` for the core group.
    pub fn api_version(&self) -> String {
        if self.group.is_empty() {
            self.version.to_string()
        } else {
            format!("{}/{}", self.group, self.version)
        }
    }

    /// Whether objects live in a namespace.
    pub fn namespaced(&self) -> bool {
        self.scope == Scope::Namespaced
    }
}

impl std::fmt::Debug for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.api_version(), self.kind)
    }
}

/// The pure rules of one kind. Objects are JSON in the kind's own version, already checked against its schema
/// (types are right, unknown fields are gone), so a rule may decode them into a typed struct where that reads better.
///
/// The order in a create is: `default`, `prepare_create`, `validate`; in an update: `default`, `prepare_update`,
/// `validate`, `validate_update`; in a status update: `prepare_status`, `validate_status`.
/// Metadata that is the same for all kinds (name, labels, uid, generation, timestamps, …) is the registry's.
pub trait Rules: Send + Sync {
    /// Fills in documented defaults. Must be idempotent: it runs on every write.
    fn default(&self, _object: &mut Value) {}

    /// Whether a create keeps the `status` that the client sent, although it is a subresource: what registers
    /// itself (Node) comes with one.
    fn keeps_status_on_create(&self) -> bool {
        false
    }

    /// What a create ignores or sets: by default `status` of a kind that has the subresource is dropped by the
    /// registry already.
    fn prepare_create(&self, _object: &mut Value) {}

    /// What an update ignores or carries over from the old object.
    fn prepare_update(&self, _new: &mut Value, _old: &Value) {}

    /// What a status update ignores besides spec and metadata (which the registry carries over).
    fn prepare_status(&self, _new: &mut Value, _old: &Value) {}

    /// All that is wrong with the object itself.
    fn validate(&self, _object: &Value) -> Vec<FieldError> {
        Vec::new()
    }

    /// All that is wrong with the change: immutable fields, above all.
    fn validate_update(&self, _new: &Value, _old: &Value) -> Vec<FieldError> {
        Vec::new()
    }

    /// All that is wrong with an object that replaces another. Kinds that tolerate what was wrong before and has not
    /// changed (custom resources) say so here.
    fn validate_change(&self, new: &Value, old: &Value) -> Vec<FieldError> {
        let mut errors = self.validate(new);
        errors.extend(self.validate_update(new, old));
        errors
    }

    /// For kinds whose bodies are not decoded by a compiled-in type (custom resources): drops what the kind does not
    /// know and returns the paths of that, or says what makes it unreadable.
    fn fit(&self, _object: &mut Value) -> Option<Result<Vec<String>, String>> {
        None
    }

    /// Whether [`Rules::read`] does anything.
    fn reads(&self) -> bool {
        false
    }

    /// What reading from the store does to an object: defaults that came later than the object.
    fn read(&self, _object: &mut Value) {}

    /// All that is wrong with a status change.
    fn validate_status(&self, _new: &Value, _old: &Value) -> Vec<FieldError> {
        Vec::new()
    }

    /// The value of one of the kind's `selectable_fields`, as a string; a missing field is the empty string.
    fn field(&self, object: &Value, path: &str) -> String {
        crate::object::field(object, path)
    }

    /// The cells of the object's row, one for each of the kind's columns. `now` is for ages.
    fn cells(&self, object: &Value, now: jiff::Timestamp) -> Vec<Value>;

    /// Conditions of the object's row (meta/v1 `TableRowCondition`): whether it is over and how.
    fn row_conditions(&self, _object: &Value) -> Vec<Value> {
        Vec::new()
    }

    /// What deleting the object means; `grace` is what the client asked for.
    fn deletion(&self, _object: &Value, _grace: Option<i64>) -> Deletion {
        Deletion::Now
    }
}
