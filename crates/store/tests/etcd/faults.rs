//! What becomes of writes and watches when members die, freeze and return.

use crate::members::Members;
use futures::StreamExt;
use orlop_store::{Commit, Error, Op, Revision, Store, Txn};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

/// Writes keys of its own one after the other until told to stop; returns which were acknowledged, and which may be there.
async fn writer(
    store: Arc<dyn Store>,
    name: String,
    stop: Arc<AtomicBool>,
) -> (BTreeMap<String, Revision>, BTreeSet<String>) {
    let (mut acknowledged, mut unknown) = (BTreeMap::new(), BTreeSet::new());
    for i in 0.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let key = format!("/s/{name}/{i:06}");
        match store.commit(Txn::create(key.as_str(), "x".into())).await {
            Ok(Commit::Done(revision)) => {
                acknowledged.insert(key, revision);
            }
            Ok(conflict) => panic!("nobody else writes {key}: {conflict:?}"),
            Err(Error::Unreachable { .. }) => {
                unknown.insert(key);
            }
            Err(error) => panic!("{key}: {error}"),
        }
    }
    (acknowledged, unknown)
}

/// Lets clients write and watch while `harm` does its work, and then proves that nothing acknowledged is lost and that the
/// watch told everything once and in order.
async fn survive(members: Members, harm: impl AsyncFnOnce(Members, Arc<dyn Store>) -> Members) {
    let store: Arc<dyn Store> = Arc::new(members.store().await);
    let base = store.revision().await.unwrap();
    let mut watch = store.watch("/s/", base).await.unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let writers: Vec<_> =
        (0..4).map(|i| tokio::spawn(writer(store.clone(), i.to_string(), stop.clone()))).collect();
    let _members = harm(members, store.clone()).await;
    stop.store(true, Ordering::Relaxed);
    let (mut acknowledged, mut unknown) = (BTreeMap::new(), BTreeSet::new());
    for writer in writers {
        let (done, maybe) = writer.await.unwrap();
        acknowledged.extend(done);
        unknown.extend(maybe);
    }
    let page = store.list("/s/", None, None, 0).await.unwrap();
    let there: BTreeMap<String, Revision> =
        page.entries.iter().map(|e| (e.key.to_string(), e.modified)).collect();
    for (key, revision) in &acknowledged {
        assert_eq!(there.get(key), Some(revision), "{key} was acknowledged");
    }
    for key in there.keys() {
        assert!(acknowledged.contains_key(key) || unknown.contains(key), "nobody wrote {key}");
    }
    let mut told = BTreeMap::new();
    let mut last = base;
    while last < page.revision {
        let item = tokio::time::timeout(Duration::from_secs(30), watch.next()).await.expect("nothing came");
        let batch = item.expect("ended").unwrap();
        assert_eq!(batch.revision, Revision(last.0 + 1), "every revision once");
        last = batch.revision;
        for change in &batch.changes {
            assert!(change.previous.is_none() && !change.deleted);
            told.insert(change.entry.key.to_string(), change.entry.modified);
        }
    }
    assert_eq!(told, there);
}

/// Returns when a write went through.
async fn written(store: &dyn Store, key: &str) {
    let write = || Txn { conditions: Vec::new(), ops: vec![Op::Put(key.into(), "x".into())] };
    while store.commit(write()).await.is_err() {}
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_or_told_twice_when_each_member_dies_in_its_turn() {
    survive(Members::start(3, &[]), async |mut members, store| {
        for _ in 0..2 {
            for member in 0..3 {
                tokio::time::sleep(Duration::from_millis(200)).await;
                members.kill(member);
                written(&*store, "/other").await;
                members.begin(member);
                while members.etcdctl(member, &["get", "/other"]).is_none() {}
            }
        }
        members
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_or_told_twice_when_the_leader_dies() {
    survive(Members::start(3, &[]), async |mut members, store| {
        tokio::time::sleep(Duration::from_millis(200)).await;
        let leader = members.leader().expect("one leads");
        members.kill(leader);
        written(&*store, "/other").await;
        written(&*store, "/other").await;
        members
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_member_is_left_and_its_return_does_no_harm() {
    survive(Members::start(3, &[]), async |members, store| {
        tokio::time::sleep(Duration::from_millis(200)).await;
        // The one that is asked.
        members.freeze(0);
        written(&*store, "/other").await;
        members.thaw(0);
        written(&*store, "/other").await;
        members
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_goes_on_when_its_only_member_was_killed_and_started_again() {
    survive(Members::start(1, &[]), async |mut members, store| {
        tokio::time::sleep(Duration::from_millis(200)).await;
        members.kill(0);
        members.begin(0);
        written(&*store, "/other").await;
        members
    })
    .await;
}
