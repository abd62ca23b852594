use crate::cluster::Cluster;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret};
use kube::{ResourceExt, api::DeleteParams};
use serde_json::{Value, json};

async fn owner(c: &Cluster, name: &str) -> ConfigMap {
    c.create(json!({"metadata": {"name": name}})).await
}

fn owned_by(owner: &ConfigMap, blocks: bool) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "name": owner.name_any(), "uid": owner.uid(),
        "blockOwnerDeletion": blocks})
}

/// A Secret, so that owner and dependent are of different kinds.
async fn dependent(c: &Cluster, name: &str, owners: &[Value], finalizers: &[&str]) -> Secret {
    c.create(json!({"metadata": {"name": name, "ownerReferences": owners, "finalizers": finalizers}})).await
}

async fn is_there(c: &Cluster, name: &str) -> bool {
    c.api::<Secret>().get_opt(name).await.expect("an answer").is_some()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_lost_its_owner_goes_and_what_has_another_stays() {
    let c = Cluster::start(0).await;
    let (a, b) = (owner(&c, "a").await, owner(&c, "b").await);
    dependent(&c, "of-a", &[owned_by(&a, false)], &[]).await;
    dependent(&c, "of-both", &[owned_by(&a, false), owned_by(&b, false)], &[]).await;
    c.delete::<ConfigMap>("a", &DeleteParams::background()).await;
    c.until_gone::<Secret>("of-a").await;
    let left = c.until_it("of-both", "to have lost one", |s: &Secret| s.owner_references().len() == 1).await;
    assert_eq!(left.owner_references()[0].name, "b");
    // An owner that was never there.
    let mut nobody = owned_by(&b, false);
    nobody["uid"] = "00000000-0000-0000-0000-000000000000".into();
    dependent(&c, "of-nobody", &[nobody], &[]).await;
    c.until_gone::<Secret>("of-nobody").await;
    // Another object of the same name is another owner.
    c.delete::<ConfigMap>("b", &DeleteParams::background()).await;
    owner(&c, "b").await;
    c.until_gone::<Secret>("of-both").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn foreground_deletion_waits_for_dependents_that_block_it() {
    let c = Cluster::start(0).await;
    let a = owner(&c, "a").await;
    dependent(&c, "blocks", &[owned_by(&a, true)], &["example.com/hold"]).await;
    dependent(&c, "does-not", &[owned_by(&a, false)], &["example.com/hold"]).await;
    c.delete::<ConfigMap>("a", &DeleteParams::foreground()).await;
    for name in ["blocks", "does-not"] {
        c.until_it(name, "to be on its way", |s: &Secret| s.metadata.deletion_timestamp.is_some()).await;
    }
    c.settle().await;
    let a: ConfigMap = c.api().get("a").await.expect("it waits");
    assert_eq!(a.finalizers(), ["foregroundDeletion"]);
    c.patch::<Secret>("blocks", json!({"metadata": {"finalizers": null}})).await;
    c.until_gone::<ConfigMap>("a").await;
    assert!(is_there(&c, "does-not").await);
}

#[tokio::test(flavor = "multi_thread")]
async fn orphaning_cuts_dependents_loose() {
    let c = Cluster::start(0).await;
    let a = owner(&c, "a").await;
    for i in 0..20 {
        dependent(&c, &format!("d{i}"), &[owned_by(&a, true)], &[]).await;
    }
    c.settle().await;
    c.delete::<ConfigMap>("a", &DeleteParams::orphan()).await;
    c.until_gone::<ConfigMap>("a").await;
    c.settle().await;
    for i in 0..20 {
        let left: Secret = c.api().get(&format!("d{i}")).await.expect("it stays");
        assert!(left.owner_references().is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_circle_of_owners_does_not_hold_itself() {
    let c = Cluster::start(0).await;
    let mut made: Vec<Pod> = Vec::new();
    for name in ["p1", "p2", "p3"] {
        let spec = json!({"containers": [{"name": "main", "image": "image:1"}]});
        made.push(
            c.create(json!({"metadata": {"name": name, "labels": {"app": "circle"}}, "spec": spec})).await,
        );
    }
    for (i, name) in ["p1", "p2", "p3"].iter().enumerate() {
        let owner = &made[(i + 2) % 3];
        let reference = json!({"apiVersion": "v1", "kind": "Pod", "name": owner.name_any(), "uid": owner.uid(),
            "controller": true, "blockOwnerDeletion": true});
        c.patch::<Pod>(name, json!({"metadata": {"ownerReferences": [reference]}})).await;
    }
    c.delete::<Pod>("p1", &DeleteParams::foreground()).await;
    c.until("the circle to be gone", async || c.of_app::<Pod>("circle").await.is_empty().then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_owner_in_another_namespace_is_none() {
    let c = Cluster::start(0).await;
    let elsewhere = kube::Api::<ConfigMap>::namespaced(c.client.clone(), "kube-system");
    let mut map = ConfigMap::default();
    map.metadata.name = Some("far".into());
    let far = elsewhere.create(&kube::api::PostParams::default(), &map).await.expect("it is made");
    dependent(&c, "of-far", &[owned_by(&far, false)], &[]).await;
    c.until_gone::<Secret>("of-far").await;
    assert!(elsewhere.get_opt("far").await.expect("an answer").is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_orphaned_while_nobody_looked_is_found_at_the_start() {
    let c = Cluster::start(0).await;
    let (a, b) = (owner(&c, "a").await, owner(&c, "b").await);
    dependent(&c, "of-a", &[owned_by(&a, false)], &[]).await;
    dependent(&c, "of-b", &[owned_by(&b, false)], &[]).await;
    c.kill("controllers").await;
    c.delete::<ConfigMap>("a", &DeleteParams::background()).await;
    c.start_controllers();
    c.until_gone::<Secret>("of-a").await;
    assert!(is_there(&c, "of-b").await);
}
