//! Strategic merge patch: a merge patch that knows by which key list entries are found, with its directives
//! (`$patch`, `$retainKeys`, `$setElementOrder/…`, `$deleteFromPrimitiveList/…`), as the Kubernetes documentation
//! "Update API Objects in Place Using kubectl patch" and its design paper "Strategic Merge Patch" define it.
//! Never validates the outcome.

mod order;

use crate::{
    PatchError, TypeRef,
    types::{Field, Shape, Type},
};
use order::{Identity, reorder};
use serde_json::{Map, Value};
use std::collections::HashSet;

const DIRECTIVE: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const ELEMENT_ORDER: &str = "$setElementOrder/";
const DELETE_FROM_LIST: &str = "$deleteFromPrimitiveList/";

type Object = Map<String, Value>;

/// Applies a strategic merge patch to an object of a built-in kind. When it fails, the object is as it was.
pub fn merge(ty: &TypeRef, object: &mut Value, patch: &Value) -> Result<(), PatchError> {
    if !ty.is_built_in() {
        return Err(PatchError::Unsupported);
    }
    let (Value::Object(original), Value::Object(patch)) = (&*object, patch) else {
        return Err(malformed("a strategic merge patch and what it patches are JSON objects"));
    };
    *object = Value::Object(merge_typed(Some(ty.as_type()), original.clone(), patch.clone())?);
    Ok(())
}

fn malformed(message: impl Into<String>) -> PatchError {
    PatchError::Malformed(message.into())
}

/// What the schema says of a key of an object.
#[derive(Clone, Copy)]
struct Rule<'a> {
    ty: Option<Type<'a>>,
    merges: bool,
    replaces: bool,
    merge_key: Option<&'a str>,
}

fn rule<'a>(ty: Option<Type<'a>>, key: &str) -> Rule<'a> {
    let of_field = |f: Field<'a>| Rule {
        ty: Some(f.ty()),
        merges: f.merges(),
        replaces: f.replaces(),
        merge_key: f.merge_key(),
    };
    let unknown = Rule { ty: None, merges: false, replaces: false, merge_key: None };
    match ty.map(Type::shape) {
        Some(Shape::Struct(s)) => s.field(key).map_or(unknown, of_field),
        Some(Shape::Either { object, .. }) => rule(Some(object), key),
        Some(Shape::Map { value, .. }) => Rule { ty: Some(value), ..unknown },
        _ => unknown,
    }
}

fn merge_typed(ty: Option<Type<'_>>, mut original: Object, mut patch: Object) -> Result<Object, PatchError> {
    if let Some(directive) = patch.remove(DIRECTIVE) {
        match directive.as_str() {
            Some("replace") => return Ok(without_directives(patch)),
            Some("delete") => return Ok(Object::new()),
            Some("merge") => {}
            _ => return Err(malformed(format!("unknown patch type: {directive}"))),
        }
    }
    retain_keys(&mut original, &mut patch)?;
    merge_ordered_lists(ty, &mut original, &mut patch)?;

    for (key, value) in patch {
        if let Some(list) = key.strip_prefix(DELETE_FROM_LIST) {
            delete_from_list(&mut original, list, &value)?;
            continue;
        }
        if value.is_null() {
            original.remove(&key);
            continue;
        }
        let rule = rule(ty, &key);
        let merged = match (original.remove(&key), value) {
            (Some(Value::Object(old)), Value::Object(new)) if !rule.replaces => {
                Some(Value::Object(merge_typed(rule.ty, old, new)?))
            }
            (Some(Value::Array(old)), Value::Array(new)) if rule.merges => {
                Some(Value::Array(merge_list(rule, &key, old, new)?))
            }
            (_, new) => clean(new),
        };
        if let Some(merged) = merged {
            original.insert(key, merged);
        }
    }
    Ok(original)
}

/// `$retainKeys`: of the original, only these keys stay.
fn retain_keys(original: &mut Object, patch: &mut Object) -> Result<(), PatchError> {
    let Some(directive) = patch.remove(RETAIN_KEYS) else { return Ok(()) };
    let bad = || malformed("invalid patch format of retainKeys");
    let Value::Array(keys) = directive else { return Err(bad()) };
    let keys: HashSet<&str> = keys.iter().filter_map(Value::as_str).collect();
    let kept = |key: &String| keys.contains(key.as_str());
    let unlisted = patch.iter().any(|(key, value)| {
        !(value.is_null() || key.starts_with(DELETE_FROM_LIST) || key.starts_with(ELEMENT_ORDER) || kept(key))
    });
    if unlisted {
        return Err(bad());
    }
    original.retain(|key, _| kept(key));
    Ok(())
}

/// `$setElementOrder/LIST`: merges LIST and puts it in the order given. The directive and the list leave the patch.
fn merge_ordered_lists(
    ty: Option<Type<'_>>,
    original: &mut Object,
    patch: &mut Object,
) -> Result<(), PatchError> {
    let directives: Vec<String> = patch.keys().filter(|k| k.starts_with(ELEMENT_ORDER)).cloned().collect();
    for directive in directives {
        let Some(Value::Array(wanted)) = patch.remove(&directive) else {
            return Err(malformed("invalid patch format of setElementOrder list"));
        };
        let key = &directive[ELEMENT_ORDER.len()..];
        let rule = rule(ty, key);
        let list = |value: Option<Value>| match value {
            None | Some(Value::Null) => Ok(None),
            Some(Value::Array(items)) => Ok(Some(items)),
            Some(_) => Err(malformed(format!("{key} is not a list, but {directive} orders it"))),
        };
        let deletes = patch.get(key).is_some_and(Value::is_null);
        let (old, new) = (list(original.get(key).cloned())?, list(patch.get(key).cloned())?);
        if deletes {
            continue; // an explicit null wins over an order
        }
        patch.remove(key);
        if let Some(new) = &new {
            listed(new, &wanted, rule.merge_key)?;
        }
        let merged = match (old.clone(), new) {
            (None, None) => continue,
            (Some(old), None) => old,
            (None, Some(new)) => new.into_iter().filter_map(clean).collect(),
            (Some(old), Some(new)) if rule.merges => merge_list(rule, key, old, new)?,
            (Some(_), Some(new)) => new.into_iter().filter_map(clean).collect(),
        };
        let identity = Identity { key: rule.merge_key };
        let ordered = reorder(identity, merged, &wanted, &old.unwrap_or_default());
        original.insert(key.to_string(), Value::Array(ordered));
    }
    Ok(())
}

