//! What Services and pod links cost, in network namespaces, as root: `cargo bench -p orlop-network --bench services`. Each figure of
//! speed stands beside its peer, measured in turns in the same run. `-- cold`, `connections`, `throughput` and `links` measure
//! only that; all together take under a minute.
#![allow(missing_docs, clippy::unwrap_used, clippy::undocumented_unsafe_blocks, dead_code)]

#[path = "../tests/it/world.rs"]
mod world;

use orlop_network::{Endpoint, Network, PodLink, Protocol, ServicePort};
use std::{
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    os::fd::AsRawFd,
    time::{Duration, Instant},
};
use world::{Netns, World, service, with_endpoints};

const ENDPOINTS: u32 = 10;

/// So many services of ten endpoints; the last one, at 10.43.0.1, has one that is there.
fn services(count: u32, real: &Endpoint) -> Vec<ServicePort> {
    let mut all: Vec<ServicePort> = (1..count)
        .map(|index| {
            let endpoints = (0..ENDPOINTS).map(|endpoint| {
                let address = Ipv4Addr::from(0x0a2a_0100 + index % 6000 * ENDPOINTS + endpoint);
                Endpoint::new(SocketAddr::from((address, 8080)), false)
            });
            let name = format!("default/service-{index}:http");
            let address = Ipv4Addr::from(0x0a2b_1000 + index);
            let service = service(Protocol::Tcp, &[]);
            with_endpoints(
                endpoints.collect(),
                ServicePort { name, cluster_addresses: vec![address.into()], ..service },
            )
        })
        .collect();
    all.push(with_endpoints(vec![real.clone()], service(Protocol::Tcp, &[])));
    all
}

fn percentile(sorted: &[Duration], percent: usize) -> Duration {
    sorted[(sorted.len() * percent / 100).min(sorted.len() - 1)]
}

fn median(mut all: Vec<f64>) -> f64 {
    all.sort_by(f64::total_cmp);
    all[all.len() / 2]
}

/// Connections a second that one thread opens and resets.
fn connections(client: &Netns, to: &str) -> f64 {
    const COUNT: u32 = 4000;
    let to: SocketAddr = to.parse().unwrap();
    client.run(move || {
        let start = Instant::now();
        for _ in 0..COUNT {
            let stream = TcpStream::connect(to).unwrap();
            let reset = libc::linger { l_onoff: 1, l_linger: 0 };
            unsafe {
                libc::setsockopt(
                    stream.as_raw_fd(),
                    libc::SOL_SOCKET,
                    libc::SO_LINGER,
                    std::ptr::from_ref(&reset).cast(),
                    size_of_val(&reset) as libc::socklen_t,
                );
            }
        }
        f64::from(COUNT) / start.elapsed().as_secs_f64()
    })
}

/// Gigabits a second of one connection.
fn throughput(client: &Netns, to: &str) -> f64 {
    let to: SocketAddr = to.parse().unwrap();
    client.run(move || {
        let mut stream = TcpStream::connect(to).unwrap();
        let mut buffer = vec![0; 1 << 20];
        let (start, mut read) = (Instant::now(), 0);
        while start.elapsed() < Duration::from_millis(700) {
            read += stream.read(&mut buffer).unwrap();
        }
        read as f64 * 8.0 / 1e9 / start.elapsed().as_secs_f64()
    })
}

/// Answers on port 81 by closing, on port 82 by sending without end.
fn serve(netns: &Netns) {
    netns.run(|| {
        let closing = TcpListener::bind("0.0.0.0:81").unwrap();
        std::thread::spawn(move || closing.incoming().for_each(drop));
        let sending = TcpListener::bind("0.0.0.0:82").unwrap();
        std::thread::spawn(move || {
            for stream in sending.incoming() {
                let mut stream = stream.unwrap();
                std::thread::spawn(move || {
                    let buffer = vec![0; 1 << 20];
                    while stream.write_all(&buffer).is_ok() {}
                });
            }
        });
    });
}

