//! Asks nodes what they use, by the way that logs and exec go too. What a node said is kept for a moment, so that many who ask cost
//! one question; a node that does not answer is left alone for a while. Computes nothing.

use super::usage::{Pair, Report};
use crate::{registry::Clock, streaming::Nodes};
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use jiff::Timestamp;
use orlop_api::object::text;
use parking_lot::Mutex;
use serde_json::Value;
use std::{collections::HashMap, sync::Arc, time::Duration};

/// For how long a report is new.
const FRESH: i64 = 5_000;
/// For how long one is good as the beginning of a window.
const USABLE: i64 = 120_000;
/// How long a node that did not answer is not asked again.
const SILENCE: i64 = 15_000;
/// The window where there is no report to begin with.
const FIRST_WINDOW: Duration = Duration::from_secs(1);
const ANSWER: Duration = Duration::from_secs(5);
/// The largest answer that is read.
const LARGEST: usize = 64 << 20;

/// What is known of a node.
#[derive(Default)]
struct History {
    /// The newest two reports, and when the later one came (milliseconds).
    pair: Option<(Arc<Pair>, i64)>,
    /// When it last failed to answer.
    silent_since: Option<i64>,
}

pub(crate) struct Sampler {
    nodes: Arc<Nodes>,
    clock: Clock,
    known: Mutex<HashMap<String, Arc<tokio::sync::Mutex<History>>>>,
}

/// What is to be done with what is known.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    Keep,
    /// One report more, the last is the beginning.
    Another,
    /// Two reports.
    Anew,
    GiveUp,
}

fn step(history: &History, now: i64) -> Step {
    if history.silent_since.is_some_and(|since| now - since < SILENCE) {
        return Step::GiveUp;
    }
    match history.pair.as_ref().map(|(_, at)| now - at) {
        Some(age) if age < FRESH => Step::Keep,
        Some(age) if age < USABLE => Step::Another,
        _ => Step::Anew,
    }
}

impl Sampler {
    pub(crate) fn new(nodes: Arc<Nodes>, clock: Clock) -> Self {
        Self { nodes, clock, known: Mutex::default() }
    }

    fn now(&self) -> i64 {
        (self.clock)().as_millisecond()
    }

    /// The newest reports of a node; `None` where it does not answer.
    pub(super) async fn reports(&self, node: &Value) -> Option<Arc<Pair>> {
        let uid = text(node, "/metadata/uid");
        let history = self.known.lock().entry(uid.to_string()).or_default().clone();
        // Whoever comes while somebody asks waits for the same answer.
        let mut history = history.lock().await;
        let before = match step(&history, self.now()) {
            Step::Keep => return history.pair.as_ref().map(|(pair, _)| pair.clone()),
            Step::GiveUp => return None,
            Step::Another => history.pair.as_ref().map(|(pair, _)| pair.now.clone()),
            Step::Anew => {
                let first = self.ask(node).await;
                tokio::time::sleep(if first.is_some() { FIRST_WINDOW } else { Duration::ZERO }).await;
                first
            }
        };
        let now = match before {
            Some(before) => self.ask(node).await.map(|now| Arc::new(Pair { before, now })),
            None => None,
        };
        match now {
            Some(pair) => {
                *history = History { pair: Some((pair.clone(), self.now())), silent_since: None };
                Some(pair)
            }
            None => {
                *history = History { pair: None, silent_since: Some(self.now()) };
                None
            }
        }
    }

    async fn ask(&self, node: &Value) -> Option<Report> {
        let request = http::Request::get("/stats/summary").body(Full::new(Bytes::new())).ok()?;
        let answer = async {
            let answer = self.nodes.send(node, request).await.map_err(|status| status.message)?;
            if !answer.status().is_success() {
                return Err(format!("it answered {}", answer.status()));
            }
            let body =
                Limited::new(answer.into_body(), LARGEST).collect().await.map_err(|e| e.to_string())?;
            serde_json::from_slice::<Value>(&body.to_bytes()).map_err(|e| e.to_string())
        };
        let outcome =
            tokio::time::timeout(ANSWER, answer).await.unwrap_or_else(|_| Err("it did not answer".into()));
        match outcome {
            Ok(summary) => Some(Report::read(&summary)),
            Err(why) => {
                tracing::debug!(node = text(node, "/metadata/name"), why, "a node's figures are missing");
                None
            }
        }
    }

    /// Forgets nodes that are gone.
    pub(super) fn keep_only(&self, uids: &[&str]) {
        self.known.lock().retain(|uid, _| uids.contains(&uid.as_str()));
    }

    pub(super) fn time(&self) -> Timestamp {
        (self.clock)()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_kept_for_a_moment_and_begins_the_next_window_for_a_while() {
        let pair = Arc::new(Pair { before: Report::default(), now: Report::default() });
        let known = History { pair: Some((pair, 0)), silent_since: None };
        assert_eq!(step(&known, FRESH - 1), Step::Keep);
        assert_eq!(step(&known, FRESH), Step::Another);
        assert_eq!(step(&known, USABLE), Step::Anew);
        assert_eq!(step(&History::default(), 0), Step::Anew);
        let silent = History { silent_since: Some(0), ..History::default() };
        assert_eq!(step(&silent, SILENCE - 1), Step::GiveUp);
        assert_eq!(step(&silent, SILENCE), Step::Anew);
    }
}
