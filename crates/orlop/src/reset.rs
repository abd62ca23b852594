//! `orlop reset`: stops everything that an Orlop started on this machine and removes its state, links and rules. It works however
//! the server ended, and can be repeated.

use crate::{Error, layout::Layout, lock, membership::Membership};
use clap::Args;
use k8s_openapi::api::coordination::v1::Lease;
use kube::{Api, api::DeleteParams};
use orlop_client::remote;
use orlop_network::Network;
use orlop_runtime::{
    Runtime, RuntimeConfig,
    image::{ImageStore, StoreOptions},
};
use rustix::{
    mount::{UnmountFlags, unmount},
    process::{Pid, Signal, kill_process},
};
use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

/// How long the cluster may take to be told that a worker goes.
const GOODBYE: Duration = Duration::from_secs(3);
/// How long a server has for an orderly end.
const PATIENCE: Duration = Duration::from_secs(15);

#[derive(Args)]
pub(crate) struct ResetArguments {
    /// The folder that holds the cluster
    #[arg(long, default_value = orlop_cli::DEFAULT_DATA_DIR, value_name = "DIR")]
    data_dir: PathBuf,
    /// Yes, delete everything
    #[arg(long)]
    yes: bool,
}

pub(crate) fn run(arguments: &ResetArguments) -> Result<(), Error> {
    let Some(layout) = Layout::find(&arguments.data_dir)? else {
        println!("nothing to reset: {} is not a data folder of Orlop", arguments.data_dir.display());
        return Ok(());
    };
    if !arguments.yes {
        return Err(Error::Configuration(format!(
            "this stops every container of the cluster in {} and deletes its state; say --yes if you mean it",
            layout.root().display()
        )));
    }
    stop_server(&layout)?;
    // From here on no server can start in between.
    let held = lock::take(&layout.lock())?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(Error::at("starting"))?;
    runtime.block_on(remove(&layout))?;
    unmount_below(layout.root())?;
    drop(held);
    empty(layout.root())?;
    println!("removed the cluster in {}", layout.root().display());
    Ok(())
}

/// Asks a running server to end, and ends it where it does not.
fn stop_server(layout: &Layout) -> Result<(), Error> {
    let Some(pid) = lock::holder(&layout.lock())?.and_then(Pid::from_raw) else { return Ok(()) };
    let _ = kill_process(pid, Signal::TERM);
    let begun = Instant::now();
    let mut killed = false;
    while lock::holder(&layout.lock())?.is_some() {
        if begun.elapsed() > PATIENCE && !killed {
            let _ = kill_process(pid, Signal::KILL);
            killed = true;
        }
        if begun.elapsed() > PATIENCE * 2 {
            return Err(Error::Configuration(format!("process {} does not end", pid.as_raw_nonzero())));
        }
        std::thread::park_timeout(Duration::from_millis(20));
    }
    Ok(())
}

/// Tells the cluster that a worker is no longer alive, so that its name is free at once. Without an answer it is in a while.
async fn say_goodbye(layout: &Layout) {
    let Ok(Some(member)) = Membership::read(layout) else { return };
    let tls = orlop_pki::tls::client_config(&member.settings.authority, Some(&member.client));
    let (Ok(url), Ok(tls)) = (remote::server_url(&member.settings.server), tls) else { return };
    let leases = Api::<Lease>::namespaced(remote::connect(&url, &tls, None), "kube-node-lease");
    let params = DeleteParams::default();
    let deleted = leases.delete(&member.settings.node, &params);
    if !matches!(tokio::time::timeout(GOODBYE, deleted).await, Ok(Ok(_))) {
        eprintln!(
            "orlop: the cluster was not told that node {:?} is gone: its name is free there in a minute",
            member.settings.node
        );
    }
}

async fn remove(layout: &Layout) -> Result<(), Error> {
    say_goodbye(layout).await;
    if layout.runtime().exists() {
        let options = StoreOptions { root: layout.images(), ..StoreOptions::default() };
        let images = ImageStore::open(options).map_err(Error::at("opening the images"))?;
        let mut config = RuntimeConfig::new(layout.runtime(), images);
        config.cgroup_root = layout.cgroup();
        let runtime = Runtime::open(config).await.map_err(Error::at("opening the runtime"))?;
        runtime.destroy_all().await.map_err(Error::at("removing containers"))?;
    }
    Network::remove_all(&layout.instance, &layout.network()).await.map_err(Error::at("removing the network"))
}

/// Unmounts what is left below a folder, the deepest first: volumes of pods, pinned namespaces.
fn unmount_below(root: &Path) -> Result<(), Error> {
    let table = fs::read_to_string("/proc/self/mountinfo").map_err(Error::at("reading the mounts"))?;
    let mut points: Vec<PathBuf> = table
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(|point| PathBuf::from(unescaped(point)))
        .filter(|point| point.starts_with(root) && point != root)
        .collect();
    points.sort_by_key(|point| std::cmp::Reverse(point.components().count()));
    for point in points {
        unmount(&point, UnmountFlags::DETACH)
            .map_err(Error::at(format!("unmounting {}", point.display())))?;
    }
    Ok(())
}

/// Mount tables write blanks and the like as octal escapes (proc(5)).
fn unescaped(field: &str) -> String {
    let mut out = Vec::with_capacity(field.len());
    let mut bytes = field.as_bytes();
    while let Some((&first, rest)) = bytes.split_first() {
        let octal = rest
            .get(..3)
            .and_then(|d| std::str::from_utf8(d).ok())
            .and_then(|d| u8::from_str_radix(d, 8).ok());
        match (first, octal) {
            (b'\\', Some(byte)) => {
                out.push(byte);
                bytes = &rest[3..];
            }
            _ => {
                out.push(first);
                bytes = rest;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// Empties the folder, and removes it if nothing else holds it.
fn empty(root: &Path) -> Result<(), Error> {
    let failed = |path: &Path| Error::at(format!("removing {}", path.display()));
    for entry in fs::read_dir(root).map_err(failed(root))? {
        let path = entry.map_err(failed(root))?.path();
        let removed = if path.is_dir() && !path.is_symlink() {
            fs::remove_dir_all(&path)
        } else {
            fs::remove_file(&path)
        };
        removed.map_err(failed(&path))?;
    }
    let _ = fs::remove_dir(root);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_of_the_mount_table_are_read() {
        assert_eq!(unescaped(r"/a\040b/c"), "/a b/c");
        assert_eq!(unescaped(r"/a\b"), r"/a\b");
    }
}
