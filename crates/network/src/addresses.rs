//! Which pod has which address. Remembered in a journal, on disk before it is used, so that no address is given twice and
//! none is lost, whatever is killed. It touches no link.

use crate::{Error, HostPort, layout::Layout};
use parking_lot::Mutex;
use std::{
    collections::{BTreeMap, HashMap},
    fs::{self, File, OpenOptions},
    io::{self, Write},
    net::Ipv4Addr,
    path::{Path, PathBuf},
};

const JOURNAL: &str = "addresses";
/// The journal is written anew after so many lines.
const MAX_LINES: u64 = 4096;

/// What is remembered of a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Lease {
    /// Its address.
    pub address: Ipv4Addr,
    /// Its host ports.
    pub host_ports: Vec<HostPort>,
    /// Whether its link was finished.
    pub linked: bool,
}

/// One line of the journal.
#[derive(serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
enum Entry {
    Give {
        id: String,
        address: Ipv4Addr,
        host_ports: Vec<HostPort>,
    },
    Linked {
        id: String,
    },
    Free {
        id: String,
    },
    /// The last address given, so that a freed one is not given again at once.
    Last {
        address: Ipv4Addr,
    },
}

/// The addresses of this node.
pub(crate) struct Addresses {
    state: Mutex<State>,
    journal: Mutex<Journal>,
}

struct State {
    range: ipnet::Ipv4Net,
    leases: BTreeMap<String, Lease>,
    by_address: HashMap<Ipv4Addr, String>,
    last: Ipv4Addr,
    /// Lines not yet on disk, and how many have ever been made.
    pending: Vec<u8>,
    made: u64,
}

struct Journal {
    file: File,
    path: PathBuf,
    /// How many lines are on disk.
    synced: u64,
    /// How many were when the file was last written anew.
    rewritten: u64,
    /// A write failed: what the file holds is unknown.
    damaged: bool,
}

impl Addresses {
    /// Reads the journal, drops its torn end if it has one, and writes it anew without what is past.
    pub fn open(layout: &Layout, dir: &Path) -> Result<Self, Error> {
        let path = dir.join(JOURNAL);
        let io = |what: &str| {
            let step = format!("{what} {}", path.display());
            move |source| Error::Io { step, source }
        };
        fs::create_dir_all(dir).map_err(io("making the folder of"))?;
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(io("reading")(error)),
        };
        let mut state = State::new(layout.pod_range);
        state.replay(&text);
        let file = rewrite(&path, &state.snapshot()).map_err(io("writing"))?;
        Ok(Self {
            state: Mutex::new(state),
            journal: Mutex::new(Journal { file, path, synced: 0, rewritten: 0, damaged: false }),
        })
    }

    /// Gives a pod an address, or the one that it has. On return it is on disk.
    pub fn give(&self, id: &str, host_ports: &[HostPort]) -> Result<Lease, Error> {
        let (lease, line) = {
            let mut state = self.state.lock();
            let lease = state.give(id, host_ports)?;
            (lease, state.made)
        };
        self.sync(line).inspect_err(|_| self.state.lock().withdraw(id))?;
        Ok(lease)
    }

    /// Notes that a pod's link is finished. It is written but not waited for: losing it to a power cut costs nothing but
    /// making the link again.
    pub fn set_linked(&self, id: &str) -> Result<(), Error> {
        {
            let mut state = self.state.lock();
            let Some(lease) = state.leases.get_mut(id) else { return Ok(()) };
            lease.linked = true;
            state.note(&Entry::Linked { id: id.to_owned() });
        }
        self.write(&mut self.journal.lock()).map(drop)
    }

    /// Takes a pod's address back. On return that is on disk.
    pub fn free(&self, id: &str) -> Result<(), Error> {
        let line = {
            let mut state = self.state.lock();
            if !state.leases.contains_key(id) {
                return Ok(());
            }
            state.withdraw(id);
            state.note(&Entry::Free { id: id.to_owned() });
            state.made
        };
        self.sync(line)
    }

    /// What is remembered of a pod.
    pub fn get(&self, id: &str) -> Option<Lease> {
        self.state.lock().leases.get(id).cloned()
    }

    /// All pods.
    pub fn all(&self) -> BTreeMap<String, Lease> {
        self.state.lock().leases.clone()
    }

    /// Waits until line `line` is on disk. Whoever comes first writes for all that wait.
    fn sync(&self, line: u64) -> Result<(), Error> {
        let mut journal = self.journal.lock();
        if journal.synced >= line {
            return Ok(());
        }
        let made = self.write(&mut journal)?;
        journal.file.sync_data().map_err(|source| {
            journal.damaged = true;
            Error::Io { step: format!("writing {}", journal.path.display()), source }
        })?;
        journal.synced = made;
        Ok(())
    }

    /// Hands all pending lines to the kernel; returns how many lines it has then.
    fn write(&self, journal: &mut Journal) -> Result<u64, Error> {
        let (bytes, made, snapshot) = {
            let mut state = self.state.lock();
            let anew = journal.damaged || state.made - journal.rewritten > MAX_LINES;
            (std::mem::take(&mut state.pending), state.made, anew.then(|| state.snapshot()))
        };
        let outcome = match snapshot {
            Some(snapshot) => rewrite(&journal.path, &snapshot).map(|file| {
                journal.file = file;
                journal.rewritten = made;
            }),
            None => journal.file.write_all(&bytes),
        };
        journal.damaged = outcome.is_err();
        match outcome {
            Ok(()) => Ok(made),
            Err(source) => Err(Error::Io { step: format!("writing {}", journal.path.display()), source }),
        }
    }
}

