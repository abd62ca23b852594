//! Asks the machine's own resolvers, and those of stub domains, what is not the cluster's, and remembers their answers. It
//! never asks an address that this server listens on. Questions that are the same are asked once.

mod cache;
mod exchange;
mod upstreams;

use crate::{
    Error, StubDomain, Upstreams,
    metrics::Metrics,
    name::{Name, WireName},
    wire::{Reply, code},
};
use cache::Cache;
use parking_lot::Mutex;
use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::sync::watch;
use upstreams::Group;

/// Different questions that wait for an answer at one time; further ones fail at once.
const MAX_WAITING: usize = 1024;
/// A client gives up after 5 s, so all attempts end before.
const PATIENCE: Duration = Duration::from_millis(4500);

/// A question: name in lower case, and type.
type Key = (Box<[u8]>, u16);

/// An answer, and for how many seconds it was remembered.
#[derive(Clone, Debug)]
pub(crate) struct Heard {
    pub reply: Arc<Reply>,
    pub age: u32,
}

/// Forwards questions.
pub(crate) struct Forwarder {
    default: Group,
    /// By domain, the longest first.
    stubs: Vec<(Name, usize, Group)>,
    cache: Mutex<Cache>,
    flights: Mutex<HashMap<Key, watch::Receiver<Option<Arc<Reply>>>>>,
    metrics: Arc<Metrics>,
}

impl Forwarder {
    pub fn new(
        upstreams: Upstreams,
        stubs: Vec<StubDomain>,
        own: &[SocketAddr],
        cache_bytes: usize,
        metrics: Arc<Metrics>,
    ) -> Result<Self, Error> {
        let mut groups = Vec::new();
        for StubDomain { domain, servers } in stubs {
            let name = Name::parse(&domain).ok_or(Error::Domain { domain })?;
            let depth = name.depth();
            groups.push((name, depth, Group::new(Upstreams::Servers(servers), own.to_vec())));
        }
        groups.sort_by_key(|(_, depth, _)| std::cmp::Reverse(*depth));
        Ok(Self {
            default: Group::new(upstreams, own.to_vec()),
            stubs: groups,
            cache: Mutex::new(Cache::new(cache_bytes)),
            flights: Mutex::default(),
            metrics,
        })
    }

    /// What is remembered of a question.
    pub fn remembered(&self, name: &WireName, kind: u16, now: Instant) -> Option<Heard> {
        let heard = self.cache.lock().get(name.lower(), kind, now)?;
        self.metrics.cache_hit(heard.reply.code == code::NO_ERROR && heard.reply.section(0).next().is_some());
        Some(heard)
    }

    /// The answer to a question; `None` if nobody answers.
    pub async fn ask(self: &Arc<Self>, name: &Name, kind: u16) -> Option<Heard> {
        let wire = WireName::from(name);
        if let Some(heard) = self.remembered(&wire, kind, Instant::now()) {
            return Some(heard);
        }
        let key: Key = (name.wire().into(), kind);
        let mut flight = {
            let mut flights = self.flights.lock();
            match flights.get(&key) {
                Some(flight) => flight.clone(),
                None if flights.len() >= MAX_WAITING => return None,
                None => {
                    let (done, flight) = watch::channel(None);
                    flights.insert(key.clone(), flight.clone());
                    let (this, name) = (self.clone(), name.clone());
                    self.metrics.cache_miss();
                    // Its own task: who asked first may go away.
                    tokio::spawn(async move {
                        let group = this.group(&wire);
                        let asked =
                            tokio::time::timeout(PATIENCE, group.ask(&name, kind, &this.metrics)).await;
                        let reply = asked.ok().flatten().unwrap_or_else(Reply::failure);
                        let reply = Arc::new(reply);
                        this.remember(&key, &reply);
                        this.flights.lock().remove(&key);
                        let _ = done.send(Some(reply));
                    });
                    flight
                }
            }
        };
        let reply = flight.wait_for(Option::is_some).await.ok()?.clone()?;
        Some(Heard { reply, age: 0 })
    }

    fn remember(&self, key: &Key, reply: &Arc<Reply>) {
        let mut cache = self.cache.lock();
        cache.put(key, reply.clone(), Instant::now());
        self.metrics.cache_holds(cache.len(), cache.bytes());
    }

    fn group(&self, name: &WireName) -> &Group {
        let stub =
            self.stubs.iter().find(|(domain, depth, _)| name.depth_below(domain.wire(), *depth).is_some());
        stub.map_or(&self.default, |(_, _, group)| group)
    }
}
