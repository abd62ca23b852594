//! What objects count against a ResourceQuota (core/v1; Kubernetes documentation, "Resource Quotas"): the amounts of each
//! object, the scopes that select objects, and the words for what is too much. Pure; the API server charges with it in the
//! transaction that writes the object, the controller counts anew with it.

use crate::{
    object::{int, list, map, text},
    pod_resources::{self, Resources},
    qos::QosClass,
    quantity::Quantity,
};
use k8s_openapi::api::core::v1::PodSpec;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// Resources that every container must name if a quota limits them.
const COMPUTE: [&str; 6] =
    ["cpu", "memory", "requests.cpu", "requests.memory", "limits.cpu", "limits.memory"];
/// Core kinds that are counted under their plain name too.
const PLAIN_COUNTS: [&str; 4] = ["configmaps", "replicationcontrollers", "resourcequotas", "secrets"];
const OF_CLASS: &str = ".storageclass.storage.k8s.io/";

/// `count/pods`, `count/deployments.apps`.
pub fn count_name(group: &str, plural: &str) -> String {
    if group.is_empty() { format!("count/{plural}") } else { format!("count/{plural}.{group}") }
}

/// The resource (group and plural) whose objects use a quota's resource; `None` where it is not known.
pub fn counted_kind(name: &str) -> Option<(String, String)> {
    if let Some(rest) = name.strip_prefix("count/") {
        let (plural, group) = rest.split_once('.').unwrap_or((rest, ""));
        return Some((group.to_string(), plural.to_string()));
    }
    let plural = match name {
        "services" | "services.nodeports" | "services.loadbalancers" => "services",
        "persistentvolumeclaims" | "requests.storage" => "persistentvolumeclaims",
        plain if PLAIN_COUNTS.contains(&plain) => plain,
        class if class.contains(OF_CLASS) => "persistentvolumeclaims",
        _ => "pods",
    };
    Some((String::new(), plural.to_string()))
}

/// All that an object uses, by the names that quotas give it.
pub fn usage(group: &str, plural: &str, object: &Value) -> Resources {
    let mut used = BTreeMap::new();
    used.insert(count_name(group, plural), Quantity::from_units(1));
    if group.is_empty() {
        match plural {
            "pods" => pod(object, &mut used),
            "services" => service(object, &mut used),
            "persistentvolumeclaims" => claim(object, &mut used),
            plain if PLAIN_COUNTS.contains(&plain) => {
                used.insert(plain.to_string(), Quantity::from_units(1));
            }
            _ => {}
        }
    }
    Resources(used)
}

fn pod(pod: &Value, used: &mut BTreeMap<String, Quantity>) {
    // What has ended uses nothing but its place in the store.
    if matches!(text(pod, "/status/phase"), "Succeeded" | "Failed") {
        return;
    }
    used.insert("pods".into(), Quantity::from_units(1));
    let Some(spec) = pod.get("spec").and_then(|s| serde_json::from_value::<PodSpec>(s.clone()).ok()) else {
        return;
    };
    for (name, amount) in pod_resources::requests(&spec).0 {
        // Names without a prefix are for what is not overcommitted apart from its request.
        if !name.contains('/') {
            used.insert(name.clone(), amount);
        }
        used.insert(format!("requests.{name}"), amount);
    }
    for (name, amount) in pod_resources::limits(&spec).0 {
        if matches!(name.as_str(), "cpu" | "memory" | "ephemeral-storage") {
            used.insert(format!("limits.{name}"), amount);
        }
    }
}

fn service(service: &Value, used: &mut BTreeMap<String, Quantity>) {
    used.insert("services".into(), Quantity::from_units(1));
    let ports = i64::try_from(list(service, "/spec/ports").len()).unwrap_or(i64::MAX);
    let (mut node_ports, mut balancers) = (0, 0);
    match text(service, "/spec/type") {
        "NodePort" => node_ports = ports,
        "LoadBalancer" => {
            balancers = 1;
            let allocates =
                service.pointer("/spec/allocateLoadBalancerNodePorts").is_none_or(|a| *a != false);
            node_ports = if allocates {
                ports
            } else {
                let own =
                    list(service, "/spec/ports").iter().filter(|p| int(p, "/nodePort").unwrap_or(0) != 0);
                i64::try_from(own.count()).unwrap_or(i64::MAX)
            };
        }
        _ => {}
    }
    used.insert("services.nodeports".into(), Quantity::from_units(node_ports));
    used.insert("services.loadbalancers".into(), Quantity::from_units(balancers));
}

