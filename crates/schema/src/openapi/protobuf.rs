//! The OpenAPI v2 document as protobuf: the messages of gnostic's `openapi.v2` that Kubernetes' document needs,
//! written from its JSON form. Knows nothing of kinds.

use crate::protobuf::wire::Message;
use serde_json::Value;

impl Message {
    fn text(&mut self, field: u32, value: &Value) {
        if let Some(text) = value.as_str() {
            self.bytes(field, text.as_bytes());
        }
    }

    fn texts(&mut self, field: u32, values: &Value) {
        values.as_array().into_iter().flatten().for_each(|v| self.text(field, v));
    }

    fn boolean(&mut self, field: u32, value: &Value) {
        if value == &Value::Bool(true) {
            self.varint(field, 1);
        }
    }

    /// Everything that begins with `x-`.
    fn extensions(&mut self, field: u32, object: &Value) {
        for (key, value) in object.as_object().into_iter().flatten().filter(|(k, _)| k.starts_with("x-")) {
            self.named(field, key, any(value));
        }
    }

    /// An entry of a map, in the shape of all `Named…` messages.
    pub(super) fn named(&mut self, field: u32, name: &str, value: Message) {
        let mut entry = Message::default();
        entry.bytes(1, name.as_bytes());
        entry.message(2, value);
        self.message(field, entry);
    }
}

/// `Document`, around paths and definitions that are already written.
pub(super) fn document(title: &str, version: &str, paths: Message, definitions: Message) -> Message {
    let mut info = Message::default();
    info.bytes(1, title.as_bytes());
    info.bytes(2, version.as_bytes());
    let mut out = Message::default();
    out.bytes(1, b"2.0");
    out.message(2, info);
    out.message(8, paths);
    out.message(9, definitions);
    out
}

/// `Any`: JSON is YAML.
fn any(value: &Value) -> Message {
    let mut out = Message::default();
    out.bytes(2, value.to_string().as_bytes());
    out
}

fn wrapped(field: u32, inner: Message) -> Message {
    let mut out = Message::default();
    out.message(field, inner);
    out
}

/// `Schema`.
pub(super) fn schema(json: &Value) -> Message {
    let mut out = Message::default();
    out.text(1, &json["$ref"]);
    out.text(2, &json["format"]);
    out.text(3, &json["title"]);
    out.text(4, &json["description"]);
    if let Some(default) = json.get("default") {
        out.message(5, any(default));
    }
    out.text(13, &json["pattern"]);
    out.texts(19, &json["required"]);
    json["enum"].as_array().into_iter().flatten().for_each(|v| out.message(20, any(v)));
    match &json["additionalProperties"] {
        Value::Null => {}
        Value::Bool(yes) => {
            // Inside a oneof, false is written too.
            let mut item = Message::default();
            item.varint(2, u64::from(*yes));
            out.message(21, item);
        }
        values => out.message(21, wrapped(1, schema(values))),
    }
    if json["type"].is_string() {
        let mut ty = Message::default();
        ty.text(1, &json["type"]);
        out.message(22, ty);
    }
    if json["items"].is_object() {
        out.message(23, wrapped(1, schema(&json["items"])));
    }
    json["allOf"].as_array().into_iter().flatten().for_each(|s| out.message(24, schema(s)));
    if let Some(properties) = json["properties"].as_object() {
        let mut list = Message::default();
        properties.iter().for_each(|(name, property)| list.named(1, name, schema(property)));
        out.message(25, list);
    }
    out.extensions(31, json);
    out
}

/// `PathItem`.
pub(super) fn path_item(json: &Value) -> Message {
    let mut out = Message::default();
    for (field, method) in
        [(2, "get"), (3, "put"), (4, "post"), (5, "delete"), (6, "options"), (7, "head"), (8, "patch")]
    {
        if json[method].is_object() {
            out.message(field, operation(&json[method]));
        }
    }
    json["parameters"].as_array().into_iter().flatten().for_each(|p| out.message(9, parameter(p)));
    out.extensions(10, json);
    out
}

fn operation(json: &Value) -> Message {
    let mut out = Message::default();
    out.texts(1, &json["tags"]);
    out.text(3, &json["description"]);
    out.text(5, &json["operationId"]);
    out.texts(6, &json["produces"]);
    out.texts(7, &json["consumes"]);
    json["parameters"].as_array().into_iter().flatten().for_each(|p| out.message(8, parameter(p)));
    let mut responses = Message::default();
    for (code, response) in json["responses"].as_object().into_iter().flatten() {
        let mut inner = Message::default();
        inner.text(1, &response["description"]);
        if response["schema"].is_object() {
            inner.message(2, wrapped(1, schema(&response["schema"])));
        }
        responses.named(1, code, wrapped(1, inner));
    }
    out.message(9, responses);
    out.texts(10, &json["schemes"]);
    out.extensions(13, json);
    out
}

/// `ParametersItem`.
fn parameter(json: &Value) -> Message {
    let mut inner = Message::default();
    if json["in"] == "body" {
        inner.text(1, &json["description"]);
        inner.text(2, &json["name"]);
        inner.text(3, &json["in"]);
        inner.boolean(4, &json["required"]);
        inner.message(5, schema(&json["schema"]));
        return wrapped(1, wrapped(1, inner));
    }
    inner.boolean(1, &json["required"]);
    inner.text(2, &json["in"]);
    inner.text(3, &json["description"]);
    inner.text(4, &json["name"]);
    // From the type on, a query parameter counts one higher: it has `allow_empty_value` before it.
    let (of_kind, ty, unique) = if json["in"] == "query" { (3, 6, 20) } else { (4, 5, 19) };
    inner.text(ty, &json["type"]);
    inner.boolean(unique, &json["uniqueItems"]);
    wrapped(1, wrapped(2, wrapped(of_kind, inner)))
}
