//! What etcd refuses is told in words that say what to do; who comes without the right certificate gets nothing.

use crate::members::{Members, Tls, unused_address};
use bytes::Bytes;
use futures::StreamExt;
use orlop_store::{Commit, Endpoints, Error, Etcd, EtcdOptions, Op, Revision, Store, Txn};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair};
use std::{path::Path, sync::Arc, time::Duration};

async fn put(store: &dyn Store, key: &str, value: Bytes) -> Result<Commit, Error> {
    store.commit(Txn { conditions: Vec::new(), ops: vec![Op::Put(key.into(), value)] }).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_too_large_is_refused_and_nothing_is_written() {
    let members = Members::start(1, &[]);
    let store = members.store().await;
    for size in [1_600_000, 3_000_000] {
        let refused = put(&store, "/s/large", vec![7; size].into()).await;
        assert!(matches!(refused, Err(Error::TooLarge)), "{size}: {refused:?}");
    }
    assert_eq!(store.get("/s/large").await.unwrap().0, None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_database_refuses_writes_says_how_to_mend_it_and_can_be_read() {
    let members = Members::start(1, &["--quota-backend-bytes=2000000"]);
    let store = members.store().await;
    let mut last = None;
    // etcd learns the size of its file when it next writes it, some writes later.
    for i in 0..500 {
        match put(&store, &format!("/s/{i}"), vec![7; 400_000].into()).await {
            Ok(_) => last = Some(i),
            Err(Error::Quota) => break,
            other => panic!("unexpected {other:?}"),
        }
    }
    let last = last.expect("the first fits");
    assert!(last < 499, "it is full before that");
    let (entry, revision) = store.get(&format!("/s/{last}")).await.unwrap();
    assert_eq!(entry.unwrap().value.len(), 400_000);
    // The write that filled it may be there: etcd says so after it has written. Of later ones nothing is.
    assert!(matches!(put(&store, "/s/later", Bytes::new()).await, Err(Error::Quota)));
    assert!(store.get("/s/later").await.unwrap().0.is_none());
    // As the error says: delete, compact, defragment, disarm.
    members.etcdctl(0, &["del", "--prefix", "/s/"]);
    store.compact(store.revision().await.unwrap()).await.unwrap();
    members.etcdctl(0, &["defrag"]).expect("defragmented");
    members.etcdctl(0, &["alarm", "disarm"]).expect("disarmed");
    let Ok(Commit::Done(after)) = put(&store, "/s/again", Bytes::new()).await else { panic!("refused") };
    assert!(after > revision);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_without_a_majority_writes_nothing_and_says_so() {
    let mut members = Members::start(3, &[]);
    let store = members.store().await;
    put(&store, "/s/k", "1".into()).await.unwrap();
    let watch = store.watch("/s/", Revision(1)).await.unwrap();
    members.kill(1);
    members.kill(2);
    let refused = put(&store, "/s/k", "2".into()).await;
    assert!(matches!(refused, Err(Error::Unreachable { .. })), "{refused:?}");
    let unread = store.get("/s/k").await;
    assert!(
        matches!(unread, Err(Error::Unreachable { .. })),
        "no old value is passed off as new: {unread:?}"
    );
    drop(store);
    let last = tokio::time::timeout(Duration::from_secs(30), watch.collect::<Vec<_>>()).await.expect("ends");
    assert!(matches!(last.last(), Some(Err(Error::Closed))), "{last:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn somebody_elses_writes_only_tell_that_their_revisions_passed() {
    let members = Members::start(1, &[]);
    let store = members.store().await;
    let mut watch = store.watch("/s/", store.revision().await.unwrap()).await.unwrap();
    members.etcdctl(0, &["put", "somebody", "else"]).expect("written");
    let newest = store.revision().await.unwrap();
    let batch = tokio::time::timeout(Duration::from_secs(30), watch.next()).await.expect("nothing came");
    let batch = batch.expect("ended").unwrap();
    assert_eq!((batch.revision, batch.changes.len()), (newest, 0));
}

/// Files of an authority, and what it signed.
struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        Self { issuer }
    }

    fn pem(&self) -> Vec<u8> {
        self.issuer.pem().into_bytes()
    }

    fn sign(&self, name: &str) -> (Vec<u8>, Vec<u8>) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![name.to_string()]).unwrap();
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        (certificate.pem().into_bytes(), key.serialize_pem().into_bytes())
    }
}

fn write(folder: &Path, name: &str, bytes: &[u8]) -> String {
    let path = folder.join(name);
    std::fs::write(&path, bytes).unwrap();
    path.to_string_lossy().into_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_with_client_certificates_lets_in_who_has_one_and_trusts_only_the_right_authority() {
    let (folder, address) = (tempfile::tempdir().unwrap(), unused_address());
    let (ours, others) = (Authority::new(), Authority::new());
    let (certificate, key) = ours.sign(&address.to_string());
    let tls = Tls {
        authority: write(folder.path(), "ca.crt", &ours.pem()),
        certificate: write(folder.path(), "server.crt", &certificate),
        key: write(folder.path(), "server.key", &key),
    };
    let members = Members::start_at(address, 1, &[], Some(tls));
    let endpoints = |authority: &Authority, identity| Endpoints {
        authority: Some(authority.pem()),
        identity,
        ..members.endpoints()
    };
    let store: Arc<dyn Store> = Arc::new(members.store_by(endpoints(&ours, Some(ours.sign("orlop")))).await);
    put(&*store, "/s/k", "1".into()).await.unwrap();
    assert_eq!(store.get("/s/k").await.unwrap().0.unwrap().value, "1");
    let refused = async |endpoints| {
        let opened = Etcd::open(EtcdOptions { endpoints, retention: None }).await;
        let error = opened.err().expect("refused");
        assert!(matches!(error, Error::Unreachable { .. }), "{error}");
        error.to_string()
    };
    refused(endpoints(&ours, None)).await;
    refused(endpoints(&ours, Some(others.sign("orlop")))).await;
    let distrusted = refused(endpoints(&others, Some(ours.sign("orlop")))).await;
    assert!(distrusted.contains("certificate"), "{distrusted}");
}

#[tokio::test]
async fn addresses_that_make_no_sense_are_refused_at_once() {
    for address in ["", "10.0.0.1:2379", "ftp://10.0.0.1:2379", "https://10.0.0.1:2379", "http://"] {
        let endpoints = Endpoints { addresses: vec![address.to_string()], ..Endpoints::default() };
        let opened = Etcd::open(EtcdOptions { endpoints, retention: None }).await;
        assert!(matches!(opened, Err(Error::Address { .. })), "{address:?}: {:?}", opened.err());
    }
    let opened = Etcd::open(EtcdOptions { endpoints: Endpoints::default(), retention: None }).await;
    assert!(matches!(opened, Err(Error::Address { .. })), "{:?}", opened.err());
}
