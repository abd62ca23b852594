//! The server as clients see it: asked with `dig`, and with names forwarded to an upstream that is another such server.

#![allow(clippy::unwrap_used)] // what cannot be set up fails the test
#![allow(clippy::disallowed_methods)] // servers that are slow, and answers that grow old: threads of tests wait for real time

use orlop_dns::{
    DnsConfig, DnsIndex, DnsServer, EndpointRecord, Layout, PortRecord, Protocol, Rank, ServiceRecord,
    ServiceTarget, StubDomain, Upstreams, Zones,
};
use std::{
    io::{Read, Write},
    net::{IpAddr, SocketAddr, TcpStream, UdpSocket},
    process::Command,
    sync::Arc,
    time::Duration,
};

/// A running server.
struct Dns {
    index: Arc<DnsIndex>,
    /// The zone below it.
    networks: Arc<DnsIndex>,
    address: SocketAddr,
    /// The door for strangers, if there is one.
    exported: SocketAddr,
    metrics: Arc<orlop_dns::Metrics>,
    /// The server ends with its runtime.
    _runtime: tokio::runtime::Runtime,
}

impl Dns {
    fn start(domain: &str, upstreams: Upstreams) -> Self {
        Self::with(domain, config(upstreams), vec![])
    }

    fn with(domain: &str, config: DnsConfig, exported: Vec<Arc<DnsIndex>>) -> Self {
        let index = Arc::new(DnsIndex::new(domain).unwrap());
        let below = DnsIndex::with_layout(&format!("net.{domain}"), Layout::Networks).unwrap();
        let networks = Arc::new(below);
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let zones = Zones { cluster: index.clone(), below: Some(networks.clone()), exported };
        // The kernel chooses a port that is free for UDP; now and then somebody has it for TCP.
        let bound = (0..50).find_map(|_| DnsServer::bind(config.clone(), zones.clone()).ok());
        let server = bound.expect("a port that is free for both");
        let (address, last) = (server.addresses()[0], *server.addresses().last().unwrap());
        let metrics = server.metrics();
        runtime.spawn(server.run(std::future::pending()));
        Self { index, networks, address, exported: last, metrics, _runtime: runtime }
    }

    fn cluster() -> Self {
        let dns = Self::start("cluster.local", Upstreams::Servers(vec![]));
        for service in services() {
            dns.index.set_service(service);
        }
        dns
    }

    /// What dig prints with these arguments.
    fn dig(&self, arguments: &str) -> String {
        dig(self.address, arguments)
    }

    /// The data of the answers, sorted.
    fn short(&self, question: &str) -> Vec<String> {
        short(self.address, question)
    }

    /// `NOERROR`, `NXDOMAIN`, …
    fn status(&self, question: &str) -> String {
        status(self.address, question)
    }
}

fn config(upstreams: Upstreams) -> DnsConfig {
    DnsConfig {
        listen: vec!["127.0.0.1:0".parse().unwrap()],
        export_listen: vec![],
        clients: vec![],
        own_ranges: vec!["10.42.0.0/16".parse().unwrap(), "10.43.0.0/16".parse().unwrap()],
        upstreams,
        stubs: vec![],
        ttl: 5,
        cache_bytes: DnsConfig::CACHE_BYTES,
    }
}

fn dig(server: SocketAddr, arguments: &str) -> String {
    let output = Command::new("dig")
        .args([&format!("@{}", server.ip()), "-p", &server.port().to_string(), "+tries=1", "+time=5"])
        .args(arguments.split_whitespace())
        .output()
        .unwrap();
    String::from_utf8(output.stdout).unwrap()
}

fn short(server: SocketAddr, question: &str) -> Vec<String> {
    let mut lines: Vec<String> =
        dig(server, &format!("{question} +short")).lines().map(str::to_owned).collect();
    lines.sort();
    lines
}

fn status(server: SocketAddr, question: &str) -> String {
    let text = dig(server, question);
    let rest = text.split("status: ").nth(1).unwrap_or_else(|| panic!("{text}"));
    rest.split(',').next().unwrap().to_owned()
}

fn port(name: &str, protocol: Protocol, port: u16) -> PortRecord {
    PortRecord { name: name.into(), protocol, port }
}

