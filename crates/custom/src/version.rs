//! A served version of a custom resource: its [`Kind`], and the rules by which its objects are fitted, defaulted,
//! validated and printed.

use crate::{
    fit,
    json_path::JsonPath,
    lists::validate_lists,
    patterns::Patterns,
    place::child,
    rules::{self, Rules as CelRules},
    schema::Schema,
    value,
};
use jiff::Timestamp;
use orlop_api::{
    Column, FieldError, FieldErrorKind, Kind, NameRule, Rules, ScalePaths, Scope, duration, kind::Text,
};
use orlop_schema::{TypeRef, Types};
use serde_json::{Value, json};
use std::sync::Arc;

/// The rules of one version.
struct Version {
    schema: Schema,
    patterns: Patterns,
    rules: CelRules,
    /// What metadata must be like.
    metadata: TypeRef,
    columns: Vec<(JsonPath, String)>,
    selectable: Vec<(String, JsonPath)>,
    has_defaults: bool,
}

/// A served version, ready for the registry.
pub struct Served {
    /// Its kind.
    pub kind: Arc<Kind>,
    /// Its type, for server-side apply.
    pub types: TypeRef,
    /// Its schema, for OpenAPI.
    pub schema: Value,
    /// Why it is deprecated, where it is: what every request is warned of.
    pub warning: Option<String>,
}

fn text(value: &Value, pointer: &str) -> String {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_string()
}

fn owned(value: &Value, pointer: &str) -> Text {
    Text::Owned(text(value, pointer))
}

fn texts(value: &Value, pointer: &str) -> Vec<Text> {
    let list = value.pointer(pointer).and_then(Value::as_array);
    list.into_iter().flatten().filter_map(|v| v.as_str().map(|s| Text::Owned(s.to_string()))).collect()
}

/// A path of names as a JSON pointer.
fn pointer(path: &str) -> Text {
    let names = JsonPath::parse(path).and_then(|p| {
        let names = p.fields()?;
        Some(
            names
                .into_iter()
                .map(|n| format!("/{}", n.replace('~', "~0").replace('/', "~1")))
                .collect::<String>(),
        )
    });
    // No field is called so: nothing is ever found there.
    Text::Owned(names.filter(|n| !n.is_empty()).unwrap_or_else(|| "/\u{0}".to_string()))
}

/// Builds a version of a CustomResourceDefinition. `definition` is the whole object, `version` an entry of its
/// `spec.versions`. Names are those that were accepted.
pub fn build(definition: &Value, version: &Value) -> Served {
    let group = text(definition, "/spec/group");
    let name = text(version, "/name");
    let kind_name = text(definition, "/status/acceptedNames/kind");
    let raw =
        version.pointer("/schema/openAPIV3Schema").cloned().unwrap_or_else(|| json!({"type": "object"}));
    let schema = Schema::parse(&raw);
    let api_version = format!("{group}/{name}");
    let (compiled, _) = rules::compile(&schema, "");
    let mut columns = vec![orlop_api::print::name_column()];
    let mut paths = Vec::new();
    let given = version.pointer("/additionalPrinterColumns").and_then(Value::as_array);
    for column in given.into_iter().flatten() {
        let Some(path) = JsonPath::parse(&text(column, "/jsonPath")) else { continue };
        let described = text(column, "/description");
        let description = if described.is_empty() {
            format!("Custom resource definition column (in JSONPath format): {}", text(column, "/jsonPath"))
        } else {
            described
        };
        columns.push(Column {
            name: owned(column, "/name"),
            kind: owned(column, "/type"),
            format: owned(column, "/format"),
            description: description.into(),
            priority: column
                .pointer("/priority")
                .and_then(Value::as_i64)
                .and_then(|p| i32::try_from(p).ok())
                .unwrap_or(0),
        });
        paths.push((path, text(column, "/type")));
    }
    if paths.is_empty() {
        columns.push(Column { kind: "date".into(), ..orlop_api::print::age_column() });
        paths.extend(JsonPath::parse(".metadata.creationTimestamp").map(|p| (p, "date".to_string())));
    }
    let selectable: Vec<(String, JsonPath)> = version
        .pointer("/selectableFields")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(|f| {
            let path = text(f, "/jsonPath");
            Some((path.trim_start_matches('.').to_string(), JsonPath::parse(&path)?))
        })
        .collect();
    let anything = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
    let has_status = version.pointer("/subresources/status").is_some();
    let scale = version.pointer("/subresources/scale").map(|s| ScalePaths {
        spec_replicas: pointer(&text(s, "/specReplicasPath")),
        status_replicas: pointer(&text(s, "/statusReplicasPath")),
        selector: pointer(&text(s, "/labelSelectorPath")),
    });
    let warning = version.get("deprecated").and_then(Value::as_bool).unwrap_or_default().then(|| {
        let said = text(version, "/deprecationWarning");
        if said.is_empty() { format!("{api_version} {kind_name} is deprecated") } else { said }
    });
    let types = Types::custom(&api_version, &kind_name, &raw);
    let rules = Version {
        patterns: Patterns::of(&schema),
        rules: compiled,
        metadata: Types::custom(&api_version, &kind_name, &anything),
        columns: paths,
        selectable: selectable.clone(),
        has_defaults: fit::has_defaults(&schema),
        schema,
    };
    let kind = Kind {
        group: group.into(),
        version: name.into(),
        kind: kind_name.into(),
        plural: owned(definition, "/status/acceptedNames/plural"),
        singular: owned(definition, "/status/acceptedNames/singular"),
        short_names: texts(definition, "/status/acceptedNames/shortNames"),
        categories: texts(definition, "/status/acceptedNames/categories"),
        scope: if text(definition, "/spec/scope") == "Cluster" { Scope::Cluster } else { Scope::Namespaced },
        name_rule: NameRule::DnsSubdomain,
        has_status,
        has_generation: true,
        scale,
        columns,
        selectable_fields: selectable.into_iter().map(|(name, _)| Text::Owned(name)).collect(),
        stored_as: None,
        rules: Arc::new(rules),
    };
    Served { kind: Arc::new(kind), types, schema: raw, warning }
}

