//! The embedded store and its disk: restarts, a full disk, damage, other versions, other processes.

use futures::{FutureExt, StreamExt};
use orlop_store::{Commit, Embedded, Error, Op, Options, Retention, Revision, Store, Txn};
use std::{
    fs,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};
use tempfile::TempDir;

fn options() -> Options {
    Options {
        segment_bytes: 64 << 10,
        checkpoint_bytes: 256 << 10,
        maintenance_interval: Duration::from_millis(5),
        ..Options::default()
    }
}

fn open(folder: &TempDir) -> Embedded {
    Embedded::open(folder.path().join("store"), options()).expect("opens")
}

async fn put(store: &Embedded, key: &str, value: Vec<u8>) -> Result<Revision, Error> {
    let txn = Txn { ops: vec![Op::Put(key.into(), value.into())], ..Txn::default() };
    match store.commit(txn).await? {
        Commit::Done(revision) => Ok(revision),
        conflict => panic!("{conflict:?}"),
    }
}

fn files(folder: &Path, kind: &str) -> Vec<PathBuf> {
    let mut found: Vec<_> = fs::read_dir(folder)
        .expect("the folder")
        .map(|f| f.expect("a file").path())
        .filter(|f| f.file_name().is_some_and(|n| n.to_string_lossy().starts_with(kind)))
        .collect();
    found.sort();
    found
}

/// Waits for what maintenance does in the background.
async fn eventually(what: &str, holds: impl Fn() -> bool) {
    let patience = tokio::time::Instant::now() + Duration::from_secs(30);
    while !holds() {
        assert!(tokio::time::Instant::now() < patience, "{what} never came true");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn an_acknowledged_write_is_already_there_for_readers_and_watchers() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = open(&folder);
    let mut watch = store.watch("/", Revision(0)).await.expect("watch");
    for i in 0..200 {
        let revision = put(&store, "/k", vec![i]).await.expect("put");
        assert_eq!(store.get("/k").await.expect("get").1, revision);
        let batch = watch.next().now_or_never().expect("delivered before the acknowledgement");
        assert_eq!(batch.expect("goes on").expect("batch").revision, revision);
    }
}

#[tokio::test]
async fn watchers_of_a_transaction_share_one_batch() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = open(&folder);
    let mut all = store.watch("/", Revision(0)).await.expect("watch");
    let mut some = store.watch("/k", Revision(0)).await.expect("watch");
    put(&store, "/k", vec![1]).await.expect("put");
    let (a, b) =
        (all.next().await.expect("one").expect("batch"), some.next().await.expect("one").expect("batch"));
    assert!(Arc::ptr_eq(&a, &b));
    assert_eq!(
        store.get("/k").await.expect("get").0.expect("there").value.as_ptr(),
        a.changes[0].entry.value.as_ptr()
    );
}

#[tokio::test]
async fn history_is_read_and_watched_across_a_restart_until_it_is_compacted() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = open(&folder);
    for i in 0..100_u8 {
        put(&store, "/k", vec![i; 2000]).await.expect("put");
    }
    store.compact(Revision(20)).await.expect("compact");
    drop(store);
    let store = open(&folder);
    let old = store.list("/", None, Some(Revision(50)), 0).await.expect("list");
    assert_eq!(old.entries[0].value, vec![49; 2000]);
    assert_eq!((old.entries[0].created, old.entries[0].modified), (Revision(1), Revision(50)));
    let mut watch = store.watch("/", Revision(20)).await.expect("watch");
    for revision in 21..=100 {
        let batch = watch.next().await.expect("goes on").expect("batch");
        assert_eq!(batch.revision, Revision(revision));
        assert_eq!(batch.changes[0].previous.as_ref().expect("updated").modified, Revision(revision - 1));
    }
    for result in [
        store.watch("/", Revision(10)).await.map(|_| ()),
        store.list("/", None, Some(Revision(10)), 0).await.map(|_| ()),
    ] {
        assert!(matches!(result, Err(Error::Compacted { oldest: Revision(20), .. })), "{result:?}");
    }
}

