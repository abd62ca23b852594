//! Which objects a list or watch is about: a place (namespace or all), labels and fields.

use super::{Resource, Versions};
use crate::{
    cache::{
        kind_cache::{Event, EventKind},
        object::Object,
    },
    request::ListOptions,
};
use orlop_api::{
    Status,
    selector::{FieldSelector, Selector},
};
use std::sync::Arc;

/// What a field term looks at.
#[derive(Clone, Copy, Debug)]
enum Field {
    Name,
    Namespace,
    /// Index into [`Object::fields`].
    Selectable(usize),
}

/// A selection of the objects of one kind.
#[derive(Clone, Debug)]
pub(crate) struct Selection {
    /// The prefix of their keys.
    pub prefix: String,
    labels: Selector,
    fields: Vec<(Field, String, bool)>,
    /// Terms about fields that only the shown version has: path, value and whether it must differ.
    shown: Vec<(String, String, bool)>,
}

impl Selection {
    /// Reads the selectors of a request; 400 where they are wrong.
    pub(crate) fn new(resource: &Resource, namespace: &str, options: &ListOptions) -> Result<Self, Status> {
        let bad = |e: orlop_api::selector::SelectorError| Status::bad_request(e.to_string());
        let labels = match &options.label_selector {
            Some(text) => Selector::parse(text)
                .map_err(|e| Status::bad_request(format!("unable to parse requirement: {e}")))?,
            None => Selector::everything(),
        };
        let kind = &resource.kind;
        let parsed = match &options.field_selector {
            Some(text) => FieldSelector::parse(text).map_err(bad)?,
            None => FieldSelector::default(),
        };
        parsed.check(kind).map_err(bad)?;
        let mut shown = Vec::new();
        let fields = parsed
            .terms()
            .iter()
            .filter_map(|term| {
                let field = match term.path.as_str() {
                    "metadata.name" => Field::Name,
                    "metadata.namespace" => Field::Namespace,
                    // What the stored object says there is not what the converted one will say.
                    path if matches!(resource.versions, Versions::Asked(_)) => {
                        shown.push((path.to_string(), term.value.clone(), term.negated));
                        return None;
                    }
                    path => Field::Selectable(resource.stored_field(path)?),
                };
                Some((field, term.value.clone(), term.negated))
            })
            .collect();
        let prefix = if namespace.is_empty() {
            resource.cache.key_prefix.clone()
        } else {
            format!("{}{namespace}/", resource.cache.key_prefix)
        };
        Ok(Self { prefix, labels, fields, shown })
    }

    /// Whether only the place restricts it.
    pub(crate) fn is_everything(&self) -> bool {
        self.labels.is_everything() && self.fields.is_empty() && self.shown.is_empty()
    }

    /// Whether objects must be converted before it is known that they are selected.
    pub(crate) fn looks_at_shown(&self) -> bool {
        !self.shown.is_empty()
    }

    /// Whether an object that [`Selection::selects`] does, as the version shows it, matches the rest.
    pub(crate) fn selects_shown(&self, resource: &Resource, shown: &Object) -> bool {
        if self.shown.is_empty() {
            return true;
        }
        let value = shown.value();
        let rules = &resource.kind.rules;
        self.shown.iter().all(|(path, wanted, negated)| (rules.field(&value, path) == *wanted) != *negated)
    }

    /// Whether an object of the right place matches the selectors.
    pub(crate) fn selects(&self, object: &Object) -> bool {
        self.fields.iter().all(|(field, value, negated)| {
            let ours = match field {
                Field::Name => object.name(),
                Field::Namespace => object.namespace(),
                Field::Selectable(at) => object.fields.get(*at).map_or("", |f| f),
            };
            (ours == value) != *negated
        }) && self.labels.matches_with(|key| object.label(key))
    }

    /// How an event looks to somebody who sees only this selection: an object that comes into it is added, one that leaves
    /// is deleted.
    pub(crate) fn sees(&self, event: &Event) -> Option<EventKind> {
        if !event.object.key.starts_with(&self.prefix) {
            return None;
        }
        if self.is_everything() {
            return Some(event.kind);
        }
        let before = event.previous.as_ref().is_some_and(|o: &Arc<Object>| self.selects(o));
        let after = event.kind != EventKind::Deleted && self.selects(&event.object);
        match (before, after) {
            (false, false) => None,
            (false, true) => Some(EventKind::Added),
            (true, true) => Some(EventKind::Modified),
            (true, false) => Some(EventKind::Deleted),
        }
    }
}
