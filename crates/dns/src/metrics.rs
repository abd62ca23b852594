//! What is counted, under the names that CoreDNS has for it. Counting is cheap: numbers in fixed places.

use crate::wire::{code, kind};
use parking_lot::Mutex;
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{
        MetricType,
        counter::ConstCounter,
        gauge::ConstGauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::Registry,
};
use std::{
    collections::BTreeMap,
    fmt,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

/// Types with a place of their own, and all others.
const KINDS: [(u16, &str); 11] = [
    (kind::A, "A"),
    (kind::AAAA, "AAAA"),
    (kind::SRV, "SRV"),
    (kind::PTR, "PTR"),
    (kind::CNAME, "CNAME"),
    (kind::TXT, "TXT"),
    (kind::SOA, "SOA"),
    (kind::NS, "NS"),
    (kind::MX, "MX"),
    (kind::HTTPS, "HTTPS"),
    (0, "other"),
];
/// Response codes likewise.
const CODES: [(u16, &str); 8] = [
    (code::NO_ERROR, "NOERROR"),
    (code::FORM_ERR, "FORMERR"),
    (code::SERV_FAIL, "SERVFAIL"),
    (code::NX_DOMAIN, "NXDOMAIN"),
    (code::NOT_IMP, "NOTIMP"),
    (code::REFUSED, "REFUSED"),
    (code::BAD_VERS, "BADVERS"),
    (u16::MAX, "other"),
];

/// Which names a question is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Zone {
    Cluster,
    Exported,
    Elsewhere,
}

