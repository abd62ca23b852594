//! Several versions of one stored kind: objects are kept in one of them and shown in each. Kinds with a single version never
//! come here: for them every function returns what it was given.

use super::Resource;
use crate::cache::{codec, object::Object};
use async_trait::async_trait;
use bytes::Bytes;
use orlop_api::{Conversion, Status};
use orlop_store::Revision;
use serde_json::Value;
use std::sync::Arc;

/// Somebody who must be asked to convert objects.
#[async_trait]
pub(crate) trait Converter: Send + Sync {
    /// The same objects in the wanted `apiVersion`, in the same order.
    async fn convert(&self, objects: Vec<Value>, api_version: &str) -> Result<Vec<Value>, Status>;
}

/// How the objects of a version come out of stored ones.
#[derive(Clone)]
pub(crate) enum Versions {
    /// They are what is stored.
    Stored,
    /// By a pure rule.
    Pure(Arc<dyn Conversion>),
    /// Only `apiVersion` differs (strategy `None`).
    Renamed,
    /// By somebody who is asked.
    Asked(Arc<dyn Converter>),
}

impl Resource {
    /// Whether an object of the cache can be shown as it is.
    fn is_shown_as_stored(&self, object: &Object) -> bool {
        match &self.versions {
            Versions::Stored => true,
            Versions::Asked(_) => self.is_stored_version() && !object.foreign,
            Versions::Pure(_) | Versions::Renamed => false,
        }
    }

    /// Whether this version is the one that is stored.
    fn is_stored_version(&self) -> bool {
        self.kind.version == self.cache.kind.version && self.kind.group == self.cache.kind.group
    }

    /// Where the cache keeps what a selectable field of this version is about.
    pub(crate) fn stored_field(&self, path: &str) -> Option<usize> {
        let stored = match &self.versions {
            Versions::Pure(rule) => rule.stored_field(path),
            _ => path.to_string().into(),
        };
        self.cache.kind.selectable_fields.iter().position(|f| *f == stored)
    }

    fn label(&self, object: &mut Value) {
        if let Some(members) = object.as_object_mut() {
            members.insert("apiVersion".into(), self.kind.api_version().into());
            members.insert("kind".into(), self.kind.kind.to_string().into());
        }
    }

    /// Stored objects in this version. Values, not bytes.
    async fn convert_shown(&self, mut values: Vec<Value>) -> Result<Vec<Value>, Status> {
        match &self.versions {
            Versions::Stored => return Ok(values),
            Versions::Pure(rule) => values.iter_mut().for_each(|v| rule.show_stored(v)),
            Versions::Renamed => {}
            Versions::Asked(converter) => {
                values = converter.convert(values, &self.kind.api_version()).await?;
            }
        }
        for value in &mut values {
            self.label(value);
            self.kind.rules.read(value);
        }
        Ok(values)
    }

    /// An object of this version as another version of the same kind shows it.
    pub(crate) async fn convert_to(&self, other: &Self, object: &Value) -> Result<Value, Status> {
        let mut value = object.clone();
        self.label(&mut value);
        match (&self.versions, &other.versions) {
            (Versions::Asked(converter), _) | (_, Versions::Asked(converter)) => {
                let wanted = other.kind.api_version();
                value = converter.convert(vec![value], &wanted).await?.pop().unwrap_or_default();
            }
            (from, to) => {
                if let Versions::Pure(rule) = from {
                    rule.to_stored(&mut value);
                }
                if let Versions::Pure(rule) = to {
                    rule.show_stored(&mut value);
                }
            }
        }
        other.label(&mut value);
        Ok(value)
    }

    /// Objects of the cache as this version shows them.
    pub(crate) async fn show(&self, objects: Vec<Arc<Object>>) -> Result<Vec<Arc<Object>>, Status> {
        if objects.iter().all(|o| self.is_shown_as_stored(o)) {
            return Ok(objects);
        }
        let values = objects.iter().map(|o| o.value()).collect();
        let values = self.convert_shown(values).await?;
        let shown = objects.iter().zip(values).map(|(object, value)| {
            let stored = codec::encode(&self.body_prefix, &value);
            Arc::new(object.shown_as(stored, &self.body_prefix))
        });
        Ok(shown.collect())
    }

    /// An object of the cache as this version shows it.
    pub(crate) async fn show_one(&self, object: Arc<Object>) -> Result<Arc<Object>, Status> {
        if self.is_shown_as_stored(&object) {
            return Ok(object);
        }
        let shown = self.show(vec![object.clone()]).await?;
        Ok(shown.into_iter().next().unwrap_or(object))
    }

    /// An object of this version, ready for the store: its stored form.
    pub(crate) async fn to_stored(&self, object: &Value) -> Result<Bytes, Status> {
        let plain = match &self.versions {
            Versions::Stored => true,
            Versions::Asked(_) => self.is_stored_version(),
            Versions::Pure(_) | Versions::Renamed => false,
        };
        if plain {
            return Ok(codec::encode(&self.cache.body_prefix, object));
        }
        let mut value = object.clone();
        match &self.versions {
            Versions::Pure(rule) => rule.to_stored(&mut value),
            Versions::Asked(converter) => {
                let wanted = self.cache.kind.api_version();
                value = converter.convert(vec![value], &wanted).await?.pop().unwrap_or_default();
            }
            Versions::Stored | Versions::Renamed => {}
        }
        Ok(codec::encode(&self.cache.body_prefix, &value))
    }

    /// What is answered to a write that stored `stored`: the object as this version shows it.
    pub(crate) fn body(&self, object: &Value, stored: &Bytes, revision: Revision) -> Bytes {
        match self.versions {
            Versions::Stored => codec::with_revision(&self.body_prefix, stored, revision),
            _ => {
                let shown = codec::encode(&self.body_prefix, object);
                codec::with_revision(&self.body_prefix, &shown, revision)
            }
        }
    }
}
