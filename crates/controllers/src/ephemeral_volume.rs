//! Generic ephemeral volumes: makes the claim that a pod's `ephemeral.volumeClaimTemplate` describes, owned by the pod, so that it
//! goes with it (Kubernetes documentation, "Ephemeral Volumes").

use crate::{Cluster, Error, ownership::controller_reference, pods};
use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, PersistentVolumeClaimTemplate, Pod};
use kube::{ResourceExt, api::PostParams};
use orlop_client::{EventType, Key, Queue, api_message, api_reason, run_workers};

/// Registers with the caches; the future does the work.
pub(crate) fn start(cluster: &Cluster) -> BoxFuture<'static, ()> {
    let queue = Queue::default();
    let on_pod = queue.clone();
    cluster.pods.on_change(move |_, new| {
        if let Some(pod) = new.filter(|p| templates(p).next().is_some() && pods::is_active(p)) {
            on_pod.add(Key::of(&**pod));
        }
    });
    let cluster = cluster.clone();
    Box::pin(async move {
        let reconcile = |key: Key| reconcile(&cluster, key);
        run_workers("ephemeral-volume", queue.clone(), 2, reconcile).await;
    })
}

/// The claims that a pod describes, by the name of the volume.
fn templates(pod: &Pod) -> impl Iterator<Item = (&str, &PersistentVolumeClaimTemplate)> {
    let volumes = pod.spec.as_ref().and_then(|s| s.volumes.as_ref()).into_iter().flatten();
    volumes.filter_map(|v| Some((v.name.as_str(), v.ephemeral.as_ref()?.volume_claim_template.as_ref()?)))
}

/// The claim of a pod's volume.
fn claim(pod: &Pod, volume: &str, template: &PersistentVolumeClaimTemplate) -> PersistentVolumeClaim {
    let from = template.metadata.clone().unwrap_or_default();
    let mut claim = PersistentVolumeClaim { spec: Some(template.spec.clone()), ..Default::default() };
    claim.metadata.name = Some(format!("{}-{volume}", pod.name_any()));
    claim.metadata.namespace = pod.namespace();
    claim.metadata.labels = from.labels;
    claim.metadata.annotations = from.annotations;
    claim.metadata.owner_references = Some(vec![controller_reference(pod)]);
    claim
}

/// Whether a claim was made for the pod.
fn is_of(claim: &PersistentVolumeClaim, pod: &Pod) -> bool {
    crate::ownership::controller_of(claim).is_some_and(|o| Some(&o.uid) == pod.metadata.uid.as_ref())
}

async fn reconcile(cluster: &Cluster, key: Key) -> Result<(), Error> {
    let Some(pod) = cluster.pods.get(&key.namespace, &key.name) else { return Ok(()) };
    if !pods::is_active(&pod) {
        return Ok(());
    }
    let claims = cluster.api::<PersistentVolumeClaim>(&key.namespace);
    for (volume, template) in templates(&pod) {
        let wanted = claim(&pod, volume, template);
        let name = wanted.name_any();
        let conflict = || {
            Error::Refused(format!(
                "PVC {}/{name} was not created for pod {}/{} (pod is not owner)",
                key.namespace, key.namespace, key.name
            ))
        };
        let fail = |why: String| {
            let message = format!("ephemeral volume {volume}: {why}");
            cluster.recorder.event(&*pod, EventType::Warning, "FailedBinding", message);
        };
        if let Some(there) = cluster.persistent_volume_claims.get(&key.namespace, &name) {
            if is_of(&there, &pod) {
                continue;
            }
            fail(conflict().to_string());
            return Err(conflict());
        }
        match claims.create(&PostParams::default(), &wanted).await {
            Ok(made) => cluster.persistent_volume_claims.observe(made),
            // The cache will have it soon.
            Err(error) if api_reason(&error) == Some("AlreadyExists") => {
                let there = claims.get(&name).await.map_err(Error::at("reading a claim"))?;
                let of_pod = is_of(&there, &pod);
                cluster.persistent_volume_claims.observe(there);
                if !of_pod {
                    fail(conflict().to_string());
                    return Err(conflict());
                }
            }
            Err(error) => {
                fail(api_message(&error));
                return Err(Error::at("making the claim of an ephemeral volume")(error));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_claim_is_the_pods_and_looks_as_the_template_says() {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "p", "namespace": "n", "uid": "u"},
            "spec": {"containers": [], "volumes": [{"name": "plain", "emptyDir": {}}, {"name": "scratch", "ephemeral": {
                "volumeClaimTemplate": {"metadata": {"labels": {"a": "b"}}, "spec": {"accessModes": ["ReadWriteOnce"]}}}}]},
        }))
        .expect("a pod");
        let all: Vec<_> = templates(&pod).map(|(volume, t)| claim(&pod, volume, t)).collect();
        let [claim] = all.as_slice() else { panic!("one claim: {all:?}") };
        assert_eq!(
            (claim.name_any().as_str(), claim.labels().get("a").map(String::as_str)),
            ("p-scratch", Some("b"))
        );
        assert!(is_of(claim, &pod));
        let mut other = pod.clone();
        other.metadata.uid = Some("another".into());
        assert!(!is_of(claim, &other));
    }
}
