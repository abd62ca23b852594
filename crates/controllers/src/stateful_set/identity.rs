//! What makes a pod of a StatefulSet the one that it is: its name with an ordinal, its labels, its place in the network and the
//! claims of its volumes (Kubernetes documentation, "StatefulSets", "Pod Identity"). Pure.

use super::REVISION_LABEL;
use crate::{ownership, pods};
use k8s_openapi::api::{
    apps::v1::StatefulSet,
    core::v1::{PersistentVolumeClaim, PersistentVolumeClaimVolumeSource, Pod, PodTemplateSpec, Volume},
};
use kube::ResourceExt;

const NAME_LABEL: &str = "statefulset.kubernetes.io/pod-name";
const INDEX_LABEL: &str = "apps.kubernetes.io/pod-index";

/// The ordinals that a set wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ordinals {
    pub start: i64,
    pub count: i64,
}

impl Ordinals {
    pub(super) fn of(set: &StatefulSet) -> Self {
        let spec = set.spec.as_ref();
        let start = spec.and_then(|s| s.ordinals.as_ref()?.start).unwrap_or(0);
        let count = spec.and_then(|s| s.replicas).unwrap_or(1).max(0);
        Self { start: start.into(), count: count.into() }
    }

    pub(super) fn contain(self, ordinal: i64) -> bool {
        (self.start..self.start + self.count).contains(&ordinal)
    }

    pub(super) fn iter(self) -> impl Iterator<Item = i64> {
        self.start..self.start + self.count
    }
}

/// The name of the set that a pod's name says, and its ordinal.
fn parse(name: &str) -> Option<(&str, i64)> {
    let (parent, digits) = name.rsplit_once('-')?;
    let all_digits = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    let ordinal: i32 = all_digits.then(|| digits.parse().ok())??;
    Some((parent, ordinal.into()))
}

/// The ordinal of a pod, if it is one of the set's by name.
pub(super) fn ordinal_of(set: &StatefulSet, pod: &Pod) -> Option<i64> {
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    let (parent, ordinal) = parse(name)?;
    (set.metadata.name.as_deref() == Some(parent)).then_some(ordinal)
}

/// Whether a pod carries the labels of its name.
pub(super) fn is_labeled(pod: &Pod) -> bool {
    pod.labels().get(NAME_LABEL) == pod.metadata.name.as_ref()
}

/// The labels of a pod's identity.
pub(super) fn labels(name: &str, ordinal: i64) -> [(String, String); 2] {
    [(NAME_LABEL.to_string(), name.to_string()), (INDEX_LABEL.to_string(), ordinal.to_string())]
}

/// The name of the revision that a pod is of.
pub(super) fn revision_of(pod: &Pod) -> &str {
    pod.labels().get(REVISION_LABEL).map(String::as_str).unwrap_or_default()
}

/// The claims of the pod with an ordinal, by the names of their volumes.
pub(super) fn claims(set: &StatefulSet, ordinal: i64) -> Vec<(String, PersistentVolumeClaim)> {
    let spec = set.spec.as_ref();
    let templates = spec.and_then(|s| s.volume_claim_templates.as_deref()).unwrap_or_default();
    let selected = spec.and_then(|s| s.selector.match_labels.clone()).unwrap_or_default();
    let claim = |template: &PersistentVolumeClaim| {
        let volume = template.name_any();
        let mut claim = template.clone();
        claim.metadata.name = Some(format!("{volume}-{}-{ordinal}", set.name_any()));
        claim.metadata.namespace = set.namespace();
        claim.metadata.labels.get_or_insert_default().extend(selected.clone());
        claim.status = None;
        (volume, claim)
    };
    templates.iter().map(claim).collect()
}

/// The pod with an ordinal, of the template of a revision.
pub(super) fn pod_for(set: &StatefulSet, template: &PodTemplateSpec, revision: &str, ordinal: i64) -> Pod {
    let name = format!("{}-{ordinal}", set.name_any());
    let owner = ownership::controller_reference(set);
    let mut pod = pods::from_template(template, &set.name_any(), &set.namespace().unwrap_or_default(), owner);
    pod.metadata.generate_name = None;
    let own = pod.metadata.labels.get_or_insert_default();
    own.extend(labels(&name, ordinal));
    own.insert(REVISION_LABEL.into(), revision.into());
    let spec = pod.spec.get_or_insert_default();
    spec.hostname = Some(name.clone());
    spec.subdomain = set.spec.as_ref().and_then(|s| s.service_name.clone()).filter(|s| !s.is_empty());
    let claims = claims(set, ordinal);
    let volumes = spec.volumes.get_or_insert_default();
    // A claim takes the place of a volume of its name.
    volumes.retain(|v| !claims.iter().any(|(volume, _)| *volume == v.name));
    volumes.extend(claims.into_iter().map(|(volume, claim)| Volume {
        name: volume,
        persistent_volume_claim: Some(PersistentVolumeClaimVolumeSource {
            claim_name: claim.metadata.name.unwrap_or_default(),
            read_only: None,
        }),
        ..Volume::default()
    }));
    pod.metadata.name = Some(name);
    pod
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn set() -> StatefulSet {
        serde_json::from_value(json!({
            "metadata": {"name": "web", "namespace": "shop", "uid": "u"},
            "spec": {
                "serviceName": "front", "replicas": 2, "ordinals": {"start": 5},
                "selector": {"matchLabels": {"app": "web"}},
                "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [],
                    "volumes": [{"name": "data", "emptyDir": {}}, {"name": "tmp", "emptyDir": {}}]}},
                "volumeClaimTemplates": [{"metadata": {"name": "data", "labels": {"tier": "db"}}, "spec": {}}],
            },
        }))
        .unwrap()
    }

    #[test]
    fn a_name_says_whose_a_pod_is_and_which() {
        for (name, want) in [
            ("web-0", Some(("web", 0))),
            ("my-web-12", Some(("my-web", 12))),
            ("web", None),
            ("web-", None),
            ("web-x1", None),
            ("web-99999999999", None),
        ] {
            assert_eq!(parse(name), want, "{name}");
        }
    }

    #[test]
    fn a_pod_gets_a_name_labels_a_host_and_its_claims() {
        let set = set();
        let template = set.spec.clone().unwrap().template;
        let pod = pod_for(&set, &template, "web-abc", 6);
        assert_eq!(pod.name_any(), "web-6");
        assert_eq!(
            serde_json::to_value(pod.labels()).unwrap(),
            json!({"app": "web", "apps.kubernetes.io/pod-index": "6", "controller-revision-hash": "web-abc",
                "statefulset.kubernetes.io/pod-name": "web-6"})
        );
        let spec = pod.spec.unwrap();
        assert_eq!((spec.hostname.as_deref(), spec.subdomain.as_deref()), (Some("web-6"), Some("front")));
        assert_eq!(
            serde_json::to_value(spec.volumes).unwrap(),
            json!([{"name": "tmp", "emptyDir": {}}, {"name": "data", "persistentVolumeClaim": {"claimName": "data-web-6"}}])
        );
        let (_, claim) = claims(&set, 6).remove(0);
        assert_eq!(claim.name_any(), "data-web-6");
        assert_eq!(serde_json::to_value(claim.labels()).unwrap(), json!({"app": "web", "tier": "db"}));
    }

    #[test]
    fn ordinals_begin_where_they_are_told() {
        let ordinals = Ordinals::of(&set());
        assert_eq!(ordinals.iter().collect::<Vec<_>>(), [5, 6]);
        assert!(ordinals.contain(5) && !ordinals.contain(4) && !ordinals.contain(7));
    }
}