impl Version {
    fn judge(&self, new: &Value, old: Option<&Value>) -> Vec<FieldError> {
        let mut errors = value::validate(&self.schema, &self.patterns, new);
        validate_lists(&self.schema, new, "", &mut errors);
        let mut embedded = Vec::new();
        fit::embedded_objects(&self.schema, new, "", &mut embedded);
        for (path, object) in embedded {
            for field in ["apiVersion", "kind"] {
                if object.get(field).and_then(Value::as_str).unwrap_or_default().is_empty() {
                    errors.required(child(&path, field), "must not be empty");
                }
            }
        }
        if let Some(old) = old {
            // What was wrong already and has not been touched is tolerated.
            errors.retain(|e| !tolerated(e, new, old));
        }
        // Expressions count on the types that the schema promises.
        if !errors.iter().any(|e| matches!(e.kind, FieldErrorKind::TypeInvalid)) {
            rules::validate(&self.rules, new, old, &mut errors);
        }
        errors.into_vec()
    }
}

fn tolerated(error: &FieldError, new: &Value, old: &Value) -> bool {
    if error.path == "<nil>" {
        return false;
    }
    let path = match error.kind {
        // What is missing is missing in what should have it.
        FieldErrorKind::Required => error.path.rsplit_once('.').map_or("", |(parent, _)| parent),
        _ => &error.path,
    };
    !path.is_empty() && value::unchanged(path, new, old)
}

impl Rules for Version {
    fn fit(&self, object: &mut Value) -> Option<Result<Vec<String>, String>> {
        if let Err(mismatch) = orlop_schema::conform(&self.metadata, object) {
            return Some(Err(mismatch.to_string()));
        }
        Some(Ok(fit::prune(&self.schema, object, true)))
    }

    fn default(&self, object: &mut Value) {
        if self.has_defaults {
            fit::default(&self.schema, object);
        }
    }

    fn read(&self, object: &mut Value) {
        fit::prune(&self.schema, object, true);
        self.default(object);
    }

    fn reads(&self) -> bool {
        true
    }

    fn validate(&self, object: &Value) -> Vec<FieldError> {
        self.judge(object, None)
    }

    fn validate_change(&self, new: &Value, old: &Value) -> Vec<FieldError> {
        self.judge(new, Some(old))
    }

    fn validate_status(&self, new: &Value, old: &Value) -> Vec<FieldError> {
        self.judge(new, Some(old))
    }

    fn field(&self, object: &Value, path: &str) -> String {
        let found = self.selectable.iter().find(|(name, _)| name == path);
        match found.and_then(|(_, path)| path.find(object).first().copied()) {
            Some(Value::String(text)) => text.clone(),
            Some(Value::Null) | None => String::new(),
            Some(other) => other.to_string(),
        }
    }

    fn cells(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        let mut cells = vec![orlop_api::print::name(object)];
        cells.extend(self.columns.iter().map(|(path, kind)| {
            path.find(object).first().map_or(Value::Null, |value| cell(kind, value, now))
        }));
        cells
    }
}

fn cell(kind: &str, value: &Value, now: Timestamp) -> Value {
    match (kind, value) {
        ("string", Value::String(_)) => value.clone(),
        ("string", Value::Null) => "".into(),
        ("string", other) => other.to_string().into(),
        ("integer", Value::Number(n)) => n.as_i64().or_else(|| n.as_f64().map(|n| n as i64)).into(),
        ("number", Value::Number(_)) | ("boolean", Value::Bool(_)) => value.clone(),
        ("date", Value::String(text)) => match text.parse::<Timestamp>() {
            Ok(time) => duration::since(Some(time), now).into(),
            Err(_) => "<invalid>".into(),
        },
        _ => Value::Null,
    }
}