fn endpoint(address: &str, hostname: Option<&str>) -> EndpointRecord {
    EndpointRecord {
        address: address.parse().unwrap(),
        hostname: hostname.map(str::to_owned),
        ports: vec![port("redis", Protocol::Tcp, 6379)],
        rank: Rank { priority: 1, weight: 20 },
        pointer: true,
    }
}

fn service(name: &str, target: ServiceTarget) -> ServiceRecord {
    ServiceRecord { namespace: "default".into(), name: name.into(), target }
}

fn services() -> Vec<ServiceRecord> {
    let ports =
        vec![port("http", Protocol::Tcp, 80), port("", Protocol::Tcp, 9), port("dns", Protocol::Udp, 53)];
    let addresses = ["10.43.0.7", "fd00::7"].map(|address| address.parse::<IpAddr>().unwrap()).to_vec();
    vec![
        service("web", ServiceTarget::Cluster { addresses, ports, rank: Rank::default() }),
        service(
            "db",
            ServiceTarget::Headless {
                endpoints: vec![
                    endpoint("10.42.0.5", Some("db-0")),
                    endpoint("10.42.0.6", Some("db-1")),
                    endpoint("10.42.0.7", None),
                ],
            },
        ),
        service("empty", ServiceTarget::Headless { endpoints: vec![] }),
        service("alias", ServiceTarget::External { name: "web.default.svc.cluster.local".into() }),
        service("outside", ServiceTarget::External { name: "www.example.org".into() }),
        service("loop", ServiceTarget::External { name: "loop.default.svc.cluster.local".into() }),
    ]
}

#[test]
fn a_service_has_its_addresses() {
    let dns = Dns::cluster();
    assert_eq!(dns.short("web.default.svc.cluster.local A"), ["10.43.0.7"]);
    assert_eq!(dns.short("web.default.svc.cluster.local AAAA"), ["fd00::7"]);
    assert_eq!(dns.short("WEB.Default.svc.CLUSTER.local A"), ["10.43.0.7"]);
    assert!(dns.dig("WEB.Default.svc.CLUSTER.local A").contains("WEB.Default.svc.CLUSTER.local. 5 IN\tA"));
    assert_eq!(dns.short("web.default.svc.cluster.local A +tcp"), ["10.43.0.7"]);
}

#[test]
fn a_headless_service_has_those_of_its_endpoints_and_each_its_own_name() {
    let dns = Dns::cluster();
    assert_eq!(dns.short("db.default.svc.cluster.local"), ["10.42.0.5", "10.42.0.6", "10.42.0.7"]);
    assert_eq!(dns.short("db-1.db.default.svc.cluster.local"), ["10.42.0.6"]);
    assert_eq!(dns.short("10-42-0-7.db.default.svc.cluster.local"), ["10.42.0.7"]);
    assert_eq!(dns.status("db-9.db.default.svc.cluster.local"), "NXDOMAIN");
}

#[test]
fn ports_are_found_by_srv_with_the_addresses_beside_them() {
    let dns = Dns::cluster();
    assert_eq!(
        dns.short("_http._tcp.web.default.svc.cluster.local SRV"),
        ["0 100 80 web.default.svc.cluster.local."]
    );
    assert_eq!(
        dns.short("_dns._udp.web.default.svc.cluster.local SRV"),
        ["0 100 53 web.default.svc.cluster.local."]
    );
    let whole = dns.dig("_http._tcp.web.default.svc.cluster.local SRV +noall +additional");
    assert!(whole.contains("10.43.0.7") && whole.contains("fd00::7"), "{whole}");
    assert_eq!(
        dns.short("_redis._tcp.db.default.svc.cluster.local SRV"),
        [
            "1 20 6379 10-42-0-7.db.default.svc.cluster.local.",
            "1 20 6379 db-0.db.default.svc.cluster.local.",
            "1 20 6379 db-1.db.default.svc.cluster.local.",
        ]
    );
    for (question, status) in [
        ("_http._udp.web.default.svc.cluster.local SRV", "NXDOMAIN"),
        ("_nothing._tcp.web.default.svc.cluster.local SRV", "NXDOMAIN"),
        ("_http._tcp.web.default.svc.cluster.local A", "NOERROR"),
        ("_tcp.web.default.svc.cluster.local A", "NOERROR"),
        ("_sctp.web.default.svc.cluster.local A", "NXDOMAIN"),
    ] {
        assert_eq!(dns.status(question), status, "{question}");
    }
}

