//! Server-side apply: who owns which field of an object (`metadata.managedFields`), what an applied configuration
//! changes, and with whom it is in conflict (Kubernetes documentation, "Server-Side Apply"; the algorithm is the one
//! of sigs.k8s.io/structured-merge-diff). Never reads a clock: the time of a write is handed in. An entry of another
//! API version of the kind is read as if its paths were those of this one.

mod compare;
mod managers;
mod merge;
mod overlay;
mod view;

pub use overlay::{OverlayError, overlay};

use crate::{
    TypeRef, conform,
    field_set::{FieldSet, field_step},
};
use compare::{Comparison, field_set, twice};
use jiff::Timestamp;
use managers::{Manager, Managers, Operation};
use merge::{merge, remove, with_parents};
use orlop_api::Status;
use serde_json::{Value, json};
use view::MaybeType;

/// Who owns what was there before anybody applied.
const BEFORE_FIRST_APPLY: &str = "before-first-apply";

/// The manager name of `kubectl apply --server-side`, which takes over what `kubectl apply` wrote.
const KUBECTL: &str = "kubectl";

/// Where `kubectl apply` remembers what it wrote.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// Metadata that is the server's, or the object's identity: nobody owns it.
const NEVER_OWNED: [&str; 8] = [
    "name",
    "namespace",
    "creationTimestamp",
    "selfLink",
    "uid",
    "generation",
    "managedFields",
    "resourceVersion",
];

/// Who writes, and how.
#[derive(Clone, Copy, Debug)]
pub struct Writer<'a> {
    /// Name of the field manager: `kubectl-client-side-apply`.
    pub manager: &'a str,
    /// `status`, `scale`, …, or empty for the object itself.
    pub subresource: &'a str,
    /// When.
    pub now: Timestamp,
    /// JSON pointers of what this write does not touch (`/status` on the object itself, `/spec` on `status`): never
    /// owned through it, and left as it is by an apply.
    pub ignored: &'a [&'a str],
}

/// A field that somebody else owns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict {
    /// The owner, as messages name it: `"kubectl-client-side-apply" using apps/v1`.
    pub manager: String,
    /// `.spec.replicas`.
    pub path: String,
}

/// Why a configuration was not applied.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum ApplyError {
    /// The configuration is not one.
    #[error("{0}")]
    Malformed(String),
    /// It is not of its type. Kubernetes has no reason for this, and calls it an error of its own.
    #[error("{0}")]
    Untyped(String),
    /// Others own fields that it would change.
    #[error("{}", conflict_message(.0))]
    Conflict(Vec<Conflict>),
}

impl From<ApplyError> for Status {
    fn from(error: ApplyError) -> Self {
        let message = error.to_string();
        match error {
            ApplyError::Malformed(_) => Self::bad_request(message),
            ApplyError::Untyped(_) => Self::new(500, "", message),
            ApplyError::Conflict(conflicts) => {
                let causes = conflicts.iter().map(|c| {
                    let message = format!("conflict with {}", c.manager);
                    json!({"reason": "FieldManagerConflict", "message": message, "field": c.path})
                });
                let mut status = Self::new(409, "Conflict", message);
                status.details = Some(json!({"causes": causes.collect::<Vec<_>>()}));
                status
            }
        }
    }
}

fn conflict_message(conflicts: &[Conflict]) -> String {
    if let [one] = conflicts {
        return format!("Apply failed with 1 conflict: conflict with {}: {}", one.manager, one.path);
    }
    let mut out = format!("Apply failed with {} conflicts:", conflicts.len());
    let mut before = "";
    for conflict in conflicts {
        if conflict.manager != before {
            before = &conflict.manager;
            let sep = if out.ends_with("conflicts:") { ' ' } else { '\n' };
            out.push_str(&format!("{sep}conflicts with {before}:"));
        }
        out.push_str(&format!("\n- {}", conflict.path));
    }
    out
}

