//! The OpenAPI documents of the served kinds, v2 and v3, as `kubectl explain`, `kubectl apply --validate` and client
//! generators read them. Made on first request and kept compressed; never decides what is served.

mod beside;
mod foreign;
mod operations;
mod paths;
mod protobuf;
mod schemas;

use crate::{
    Types,
    definitions::{Definitions, references},
    protobuf::wire::Message,
    types::Shape,
};
use bytes::Bytes;
use flate2::{Compression, write::GzEncoder};
pub use foreign::Foreign;
use orlop_api::{Kind, kinds::component_status};
use parking_lot::Mutex;
use paths::{Answer, Body, DELETE_OPTIONS, GroupVersion, KindPaths, PATCH, PathItem, RESOURCES, STATUS};
use schemas::Dialect;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::{
    collections::{BTreeMap, BTreeSet},
    io::Write,
    sync::Arc,
};

/// By which media type clients ask for the v2 document as protobuf.
pub const V2_PROTOBUF_ACCEPTED: [&str; 2] = [
    "application/com.github.proto-openapi.spec.v2.v1.0+protobuf",
    "application/com.github.proto-openapi.spec.v2@v1.0+protobuf",
];

/// The `Content-Type` of that answer. The form with `@`, which older clients ask for, is no valid media type, and
/// clients refuse an answer that says it.
pub const V2_PROTOBUF: &str = V2_PROTOBUF_ACCEPTED[0];

const WATCH_EVENT: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.WatchEvent";
const OBJECT_META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";
/// A built-in type whose `apiVersion`, `kind` and `metadata` are described as those of every type are.
const DESCRIBED: &str = "io.k8s.api.core.v1.ConfigMap";
const TITLE: &str = "Kubernetes";

/// A document, compressed.
#[derive(Clone, Debug)]
pub struct Document {
    /// The bytes, gzip-compressed.
    pub gzip: Bytes,
    /// Quoted hash of the content, for `ETag` and `If-None-Match`.
    pub etag: String,
}

/// A kind that is served, and how it is described.
struct Served {
    kind: Arc<Kind>,
    definition: String,
    /// The schema of a custom kind, its references being names.
    custom: Option<Value>,
    /// Whether it is made when somebody asks, and never written.
    read_only: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Name {
    V2Json,
    V2Protobuf,
    /// `apis/apps/v1`, `apis/apps`, `version`.
    V3(String),
}

/// The documents for one set of served kinds. Make a new one when the set changes (custom resources).
pub struct OpenApi {
    kinds: Vec<Served>,
    /// What other servers say of theirs, for the v2 document.
    foreign: Vec<Arc<Foreign>>,
    version: String,
    made: Mutex<BTreeMap<Name, Document>>,
}

impl OpenApi {
    /// For these kinds; `version` is the server's (`v1.36.0`). Cheap: nothing is built yet.
    pub fn new(kinds: &[Arc<Kind>], version: &str) -> Self {
        let served = |kind: &Arc<Kind>, read_only| Served {
            kind: kind.clone(),
            definition: definition_name(kind),
            custom: None,
            read_only,
        };
        let asked = Some(Arc::new(component_status::kind())).filter(|asked| {
            kinds.iter().any(|kind| kind.group == asked.group && kind.version == asked.version)
        });
        let served = kinds.iter().map(|k| served(k, false)).chain(asked.iter().map(|k| served(k, true)));
        Self {
            kinds: served.collect(),
            foreign: Vec::new(),
            version: version.to_string(),
            made: Mutex::default(),
        }
    }

    /// With what other servers say of their kinds, in the v2 document.
    pub fn with_foreign(self, foreign: Vec<Arc<Foreign>>) -> Self {
        Self { foreign, ..self }
    }

    /// Says how a custom kind looks, by the `openAPIV3Schema` of its version.
    pub fn with_schema(mut self, api_version: &str, kind: &str, schema: Value) -> Self {
        let is = |s: &&mut Served| s.kind.kind == kind && s.kind.api_version() == api_version;
        if let Some(served) = self.kinds.iter_mut().find(is) {
            let mut schema = if schema.is_object() { schema } else { json!({"type": "object"}) };
            if !schema["properties"].is_object() {
                schema["properties"] = json!({});
            }
            // Filled in when the document is made: what every object has is described with the built-in types.
            schemas::HEAD.iter().for_each(|field| schema["properties"][field] = json!({}));
            schema["properties"]["metadata"] = json!({"$ref": OBJECT_META});
            served.custom = Some(schema);
        }
        self
    }