#[test]
fn addresses_have_names_again() {
    let dns = Dns::cluster();
    assert_eq!(dns.short("-x 10.43.0.7"), ["web.default.svc.cluster.local."]);
    assert_eq!(dns.short("-x fd00::7"), ["web.default.svc.cluster.local."]);
    assert_eq!(dns.short("-x 10.42.0.5"), ["db-0.db.default.svc.cluster.local."]);
    // Without a hostname an endpoint has no name of its own; nobody else is asked for the cluster's addresses, but for others.
    assert_eq!(dns.status("-x 10.42.0.7"), "NXDOMAIN");
    assert!(dns.dig("-x 10.42.0.7").contains("SOA\tns.dns.cluster.local."));
    assert_eq!(dns.status("-x 10.43.0.7 A"), "NOERROR");
    assert_eq!(dns.status("-x 10.1.2.3"), "SERVFAIL");
}

#[test]
fn an_alias_is_followed() {
    let dns = Dns::cluster();
    let answer = dns.dig("alias.default.svc.cluster.local A +noall +answer");
    assert!(
        answer.contains("CNAME\tweb.default.svc.cluster.local.") && answer.contains("A\t10.43.0.7"),
        "{answer}"
    );
    assert_eq!(dns.short("alias.default.svc.cluster.local CNAME"), ["web.default.svc.cluster.local."]);
    assert_eq!(dns.status("loop.default.svc.cluster.local A"), "SERVFAIL");
}

#[test]
fn a_pods_address_is_in_its_name() {
    let dns = Dns::cluster();
    assert_eq!(dns.short("10-42-0-5.default.pod.cluster.local"), ["10.42.0.5"]);
    assert_eq!(dns.short("fd00--5.default.pod.cluster.local AAAA"), ["fd00::5"]);
    assert_eq!(dns.status("10-42-0-5.default.pod.cluster.local AAAA"), "NOERROR");
    assert_eq!(dns.status("not-an-address.default.pod.cluster.local"), "NXDOMAIN");
}

#[test]
fn the_zone_says_its_version_and_its_authority() {
    let dns = Dns::cluster();
    assert_eq!(dns.short("dns-version.cluster.local TXT"), ["\"1.1.0\""]);
    assert!(dns.short("cluster.local SOA")[0].starts_with("ns.dns.cluster.local. hostmaster.cluster.local."));
    assert_eq!(dns.short("cluster.local NS"), ["ns.dns.cluster.local."]);
    assert_eq!(dns.short("ns.dns.cluster.local A"), ["127.0.0.1"]);
}

#[test]
fn no_such_name_and_no_such_record_are_told_apart_and_both_carry_the_soa() {
    let dns = Dns::cluster();
    for (question, status) in [
        ("nobody.default.svc.cluster.local", "NXDOMAIN"),
        ("web.nowhere.svc.cluster.local", "NXDOMAIN"),
        ("nowhere.svc.cluster.local", "NXDOMAIN"),
        ("something.cluster.local", "NXDOMAIN"),
        ("a.b.c.d.e.f.g.cluster.local", "NXDOMAIN"),
        ("www.example.org.default.svc.cluster.local", "NXDOMAIN"),
        ("db-0.web.default.svc.cluster.local", "NXDOMAIN"),
        ("web.default.svc.cluster.local MX", "NOERROR"),
        ("db.default.svc.cluster.local AAAA", "NOERROR"),
        ("empty.default.svc.cluster.local", "NXDOMAIN"),
        ("default.svc.cluster.local", "NOERROR"),
        ("svc.cluster.local", "NOERROR"),
        ("cluster.local", "NOERROR"),
    ] {
        let text = dns.dig(question);
        assert!(text.contains(&format!("status: {status}")), "{question}: {text}");
        assert!(
            text.contains("ANSWER: 0, AUTHORITY: 1") && text.contains("SOA\tns.dns.cluster.local."),
            "{question}: {text}"
        );
        assert!(text.contains(" aa "), "{question}: {text}");
    }
}

