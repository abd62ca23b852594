//! `orlop check`: whether this machine can be one of a cluster. Facts are gathered first; judging them is pure, and each line that is
//! not well says how to mend it.

mod facts;
mod verdicts;

use crate::Error;
use clap::Args;
use std::{path::PathBuf, process::ExitCode};
use verdicts::Grade;

#[derive(Args)]
pub(crate) struct CheckArguments {
    /// The folder that is to hold everything
    #[arg(long, default_value = orlop_cli::DEFAULT_DATA_DIR, value_name = "DIR")]
    data_dir: PathBuf,
    /// Port of the API; 0: this machine is to be a worker
    #[arg(long, default_value_t = 6443, value_name = "PORT")]
    https_port: u16,
    /// Port of the node's own endpoint
    #[arg(long, default_value_t = 10250, value_name = "PORT")]
    kubelet_port: u16,
}

/// Prints a line for each thing; 1 if something is in the way.
pub(crate) fn run(arguments: &CheckArguments) -> Result<ExitCode, Error> {
    let ports = [arguments.https_port, arguments.kubelet_port]
        .into_iter()
        .filter(|port| *port != 0)
        .collect::<Vec<_>>();
    let facts = facts::gather(&arguments.data_dir, &ports)?;
    let verdicts = verdicts::judge(&facts);
    for verdict in &verdicts {
        println!("{verdict}");
    }
    let count = |grade| verdicts.iter().filter(|v| v.grade == grade).count();
    let (bad, doubtful) = (count(Grade::Bad), count(Grade::Doubtful));
    println!(
        "{}",
        match (bad, doubtful) {
            (0, 0) => "this machine is ready".to_string(),
            (0, n) => format!("this machine can be used; {n} to look at"),
            (n, _) => format!("{n} in the way"),
        }
    );
    Ok(if bad == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
