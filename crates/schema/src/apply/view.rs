//! How server-side apply looks at a value: as one thing with one owner, as an object with owners for its fields, or
//! as a list with owners for its entries. Decides by the type, and by the value where the type says nothing.

use crate::{
    field_set::{key_step, value_step},
    types::{List, Shape, Type},
};
use serde_json::{Map, Value};

/// A type, or nothing where anything may stand.
pub(super) type MaybeType<'a> = Option<Type<'a>>;

/// How a value is owned.
#[derive(Clone, Copy)]
pub(super) enum View<'a> {
    /// As a whole.
    Leaf,
    /// Field by field.
    Object,
    /// Entry by entry.
    Entries(Entries<'a>),
}

/// What tells a list's entries apart.
#[derive(Clone, Copy)]
pub(super) struct Entries<'a> {
    /// The type of the entries.
    pub(super) item: Type<'a>,
    list: List<'a>,
}

/// How `value`, of type `ty`, is owned.
pub(super) fn view<'a>(ty: MaybeType<'a>, value: &Value) -> View<'a> {
    let shape = ty.map(Type::shape);
    match (shape, value) {
        (Some(Shape::Struct(s)), Value::Object(_)) if !s.atomic => View::Object,
        (Some(Shape::Map { atomic: false, .. }), Value::Object(_)) => View::Object,
        (Some(Shape::Any) | None, Value::Object(_)) => View::Object,
        (Some(Shape::List { item, list: list @ (List::Set | List::Map(_)) }), Value::Array(_)) => {
            View::Entries(Entries { item, list })
        }
        _ => View::Leaf,
    }
}

/// A key of an object: its type, and whether it is a declared field rather than data.
#[derive(Clone, Copy)]
pub(super) struct Child<'a> {
    /// The type of the value.
    pub(super) ty: MaybeType<'a>,
    /// Whether the object's type has a field of that name.
    pub(super) declared: bool,
    /// Whether such a field must be there.
    pub(super) required: bool,
}

/// What the type of an object says of one of its keys.
pub(super) fn child<'a>(ty: MaybeType<'a>, key: &str) -> Child<'a> {
    match ty.map(Type::shape) {
        Some(Shape::Struct(s)) => match s.field(key) {
            Some(field) => Child { ty: Some(field.ty()), declared: true, required: field.required() },
            None => Child { ty: None, declared: false, required: false },
        },
        Some(Shape::Map { value, .. }) => Child { ty: Some(value), declared: false, required: false },
        _ => Child { ty: None, declared: false, required: false },
    }
}

/// The type below a step of a field set, and whether the step is a declared field.
pub(super) fn below<'a>(ty: MaybeType<'a>, step: &str) -> (MaybeType<'a>, bool) {
    match (step.strip_prefix("f:"), ty.map(Type::shape)) {
        (Some(name), _) => {
            let child = child(ty, name);
            (child.ty, child.declared)
        }
        (None, Some(Shape::List { item, .. })) => (Some(item), false),
        _ => (None, false),
    }
}

impl Entries<'_> {
    /// The step that leads to an entry. A key that is left out has its default, or is not part of the identity.
    pub(super) fn step(&self, entry: &Value) -> String {
        match (self.list, entry) {
            (List::Map(keys), Value::Object(fields)) => {
                let value = |key: &str| fields.get(key).cloned().or_else(|| self.default(key));
                key_step(keys.iter().filter_map(|key| Some((key, value(key)?))))
            }
            _ => value_step(entry),
        }
    }

    fn default(&self, key: &str) -> Option<Value> {
        match self.item.shape() {
            Shape::Struct(s) => s.field(key)?.default(),
            _ => None,
        }
    }
}

/// The fields of an object value; none for anything else.
pub(super) fn fields(value: Option<&Value>) -> impl Iterator<Item = (&String, &Value)> {
    value.and_then(Value::as_object).into_iter().flat_map(Map::iter)
}

/// The entries of a list value; none for anything else.
pub(super) fn entries(value: Option<&Value>) -> &[Value] {
    value.and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}