#[test]
fn changes_are_seen_at_once_and_what_is_removed_is_gone() {
    let dns = Dns::cluster();
    let addresses = vec!["10.43.0.8".parse().unwrap()];
    dns.index.set_service(service(
        "web",
        ServiceTarget::Cluster { addresses, ports: vec![], rank: Rank::default() },
    ));
    assert_eq!(dns.short("web.default.svc.cluster.local A"), ["10.43.0.8"]);
    assert_eq!(dns.short("-x 10.43.0.8"), ["web.default.svc.cluster.local."]);
    assert_eq!(dns.status("-x 10.43.0.7"), "NXDOMAIN");
    for name in ["web", "db", "empty", "alias", "outside", "loop", "never"] {
        dns.index.remove_service("default", name);
    }
    assert_eq!(dns.status("web.default.svc.cluster.local"), "NXDOMAIN");
    assert_eq!(dns.status("default.svc.cluster.local"), "NXDOMAIN");
    assert_eq!(dns.status("-x 10.43.0.8"), "NXDOMAIN");
}

#[test]
fn what_does_not_fit_a_datagram_is_truncated_and_whole_over_tcp() {
    let dns = Dns::cluster();
    let endpoints = (0..200).map(|index| endpoint(&format!("10.42.1.{index}"), None)).collect();
    dns.index.set_service(service("big", ServiceTarget::Headless { endpoints }));
    let question = "big.default.svc.cluster.local A";
    for small in ["+noedns", "+bufsize=512", "+bufsize=1232", "+bufsize=4096"] {
        let text = dns.dig(&format!("{question} +ignore {small}"));
        assert!(text.contains(" tc "), "{small}: {text}");
        let size: usize = text.split("MSG SIZE  rcvd: ").nth(1).unwrap().trim().parse().unwrap();
        assert!(
            size <= if small.contains("1232") || small.contains("4096") { 1232 } else { 512 },
            "{small}: {size}"
        );
    }
    assert_eq!(dns.short(question).len(), 200);
    assert_eq!(dns.short(&format!("{question} +tcp")).len(), 200);
}

#[test]
fn clients_that_take_the_first_address_spread() {
    let dns = Dns::cluster();
    let first = |_| dns.dig("db.default.svc.cluster.local A +short").lines().next().unwrap().to_owned();
    let firsts: std::collections::BTreeSet<String> = (0..6).map(first).collect();
    assert_eq!(firsts.len(), 3);
}

#[test]
fn other_names_are_asked_upstream_and_remembered() {
    let world = Dns::start("world.test", Upstreams::Servers(vec![]));
    let addresses = vec!["192.0.2.80".parse().unwrap()];
    world.index.set_service(service(
        "www",
        ServiceTarget::Cluster { addresses, ports: vec![], rank: Rank::default() },
    ));
    let endpoints = (0..200).map(|index| endpoint(&format!("192.0.2.{index}"), None)).collect();
    world.index.set_service(service("big", ServiceTarget::Headless { endpoints }));
    let dns = Dns::start("cluster.local", Upstreams::Servers(vec![world.address]));
    dns.index
        .set_service(service("out", ServiceTarget::External { name: "www.default.svc.world.test".into() }));

    let www = "www.default.svc.world.test";
    assert_eq!(dns.short(&format!("{www} A")), ["192.0.2.80"]);
    assert_eq!(dns.short("big.default.svc.world.test A").len(), 200);
    assert_eq!(dns.status("nobody.default.svc.world.test"), "NXDOMAIN");
    assert!(dns.dig("nobody.default.svc.world.test").contains("SOA\tns.dns.world.test."));
    let followed = dns.dig("out.default.svc.cluster.local A +noall +answer");
    assert!(
        followed.contains("CNAME\twww.default.svc.world.test.") && followed.contains("192.0.2.80"),
        "{followed}"
    );

    world.index.remove_service("default", "www");
    assert_eq!(world.status(www), "NXDOMAIN");
    assert_eq!(dns.short(&format!("{www} A")), ["192.0.2.80"]);
}

