//! A machine, pods and clients made of network namespaces. They vanish with their file descriptors, however a test ends.

use orlop_network::{Endpoint, HostPort, Network, NetworkConfig, PodLink, Protocol, ServicePort};
use std::{
    fs::File,
    io::{ErrorKind, Read, Write},
    net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::fd::AsRawFd,
    path::PathBuf,
    process::Command,
    sync::Arc,
    thread,
    time::Duration,
};

/// A network namespace.
#[derive(Clone)]
pub struct Netns(Arc<File>);

impl Netns {
    /// A fresh one with `lo` up.
    pub fn new() -> Self {
        let made = thread::spawn(|| {
            // SAFETY: this thread is new and shares no state that a network namespace of its own could break.
            unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNET) }
                .expect("tests need root");
            sh("ip link set lo up");
            File::open("/proc/thread-self/ns/net").unwrap()
        });
        Self(Arc::new(made.join().unwrap()))
    }

    /// A path by which it can be opened as long as this lives.
    pub fn path(&self) -> PathBuf {
        format!("/proc/{}/fd/{}", std::process::id(), self.0.as_raw_fd()).into()
    }

    /// Runs something inside, on a thread of its own.
    pub fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        self.spawn(work).join().unwrap()
    }

    /// Runs a shell command inside; fails the test if it fails.
    pub fn sh(&self, command: &str) -> String {
        let command = command.to_owned();
        self.run(move || sh(&command))
    }

    fn spawn<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> thread::JoinHandle<T> {
        let file = self.0.clone();
        thread::spawn(move || {
            use std::os::fd::AsFd;
            rustix::thread::move_into_link_name_space(
                file.as_fd(),
                Some(rustix::thread::LinkNameSpaceType::Network),
            )
            .unwrap();
            work()
        })
    }

    /// Runs async code inside. Everything that it does to the network happens here.
    pub fn block_on<T: Send + 'static, F: Future<Output = T>>(
        &self,
        work: impl FnOnce() -> F + Send + 'static,
    ) -> T {
        self.run(move || {
            tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work())
        })
    }

    /// A TCP server that answers each connection with `name`, a space, and the client's address.
    pub fn serve_tcp(&self, port: u16, name: &str) {
        let name = name.to_owned();
        let listener = self.run(move || TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)).unwrap());
        thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let client = stream.peer_addr().unwrap().ip().to_canonical();
                let _ = write!(stream, "{name} {client}");
            }
        });
    }

    /// A UDP server that answers each datagram with `name`.
    pub fn serve_udp(&self, on: &str, name: &str) {
        let (on, name) = (on.to_owned(), name.to_owned());
        let socket = self.run(move || UdpSocket::bind(on).unwrap());
        thread::spawn(move || {
            let mut buffer = [0; 64];
            while let Ok((_, from)) = socket.recv_from(&mut buffer) {
                let _ = socket.send_to(name.as_bytes(), from);
            }
        });
    }

    /// Connects and reads all: who answered, and as whom it saw us.
    pub fn ask(&self, to: &str) -> Answer {
        self.ask_within(to, Duration::from_secs(2))
    }

    /// The same with less patience.
    pub fn ask_within(&self, to: &str, patience: Duration) -> Answer {
        let to: SocketAddr = to.parse().unwrap();
        self.run(move || ask(to, patience))
    }

    /// A connected UDP socket inside.
    pub fn udp_client(&self, to: &str) -> UdpClient {
        let to: SocketAddr = to.parse().unwrap();
        UdpClient(self.run(move || {
            let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
            let socket = UdpSocket::bind(any).unwrap();
            socket.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
            socket.connect(to).unwrap();
            socket
        }))
    }
}

/// A UDP client that keeps its port.
pub struct UdpClient(UdpSocket);

impl UdpClient {
    /// Sends a datagram and says who answers.
    pub fn ask(&self) -> Answer {
        if let Err(error) = self.0.send(b"who") {
            return failure(&error);
        }
        let mut buffer = [0; 64];
        match self.0.recv(&mut buffer) {
            Ok(read) => Answer::From(String::from_utf8_lossy(&buffer[..read]).into_owned(), String::new()),
            Err(error) => failure(&error),
        }
    }
}

/// What came of asking.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Who answered, and the client's address that it saw.
    From(String, String),
    /// Nobody is there, and somebody said so.
    Refused,
    /// The way ends before the address, and somebody said so.
    Unreachable,
    /// Nothing came back.
    Silence,
}

impl Answer {
    /// Who answered.
    pub fn name(&self) -> &str {
        match self {
            Self::From(name, _) => name,
            other => panic!("no answer: {other:?}"),
        }
    }

    /// As whom we were seen.
    pub fn seen_as(&self) -> &str {
        match self {
            Self::From(_, client) => client,
            other => panic!("no answer: {other:?}"),
        }
    }
}

fn ask(to: SocketAddr, patience: Duration) -> Answer {
    let mut stream = match TcpStream::connect_timeout(&to, patience) {
        Ok(stream) => stream,
        Err(error) => return failure(&error),
    };
    stream.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
    let mut text = String::new();
    match stream.read_to_string(&mut text) {
        Ok(_) => {
            let (name, client) = text.split_once(' ').unwrap();
            Answer::From(name.to_owned(), client.to_owned())
        }
        Err(error) => failure(&error),
    }
}

fn failure(error: &std::io::Error) -> Answer {
    match error.kind() {
        // A refused datagram of the machine's own comes back as EPERM.
        ErrorKind::ConnectionRefused | ErrorKind::PermissionDenied => Answer::Refused,
        ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable => Answer::Unreachable,
        ErrorKind::TimedOut | ErrorKind::WouldBlock => Answer::Silence,
        _ => panic!("{error}"),
    }
}

