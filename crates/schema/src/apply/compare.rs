//! What differs between two objects, as sets of fields, and what fields an object has. Pure reading.

use super::view::{Entries, MaybeType, View, child, entries, fields, view};
use crate::field_set::{FieldSet, field_step};
use serde_json::Value;
use std::collections::BTreeMap;

/// The fields that differ between an old and a new object.
#[derive(Debug, Default)]
pub(super) struct Comparison {
    /// In the new one only.
    pub(super) added: FieldSet,
    /// In both, with different values.
    pub(super) modified: FieldSet,
    /// In the old one only.
    pub(super) removed: FieldSet,
}

impl Comparison {
    /// Of two objects of one type.
    pub(super) fn of(ty: MaybeType<'_>, old: &Value, new: &Value) -> Self {
        let mut walk = Walk { path: Vec::new(), found: Self::default() };
        walk.compare(ty, Some(old), Some(new), false);
        walk.found
    }

    /// Whether nothing differs.
    pub(super) fn is_empty(&self) -> bool {
        self.added.is_empty() && self.modified.is_empty() && self.removed.is_empty()
    }

    /// What the new object says anew.
    pub(super) fn written(&self) -> FieldSet {
        self.added.union(&self.modified)
    }

    /// Without some fields and all below them.
    pub(super) fn without(mut self, prefixes: &FieldSet) -> Self {
        self.added.prune(prefixes);
        self.modified.prune(prefixes);
        self.removed.prune(prefixes);
        self
    }
}

struct Walk {
    path: Vec<String>,
    found: Comparison,
}

impl Walk {
    fn compare(&mut self, ty: MaybeType<'_>, old: Option<&Value>, new: Option<&Value>, required: bool) {
        let there = |v: &&Value| !v.is_null();
        let (old, new) = (old.filter(there), new.filter(there));
        if old == new {
            return;
        }
        let Some(some) = new.or(old) else { return };
        let shape = match (old, new) {
            (Some(old), Some(new)) if std::mem::discriminant(old) != std::mem::discriminant(new) => {
                View::Leaf
            }
            _ => view(ty, some),
        };
        // An empty object or list is a value of its own, so that it differs from a missing one.
        let empty = |v: Option<&Value>| fields(v).next().is_none() && entries(v).is_empty();
        match shape {
            View::Object if !(empty(old) && empty(new)) => self.objects(ty, old, new),
            View::Entries(list) if !(empty(old) && empty(new)) => self.lists(list, old, new),
            _ => return self.leaf(old, new),
        }
        if old.is_none() && !required {
            self.found.added.insert(&self.path);
        } else if new.is_none() {
            self.found.removed.insert(&self.path);
        }
    }

    fn leaf<T: PartialEq>(&mut self, old: Option<T>, new: Option<T>) {
        match (old, new) {
            (None, Some(_)) => self.found.added.insert(&self.path),
            (Some(_), None) => self.found.removed.insert(&self.path),
            (Some(old), Some(new)) if old != new => self.found.modified.insert(&self.path),
            _ => {}
        }
    }

    fn objects(&mut self, ty: MaybeType<'_>, old: Option<&Value>, new: Option<&Value>) {
        let at = |object: Option<&'_ Value>, key: &str| object.and_then(|o| o.get(key)).is_some();
        for (key, value) in fields(new) {
            let child = child(ty, key);
            self.path.push(field_step(key));
            self.compare(child.ty, old.and_then(|o| o.get(key)), Some(value), child.required);
            self.path.pop();
        }
        for (key, value) in fields(old).filter(|(key, _)| !at(new, key)) {
            self.path.push(field_step(key));
            self.compare(child(ty, key).ty, Some(value), None, false);
            self.path.pop();
        }
    }

    fn lists(&mut self, list: Entries<'_>, old: Option<&Value>, new: Option<&Value>) {
        let mut found: BTreeMap<String, (Vec<&Value>, Vec<&Value>)> = BTreeMap::new();
        for entry in entries(old) {
            found.entry(list.step(entry)).or_default().0.push(entry);
        }
        for entry in entries(new) {
            found.entry(list.step(entry)).or_default().1.push(entry);
        }
        for (step, (old, new)) in found {
            self.path.push(step);
            if old.len() > 1 || new.len() > 1 {
                // Entries that stand twice have no identity of their own: they are compared together.
                let some = |list: Vec<_>| if list.is_empty() { None } else { Some(list) };
                self.leaf(some(old), some(new));
            } else {
                self.compare(Some(list.item), old.first().copied(), new.first().copied(), false);
            }
            self.path.pop();
        }
    }
}

/// The fields of an object: what a manager that applies it owns.
pub(super) fn field_set(ty: MaybeType<'_>, object: &Value) -> FieldSet {
    let mut out = FieldSet::default();
    collect(ty, object, &mut Vec::new(), &mut out);
    out
}

fn collect(ty: MaybeType<'_>, value: &Value, path: &mut Vec<String>, out: &mut FieldSet) {
    match view(ty, value) {
        View::Leaf => out.insert(path),
        View::Object => {
            for (key, value) in fields(Some(value)) {
                let child = child(ty, key);
                path.push(field_step(key));
                let child_is_empty = match value {
                    Value::Null => true,
                    Value::Object(fields) => fields.is_empty(),
                    Value::Array(entries) => entries.is_empty(),
                    _ => false,
                };
                if child_is_empty || !child.declared {
                    out.insert(path);
                }
                collect(child.ty, value, path, out);
                path.pop();
            }
        }
        View::Entries(list) => {
            for entry in entries(Some(value)) {
                path.push(list.step(entry));
                out.insert(path);
                collect(Some(list.item), entry, path, out);
                path.pop();
            }
        }
    }
}

/// The first list entry that stands twice, as its path: a configuration may not have one.
pub(super) fn twice(ty: MaybeType<'_>, value: &Value) -> Option<Vec<String>> {
    match view(ty, value) {
        View::Leaf => None,
        View::Object => fields(Some(value)).find_map(|(key, value)| {
            let mut path = twice(child(ty, key).ty, value)?;
            path.insert(0, field_step(key));
            Some(path)
        }),
        View::Entries(list) => {
            let mut seen = BTreeMap::new();
            entries(Some(value)).iter().find_map(|entry| {
                let step = list.step(entry);
                if seen.insert(step.clone(), ()).is_some() {
                    return Some(vec![step]);
                }
                let mut path = twice(Some(list.item), entry)?;
                path.insert(0, step);
                Some(path)
            })
        }
    }
}