#[test]
fn a_dead_upstream_is_passed_over_and_none_at_all_fails_at_once() {
    let world = Dns::start("world.test", Upstreams::Servers(vec![]));
    let addresses = vec!["192.0.2.80".parse().unwrap()];
    world.index.set_service(service(
        "www",
        ServiceTarget::Cluster { addresses, ports: vec![], rank: Rank::default() },
    ));
    // Nobody listens on port 9: the kernel says so at once.
    let dns =
        Dns::start("cluster.local", Upstreams::Servers(vec!["127.0.0.1:9".parse().unwrap(), world.address]));
    assert_eq!(dns.short("www.default.svc.world.test"), ["192.0.2.80"]);
    assert_eq!(Dns::cluster().status("www.example.org"), "SERVFAIL");
    assert_eq!(Dns::cluster().status("outside.default.svc.cluster.local"), "SERVFAIL");
}

#[test]
fn without_upstreams_in_resolv_conf_other_names_fail() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("resolv.conf");
    std::fs::write(&path, "search example.org\n").unwrap();
    for path in [path, "/no/such/file".into()] {
        let dns = Dns::start("cluster.local", Upstreams::ResolvConf(path));
        assert_eq!(dns.status("www.example.org"), "SERVFAIL");
    }
}

#[test]
fn what_is_not_a_question_about_the_internet_is_refused() {
    let dns = Dns::cluster();
    assert_eq!(dns.status("version.bind CH TXT"), "REFUSED");
    assert_eq!(dns.status("web.default.svc.cluster.local A +opcode=status"), "NOTIMP");
    assert_eq!(dns.status("web.default.svc.cluster.local A +edns=1 +noednsnegotiation"), "BADVERS");
}

#[test]
fn a_domain_must_be_a_name() {
    for bad in ["", ".", "a..b", &"x".repeat(64)] {
        assert!(DnsIndex::new(bad).is_err(), "{bad:?}");
    }
    assert_eq!(DnsIndex::new("Cluster.Example.").unwrap().domain(), "Cluster.Example");
}

/// A server that a test says everything for: what it answers to each datagram, if anything.
struct Puppet {
    address: SocketAddr,
    asked: Arc<std::sync::atomic::AtomicUsize>,
}

impl Puppet {
    fn start(answer: impl Fn(&[u8], usize) -> Vec<Vec<u8>> + Send + 'static) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let (address, asked) = (socket.local_addr().unwrap(), Arc::default());
        let counter: Arc<std::sync::atomic::AtomicUsize> = Arc::clone(&asked);
        std::thread::spawn(move || {
            let mut buffer = [0; 2048];
            while let Ok((length, from)) = socket.recv_from(&mut buffer) {
                let count = counter.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                for reply in answer(&buffer[..length], count) {
                    socket.send_to(&reply, from).unwrap();
                }
            }
        });
        Self { address, asked }
    }

    fn asked(&self) -> usize {
        self.asked.load(std::sync::atomic::Ordering::SeqCst)
    }
}

/// A true answer with one address and a time to live.
fn reply(question: &[u8], address: [u8; 4], ttl: u32) -> Vec<u8> {
    let end = 12 + question[12..].iter().position(|byte| *byte == 0).unwrap() + 5;
    let mut reply = question[..end].to_vec();
    reply[2..12].copy_from_slice(&[0x81, 0x80, 0, 1, 0, 1, 0, 0, 0, 0]);
    reply.extend([0xc0, 12, 0, 1, 0, 1]);
    reply.extend(ttl.to_be_bytes());
    reply.extend([0, 4]);
    reply.extend(address);
    reply
}

#[test]
fn impostors_are_not_believed_and_a_server_that_spells_its_own_way_is_asked_over_tcp() {
    let puppet = Puppet::start(|question, _| {
        let (good, mut number, mut name, mut spelt, mut no_answer) = (
            reply(question, [192, 0, 2, 1], 60),
            reply(question, [192, 0, 2, 66], 60),
            reply(question, [192, 0, 2, 66], 60),
            reply(question, [192, 0, 2, 66], 60),
            reply(question, [192, 0, 2, 66], 60),
        );
        number[0] ^= 1;
        name[13] = b'z';
        no_answer[2] &= 0x7f;
        spelt[12..].make_ascii_lowercase();
        // Two puppets in one: by the name it is seen which one is meant.
        if question[13..].to_ascii_lowercase().starts_with(b"lower") {
            return vec![spelt];
        }
        vec![number, name, no_answer, vec![1, 2, 3], good]
    });
    let dns = Dns::start("cluster.local", Upstreams::Servers(vec![puppet.address]));
    assert_eq!(dns.short("www.some-long-name.example.org"), ["192.0.2.1"]);
    // The lower-case answer is not believed, and over TCP nobody is there.
    assert_eq!(dns.status("lower-case-and-long-enough.example.org"), "SERVFAIL");
    // Clients see their own spelling.
    assert!(dns.dig("www.Some-Long-Name.example.org").contains("www.Some-Long-Name.example.org.\t"));
}

