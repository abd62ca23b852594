//! Makes types out of JSON schemas as Kubernetes writes them (OpenAPI v2 definitions, or the structural schema of a
//! CustomResourceDefinition) with their `x-kubernetes-*` extensions. Never validates a value.

use super::arena::*;
use serde_json::{Map, Value};
use std::collections::HashMap;

/// Definitions whose JSON is whatever the writer likes.
const FREE_FORM: [&str; 4] = [
    "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSON",
    "io.k8s.apimachinery.pkg.apis.meta.v1.FieldsV1",
    "io.k8s.apimachinery.pkg.apis.meta.v1.Patch",
    "io.k8s.apimachinery.pkg.runtime.RawExtension",
];

/// Definitions that are single values with their own way of being written.
const SCALARS: [(&str, Scalar); 4] = [
    ("io.k8s.apimachinery.pkg.api.resource.Quantity", Scalar::Quantity),
    ("io.k8s.apimachinery.pkg.apis.meta.v1.MicroTime", Scalar::MicroTime),
    ("io.k8s.apimachinery.pkg.apis.meta.v1.Time", Scalar::Time),
    ("io.k8s.apimachinery.pkg.util.intstr.IntOrString", Scalar::IntOrString),
];

/// Collects types; [`Builder::finish`] gives them.
pub struct Builder<'a> {
    definitions: &'a Map<String, Value>,
    pool: String,
    ends: Vec<u32>,
    symbols: HashMap<String, u32>,
    nodes: Vec<Node>,
    known: HashMap<Node, u32>,
    defs: Vec<Def>,
    named: HashMap<String, u32>,
    fields: Vec<Field>,
    keys: Vec<Box<[u32]>>,
    kinds: Vec<KindEntry>,
}

impl<'a> Builder<'a> {
    /// A builder that finds what a `$ref` names in `definitions`.
    pub fn new(definitions: &'a Map<String, Value>) -> Self {
        Self {
            definitions,
            pool: String::new(),
            ends: Vec::new(),
            symbols: HashMap::new(),
            nodes: Vec::new(),
            known: HashMap::new(),
            defs: Vec::new(),
            named: HashMap::new(),
            fields: Vec::new(),
            keys: Vec::new(),
            kinds: Vec::new(),
        }
    }

    /// Adds a kind whose type is `schema`.
    pub fn kind(&mut self, api_version: &str, kind: &str, schema: &Value) {
        let node = self.node(schema);
        let entry = KindEntry { api_version: self.symbol(api_version), kind: self.symbol(kind), node };
        self.kinds.push(entry);
    }

    /// All that was added.
    pub fn finish(self) -> Arena {
        Arena {
            pool: self.pool.into(),
            ends: self.ends.into(),
            nodes: self.nodes.into(),
            defs: self.defs.into(),
            fields: self.fields.into(),
            keys: self.keys.into(),
            kinds: self.kinds.into(),
        }
    }

    fn symbol(&mut self, text: &str) -> u32 {
        if let Some(known) = self.symbols.get(text) {
            return *known;
        }
        self.pool.push_str(text);
        self.ends.push(self.pool.len() as u32);
        let symbol = self.ends.len() as u32 - 1;
        self.symbols.insert(text.to_string(), symbol);
        symbol
    }

    fn intern(&mut self, node: Node) -> u32 {
        if let Some(known) = self.known.get(&node) {
            return *known;
        }
        self.nodes.push(node);
        let id = self.nodes.len() as u32 - 1;
        self.known.insert(node, id);
        id
    }

    /// The type that `schema` describes.
    pub fn node(&mut self, schema: &Value) -> u32 {
        let atomic = schema.get("x-kubernetes-map-type").map(|t| t == "atomic");
        if let Some(reference) = reference(schema) {
            return self.referred(reference, atomic);
        }
        if schema.get("x-kubernetes-int-or-string") == Some(&Value::Bool(true)) {
            return self.intern(Node::Scalar(Scalar::IntOrString));
        }
        if let Some(choices) = schema.get("oneOf").and_then(Value::as_array)
            && schema.get("type").is_none()
        {
            return self.either(choices);
        }
        let format = schema.get("format").and_then(Value::as_str).unwrap_or_default();
        let scalar = match schema.get("type").and_then(Value::as_str) {
            Some("string") if format == "byte" => Scalar::Bytes,
            Some("string") => Scalar::String,
            Some("boolean") => Scalar::Boolean,
            Some("integer") if format == "int32" => Scalar::Int32,
            Some("integer") => Scalar::Int64,
            Some("number") => Scalar::Float,
            Some("array") => return self.list(schema),
            Some("object") => return self.object("", schema, atomic.unwrap_or(false)),
            _ => return self.intern(Node::Any),
        };
        self.intern(Node::Scalar(scalar))
    }

    fn referred(&mut self, name: &str, atomic: Option<bool>) -> u32 {
        if FREE_FORM.contains(&name) {
            return self.intern(Node::Any);
        }
        if let Some((_, scalar)) = SCALARS.iter().find(|(n, _)| *n == name) {
            return self.intern(Node::Scalar(*scalar));
        }
        let definitions = self.definitions;
        let Some(schema) = definitions.get(name) else { return self.intern(Node::Any) };
        if schema.get("oneOf").is_some() {
            return self.node(schema);
        }
        let atomic =
            atomic.unwrap_or_else(|| schema.get("x-kubernetes-map-type").is_some_and(|t| t == "atomic"));
        self.object(name, schema, atomic)
    }

