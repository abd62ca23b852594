//! How servers that share etcd know that they are of one cluster. etcd holds which cluster it belongs to, how that is laid out,
//! and the keys that all servers need, sealed with the servers' token: who can read etcd alone cannot read them. The first
//! server founds the cluster; others join with the token; whoever does not belong is refused before anything is changed.

use crate::{Error, cluster_layout::ClusterLayout, layout::Layout};
use orlop_pki::shared::{self, SharedFiles};
use orlop_store::{
    Commit, Condition, Expect, Op, Store, Txn,
    sealed::{Keys, Sealed},
};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, path::Path, sync::Arc};

/// Outside of what holds objects.
const RECORD: &str = "/orlop/cluster";
const KEYS: &str = "/orlop/keys";
const OBJECTS: &str = "/registry/";
/// Files in the folder of keys: the servers' token, and that the state is in etcd.
const TOKEN: &str = "server-token";
const MARK: &str = "state-in-etcd";
pub(crate) const SECRET_KEYS: &str = "secrets.keys";

/// What etcd says about its cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Record {
    /// The pin of its authority.
    id: String,
    layout: ClusterLayout,
}

/// What to do, seeing what is there.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    /// etcd is empty: the cluster is founded.
    Found,
    /// This machine is a member.
    Enter,
    /// It becomes one.
    Join,
    Refuse(String),
}

/// What is in the data folder.
#[derive(Clone, Copy, Debug, Default)]
struct Here<'a> {
    /// The cluster whose authority it holds.
    id: Option<&'a str>,
    /// It has had its state in etcd before.
    marked: bool,
    /// It has state of its own.
    embedded: bool,
}

fn decide(record: Option<&Record>, foreign: bool, here: Here<'_>, layout: &ClusterLayout) -> Step {
    let short = |id: &str| id.get(..12).unwrap_or(id).to_string();
    let refuse = |why: String| Step::Refuse(why);
    let Some(record) = record else {
        return match here {
            _ if foreign => refuse("this etcd holds the state of something else under /registry/ (Kubernetes?): give Orlop an etcd of its own".into()),
            Here { marked: true, .. } => refuse("this etcd is empty, but this machine's cluster has its state in etcd: --datastore-endpoint leads elsewhere, or etcd was emptied and needs its backup".into()),
            Here { embedded: true, .. } => refuse("this machine's cluster has its state in the data folder: start without --datastore-endpoint, or use another --data-dir for a new cluster".into()),
            _ => Step::Found,
        };
    };
    match here.id {
        Some(id) if id != record.id => {
            return refuse(format!(
                "this etcd belongs to another cluster ({}; this machine's is {}): check --datastore-endpoint, or leave the old cluster with `orlop reset`",
                short(&record.id),
                short(id)
            ));
        }
        Some(_) if here.embedded => {
            return refuse("this machine holds state in its data folder and in etcd: remove DIR/store if etcd's is the one that counts".into());
        }
        _ => {}
    }
    // How long a node may be silent can be changed at any time.
    let given = ClusterLayout { node_seconds: record.layout.node_seconds, ..layout.clone() };
    if record.layout != given {
        let shown = |layout| serde_json::to_string(layout).unwrap_or_default();
        return refuse(format!(
            "the cluster is laid out as {}, this server was started with {}: give all servers the same ranges, domain and backend",
            shown(&record.layout),
            shown(layout)
        ));
    }
    if here.id.is_some() { Step::Enter } else { Step::Join }
}

/// A key of 32 bytes as 64 hexadecimal digits.
fn token_key(token: &str) -> Result<Vec<u8>, Error> {
    let wrong = || {
        Error::Configuration("a server token has 64 hexadecimal digits, as the first server keeps it in tls/server-token of its data folder".into())
    };
    let token = token.trim();
    if token.len() != 64 || !token.is_ascii() {
        return Err(wrong());
    }
    (0..32)
        .map(|i| token.get(2 * i..2 * i + 2).and_then(|pair| u8::from_str_radix(pair, 16).ok()))
        .collect::<Option<_>>()
        .ok_or_else(wrong)
}

fn failed<E: Into<Box<dyn std::error::Error + Send + Sync>>>(step: &str) -> impl FnOnce(E) -> Error {
    Error::at(step)
}

