//! The socket that `orlop image …` uses.

use super::{
    fake::{Behaviour, FakeRegistry},
    fixture::{Fixture, Home},
};
use orlop_runtime::{
    Image,
    image::{
        BuildOptions, build_from_directory,
        control::{Problem, SOCKET, serve},
    },
};
use std::{
    io::{Read, Write},
    os::unix::{fs::PermissionsExt, net::UnixStream},
    path::{Path, PathBuf},
};

/// One request; code and body of the answer.
fn request(socket: &Path, line: &str, headers: &str, body: &[u8]) -> (u16, Vec<u8>) {
    let mut stream = UnixStream::connect(socket).unwrap();
    write!(
        stream,
        "{line} HTTP/1.1\r\nhost: orlop\r\nconnection: close\r\ncontent-length: {}\r\n{headers}\r\n",
        body.len()
    )
    .unwrap();
    stream.write_all(body).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    let end = answer.windows(4).position(|w| w == b"\r\n\r\n").unwrap();
    let code = std::str::from_utf8(&answer[9..12]).unwrap().parse().unwrap();
    (code, answer[end + 4..].to_vec())
}

async fn ask(socket: &Path, line: &str, headers: &str, body: Vec<u8>) -> (u16, Vec<u8>) {
    let (socket, line, headers): (PathBuf, String, String) = (socket.into(), line.into(), headers.into());
    tokio::task::spawn_blocking(move || request(&socket, &line, &headers, &body)).await.unwrap()
}

#[tokio::test]
async fn images_are_imported_pulled_listed_and_removed_through_the_socket() {
    let home = Home::new();
    let socket = home.dir.path().join(SOCKET);
    drop(std::os::unix::net::UnixListener::bind(&socket).unwrap()); // left by a process that died
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let (store, path) = (home.store.clone(), socket.clone());
    let server = tokio::spawn(async move {
        serve(store, &path, async {
            let _ = stopped.await;
        })
        .await
    });
    while tokio::net::UnixStream::connect(&socket).await.is_err() {
        tokio::task::yield_now().await;
    }
    assert_eq!(std::fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(serve(home.store.clone(), &socket, async {}).await.is_err(), "one server a socket");

    let rootfs = home.container("rootfs");
    std::fs::write(rootfs.join("file"), "x").unwrap();
    let mut archive = Vec::new();
    build_from_directory(&rootfs, &BuildOptions::default(), &mut archive).unwrap();
    let (code, body) = ask(&socket, "POST /images/import?name=app%3A1", "", archive).await;
    assert_eq!(code, 200);
    let imported: Vec<Image> = serde_json::from_slice(&body).unwrap();
    assert_eq!(imported[0].tags, ["docker.io/library/app:1"]);

    let registry =
        FakeRegistry::start(Behaviour { token: true, ..Default::default() }.with("1", &Fixture::small("x")))
            .await;
    let line = format!("POST /images/pull?ref={}", registry.name("team:1"));
    assert_eq!(ask(&socket, &line, "", vec![]).await.0, 502);
    let basic = "authorization: Basic dXNlcjpzZWNyZXQ=\r\n";
    let (code, body) = ask(&socket, &line, basic, vec![]).await;
    assert_eq!(code, 200);
    assert_eq!(serde_json::from_slice::<Image>(&body).unwrap().tags, [registry.name("team:1")]);

    let listed: Vec<Image> =
        serde_json::from_slice(&ask(&socket, "GET /images", "", vec![]).await.1).unwrap();
    assert_eq!(listed.len(), 2);
    assert_eq!(ask(&socket, "DELETE /images?ref=app:1", "", vec![]).await.0, 204);
    let (code, body) = ask(&socket, "DELETE /images?ref=app:1", "", vec![]).await;
    assert_eq!(code, 404);
    assert_eq!(serde_json::from_slice::<Problem>(&body).unwrap().message, "image app:1 not found");
    let (code, body) = ask(&socket, "POST /images/import", "", b"rubbish".to_vec()).await;
    assert_eq!(code, 400);
    assert!(serde_json::from_slice::<Problem>(&body).unwrap().message.contains("archive"));
    assert_eq!(ask(&socket, "POST /images/pull?ref=No%20Name", "", vec![]).await.0, 400);

    stop.send(()).unwrap();
    server.await.unwrap().unwrap();
    assert!(!socket.exists());
}
