//! `pods/NAME/proxy` and `services/NAME/proxy`: a request passed on to what listens in a pod, over HTTP or,
//! where the name says `https:`, HTTPS. Knows addresses, not what is said; never turns a connection over.

use super::{pods::pass, tls, upgrade};
use crate::{
    registry::{Registry, SubresourceRequest},
    response::{self, Response},
};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use http_body_util::Full;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use orlop_api::{
    Status,
    object::{int, list, text},
};
use serde_json::Value;
use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};

/// How long connecting to a pod may take.
const CONNECT: Duration = Duration::from_secs(10);

/// `NAME`, `NAME:PORT` or `SCHEME:NAME:PORT`, as it stands in the path.
#[derive(Debug, PartialEq, Eq)]
struct Wanted<'a> {
    name: &'a str,
    port: &'a str,
    tls: bool,
}

fn wanted(segment: &str) -> Result<Wanted<'_>, Status> {
    match segment.split(':').collect::<Vec<_>>()[..] {
        [name] => Ok(Wanted { name, port: "", tls: false }),
        [name, port] | ["http" | "", name, port] => Ok(Wanted { name, port, tls: false }),
        ["https", name, port] => Ok(Wanted { name, port, tls: true }),
        _ => Err(Status::bad_request(format!("invalid pod or service request {segment:?}"))),
    }
}

fn socket(ip: &str, port: i64) -> Result<SocketAddr, Status> {
    let ip = ip.parse::<IpAddr>().ok().filter(|ip| !ip.is_loopback() && !ip.is_multicast());
    match (ip, u16::try_from(port)) {
        (Some(ip), Ok(port)) => Ok(SocketAddr::new(ip, port)),
        _ => Err(Status::bad_request("address not allowed")),
    }
}

/// Where a pod listens: at the port that is asked for, or the first that it names.
fn of_pod(pod: &Value, port: &str) -> Result<SocketAddr, Status> {
    let first = || {
        let containers = list(pod, "/spec/containers").iter();
        containers.flat_map(|c| list(c, "/ports")).find_map(|p| int(p, "/containerPort")).unwrap_or(80)
    };
    let number = match port {
        "" => first(),
        port => port.parse().map_err(|_| Status::bad_request(format!("invalid port {port:?}")))?,
    };
    socket(text(pod, "/status/podIP"), number)
}

/// Where one of a Service's pods listens. `random` chooses among them.
fn of_service(service: &Value, endpoints: &Value, port: &str, random: u64) -> Result<SocketAddr, Status> {
    let name = text(service, "/metadata/name");
    let ports = list(service, "/spec/ports");
    let wanted = match (port.parse::<i64>(), port) {
        (Ok(number), _) => match ports.iter().find(|p| int(p, "/port") == Some(number)) {
            Some(found) => text(found, "/name"),
            None => {
                let message = format!("no service port {number} found for service {name:?}");
                return Err(Status::unavailable(message));
            }
        },
        (Err(_), name) => name,
    };
    let mut found = Vec::new();
    for subset in list(endpoints, "/subsets") {
        let number = list(subset, "/ports").iter().find(|p| text(p, "/name") == wanted);
        let Some(number) = number.and_then(|p| int(p, "/port")) else { continue };
        found.extend(list(subset, "/addresses").iter().map(|a| (text(a, "/ip"), number)));
    }
    match found.get((random % found.len().max(1) as u64) as usize) {
        Some((ip, number)) => socket(ip, *number),
        None => Err(Status::unavailable(format!("no endpoints available for service {name:?}"))),
    }
}

/// Where the request goes, and whether over TLS.
fn locate(registry: &Registry, request: &SubresourceRequest) -> Result<(SocketAddr, bool), Status> {
    let target = &request.target;
    let resource = registry.resource(target)?;
    let Wanted { name, port, tls } = wanted(&target.name)?;
    let object = resource.get(&target.namespace, name)?.value();
    if target.resource == "pods" {
        return Ok((of_pod(&object, port)?, tls));
    }
    let endpoints = registry.find("", "v1", "endpoints").ok_or_else(Status::no_such_resource)?;
    let endpoints = endpoints.get(&target.namespace, name).map(|e| e.value()).unwrap_or_default();
    Ok((of_service(&object, &endpoints, port, rand::random())?, tls))
}

/// Headers between two ends of one connection, and those that only this server may see.
fn stays(name: &HeaderName) -> bool {
    let own = [
        header::AUTHORIZATION,
        header::CONNECTION,
        header::CONTENT_LENGTH,
        header::HOST,
        header::TE,
        header::TRANSFER_ENCODING,
        header::UPGRADE,
    ];
    own.contains(name) || name.as_str() == "keep-alive" || name.as_str().starts_with("impersonate-")
}

/// Passes the request on.
pub(crate) async fn serve(request: SubresourceRequest) -> Result<Response, Status> {
    let path = request.parts.uri.path();
    if request.target.rest.is_empty()
        && !path.ends_with('/')
        && matches!(request.parts.method, Method::GET | Method::HEAD)
    {
        // Links of the page are relative to what is proxied.
        return Ok(redirect(&format!("{path}/"), request.parts.uri.query()));
    }
    if upgrade::is_wanted(&request.parts.headers) {
        return Err(Status::bad_request("this server does not proxy connections that are turned over"));
    }
    let (address, tls) = locate(&request.registry, &request)?;
    let mut uri = format!("/{}", request.target.rest);
    if let Some(query) = request.parts.uri.query() {
        uri = format!("{uri}?{query}");
    }
    let mut asked = http::Request::builder()
        .method(request.parts.method.clone())
        .uri(uri)
        .body(Full::new(request.body))
        .map_err(|_| Status::bad_request("the path is not valid"))?;
    for (name, value) in request.parts.headers.iter().filter(|(name, _)| !stays(name)) {
        asked.headers_mut().append(name, value.clone());
    }
    if let Ok(host) = HeaderValue::from_str(&address.to_string()) {
        asked.headers_mut().insert(header::HOST, host);
    }
    let answer = send(address, tls, asked)
        .await
        .map_err(|why| Status::unavailable(format!("error trying to reach service: {why}")))?;
    let root = path.strip_suffix(&request.target.rest).unwrap_or(path).to_string();
    let mut response = pass(answer);
    relocate(response.headers_mut(), &root, address);
    Ok(response)
}

