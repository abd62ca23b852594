//! Promises about watches and compaction.

use super::{PATIENCE, delete, done, keys, next, put, writes};
use crate::{Change, Entry, Error, Revision, Store};
use bytes::Bytes;
use std::sync::Arc;

fn entry(key: &str, value: &str, created: Revision, modified: Revision) -> Entry {
    Entry { key: key.into(), value: Bytes::copy_from_slice(value.as_bytes()), created, modified }
}

/// Creation, update and deletion come in order with what was there before, one batch a revision.
pub async fn a_watch_tells_all_that_happens_in_order(store: Arc<dyn Store>) {
    let base = store.revision().await.unwrap();
    let mut early = store.watch("/s/", base).await.unwrap();
    let created = put(&*store, "/s/a", "1").await;
    let updated = put(&*store, "/s/a", "2").await;
    let deleted = delete(&*store, "/s/a").await;
    let both = done(store.commit(writes(&[("/s/z", Some("1")), ("/s/b", Some("2"))])).await.unwrap());
    let mut late = store.watch("/s/", base).await.unwrap();
    let first = entry("/s/a", "1", created, created);
    let second = entry("/s/a", "2", created, updated);
    let last = entry("/s/a", "", created, deleted);
    let change = |entry: &Entry, previous: Option<&Entry>, deleted| Change {
        entry: entry.clone(),
        previous: previous.cloned(),
        deleted,
    };
    let expected = [
        (created, vec![change(&first, None, false)]),
        (updated, vec![change(&second, Some(&first), false)]),
        (deleted, vec![change(&last, Some(&second), true)]),
        (
            both,
            vec![
                change(&entry("/s/z", "1", both, both), None, false),
                change(&entry("/s/b", "2", both, both), None, false),
            ],
        ),
    ];
    for watch in [&mut early, &mut late] {
        for (revision, changes) in &expected {
            let batch = next(watch).await;
            assert_eq!((batch.revision, &batch.changes), (*revision, changes));
        }
    }
    // Nothing more: what comes next is the next write.
    let after = put(&*store, "/s/c", "1").await;
    assert_eq!(next(&mut early).await.revision, after);
    assert_eq!(next(&mut late).await.revision, after);
}

/// Keys elsewhere do not show, also where one transaction writes both.
pub async fn a_watch_sees_only_its_prefix(store: Arc<dyn Store>) {
    let base = store.revision().await.unwrap();
    let mut watch = store.watch("/s/a", base).await.unwrap();
    put(&*store, "/s/b", "1").await;
    put(&*store, "/s", "1").await;
    put(&*store, "/s/A", "1").await;
    let ab = put(&*store, "/s/ab", "1").await;
    let mixed = done(
        store.commit(writes(&[("/s/c", Some("1")), ("/s/a/x", Some("1")), ("/s/b", None)])).await.unwrap(),
    );
    let batch = next(&mut watch).await;
    assert_eq!((batch.revision, &*batch.changes[0].entry.key), (ab, "/s/ab"));
    let batch = next(&mut watch).await;
    assert_eq!((batch.revision, batch.changes.len()), (mixed, 1));
    assert_eq!(&*batch.changes[0].entry.key, "/s/a/x");
}

/// A watch goes on exactly after the revision it is given, whatever that one was about.
pub async fn a_watch_resumes_after_any_kept_revision(store: Arc<dyn Store>) {
    let base = store.revision().await.unwrap();
    for i in 0..40 {
        put(&*store, if i % 4 == 0 { "/t/other" } else { "/s/k" }, &i.to_string()).await;
    }
    for after in base.0..base.0 + 40 {
        let mut watch = store.watch("/s/", Revision(after)).await.unwrap();
        for revision in after + 1..=base.0 + 40 {
            if (revision - base.0 - 1) % 4 != 0 {
                assert_eq!(next(&mut watch).await.revision, Revision(revision));
            }
        }
    }
}

/// History that is gone and revisions that have not been are refused when a watch starts.
pub async fn a_watch_outside_of_history_says_so(store: Arc<dyn Store>) {
    for i in 0..10 {
        put(&*store, "/s/k", &i.to_string()).await;
    }
    let newest = store.revision().await.unwrap();
    let floor = Revision(newest.0 - 3);
    store.compact(floor).await.unwrap();
    let mut watch = store.watch("/s/", floor).await.unwrap();
    assert_eq!(next(&mut watch).await.revision, Revision(floor.0 + 1));
    let gone = Revision(floor.0 - 2);
    match store.watch("/s/", gone).await {
        Err(Error::Compacted { requested, oldest }) => assert_eq!((requested, oldest), (gone, floor)),
        other => panic!("unexpected {:?}", other.err()),
    }
    let future = Revision(newest.0 + 1);
    match store.watch("/s/", future).await {
        Err(Error::Future { requested, newest: n }) => assert_eq!((requested, n), (future, newest)),
        other => panic!("unexpected {:?}", other.err()),
    }
}

