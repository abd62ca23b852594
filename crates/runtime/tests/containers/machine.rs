//! A runtime on this machine with a root, a cgroup and a busybox of its own, which are gone when the test ends, however it
//! ends.

use crate::folder_images;
use orlop_runtime::{
    ContainerRuntime, ContainerSpec, ContainerState, ContainerStatus, Runtime, RuntimeConfig, SandboxSpec,
    cgroup::Cgroups,
};
use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

pub struct Machine {
    pub runtime: Option<Runtime>,
    pub config: RuntimeConfig,
    folder: tempfile::TempDir,
}

pub const SHIM: &str = env!("CARGO_BIN_EXE_orlop-shim-test");

fn make_busybox(root: &Path) {
    for folder in ["bin", "etc", "tmp", "proc", "sys", "dev", "home/web"] {
        std::fs::create_dir_all(root.join(folder)).unwrap();
    }
    std::fs::copy("/bin/busybox", root.join("bin/busybox")).unwrap();
    let list = Command::new("/bin/busybox").arg("--list").output().unwrap().stdout;
    for name in String::from_utf8(list).unwrap().lines().filter(|n| *n != "busybox") {
        std::os::unix::fs::symlink("busybox", root.join("bin").join(name)).unwrap();
    }
    std::fs::write(root.join("etc/passwd"), "root:x:0:0::/root:/bin/sh\nweb:x:33:34::/home/web:/bin/sh\n")
        .unwrap();
    std::fs::write(root.join("etc/group"), "root:x:0:\nweb:x:34:\nlogs:x:40:web\n").unwrap();
    std::fs::write(root.join("etc/not-executable"), "text").unwrap();
    std::fs::write(root.join("bin/bad-interpreter"), "#!/none\n").unwrap();
    use std::os::unix::fs::PermissionsExt;
    let mode = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(root.join("bin/bad-interpreter"), mode).unwrap();
    std::fs::set_permissions(root.join("tmp"), std::fs::Permissions::from_mode(0o1777)).unwrap();
}

impl Machine {
    pub async fn new() -> Self {
        let mut machine = Self::closed();
        machine.open().await;
        machine
    }

