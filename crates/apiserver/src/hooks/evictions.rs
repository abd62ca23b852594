//! `pods/NAME/eviction` (policy/v1): a delete that a PodDisruptionBudget may refuse. The budget is charged in the transaction
//! that deletes the pod: both happen or neither, and no two evictions use the same allowance.

use crate::{
    registry::{Part, Plan, Registry, Resource, SubresourceRequest, WriteContext, metadata, schema},
    request::{DeleteOptions, WriteOptions},
    response::{self, Response},
};
use orlop_api::{
    Status,
    object::{condition, int, list, map, text},
    selector::Selector,
};
use orlop_store::Txn;
use serde_json::{Value, json};

/// How many evictions a budget's controller may be behind.
const MAX_DISRUPTED: usize = 2000;

/// Evicts a pod.
pub(super) async fn evict(request: &SubresourceRequest) -> Result<Response, Status> {
    let registry = &request.registry;
    let resource = registry.resource(&request.target)?;
    let body = schema::read(&request.parts.headers, &request.body)?.value;
    if body.get("kind").and_then(Value::as_str).is_some_and(|k| k != "Eviction") {
        return Err(Status::bad_request("the body cannot be handled as an Eviction"));
    }
    let name = request.target.name.as_str();
    let sent = metadata::text(&body, "name");
    if !sent.is_empty() && sent != name {
        return Err(Status::bad_request("name in URL does not match name in Eviction object"));
    }
    if let Ok(pod) = resource.get(&request.target.namespace, name) {
        resource.restrict(&request.who, "eviction", None, Some(&pod.value()))?;
    }
    let options = body.get("deleteOptions").filter(|o| !o.is_null()).cloned();
    let mut options = DeleteOptions::parse(&request.query, options)?;
    options.evicts = true;
    let cx = WriteContext {
        options: WriteOptions { field_manager: "kube-apiserver".into(), ..WriteOptions::default() },
        who: request.who.clone(),
    };
    let now = metadata::format_time(registry.now());
    let beside = |pod: &Value, plan: &mut Plan| {
        charge(registry, pod, &now, &cx, plan)?;
        Ok(marked(pod, &now))
    };
    let at = (request.target.namespace.as_str(), name);
    registry.delete_beside(&resource, at, &options, &request.who, &beside).await?;
    let status =
        json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201});
    Ok(response::json(201, &status))
}

/// Looks for the pod's budget, and where the eviction needs its allowance writes what is left into the plan.
fn charge(
    registry: &Registry,
    pod: &Value,
    now: &str,
    cx: &WriteContext,
    plan: &mut Plan,
) -> Result<(), Status> {
    let Some(resource) = registry.find("policy", "v1", "poddisruptionbudgets") else { return Ok(()) };
    let prefix = resource.cache.key(metadata::text(pod, "namespace"), "");
    let all = resource.cache.snapshot(&prefix, None, 0, |_| true);
    let budgets: Vec<_> = all.objects.iter().map(|object| (object, object.value())).collect();
    let mine: Vec<_> = budgets.into_iter().filter(|(_, budget)| covers(budget, pod)).collect();
    let Some(charged) = decide(&resource, pod, &mine.iter().map(|(_, b)| b).collect::<Vec<_>>(), now)? else {
        return Ok(());
    };
    let [(object, old)] = mine.as_slice() else { return Ok(()) };
    let mut charged = charged;
    resource.manage(Some(old), &mut charged, Part::Status, cx, registry.now())?;
    let stored = crate::cache::codec::encode(&resource.cache.body_prefix, &charged);
    let key = resource.cache.key(object.namespace(), object.name());
    let own = Txn::replace(key.as_str(), object.revision, stored);
    plan.txn.conditions.extend(own.conditions);
    plan.txn.ops.extend(own.ops);
    Ok(())
}

fn covers(budget: &Value, pod: &Value) -> bool {
    Selector::from_json(budget.pointer("/spec/selector"))
        .is_ok_and(|selector| selector.matches_json(map(pod, "/metadata/labels")))
}

/// Whether the pod's end disturbs nobody any more.
fn is_past(pod: &Value) -> bool {
    matches!(text(pod, "/status/phase"), "Succeeded" | "Failed" | "Pending") || metadata::is_deleting(pod)
}

