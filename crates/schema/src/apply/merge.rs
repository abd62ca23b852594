//! Lays an applied configuration over a live object, and takes fields out of one. Knows nothing of owners.

use super::view::{Entries, MaybeType, View, below, child, entries, fields, view};
use crate::field_set::{FieldSet, field_step};
use serde_json::{Map, Value, json};
use std::collections::{HashMap, HashSet};

/// `live` with all that `config` says.
pub(super) fn merge(ty: MaybeType<'_>, live: &Value, config: &Value) -> Value {
    match (view(ty, config), live) {
        (View::Object, Value::Object(_)) => {
            let mut out = Map::new();
            for (key, old) in fields(Some(live)) {
                let merged = match config.get(key) {
                    Some(new) => merge(child(ty, key).ty, old, new),
                    None => old.clone(),
                };
                out.insert(key.clone(), merged);
            }
            for (key, new) in fields(Some(config)) {
                if !out.contains_key(key) {
                    out.insert(key.clone(), new.clone());
                }
            }
            Value::Object(out)
        }
        (View::Entries(list), Value::Array(live)) => {
            Value::Array(merge_entries(list, live, entries(Some(config))))
        }
        _ => config.clone(),
    }
}

/// Entries of the configuration keep its order; those that only the live list has keep their place before what
/// followed them.
fn merge_entries(list: Entries<'_>, live: &[Value], config: &[Value]) -> Vec<Value> {
    let live: Vec<(String, &Value)> = live.iter().map(|e| (list.step(e), e)).collect();
    let config: Vec<(String, &Value)> = config.iter().map(|e| (list.step(e), e)).collect();
    let configured: HashSet<&str> = config.iter().map(|(step, _)| step.as_str()).collect();
    let mut lived: HashMap<&str, &Value> = HashMap::new();
    for (step, entry) in &live {
        lived.entry(step).or_insert(entry);
    }
    let mut out = Vec::with_capacity(live.len() + config.len());
    let mut live = live.iter().peekable();
    let mut config = config.iter();
    // The next entry that both have, in the order of the configuration.
    let mut shared = config.clone().filter(|(step, _)| lived.contains_key(step.as_str())).peekable();
    loop {
        if let Some((step, entry)) = live.peek() {
            if !configured.contains(step.as_str()) {
                out.push((*entry).clone());
                live.next();
                continue;
            }
            if shared.peek().is_none_or(|(next, _)| next != step) {
                live.next(); // stands, or will stand, where the configuration has it
                continue;
            }
        }
        let Some((step, new)) = config.next() else { return out };
        match lived.get(step.as_str()) {
            Some(old) => {
                shared.next();
                out.push(merge(Some(list.item), old, new));
            }
            None => out.push((*new).clone()),
        }
    }
}

/// `value` without the fields in `set` and all below them. What is emptied by that goes too, unless it is in
/// `owned`; `None` if nothing is left.
pub(super) fn remove(ty: MaybeType<'_>, value: &Value, set: &FieldSet, owned: &FieldSet) -> Option<Value> {
    match view(ty, value) {
        View::Leaf => Some(value.clone()),
        View::Object => {
            let mut out = Map::new();
            for (key, value) in fields(Some(value)) {
                let kept = kept(child(ty, key).ty, value, &field_step(key), (set, owned));
                out.extend(kept.map(|v| (key.clone(), v)));
            }
            let emptied = out.is_empty() && fields(Some(value)).next().is_some();
            (!emptied).then_some(Value::Object(out))
        }
        View::Entries(list) => {
            let entries = entries(Some(value));
            let kept = |e: &Value| kept(Some(list.item), e, &list.step(e), (set, owned));
            let out: Vec<Value> = entries.iter().filter_map(kept).collect();
            let emptied = out.is_empty() && !entries.is_empty();
            (!emptied).then_some(Value::Array(out))
        }
    }
}

fn kept(ty: MaybeType<'_>, value: &Value, step: &str, (set, owned): (&FieldSet, &FieldSet)) -> Option<Value> {
    if set.has_step(step) {
        return None;
    }
    let Some(below) = set.below(step) else { return Some(value.clone()) };
    let nothing = FieldSet::default();
    let left = remove(ty, value, below, owned.below(step).unwrap_or(&nothing));
    left.or_else(|| owned.has_step(step).then(|| if value.is_array() { json!([]) } else { json!({}) }))
}

/// `set` with every declared field on the way to a member as a member too, so that emptied objects go with their
/// last field.
pub(super) fn with_parents(ty: MaybeType<'_>, set: &FieldSet) -> FieldSet {
    let mut out = FieldSet::default();
    for (step, member, inner) in set.steps() {
        let (ty, declared) = below(ty, step);
        out.put(step, member || declared, with_parents(ty, inner));
    }
    out
}