/// Compacting what a watch has delivered does not disturb it, also where nothing happened under its prefix for long.
pub async fn a_watch_that_keeps_up_survives_compaction(store: Arc<dyn Store>) {
    let base = store.revision().await.unwrap();
    let mut busy = store.watch("/s/", base).await.unwrap();
    let mut quiet = store.watch("/t/", base).await.unwrap();
    let start = put(&*store, "/t/k", "0").await;
    assert_eq!(next(&mut quiet).await.revision, start);
    let waits = tokio::spawn(async move { (next(&mut quiet).await, quiet) });
    for i in 0..50 {
        let revision = put(&*store, "/s/k", &i.to_string()).await;
        assert_eq!(next(&mut busy).await.revision, revision);
        store.compact(revision).await.unwrap();
    }
    let woken = put(&*store, "/t/k", "1").await;
    let (batch, _quiet) = tokio::time::timeout(PATIENCE, waits).await.expect("woken").unwrap();
    assert_eq!(batch.revision, woken);
}

/// Compaction forgets versions, never entries; it may be repeated, and cannot run ahead.
pub async fn compaction_keeps_what_is_there(store: Arc<dyn Store>) {
    put(&*store, "/s/a", "1").await;
    put(&*store, "/s/b", "1").await;
    put(&*store, "/s/a", "2").await;
    let floor = delete(&*store, "/s/b").await;
    let newest = put(&*store, "/s/c", "1").await;
    store.compact(floor).await.unwrap();
    store.compact(floor).await.unwrap();
    store.compact(Revision(floor.0 - 1)).await.unwrap();
    let at_floor = store.list("/s/", None, Some(floor), 0).await.unwrap();
    assert_eq!(keys(&at_floor.entries), ["/s/a"]);
    assert_eq!(at_floor.entries[0].value, "2");
    assert_eq!(keys(&store.list("/s/", None, None, 0).await.unwrap().entries), ["/s/a", "/s/c"]);
    let gone = Revision(floor.0 - 1);
    match store.list("/s/", None, Some(gone), 0).await {
        Err(Error::Compacted { requested, oldest }) => assert_eq!((requested, oldest), (gone, floor)),
        other => panic!("unexpected {other:?}"),
    }
    match store.compact(Revision(newest.0 + 1)).await {
        Err(Error::Future { newest: n, .. }) => assert_eq!(n, newest),
        other => panic!("unexpected {other:?}"),
    }
    store.compact(newest).await.unwrap();
    assert_eq!(store.get("/s/a").await.unwrap().0.expect("there").value, "2");
}

/// Commits go on while somebody watches without reading, and nothing is missing when they do read.
pub async fn a_watcher_that_does_not_read_holds_nobody_up(store: Arc<dyn Store>) {
    let base = store.revision().await.unwrap();
    let mut slow = store.watch("/s/", base).await.unwrap();
    let writers: Vec<_> = (0..8)
        .map(|i| {
            let store = store.clone();
            tokio::spawn(async move {
                for n in 0..250 {
                    put(&*store, &format!("/s/{i}"), &n.to_string()).await;
                }
            })
        })
        .collect();
    for writer in writers {
        tokio::time::timeout(PATIENCE, writer).await.expect("held up").unwrap();
    }
    for revision in base.0 + 1..=base.0 + 2000 {
        assert_eq!(next(&mut slow).await.revision, Revision(revision));
    }
}

/// Watchers that start at different times all see every change from there on, while writes go on.
pub async fn many_watchers_see_the_same(store: Arc<dyn Store>) {
    let base = store.revision().await.unwrap();
    let end = base.0 + 400;
    let mut watchers = Vec::new();
    for i in 0..400 {
        if i % 20 == 0 {
            let after = Revision(base.0 + i / 2);
            let mut watch = store.watch("/s/", after).await.unwrap();
            watchers.push(tokio::spawn(async move {
                for revision in after.0 + 1..=end {
                    assert_eq!(next(&mut watch).await.revision, Revision(revision));
                }
            }));
        }
        put(&*store, "/s/k", &i.to_string()).await;
    }
    for watcher in watchers {
        watcher.await.unwrap();
    }
}