/// The store with the keys readable by who has the token.
async fn opened(store: &Arc<dyn Store>, token: &str) -> Result<Sealed, Error> {
    let keys = Keys::new(&[token_key(token)?]).map_err(failed("reading the server token"))?;
    Sealed::open(store.clone(), keys, &[KEYS]).await.map_err(|error| match error {
        orlop_store::Error::Backend { step: "decrypting a value", .. } => Error::Configuration(
            "the server token is not that of this cluster: take the one in tls/server-token of the first server's data folder".into(),
        ),
        other => failed("reading the keys of the cluster from etcd")(other),
    })
}

/// Makes sure that this machine and etcd belong together, and that the keys of the cluster are in the data folder. `given` is
/// the token that the server was started with; `now` is in seconds. Returns whether the cluster is a new one.
pub(crate) async fn agree(
    store: &Arc<dyn Store>,
    data: &Layout,
    layout: &ClusterLayout,
    given: Option<&str>,
    now: i64,
) -> Result<bool, Error> {
    let dir = data.tls();
    let entry = store.get(RECORD).await.map_err(failed("reading etcd"))?.0;
    let record: Option<Record> = entry
        .map(|entry| serde_json::from_slice(&entry.value))
        .transpose()
        .map_err(failed("reading which cluster etcd belongs to"))?;
    let foreign = record.is_none()
        && !store.list(OBJECTS, None, None, 1).await.map_err(failed("reading etcd"))?.entries.is_empty();
    let reading = || failed("reading the keys in the data folder");
    let id = shared::cluster_id(&dir).map_err(reading())?;
    let marked = shared::read_note(&dir, MARK).map_err(reading())?.is_some();
    let here = Here { id: id.as_deref(), marked, embedded: data.store().exists() };
    let kept = shared::read_note(&dir, TOKEN).map_err(reading())?;
    let token = given.map(str::to_string).or(kept);
    match decide(record.as_ref(), foreign, here, layout) {
        Step::Refuse(why) => return Err(Error::Configuration(why)),
        Step::Found => {
            found(store, &dir, layout, token, now).await?;
            return Ok(true);
        }
        step => {
            let token = token.ok_or_else(|| {
                Error::Configuration(
                    "this etcd holds a cluster that this machine is not a server of: give --server-token, as the first server keeps it in tls/server-token of its data folder".into(),
                )
            })?;
            let sealed = opened(store, &token).await?;
            let entry =
                sealed.get(KEYS).await.map_err(failed("reading the keys of the cluster from etcd"))?.0;
            let entry =
                entry.ok_or_else(|| Error::Configuration("etcd holds no keys of the cluster".into()))?;
            let held: SharedFiles = serde_json::from_slice(&entry.value)
                .map_err(failed("reading the keys of the cluster from etcd"))?;
            if step == Step::Join {
                shared::write_note(&dir, TOKEN, &token).map_err(failed("keeping the server token"))?;
                shared::write(&dir, &held).map_err(failed("keeping the keys of the cluster"))?;
            } else {
                let merged = merge(&dir, held.clone())?;
                if merged != held {
                    let value = serde_json::to_vec(&merged).map_err(failed("writing the keys"))?;
                    let txn = Txn::replace(KEYS, entry.modified, value.into());
                    sealed.commit(txn).await.map_err(failed("writing the keys of the cluster to etcd"))?;
                }
                shared::write_note(&dir, TOKEN, &token).map_err(failed("keeping the server token"))?;
            }
        }
    }
    shared::write_note(&dir, MARK, "the cluster's state is in etcd").map_err(failed("writing a note"))?;
    Ok(false)
}

