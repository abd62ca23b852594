//! How fast names are answered, beside dnsmasq and unbound (Debian's packages) in the same run: 10,000 local names, each server
//! on one core, who asks on another. Run as `cargo bench -p orlop-dns --bench dns`; needs `taskset`, `dnsmasq` and `unbound`. Also how soon a change is answered.

#![allow(clippy::unwrap_used, clippy::expect_used)] // what cannot be set up ends the bench

use orlop_dns::{DnsConfig, DnsIndex, DnsServer, Upstreams, Zones, parsers::index_of};
use std::{
    fmt::Write as _,
    fs,
    net::UdpSocket,
    path::Path,
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

const SERVICES: usize = 10_000;
const PORTS: [(&str, u16); 3] = [("orlop", 15_353), ("dnsmasq", 15_354), ("unbound", 15_355)];

fn config(port: u16) -> DnsConfig {
    DnsConfig {
        listen: vec![([127, 0, 0, 1], port).into()],
        export_listen: vec![],
        clients: vec![],
        own_ranges: vec![],
        upstreams: Upstreams::Servers(vec![]),
        stubs: vec![],
        ttl: 5,
        cache_bytes: DnsConfig::CACHE_BYTES,
    }
}

fn serve(index: Arc<DnsIndex>, port: u16) {
    let server = DnsServer::bind(config(port), Zones::from(index)).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(server.run(std::future::pending())).unwrap();
}

/// A process that ends with this value.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn start(folder: &Path, name: &str, port: u16) -> Running {
    let on_one_core = |program: &str| {
        let mut command = Command::new("taskset");
        command.args(["-c", "0", program]).stdout(Stdio::null()).stderr(Stdio::null());
        command
    };
    let mut names = String::new();
    let file = folder.join(name);
    let mut command = match name {
        "orlop" => {
            let mut command = on_one_core(std::env::current_exe().unwrap().to_str().unwrap());
            command.args(["--serve", &port.to_string()]);
            command
        }
        "dnsmasq" => {
            for number in 0..SERVICES {
                let _ = writeln!(
                    names,
                    "host-record=service-{number}.default.svc.cluster.local,{}",
                    address(number)
                );
            }
            let mut command = on_one_core("dnsmasq");
            command.args([
                "-k",
                "-R",
                "-h",
                "-i",
                "lo",
                "--bind-interfaces",
                "-u",
                "root",
                "--local=/cluster.local/",
            ]);
            command.args(["-p", &port.to_string(), "-C", file.to_str().unwrap()]);
            command
        }
        _ => {
            let _ = writeln!(
                names,
                "server:\n interface: 127.0.0.1\n port: {port}\n num-threads: 1\n chroot: \"\"\n username: \"\"\n pidfile: \"\"\n \
                 do-daemonize: no\n use-syslog: no\n logfile: \"/dev/null\"\n directory: \"/\"\n module-config: \"iterator\"\n \
                 minimal-responses: yes\n local-zone: \"cluster.local.\" static\nremote-control:\n control-enable: no\nserver:"
            );
            for number in 0..SERVICES {
                let _ = writeln!(
                    names,
                    " local-data: \"service-{number}.default.svc.cluster.local. 5 A {}\"",
                    address(number)
                );
            }
            let mut command = on_one_core("unbound");
            command.args(["-d", "-c", file.to_str().unwrap()]);
            command
        }
    };
    fs::write(&file, names).unwrap();
    let child = Running(command.spawn().expect(name));
    let deadline = Instant::now() + Duration::from_secs(10);
    while ask(port, 1).is_none() {
        assert!(Instant::now() < deadline, "{name} does not answer");
    }
    child
}

fn address(number: usize) -> std::net::Ipv4Addr {
    (0x0a2b_0100 + number as u32).into()
}

fn question(number: usize) -> Vec<u8> {
    let mut message = b"\x00\x01\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00".to_vec();
    let service = format!("service-{number}");
    for label in [&service, "default", "svc", "cluster", "local"] {
        message.push(label.len() as u8);
        message.extend(label.as_bytes());
    }
    message.extend(b"\x00\x00\x01\x00\x01");
    message
}

/// Whether a Service has an address; `None` without an answer.
fn ask(port: u16, number: usize) -> Option<bool> {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.connect(("127.0.0.1", port)).unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    socket.send(&question(number)).ok()?;
    let mut buffer = [0; 512];
    socket.recv(&mut buffer).ok().map(|_| buffer[7] > 0)
}

/// Seconds that a process has used a core.
fn used(process: &Child) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{}/stat", process.id())).unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    (fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap()) / 100.0
}

