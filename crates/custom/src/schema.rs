//! A schema of a custom resource as a value of Rust: apiextensions/v1 `JSONSchemaProps`, read once. Reading never fails:
//! the types of its fields were checked with the CustomResourceDefinition that it came in, and what is wrong with it
//! otherwise is `structural`'s to say.

use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// The JSON type that a schema asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JsonType {
    /// `object`.
    Object,
    /// `array`.
    Array,
    /// `string`.
    String,
    /// `integer`.
    Integer,
    /// `number`.
    Number,
    /// `boolean`.
    Boolean,
}

impl JsonType {
    /// The type with that name.
    pub fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "object" => Self::Object,
            "array" => Self::Array,
            "string" => Self::String,
            "integer" => Self::Integer,
            "number" => Self::Number,
            "boolean" => Self::Boolean,
            _ => return None,
        })
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Object => "object",
            Self::Array => "array",
            Self::String => "string",
            Self::Integer => "integer",
            Self::Number => "number",
            Self::Boolean => "boolean",
        }
    }
}

/// `additionalProperties`.
#[derive(Clone, Debug)]
pub enum Additional {
    /// A boolean.
    Bool(bool),
    /// The schema of the values.
    Schema(Box<Schema>),
}

/// An entry of `x-kubernetes-validations`.
#[derive(Clone, Debug, Default)]
pub struct Rule {
    /// The expression.
    pub rule: String,
    /// What is told when it is false.
    pub message: String,
    /// The same, as an expression.
    pub message_expression: String,
    /// The machine-readable reason.
    pub reason: Option<String>,
    /// Which field is told to be wrong.
    pub field_path: String,
    /// Whether a transition rule also holds for new objects.
    pub optional_old_self: Option<bool>,
}

/// A schema.
#[derive(Clone, Debug, Default)]
pub struct Schema {
    /// `type`, which may be unknown.
    pub type_name: String,
    /// `type`, where known.
    pub ty: Option<JsonType>,
    /// `format`.
    pub format: String,
    /// `title`.
    pub title: String,
    /// `description`.
    pub description: String,
    /// `default`.
    pub default: Option<Value>,
    /// `nullable`.
    pub nullable: bool,
    /// `properties`.
    pub properties: BTreeMap<String, Schema>,
    /// `additionalProperties`.
    pub additional: Option<Additional>,
    /// `items`, where it is one schema.
    pub items: Option<Box<Schema>>,
    /// Whether `items` is a list of schemas, which is forbidden.
    pub items_is_list: bool,
    /// `required`.
    pub required: Vec<String>,
    /// `enum`.
    pub choices: Option<Vec<Value>>,
    /// `maximum` and `exclusiveMaximum`.
    pub maximum: Option<(f64, bool)>,
    /// `minimum` and `exclusiveMinimum`.
    pub minimum: Option<(f64, bool)>,
    /// `multipleOf`.
    pub multiple_of: Option<f64>,
    /// `maxLength`.
    pub max_length: Option<i64>,
    /// `minLength`.
    pub min_length: Option<i64>,
    /// `pattern`.
    pub pattern: String,
    /// `maxItems`.
    pub max_items: Option<i64>,
    /// `minItems`.
    pub min_items: Option<i64>,
    /// `uniqueItems`.
    pub unique_items: bool,
    /// `maxProperties`.
    pub max_properties: Option<i64>,
    /// `minProperties`.
    pub min_properties: Option<i64>,
    /// `allOf`.
    pub all_of: Vec<Schema>,
    /// `anyOf`.
    pub any_of: Vec<Schema>,
    /// `oneOf`.
    pub one_of: Vec<Schema>,
    /// `not`.
    pub not: Option<Box<Schema>>,
    /// `x-kubernetes-preserve-unknown-fields`.
    pub preserve_unknown: Option<bool>,
    /// `x-kubernetes-embedded-resource`.
    pub embedded: bool,
    /// `x-kubernetes-int-or-string`.
    pub int_or_string: bool,
    /// `x-kubernetes-list-type`.
    pub list_type: Option<String>,
    /// `x-kubernetes-list-map-keys`.
    pub list_map_keys: Vec<String>,
    /// `x-kubernetes-map-type`.
    pub map_type: Option<String>,
    /// `x-kubernetes-validations`.
    pub rules: Vec<Rule>,
    /// Keywords that are there but that no schema of Kubernetes may use.
    pub forbidden: Vec<&'static str>,
}

/// Keywords of JSON schema that are forbidden, in the words that say so.
const FORBIDDEN: [&str; 7] =
    ["id", "patternProperties", "additionalItems", "definitions", "dependencies", "$ref", "deprecated"];

fn text(object: &Map<String, Value>, key: &str) -> String {
    object.get(key).and_then(Value::as_str).unwrap_or_default().to_string()
}

