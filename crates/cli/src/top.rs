//! `top`: what nodes and pods use now, as the resource metrics API tells it.

use crate::{
    ConnectionArgs, Error,
    api::{AS_JSON, Api},
    print,
    table::plain,
};
use orlop_api::quantity::Quantity;
use serde_json::Value;
use std::{collections::BTreeMap, process::ExitCode};

const METRICS: &str = "/apis/metrics.k8s.io/v1beta1";
const MEBI: i64 = 1 << 20;

/// Arguments of `top`.
#[derive(Clone, Debug, clap::Args)]
pub struct TopArgs {
    /// Of what
    #[command(subcommand)]
    pub verb: TopVerb,
}

/// Whose use is shown.
#[derive(Clone, Debug, clap::Subcommand)]
pub enum TopVerb {
    /// What nodes use, and which part that is of what they offer
    Nodes {
        /// Only those with these labels
        #[arg(short = 'l', long, value_name = "LABELS")]
        selector: Option<String>,
        /// What they are sorted by
        #[arg(long, value_enum, default_value_t, value_name = "BY")]
        sort_by: Order,
        #[command(flatten)]
        #[allow(missing_docs)]
        connection: ConnectionArgs,
    },
    /// What pods use
    Pods {
        /// In all namespaces
        #[arg(short = 'A', long)]
        all_namespaces: bool,
        /// Only those with these labels
        #[arg(short = 'l', long, value_name = "LABELS")]
        selector: Option<String>,
        /// What they are sorted by
        #[arg(long, value_enum, default_value_t, value_name = "BY")]
        sort_by: Order,
        #[command(flatten)]
        #[allow(missing_docs)]
        connection: ConnectionArgs,
    },
}

/// What lines are sorted by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Order {
    /// Their names
    #[default]
    Name,
    /// The processor, most first
    Cpu,
    /// The memory, most first
    Memory,
}

/// One line.
#[derive(Debug, PartialEq)]
struct Use {
    namespace: String,
    name: String,
    /// Thousandths of a processor.
    cpu: i64,
    /// Bytes.
    memory: i64,
}

pub(crate) async fn run(args: TopArgs) -> Result<ExitCode, Error> {
    match args.verb {
        TopVerb::Nodes { selector, sort_by, connection } => {
            let api = connection.connect().await?;
            let mut lines = uses(&list(&api, &format!("{METRICS}/nodes"), selector.as_deref()).await?);
            sort(&mut lines, sort_by);
            let nodes = list(&api, "/api/v1/nodes", None).await?;
            print(&of_nodes(&lines, &nodes))?;
        }
        TopVerb::Pods { all_namespaces, selector, sort_by, connection } => {
            let api = connection.connect().await?;
            let path = match all_namespaces {
                true => format!("{METRICS}/pods"),
                false => format!("{METRICS}/namespaces/{}/pods", api.namespace),
            };
            let mut lines = uses(&list(&api, &path, selector.as_deref()).await?);
            sort(&mut lines, sort_by);
            print(&of_pods(&lines, all_namespaces))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn list(api: &Api, path: &str, selector: Option<&str>) -> Result<Vec<Value>, Error> {
    let query: Vec<_> = selector.map(|s| ("labelSelector", s)).into_iter().collect();
    let list = api.get(path, &query, AS_JSON).await?;
    Ok(list["items"].as_array().cloned().unwrap_or_default())
}

/// Sums up what containers use, where a thing has some.
fn uses(metrics: &[Value]) -> Vec<Use> {
    let amount = |usage: &Value, what: &str| Quantity::from_json(&usage[what]).ok();
    let one = |item: &Value| {
        let text = |key: &str| item["metadata"][key].as_str().unwrap_or_default().to_string();
        let parts = match item["containers"].as_array() {
            Some(containers) => containers.iter().map(|c| &c["usage"]).collect(),
            None => vec![&item["usage"]],
        };
        let cpu = parts.iter().filter_map(|u| amount(u, "cpu")).map(Quantity::milli_value).sum();
        let memory = parts.iter().filter_map(|u| amount(u, "memory")).map(Quantity::value).sum();
        Use { namespace: text("namespace"), name: text("name"), cpu, memory }
    };
    metrics.iter().map(one).collect()
}

fn sort(lines: &mut [Use], by: Order) {
    lines.sort_by(|a, b| {
        let name = || (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name));
        match by {
            Order::Name => name(),
            Order::Cpu => b.cpu.cmp(&a.cpu).then_with(name),
            Order::Memory => b.memory.cmp(&a.memory).then_with(name),
        }
    });
}

fn of_nodes(lines: &[Use], nodes: &[Value]) -> String {
    let offered: BTreeMap<&str, &Value> = nodes
        .iter()
        .filter_map(|node| Some((node["metadata"]["name"].as_str()?, &node["status"]["allocatable"])))
        .collect();
    let share = |line: &Use, what: &str, used: i64| {
        let has = offered.get(line.name.as_str()).and_then(|o| Quantity::from_json(&o[what]).ok());
        let has = has.map(|q| if what == "cpu" { q.milli_value() } else { q.value() });
        has.filter(|has| *has > 0).map_or("-".to_string(), |has| format!("{}%", used * 100 / has))
    };
    let rows = lines.iter().map(|line| {
        vec![
            line.name.clone(),
            format!("{}m", line.cpu),
            share(line, "cpu", line.cpu),
            format!("{}Mi", line.memory / MEBI),
            share(line, "memory", line.memory),
        ]
    });
    plain(&["NAME", "CPU(cores)", "CPU(%)", "MEMORY(bytes)", "MEMORY(%)"], rows.collect())
}

fn of_pods(lines: &[Use], with_namespace: bool) -> String {
    let rows = lines.iter().map(|line| {
        let namespace = with_namespace.then(|| line.namespace.clone());
        let rest = [line.name.clone(), format!("{}m", line.cpu), format!("{}Mi", line.memory / MEBI)];
        namespace.into_iter().chain(rest).collect()
    });
    let headings: &[&str] = match with_namespace {
        true => &["NAMESPACE", "NAME", "CPU(cores)", "MEMORY(bytes)"],
        false => &["NAME", "CPU(cores)", "MEMORY(bytes)"],
    };
    plain(headings, rows.collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn use_is_summed_up_sorted_and_compared_with_what_there_is() {
        let pods = [
            json!({"metadata": {"namespace": "d", "name": "a"}, "containers": [
                {"usage": {"cpu": "100m", "memory": "1Mi"}}, {"usage": {"cpu": "150000000n", "memory": "2048Ki"}}]}),
            json!({"metadata": {"namespace": "d", "name": "b"}, "containers": [{"usage": {"cpu": "1", "memory": "1Mi"}}]}),
        ];
        let mut lines = uses(&pods);
        sort(&mut lines, Order::Cpu);
        assert_eq!(
            of_pods(&lines, false),
            "NAME   CPU(cores)   MEMORY(bytes)\nb      1000m        1Mi\na      250m         3Mi\n"
        );
        let nodes = uses(&[json!({"metadata": {"name": "n"}, "usage": {"cpu": "500m", "memory": "1Gi"}})]);
        let offered =
            [json!({"metadata": {"name": "n"}, "status": {"allocatable": {"cpu": "2", "memory": "4Gi"}}})];
        assert!(of_nodes(&nodes, &offered).ends_with("n      500m         25%      1024Mi          25%\n"));
        assert!(of_nodes(&nodes, &[]).contains(" -"));
    }
}