/// Every entry of a patch list must be in the order list, and in that order (deletions apart).
fn listed(patch: &[Value], wanted: &[Value], merge_key: Option<&str>) -> Result<(), PatchError> {
    let identity = Identity { key: merge_key };
    let places = identity.places(wanted);
    let mut before = None;
    for item in patch.iter().filter(|i| i.get(DIRECTIVE).is_none()) {
        let place = identity.of(item).and_then(|id| places.get(&id).copied());
        if place.is_none() || place < before {
            return Err(malformed(
                "The order in patch list doesn't match the setElementOrder list, or an entry is missing in it",
            ));
        }
        before = place;
    }
    Ok(())
}

fn delete_from_list(original: &mut Object, key: &str, gone: &Value) -> Result<(), PatchError> {
    let Value::Array(gone) = gone else {
        return Err(malformed("invalid patch format of primitive list"));
    };
    if let Some(Value::Array(items)) = original.get_mut(key) {
        let identity = Identity { key: None };
        let gone = identity.places(gone);
        items.retain(|i| identity.of(i).is_none_or(|id| !gone.contains_key(&id)));
    }
    Ok(())
}

fn merge_list(
    rule: Rule<'_>,
    name: &str,
    old: Vec<Value>,
    new: Vec<Value>,
) -> Result<Vec<Value>, PatchError> {
    let objects = old.iter().chain(&new).filter(|v| v.is_object()).count();
    if objects == 0 {
        if old.iter().chain(&new).any(Value::is_array) {
            return Err(PatchError::Rejected("lists of lists are not supported".to_string()));
        }
        let identity = Identity { key: None };
        let mut seen = HashSet::new();
        let all = old.iter().chain(&new);
        let merged = all.filter(|item| seen.insert(identity.of(item))).cloned().collect();
        return Ok(reorder(identity, merged, &new, &old));
    }
    if objects < old.len() + new.len() {
        return Err(malformed(format!("the entries of {name} are of different types")));
    }
    let Some(key) = rule.merge_key else {
        return Err(PatchError::Rejected(format!("cannot merge lists without merge key for {name}")));
    };
    merge_entries(rule, key, old, new)
}

fn merge_entries(
    rule: Rule<'_>,
    key: &str,
    mut old: Vec<Value>,
    new: Vec<Value>,
) -> Result<Vec<Value>, PatchError> {
    let no_key = |item: &Value| {
        PatchError::Rejected(format!("map: {item} does not contain declared merge key: {key}"))
    };
    let item_type = match rule.ty.map(Type::shape) {
        Some(Shape::List { item, .. }) => Some(item),
        _ => None,
    };
    let identity = Identity { key: Some(key) };
    let mut replace = false;
    let mut entries = Vec::new();
    let mut gone = HashSet::new();
    for item in new {
        match item.get(DIRECTIVE).map(|d| d.as_str().unwrap_or_default()) {
            None => entries.push(item),
            Some("replace") => replace = true,
            Some("delete") => {
                gone.insert(identity.of(&item).ok_or_else(|| no_key(&item))?);
            }
            Some("merge") => return Err(malformed("merging lists cannot yet be specified in the patch")),
            Some(other) => return Err(malformed(format!("unknown patch type: {other}"))),
        }
    }
    if replace {
        return Ok(entries.into_iter().filter_map(clean).collect());
    }
    old.retain(|item| identity.of(item).is_none_or(|id| !gone.contains(&id)));
    let live = old.clone();
    let order = entries.clone();
    let mut places = identity.places(&old);
    for item in entries {
        let id = identity.of(&item).ok_or_else(|| no_key(&item))?;
        match (places.get(&id).and_then(|at| old.get_mut(*at)), item) {
            (Some(Value::Object(found)), Value::Object(item)) => {
                *found = merge_typed(item_type, std::mem::take(found), item)?;
            }
            (_, item) => {
                places.insert(id, old.len());
                old.extend(clean(item));
            }
        }
    }
    Ok(reorder(identity, old, &order, &live))
}

/// A value of the patch that stands alone: directives and nulls have nothing to act on and go. `None` if the value
/// itself says that it goes.
fn clean(value: Value) -> Option<Value> {
    match value {
        Value::Object(map) => match map.get(DIRECTIVE).and_then(Value::as_str) {
            Some("delete") => None,
            _ => Some(Value::Object(without_directives(map))),
        },
        Value::Array(items) => Some(Value::Array(items.into_iter().filter_map(clean).collect())),
        other => Some(other),
    }
}

fn without_directives(map: Object) -> Object {
    let directive = |key: &str| {
        key == DIRECTIVE
            || key == RETAIN_KEYS
            || key.starts_with(ELEMENT_ORDER)
            || key.starts_with(DELETE_FROM_LIST)
    };
    map.into_iter()
        .filter(|(key, value)| !directive(key) && !value.is_null())
        .filter_map(|(key, value)| Some((key, clean(value)?)))
        .collect()
}

#[cfg(test)]
mod laws;
#[cfg(test)]
mod tests;