/// A place on the other end, as the client reaches it: below `root`.
fn relocate(headers: &mut HeaderMap, root: &str, address: SocketAddr) {
    let Some(there) = headers.get(header::LOCATION).and_then(|v| v.to_str().ok()) else { return };
    let path =
        ["http", "https"].iter().find_map(|scheme| there.strip_prefix(&format!("{scheme}://{address}")));
    let there = path.unwrap_or(there);
    if let Some(path) = there.strip_prefix('/')
        && let Ok(value) = HeaderValue::from_str(&format!("{root}{path}"))
    {
        headers.insert(header::LOCATION, value);
    }
}

fn redirect(path: &str, query: Option<&str>) -> Response {
    let mut response = response::text(301, "");
    let place = query.map_or_else(|| path.to_string(), |query| format!("{path}?{query}"));
    if let Ok(value) = HeaderValue::from_str(&place) {
        response.headers_mut().insert(header::LOCATION, value);
    }
    response
}

async fn send(
    address: SocketAddr,
    with_tls: bool,
    request: http::Request<Full<Bytes>>,
) -> Result<http::Response<hyper::body::Incoming>, String> {
    let dial = |why: String| format!("dial tcp {address}: {why}");
    let stream = tokio::time::timeout(CONNECT, TcpStream::connect(address))
        .await
        .map_err(|_| dial("i/o timeout".into()))?
        .map_err(|e| match e.kind() {
            std::io::ErrorKind::ConnectionRefused => dial("connect: connection refused".into()),
            _ => dial(e.to_string()),
        })?;
    if with_tls {
        let stream = tokio::time::timeout(CONNECT, tls::connect(address.ip(), stream))
            .await
            .map_err(|_| dial("tls: i/o timeout".into()))??;
        return talk(stream, request).await;
    }
    talk(stream, request).await
}

async fn talk<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    stream: S,
    request: http::Request<Full<Bytes>>,
) -> Result<http::Response<hyper::body::Incoming>, String> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|e| e.to_string())?;
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "a connection to a pod ended");
        }
    });
    sender.send_request(request).await.map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_name_may_say_a_port() {
        let of = |segment| wanted(segment).map(|w| (w.name, w.port, w.tls)).map_err(|s| s.code);
        assert_eq!(of("web"), Ok(("web", "", false)));
        assert_eq!(of("web:http"), Ok(("web", "http", false)));
        assert_eq!(of("http:web:80"), Ok(("web", "80", false)));
        assert_eq!(of("https:web:443"), Ok(("web", "443", true)));
        assert_eq!(of("gopher:web:70"), Err(400));
    }

    #[test]
    fn a_pod_is_reached_at_the_port_that_is_asked_for_or_its_first() {
        let pod = json!({"spec": {"containers": [{}, {"ports": [{"containerPort": 8080}]}]}, "status": {"podIP": "10.1.2.3"}});
        assert_eq!(of_pod(&pod, "").unwrap().to_string(), "10.1.2.3:8080");
        assert_eq!(of_pod(&pod, "81").unwrap().to_string(), "10.1.2.3:81");
        assert_eq!(of_pod(&json!({}), "").unwrap_err().message, "address not allowed");
        let host = json!({"status": {"podIP": "127.0.0.1"}});
        assert_eq!(of_pod(&host, "80").unwrap_err().message, "address not allowed");
    }

    #[test]
    fn a_service_is_reached_at_one_of_its_endpoints() {
        let service = json!({"metadata": {"name": "web"}, "spec": {"ports": [{"name": "http", "port": 80}]}});
        let endpoints = json!({"subsets": [{"addresses": [{"ip": "10.1.2.3"}, {"ip": "10.1.2.4"}], "ports": [{"name": "http", "port": 8080}]}]});
        let at = |port, random| {
            of_service(&service, &endpoints, port, random).map(|a| a.to_string()).map_err(|s| s.message)
        };
        assert_eq!(at("80", 0), Ok("10.1.2.3:8080".into()));
        assert_eq!(at("http", 1), Ok("10.1.2.4:8080".into()));
        assert_eq!(at("81", 0), Err("no service port 81 found for service \"web\"".into()));
        assert_eq!(at("other", 0), Err("no endpoints available for service \"web\"".into()));
    }

    #[test]
    fn places_of_the_other_end_are_moved_below_the_proxy() {
        let address = "10.1.2.3:80".parse().unwrap();
        let root = "/api/v1/namespaces/d/pods/p/proxy/";
        for (there, here) in [("/a", "a"), ("http://10.1.2.3:80/b", "b"), ("https://10.1.2.3:80/c", "c")] {
            let mut headers = HeaderMap::new();
            headers.insert(header::LOCATION, there.parse().unwrap());
            relocate(&mut headers, root, address);
            assert_eq!(headers[header::LOCATION], format!("{root}{here}"));
        }
        let mut elsewhere = HeaderMap::new();
        elsewhere.insert(header::LOCATION, "https://example.com/".parse().unwrap());
        relocate(&mut elsewhere, root, address);
        assert_eq!(elsewhere[header::LOCATION], "https://example.com/");
    }
}
