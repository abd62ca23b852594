//! A small operator of Sites: web pages, the Deployment that serves them, and webhooks that convert and admit. It is written with `kube`
//! alone, as people write theirs, and knows nothing of Orlop; the end-to-end tests run it in pods. What else people do with `kube`
//! are its checks, which run against a cluster from outside.

mod checks;
mod controller;
mod conversion;
mod leader;
mod site;
mod webhooks;

use kube::{Client, CustomResourceExt as _, core::crd::merge_crds};
use std::{path::PathBuf, process::ExitCode, sync::Arc};
use tokio::signal::unix::{SignalKind, signal};

/// What went wrong, in words.
type Error = Box<dyn std::error::Error + Send + Sync>;
type Result<T, E = Error> = std::result::Result<T, E>;

const USAGE: &str = "usage: operator crd STORED_VERSION | run | check NAME NAMESPACE";

fn environment(name: &str) -> Result<String> {
    std::env::var(name).map_err(|_| format!("{name} is not set").into())
}

/// Serves the webhooks, and reconciles while this pod leads.
async fn run() -> Result<()> {
    let (namespace, pod) = (environment("NAMESPACE")?, environment("POD")?);
    let client = Client::try_default().await?;
    let store = controller::follow(client.clone());
    let certificate = PathBuf::from(environment("CERTIFICATE")?);
    let webhooks = webhooks::serve(8443, &certificate, Arc::new(move || controller::names(&store)))?;
    let mut told_to_end = signal(SignalKind::terminate())?;
    let lead = async {
        let lease = leader::Lease::new(client.clone(), &namespace, "site-operator", &pod);
        tokio::select! {
            acquired = lease.acquire() => acquired?,
            _ = told_to_end.recv() => return Ok(()),
        }
        println!("{pod} leads");
        tokio::select! {
            lost = lease.renew() => lost,
            () = controller::run(client, pod.clone()) => lease.release().await,
        }
    };
    tokio::select! {
        ended = webhooks => ended,
        ended = lead => ended,
    }
}

async fn command(arguments: &[&str]) -> Result<()> {
    match arguments {
        ["crd", stored] => {
            let crd = merge_crds(vec![site::v1::Site::crd(), site::v2::Site::crd()], stored)?;
            println!("{}", serde_json::to_string_pretty(&crd)?);
            Ok(())
        }
        ["run"] => run().await,
        ["check", name, namespace] => checks::run(name, namespace).await,
        _ => Err(USAGE.into()),
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    // Another program might bring a second provider; this one says which it takes.
    drop(rustls::crypto::ring::default_provider().install_default());
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match command(&arguments.iter().map(String::as_str).collect::<Vec<_>>()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            let mut cause = error.source();
            while let Some(error) = cause {
                eprintln!("  because: {error}");
                cause = error.source();
            }
            ExitCode::FAILURE
        }
    }
}
