//! `status`: how a cluster is, at a glance: who serves its API, who leads, which parts are well, how its nodes are. Ends with 1 if
//! something is not as it should be.

use crate::{ConnectionArgs, Error, api::AS_JSON, print, table::plain};
use jiff::Timestamp;
use orlop_api::duration::human;
use serde_json::Value;
use std::{collections::BTreeMap, process::ExitCode};

/// Arguments of `status`.
#[derive(Clone, Debug, clap::Args)]
pub struct StatusArgs {
    #[command(flatten)]
    #[allow(missing_docs)]
    pub connection: ConnectionArgs,
}

/// What was asked.
#[derive(Default)]
struct Answers {
    version: Value,
    /// Slices of the Service `kubernetes`.
    members: Value,
    components: Value,
    leases: Value,
    nodes: Value,
}

pub(crate) async fn run(args: StatusArgs) -> Result<ExitCode, Error> {
    let api = args.connection.connect().await?;
    let slices = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices";
    let of_api = [("labelSelector", "kubernetes.io/service-name=kubernetes")];
    let answers = Answers {
        version: api.get("/version", &[], AS_JSON).await?,
        members: api.get(slices, &of_api, AS_JSON).await?,
        components: api.get("/api/v1/componentstatuses", &[], AS_JSON).await?,
        leases: api.get("/apis/coordination.k8s.io/v1/namespaces/kube-system/leases", &[], AS_JSON).await?,
        nodes: api.get("/api/v1/nodes", &[], AS_JSON).await?,
    };
    let (text, is_well) = report(&answers, Timestamp::now());
    print(&text)?;
    Ok(if is_well { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn items(list: &Value) -> &[Value] {
    list["items"].as_array().map(Vec::as_slice).unwrap_or_default()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_string()
}

fn condition<'a>(object: &'a Value, kind: &str) -> Option<&'a Value> {
    let conditions = object.pointer("/status/conditions").or_else(|| object.get("conditions"))?;
    conditions.as_array()?.iter().find(|c| c["type"] == kind)
}

fn report(answers: &Answers, now: Timestamp) -> (String, bool) {
    let mut is_well = true;
    let mut out = format!("version     {}\n", text(&answers.version["gitVersion"]));
    let endpoints =
        items(&answers.members).iter().flat_map(|s| s["endpoints"].as_array().into_iter().flatten());
    let members: Vec<String> =
        endpoints.flat_map(|e| e["addresses"].as_array().into_iter().flatten()).map(text).collect();
    out.push_str(&format!(
        "API         served at {}\n",
        if members.is_empty() { "no address".into() } else { members.join(", ") }
    ));

    let (ready, versions) = nodes(&answers.nodes);
    let count = items(&answers.nodes).len();
    is_well &= ready == count;
    let of: Vec<String> = versions.iter().map(|(version, n)| format!("{n} with {version}")).collect();
    out.push_str(&format!("nodes       {ready} of {count} ready ({})\n", of.join(", ")));

    let parts = items(&answers.components).iter().map(|part| {
        let healthy = condition(part, "Healthy");
        let is = healthy.is_some_and(|c| c["status"] == "True");
        is_well &= is;
        let why = healthy.map(|c| [text(&c["message"]), text(&c["error"])].concat()).unwrap_or_default();
        vec![text(&part["metadata"]["name"]), if is { "healthy" } else { "unhealthy" }.into(), why]
    });
    let parts: Vec<_> = parts.collect();
    out.push_str(&format!("\n{}", plain(&["PART", "STATUS", "MESSAGE"], parts)));

    let leaders: Vec<Vec<String>> =
        items(&answers.leases).iter().filter_map(|lease| leader(lease, now)).collect();
    if !leaders.is_empty() {
        out.push_str(&format!("\n{}", plain(&["LEASE", "HELD BY", "RENEWED"], leaders)));
    }
    let silent = items(&answers.nodes).iter().filter_map(|node| {
        let ready = condition(node, "Ready").filter(|c| c["status"] != "True")?;
        Some(vec![text(&node["metadata"]["name"]), text(&ready["reason"]), text(&ready["message"])])
    });
    let silent: Vec<_> = silent.collect();
    if !silent.is_empty() {
        out.push_str(&format!("\n{}", plain(&["NOT READY", "REASON", "MESSAGE"], silent)));
    }
    (out, is_well)
}

/// How many nodes are ready, and which versions how many have.
fn nodes(list: &Value) -> (usize, BTreeMap<String, usize>) {
    let mut versions = BTreeMap::new();
    let mut ready = 0;
    for node in items(list) {
        ready += usize::from(condition(node, "Ready").is_some_and(|c| c["status"] == "True"));
        *versions.entry(text(&node["status"]["nodeInfo"]["kubeletVersion"])).or_default() += 1;
    }
    (ready, versions)
}

/// Who holds a Lease, and since when nothing was heard; those that nobody holds are left out.
fn leader(lease: &Value, now: Timestamp) -> Option<Vec<String>> {
    let spec = &lease["spec"];
    let holder = spec["holderIdentity"].as_str().filter(|holder| !holder.is_empty())?;
    let renewed: Timestamp = spec["renewTime"].as_str()?.parse().ok()?;
    let ago = now.duration_since(renewed).as_secs();
    let lasts = spec["leaseDurationSeconds"].as_i64().unwrap_or(0);
    let over = if ago > lasts { ", over" } else { "" };
    Some(vec![text(&lease["metadata"]["name"]), holder.into(), format!("{} ago{over}", human(ago))])
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn node(name: &str, ready: &str) -> Value {
        json!({"metadata": {"name": name}, "status": {"nodeInfo": {"kubeletVersion": "v1"},
            "conditions": [{"type": "Ready", "status": ready, "reason": "R", "message": "told so"}]}})
    }

    #[test]
    fn what_is_not_well_is_said_and_counts() {
        let part = |healthy: &str| json!({"metadata": {"name": "scheduler"}, "conditions": [{"type": "Healthy", "status": healthy}]});
        let mut answers = Answers {
            version: json!({"gitVersion": "v1.36.0+orlop"}),
            members: json!({"items": [{"endpoints": [{"addresses": ["192.0.2.1"]}]}]}),
            components: json!({"items": [part("True")]}),
            leases: json!({"items": [{"metadata": {"name": "scheduler"}, "spec": {
                "holderIdentity": "a", "renewTime": "2026-01-01T00:00:00Z", "leaseDurationSeconds": 15}}]}),
            nodes: json!({"items": [node("n1", "True")]}),
        };
        let now = "2026-01-01T00:00:20Z".parse().unwrap();
        let (said, is_well) = report(&answers, now);
        assert!(is_well, "{said}");
        for part in ["v1.36.0+orlop", "192.0.2.1", "1 of 1 ready (1 with v1)", "healthy", "20s ago, over"] {
            assert!(said.contains(part), "{part} in {said}");
        }
        answers.nodes = json!({"items": [node("n1", "True"), node("n2", "Unknown")]});
        let (said, is_well) = report(&answers, now);
        assert!(!is_well && said.contains("1 of 2 ready") && said.contains("told so"), "{said}");
        answers.nodes = json!({"items": []});
        answers.components = json!({"items": [part("False")]});
        assert!(!report(&answers, now).1);
    }
}
