//! Removing a node for good: emptied, refused from now on whatever it shows, and then forgotten. Each step can be repeated: who is
//! interrupted runs it again.

use super::{
    LEASES, condition,
    drain::{self, DrainArgs},
    get, maintenance, path, pods_of,
};
use crate::{
    Error,
    api::{AS_JSON, Api, Content},
    print,
};
use http::Method;
use orlop_api::removed_node::{self, record, record_name};
use serde_json::json;
use std::time::Duration;

const CONTROL_PLANE: &str = "node-role.kubernetes.io/control-plane";
const REQUESTS: &str = "/apis/certificates.k8s.io/v1/certificatesigningrequests";
/// Certificates tell their time in seconds: what is issued in the second of the removal is refused with what was before.
const SECOND: Duration = Duration::from_secs(1);

pub(super) async fn run(api: &Api, node: &str, args: &DrainArgs) -> Result<(), Error> {
    let now = get(api, node).await?;
    let ready = condition(&now, "Ready");
    if now["metadata"]["labels"].get(CONTROL_PLANE).is_some() && ready == "True" {
        return Err(Error::Usage(format!(
            "node {node:?} is part of a server that runs, and would come back at once: stop that `orlop server` first"
        )));
    }
    if args.dry_run {
        drain::run(api, node, args).await?;
        return print(&format!("node/{node} would be removed\n"));
    }
    maintenance::cordon(api, node).await?;
    if ready == "Unknown" {
        print(&format!("node/{node} is silent: its pods are removed with it\n"))?;
    } else {
        drain::run(api, node, args).await?;
    }
    refuse(api, node).await?;
    let (removed, ()) = tokio::join!(forget(api, node), tokio::time::sleep(SECOND));
    removed?;
    print(&format!(
        "node/{node} removed; to make the machine free: stop `orlop agent` there and run `orlop reset`\n"
    ))
}

/// From here on, what the node got so far lets it in no more.
async fn refuse(api: &Api, node: &str) -> Result<(), Error> {
    let maps = format!("/api/v1/namespaces/{}/configmaps", removed_node::NAMESPACE);
    // The server's time counts, not this machine's: it says when it would make an object.
    let draft = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"generateName": "time-"}});
    let content = Content { media_type: AS_JSON, body: draft.to_string().into_bytes() };
    let (_, made) = api.request(Method::POST, &maps, &[("dryRun", "All")], AS_JSON, content).await?;
    let now = made["metadata"]["creationTimestamp"].as_str();
    let now = now.ok_or_else(|| Error::Answer("the server does not tell its time".into()))?;
    let content = Content {
        media_type: "application/apply-patch+yaml",
        body: record(node, now).to_string().into_bytes(),
    };
    let query = [("fieldManager", "orlop"), ("force", "true")];
    api.request(Method::PATCH, &format!("{maps}/{}", record_name(node)), &query, AS_JSON, content).await?;
    Ok(())
}

/// Deletes what tells of the node.
async fn forget(api: &Api, node: &str) -> Result<(), Error> {
    let user = format!("system:node:{node}");
    let requests = api.get(REQUESTS, &[], AS_JSON).await?;
    let of_node =
        requests["items"].as_array().into_iter().flatten().filter(|r| r["spec"]["username"] == user);
    for name in of_node.filter_map(|r| r["metadata"]["name"].as_str()) {
        delete(api, &format!("{REQUESTS}/{name}")).await?;
    }
    delete(api, &path(node)).await?;
    delete(api, &format!("{LEASES}/{node}")).await?;
    // The node never comes back as it was, so nobody is left to end what stays: pods of DaemonSets, and all of a silent node.
    for pod in pods_of(api, node).await? {
        let of = |key: &str| pod["metadata"][key].as_str().unwrap_or_default();
        let path = format!("/api/v1/namespaces/{}/pods/{}", of("namespace"), of("name"));
        let options = json!({"kind": "DeleteOptions", "apiVersion": "v1", "gracePeriodSeconds": 0,
            "preconditions": {"uid": of("uid")}});
        let content = Content { media_type: AS_JSON, body: options.to_string().into_bytes() };
        match api.request(Method::DELETE, &path, &[], AS_JSON, content).await {
            Err(Error::Server { code: 404 | 409, .. }) => {}
            outcome => drop(outcome?),
        }
    }
    Ok(())
}

async fn delete(api: &Api, path: &str) -> Result<(), Error> {
    match api.request(Method::DELETE, path, &[], AS_JSON, Content::default()).await {
        Err(error) if error.is_not_found() => Ok(()),
        outcome => outcome.map(|_| ()),
    }
}