async fn found(
    store: &Arc<dyn Store>,
    dir: &Path,
    layout: &ClusterLayout,
    token: Option<String>,
    now: i64,
) -> Result<(), Error> {
    let fresh = !shared::is_there(dir).map_err(failed("reading the keys in the data folder"))?;
    let token = match token {
        Some(token) => token,
        None => {
            let key = Keys::generate().map_err(failed("making the server token"))?;
            key.iter().map(|byte| format!("{byte:02x}")).collect()
        }
    };
    let sealed = opened(store, &token).await?;
    shared::write_note(dir, TOKEN, &token).map_err(failed("keeping the server token"))?;
    shared::make_authorities(dir, now).map_err(failed("making the keys of the cluster"))?;
    secret_keys(dir)?;
    let files = shared::read(dir).map_err(failed("reading the keys of the cluster"))?;
    let id = shared::cluster_id(dir).map_err(failed("reading the keys of the cluster"))?.unwrap_or_default();
    let json = |value: Result<Vec<u8>, serde_json::Error>| value.map_err(failed("writing to etcd"));
    let record = json(serde_json::to_vec(&Record { id, layout: layout.clone() }))?;
    let keys = json(serde_json::to_vec(&files))?;
    let txn = Txn {
        conditions: vec![Condition { key: RECORD.into(), expect: Expect::Absent }],
        ops: vec![Op::Put(RECORD.into(), record.into()), Op::Put(KEYS.into(), keys.into())],
    };
    match sealed.commit(txn).await.map_err(failed("founding the cluster in etcd"))? {
        Commit::Done(_) => {
            shared::write_note(dir, MARK, "the cluster's state is in etcd").map_err(failed("writing a note"))
        }
        Commit::Conflict { .. } => {
            if fresh {
                std::fs::remove_dir_all(dir).map_err(failed("removing keys that nobody needs"))?;
            }
            Err(Error::Configuration(
                "another server founded a cluster in this etcd at the same moment: start this one with its --server-token".into(),
            ))
        }
    }
}

/// Fails where this machine's cluster has its state in etcd, so that it is not started with none.
pub(crate) fn may_be_alone(data: &Layout) -> Result<(), Error> {
    match shared::read_note(&data.tls(), MARK).map_err(failed("reading the keys in the data folder"))? {
        None => Ok(()),
        Some(_) => Err(Error::Configuration(
            "this machine's cluster has its state in etcd: start `orlop server` with --datastore-endpoint and the options with it"
                .into(),
        )),
    }
}

/// The keys of Secrets, made where there are none.
pub(crate) fn secret_keys(dir: &Path) -> Result<Vec<Vec<u8>>, Error> {
    let make = || Keys::generate().map_err(|e| orlop_pki::Error::certificate("making a key", e));
    orlop_pki::key_list::read_or_create(dir, SECRET_KEYS, make).map_err(failed("reading the keys of Secrets"))
}

/// Brings the keys of Secrets together: a key that was put in front on this machine is shared, one that another server has is
/// taken over. Returns what etcd should hold.
fn merge(dir: &Path, mut held: SharedFiles) -> Result<SharedFiles, Error> {
    secret_keys(dir)?;
    let own = shared::read(dir).map_err(failed("reading the keys of the cluster"))?;
    let lines = |files: &BTreeMap<String, String>| -> Vec<String> {
        files.get(SECRET_KEYS).into_iter().flat_map(|text| text.lines()).map(String::from).collect()
    };
    let (mut all, others) = (lines(&own), lines(&held));
    let before = all.len();
    all.extend(
        others.into_iter().filter(|line| !own.get(SECRET_KEYS).is_some_and(|t| t.lines().any(|l| l == line))),
    );
    let text = format!("{}\n", all.join("\n"));
    if all.len() > before {
        shared::write_note(dir, SECRET_KEYS, text.trim_end())
            .map_err(failed("keeping the keys of Secrets"))?;
    }
    let known = |line: &String| held.get(SECRET_KEYS).is_some_and(|t| t.lines().any(|l| l == line));
    if !all.iter().all(known) {
        held.insert(SECRET_KEYS.into(), text);
    }
    Ok(held)
}

#[cfg(test)]
mod tests {
    use super::*;
    use orlop_store::Embedded;

    fn layout(domain: &str) -> ClusterLayout {
        serde_json::from_value(serde_json::json!({
            "clusterCidrs": ["10.42.0.0/16"], "serviceCidrs": ["10.43.0.0/16"], "clusterDns": ["10.43.0.10"],
            "clusterDomain": domain,
            "mesh": orlop_network::mesh::MeshSettings { backend: orlop_network::mesh::Backend::Auto, vni: 1, port: 8472 },
        }))
        .expect("a layout")
    }

    struct Machine {
        _folder: tempfile::TempDir,
        data: Layout,
    }

    impl Machine {
        fn new() -> Self {
            let folder = tempfile::tempdir().expect("a folder");
            let data = Layout::create(folder.path()).expect("made");
            Self { _folder: folder, data }
        }

