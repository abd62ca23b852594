//! Promises about transactions: revisions, conditions, atomicity, concurrency.

use super::{delete, done, put, writes};
use crate::{Commit, Condition, Error, Expect, Op, Revision, Store, Txn};
use bytes::Bytes;
use std::sync::Arc;

fn when(conditions: &[(&str, Expect)], ops: &[(&str, Option<&str>)]) -> Txn {
    let conditions =
        conditions.iter().map(|(key, expect)| Condition { key: (*key).into(), expect: *expect }).collect();
    Txn { conditions, ..writes(ops) }
}

/// Revisions are counted without gaps, and only by what changes something.
pub async fn only_what_changes_something_takes_a_revision(store: Arc<dyn Store>) {
    let base = store.revision().await.unwrap().0;
    assert_eq!(put(&*store, "/s/a", "1").await, Revision(base + 1));
    assert_eq!(put(&*store, "/s/a", "1").await, Revision(base + 2), "the same value again is a write");
    assert_eq!(delete(&*store, "/s/none").await, Revision(base + 2), "nothing to delete");
    assert_eq!(done(store.commit(Txn::default()).await.unwrap()), Revision(base + 2), "an empty transaction");
    let only_looks = when(&[("/s/a", Expect::Present)], &[]);
    assert_eq!(done(store.commit(only_looks).await.unwrap()), Revision(base + 2));
    let half = writes(&[("/s/none", None), ("/s/b", Some("1"))]);
    assert_eq!(done(store.commit(half).await.unwrap()), Revision(base + 3));
    assert_eq!(delete(&*store, "/s/a").await, Revision(base + 4));
    assert_eq!(store.revision().await.unwrap(), Revision(base + 4));
}

/// Each expectation, met and not met.
pub async fn conditions_hold_or_nothing_is_written(store: Arc<dyn Store>) {
    let first = put(&*store, "/s/there", "1").await;
    let there = put(&*store, "/s/there", "2").await;
    let cases = [
        ("/s/none", Expect::Absent, true),
        ("/s/none", Expect::Present, false),
        ("/s/none", Expect::Modified(there), false),
        ("/s/none", Expect::Modified(Revision(0)), false),
        ("/s/there", Expect::Absent, false),
        ("/s/there", Expect::Present, true),
        ("/s/there", Expect::Modified(there), true),
        ("/s/there", Expect::Modified(first), false),
        ("/s/there", Expect::Modified(Revision(there.0 + 1)), false),
    ];
    for (i, (key, expect, holds)) in cases.into_iter().enumerate() {
        let before = store.revision().await.unwrap();
        let target = format!("/s/written/{i}");
        let current = store.get(key).await.unwrap().0;
        let commit = store.commit(when(&[(key, expect)], &[(&target, Some("x"))])).await.unwrap();
        let written = store.get(&target).await.unwrap().0.is_some();
        if holds {
            assert_eq!((done(commit), written), (Revision(before.0 + 1), true), "{key} {expect:?}");
        } else {
            assert_eq!(commit, Commit::Conflict { key: key.into(), current }, "{key} {expect:?}");
            assert!(!written, "{key} {expect:?}");
            assert_eq!(store.revision().await.unwrap(), before);
        }
    }
    let replaced = done(store.commit(Txn::replace("/s/there", there, "3".into())).await.unwrap());
    let stale = store.commit(Txn::delete("/s/there", there)).await.unwrap();
    assert!(matches!(stale, Commit::Conflict { current: Some(e), .. } if e.modified == replaced));
    done(store.commit(Txn::delete("/s/there", replaced)).await.unwrap());
}

/// Of several failing conditions the first is reported.
pub async fn a_conflict_names_the_first_condition_that_failed(store: Arc<dyn Store>) {
    put(&*store, "/s/a", "1").await;
    put(&*store, "/s/b", "1").await;
    let txn = when(
        &[("/s/a", Expect::Present), ("/s/b", Expect::Absent), ("/s/a", Expect::Absent)],
        &[("/s/a", None)],
    );
    let current = store.get("/s/b").await.unwrap().0;
    let expected = Commit::Conflict { key: "/s/b".into(), current };
    assert_eq!(store.commit(txn).await.unwrap(), expected);
}

