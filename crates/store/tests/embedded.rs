//! The embedded store, on disk and in memory, passes the suite of every backend, and random operations across restarts.

use orlop_store::suite::model::check;
use orlop_store::{Embedded, Options, Store};
use proptest::prelude::*;
use std::{sync::Arc, time::Duration};
use steps::step;
use tempfile::TempDir;

mod steps;

/// Segments and checkpoints so small that every test sees many of them.
fn small() -> Options {
    Options {
        segment_bytes: 8192,
        checkpoint_bytes: 16384,
        maintenance_interval: Duration::from_millis(5),
        ..Options::default()
    }
}

mod on_disk {
    use super::*;

    async fn fresh() -> (Arc<dyn Store>, TempDir) {
        let folder = tempfile::tempdir().expect("a folder");
        (Arc::new(Embedded::open(folder.path().join("store"), small()).expect("opens")), folder)
    }

    orlop_store::store_suite!(fresh);
}

mod in_memory {
    use super::*;

    async fn fresh() -> (Arc<dyn Store>, ()) {
        (Arc::new(Embedded::in_memory()), ())
    }

    orlop_store::store_suite!(fresh);
}

fn block_on<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime").block_on(future)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_operations_on_disk_agree_with_the_model(steps in proptest::collection::vec(step(), 1..120)) {
        block_on(async {
            let folder = tempfile::tempdir().expect("a folder");
            let open = || -> Arc<dyn Store> { Arc::new(Embedded::open(folder.path(), small()).expect("opens")) };
            check(open(), &steps, async |store| {
                drop(store);
                open()
            })
            .await;
        });
    }

    #[test]
    fn random_operations_in_memory_agree_with_the_model(steps in proptest::collection::vec(step(), 1..120)) {
        block_on(check(Arc::new(Embedded::in_memory()), &steps, async |store| store));
    }
}
