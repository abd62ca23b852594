//! Reads and writes: all patches, server-side apply with its conflicts, optimistic concurrency, pages, subresources, deletion.

use super::{config_map, ensure, refusal};
use crate::Result;
use either::Either;
use k8s_openapi::api::{
    apps::v1::Deployment,
    authentication::v1::{TokenRequest, TokenRequestSpec},
    core::v1::{ConfigMap, ServiceAccount},
};
use kube::{
    Api, Client, ResourceExt as _,
    api::{
        DeleteParams, GetParams, ListParams, Patch, PatchParams, PostParams, Preconditions,
        PropagationPolicy, ValidationDirective, VersionMatch,
    },
    runtime::wait::{await_condition, conditions},
};
use serde_json::json;

pub(super) async fn check(client: Client, namespace: &str) -> Result<()> {
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
    written(&maps).await?;
    patched(&maps).await?;
    applied(&maps).await?;
    entered(&maps).await?;
    paged(&maps).await?;
    deleted(&maps).await?;
    Box::pin(subresources(client, namespace)).await
}

async fn written(maps: &Api<ConfigMap>) -> Result<()> {
    let post = PostParams::default();
    let dry = PostParams { dry_run: true, ..PostParams::default() };
    maps.create(&dry, &config_map("m", &[])).await?;
    ensure!(maps.get_opt("m").await?.is_none(), "a dry run wrote");
    let (code, reason, message) = refusal(maps.get("m").await)?;
    ensure!(
        (code, reason.as_str(), message.as_str()) == (404, "NotFound", "configmaps \"m\" not found"),
        "{code} {reason} {message}"
    );
    let mut made = maps.create(&post, &config_map("m", &[("a", "1")])).await?;
    let (code, reason, _) = refusal(maps.create(&post, &config_map("m", &[])).await)?;
    ensure!((code, reason.as_str()) == (409, "AlreadyExists"), "a second create: {code} {reason}");
    let stale = made.clone();
    made.data.get_or_insert_default().insert("a".into(), "2".into());
    let replaced = maps.replace("m", &post, &made).await?;
    ensure!(replaced.resource_version() != stale.resource_version(), "a write left the version as it was");
    let (code, reason, message) = refusal(maps.replace("m", &post, &stale).await)?;
    ensure!((code, reason.as_str()) == (409, "Conflict"), "a stale write: {code} {reason}");
    ensure!(message.ends_with("please apply your changes to the latest version and try again"), "{message}");
    let same = maps.replace("m", &post, &replaced).await?;
    ensure!(same.resource_version() == replaced.resource_version(), "a write of what is there counted");
    let metadata = maps.get_metadata("m").await?;
    ensure!(
        metadata.types.as_ref().is_some_and(|t| t.kind == "PartialObjectMetadata"),
        "{:?}",
        metadata.types
    );
    let any = maps.get_with("m", &GetParams::any()).await?;
    ensure!(any.uid() == replaced.uid(), "from the cache comes another object");
    Ok(())
}

async fn patched(maps: &Api<ConfigMap>) -> Result<()> {
    let parameters = PatchParams::default();
    let json: json_patch::Patch = serde_json::from_value(json!([
        {"op": "test", "path": "/data/a", "value": "2"},
        {"op": "replace", "path": "/data/a", "value": "3"},
        {"op": "add", "path": "/data/b", "value": "4"},
    ]))?;
    let map = maps.patch("m", &parameters, &Patch::Json::<()>(json.clone())).await?;
    ensure!(
        map.data.as_ref().is_some_and(|data| data["a"] == "3" && data["b"] == "4"),
        "JSON: {:?}",
        map.data
    );
    let (code, reason, _) = refusal(maps.patch("m", &parameters, &Patch::Json::<()>(json)).await)?;
    ensure!((code, reason.as_str()) == (422, "Invalid"), "a test that fails: {code} {reason}");
    let map = maps.patch("m", &parameters, &Patch::Merge(json!({"data": {"b": null, "c": "5"}}))).await?;
    ensure!(
        map.data.as_ref().is_some_and(|data| data.len() == 2 && data["c"] == "5"),
        "merge: {:?}",
        map.data
    );
    let strategic = json!({"metadata": {"finalizers": ["example.com/a"]}});
    maps.patch("m", &parameters, &Patch::Strategic(strategic)).await?;
    let strategic = json!({"metadata": {"finalizers": ["example.com/b"]}});
    let map = maps.patch("m", &parameters, &Patch::Strategic(strategic)).await?;
    ensure!(map.finalizers().len() == 2, "strategic: {:?}", map.finalizers());
    let metadata = json!({"metadata": {"labels": {"k": "v"}, "finalizers": null}});
    let metadata = maps.patch_metadata("m", &parameters, &Patch::Merge(metadata)).await?;
    ensure!(
        metadata.labels()["k"] == "v" && metadata.finalizers().is_empty(),
        "metadata: {:?}",
        metadata.metadata
    );
    let strict =
        PatchParams { field_validation: Some(ValidationDirective::Strict), ..PatchParams::default() };
    let (code, _, message) = refusal(maps.patch("m", &strict, &Patch::Merge(json!({"dat": {}}))).await)?;
    ensure!(
        matches!(code, 400 | 422) && message.contains("unknown field \"dat\""),
        "strict: {code} {message}"
    );
    Ok(())
}

