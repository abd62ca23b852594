//! Sets of fields, as `metadata.managedFields` holds them (sigs.k8s.io/structured-merge-diff, "fieldsV1"): a tree
//! whose steps are `f:NAME` (a field or map key), `k:{…}` (a list entry by its keys), `v:…` (a list entry by its
//! value) and `i:N`. Plain set algebra; where paths come from is the business of `apply`.

use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// A set of paths.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldSet {
    steps: BTreeMap<String, Node>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Node {
    /// Whether the path that ends here is in the set.
    member: bool,
    below: FieldSet,
}

/// The step to a field or map key.
pub fn field_step(name: &str) -> String {
    format!("f:{name}")
}

/// The step to a list entry known by its value.
pub fn value_step(value: &Value) -> String {
    format!("v:{value}")
}

/// The step to a list entry known by its keys; `keys` need no order.
pub fn key_step<'a>(keys: impl Iterator<Item = (&'a str, Value)>) -> String {
    let sorted: BTreeMap<&str, Value> = keys.collect();
    let fields: Vec<String> =
        sorted.iter().map(|(k, v)| format!("{}:{v}", Value::String(k.to_string()))).collect();
    format!("k:{{{}}}", fields.join(","))
}

impl FieldSet {
    /// Whether nothing is in it.
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }

    /// How many paths are in it.
    pub fn len(&self) -> usize {
        self.steps.values().map(|n| usize::from(n.member) + n.below.len()).sum()
    }

    /// Adds a path. The empty path names the whole object, which nobody owns.
    pub fn insert(&mut self, path: &[String]) {
        let Some((first, rest)) = path.split_first() else { return };
        let node = self.steps.entry(first.clone()).or_default();
        if rest.is_empty() {
            node.member = true;
        } else {
            node.below.insert(rest);
        }
    }

    /// Whether a path is in it.
    pub fn has(&self, path: &[&str]) -> bool {
        match path {
            [] => false,
            [last] => self.steps.get(*last).is_some_and(|n| n.member),
            [first, rest @ ..] => self.steps.get(*first).is_some_and(|n| n.below.has(rest)),
        }
    }

    /// Whether the path of this one step is in it.
    pub fn has_step(&self, step: &str) -> bool {
        self.steps.get(step).is_some_and(|n| n.member)
    }

    /// The paths that begin with `step`, without it.
    pub fn below(&self, step: &str) -> Option<&FieldSet> {
        self.steps.get(step).map(|n| &n.below).filter(|b| !b.is_empty())
    }

    /// Every first step, whether a path of it alone is in the set, and what is below it.
    pub fn steps(&self) -> impl Iterator<Item = (&str, bool, &FieldSet)> {
        self.steps.iter().map(|(step, n)| (step.as_str(), n.member, &n.below))
    }

    /// Puts `below` under `step`, which is itself in the set if `member`.
    pub fn put(&mut self, step: &str, member: bool, below: FieldSet) {
        if member || !below.is_empty() {
            self.steps.insert(step.to_string(), Node { member, below });
        }
    }

    /// What is in either.
    pub fn union(&self, other: &FieldSet) -> FieldSet {
        let mut out = self.clone();
        out.absorb(other.clone());
        out
    }

    /// What is in both.
    pub fn intersection(&self, other: &FieldSet) -> FieldSet {
        self.combine(other, |mine, theirs| mine && theirs, Self::intersection, false)
    }

    /// What is in this one only.
    pub fn difference(&self, other: &FieldSet) -> FieldSet {
        self.combine(other, |mine, theirs| mine && !theirs, Self::difference, true)
    }

    fn combine(
        &self,
        other: &FieldSet,
        member: impl Fn(bool, bool) -> bool,
        below: impl Fn(&FieldSet, &FieldSet) -> FieldSet,
        keep_unmatched: bool,
    ) -> FieldSet {
        let mut out = FieldSet::default();
        for (step, node) in &self.steps {
            match other.steps.get(step) {
                Some(theirs) => {
                    out.put(step, member(node.member, theirs.member), below(&node.below, &theirs.below));
                }
                None if keep_unmatched => {
                    out.steps.insert(step.clone(), node.clone());
                }
                None => {}
            }
        }
        out
    }

    /// Takes in all of another set.
    pub fn absorb(&mut self, other: FieldSet) {
        if self.is_empty() {
            *self = other;
            return;
        }
        for (step, node) in other.steps {
            match self.steps.get_mut(&step) {
                Some(mine) => {
                    mine.member |= node.member;
                    mine.below.absorb(node.below);
                }
                None => {
                    self.steps.insert(step, node);
                }
            }
        }
    }

    /// Takes out `prefixes` and everything below them.
    pub fn prune(&mut self, prefixes: &FieldSet) {
        for (step, prefix) in &prefixes.steps {
            let Some(node) = self.steps.get_mut(step) else { continue };
            if !prefix.member {
                node.below.prune(&prefix.below);
            }
            if prefix.member || !node.member && node.below.is_empty() {
                self.steps.remove(step);
            }
        }
    }

    /// Takes out the path of this one step, but not what is below it.
    pub fn remove_step(&mut self, step: &str) {
        let Some(node) = self.steps.get_mut(step) else { return };
        node.member = false;
        if node.below.is_empty() {
            self.steps.remove(step);
        }
    }

    /// All paths, printed as in conflict messages: `.spec.containers[name="web"].image`.
    pub fn paths(&self) -> Vec<String> {
        let mut room = usize::MAX;
        self.paths_within(&mut room)
    }

    /// The first of them, as many as there is room for in so many bytes, which are taken from it.
    pub fn paths_within(&self, room: &mut usize) -> Vec<String> {
        let mut out = Vec::new();
        self.print(&mut String::new(), room, &mut out);
        out
    }

    fn print(&self, prefix: &mut String, room: &mut usize, out: &mut Vec<String>) {
        for (step, node) in &self.steps {
            if *room == 0 {
                return;
            }
            let len = prefix.len();
            push_step(prefix, step);
            if node.member {
                *room = room.saturating_sub(prefix.len() + 1);
                out.push(prefix.clone());
            }
            node.below.print(prefix, room, out);
            prefix.truncate(len);
        }
    }

    /// `fieldsV1`.
    pub fn into_json(self) -> Value {
        let json = |(step, node): (String, Node)| {
            let parts = node.member && !node.below.is_empty();
            let mut below = node.below.into_json();
            if parts {
                below["."] = Value::Object(Map::new());
            }
            (step, below)
        };
        Value::Object(self.steps.into_iter().map(json).collect())
    }

    /// From `fieldsV1`; `None` if it is none.
    pub fn from_json(json: &Value) -> Option<FieldSet> {
        let mut out = FieldSet::default();
        for (step, below) in json.as_object()? {
            if step == "." {
                continue; // read one level up
            }
            let fields = below.as_object()?;
            let member = fields.is_empty() || fields.contains_key(".");
            out.put(&canonical_step(step)?, member, FieldSet::from_json(below)?);
        }
        Some(out)
    }
}

