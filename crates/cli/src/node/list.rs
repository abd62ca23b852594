//! A line for each node: how it is, where, what runs on it and what it uses.

use super::{NODES, condition, maintenance};
use crate::{
    Error,
    api::{AS_JSON, Api},
    print,
    table::plain,
};
use jiff::Timestamp;
use orlop_api::{duration::human, quantity::Quantity};
use serde_json::Value;
use std::collections::BTreeMap;

const METRICS: &str = "/apis/metrics.k8s.io/v1beta1/nodes";
const ROLE: &str = "node-role.kubernetes.io/";
const ZONE: &str = "topology.kubernetes.io/zone";

pub(super) async fn run(api: &Api, selector: Option<&str>, json: bool) -> Result<(), Error> {
    let query: Vec<_> = selector.map(|s| ("labelSelector", s)).into_iter().collect();
    let nodes = api.get(NODES, &query, AS_JSON).await?;
    if json {
        let text = serde_json::to_string_pretty(&nodes).map_err(|e| Error::Answer(e.to_string()))?;
        return print(&format!("{text}\n"));
    }
    let pods = api.get(
        "/api/v1/pods",
        &[("fieldSelector", "status.phase!=Succeeded,status.phase!=Failed")],
        AS_JSON,
    );
    let pods = pods.await?;
    let items = |list: &Value| list["items"].as_array().cloned().unwrap_or_default();
    let mut count: BTreeMap<String, usize> = BTreeMap::new();
    for pod in items(&pods) {
        *count.entry(pod["spec"]["nodeName"].as_str().unwrap_or_default().to_string()).or_default() += 1;
    }
    let used = used(api).await;
    let now = Timestamp::now();
    let rows = items(&nodes).iter().map(|node| row(node, &count, &used, now)).collect();
    let headings = ["NAME", "STATUS", "ROLES", "ADDRESS", "ZONE", "PODS", "CPU", "MEMORY", "AGE", "VERSION"];
    print(&plain(&headings, rows))
}

/// What nodes use, as far as they tell: a node that does not answer, or a server without that API, is no reason not to list.
pub(super) async fn used(api: &Api) -> BTreeMap<String, Value> {
    let metrics = api.get(METRICS, &[], AS_JSON).await.unwrap_or_default();
    let items = metrics["items"].as_array().cloned().unwrap_or_default();
    items
        .into_iter()
        .map(|m| (m["metadata"]["name"].as_str().unwrap_or_default().to_string(), m["usage"].clone()))
        .collect()
}

fn row(
    node: &Value,
    pods: &BTreeMap<String, usize>,
    used: &BTreeMap<String, Value>,
    now: Timestamp,
) -> Vec<String> {
    let name = node["metadata"]["name"].as_str().unwrap_or_default();
    let allocatable = &node["status"]["allocatable"];
    let usage = used.get(name).unwrap_or(&Value::Null);
    let shown = |text: &str| if text.is_empty() { "<none>".to_string() } else { text.to_string() };
    let most = allocatable["pods"].as_str().unwrap_or("?");
    vec![
        name.to_string(),
        status(node),
        shown(&roles(node)),
        shown(address(node)),
        shown(node["metadata"]["labels"][ZONE].as_str().unwrap_or_default()),
        format!("{}/{most}", pods.get(name).copied().unwrap_or(0)),
        share(&usage["cpu"], &allocatable["cpu"]),
        share(&usage["memory"], &allocatable["memory"]),
        age(node, now),
        node["status"]["nodeInfo"]["kubeletVersion"].as_str().unwrap_or("?").to_string(),
    ]
}

/// As `kubectl get nodes` says it, and whether somebody works on it.
pub(super) fn status(node: &Value) -> String {
    let mut words = vec![if condition(node, "Ready") == "True" { "Ready" } else { "NotReady" }];
    if condition(node, maintenance::CONDITION) == "True" {
        words.push("Maintenance");
    } else if node["spec"]["unschedulable"] == true {
        words.push("SchedulingDisabled");
    }
    words.join(",")
}

pub(super) fn roles(node: &Value) -> String {
    let labels = node["metadata"]["labels"].as_object();
    let roles = labels.into_iter().flatten().filter_map(|(key, _)| key.strip_prefix(ROLE));
    roles.collect::<Vec<_>>().join(",")
}

pub(super) fn address(node: &Value) -> &str {
    let addresses = node["status"]["addresses"].as_array().map(Vec::as_slice).unwrap_or_default();
    let internal = addresses.iter().find(|a| a["type"] == "InternalIP");
    internal.and_then(|a| a["address"].as_str()).unwrap_or_default()
}

/// How much of what there is is used.
fn share(used: &Value, of: &Value) -> String {
    match (Quantity::from_json(used), Quantity::from_json(of)) {
        (Ok(used), Ok(of)) if !of.is_zero() => {
            format!("{:.0}%", 100.0 * used.approximate() / of.approximate())
        }
        _ => "-".into(),
    }
}

pub(super) fn age(object: &Value, now: Timestamp) -> String {
    let made = object["metadata"]["creationTimestamp"].as_str().and_then(|t| t.parse::<Timestamp>().ok());
    made.map_or("?".into(), |made| human(now.duration_since(made).as_secs()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_node_says_how_it_is() {
        let mut node = json!({
            "metadata": {"name": "n1", "creationTimestamp": "2026-01-01T00:00:00Z",
                "labels": {"node-role.kubernetes.io/control-plane": "", ZONE: "a"}},
            "spec": {}, "status": {
                "conditions": [{"type": "Ready", "status": "True"}], "allocatable": {"cpu": "2", "memory": "4Gi", "pods": "110"},
                "addresses": [{"type": "Hostname", "address": "n1"}, {"type": "InternalIP", "address": "192.0.2.1"}],
                "nodeInfo": {"kubeletVersion": "v1.36.0+orlop"}},
        });
        let used = BTreeMap::from([("n1".to_string(), json!({"cpu": "500m", "memory": "1Gi"}))]);
        let now = "2026-01-01T00:05:00Z".parse().unwrap();
        let shown = row(&node, &BTreeMap::from([("n1".to_string(), 3)]), &used, now);
        let expected =
            ["n1", "Ready", "control-plane", "192.0.2.1", "a", "3/110", "25%", "25%", "5m", "v1.36.0+orlop"];
        assert_eq!(shown, expected);
        assert_eq!(row(&node, &BTreeMap::new(), &BTreeMap::new(), now)[6], "-");
        node["spec"]["unschedulable"] = true.into();
        assert_eq!(status(&node), "Ready,SchedulingDisabled");
        node["status"]["conditions"] =
            json!([{"type": "Ready", "status": "Unknown"}, {"type": "Maintenance", "status": "True"}]);
        assert_eq!(status(&node), "NotReady,Maintenance");
    }
}