/// Forgets all addresses.
pub(crate) fn forget(dir: &Path) -> Result<(), Error> {
    for name in [JOURNAL, "addresses.new"] {
        let path = dir.join(name);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(Error::Io { step: format!("removing {}", path.display()), source: error });
            }
            _ => {}
        }
    }
    Ok(())
}

fn rewrite(path: &Path, bytes: &[u8]) -> io::Result<File> {
    let new = path.with_extension("new");
    let mut file = OpenOptions::new().create(true).write(true).truncate(true).open(&new)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    if let Some(dir) = path.parent() {
        File::open(dir)?.sync_all()?;
    }
    Ok(file)
}

impl State {
    fn new(range: ipnet::Ipv4Net) -> Self {
        Self {
            range,
            leases: BTreeMap::new(),
            by_address: HashMap::new(),
            last: range.network(),
            pending: Vec::new(),
            made: 0,
        }
    }

    fn give(&mut self, id: &str, host_ports: &[HostPort]) -> Result<Lease, Error> {
        if let Some(lease) = self.leases.get(id) {
            return Ok(lease.clone());
        }
        for wanted in host_ports {
            let taken =
                self.leases.iter().find(|(_, lease)| lease.host_ports.iter().any(|port| clash(port, wanted)));
            if let Some((by, _)) = taken {
                return Err(Error::HostPortTaken { port: wanted.host_port, by: by.clone() });
            }
        }
        let address = self.next_free().ok_or(Error::Exhausted(self.range.into()))?;
        let entry = Entry::Give { id: id.to_owned(), address, host_ports: host_ports.to_vec() };
        self.note(&entry);
        self.apply(entry);
        self.leases.get(id).cloned().ok_or(Error::Exhausted(self.range.into()))
    }

    /// The first free address after the last one given, around the end of the range. The network's own, the gateway's and the
    /// broadcast address are never given.
    fn next_free(&self) -> Option<Ipv4Addr> {
        let (first, end) = (u32::from(self.range.network()) + 2, u32::from(self.range.broadcast()));
        let start = (u32::from(self.last) + 1).clamp(first, end);
        (start..end)
            .chain(first..start)
            .map(Ipv4Addr::from)
            .find(|address| !self.by_address.contains_key(address))
    }

