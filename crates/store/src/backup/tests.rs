use super::*;
use crate::{Embedded, Options, Txn};
use std::io::Cursor;

fn manifest(revision: Revision) -> Manifest {
    Manifest { created: "2026-01-01T00:00:00Z".into(), program: "0".into(), revision, node: "n1".into() }
}

fn files() -> Vec<SideFile> {
    vec![SideFile { name: "tls/ca.key".into(), bytes: b"secret".to_vec() }]
}

async fn filled(count: usize) -> Embedded {
    let store = Embedded::in_memory();
    for n in 0..count {
        let value = format!("{n}").repeat(n % 7).into_bytes().into();
        store.commit(Txn::create(format!("/registry/{n:05}"), value)).await.expect("committed");
    }
    store
}

async fn backup(count: usize) -> (Revision, Vec<Entry>, Vec<u8>) {
    let store = filled(count).await;
    let (revision, entries) = snapshot(&store, "/registry/").await.expect("read");
    let bytes = Chunks::new(&manifest(revision), &files(), entries.clone()).flatten().collect();
    (revision, entries, bytes)
}

#[tokio::test]
async fn a_backup_comes_back_as_it_was() {
    for count in [0, 1, 20_000] {
        let (revision, entries, bytes) = backup(count).await;
        let contents = read(Cursor::new(&bytes)).expect("read");
        assert_eq!(contents.problems, []);
        assert_eq!((contents.entries, contents.files), (entries, files()));
        assert_eq!(contents.manifest, Some(manifest(revision)));
    }
}

#[tokio::test]
async fn whatever_byte_is_changed_or_missing_is_found() {
    let (_, _, bytes) = backup(20).await;
    for at in 0..bytes.len() {
        let mut broken = bytes.clone();
        broken[at] ^= 0x10;
        assert_ne!(read(Cursor::new(&broken)).expect("read").problems, [], "byte {at}");
        assert_ne!(read(Cursor::new(&bytes[..at])).expect("read").problems, [], "cut at {at}");
    }
    let longer = [bytes.as_slice(), b"x"].concat();
    assert!(read(Cursor::new(longer)).expect("read").problems[0].what.contains("follows its end"));
}

#[tokio::test]
async fn a_record_that_is_left_out_or_moved_is_found_although_each_is_whole() {
    let (revision, mut entries, _) = backup(20).await;
    let bytes =
        |entries: Vec<Entry>| Chunks::new(&manifest(revision), &[], entries).flatten().collect::<Vec<u8>>();
    entries.swap(3, 4);
    let problems = read(Cursor::new(bytes(entries))).expect("read").problems;
    assert!(problems.iter().any(|p| p.what.contains("makes no sense")), "{problems:?}");
}

#[tokio::test]
async fn a_store_begins_with_a_backup_and_no_revision_comes_twice() {
    let (revision, entries, _) = backup(3000).await;
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("store");
    let at = Revision(revision.0 + LEAP);
    Embedded::restore(&path, at, entries.clone()).expect("restored");
    let store = Embedded::open(&path, Options::default()).expect("opened");
    assert_eq!(snapshot(&store, "/registry/").await.expect("read"), (at, entries));
    // Who followed the store that is no more begins anew.
    assert!(matches!(store.watch("/", revision).await.err(), Some(Error::Compacted { .. })));
    let commit = store.commit(Txn::create("/registry/new", "x".into())).await.expect("committed");
    assert_eq!(commit, crate::Commit::Done(Revision(at.0 + 1)));
    drop(store);
    let again = Embedded::restore(&path, at, Vec::new());
    assert!(matches!(again, Err(Error::Occupied { .. })), "{again:?}");
}