async fn applied(maps: &Api<ConfigMap>) -> Result<()> {
    let apply = |data| Patch::Apply(json!({"apiVersion": "v1", "kind": "ConfigMap", "data": data}));
    let (one, two) = (PatchParams::apply("one"), PatchParams::apply("two"));
    maps.patch("applied", &one, &apply(json!({"a": "1", "b": "1"}))).await?;
    let (code, reason, message) = refusal(maps.patch("applied", &two, &apply(json!({"a": "2"}))).await)?;
    ensure!((code, reason.as_str()) == (409, "Conflict"), "{code} {reason}");
    ensure!(message == "Apply failed with 1 conflict: conflict with \"one\": .data.a", "{message}");
    maps.patch("applied", &two.clone().force(), &apply(json!({"a": "2"}))).await?;
    let map = maps.patch("applied", &one, &apply(json!({"b": "1"}))).await?;
    ensure!(map.data.as_ref().is_some_and(|data| data["a"] == "2" && data["b"] == "1"), "{:?}", map.data);
    let managers: Vec<_> = map.managed_fields().iter().filter_map(|entry| entry.manager.clone()).collect();
    ensure!(managers.len() == 2, "managed by {managers:?}");
    let map = maps.patch("applied", &two, &apply(json!({}))).await?;
    ensure!(map.data.as_ref().is_some_and(|data| data.len() == 1), "what nobody wants stays: {:?}", map.data);
    let (code, _, message) =
        refusal(maps.patch("applied", &PatchParams::default(), &apply(json!({}))).await)?;
    ensure!(code == 422 || code == 400, "an apply without a manager: {code} {message}");
    Ok(())
}

/// The entry API: read, change, write with the version that was read.
async fn entered(maps: &Api<ConfigMap>) -> Result<()> {
    let post = PostParams::default();
    let mut fresh = maps.entry("entry").await?.or_insert(|| config_map("entry", &[("a", "1")]));
    fresh.commit(&post).await?;
    fresh.get_mut().data.get_or_insert_default().insert("b".into(), "2".into());
    let mut rival = maps.entry("entry").await?.and_modify(|map| {
        map.labels_mut().insert("rival".into(), "yes".into());
    });
    if let kube::api::entry::Entry::Occupied(rival) = &mut rival {
        rival.commit(&post).await?;
    }
    ensure!(fresh.commit(&post).await.is_err(), "who read before the rival wrote, wrote");
    Ok(())
}

async fn paged(maps: &Api<ConfigMap>) -> Result<()> {
    for number in 0..7 {
        let mut map = config_map(&format!("p{number}"), &[]);
        map.labels_mut().insert("paged".into(), "yes".into());
        maps.create(&PostParams::default(), &map).await?;
    }
    let mut parameters = ListParams::default().labels("paged=yes").limit(3);
    let (mut names, mut versions) = (Vec::new(), Vec::new());
    loop {
        let page = maps.list(&parameters).await?;
        let left = page.metadata.remaining_item_count;
        versions.push(page.metadata.resource_version.clone());
        names.extend(page.iter().map(|map| map.name_any()));
        // With a selector nobody counts what is left.
        ensure!(left.is_none(), "{left:?} left");
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => parameters = parameters.continue_token(&token),
            None => break,
        }
    }
    ensure!(names.len() == 7 && versions.len() == 3, "{names:?} in {} pages", versions.len());
    versions.dedup();
    ensure!(versions.len() == 1, "pages of several versions: {versions:?}");
    let exact = ListParams::default().labels("paged=yes").at(versions[0].as_deref().unwrap_or_default());
    let then = maps.list(&exact.matching(VersionMatch::Exact)).await?;
    ensure!(then.items.len() == 7, "at that version {} objects", then.items.len());
    let metadata = maps.list_metadata(&ListParams::default().fields("metadata.name=p3")).await?;
    ensure!(metadata.items.len() == 1 && metadata.items[0].name_any() == "p3", "by a field: {metadata:?}");
    Ok(())
}

