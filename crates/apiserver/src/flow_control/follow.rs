//! Keeps flow control to its objects: makes those that every cluster has, takes in every change, says in the status of a
//! FlowSchema whether its level is there, and lets levels lend each other seats.

use crate::{
    ApiServer, Error, Identity,
    identity::MASTERS,
    registry::{Part, Registry, Resource, WriteContext, metadata, schema::Body, update::Change},
    request::WriteOptions,
};
use orlop_api::{
    Status,
    kinds::flow_control::{self, Bootstrap, GROUP, PLURALS},
    object::{int, list, text},
};
use serde_json::{Value, json};
use std::{
    sync::{Arc, Weak},
    time::Duration,
};

/// Says whether what an object is made of may be corrected.
const AUTOUPDATE: &str = "apf.kubernetes.io/autoupdate-spec";
const AUTOUPDATE_POINTER: &str = "/metadata/annotations/apf.kubernetes.io~1autoupdate-spec";
/// How often levels lend, as in Kubernetes.
const LEND: Duration = Duration::from_secs(10);
/// How often what is missing is made again.
const ENSURE: Duration = Duration::from_secs(60);

/// Makes the objects that every cluster has, and follows all of them until the server stops.
pub(crate) async fn start(server: &Arc<ApiServer>) -> Result<(), Error> {
    let found = PLURALS.map(|plural| server.registry.find(GROUP, "v1", plural));
    let [Some(schemas), Some(levels)] = found else { return Ok(()) };
    let (mut schema_signal, mut level_signal) = (schemas.cache.subscribe(), levels.cache.subscribe());
    let following = Following { server: Arc::downgrade(server), schemas, levels };
    following.ensure(server).await.map_err(|(what, status)| Error::Default { what, why: status.message })?;
    following.take_in(server).await;
    let stop = server.stop.clone();
    tokio::spawn(async move {
        let (mut lend, mut ensure) = (tokio::time::interval(LEND), tokio::time::interval(ENSURE));
        ensure.reset();
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                changed = schema_signal.changed() => if changed.is_err() { return },
                changed = level_signal.changed() => if changed.is_err() { return },
                _ = lend.tick() => {
                    let Some(server) = following.server.upgrade() else { return };
                    server.flow_control.lend();
                    continue;
                }
                _ = ensure.tick() => {
                    let Some(server) = following.server.upgrade() else { return };
                    if let Err((what, status)) = following.ensure(&server).await {
                        tracing::warn!(what, why = status.message, "an object of flow control cannot be kept");
                    }
                    continue;
                }
            }
            let Some(server) = following.server.upgrade() else { return };
            following.take_in(&server).await;
        }
    });
    Ok(())
}

struct Following {
    server: Weak<ApiServer>,
    schemas: Arc<Resource>,
    levels: Arc<Resource>,
}

fn all(resource: &Resource) -> Vec<Value> {
    let found = resource.cache.snapshot(&resource.cache.key_prefix, None, 0, |_| true);
    found.objects.iter().map(|o| o.value()).collect()
}

impl Following {
    /// Makes what is missing, and corrects what may be corrected.
    async fn ensure(&self, server: &ApiServer) -> Result<(), (String, Status)> {
        for default in flow_control::defaults() {
            let kind = text(&default.object, "/kind");
            let name = text(&default.object, "/metadata/name");
            let resource = if kind == "FlowSchema" { &self.schemas } else { &self.levels };
            let failed = |status: Status| (format!("{kind} {name:?}"), status);
            let body = |value: Value| Body { value, duplicates: Vec::new() };
            let existing = resource.get("", name).ok().map(|o| o.value());
            let Some(wanted) = amended(existing.as_ref(), default) else { continue };
            let cx = context("api-priority-and-fairness-config-producer-v1");
            if existing.is_some() {
                let updated =
                    server.registry.update(resource, Part::Whole, ("", name), body(wanted), &cx).await;
                updated.map_err(failed)?;
                continue;
            }
            match server.registry.create(resource, "", body(wanted), &cx).await {
                Ok(_) | Err(Status { reason: "AlreadyExists", .. }) => {}
                Err(status) => return Err(failed(status)),
            }
        }
        Ok(())
    }

    /// Goes by all objects as they are now.
    async fn take_in(&self, server: &ApiServer) {
        let (schemas, levels) = (all(&self.schemas), all(&self.levels));
        server.flow_control.configure(&schemas, &levels);
        for schema in &schemas {
            let level = text(schema, "/spec/priorityLevelConfiguration/name");
            let wanted = dangling(level, levels.iter().any(|l| text(l, "/metadata/name") == level));
            if !says(schema, &wanted) {
                let name = text(schema, "/metadata/name");
                if let Err(status) = tell(&server.registry, &self.schemas, name, wanted).await {
                    tracing::debug!(name, why = status.message, "the status of a FlowSchema is not written");
                }
            }
        }
    }
}

/// How the server itself writes.
fn context(manager: &str) -> WriteContext {
    let options = WriteOptions { field_manager: manager.into(), ..WriteOptions::default() };
    WriteContext { options, who: Arc::new(Identity::new("system:apiserver", &[MASTERS])) }
}

