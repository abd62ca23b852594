//! `node`: the machines of a cluster: list and show them, label them, keep pods away, empty them, remove them. All through the API.

mod drain;
mod edit;
mod label;
mod list;
mod maintenance;
mod remove;
mod show;

use crate::{
    ConnectionArgs, Error,
    api::{AS_JSON, Api, Content},
};
pub use drain::DrainArgs;
use http::Method;
use serde_json::Value;
use std::process::ExitCode;

const NODES: &str = "/api/v1/nodes";
const LEASES: &str = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases";

/// Arguments of `node`.
#[derive(Clone, Debug, clap::Args)]
pub struct NodeArgs {
    /// What to do
    #[command(subcommand)]
    pub verb: NodeVerb,
}

/// What can be done with nodes.
#[derive(Clone, Debug, clap::Subcommand)]
pub enum NodeVerb {
    /// List the nodes: how they are, what runs on them, what they use
    List {
        /// Only those with these labels: `zone=a`
        #[arg(short = 'l', long, value_name = "LABELS")]
        selector: Option<String>,
        /// Print the objects, as JSON
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        #[allow(missing_docs)]
        connection: ConnectionArgs,
    },
    /// Show all that is known of a node
    Show {
        /// The node
        #[arg(value_name = "NODE")]
        node: String,
        #[command(flatten)]
        #[allow(missing_docs)]
        connection: ConnectionArgs,
    },
    /// Put labels on a node, and take them off
    Label {
        /// The node
        #[arg(value_name = "NODE")]
        node: String,
        /// KEY=VALUE puts a label on, KEY- takes it off
        #[arg(value_name = "KEY=VALUE|KEY-", required = true)]
        labels: Vec<String>,
        /// Also change labels that have another value
        #[arg(long)]
        overwrite: bool,
        #[command(flatten)]
        #[allow(missing_docs)]
        connection: ConnectionArgs,
    },
    /// Let no new pods come to nodes
    Cordon {
        /// The nodes
        #[arg(value_name = "NODE", required = true)]
        nodes: Vec<String>,
        #[command(flatten)]
        #[allow(missing_docs)]
        connection: ConnectionArgs,
    },
    /// Let pods come again, and end maintenance
    Uncordon {
        /// The nodes
        #[arg(value_name = "NODE", required = true)]
        nodes: Vec<String>,
        #[command(flatten)]
        #[allow(missing_docs)]
        connection: ConnectionArgs,
    },
    /// Empty nodes: cordon them, and evict their pods as disruption budgets allow
    Drain {
        /// The nodes, one after the other
        #[arg(value_name = "NODE", required = true)]
        nodes: Vec<String>,
        #[command(flatten)]
        #[allow(missing_docs)]
        drain: DrainArgs,
        #[command(flatten)]
        #[allow(missing_docs)]
        connection: ConnectionArgs,
    },
    /// Empty a node and show that somebody works on it, until `uncordon`
    Maintenance {
        /// The node
        #[arg(value_name = "NODE")]
        node: String,
        /// Why, for those who look at it
        #[arg(long, default_value = "", value_name = "TEXT")]
        reason: String,
        #[command(flatten)]
        #[allow(missing_docs)]
        drain: DrainArgs,
        #[command(flatten)]
        #[allow(missing_docs)]
        connection: ConnectionArgs,
    },
    /// Empty a node, forget it, and take away what it proves itself with: it comes back with a new token only
    Remove {
        /// The node
        #[arg(value_name = "NODE")]
        node: String,
        #[command(flatten)]
        #[allow(missing_docs)]
        drain: DrainArgs,
        #[command(flatten)]
        #[allow(missing_docs)]
        connection: ConnectionArgs,
    },
}

pub(crate) async fn run(args: NodeArgs) -> Result<ExitCode, Error> {
    match args.verb {
        NodeVerb::List { selector, json, connection } => {
            list::run(&connection.connect().await?, selector.as_deref(), json).await?;
        }
        NodeVerb::Show { node, connection } => show::run(&connection.connect().await?, &node).await?,
        NodeVerb::Label { node, labels, overwrite, connection } => {
            let changes = label::parse(&labels)?;
            label::run(&connection.connect().await?, &node, &changes, overwrite).await?;
        }
        NodeVerb::Cordon { nodes, connection } => {
            let api = connection.connect().await?;
            for node in nodes {
                maintenance::cordon(&api, &node).await?;
            }
        }
        NodeVerb::Uncordon { nodes, connection } => {
            let api = connection.connect().await?;
            for node in nodes {
                maintenance::end(&api, &node).await?;
            }
        }
        NodeVerb::Drain { nodes, drain, connection } => {
            let api = connection.connect().await?;
            for node in &nodes {
                get(&api, node).await?;
            }
            for node in nodes {
                if !drain.dry_run {
                    maintenance::cordon(&api, &node).await?;
                }
                drain::run(&api, &node, &drain).await?;
            }
        }
        NodeVerb::Maintenance { node, reason, drain, connection } => {
            maintenance::begin(&connection.connect().await?, &node, &reason, &drain).await?;
        }
        NodeVerb::Remove { node, drain, connection } => {
            remove::run(&connection.connect().await?, &node, &drain).await?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn path(node: &str) -> String {
    format!("{NODES}/{}", percent_encoding::utf8_percent_encode(node, percent_encoding::NON_ALPHANUMERIC))
}

async fn get(api: &Api, node: &str) -> Result<Value, Error> {
    api.get(&path(node), &[], AS_JSON).await
}

/// The pods that are bound to a node.
async fn pods_of(api: &Api, node: &str) -> Result<Vec<Value>, Error> {
    let here = format!("spec.nodeName={node}");
    let list = api.get("/api/v1/pods", &[("fieldSelector", &here)], AS_JSON).await?;
    Ok(list["items"].as_array().cloned().unwrap_or_default())
}

async fn patch(api: &Api, path: &str, media_type: &str, patch: &Value) -> Result<Value, Error> {
    let content = Content { media_type, body: patch.to_string().into_bytes() };
    Ok(api.request(Method::PATCH, path, &[], AS_JSON, content).await?.1)
}

/// The status of a condition of a node; empty where it has none such.
fn condition<'a>(node: &'a Value, kind: &str) -> &'a str {
    let conditions = node["status"]["conditions"].as_array().map(Vec::as_slice).unwrap_or_default();
    let found = conditions.iter().find(|c| c["type"] == kind);
    found.and_then(|c| c["status"].as_str()).unwrap_or_default()
}