async fn deleted(maps: &Api<ConfigMap>) -> Result<()> {
    let wrong = Preconditions { uid: Some("not-it".into()), ..Preconditions::default() };
    let parameters = DeleteParams { preconditions: Some(wrong), ..DeleteParams::default() };
    let (code, reason, message) = refusal(maps.delete("p0", &parameters).await)?;
    ensure!((code, reason.as_str()) == (409, "Conflict"), "{code} {reason}");
    ensure!(message.contains("Precondition failed: UID in precondition: not-it"), "{message}");
    let outcome = maps.delete("p0", &DeleteParams::default()).await?;
    ensure!(matches!(&outcome, Either::Right(status) if status.is_success()), "deleted at once: {outcome:?}");
    let held = Patch::Merge(json!({"metadata": {"finalizers": ["example.com/held"]}}));
    maps.patch("p1", &PatchParams::default(), &held).await?;
    let outcome = maps.delete("p1", &DeleteParams::default()).await?;
    ensure!(
        matches!(&outcome, Either::Left(map) if map.metadata.deletion_timestamp.is_some()),
        "held by a finalizer: {outcome:?}"
    );
    let free = Patch::Merge(json!({"metadata": {"finalizers": null}}));
    maps.patch("p1", &PatchParams::default(), &free).await?;
    maps.delete_collection(&DeleteParams::default(), &ListParams::default().labels("paged=yes")).await?;
    let left = maps.list(&ListParams::default().labels("paged=yes")).await?.items;
    ensure!(left.is_empty(), "{} are left", left.len());
    Ok(())
}

async fn subresources(client: Client, namespace: &str) -> Result<()> {
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), namespace);
    let parameters = PatchParams::default();
    let deployment: Deployment = serde_json::from_value(json!({
        "metadata": {"name": "web"},
        "spec": {
            "replicas": 0, "selector": {"matchLabels": {"app": "web"}},
            "template": {
                "metadata": {"labels": {"app": "web"}},
                "spec": {"terminationGracePeriodSeconds": 1, "containers": [{"name": "main", "image": "e2e.test/busybox:1", "command": ["sleep", "3600"]}]},
            },
        },
    }))?;
    deployments.create(&PostParams::default(), &deployment).await?;
    await_condition(deployments.clone(), "web", |found: Option<&Deployment>| {
        found.and_then(|found| found.status.as_ref()?.observed_generation) == Some(1)
    })
    .await?;
    let scale = deployments.get_scale("web").await?;
    let selector = scale.status.and_then(|status| status.selector);
    ensure!(selector.as_deref() == Some("app=web"), "the scale selects {selector:?}");
    deployments.patch_scale("web", &parameters, &Patch::Merge(json!({"spec": {"replicas": 1}}))).await?;
    await_condition(deployments.clone(), "web", conditions::is_deployment_completed()).await?;
    // Without a version: the controller writes too.
    let mut scale = deployments.get_scale("web").await?;
    scale.spec.get_or_insert_default().replicas = Some(0);
    scale.metadata.resource_version = None;
    deployments.replace_scale("web", &PostParams::default(), &scale).await?;
    let said = json!({"spec": {"replicas": 9}, "status": {"conditions": [
        {"type": "Odd", "status": "True", "reason": "Check", "message": "of the check"}]}});
    let written = deployments.patch_status("web", &parameters, &Patch::Merge(said)).await?;
    ensure!(
        written.spec.is_some_and(|spec| spec.replicas == Some(0)),
        "a write of the status changed the spec"
    );
    // Status and spec have a writer more here: the controller.
    let mut tries = 0;
    loop {
        let mut status = deployments.get_status("web").await?;
        status.spec.get_or_insert_default().paused = Some(true);
        match deployments.replace_status("web", &PostParams::default(), &status).await {
            Ok(written) => {
                ensure!(
                    written.spec.is_some_and(|spec| spec.paused.is_none()),
                    "the status paused the Deployment"
                );
                break;
            }
            Err(kube::Error::Api(status)) if status.code == 409 && tries < 20 => tries += 1,
            Err(error) => return Err(error.into()),
        }
    }
    let restarted = deployments.restart("web").await?;
    let notes = restarted.spec.and_then(|spec| spec.template.metadata?.annotations).unwrap_or_default();
    ensure!(notes.contains_key("kube.kubernetes.io/restartedAt"), "annotated with {notes:?}");
    let foreground =
        DeleteParams { propagation_policy: Some(PropagationPolicy::Foreground), ..DeleteParams::default() };
    let gone = await_condition(deployments.clone(), "web", |found: Option<&Deployment>| found.is_none());
    deployments.delete("web", &foreground).await?;
    gone.await?;

    let accounts: Api<ServiceAccount> = Api::namespaced(client, namespace);
    let request = TokenRequest {
        spec: Some(TokenRequestSpec { expiration_seconds: Some(600), ..TokenRequestSpec::default() }),
        ..TokenRequest::default()
    };
    let given = accounts.create_token_request("default", &PostParams::default(), &request).await?;
    ensure!(
        given.status.is_some_and(|status| status.token.unwrap_or_default().split('.').count() == 3),
        "no token was given"
    );
    Ok(())
}
