//! Port-forward as the Python client (channels) and kubectl (SPDY, in a WebSocket or not) speak it.

use super::{spdy_client::SpdyClient, *};
use crate::streaming::spdy::Frame;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const V4: &str = "v4.channel.k8s.io";
const TUNNEL: &str = "SPDY/3.1+portforward.k8s.io";

/// Says back in capitals what it is told, and "bye" at its end.
async fn shouting_server() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a listener");
    let port = listener.local_addr().expect("an address").port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut buffer = vec![0; 64 << 10];
                loop {
                    match stream.read(&mut buffer).await {
                        Ok(0) => break,
                        Ok(n) => {
                            buffer[..n].make_ascii_uppercase();
                            if stream.write_all(&buffer[..n]).await.is_err() {
                                return;
                            }
                        }
                        Err(_) => return,
                    }
                }
                let _ = stream.write_all(b"bye").await;
            });
        }
    });
    port
}

async fn unused_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a listener");
    listener.local_addr().expect("an address").port()
}

async fn client(node: &Node, tunnel: bool) -> SpdyClient {
    match tunnel {
        true => SpdyClient::tunnel(node.websocket("/portForward/default/web", TUNNEL).await.expect("open")),
        false => {
            SpdyClient::upgrade(node.connect().await, "/portForward/default/web", "portforward.k8s.io").await
        }
    }
}

/// Opens a pair of streams as kubectl does; error and data.
async fn pair(client: &mut SpdyClient, port: u16, request: &str) -> (u32, u32) {
    let port = port.to_string();
    let error = client.open(&[("streamtype", "error"), ("port", &port), ("requestid", request)]).await;
    client.data(error, b"", true).await;
    let data = client.open(&[("streamtype", "data"), ("port", &port), ("requestid", request)]).await;
    (error, data)
}

#[tokio::test]
async fn channels_carry_several_ports() {
    let node = Node::start().await;
    let (first, second, closed) = (shouting_server().await, shouting_server().await, unused_port().await);
    let path = format!("/portForward/default/web?ports={first},{second}&port={closed}");
    let mut socket = node.websocket(&path, V4).await.expect("open");
    // `port` is read before `ports`.
    let ports = [closed, first, second];
    let mut seen: HashMap<u8, Vec<u8>> = HashMap::new();
    send(&mut socket, 2, b"one").await;
    send(&mut socket, 4, b"two").await;
    while !(seen.get(&2).is_some_and(|d| d.ends_with(b"ONE"))
        && seen.get(&4).is_some_and(|d| d.ends_with(b"TWO"))
        && seen.get(&1).is_some_and(|d| d.len() > 2))
    {
        if let Message::Binary(bytes) = patient(socket.next()).await.expect("more").expect("a message") {
            seen.entry(bytes[0]).or_default().extend(&bytes[1..]);
        }
    }
    for (channel, data) in &seen {
        let port = ports[usize::from(channel / 2)];
        assert_eq!(data[..2], port.to_le_bytes(), "channel {channel} begins with its port");
    }
    let words = String::from_utf8_lossy(&seen[&1][2..]).into_owned();
    assert!(words.starts_with(&format!("error forwarding port {closed} to pod web, uid u-1: ")), "{words}");
    assert_eq!(seen[&3].len(), 2, "no error on the second port");
}

#[tokio::test]
async fn each_connection_of_kubectl_is_a_pair_of_streams() {
    let node = Node::start().await;
    let port = shouting_server().await;
    for tunnel in [true, false] {
        let mut client = client(&node, tunnel).await;
        client.send(Frame::Ping { id: 1 }).await;
        let (error_0, data_0) = pair(&mut client, port, "0").await;
        let (error_1, data_1) = pair(&mut client, port, "1").await;
        client.data(data_1, b"second", false).await;
        client.data(data_0, b"first", true).await;
        client.until_finished(&[data_0, error_0]).await;
        assert_eq!((client.text(data_0).as_str(), client.text(error_0).as_str()), ("FIRSTbye", ""));
        client.data(data_1, b" again", true).await;
        client.until_finished(&[data_1, error_1]).await;
        assert_eq!(client.text(data_1), "SECOND AGAINbye");
        client.until(|c| c.pongs.contains(&1)).await;
        assert_eq!(client.accepted, [error_0, data_0, error_1, data_1].into());
    }
}

