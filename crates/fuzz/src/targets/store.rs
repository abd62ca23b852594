//! The store's files, damaged: they are opened, or refused as damaged, and what was opened can be written to. Each line of
//! an input damages one place: a file by its number, an offset, and the bytes to stand there in hexadecimal.

use crate::sections::text;
use orlop_store::{Embedded, Error, Op, Options, Store, Txn};
use std::{fs, path::Path, sync::OnceLock, time::Duration};
use tempfile::TempDir;

fn options() -> Options {
    Options {
        segment_bytes: 4096,
        checkpoint_bytes: 1 << 20,
        maintenance_interval: Duration::from_secs(3600),
        ..Options::default()
    }
}

fn block_on<F: Future>(future: F) -> F::Output {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(future)
}

/// A store with a few segments and a checkpoint.
fn model() -> &'static TempDir {
    static MODEL: OnceLock<TempDir> = OnceLock::new();
    MODEL.get_or_init(|| {
        let folder = tempfile::tempdir().expect("a folder");
        block_on(async {
            let store = Embedded::open(folder.path(), options()).expect("opens");
            for n in 0..24 {
                let op = Op::Put(format!("/k{}", n % 7).into(), vec![b'v'; 40 * n].into());
                store.commit(Txn { ops: vec![op], ..Txn::default() }).await.expect("written");
            }
        });
        folder
    })
}

fn copy(from: &Path, to: &Path) -> Vec<std::path::PathBuf> {
    let mut files: Vec<_> =
        fs::read_dir(from).expect("a folder").map(|e| e.expect("a file").path()).collect();
    files.sort();
    files.retain(|f| f.file_name().is_some_and(|n| n != "lock"));
    files
        .into_iter()
        .map(|file| {
            let copy = to.join(file.file_name().expect("a name"));
            fs::copy(&file, &copy).expect("copied");
            copy
        })
        .collect()
}

fn hex(digits: &str) -> Vec<u8> {
    digits
        .as_bytes()
        .chunks(2)
        .filter_map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok())
        .collect()
}

pub(super) fn run(input: &[u8]) {
    let folder = tempfile::tempdir().expect("a folder");
    let files = copy(model().path(), folder.path());
    for line in text(input).lines().take(64) {
        let mut words = line.split_whitespace();
        let mut number = || words.next().and_then(|w| w.parse::<usize>().ok());
        let (Some(file), Some(offset)) = (number(), number()) else { continue };
        let path = &files[file % files.len()];
        let mut bytes = fs::read(path).expect("read");
        match words.next() {
            Some("cut") => bytes.truncate(offset),
            Some(digits) if !bytes.is_empty() => {
                let at = offset % bytes.len();
                for (place, byte) in bytes[at..].iter_mut().zip(hex(digits)) {
                    *place = byte;
                }
            }
            _ => continue,
        }
        fs::write(path, bytes).expect("written");
    }
    match Embedded::open(folder.path(), options()) {
        Ok(store) => block_on(async {
            let before = store.revision().await.expect("a revision");
            let op = Op::Put("/new".into(), "value".into());
            store.commit(Txn { ops: vec![op], ..Txn::default() }).await.expect("written");
            assert_eq!(store.revision().await.expect("a revision").0, before.0 + 1);
            assert!(store.get("/new").await.expect("read").0.is_some());
        }),
        Err(Error::Corrupt { .. } | Error::Format { .. }) => {}
        Err(error) => panic!("a damaged store is told as such: {error:?}"),
    }
}
