//! Claims and volumes: binding, the built-in class, what becomes of volumes.

use crate::cluster::{Cluster, object};
use k8s_openapi::api::{
    core::v1::{Node, PersistentVolume, PersistentVolumeClaim, Pod},
    storage::v1::StorageClass,
};
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};

type Claim = PersistentVolumeClaim;

fn claim(name: &str, size: &str, class: Option<&str>) -> Value {
    json!({"metadata": {"name": name}, "spec": {"accessModes": ["ReadWriteOnce"], "storageClassName": class,
        "resources": {"requests": {"storage": size}}}})
}

fn pod(name: &str, volume: Value) -> Value {
    let mut volume = volume;
    volume["name"] = json!("data");
    json!({"metadata": {"name": name, "labels": {"app": name}}, "spec": {
        "containers": [{"name": "main", "image": "image:1"}], "volumes": [volume]}})
}

async fn volume(cluster: &Cluster, name: &str, size: &str, more: Value) {
    let mut volume = json!({"metadata": {"name": name}, "spec": {"capacity": {"storage": size},
        "accessModes": ["ReadWriteOnce"], "hostPath": {"path": "/tmp/none"}}});
    more.as_object().into_iter().flatten().for_each(|(k, v)| volume["spec"][k] = v.clone());
    let volumes = cluster.everywhere::<PersistentVolume>();
    volumes.create(&PostParams::default(), &object(volume)).await.expect("a volume is made");
}

async fn until_volume(cluster: &Cluster, name: &str, phase: &str) -> PersistentVolume {
    let volumes = cluster.everywhere::<PersistentVolume>();
    let look = async || {
        let volume = volumes.get_opt(name).await.expect("an answer")?;
        let is = volume.status.as_ref().and_then(|s| s.phase.as_deref()) == Some(phase);
        is.then_some(volume)
    };
    cluster.until(&format!("{name} to be {phase}"), look).await
}

fn phase(claim: &Claim) -> &str {
    claim.status.as_ref().and_then(|s| s.phase.as_deref()).unwrap_or_default()
}

fn volume_of(claim: &Claim) -> String {
    claim.spec.as_ref().and_then(|s| s.volume_name.clone()).unwrap_or_default()
}

async fn until_bound(cluster: &Cluster, name: &str) -> Claim {
    cluster.until_it::<Claim>(name, "to be bound", |c| phase(c) == "Bound").await
}

/// A cluster whose node keeps local volumes.
async fn with_folder() -> Cluster {
    let cluster = Cluster::start(1).await;
    cluster
        .patch_node(
            "n0",
            json!({"metadata": {"annotations": {"orlop.dev/local-volumes": "/data/volumes"},
        "labels": {"kubernetes.io/hostname": "n0"}}}),
        )
        .await;
    let classes = cluster.everywhere::<StorageClass>();
    cluster.until("the default class", async || classes.get_opt("local").await.expect("an answer")).await;
    cluster
}

#[tokio::test]
async fn of_two_claims_for_one_volume_one_gets_it_and_the_other_waits_for_the_next() {
    let cluster = Cluster::start(1).await;
    volume(&cluster, "one", "1Gi", json!({})).await;
    cluster.create::<Claim>(claim("a", "1Gi", Some(""))).await;
    cluster.create::<Claim>(claim("b", "1Gi", Some(""))).await;
    until_volume(&cluster, "one", "Bound").await;
    cluster.until_event("FailedBinding", "no persistent volumes available for this claim").await;
    let bound: Vec<Claim> = cluster.api::<Claim>().list(&ListParams::default()).await.expect("claims").items;
    let having: Vec<&Claim> = bound.iter().filter(|c| volume_of(c) == "one").collect();
    assert_eq!(having.len(), 1, "{bound:?}");
    volume(&cluster, "two", "3Gi", json!({})).await;
    for name in ["a", "b"] {
        let claim = until_bound(&cluster, name).await;
        assert_eq!(
            claim.annotations().get("pv.kubernetes.io/bind-completed").map(String::as_str),
            Some("yes")
        );
        let capacity = claim.status.and_then(|s| s.capacity).expect("it says how much it has");
        assert!(capacity["storage"].0 == "1Gi" || capacity["storage"].0 == "3Gi");
    }
}

