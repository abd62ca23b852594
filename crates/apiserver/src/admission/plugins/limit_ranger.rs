//! LimitRanger: gives containers the amounts that a namespace's LimitRanges have for those that say none, and holds pods,
//! containers and claims to the least, the most and the ratio that they allow (Kubernetes documentation, "Limit Ranges").

use crate::admission::{Operation, Plugin, Request};
use orlop_api::{
    Status,
    object::{list, map, set_default, text},
    pod_resources::{self, Resources},
    quantity::Quantity,
};
use serde_json::{Value, json};
use std::collections::BTreeMap;

const RANGES: (&str, &str, &str) = ("", "v1", "limitranges");
const ANNOTATION: &str = "kubernetes.io/limit-ranger";
type Amounts = BTreeMap<String, Quantity>;

pub(super) struct LimitRanger;

impl Plugin for LimitRanger {
    fn handles(&self, request: &Request<'_>) -> bool {
        match (request.operation, request.subresource) {
            (Operation::Create, "") => request.is("", "pods") || request.is("", "persistentvolumeclaims"),
            (Operation::Update, "") => request.is("", "persistentvolumeclaims"),
            (Operation::Update, "resize") => request.kind.group.is_empty() && request.kind.plural == "pods",
            _ => false,
        }
    }

    fn mutate(&self, request: &Request<'_>, object: &mut Value) -> Result<(), Status> {
        if request.operation == Operation::Create && request.is("", "pods") {
            for range in request.look_up_all(RANGES, request.namespace) {
                fill_in(&range, object);
            }
        }
        Ok(())
    }

    fn validate(&self, request: &Request<'_>, object: Option<&Value>) -> Result<(), Status> {
        let Some(object) = object else { return Ok(()) };
        for range in request.look_up_all(RANGES, request.namespace) {
            let errors = match &*request.kind.plural {
                "pods" => check_pod(&range, object),
                _ => check_claim(&range, object),
            };
            match errors.as_slice() {
                [] => {}
                [one] => return Err(request.forbidden(one)),
                many => return Err(request.forbidden(&format!("[{}]", many.join(", ")))),
            }
        }
        Ok(())
    }
}

fn limits<'a>(range: &'a Value, kind: &'a str) -> impl Iterator<Item = &'a Value> {
    list(range, "/spec/limits").iter().filter(move |l| text(l, "/type") == kind)
}

/// Sets what a container does not say of `field`, and tells what was set.
fn fill(container: &mut Value, field: &str, amounts: &Amounts) -> Vec<String> {
    let mut set = Vec::new();
    if amounts.is_empty() {
        return set;
    }
    set_default(container, "resources", json!({}));
    let resources = &mut container["resources"];
    set_default(resources, field, json!({}));
    if let Some(said) = resources.get_mut(field).and_then(Value::as_object_mut) {
        for (name, amount) in amounts {
            if !said.contains_key(name) {
                said.insert(name.clone(), json!(amount.to_string()));
                set.push(name.clone());
            }
        }
    }
    set
}

fn fill_in(range: &Value, pod: &mut Value) {
    let (mut most, mut requests) = (Amounts::new(), Amounts::new());
    for limit in limits(range, "Container") {
        most.extend(amounts(limit, "/default"));
        requests.extend(amounts(limit, "/defaultRequest"));
    }
    let mut told = Vec::new();
    for (field, noun) in [("containers", "container"), ("initContainers", "init container")] {
        let containers = pod.get_mut("spec").and_then(|s| s.get_mut(field)).and_then(Value::as_array_mut);
        for container in containers.into_iter().flatten() {
            for (field, word, amounts) in [("requests", "request", &requests), ("limits", "limit", &most)] {
                let set = fill(container, field, amounts);
                if !set.is_empty() {
                    let name = text(container, "/name");
                    told.push(format!("{} {word} for {noun} {name}", set.join(", ")));
                }
            }
        }
    }
    if !told.is_empty()
        && let Some(meta) = orlop_api::object::child(pod, "metadata")
    {
        set_default(meta, "annotations", json!({}));
        meta["annotations"][ANNOTATION] = json!(format!("LimitRanger plugin set: {}", told.join("; ")));
    }
}