fn main() {
    let asked: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    let world = World::new();
    let (server, client) = (world.pod("server"), world.pod("client"));
    serve(&server.netns);
    let at = |port: u16| Endpoint::new(SocketAddr::new(server.address, port), true);
    let measures: [(&str, &dyn Fn()); 4] = [
        ("cold", &|| cold(&world, &at(81))),
        ("connections", &|| connection_rate(&world, &client.netns, &at(81))),
        ("throughput", &|| share_of_direct(&world, &client.netns, &at(82))),
        ("links", &|| pod_links(&world)),
    ];
    for (name, measure) in measures {
        if asked.is_empty() || asked.iter().any(|wanted| wanted == name) {
            measure();
        }
    }
}

/// From cold, and one change at a time.
fn cold(world: &World, real: &Endpoint) {
    let all = services(10_000, real);
    let (cold, mut changes) = world.with(|network| async move {
        let mut all = all;
        let start = Instant::now();
        network.apply_services(all.clone()).await.unwrap();
        let cold = start.elapsed();
        let mut changes = Vec::new();
        for round in 0..300_usize {
            let index = round * 7919 % (all.len() - 1);
            let changed = &mut all[index];
            let endpoint = Endpoint::new(SocketAddr::from(([10, 42, 250, (round % 250) as u8], 8080)), false);
            for list in
                [&mut changed.endpoints, &mut changed.internal_endpoints, &mut changed.external_endpoints]
            {
                list[round % ENDPOINTS as usize] = endpoint.clone();
            }
            let told = all.clone();
            let start = Instant::now();
            network.apply_services(told).await.unwrap();
            changes.push(start.elapsed());
        }
        (cold, changes)
    });
    changes.sort_unstable();
    println!("10,000 Services with 100,000 endpoints from cold: {cold:.2?}");
    println!(
        "one change among them in the kernel: p50 {:.2?}, p99 {:.2?}",
        percentile(&changes, 50),
        percentile(&changes, 99)
    );
}

/// Connections by one among many and by one among few, in turns.
fn connection_rate(world: &World, client: &Netns, real: &Endpoint) {
    let (few, many) = (services(10, real), services(10_000, real));
    let (mut among_few, mut among_many) = (Vec::new(), Vec::new());
    world.services(&few);
    connections(client, "10.43.0.1:80");
    for _ in 0..5 {
        world.services(&few);
        among_few.push(connections(client, "10.43.0.1:80"));
        world.services(&many);
        among_many.push(connections(client, "10.43.0.1:80"));
    }
    let (few, many) = (median(among_few), median(among_many));
    println!(
        "connections by one Service of 10: {few:.0}/s, of 10,000: {many:.0}/s ({:.1}%)",
        many / few * 100.0
    );
}

/// Throughput directly and through a Service, in turns.
fn share_of_direct(world: &World, client: &Netns, real: &Endpoint) {
    world.services(&services(10, real));
    let direct_to = real.to.to_string();
    let (mut direct, mut through) = (Vec::new(), Vec::new());
    throughput(client, &direct_to);
    for _ in 0..9 {
        direct.push(throughput(client, &direct_to));
        through.push(throughput(client, "10.43.0.1:80"));
    }
    let (direct, through) = (median(direct), median(through));
    println!(
        "throughput directly: {direct:.1} Gbit/s, through a Service: {through:.1} ({:.1}%)",
        through / direct * 100.0
    );
}

/// Pod links, of both families.
fn pod_links(world: &World) {
    let spaces: Vec<Netns> = (0..100).map(|_| Netns::new()).collect();
    let links: Vec<PodLink> = spaces
        .iter()
        .enumerate()
        .map(|(index, netns)| PodLink {
            id: format!("bench-{index}"),
            netns: netns.path(),
            host_ports: vec![],
        })
        .collect();
    let config = world.config();
    let mut took = world.machine.block_on(|| async move {
        let network = Network::open(config).await.unwrap();
        let mut took = Vec::new();
        for link in links {
            let start = Instant::now();
            network.attach(link).await.unwrap();
            took.push(start.elapsed());
        }
        took
    });
    took.sort_unstable();
    println!(
        "a pod's interface with addresses of both families: p50 {:.2?}, p99 {:.2?}",
        percentile(&took, 50),
        percentile(&took, 99)
    );
}
