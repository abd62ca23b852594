//! The server as clients see it: asked with `dig`, and with names forwarded to an upstream that is another such server.

#![allow(clippy::unwrap_used)] // what cannot be set up fails the test

use orlop_dns::{
    DnsConfig, DnsIndex, DnsServer, EndpointRecord, PortRecord, Protocol, ServiceRecord, ServiceTarget,
    Upstreams,
};
use std::{
    net::{IpAddr, SocketAddr},
    process::Command,
    sync::Arc,
};

/// A running server.
struct Dns {
    index: Arc<DnsIndex>,
    address: SocketAddr,
    /// The server ends with its runtime.
    _runtime: tokio::runtime::Runtime,
}

impl Dns {
    fn start(domain: &str, upstreams: Upstreams) -> Self {
        let index = Arc::new(DnsIndex::new(domain).unwrap());
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let config = DnsConfig { listen: vec!["127.0.0.1:0".parse().unwrap()], upstreams, ttl: 5 };
        // The kernel chooses a port that is free for UDP; now and then somebody has it for TCP.
        let bound = (0..50).find_map(|_| runtime.block_on(DnsServer::bind(config.clone())).ok());
        let server = bound.expect("a port that is free for both");
        let address = server.addresses()[0];
        runtime.spawn(server.run(index.clone(), std::future::pending()));
        Self { index, address, _runtime: runtime }
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
        let output = Command::new("dig")
            .args(["@127.0.0.1", "-p", &self.address.port().to_string(), "+tries=1", "+time=5"])
            .args(arguments.split_whitespace())
            .output()
            .unwrap();
        String::from_utf8(output.stdout).unwrap()
    }

    /// The data of the answers, sorted.
    fn short(&self, question: &str) -> Vec<String> {
        let mut lines: Vec<String> =
            self.dig(&format!("{question} +short")).lines().map(str::to_owned).collect();
        lines.sort();
        lines
    }

    /// `NOERROR`, `NXDOMAIN`, …
    fn status(&self, question: &str) -> String {
        let text = self.dig(question);
        let rest = text.split("status: ").nth(1).unwrap_or_else(|| panic!("{text}"));
        rest.split(',').next().unwrap().to_owned()
    }
}

fn port(name: &str, protocol: Protocol, port: u16) -> PortRecord {
    PortRecord { name: name.into(), protocol, port }
}

fn endpoint(address: &str, hostname: Option<&str>) -> EndpointRecord {
    EndpointRecord {
        address: address.parse().unwrap(),
        hostname: hostname.map(str::to_owned),
        ports: vec![port("redis", Protocol::Tcp, 6379)],
        priority: 1,
        weight: 20,
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
        service("web", ServiceTarget::Cluster { addresses, ports }),
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
    // Without a hostname an endpoint has no name of its own, and nobody else is there to ask.
    assert_eq!(dns.status("-x 10.42.0.7"), "SERVFAIL");
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
        ("empty.default.svc.cluster.local", "NOERROR"),
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
    dns.index.set_service(service("web", ServiceTarget::Cluster { addresses, ports: vec![] }));
    assert_eq!(dns.short("web.default.svc.cluster.local A"), ["10.43.0.8"]);
    assert_eq!(dns.short("-x 10.43.0.8"), ["web.default.svc.cluster.local."]);
    assert_eq!(dns.status("-x 10.43.0.7"), "SERVFAIL");
    for name in ["web", "db", "empty", "alias", "outside", "loop", "never"] {
        dns.index.remove_service("default", name);
    }
    assert_eq!(dns.status("web.default.svc.cluster.local"), "NXDOMAIN");
    assert_eq!(dns.status("default.svc.cluster.local"), "NXDOMAIN");
    assert_eq!(dns.status("-x 10.43.0.8"), "SERVFAIL");
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
    world.index.set_service(service("www", ServiceTarget::Cluster { addresses, ports: vec![] }));
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
    world.index.set_service(service("www", ServiceTarget::Cluster { addresses, ports: vec![] }));
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
