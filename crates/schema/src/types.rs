//! Type schemas: what fields an object of a kind has, and how its lists and maps merge. Built-in kinds come from
//! tables made while building; custom ones are built from their schema. Never looks at a value: `conform`,
//! `strategic` and `apply` do, by what stands here.

mod arena;
mod builder;

use crate::definitions::Definitions;
pub(crate) use arena::PATH_BITS;
pub use arena::Scalar;
use arena::{Arena, ListKind, NONE, Node};
use serde_json::{Value, json};
use std::{
    io::Read,
    sync::{Arc, OnceLock},
};

static BUILT_IN: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/types.z"));

/// The types of the built-in kinds.
pub struct Types;

impl Types {
    /// The type of a built-in kind: `Types::of("apps/v1", "Deployment")`.
    pub fn of(api_version: &str, kind: &str) -> Option<TypeRef> {
        let arena = built_in();
        let entry = arena
            .kinds
            .iter()
            .find(|k| arena.text(k.kind) == kind && arena.text(k.api_version) == api_version)?;
        Some(TypeRef { arena: arena.clone(), node: entry.node })
    }

    /// Every built-in kind, as `(apiVersion, kind)`.
    pub fn kinds() -> impl Iterator<Item = (&'static str, &'static str)> {
        let arena = built_in();
        arena.kinds.iter().map(|k| (arena.text(k.api_version), arena.text(k.kind)))
    }

    /// The type of a custom kind, from the `openAPIV3Schema` of its version (apiextensions/v1, "structural schema").
    /// `apiVersion`, `kind` and `metadata` are added.
    pub fn custom(api_version: &str, kind: &str, schema: &Value) -> TypeRef {
        let definitions = Definitions::unpack().parse(&["io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"]);
        let mut root = schema.clone();
        if !root.is_object() {
            root = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
        }
        if !root["properties"].is_object() {
            root["properties"] = json!({});
        }
        root["properties"]["apiVersion"] = json!({"type": "string"});
        root["properties"]["kind"] = json!({"type": "string"});
        root["properties"]["metadata"] = json!({"$ref": "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"});
        let mut builder = builder::Builder::new(&definitions);
        builder.kind(api_version, kind, &root);
        let arena = builder.finish();
        let node = arena.kinds[0].node;
        TypeRef { arena: Arc::new(arena), node }
    }
}

fn built_in() -> &'static Arc<Arena> {
    static LOADED: OnceLock<Arc<Arena>> = OnceLock::new();
    LOADED.get_or_init(|| {
        let mut bytes = Vec::new();
        let read = flate2::read::ZlibDecoder::new(BUILT_IN).read_to_end(&mut bytes);
        let arena = read.ok().and_then(|_| Arena::decode(&bytes));
        Arc::new(arena.expect("the build script wrote this table"))
    })
}

/// A type, with whatever it needs to live.
#[derive(Clone)]
pub struct TypeRef {
    arena: Arc<Arena>,
    node: u32,
}

impl TypeRef {
    /// The type as something to walk.
    pub fn as_type(&self) -> Type<'_> {
        Type { arena: &self.arena, node: self.node }
    }
}

impl TypeRef {
    /// The type of a declared field, or of the values of a map.
    pub(crate) fn child(&self, key: &str) -> Option<TypeRef> {
        let node = self.as_type().child(key)?.node;
        Some(TypeRef { arena: self.arena.clone(), node })
    }

    /// Whether it is the type of a built-in kind: only those have strategic merge patch.
    pub fn is_built_in(&self) -> bool {
        Arc::ptr_eq(&self.arena, built_in())
    }
}

impl std::fmt::Debug for TypeRef {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "TypeRef({})", self.as_type().go_name())
    }
}

/// A type while walking: cheap to copy.
#[derive(Clone, Copy)]
pub struct Type<'a> {
    arena: &'a Arena,
    node: u32,
}

