//! Servers that know the same names: which of them is asked first, and which is left alone for a while because it did not
//! answer.

use super::exchange::{self, Exchanged};
use crate::{
    Upstreams,
    metrics::Metrics,
    name::Name,
    wire::{Reply, code},
};
use parking_lot::Mutex;
use std::{
    collections::HashMap,
    fs,
    net::SocketAddr,
    path::Path,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};
use tokio::time::timeout;

/// For one try of one server. With several of them and two rounds, a client's 5 s must do.
const PATIENCE: Duration = Duration::from_millis(1500);
/// After so many failures one after another a server is asked last.
const FAILURES: u32 = 2;
/// For how long, at first; it doubles each time.
const LEFT_ALONE: Duration = Duration::from_secs(2);
/// And at most.
const LEFT_ALONE_MOST: Duration = Duration::from_secs(30);
/// How often the resolvers' file is looked at.
const LOOK_AGAIN: Duration = Duration::from_secs(5);

/// Servers that are asked for the same names.
pub(super) struct Group {
    upstreams: Upstreams,
    own: Vec<SocketAddr>,
    file: Mutex<ResolvFile>,
    health: Mutex<HashMap<SocketAddr, Health>>,
}

#[derive(Default)]
struct ResolvFile {
    looked: Option<Instant>,
    modified: Option<SystemTime>,
    servers: Arc<[SocketAddr]>,
}

/// What is known of a server.
#[derive(Clone, Copy, Debug, Default)]
struct Health {
    failures: u32,
    left_alone_until: Option<Instant>,
    respells: bool,
}

impl Health {
    fn failed(&mut self, now: Instant) {
        self.failures += 1;
        if let Some(over) = self.failures.checked_sub(FAILURES) {
            let alone = LEFT_ALONE.saturating_mul(1 << over.min(8)).min(LEFT_ALONE_MOST);
            self.left_alone_until = Some(now + alone);
        }
    }

    fn is_left_alone(&self, now: Instant) -> bool {
        self.left_alone_until.is_some_and(|until| until > now)
    }
}

impl Group {
    /// `own` are addresses that are never asked.
    pub fn new(upstreams: Upstreams, own: Vec<SocketAddr>) -> Self {
        Self { upstreams, own, file: Mutex::default(), health: Mutex::default() }
    }

    /// Asks one server after another, and all of them again if none answered. Words like "refused" count as an answer only
    /// if nobody has a better one.
    pub async fn ask(&self, name: &Name, kind: u16, metrics: &Metrics) -> Option<Reply> {
        let (servers, mut last) = (self.in_order(Instant::now()), None);
        for _ in 0..2 {
            for server in &servers {
                match self.ask_one(*server, name, kind, metrics).await {
                    Some(reply) if matches!(reply.code, code::NO_ERROR | code::NX_DOMAIN) => {
                        return Some(reply);
                    }
                    Some(reply) => last = Some(reply),
                    None => {}
                }
            }
            if last.is_some() {
                break;
            }
        }
        last
    }

    async fn ask_one(&self, server: SocketAddr, name: &Name, kind: u16, metrics: &Metrics) -> Option<Reply> {
        let spell = !self.health.lock().get(&server).is_some_and(|health| health.respells);
        let began = Instant::now();
        let asked = timeout(PATIENCE, exchange::ask(server, name, kind, spell)).await;
        let asked = asked.unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into()));
        metrics.forwarded(server, began.elapsed(), asked.as_ref().ok().map(|asked| asked.reply.code));
        match asked {
            Ok(Exchanged { reply, respells }) => {
                let health = Health { respells: respells || !spell, ..Health::default() };
                self.health.lock().insert(server, health);
                Some(reply)
            }
            Err(error) => {
                tracing::debug!(%server, %name, %error, "no answer from the upstream resolver");
                self.health.lock().entry(server).or_default().failed(Instant::now());
                None
            }
        }
    }

    /// The servers to ask: those that answer first.
    fn in_order(&self, now: Instant) -> Vec<SocketAddr> {
        let mut servers = self.servers().to_vec();
        let health = self.health.lock();
        servers.sort_by_key(|server| health.get(server).is_some_and(|health| health.is_left_alone(now)));
        servers
    }

    /// The servers, ourselves never among them.
    fn servers(&self) -> Arc<[SocketAddr]> {
        match &self.upstreams {
            Upstreams::Servers(servers) => {
                servers.iter().filter(|server| !self.own.contains(server)).copied().collect()
            }
            Upstreams::ResolvConf(path) => {
                let mut file = self.file.lock();
                if file.looked.is_none_or(|looked| looked.elapsed() > LOOK_AGAIN) {
                    file.looked = Some(Instant::now());
                    self.read_again(&mut file, path);
                }
                file.servers.clone()
            }
        }
    }

    fn read_again(&self, file: &mut ResolvFile, path: &Path) {
        let modified = fs::metadata(path).and_then(|metadata| metadata.modified()).ok();
        if modified.is_some() && modified == file.modified {
            return;
        }
        match fs::read_to_string(path) {
            Ok(text) => {
                file.modified = modified;
                file.servers = nameservers(&text).filter(|server| !self.own.contains(server)).collect();
                self.health.lock().clear();
            }
            Err(error) => {
                tracing::warn!(%error, path = %path.display(), "no upstream resolvers: only the cluster's names are answered");
                file.modified = None;
                file.servers = Arc::default();
            }
        }
    }
}