/// Runs a shell command in this thread's namespace.
pub fn sh(command: &str) -> String {
    let output = Command::new("sh").arg("-c").arg(command).output().unwrap();
    assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Ranges from their texts.
pub fn ranges<const N: usize>(texts: [&str; N]) -> Vec<ipnet::IpNet> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

/// A machine with a folder for its state and an uplink to a client outside.
pub struct World {
    /// 192.0.2.1 and 2001:db8::1 on `up0`, default routes to the client.
    pub machine: Netns,
    /// 192.0.2.2 and 2001:db8::2: somebody outside who knows the machine and nothing behind it.
    pub outside: Netns,
    /// The machine's state.
    pub state: tempfile::TempDir,
}

impl World {
    pub fn new() -> Self {
        let (machine, outside) = (Netns::new(), Netns::new());
        wire(&machine, &outside, "up0", "192.0.2.1/24", "192.0.2.2/24");
        machine.sh(
            "ip link set up0 mtu 1400 && ip route add default via 192.0.2.2 && ip address add 2001:db8::1/64 dev up0 nodad \
             && ip route add default via 2001:db8::2",
        );
        outside.sh("ip address add 2001:db8::2/64 dev eth0 nodad");
        Self { machine, outside, state: tempfile::tempdir().unwrap() }
    }

    pub fn config(&self) -> NetworkConfig {
        NetworkConfig {
            instance: "test".into(),
            pod_ranges: ranges(["10.42.0.0/24", "fd42::/64"]),
            cluster_ranges: ranges(["10.42.0.0/16", "fd42::/56"]),
            service_ranges: ranges(["10.43.0.0/16", "fd43::/112"]),
            dns_addresses: vec!["10.43.0.10".parse().unwrap(), "fd43::a".parse().unwrap()],
            state_dir: self.state.path().join("network"),
            mtu: None,
        }
    }

    /// Opens the network of this machine and does something with it.
    pub fn with<T, F>(&self, work: impl FnOnce(Network) -> F + Send + 'static) -> T
    where
        T: Send + 'static,
        F: Future<Output = T>,
    {
        let config = self.config();
        self.machine.block_on(|| async { work(Network::open(config).await.unwrap()).await })
    }

    /// Attaches a pod that answers TCP and UDP on port 80 with its name.
    pub fn pod(&self, name: &str) -> Pod {
        self.pod_with(name, vec![])
    }

    /// Attaches such a pod with host ports.
    pub fn pod_with(&self, name: &str, host_ports: Vec<HostPort>) -> Pod {
        let netns = Netns::new();
        let link = PodLink { id: name.into(), netns: netns.path(), host_ports };
        let given = self.with(|network| async move { network.attach(link).await.unwrap() });
        netns.serve_tcp(80, name);
        netns.serve_udp("[::]:80", name);
        let [address, address6] = given.addresses.try_into().unwrap();
        Pod { netns, address, address6, host_link: given.host_link }
    }

    /// Applies services.
    pub fn services(&self, services: &[ServicePort]) {
        let services = services.to_vec();
        self.with(|network| async move { network.apply_services(services).await.unwrap() });
    }
}

/// Wires two namespaces with a veth pair. The first one's end is called `name`, the other's `eth0`.
pub fn wire(one: &Netns, other: &Netns, name: &str, one_address: &str, other_address: &str) {
    let path = other.path();
    one.sh(&format!(
        "ip link add {name} type veth peer name tmp0 && ip link set tmp0 netns {} && ip address add {one_address} dev {name} \
         && ip link set {name} up",
        path.display()
    ));
    other.sh(&format!(
        "ip link set tmp0 name eth0 && ip address add {other_address} dev eth0 && ip link set eth0 up"
    ));
}

/// A pod that answers on port 80.
pub struct Pod {
    pub netns: Netns,
    pub address: IpAddr,
    pub address6: IpAddr,
    pub host_link: String,
}

impl Pod {
    /// As an endpoint of this node.
    pub fn endpoint(&self) -> Endpoint {
        Endpoint::new(SocketAddr::new(self.address, 80), true)
    }

    /// The same by IPv6.
    pub fn endpoint6(&self) -> Endpoint {
        Endpoint::new(SocketAddr::new(self.address6, 80), true)
    }
}

/// A service `default/web` at 10.43.0.1:80 and [fd43::1]:80 with these endpoints.
pub fn service(protocol: Protocol, pods: &[&Pod]) -> ServicePort {
    let endpoints = pods.iter().flat_map(|pod| [pod.endpoint(), pod.endpoint6()]).collect();
    with_endpoints(
        endpoints,
        ServicePort {
            name: "default/web:http".into(),
            protocol,
            cluster_addresses: vec!["10.43.0.1".parse().unwrap(), "fd43::1".parse().unwrap()],
            external_addresses: vec![],
            balancer_addresses: vec![],
            source_ranges: vec![],
            port: 80,
            node_port: None,
            endpoints: vec![],
            internal_endpoints: vec![],
            external_endpoints: vec![],
            affinity_seconds: None,
        },
    )
}

/// The service with these endpoints for everybody.
pub fn with_endpoints(endpoints: Vec<Endpoint>, service: ServicePort) -> ServicePort {
    ServicePort {
        internal_endpoints: endpoints.clone(),
        external_endpoints: endpoints.clone(),
        endpoints,
        ..service
    }
}
