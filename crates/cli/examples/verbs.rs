//! The client verbs as a program of their own: how a binary mounts them, and what the tests run.

use clap::Parser;
use std::process::ExitCode;

/// Client verbs for people without kubectl
#[derive(Parser)]
#[command(name = "orlop", disable_help_subcommand = true)]
struct Arguments {
    #[command(subcommand)]
    verb: orlop_cli::ClientVerb,
}

#[tokio::main]
async fn main() -> ExitCode {
    match orlop_cli::run(Arguments::parse().verb).await {
        Ok(code) => code,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}