/// The `nameserver` lines of a resolv.conf(5).
fn nameservers(text: &str) -> impl Iterator<Item = SocketAddr> {
    text.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        let address = words.next().filter(|word| *word == "nameserver").and_then(|_| words.next())?;
        // A scope (`%eth0`) cannot be kept; such an address is left out.
        address.parse().ok().map(|ip| SocketAddr::new(ip, 53))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nameserver_lines_are_found_among_others() {
        let text = "# a comment\nnameserver 10.0.0.1\n  nameserver\tfd00::1 # two\nsearch example.org\noptions ndots:5\nnameserver\nnameserver fe80::1%eth0\n";
        let found: Vec<String> = nameservers(text).map(|server| server.to_string()).collect();
        assert_eq!(found, ["10.0.0.1:53", "[fd00::1]:53"]);
    }

    #[test]
    fn this_server_is_never_asked_by_itself() {
        let own: SocketAddr = "10.43.0.10:53".parse().unwrap();
        let other: SocketAddr = "192.0.2.53:53".parse().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("resolv.conf");
        fs::write(&path, "nameserver 10.43.0.10\nnameserver 192.0.2.53\n").unwrap();
        for upstreams in [Upstreams::Servers(vec![own, other]), Upstreams::ResolvConf(path)] {
            assert_eq!(*Group::new(upstreams, vec![own]).servers(), [other]);
        }
    }

    #[test]
    fn a_changed_file_is_read_again_and_a_missing_one_has_no_servers() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("resolv.conf");
        let group = Group::new(Upstreams::ResolvConf(path.clone()), vec![]);
        let look = || {
            group.file.lock().looked = None;
            group.servers().iter().map(SocketAddr::to_string).collect::<Vec<_>>()
        };
        assert!(look().is_empty());
        for (age, server) in [(50, "192.0.2.1"), (20, "192.0.2.2")] {
            fs::write(&path, format!("nameserver {server}\n")).unwrap();
            let file = fs::File::options().write(true).open(&path).unwrap();
            file.set_modified(SystemTime::now() - Duration::from_secs(age)).unwrap();
            assert_eq!(look(), [format!("{server}:53")]);
        }
        fs::remove_file(&path).unwrap();
        assert!(look().is_empty());
    }

    #[test]
    fn a_server_that_does_not_answer_is_asked_last_for_a_while() {
        let servers: Vec<SocketAddr> =
            ["192.0.2.1:53", "192.0.2.2:53"].map(|server| server.parse().unwrap()).to_vec();
        let group = Group::new(Upstreams::Servers(servers.clone()), vec![]);
        let now = Instant::now();
        let fail = || group.health.lock().entry(servers[0]).or_default().failed(now);
        fail();
        assert_eq!(group.in_order(now), servers);
        fail();
        assert_eq!(group.in_order(now), [servers[1], servers[0]]);
        assert_eq!(group.in_order(now + LEFT_ALONE), servers);
        (0..40).for_each(|_| fail());
        assert_eq!(group.in_order(now + LEFT_ALONE), [servers[1], servers[0]]);
        assert_eq!(group.in_order(now + LEFT_ALONE_MOST), servers);
    }
}