    /// `/openapi/v3`: where each group-version's document is, with those of other servers (`apis/GROUP/VERSION` and hash), which take
    /// precedence. `application/json`.
    pub fn v3_index(&self, others: &[(String, String)]) -> Document {
        let mut paths = BTreeMap::new();
        for path in self.documents() {
            let hash = self.hash(&Name::V3(path.clone()));
            let url = format!("/openapi/v3/{path}?hash={hash}");
            paths.insert(path, json!({"serverRelativeURL": url}));
        }
        for (path, hash) in others {
            let url = format!("/openapi/v3/{path}?hash={hash}");
            paths.insert(path.clone(), json!({"serverRelativeURL": url}));
        }
        let text = json!({ "paths": paths }).to_string();
        Document { etag: format!("\"{}\"", digest(&[text.as_bytes()])), gzip: gzip(text.as_bytes()) }
    }

    /// `/openapi/v3/PATH`, PATH being `api/v1`, `apis/apps/v1`, `apis/apps`, `version`, …. `None`: no such document. `application/json`.
    pub fn v3(&self, path: &str) -> Option<Document> {
        let path = self.documents().into_iter().find(|document| document == path)?;
        Some(self.made(Name::V3(path)))
    }

    /// `/openapi/v2` as `application/json`.
    pub fn v2_json(&self) -> Document {
        self.made(Name::V2Json)
    }

    /// `/openapi/v2` as [`V2_PROTOBUF`].
    pub fn v2_protobuf(&self) -> Document {
        self.made(Name::V2Protobuf)
    }

    /// Keeps what was made, and makes one document at a time: building takes memory that is better spent once.
    fn made(&self, name: Name) -> Document {
        let mut made = self.made.lock();
        if let Some(document) = made.get(&name) {
            return document.clone();
        }
        let gzip = match &name {
            Name::V2Json => self.json(Dialect::V2, None),
            Name::V2Protobuf => self.protobuf(),
            Name::V3(document) => self.json(Dialect::V3, Some(document)),
        };
        let document = Document { gzip, etag: format!("\"{}\"", self.hash(&name)) };
        made.insert(name, document.clone());
        document
    }

    fn group_versions(&self) -> BTreeSet<GroupVersion> {
        self.kinds.iter().map(|s| GroupVersion::of(&s.kind)).collect()
    }

    fn beside(&self) -> Vec<beside::Beside> {
        beside::all(&self.kinds.iter().map(|s| s.kind.group.to_string()).collect())
    }

    /// The names of the v3 documents.
    fn documents(&self) -> BTreeSet<String> {
        let beside = self.beside().into_iter().map(|b| b.document);
        self.group_versions().iter().map(GroupVersion::path).chain(beside).collect()
    }

    /// What tells a document from another, known before it is made.
    fn hash(&self, name: &Name) -> String {
        let mut parts = vec![format!("{} {} {name:?}", self.version, env!("CARGO_PKG_VERSION"))];
        for served in &self.kinds {
            let kind = &served.kind;
            let facts = (kind.api_version(), &kind.plural, kind.scope, kind.has_status, kind.scale.is_some());
            parts.push(format!("{facts:?} {:?}", served.custom));
        }
        if !matches!(name, Name::V3(_)) {
            parts.extend(self.foreign.iter().map(|foreign| foreign.digest.clone()));
        }
        let parts: Vec<&[u8]> =
            parts.iter().map(String::as_bytes).chain([Definitions::fingerprint()]).collect();
        digest(&parts)
    }

    fn of<'a>(&'a self, document: Option<&'a str>) -> impl Iterator<Item = &'a Served> {
        self.kinds.iter().filter(move |s| document.is_none_or(|d| d == GroupVersion::of(&s.kind).path()))
    }

