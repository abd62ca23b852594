//! What a watcher makes of what servers say, frame by frame.

use super::*;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::ResourceExt;
use parking_lot::Mutex;
use std::{convert::Infallible, sync::Arc};

/// An answer: a code, and what arrives of the body, piece by piece. A body ends with its pieces, unless the last one is `…`: then
/// nothing more comes.
type Answer = (u16, Vec<String>);

const SILENT: &str = "…";

/// A server that gives its answers one after the other, then is silent, and notes what it was asked.
struct Script {
    answers: Mutex<VecDeque<Answer>>,
    asked: Mutex<Vec<String>>,
}

fn body(pieces: Vec<String>) -> impl http_body::Body<Data = Bytes, Error = Infallible> + Send + 'static {
    let stream = futures::stream::iter(pieces).then(|piece| async move {
        if piece == SILENT {
            std::future::pending::<()>().await;
        }
        Ok::<_, Infallible>(http_body::Frame::data(Bytes::from(piece)))
    });
    http_body_util::StreamBody::new(stream)
}

fn serve(answers: Vec<Answer>) -> (Client, Arc<Script>) {
    let script = Arc::new(Script { answers: Mutex::new(answers.into()), asked: Mutex::default() });
    let server = script.clone();
    let service = tower::service_fn(move |request: http::Request<Body>| {
        let server = server.clone();
        async move {
            server.asked.lock().push(request.uri().to_string());
            let next = server.answers.lock().pop_front();
            let Some((code, pieces)) = next else { return std::future::pending().await };
            let response = http::Response::builder().status(code).body(body(pieces));
            Ok::<_, Infallible>(response.expect("a response"))
        }
    });
    (Client::new(service, "default"), script)
}

fn map(name: &str, version: u32) -> String {
    format!(
        r#"{{"apiVersion":"v1","kind":"ConfigMap","metadata":{{"resourceVersion":"{version}","managedFields":[{{"x":1}}],"name":"{name}"}}}}"#
    )
}

fn line(kind: &str, object: &str) -> String {
    format!("{{\"type\":\"{kind}\",\"object\":{object}}}\n")
}