#[tokio::test]
async fn a_port_that_nobody_listens_on_is_told_on_the_error_stream() {
    let node = Node::start().await;
    let port = unused_port().await;
    let mut client = client(&node, true).await;
    let (error, data) = pair(&mut client, port, "0").await;
    client.until_finished(&[data, error]).await;
    assert!(
        client.text(error).contains(&format!("error forwarding port {port} to pod web")),
        "{}",
        client.text(error)
    );
    assert_eq!(client.text(data), "");
}

#[tokio::test]
async fn streams_that_make_no_sense_are_refused_and_the_others_go_on() {
    let node = Node::start().await;
    let port = shouting_server().await;
    let mut client = client(&node, true).await;
    let mut bad = Vec::new();
    for headers in [
        &[("streamtype", "data"), ("port", "0"), ("requestid", "9")][..],
        &[("streamtype", "data"), ("requestid", "9")],
        &[("streamtype", "stdin"), ("port", "80")],
        &[],
    ] {
        bad.push(client.open(headers).await);
    }
    let (error, data) = pair(&mut client, port, "0").await;
    client.data(data, b"x", true).await;
    client.until_finished(&[data, error]).await;
    client.until(|c| c.refused.len() == bad.len()).await;
    assert_eq!((client.refused.clone(), client.text(data).as_str()), (bad.into_iter().collect(), "Xbye"));
}

#[tokio::test]
async fn a_stalled_connection_can_be_reset_and_does_not_stop_the_others() {
    let node = Node::start().await;
    // Takes connections in and never reads from them.
    let silent = TcpListener::bind("127.0.0.1:0").await.expect("a listener");
    let silent_port = silent.local_addr().expect("an address").port();
    let port = shouting_server().await;
    let mut client = client(&node, true).await;
    let (_, stalled) = pair(&mut client, silent_port, "0").await;
    for _ in 0..64 {
        client.data(stalled, &[b'x'; 32 << 10], false).await;
    }
    let (error, data) = pair(&mut client, port, "1").await;
    client.data(data, b"x", true).await;
    client.until_finished(&[data, error]).await;
    client.send(Frame::RstStream { id: stalled, status: 5 }).await;
    let (mut connection, _) = patient(silent.accept()).await.expect("connected");
    let mut rest = Vec::new();
    // It ends, one way or the other.
    let _ = patient(connection.read_to_end(&mut rest)).await;
}

#[tokio::test]
async fn many_megabytes_come_through_unchanged() {
    let node = Node::start().await;
    let port = shouting_server().await;
    for tunnel in [true, false] {
        let mut client = client(&node, tunnel).await;
        let (error, data) = pair(&mut client, port, "0").await;
        let piece = vec![b'x'; 32 << 10];
        for n in 1..=200 {
            client.data(data, &piece, n == 200).await;
            // A client that only wrote would stand still, as would the server that answers it.
            if n % 20 == 0 {
                client.until(|c| c.length(data) >= (n - 10) * piece.len()).await;
            }
        }
        client.until_finished(&[data, error]).await;
        let text = client.text(data);
        assert_eq!(text.len(), 200 * piece.len() + 3);
        assert!(text.trim_end_matches("bye").bytes().all(|b| b == b'X'));
    }
}

#[tokio::test]
async fn when_the_client_leaves_its_connections_end() {
    let node = Node::start().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a listener");
    let port = listener.local_addr().expect("an address").port();
    for tunnel in [true, false] {
        let mut client = client(&node, tunnel).await;
        pair(&mut client, port, "0").await;
        let (mut connection, _) = patient(listener.accept()).await.expect("connected");
        drop(client);
        assert_eq!(patient(connection.read(&mut [0; 8])).await.unwrap_or(0), 0);
    }
}