    /// Every path of a document, with its tag.
    fn paths(&self, document: Option<&str>) -> BTreeMap<String, (PathItem, String)> {
        let mut out = BTreeMap::new();
        for beside in self.beside().into_iter().filter(|b| document.is_none_or(|d| d == b.document)) {
            out.insert(beside.item.path.clone(), (beside.item, beside.tag));
        }
        for served in self.of(document) {
            let gv = GroupVersion::of(&served.kind);
            let paths = KindPaths::new(&served.kind, &served.definition, served.custom.is_none());
            let items = if served.read_only { paths.read_only() } else { paths.all() };
            for item in items.into_iter().chain([gv.discovery()]) {
                out.insert(item.path.clone(), (item, gv.tag()));
            }
        }
        out
    }

    /// Calls `each` with every definition of a document, by name.
    fn each_definition(&self, dialect: Dialect, document: Option<&str>, mut each: impl FnMut(&str, Value)) {
        let stored = Definitions::unpack();
        let described = stored.get(DESCRIBED).unwrap_or_default();
        let mut own = BTreeMap::new();
        let mut roots: Vec<String> =
            [DELETE_OPTIONS, PATCH, STATUS, RESOURCES, WATCH_EVENT].map(String::from).into();
        roots.push("io.k8s.apimachinery.pkg.apis.meta.v1.ListMeta".to_string());
        for (item, _) in self.paths(document).into_values() {
            for operation in item.operations {
                roots.extend(operation.body.and_then(|body| match body {
                    Body::Object(definition) => Some(definition),
                    Body::Patch { .. } | Body::DeleteOptions => None,
                }));
                if let Answer::Object(definition) = operation.answer {
                    roots.push(definition);
                }
            }
        }
        for served in self.of(document) {
            let kind = &served.kind;
            let gvk = |name: &str| json!([{"group": kind.group, "version": kind.version, "kind": name}]);
            let mut list = schemas::list(&served.definition, &kind.kind);
            list["x-kubernetes-group-version-kind"] = gvk(&format!("{}List", kind.kind));
            own.insert(format!("{}List", served.definition), list);
            roots.push(served.definition.clone());
            if let Some(custom) = &served.custom {
                let mut custom = schemas::custom(dialect, custom.clone(), &described["properties"]);
                references(&custom, &mut roots);
                custom["x-kubernetes-group-version-kind"] = gvk(&kind.kind);
                own.insert(served.definition.clone(), custom);
            }
        }
        let mut names = stored.closure(roots);
        names.extend(own.keys().cloned());
        for name in names {
            let Some(mut schema) = own.remove(&name).or_else(|| stored.get(&name)) else { continue };
            if let Some(kind) = [DELETE_OPTIONS, WATCH_EVENT].iter().find(|n| **n == name) {
                let kind = kind.rsplit('.').next();
                let all = self.group_versions().into_iter();
                let gvks = all.map(|gv| json!({"group": gv.group, "version": gv.version, "kind": kind}));
                schema["x-kubernetes-group-version-kind"] = gvks.collect();
            }
            each(&name, schema);
        }
    }

    /// The paths of other servers that are not ours.
    fn foreign_paths<'a>(
        &'a self,
        dialect: Dialect,
        own: &BTreeMap<String, (PathItem, String)>,
    ) -> BTreeMap<&'a String, &'a Value> {
        let all = self.foreign.iter().filter(|_| matches!(dialect, Dialect::V2));
        all.flat_map(|foreign| &foreign.paths).filter(|(path, _)| !own.contains_key(*path)).collect()
    }