    /// Without a runtime for now.
    pub fn closed() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let folder = tempfile::Builder::new().prefix("orlop-shim-").tempdir().unwrap();
        make_busybox(&folder.path().join("busybox"));
        let cgroup = format!("orlop-test-{}-{number}", std::process::id());
        let root = folder.path().join("root");
        let config = folder_images::config(&root, &cgroup, &folder.path().join("busybox"), SHIM.as_ref());
        Self { runtime: None, config, folder }
    }

    pub async fn open(&mut self) {
        self.runtime = Some(Runtime::open(self.config.clone()).await.unwrap());
    }

    /// As if the agent were gone: nobody listens to the shims any more.
    pub fn close(&mut self) {
        self.runtime = None;
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn sandbox_spec(&self, id: &str) -> SandboxSpec {
        SandboxSpec {
            id: id.into(),
            hostname: Some("pod".into()),
            cgroup_parent: format!("burstable/pod-{id}"),
            log_directory: self.path("logs"),
            ..SandboxSpec::default()
        }
    }

    pub async fn sandbox(&self, id: &str) {
        self.run_sandbox(self.sandbox_spec(id)).await.unwrap();
    }

    pub fn container_spec(&self, id: &str, sandbox: &str, script: &str) -> ContainerSpec {
        ContainerSpec {
            id: id.into(),
            sandbox_id: sandbox.into(),
            image_id: "busybox".into(),
            command: ["sh", "-c", script].map(String::from).to_vec(),
            log_path: format!("{id}.log").into(),
            ..ContainerSpec::default()
        }
    }

    /// Starts a container that runs a shell script.
    pub async fn start(&self, spec: ContainerSpec) {
        let id = spec.id.clone();
        self.create_container(spec).await.unwrap();
        self.start_container(&id).await.unwrap();
    }

    /// Runs a container to its end.
    pub async fn run(&self, spec: ContainerSpec) -> (ContainerStatus, String) {
        let id = spec.id.clone();
        self.start(spec).await;
        let status = self.ended(&id).await;
        (status, self.log(&id))
    }

    /// Runs a script in a container of its own in sandbox `s`, and returns what it printed.
    pub async fn output(&self, id: &str, script: &str) -> String {
        self.run(self.container_spec(id, "s", script)).await.1
    }

    pub async fn ended(&self, id: &str) -> ContainerStatus {
        for _ in 0..3000 {
            let status = self.container_status(id).await.unwrap();
            if status.state == ContainerState::Exited {
                return status;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("container {id} does not end");
    }

    /// The lines of a container's log, without the stamps.
    pub fn log(&self, id: &str) -> String {
        let text = self.raw_log(id);
        text.lines().map(|line| line.splitn(4, ' ').nth(3).unwrap_or("").to_string() + "\n").collect()
    }

    /// Waits until a container has printed something.
    pub async fn printed(&self, id: &str, text: &str) {
        for _ in 0..3000 {
            if self.log(id).contains(text) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("container {id} has not printed {text:?} but {:?}", self.log(id));
    }

    pub fn raw_log(&self, id: &str) -> String {
        std::fs::read_to_string(self.path(&format!("logs/{id}.log"))).unwrap_or_default()
    }

    pub async fn exec(&self, id: &str, script: &str) -> (i32, String) {
        let command = ["sh", "-c", script].map(String::from).to_vec();
        let output = self.exec_sync(id, command, Duration::from_secs(30)).await.unwrap();
        (output.code, String::from_utf8(output.stdout).unwrap())
    }

    pub fn cgroup(&self, path: &str) -> PathBuf {
        Path::new("/").join(&self.config.cgroup_root).join(path)
    }

    /// What of this machine there is in the kernel and in the process table.
    pub fn traces(&self) -> Vec<String> {
        let mut found = Vec::new();
        let root = self.folder.path().to_string_lossy().into_owned();
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        found.extend(mounts.lines().filter(|l| l.contains(&root)).map(String::from));
        for process in std::fs::read_dir("/proc").unwrap().flatten() {
            let Ok(line) = std::fs::read_to_string(process.path().join("cmdline")) else { continue };
            if line.contains(&root) {
                found.push(format!("{:?} {}", process.path(), line.replace('\0', " ")));
            }
        }
        let text = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        for line in text.lines().filter(|l| l.contains(" - cgroup")) {
            let point = Path::new(line.split(' ').nth(4).unwrap()).join(&self.config.cgroup_root);
            if point.exists() {
                found.push(point.display().to_string());
            }
        }
        found
    }
}

impl std::ops::Deref for Machine {
    type Target = Runtime;
    fn deref(&self) -> &Runtime {
        self.runtime.as_ref().expect("the runtime is open")
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.runtime = None;
        let config = self.config.clone();
        let cleaned = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                match Runtime::open(config).await {
                    Ok(runtime) => runtime.destroy_all().await.err().map(|e| format!("{e:?}")),
                    Err(e) => Some(format!("{e:?}")),
                }
            })
        })
        .join();
        let left = self.traces();
        if !std::thread::panicking() {
            assert_eq!(cleaned.unwrap(), None);
            assert!(left.is_empty(), "left behind: {left:#?}");
        }
    }
}

/// The group of a path in v1's hierarchy of a controller, or in v2's.
pub fn cgroup_file(controller: &str, path: &Path, v1: &str, v2: &str) -> String {
    let cgroups = Cgroups::detect().unwrap();
    let relative = path.strip_prefix("/").unwrap();
    let file = match cgroups.unified_folder(path) {
        Some(folder) => folder.join(v2),
        None => Path::new("/sys/fs/cgroup").join(controller).join(relative).join(v1),
    };
    std::fs::read_to_string(file).unwrap_or_default().trim().to_string()
}
