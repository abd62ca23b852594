//! Exec and attach as clients speak them over WebSocket and SPDY.

use super::{spdy_client::SpdyClient, *};
use serde_json::Value;

const V4: &str = "v4.channel.k8s.io";
const V5: &str = "v5.channel.k8s.io";

fn exec(script: &str, more: &str) -> String {
    let script: String = form_urlencoded::byte_serialize(script.as_bytes()).collect();
    format!("/exec/default/web/app?command=sh&command=-c&command={script}&output=1&error=1{more}")
}

fn text(channels: &HashMap<u8, Vec<u8>>, channel: u8) -> String {
    String::from_utf8(channels.get(&channel).cloned().unwrap_or_default()).expect("text")
}

fn status(channels: &HashMap<u8, Vec<u8>>) -> Value {
    serde_json::from_str(&text(channels, 3)).expect("a status")
}

#[tokio::test]
async fn a_command_s_output_and_exit_code_come_back() {
    let node = Node::start().await;
    for protocol in [V4, V5] {
        let mut socket = node.websocket(&exec("echo out; echo err >&2", ""), protocol).await.expect("open");
        let first = patient(socket.next()).await.expect("a message").expect("a message");
        assert_eq!(first, Message::binary(vec![1]), "an empty message comes first");
        let (channels, code) = until_close(&mut socket).await;
        assert_eq!(
            (text(&channels, 1).as_str(), text(&channels, 2).as_str(), code),
            ("out\n", "err\n", Some(1000))
        );
        assert_eq!(status(&channels)["status"], "Success");

        let mut socket = node.websocket(&exec("exit 42", ""), protocol).await.expect("open");
        let (channels, _) = until_close(&mut socket).await;
        assert_eq!(status(&channels)["reason"], "NonZeroExitCode");
        assert_eq!(status(&channels)["details"]["causes"][0]["message"], "42");
    }
}

#[tokio::test]
async fn the_oldest_protocols_say_failures_in_plain_text() {
    let node = Node::start().await;
    let mut socket = node.websocket(&exec("echo hi; exit 3", ""), "").await.expect("open");
    let (channels, _) = until_close(&mut socket).await;
    assert_eq!(text(&channels, 1), "hi\n");
    assert!(text(&channels, 3).starts_with("command terminated with non-zero exit code"));

    let mut socket = node.websocket(&exec("echo hi", ""), "base64.channel.k8s.io").await.expect("open");
    let mut seen = Vec::new();
    while let Some(Ok(Message::Text(message))) = patient(socket.next()).await {
        seen.push(message.to_string());
    }
    assert_eq!(seen, ["1", "1aGkK"]);
}

#[tokio::test]
async fn typed_input_comes_through_and_can_be_ended_with_version_five() {
    let node = Node::start().await;
    let mut socket = node.websocket(&exec("cat; echo done", "&input=1"), V5).await.expect("open");
    send(&mut socket, 0, b"hello ").await;
    send(&mut socket, 0, b"there\n").await;
    send(&mut socket, 255, &[0]).await;
    let (channels, _) = until_close(&mut socket).await;
    assert_eq!(text(&channels, 1), "hello there\ndone\n");
    assert_eq!(status(&channels)["status"], "Success");
}

