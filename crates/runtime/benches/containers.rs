//! How long it takes until a container runs: a sandbox with one container, made one at a time and a hundred at once, beside
//! containerd and runc on the same machine with the same image, where they are installed. Needs root and busybox.
//!
//! `cargo bench -p orlop-runtime --bench containers`

use orlop_runtime::{
    ContainerRuntime, ContainerSpec, Images, Runtime, RuntimeConfig, SandboxSpec,
    image::{BuildOptions, ImageConfig, ImageStore, StoreOptions, build_from_directory},
};
use std::{
    fs::File,
    path::{Path, PathBuf},
    process::{Child, Command, ExitCode, Stdio},
    time::{Duration, Instant},
};

const NAME: &str = "docker.io/library/bench:1";
const ALONE: usize = 30;
const AT_ONCE: usize = 100;

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    if arguments.next().is_some_and(|verb| verb == "shim") {
        return orlop_runtime::shim::main(arguments);
    }
    let folder = tempfile::Builder::new().prefix("orlop-bench-").tempdir().expect("a folder");
    let archive = make_image(folder.path());
    let tokio = tokio::runtime::Runtime::new().expect("a runtime");
    let ours = tokio.block_on(orlop(folder.path(), &archive));
    ours.print("orlop");
    if let Some(theirs) = containerd(folder.path(), &archive) {
        theirs.print("containerd");
        let ratio = |a: Duration, b: Duration| b.as_secs_f64() / a.as_secs_f64();
        println!(
            "ratio       one at a time {:.1}x   {AT_ONCE} at once {:.1}x",
            ratio(ours.median(), theirs.median()),
            ratio(ours.at_once, theirs.at_once)
        );
    } else {
        println!("containerd, ctr or runc is not installed: nothing to compare with");
    }
    ExitCode::SUCCESS
}

struct Times {
    alone: Vec<Duration>,
    at_once: Duration,
    processor: Duration,
}

impl Times {
    fn median(&self) -> Duration {
        let mut sorted = self.alone.clone();
        sorted.sort();
        sorted[sorted.len() / 2]
    }

    fn print(&self, who: &str) {
        let worst = self.alone.iter().max().copied().unwrap_or_default();
        println!(
            "{who:<11} one at a time p50 {:?} max {worst:?}   {AT_ONCE} at once {:?} (processor {:?})",
            self.median(),
            self.at_once,
            self.processor
        );
    }
}

/// Processor time that the machine has spent on anything.
fn processor_time() -> Duration {
    let text = std::fs::read_to_string("/proc/stat").expect("/proc/stat");
    let mut fields = text.lines().next().unwrap_or_default().split_whitespace().skip(1);
    let mut take =
        |n: usize| fields.by_ref().take(n).filter_map(|f| f.parse::<u64>().ok()).collect::<Vec<_>>();
    let busy: u64 = take(3).iter().sum();
    let _idle = take(2);
    Duration::from_millis((busy + take(3).iter().sum::<u64>()) * 10)
}

fn make_image(folder: &Path) -> PathBuf {
    let root = folder.join("busybox");
    std::fs::create_dir_all(root.join("bin")).expect("a folder");
    for path in ["etc", "proc", "sys", "dev", "tmp"] {
        std::fs::create_dir(root.join(path)).expect("a folder");
    }
    std::fs::copy("/bin/busybox", root.join("bin/busybox")).expect("busybox");
    std::os::unix::fs::symlink("busybox", root.join("bin/sleep")).expect("a link");
    let config =
        ImageConfig { cmd: ["/bin/sleep", "1000"].map(String::from).to_vec(), ..ImageConfig::default() };
    let options = BuildOptions { config, names: vec![NAME.into()], ..BuildOptions::default() };
    let archive = folder.join("image.tar");
    build_from_directory(&root, &options, File::create(&archive).expect("an archive")).expect("an image");
    archive
}

async fn orlop(folder: &Path, archive: &Path) -> Times {
    let options = StoreOptions { root: folder.join("images"), ..StoreOptions::default() };
    let store = ImageStore::open(options).expect("an image store");
    let reader = tokio::fs::File::open(archive).await.expect("the archive");
    let image = store.import(Box::pin(reader), None).await.expect("importing")[0].id.clone();
    let mut config = RuntimeConfig::new(folder.join("runtime"), store);
    config.cgroup_root = format!("orlop-bench-{}", std::process::id());
    let runtime = Runtime::open(config).await.expect("a runtime");
    let logs = folder.join("logs");

    let mut alone = Vec::new();
    for n in 0..ALONE {
        let before = Instant::now();
        run(&runtime, &logs, &image, format!("a{n}")).await;
        alone.push(before.elapsed());
        runtime.remove_sandbox(&format!("a{n}")).await.expect("removing");
    }
    let (before, processor) = (Instant::now(), processor_time());
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..AT_ONCE {
        let (runtime, logs, image) = (runtime.clone(), logs.clone(), image.clone());
        tasks.spawn(async move { run(&runtime, &logs, &image, format!("b{n}")).await });
    }
    tasks.join_all().await;
    let (at_once, processor) = (before.elapsed(), processor_time() - processor);
    let memory = shim_memory(&folder.join("runtime/sandboxes"));
    println!("orlop       a shim keeps {memory} KiB of its own (mean of {AT_ONCE})");
    runtime.destroy_all().await.expect("removing all");
    Times { alone, at_once, processor }
}