/// A transaction over several keys is one revision, and is not there at all where a condition fails.
pub async fn several_keys_change_in_one_revision_or_not_at_all(store: Arc<dyn Store>) {
    put(&*store, "/s/old", "1").await;
    let all = [("/s/a", Some("1")), ("/s/b", Some("1")), ("/s/old", None)];
    let revision = done(store.commit(writes(&all)).await.unwrap());
    let page = store.list("/s/", None, None, 0).await.unwrap();
    let found: Vec<_> = page.entries.iter().map(|e| (&*e.key, e.modified)).collect();
    assert_eq!(found, [("/s/a", revision), ("/s/b", revision)]);
    let refused = when(
        &[("/s/a", Expect::Present), ("/s/old", Expect::Present)],
        &[("/s/a", None), ("/s/c", Some("1"))],
    );
    assert!(matches!(store.commit(refused).await.unwrap(), Commit::Conflict { current: None, .. }));
    assert_eq!(store.list("/s/", None, None, 0).await.unwrap().entries, page.entries);
}

/// A key written twice and an empty key are errors, and nothing is written.
pub async fn bad_transactions_are_refused(store: Arc<dyn Store>) {
    let before = store.revision().await.unwrap();
    let bad = [
        writes(&[("/s/a", Some("1")), ("/s/a", Some("2"))]),
        writes(&[("/s/a", Some("1")), ("/s/b", Some("2")), ("/s/a", None)]),
        writes(&[("/s/a", None), ("/s/a", None)]),
        writes(&[("", Some("1"))]),
        writes(&[("/s/a", Some("1")), ("", None)]),
        when(&[("", Expect::Absent)], &[("/s/a", Some("1"))]),
    ];
    for txn in bad {
        let shown = format!("{txn:?}");
        match store.commit(txn).await {
            Err(Error::BadTxn(_)) => {}
            other => panic!("{shown} gave {other:?}"),
        }
    }
    assert_eq!(store.get("/s/a").await.unwrap(), (None, before));
}

/// Exactly one of those who create a key at once succeeds, and the others see its entry.
pub async fn one_of_many_concurrent_creations_wins(store: Arc<dyn Store>) {
    let tasks: Vec<_> = (0..32)
        .map(|i| {
            let store = store.clone();
            let value = Bytes::from(format!("{i}"));
            tokio::spawn(
                async move { (value.clone(), store.commit(Txn::create("/s/k", value)).await.unwrap()) },
            )
        })
        .collect();
    let mut winners = Vec::new();
    let mut seen = Vec::new();
    for task in tasks {
        match task.await.unwrap() {
            (value, Commit::Done(_)) => winners.push(value),
            (_, Commit::Conflict { current, .. }) => seen.push(current.expect("there").value),
        }
    }
    assert_eq!((winners.len(), seen.len()), (1, 31));
    assert!(seen.iter().all(|value| *value == winners[0]));
    assert_eq!(store.get("/s/k").await.unwrap().0.expect("there").value, winners[0]);
}

/// Optimistic concurrency loses no update.
pub async fn concurrent_increments_are_all_counted(store: Arc<dyn Store>) {
    put(&*store, "/s/n", "0").await;
    let tasks: Vec<_> = (0..8)
        .map(|i| {
            let store = store.clone();
            tokio::spawn(async move {
                for n in 0..20 {
                    loop {
                        let entry = store.get("/s/n").await.unwrap().0.expect("there");
                        let count: u64 = std::str::from_utf8(&entry.value).unwrap().parse().unwrap();
                        let mut txn = Txn::replace("/s/n", entry.modified, (count + 1).to_string().into());
                        // What commits together with the increment proves that it happened once.
                        txn.ops.push(Op::Put(format!("/s/proof/{i}/{n}").into(), Bytes::new()));
                        if matches!(store.commit(txn).await.unwrap(), Commit::Done(_)) {
                            break;
                        }
                    }
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(store.get("/s/n").await.unwrap().0.expect("there").value, "160");
    assert_eq!(store.list("/s/proof/", None, None, 0).await.unwrap().entries.len(), 160);
}
