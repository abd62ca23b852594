//! The store on Debian's etcd passes the suite of every backend: on one member, and on three of which one dies meanwhile.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

mod faults;
mod members;
mod refusals;

use members::Members;
use orlop_store::Store;
use orlop_store::suite::model::check;
use proptest::prelude::*;
use std::{sync::Arc, time::Duration};

#[path = "../steps/mod.rs"]
mod steps;

mod one_member {
    use super::*;

    async fn fresh() -> (Arc<dyn Store>, Members) {
        let members = Members::start(1, &[]);
        (Arc::new(members.store().await), members)
    }

    orlop_store::store_suite!(fresh);
}

mod three_members_of_which_one_dies {
    use super::*;

    /// Kills a member that follows and is not asked, so that every answer still is a clear one; what happens to the others is
    /// in `faults`.
    async fn fresh() -> (Arc<dyn Store>, tokio::task::JoinHandle<Members>) {
        let mut members = Members::start(3, &[]);
        let store = members.store().await;
        let killer = tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(50)).await;
            let leader = members.leader().expect("the store answers, so one leads");
            members.kill(if leader == 2 { 1 } else { 2 });
            // They go on until the test's runtime ends.
            std::future::pending::<()>().await;
            members
        });
        (Arc::new(store), killer)
    }

    orlop_store::store_suite!(fresh);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 8, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_operations_agree_with_the_model_while_etcd_is_killed_and_started(
        steps in proptest::collection::vec(steps::step(), 1..60)
    ) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        runtime.expect("a runtime").block_on(async {
            let members = tokio::sync::Mutex::new(Members::start(1, &[]));
            let open = async || {
                let store: Arc<dyn Store> = Arc::new(members.lock().await.store().await);
                store
            };
            let again = async |store| {
                drop(store);
                let mut etcd = members.lock().await;
                etcd.kill(0);
                etcd.begin(0);
                drop(etcd);
                open().await
            };
            check(open().await, &steps, again)
            .await;
        });
    }
}