/// Applies `config` to `live` (an object of only `apiVersion`, `kind` and `metadata.name` where there is none yet).
/// The answer is the object to store, before defaulting, with its `managedFields`; it equals `live` if the
/// configuration changes nothing.
pub fn apply(
    ty: &TypeRef,
    live: &Value,
    config: &Value,
    writer: &Writer<'_>,
    force: bool,
) -> Result<Value, ApplyError> {
    let config = checked(ty, config, writer)?;
    let applying = Applying { ty: Some(ty.as_type()), live: bare(live), config, writer };
    let mut managers = Managers::of(live).unwrap_or_default();
    if managers.is_empty() {
        applying.remember_what_was_there(&mut managers);
    }
    let before = managers.clone();
    let (mut object, mut managers) = match applying.run(managers, force) {
        Ok(done) => done,
        Err(mut contested) => {
            if writer.manager == KUBECTL {
                let inherited = applying.inherited();
                contested.iter_mut().for_each(|(_, set)| *set = set.difference(&inherited));
                contested.retain(|(_, set)| !set.is_empty());
            }
            if !contested.is_empty() {
                return Err(conflict(contested));
            }
            applying.run(before.clone(), true).map_err(conflict)?
        }
    };
    let changed = object != applying.live || !managers.same_sets(&before);
    if changed && let Some(mine) = managers.get_mut(&applying.applier()) {
        mine.time = Some(seconds(writer.now));
    }
    managers.drop_idle();
    managers.write(&mut object);
    applying.sync_last_applied(&mut object);
    Ok(object)
}

/// So many bytes of paths are told to be contested.
const MOST_TOLD: usize = 1 << 20;

/// Fields that others own, by how messages name the owners.
type Contested = Vec<(String, FieldSet)>;

fn conflict(mut contested: Contested) -> ApplyError {
    contested.sort_by(|a, b| a.0.cmp(&b.0));
    let mut room = MOST_TOLD;
    let conflicts = contested.iter().flat_map(|(manager, set)| {
        let paths = set.paths_within(&mut room);
        paths.into_iter().map(move |path| Conflict { manager: manager.clone(), path })
    });
    ApplyError::Conflict(conflicts.collect())
}

/// The configuration as an object of its type, or what is wrong with it.
fn checked(ty: &TypeRef, config: &Value, writer: &Writer<'_>) -> Result<Value, ApplyError> {
    let mut checked = config.clone();
    if !checked.is_object() {
        return Err(ApplyError::Malformed("an applied configuration is an object".to_string()));
    }
    if config.pointer("/metadata/managedFields").is_some_and(|m| !m.is_null()) {
        return Err(ApplyError::Malformed("metadata.managedFields must be nil".to_string()));
    }
    let text = |pointer: &str| config.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    let untyped = |why: &str| {
        ApplyError::Untyped(format!(
            "failed to create typed patch object ({}/{}; {}, Kind={}): {why}",
            text("/metadata/namespace"),
            text("/metadata/name"),
            text("/apiVersion"),
            text("/kind"),
        ))
    };
    typed(ty, &mut checked).map_err(|(path, why)| untyped(&format!("{path}: {why}")))?;
    for pointer in writer.ignored {
        take(&mut checked, pointer);
    }
    Ok(checked)
}

/// Makes a configuration fit its type; where it does not, tells the field and the reason.
fn typed(ty: &TypeRef, config: &mut Value) -> Result<(), (String, String)> {
    match conform(ty, config) {
        Err(mismatch) => return Err((format!(".{}", mismatch.path), mismatch.message)),
        Ok(unknown) => {
            let why = "field not declared in schema";
            let all: Vec<String> = unknown.iter().map(|u| format!(".{}", u.path)).collect();
            match all.as_slice() {
                [] => {}
                [one] => return Err((one.clone(), why.to_string())),
                many => {
                    return Err((
                        format!("errors:\n  {}", many.join(&format!(": {why}\n  "))),
                        why.to_string(),
                    ));
                }
            }
        }
    }
    let Some(mut path) = twice(Some(ty.as_type()), config) else { return Ok(()) };
    let step = path.pop().unwrap_or_default();
    let (list, mut entry) = (set_of(&path), FieldSet::default());
    entry.insert(&[step]);
    Err((list.paths().join(""), format!("duplicate entries for key {}", entry.paths().join(""))))
}

fn set_of(path: &[String]) -> FieldSet {
    let mut set = FieldSet::default();
    set.insert(path);
    set
}

/// Removes what a JSON pointer leads to.
fn take(object: &mut Value, pointer: &str) {
    if let Some((parent, key)) = pointer.rsplit_once('/')
        && let Some(Value::Object(map)) = object.pointer_mut(parent)
    {
        map.remove(key);
    }
}

