//! A container's environment: literals, references to fields, ConfigMaps and Secrets, Service variables and `$(VAR)`
//! expansion. Objects are handed in; nothing is fetched here.

mod expansion;
mod fields;
mod services;

pub(crate) use expansion::expand;
pub(crate) use fields::{FieldContext, field, resource};
pub(crate) use services::{MASTER, service_variables};

use crate::pod::PodExt;
use k8s_openapi::api::core::v1::{ConfigMap, Container, EnvVar, Pod, Secret};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

/// ConfigMaps and Secrets of the pod's namespace by name, fetched beforehand. What is not in here does not exist.
#[derive(Clone, Debug, Default)]
pub(crate) struct Objects {
    pub config_maps: BTreeMap<String, Arc<ConfigMap>>,
    pub secrets: BTreeMap<String, Arc<Secret>>,
}

/// Names of the ConfigMaps and Secrets that something refers to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct References {
    pub config_maps: BTreeSet<String>,
    pub secrets: BTreeSet<String>,
}

/// What a container's environment refers to.
pub(crate) fn references(container: &Container) -> References {
    let mut all = References::default();
    for from in container.env_from.iter().flatten() {
        all.config_maps.extend(from.config_map_ref.as_ref().map(|r| r.name.clone()));
        all.secrets.extend(from.secret_ref.as_ref().map(|r| r.name.clone()));
    }
    for source in container.env.iter().flatten().filter_map(|v| v.value_from.as_ref()) {
        all.config_maps.extend(source.config_map_key_ref.as_ref().map(|r| r.name.clone()));
        all.secrets.extend(source.secret_key_ref.as_ref().map(|r| r.name.clone()));
    }
    all
}

/// The environment of a container in order, without the image's. An error is the message of `CreateContainerConfigError`.
pub(crate) fn environment(
    context: &FieldContext<'_>,
    container: &Container,
    services: &BTreeMap<String, String>,
    objects: &Objects,
) -> Result<Vec<(String, String)>, String> {
    let mut known: BTreeMap<String, String> = BTreeMap::new();
    let mut order: Vec<String> = Vec::new();
    for (name, value) in from_sources(context.pod, container, objects)? {
        put(&mut known, &mut order, name, value);
    }
    for variable in container.env.iter().flatten() {
        let value = match value(context, container, variable, objects)? {
            Some(Value::Text(text)) => expand(&text, |name| known.get(name).or_else(|| services.get(name))),
            Some(Value::Verbatim(text)) => text,
            None => continue,
        };
        put(&mut known, &mut order, variable.name.clone(), value);
    }
    let own = services.iter().filter(|(name, _)| !known.contains_key(*name));
    let mut all: Vec<(String, String)> = own.map(|(n, v)| (n.clone(), v.clone())).collect();
    all.extend(order.into_iter().filter_map(|name| known.get(&name).map(|v| (name.clone(), v.clone()))));
    Ok(all)
}

fn put(known: &mut BTreeMap<String, String>, order: &mut Vec<String>, name: String, value: String) {
    if known.insert(name.clone(), value).is_none() {
        order.push(name);
    }
}

/// The variables that `envFrom` brings.
fn from_sources(
    pod: &Pod,
    container: &Container,
    objects: &Objects,
) -> Result<Vec<(String, String)>, String> {
    let mut all = Vec::new();
    for from in container.env_from.iter().flatten() {
        let prefix = from.prefix.clone().unwrap_or_default();
        if let Some(wanted) = &from.config_map_ref {
            match objects.config_maps.get(&wanted.name) {
                Some(map) => {
                    let data = map.data.iter().flatten();
                    all.extend(data.map(|(k, v)| (format!("{prefix}{k}"), v.clone())));
                }
                None if wanted.optional == Some(true) => {}
                None => return Err(format!("configmap \"{}\" not found", wanted.name)),
            }
        }
        if let Some(wanted) = &from.secret_ref {
            match objects.secrets.get(&wanted.name) {
                Some(secret) => {
                    for (key, value) in secret.data.iter().flatten() {
                        all.push((
                            format!("{prefix}{key}"),
                            utf8(&value.0, pod.namespace(), &wanted.name, key)?,
                        ));
                    }
                }
                None if wanted.optional == Some(true) => {}
                None => return Err(format!("secret \"{}\" not found", wanted.name)),
            }
        }
    }
    Ok(all)
}

enum Value {
    /// Subject to expansion.
    Text(String),
    /// From elsewhere, taken as it is.
    Verbatim(String),
}

fn value(
    context: &FieldContext<'_>,
    container: &Container,
    variable: &EnvVar,
    objects: &Objects,
) -> Result<Option<Value>, String> {
    let Some(source) = &variable.value_from else {
        return Ok(Some(Value::Text(variable.value.clone().unwrap_or_default())));
    };
    let namespace = context.pod.namespace();
    let found = if let Some(wanted) = &source.field_ref {
        Some(field(context, &wanted.field_path)?)
    } else if let Some(wanted) = &source.resource_field_ref {
        Some(resource(context, Some(container), wanted)?)
    } else if let Some(wanted) = &source.config_map_key_ref {
        let optional = wanted.optional == Some(true);
        let Some(map) = objects.config_maps.get(&wanted.name) else {
            return absent(optional, format!("configmap \"{}\" not found", wanted.name));
        };
        let Some(text) = map.data.as_ref().and_then(|d| d.get(&wanted.key)) else {
            let why = format!("couldn't find key {} in ConfigMap {namespace}/{}", wanted.key, wanted.name);
            return absent(optional, why);
        };
        Some(text.clone())
    } else if let Some(wanted) = &source.secret_key_ref {
        let optional = wanted.optional == Some(true);
        let Some(secret) = objects.secrets.get(&wanted.name) else {
            return absent(optional, format!("secret \"{}\" not found", wanted.name));
        };
        let Some(bytes) = secret.data.as_ref().and_then(|d| d.get(&wanted.key)) else {
            let why = format!("couldn't find key {} in Secret {namespace}/{}", wanted.key, wanted.name);
            return absent(optional, why);
        };
        Some(utf8(&bytes.0, namespace, &wanted.name, &wanted.key)?)
    } else {
        return Err(format!("environment variable {} has a source that is not supported", variable.name));
    };
    Ok(found.map(Value::Verbatim))
}

fn absent(optional: bool, why: String) -> Result<Option<Value>, String> {
    if optional { Ok(None) } else { Err(why) }
}

fn utf8(bytes: &[u8], namespace: &str, name: &str, key: &str) -> Result<String, String> {
    String::from_utf8(bytes.to_vec())
        .map_err(|_| format!("key {key} in Secret {namespace}/{name} is not text and cannot be a variable"))
}

#[cfg(test)]
mod tests;