        async fn starts(&self, store: &Arc<dyn Store>, token: Option<&str>) -> Result<bool, String> {
            let agreed = agree(store, &self.data, &layout("cluster.local"), token, 1_790_000_000).await;
            agreed.map_err(|e| e.to_string())
        }

        fn token(&self) -> String {
            shared::read_note(&self.data.tls(), TOKEN).expect("read").expect("there")
        }

        fn files(&self) -> SharedFiles {
            shared::read(&self.data.tls()).expect("read")
        }
    }

    fn store() -> Arc<dyn Store> {
        Arc::new(Embedded::in_memory())
    }

    #[tokio::test]
    async fn a_second_server_gets_the_keys_by_the_token_and_starts_again_without_it() {
        let (store, first, second) = (store(), Machine::new(), Machine::new());
        assert_eq!(first.starts(&store, None).await, Ok(true));
        assert_eq!(first.starts(&store, None).await, Ok(false));
        let refused = second.starts(&store, None).await.expect_err("no token");
        assert!(refused.contains("--server-token"), "{refused}");
        let wrong = "ab".repeat(32);
        let refused = second.starts(&store, Some(&wrong)).await.expect_err("a wrong token");
        assert!(refused.contains("not that of this cluster"), "{refused}");
        assert!(second.starts(&store, Some("short")).await.expect_err("no token").contains("64 hexadecimal"));
        assert!(!shared::is_there(&second.data.tls()).expect("looked"), "nothing was half joined");
        assert_eq!(second.starts(&store, Some(&first.token())).await, Ok(false));
        assert_eq!(second.files(), first.files());
        assert_eq!(second.starts(&store, None).await, Ok(false));
        // Who reads etcd learns no key.
        let all = store.list("", None, None, 0).await.expect("listed").entries;
        let shown: String = all.iter().map(|e| String::from_utf8_lossy(&e.value).into_owned()).collect();
        assert!(!shown.contains("PRIVATE KEY"));
    }

    #[tokio::test]
    async fn an_etcd_of_another_cluster_or_of_something_else_or_emptied_is_refused() {
        let (one, other, first, second) = (store(), store(), Machine::new(), Machine::new());
        first.starts(&one, None).await.expect("founded");
        second.starts(&other, None).await.expect("founded");
        let refused = second.starts(&one, Some(&first.token())).await.expect_err("another cluster");
        assert!(refused.contains("another cluster"), "{refused}");
        let emptied = first.starts(&store(), None).await.expect_err("emptied");
        assert!(emptied.contains("backup"), "{emptied}");
        let foreign = store();
        let object = Txn::create("/registry/pods/default/web", "{}".into());
        foreign.commit(object).await.expect("written");
        let refused = Machine::new().starts(&foreign, None).await.expect_err("something else");
        assert!(refused.contains("something else"), "{refused}");
        let third = Machine::new();
        let agreed =
            agree(&one, &third.data, &layout("other.local"), Some(&first.token()), 1_790_000_000).await;
        assert!(agreed.expect_err("another layout").to_string().contains("other.local"));
        let patient = ClusterLayout { node_seconds: 90, ..layout("cluster.local") };
        agree(&one, &first.data, &patient, None, 1_790_000_000).await.expect("that may change");
        std::fs::create_dir(third.data.store()).expect("made");
        let refused = third.starts(&store(), None).await.expect_err("state of its own");
        assert!(refused.contains("data folder"), "{refused}");
    }

    #[tokio::test]
    async fn a_new_key_of_secrets_reaches_the_other_servers() {
        let (store, first, second) = (store(), Machine::new(), Machine::new());
        first.starts(&store, None).await.expect("founded");
        second.starts(&store, Some(&first.token())).await.expect("joined");
        let file = first.data.tls().join(SECRET_KEYS);
        let old = std::fs::read_to_string(&file).expect("read");
        let new = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
        std::fs::write(&file, format!("{new}\n{old}")).expect("written");
        first.starts(&store, None).await.expect("started");
        second.starts(&store, None).await.expect("started");
        let keys = secret_keys(&second.data.tls()).expect("read");
        assert_eq!(keys.len(), 2);
        assert_eq!(secret_keys(&first.data.tls()).expect("read").len(), 2);
    }
}
