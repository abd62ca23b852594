//! All that is known of a node, for people.

use super::{LEASES, get, list, maintenance, pods_of};
use crate::{
    Error,
    api::{AS_JSON, Api},
    print,
    table::plain,
};
use jiff::Timestamp;
use orlop_api::duration::human;
use serde_json::Value;

pub(super) async fn run(api: &Api, name: &str) -> Result<(), Error> {
    let node = get(api, name).await?;
    let pods = pods_of(api, name).await?;
    let lease = match api.get(&format!("{LEASES}/{name}"), &[], AS_JSON).await {
        Err(error) if error.is_not_found() => Value::Null,
        outcome => outcome?,
    };
    let used = list::used(api).await;
    print(&text(&node, &pods, &lease, used.get(name), Timestamp::now()))
}

fn text(node: &Value, pods: &[Value], lease: &Value, used: Option<&Value>, now: Timestamp) -> String {
    let mut lines = Vec::new();
    let mut say = |title: &str, value: String| lines.push(vec![title.to_string(), value]);
    let meta = &node["metadata"];
    let shown = |text: &str| if text.is_empty() { "<none>".to_string() } else { text.to_string() };
    say("Status:", list::status(node));
    if let Some(reason) = meta["annotations"][maintenance::ANNOTATION].as_str() {
        say(
            "Maintenance:",
            if reason.is_empty() { "no reason was given".into() } else { reason.to_string() },
        );
    }
    say("Roles:", shown(&list::roles(node)));
    say("Address:", shown(list::address(node)));
    say("Pod ranges:", shown(&strings(&node["spec"]["podCIDRs"]).join(", ")));
    say("Age:", list::age(node, now));
    let heard = lease["spec"]["renewTime"].as_str().and_then(|t| t.parse::<Timestamp>().ok());
    say(
        "Heard of:",
        heard.map_or("never".into(), |at| format!("{} ago", human(now.duration_since(at).as_secs()))),
    );
    let info = &node["status"]["nodeInfo"];
    for (title, key) in [("System:", "osImage"), ("Kernel:", "kernelVersion"), ("Version:", "kubeletVersion")]
    {
        say(title, shown(info[key].as_str().unwrap_or_default()));
    }
    let taints = node["spec"]["taints"].as_array().into_iter().flatten().map(taint).collect::<Vec<_>>();
    say("Taints:", shown(&taints.join(", ")));
    for (n, (key, value)) in meta["labels"].as_object().into_iter().flatten().enumerate() {
        say(if n == 0 { "Labels:" } else { "" }, format!("{key}={}", value.as_str().unwrap_or_default()));
    }
    let mut out = format!("{}\n", meta["name"].as_str().unwrap_or_default());
    for line in lines {
        out.push_str(&format!("{:<14}{}\n", line[0], line[1]));
    }
    out.push('\n');
    out.push_str(&plain(&["RESOURCE", "CAPACITY", "FOR PODS", "USED"], resources(node, used)));
    let conditions = node["status"]["conditions"].as_array().into_iter().flatten().map(|c| {
        ["type", "status", "reason", "message"]
            .map(|key| c[key].as_str().unwrap_or_default().to_string())
            .to_vec()
    });
    out.push('\n');
    out.push_str(&plain(&["CONDITION", "STATUS", "REASON", "MESSAGE"], conditions.collect()));
    let rows = pods.iter().map(|pod| {
        let of = |key: &str| pod["metadata"][key].as_str().unwrap_or_default().to_string();
        let phase = pod["status"]["phase"].as_str().unwrap_or_default().to_string();
        vec![of("namespace"), of("name"), phase, list::age(pod, now)]
    });
    out.push('\n');
    out.push_str(&plain(&["NAMESPACE", "POD", "PHASE", "AGE"], rows.collect()));
    out
}

fn strings(list: &Value) -> Vec<&str> {
    list.as_array().into_iter().flatten().filter_map(Value::as_str).collect()
}

fn taint(taint: &Value) -> String {
    let of = |key: &str| taint[key].as_str().unwrap_or_default();
    match of("value") {
        "" => format!("{}:{}", of("key"), of("effect")),
        value => format!("{}={value}:{}", of("key"), of("effect")),
    }
}

fn resources(node: &Value, used: Option<&Value>) -> Vec<Vec<String>> {
    let capacity = node["status"]["capacity"].as_object();
    let rows = capacity.into_iter().flatten().map(|(name, has)| {
        let text = |value: &Value| value.as_str().unwrap_or("-").to_string();
        let used = used.map_or("-".into(), |used| text(&used[name]));
        vec![name.clone(), text(has), text(&node["status"]["allocatable"][name]), used]
    });
    rows.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_matters_is_shown() {
        let node = json!({
            "metadata": {"name": "n1", "labels": {"disk": "ssd"}, "annotations": {"orlop.dev/maintenance": "new disk"}},
            "spec": {"taints": [{"key": "gpu", "value": "yes", "effect": "NoSchedule"}], "podCIDRs": ["10.42.0.0/24"]},
            "status": {"capacity": {"cpu": "2"}, "allocatable": {"cpu": "2"},
                "conditions": [{"type": "Ready", "status": "Unknown", "reason": "NodeStatusUnknown", "message": "silent"}]},
        });
        let lease = json!({"spec": {"renewTime": "2026-01-01T00:00:00.000000Z"}});
        let pods =
            [json!({"metadata": {"namespace": "default", "name": "web"}, "status": {"phase": "Running"}})];
        let now = "2026-01-01T00:02:00Z".parse().unwrap();
        let shown = text(&node, &pods, &lease, Some(&json!({"cpu": "100m"})), now);
        for part in [
            "n1\n",
            "NotReady",
            "new disk",
            "gpu=yes:NoSchedule",
            "10.42.0.0/24",
            "disk=ssd",
            "2m ago",
            "100m",
            "web",
        ] {
            assert!(shown.contains(part), "{part} in {shown}");
        }
    }
}
