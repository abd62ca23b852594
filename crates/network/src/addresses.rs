//! Which pod has which addresses, one of each family. Remembered in a journal, on disk before it is used, so that no address is given twice and
//! none is lost, whatever is killed. It touches no link.

use crate::{
    Error, HostPort,
    family::{Family, nth, offset},
    layout::Layout,
};
use ipnet::IpNet;
use parking_lot::Mutex;
use std::{
    collections::{BTreeMap, HashMap},
    fs::{self, File, OpenOptions},
    io::{self, Write},
    net::IpAddr,
    path::{Path, PathBuf},
};

const JOURNAL: &str = "addresses";
/// The journal is written anew after so many lines.
const MAX_LINES: u64 = 4096;

/// What is remembered of a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Lease {
    /// Its addresses, the primary one first.
    pub addresses: Vec<IpAddr>,
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
        address: OneOrMore,
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
        address: OneOrMore,
    },
}

/// Addresses as the journal has them: a pod of one family is written as in the versions that knew but one.
#[derive(Clone, serde::Serialize, serde::Deserialize)]
#[serde(untagged)]
enum OneOrMore {
    One(IpAddr),
    More(Vec<IpAddr>),
}

impl From<Vec<IpAddr>> for OneOrMore {
    fn from(addresses: Vec<IpAddr>) -> Self {
        match addresses.as_slice() {
            [one] => Self::One(*one),
            _ => Self::More(addresses),
        }
    }
}

impl From<OneOrMore> for Vec<IpAddr> {
    fn from(addresses: OneOrMore) -> Self {
        match addresses {
            OneOrMore::One(one) => vec![one],
            OneOrMore::More(all) => all,
        }
    }
}

/// The addresses of this node.
pub(crate) struct Addresses {
    state: Mutex<State>,
    journal: Mutex<Journal>,
}

struct State {
    /// The primary family's first.
    pools: Vec<Pool>,
    leases: BTreeMap<String, Lease>,
    /// Lines not yet on disk, and how many have ever been made.
    pending: Vec<u8>,
    made: u64,
}

/// The addresses of one range.
struct Pool {
    range: IpNet,
    taken: HashMap<IpAddr, String>,
    last: IpAddr,
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
        let mut state = State::new(layout.sides.iter().map(|side| side.pod_range));
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

impl Pool {
    fn new(range: IpNet) -> Self {
        Self { range, taken: HashMap::new(), last: range.network() }
    }

    /// The first free address after the last one given, around the end of the range. The network's own, the gateway's and the
    /// broadcast address are never given; of a large range only as many as links have names.
    fn next_free(&self) -> Option<IpAddr> {
        let host_bits = Family::of(self.range.addr()).bits() - self.range.prefix_len();
        let end = if host_bits >= 16 { u32::from(u16::MAX) } else { (1 << host_bits) - 1 };
        let first = 2;
        let start = offset(self.range, self.last).map_or(first, |last| last + 1).clamp(first, end);
        (start..end)
            .chain(first..start)
            .map(|offset| nth(self.range, offset))
            .find(|address| !self.taken.contains_key(address))
    }
}

impl State {
    fn new(ranges: impl Iterator<Item = IpNet>) -> Self {
        Self { pools: ranges.map(Pool::new).collect(), leases: BTreeMap::new(), pending: Vec::new(), made: 0 }
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
        let free = |pool: &Pool| pool.next_free().ok_or(Error::Exhausted(pool.range));
        let addresses = self.pools.iter().map(free).collect::<Result<Vec<_>, _>>()?;
        let lease = Lease { addresses: addresses.clone(), host_ports: host_ports.to_vec(), linked: false };
        let entry =
            Entry::Give { id: id.to_owned(), address: addresses.into(), host_ports: host_ports.to_vec() };
        self.note(&entry);
        self.apply(entry);
        Ok(lease)
    }

    fn withdraw(&mut self, id: &str) {
        for address in self.leases.remove(id).into_iter().flat_map(|lease| lease.addresses) {
            self.pools.iter_mut().for_each(|pool| drop(pool.taken.remove(&address)));
        }
    }