fn flag(object: &Map<String, Value>, key: &str) -> bool {
    object.get(key).and_then(Value::as_bool).unwrap_or_default()
}

fn texts(value: Option<&Value>) -> Vec<String> {
    value
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(|v| v.as_str().map(str::to_string))
        .collect()
}

impl Schema {
    /// Reads a schema.
    pub fn parse(value: &Value) -> Self {
        let Some(object) = value.as_object() else { return Self::default() };
        let many = |key: &str| -> Vec<Self> {
            object.get(key).and_then(Value::as_array).into_iter().flatten().map(Self::parse).collect()
        };
        let int = |key: &str| object.get(key).and_then(Value::as_i64);
        let bound = |key: &str, exclusive: &str| {
            object.get(key).and_then(Value::as_f64).map(|n| (n, flag(object, exclusive)))
        };
        let type_name = text(object, "type");
        let items = object.get("items");
        Self {
            ty: JsonType::parse(&type_name),
            type_name,
            format: text(object, "format"),
            title: text(object, "title"),
            description: text(object, "description"),
            default: object.get("default").cloned(),
            nullable: flag(object, "nullable"),
            properties: object
                .get("properties")
                .and_then(Value::as_object)
                .into_iter()
                .flatten()
                .map(|(name, schema)| (name.clone(), Self::parse(schema)))
                .collect(),
            additional: match object.get("additionalProperties") {
                None | Some(Value::Null) => None,
                Some(Value::Bool(b)) => Some(Additional::Bool(*b)),
                Some(schema) => Some(Additional::Schema(Box::new(Self::parse(schema)))),
            },
            items: items.filter(|i| i.is_object()).map(|i| Box::new(Self::parse(i))),
            items_is_list: items.is_some_and(Value::is_array),
            required: texts(object.get("required")),
            choices: object.get("enum").and_then(Value::as_array).cloned(),
            maximum: bound("maximum", "exclusiveMaximum"),
            minimum: bound("minimum", "exclusiveMinimum"),
            multiple_of: object.get("multipleOf").and_then(Value::as_f64),
            max_length: int("maxLength"),
            min_length: int("minLength"),
            pattern: text(object, "pattern"),
            max_items: int("maxItems"),
            min_items: int("minItems"),
            unique_items: flag(object, "uniqueItems"),
            max_properties: int("maxProperties"),
            min_properties: int("minProperties"),
            all_of: many("allOf"),
            any_of: many("anyOf"),
            one_of: many("oneOf"),
            not: object.get("not").filter(|n| n.is_object()).map(|n| Box::new(Self::parse(n))),
            preserve_unknown: object.get("x-kubernetes-preserve-unknown-fields").and_then(Value::as_bool),
            embedded: flag(object, "x-kubernetes-embedded-resource"),
            int_or_string: flag(object, "x-kubernetes-int-or-string"),
            list_type: object.get("x-kubernetes-list-type").and_then(Value::as_str).map(str::to_string),
            list_map_keys: texts(object.get("x-kubernetes-list-map-keys")),
            map_type: object.get("x-kubernetes-map-type").and_then(Value::as_str).map(str::to_string),
            rules: object
                .get("x-kubernetes-validations")
                .and_then(Value::as_array)
                .into_iter()
                .flatten()
                .filter_map(Value::as_object)
                .map(|rule| Rule {
                    rule: text(rule, "rule"),
                    message: text(rule, "message"),
                    message_expression: text(rule, "messageExpression"),
                    reason: rule.get("reason").and_then(Value::as_str).map(str::to_string),
                    field_path: text(rule, "fieldPath"),
                    optional_old_self: rule.get("optionalOldSelf").and_then(Value::as_bool),
                })
                .collect(),
            forbidden: FORBIDDEN
                .iter()
                .filter(|key| object.get(**key).is_some_and(|v| !v.is_null() && v.as_str() != Some("")))
                .copied()
                .collect(),
        }
    }

    /// Whether undeclared fields stay.
    pub fn preserves(&self) -> bool {
        self.preserve_unknown == Some(true)
    }

    /// The schema of a field: a declared one, or that of all the others.
    pub fn field(&self, name: &str) -> Option<&Schema> {
        self.properties.get(name).or(match &self.additional {
            Some(Additional::Schema(schema)) => Some(schema),
            _ => None,
        })
    }

    /// Calls `each` with this schema and all below it that describe structure.
    pub fn walk(&self, each: &mut dyn FnMut(&Schema)) {
        each(self);
        self.properties.values().for_each(|s| s.walk(each));
        if let Some(Additional::Schema(schema)) = &self.additional {
            schema.walk(each);
        }
        if let Some(items) = &self.items {
            items.walk(each);
        }
    }
}
