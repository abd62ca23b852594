//! Answers of others, as long as they are good (RFC 2308) and within a bound of memory. Pure: the time is handed in.

use super::{Heard, Key};
use crate::wire::{Reply, code, kind, u32_at};
use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

/// Answers are forgotten after an hour, whatever they say themselves.
const MAX_TTL: u32 = 3600;
/// That a name or record does not exist, likewise.
const MAX_NEGATIVE_TTL: u32 = 300;
/// For negative answers without a SOA record.
const NO_SOA_TTL: u32 = 5;
/// That nobody answered is remembered too (RFC 9520): who asks again at once gains nothing.
const FAILURE_TTL: u32 = 1;
/// What an entry takes besides its key and reply, about.
const OVERHEAD: usize = 200;

/// What is remembered. When it is full, what was not asked for lately makes room.
pub(super) struct Cache {
    most: usize,
    bytes: usize,
    entries: HashMap<Key, Entry>,
    /// In the order in which they are looked at for leaving. A number tells an entry from a newer one of its name.
    queue: VecDeque<(Key, u64)>,
    next: u64,
}

struct Entry {
    reply: Arc<Reply>,
    number: u64,
    size: usize,
    since: Instant,
    until: Instant,
    asked: bool,
}

impl Cache {
    pub fn new(most: usize) -> Self {
        Self { most, bytes: 0, entries: HashMap::new(), queue: VecDeque::new(), next: 0 }
    }

    pub fn len(&self) -> usize {
        self.entries.len()
    }

    pub fn bytes(&self) -> usize {
        self.bytes
    }

    pub fn get(&mut self, name: &[u8], kind: u16, now: Instant) -> Option<Heard> {
        // A key must own its name: this one is small and soon gone.
        let entry = self.entries.get_mut(&(name.into(), kind)).filter(|entry| entry.until > now)?;
        entry.asked = true;
        let age = now.saturating_duration_since(entry.since).as_secs() as u32;
        Some(Heard { reply: entry.reply.clone(), age })
    }

    pub fn put(&mut self, key: &Key, reply: Arc<Reply>, now: Instant) {
        let size = 2 * key.0.len() + reply.size() + OVERHEAD;
        let ttl = lifetime(&reply);
        self.remove(key);
        if ttl == 0 || size > self.most {
            return;
        }
        while self.bytes + size > self.most && self.make_room(now) {}
        self.next += 1;
        self.queue.push_back((key.clone(), self.next));
        self.bytes += size;
        let until = now + Duration::from_secs(ttl.into());
        self.entries
            .insert(key.clone(), Entry { reply, number: self.next, size, since: now, until, asked: false });
    }

    /// Looks at the oldest entry: it leaves, or stays for another round if it is good and was asked for.
    fn make_room(&mut self, now: Instant) -> bool {
        let Some((key, number)) = self.queue.pop_front() else { return false };
        if let Some(entry) = self.entries.get_mut(&key).filter(|entry| entry.number == number) {
            if std::mem::take(&mut entry.asked) && entry.until > now {
                self.queue.push_back((key, number));
            } else {
                self.remove(&key);
            }
        }
        true
    }

    fn remove(&mut self, key: &Key) {
        if let Some(entry) = self.entries.remove(key) {
            self.bytes -= entry.size;
        }
        // Places in the queue of entries that are gone are let go when there are more of them than of others.
        if self.queue.len() > 2 * self.entries.len() + 64 {
            let entries = &self.entries;
            self.queue.retain(|(key, number)| entries.get(key).is_some_and(|entry| entry.number == *number));
        }
    }
}

