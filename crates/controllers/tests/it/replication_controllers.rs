use crate::cluster::{Cluster, template};
use k8s_openapi::api::core::v1::{Pod, ReplicationController};
use kube::{ResourceExt, api::DeleteParams};
use serde_json::{Value, json};

/// A controller with the selector and labels that the server derives from its template.
fn controller(name: &str, replicas: i32) -> Value {
    json!({"metadata": {"name": name}, "spec": {"replicas": replicas, "template": template(name, "")}})
}

fn available(count: i32) -> impl Fn(&ReplicationController) -> bool {
    move |c| {
        let status = c.status.clone().unwrap_or_default();
        status.replicas == count
            && status.fully_labeled_replicas.unwrap_or(0) == count
            && status.ready_replicas.unwrap_or(0) == count
            && status.available_replicas.unwrap_or(0) == count
            && status.observed_generation == c.metadata.generation
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replication_controller_keeps_adopts_and_releases_as_many_pods_as_it_asks_for() {
    let c = Cluster::start(1).await;
    let orphan = json!({"metadata": {"name": "orphan", "labels": {"app": "web"}}, "spec": template("web", "")["spec"]});
    c.create::<Pod>(orphan).await;
    let web: ReplicationController = c.create(controller("web", 2)).await;
    c.until_it("web", "to have 2", available(2)).await;
    let orphan: Pod = c.api().get("orphan").await.expect("it lives");
    let owner = &orphan.owner_references()[0];
    assert_eq!((&*owner.kind, &*owner.api_version), ("ReplicationController", "v1"));
    assert_eq!((owner.controller, owner.uid.clone()), (Some(true), web.uid().expect("a uid")));

    c.patch::<Pod>("orphan", json!({"metadata": {"labels": {"app": "mine"}}})).await;
    c.until_it("orphan", "to be let go", |p: &Pod| p.owner_references().is_empty()).await;
    c.until("a successor", async || (c.pods("web").await.len() == 2).then_some(())).await;
    c.patch::<ReplicationController>("web", json!({"spec": {"replicas": 1}})).await;
    c.until_it("web", "to have 1", available(1)).await;
    c.until_event("SuccessfulDelete", "Deleted pod: web-").await;
    c.delete::<ReplicationController>("web", &DeleteParams::background()).await;
    c.until("its pods to be gone", async || c.of_app::<Pod>("web").await.is_empty().then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replication_controller_whose_pods_are_refused_says_why_until_they_are_not() {
    let c = Cluster::start(1).await;
    let mut refused = controller("web", 2);
    refused["spec"]["template"]["spec"]["serviceAccountName"] = "nobody".into();
    c.create::<ReplicationController>(refused).await;
    let failed = c
        .until_it("web", "to say that it fails", |rc: &ReplicationController| {
            rc.status.as_ref().is_some_and(|s| s.conditions.is_some())
        })
        .await;
    let condition = &failed.status.expect("a status").conditions.expect("conditions")[0];
    assert_eq!((&*condition.type_, &*condition.status), ("ReplicaFailure", "True"));
    assert_eq!(condition.reason.as_deref(), Some("FailedCreate"));
    c.patch::<ReplicationController>("web", json!({"spec": {"replicas": 0}})).await;
    let healed = c.until_it("web", "to have none", |rc: &ReplicationController| {
        rc.status.as_ref().is_some_and(|s| s.conditions.is_none())
    });
    assert_eq!(healed.await.status.expect("a status").replicas, 0);
}