fn page(version: u32, token: &str, maps: &[String]) -> Answer {
    let items = maps.join(",");
    let metadata = format!(r#"{{"resourceVersion":"{version}","continue":"{token}"}}"#);
    (200, vec![format!(r#"{{"kind":"ConfigMapList","metadata":{metadata},"items":[{items}]}}"#)])
}

fn watch(lines: &[String]) -> Answer {
    (200, lines.to_vec())
}

fn status(code: u16) -> String {
    format!(r#"{{"kind":"Status","status":"Failure","message":"no","code":{code}}}"#)
}

/// What a watcher tells until nothing more happens, and what it asked for.
async fn told(answers: Vec<Answer>) -> (Vec<String>, Vec<String>) {
    let (client, script) = serve(answers);
    let mut events = Box::pin(Watcher::new(client, Source::at("/maps")).into_stream::<ConfigMap>());
    let mut told = Vec::new();
    // Time is paused: it passes at once when nobody has anything to do.
    while let Ok(Some(event)) = timeout(Duration::from_secs(120), events.next()).await {
        let name = |map: ConfigMap| {
            assert!(map.metadata.managed_fields.is_none(), "nobody reads those");
            format!("{}@{}", map.name_any(), map.resource_version().unwrap_or_default())
        };
        told.push(match event {
            Ok(Event::Init) => "init".into(),
            Ok(Event::InitApply(map)) => format!("listed {}", name(map)),
            Ok(Event::InitDone) => "done".into(),
            Ok(Event::Apply(map)) => format!("apply {}", name(map)),
            Ok(Event::Delete(map)) => format!("delete {}", name(map)),
            Err(error) => format!("error {error}"),
        });
    }
    let asked = script.asked.lock().iter().map(|uri| uri.replace("allowWatchBookmarks=true&", "")).collect();
    (told, asked)
}

fn silent() -> String {
    SILENT.into()
}

#[tokio::test(start_paused = true)]
async fn a_list_comes_page_by_page_and_a_watch_follows_where_it_ends() {
    let (told, asked) = told(vec![
        page(7, "next", &[map("a", 3)]),
        page(7, "", &[map("b", 5)]),
        watch(&[line("ADDED", &map("c", 8)), line("DELETED", &map("a", 9)), silent()]),
    ])
    .await;
    assert_eq!(told, ["init", "listed a@3", "listed b@5", "done", "apply c@8", "delete a@9"]);
    assert_eq!(asked[..2], ["/maps?limit=500", "/maps?limit=500&continue=next"]);
    assert!(
        asked[2].starts_with("/maps?watch=true&timeoutSeconds=") && asked[2].ends_with("&resourceVersion=7")
    );
    assert_eq!(asked.len(), 3, "{asked:?}");
}

#[tokio::test(start_paused = true)]
async fn lines_are_put_together_however_they_arrive() {
    let lines = [line("ADDED", &map("a", 1)), "\n".into(), line("MODIFIED", &map("b", 2))].concat();
    for size in [1, 7, 100, lines.len()] {
        let mut pieces: Vec<String> =
            lines.as_bytes().chunks(size).map(|piece| String::from_utf8_lossy(piece).into_owned()).collect();
        pieces.push(silent());
        let (told, _) = told(vec![page(0, "", &[]), (200, pieces)]).await;
        assert_eq!(told, ["init", "done", "apply a@1", "apply b@2"]);
    }
}

#[tokio::test(start_paused = true)]
async fn members_in_another_order_are_understood() {
    let odd = format!(" {{ \"object\" : {} , \"type\" : \"ADDED\" }}\n", map("a", 1));
    let (told, _) = told(vec![page(0, "", &[]), watch(&[odd, silent()])]).await;
    assert_eq!(told[2..], ["apply a@1"]);
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_ends_goes_on_from_the_last_object_or_bookmark() {
    let bookmark = line("BOOKMARK", r#"{"kind":"ConfigMap","metadata":{"resourceVersion":"30"}}"#);
    let (told, asked) = told(vec![
        page(7, "", &[]),
        watch(&[line("ADDED", &map("a", 8))]),
        watch(&[bookmark]),
        watch(&[line("MODIFIED", &map("a", 31)), silent()]),
    ])
    .await;
    assert_eq!(told, ["init", "done", "apply a@8", "apply a@31"]);
    let from: Vec<&str> = asked[1..].iter().filter_map(|uri| uri.split("resourceVersion=").nth(1)).collect();
    assert_eq!(from, ["7", "8", "30"]);
}

#[tokio::test(start_paused = true)]
async fn what_the_server_no_longer_knows_is_listed_anew() {
    for gone in [watch(&[line("ERROR", &status(410))]), (410, vec![status(410)])] {
        let (told, asked) = told(vec![
            page(7, "", &[map("a", 3)]),
            gone,
            page(50, "", &[map("b", 40)]),
            watch(&[line("ADDED", &map("c", 51)), silent()]),
        ])
        .await;
        assert_eq!(
            told,
            ["init", "listed a@3", "done", "error no (410)", "init", "listed b@40", "done", "apply c@51"]
        );
        assert!(asked[3].ends_with("resourceVersion=50"));
    }
}

#[tokio::test(start_paused = true)]
async fn a_list_whose_pages_expire_begins_anew_and_in_one_piece() {
    let (told, asked) = told(vec![
        page(7, "next", &[map("a", 3)]),
        (410, vec![status(410)]),
        page(9, "", &[map("b", 5)]),
        watch(&[silent()]),
    ])
    .await;
    assert_eq!(told, ["init", "listed a@3", "error no (410)", "init", "listed b@5", "done"]);
    assert_eq!(asked[2], "/maps?");
}

#[tokio::test(start_paused = true)]
async fn other_errors_are_waited_out_and_nothing_is_missed() {
    let (told, asked) = told(vec![
        (503, vec!["not even JSON".into()]),
        page(7, "", &[]),
        (429, vec![status(429)]),
        watch(&[line("ADDED", &map("a", 8)), line("ERROR", &status(500))]),
        watch(&["{\"type\":\"ADDED\",\"obj".into()]),
        watch(&["nonsense\n".into()]),
        watch(&[line("ADDED", &map("b", 9)), silent()]),
    ])
    .await;
    assert_eq!(told[..5], ["error  (503)", "init", "done", "error no (429)", "apply a@8"]);
    assert_eq!(told[5], "error no (500)");
    assert_eq!(told[6], "error the watch ended at once");
    assert!(told[7].starts_with("error not what an API server says"), "{}", told[7]);
    assert_eq!(told[8..], ["apply b@9"]);
    assert!(asked[6].ends_with("resourceVersion=8"));
}

#[tokio::test(start_paused = true)]
async fn an_object_that_does_not_decode_is_told_of_and_the_rest_follows() {
    let odd = r#"{"metadata":{"resourceVersion":"8","name":7}}"#;
    let (told, asked) =
        told(vec![page(7, "", &[]), watch(&[line("ADDED", odd), line("ADDED", &map("b", 9)), silent()])])
            .await;
    assert!(told[2].starts_with("error"), "{told:?}");
    assert_eq!(told[3..], ["apply b@9"]);
    assert_eq!(asked.len(), 2, "the watch goes on");
}

#[tokio::test(start_paused = true)]
async fn pauses_grow_while_it_fails_and_no_longer() {
    let refusals = || (0..12).map(|_| (500, vec![status(500)]));
    let (client, script) = serve(refusals().collect());
    let mut watcher = Watcher::new(client, Source::at("/maps"));
    let start = Instant::now();
    for _ in 0..12 {
        assert!(watcher.next().await.is_err());
    }
    let waited = start.elapsed().as_secs();
    assert!((120..200).contains(&waited), "{waited}");
    script.answers.lock().extend([page(1, "", &[]), (500, vec![status(500)])]);
    for _ in 0..3 {
        let _ = watcher.next().await;
    }
    let start = Instant::now();
    script.answers.lock().push_back(watch(&[line("ADDED", &map("a", 2)), silent()]));
    assert!(matches!(watcher.next().await, Ok(Event::Apply(_))));
    assert!(start.elapsed() < Duration::from_secs(1), "after something went well the pause is short again");
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_is_silent_for_too_long_is_made_anew() {
    let (client, script) = serve(vec![page(7, "", &[]), watch(&[silent()])]);
    let mut watcher = Watcher::new(client, Source::at("/maps"));
    while !matches!(watcher.next().await, Ok(Event::InitDone)) {}
    let _ = timeout(Duration::from_secs(1200), watcher.next()).await;
    assert_eq!(script.asked.lock().len(), 3);
}

#[test]
fn selectors_are_encoded_and_metadata_can_be_asked_for_alone() {
    let source = Source::at("/maps").labels("a in (b,c)").fields("x=y").metadata_only();
    let request = source.request(&[("limit", "")]);
    assert_eq!(request.uri().to_string(), "/maps?labelSelector=a+in+%28b%2Cc%29&fieldSelector=x%3Dy");
    assert!(
        request.headers()[http::header::ACCEPT].to_str().is_ok_and(|a| a.contains("PartialObjectMetadata"))
    );
}
