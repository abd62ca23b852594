//! Logs as a client gets them.

use super::*;
use std::{fs, io::Write, path::Path};

fn append(path: &Path, text: &str) {
    let mut file = fs::OpenOptions::new().append(true).create(true).open(path).expect("a log");
    for line in text.lines() {
        let time = format!("{:.9}", jiff::Timestamp::now());
        file.write_all(format!("{time} stdout F {line}\n").as_bytes()).expect("written");
    }
}

/// The body of a log that is followed.
struct Following {
    body: hyper::body::Incoming,
    seen: String,
}

impl Following {
    async fn start(node: &Node, query: &str) -> Self {
        let path = format!("/containerLogs/default/web/app?follow=true{query}");
        let (status, body) = request(node.connect().await, &path).await;
        assert_eq!(status, StatusCode::OK);
        Self { body, seen: String::new() }
    }

    /// Reads until all of a text has come, or to the end.
    async fn until(&mut self, end: Option<&str>) -> String {
        while end.is_none_or(|end| !self.seen.ends_with(end)) {
            let Some(frame) = patient(self.body.frame()).await else {
                assert_eq!(end, None, "the log ended after {:?}", self.seen);
                break;
            };
            let data = frame.expect("a frame").into_data().expect("data");
            self.seen.push_str(std::str::from_utf8(&data).expect("text"));
        }
        std::mem::take(&mut self.seen)
    }
}

#[tokio::test]
async fn a_log_is_read_as_it_is_and_of_the_try_before() {
    let node = Node::start().await;
    append(&node.log(0), "it crashed");
    append(&node.log(1), "one\ntwo\nthree");
    let logs = "/containerLogs/default/web/app";
    assert_eq!(node.get(logs).await, (StatusCode::OK, "one\ntwo\nthree\n".into()));
    assert_eq!(node.get(&format!("{logs}?tailLines=2")).await.1, "two\nthree\n");
    assert_eq!(node.get(&format!("{logs}?limitBytes=5")).await.1, "one\nt");
    assert_eq!(node.get(&format!("{logs}?previous=true")).await.1, "it crashed\n");
    let (_, stamped) = node.get(&format!("{logs}?timestamps=true&tailLines=1")).await;
    let (time, text) = stamped.split_once(' ').expect("a time and text");
    assert_eq!((time.len(), text), ("2026-07-01T00:00:00.000000000Z".len(), "three\n"));
    time.parse::<jiff::Timestamp>().expect("a time");
}

#[tokio::test]
async fn what_has_no_log_says_why() {
    let node = Node::start().await;
    let cases = [
        ("/containerLogs/default/nope/app", 404, "pod \"nope\" does not exist\n"),
        ("/containerLogs/default/web/nope", 404, "container \"nope\" not found in pod \"web\"\n"),
        (
            "/containerLogs/default/web/late",
            400,
            "container \"late\" in pod \"web\" is waiting to start: ContainerCreating",
        ),
        (
            "/containerLogs/default/web/late?previous=true",
            400,
            "previous terminated container \"late\" in pod \"web\" not found",
        ),
    ];
    for (path, status, text) in cases {
        assert_eq!(node.get(path).await, (StatusCode::from_u16(status).expect("a code"), text.into()));
    }
    assert_eq!(
        node.get("/containerLogs/default/web/app?tailLines=-1").await.0,
        StatusCode::UNPROCESSABLE_ENTITY
    );
}

#[tokio::test]
async fn following_goes_on_through_rotation_and_ends_with_the_container() {
    let node = Node::start().await;
    let log = node.log(1);
    append(&log, "old\nlast");
    let mut following = Following::start(&node, "&tailLines=1").await;
    assert_eq!(following.until(Some("last\n")).await, "last\n");
    append(&log, "more");
    assert_eq!(following.until(Some("more\n")).await, "more\n");
    for n in 0..20 {
        append(&log, &format!("before {n}"));
        fs::rename(&log, log.with_extension("log.1")).expect("rotated");
        append(&log, &format!("after {n}"));
        let want = format!("before {n}\nafter {n}\n");
        assert_eq!(following.until(Some(&format!("after {n}\n"))).await, want);
    }
    append(&log, "the end");
    node.runtime.end("app-1");
    assert_eq!(following.until(None).await, "the end\n");
}

#[tokio::test]
async fn following_what_has_ended_ends_at_once() {
    let node = Node::start().await;
    append(&node.log(1), "all");
    node.runtime.end("app-1");
    assert_eq!(Following::start(&node, "").await.until(None).await, "all\n");
}