fn claim(claim: &Value, used: &mut BTreeMap<String, Quantity>) {
    used.insert("persistentvolumeclaims".into(), Quantity::from_units(1));
    let storage = claim.pointer("/spec/resources/requests/storage").and_then(|q| Quantity::from_json(q).ok());
    if let Some(storage) = storage {
        used.insert("requests.storage".into(), storage);
    }
    let class = match text(claim, "/spec/storageClassName") {
        "" => text(claim, "/metadata/annotations/volume.beta.kubernetes.io~1storage-class"),
        class => class,
    };
    if !class.is_empty() {
        used.insert(format!("{class}{OF_CLASS}persistentvolumeclaims"), Quantity::from_units(1));
        if let Some(storage) = storage {
            used.insert(format!("{class}{OF_CLASS}requests.storage"), storage);
        }
    }
}

/// Reads amounts by name, as in `spec.hard` and `status.used`.
pub fn amounts(object: &Value, pointer: &str) -> BTreeMap<String, Quantity> {
    map(object, pointer)
        .into_iter()
        .flatten()
        .filter_map(|(name, amount)| Some((name.clone(), Quantity::from_json(amount).ok()?)))
        .collect()
}

/// Whether the quota's scopes select the object.
pub fn selects(quota: &Value, group: &str, plural: &str, object: &Value) -> bool {
    let of = |name: &str, operator: &str, values: &[&str]| {
        scope_selects((name, operator, values), group, plural, object)
    };
    list(quota, "/spec/scopes").iter().filter_map(Value::as_str).all(|name| of(name, "Exists", &[]))
        && list(quota, "/spec/scopeSelector/matchExpressions").iter().all(|term| {
            let values: Vec<&str> = list(term, "/values").iter().filter_map(Value::as_str).collect();
            of(text(term, "/scopeName"), text(term, "/operator"), &values)
        })
}

fn scope_selects(
    (name, operator, values): (&str, &str, &[&str]),
    group: &str,
    plural: &str,
    object: &Value,
) -> bool {
    let compares = |value: &str| match operator {
        "In" => values.contains(&value),
        "NotIn" => !values.contains(&value),
        "DoesNotExist" => value.is_empty(),
        _ => !value.is_empty(),
    };
    match (group, plural) {
        ("", "pods") => {
            let ends = int(object, "/spec/activeDeadlineSeconds").is_some_and(|s| s >= 0);
            match name {
                "Terminating" => ends,
                "NotTerminating" => !ends,
                "BestEffort" => is_best_effort(object),
                "NotBestEffort" => !is_best_effort(object),
                "PriorityClass" => compares(text(object, "/spec/priorityClassName")),
                "CrossNamespacePodAffinity" => crosses_namespaces(object),
                _ => false,
            }
        }
        ("", "persistentvolumeclaims") => {
            name == "VolumeAttributesClass" && compares(text(object, "/spec/volumeAttributesClassName"))
        }
        _ => false,
    }
}

fn is_best_effort(pod: &Value) -> bool {
    pod.get("spec")
        .and_then(|s| serde_json::from_value::<PodSpec>(s.clone()).ok())
        .is_some_and(|spec| QosClass::of(&spec).as_str() == "BestEffort")
}

/// Whether an affinity of the pod looks into other namespaces.
fn crosses_namespaces(pod: &Value) -> bool {
    ["podAffinity", "podAntiAffinity"].iter().any(|kind| {
        let at = |list_name: &str| list(pod, &format!("/spec/affinity/{kind}/{list_name}"));
        let required = at("requiredDuringSchedulingIgnoredDuringExecution").iter();
        let preferred = at("preferredDuringSchedulingIgnoredDuringExecution")
            .iter()
            .filter_map(|term| term.get("podAffinityTerm"));
        required.chain(preferred).any(|term| {
            !list(term, "/namespaces").is_empty()
                || term.get("namespaceSelector").is_some_and(|s| !s.is_null())
        })
    })
}