    /// The definitions of other servers whose names are not ours.
    fn foreign_definitions<'a>(
        &'a self,
        dialect: Dialect,
        own: &BTreeSet<String>,
    ) -> BTreeMap<&'a String, &'a Value> {
        let all = self.foreign.iter().filter(|_| matches!(dialect, Dialect::V2));
        all.flat_map(|foreign| &foreign.definitions).filter(|(name, _)| !own.contains(*name)).collect()
    }

    /// A document as JSON, written piece by piece so that it never stands in memory as a whole.
    fn json(&self, dialect: Dialect, document: Option<&str>) -> Bytes {
        let mut out = Pieces::new();
        let info = json!({"title": TITLE, "version": self.version});
        out.text(match dialect {
            Dialect::V2 => format!("{{\"swagger\":\"2.0\",\"info\":{info},\"paths\":{{"),
            Dialect::V3 => format!("{{\"openapi\":\"3.0.0\",\"info\":{info},\"paths\":{{"),
        });
        let mut first = true;
        let paths = self.paths(document);
        for (path, item) in self.foreign_paths(dialect, &paths) {
            out.entry(&mut first, path, item);
        }
        for (path, (item, tag)) in paths {
            out.entry(&mut first, &path, &operations::write(dialect, &item, &tag));
        }
        out.text(match dialect {
            Dialect::V2 => "},\"definitions\":{",
            Dialect::V3 => "},\"components\":{\"schemas\":{",
        });
        let mut first = true;
        let mut own = BTreeSet::new();
        self.each_definition(dialect, document, |name, schema| {
            own.insert(name.to_string());
            out.entry(&mut first, name, &schemas::definition(dialect, name, &schema));
        });
        for (name, schema) in self.foreign_definitions(dialect, &own) {
            out.entry(&mut first, name, schema);
        }
        let bearer = json!({"type": "apiKey", "name": "authorization", "in": "header",
            "description": "Bearer token authentication"});
        out.text(match dialect {
            Dialect::V2 => format!(
                "}},\"securityDefinitions\":{{\"BearerToken\":{bearer}}},\"security\":[{{\"BearerToken\":[]}}]}}"
            ),
            Dialect::V3 => format!("}},\"securitySchemes\":{{\"BearerToken\":{bearer}}}}}}}"),
        });
        out.finish()
    }

    fn protobuf(&self) -> Bytes {
        let mut all_paths = Message::default();
        let paths = self.paths(None);
        for (path, item) in self.foreign_paths(Dialect::V2, &paths) {
            all_paths.named(2, path, protobuf::path_item(item));
        }
        for (path, (item, tag)) in paths {
            let item = operations::write(Dialect::V2, &item, &tag);
            all_paths.named(2, &path, protobuf::path_item(&item));
        }
        let mut definitions = Message::default();
        let mut own = BTreeSet::new();
        self.each_definition(Dialect::V2, None, |name, schema| {
            own.insert(name.to_string());
            definitions.named(1, name, protobuf::schema(&schemas::definition(Dialect::V2, name, &schema)));
        });
        for (name, schema) in self.foreign_definitions(Dialect::V2, &own) {
            definitions.named(1, name, protobuf::schema(schema));
        }
        gzip(&protobuf::document(TITLE, &self.version, all_paths, definitions).into_bytes())
    }
}

/// The definition of a kind: that of its built-in type, or the reversed group as for custom kinds.
fn definition_name(kind: &Kind) -> String {
    if let Some(ty) = Types::of(&kind.api_version(), &kind.kind)
        && let Shape::Struct(s) = ty.as_type().shape()
    {
        return s.name().to_string();
    }
    let group: Vec<&str> = kind.group.rsplit('.').collect();
    format!("{}.{}.{}", group.join("."), kind.version, kind.kind)
}

fn digest(parts: &[&[u8]]) -> String {
    let mut hash = Sha256::new();
    parts.iter().for_each(|p| hash.update(p));
    hash.finalize().iter().map(|b| format!("{b:02X}")).collect()
}

fn gzip(bytes: &[u8]) -> Bytes {
    let mut out = GzEncoder::new(Vec::new(), Compression::default());
    // Writing to memory cannot fail.
    let _ = out.write_all(bytes);
    out.finish().unwrap_or_default().into()
}

/// JSON that is compressed while it is written.
struct Pieces(GzEncoder<Vec<u8>>);

impl Pieces {
    fn new() -> Self {
        Self(GzEncoder::new(Vec::new(), Compression::default()))
    }

    fn text(&mut self, text: impl AsRef<str>) {
        // Writing to memory cannot fail.
        let _ = self.0.write_all(text.as_ref().as_bytes());
    }

    fn entry(&mut self, first: &mut bool, key: &str, value: &Value) {
        let sep = if std::mem::take(first) { "" } else { "," };
        self.text(format!("{sep}{}:", Value::String(key.to_string())));
        let _ = serde_json::to_writer(&mut self.0, value);
    }

    fn finish(self) -> Bytes {
        self.0.finish().unwrap_or_default().into()
    }
}

#[cfg(test)]
mod tests;
