//! Who led before and was asleep changes nothing: writes behind a fence hold only in the term that they were made in.

use crate::support::server;
use k8s_openapi::api::{coordination::v1::Lease, core::v1::ConfigMap};
use kube::{
    Api, Client,
    api::{DeleteParams, Patch, PatchParams, PostParams},
};
use orlop_apiserver::{ApiServer, FENCED, Fence, Identity};
use orlop_client::election::{Candidate, Term, Timing};
use serde_json::json;
use std::{sync::Arc, time::Duration};
use tokio::sync::{mpsc, oneshot};

fn client(server: &Arc<ApiServer>, fence: Option<Fence>) -> Client {
    Client::new(server.service_for(Identity::new("admin", &["system:masters"]).behind(fence)), "default")
}

fn lease(holder: &str) -> Lease {
    serde_json::from_value(json!({
        "metadata": {"name": "leader", "annotations": {FENCED: "true"}}, "spec": {"holderIdentity": holder}}))
    .expect("a lease")
}

fn version(lease: &Lease) -> u64 {
    lease.metadata.resource_version.as_deref().and_then(|v| v.parse().ok()).expect("a version")
}

fn map(name: &str) -> ConfigMap {
    serde_json::from_value(json!({"metadata": {"name": name}})).expect("a map")
}

#[tokio::test]
async fn only_the_holder_of_the_last_term_writes() {
    let server = server().await;
    let params = PostParams::default();
    let leases = Api::<Lease>::default_namespaced(client(&server, None));
    let taken = leases.create(&params, &lease("a")).await.expect("taken");
    let behind = |lease: &Lease| {
        let fence = Fence::new("default", "leader", version(lease));
        Api::<ConfigMap>::default_namespaced(client(&server, Some(fence)))
    };
    let first = behind(&taken);
    first.create(&params, &map("one")).await.expect("it leads");
    let mut renewed = taken.clone();
    renewed.metadata.labels = Some([("renewed".to_string(), "true".to_string())].into());
    let renewed = leases.replace("leader", &params, &renewed).await.expect("renewed");
    first.create(&params, &map("two")).await.expect("renewing begins no new term");

    let mut other = renewed;
    other.spec.as_mut().expect("there").holder_identity = Some("b".into());
    let other = leases.replace("leader", &params, &other).await.expect("taken over");
    let second = behind(&other);
    second.create(&params, &map("three")).await.expect("it leads");
    let patch = Patch::Merge(json!({"data": {"k": "v"}}));
    let refused = [
        first.create(&params, &map("four")).await.map(drop),
        first.patch("one", &PatchParams::default(), &patch).await.map(drop),
        first.delete("one", &DeleteParams::default()).await.map(drop),
    ];
    for outcome in refused {
        let error = outcome.expect_err("it leads no more").to_string();
        assert!(error.contains("another server leads now"), "{error}");
    }
    assert!(second.get_opt("four").await.expect("asked").is_none());
    assert!(second.get("one").await.expect("still there").data.is_none());
    second.delete("one", &DeleteParams::default()).await.expect("it leads");
}

#[tokio::test]
async fn who_leads_again_after_a_lost_answer_writes_in_the_new_term_and_not_in_the_old_one() {
    let server = server().await;
    let leases = Api::<Lease>::default_namespaced(client(&server, None));
    // Taken by "a", which never heard of it.
    let lost = leases.create(&PostParams::default(), &lease("a")).await.expect("taken");
    let timing = Timing { lasts: Duration::from_secs(3600), ..Timing::default() };
    let mut again = run(&server, "a", timing);
    let term = again.terms.recv().await.expect("leads without waiting for itself");
    let maps = |began| {
        let fence = Fence::new("default", "leader", began);
        Api::<ConfigMap>::default_namespaced(client(&server, Some(fence)))
    };
    maps(term.began).create(&PostParams::default(), &map("new")).await.expect("it leads");
    let refused = maps(version(&lost)).create(&PostParams::default(), &map("old")).await;
    assert!(refused.expect_err("that term is over").to_string().contains("another server leads now"));
}

/// A candidate that tells when it leads, and resigns when it is told to.
struct Runs {
    terms: mpsc::UnboundedReceiver<Term>,
    resign: oneshot::Sender<()>,
    ended: tokio::task::JoinHandle<bool>,
}

fn run(server: &Arc<ApiServer>, name: &str, timing: Timing) -> Runs {
    let (tell, terms) = mpsc::unbounded_channel();
    let (resign, resigned) = oneshot::channel();
    let clock: orlop_client::Clock = Arc::new(jiff::Timestamp::now);
    let candidate = Candidate::new(client(server, None), "default", "leader", name.into(), clock)
        .annotated(FENCED, "true")
        .timed(timing);
    let ended = tokio::spawn(async move {
        let lead = |term: Term| {
            let _ = tell.send(term);
            std::future::pending()
        };
        candidate.run(lead, async { drop(resigned.await) }).await
    });
    Runs { terms, resign, ended }
}

#[tokio::test]
async fn one_leads_until_it_resigns_or_dies_and_the_next_begins_a_term_of_its_own() {
    let server = server().await;
    let timing = Timing {
        lasts: Duration::from_millis(600),
        renewed_within: Duration::from_millis(400),
        every: Duration::from_millis(50),
        look: Duration::from_millis(20),
    };
    let mut first = run(&server, "a", timing);
    let one = first.terms.recv().await.expect("leads");
    let mut second = run(&server, "b", timing);
    tokio::time::sleep(timing.lasts * 2).await;
    assert!(second.terms.try_recv().is_err(), "the first renews its lease");
    first.resign.send(()).expect("runs");
    assert!(first.ended.await.expect("ends"), "it was asked to");
    let two = second.terms.recv().await.expect("leads at once");
    assert!(two.began > one.began);
    second.ended.abort(); // it dies without a word
    let mut third = run(&server, "c", timing);
    let three = third.terms.recv().await.expect("leads when the lease has run out");
    assert!(three.began > two.began);
    drop(third);
}