/// What containers of a pod must say and do not, because a quota limits it: `must specify …`.
pub fn missing(hard: &BTreeMap<String, Quantity>, pod: &Value) -> Option<String> {
    if pod
        .pointer("/spec/resources")
        .is_some_and(|r| map(r, "/requests").is_some() || map(r, "/limits").is_some())
    {
        return None;
    }
    let mut missing: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for name in COMPUTE.into_iter().filter(|name| hard.contains_key(*name)) {
        let (of, resource) = name.split_once('.').unwrap_or(("requests", name));
        for container in ["/spec/initContainers", "/spec/containers"].iter().flat_map(|p| list(pod, p)) {
            let amount = container.get("resources").and_then(|r| r.get(of)).and_then(|r| r.get(resource));
            if amount.is_none() {
                missing.entry(name).or_default().insert(text(container, "/name"));
            }
        }
    }
    let parts: Vec<String> = missing
        .into_iter()
        .map(|(name, containers)| {
            format!("{name} for: {}", containers.into_iter().collect::<Vec<_>>().join(","))
        })
        .collect();
    (!parts.is_empty()).then(|| format!("must specify {}", parts.join("; ")))
}

/// `name=amount,name=amount`.
pub fn print(amounts: &BTreeMap<String, Quantity>) -> String {
    amounts.iter().map(|(name, amount)| format!("{name}={amount}")).collect::<Vec<_>>().join(",")
}

/// How a write changes the usage of the resources that a quota limits: without those that stay as they are.
pub fn change(
    hard: &BTreeMap<String, Quantity>,
    new: Option<&Resources>,
    old: Option<&Resources>,
) -> BTreeMap<String, Quantity> {
    let zero = Resources::default();
    let (new, old) = (new.unwrap_or(&zero), old.unwrap_or(&zero));
    hard.keys()
        .map(|name| (name.clone(), new.get(name) - old.get(name)))
        .filter(|(_, delta)| !delta.is_zero())
        .collect()
}

