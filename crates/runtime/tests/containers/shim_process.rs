//! The process that tests start as a shim (`shim`), and as an agent that they can kill (`agent ROOT CGROUP ROOTFS`): it runs
//! a sandbox `s` with a container `c`, prints `ready` and waits for its end.

use orlop_runtime::{ContainerRuntime, ContainerSpec, Runtime, SandboxSpec};
use std::{path::PathBuf, process::ExitCode};

#[path = "folder_images.rs"]
mod folder_images;

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    match arguments.next().as_deref().and_then(|verb| verb.to_str()) {
        Some("shim") => orlop_runtime::shim::main(arguments),
        Some("agent") => {
            let words: Vec<PathBuf> = arguments.map(PathBuf::from).collect();
            let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
            runtime.expect("a runtime").block_on(agent(&words[0], &words[1], &words[2]));
            ExitCode::SUCCESS
        }
        _ => ExitCode::from(2),
    }
}

async fn agent(root: &std::path::Path, cgroup: &std::path::Path, rootfs: &std::path::Path) {
    let config = folder_images::config(root, &cgroup.to_string_lossy(), rootfs, "/proc/self/exe".as_ref());
    let runtime = Runtime::open(config).await.expect("opening");
    let sandbox = SandboxSpec {
        id: "s".into(),
        hostname: Some("pod".into()),
        cgroup_parent: "pod-s".into(),
        log_directory: root.join("logs"),
        ..SandboxSpec::default()
    };
    runtime.run_sandbox(sandbox).await.expect("running the sandbox");
    let container = ContainerSpec {
        id: "c".into(),
        sandbox_id: "s".into(),
        image_id: "busybox".into(),
        command: ["sh", "-c", "n=0; while [ ! -e /end ]; do n=$((n+1)); echo $n; sleep 0.05; done; exit 7"]
            .map(String::from)
            .to_vec(),
        log_path: "c.log".into(),
        ..ContainerSpec::default()
    };
    runtime.create_container(container).await.expect("creating");
    runtime.start_container("c").await.expect("starting");
    println!("ready");
    std::future::pending::<()>().await;
}