/// What a type looks like from outside.
#[derive(Clone, Copy)]
pub enum Shape<'a> {
    /// An object with declared fields.
    Struct(Struct<'a>),
    /// An object whose keys are data.
    Map {
        /// The type of the values.
        value: Type<'a>,
        /// Whether it has one owner as a whole.
        atomic: bool,
    },
    /// A list.
    List {
        /// The type of the entries.
        item: Type<'a>,
        /// Whose its entries are.
        list: List<'a>,
    },
    /// An object of a type, or a list of something, or any other value.
    Either {
        /// The type where the value is an object.
        object: Type<'a>,
        /// The type of the entries where it is a list.
        item: Option<Type<'a>>,
    },
    /// A single value.
    Scalar(Scalar),
    /// Any JSON value.
    Any,
}

/// Whose a list's entries are (`x-kubernetes-list-type`).
#[derive(Clone, Copy)]
pub enum List<'a> {
    /// One owner for the list as a whole.
    Atomic,
    /// An owner for each value.
    Set,
    /// An owner for each entry, known by the values of these fields.
    Map(Keys<'a>),
}

/// The fields that tell a list's entries apart.
#[derive(Clone, Copy)]
pub struct Keys<'a> {
    arena: &'a Arena,
    tuple: &'a [u32],
}

impl<'a> Keys<'a> {
    /// Their names.
    pub fn iter(self) -> impl Iterator<Item = &'a str> {
        self.tuple.iter().map(move |k| self.arena.text(*k))
    }
}

/// An object type with declared fields.
#[derive(Clone, Copy)]
pub struct Struct<'a> {
    arena: &'a Arena,
    def: &'a arena::Def,
    /// Whether it has one owner as a whole (`x-kubernetes-map-type: atomic`).
    pub atomic: bool,
}

/// A field of an object type.
#[derive(Clone, Copy)]
pub struct Field<'a> {
    arena: &'a Arena,
    field: &'a arena::Field,
}

impl<'a> Type<'a> {
    fn at(self, node: u32) -> Self {
        Self { node, ..self }
    }

    /// What it looks like.
    pub fn shape(self) -> Shape<'a> {
        match self.arena.nodes[self.node as usize] {
            Node::Struct { def, atomic } => {
                Shape::Struct(Struct { arena: self.arena, def: &self.arena.defs[def as usize], atomic })
            }
            Node::Map { value, atomic } => Shape::Map { value: self.at(value), atomic },
            Node::List { item, kind } => {
                let list = match kind {
                    ListKind::Atomic => List::Atomic,
                    ListKind::Set => List::Set,
                    ListKind::Map(tuple) => {
                        List::Map(Keys { arena: self.arena, tuple: &self.arena.keys[tuple as usize] })
                    }
                };
                Shape::List { item: self.at(item), list }
            }
            Node::Either { object, item } => {
                Shape::Either { object: self.at(object), item: (item != NONE).then(|| self.at(item)) }
            }
            Node::Scalar(scalar) => Shape::Scalar(scalar),
            Node::Any => Shape::Any,
        }
    }

    /// The type of a declared field, or of the values of a map.
    pub fn child(self, key: &str) -> Option<Type<'a>> {
        match self.shape() {
            Shape::Struct(s) => s.field(key).map(|f| f.ty()),
            Shape::Map { value, .. } => Some(value),
            Shape::Either { object, .. } => object.child(key),
            _ => None,
        }
    }

    /// The name that Kubernetes' own error messages give the type: `v1.PodSpec`, `[]v1.Container`, `int32`.
    pub fn go_name(self) -> String {
        match self.shape() {
            Shape::Struct(s) => s.qualified_name(),
            Shape::Map { value, .. } => format!("map[string]{}", value.go_name()),
            Shape::List { item, .. } => format!("[]{}", item.go_name()),
            Shape::Either { object, .. } => object.go_name(),
            Shape::Any => "interface {}".to_string(),
            Shape::Scalar(scalar) => match scalar {
                Scalar::String => "string",
                Scalar::Bytes => "[]uint8",
                Scalar::Time => "v1.Time",
                Scalar::MicroTime => "v1.MicroTime",
                Scalar::Boolean => "bool",
                Scalar::Int32 => "int32",
                Scalar::Int64 => "int64",
                Scalar::Float => "float64",
                Scalar::IntOrString => "intstr.IntOrString",
                Scalar::Quantity => "resource.Quantity",
            }
            .to_string(),
        }
    }
}