/// How many seconds a reply may be remembered.
fn lifetime(reply: &Reply) -> u32 {
    match reply.code {
        code::NO_ERROR if reply.section(0).next().is_some() => {
            let all = reply.records.iter().filter(|record| record.section < 2).map(|record| record.ttl);
            all.min().unwrap_or(0).min(MAX_TTL)
        }
        code::NO_ERROR | code::NX_DOMAIN => {
            let soa = reply.section(1).find(|record| record.kind == kind::SOA).map(|record| {
                let data = reply.data(record);
                let minimum = data.len().checked_sub(4).and_then(|at| u32_at(data, at)).unwrap_or(0);
                minimum.min(record.ttl)
            });
            let aliases = reply.section(0).map(|record| record.ttl).min().unwrap_or(u32::MAX);
            soa.unwrap_or(NO_SOA_TTL).min(aliases).min(MAX_NEGATIVE_TTL)
        }
        _ => FAILURE_TTL,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::read_reply;
    use hickory_proto::{
        op::{Message, MessageType, OpCode, ResponseCode},
        rr::{
            Name, RData, Record,
            rdata::{A, SOA},
        },
    };
    use std::net::Ipv4Addr;

    fn reply(code: ResponseCode, answers: Vec<Record>, authorities: Vec<Record>) -> Arc<Reply> {
        let mut message = Message::new(1, MessageType::Response, OpCode::Query);
        message.metadata.response_code = code;
        message.add_answers(answers).add_authorities(authorities);
        Arc::new(read_reply(&message.to_vec().unwrap()).unwrap())
    }

    fn a(ttl: u32) -> Record {
        Record::from_rdata(Name::from_ascii("example.org.").unwrap(), ttl, RData::A(A(Ipv4Addr::LOCALHOST)))
    }

    #[test]
    fn an_answer_is_kept_for_its_shortest_time_to_live_and_a_no_for_that_of_its_soa() {
        let name = Name::from_ascii("example.org.").unwrap();
        let soa = SOA::new(name.clone(), name.clone(), 1, 1, 1, 1, 17);
        let soa = |ttl| Record::from_rdata(name.clone(), ttl, RData::SOA(soa.clone()));
        let ok = ResponseCode::NoError;
        for (reply, expected) in [
            (reply(ok, vec![a(60), a(30)], vec![]), 30),
            (reply(ok, vec![a(86400)], vec![]), MAX_TTL),
            (reply(ok, vec![a(0)], vec![]), 0),
            (reply(ok, vec![a(u32::MAX)], vec![]), 0),
            (reply(ok, vec![], vec![soa(3600)]), 17),
            (reply(ResponseCode::NXDomain, vec![], vec![soa(9)]), 9),
            (reply(ResponseCode::NXDomain, vec![a(4)], vec![soa(9)]), 4),
            (reply(ok, vec![], vec![]), NO_SOA_TTL),
            (reply(ResponseCode::ServFail, vec![], vec![]), FAILURE_TTL),
        ] {
            assert_eq!(lifetime(&reply), expected, "{reply:?}");
        }
    }

    #[test]
    fn what_is_remembered_grows_old_and_is_forgotten() {
        let mut cache = Cache::new(1 << 20);
        let (now, key) = (Instant::now(), (b"\x01a\x00"[..].into(), kind::A));
        cache.put(&key, reply(ResponseCode::NoError, vec![a(30)], vec![]), now);
        let age = |cache: &mut Cache, seconds| {
            cache.get(b"\x01a\x00", kind::A, now + Duration::from_secs(seconds)).map(|heard| heard.age)
        };
        assert_eq!(
            [0, 7, 29, 30].map(|seconds| age(&mut cache, seconds)),
            [Some(0), Some(7), Some(29), None]
        );
        assert!(cache.get(b"\x01a\x00", kind::AAAA, now).is_none());
    }

    #[test]
    fn memory_is_bounded_and_what_is_asked_for_stays() {
        let (mut cache, now) = (Cache::new(20_000), Instant::now());
        let key = |index: u32| (index.to_be_bytes()[..].into(), kind::A);
        for index in 0..10_000 {
            cache.put(&key(index), reply(ResponseCode::NoError, vec![a(30)], vec![]), now);
            assert!(cache.bytes() <= 20_000);
            assert!(cache.get(&0_u32.to_be_bytes(), kind::A, now).is_some(), "{index}");
        }
        assert!(cache.len() > 20 && cache.queue.len() <= 2 * cache.len() + 65);
        assert_eq!(cache.bytes(), cache.entries.values().map(|entry| entry.size).sum::<usize>());
        for index in 0..10_000 {
            cache.remove(&key(index));
        }
        assert_eq!((cache.len(), cache.bytes()), (0, 0));
    }
}
