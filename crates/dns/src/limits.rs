//! Who may ask for what, and how often strangers are answered: no open recursion, and little worth in forged questions. It
//! keeps a fixed amount of memory, whoever asks.

use ipnet::IpNet;
use parking_lot::{Mutex, RwLock};
use std::{
    collections::HashSet,
    hash::{BuildHasher, RandomState},
    net::IpAddr,
    time::{Duration, Instant},
};

/// How often this machine's own addresses are looked up again, if somebody unknown asks.
const LOOK_AGAIN: Duration = Duration::from_secs(5);
/// Neighbourhoods that are told apart at one time.
const BUCKETS: usize = 4096;
/// Answers that a neighbourhood gets a second, and in one burst.
const ANSWERS: f32 = 500.0;
/// Refusals and other errors, likewise.
const ERRORS: f32 = 10.0;
/// Of those above the limit, every such one is told to come back over TCP, where nobody can lie about his address.
const SLIP: u32 = 3;

/// Whose names are looked up anywhere.
pub(crate) struct Clients {
    networks: Vec<IpNet>,
    machine: RwLock<Machine>,
}

#[derive(Default)]
struct Machine {
    addresses: HashSet<IpAddr>,
    looked: Option<Instant>,
}

impl Clients {
    pub fn new(networks: Vec<IpNet>) -> Self {
        Self { networks, machine: RwLock::default() }
    }

    /// Whether an address is one of the cluster's pods or of this machine.
    pub fn contain(&self, address: IpAddr, now: Instant) -> bool {
        let address = address.to_canonical();
        if address.is_loopback() || self.networks.iter().any(|network| network.contains(&address)) {
            return true;
        }
        {
            let machine = self.machine.read();
            if machine.addresses.contains(&address) {
                return true;
            }
            if machine.looked.is_some_and(|looked| now.saturating_duration_since(looked) < LOOK_AGAIN) {
                return false;
            }
        }
        let mut machine = self.machine.write();
        machine.looked = Some(now);
        machine.addresses = of_this_machine();
        machine.addresses.contains(&address)
    }
}

fn of_this_machine() -> HashSet<IpAddr> {
    let interfaces = nix::ifaddrs::getifaddrs().inspect_err(|error| {
        tracing::warn!(%error, "this machine's addresses are not known: it cannot ask for names");
    });
    let addresses = interfaces.into_iter().flatten().filter_map(|interface| interface.address);
    addresses
        .filter_map(|address| {
            let v4 = address.as_sockaddr_in().map(|address| IpAddr::V4(address.ip()));
            v4.or_else(|| address.as_sockaddr_in6().map(|address| IpAddr::V6(address.ip())))
        })
        .collect()
}

/// What becomes of an answer to a stranger.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Send,
    /// Nothing but the advice to use TCP.
    Truncate,
    Drop,
}

/// Counts answers by the neighbourhood of who asked (a /24, a /56). Neighbourhoods that fall together share.
pub(crate) struct Limiter {
    hasher: RandomState,
    buckets: Mutex<Box<[Bucket]>>,
    started: Instant,
}

#[derive(Clone, Copy)]
struct Bucket {
    answers: f32,
    errors: f32,
    /// Milliseconds since the limiter started.
    at: u64,
    over: u32,
}

impl Limiter {
    pub fn new(now: Instant) -> Self {
        let full = Bucket { answers: ANSWERS, errors: ERRORS, at: 0, over: 0 };
        Self { hasher: RandomState::new(), buckets: Mutex::new(vec![full; BUCKETS].into()), started: now }
    }

    /// Judges an answer.
    pub fn judge(&self, to: IpAddr, error: bool, now: Instant) -> Verdict {
        let index = self.hasher.hash_one(neighbourhood(to)) as usize % BUCKETS;
        let at = now.saturating_duration_since(self.started).as_millis() as u64;
        let mut buckets = self.buckets.lock();
        let bucket = &mut buckets[index];
        let passed = at.saturating_sub(bucket.at) as f32 / 1000.0;
        bucket.at = at;
        bucket.answers = (bucket.answers + passed * ANSWERS).min(ANSWERS);
        bucket.errors = (bucket.errors + passed * ERRORS).min(ERRORS);
        let left = if error { &mut bucket.errors } else { &mut bucket.answers };
        if *left >= 1.0 {
            *left -= 1.0;
            return Verdict::Send;
        }
        bucket.over = bucket.over.wrapping_add(1);
        // An error is no longer than its question; telling about TCP would gain nothing.
        if !error && bucket.over.is_multiple_of(SLIP) { Verdict::Truncate } else { Verdict::Drop }
    }
}

fn neighbourhood(address: IpAddr) -> u128 {
    match address.to_canonical() {
        IpAddr::V4(address) => u128::from(u32::from(address) >> 8),
        IpAddr::V6(address) => u128::from(address) >> 72 | 1 << 127,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pods_and_this_machine_may_ask_and_nobody_else() {
        let clients = Clients::new(vec!["10.42.0.0/16".parse().unwrap()]);
        let now = Instant::now();
        for (address, may) in [
            ("10.42.7.1", true),
            ("::ffff:10.42.7.1", true),
            ("127.0.0.1", true),
            ("::1", true),
            ("192.0.2.1", false),
            ("2001:db8::1", false),
        ] {
            assert_eq!(clients.contain(address.parse().unwrap(), now), may, "{address}");
        }
        for address in of_this_machine() {
            assert!(clients.contain(address, now), "{address}");
        }
    }

    #[test]
    fn a_neighbourhood_gets_so_much_and_a_little_more_each_moment() {
        let (now, asks) = (Instant::now(), "192.0.2.7".parse().unwrap());
        let limiter = Limiter::new(now);
        let sent = |error, now, times| {
            (0..times).filter(|_| limiter.judge(asks, error, now) == Verdict::Send).count()
        };
        assert_eq!(sent(true, now, 1000), ERRORS as usize);
        assert_eq!(sent(false, now, 1000), ANSWERS as usize);
        let told = (0..30).filter(|_| limiter.judge(asks, false, now) == Verdict::Truncate).count();
        assert_eq!(told, 30 / SLIP as usize);
        assert_eq!(sent(true, now + Duration::from_secs(1), 1000), ERRORS as usize);
        assert_eq!(sent(false, now + Duration::from_secs(60), 1000), ANSWERS as usize);
        assert_eq!(limiter.judge("192.0.3.7".parse().unwrap(), true, now), Verdict::Send);
    }
}
