//! NetworkAttachment: connects pods to the networks that their annotation `orlop.dev/networks` names, disconnects those that have
//! ended, and counts on each Network how many are connected. Interfaces are the nodes' business, addresses the API server's.

use crate::{Cluster, Error, pods};
use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions},
};
use orlop_api::orlop_v1::{
    BY_ANNOTATION_LABEL, Network, NetworkAttachment, NetworkAttachmentSpec, attachment_name, networks_of,
};
use orlop_client::{EventType, Key, Queue, api_message, api_reason, found, run_workers};
use serde_json::json;
use std::{collections::BTreeSet, sync::Arc};

/// Registers with the caches; the future does the work.
pub(crate) fn start(cluster: &Cluster) -> BoxFuture<'static, ()> {
    let (pods, networks) = (Queue::default(), Queue::default());
    let on_pod = pods.clone();
    cluster.pods.on_change(move |old, new| {
        let named = |pod: Option<&Arc<Pod>>| pod.is_some_and(|pod| !named(pod).is_empty());
        let ended = new.is_some_and(|pod| pods::is_finished(pod));
        if let Some(pod) = new.filter(|_| named(old) || named(new) || ended) {
            on_pod.add(Key::of(&**pod));
        }
    });
    let (of_pod, of_network) = (pods.clone(), networks.clone());
    cluster.network_attachments.on_change(move |old, new| {
        for attachment in [old, new].into_iter().flatten() {
            let namespace = attachment.namespace().unwrap_or_default();
            of_pod.add(Key::new(namespace, attachment.spec.pod_name.clone()));
            of_network.add(Key::new("", attachment.spec.network_name.clone()));
        }
    });
    // Who waits for a network hears of it when it comes; who is connected to one that went lets go.
    let (on_network, waiting, all) = (networks.clone(), pods.clone(), cluster.pods.clone());
    cluster.networks.on_change(move |old, new| {
        let Some(network) = new.or(old) else { return };
        on_network.add(Key::of(&**network));
        if old.is_some() != new.is_some() {
            let name = network.name_any();
            all.all()
                .iter()
                .filter(|pod| named(pod).contains(&*name))
                .for_each(|pod| waiting.add(Key::of(&**pod)));
        }
    });
    let cluster = cluster.clone();
    Box::pin(async move {
        let connect = |key| connect(&cluster, key);
        let count = |key| count(&cluster, key);
        tokio::join!(
            run_workers("network-attachment", pods.clone(), 2, connect),
            run_workers("network-count", networks.clone(), 1, count),
        );
    })
}

/// The networks that a pod's annotation names.
fn named(pod: &Pod) -> BTreeSet<&str> {
    networks_of(pod.metadata.annotations.as_ref())
}

/// What is to be done about a pod's connections.
#[derive(Debug, Default, PartialEq)]
struct Steps {
    /// Networks to connect it to.
    connect: Vec<String>,
    /// Attachments to delete.
    disconnect: Vec<String>,
}

/// What is to be done about a pod that has these attachments, where `exists` tells of networks.
fn steps(pod: &Pod, attachments: &[Arc<NetworkAttachment>], exists: impl Fn(&str) -> bool) -> Steps {
    let uid = pod.metadata.uid.as_deref();
    let own = |a: &&Arc<NetworkAttachment>| a.owner_references().iter().any(|o| Some(&*o.uid) == uid);
    let (over, wanted) = (pods::is_finished(pod), named(pod));
    let mut steps = Steps::default();
    for attachment in attachments.iter().filter(own) {
        let network = attachment.spec.network_name.as_str();
        let by_annotation = attachment.labels().contains_key(BY_ANNOTATION_LABEL);
        if over || !exists(network) || (by_annotation && !wanted.contains(network)) {
            steps.disconnect.push(attachment.name_any());
        }
    }
    let host = pod.spec.as_ref().and_then(|s| s.host_network) == Some(true);
    if over || host || pod.metadata.deletion_timestamp.is_some() {
        return steps;
    }
    let there = |network: &str| attachments.iter().filter(own).any(|a| a.spec.network_name == network);
    steps.connect = wanted.into_iter().filter(|network| !there(network)).map(str::to_string).collect();
    steps
}