#[tokio::test]
async fn a_terminal_has_a_size_that_can_change() {
    let node = Node::start().await;
    let script = "trap 'stty size' WINCH; read line; stty size; while read line; do echo got $line; done";
    let mut socket = node.websocket(&exec(script, "&input=1&tty=1"), V4).await.expect("open");
    send(&mut socket, 4, br#"{"Width":123,"Height":45}"#).await;
    // The size and the typed line go different ways.
    tokio::time::sleep(Duration::from_millis(200)).await;
    send(&mut socket, 0, b"go\n").await;
    until_text(&mut socket, 1, "45 123\r\n").await;
    send(&mut socket, 0, b"a line\n").await;
    until_text(&mut socket, 1, "got a line\r\n").await;
    send(&mut socket, 0, b"\x04").await;
    let (channels, _) = until_close(&mut socket).await;
    assert_eq!(status(&channels)["status"], "Success");
}

#[tokio::test]
async fn a_command_that_cannot_start_says_why() {
    let node = Node::start().await;
    let mut socket =
        node.websocket("/exec/default/web/app?command=/no/such&output=1", V5).await.expect("open");
    let (channels, code) = until_close(&mut socket).await;
    let status = status(&channels);
    assert_eq!(
        (&status["reason"], &status["code"], code),
        (&"InternalError".into(), &500.into(), Some(1000))
    );
    assert!(status["message"].as_str().is_some_and(|m| m.contains("/no/such")), "{status}");
}

#[tokio::test]
async fn large_output_comes_whole_to_a_slow_client() {
    let node = Node::start().await;
    const SIZE: usize = 24 << 20;
    let script = format!("head -c {SIZE} /dev/zero | tr '\\0' x; echo end >&2");
    let mut socket = node.websocket(&exec(&script, ""), V5).await.expect("open");
    // The process has written all that anybody buffers by now, and waits.
    tokio::time::sleep(Duration::from_millis(500)).await;
    let (channels, _) = until_close(&mut socket).await;
    assert_eq!((channels[&1].len(), text(&channels, 2).as_str()), (SIZE, "end\n"));
    assert_eq!(status(&channels)["status"], "Success");
}

#[tokio::test]
async fn large_input_comes_whole() {
    let node = Node::start().await;
    let mut socket = node.websocket(&exec("sleep 0.3; wc -c", "&input=1"), V5).await.expect("open");
    let piece = vec![b'x'; 64 << 10];
    for _ in 0..160 {
        patient(send(&mut socket, 0, &piece)).await;
    }
    send(&mut socket, 255, &[0]).await;
    let (channels, _) = until_close(&mut socket).await;
    assert_eq!(text(&channels, 1).trim(), (160 * piece.len()).to_string());
}

#[tokio::test]
async fn a_client_that_leaves_ends_the_command_s_input() {
    let node = Node::start().await;
    let ended = node.folder.path().join("ended");
    for orderly in [true, false] {
        let script = format!("echo here; cat > /dev/null; echo {orderly} > {}", ended.display());
        let mut socket = node.websocket(&exec(&script, "&input=1"), V4).await.expect("open");
        until_text(&mut socket, 1, "here").await;
        if orderly {
            socket.close(None).await.expect("closed");
        }
        drop(socket);
        let want = format!("{orderly}\n");
        patient(async {
            while std::fs::read_to_string(&ended).ok().as_ref() != Some(&want) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        })
        .await;
    }
}

#[tokio::test]
async fn children_that_keep_the_output_open_do_not_hold_up_the_end() {
    let node = Node::start().await;
    let mut socket = node.websocket(&exec("sleep 20 & echo started", ""), V5).await.expect("open");
    let started = std::time::Instant::now();
    let (channels, _) = until_close(&mut socket).await;
    assert_eq!((text(&channels, 1).as_str(), &status(&channels)["status"]), ("started\n", &"Success".into()));
    assert!(started.elapsed() < Duration::from_secs(15));
}

#[tokio::test]
async fn pings_are_answered_while_the_command_is_silent() {
    let node = Node::start().await;
    let mut socket = node.websocket(&exec("read line", "&input=1"), V5).await.expect("open");
    socket.send(Message::Ping(Bytes::from_static(b"there?"))).await.expect("sent");
    let pong = loop {
        match patient(socket.next()).await.expect("more").expect("a message") {
            Message::Pong(bytes) => break bytes,
            _ => continue,
        }
    };
    assert_eq!(pong, "there?");
}

#[tokio::test]
async fn attach_joins_the_main_process_whose_exit_code_is_not_the_client_s() {
    let node = Node::start().await;
    for path in ["/attach/default/web/app", "/attach/default/web/u-1/app"] {
        let path = format!("{path}?input=1&output=1");
        let mut socket = node.websocket(&path, V5).await.expect("open");
        send(&mut socket, 0, b"hello\n").await;
        send(&mut socket, 255, &[0]).await;
        let (channels, _) = until_close(&mut socket).await;
        assert_eq!(
            (text(&channels, 1).as_str(), &status(&channels)["status"]),
            ("attached\nhello\n", &"Success".into())
        );
    }
}

#[tokio::test]
async fn what_cannot_be_streamed_is_refused_before_the_upgrade() {
    let node = Node::start().await;
    let cases = [
        ("/exec/default/nope/app?command=id&output=1", V5, 404),
        ("/exec/default/web/u-2/app?command=id&output=1", V5, 404),
        ("/exec/default/web/late?command=id&output=1", V5, 404),
        ("/exec/default/web/app?output=1", V5, 400),
        ("/exec/default/web/app?command=id", V5, 400),
        ("/exec/default/web/app?command=id&output=1", "v6.channel.k8s.io", 403),
        ("/portForward/default/web?port=http", V4, 400),
    ];
    for (path, protocol, code) in cases {
        match node.websocket(path, protocol).await {
            Err(tungstenite::Error::Http(response)) => assert_eq!(response.status(), code, "{path}"),
            other => panic!("{path}: {:?}", other.map(|_| "open")),
        }
    }
    let (status, text) = node.get("/exec/default/web/app?command=id&output=1").await;
    assert!(status == StatusCode::BAD_REQUEST && text.contains("upgrade"), "{text}");
}

#[tokio::test]
async fn clients_from_before_websockets_speak_spdy() {
    let node = Node::start().await;
    let path = exec("cat; echo err >&2; exit 5", "&input=1");
    let mut client = SpdyClient::upgrade(node.connect().await, &path, V4).await;
    let mut ids = HashMap::new();
    for name in ["error", "stdin", "stdout", "stderr"] {
        ids.insert(name, client.open(&[("streamtype", name)]).await);
    }
    client.data(ids["stdin"], b"typed\n", true).await;
    client.until_finished(&[ids["stdout"], ids["stderr"], ids["error"]]).await;
    assert_eq!(client.text(ids["stdout"]), "typed\n");
    assert_eq!(client.text(ids["stderr"]), "err\n");
    let status: Value = serde_json::from_str(&client.text(ids["error"])).expect("a status");
    assert_eq!(status["details"]["causes"][0]["message"], "5");
}
