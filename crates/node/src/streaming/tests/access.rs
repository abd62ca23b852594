//! Who is let in, and the small endpoints.

use super::*;

#[tokio::test]
async fn only_masters_with_a_certificate_of_the_cluster_are_let_in() {
    let node = Node::start().await;
    assert_eq!(node.get("/healthz").await, (StatusCode::OK, "ok".into()));

    let other = node.issue("system:node:node-2", Some("system:nodes"), Usage::Client);
    let stream = node.connect_as(Some(&other)).await.expect("connected");
    let (status, body) = request(stream, "/exec/default/web/app?command=id&output=1").await;
    assert_eq!(status, StatusCode::FORBIDDEN);
    let text = body.collect().await.expect("a body").to_bytes();
    let want = "Forbidden (user=system:node:node-2, verb=get, resource=nodes, subresource=proxy)";
    assert_eq!(text, want);

    // With TLS 1.3 the client learns that it was turned away when it reads.
    let refused = match node.connect_as(None).await {
        Err(_) => true,
        Ok(mut stream) => patient(tokio::io::AsyncReadExt::read(&mut stream, &mut [0])).await.is_err(),
    };
    assert!(refused, "somebody without a certificate");

    let strangers = tempfile::tempdir().expect("a folder");
    let stranger = Authority::open_or_create(strangers.path(), now()).expect("another authority");
    let request = CertificateRequest {
        common_name: "kube-apiserver-kubelet-client".into(),
        organization: Some("system:masters".into()),
        dns_names: vec![],
        addresses: vec![],
        usage: Usage::Client,
        days: 1,
    };
    let forged = stranger.issue(&request, now()).expect("issued");
    let refused = match node.connect_as(Some(&forged)).await {
        Err(_) => true,
        Ok(mut stream) => patient(tokio::io::AsyncReadExt::read(&mut stream, &mut [0])).await.is_err(),
    };
    assert!(refused, "somebody with a certificate of another authority");
}

#[tokio::test]
async fn the_node_tells_of_its_pods() {
    let node = Node::start().await;
    let (status, body) = node.get("/pods").await;
    let list: serde_json::Value = serde_json::from_str(&body).expect("JSON");
    assert_eq!(
        (status, &list["kind"], &list["items"][0]["metadata"]["name"]),
        (StatusCode::OK, &"PodList".into(), &"web".into())
    );

    let (_, body) = node.get("/stats/summary").await;
    let summary: serde_json::Value = serde_json::from_str(&body).expect("JSON");
    let pod = &summary["pods"][0];
    assert_eq!(pod["podRef"]["uid"], "u-1");
    assert_eq!(pod["containers"][0]["memory"]["workingSetBytes"], 6);
    assert_eq!(pod["cpu"]["usageCoreNanoSeconds"], 5);
    assert!(summary["node"]["memory"]["workingSetBytes"].as_u64().is_some_and(|n| n > 0));

    assert_eq!(node.get("/metrics").await, (StatusCode::OK, "orlop_pods 1\n".into()));
    assert_eq!(node.get("/nothing").await.0, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn what_is_open_is_cut_when_the_node_shuts_down() {
    let mut node = Node::start().await;
    let mut socket = node
        .websocket("/exec/default/web/app?command=cat&input=1&output=1", "v4.channel.k8s.io")
        .await
        .expect("open");
    send(&mut socket, 0, b"hello").await;
    until_text(&mut socket, 1, "hello").await;
    node.shutdown.cancel();
    patient(node.served.take().expect("serving")).await.expect("ended");
    let rest = patient(socket.next()).await;
    assert!(!matches!(rest, Some(Ok(Message::Binary(_)))), "{rest:?}");
}