#[tokio::test]
async fn a_watch_ends_when_the_store_closes_after_telling_all_there_was() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = open(&folder);
    let mut watch = store.watch("/", Revision(0)).await.expect("watch");
    put(&store, "/k", vec![1]).await.expect("put");
    drop(store);
    assert_eq!(watch.next().await.expect("one").expect("batch").revision, Revision(1));
    assert!(matches!(watch.next().await, Some(Err(Error::Closed))));
    assert!(watch.next().await.is_none());
}

#[tokio::test]
async fn checkpoints_keep_the_disk_small_and_carry_everything_over() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("store");
    let small =
        Options { retention: Retention { age: Duration::ZERO, revisions: 10, bytes: 1 << 20 }, ..options() };
    let store = Embedded::open(&path, small.clone()).expect("opens");
    for i in 0..3000_u32 {
        put(&store, &format!("/k/{}", i % 50), format!("{i} {}", "x".repeat(2000)).into_bytes())
            .await
            .expect("put");
    }
    // 6 MB have been written; 100 KB are there.
    eventually("a small log", || files(&path, "log-").len() <= 6).await;
    let checkpoints = files(&path, "checkpoint-");
    assert_eq!(checkpoints.len(), 1, "{checkpoints:?}");
    assert!(store.size().await.expect("size") < 1_000_000);
    let before = store.list("", None, None, 0).await.expect("list");
    drop(store);
    let store = Embedded::open(&path, small).expect("opens");
    let after = store.list("", None, None, 0).await.expect("list");
    assert_eq!((after.entries, after.revision), (before.entries, before.revision));
}

#[tokio::test]
async fn history_goes_when_it_is_old_and_long_enough() {
    let folder = tempfile::tempdir().expect("a folder");
    let minutes = Arc::new(AtomicU64::new(0));
    let clock = minutes.clone();
    let options = Options {
        retention: Retention { age: Duration::from_secs(300), revisions: 10, bytes: usize::MAX },
        clock: Arc::new(move || {
            SystemTime::UNIX_EPOCH + Duration::from_secs(60 * clock.load(Ordering::SeqCst))
        }),
        ..options()
    };
    let store = Embedded::open(folder.path().join("store"), options).expect("opens");
    for i in 0..30 {
        put(&store, "/k", vec![i]).await.expect("put");
    }
    minutes.store(4, Ordering::SeqCst);
    for i in 0..5 {
        put(&store, "/k", vec![i]).await.expect("put");
    }
    tokio::time::sleep(Duration::from_millis(50)).await;
    store.list("/", None, Some(Revision(1)), 0).await.expect("nothing is five minutes old yet");
    minutes.store(6, Ordering::SeqCst);
    // 30 revisions are older than five minutes; the newest 10 (26 to 35) stay whatever their age.
    let oldest = loop {
        match store.list("/", None, Some(Revision(1)), 0).await {
            Err(Error::Compacted { oldest, .. }) => break oldest,
            _ => tokio::time::sleep(Duration::from_millis(5)).await,
        }
    };
    assert_eq!(oldest, Revision(25));
    store.list("/", None, Some(Revision(25)), 0).await.expect("kept");
}

#[tokio::test]
async fn history_that_weighs_too_much_goes_early() {
    let store = Embedded::in_memory_with(Options {
        retention: Retention { bytes: 1 << 20, ..Retention::default() },
        ..Options::default()
    });
    for i in 0..300 {
        put(&store, "/k", vec![i as u8; 10_000]).await.expect("put");
    }
    let Err(Error::Compacted { oldest, .. }) = store.list("/", None, Some(Revision(1)), 0).await else {
        panic!("3 MB of history are kept");
    };
    assert!((150..=250).contains(&oldest.0), "{oldest}");
}

