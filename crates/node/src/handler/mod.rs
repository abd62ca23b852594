//! The ways to ask or tell a container something: run a command in it, an HTTP request, a TCP connection, a gRPC health
//! check, or just waiting. Probes and lifecycle hooks share them; what an answer means is theirs to decide.

mod grpc;
mod http;

use k8s_openapi::{
    api::core::v1::{
        Container, ExecAction, GRPCAction, HTTPGetAction, LifecycleHandler, Probe, TCPSocketAction,
    },
    apimachinery::pkg::util::intstr::IntOrString,
};
use orlop_runtime::ContainerRuntime;
use std::{net::IpAddr, sync::Arc, time::Duration};

/// What to do.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Handler {
    Exec { command: Vec<String> },
    Http { https: bool, host: String, port: u16, path: String, headers: Vec<(String, String)> },
    Tcp { host: String, port: u16 },
    Grpc { host: String, port: u16, service: String },
    Sleep { time: Duration },
}

/// Why it did not go well.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Unwell {
    /// The container answered that it is not well, or not at all.
    Failed(String),
    /// The question could not be asked.
    Errored(String),
}

impl Unwell {
    pub fn text(&self) -> &str {
        match self {
            Self::Failed(text) | Self::Errored(text) => text,
        }
    }
}

impl Handler {
    /// The handler of a probe.
    pub fn of_probe(probe: &Probe, container: &Container, ip: Option<IpAddr>) -> Result<Self, String> {
        if let Some(exec) = &probe.exec {
            Ok(Self::exec(exec))
        } else if let Some(get) = &probe.http_get {
            Self::http(get, container, ip)
        } else if let Some(tcp) = &probe.tcp_socket {
            Self::tcp(tcp, container, ip)
        } else if let Some(grpc) = &probe.grpc {
            Self::grpc(grpc, ip)
        } else {
            Err("missing probe handler".into())
        }
    }

    /// The handler of a lifecycle hook.
    pub fn of_hook(
        hook: &LifecycleHandler,
        container: &Container,
        ip: Option<IpAddr>,
    ) -> Result<Self, String> {
        if let Some(exec) = &hook.exec {
            Ok(Self::exec(exec))
        } else if let Some(get) = &hook.http_get {
            Self::http(get, container, ip)
        } else if let Some(tcp) = &hook.tcp_socket {
            Self::tcp(tcp, container, ip)
        } else if let Some(sleep) = &hook.sleep {
            Ok(Self::Sleep { time: Duration::from_secs(u64::try_from(sleep.seconds).unwrap_or(0)) })
        } else {
            Err("missing lifecycle handler".into())
        }
    }

    fn exec(exec: &ExecAction) -> Self {
        Self::Exec { command: exec.command.clone().unwrap_or_default() }
    }

    fn http(get: &HTTPGetAction, container: &Container, ip: Option<IpAddr>) -> Result<Self, String> {
        let path = get.path.clone().unwrap_or_default();
        let headers = get.http_headers.iter().flatten().map(|h| (h.name.clone(), h.value.clone()));
        Ok(Self::Http {
            https: get.scheme.as_deref() == Some("HTTPS"),
            host: host(get.host.as_deref(), ip)?,
            port: port(&get.port, container)?,
            path: if path.starts_with('/') { path } else { format!("/{path}") },
            headers: headers.collect(),
        })
    }

    fn tcp(tcp: &TCPSocketAction, container: &Container, ip: Option<IpAddr>) -> Result<Self, String> {
        Ok(Self::Tcp { host: host(tcp.host.as_deref(), ip)?, port: port(&tcp.port, container)? })
    }

    fn grpc(grpc: &GRPCAction, ip: Option<IpAddr>) -> Result<Self, String> {
        let service = grpc.service.clone().unwrap_or_default();
        Ok(Self::Grpc { host: host(None, ip)?, port: number(grpc.port)?, service })
    }

    /// Whether asking costs next to nothing (no process is started for it).
    pub fn is_cheap(&self) -> bool {
        !matches!(self, Self::Exec { .. })
    }