/// The object as it should be written; `None` where it may stay as it is.
fn amended(existing: Option<&Value>, default: &Bootstrap) -> Option<Value> {
    let Some(existing) = existing else {
        let mut made = default.object.clone();
        made["metadata"]["annotations"] = json!({AUTOUPDATE: "true"});
        return Some(made);
    };
    let said = existing.pointer(AUTOUPDATE_POINTER).and_then(Value::as_str);
    let updates = default.mandatory
        || match said {
            Some("true") => true,
            Some("false") => false,
            // Nobody has changed it.
            _ => int(existing, "/metadata/generation") == Some(1),
        };
    let mut wanted = default.object["spec"].clone();
    if default.mandatory && text(&default.object, "/spec/type") == "Exempt" {
        // How much the exempt level lends is its owner's to say.
        if let Some(own) = existing.pointer("/spec/exempt") {
            wanted["exempt"] = own.clone();
        }
    }
    let same = !updates || existing["spec"] == wanted;
    let noted = if updates { "true" } else { "false" };
    if same && said == Some(noted) {
        return None;
    }
    let mut new = existing.clone();
    if !new["metadata"]["annotations"].is_object() {
        new["metadata"]["annotations"] = json!({});
    }
    new["metadata"]["annotations"][AUTOUPDATE] = json!(noted);
    if updates {
        new["spec"] = wanted;
    }
    Some(new)
}

/// The condition of a FlowSchema whose level is `found` or not.
fn dangling(level: &str, found: bool) -> Value {
    let named = format!("This FlowSchema references the PriorityLevelConfiguration object named {level:?}");
    if found {
        let message = format!("{named} and it exists");
        json!({"type": "Dangling", "status": "False", "reason": "Found", "message": message})
    } else {
        let message = format!("{named} but there is no such object");
        json!({"type": "Dangling", "status": "True", "reason": "NotFound", "message": message})
    }
}

/// Whether a FlowSchema has that condition, since whenever.
fn says(schema: &Value, wanted: &Value) -> bool {
    let fields = ["type", "status", "reason", "message"];
    list(schema, "/status/conditions").iter().any(|c| fields.iter().all(|f| c.get(f) == wanted.get(f)))
}

async fn tell(registry: &Registry, schemas: &Resource, name: &str, wanted: Value) -> Result<(), Status> {
    let now = metadata::format_time(registry.now());
    let cx = context("api-priority-and-fairness-config-consumer-v1");
    let change = |_: &Arc<_>, old: &Value| {
        let mut object = old.clone();
        let mut conditions = list(old, "/status/conditions").to_vec();
        let before = conditions.iter().position(|c| text(c, "/type") == "Dangling");
        let mut condition = wanted.clone();
        let same = before.map(|at| &conditions[at]).filter(|c| c.get("status") == wanted.get("status"));
        condition["lastTransitionTime"] =
            same.and_then(|c| c.get("lastTransitionTime").cloned()).unwrap_or_else(|| json!(now));
        match before {
            Some(at) => conditions[at] = condition,
            None => conditions.push(condition),
        }
        object["status"]["conditions"] = Value::Array(conditions);
        Ok(Change { object, warnings: Vec::new(), managed: false })
    };
    registry.modify(schemas, Part::Status, ("", name), &cx, change).await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn default(kind: &str, name: &str) -> Bootstrap {
        let same =
            |d: &&Bootstrap| text(&d.object, "/kind") == kind && text(&d.object, "/metadata/name") == name;
        flow_control::defaults().iter().find(same).unwrap().clone()
    }

    fn kept(default: &Bootstrap, generation: u32, spec: Value, autoupdate: Option<&str>) -> Option<Value> {
        let mut existing = default.object.clone();
        existing["metadata"]["generation"] = json!(generation);
        if let Some(said) = autoupdate {
            existing["metadata"]["annotations"] = json!({AUTOUPDATE: said});
        }
        existing["spec"].as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
        amended(Some(&existing), default)
    }

    #[test]
    fn a_suggestion_is_corrected_until_somebody_makes_it_theirs() {
        let suggested = default("FlowSchema", "global-default");
        let other = json!({"matchingPrecedence": 9800});
        let made = amended(None, &suggested).unwrap();
        assert_eq!(made["metadata"]["annotations"][AUTOUPDATE], "true");
        assert_eq!(kept(&suggested, 1, json!({}), Some("true")), None);
        assert_eq!(kept(&suggested, 2, other.clone(), Some("false")), None);
        assert_eq!(
            kept(&suggested, 2, other.clone(), Some("true")).unwrap()["spec"],
            suggested.object["spec"]
        );
        let theirs = kept(&suggested, 2, other, None).unwrap();
        assert_eq!(
            (&theirs["spec"]["matchingPrecedence"], &theirs["metadata"]["annotations"][AUTOUPDATE]),
            (&json!(9800), &json!("false"))
        );
    }

    #[test]
    fn what_is_mandatory_is_always_corrected() {
        let last = default("FlowSchema", "catch-all");
        let other = json!({"matchingPrecedence": 9999});
        assert_eq!(kept(&last, 2, other, Some("false")).unwrap()["spec"], last.object["spec"]);
        let exempt = default("PriorityLevelConfiguration", "exempt");
        let lends = json!({"exempt": {"nominalConcurrencyShares": 10, "lendablePercent": 50}});
        assert_eq!(kept(&exempt, 2, lends, Some("true")), None);
    }

    #[test]
    fn a_schema_without_its_level_dangles() {
        let there = dangling("x", true);
        let told =
            "This FlowSchema references the PriorityLevelConfiguration object named \"x\" and it exists";
        assert_eq!((&there["status"], &there["message"]), (&json!("False"), &json!(told)));
        let schema = json!({"status": {"conditions": [there]}});
        assert!(says(&schema, &dangling("x", true)) && !says(&schema, &dangling("x", false)));
    }
}