#[tokio::test]
async fn a_volume_is_released_or_fails_by_its_policy_when_its_claim_goes() {
    let cluster = Cluster::start(1).await;
    for (name, policy, after) in
        [("kept", "Retain", "Released"), ("deleted", "Delete", "Failed"), ("recycled", "Recycle", "Failed")]
    {
        volume(&cluster, name, "1Gi", json!({"persistentVolumeReclaimPolicy": policy})).await;
        let mut wanted = claim(name, "1Gi", Some(""));
        wanted["spec"]["volumeName"] = json!(name);
        cluster.create::<Claim>(wanted).await;
        until_bound(&cluster, name).await;
        cluster.delete::<Claim>(name, &DeleteParams::default()).await;
        let volume = until_volume(&cluster, name, after).await;
        let reference = volume.spec.and_then(|s| s.claim_ref).expect("it still says whose it was");
        assert_eq!(reference.name.as_deref(), Some(name));
    }
    // Nobody else gets what was somebody's.
    cluster.create::<Claim>(claim("next", "1Gi", Some(""))).await;
    cluster.until_event("FailedBinding", "no persistent volumes").await;
    // Until somebody says that it is free.
    let volumes = cluster.everywhere::<PersistentVolume>();
    let free = Patch::Merge(json!({"spec": {"claimRef": null}}));
    volumes.patch("kept", &PatchParams::default(), &free).await.expect("patched");
    assert_eq!(volume_of(&until_bound(&cluster, "next").await), "kept");
}

#[tokio::test]
async fn a_claim_of_the_default_class_gets_a_directory_where_its_pod_runs_and_it_goes_with_the_claim() {
    let cluster = with_folder().await;
    let made: Claim = cluster.create(claim("data", "1Gi", None)).await;
    assert_eq!(made.spec.as_ref().and_then(|s| s.storage_class_name.as_deref()), Some("local"));
    cluster
        .until_event("WaitForFirstConsumer", "waiting for first consumer to be created before binding")
        .await;
    cluster.create::<Pod>(pod("p", json!({"persistentVolumeClaim": {"claimName": "data"}}))).await;
    let bound = until_bound(&cluster, "data").await;
    let name = volume_of(&bound);
    assert_eq!(name, format!("pvc-{}", bound.uid().expect("a uid")));
    assert_eq!(bound.annotations().get("volume.kubernetes.io/selected-node").map(String::as_str), Some("n0"));
    let volume = until_volume(&cluster, &name, "Bound").await;
    assert_eq!(volume.spec.and_then(|s| s.local).map(|l| l.path), Some(format!("/data/volumes/{name}")));
    cluster.until_event("ProvisioningSucceeded", &name).await;

    // It grows when it is asked to.
    let more = json!({"spec": {"resources": {"requests": {"storage": "2Gi"}}}});
    cluster.patch::<Claim>("data", more).await;
    cluster
        .until_it::<Claim>("data", "to have grown", |c| {
            c.status.as_ref().and_then(|s| s.capacity.as_ref()).is_some_and(|a| a["storage"].0 == "2Gi")
        })
        .await;

    cluster.delete::<Claim>("data", &DeleteParams::default()).await;
    cluster.settle().await;
    assert_eq!(phase(&cluster.api::<Claim>().get("data").await.expect("held by the pod")), "Bound");
    cluster.delete::<Pod>("p", &DeleteParams::default()).await;
    cluster.until_gone::<Claim>("data").await;
    let volumes = cluster.everywhere::<PersistentVolume>();
    let only_the_node = async || {
        let volume =
            volumes.get_opt(&name).await.expect("an answer").expect("held until the directory is gone");
        (volume.finalizers() == ["orlop.dev/local-directory"] && volume.metadata.deletion_timestamp.is_some())
            .then_some(())
    };
    cluster.until("the volume to wait for its node", only_the_node).await;
    // A node that is gone for good cannot remove it.
    cluster.everywhere::<Node>().delete("n0", &DeleteParams::default()).await.expect("deleted");
    let gone = async || volumes.get_opt(&name).await.expect("an answer").is_none().then_some(());
    cluster.until("the volume to be gone", gone).await;
}

