//! Volumes that are made for claims: who has to make one, the built-in provisioner of local directories, and growing.

use super::{
    Binder,
    decide::{SELECTED_NODE, waits},
    local,
    matching::{capacity, class_of_claim, requested},
};
use crate::Error;
use k8s_openapi::{
    api::{
        core::v1::{Node, PersistentVolume, PersistentVolumeClaim},
        storage::v1::StorageClass,
    },
    apimachinery::pkg::api::resource::Quantity as TypedQuantity,
};
use kube::{ResourceExt, api::PostParams};
use orlop_api::local_volume::{NODE_LABEL, PROVISIONED_BY, PROVISIONER};
use orlop_client::{EventType, api_message, api_reason};
use std::{collections::HashMap, sync::Arc};

/// On a claim: who is to make its volume.
const STORAGE_PROVISIONER: [&str; 2] =
    ["volume.kubernetes.io/storage-provisioner", "volume.beta.kubernetes.io/storage-provisioner"];

impl Binder {
    /// Sees to it that a volume is made for a claim.
    pub(super) async fn provision(
        &self,
        claim: PersistentVolumeClaim,
        class: Option<Arc<StorageClass>>,
        node: Option<Arc<Node>>,
    ) -> Result<(), Error> {
        let claim = self.claim_phase(claim, "Pending", None).await?;
        let warn = |reason, message: String| {
            self.cluster.recorder.event(&claim, EventType::Warning, reason, message);
        };
        let name = class_of_claim(&claim);
        let Some(class) = class else {
            warn("ProvisioningFailed", format!("storageclass.storage.k8s.io {name:?} not found"));
            return Ok(());
        };
        let provisioner = &class.provisioner;
        if provisioner.starts_with("kubernetes.io/") {
            warn("ProvisioningFailed", "no volume plugin matched".into());
            return Ok(());
        }
        let claim = self.name_provisioner(claim.clone(), provisioner).await?;
        if provisioner != PROVISIONER {
            let message = format!(
                "Waiting for a volume to be created either by the external provisioner '{provisioner}' or manually by the system administrator. If volume creation is delayed, please verify that the provisioner is running and correctly registered."
            );
            self.cluster.recorder.event(&claim, EventType::Normal, "ExternalProvisioning", message);
            return Ok(());
        }
        Box::pin(self.provision_local(claim, &class, node)).await
    }

    async fn name_provisioner(
        &self,
        mut claim: PersistentVolumeClaim,
        provisioner: &str,
    ) -> Result<PersistentVolumeClaim, Error> {
        let named = |key: &str| claim.annotations().get(key).is_some_and(|p| p == provisioner);
        if STORAGE_PROVISIONER.iter().all(|key| named(key)) {
            return Ok(claim);
        }
        for key in STORAGE_PROVISIONER {
            claim.annotations_mut().insert(key.into(), provisioner.into());
        }
        self.write_claim(&claim).await
    }

    async fn provision_local(
        &self,
        claim: PersistentVolumeClaim,
        class: &StorageClass,
        node: Option<Arc<Node>>,
    ) -> Result<(), Error> {
        let of_claim = format!("{}/{}", claim.namespace().unwrap_or_default(), claim.name_any());
        let recorder = &self.cluster.recorder;
        let fail = |why: &str| {
            let message =
                format!("failed to provision volume with StorageClass {:?}: {why}", class.name_any());
            recorder.event(&claim, EventType::Warning, "ProvisioningFailed", message);
        };
        if let Some(why) = local::refusal(&claim) {
            fail(why);
            return Ok(());
        }
        let node = match node {
            Some(node) if local::offers(&node, class) => node,
            Some(node) => {
                fail(&format!("node {:?} does not keep local volumes of this class", node.name_any()));
                return Ok(());
            }
            None => {
                let nodes = self.cluster.nodes.all();
                let mut counts: HashMap<String, usize> = HashMap::new();
                for volume in self.cluster.persistent_volumes.all() {
                    if let Some(on) = volume.labels().get(NODE_LABEL) {
                        *counts.entry(on.clone()).or_default() += 1;
                    }
                }
                let on = |node: &str| counts.get(node).copied().unwrap_or(0);
                let Some(chosen) = local::choose(nodes.iter().map(|n| &**n), class, on) else {
                    fail("no node that is ready keeps local volumes");
                    return Ok(());
                };
                Arc::new(chosen.clone())
            }
        };
        let Some(volume) = local::volume(&claim, class, &node) else { return Ok(()) };
        let message = format!("External provisioner is provisioning volume for claim {of_claim:?}");
        recorder.event(&claim, EventType::Normal, "Provisioning", message);
        let volume = match self.volumes_api().create(&PostParams::default(), &volume).await {
            Ok(made) => made,
            Err(error) if api_reason(&error) == Some("AlreadyExists") => {
                self.volumes_api().get(&local::name(&claim)).await.map_err(Error::at("reading a volume"))?
            }
            Err(error) => {
                fail(&api_message(&error));
                return Err(Error::at("making a volume")(error));
            }
        };
        self.cluster.persistent_volumes.observe(volume.clone());
        let message = format!("Successfully provisioned volume {}", volume.name_any());
        recorder.event(&claim, EventType::Normal, "ProvisioningSucceeded", message);
        Box::pin(self.bind(volume, claim)).await
    }

    /// Writes the node of the first consumer into a claim, as a scheduler that knows of volumes does.
    pub(super) async fn select_node(
        &self,
        mut claim: PersistentVolumeClaim,
        class: Option<&StorageClass>,
        node: Option<&Node>,
    ) -> Result<PersistentVolumeClaim, Error> {
        let Some(node) = node.filter(|_| waits(class)) else { return Ok(claim) };
        if claim.annotations().contains_key(SELECTED_NODE) {
            return Ok(claim);
        }
        claim.annotations_mut().insert(SELECTED_NODE.into(), node.name_any());
        self.write_claim(&claim).await
    }

    /// Lets a bound claim have more where it asks for more: a directory has no size of its own, so both numbers are all there is.
    pub(super) async fn grow(
        &self,
        mut volume: PersistentVolume,
        mut claim: PersistentVolumeClaim,
    ) -> Result<(), Error> {
        let wanted = requested(&claim);
        let of_claim = claim.status.as_ref().and_then(|s| s.capacity.as_ref()).and_then(|c| c.get("storage"));
        if of_claim.is_none_or(|has| wanted <= orlop_api::quantity::Quantity::of(has)) {
            return Ok(());
        }
        let amount = TypedQuantity::from(wanted);
        if capacity(&volume) < wanted {
            let local = volume.annotations().get(PROVISIONED_BY).is_some_and(|p| p == PROVISIONER);
            if !local {
                let message = "waiting for an external controller to expand this PVC";
                self.cluster.recorder.event(&claim, EventType::Normal, "ExternalExpanding", message);
                return Ok(());
            }
            let spec = volume.spec.get_or_insert_default();
            spec.capacity.get_or_insert_default().insert("storage".into(), amount.clone());
            volume = self.write_volume(&volume).await?;
        }
        let full = volume.spec.as_ref().and_then(|s| s.capacity.clone());
        let status = claim.status.get_or_insert_default();
        status.capacity = full;
        let claim = self.write_claim_status(&claim).await?;
        let of = format!("{}/{}", claim.namespace().unwrap_or_default(), claim.name_any());
        let message = format!("ExpandVolume succeeded for volume {of}");
        self.cluster.recorder.event(&claim, EventType::Normal, "VolumeResizeSuccessful", message);
        Ok(())
    }
}