fn amounts(object: &Value, pointer: &str) -> Amounts {
    map(object, pointer)
        .into_iter()
        .flatten()
        .filter_map(|(name, amount)| Some((name.clone(), Quantity::from_json(amount).ok()?)))
        .collect()
}

/// What something asks for and what it may use at most.
struct Asked<'a> {
    /// `Container` or `Pod`.
    kind: &'a str,
    requests: &'a Amounts,
    limits: &'a Amounts,
}

impl Asked<'_> {
    fn least(&self, name: &str, least: Quantity) -> Option<String> {
        let said = format!("minimum {name} usage per {} is {least}", self.kind);
        match (self.requests.get(name), self.limits.get(name)) {
            (None, _) => Some(format!("{said}.  No request is specified")),
            (Some(request), _) if *request < least => Some(format!("{said}, but request is {request}")),
            (_, Some(limit)) if *limit < least => Some(format!("{said}, but limit is {limit}")),
            _ => None,
        }
    }

    fn most(&self, name: &str, most: Quantity) -> Option<String> {
        let said = format!("maximum {name} usage per {} is {most}", self.kind);
        match (self.limits.get(name), self.requests.get(name)) {
            (None, _) => Some(format!("{said}.  No limit is specified")),
            (Some(limit), _) if *limit > most => Some(format!("{said}, but limit is {limit}")),
            (_, Some(request)) if *request > most => Some(format!("{said}, but request is {request}")),
            _ => None,
        }
    }

    fn ratio(&self, name: &str, most: Quantity) -> Option<String> {
        let said = format!("{name} max limit to request ratio per {} is {most}", self.kind);
        let positive = |amounts: &Amounts| amounts.get(name).copied().filter(|a| !a.is_zero());
        let Some(request) = positive(self.requests) else {
            return Some(format!("{said}, but no request is specified or request is 0"));
        };
        let Some(limit) = positive(self.limits) else {
            return Some(format!("{said}, but no limit is specified or limit is 0"));
        };
        let ratio = limit.approximate() / request.approximate();
        (ratio > most.approximate()).then(|| format!("{said}, but provided ratio is {ratio:.6}"))
    }

    fn check(&self, limit: &Value, errors: &mut Vec<String>) {
        errors.extend(amounts(limit, "/min").iter().filter_map(|(name, q)| self.least(name, *q)));
        errors.extend(amounts(limit, "/max").iter().filter_map(|(name, q)| self.most(name, *q)));
        let ratios = amounts(limit, "/maxLimitRequestRatio");
        errors.extend(ratios.iter().filter_map(|(name, q)| self.ratio(name, *q)));
    }
}

fn check_pod(range: &Value, pod: &Value) -> Vec<String> {
    let mut errors = Vec::new();
    for limit in limits(range, "Container") {
        for container in ["/spec/containers", "/spec/initContainers"].iter().flat_map(|p| list(pod, p)) {
            let (requests, limits) =
                (amounts(container, "/resources/requests"), amounts(container, "/resources/limits"));
            Asked { kind: "Container", requests: &requests, limits: &limits }.check(limit, &mut errors);
        }
    }
    for limit in limits(range, "Pod") {
        let mut spec = pod.get("spec").cloned().unwrap_or_default();
        // What the runtime needs is nobody's wish.
        spec.as_object_mut().map(|s| s.remove("overhead"));
        let Ok(spec) = serde_json::from_value(spec) else { continue };
        let (Resources(requests), Resources(limits)) =
            (pod_resources::requests(&spec), pod_resources::limits(&spec));
        Asked { kind: "Pod", requests: &requests, limits: &limits }.check(limit, &mut errors);
    }
    errors
}