#[tokio::test]
async fn an_ephemeral_volume_has_a_claim_of_its_pod() {
    let cluster = with_folder().await;
    let template = json!({"volumeClaimTemplate": {"metadata": {"labels": {"of": "p"}},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Mi"}}}}});
    cluster.create::<Pod>(pod("p", json!({"ephemeral": template}))).await;
    let claim = until_bound(&cluster, "p-data").await;
    assert_eq!(claim.labels().get("of").map(String::as_str), Some("p"));
    cluster.delete::<Pod>("p", &DeleteParams::default()).await;
    cluster.until_gone::<Claim>("p-data").await;
    // A claim of that name that is somebody else's is not taken.
    cluster
        .create::<Claim>(json!({"metadata": {"name": "q-data"}, "spec": {"accessModes": ["ReadWriteOnce"],
        "resources": {"requests": {"storage": "1Mi"}}}}))
        .await;
    cluster.create::<Pod>(pod("q", json!({"ephemeral": template}))).await;
    cluster.until_event("FailedBinding", "was not created for pod default/q (pod is not owner)").await;
}

#[tokio::test]
async fn a_binder_that_is_killed_again_and_again_binds_all_the_same() {
    let cluster = with_folder().await;
    let immediate = json!({"metadata": {"name": "now"}, "provisioner": "orlop.dev/local", "reclaimPolicy": "Delete",
        "volumeBindingMode": "Immediate"});
    let classes = cluster.everywhere::<StorageClass>();
    classes.create(&PostParams::default(), &object(immediate)).await.expect("a class is made");
    for i in 0..20 {
        cluster.create::<Claim>(claim(&format!("c{i}"), "1Mi", Some("now"))).await;
        if i % 4 == 3 {
            tokio::time::sleep(std::time::Duration::from_millis(7)).await;
            cluster.kill("controllers").await;
            cluster.start_controllers();
        }
    }
    let mut names = std::collections::BTreeSet::new();
    for i in 0..20 {
        let bound = until_bound(&cluster, &format!("c{i}")).await;
        let volume = until_volume(&cluster, &volume_of(&bound), "Bound").await;
        assert_eq!(volume.spec.and_then(|s| s.claim_ref).and_then(|r| r.uid), bound.uid());
        names.insert(volume_of(&bound));
    }
    let all =
        cluster.everywhere::<PersistentVolume>().list(&ListParams::default()).await.expect("volumes").items;
    assert_eq!((names.len(), all.len()), (20, 20), "no volume is made twice");
}

#[tokio::test]
async fn a_claim_whose_volume_is_taken_away_is_lost_and_the_class_that_was_deleted_stays_so() {
    let cluster = with_folder().await;
    volume(&cluster, "v", "1Gi", json!({})).await;
    cluster.create::<Claim>(claim("c", "1Gi", Some(""))).await;
    until_bound(&cluster, "c").await;
    let volumes = cluster.everywhere::<PersistentVolume>();
    volumes.delete("v", &DeleteParams::default()).await.expect("deleted");
    let drop = Patch::Merge(json!({"metadata": {"finalizers": null}}));
    volumes.patch("v", &PatchParams::default(), &drop).await.expect("let go");
    cluster.until_it::<Claim>("c", "to be lost", |c| phase(c) == "Lost").await;
    cluster
        .until_event("ClaimLost", "Bound claim has lost its PersistentVolume. Data on the volume is lost!")
        .await;

    let classes: Api<StorageClass> = cluster.everywhere();
    let namespaces = cluster.everywhere::<k8s_openapi::api::core::v1::Namespace>();
    let marked = async || {
        let system = namespaces.get("kube-system").await.expect("it is there");
        system.annotations().contains_key("orlop.dev/default-storage-class").then_some(())
    };
    cluster.until("the mark", marked).await;
    classes.delete("local", &DeleteParams::default()).await.expect("deleted");
    cluster.kill("controllers").await;
    cluster.start_controllers();
    cluster.settle().await;
    assert!(classes.get_opt("local").await.expect("an answer").is_none());
}