/// What the eviction does to the budgets that cover the pod: `None` where it costs nothing, else the one budget after it.
fn decide(resource: &Resource, pod: &Value, budgets: &[&Value], now: &str) -> Result<Option<Value>, Status> {
    if is_past(pod) {
        return Ok(None);
    }
    let budget = match budgets {
        [] => return Ok(None),
        [one] => *one,
        _ => {
            let message = "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.";
            return Err(Status::new(500, "InternalError", message));
        }
    };
    let status = |field: &str| int(budget, &format!("/status/{field}")).unwrap_or_default();
    let (healthy, wanted) = (status("currentHealthy"), status("desiredHealthy"));
    if condition(pod, "Ready") != "True" {
        // Such a pod is none of those that the budget counts on.
        let always = text(budget, "/spec/unhealthyPodEvictionPolicy") == "AlwaysAllow";
        if always || (healthy >= wanted && wanted > 0) {
            return Ok(None);
        }
    }
    let name = metadata::text(budget, "name");
    let forbidden = |why: &str| Err(Status::forbidden(&resource.kind, name, why));
    if status("observedGeneration") < int(budget, "/metadata/generation").unwrap_or_default() {
        let why = format!("The disruption budget {name} is still being processed by the server.");
        return Err(not_now(&why, 10));
    }
    let allowed = status("disruptionsAllowed");
    if allowed < 0 {
        return forbidden("pdb disruptions allowed is negative");
    }
    if orlop_api::object::len(budget, "/status/disruptedPods") > MAX_DISRUPTED {
        return forbidden("DisruptedPods map too big - too many evictions not confirmed by PDB controller");
    }
    if allowed == 0 {
        return Err(not_now(&refusal(budget, name, healthy, wanted), 0));
    }
    let mut after = budget.clone();
    after["status"]["disruptionsAllowed"] = json!(allowed - 1);
    after["status"]["disruptedPods"][metadata::text(pod, "name")] = json!(now);
    if allowed == 1 {
        let generation = status("observedGeneration");
        set_condition(
            &mut after,
            json!({"type": "DisruptionAllowed", "status": "False", "reason": "InsufficientPods", "message": "",
                "lastTransitionTime": now, "observedGeneration": generation}),
        );
    }
    Ok(Some(after))
}

/// Why a budget allows nothing.
fn refusal(budget: &Value, name: &str, healthy: i64, wanted: i64) -> String {
    let condition =
        list(budget, "/status/conditions").iter().find(|c| text(c, "/type") == "DisruptionAllowed");
    let said = condition.filter(|c| text(c, "/status") == "False" && !text(c, "/message").is_empty());
    match said.map(|c| (text(c, "/reason"), text(c, "/message"))) {
        Some(("SyncFailed", message)) => format!(
            "The disruption budget {name} does not allow evicting pods currently because it failed sync: {message}"
        ),
        _ if healthy <= wanted => {
            format!("The disruption budget {name} needs {wanted} healthy pods and has {healthy} currently")
        }
        Some((reason, message)) => {
            format!(
                "The disruption budget {name} does not allow evicting pods currently ({reason}): {message}"
            )
        }
        None => format!("The disruption budget {name} does not allow evicting pods currently"),
    }
}

/// 429 with the cause that `kubectl drain` looks for.
fn not_now(why: &str, seconds: u64) -> Status {
    let message = "Cannot evict pod as it would violate the pod's disruption budget.";
    let mut status = Status::new(429, "TooManyRequests", message);
    let mut details = json!({"causes": [{"reason": "DisruptionBudget", "message": why}]});
    if seconds > 0 {
        details["retryAfterSeconds"] = json!(seconds);
    }
    status.details = Some(details);
    status
}

/// Puts a condition in the place of the one of its type. Where the status stays, so does the time.
fn set_condition(object: &mut Value, mut condition: Value) {
    let Some(conditions) =
        object["status"].as_object_mut().map(|s| s.entry("conditions").or_insert_with(|| json!([])))
    else {
        return;
    };
    if conditions.is_null() {
        *conditions = json!([]);
    }
    let Some(conditions) = conditions.as_array_mut() else { return };
    match conditions.iter_mut().find(|c| c["type"] == condition["type"]) {
        Some(before) => {
            if before["status"] == condition["status"] && before["lastTransitionTime"].is_string() {
                condition["lastTransitionTime"] = before["lastTransitionTime"].clone();
            }
            *before = condition;
        }
        None => conditions.push(condition),
    }
}

/// The pod with the condition that says why it goes.
fn marked(pod: &Value, now: &str) -> Value {
    let mut pod = pod.clone();
    if pod.get("status").is_some_and(Value::is_object) {
        set_condition(
            &mut pod,
            json!({"type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI",
                "message": "Eviction API: evicting", "lastTransitionTime": now}),
        );
    }
    pod
}

#[cfg(test)]
mod tests {
    use super::*;
    use orlop_api::kinds;

    const NOW: &str = "2026-01-01T00:00:00Z";