/// A step as this module writes it, from one that somebody else wrote.
fn canonical_step(step: &str) -> Option<String> {
    let (sort, rest) = step.split_once(':')?;
    match sort {
        "f" => Some(step.to_string()),
        "i" => rest.parse::<u64>().ok().map(|_| step.to_string()),
        "v" => serde_json::from_str::<Value>(rest).ok().map(|v| value_step(&v)),
        "k" => {
            let keys: Map<String, Value> = serde_json::from_str(rest).ok()?;
            Some(key_step(keys.iter().map(|(k, v)| (k.as_str(), v.clone()))))
        }
        _ => None,
    }
}

fn push_step(out: &mut String, step: &str) {
    match step.split_once(':') {
        Some(("f", name)) => {
            out.push('.');
            out.push_str(name);
        }
        Some(("v", value)) => out.push_str(&format!("[={value}]")),
        Some(("i", index)) => out.push_str(&format!("[{index}]")),
        Some((_, keys)) => {
            let keys: BTreeMap<String, Value> = serde_json::from_str(keys).unwrap_or_default();
            let keys: Vec<String> = keys.iter().map(|(k, v)| format!("{k}={v}")).collect();
            out.push_str(&format!("[{}]", keys.join(",")));
        }
        None => out.push_str(step),
    }
}

#[cfg(test)]
mod tests;
