//! The store that encrypts passes the suite of every backend, keeps its promise to whoever reads the disk, and changes keys.

use bytes::Bytes;
use orlop_store::{
    Commit, Embedded, Store, Txn,
    sealed::{Keys, Sealed},
};
use std::sync::Arc;

const SECRETS: &[&str] = &["/registry/core/secrets/"];

fn keys(keys: &[&[u8]]) -> Keys {
    Keys::new(&keys.iter().map(|k| k.to_vec()).collect::<Vec<_>>()).expect("keys")
}

mod everything_sealed {
    use super::*;

    async fn fresh() -> (Arc<dyn Store>, ()) {
        let inner = Arc::new(Embedded::in_memory());
        (Arc::new(Sealed::open(inner, keys(&[&[7; 32]]), &[""]).await.expect("opens")), ())
    }

    orlop_store::store_suite!(fresh);
}

async fn put(store: &dyn Store, key: &str, value: &str) {
    let created = store.commit(Txn::create(key, Bytes::copy_from_slice(value.as_bytes()))).await;
    assert!(matches!(created, Ok(Commit::Done(_))), "{created:?}");
}

async fn value(store: &dyn Store, key: &str) -> Result<Bytes, orlop_store::Error> {
    Ok(store.get(key).await?.0.expect("there").value)
}

#[tokio::test]
async fn the_disk_holds_nothing_that_tells_a_secret_and_the_rest_as_it_was() {
    let inner: Arc<dyn Store> = Arc::new(Embedded::in_memory());
    let sealed = Sealed::open(inner.clone(), keys(&[&[1; 32]]), SECRETS).await.expect("opens");
    for key in ["/registry/core/secrets/n/a", "/registry/core/secrets/n/b", "/registry/core/configmaps/n/a"] {
        put(&sealed, key, "the secret").await;
        assert_eq!(value(&sealed, key).await.expect("read"), "the secret");
    }
    let a = value(&*inner, "/registry/core/secrets/n/a").await.expect("read");
    let b = value(&*inner, "/registry/core/secrets/n/b").await.expect("read");
    assert!(!a.windows(6).any(|w| w == b"secret") || a.starts_with(b"\0"), "{a:?}");
    assert!(!a.ends_with(b"the secret") && a != b, "the same value looks different each time");
    assert_eq!(value(&*inner, "/registry/core/configmaps/n/a").await.expect("read"), "the secret");
}

#[tokio::test]
async fn a_value_that_was_changed_or_moved_does_not_open() {
    let inner: Arc<dyn Store> = Arc::new(Embedded::in_memory());
    let sealed = Sealed::open(inner.clone(), keys(&[&[1; 32]]), SECRETS).await.expect("opens");
    put(&sealed, "/registry/core/secrets/n/a", "x").await;
    let there = value(&*inner, "/registry/core/secrets/n/a").await.expect("read");
    inner.commit(Txn::create("/registry/core/secrets/n/moved", there.clone())).await.expect("written");
    let mut changed = there.to_vec();
    *changed.last_mut().expect("bytes") ^= 1;
    inner.commit(Txn::create("/registry/core/secrets/n/changed", changed.into())).await.expect("written");
    inner.commit(Txn::create("/registry/core/secrets/n/short", there.slice(..20))).await.expect("written");
    for name in ["moved", "changed", "short"] {
        assert!(value(&sealed, &format!("/registry/core/secrets/n/{name}")).await.is_err(), "{name}");
    }
}

#[tokio::test]
async fn a_new_key_seals_everything_and_then_the_old_one_can_go() {
    let inner: Arc<dyn Store> = Arc::new(Embedded::in_memory());
    put(&*inner, "/registry/core/secrets/n/plain", "from before there were keys").await;
    let (old, new): (&[u8], &[u8]) = (&[1; 32], &[2; 32]);
    let sealed = Sealed::open(inner.clone(), keys(&[old]), SECRETS).await.expect("opens");
    put(&sealed, "/registry/core/secrets/n/a", "x").await;
    let opened = Sealed::open(inner.clone(), keys(&[new]), SECRETS).await;
    assert!(opened.is_err(), "without the old key nothing is lost and nothing starts");
    let revision = inner.revision().await.expect("revision");
    Sealed::open(inner.clone(), keys(&[new, old]), SECRETS).await.expect("opens");
    assert!(inner.revision().await.expect("revision") > revision);
    let sealed = Sealed::open(inner.clone(), keys(&[new]), SECRETS).await.expect("opens");
    assert_eq!(value(&sealed, "/registry/core/secrets/n/a").await.expect("read"), "x");
    let plain = value(&sealed, "/registry/core/secrets/n/plain").await.expect("read");
    assert_eq!(plain, "from before there were keys");
    let revision = inner.revision().await.expect("revision");
    Sealed::open(inner.clone(), keys(&[new]), SECRETS).await.expect("opens");
    assert_eq!(inner.revision().await.expect("revision"), revision, "what is sealed stays as it is");
}