#[test]
fn equal_questions_are_asked_once_and_answers_grow_old() {
    let puppet = Puppet::start(|question, _| {
        std::thread::sleep(Duration::from_millis(300));
        vec![reply(question, [192, 0, 2, 1], 3)]
    });
    let dns = Dns::start("cluster.local", Upstreams::Servers(vec![puppet.address]));
    std::thread::scope(|scope| {
        let ask = || assert_eq!(dns.short("www.example.org"), ["192.0.2.1"]);
        (0..8).for_each(|_| drop(scope.spawn(ask)));
    });
    assert_eq!(puppet.asked(), 1);
    std::thread::sleep(Duration::from_millis(1100));
    assert!(
        dns.dig("www.example.org +noall +answer").split_whitespace().nth(1).is_some_and(|ttl| ttl != "3")
    );
    assert_eq!(puppet.asked(), 1);
    std::thread::sleep(Duration::from_millis(2000));
    assert_eq!(dns.short("www.example.org"), ["192.0.2.1"]);
    assert_eq!(puppet.asked(), 2);
}

#[test]
fn a_server_that_loses_packets_is_asked_again() {
    let puppet = Puppet::start(|question, count| match count {
        0 => vec![],
        _ => vec![reply(question, [192, 0, 2, 1], 60)],
    });
    let dns = Dns::start("cluster.local", Upstreams::Servers(vec![puppet.address]));
    assert_eq!(dns.short("www.example.org"), ["192.0.2.1"]);
    assert_eq!(puppet.asked(), 2);
}

#[test]
fn a_stub_domain_is_asked_at_its_own_servers() {
    let everybody = Puppet::start(|question, _| vec![reply(question, [192, 0, 2, 1], 60)]);
    let corp = Puppet::start(|question, _| vec![reply(question, [192, 0, 2, 2], 60)]);
    let deep = Puppet::start(|question, _| vec![reply(question, [192, 0, 2, 3], 60)]);
    let stub =
        |domain: &str, puppet: &Puppet| StubDomain { domain: domain.into(), servers: vec![puppet.address] };
    let stubs = vec![stub("Corp.example", &corp), stub("deep.corp.example", &deep)];
    let dns = Dns::with(
        "cluster.local",
        DnsConfig { stubs, ..config(Upstreams::Servers(vec![everybody.address])) },
        vec![],
    );
    for (name, address) in [
        ("www.example", "192.0.2.1"),
        ("xcorp.example", "192.0.2.1"),
        ("corp.example", "192.0.2.2"),
        ("WWW.CORP.example", "192.0.2.2"),
        ("a.deep.corp.example", "192.0.2.3"),
    ] {
        assert_eq!(dns.short(name), [address], "{name}");
    }
}

