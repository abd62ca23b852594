//! A cluster read once from lists of objects, for tools that ask what the scheduler thinks of a pod. It follows no changes.

use crate::{
    config::Configuration, explain::Explanation, shape::spec_of, snapshot::Snapshot, volumes::Volumes,
};
use k8s_openapi::api::{
    apps::v1::{ReplicaSet, StatefulSet},
    core::v1::{
        Namespace, Node, PersistentVolume, PersistentVolumeClaim, Pod, ReplicationController, Service,
    },
    storage::v1::{CSINode, StorageClass, VolumeAttachment},
};
use orlop_api::selector::Selector;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::sync::Arc;

/// The lists that a [`World`] takes, by path, the pods last.
pub const LISTS: [&str; 12] = [
    "/api/v1/namespaces",
    "/api/v1/nodes",
    "/api/v1/services",
    "/api/v1/replicationcontrollers",
    "/apis/apps/v1/replicasets",
    "/apis/apps/v1/statefulsets",
    "/api/v1/persistentvolumes",
    "/api/v1/persistentvolumeclaims",
    "/apis/storage.k8s.io/v1/storageclasses",
    "/apis/storage.k8s.io/v1/csinodes",
    "/apis/storage.k8s.io/v1/volumeattachments",
    "/api/v1/pods",
];

/// See the module.
#[derive(Debug)]
pub struct World {
    snapshot: Snapshot,
    volumes: Volumes,
}

impl World {
    /// A cluster of nothing, scheduled as configured.
    pub fn new(configuration: Configuration) -> Self {
        Self { snapshot: Snapshot::new(configuration.profiles, 0), volumes: Volumes::default() }
    }

    /// Takes in the items of one of [`LISTS`].
    ///
    /// # Errors
    /// Where an object is not what the API promises.
    pub fn take(&mut self, path: &str, items: &[Value]) -> Result<(), serde_json::Error> {
        for item in items {
            self.take_one(path, item)?;
        }
        Ok(())
    }

    fn take_one(&mut self, path: &str, item: &Value) -> Result<(), serde_json::Error> {
        fn read<T: DeserializeOwned>(item: &Value) -> Result<T, serde_json::Error> {
            T::deserialize(item)
        }
        let metadata = |name: &str| item["metadata"][name].as_str().unwrap_or_default().to_string();
        let (namespace, name) = (metadata("namespace"), metadata("name"));
        match path.rsplit('/').next().unwrap_or_default() {
            "namespaces" => self.snapshot.set_namespace(&name, Some(&read::<Namespace>(item)?)),
            "nodes" => self.snapshot.set_node(&Arc::new(read::<Node>(item)?)),
            "services" => {
                let selector = read::<Service>(item)?.spec.and_then(|s| s.selector);
                self.snapshot.workloads.set_service(&namespace, &name, selector);
            }
            "replicationcontrollers" => {
                let selector = read::<ReplicationController>(item)?.spec.and_then(|s| s.selector);
                let selector = selector.as_ref().map(Selector::from_labels);
                self.snapshot.workloads.set_controller("ReplicationController", &namespace, &name, selector);
            }
            "replicasets" => {
                let spec = read::<ReplicaSet>(item)?.spec;
                let selector = spec.and_then(|s| Selector::of(Some(&s.selector)).ok());
                self.snapshot.workloads.set_controller("ReplicaSet", &namespace, &name, selector);
            }
            "statefulsets" => {
                let spec = read::<StatefulSet>(item)?.spec;
                let selector = spec.and_then(|s| Selector::of(Some(&s.selector)).ok());
                self.snapshot.workloads.set_controller("StatefulSet", &namespace, &name, selector);
            }
            "persistentvolumes" => {
                self.volumes.set_volume(&name, Some(Arc::new(read::<PersistentVolume>(item)?)));
            }
            "persistentvolumeclaims" => {
                let claim = read::<PersistentVolumeClaim>(item)?;
                self.volumes.set_claim((namespace, name), Some(Arc::new(claim)));
            }
            "storageclasses" => self.volumes.set_class(&name, Some(Arc::new(read::<StorageClass>(item)?))),
            "csinodes" => self.volumes.set_csi_node(&name, Some(&read::<CSINode>(item)?)),
            "volumeattachments" => {
                self.volumes.set_attachment(&name, Some(&read::<VolumeAttachment>(item)?));
            }
            _ => self.take_pod(&Arc::new(read::<Pod>(item)?)),
        }
        Ok(())
    }

    fn take_pod(&mut self, pod: &Arc<Pod>) {
        let phase = pod.status.as_ref().and_then(|s| s.phase.as_deref());
        if matches!(phase, Some("Succeeded" | "Failed")) {
            return;
        }
        let status = pod.status.as_ref();
        match spec_of(pod).node_name.as_deref().filter(|n| !n.is_empty()) {
            Some(node) => {
                self.snapshot.place(node, pod);
                self.volumes.set_user(pod, Some(node));
            }
            None => self.snapshot.nominate(pod, status.and_then(|s| s.nominated_node_name.as_deref())),
        }
    }

    /// Explains a pod; `None` if its `schedulerName` is somebody else's.
    pub fn explain(&mut self, pod: &Arc<Pod>) -> Option<Explanation> {
        let profile = self.snapshot.profile_of(pod)?;
        self.volumes.set_user(pod, None);
        let rules = self.snapshot.profile(profile).clone();
        let vetoes = self.volumes.vetoes(pod, &self.snapshot, &rules);
        Some(self.snapshot.explanation(pod, profile, vetoes))
    }
}