impl<'a> Struct<'a> {
    /// The definition's full name (`io.k8s.api.apps.v1.DeploymentSpec`), empty for one written inline.
    pub fn name(self) -> &'a str {
        self.arena.text(self.def.name)
    }

    /// `DeploymentSpec`.
    pub fn short_name(self) -> &'a str {
        self.name().rsplit('.').next().unwrap_or_default()
    }

    /// `v1.DeploymentSpec`.
    pub fn qualified_name(self) -> String {
        let mut parts = self.name().rsplit('.');
        match (parts.next(), parts.next()) {
            (Some(name), Some(package)) => format!("{package}.{name}"),
            _ => "map[string]interface {}".to_string(),
        }
    }

    /// Whether undeclared fields are kept.
    pub fn open(self) -> bool {
        self.def.open
    }

    /// All declared fields, by name.
    pub fn fields(self) -> impl Iterator<Item = Field<'a>> {
        self.slice().iter().map(move |field| Field { arena: self.arena, field })
    }

    /// One declared field.
    pub fn field(self, name: &str) -> Option<Field<'a>> {
        let fields = self.slice();
        let at = fields.binary_search_by(|f| self.arena.text(f.name).cmp(name)).ok()?;
        Some(Field { arena: self.arena, field: &fields[at] })
    }

    fn slice(self) -> &'a [arena::Field] {
        &self.arena.fields[self.def.start as usize..(self.def.start + self.def.len) as usize]
    }
}

impl<'a> Field<'a> {
    /// JSON name.
    pub fn name(self) -> &'a str {
        self.arena.text(self.field.name)
    }

    /// Its type.
    pub fn ty(self) -> Type<'a> {
        Type { arena: self.arena, node: self.field.node }
    }

    /// Whether a strategic merge patch merges the list (`x-kubernetes-patch-strategy: merge`).
    pub fn merges(self) -> bool {
        self.field.flags & arena::MERGE != 0
    }

    /// Whether a strategic merge patch replaces the object.
    pub fn replaces(self) -> bool {
        self.field.flags & arena::REPLACE != 0
    }

    /// Whether a strategic merge patch may say `$retainKeys`.
    pub fn retains_keys(self) -> bool {
        self.field.flags & arena::RETAIN_KEYS != 0
    }

    /// Whether it must be there.
    pub fn required(self) -> bool {
        self.field.flags & arena::REQUIRED != 0
    }

    /// Whether `null` is a value of it.
    pub fn nullable(self) -> bool {
        self.field.flags & arena::NULLABLE != 0
    }

    /// Whether its zero value says something else than its absence.
    pub(crate) fn zero_tells(self) -> bool {
        self.field.flags & arena::ZERO_TELLS != 0
    }

    /// Where it stands in protobuf; 0 if nowhere.
    pub(crate) fn path(self) -> u32 {
        self.field.path
    }

    /// The field by which a strategic merge patch finds list entries.
    pub fn merge_key(self) -> Option<&'a str> {
        (self.field.merge_key != NONE).then(|| self.arena.text(self.field.merge_key))
    }

    /// What it means when it is left out.
    pub fn default(self) -> Option<Value> {
        let text = (self.field.default != NONE).then(|| self.arena.text(self.field.default))?;
        serde_json::from_str(text).ok()
    }
}

#[cfg(test)]
mod tests;
