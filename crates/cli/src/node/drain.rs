//! Emptying a node as `kubectl drain` does: which pods go and what forbids it is decided first and for all of them; then each is
//! evicted through the API, which keeps disruption budgets, and asked for again while a budget refuses.

use super::{condition, get, pods_of};
use crate::{
    Error,
    api::{AS_JSON, Api, Content},
    print,
};
use futures::{StreamExt, TryStreamExt, stream};
use http::Method;
use jiff::SignedDuration;
use serde_json::{Value, json};
use std::{cell::RefCell, collections::BTreeSet, time::Duration};

/// How long is waited after a refusal, as kubectl does.
const AGAIN: Duration = Duration::from_secs(5);
/// How often it is looked whether a pod is gone.
const LOOK: Duration = Duration::from_millis(250);
/// Pods that are evicted at the same time.
const AT_ONCE: usize = 32;
const MIRROR: &str = "kubernetes.io/config.mirror";

/// How a node is emptied.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct DrainArgs {
    /// Also pods that no controller makes anew
    #[arg(long)]
    pub force: bool,
    /// Also pods with emptyDir volumes: what is in these is lost
    #[arg(long)]
    pub delete_emptydir_data: bool,
    /// Seconds that each pod gets to end by itself [default: what it asks for]
    #[arg(long, value_name = "SECONDS")]
    pub grace_period: Option<u32>,
    /// How long to go on: `30s`, `5m`; 0 for as long as it takes
    #[arg(long, default_value = "0", value_name = "TIME", value_parser = time)]
    pub timeout: Duration,
    /// Only pods with these labels
    #[arg(long, value_name = "LABELS")]
    pub pod_selector: Option<String>,
    /// Only say what would be done
    #[arg(long)]
    pub dry_run: bool,
}

fn time(text: &str) -> Result<Duration, String> {
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let parsed: SignedDuration = text.parse().map_err(|e: jiff::Error| e.to_string())?;
    Duration::try_from(parsed).map_err(|_| "a time is not negative".into())
}