#[tokio::test]
async fn one_store_is_not_opened_twice() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = open(&folder);
    let second = Embedded::open(folder.path().join("store"), options());
    match second.err() {
        Some(error @ Error::InUse { .. }) => assert!(error.to_string().contains("in use by another process")),
        other => panic!("{other:?}"),
    }
    put(&store, "/k", vec![1]).await.expect("the first goes on");
    drop(store);
    open(&folder);
}

#[tokio::test]
async fn a_store_of_another_version_is_refused_and_left_alone() {
    for kind in ["log-", "checkpoint-"] {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("store");
        fill_with_checkpoint(&path).await;
        let file = files(&path, kind).pop().expect("a file");
        let before = fs::read(&file).expect("read");
        fs::OpenOptions::new().write(true).open(&file).expect("open").write_all_at(&[9], 8).expect("write");
        match Embedded::open(&path, options()).err() {
            Some(Error::Format { found: 9, known: 1, .. }) => {}
            other => panic!("{kind}: {other:?}"),
        }
        fs::write(&file, before).expect("write");
        Embedded::open(&path, options()).expect("opens again");
    }
}

/// A store with a checkpoint and a log after it.
async fn fill_with_checkpoint(path: &Path) {
    let store = Embedded::open(path, options()).expect("opens");
    for i in 0..200 {
        put(&store, &format!("/k/{i}"), vec![7; 4000]).await.expect("put");
    }
    store.compact(Revision(150)).await.expect("compact");
    eventually("a checkpoint", || !files(path, "checkpoint-").is_empty() && files(path, "log-").len() < 8)
        .await;
    put(&store, "/last", vec![1]).await.expect("put");
}

#[tokio::test]
async fn damage_is_told_and_never_passed_over() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("store");
    fill_with_checkpoint(&path).await;
    let checkpoint = files(&path, "checkpoint-").pop().expect("a checkpoint");
    let logs = files(&path, "log-");
    assert!(logs.len() >= 2, "{logs:?}");
    let length = |file: &Path| fs::metadata(file).expect("metadata").len();
    // (file, where a byte is changed)
    let cases = [
        (&checkpoint, 0),
        (&checkpoint, 16),
        (&checkpoint, length(&checkpoint) / 2),
        (&checkpoint, length(&checkpoint) - 1),
        (&logs[0], 0),
        (&logs[0], 70),
        (&logs[0], 20_000),
        (logs.last().expect("a log"), 70),
    ];
    for (file, at) in cases {
        let before = fs::read(file).expect("read");
        let mut broken = before.clone();
        broken[at as usize] ^= 0x40;
        fs::write(file, broken).expect("write");
        match Embedded::open(&path, options()).err() {
            Some(Error::Corrupt { path, .. }) => assert_eq!(&path, file, "byte {at}"),
            other => panic!("{file:?} byte {at}: {other:?}"),
        }
        fs::write(file, before).expect("write");
    }
    for file in [&checkpoint, &logs[0]] {
        let away = folder.path().join("away");
        fs::rename(file, &away).expect("rename");
        assert!(
            matches!(Embedded::open(&path, options()).err(), Some(Error::Corrupt { .. })),
            "{file:?} is missing"
        );
        fs::rename(&away, file).expect("rename");
    }
    let store = Embedded::open(&path, options()).expect("opens when all is back");
    assert_eq!(store.list("", None, None, 0).await.expect("list").entries.len(), 201);
}

#[tokio::test]
async fn a_frame_cut_short_by_a_crash_is_as_if_it_had_not_been() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("store");
    let store = open(&folder);
    put(&store, "/k", vec![1; 500]).await.expect("put");
    put(&store, "/k", vec![2; 500]).await.expect("put");
    drop(store);
    // The last frame loses its end; the store goes on where the one before it ended, and once more after that.
    let log = files(&path, "log-").pop().expect("a log");
    let bytes = fs::read(&log).expect("read");
    let end = bytes.iter().rposition(|b| *b == 2).expect("the second value");
    fs::OpenOptions::new()
        .write(true)
        .open(&log)
        .expect("open")
        .write_all_at(&[0; 64], end as u64 - 63)
        .expect("write");
    for expected in [1, 3] {
        let store = open(&folder);
        assert_eq!(store.get("/k").await.expect("get").0.expect("there").value, vec![expected; 500]);
        if expected == 1 {
            assert_eq!(put(&store, "/k", vec![3; 500]).await.expect("put"), Revision(2));
        }
    }
}

