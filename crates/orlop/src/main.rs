//! One binary that turns Linux machines into a Kubernetes-compatible cluster: arguments, configuration, and the wiring of roles.

mod address;
mod agent;
mod audit;
mod audit_webhook;
mod backup;
mod certificates;
mod check;
mod cluster_layout;
mod configuration;
mod control_plane;
mod datastore;
mod dead_nodes;
mod dns;
mod founding;
mod identity;
mod join;
mod layout;
mod lock;
mod logging;
mod membership;
mod node;
mod node_role;
mod pressure;
mod ranges;
mod reset;
mod roles;
mod scheduling;
mod server;
mod service_manager;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use std::{path::Path, process::ExitCode};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The Kubernetes version whose API is served.
const KUBERNETES_VERSION: &str = "v1.36.0";

#[derive(Parser)]
#[command(
    name = "orlop",
    version,
    about = "A Kubernetes-compatible cluster in one binary",
    propagate_version = true
)]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Run a whole cluster on this machine: API, store, scheduler, controllers, node, network, DNS
    Server(Box<server::ServerArguments>),
    /// Add this machine to a cluster as a worker
    Agent(Box<agent::AgentArguments>),
    /// Stop everything that Orlop started on this machine and remove its state, links and rules
    Reset(reset::ResetArguments),
    /// The cluster's state in one file: create, restore, verify, schedule
    Backup(backup::BackupArguments),
    /// Look whether this machine can be one of a cluster, and say how to mend what is in the way
    Check(check::CheckArguments),
    /// Print the unit by which systemd runs Orlop
    SystemdUnit(service_manager::UnitArguments),
    /// Print the versions of Orlop and of the API that it serves
    Version,
    #[command(flatten)]
    Client(orlop_cli::ClientVerb),
}

fn main() -> ExitCode {
    // A shim must not have a second thread, so it begins before anything else does.
    let mut arguments = std::env::args_os().skip(1);
    if arguments.next().is_some_and(|verb| verb == "shim") {
        return orlop_runtime::shim::main(arguments);
    }
    let arguments = match read_arguments() {
        Ok(arguments) => arguments,
        Err(error) => return finish(Err(error)),
    };
    match arguments.verb {
        Verb::Server(arguments) => finish(server::run(*arguments)),
        Verb::Agent(arguments) => finish(agent::run(*arguments)),
        Verb::Reset(arguments) => finish(reset::run(&arguments)),
        Verb::Backup(arguments) => finish(backup::run(arguments)),
        Verb::Check(arguments) => check::run(&arguments).unwrap_or_else(|error| finish(Err(error))),
        Verb::SystemdUnit(arguments) => {
            let program = std::env::current_exe().ok();
            print!("{}", service_manager::unit(&arguments, program.as_deref().and_then(Path::to_str)));
            ExitCode::SUCCESS
        }
        Verb::Version => {
            println!("orlop {} (Kubernetes API {KUBERNETES_VERSION})", env!("CARGO_PKG_VERSION"));
            ExitCode::SUCCESS
        }
        Verb::Client(verb) => client(verb),
    }
}

/// What was typed, over what the configuration file says. Ends the process where that makes no sense, as clap does.
fn read_arguments() -> Result<Arguments, Error> {
    let mut command = configuration::with_file(Arguments::command());
    let words =
        configuration::expand(&command, std::env::args_os().collect(), Path::new(configuration::DEFAULT))?;
    let mut matches = command.clone().get_matches_from(words);
    Ok(Arguments::from_arg_matches_mut(&mut matches)
        .unwrap_or_else(|error| error.format(&mut command).exit()))
}

/// What goes wrong in the binary itself; the causes tell the story.
#[derive(Debug, thiserror::Error)]
enum Error {
    /// Not as configured.
    #[error("{0}")]
    Configuration(String),
    /// A step of starting or ending failed.
    #[error("{step}")]
    Step {
        /// What was being done.
        step: String,
        /// What went wrong.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl Error {
    /// Names the step that failed.
    fn at<E>(step: impl Into<String>) -> impl FnOnce(E) -> Self
    where
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let step = step.into();
        move |source| Self::Step { step, source: source.into() }
    }
}

fn finish(outcome: Result<(), Error>) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            report(&error);
            ExitCode::FAILURE
        }
    }
}

/// Prints an error with its causes on one line.
fn report(error: &dyn std::error::Error) {
    let mut line = format!("orlop: {error}");
    let mut cause = error.source();
    while let Some(error) = cause {
        line.push_str(&format!(": {error}"));
        cause = error.source();
    }
    eprintln!("{line}");
}

fn client(verb: orlop_cli::ClientVerb) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            report(&error);
            return ExitCode::FAILURE;
        }
    };
    runtime.block_on(orlop_cli::run(verb)).unwrap_or_else(|error| {
        // Its text is complete.
        eprintln!("{error}");
        ExitCode::FAILURE
    })
}
