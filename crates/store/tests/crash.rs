//! A process that is killed under load loses nothing that it acknowledged and leaves nothing half done.
//!
//! The test runs itself again as the process that writes, reads each acknowledgement from a pipe, kills the process at a
//! moment of chance, and opens what it left.

use futures::StreamExt;
use orlop_store::{Commit, Embedded, Expect, Op, Options, Revision, Store, Txn};
use std::{
    collections::HashMap,
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Command, Stdio},
    sync::Arc,
    time::Duration,
};

const WRITERS: u64 = 16;
const ROUNDS: u64 = 12;
/// Where the writing process finds the store.
const FOLDER: &str = "ORLOP_STORE_CRASH_FOLDER";

fn options() -> Options {
    Options {
        // Rotation, recycling and checkpoints are among what is interrupted.
        segment_bytes: 128 << 10,
        checkpoint_bytes: 512 << 10,
        maintenance_interval: Duration::from_millis(10),
        ..Options::default()
    }
}

/// Writes for ever, telling each acknowledged transaction in a line `REVISION WRITER COUNT`. Each one sets three keys of its
/// writer to the same count and leaves a key of its own.
#[test]
fn the_writing_process() {
    let Some(folder) = std::env::var_os(FOLDER) else { return };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        let store = Arc::new(Embedded::open(Path::new(&folder), options()).expect("opens"));
        let writers = (0..WRITERS).map(|writer| {
            let store = store.clone();
            tokio::spawn(async move {
                let last = store.get(&format!("/count/{writer}/a")).await.expect("get").0;
                let mut count = last
                    .map_or(0, |e| String::from_utf8_lossy(&e.value).trim_end().parse().expect("a count"));
                loop {
                    count += 1;
                    // Values of many lengths, so that frames end anywhere.
                    let value = format!("{count}{}", " ".repeat((count * 37 % 2000) as usize));
                    let mut ops: Vec<_> = ["a", "b", "c"]
                        .iter()
                        .map(|k| Op::Put(format!("/count/{writer}/{k}").into(), value.clone().into()))
                        .collect();
                    ops.push(Op::Put(format!("/mark/{writer}/{count}").into(), "".into()));
                    if count > 50 {
                        ops.push(Op::Delete(format!("/mark/{writer}/{}", count - 50).into()));
                    }
                    match store.commit(Txn { ops, ..Txn::default() }).await.expect("commit") {
                        Commit::Done(revision) => {
                            let line = format!("{revision} {writer} {count}\n");
                            std::io::stdout().lock().write_all(line.as_bytes()).expect("the pipe");
                        }
                        conflict => panic!("{conflict:?}"),
                    }
                }
            })
        });
        futures::future::join_all(writers).await;
    });
}

#[test]
fn nothing_acknowledged_is_lost_and_nothing_is_half_there_after_sigkill() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = folder.path().join("store");
    let mut acknowledged: HashMap<u64, u64> = HashMap::new();
    let mut newest = 0;
    for round in 0..ROUNDS {
        let mut child = Command::new(std::env::current_exe().expect("this test"))
            .args(["the_writing_process", "--exact", "--nocapture", "--test-threads=1"])
            .env(FOLDER, &store)
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .expect("starts");
        let lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        // Killed after a number of acknowledgements that differs from round to round; the rest of the pipe still counts.
        let until = 1 + (round * 7919) % 1500;
        let mut seen = 0;
        for line in lines {
            let line = line.expect("a line");
            let numbers: Vec<u64> = line.split(' ').filter_map(|n| n.parse().ok()).collect();
            let [revision, writer, count] = numbers[..] else { continue };
            let known = acknowledged.entry(writer).or_default();
            *known = count.max(*known);
            newest = newest.max(revision);
            seen += 1;
            if seen == until {
                child.kill().expect("kill");
            }
        }
        assert!(seen >= until, "the process ended by itself after {seen} acknowledgements");
        child.wait().expect("wait");
        newest = newest.max(check(&store, &acknowledged, newest));
    }
}

/// Opens the store and checks it; returns its revision.
fn check(folder: &Path, acknowledged: &HashMap<u64, u64>, newest: u64) -> u64 {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let store = Embedded::open(folder, options()).expect("opens after a crash");
        let revision = store.revision().await.expect("revision");
        assert!(revision.0 >= newest, "acknowledged revision {newest}, found {revision}");
        for writer in 0..WRITERS {
            let page = store.list(&format!("/count/{writer}/"), None, None, 0).await.expect("list");
            let counts: Vec<u64> = page
                .entries
                .iter()
                .map(|e| String::from_utf8_lossy(&e.value).trim_end().parse().expect("a count"))
                .collect();
            let known = acknowledged.get(&writer).copied().unwrap_or(0);
            let Some(count) = counts.first().copied() else {
                assert_eq!(known, 0, "writer {writer} is missing");
                continue;
            };
            assert_eq!(counts, [count; 3], "writer {writer} is half there");
            assert!(page.entries.iter().all(|e| e.modified == page.entries[0].modified));
            assert!(count >= known, "writer {writer}: {known} acknowledged, {count} found");
            assert!(
                count <= known + 1,
                "writer {writer} had only one more under way, yet has {count} after {known}"
            );
            let marks = store.list(&format!("/mark/{writer}/"), None, None, 0).await.expect("list");
            let mut marked: Vec<u64> =
                marks.entries.iter().filter_map(|e| e.key.rsplit('/').next()?.parse().ok()).collect();
            marked.sort_unstable();
            let expected: Vec<u64> = (count.saturating_sub(49).max(1)..=count).collect();
            assert_eq!(marked, expected, "writer {writer}");
        }
        check_history(&store, revision).await;
        revision.0
    })
}

/// History has no gap, and undoing it gives what was there.
async fn check_history(store: &Embedded, newest: Revision) {
    let mut from = Revision(0);
    let mut watch = match store.watch("/count/", from).await {
        Ok(watch) => watch,
        Err(orlop_store::Error::Compacted { oldest, .. }) => {
            from = oldest;
            store.watch("/count/", oldest).await.expect("watch")
        }
        Err(error) => panic!("{error}"),
    };
    let at_start = store.list("/count/", None, Some(from), 0).await.expect("list");
    let mut rebuilt: HashMap<_, _> = at_start.entries.into_iter().map(|e| (e.key.clone(), e)).collect();
    for revision in from.0 + 1..=newest.0 {
        let batch = watch.next().await.expect("goes on").expect("batch");
        assert_eq!(batch.revision, Revision(revision), "a gap in history");
        assert_eq!(batch.changes.len(), 3);
        for change in &batch.changes {
            assert_eq!(rebuilt.insert(change.entry.key.clone(), change.entry.clone()), change.previous);
        }
    }
    let now = store.list("/count/", None, None, 0).await.expect("list");
    assert_eq!(now.entries.len(), rebuilt.len());
    assert!(now.entries.iter().all(|e| rebuilt.get(&e.key) == Some(e)));
    // It can be written to.
    let txn = Txn {
        conditions: vec![orlop_store::Condition { key: "/after".into(), expect: Expect::Absent }],
        ops: vec![],
    };
    assert_eq!(store.commit(txn).await.expect("commit"), Commit::Done(newest));
}