/// The usage after a change, or why there is too little left: `exceeded quota: …`.
///
/// # Errors
/// Where something grows beyond what is allowed.
pub fn charge(
    quota: &str,
    hard: &BTreeMap<String, Quantity>,
    used: &BTreeMap<String, Quantity>,
    delta: &BTreeMap<String, Quantity>,
) -> Result<BTreeMap<String, Quantity>, String> {
    let mut after = used.clone();
    let (mut asked, mut before, mut limits) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
    for (name, amount) in delta {
        let total = after.entry(name.clone()).or_default();
        let was = *total;
        *total += *amount;
        let limit = hard.get(name).copied().unwrap_or_default();
        if total.is_negative() {
            *total = Quantity::ZERO;
        }
        if !amount.is_negative() && *total > limit {
            asked.insert(name.clone(), *amount);
            before.insert(name.clone(), was);
            limits.insert(name.clone(), limit);
        }
    }
    if asked.is_empty() {
        return Ok(after);
    }
    Err(format!(
        "exceeded quota: {quota}, requested: {}, used: {}, limited: {}",
        print(&asked),
        print(&before),
        print(&limits)
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(value: Value) -> BTreeMap<String, Quantity> {
        amounts(&json!({"a": value}), "/a")
    }

    #[test]
    fn a_pod_uses_what_it_asks_for_until_it_ends() {
        let mut pod = json!({"spec": {"containers": [{"name": "c", "resources": {
            "requests": {"cpu": "100m", "memory": "1Mi", "x.io/gpu": "2"}, "limits": {"cpu": "1", "x.io/gpu": "2"}}}]}});
        assert_eq!(
            print(&usage("", "pods", &pod).0),
            "count/pods=1,cpu=100m,limits.cpu=1,memory=1Mi,pods=1,requests.cpu=100m,requests.memory=1Mi,requests.x.io/gpu=2"
        );
        pod["status"] = json!({"phase": "Succeeded"});
        assert_eq!(print(&usage("", "pods", &pod).0), "count/pods=1");
    }

    #[test]
    fn services_and_claims_use_more_than_their_number() {
        let service = json!({"spec": {"type": "LoadBalancer", "ports": [{"port": 1}, {"port": 2}]}});
        assert_eq!(
            print(&usage("", "services", &service).0),
            "count/services=1,services=1,services.loadbalancers=1,services.nodeports=2"
        );
        let claim =
            json!({"spec": {"storageClassName": "fast", "resources": {"requests": {"storage": "1Gi"}}}});
        assert_eq!(
            print(&usage("", "persistentvolumeclaims", &claim).0),
            "count/persistentvolumeclaims=1,fast.storageclass.storage.k8s.io/persistentvolumeclaims=1,fast.storageclass.storage.k8s.io/requests.storage=1Gi,persistentvolumeclaims=1,requests.storage=1Gi"
        );
        assert_eq!(print(&usage("apps", "deployments", &json!({})).0), "count/deployments.apps=1");
        for (name, want) in [
            ("count/deployments.apps", ("apps", "deployments")),
            ("count/pods", ("", "pods")),
            ("fast.storageclass.storage.k8s.io/requests.storage", ("", "persistentvolumeclaims")),
            ("limits.cpu", ("", "pods")),
            ("services.nodeports", ("", "services")),
        ] {
            assert_eq!(counted_kind(name).unwrap(), (want.0.to_string(), want.1.to_string()), "{name}");
        }
    }

    #[test]
    fn scopes_select_pods() {
        let picks =
            |spec: Value, pod: Value| selects(&json!({"spec": spec}), "", "pods", &json!({"spec": pod}));
        let bare = json!({"containers": [{"name": "c"}]});
        assert!(picks(json!({}), bare.clone()));
        assert!(picks(json!({"scopes": ["BestEffort", "NotTerminating"]}), bare.clone()));
        assert!(!picks(json!({"scopes": ["Terminating"]}), bare.clone()));
        assert!(picks(json!({"scopes": ["Terminating"]}), json!({"activeDeadlineSeconds": 5})));
        let class = |operator: &str| {
            json!({"scopeSelector": {"matchExpressions": [
                {"scopeName": "PriorityClass", "operator": operator, "values": ["high"]}]}})
        };
        let high = json!({"priorityClassName": "high"});
        assert!(picks(class("In"), high.clone()) && !picks(class("In"), bare.clone()));
        assert!(picks(class("Exists"), high.clone()) && !picks(class("NotIn"), high.clone()));
        assert!(picks(class("DoesNotExist"), bare));
        let far = json!({"affinity": {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [
            {"topologyKey": "x", "namespaces": ["a"]}]}}});
        assert!(picks(json!({"scopes": ["CrossNamespacePodAffinity"]}), far));
        let service = json!({"spec": {}});
        assert!(!selects(&json!({"spec": {"scopes": ["BestEffort"]}}), "", "services", &service));
    }

    #[test]
    fn what_a_quota_limits_must_be_said() {
        let pod = json!({"spec": {"containers": [
            {"name": "a", "resources": {"requests": {"cpu": "1"}}}, {"name": "b"}]}});
        assert_eq!(
            missing(&read(json!({"cpu": "1", "limits.memory": "1", "pods": "3"})), &pod).unwrap(),
            "must specify cpu for: b; limits.memory for: a,b"
        );
        assert_eq!(missing(&read(json!({"pods": "3"})), &pod), None);
    }

    #[test]
    fn too_much_is_refused_in_kubernetes_words() {
        let hard = read(json!({"pods": "2", "requests.cpu": "1"}));
        let used = read(json!({"pods": "2", "requests.cpu": "500m"}));
        let delta = read(json!({"pods": "1", "requests.cpu": "100m"}));
        assert_eq!(
            charge("q", &hard, &used, &delta).unwrap_err(),
            "exceeded quota: q, requested: pods=1, used: pods=2, limited: pods=2"
        );
        let less = read(json!({"requests.cpu": "-600m"}));
        assert_eq!(print(&charge("q", &hard, &used, &less).unwrap()), "pods=2,requests.cpu=0");
        let over = read(json!({"pods": "5"}));
        let goes = read(json!({"pods": "-1"}));
        assert!(charge("q", &hard, &over, &goes).is_ok(), "what goes is never refused");
    }

    proptest::proptest! {
        #[test]
        fn whatever_comes_and_goes_the_usage_is_the_sum_of_what_is_there_and_within_the_limit(
            limit in 0i64..40,
            steps in proptest::collection::vec((1i64..10, proptest::bool::ANY), 0..60),
        ) {
            let hard = BTreeMap::from([("pods".to_string(), Quantity::from_units(limit))]);
            let mut used = BTreeMap::from([("pods".to_string(), Quantity::ZERO)]);
            let mut there: Vec<i64> = Vec::new();
            for (size, comes) in steps {
                let amount = if comes { size } else { there.pop().map_or(0, |gone| -gone) };
                let delta = BTreeMap::from([("pods".to_string(), Quantity::from_units(amount))]);
                match charge("q", &hard, &used, &delta) {
                    Ok(after) => {
                        used = after;
                        if comes {
                            there.push(size);
                        }
                    }
                    Err(_) => proptest::prop_assert!(comes && there.iter().sum::<i64>() + size > limit),
                }
                proptest::prop_assert_eq!(used["pods"], Quantity::from_units(there.iter().sum()));
                proptest::prop_assert!(used["pods"] <= hard["pods"]);
            }
        }
    }
}
