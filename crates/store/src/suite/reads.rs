//! Promises about reading: get, list, prefixes, pages and old revisions.

use super::{delete, done, keys, put, writes};
use crate::{Error, Revision, Store, Txn};
use bytes::Bytes;
use std::sync::Arc;

/// A key that is not there reads as nothing, also when it was there.
pub async fn absent_keys_read_as_nothing(store: Arc<dyn Store>) {
    let base = store.revision().await.unwrap();
    assert_eq!(store.get("/s/none").await.unwrap(), (None, base));
    put(&*store, "/s/gone", "x").await;
    let deleted = delete(&*store, "/s/gone").await;
    assert_eq!(store.get("/s/gone").await.unwrap(), (None, deleted));
    assert!(store.list("/s/", None, None, 0).await.unwrap().entries.is_empty());
}

/// An entry tells when its key was created and when it was last written.
pub async fn a_key_has_the_revisions_of_its_creation_and_of_its_last_write(store: Arc<dyn Store>) {
    let created = put(&*store, "/s/k", "1").await;
    put(&*store, "/s/other", "1").await;
    let modified = put(&*store, "/s/k", "2").await;
    let (entry, newest) = store.get("/s/k").await.unwrap();
    let entry = entry.expect("there");
    assert_eq!((entry.created, entry.modified, newest), (created, modified, modified));
    assert_eq!((&*entry.key, &*entry.value), ("/s/k", b"2".as_slice()));
    let listed = store.list("/s/k", None, None, 0).await.unwrap();
    assert_eq!(listed.entries, [entry]);
}

/// The creation revision starts anew after a deletion.
pub async fn a_key_created_again_is_new(store: Arc<dyn Store>) {
    put(&*store, "/s/k", "1").await;
    delete(&*store, "/s/k").await;
    let again = put(&*store, "/s/k", "2").await;
    let entry = store.get("/s/k").await.unwrap().0.expect("there");
    assert_eq!((entry.created, entry.modified), (again, again));
}

/// Empty is not absent.
pub async fn an_empty_value_is_a_value(store: Arc<dyn Store>) {
    put(&*store, "/s/k", "").await;
    assert!(store.get("/s/k").await.unwrap().0.expect("there").value.is_empty());
    assert_eq!(store.list("/s/", None, None, 0).await.unwrap().entries.len(), 1);
    assert!(matches!(
        store.commit(Txn::create("/s/k", Bytes::new())).await.unwrap(),
        crate::Commit::Conflict { current: Some(_), .. }
    ));
}