    fn resource() -> Resource {
        let kind = kinds::find("policy", "v1", "poddisruptionbudgets").unwrap();
        Resource {
            cache: std::sync::Arc::new(crate::cache::kind_cache::KindCache::new(kind.clone())),
            hooks: std::sync::Arc::new(crate::registry::hooks::Plain),
            types: None,
            versions: crate::registry::Versions::Stored,
            body_prefix: String::new(),
            schema: None,
            warning: None,
            retired: false.into(),
            kind,
        }
    }

    fn pod(ready: &str) -> Value {
        json!({"metadata": {"name": "p", "labels": {"a": "b"}},
            "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": ready}]}})
    }

    fn budget(spec: Value, status: Value) -> Value {
        json!({"metadata": {"name": "b", "generation": 1}, "spec": spec, "status": status})
    }

    fn decided(pod: &Value, budgets: &[&Value]) -> Result<Option<Value>, (u16, String)> {
        let cause = |s: Status| {
            let cause =
                s.details.as_ref().and_then(|d| d.pointer("/causes/0/message")?.as_str().map(Into::into));
            (s.code, cause.unwrap_or(s.message))
        };
        decide(&resource(), pod, budgets, NOW).map_err(cause)
    }

    #[test]
    fn an_eviction_uses_up_an_allowance_and_notes_the_pod() {
        let before = budget(json!({}), json!({"disruptionsAllowed": 1, "observedGeneration": 1}));
        let after = decided(&pod("True"), &[&before]).unwrap().unwrap();
        assert_eq!(after["status"]["disruptionsAllowed"], 0);
        assert_eq!(after["status"]["disruptedPods"], json!({"p": NOW}));
        assert_eq!(condition(&after, "DisruptionAllowed"), "False");
        let more = budget(json!({}), json!({"disruptionsAllowed": 2, "observedGeneration": 1}));
        let after = decided(&pod("True"), &[&more]).unwrap().unwrap();
        assert_eq!(
            (&after["status"]["disruptionsAllowed"], condition(&after, "DisruptionAllowed")),
            (&json!(1), "")
        );
    }

    #[test]
    fn a_budget_without_allowance_says_why() {
        for (status, code, why) in [
            (
                json!({"observedGeneration": 1, "desiredHealthy": 3, "currentHealthy": 2}),
                429,
                "The disruption budget b needs 3 healthy pods and has 2 currently",
            ),
            (json!({}), 429, "The disruption budget b is still being processed by the server."),
            (
                json!({"observedGeneration": 1, "desiredHealthy": 3, "currentHealthy": 4, "conditions": [
                    {"type": "DisruptionAllowed", "status": "False", "reason": "SyncFailed", "message": "oh"}]}),
                429,
                "The disruption budget b does not allow evicting pods currently because it failed sync: oh",
            ),
            (
                json!({"observedGeneration": 1, "disruptionsAllowed": -1}),
                403,
                "poddisruptionbudgets.policy \"b\" is forbidden: pdb disruptions allowed is negative",
            ),
        ] {
            let budget = budget(json!({}), status);
            assert_eq!(decided(&pod("True"), &[&budget]), Err((code, why.to_string())));
        }
        let one = budget(json!({}), json!({}));
        assert_eq!(decided(&pod("True"), &[&one, &one]).unwrap_err().0, 500);
    }

    #[test]
    fn a_pod_that_does_not_serve_costs_nothing_where_the_policy_says_so() {
        let full = json!({"observedGeneration": 1, "desiredHealthy": 2, "currentHealthy": 2});
        let short = json!({"observedGeneration": 1, "desiredHealthy": 2, "currentHealthy": 1});
        let always = json!({"unhealthyPodEvictionPolicy": "AlwaysAllow"});
        assert_eq!(decided(&pod("False"), &[&budget(json!({}), full.clone())]), Ok(None));
        assert!(decided(&pod("False"), &[&budget(json!({}), short.clone())]).is_err());
        assert_eq!(decided(&pod("False"), &[&budget(always, short)]), Ok(None));
        for phase in ["Pending", "Succeeded", "Failed"] {
            let past = json!({"metadata": {"name": "p"}, "status": {"phase": phase}});
            assert_eq!(decided(&past, &[&budget(json!({}), full.clone())]), Ok(None), "{phase}");
        }
    }

    #[test]
    fn a_budget_covers_what_it_selects_and_with_an_empty_selector_all() {
        let with = |selector: Value| covers(&json!({"spec": {"selector": selector}}), &pod("True"));
        assert!(with(json!({})) && with(json!({"matchLabels": {"a": "b"}})));
        assert!(!with(Value::Null) && !with(json!({"matchLabels": {"a": "c"}})));
    }

    #[test]
    fn the_pod_says_why_it_goes() {
        assert_eq!(condition(&marked(&pod("True"), NOW), "DisruptionTarget"), "True");
    }
}
