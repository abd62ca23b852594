//! Whether the server behind an APIService can be used: what can be told from its Service and its endpoints, and the condition that says
//! so, in Kubernetes' words. Pure; the call that has the last word is made elsewhere.

use orlop_api::object::{int, list, text};
use serde_json::{Value, json};
use std::borrow::Cow;

/// The condition `Available`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Available {
    status: &'static str,
    reason: Cow<'static, str>,
    message: String,
}

impl Available {
    fn no(reason: &'static str, message: String) -> Self {
        Self { status: "False", reason: reason.into(), message }
    }

    pub(super) fn is(&self) -> bool {
        self.status == "True"
    }

    /// What an APIService says of itself.
    pub(super) fn read(object: &Value) -> Self {
        let found = list(object, "/status/conditions").iter().find(|c| text(c, "/type") == "Available");
        let of = |field| found.map_or("", |condition| text(condition, field));
        let status = match of("/status") {
            "True" => "True",
            "False" => "False",
            _ => "Unknown",
        };
        Self { status, reason: of("/reason").to_string().into(), message: of("/message").to_string() }
    }

    /// It is this server itself.
    pub(super) fn local() -> Self {
        Self {
            status: "True",
            reason: "Local".into(),
            message: "Local APIServices are always available".into(),
        }
    }

    pub(super) fn passed() -> Self {
        Self { status: "True", reason: "Passed".into(), message: "all checks passed".into() }
    }

    pub(super) fn failed_discovery(why: String) -> Self {
        Self::no("FailedDiscoveryCheck", why)
    }

    /// The status of an APIService that has this condition; the time of an old one stays where nothing turned.
    pub(super) fn written_into(&self, status: Option<&Value>, now: &str) -> Value {
        let mut status = status.filter(|s| s.is_object()).cloned().unwrap_or_else(|| json!({}));
        let mut conditions = list(&status, "/conditions").to_vec();
        let place = conditions.iter().position(|c| text(c, "/type") == "Available");
        let old = place.map(|place| &conditions[place]);
        let since = old.filter(|c| text(c, "/status") == self.status).map(|c| text(c, "/lastTransitionTime"));
        let condition = json!({
            "type": "Available", "status": self.status, "lastTransitionTime": since.unwrap_or(now),
            "reason": self.reason, "message": self.message,
        });
        match place {
            Some(place) => conditions[place] = condition,
            None => conditions.push(condition),
        }
        status["conditions"] = conditions.into();
        status
    }
}

/// Why the Service that an APIService names cannot serve, if that can be told without asking it.
pub(super) fn obstacle(reference: &Value, service: Option<&Value>, slices: &[Value]) -> Option<Available> {
    let (namespace, name) = (text(reference, "/namespace"), text(reference, "/name"));
    let Some(service) = service else {
        let message = format!("service/{name} in {namespace:?} is not present");
        return Some(Available::no("ServiceNotFound", message));
    };
    if text(service, "/spec/type") != "ClusterIP" {
        return None;
    }
    let port = int(reference, "/port").unwrap_or(443);
    let Some(found) = list(service, "/spec/ports").iter().find(|p| int(p, "/port") == Some(port)) else {
        let message = format!("service/{name} in {namespace:?} is not listening on port {port}");
        return Some(Available::no("ServicePortError", message));
    };
    if slices.is_empty() {
        let message = format!("cannot find endpointslices for service/{name} in {namespace:?}");
        return Some(Available::no("EndpointsNotFound", message));
    }
    let port_name = text(found, "/name");
    if slices.iter().all(|slice| crate::remote::endpoints(slice, port_name).is_empty()) {
        let message = format!(
            "endpointslices for service/{name} in {namespace:?} have no addresses with port name {port_name:?}"
        );
        return Some(Available::no("MissingEndpoints", message));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reason(service: Option<Value>, slices: &[Value]) -> Option<Cow<'static, str>> {
        let reference = json!({"namespace": "n", "name": "s", "port": 443});
        obstacle(&reference, service.as_ref(), slices).map(|available| available.reason)
    }

    #[test]
    fn what_is_missing_is_named() {
        let service = |port: i64| {
            Some(json!({"spec": {"type": "ClusterIP", "ports": [{"name": "https", "port": port}]}}))
        };
        let slice = |name: &str, ready: bool| {
            json!({
                "ports": [{"name": name, "port": 8443}],
                "endpoints": [{"addresses": ["10.0.0.1"], "conditions": {"ready": ready}}],
            })
        };
        assert_eq!(reason(None, &[]), Some("ServiceNotFound".into()));
        assert_eq!(reason(service(80), &[]), Some("ServicePortError".into()));
        assert_eq!(reason(service(443), &[]), Some("EndpointsNotFound".into()));
        assert_eq!(reason(service(443), &[slice("https", false)]), Some("MissingEndpoints".into()));
        assert_eq!(reason(service(443), &[slice("other", true)]), Some("MissingEndpoints".into()));
        assert_eq!(reason(service(443), &[slice("other", true), slice("https", true)]), None);
        assert_eq!(reason(Some(json!({"spec": {"type": "ExternalName"}})), &[]), None);
    }

    #[test]
    fn the_time_of_a_condition_is_that_of_its_last_turn() {
        let first = Available::passed().written_into(None, "t1");
        let again = Available::passed().written_into(Some(&first), "t2");
        assert_eq!(first, again);
        let failed = Available::failed_discovery("no".into()).written_into(Some(&again), "t3");
        assert_eq!(failed["conditions"][0]["lastTransitionTime"], "t3");
        assert_eq!(failed["conditions"].as_array().map(Vec::len), Some(1));
    }

    #[test]
    fn conditions_of_others_stay_where_they_are() {
        let mut status = Available::passed().written_into(None, "t1");
        status["conditions"].as_array_mut().unwrap().push(json!({"type": "Mine", "status": "True"}));
        let after = Available::failed_discovery("no".into()).written_into(Some(&status), "t2");
        let types: Vec<&str> = list(&after, "/conditions").iter().map(|c| text(c, "/type")).collect();
        assert_eq!(types, ["Available", "Mine"]);
    }
}