    fn either(&mut self, choices: &[Value]) -> u32 {
        let (mut object, mut item) = (NONE, NONE);
        for choice in choices {
            match choice.get("items") {
                Some(items) => item = self.node(items),
                None if choice.get("$ref").is_some() => object = self.node(choice),
                None => {}
            }
        }
        if object == NONE { self.intern(Node::Any) } else { self.intern(Node::Either { object, item }) }
    }

    fn list(&mut self, schema: &Value) -> u32 {
        let item = self.node(schema.get("items").unwrap_or(&Value::Null));
        let kind = match schema.get("x-kubernetes-list-type").and_then(Value::as_str) {
            Some("set") => ListKind::Set,
            Some("map") => {
                let keys = schema.get("x-kubernetes-list-map-keys").and_then(Value::as_array);
                let names = keys.into_iter().flatten().filter_map(Value::as_str);
                let tuple: Box<[u32]> = names.map(|k| self.symbol(k)).collect();
                ListKind::Map(self.key_tuple(tuple))
            }
            _ => ListKind::Atomic,
        };
        self.intern(Node::List { item, kind })
    }

    fn key_tuple(&mut self, tuple: Box<[u32]>) -> u32 {
        if let Some(known) = self.keys.iter().position(|k| *k == tuple) {
            return known as u32;
        }
        self.keys.push(tuple);
        self.keys.len() as u32 - 1
    }

    fn object(&mut self, name: &str, schema: &Value, atomic: bool) -> u32 {
        if let Some(def) = self.named.get(name).filter(|_| !name.is_empty()) {
            let node = Node::Struct { def: *def, atomic };
            return self.intern(node);
        }
        let open = schema.get("x-kubernetes-preserve-unknown-fields") == Some(&Value::Bool(true));
        let properties = schema.get("properties").and_then(Value::as_object);
        match schema.get("additionalProperties") {
            Some(values @ Value::Object(_)) if properties.is_none() => {
                let value = self.node(values);
                return self.intern(Node::Map { value, atomic });
            }
            Some(Value::Bool(true)) if properties.is_none() => {
                let value = self.intern(Node::Any);
                return self.intern(Node::Map { value, atomic });
            }
            _ => {}
        }
        let symbol = self.symbol(name);
        let def = self.defs.len() as u32;
        self.defs.push(Def { name: symbol, open, start: 0, len: 0 });
        if !name.is_empty() {
            self.named.insert(name.to_string(), def);
        }
        let mut fields: Vec<(&str, Field)> = Vec::new();
        for (key, property) in properties.into_iter().flatten() {
            fields.push((key, self.field(key, property, schema)));
        }
        if schema.get("x-kubernetes-embedded-resource") == Some(&Value::Bool(true)) {
            let (string, any) = (self.intern(Node::Scalar(Scalar::String)), self.intern(Node::Any));
            for (key, node) in [("apiVersion", string), ("kind", string), ("metadata", any)] {
                if !fields.iter().any(|(known, _)| *known == key) {
                    let name = self.symbol(key);
                    fields
                        .push((key, Field { name, node, flags: 0, merge_key: NONE, default: NONE, path: 0 }));
                }
            }
        }
        fields.sort_by(|a, b| a.0.cmp(b.0));
        let start = self.fields.len() as u32;
        self.fields.extend(fields.iter().map(|(_, f)| *f));
        self.defs[def as usize] = Def { name: symbol, open, start, len: fields.len() as u32 };
        self.intern(Node::Struct { def, atomic })
    }

    fn field(&mut self, key: &str, property: &Value, parent: &Value) -> Field {
        let node = self.node(property);
        let mut flags = 0;
        let strategies = property.get("x-kubernetes-patch-strategy").and_then(Value::as_str);
        for strategy in strategies.unwrap_or_default().split(',') {
            flags |= match strategy {
                "merge" => MERGE,
                "retainKeys" => RETAIN_KEYS,
                "replace" => REPLACE,
                _ => 0,
            };
        }
        let required = parent.get("required").and_then(Value::as_array);
        if required.is_some_and(|r| r.iter().any(|name| name == key)) {
            flags |= REQUIRED;
        }
        if property.get("nullable") == Some(&Value::Bool(true)) {
            flags |= NULLABLE;
        }
        let merge_key = property.get("x-kubernetes-patch-merge-key").and_then(Value::as_str);
        let merge_key = merge_key.map_or(NONE, |k| self.symbol(k));
        let default = property.get("default").map_or(NONE, |d| self.symbol(&d.to_string()));
        let protobuf = property.get("x-protobuf");
        if protobuf.and_then(|p| p.get("zero")) == Some(&Value::Bool(true)) {
            flags |= ZERO_TELLS;
        }
        let path = protobuf.and_then(|p| p.get("path")).and_then(Value::as_u64).unwrap_or(0) as u32;
        Field { name: self.symbol(key), node, flags, merge_key, default, path }
    }
}

/// The definition that a schema refers to, directly or through an `allOf` of one.
fn reference(schema: &Value) -> Option<&str> {
    let direct = schema.get("$ref").or_else(|| match schema.get("allOf")?.as_array()?.as_slice() {
        [one] => one.get("$ref"),
        _ => None,
    })?;
    direct.as_str()?.rsplit('/').next()
}
