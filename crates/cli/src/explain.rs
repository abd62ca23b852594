//! `explain`: why a pod is where it is, or has no node, as the scheduler sees it now.

use crate::{
    ConnectionArgs, Error,
    api::{AS_JSON, Api},
    explain_connection::{self, ExplainConnectionArgs},
    print,
};
use k8s_openapi::api::core::v1::Pod;
use orlop_scheduler::{
    config::Configuration,
    explain::Explanation,
    world::{LISTS, World},
};
use serde_json::Value;
use std::{
    fmt::Write,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
};

/// Nodes shown of those that a pod fits.
const SHOWN: usize = 5;

/// Arguments of `explain`.
#[derive(Clone, Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct ExplainArgs {
    #[command(subcommand)]
    #[allow(missing_docs)]
    pub what: Option<ExplainVerb>,
    /// Pod, as NAME or pod/NAME
    #[arg(value_name = "POD", required = true)]
    pub target: Option<String>,
    /// The configuration that the scheduler runs with, if it is not the default
    #[arg(long, value_name = "FILE")]
    pub scheduler_config: Option<PathBuf>,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub connection: ConnectionArgs,
}

/// What else can be explained.
#[derive(Clone, Debug, clap::Subcommand)]
pub enum ExplainVerb {
    /// Say whether NetworkPolicies let a connection come about, and which rule decides (exit code 0: they do, 1: not, 2: unknown)
    Connection(Box<ExplainConnectionArgs>),
}

pub(crate) async fn run(args: ExplainArgs) -> Result<ExitCode, Error> {
    if let Some(ExplainVerb::Connection(args)) = args.what {
        return explain_connection::run(*args).await;
    }
    let target = args.target.as_deref().unwrap_or_default();
    let name = match target.split_once('/') {
        None => target,
        Some(("pod" | "pods" | "po", name)) => name,
        Some((kind, _)) => return Err(Error::Usage(format!("explains pods only, not {kind:?}"))),
    };
    let configuration = configuration(args.scheduler_config.as_deref())?;
    let api = args.connection.connect().await?;
    let namespace = &api.namespace;
    let pod = api.get(&format!("/api/v1/namespaces/{namespace}/pods/{name}"), &[], AS_JSON).await?;
    let unexpected = |e: serde_json::Error| Error::Answer(e.to_string());
    let pod: Pod = serde_json::from_value(pod).map_err(unexpected)?;
    let mut world = World::new(configuration);
    for list in LISTS {
        world.take(list, &items(&api, list).await?).map_err(unexpected)?;
    }
    let pod = Arc::new(pod);
    match world.explain(&pod) {
        Some(explanation) => print(&text(&pod, &explanation))?,
        None => {
            let scheduler = pod.spec.as_ref().and_then(|s| s.scheduler_name.as_deref()).unwrap_or_default();
            return Err(Error::Usage(format!("the pod waits for another scheduler: {scheduler:?}")));
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// What a scheduler runs with: as a file says, or kube-scheduler's defaults.
pub(crate) fn configuration(file: Option<&Path>) -> Result<Configuration, Error> {
    let Some(file) = file else { return Ok(Configuration::default()) };
    let text =
        std::fs::read_to_string(file).map_err(|e| Error::io(format!("reading {}", file.display()), e))?;
    Configuration::parse(&text).map_err(|e| Error::Manifest { file: file.into(), why: e.to_string() })
}

async fn items(api: &Api, path: &str) -> Result<Vec<Value>, Error> {
    let mut list = api.get(path, &[], AS_JSON).await?;
    Ok(list["items"].as_array_mut().map(std::mem::take).unwrap_or_default())
}

/// What a person reads.
fn text(pod: &Pod, explanation: &Explanation) -> String {
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let node = pod.spec.as_ref().and_then(|s| s.node_name.as_deref()).unwrap_or_default();
    let gates = pod.spec.as_ref().and_then(|s| s.scheduling_gates.as_ref()).filter(|g| !g.is_empty());
    let mut out = String::new();
    // Writing to a String cannot fail.
    let _ = match (node, gates) {
        ("", Some(gates)) => {
            let names: Vec<&str> = gates.iter().map(|g| g.name.as_str()).collect();
            writeln!(out, "{namespace}/{name} waits for its scheduling gates: {}", names.join(", "))
        }
        ("", None) => writeln!(out, "{namespace}/{name} has no node"),
        (node, _) => writeln!(out, "{namespace}/{name} is on {node}"),
    };
    let diagnosis = &explanation.diagnosis;
    if let Some((plugin, words)) = &diagnosis.before {
        let _ = writeln!(out, "\n{} keeps it off all nodes: {words}", plugin.name());
    }
    if let Some((plugin, count)) = diagnosis.skipped {
        let _ = writeln!(out, "\n{count} nodes are none of those that it names ({})", plugin.name());
    }
    if !diagnosis.refusals.is_empty() {
        let _ = writeln!(out, "\nNODES  FILTER                 WHY");
        for (refusal, count) in &diagnosis.refusals {
            let words: Vec<String> = refusal.reasons.iter().map(ToString::to_string).collect();
            let _ = writeln!(out, "{count:<7}{:<23}{}", refusal.plugin.name(), words.join(", "));
        }
    }
    if let Some((node, changes)) = &explanation.nearest {
        let _ = writeln!(out, "\nThe node that is nearest to taking it is {node}. For that,");
        for change in changes {
            let _ = writeln!(out, "- {change}");
        }
    }
    if !explanation.candidates.is_empty() {
        let of = explanation.candidates.len();
        let _ = writeln!(out, "\nIt fits {of} of {} nodes; the best are", diagnosis.nodes);
        for candidate in explanation.candidates.iter().take(SHOWN) {
            let parts: Vec<String> =
                candidate.parts.iter().map(|(plugin, score)| format!("{} {score}", plugin.name())).collect();
            let _ = writeln!(out, "- {}: {} ({})", candidate.node, candidate.score, parts.join(", "));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_person_reads_what_is_in_the_way_and_what_would_help() {
        let mut world = World::new(Configuration::default());
        let node = json!({"metadata": {"name": "a"}, "status": {"allocatable": {"cpu": "1", "pods": "10"}}});
        world.take("/api/v1/nodes", &[node]).unwrap();
        let pod = |name: &str, cpu: &str, node: &str| {
            json!({"metadata": {"name": name, "namespace": "n", "uid": name}, "spec": {"nodeName": node, "containers":
                [{"name": "c", "resources": {"requests": {"cpu": cpu}}}]}})
        };
        world.take("/api/v1/pods", &[pod("there", "800m", "a")]).unwrap();
        let big: Pod = serde_json::from_value(pod("big", "500m", "")).unwrap();
        let explained = world.explain(&Arc::new(big.clone())).unwrap();
        assert_eq!(
            text(&big, &explained),
            "n/big has no node\n\nNODES  FILTER                 WHY\n1      NodeResourcesFit       Insufficient cpu\n\n\
             The node that is nearest to taking it is a. For that,\n- ask for 300m less cpu, or free that much on a\n"
        );
        let there: Pod = serde_json::from_value(pod("there", "800m", "a")).unwrap();
        let explained = world.explain(&Arc::new(there.clone())).unwrap();
        let read = text(&there, &explained);
        assert!(read.starts_with("n/there is on a\n\nIt fits 1 of 1 nodes; the best are\n- a: "), "{read}");
    }
}