    fn note(&mut self, entry: &Entry) {
        write_line(&mut self.pending, entry);
        self.made += 1;
    }

    fn apply(&mut self, entry: Entry) {
        match entry {
            Entry::Give { id, address, host_ports } => {
                let addresses = Vec::from(address);
                // A pod that was given addresses of another layout is not one of this network any more. One that has fewer
                // families than there are now keeps what it has, as long as its link can be named after it.
                let pool_of = |address| self.pools.iter().position(|pool| pool.range.contains(address));
                let places: Option<Vec<usize>> = addresses.iter().map(pool_of).collect();
                let Some(places) = places.filter(|places| !places.is_empty()) else { return };
                let naming =
                    self.pools.iter().position(|pool| pool.range.addr().is_ipv4()).unwrap_or_default();
                let taken = |(place, address): (&usize, &IpAddr)| {
                    self.pools.get(*place).is_some_and(|pool| pool.taken.contains_key(address))
                };
                if !places.contains(&naming) || places.iter().zip(&addresses).any(taken) {
                    return;
                }
                for (place, address) in places.iter().zip(&addresses) {
                    if let Some(pool) = self.pools.get_mut(*place) {
                        pool.taken.insert(*address, id.clone());
                        pool.last = *address;
                    }
                }
                self.leases.insert(id, Lease { addresses, host_ports, linked: false });
            }
            Entry::Linked { id } => {
                if let Some(lease) = self.leases.get_mut(&id) {
                    lease.linked = true;
                }
            }
            Entry::Free { id } => self.withdraw(&id),
            Entry::Last { address } => {
                for address in Vec::from(address) {
                    for pool in self.pools.iter_mut().filter(|pool| pool.range.contains(&address)) {
                        pool.last = address;
                    }
                }
            }
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
            let Lease { addresses, host_ports, linked } = lease.clone();
            write_line(&mut out, &Entry::Give { id: id.clone(), address: addresses.into(), host_ports });
            if linked {
                write_line(&mut out, &Entry::Linked { id: id.clone() });
            }
        }
        let last: Vec<IpAddr> = self.pools.iter().map(|pool| pool.last).collect();
        write_line(&mut out, &Entry::Last { address: last.into() });
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

    fn layout(pod_ranges: &str) -> Layout {
        let ranges =
            |texts: &str| -> Vec<IpNet> { texts.split(',').map(|text| text.parse().unwrap()).collect() };
        let of_pods = ranges(pod_ranges);
        let fitting = |texts| -> Vec<IpNet> {
            let mut all = ranges(texts);
            all.retain(|range| of_pods.iter().any(|pods| pods.addr().is_ipv4() == range.addr().is_ipv4()));
            all
        };
        Layout::new(&NetworkConfig {
            instance: "test".into(),
            cluster_ranges: fitting("10.42.0.0/16,fd42::/56"),
            service_ranges: fitting("10.43.0.0/16,fd43::/112"),
            dns_addresses: vec!["10.43.0.10".parse().unwrap(), "fd43::a".parse().unwrap()],
            pod_ranges: of_pods.clone(),
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
        let first = addresses.give("a", &[]).unwrap().addresses;
        assert_eq!(first, ["10.42.0.2".parse::<IpAddr>().unwrap()]);
        assert_eq!(addresses.give("a", &[]).unwrap().addresses, first);
        addresses.free("a").unwrap();
        assert_eq!(addresses.give("b", &[]).unwrap().addresses[0].to_string(), "10.42.0.3");
        drop(addresses);
        // Not even after a restart.
        let addresses = Addresses::open(&layout("10.42.0.0/29"), dir.path()).unwrap();
        assert_eq!(addresses.give("c", &[]).unwrap().addresses[0].to_string(), "10.42.0.4");
        assert_eq!(addresses.give("b", &[]).unwrap().addresses[0].to_string(), "10.42.0.3");
    }

    #[test]
    fn a_full_range_says_so_and_a_freed_address_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let addresses = Addresses::open(&layout("10.42.0.0/29"), dir.path()).unwrap();
        for id in ["a", "b", "c", "d", "e"] {
            addresses.give(id, &[]).unwrap();
        }
        assert!(matches!(addresses.give("f", &[]), Err(Error::Exhausted(_))));
        let freed = addresses.get("c").unwrap().addresses;
        addresses.free("c").unwrap();
        assert_eq!(addresses.give("f", &[]).unwrap().addresses, freed);
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
    fn a_pod_gets_one_address_of_each_family_and_gives_both_back() {
        let dir = tempfile::tempdir().unwrap();
        let layout = layout("10.42.0.0/24,fd42::/125");
        let addresses = Addresses::open(&layout, dir.path()).unwrap();
        let given = |lease: Lease| lease.addresses.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(given(addresses.give("a", &[]).unwrap()), ["10.42.0.2", "fd42::2"]);
        for id in ["b", "c", "d", "e"] {
            addresses.give(id, &[]).unwrap();
        }
        // The smaller range decides, and nothing is lost of the other one.
        let error = addresses.give("f", &[]).unwrap_err().to_string();
        assert!(error.contains("fd42::/125"), "{error}");
        addresses.free("a").unwrap();
        drop(addresses);
        let addresses = Addresses::open(&layout, dir.path()).unwrap();
        assert_eq!(given(addresses.give("f", &[]).unwrap()), ["10.42.0.7", "fd42::2"]);
    }

    #[test]
    fn a_journal_of_a_version_with_one_family_is_read_and_its_pods_stay_as_they_are() {
        let dir = tempfile::tempdir().unwrap();
        let old = "{\"give\":{\"id\":\"a\",\"address\":\"10.42.0.5\",\"host_ports\":[]}}\n\
                   {\"linked\":{\"id\":\"a\"}}\n{\"last\":{\"address\":\"10.42.0.7\"}}\n";
        fs::write(dir.path().join(JOURNAL), old).unwrap();
        let layout = layout("fd42::/64,10.42.0.0/24");
        let addresses = Addresses::open(&layout, dir.path()).unwrap();
        let lease = addresses.give("a", &[]).unwrap();
        assert!(lease.linked);
        assert_eq!(lease.addresses, ["10.42.0.5".parse::<IpAddr>().unwrap()]);
        let new = addresses.give("b", &[]).unwrap().addresses;
        assert_eq!(new, ["fd42::2", "10.42.0.8"].map(|text| text.parse::<IpAddr>().unwrap()));
    }

    #[test]
    fn a_journal_of_one_family_reads_as_it_always_did() {
        let dir = tempfile::tempdir().unwrap();
        let addresses = Addresses::open(&layout("10.42.0.0/24"), dir.path()).unwrap();
        addresses.give("a", &[]).unwrap();
        let text = fs::read_to_string(dir.path().join(JOURNAL)).unwrap();
        assert!(text.contains("\"address\":\"10.42.0.2\""), "{text}");
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
            let layout = layout("10.42.0.0/28,fd42::/64");
            let mut addresses = Addresses::open(&layout, dir.path()).unwrap();
            let mut model: BTreeMap<String, Vec<IpAddr>> = BTreeMap::new();
            for (pod, step) in steps {
                let id = pod.to_string();
                match step {
                    0 => {
                        addresses.free(&id).unwrap();
                        model.remove(&id);
                    }
                    1 => addresses = Addresses::open(&layout, dir.path()).unwrap(),
                    _ => {
                        let given = addresses.give(&id, &[]).unwrap().addresses;
                        if let Some(known) = model.get(&id) {
                            prop_assert_eq!(known, &given);
                        } else {
                            prop_assert!(!model.values().flatten().any(|used| given.contains(used)));
                            model.insert(id, given);
                        }
                    }
                }
                let all: BTreeMap<String, Vec<IpAddr>> =
                    addresses.all().into_iter().map(|(id, lease)| (id, lease.addresses)).collect();
                prop_assert_eq!(&all, &model);
            }
        }
    }
}