/// Asks, as fast as answers come or at a rate. Returns answers a second, and the latencies' 99th percentile in milliseconds.
fn load(port: u16, rate: Option<f64>, time: Duration) -> (f64, f64) {
    const WINDOW: usize = 256;
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.connect(("127.0.0.1", port)).unwrap();
    socket.set_nonblocking(true).unwrap();
    // Neighbours in time are no neighbours in the zone.
    let mut questions: Vec<Vec<u8>> = (0..SERVICES).map(|n| question(n * 7919 % SERVICES)).collect();
    let (began, mut sent_at) = (Instant::now(), vec![Instant::now(); 1 << 16]);
    let (mut sent, mut waiting, mut heard) = (0_usize, 0_usize, began);
    let (mut latencies, mut buffer) = (Vec::new(), [0; 512]);
    while began.elapsed() < time {
        let due = match rate {
            None => WINDOW - waiting,
            Some(rate) => ((began.elapsed().as_secs_f64() * rate) as usize).saturating_sub(sent),
        };
        for _ in 0..due.min(16) {
            let question = &mut questions[sent % SERVICES];
            question[..2].copy_from_slice(&(sent as u16).to_be_bytes());
            sent_at[sent & 0xffff] = Instant::now();
            if socket.send(question).is_err() {
                break;
            }
            (sent, waiting) = (sent + 1, (waiting + 1).min(WINDOW));
        }
        while let Ok(length) = socket.recv(&mut buffer) {
            assert!(length > 12 && buffer[7] > 0, "no answer of use");
            heard = Instant::now();
            let number = usize::from(u16::from_be_bytes([buffer[0], buffer[1]]));
            latencies.push(heard.duration_since(sent_at[number]));
            waiting = waiting.saturating_sub(1);
        }
        if heard.elapsed() > Duration::from_millis(20) {
            (waiting, heard) = (0, Instant::now());
        }
    }
    latencies.sort();
    let late = latencies.get(latencies.len() * 99 / 100).map_or(f64::NAN, |late| late.as_secs_f64() * 1000.0);
    (latencies.len() as f64 / began.elapsed().as_secs_f64(), late)
}

/// The best of some short rounds, in which servers take turns: other work on the machine disturbs some of them.
fn compare() {
    let (folder, round) = (tempfile::tempdir().unwrap(), Duration::from_millis(1500));
    let servers = PORTS.map(|(name, port)| (name, port, start(folder.path(), name, port)));
    let mut cores = nix::sched::CpuSet::new();
    cores.set(1).unwrap();
    nix::sched::sched_setaffinity(nix::unistd::Pid::from_raw(0), &cores).unwrap();
    let mut best = [(0.0_f64, 0.0_f64, f64::INFINITY); 3];
    for _ in 0..5 {
        for ((_, port, server), best) in servers.iter().zip(&mut best) {
            let before = used(&server.0);
            let (rate, _) = load(*port, None, round);
            let each = (used(&server.0) - before) / (rate * round.as_secs_f64()) * 1e6;
            if rate > best.0 {
                (best.0, best.1) = (rate, each);
            }
        }
    }
    for _ in 0..20 {
        for ((_, port, _), best) in servers.iter().zip(&mut best) {
            best.2 = best.2.min(load(*port, Some(best.0 / 2.0), round / 5).1);
        }
    }
    println!("{SERVICES} names, each server on one core, who asks on another");
    for ((name, ..), (rate, each, late)) in servers.iter().zip(best) {
        println!("{name:8} {rate:>8.0}/s, {each:.2} µs of its core each; at half of that p99 {late:.3} ms");
    }
}

fn changes() {
    let index = Arc::new(index_of(SERVICES).unwrap());
    let (in_thread, port) = (index.clone(), 15_356);
    std::thread::spawn(move || serve(in_thread, port));
    while ask(port, 1).is_none() {}
    let mut times = Vec::new();
    for number in SERVICES..SERVICES + 500 {
        let target = orlop_dns::ServiceTarget::Cluster {
            addresses: vec![address(number).into()],
            ports: vec![],
            rank: orlop_dns::Rank::default(),
        };
        let name = format!("service-{number}");
        let began = Instant::now();
        index.set_service(orlop_dns::ServiceRecord { namespace: "default".into(), name, target });
        while ask(port, number) != Some(true) {}
        times.push(began.elapsed());
    }
    times.sort();
    println!("from a change of the index to its answer: p50 {:?}, p99 {:?}", times[250], times[495]);
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    match arguments.iter().position(|argument| argument == "--serve") {
        Some(at) => serve(Arc::new(index_of(SERVICES).unwrap()), arguments[at + 1].parse().unwrap()),
        None => {
            compare();
            changes();
        }
    }
}