/// The object without its `managedFields`.
fn bare(object: &Value) -> Value {
    let mut bare = object.clone();
    take(&mut bare, "/metadata/managedFields");
    bare
}

/// The fields that `writer` never owns.
fn not_owned(writer: &Writer<'_>) -> FieldSet {
    let mut set = FieldSet::default();
    for key in ["apiVersion", "kind"] {
        set.insert(&[field_step(key)]);
    }
    for key in NEVER_OWNED {
        set.insert(&[field_step("metadata"), field_step(key)]);
    }
    for pointer in writer.ignored {
        set.insert(&pointer.split('/').skip(1).map(field_step).collect::<Vec<_>>());
    }
    set
}

/// `set` without what `writer` never owns. `metadata` itself is no field of anybody either.
fn owned(mut set: FieldSet, writer: &Writer<'_>) -> FieldSet {
    set.prune(&not_owned(writer));
    set.remove_step(&field_step("metadata"));
    set
}

fn api_version(object: &Value) -> &str {
    object.get("apiVersion").and_then(Value::as_str).unwrap_or_default()
}

fn seconds(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

struct Applying<'a> {
    ty: MaybeType<'a>,
    live: Value,
    config: Value,
    writer: &'a Writer<'a>,
}

impl Applying<'_> {
    fn applier(&self) -> Manager {
        let writer = self.writer;
        Manager::new(writer.manager, Operation::Apply, api_version(&self.config), writer.subresource)
    }

    /// An object that nobody is known to own has one owner for all that it says.
    fn remember_what_was_there(&self, managers: &mut Managers) {
        let empty = json!({});
        let there = Comparison::of(self.ty, &empty, &self.live).written();
        let mut before = Manager::new(BEFORE_FIRST_APPLY, Operation::Update, api_version(&self.live), "");
        before.set = owned(there, self.writer);
        before.time = Some(seconds(self.writer.now));
        if !before.set.is_empty() {
            managers.get_or_add(before);
        }
    }

    fn run(&self, mut managers: Managers, force: bool) -> Result<(Value, Managers), Contested> {
        let applier = self.applier();
        let merged = merge(self.ty, &self.live, &self.config);
        let mine = managers.get_or_add(applier.clone());
        let last = std::mem::replace(&mut mine.set, field_set(self.ty, &self.config));
        mine.api_version.clone_from(&applier.api_version);
        // The identity of the object counts as applied here, so that metadata is never taken away as a whole.
        let object = self.prune(merged, &last, &managers);

        let changes = Comparison::of(self.ty, &self.live, &object);
        let written = changes.written();
        let mut conflicts: Contested = Vec::new();
        for other in managers.iter_mut().filter(|m| !m.is(&applier)) {
            let contested = other.set.intersection(&written);
            other.set = other.set.difference(&contested).difference(&changes.removed);
            if !contested.is_empty() {
                conflicts.push((other.print(), contested));
            }
        }
        if !force && !conflicts.is_empty() {
            return Err(conflicts);
        }
        if let Some(mine) = managers.get_mut(&applier) {
            mine.set = owned(std::mem::take(&mut mine.set), self.writer);
        }
        managers.drop_idle();
        Ok((object, managers))
    }

    /// `merged` without what the manager applied last time, does not apply now, and nobody else owns.
    fn prune(&self, merged: Value, last: &FieldSet, managers: &Managers) -> Value {
        if last.is_empty() {
            return merged;
        }
        let ty = self.ty;
        let owned = with_parents(ty, &managers.all_owned());
        let take_out = |set: &FieldSet| remove(ty, &merged, set, &owned).unwrap_or_else(|| json!({}));
        let all_of = |object: &Value| with_parents(ty, &field_set(ty, object));

        let last = with_parents(ty, last);
        let all = all_of(&merged);
        let pruned = all_of(&take_out(&last));
        let kept = pruned.union(&owned);
        let pruned = all_of(&take_out(&all.difference(&kept)));
        take_out(&all.difference(&pruned).intersection(&last))
    }

    /// What `kubectl apply` wrote and still stands as it wrote it: `kubectl apply --server-side` takes it over.
    fn inherited(&self) -> FieldSet {
        let Some(last) = last_applied(&self.live) else { return FieldSet::default() };
        let Ok(last) = serde_json::from_str::<Value>(last) else { return FieldSet::default() };
        let changes = Comparison::of(self.ty, &last, &self.live);
        let changed = changes.written().union(&changes.removed);
        field_set(self.ty, &last).difference(&changed)
    }

    /// Keeps the annotation of `kubectl apply` in step, so that one can go back to it.
    fn sync_last_applied(&self, object: &mut Value) {
        if self.writer.manager != KUBECTL || last_applied(&self.live).is_none() {
            return;
        }
        let mut config = self.config.clone();
        if let Some(Value::Object(annotations)) = config.pointer_mut("/metadata/annotations") {
            annotations.remove(LAST_APPLIED);
        }
        if let Some(Value::Object(annotations)) = object.pointer_mut("/metadata/annotations") {
            annotations.insert(LAST_APPLIED.to_string(), format!("{config}\n").into());
        }
    }
}

