//! Members of etcd (Debian's etcd-server) for tests: processes of their own on loopback addresses that nobody else uses, with
//! their data in a temporary folder; they end with the value.

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use orlop_store::{Endpoints, Etcd, EtcdOptions};
use std::{
    net::Ipv4Addr,
    path::Path,
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU8, Ordering},
    time::Duration,
};
use tempfile::TempDir;

static CLUSTERS: AtomicU8 = AtomicU8::new(0);

/// How members and clients know each other.
#[derive(Clone)]
pub struct Tls {
    /// PEM files.
    pub authority: String,
    pub certificate: String,
    pub key: String,
}

pub struct Members {
    address: Ipv4Addr,
    folder: TempDir,
    tls: Option<Tls>,
    more: Vec<String>,
    members: Vec<Option<Child>>,
}

/// An address of this machine for each cluster of each process.
pub fn unused_address() -> Ipv4Addr {
    let pid = std::process::id();
    let [_, _, high, low] = pid.to_be_bytes();
    Ipv4Addr::new(127, 64 + high % 128, low, 1 + CLUSTERS.fetch_add(1, Ordering::Relaxed) % 250)
}

impl Members {
    /// Starts so many members; `more` are further arguments of each.
    pub fn start(count: usize, more: &[&str]) -> Self {
        Self::start_at(unused_address(), count, more, None)
    }

    pub fn start_at(address: Ipv4Addr, count: usize, more: &[&str], tls: Option<Tls>) -> Self {
        let memory = Path::new("/dev/shm");
        let folder = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
        let mut members = Self {
            address,
            folder: folder.expect("a folder"),
            tls,
            more: more.iter().map(|m| m.to_string()).collect(),
            members: (0..count).map(|_| None).collect(),
        };
        (0..count).for_each(|i| members.begin(i));
        members
    }

    pub fn client_url(&self, member: usize) -> String {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        format!("{scheme}://{}:{}", self.address, 2379 + 2 * member)
    }

    fn peer_url(&self, member: usize) -> String {
        format!("http://{}:{}", self.address, 2380 + 2 * member)
    }

    /// Starts a member, anew if it ran before.
    pub fn begin(&mut self, member: usize) {
        let all: Vec<_> = (0..self.members.len()).map(|i| format!("m{i}={}", self.peer_url(i))).collect();
        let log = std::fs::File::options()
            .append(true)
            .create(true)
            .open(self.folder.path().join(format!("m{member}.log")))
            .expect("a log");
        let mut command = Command::new("etcd");
        command
            .args(["--name", &format!("m{member}"), "--initial-cluster", &all.join(",")])
            .args(["--data-dir", &self.folder.path().join(format!("m{member}")).to_string_lossy()])
            .args(["--listen-client-urls", &self.client_url(member)])
            .args(["--advertise-client-urls", &self.client_url(member)])
            .args(["--listen-peer-urls", &self.peer_url(member)])
            .args(["--initial-advertise-peer-urls", &self.peer_url(member)])
            .args(&self.more);
        if let Some(tls) = &self.tls {
            command.args(["--client-cert-auth", "--trusted-ca-file", &tls.authority]).args([
                "--cert-file",
                &tls.certificate,
                "--key-file",
                &tls.key,
            ]);
        }
        let started =
            command.stdout(log.try_clone().expect("a log")).stderr(log).stdin(Stdio::null()).spawn();
        self.members[member] = Some(started.expect("etcd runs; Debian has it in etcd-server"));
    }

    fn signal(&self, member: usize, signal: Signal) {
        let child = self.members[member].as_ref().expect("runs");
        kill(Pid::from_raw(child.id() as i32), signal).expect("signalled");
    }

    /// Kills a member without a word.
    pub fn kill(&mut self, member: usize) {
        self.signal(member, Signal::SIGKILL);
        let _ = self.members[member].take().expect("runs").wait();
    }

    pub fn freeze(&self, member: usize) {
        self.signal(member, Signal::SIGSTOP);
    }

    pub fn thaw(&self, member: usize) {
        self.signal(member, Signal::SIGCONT);
    }

    /// The member that leads, by what etcd's own client says.
    pub fn leader(&self) -> Option<usize> {
        (0..self.members.len()).find(|i| {
            let status = self.etcdctl(*i, &["endpoint", "status", "--write-out=json"]);
            let text = status.unwrap_or_default();
            let number = |field: &str| -> Option<String> {
                let from = text.find(field)? + field.len();
                Some(text[from..].chars().take_while(char::is_ascii_digit).collect())
            };
            let (own, leader) = (number("\"member_id\":"), number("\"leader\":"));
            own.is_some() && own == leader
        })
    }

    /// Runs etcd's own client against a member.
    pub fn etcdctl(&self, member: usize, arguments: &[&str]) -> Option<String> {
        let output = Command::new("etcdctl")
            .env("ETCDCTL_API", "3")
            .args(["--endpoints", &self.client_url(member), "--dial-timeout=1s", "--command-timeout=2s"])
            .args(arguments)
            .output()
            .expect("etcdctl runs; Debian has it in etcd-client");
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
    }

    pub fn endpoints(&self) -> Endpoints {
        let addresses = (0..self.members.len()).map(|i| self.client_url(i)).collect();
        Endpoints { addresses, ..Endpoints::default() }
    }

    /// A store on these members, as soon as they are ready.
    pub async fn store(&self) -> Etcd {
        self.store_by(self.endpoints()).await
    }

    pub async fn store_by(&self, endpoints: Endpoints) -> Etcd {
        let mut tries = 0;
        loop {
            match Etcd::open(EtcdOptions { endpoints: endpoints.clone(), retention: None }).await {
                Ok(store) => return store,
                Err(error) if tries > 100 => panic!("{error}: {}", self.logs()),
                Err(_) => tries += 1,
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    fn logs(&self) -> String {
        let log =
            |i| std::fs::read_to_string(self.folder.path().join(format!("m{i}.log"))).unwrap_or_default();
        (0..self.members.len()).map(log).collect()
    }
}

impl Drop for Members {
    fn drop(&mut self) {
        for child in self.members.iter_mut().flatten() {
            let _ = child.kill(); // it may have ended itself
            let _ = child.wait();
        }
    }
}
