//! The verbs as a person uses them: a program is run, its output read. The server is a small one of the test's own, which
//! keeps what it was asked, so that the requests are checked, too.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use axum::{
    Router,
    body::Body,
    extract::{
        Path, Query, Request, State,
        ws::{Message, WebSocket, WebSocketUpgrade},
    },
    http::{Method, Response, StatusCode, header},
    response::IntoResponse,
    routing::{any, get},
};
use parking_lot::Mutex;
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, HashMap},
    path::PathBuf,
    process::{Output, Stdio},
    sync::Arc,
};
use tokio::{io::AsyncWriteExt, process::Command};

/// Objects by path, and requests so far.
#[derive(Default)]
struct World {
    objects: BTreeMap<String, Value>,
    version: u64,
    requests: Vec<String>,
}

#[derive(Clone)]
struct Server {
    world: Arc<Mutex<World>>,
    dir: Arc<tempfile::TempDir>,
}

type Parameters = Query<HashMap<String, String>>;

impl Server {
    async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let dir = tempfile::tempdir().unwrap();
        let kubeconfig = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "c",
            "clusters": [{"name": "c", "cluster": {"server": format!("http://{}", listener.local_addr().unwrap())}}],
            "users": [{"name": "u", "user": {}}],
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        });
        std::fs::write(dir.path().join("admin.kubeconfig"), kubeconfig.to_string()).unwrap();
        let server = Self { world: Arc::default(), dir: Arc::new(dir) };
        let router = Router::new()
            .route("/api", get(core))
            .route("/apis", get(groups))
            .route("/api/v1/namespaces/{ns}/pods/{pod}/log", get(log))
            .route("/api/v1/namespaces/{ns}/pods/{pod}/exec", get(exec))
            .route("/api/v1/{*path}", any(objects))
            .route("/apis/apps/v1/{*path}", any(objects))
            .with_state(server.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        server
    }

    fn put(&self, path: &str, mut object: Value) {
        let mut world = self.world.lock();
        world.version += 1;
        object["metadata"]["resourceVersion"] = Value::from(world.version.to_string());
        object["metadata"]["uid"] = Value::from(format!("uid-{}", world.version));
        world.objects.insert(path.into(), object);
    }

    fn pod(&self, name: &str, containers: &[&str]) {
        let containers: Vec<Value> = containers.iter().map(|name| json!({"name": name})).collect();
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": name, "namespace": "default", "managedFields": [{"manager": "x"}]},
            "spec": {"containers": containers}, "status": {"phase": "Running"},
        });
        self.put(&format!("/api/v1/namespaces/default/pods/{name}"), pod);
    }

    fn file(&self, name: &str, text: &str) -> String {
        let path = self.dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    }

    fn command(&self, words: &[&str]) -> Command {
        let built = std::env::current_exe().unwrap();
        let program: PathBuf = built.parent().unwrap().parent().unwrap().join("examples/verbs");
        let mut command = Command::new(program);
        let (verb, rest) = words.split_first().unwrap();
        command
            .arg(verb)
            .arg("--data-dir")
            .arg(self.dir.path())
            .args(rest)
            .env_remove("KUBECONFIG")
            .stdin(Stdio::null())
            .kill_on_drop(true);
        command
    }

    async fn run(&self, words: &[&str]) -> Output {
        self.command(words).output().await.unwrap()
    }

    /// Output of what must succeed.
    async fn ok(&self, words: &[&str]) -> String {
        let output = self.run(words).await;
        assert!(output.status.success(), "{words:?}: {}", text(&output.stderr));
        text(&output.stdout)
    }

    /// Error output of what must fail.
    async fn fails(&self, words: &[&str]) -> String {
        let output = self.run(words).await;
        assert_eq!(output.status.code(), Some(1), "{words:?}: {}", text(&output.stdout));
        text(&output.stderr)
    }

    fn asked(&self, what: &str) -> bool {
        self.world.lock().requests.iter().any(|request| request.contains(what))
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn answer(code: u16, value: &Value) -> Response<Body> {
    Response::builder()
        .status(StatusCode::from_u16(code).unwrap())
        .header(header::CONTENT_TYPE, "application/json")
        .body(Body::from(value.to_string()))
        .unwrap()
}

fn status(code: u16, reason: &str, message: &str) -> Response<Body> {
    answer(
        code,
        &json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": reason, "message": message}),
    )
}

fn resource(plural: &str, kind: &str, short: &str) -> Value {
    json!({
        "resource": plural, "responseKind": {"kind": kind}, "scope": "Namespaced",
        "singularResource": kind.to_lowercase(), "shortNames": [short], "categories": ["all"], "verbs": ["list"],
    })
}

async fn core() -> Response<Body> {
    answer(
        200,
        &json!({"kind": "APIGroupDiscoveryList", "items": [{"metadata": {}, "versions": [
            {"version": "v1", "resources": [resource("pods", "Pod", "po"), resource("services", "Service", "svc")]},
        ]}]}),
    )
}

async fn groups() -> Response<Body> {
    answer(
        200,
        &json!({"kind": "APIGroupDiscoveryList", "items": [{"metadata": {"name": "apps"}, "versions": [
            {"version": "v1", "resources": [resource("deployments", "Deployment", "deploy")]},
        ]}]}),
    )
}

fn as_table(objects: &[Value]) -> Value {
    let rows: Vec<Value> = objects
        .iter()
        .map(|object| json!({"cells": [object["metadata"]["name"], "1/1", "n1"], "object": object}))
        .collect();
    json!({
        "kind": "Table", "metadata": {"resourceVersion": "1"}, "rows": rows,
        "columnDefinitions": [{"name": "Name"}, {"name": "Ready"}, {"name": "Node", "priority": 1}],
    })
}

async fn objects(State(server): State<Server>, Query(query): Parameters, request: Request) -> Response<Body> {
    let (parts, body) = request.into_parts();
    let path = parts.uri.path().to_string();
    let table = parts.headers.get(header::ACCEPT).is_some_and(|v| v.to_str().unwrap().contains("as=Table"));
    server.world.lock().requests.push(format!("{} {}", parts.method, parts.uri));
    let here = server.world.lock().objects.get(&path).cloned();
    // /api/v1/namespaces/NS/KIND/NAME, /apis/apps/v1/namespaces/NS/KIND/NAME
    let is_object = path.matches('/').count() == if path.starts_with("/apis/") { 7 } else { 6 };
    let name = path.rsplit('/').next().unwrap_or_default().to_string();
    let gone = || status(404, "NotFound", &format!("pods {name:?} not found"));
    match parts.method {
        Method::GET if query.contains_key("watch") => {
            // Whatever is watched for has just happened.
            let prefix = format!("{path}/");
            let deleted: Vec<String> = {
                let mut world = server.world.lock();
                let going: Vec<String> = world
                    .objects
                    .iter()
                    .filter(|(path, o)| {
                        path.starts_with(&prefix) && o["metadata"].get("deletionTimestamp").is_some()
                    })
                    .map(|(path, _)| path.clone())
                    .collect();
                going.iter().for_each(|path| drop(world.objects.remove(path)));
                going
            };
            let object = json!({"metadata": {"name": "new", "resourceVersion": "9"}});
            let mut object = if table { as_table(&[object]) } else { object };
            object["metadata"]["resourceVersion"] = Value::from("9");
            let kind = if deleted.is_empty() { "ADDED" } else { "DELETED" };
            answer(200, &json!({"type": kind, "object": object}))
        }
        Method::GET if is_object => match here {
            Some(object) if table => answer(200, &as_table(&[object])),
            Some(object) => answer(200, &object),
            None => gone(),
        },
        Method::GET => {
            let prefix = format!("{path}/");
            let world = server.world.lock();
            let all_namespaces = path.ends_with("/v1/pods");
            let found: Vec<Value> = world
                .objects
                .iter()
                .filter(|(path, _)| path.starts_with(&prefix) || all_namespaces && path.contains("/pods/"))
                .map(|(_, object)| object.clone())
                .collect();
            if table {
                answer(200, &as_table(&found))
            } else {
                answer(
                    200,
                    &json!({"kind": "PodList", "apiVersion": "v1", "metadata": {"resourceVersion": "1"}, "items": found}),
                )
            }
        }
        Method::PATCH => {
            assert_eq!(parts.headers[header::CONTENT_TYPE], "application/apply-patch+yaml");
            assert_eq!(query["fieldManager"], "orlop");
            let body = axum::body::to_bytes(body, usize::MAX).await.unwrap();
            let mut object: Value = serde_json::from_slice(&body).unwrap();
            if object["spec"]["conflict"] == true && !query.contains_key("force") {
                return status(409, "Conflict", "Apply failed with 1 conflict");
            }
            let code = match &here {
                None => 201,
                Some(before) if before["spec"] == object["spec"] => return answer(200, before),
                Some(_) => 200,
            };
            if !query.contains_key("dryRun") {
                server.put(&path, object.clone());
            }
            object["metadata"]["resourceVersion"] = Value::from("new");
            answer(code, &object)
        }
        Method::DELETE => {
            let Some(mut object) = here else { return gone() };
            object["metadata"]["deletionTimestamp"] = Value::from("now");
            server.world.lock().objects.insert(path, object.clone());
            answer(200, &object)
        }
        _ => status(405, "MethodNotAllowed", "no"),
    }
}

async fn log(
    State(server): State<Server>,
    Path((_, pod)): Path<(String, String)>,
    request: Request,
) -> Response<Body> {
    server.world.lock().requests.push(request.uri().to_string());
    if pod == "starting" {
        return status(400, "BadRequest", "container \"a\" in pod \"starting\" is waiting to start");
    }
    Response::new(Body::from("first\nsecond\n"))
}

async fn exec(State(server): State<Server>, upgrade: WebSocketUpgrade, request: Request) -> Response<Body> {
    let uri = request.uri().to_string();
    server.world.lock().requests.push(uri.clone());
    upgrade
        .protocols(["v5.channel.k8s.io"])
        .on_upgrade(move |socket| echo(socket, uri.contains("command=cat")))
        .into_response()
}

/// A command that says something and ends with 3, or one that gives its input back.
async fn echo(mut socket: WebSocket, is_cat: bool) {
    let frame = |channel: u8, body: &[u8]| Message::Binary([&[channel], body].concat().into());
    if !is_cat {
        socket.send(frame(1, b"out\n")).await.unwrap();
        socket.send(frame(2, b"err\n")).await.unwrap();
        let end = json!({
            "status": "Failure", "reason": "NonZeroExitCode", "message": "command terminated with non-zero exit code",
            "details": {"causes": [{"reason": "ExitCode", "message": "3"}]},
        });
        socket.send(frame(3, end.to_string().as_bytes())).await.unwrap();
        let _ = socket.send(Message::Close(None)).await;
        return;
    }
    while let Some(Ok(message)) = socket.recv().await {
        let Message::Binary(bytes) = message else { continue };
        match bytes.as_ref() {
            [0, b'e', b'n', b'd'] => break,
            [0, body @ ..] => socket.send(frame(1, body)).await.unwrap(),
            [4, size @ ..] => socket.send(frame(1, &[b"size ", size, b"\n"].concat())).await.unwrap(),
            [255, 0] => break, // the input has ended
            _ => {}
        }
    }
    socket.send(frame(3, br#"{"status":"Success"}"#)).await.unwrap();
    let _ = socket.send(Message::Close(None)).await;
}

const WEB: &str = "
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec: {replicas: 1}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: other}
";

#[tokio::test]
async fn apply_says_what_became_of_each_object() {
    let server = Server::start().await;
    let file = server.file("web.yaml", WEB);
    assert_eq!(
        server.ok(&["apply", "-f", &file]).await,
        "deployment.apps/web created\nservice/web created\n"
    );
    assert_eq!(
        server.ok(&["apply", "-f", &file]).await,
        "deployment.apps/web unchanged\nservice/web unchanged\n"
    );
    server.file("web.yaml", &WEB.replace("replicas: 1", "replicas: 2"));
    assert_eq!(
        server.ok(&["apply", "-f", &file, "--dry-run"]).await,
        "deployment.apps/web configured (server dry run)\nservice/web unchanged (server dry run)\n"
    );
    assert_eq!(
        server.ok(&["apply", "-f", &file]).await,
        "deployment.apps/web configured\nservice/web unchanged\n"
    );
    assert!(
        server.asked("/namespaces/default/deployments/web") && server.asked("/namespaces/other/services/web")
    );

    let mut piped = server
        .command(&["apply", "-f", "-", "-n", "other"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    piped.stdin.take().unwrap().write_all(WEB.as_bytes()).await.unwrap();
    let output = piped.wait_with_output().await.unwrap();
    assert_eq!(text(&output.stdout), "deployment.apps/web created\nservice/web unchanged\n");
}

#[tokio::test]
async fn what_cannot_be_applied_is_said_and_the_rest_is_applied() {
    let server = Server::start().await;
    let mixed = "
apiVersion: v2
kind: Gizmo
metadata: {name: x}
---
apiVersion: v1
kind: Service
metadata: {name: fought-over}
spec: {conflict: true}
---
apiVersion: v1
kind: Service
metadata: {name: fine}
";
    let file = server.file("mixed.yaml", mixed);
    let output = server.run(&["apply", "-f", &file]).await;
    assert_eq!((output.status.code(), text(&output.stdout).as_str()), (Some(1), "service/fine created\n"));
    let errors = text(&output.stderr);
    assert!(errors.contains("error: no matches for kind \"Gizmo\" in version \"v2\""), "{errors}");
    assert!(errors.contains("Error from server (Conflict): Apply failed with 1 conflict"), "{errors}");
    let file = server.file("one.yaml", mixed.split("---").nth(1).unwrap());
    assert_eq!(
        server.ok(&["apply", "-f", &file, "--force-conflicts"]).await,
        "service/fought-over created\n"
    );
    let file = server.file("bad.yaml", "a: [");
    assert!(server.fails(&["apply", "-f", &file]).await.contains("bad.yaml: not valid YAML"));
    let file = server.file("ns.yaml", WEB);
    assert!(
        server.fails(&["apply", "-n", "x", "-f", &file]).await.contains("does not match the namespace x")
    );
}

#[tokio::test]
async fn get_shows_objects_in_all_forms() {
    let server = Server::start().await;
    server.pod("web-1", &["a"]);
    server.pod("web-22", &["a"]);
    assert_eq!(server.ok(&["get", "po"]).await, "NAME     READY\nweb-1    1/1\nweb-22   1/1\n");
    assert_eq!(
        server.ok(&["get", "pods", "web-1", "-o", "wide"]).await,
        "NAME    READY   NODE\nweb-1   1/1     n1\n"
    );
    assert_eq!(
        server.ok(&["get", "pods", "-A", "--no-headers"]).await,
        "default   web-1    1/1\ndefault   web-22   1/1\n"
    );
    assert_eq!(server.ok(&["get", "pods", "-o", "name", "-l", "app=web"]).await, "pod/web-1\npod/web-22\n");
    assert!(server.asked("labelSelector=app%3Dweb"));
    let json: Value = serde_json::from_str(&server.ok(&["get", "pod/web-1", "-o", "json"]).await).unwrap();
    assert_eq!((&json["metadata"]["name"], json["metadata"].get("managedFields")), (&json!("web-1"), None));
    let yaml = server.ok(&["get", "pods", "-o", "yaml"]).await;
    assert!(yaml.contains("kind: List") && yaml.contains("name: web-22"), "{yaml}");
    server.put(
        "/apis/apps/v1/namespaces/default/deployments/web",
        json!({"metadata": {"name": "web", "namespace": "default"}}),
    );
    assert_eq!(
        server.ok(&["get", "all"]).await,
        "NAME         READY\npod/web-1    1/1\npod/web-22   1/1\n\nNAME                  READY\ndeployment.apps/web   1/1\n"
    );
}

#[tokio::test]
async fn get_of_what_is_not_there_says_so() {
    let server = Server::start().await;
    let output = server.run(&["get", "pods", "-n", "empty"]).await;
    assert_eq!(
        (output.status.code(), text(&output.stderr).as_str()),
        (Some(0), "No resources found in empty namespace.\n")
    );
    assert_eq!(
        server.fails(&["get", "pod", "x"]).await,
        "Error from server (NotFound): pods \"x\" not found\n"
    );
    assert_eq!(server.ok(&["get", "pod", "x", "--ignore-not-found"]).await, "");
    assert_eq!(
        server.fails(&["get", "gizmos"]).await,
        "error: the server doesn't have a resource type \"gizmos\"\n"
    );
    assert!(server.fails(&["get", "pods", "a/b"]).await.contains("KIND/NAME"));
}

#[tokio::test]
async fn a_watch_goes_on_in_the_same_columns() {
    let server = Server::start().await;
    server.pod("a-rather-long-name", &["a"]);
    assert_eq!(
        server.ok(&["get", "pods", "-w"]).await,
        "NAME                 READY\na-rather-long-name   1/1\nnew                  1/1\nnew                  1/1\n"
    );
    assert!(
        server.asked("watch=true") && server.asked("resourceVersion=9"),
        "the second watch starts where the first ended"
    );
}

#[tokio::test]
async fn delete_returns_when_the_object_is_gone() {
    let server = Server::start().await;
    server.pod("web-1", &["a"]);
    assert_eq!(server.ok(&["delete", "pod", "web-1"]).await, "pod \"web-1\" deleted\n");
    assert!(server.world.lock().objects.is_empty());
    server.pod("web-2", &["a"]);
    assert_eq!(server.ok(&["delete", "pod/web-2", "--wait=false"]).await, "pod \"web-2\" deleted\n");
    assert_eq!(server.world.lock().objects.len(), 1, "nobody waited");
    assert!(server.fails(&["delete", "pod", "none"]).await.contains("NotFound"));
    assert_eq!(server.ok(&["delete", "pod", "none", "--ignore-not-found"]).await, "");
    assert!(server.fails(&["delete", "pods"]).await.contains("--all or -l"));
    server.pod("web-3", &["a"]);
    assert_eq!(
        server.ok(&["delete", "pods", "--all"]).await,
        "pod \"web-2\" deleted\npod \"web-3\" deleted\n"
    );
    server.put("/apis/apps/v1/namespaces/default/deployments/web", json!({"metadata": {"name": "web"}}));
    let file = server.file("web.yaml", WEB.split("---").next().unwrap());
    assert_eq!(server.ok(&["delete", "-f", &file]).await, "deployment.apps \"web\" deleted\n");
}

#[tokio::test]
async fn logs_come_from_the_container_that_is_meant() {
    let server = Server::start().await;
    server.pod("web-1", &["a", "b"]);
    let output = server.run(&["logs", "web-1", "-f", "--tail", "5"]).await;
    assert_eq!(text(&output.stdout), "first\nsecond\n");
    assert_eq!(text(&output.stderr), "Defaulted container \"a\" out of: a, b\n");
    assert!(server.asked("log?container=a&follow=true&tailLines=5"));
    server.ok(&["logs", "-p", "-c", "b", "pod/web-1"]).await;
    assert!(server.asked("log?container=b&previous=true"));
    assert!(server.fails(&["logs", "web-1", "-c", "x"]).await.contains("container x not found"));
    server.put(
        "/apis/apps/v1/namespaces/default/deployments/web",
        json!({"metadata": {"name": "web"}, "spec": {"selector": {"matchLabels": {"app": "web"}}}}),
    );
    assert_eq!(server.ok(&["logs", "deploy/web", "-c", "a"]).await, "first\nsecond\n");
    assert!(server.asked("labelSelector=app%3Dweb"));
    server.pod("starting", &["a"]);
    assert!(server.fails(&["logs", "starting"]).await.contains("(BadRequest): container \"a\""));
}

#[tokio::test]
async fn exec_passes_streams_and_the_exit_code_on() {
    let server = Server::start().await;
    server.pod("web-1", &["a"]);
    let output = server.run(&["exec", "web-1", "--", "sh", "-c", "exit 3"]).await;
    assert_eq!(
        (output.status.code(), text(&output.stdout), text(&output.stderr)),
        (Some(3), "out\n".into(), "err\n".into())
    );
    assert!(server.asked("command=sh&command=-c&command=exit+3"));
    let mut cat = server
        .command(&["exec", "-i", "web-1", "--", "cat"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let large = "a line of some length\n".repeat(10_000);
    let mut input = cat.stdin.take().unwrap();
    let sent = large.clone();
    tokio::spawn(async move { input.write_all(sent.as_bytes()).await.unwrap() });
    let output = cat.wait_with_output().await.unwrap();
    assert!(output.status.success());
    assert!(text(&output.stdout) == large, "{} of {} bytes came back", output.stdout.len(), large.len());
    assert!(server.fails(&["exec", "none", "--", "ls"]).await.contains("NotFound"));
}

#[tokio::test]
async fn exec_with_a_terminal_passes_keys_and_sizes_on_and_leaves_the_terminal_as_it_was() {
    use rustix::{pty, termios};
    use std::io::{Read, Write};
    let server = Server::start().await;
    server.pod("web-1", &["a"]);
    let flags = pty::OpenptFlags::RDWR | pty::OpenptFlags::NOCTTY;
    let master = pty::openpt(flags).unwrap();
    pty::grantpt(&master).unwrap();
    pty::unlockpt(&master).unwrap();
    let slave = std::fs::File::options()
        .read(true)
        .write(true)
        .open(pty::ptsname(&master, Vec::new()).unwrap().to_str().unwrap())
        .unwrap();
    let size = |rows| termios::Winsize { ws_row: rows, ws_col: 99, ws_xpixel: 0, ws_ypixel: 0 };
    termios::tcsetwinsize(&slave, size(42)).unwrap();
    let before = termios::tcgetattr(&slave).unwrap();
    let mut child = server
        .command(&["exec", "-it", "web-1", "--", "cat"])
        .stdin(slave.try_clone().unwrap())
        .stdout(slave.try_clone().unwrap())
        .spawn()
        .unwrap();
    let terminal = std::fs::File::from(master);
    // Reads what the terminal shows up to and with `wanted`.
    let read_until = |wanted: &'static str| {
        let mut terminal = terminal.try_clone().unwrap();
        tokio::task::spawn_blocking(move || {
            let mut seen = Vec::new();
            let mut byte = [0];
            while !text(&seen).contains(wanted) {
                terminal.read_exact(&mut byte).unwrap();
                seen.push(byte[0]);
            }
            text(&seen)
        })
    };
    let seen = read_until("}\n").await.unwrap();
    assert!(seen.contains(r#""Width":99"#) && seen.contains(r#""Height":42"#), "{seen}");
    assert!(
        !termios::tcgetattr(&slave).unwrap().local_modes.contains(termios::LocalModes::ECHO),
        "keys are the command's"
    );
    (&terminal).write_all(b"\x03").unwrap(); // not a signal for this process but a key for that one
    assert_eq!(read_until("\x03").await.unwrap(), "\x03");
    // The command ends while the terminal still could be read from.
    (&terminal).write_all(b"end").unwrap();
    assert!(child.wait().await.unwrap().success());
    let after = termios::tcgetattr(&slave).unwrap();
    assert_eq!((after.local_modes, after.input_modes), (before.local_modes, before.input_modes));
    assert!(server.asked("tty=true") && server.asked("stdin=true"));
}

#[tokio::test]
async fn without_a_server_the_way_out_is_named() {
    let server = Server::start().await;
    std::fs::remove_file(server.dir.path().join("admin.kubeconfig")).unwrap();
    let output = server.command(&["get", "pods"]).env_remove("HOME").output().await.unwrap();
    assert!(text(&output.stderr).contains("is a server running on this machine?"));
    let dead = r#"{"apiVersion":"v1","kind":"Config","current-context":"c","users":[{"name":"u","user":{}}],
        "clusters":[{"name":"c","cluster":{"server":"http://127.0.0.1:9"}}],
        "contexts":[{"name":"c","context":{"cluster":"c","user":"u"}}]}"#;
    server.file("admin.kubeconfig", dead);
    let error = server.fails(&["get", "pods"]).await;
    assert!(
        error.starts_with("error: cannot reach the server http://127.0.0.1:9: ") && error.contains("refused"),
        "{error}"
    );
    let error = server.fails(&["image", "ls"]).await;
    assert!(error.contains("no server answers at") && error.contains("orlop.sock"), "{error}");
}

#[tokio::test]
async fn images_are_built_imported_listed_and_removed() {
    let server = Server::start().await;
    let data = server.dir.path().to_path_buf();
    let options = orlop_runtime::image::StoreOptions { root: data.join("images"), ..Default::default() };
    let store = orlop_runtime::image::ImageStore::open(options).unwrap();
    let socket = data.join(orlop_runtime::image::control::SOCKET);
    let serving = socket.clone();
    tokio::spawn(async move {
        orlop_runtime::image::control::serve(store, &serving, std::future::pending()).await.unwrap();
    });
    while tokio::net::UnixStream::connect(&socket).await.is_err() {
        tokio::task::yield_now().await;
    }
    let rootfs = data.join("rootfs");
    std::fs::create_dir(&rootfs).unwrap();
    std::fs::write(rootfs.join("file"), vec![7; 3_000_000]).unwrap();
    let rootfs = rootfs.display().to_string();
    let built =
        server.ok(&["image", "build", &rootfs, "-t", "app:1", "--entrypoint", "/file", "-e", "A=b"]).await;
    assert_eq!(built, "docker.io/library/app:1\n");
    let archive = data.join("app.tar").display().to_string();
    let id = server.ok(&["image", "build", &rootfs, "-t", "app:2", "-o", &archive]).await;
    assert!(id.starts_with("sha256:"));
    assert_eq!(server.ok(&["image", "import", &archive]).await, "docker.io/library/app:2\n");
    let listed = server.ok(&["image", "ls"]).await;
    let lines: Vec<&str> = listed.lines().collect();
    assert_eq!(lines.len(), 3, "{listed}");
    assert!(
        lines[0].starts_with("IMAGE")
            && listed.contains("docker.io/library/app:1   ")
            && listed.contains(&id[7..19])
    );
    assert_eq!(server.ok(&["image", "rm", "app:1"]).await, "app:1\n");
    assert!(server.fails(&["image", "rm", "app:1"]).await.contains("image app:1 not found"));
    let error = server.fails(&["image", "pull", "127.0.0.1:9/none"]).await;
    assert!(error.contains("pulling 127.0.0.1:9/none: cannot connect"), "{error}");
    assert!(server.fails(&["image", "import", "/dev/null"]).await.contains("holds no image"));
    assert!(server.fails(&["image", "build", "/missing", "-t", "x"]).await.contains("/missing"));
}