    fn withdraw(&mut self, id: &str) {
        if let Some(lease) = self.leases.remove(id) {
            self.by_address.remove(&lease.address);
        }
    }

    fn note(&mut self, entry: &Entry) {
        write_line(&mut self.pending, entry);
        self.made += 1;
    }

    fn apply(&mut self, entry: Entry) {
        match entry {
            Entry::Give { id, address, host_ports } => {
                if self.range.contains(&address) && !self.by_address.contains_key(&address) {
                    self.by_address.insert(address, id.clone());
                    self.leases.insert(id, Lease { address, host_ports, linked: false });
                    self.last = address;
                }
            }
            Entry::Linked { id } => {
                if let Some(lease) = self.leases.get_mut(&id) {
                    lease.linked = true;
                }
            }
            Entry::Free { id } => self.withdraw(&id),
            Entry::Last { address } => self.last = address,
        }
    }

    /// Applies a journal up to its first unreadable line: only the last write can be torn, and it was not acknowledged.
    fn replay(&mut self, text: &[u8]) {
        for line in text.split_inclusive(|byte| *byte == b'\n') {
            match serde_json::from_slice(line) {
                Ok(entry) if line.ends_with(b"\n") => self.apply(entry),
                _ => break,
            }
        }
    }

    fn snapshot(&self) -> Vec<u8> {
        let mut out = Vec::new();
        for (id, lease) in &self.leases {
            let Lease { address, host_ports, linked } = lease.clone();
            write_line(&mut out, &Entry::Give { id: id.clone(), address, host_ports });
            if linked {
                write_line(&mut out, &Entry::Linked { id: id.clone() });
            }
        }
        write_line(&mut out, &Entry::Last { address: self.last });
        out
    }
}

fn write_line(out: &mut Vec<u8>, entry: &Entry) {
    // Writing these plain types into memory cannot fail.
    let _ = serde_json::to_writer(&mut *out, entry);
    out.push(b'\n');
}