    /// Does it, for at most `timeout`.
    pub async fn run(
        &self,
        runtime: &Arc<dyn ContainerRuntime>,
        container_id: &str,
        timeout: Duration,
    ) -> Result<(), Unwell> {
        match self {
            Self::Exec { command } => exec(runtime, container_id, command, timeout).await,
            Self::Http { https, .. } => {
                let get = http::get(self);
                tokio::time::timeout(timeout, get).await.unwrap_or_else(|_| {
                    let scheme = if *https { "https" } else { "http" };
                    Err(Unwell::Failed(format!(
                        "Get \"{}\": context deadline exceeded (Client.Timeout exceeded while awaiting headers)",
                        http::url(scheme, self)
                    )))
                })
            }
            Self::Tcp { host, port } => connect(host, *port, timeout).await.map(drop),
            Self::Grpc { host, port, service } => tokio::time::timeout(
                timeout,
                grpc::check(host, *port, service),
            )
            .await
            .unwrap_or_else(|_| {
                Err(Unwell::Failed(format!(
                    "timeout: failed to connect service \"{}\" within {timeout:?}: context deadline exceeded",
                    address(host, *port)
                )))
            }),
            Self::Sleep { time } => {
                tokio::time::sleep((*time).min(timeout)).await;
                Ok(())
            }
        }
    }
}

fn host(given: Option<&str>, ip: Option<IpAddr>) -> Result<String, String> {
    match (given.filter(|h| !h.is_empty()), ip) {
        (Some(host), _) => Ok(host.into()),
        (None, Some(ip)) => Ok(ip.to_string()),
        (None, None) => Err("the pod has no address".into()),
    }
}

fn number(port: i32) -> Result<u16, String> {
    u16::try_from(port).ok().filter(|p| *p > 0).ok_or_else(|| format!("invalid port number: {port}"))
}

fn port(port: &IntOrString, container: &Container) -> Result<u16, String> {
    match port {
        IntOrString::Int(n) => number(*n),
        IntOrString::String(name) => {
            let named = container.ports.iter().flatten().find(|p| p.name.as_deref() == Some(name));
            match named {
                Some(p) => number(p.container_port),
                None => name
                    .parse()
                    .map_err(|_| format!("couldn't find port: {name:?} in container {}", container.name)),
            }
        }
    }
}

fn address(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

async fn exec(
    runtime: &Arc<dyn ContainerRuntime>,
    container_id: &str,
    command: &[String],
    timeout: Duration,
) -> Result<(), Unwell> {
    match runtime.exec_sync(container_id, command.to_vec(), timeout).await {
        Ok(output) if output.code == 0 => Ok(()),
        Ok(output) => {
            let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
            text.push_str(&String::from_utf8_lossy(&output.stderr));
            if text.trim().is_empty() {
                text = format!("command terminated with exit code {}", output.code);
            }
            Err(Unwell::Failed(text))
        }
        Err(orlop_runtime::Error::Timeout(_)) => Err(Unwell::Failed(format!(
            "command timed out: {:?} timed out after {timeout:?}",
            command.join(" ")
        ))),
        Err(error) => Err(Unwell::Errored(error.to_string())),
    }
}

/// Connects, or says why not in the words that people know from the kubelet.
async fn connect(host: &str, port: u16, timeout: Duration) -> Result<tokio::net::TcpStream, Unwell> {
    let to = address(host, port);
    match tokio::time::timeout(timeout, tokio::net::TcpStream::connect(&to)).await {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(error)) => {
            let why = match error.kind() {
                std::io::ErrorKind::ConnectionRefused => "connection refused".into(),
                std::io::ErrorKind::HostUnreachable => "no route to host".into(),
                _ => error.to_string(),
            };
            Err(Unwell::Failed(format!("dial tcp {to}: connect: {why}")))
        }
        Err(_) => Err(Unwell::Failed(format!("dial tcp {to}: i/o timeout"))),
    }
}

#[cfg(test)]
mod tests;