/// A small file system of its own, unmounted when dropped.
struct SmallDisk(TempDir);

impl SmallDisk {
    fn new(bytes: u64) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let options = format!("size={bytes}");
        nix::mount::mount(
            Some("tmpfs"),
            folder.path(),
            Some("tmpfs"),
            nix::mount::MsFlags::empty(),
            Some(options.as_str()),
        )
        .expect("mount (tests run as root)");
        Self(folder)
    }

    /// Takes all the space that is left.
    fn fill(&self) -> PathBuf {
        let filler = self.0.path().join("filler");
        let mut size = 4096;
        let file = fs::File::create(&filler).expect("create");
        while file.write_all_at(&[1; 4096], size).is_ok() {
            size += 4096;
        }
        filler
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = nix::mount::umount2(self.0.path(), nix::mount::MntFlags::MNT_DETACH);
    }
}

#[tokio::test]
async fn a_full_disk_refuses_writes_whole_and_takes_them_again_when_there_is_space() {
    let disk = SmallDisk::new(8 << 20);
    let path = disk.0.path().join("store");
    let store = Embedded::open(&path, options()).expect("opens");
    put(&store, "/before", vec![1]).await.expect("put");
    let filler = disk.fill();
    let mut watch = store.watch("/", store.revision().await.expect("revision")).await.expect("watch");
    let mut written = 0;
    let refused = loop {
        let pair = |n: u32| {
            let op = |k: &str| Op::Put(format!("/{k}/{n}").into(), vec![5; 3000].into());
            Txn { ops: vec![op("left"), op("right")], ..Txn::default() }
        };
        match store.commit(pair(written)).await {
            Ok(_) => written += 1,
            Err(error) => break error,
        }
        assert!(written < 1000, "the disk never filled");
    };
    assert!(matches!(refused, Error::NoSpace), "{refused:?}");
    for _ in 0..3 {
        assert!(matches!(put(&store, "/more", vec![5; 60_000]).await, Err(Error::NoSpace)));
    }
    // Reads, listings, watches, conflicts and what changes nothing go on; nothing of the refused is there.
    let newest = store.revision().await.expect("revision");
    assert_eq!(newest.0, u64::from(written) + 1);
    for side in ["/left/", "/right/"] {
        assert_eq!(store.list(side, None, None, 0).await.expect("list").entries.len(), written as usize);
    }
    for _ in 0..written {
        assert_eq!(watch.next().await.expect("goes on").expect("batch").changes.len(), 2);
    }
    assert!(watch.next().now_or_never().is_none());
    let conflict = store.commit(Txn::create("/before", "x".into())).await.expect("no space is needed");
    assert!(matches!(conflict, Commit::Conflict { .. }));
    assert_eq!(store.commit(Txn::default()).await.expect("no space is needed"), Commit::Done(newest));

    // A restart on the full disk reads everything.
    drop(watch);
    drop(store);
    let store = Embedded::open(&path, options()).expect("opens on a full disk");
    assert_eq!(store.revision().await.expect("revision"), newest);
    assert!(matches!(put(&store, "/more", vec![5; 60_000]).await, Err(Error::NoSpace)));

    fs::remove_file(filler).expect("remove");
    assert_eq!(put(&store, "/after", vec![5; 60_000]).await.expect("there is space"), Revision(newest.0 + 1));
    drop(store);
    let store = Embedded::open(&path, options()).expect("opens");
    assert_eq!(store.get("/after").await.expect("get").1, Revision(newest.0 + 1));
    assert_eq!(store.list("/left/", None, None, 0).await.expect("list").entries.len(), written as usize);
}
