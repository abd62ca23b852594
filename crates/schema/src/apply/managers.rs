//! `metadata.managedFields`: who owns which fields, read and written in the form of meta/v1
//! `ManagedFieldsEntry`. Never decides who should own what.

use crate::field_set::FieldSet;
use jiff::Timestamp;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// How many managers of ordinary writes an object remembers one by one.
const MAX_UPDATERS: usize = 10;

/// Who owns what the oldest of them wrote.
const ANCIENT: &str = "ancient-changes";

/// How a manager writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Operation {
    /// By server-side apply.
    Apply,
    /// By any other write.
    Update,
}

/// One manager and what it owns.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Manager {
    pub(super) name: String,
    pub(super) operation: Operation,
    pub(super) api_version: String,
    pub(super) subresource: String,
    /// When it last took a field, RFC 3339.
    pub(super) time: Option<String>,
    pub(super) set: FieldSet,
}

impl Manager {
    /// A manager that owns nothing yet.
    pub(super) fn new(name: &str, operation: Operation, api_version: &str, subresource: &str) -> Self {
        Self {
            name: name.to_string(),
            operation,
            api_version: api_version.to_string(),
            subresource: subresource.to_string(),
            time: None,
            set: FieldSet::default(),
        }
    }

    /// Whether both are the same manager. One that applies is the same in all versions of the API.
    pub(super) fn is(&self, other: &Manager) -> bool {
        self.name == other.name
            && self.operation == other.operation
            && self.subresource == other.subresource
            && (self.operation == Operation::Apply || self.api_version == other.api_version)
    }

    /// How conflict messages name it.
    pub(super) fn print(&self) -> String {
        let mut out = format!("{:?}", self.name);
        if !self.subresource.is_empty() {
            out.push_str(&format!(" with subresource {:?}", self.subresource));
        }
        if self.operation == Operation::Update {
            out.push_str(&format!(" using {}", self.api_version));
        }
        out
    }

    fn into_json(self) -> Value {
        let mut entry = json!({
            "manager": self.name,
            "operation": match self.operation { Operation::Apply => "Apply", Operation::Update => "Update" },
            "apiVersion": self.api_version,
            "fieldsType": "FieldsV1",
        });
        entry["fieldsV1"] = self.set.into_json();
        if let Some(time) = &self.time {
            entry["time"] = json!(time);
        }
        if !self.subresource.is_empty() {
            entry["subresource"] = json!(self.subresource);
        }
        entry
    }

    fn from_json(entry: &Value) -> Option<Self> {
        let text = |key: &str| entry.get(key).and_then(Value::as_str);
        let operation = match text("operation")? {
            "Apply" => Operation::Apply,
            "Update" => Operation::Update,
            _ => return None,
        };
        if text("fieldsType") != Some("FieldsV1") {
            return None;
        }
        let set = match entry.get("fieldsV1") {
            Some(fields) => FieldSet::from_json(fields)?,
            None => FieldSet::default(),
        };
        let mut manager = Self::new(
            text("manager").unwrap_or_default(),
            operation,
            text("apiVersion")?,
            text("subresource").unwrap_or_default(),
        );
        manager.time = text("time").map(str::to_string);
        manager.set = set;
        Some(manager)
    }
}

/// All managers of an object.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Managers(Vec<Manager>);

impl Managers {
    /// Of an object; `None` if what stands there cannot be read.
    pub(super) fn of(object: &Value) -> Option<Self> {
        match object.pointer("/metadata/managedFields") {
            None | Some(Value::Null) => Some(Self::default()),
            Some(entries) => {
                entries.as_array()?.iter().map(Manager::from_json).collect::<Option<Vec<_>>>().map(Self)
            }
        }
    }

    /// Whether there are none.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Each of them.
    #[cfg(test)]
    pub(super) fn iter(&self) -> impl Iterator<Item = &Manager> {
        self.0.iter()
    }

    /// Each of them, to change.
    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Manager> {
        self.0.iter_mut()
    }

    /// The one that is `who`, if it owns anything.
    pub(super) fn get(&self, who: &Manager) -> Option<&Manager> {
        self.0.iter().find(|m| m.is(who))
    }

    /// The same, to change.
    pub(super) fn get_mut(&mut self, who: &Manager) -> Option<&mut Manager> {
        self.0.iter_mut().find(|m| m.is(who))
    }

    /// The one that is `who`, added if need be.
    pub(super) fn get_or_add(&mut self, who: Manager) -> &mut Manager {
        let at = self.0.iter().position(|m| m.is(&who)).unwrap_or(self.0.len());
        if at == self.0.len() {
            self.0.push(who);
        }
        &mut self.0[at]
    }

    /// Drops managers that own nothing.
    pub(super) fn drop_idle(&mut self) {
        self.0.retain(|m| !m.set.is_empty());
    }

    /// Everything that anybody owns.
    pub(super) fn all_owned(&self) -> FieldSet {
        self.0.iter().fold(FieldSet::default(), |all, m| all.union(&m.set))
    }

    /// Whether both own the same, whenever they took it.
    pub(super) fn same_sets(&self, other: &Managers) -> bool {
        self.0.len() == other.0.len()
            && self
                .0
                .iter()
                .all(|m| other.get(m).is_some_and(|o| o.set == m.set && o.api_version == m.api_version))
    }

    /// Merges the oldest managers of ordinary writes into one for each version, until few enough are left.
    pub(super) fn cap(&mut self) {
        let updates = |m: &&Manager| m.operation == Operation::Update;
        let mut count = self.0.iter().filter(updates).count();
        if count <= MAX_UPDATERS {
            return;
        }
        let mut updaters: Vec<Manager> = self.0.iter().filter(updates).cloned().collect();
        updaters.sort_by(|a, b| (a.moment(), &a.name).cmp(&(b.moment(), &b.name)));
        let mut first: BTreeMap<String, Manager> = BTreeMap::new();
        for old in updaters {
            if count <= MAX_UPDATERS {
                break;
            }
            let Some(before) = first.get(&old.api_version).cloned() else {
                first.insert(old.api_version.clone(), old);
                continue;
            };
            let bucket = Manager::new(ANCIENT, Operation::Update, &old.api_version, "");
            if old.is(&bucket) {
                continue;
            }
            let gathered = match self.get(&bucket) {
                Some(bucket) => bucket.set.union(&old.set),
                None => {
                    self.0.retain(|m| !m.is(&before));
                    before.set.union(&old.set)
                }
            };
            self.0.retain(|m| !m.is(&old));
            let bucket = self.get_or_add(bucket);
            bucket.set = gathered;
            bucket.time = old.time;
            count -= 1;
        }
    }

    /// Writes them into an object.
    pub(super) fn write(mut self, object: &mut Value) {
        let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) else { return };
        if self.0.is_empty() {
            metadata.remove("managedFields");
            return;
        }
        self.0.sort_by(|a, b| {
            let key = |m: &Manager| {
                (m.operation, m.moment(), m.name.clone(), m.api_version.clone(), m.subresource.clone())
            };
            key(a).cmp(&key(b))
        });
        let entries: Vec<Value> = self.0.into_iter().map(Manager::into_json).collect();
        metadata.insert("managedFields".to_string(), entries.into());
    }
}

impl Manager {
    fn moment(&self) -> Option<Timestamp> {
        self.time.as_deref()?.parse().ok()
    }
}
