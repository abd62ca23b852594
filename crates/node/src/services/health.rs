//! The ports on which load balancers ask whether this node has endpoints of a Service (`healthCheckNodePort`), answered as
//! kube-proxy does.

use super::catalogue::HealthCheck;
use axum::{
    Router,
    http::{HeaderMap, HeaderValue, StatusCode, header},
};
use parking_lot::Mutex;
use serde_json::json;
use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};
use tokio::{net::TcpListener, task::JoinHandle};

/// When a port that somebody else has is tried again.
const RETRY: Duration = Duration::from_secs(2);

/// The ports that are open.
#[derive(Default)]
pub(super) struct HealthServers {
    ports: BTreeMap<u16, Port>,
}

struct Port {
    check: Arc<Mutex<HealthCheck>>,
    server: JoinHandle<()>,
}

impl Drop for Port {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl HealthServers {
    /// Opens and closes ports, and answers by these checks from now on.
    pub fn set(&mut self, checks: BTreeMap<u16, HealthCheck>) {
        self.ports.retain(|port, _| checks.contains_key(port));
        for (port, check) in checks {
            if let Some(open) = self.ports.get(&port) {
                *open.check.lock() = check;
            } else {
                let check = Arc::new(Mutex::new(check));
                let server = tokio::spawn(serve(port, check.clone()));
                self.ports.insert(port, Port { check, server });
            }
        }
    }
}

async fn serve(port: u16, check: Arc<Mutex<HealthCheck>>) {
    let app = Router::new().fallback(move || {
        let check = check.lock().clone();
        async move { answer(&check) }
    });
    loop {
        // Both families where there are two.
        let both = TcpListener::bind(SocketAddr::from((Ipv6Addr::UNSPECIFIED, port))).await;
        let bound = match both {
            Ok(listener) => Ok(listener),
            Err(_) => TcpListener::bind(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port))).await,
        };
        match bound {
            Ok(listener) => {
                if let Err(error) = axum::serve(listener, app.clone()).await {
                    tracing::warn!(%error, port, "load balancers are not answered");
                }
            }
            Err(error) => tracing::warn!(%error, port, "load balancers cannot be answered; trying again"),
        }
        tokio::time::sleep(RETRY).await;
    }
}

fn answer(check: &HealthCheck) -> (StatusCode, HeaderMap, String) {
    let HealthCheck { of: (namespace, name), local_endpoints } = check;
    let status = if *local_endpoints > 0 { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert("x-load-balancing-endpoint-weight", HeaderValue::from(*local_endpoints));
    let body = json!({
        "service": {"namespace": namespace, "name": name},
        "localEndpoints": local_endpoints,
        "serviceProxyHealthy": true,
    });
    (status, headers, body.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_with_endpoints_is_healthy_and_says_how_many_it_has() {
        let check = |local_endpoints| HealthCheck { of: ("shop".into(), "web".into()), local_endpoints };
        let (status, headers, body) = answer(&check(2));
        assert_eq!(
            (status.as_u16(), &headers["x-load-balancing-endpoint-weight"]),
            (200, &HeaderValue::from(2))
        );
        let body: serde_json::Value = serde_json::from_str(&body).unwrap();
        assert_eq!(body["service"], json!({"namespace": "shop", "name": "web"}));
        assert_eq!(body["localEndpoints"], 2);
        assert_eq!(answer(&check(0)).0.as_u16(), 503);
    }
}
