use crate::cluster::{Cluster, template};
use k8s_openapi::api::{
    apps::v1::{ControllerRevision, StatefulSet},
    core::v1::{PersistentVolumeClaim, Pod},
};
use kube::{ResourceExt, api::DeleteParams};
use serde_json::{Value, json};

fn set(replicas: i32, spec: Value) -> Value {
    let mut whole = json!({
        "replicas": replicas, "serviceName": "db",
        "selector": {"matchLabels": {"app": "db"}},
        "template": template("db", ""),
    });
    whole.as_object_mut().expect("a map").extend(spec.as_object().expect("a map").clone());
    json!({"metadata": {"name": "db", "labels": {"app": "db"}}, "spec": whole})
}

fn claims() -> Value {
    json!([{"metadata": {"name": "data"}, "spec": {
        "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}}])
}

fn image(name: &str) -> Value {
    let mut containers = template("", "")["spec"]["containers"].clone();
    containers[0]["image"] = name.into();
    json!({"spec": {"template": {"spec": {"containers": containers}}}})
}

/// All pods are there, ready, and of the newest revision, which is the current one.
fn complete(replicas: i32) -> impl Fn(&StatefulSet) -> bool {
    move |set| {
        let s = set.status.clone().unwrap_or_default();
        s.observed_generation == set.metadata.generation
            && s.replicas == replicas
            && [s.ready_replicas, s.available_replicas, s.current_replicas, s.updated_replicas]
                .iter()
                .all(|n| n.unwrap_or(0) == replicas)
            && s.current_revision == s.update_revision
    }
}

async fn names(c: &Cluster) -> Vec<String> {
    let mut names: Vec<_> = c.pods("db").await.iter().map(ResourceExt::name_any).collect();
    names.sort();
    names
}

/// Names, images, in the order of their names.
async fn images(c: &Cluster) -> Vec<String> {
    let mut pods = c.pods("db").await;
    pods.sort_by_key(ResourceExt::name_any);
    let image = |p: &Pod| p.spec.as_ref().and_then(|s| s.containers[0].image.clone()).unwrap_or_default();
    pods.iter().map(image).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_come_one_after_the_other_and_go_the_other_way() {
    let c = Cluster::start(2).await;
    c.create::<StatefulSet>(set(3, json!({}))).await;
    let whole = c.until_it("db", "to have three", complete(3)).await;
    assert_eq!(names(&c).await, ["db-0", "db-1", "db-2"]);
    let pods = c.pods("db").await;
    let born = |name: &str| {
        pods.iter().find(|p| p.name_any() == name).map(|p| p.resource_version()).expect("it is there")
    };
    let created = |name: &str| {
        let pod = pods.iter().find(|p| p.name_any() == name).expect("it is there");
        pod.metadata.creation_timestamp.clone().expect("a time").0
    };
    assert!(created("db-0") <= created("db-1") && created("db-1") <= created("db-2"), "{:?}", born("db-0"));
    let revision = whole.status.and_then(|s| s.current_revision).expect("a revision");
    let first = pods.iter().find(|p| p.name_any() == "db-0").expect("it is there");
    assert_eq!(
        serde_json::to_value(first.labels()).expect("json"),
        json!({"app": "db", "apps.kubernetes.io/pod-index": "0", "controller-revision-hash": revision,
            "statefulset.kubernetes.io/pod-name": "db-0"})
    );
    c.until_event("SuccessfulCreate", "create Pod db-0 in StatefulSet db successful").await;

    c.patch::<StatefulSet>("db", json!({"spec": {"replicas": 1}})).await;
    c.until_it("db", "to have one", complete(1)).await;
    assert_eq!(names(&c).await, ["db-0"]);
    c.until_event("SuccessfulDelete", "delete Pod db-2 in StatefulSet db successful").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unhealthy_pod_halts_what_comes_in_order_and_not_what_is_parallel() {
    let c = Cluster::start(1).await;
    let mut ordered = set(3, json!({}));
    ordered["spec"]["template"] = template("db", "unready");
    c.create::<StatefulSet>(ordered.clone()).await;
    c.until("the first", async || (names(&c).await == ["db-0"]).then_some(())).await;
    c.settle().await;
    assert_eq!(names(&c).await, ["db-0"]);
    c.delete::<StatefulSet>("db", &DeleteParams::background()).await;
    c.until("nothing", async || names(&c).await.is_empty().then_some(())).await;

    ordered["spec"]["podManagementPolicy"] = "Parallel".into();
    c.create::<StatefulSet>(ordered).await;
    c.until("all", async || (names(&c).await == ["db-0", "db-1", "db-2"]).then_some(())).await;
    c.patch::<StatefulSet>("db", json!({"spec": {"replicas": 0}})).await;
    c.until("nothing", async || names(&c).await.is_empty().then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_update_stops_at_the_partition_and_can_be_taken_back() {
    let c = Cluster::start(2).await;
    let partition =
        |n: i32| json!({"updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": n}}});
    c.create::<StatefulSet>(set(3, partition(3))).await;
    let before = c.until_it("db", "to have three", complete(3)).await.status.expect("a status");
    c.patch::<StatefulSet>("db", image("image:2")).await;
    let status = |s: &StatefulSet| s.status.clone().unwrap_or_default();
    c.until_it("db", "to know of the new revision", |s: &StatefulSet| {
        status(s).update_revision != before.update_revision
            && status(s).current_revision == before.current_revision
    })
    .await;
    c.settle().await;
    assert_eq!(images(&c).await, ["image:1"; 3]);

    c.patch::<StatefulSet>("db", json!({"spec": partition(2)})).await;
    c.until_it("db", "to have a canary", |s: &StatefulSet| {
        (status(s).updated_replicas, status(s).current_replicas, status(s).ready_replicas)
            == (Some(1), Some(2), Some(3))
    })
    .await;
    assert_eq!(images(&c).await, ["image:1", "image:1", "image:2"]);
    // Lost pods come back as they were.
    for name in ["db-0", "db-2"] {
        let uid = c.api::<Pod>().get(name).await.expect("it is there").uid();
        c.delete::<Pod>(name, &DeleteParams::default()).await;
        c.until_it(name, "to be back", |p: &Pod| p.uid() != uid).await;
    }
    c.until_it("db", "to be whole", |s: &StatefulSet| status(s).ready_replicas == Some(3)).await;
    assert_eq!(images(&c).await, ["image:1", "image:1", "image:2"]);

    c.patch::<StatefulSet>("db", json!({"spec": partition(0)})).await;
    c.until_it("db", "to be new", complete(3)).await;
    assert_eq!(images(&c).await, ["image:2"; 3]);
    c.patch::<StatefulSet>("db", image("image:1")).await;
    let back = c.until_it("db", "to be as it was", complete(3)).await;
    assert_eq!(images(&c).await, ["image:1"; 3]);
    assert_eq!(
        status(&back).current_revision,
        before.current_revision,
        "the old revision is the newest again"
    );
    assert_eq!(c.of_app::<ControllerRevision>("db").await.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn old_revisions_beyond_the_limit_go() {
    let c = Cluster::start(1).await;
    c.create::<StatefulSet>(set(1, json!({"revisionHistoryLimit": 1}))).await;
    c.until_it("db", "to be there", complete(1)).await;
    for i in 2..5 {
        c.patch::<StatefulSet>("db", image(&format!("image:{i}"))).await;
        c.until_it("db", "to be new", complete(1)).await;
    }
    c.until("two revisions", async || (c.of_app::<ControllerRevision>("db").await.len() == 2).then_some(()))
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn on_delete_a_pod_is_new_only_after_somebody_deleted_it() {
    let c = Cluster::start(1).await;
    c.create::<StatefulSet>(set(
        2,
        json!({"updateStrategy": {"type": "OnDelete"}, "ordinals": {"start": 4}}),
    ))
    .await;
    c.until_it("db", "to have two", complete(2)).await;
    assert_eq!(names(&c).await, ["db-4", "db-5"]);
    c.patch::<StatefulSet>("db", image("image:2")).await;
    c.settle().await;
    assert_eq!(images(&c).await, ["image:1"; 2]);
    c.delete::<Pod>("db-4", &DeleteParams::default()).await;
    c.until("the new one", async || (images(&c).await == ["image:2", "image:1"]).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_failed_comes_back_under_its_name() {
    let c = Cluster::start(1).await;
    c.create::<StatefulSet>(set(2, json!({}))).await;
    c.until_it("db", "to have two", complete(2)).await;
    let before = c.api::<Pod>().get("db-0").await.expect("it is there");
    c.patch::<Pod>("db-0", json!({"metadata": {"annotations": {"act": "fail"}}})).await;
    c.until_it("db-0", "to be another", |p: &Pod| p.uid() != before.uid()).await;
    c.until_it("db", "to be whole", complete(2)).await;
    assert_eq!(names(&c).await, ["db-0", "db-1"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_pod_has_a_claim_that_stays_or_goes_as_the_policy_says() {
    let c = Cluster::start(1).await;
    let policy = |deleted: &str, scaled: &str| json!({"persistentVolumeClaimRetentionPolicy": {"whenDeleted": deleted, "whenScaled": scaled}});
    let mut object = set(2, policy("Delete", "Retain"));
    // Nothing binds claims here, so the pods wait; what is made for them is looked at.
    object["spec"]["podManagementPolicy"] = "Parallel".into();
    object["spec"]["volumeClaimTemplates"] = claims();
    c.create::<StatefulSet>(object).await;
    let all = async || {
        let mut all = c.of_app::<PersistentVolumeClaim>("db").await;
        all.retain(|p| p.metadata.deletion_timestamp.is_none());
        all.sort_by_key(ResourceExt::name_any);
        all
    };
    let owned_by = |kind: &str, claims: &[PersistentVolumeClaim]| {
        claims.iter().all(|c| c.owner_references().iter().any(|o| o.kind == kind))
    };
    c.until("two claims of the set", async || {
        let all = all().await;
        let names: Vec<_> = all.iter().map(ResourceExt::name_any).collect();
        (names == ["data-db-0", "data-db-1"] && owned_by("StatefulSet", &all)).then_some(())
    })
    .await;
    c.until_event("SuccessfulCreate", "create Claim data-db-0 Pod db-0 in StatefulSet db success").await;
    let pod = c.api::<Pod>().get("db-1").await.expect("it is there");
    let volumes = pod.spec.expect("a spec").volumes.expect("volumes");
    let claim = volumes.iter().find(|v| v.name == "data").and_then(|v| v.persistent_volume_claim.clone());
    assert_eq!(claim.expect("a claim").claim_name, "data-db-1");

    c.patch::<StatefulSet>("db", json!({"spec": policy("Delete", "Delete")})).await;
    c.patch::<StatefulSet>("db", json!({"spec": {"replicas": 1}})).await;
    c.until_gone::<PersistentVolumeClaim>("data-db-1").await;
    assert_eq!(all().await.len(), 1);
    c.delete::<StatefulSet>("db", &DeleteParams::background()).await;
    c.until_gone::<PersistentVolumeClaim>("data-db-0").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn controllers_that_are_killed_go_on_and_never_double_an_ordinal() {
    let c = Cluster::start(2).await;
    c.create::<StatefulSet>(set(5, json!({"podManagementPolicy": "Parallel"}))).await;
    for _ in 0..3 {
        c.kill("controllers").await;
        c.start_controllers();
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    c.until_it("db", "to have five", complete(5)).await;
    c.patch::<StatefulSet>("db", image("image:2")).await;
    for _ in 0..3 {
        tokio::time::sleep(std::time::Duration::from_millis(30)).await;
        c.kill("controllers").await;
        c.start_controllers();
    }
    c.until_it("db", "to be new", complete(5)).await;
    assert_eq!(names(&c).await, ["db-0", "db-1", "db-2", "db-3", "db-4"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_of_its_name_are_adopted_and_others_are_let_go() {
    let c = Cluster::start(1).await;
    let mut bare = template("db", "");
    bare["metadata"]["name"] = "else-0".into();
    c.create::<Pod>(bare).await;
    c.create::<StatefulSet>(set(1, json!({}))).await;
    c.until_it("db", "to have one", complete(1)).await;
    let own = c.api::<Pod>().get("db-0").await.expect("it is there");
    let other = c.api::<Pod>().get("else-0").await.expect("it is there");
    assert!(other.owner_references().is_empty(), "its name says that it is none of the set's");
    let label = |value: Value| json!({"metadata": {"labels": {"app": value}}});
    c.patch::<Pod>("db-0", label(json!("none"))).await;
    c.until_it("db-0", "to be let go", |p: &Pod| p.owner_references().is_empty()).await;
    c.patch::<Pod>("db-0", label(json!("db"))).await;
    let back = c.until_it("db-0", "to be owned again", |p: &Pod| !p.owner_references().is_empty()).await;
    assert_eq!(back.uid(), own.uid());
}