fn clash(one: &HostPort, other: &HostPort) -> bool {
    let anywhere = |port: &HostPort| port.host_ip.is_none_or(|address| address.is_unspecified());
    one.host_port == other.host_port
        && one.protocol == other.protocol
        && (anywhere(one) || anywhere(other) || one.host_ip == other.host_ip)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{NetworkConfig, Protocol};
    use proptest::prelude::*;

    fn layout(pod_range: &str) -> Layout {
        Layout::new(&NetworkConfig {
            instance: "test".into(),
            pod_range: pod_range.parse().unwrap(),
            cluster_range: "10.42.0.0/16".parse().unwrap(),
            service_range: "10.43.0.0/16".parse().unwrap(),
            dns_address: "10.43.0.10".parse().unwrap(),
            state_dir: "/nowhere".into(),
            mtu: None,
        })
        .unwrap()
    }

    fn port(host_ip: Option<&str>, host_port: u16) -> HostPort {
        let host_ip = host_ip.map(|ip| ip.parse().unwrap());
        HostPort { host_ip, host_port, pod_port: 80, protocol: Protocol::Tcp }
    }

    #[test]
    fn a_pod_keeps_its_address_and_a_freed_one_is_not_given_again_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let addresses = Addresses::open(&layout("10.42.0.0/29"), dir.path()).unwrap();
        let first = addresses.give("a", &[]).unwrap().address;
        assert_eq!(first.to_string(), "10.42.0.2");
        assert_eq!(addresses.give("a", &[]).unwrap().address, first);
        addresses.free("a").unwrap();
        assert_eq!(addresses.give("b", &[]).unwrap().address.to_string(), "10.42.0.3");
        drop(addresses);
        // Not even after a restart.
        let addresses = Addresses::open(&layout("10.42.0.0/29"), dir.path()).unwrap();
        assert_eq!(addresses.give("c", &[]).unwrap().address.to_string(), "10.42.0.4");
        assert_eq!(addresses.give("b", &[]).unwrap().address.to_string(), "10.42.0.3");
    }

    #[test]
    fn a_full_range_says_so_and_a_freed_address_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let addresses = Addresses::open(&layout("10.42.0.0/29"), dir.path()).unwrap();
        for id in ["a", "b", "c", "d", "e"] {
            addresses.give(id, &[]).unwrap();
        }
        assert!(matches!(addresses.give("f", &[]), Err(Error::Exhausted(_))));
        let freed = addresses.get("c").unwrap().address;
        addresses.free("c").unwrap();
        assert_eq!(addresses.give("f", &[]).unwrap().address, freed);
    }

    #[test]
    fn a_host_port_is_given_once_per_address() {
        let dir = tempfile::tempdir().unwrap();
        let addresses = Addresses::open(&layout("10.42.0.0/24"), dir.path()).unwrap();
        addresses.give("a", &[port(Some("192.0.2.1"), 8080)]).unwrap();
        addresses.give("b", &[port(Some("192.0.2.2"), 8080)]).unwrap();
        let error = addresses.give("c", &[port(None, 8080)]).unwrap_err();
        assert_eq!(error.to_string(), "host port 8080 is used by a");
        assert!(addresses.get("c").is_none());
        addresses.free("a").unwrap();
        addresses.free("b").unwrap();
        addresses.give("c", &[port(None, 8080)]).unwrap();
    }

    #[test]
    fn a_torn_last_line_is_forgotten_and_the_rest_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let layout = layout("10.42.0.0/24");
        let addresses = Addresses::open(&layout, dir.path()).unwrap();
        addresses.give("a", &[port(None, 80)]).unwrap();
        addresses.set_linked("a").unwrap();
        addresses.give("b", &[]).unwrap();
        drop(addresses);
        let path = dir.path().join(JOURNAL);
        let whole = fs::read(&path).unwrap();
        fs::write(&path, &whole[..whole.len() - 5]).unwrap();
        let addresses = Addresses::open(&layout, dir.path()).unwrap();
        let lease = addresses.get("a").unwrap();
        assert!(lease.linked);
        assert_eq!(lease.host_ports, [port(None, 80)]);
        assert!(addresses.get("b").is_none());
        addresses.give("c", &[]).unwrap();
        drop(addresses);
        assert_eq!(Addresses::open(&layout, dir.path()).unwrap().all().len(), 2);
    }

    #[test]
    fn the_journal_does_not_grow_without_end() {
        let dir = tempfile::tempdir().unwrap();
        let addresses = Addresses::open(&layout("10.42.0.0/24"), dir.path()).unwrap();
        for _ in 0..MAX_LINES {
            addresses.give("a", &[]).unwrap();
            addresses.free("a").unwrap();
        }
        let lines = fs::read_to_string(dir.path().join(JOURNAL)).unwrap().lines().count() as u64;
        assert!(lines <= MAX_LINES + 2, "{lines}");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn no_address_is_ever_given_twice(
            steps in proptest::collection::vec((0u8..12, 0u8..4), 1..60),
        ) {
            let dir = tempfile::tempdir().unwrap();
            let layout = layout("10.42.0.0/28");
            let mut addresses = Addresses::open(&layout, dir.path()).unwrap();
            let mut model: BTreeMap<String, Ipv4Addr> = BTreeMap::new();
            for (pod, step) in steps {
                let id = pod.to_string();
                match step {
                    0 => {
                        addresses.free(&id).unwrap();
                        model.remove(&id);
                    }
                    1 => addresses = Addresses::open(&layout, dir.path()).unwrap(),
                    _ => {
                        let given = addresses.give(&id, &[]).unwrap().address;
                        if let Some(known) = model.get(&id) {
                            prop_assert_eq!(*known, given);
                        } else {
                            prop_assert!(!model.values().any(|used| *used == given));
                            model.insert(id, given);
                        }
                    }
                }
                let all: BTreeMap<String, Ipv4Addr> =
                    addresses.all().into_iter().map(|(id, lease)| (id, lease.address)).collect();
                prop_assert_eq!(&all, &model);
            }
        }
    }
}