async fn run(runtime: &Runtime, logs: &Path, image: &str, id: String) {
    let sandbox = SandboxSpec {
        id: id.clone(),
        hostname: Some(id.clone()),
        cgroup_parent: format!("pods/{id}"),
        log_directory: logs.to_path_buf(),
        ..SandboxSpec::default()
    };
    runtime.run_sandbox(sandbox).await.expect("a sandbox");
    let container = ContainerSpec {
        id: id.clone(),
        sandbox_id: id.clone(),
        image_id: image.to_string(),
        log_path: format!("{id}.log").into(),
        ..ContainerSpec::default()
    };
    runtime.create_container(container).await.expect("a container");
    runtime.start_container(&id).await.expect("starting");
}

/// Anonymous memory of a shim, which it shares with nobody, in KiB.
fn shim_memory(sandboxes: &Path) -> u64 {
    let mut total = 0;
    for folder in std::fs::read_dir(sandboxes).expect("the sandboxes").flatten() {
        let pid = std::fs::read_to_string(folder.path().join("shim.lock")).unwrap_or_default();
        let text = std::fs::read_to_string(format!("/proc/{}/smaps_rollup", pid.trim())).unwrap_or_default();
        let line = text.lines().find_map(|l| l.strip_prefix("Anonymous:"));
        total += line.and_then(|l| l.trim().trim_end_matches(" kB").parse::<u64>().ok()).unwrap_or(0);
    }
    total / AT_ONCE as u64
}

/// A containerd of our own, ended with the bench.
struct Daemon {
    child: Child,
    socket: PathBuf,
}

impl Daemon {
    fn ctr(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("ctr");
        command.arg("--address").arg(&self.socket).args(arguments);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        command
    }

    fn start(&self, id: &str) -> Command {
        self.ctr(&["run", "--detach", NAME, id])
    }

    fn remove(&self, id: &str) {
        let _ = self.ctr(&["task", "rm", "--force", id]).status();
        let _ = self.ctr(&["container", "rm", id]).status();
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn containerd(folder: &Path, archive: &Path) -> Option<Times> {
    let config = folder.join("containerd.toml");
    let text = "version = 2\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n";
    std::fs::write(&config, text).expect("a configuration");
    let socket = folder.join("c.sock");
    let child = Command::new("containerd")
        .arg("--config")
        .arg(&config)
        .arg("--root")
        .arg(folder.join("containerd"))
        .arg("--state")
        .arg(folder.join("containerd-state"))
        .arg("--address")
        .arg(&socket)
        .stdout(Stdio::null())
        .stderr(File::create(folder.join("containerd.log")).expect("a log"))
        .spawn()
        .ok()?;
    let daemon = Daemon { child, socket };
    let mut tries = 0;
    while !daemon.ctr(&["version"]).status().ok()?.success() {
        tries += 1;
        assert!(tries < 200, "containerd does not come up");
    }
    let imported = daemon.ctr(&["image", "import", &archive.to_string_lossy()]).status();
    assert!(imported.is_ok_and(|s| s.success()), "ctr cannot import the image");

    let mut alone = Vec::new();
    for n in 0..ALONE {
        let id = format!("a{n}");
        let before = Instant::now();
        let started = daemon.start(&id).status();
        alone.push(before.elapsed());
        assert!(started.is_ok_and(|s| s.success()), "ctr cannot run a container");
        daemon.remove(&id);
    }
    let (before, processor) = (Instant::now(), processor_time());
    let mut started: Vec<Child> =
        (0..AT_ONCE).map(|n| daemon.start(&format!("b{n}")).spawn().expect("ctr")).collect();
    let all = started.iter_mut().all(|child| child.wait().is_ok_and(|s| s.success()));
    let (at_once, processor) = (before.elapsed(), processor_time() - processor);
    for n in 0..AT_ONCE {
        daemon.remove(&format!("b{n}"));
    }
    assert!(all, "ctr could not run all containers");
    Some(Times { alone, at_once, processor })
}