/// Values are not text, and 1.5 MB of them is nothing special.
pub async fn values_are_bytes_and_may_be_large(store: Arc<dyn Store>) {
    let large: Bytes = (0..1_500_000_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    done(store.commit(Txn::create("/s/large", large.clone())).await.unwrap());
    assert_eq!(store.get("/s/large").await.unwrap().0.expect("there").value, large);
    assert_eq!(store.list("/s/", None, None, 0).await.unwrap().entries[0].value, large);
}

/// `/a` lists `/ab` too; the empty prefix lists all; nothing before or after a prefix is in it.
pub async fn a_prefix_is_a_plain_string_prefix(store: Arc<dyn Store>) {
    for key in
        ["/s/a", "/s/a/x", "/s/ab", "/s/a\u{10ffff}", "/s/a\u{10ffff}\u{10ffff}", "/s/b", "/s/A", "/s", "/t"]
    {
        put(&*store, key, "v").await;
    }
    let cases: &[(&str, &[&str])] = &[
        ("/s/a", &["/s/a", "/s/a/x", "/s/ab", "/s/a\u{10ffff}", "/s/a\u{10ffff}\u{10ffff}"]),
        ("/s/a/", &["/s/a/x"]),
        ("/s/a\u{10ffff}", &["/s/a\u{10ffff}", "/s/a\u{10ffff}\u{10ffff}"]),
        ("/s/b", &["/s/b"]),
        ("/s/c", &[]),
        ("/t", &["/t"]),
    ];
    for (prefix, expected) in cases {
        let page = store.list(prefix, None, None, 0).await.unwrap();
        assert_eq!(keys(&page.entries), *expected, "{prefix}");
        assert!(!page.more);
    }
    let all = store.list("", None, None, 0).await.unwrap();
    assert_eq!(all.entries.len(), 9);
    assert!(all.entries.is_sorted_by(|a, b| a.key < b.key));
}

/// Paging by the last key of the page before covers everything once.
pub async fn pages_follow_each_other_without_gap_or_overlap(store: Arc<dyn Store>) {
    for i in 0..10 {
        put(&*store, &format!("/s/k{i}"), "v").await;
    }
    put(&*store, "/s/l", "v").await;
    let first = store.list("/s/k", None, None, 4).await.unwrap();
    assert_eq!((keys(&first.entries), first.more), (vec!["/s/k0", "/s/k1", "/s/k2", "/s/k3"], true));
    let second = store.list("/s/k", Some("/s/k3"), None, 4).await.unwrap();
    assert_eq!((second.entries.len(), second.more), (4, true));
    let last = store.list("/s/k", Some("/s/k7"), None, 4).await.unwrap();
    assert_eq!((keys(&last.entries), last.more), (vec!["/s/k8", "/s/k9"], false));
    // (start after, limit, how many, more)
    let cases = [
        (None, 10, 10, false),
        (None, 0, 10, false),
        (None, 9, 9, true),
        (Some("/s/k5"), 4, 4, false),
        (Some("/s/k55"), 0, 4, false),
        (Some("/a"), 3, 3, true),
        (Some("/s/k9"), 5, 0, false),
        (Some("/z"), 5, 0, false),
    ];
    for (after, limit, count, more) in cases {
        let page = store.list("/s/k", after, None, limit).await.unwrap();
        assert_eq!((page.entries.len(), page.more), (count, more), "after {after:?} limit {limit}");
    }
}

/// A listing at a revision shows what was there then.
pub async fn a_listing_shows_any_kept_revision(store: Arc<dyn Store>) {
    let base = store.revision().await.unwrap();
    let a1 = put(&*store, "/s/a", "1").await;
    let b1 = put(&*store, "/s/b", "1").await;
    let a2 = put(&*store, "/s/a", "2").await;
    let gone = delete(&*store, "/s/b").await;
    let b2 = put(&*store, "/s/b", "2").await;
    type Row = (&'static str, &'static str, Revision, Revision);
    let expected: &[(Revision, &[Row])] = &[
        (base, &[]),
        (a1, &[("/s/a", "1", a1, a1)]),
        (b1, &[("/s/a", "1", a1, a1), ("/s/b", "1", b1, b1)]),
        (a2, &[("/s/a", "2", a1, a2), ("/s/b", "1", b1, b1)]),
        (gone, &[("/s/a", "2", a1, a2)]),
        (b2, &[("/s/a", "2", a1, a2), ("/s/b", "2", b2, b2)]),
    ];
    for (at, entries) in expected {
        let page = store.list("/s/", None, Some(*at), 0).await.unwrap();
        assert_eq!(page.revision, *at);
        let found: Vec<_> = page
            .entries
            .iter()
            .map(|e| (&*e.key, std::str::from_utf8(&e.value).unwrap(), e.created, e.modified))
            .collect();
        assert_eq!(found, *entries, "at {at}");
    }
    let newest = store.list("/s/", None, None, 0).await.unwrap();
    assert_eq!(newest.revision, b2);
    let future = Revision(b2.0 + 1);
    match store.list("/s/", None, Some(future), 0).await {
        Err(Error::Future { requested, newest }) => assert_eq!((requested, newest), (future, b2)),
        other => panic!("unexpected {other:?}"),
    }
}

/// All pages of one revision fit together, whatever is written in between.
pub async fn pages_of_one_revision_agree_while_others_write(store: Arc<dyn Store>) {
    let key = |i: usize| format!("/s/k{i:03}");
    for i in (0..100).step_by(2) {
        put(&*store, &key(i), "old").await;
    }
    let mut found = Vec::new();
    let mut page = store.list("/s/", None, None, 7).await.unwrap();
    let at = page.revision;
    let mut round = 0;
    loop {
        assert_eq!(page.revision, at);
        found.extend(page.entries.iter().map(|e| (e.key.to_string(), e.value.clone())));
        if !page.more {
            break;
        }
        let last = page.entries.last().expect("more follow an entry").key.clone();
        for i in (round..100).step_by(9) {
            let (changed, gone) = (key(i), key(99 - i));
            if changed != gone {
                done(store.commit(writes(&[(&changed, Some("new")), (&gone, None)])).await.unwrap());
            }
        }
        round += 1;
        page = store.list("/s/", Some(&last), Some(at), 7).await.unwrap();
    }
    let expected: Vec<_> = (0..100).step_by(2).map(|i| (key(i), Bytes::from("old"))).collect();
    assert_eq!(found, expected);
}

/// A listing of thousands of keys is whole and in order.
pub async fn many_keys_are_listed_in_order(store: Arc<dyn Store>) {
    let key = |i: usize| format!("/s/{:05}", i * 7919 % 6000);
    for chunk in (0..6000).collect::<Vec<_>>().chunks(100) {
        let keys: Vec<_> = chunk.iter().map(|i| key(*i)).collect();
        let txn: Vec<_> = keys.iter().map(|k| (k.as_str(), Some("v"))).collect();
        done(store.commit(writes(&txn)).await.unwrap());
    }
    let page = store.list("/s/", None, None, 0).await.unwrap();
    let expected: Vec<_> = (0..6000).map(|i| format!("/s/{i:05}")).collect();
    assert_eq!(keys(&page.entries), expected);
}