#[test]
fn questions_on_one_connection_need_not_wait_for_each_other() {
    let slow = Puppet::start(|question, _| {
        std::thread::sleep(Duration::from_millis(500));
        vec![reply(question, [192, 0, 2, 1], 60)]
    });
    let dns = Dns::start("cluster.local", Upstreams::Servers(vec![slow.address]));
    dns.index.set_service(services().remove(0));
    let question = |id: u8, name: &str| {
        let mut message = vec![0, id, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        for label in name.split('.') {
            message.push(label.len() as u8);
            message.extend(label.as_bytes());
        }
        message.extend([0, 0, 1, 0, 1]);
        [&(message.len() as u16).to_be_bytes()[..], &message].concat()
    };
    let mut stream = TcpStream::connect(dns.address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let both = [question(1, "www.example.org"), question(2, "web.default.svc.cluster.local")].concat();
    stream.write_all(&both).unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    let mut all = Vec::new();
    stream.read_to_end(&mut all).unwrap();
    let first = usize::from(u16::from_be_bytes([all[0], all[1]]));
    assert_eq!((all[3], all[first + 5]), (2, 1));
}

#[test]
fn who_says_nothing_sensible_over_tcp_is_left() {
    let dns = Dns::cluster();
    let mut stream = TcpStream::connect(dns.address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    stream.write_all(b"\x00\x05GET /").unwrap();
    assert_eq!(stream.read(&mut [0; 10]).unwrap(), 0);
    assert_eq!(dns.short("web.default.svc.cluster.local A"), ["10.43.0.7"]);
}

/// A cluster with zones for strangers at a second door.
fn exporting() -> Dns {
    let all = Arc::new(DnsIndex::with_layout("example.com", Layout::Namespaces).unwrap());
    let one = Arc::new(DnsIndex::with_layout("shop.example.com", Layout::OneNamespace).unwrap());
    let node = |host: &str, address: &str, priority, weight| EndpointRecord {
        address: address.parse().unwrap(),
        hostname: Some(host.into()),
        ports: vec![port("http", Protocol::Tcp, 30080)],
        rank: Rank { priority, weight },
        pointer: false,
    };
    let endpoints = vec![
        node("node-1", "192.0.2.1", 0, 70),
        node("node-2", "192.0.2.2", 0, 30),
        node("node-3", "192.0.2.3", 10, 0),
    ];
    for index in [&all, &one] {
        index.set_service(service("web", ServiceTarget::Headless { endpoints: endpoints.clone() }));
        index.set_service(service("cdn", ServiceTarget::External { name: "lb.example.net".into() }));
    }
    let config = DnsConfig {
        export_listen: vec!["127.0.0.1:0".parse().unwrap()],
        ..config(Upstreams::Servers(vec!["127.0.0.1:9".parse().unwrap()]))
    };
    let dns = Dns::with("cluster.local", config, vec![all, one]);
    services().into_iter().for_each(|service| dns.index.set_service(service));
    dns
}

#[test]
fn strangers_find_what_is_exported_with_ranks_and_ports() {
    let dns = exporting();
    for name in ["web.shop.example.com", "web.default.example.com"] {
        let found = short(dns.exported, &format!("_http._tcp.{name} SRV"));
        let expected = [("0 30", "node-2"), ("0 70", "node-1"), ("10 0", "node-3")];
        assert_eq!(found, expected.map(|(rank, node)| format!("{rank} 30080 {node}.{name}.")));
        assert_eq!(short(dns.exported, &format!("node-3.{name}")), ["192.0.2.3"]);
        assert_eq!(short(dns.exported, name).len(), 3);
        // Nothing stands in the cluster's way to ask too.
        assert_eq!(dns.short(name).len(), 3);
    }
    let additional = dig(dns.exported, "_http._tcp.web.shop.example.com SRV +noall +additional");
    assert!(additional.contains("192.0.2.1") && additional.contains("192.0.2.3"), "{additional}");
    assert_eq!(short(dns.exported, "cdn.shop.example.com"), ["lb.example.net."]);
    // An address of a node does not lead back to a Service.
    assert_eq!(dns.status("-x 192.0.2.1"), "SERVFAIL");
}

#[test]
fn strangers_see_the_zone_and_nothing_else() {
    let dns = exporting();
    let text = dig(dns.exported, "shop.example.com SOA");
    assert!(text.contains("SOA\tns.dns.shop.example.com. hostmaster.shop.example.com."), "{text}");
    assert!(text.contains(" aa ") && !text.contains(" ra"), "{text}");
    assert_eq!(short(dns.exported, "example.com NS"), ["ns.dns.example.com."]);
    assert_eq!(short(dns.exported, "ns.dns.example.com"), ["127.0.0.1"]);
    for (question, expected) in [
        ("nobody.shop.example.com", "NXDOMAIN"),
        ("web.shop.example.com MX", "NOERROR"),
        ("default.example.com", "NOERROR"),
        ("web.default.svc.cluster.local", "REFUSED"),
        ("www.example.org", "REFUSED"),
        ("-x 10.43.0.7", "REFUSED"),
    ] {
        assert_eq!(status(dns.exported, question), expected, "{question}");
    }
    assert!(dig(dns.exported, "shop.example.com AXFR").contains("Transfer failed"));
}

#[test]
fn members_of_networks_have_names_for_the_clusters_own() {
    let dns = exporting();
    let member = |pod: &str, address: &str| EndpointRecord {
        address: address.parse().unwrap(),
        hostname: Some(pod.into()),
        ports: vec![],
        rank: Rank::default(),
        pointer: true,
    };
    let endpoints = vec![
        member("web-0", "10.64.0.7"),
        member("web-0", "fd00::7"),
        member("web-1", "10.64.0.8"),
        member("a.b", "10.64.0.9"),
    ];
    dns.networks.set_service(ServiceRecord {
        namespace: "back".into(),
        name: "shop".into(),
        target: ServiceTarget::Headless { endpoints },
    });
    assert_eq!(dns.short("web-0.shop.back.net.cluster.local"), ["10.64.0.7"]);
    assert_eq!(dns.short("web-0.shop.back.net.cluster.local AAAA"), ["fd00::7"]);
    assert_eq!(dns.short("shop.back.net.cluster.local"), ["10.64.0.7", "10.64.0.8", "10.64.0.9"]);
    assert_eq!(dns.short("-x 10.64.0.8"), ["web-1.shop.back.net.cluster.local."]);
    for (question, expected) in [
        ("back.net.cluster.local", "NOERROR"),
        ("net.cluster.local", "NOERROR"),
        ("web-2.shop.back.net.cluster.local", "NXDOMAIN"),
        ("web-0.shop.front.net.cluster.local", "NXDOMAIN"),
        ("a.b.shop.back.net.cluster.local", "NXDOMAIN"),
    ] {
        assert_eq!(dns.status(question), expected, "{question}");
    }
    assert_eq!(status(dns.exported, "web-0.shop.back.net.cluster.local"), "REFUSED");
    dns.networks.remove_service("back", "shop");
    assert_eq!(dns.status("web-0.shop.back.net.cluster.local"), "NXDOMAIN");
}

#[test]
fn strangers_are_told_no_only_so_often() {
    let dns = exporting();
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.connect(dns.exported).unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    let question = b"\x00\x01\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x03www\x00\x00\x01\x00\x01";
    for _ in 0..100 {
        socket.send(question).unwrap();
    }
    let told = (0..100).take_while(|_| socket.recv(&mut [0; 512]).is_ok()).count();
    assert!((1..=20).contains(&told), "{told}");
    assert_eq!(status(dns.exported, "www.example.org +tcp"), "REFUSED");
}

#[test]
fn everything_is_not_more_than_one_kind_of_record() {
    let dns = Dns::cluster();
    assert_eq!(dns.short("web.default.svc.cluster.local ANY +notcp"), ["10.43.0.7"]);
    assert_eq!(dns.short("dns-version.cluster.local ANY +notcp"), ["\"1.1.0\""]);
    assert_eq!(dns.status("nobody.default.svc.cluster.local ANY +notcp"), "NXDOMAIN");
}

#[test]
fn what_a_client_adds_to_its_question_changes_nothing() {
    let dns = Dns::cluster();
    let name = "web.default.svc.cluster.local A";
    for options in
        ["+cookie=0123456789abcdef", "+subnet=192.0.2.0/24", "+dnssec", "+nsid", "+noedns", "+cdflag"]
    {
        assert_eq!(dns.short(&format!("{name} {options}")), ["10.43.0.7"], "{options}");
    }
    assert!(dns.dig(&format!("{name} +bufsize=4096")).contains("udp: 1232"));
    assert!(dns.dig(&format!("{name} +dnssec")).contains("flags: do"));
}

#[test]
fn what_it_does_is_counted() {
    let dns = Dns::cluster();
    dns.short("web.default.svc.cluster.local A");
    dns.short("nobody.default.svc.cluster.local AAAA +tcp");
    let mut registry = prometheus_client::registry::Registry::default();
    dns.metrics.register(&mut registry);
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
    for line in [
        r#"coredns_dns_requests_total{server="dns://:53",zone="cluster.local.",proto="udp",family="1",type="A"} 1"#,
        r#"coredns_dns_requests_total{server="dns://:53",zone="cluster.local.",proto="tcp",family="1",type="AAAA"} 1"#,
        r#"coredns_dns_responses_total{server="dns://:53",zone="cluster.local.",rcode="NXDOMAIN"} 1"#,
        r#"coredns_dns_request_duration_seconds_count{server="dns://:53",zone="cluster.local."} 2"#,
    ] {
        assert!(text.contains(line), "{line} is not in\n{text}");
    }
}
