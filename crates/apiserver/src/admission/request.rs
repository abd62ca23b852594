//! What admission is asked about: the facts of one write (admission.k8s.io/v1 `AdmissionRequest`, without the object that the
//! chain may still change). Holds no rules.

use crate::{
    Identity,
    registry::{Registry, WriteContext},
    request::{DeleteOptions, WriteOptions, options::Propagation},
};
use orlop_api::{Kind, Status};
use serde_json::{Value, json};

/// What is done to the object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operation {
    Create,
    Update,
    Delete,
    Connect,
}

impl Operation {
    /// As rules of webhooks and policies write it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Create => "CREATE",
            Self::Update => "UPDATE",
            Self::Delete => "DELETE",
            Self::Connect => "CONNECT",
        }
    }
}

/// The options of the request.
#[derive(Clone, Copy)]
pub(crate) enum Options<'a> {
    Write(&'a WriteOptions),
    Delete(&'a DeleteOptions),
    None,
}

/// A write that asks to be admitted.
#[derive(Clone, Copy)]
pub(crate) struct Request<'a> {
    pub registry: &'a Registry,
    pub operation: Operation,
    /// The resource that is written.
    pub kind: &'a Kind,
    /// Its subresource, or empty.
    pub subresource: &'a str,
    /// Group, version and kind of the object, where that is not `kind`: that of a subresource (`Scale`, `Eviction`).
    pub object_kind: Option<(&'a str, &'a str, &'a str)>,
    /// The resource that was asked for, where it is shown to somebody in another version: `kind`.
    pub original: Option<&'a Kind>,
    pub namespace: &'a str,
    pub name: &'a str,
    /// The object before an update or delete.
    pub old: Option<&'a Value>,
    pub options: Options<'a>,
    pub who: &'a Identity,
    pub dry_run: bool,
}

impl<'a> Request<'a> {
    /// A create, or where there is an `old` object an update.
    pub(crate) fn write(
        registry: &'a Registry,
        kind: &'a Kind,
        subresource: &'a str,
        (namespace, name): (&'a str, &'a str),
        old: Option<&'a Value>,
        cx: &'a WriteContext,
    ) -> Self {
        Self {
            registry,
            operation: if old.is_some() { Operation::Update } else { Operation::Create },
            kind,
            subresource,
            object_kind: None,
            original: None,
            namespace,
            name,
            old,
            options: Options::Write(&cx.options),
            who: &cx.who,
            dry_run: cx.options.dry_run,
        }
    }

    /// Group, version and kind of the object.
    pub(crate) fn object_kind(&self) -> (&str, &str, &str) {
        self.object_kind.unwrap_or((&self.kind.group, &self.kind.version, &self.kind.kind))
    }

    /// Whether it is about this resource, and not a subresource of it.
    pub(crate) fn is(&self, group: &str, plural: &str) -> bool {
        self.subresource.is_empty() && self.kind.group == group && self.kind.plural == plural
    }

    /// 403, with `why` to complete the sentence.
    pub(crate) fn forbidden(&self, why: &str) -> Status {
        Status::forbidden(self.kind, self.name, why)
    }

    /// An object of another kind that a rule looks at.
    pub(crate) fn look_up(&self, kind: (&str, &str, &str), namespace: &str, name: &str) -> Option<Value> {
        let resource = self.registry.find(kind.0, kind.1, kind.2)?;
        Some(resource.get(namespace, name).ok()?.value())
    }

    /// All objects of another kind, in one namespace or, where that is empty, everywhere; none where it is not served.
    pub(crate) fn look_up_all(&self, kind: (&str, &str, &str), namespace: &str) -> Vec<Value> {
        let Some(resource) = self.registry.find(kind.0, kind.1, kind.2) else { return Vec::new() };
        if resource.cache.len() == 0 {
            return Vec::new();
        }
        let prefix = if namespace.is_empty() {
            resource.cache.key_prefix.clone()
        } else {
            format!("{}{namespace}/", resource.cache.key_prefix)
        };
        resource.cache.snapshot(&prefix, None, 0, |_| true).objects.iter().map(|o| o.value()).collect()
    }

    /// The options as an object of meta.k8s.io/v1.
    pub(crate) fn options_json(&self) -> Value {
        let mut json = match (self.options, self.operation) {
            (Options::None, _) => return Value::Null,
            (Options::Write(options), operation) => {
                let kind = match operation {
                    Operation::Create => "CreateOptions",
                    _ if options.patch => "PatchOptions",
                    _ => "UpdateOptions",
                };
                let mut json = json!({"kind": kind, "fieldValidation": options.field_validation.name()});
                if !options.field_manager.is_empty() {
                    json["fieldManager"] = json!(options.field_manager);
                }
                if options.force {
                    json["force"] = json!(true);
                }
                json
            }
            (Options::Delete(options), _) => {
                let mut json = json!({"kind": "DeleteOptions"});
                if let Some(seconds) = options.grace_period_seconds {
                    json["gracePeriodSeconds"] = json!(seconds);
                }
                if let Some(orphan) = options.orphan_dependents {
                    json["orphanDependents"] = json!(orphan);
                }
                if let Some(policy) = options.propagation_policy {
                    json["propagationPolicy"] = json!(match policy {
                        Propagation::Orphan => "Orphan",
                        Propagation::Background => "Background",
                        Propagation::Foreground => "Foreground",
                    });
                }
                json
            }
        };
        json["apiVersion"] = json!("meta.k8s.io/v1");
        if self.dry_run {
            json["dryRun"] = json!(["All"]);
        }
        json
    }
}