async fn connect(cluster: &Cluster, key: Key) -> Result<(), Error> {
    let Some(pod) = cluster.pods.get(&key.namespace, &key.name) else { return Ok(()) };
    let mut attachments = cluster.network_attachments.in_namespace(&key.namespace);
    attachments.retain(|attachment| attachment.spec.pod_name == key.name);
    let mut gone = BTreeSet::new();
    for attachment in &attachments {
        let network = attachment.spec.network_name.as_str();
        if cluster.networks.get("", network).is_none() && is_gone(cluster, network).await? {
            gone.insert(network);
        }
    }
    let steps = steps(&pod, &attachments, |network| !gone.contains(network));
    let api = cluster.api::<NetworkAttachment>(&key.namespace);
    for name in &steps.disconnect {
        let uid = cluster.network_attachments.get(&key.namespace, name).and_then(|a| a.uid());
        let precisely = DeleteParams {
            preconditions: Some(Preconditions { uid, resource_version: None }),
            ..DeleteParams::default()
        };
        found(api.delete(name, &precisely).await).map_err(Error::at("disconnecting a pod"))?;
    }
    let mut failed = None;
    for network in steps.connect {
        let mut wanted = NetworkAttachment {
            spec: NetworkAttachmentSpec {
                pod_name: key.name.clone(),
                network_name: network.clone(),
                addresses: Vec::new(),
            },
            ..NetworkAttachment::default()
        };
        wanted.metadata.name = Some(attachment_name(&key.name, &network));
        wanted.metadata.labels = Some([(BY_ANNOTATION_LABEL.to_string(), "true".to_string())].into());
        match api.create(&PostParams::default(), &wanted).await {
            Ok(made) => cluster.network_attachments.observe(made),
            // Either the cache will have it soon, or a predecessor's is on its way out.
            Err(error) if api_reason(&error) == Some("AlreadyExists") => {
                failed = Some(Error::at("connecting a pod")(error));
            }
            Err(error) => {
                let why = format!("cannot be connected to network {network:?}: {}", api_message(&error));
                cluster.recorder.event(&*pod, EventType::Warning, "FailedAttachNetwork", why);
                failed = Some(Error::at("connecting a pod")(error));
            }
        }
    }
    failed.map_or(Ok(()), Err)
}

/// Asks the server: the cache of networks may be behind that of attachments.
async fn is_gone(cluster: &Cluster, network: &str) -> Result<bool, Error> {
    let api = Api::<Network>::all(cluster.client.clone());
    let there = api.get_metadata_opt(network).await.map_err(Error::at("looking for a network"))?;
    Ok(there.is_none())
}

/// Writes how many pods are connected to a network.
async fn count(cluster: &Cluster, key: Key) -> Result<(), Error> {
    let Some(network) = cluster.networks.get("", &key.name) else { return Ok(()) };
    let all = cluster.network_attachments.all();
    let connected = all.iter().filter(|a| a.spec.network_name == key.name).count();
    let connected = i32::try_from(connected).unwrap_or(i32::MAX);
    if network.status.as_ref().and_then(|s| s.attachments).unwrap_or_default() == connected {
        return Ok(());
    }
    let api = Api::<Network>::all(cluster.client.clone());
    let patch =
        Patch::Merge(json!({"metadata": {"uid": network.uid()}, "status": {"attachments": connected}}));
    let written = api.patch_status(&key.name, &PatchParams::default(), &patch).await;
    if let Some(written) = found(written).map_err(Error::at("counting connected pods"))? {
        cluster.networks.observe(written);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use orlop_api::orlop_v1::NETWORKS_ANNOTATION;
    use serde_json::Value;

    fn pod(networks: &str, more: Value) -> Pod {
        let mut object = json!({"metadata": {"name": "p", "namespace": "d", "uid": "u",
            "annotations": {NETWORKS_ANNOTATION: networks}}, "spec": {"containers": []}});
        object.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        serde_json::from_value(object).unwrap()
    }

    fn attachment(network: &str, uid: &str, by_annotation: bool) -> Arc<NetworkAttachment> {
        let labels = if by_annotation { json!({BY_ANNOTATION_LABEL: "true"}) } else { json!({}) };
        let object = json!({"metadata": {"name": format!("p.{network}"), "labels": labels, "ownerReferences": [
            {"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": uid}]}, "spec": {"podName": "p", "networkName": network}});
        Arc::new(serde_json::from_value(object).unwrap())
    }

    fn of(pod: &Pod, attachments: &[Arc<NetworkAttachment>]) -> (Vec<String>, Vec<String>) {
        let steps = steps(pod, attachments, |network| network != "gone");
        (steps.connect, steps.disconnect)
    }

    #[test]
    fn a_pod_is_connected_to_what_its_annotation_names_and_to_nothing_that_it_no_longer_names() {
        let there =
            [attachment("back", "u", true), attachment("old", "u", true), attachment("by-hand", "u", false)];
        let (connect, disconnect) = of(&pod("back, front,,", json!({})), &there);
        assert_eq!((connect, disconnect), (vec!["front".into()], vec!["p.old".into()]));
    }

    #[test]
    fn who_has_ended_or_lost_their_network_is_disconnected() {
        let there = [attachment("back", "u", false)];
        let ended = pod("back", json!({"status": {"phase": "Succeeded"}}));
        assert_eq!(of(&ended, &there), (vec![], vec!["p.back".into()]));
        assert_eq!(
            of(&pod("", json!({})), &[attachment("gone", "u", false)]),
            (vec![], vec!["p.gone".into()])
        );
    }

    #[test]
    fn a_predecessors_attachment_is_not_ones_own() {
        let (connect, disconnect) = of(&pod("back", json!({})), &[attachment("back", "before", true)]);
        assert_eq!((connect, disconnect), (vec!["back".into()], vec![]));
    }

    #[test]
    fn a_pod_without_a_network_of_its_own_is_connected_to_none() {
        let host = pod("back", json!({"spec": {"containers": [], "hostNetwork": true}}));
        assert_eq!(of(&host, &[]), (vec![], vec![]));
    }
}
