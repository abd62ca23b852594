//! Columns and cells that several kinds share in `kubectl get`, in the words that Kubernetes' printers use.
//! A kind's own cells stand in the kind's file.

use crate::{
    Column, duration,
    object::{list, map, text, time},
};
use jiff::Timestamp;
use serde_json::Value;

/// What stands where there is nothing to show.
pub const NONE: &str = "<none>";

fn column(name: &'static str, kind: &'static str, priority: i32, description: &'static str) -> Column {
    Column {
        name: name.into(),
        kind: kind.into(),
        format: "".into(),
        description: description.into(),
        priority,
    }
}

/// The column that identifies the row.
pub fn name_column() -> Column {
    Column { format: "name".into(), ..text_column("Name", "The object's name, unique in its namespace.") }
}

/// A column of text.
pub fn text_column(name: &'static str, description: &'static str) -> Column {
    column(name, "string", 0, description)
}

/// A column of text that shows with `-o wide` only.
pub fn wide_column(name: &'static str, description: &'static str) -> Column {
    column(name, "string", 1, description)
}

/// A column of whole numbers.
pub fn int_column(name: &'static str, description: &'static str) -> Column {
    column(name, "integer", 0, description)
}

/// A column of yes and no.
pub fn bool_column(name: &'static str, description: &'static str) -> Column {
    column(name, "boolean", 0, description)
}

/// The column of ages.
pub fn age_column() -> Column {
    text_column("Age", "How long ago the object was created.")
}

/// The column of dates of kinds that Kubernetes gives no columns of their own.
pub fn created_column() -> Column {
    column("Created At", "date", 0, "When the object was created.")
}

/// The cell of [`created_column`].
pub fn created(object: &Value) -> Value {
    text(object, "/metadata/creationTimestamp").into()
}

/// The wide columns of everything that has a pod template.
pub fn template_columns() -> [Column; 3] {
    [
        wide_column("Containers", "Names of the containers in the template."),
        wide_column("Images", "Images of the containers in the template."),
        wide_column("Selector", "Labels of the pods that belong to the object."),
    ]
}

/// The cell of [`name_column`].
pub fn name(object: &Value) -> Value {
    text(object, "/metadata/name").into()
}

/// The cell of [`age_column`].
pub fn age(object: &Value, now: Timestamp) -> Value {
    duration::since(time(object, "/metadata/creationTimestamp"), now).into()
}

/// A string, or `<none>`.
pub fn or_none(text: &str) -> Value {
    if text.is_empty() { NONE.into() } else { text.into() }
}

/// A string, or `<unset>`.
pub fn or_unset(text: &str) -> Value {
    if text.is_empty() { "<unset>".into() } else { text.into() }
}

/// A number, or 0.
pub fn number(object: &Value, pointer: &str) -> Value {
    object.pointer(pointer).and_then(Value::as_i64).unwrap_or_default().into()
}

/// `a=1,b=2` in the order of the keys, or `<none>`.
pub fn labels(object: &Value, pointer: &str) -> Value {
    let mut pairs: Vec<String> = map(object, pointer)
        .into_iter()
        .flatten()
        .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()))
        .collect();
    pairs.sort();
    or_none(&pairs.join(","))
}

/// The cells of [`template_columns`].
pub fn template_cells(object: &Value) -> [Value; 3] {
    let containers = list(object, "/spec/template/spec/containers");
    let join = |pointer| containers.iter().map(|c| text(c, pointer)).collect::<Vec<_>>().join(",").into();
    [join("/name"), join("/image"), label_selector(object, "/spec/selector")]
}

/// A meta/v1 `LabelSelector` on one line, or `<none>`.
pub fn label_selector(object: &Value, pointer: &str) -> Value {
    let mut parts: Vec<(String, String)> = map(object, &format!("{pointer}/matchLabels"))
        .into_iter()
        .flatten()
        .map(|(key, value)| (key.clone(), format!("{key}={}", value.as_str().unwrap_or_default())))
        .collect();
    for e in list(object, &format!("{pointer}/matchExpressions")) {
        let key = text(e, "/key");
        let mut values: Vec<&str> = list(e, "/values").iter().filter_map(Value::as_str).collect();
        values.sort_unstable();
        let values = values.join(",");
        let shown = match text(e, "/operator") {
            "In" => format!("{key} in ({values})"),
            "NotIn" => format!("{key} notin ({values})"),
            "DoesNotExist" => format!("!{key}"),
            _ => key.to_string(),
        };
        parts.push((key.to_string(), shown));
    }
    parts.sort_by(|a, b| a.0.cmp(&b.0));
    or_none(&parts.into_iter().map(|p| p.1).collect::<Vec<_>>().join(","))
}

/// `first,second,third + 4 more...`: the first three of a list.
pub fn first_three(mut all: Vec<String>) -> String {
    let more = all.len().saturating_sub(3);
    all.truncate(3);
    let shown = all.join(",");
    if more > 0 { format!("{shown} + {more} more...") } else { shown }
}
