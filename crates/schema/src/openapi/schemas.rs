//! A definition as each version of OpenAPI writes it down.

use serde_json::{Map, Value, json};

/// A string, or a number that becomes one.
const QUANTITY: &str = "io.k8s.apimachinery.pkg.api.resource.Quantity";
/// Whatever JSON can say.
const ANY_JSON: &str = "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSON";

/// Which version of OpenAPI.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Dialect {
    /// Swagger 2.0.
    V2,
    /// OpenAPI 3.0.
    V3,
}

impl Dialect {
    /// A reference to a definition.
    pub(super) fn reference(self, name: &str) -> Value {
        match self {
            Self::V2 => json!({"$ref": format!("#/definitions/{name}")}),
            Self::V3 => json!({"$ref": format!("#/components/schemas/{name}")}),
        }
    }
}

/// The definition of a kind's list.
pub(super) fn list(definition: &str, kind: &str) -> Value {
    let text = |description: &str| json!({"type": "string", "description": description});
    json!({
        "description": format!("{kind}List is a list of {kind} objects."),
        "type": "object",
        "required": ["items"],
        "properties": {
            "apiVersion": text("The version of the API that this is written in."),
            "kind": text("What this is."),
            "metadata": {"$ref": "io.k8s.apimachinery.pkg.apis.meta.v1.ListMeta",
                "description": "Metadata of the list itself."},
            "items": {"type": "array", "items": {"$ref": definition}, "description": "The objects."},
        },
    })
}

/// The definition of that name, in the dialect; its references are names.
pub(super) fn definition(dialect: Dialect, name: &str, schema: &Value) -> Value {
    match (name, dialect) {
        (QUANTITY, Dialect::V2) => json!({"description": schema["description"], "type": "string"}),
        (QUANTITY, Dialect::V3) => {
            json!({"description": schema["description"], "oneOf": [{"type": "string"}, {"type": "number"}]})
        }
        (ANY_JSON, _) => json!({"description": schema["description"]}),
        _ => write(dialect, schema),
    }
}

/// What every object has.
pub(super) const HEAD: [&str; 3] = ["apiVersion", "kind", "metadata"];

/// The schema of a custom kind as Kubernetes publishes it; `described` are the properties of some built-in kind. The older
/// version cannot say all of it: what it would get wrong is left open there.
pub(super) fn custom(dialect: Dialect, mut schema: Value, described: &Value) -> Value {
    let preserves = |schema: &Value| schema["x-kubernetes-preserve-unknown-fields"] == true;
    if dialect == Dialect::V2 && preserves(&schema) {
        return json!({"type": "object"});
    }
    if dialect == Dialect::V2 {
        reduce(&mut schema);
    }
    for field in HEAD {
        let mut head = described[field].clone();
        if let Some(head) = head.as_object_mut() {
            head.remove("default");
        }
        schema["properties"][field] = head;
    }
    schema
}

/// Leaves out what Swagger 2.0 cannot say.
fn reduce(schema: &mut Value) {
    let Some(fields) = schema.as_object_mut() else { return };
    for choice in ["allOf", "anyOf", "oneOf", "not"] {
        fields.remove(choice);
    }
    let nullable = fields.remove("nullable").is_some_and(|n| n == true);
    if nullable || fields.get("x-kubernetes-preserve-unknown-fields").is_some_and(|p| p == true) {
        for open in ["type", "items", "properties"] {
            fields.remove(open);
        }
    }
    // What may be null may also be missing, for who cannot say null.
    let mut optional: Vec<String> = Vec::new();
    if let Some(Value::Object(properties)) = fields.get("properties") {
        optional.extend(properties.iter().filter(|(_, s)| s["nullable"] == true).map(|(n, _)| n.clone()));
    }
    if let Some(Value::Array(required)) = fields.get_mut("required") {
        required.retain(|name| !optional.iter().any(|o| name == o));
        if required.is_empty() {
            fields.remove("required");
        }
    }
    for (key, value) in fields.iter_mut() {
        match (key.as_str(), value) {
            ("properties", Value::Object(properties)) => properties.values_mut().for_each(reduce),
            ("items" | "additionalProperties", schema) => reduce(schema),
            _ => {}
        }
    }
}

fn write(dialect: Dialect, schema: &Value) -> Value {
    let Value::Object(fields) = schema else { return schema.clone() };
    if let Some(Value::String(target)) = fields.get("$ref") {
        return referring(dialect, target, fields);
    }
    let mut out = Map::new();
    for (key, value) in fields {
        let written = match (key.as_str(), value) {
            ("properties", Value::Object(properties)) => {
                properties.iter().map(|(name, schema)| (name.clone(), write(dialect, schema))).collect()
            }
            ("items" | "additionalProperties", schema) => write(dialect, schema),
            ("x-kubernetes-int-or-string", _) => {
                int_or_string(dialect, &mut out);
                continue;
            }
            // A choice of types is no schema that clients of either version understand.
            ("oneOf" | "anyOf", _) => continue,
            ("nullable", _) if dialect == Dialect::V2 => continue,
            _ => value.clone(),
        };
        out.insert(key.clone(), written);
    }
    Value::Object(out)
}

fn referring(dialect: Dialect, target: &str, fields: &Map<String, Value>) -> Value {
    let reference = dialect.reference(target.rsplit('/').next().unwrap_or_default());
    let beside: Map<String, Value> =
        fields.iter().filter(|(key, _)| *key != "$ref").map(|(k, v)| (k.clone(), v.clone())).collect();
    match dialect {
        _ if beside.is_empty() => reference,
        // In OpenAPI 3.0 nothing may stand beside a reference.
        Dialect::V3 => {
            let mut out = beside;
            out.insert("allOf".to_string(), json!([reference]));
            Value::Object(out)
        }
        Dialect::V2 => {
            let mut out = beside;
            out.insert("$ref".to_string(), reference["$ref"].clone());
            Value::Object(out)
        }
    }
}

fn int_or_string(dialect: Dialect, out: &mut Map<String, Value>) {
    out.insert("format".to_string(), json!("int-or-string"));
    match dialect {
        Dialect::V2 => out.insert("type".to_string(), json!("string")),
        Dialect::V3 => out.insert("oneOf".to_string(), json!([{"type": "integer"}, {"type": "string"}])),
    };
}