fn last_applied(object: &Value) -> Option<&str> {
    object.get("metadata")?.get("annotations")?.get(LAST_APPLIED)?.as_str()
}

/// Brings `new`'s `managedFields` up to date after an ordinary write (create, update, patch) that made it out of
/// `old`. Call it last, after defaulting and admission. A client may send `managedFields` itself, except through a
/// subresource; one that leaves them out loses nothing.
pub fn update_managed_fields(ty: &TypeRef, old: Option<&Value>, new: &mut Value, writer: &Writer<'_>) {
    let ty = Some(ty.as_type());
    let books =
        |object: &'_ Value| object.pointer("/metadata/managedFields").filter(|m| !m.is_null()).cloned();
    let (sent, kept) = (books(new), old.and_then(books));
    let sent = sent.filter(|sent| writer.subresource.is_empty() && kept.as_ref() != Some(sent));
    let nothing;
    let before = match old {
        Some(old) => old,
        None => {
            nothing = unset(ty, new);
            &nothing
        }
    };
    let changes = Comparison::of(ty, before, new).without(&not_owned(writer));
    if changes.is_empty() && sent.is_none() {
        if let Some(Value::Object(metadata)) = new.get_mut("metadata") {
            match kept {
                Some(kept) => metadata.insert("managedFields".to_string(), kept),
                None => metadata.remove("managedFields"),
            };
        }
        return;
    }
    let known = || old.and_then(Managers::of).unwrap_or_default();
    let mut managers = match &sent {
        Some(sent) if is_reset(sent) => Managers::default(),
        Some(_) => Managers::of(new).filter(|m| !m.is_empty()).unwrap_or_else(known),
        None => known(),
    };
    // An object whose owners are not known, or were forgotten on purpose, stays so until somebody applies.
    if !changes.is_empty() && (old.is_none() || !managers.is_empty()) {
        record(&mut managers, changes, api_version(new), writer);
    }
    managers.write(new);
}

/// Whether the client sent the one empty entry by which managers are forgotten.
fn is_reset(sent: &Value) -> bool {
    matches!(sent.as_array().map(Vec::as_slice), Some([one]) if one.as_object().is_some_and(|o| o.is_empty()))
}

/// What an object is before it is created: its parts are there, but empty, as in Go's zero value.
fn unset(ty: MaybeType<'_>, new: &Value) -> Value {
    let mut out = json!({});
    for (key, value) in view::fields(Some(new)) {
        if value.is_object()
            && view::child(ty, key).declared
            && matches!(key.as_str(), "metadata" | "spec" | "status")
        {
            out[key] = json!({});
        }
    }
    out
}

fn record(managers: &mut Managers, changes: Comparison, api_version: &str, writer: &Writer<'_>) {
    let writing = Manager::new(writer.manager, Operation::Update, api_version, writer.subresource);
    let Comparison { added, modified, removed } = changes;
    let mut taken = added;
    taken.absorb(modified);
    for manager in managers.iter_mut() {
        if !removed.is_empty() {
            manager.set = manager.set.difference(&removed);
        }
        if !manager.is(&writing) {
            manager.set = manager.set.difference(&taken);
        }
    }
    taken.remove_step(&field_step("metadata"));
    if !taken.is_empty() {
        let mine = managers.get_or_add(writing);
        mine.set.absorb(taken);
        mine.time = Some(seconds(writer.now));
    }
    managers.drop_idle();
    managers.cap();
}

#[cfg(test)]
mod tests;