/// What becomes of a pod.
#[derive(Debug, PartialEq)]
enum Fate {
    /// It stays, for this reason.
    Stays(&'static str),
    /// It is evicted.
    Goes,
    /// The node is not drained while it is there, unless a flag says otherwise.
    Forbids(&'static str),
}

/// A pod on its way out.
#[derive(Clone, Debug)]
struct Leaving {
    namespace: String,
    name: String,
    uid: String,
    terminating: bool,
}

impl Leaving {
    fn of(pod: &Value) -> Self {
        let text = |key: &str| pod["metadata"][key].as_str().unwrap_or_default().to_string();
        Self {
            namespace: text("namespace"),
            name: text("name"),
            uid: text("uid"),
            terminating: pod["metadata"]["deletionTimestamp"].is_string(),
        }
    }

    fn title(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }

    fn path(&self) -> String {
        format!("/api/v1/namespaces/{}/pods/{}", self.namespace, self.name)
    }
}

/// The controller of a pod: its kind and name.
fn controller(pod: &Value) -> Option<(&str, &str)> {
    let owners = pod["metadata"]["ownerReferences"].as_array()?;
    let owner = owners.iter().find(|o| o["controller"] == true)?;
    Some((owner["kind"].as_str()?, owner["name"].as_str()?))
}

/// Decides about a pod; `orphaned`: it was made by a DaemonSet that is gone.
fn fate(pod: &Value, orphaned: bool, args: &DrainArgs) -> Fate {
    if pod["metadata"]["annotations"].get(MIRROR).is_some() {
        return Fate::Stays("the node itself runs it");
    }
    let owner = controller(pod);
    if owner.is_some_and(|(kind, _)| kind == "DaemonSet") && !orphaned {
        return Fate::Stays("a DaemonSet runs it on every node");
    }
    if pod["metadata"]["deletionTimestamp"].is_string()
        || matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed"))
    {
        return Fate::Goes;
    }
    let volumes = pod["spec"]["volumes"].as_array().map(Vec::as_slice).unwrap_or_default();
    if !args.delete_emptydir_data && volumes.iter().any(|v| v["emptyDir"].is_object()) {
        return Fate::Forbids("it has data in an emptyDir volume: lose that with --delete-emptydir-data");
    }
    if !args.force && orphaned {
        return Fate::Forbids("its DaemonSet is gone, nobody makes it anew: end it with --force");
    }
    if !args.force && owner.is_none() {
        return Fate::Forbids("no controller makes it anew: end it with --force");
    }
    Fate::Goes
}

/// Empties a node that is cordoned. Nothing happens where a pod forbids it.
pub(super) async fn run(api: &Api, node: &str, args: &DrainArgs) -> Result<(), Error> {
    let silent = condition(&get(api, node).await?, "Ready") == "Unknown";
    let leaving = leaving(api, node, args).await?;
    if args.dry_run {
        for pod in leaving {
            print(&format!("pod/{} would be evicted\n", pod.title()))?;
        }
        return print(&format!("node/{node} would be drained\n"));
    }
    let left = RefCell::new(leaving.iter().map(Leaving::title).collect::<BTreeSet<_>>());
    let work = stream::iter(leaving).map(Ok).try_for_each_concurrent(AT_ONCE, |pod| {
        let left = &left;
        async move {
            if !pod.terminating {
                evict(api, &pod, args).await?;
            }
            if silent {
                return print(&format!(
                    "pod/{} is to go; its node is silent, so nobody ends it now\n",
                    pod.title()
                ));
            }
            wait_until_gone(api, &pod).await?;
            left.borrow_mut().remove(&pod.title());
            print(&format!("pod/{} evicted\n", pod.title()))
        }
    });
    if args.timeout.is_zero() {
        work.await?;
    } else {
        let outcome = tokio::time::timeout(args.timeout, work).await;
        outcome.map_err(|_| {
            let names: Vec<String> = left.borrow().iter().cloned().collect();
            Error::Timeout(format!("pods to leave node {node:?} (still there: {})", names.join(", ")))
        })??;
    }
    print(&format!("node/{node} drained\n"))
}

/// The pods that must go, or why the node cannot be drained.
async fn leaving(api: &Api, node: &str, args: &DrainArgs) -> Result<Vec<Leaving>, Error> {
    let mut pods = pods_of(api, node).await?;
    if let Some(selector) = &args.pod_selector {
        let here = format!("spec.nodeName={node}");
        let query = [("fieldSelector", here.as_str()), ("labelSelector", selector)];
        let list = api.get("/api/v1/pods", &query, AS_JSON).await?;
        pods = list["items"].as_array().cloned().unwrap_or_default();
    }
    let (mut leaving, mut forbidding) = (Vec::new(), Vec::new());
    for pod in &pods {
        let title = Leaving::of(pod).title();
        match fate(pod, is_orphaned(api, pod).await?, args) {
            Fate::Goes => leaving.push(Leaving::of(pod)),
            Fate::Stays(why) => print(&format!("pod/{title} stays: {why}\n"))?,
            Fate::Forbids(why) => forbidding.push(format!("{title}: {why}")),
        }
    }
    if forbidding.is_empty() {
        return Ok(leaving);
    }
    Err(Error::Usage(format!(
        "cannot drain node {node:?}, no pod was evicted:\n  {}",
        forbidding.join("\n  ")
    )))
}

/// Whether a DaemonSet made the pod and is gone.
async fn is_orphaned(api: &Api, pod: &Value) -> Result<bool, Error> {
    let Some(("DaemonSet", name)) = controller(pod) else { return Ok(false) };
    let namespace = pod["metadata"]["namespace"].as_str().unwrap_or_default();
    let path = format!("/apis/apps/v1/namespaces/{namespace}/daemonsets/{name}");
    match api.get(&path, &[], AS_JSON).await {
        Err(error) if error.is_not_found() => Ok(true),
        outcome => outcome.map(|_| false),
    }
}

/// Asks for the eviction until it is granted, or the pod is gone.
async fn evict(api: &Api, pod: &Leaving, args: &DrainArgs) -> Result<(), Error> {
    let mut options = json!({"preconditions": {"uid": pod.uid}});
    if let Some(seconds) = args.grace_period {
        options["gracePeriodSeconds"] = Value::from(seconds);
    }
    let eviction = json!({
        "apiVersion": "policy/v1", "kind": "Eviction",
        "metadata": {"name": pod.name, "namespace": pod.namespace}, "deleteOptions": options,
    });
    let mut said = String::new();
    loop {
        let content = Content { media_type: AS_JSON, body: eviction.to_string().into_bytes() };
        let path = format!("{}/eviction", pod.path());
        match api.request(Method::POST, &path, &[], AS_JSON, content).await {
            Ok(_) => return Ok(()),
            // Gone, or another one by now.
            Err(Error::Server { code: 404 | 409, .. }) => return Ok(()),
            Err(Error::Server { code: 429, message, .. }) => {
                if said != message {
                    print(&format!("pod/{} stays for now: {message}\n", pod.title()))?;
                    said = message;
                }
            }
            Err(error) => return Err(error),
        }
        tokio::time::sleep(AGAIN).await;
    }
}

async fn wait_until_gone(api: &Api, pod: &Leaving) -> Result<(), Error> {
    loop {
        match api.get(&pod.path(), &[], AS_JSON).await {
            Err(error) if error.is_not_found() => return Ok(()),
            Ok(now) if now["metadata"]["uid"] != pod.uid => return Ok(()),
            Ok(_) => {}
            Err(error) => return Err(error),
        }
        tokio::time::sleep(LOOK).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pods_go_stay_or_forbid_it_as_kubectl_has_it() {
        let owned = |kind: &str| json!([{"kind": kind, "name": "x", "controller": true}]);
        let pod = |owners: Value, volumes: Value| json!({"metadata": {"ownerReferences": owners}, "spec": {"volumes": volumes}, "status": {"phase": "Running"}});
        let none = DrainArgs::default();
        let force = DrainArgs { force: true, ..DrainArgs::default() };
        let lose = DrainArgs { delete_emptydir_data: true, ..DrainArgs::default() };
        let scratch = json!([{"name": "s", "emptyDir": {}}]);
        assert_eq!(fate(&pod(owned("ReplicaSet"), json!([])), false, &none), Fate::Goes);
        assert!(matches!(fate(&pod(owned("DaemonSet"), json!([])), false, &force), Fate::Stays(_)));
        assert!(matches!(fate(&pod(owned("DaemonSet"), json!([])), true, &none), Fate::Forbids(_)));
        assert_eq!(fate(&pod(owned("DaemonSet"), json!([])), true, &force), Fate::Goes);
        assert!(
            matches!(fate(&pod(json!([]), json!([])), false, &none), Fate::Forbids(w) if w.contains("--force"))
        );
        assert_eq!(fate(&pod(json!([]), json!([])), false, &force), Fate::Goes);
        let with_data = pod(owned("ReplicaSet"), scratch.clone());
        assert!(matches!(fate(&with_data, false, &force), Fate::Forbids(w) if w.contains("emptydir")));
        assert_eq!(fate(&with_data, false, &lose), Fate::Goes);
        let mut over = pod(json!([]), scratch);
        over["status"]["phase"] = "Succeeded".into();
        assert_eq!(fate(&over, false, &none), Fate::Goes);
        over["metadata"]["annotations"] = json!({MIRROR: "x"});
        assert!(matches!(fate(&over, false, &force), Fate::Stays(_)));
    }

    #[test]
    fn times_are_read_as_people_write_them() {
        assert_eq!(time("0"), Ok(Duration::ZERO));
        assert_eq!(time("90s"), Ok(Duration::from_secs(90)));
        assert!(time("-1s").is_err() && time("soon").is_err());
    }
}
