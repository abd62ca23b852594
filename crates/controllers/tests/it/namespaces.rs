use crate::cluster::{Cluster, object, template};
use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{ConfigMap, Namespace, Pod, Secret, ServiceAccount},
};
use kube::{
    Api,
    api::{DeleteParams, Patch, PatchParams, PostParams},
};
use serde_json::json;

async fn namespace(c: &Cluster, name: &str) {
    let namespace: Namespace = object(json!({"metadata": {"name": name}}));
    c.everywhere().create(&PostParams::default(), &namespace).await.expect("a namespace");
}

fn within<K>(c: &Cluster, namespace: &str) -> Api<K>
where
    K: kube::Resource<Scope = kube::core::NamespaceResourceScope>,
    K::DynamicType: Default,
{
    Api::namespaced(c.client.clone(), namespace)
}

async fn until_gone(c: &Cluster, name: &str) {
    let all = c.everywhere::<Namespace>();
    let gone = async || all.get_opt(name).await.expect("an answer").is_none().then_some(());
    c.until("the namespace to be gone", gone).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_gets_its_account_and_its_certificate_and_gets_them_back() {
    let c = Cluster::start(0).await;
    namespace(&c, "new").await;
    let (accounts, maps) = (within::<ServiceAccount>(&c, "new"), within::<ConfigMap>(&c, "new"));
    let certificate = async || {
        let map = maps.get_opt("kube-root-ca.crt").await.expect("an answer")?;
        (map.data?.get("ca.crt")? == "-----BEGIN CERTIFICATE-----").then_some(())
    };
    c.until("the account", async || accounts.get_opt("default").await.expect("an answer")).await;
    c.until("the certificate", certificate).await;
    accounts.delete("default", &DeleteParams::default()).await.expect("it is deleted");
    c.until("the account again", async || accounts.get_opt("default").await.expect("an answer")).await;
    let spoiled = Patch::Merge(json!({"data": {"ca.crt": "spoiled"}}));
    maps.patch("kube-root-ca.crt", &PatchParams::default(), &spoiled).await.expect("it is changed");
    c.until("the right certificate", certificate).await;
    maps.delete("kube-root-ca.crt", &DeleteParams::default()).await.expect("it is deleted");
    c.until("the certificate again", certificate).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_goes_with_all_its_content() {
    let c = Cluster::start(1).await;
    namespace(&c, "old").await;
    let web: Deployment = object(json!({
        "metadata": {"name": "web"},
        "spec": {"replicas": 5, "selector": {"matchLabels": {"app": "web"}}, "template": template("web", "")},
    }));
    within(&c, "old").create(&PostParams::default(), &web).await.expect("a Deployment");
    for i in 0..5 {
        let secret: Secret = object(json!({"metadata": {"name": format!("s{i}")}}));
        within(&c, "old").create(&PostParams::default(), &secret).await.expect("a Secret");
    }
    let pods = within::<Pod>(&c, "old");
    c.until("its pods", async || {
        let pods = pods.list(&Default::default()).await.expect("pods").items;
        let run = |p: &Pod| p.status.as_ref().is_some_and(|s| s.phase.as_deref() == Some("Running"));
        (pods.len() == 5 && pods.iter().all(run)).then_some(())
    })
    .await;
    c.everywhere::<Namespace>().delete("old", &DeleteParams::default()).await.expect("it is deleted");
    until_gone(&c, "old").await;
    assert!(pods.list(&Default::default()).await.expect("pods").items.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_go_first_and_what_hinders_the_end_is_said() {
    let c = Cluster::start(1).await;
    namespace(&c, "old").await;
    let pod = |name: &str| {
        let mut pod = template("web", "");
        pod["metadata"]["name"] = name.into();
        pod["metadata"]["finalizers"] = json!(["example.com/hold"]);
        object::<Pod>(pod)
    };
    let pods = within::<Pod>(&c, "old");
    c.until("the account", async || {
        within::<ServiceAccount>(&c, "old").get_opt("default").await.expect("an answer")
    })
    .await;
    pods.create(&PostParams::default(), &pod("held")).await.expect("a pod");
    let secret: Secret = object(json!({"metadata": {"name": "needed"}}));
    let secrets = within::<Secret>(&c, "old");
    secrets.create(&PostParams::default(), &secret).await.expect("a Secret");
    let all = c.everywhere::<Namespace>();
    all.delete("old", &DeleteParams::default()).await.expect("it is deleted");
    let told =
        c.until("its conditions", async || all.get("old").await.expect("it waits").status?.conditions).await;
    let message = |type_: &str| {
        let c = told.iter().find(|c| c.type_ == type_).expect("the condition");
        (c.status.clone(), c.message.clone().unwrap_or_default())
    };
    let says = |status: &str, message: &str| (status.to_string(), message.to_string());
    assert_eq!(
        message("NamespaceContentRemaining"),
        says("True", "Some resources are remaining: pods. has 1 resource instances")
    );
    assert_eq!(
        message("NamespaceFinalizersRemaining"),
        says(
            "True",
            "Some content in the namespace has finalizers remaining: example.com/hold in 1 resource instances"
        )
    );
    assert_eq!(message("NamespaceDeletionContentFailure").0, "False");
    assert!(secrets.get_opt("needed").await.expect("an answer").is_some(), "pods go first");
    let free = Patch::Merge(json!({"metadata": {"finalizers": null}}));
    pods.patch("held", &PatchParams::default(), &free).await.expect("it is freed");
    until_gone(&c, "old").await;
}
