//! A live object as the cache keeps it: the bytes of the store, which it shares with the store, and the few parsed fields
//! that selectors and paths need. Immutable; a change makes a new one.

use super::{codec, slim};
use bytes::Bytes;
use orlop_api::Kind;
use orlop_store::{Entry, Revision};
use serde::Deserialize;
use serde_json::Value;
use std::{collections::BTreeMap, sync::Arc};

/// A live object, or the last state of a deleted one.
#[derive(Debug)]
pub(crate) struct Object {
    /// Its key in the store.
    pub key: Arc<str>,
    /// Where in the key the part after the resource's prefix starts.
    suffix_at: u16,
    /// The revision that wrote (or deleted) it.
    pub revision: Revision,
    /// What the store holds: JSON without `resourceVersion`.
    stored: Bytes,
    /// How long the kind's prefix of `stored` is.
    prefix: u16,
    /// Its labels, sorted by key.
    pub labels: Box<[(Box<str>, Box<str>)]>,
    /// The values of the kind's selectable fields, in the kind's order.
    pub fields: Box<[Box<str>]>,
    /// Whether it is in another version than its kind's: it must be converted before it is shown.
    pub foreign: bool,
}

/// How the objects of a kind are stored.
pub(crate) struct Format<'a> {
    pub kind: &'a Kind,
    /// How they begin.
    pub prefix: &'a str,
    /// Whether those of other versions stay as they are.
    pub keeps_versions: bool,
}

#[derive(Deserialize)]
struct Head {
    #[serde(default)]
    metadata: HeadMetadata,
}

#[derive(Default, Deserialize)]
struct HeadMetadata {
    #[serde(default)]
    labels: Option<BTreeMap<Box<str>, Box<str>>>,
}

impl Object {
    /// Reads an entry of the store. `None` where the value is not an object: it was not written by us.
    pub(crate) fn read(format: &Format<'_>, suffix_at: u16, entry: &Entry) -> Option<Self> {
        let (kind, prefix) = (format.kind, format.prefix);
        let encoded = codec::is_encoded(prefix, &entry.value);
        let (stored, prefix, foreign) = if encoded && !kind.rules.reads() {
            (entry.value.clone(), prefix.len(), false)
        } else {
            let mut value: Value = serde_json::from_slice(&entry.value).ok()?;
            let version = value.get("apiVersion").and_then(Value::as_str).unwrap_or_default();
            if format.keeps_versions && version != kind.api_version() {
                let prefix = codec::prefix_of(version, &kind.kind);
                (codec::encode(&prefix, &value), prefix.len(), true)
            } else {
                kind.rules.read(&mut value);
                (codec::encode(prefix, &value), prefix.len(), false)
            }
        };
        let (labels, fields) = if kind.selectable_fields.is_empty() {
            let head: Head = serde_json::from_slice(&stored).ok()?;
            (head.metadata.labels.unwrap_or_default().into_iter().collect(), Box::default())
        } else {
            // What no field is selected by need not be read.
            let asked =
                |key: &&str| kind.selectable_fields.iter().any(|f| f.split('.').any(|part| part == *key));
            let skip: Vec<&str> = slim::LARGE.iter().copied().filter(|key| !asked(key)).collect();
            let value = slim::value(&stored, &skip)?;
            let labels = value.pointer("/metadata/labels").and_then(Value::as_object);
            let labels = labels
                .into_iter()
                .flatten()
                .map(|(k, v)| (k.as_str().into(), v.as_str().unwrap_or_default().into()))
                .collect();
            let fields = kind.selectable_fields.iter().map(|f| kind.rules.field(&value, f).into()).collect();
            (labels, fields)
        };
        Some(Self {
            key: entry.key.clone(),
            suffix_at,
            revision: entry.modified,
            stored,
            prefix: prefix as u16,
            labels,
            fields,
            foreign,
        })
    }

    /// The last state of an object that `revision` deleted.
    pub(crate) fn deleted(&self, revision: Revision) -> Self {
        Self {
            key: self.key.clone(),
            suffix_at: self.suffix_at,
            revision,
            stored: self.stored.clone(),
            prefix: self.prefix,
            labels: self.labels.clone(),
            fields: self.fields.clone(),
            foreign: self.foreign,
        }
    }

    /// The same object as another version shows it: `stored` begins with `prefix`.
    pub(crate) fn shown_as(&self, stored: Bytes, prefix: &str) -> Self {
        Self { stored, prefix: prefix.len() as u16, ..self.deleted(self.revision) }
    }

    /// How what the store holds of it begins.
    pub(crate) fn stored_prefix(&self) -> &str {
        self.stored.get(..self.prefix.into()).and_then(|p| std::str::from_utf8(p).ok()).unwrap_or_default()
    }

    /// The key after the resource's prefix: `NAME` or `NAMESPACE/NAME`.
    pub(crate) fn suffix(&self) -> &str {
        self.key.get(self.suffix_at.into()..).unwrap_or_default()
    }

    /// `metadata.name`.
    pub(crate) fn name(&self) -> &str {
        self.suffix().rsplit_once('/').map_or(self.suffix(), |(_, name)| name)
    }

    /// `metadata.namespace`, empty for cluster-scoped objects.
    pub(crate) fn namespace(&self) -> &str {
        self.suffix().rsplit_once('/').map_or("", |(namespace, _)| namespace)
    }

    /// The value of a label.
    pub(crate) fn label(&self, key: &str) -> Option<&str> {
        let at = self.labels.binary_search_by(|(k, _)| (**k).cmp(key)).ok()?;
        self.labels.get(at).map(|(_, v)| &**v)
    }

    /// Its wire form, JSON.
    pub(crate) fn body(&self) -> Bytes {
        let mut out = Vec::with_capacity(self.stored.len() + codec::MARGIN);
        self.write(&mut out);
        out.into()
    }

    /// What the store holds of it: JSON without `resourceVersion`.
    pub(crate) fn stored(&self) -> &Bytes {
        &self.stored
    }

    /// Appends its wire form.
    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        codec::append(self.prefix.into(), &self.stored, self.revision, out);
    }

    /// About how many bytes its wire form takes.
    pub(crate) fn size(&self) -> usize {
        self.stored.len() + codec::MARGIN
    }

    /// Whether the text occurs anywhere in it: a cheap look before an exact one.
    pub(crate) fn mentions(&self, text: &str) -> bool {
        self.stored.windows(text.len()).any(|w| w == text.as_bytes())
    }

    /// The whole object, parsed.
    pub(crate) fn value(&self) -> Value {
        // It is JSON: it was parsed when the object was read.
        let mut value: Value = serde_json::from_slice(&self.stored).unwrap_or_default();
        if let Some(metadata) = value.get_mut("metadata").and_then(Value::as_object_mut) {
            metadata.insert("resourceVersion".into(), self.revision.to_string().into());
        }
        value
    }
}
