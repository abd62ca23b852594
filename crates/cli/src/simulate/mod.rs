//! `simulate`: the real scheduler and the real controllers on a copy of a cluster, in virtual time, and what comes of it. The cluster
//! itself is read and never changed.

mod cluster;
mod drain;
mod live;
mod new_nodes;
mod outcome;
mod report;
mod run;
mod timeline;
#[cfg(test)]
#[path = "tests.rs"]
mod whole;

use crate::{ConnectionArgs, Error, manifest};
use cluster::Cluster;
use new_nodes::NewNodes;
use std::{path::PathBuf, process::ExitCode, time::Duration};

/// Arguments of `simulate`.
#[derive(Clone, Debug, clap::Args)]
pub struct SimulateArgs {
    /// File with the cluster, as `kubectl get nodes,deploy,rs,pods,… -A -o yaml` prints it (or - ); may be repeated
    #[arg(long, value_name = "FILE")]
    pub cluster: Vec<PathBuf>,
    /// The cluster that the kubeconfig leads to. It is read; nothing there is changed
    #[arg(long)]
    pub live: bool,
    /// File, folder or - with objects to apply; may be repeated
    #[arg(long, value_name = "FILE")]
    pub apply: Vec<PathBuf>,
    /// Node to drain; may be repeated
    #[arg(long, value_name = "NODE")]
    pub drain: Vec<String>,
    /// Nodes to add: COUNTxCPUcpu,MEMORY[,RESOURCE=AMOUNT][,label:KEY=VALUE]; may be repeated
    #[arg(long, value_name = "10x8cpu,32Gi")]
    pub add_nodes: Vec<String>,
    /// The longest time to look ahead
    #[arg(long = "for", value_name = "TIME", default_value = "1h")]
    pub longest: String,
    /// How long a pod takes from its node to its running containers
    #[arg(long, value_name = "TIME", default_value = "2s")]
    pub pod_start: String,
    /// And from there until it is ready
    #[arg(long, value_name = "TIME", default_value = "1s")]
    pub pod_ready: String,
    /// How long a pod takes to end when it is told to
    #[arg(long, value_name = "TIME", default_value = "1s")]
    pub pod_stop: String,
    /// How long a new pod runs that ends by itself (of a Job)
    #[arg(long, value_name = "TIME", default_value = "10s")]
    pub pod_run: String,
    /// Which of the ways that things may go
    #[arg(long, value_name = "NUMBER", default_value_t = 0)]
    pub seed: u64,
    /// Configuration that the cluster's scheduler runs with
    #[arg(long, value_name = "FILE")]
    pub scheduler_config: Option<PathBuf>,
    /// How to print
    #[arg(short, long, value_enum, default_value_t)]
    pub output: SimulateFormat,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub connection: ConnectionArgs,
}

/// How a simulation is printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum SimulateFormat {
    /// For people
    #[default]
    Text,
    /// For programs
    Json,
}

/// `90s`, `1h30m`.
fn duration(text: &str) -> Result<Duration, String> {
    let read = text.parse::<jiff::SignedDuration>().ok().and_then(|d| Duration::try_from(d).ok());
    read.ok_or_else(|| format!("{text:?} is no time: write 500ms, 90s or 1h30m"))
}

/// How long things take, as it was asked for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Times {
    pub longest: Duration,
    pub start: Duration,
    pub ready: Duration,
    pub stop: Duration,
    pub run: Duration,
}

impl Times {
    fn of(args: &SimulateArgs) -> Result<Self, Error> {
        let read = |option: &str, text: &str| {
            duration(text).map_err(|why| Error::Usage(format!("--{option}: {why}")))
        };
        Ok(Self {
            longest: read("for", &args.longest)?,
            start: read("pod-start", &args.pod_start)?,
            ready: read("pod-ready", &args.pod_ready)?,
            stop: read("pod-stop", &args.pod_stop)?,
            run: read("pod-run", &args.pod_run)?,
        })
    }
}

pub(crate) async fn run(args: SimulateArgs) -> Result<ExitCode, Error> {
    if args.live != args.cluster.is_empty() {
        return Err(Error::Usage("name one cluster: --cluster FILE or --live".into()));
    }
    let times = Times::of(&args)?;
    let new_nodes = args.add_nodes.iter().map(|text| {
        let read = text.parse::<NewNodes>();
        read.map_err(|why| Error::Usage(format!("--add-nodes {text}: {why}")))
    });
    let new_nodes = new_nodes.collect::<Result<Vec<_>, _>>()?;
    let configuration = crate::explain::configuration(args.scheduler_config.as_deref())?;
    let readers = args.cluster.iter().chain(&args.apply).filter(|f| f.as_os_str() == "-").count();
    if readers > 1 {
        return Err(Error::Usage("standard input can be read only once".into()));
    }
    let wanted = if args.apply.is_empty() { Vec::new() } else { manifest::read_all(&args.apply, false)? };
    let (objects, from, namespace) = if args.live {
        let api = args.connection.connect().await?;
        (live::read(&api).await?, "the cluster".to_string(), api.namespace.clone())
    } else {
        let files: Vec<String> = args.cluster.iter().map(|f| f.display().to_string()).collect();
        let namespace = args.connection.namespace.clone().unwrap_or_else(|| "default".into());
        (manifest::read_all(&args.cluster, false)?, files.join(", "), namespace)
    };
    let cluster = if args.live { Cluster::of_live(objects) } else { Cluster::of(objects) };
    let cluster = cluster.map_err(|why| Error::Usage(format!("{from}: {why}")))?;
    let nodes = drain::names(cluster.of_kind("Node"));
    for name in &args.drain {
        drain::is_there(&nodes, name).map_err(Error::Usage)?;
    }
    if !cluster.left_out.is_empty() && !args.live {
        let kinds: Vec<String> = cluster.left_out.iter().map(|(kind, n)| format!("{kind} ({n})")).collect();
        eprintln!("note: these have no part in it: {}", kinds.join(", "));
    }
    let plan = run::Plan {
        cluster,
        wanted,
        namespace,
        configuration,
        new_nodes,
        drain: args.drain,
        seed: args.seed,
        times,
    };
    // The simulation has a runtime of its own, whose clock is not ours.
    let simulated = std::thread::spawn(move || run::simulate(plan)).join();
    let outcome = match simulated {
        Ok(outcome) => outcome?,
        Err(panic) => std::panic::resume_unwind(panic),
    };
    outcome.refused.iter().for_each(|refusal| eprintln!("{refusal}"));
    match args.output {
        SimulateFormat::Text => crate::print(&report::text(&outcome))?,
        SimulateFormat::Json => crate::print(&format!("{:#}\n", report::machine(&outcome)))?,
    }
    Ok(ExitCode::from(outcome.code()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_kubectl_takes_them() {
        assert_eq!(duration("1h30m"), Ok(Duration::from_secs(5400)));
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        for text in ["", "soon", "-1s", "5"] {
            assert!(duration(text).unwrap_err().contains("is no time"), "{text}");
        }
    }
}