fn check_claim(range: &Value, claim: &Value) -> Vec<String> {
    let mut errors = Vec::new();
    let requests = amounts(claim, "/spec/resources/requests");
    let asked = Asked { kind: "PersistentVolumeClaim", requests: &requests, limits: &requests };
    for limit in limits(range, "PersistentVolumeClaim") {
        errors.extend(amounts(limit, "/min").iter().filter_map(|(name, q)| asked.least(name, *q)));
        for (name, most) in amounts(limit, "/max") {
            if let Some(request) = requests.get(&name).filter(|r| **r > most) {
                errors.push(format!(
                    "maximum {name} usage per PersistentVolumeClaim is {most}, but request is {request}"
                ));
            }
        }
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(limit: Value) -> Value {
        json!({"spec": {"limits": [limit]}})
    }

    fn pod(resources: Value) -> Value {
        json!({"metadata": {}, "spec": {"containers": [{"name": "c", "resources": resources}]}})
    }

    #[test]
    fn containers_that_say_nothing_get_the_defaults() {
        let range = range(
            json!({"type": "Container", "default": {"cpu": "500m", "memory": "1Gi"}, "defaultRequest": {"cpu": "100m"}}),
        );
        let mut pod = pod(json!({"limits": {"cpu": "1"}}));
        fill_in(&range, &mut pod);
        assert_eq!(
            pod["spec"]["containers"][0]["resources"],
            json!({"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "100m"}})
        );
        assert_eq!(
            pod["metadata"]["annotations"][ANNOTATION],
            "LimitRanger plugin set: cpu request for container c; memory limit for container c"
        );
        let before = pod.clone();
        fill_in(&range, &mut pod);
        assert_eq!(pod, before);
    }

    #[test]
    fn what_is_out_of_range_is_told_in_kubernetes_words() {
        for (limit, resources, want) in [
            (
                json!({"min": {"cpu": "100m"}}),
                json!({}),
                "minimum cpu usage per Container is 100m.  No request is specified",
            ),
            (
                json!({"min": {"cpu": "100m"}}),
                json!({"requests": {"cpu": "50m"}}),
                "minimum cpu usage per Container is 100m, but request is 50m",
            ),
            (
                json!({"max": {"memory": "1Gi"}}),
                json!({"limits": {"memory": "2Gi"}}),
                "maximum memory usage per Container is 1Gi, but limit is 2Gi",
            ),
            (
                json!({"max": {"cpu": "1"}}),
                json!({}),
                "maximum cpu usage per Container is 1.  No limit is specified",
            ),
            (
                json!({"maxLimitRequestRatio": {"cpu": "2"}}),
                json!({"requests": {"cpu": "1"}, "limits": {"cpu": "4"}}),
                "cpu max limit to request ratio per Container is 2, but provided ratio is 4.000000",
            ),
        ] {
            let mut limit = limit;
            limit["type"] = json!("Container");
            assert_eq!(check_pod(&range(limit), &pod(resources)), [want]);
        }
    }

    #[test]
    fn a_pod_counts_as_a_whole_and_a_claim_by_its_storage() {
        let whole = range(json!({"type": "Pod", "max": {"cpu": "1"}}));
        let two = json!({"spec": {"containers": [
            {"name": "a", "resources": {"limits": {"cpu": "600m"}}}, {"name": "b", "resources": {"limits": {"cpu": "600m"}}}]}});
        assert_eq!(check_pod(&whole, &two), ["maximum cpu usage per Pod is 1, but limit is 1200m"]);
        let storage = range(
            json!({"type": "PersistentVolumeClaim", "min": {"storage": "1Gi"}, "max": {"storage": "2Gi"}}),
        );
        let claim = |amount: &str| json!({"spec": {"resources": {"requests": {"storage": amount}}}});
        assert!(check_claim(&storage, &claim("1Gi")).is_empty());
        assert_eq!(
            check_claim(&storage, &claim("3Gi")),
            ["maximum storage usage per PersistentVolumeClaim is 2Gi, but request is 3Gi"]
        );
    }
}