type Counter = AtomicU64;
/// For servers that were asked, the code is none if they did not answer.
type Asked = (String, &'static str);

/// What the server has done so far.
pub struct Metrics {
    zone: String,
    /// By zone, transport, family, and type.
    requests: [[[[Counter; KINDS.len()]; 2]; 2]; 3],
    /// By zone and code.
    responses: [[Counter; CODES.len()]; 3],
    dropped: Counter,
    cache_hits: [Counter; 2],
    cache_misses: Counter,
    cache_entries: AtomicUsize,
    cache_bytes: AtomicUsize,
    durations: [Histogram; 3],
    upstreams: Mutex<BTreeMap<Asked, Histogram>>,
}

/// From a microsecond to four seconds.
fn durations() -> Histogram {
    Histogram::new(exponential_buckets(0.000_001, 4.0, 12))
}

impl Metrics {
    pub(crate) fn new(zone: &str) -> Self {
        Self {
            zone: format!("{zone}."),
            requests: Default::default(),
            responses: Default::default(),
            dropped: Counter::default(),
            cache_hits: Default::default(),
            cache_misses: Counter::default(),
            cache_entries: AtomicUsize::default(),
            cache_bytes: AtomicUsize::default(),
            durations: std::array::from_fn(|_| durations()),
            upstreams: Mutex::default(),
        }
    }

    /// Shows these numbers in a registry.
    pub fn register(self: &Arc<Self>, registry: &mut Registry) {
        registry.register_collector(Box::new(Shown(self.clone())));
    }

    pub(crate) fn request(&self, zone: Zone, tcp: bool, from: IpAddr, kind: u16) {
        let place = KINDS.iter().position(|(number, _)| *number == kind).unwrap_or(KINDS.len() - 1);
        let family = usize::from(from.to_canonical().is_ipv6());
        self.requests[zone as usize][usize::from(tcp)][family][place].fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn response(&self, zone: Zone, code: u16) {
        let place = CODES.iter().position(|(number, _)| *number == code).unwrap_or(CODES.len() - 1);
        self.responses[zone as usize][place].fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn took(&self, zone: Zone, time: Duration) {
        self.durations[zone as usize].observe(time.as_secs_f64());
    }

    pub(crate) fn dropped(&self) {
        self.dropped.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn cache_hit(&self, success: bool) {
        self.cache_hits[usize::from(!success)].fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn cache_miss(&self) {
        self.cache_misses.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn cache_holds(&self, entries: usize, bytes: usize) {
        self.cache_entries.store(entries, Ordering::Relaxed);
        self.cache_bytes.store(bytes, Ordering::Relaxed);
    }

    pub(crate) fn forwarded(&self, to: SocketAddr, time: Duration, code: Option<u16>) {
        let name = code.map_or("none", |code| {
            CODES.iter().find(|(number, _)| *number == code).map_or("other", |(_, name)| name)
        });
        let mut upstreams = self.upstreams.lock();
        upstreams.entry((to.to_string(), name)).or_insert_with(durations).observe(time.as_secs_f64());
    }

    fn zone_name(&self, zone: usize) -> &str {
        [&self.zone, "exported", "."][zone]
    }
}

/// The way in for a registry.
struct Shown(Arc<Metrics>);

impl fmt::Debug for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DNS metrics")
    }
}

type Labels<const N: usize> = [(&'static str, String); N];

impl Collector for Shown {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let metrics = &*self.0;
        let server = || ("server", "dns://:53".to_owned());
        let mut requests = Vec::new();
        for (zone, by_proto) in metrics.requests.iter().enumerate() {
            for (by_family, proto) in by_proto.iter().zip(["udp", "tcp"]) {
                for (by_kind, family) in by_family.iter().zip(["1", "2"]) {
                    for (count, (_, kind)) in by_kind.iter().zip(KINDS) {
                        let labels: Labels<5> = [
                            server(),
                            ("zone", metrics.zone_name(zone).into()),
                            ("proto", proto.into()),
                            ("family", family.into()),
                            ("type", kind.into()),
                        ];
                        requests.push((labels, count));
                    }
                }
            }
        }
        counters(
            &mut encoder,
            "coredns_dns_requests",
            "Questions by zone, protocol, family and type",
            requests,
        )?;
        let mut responses = Vec::new();
        for (zone, by_code) in metrics.responses.iter().enumerate() {
            for (count, (_, code)) in by_code.iter().zip(CODES) {
                let zone = metrics.zone_name(zone).to_owned();
                responses.push(([server(), ("zone", zone), ("rcode", code.into())], count));
            }
        }
        counters(&mut encoder, "coredns_dns_responses", "Answers by zone and code", responses)?;
        counters(
            &mut encoder,
            "orlop_dns_dropped",
            "Questions that got no answer: noise, or strangers that ask too often",
            vec![([server()], &metrics.dropped)],
        )?;
        let hits = metrics.cache_hits.iter().zip(["success", "denial"]);
        let hits = hits.map(|(count, kind)| ([server(), ("type", kind.into())], count)).collect();
        counters(&mut encoder, "coredns_cache_hits", "Questions that others had answered before", hits)?;
        counters(
            &mut encoder,
            "coredns_cache_misses",
            "Questions that others were asked",
            vec![([server()], &metrics.cache_misses)],
        )?;
        let held = [
            ("coredns_cache_entries", "Answers of others that are remembered", &metrics.cache_entries),
            ("orlop_dns_cache_bytes", "Memory that remembered answers take", &metrics.cache_bytes),
        ];
        for (name, help, number) in held {
            let gauge = ConstGauge::new(number.load(Ordering::Relaxed) as i64);
            gauge.encode(encoder.encode_descriptor(name, help, None, MetricType::Gauge)?)?;
        }
        let (name, help) = ("coredns_dns_request_duration_seconds", "Time to an answer, by zone");
        let mut took = encoder.encode_descriptor(name, help, None, MetricType::Histogram)?;
        for (zone, durations) in metrics.durations.iter().enumerate() {
            let labels: Labels<2> = [server(), ("zone", metrics.zone_name(zone).into())];
            durations.encode(took.encode_family(&labels)?)?;
        }
        let (name, help) =
            ("coredns_proxy_request_duration_seconds", "Time that other servers take, by code");
        let mut asked = encoder.encode_descriptor(name, help, None, MetricType::Histogram)?;
        for ((to, code), durations) in metrics.upstreams.lock().iter() {
            let labels: Labels<3> =
                [("proxy_name", "forward".into()), ("to", to.clone()), ("rcode", (*code).into())];
            durations.encode(asked.encode_family(&labels)?)?;
        }
        Ok(())
    }
}

fn counters<const N: usize>(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    all: Vec<(Labels<N>, &Counter)>,
) -> fmt::Result {
    let mut encoder = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
    for (labels, count) in all {
        let count = count.load(Ordering::Relaxed);
        if count > 0 {
            ConstCounter::new(count).encode(encoder.encode_family(&labels)?)?;
        }
    }
    Ok(())
}
