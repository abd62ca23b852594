//! The writes of the binder: each one object, each with the condition that nobody else was faster, each taken into the cache
//! before the next decision. Between any two of them the process may end.

use super::{
    Binder,
    decide::{BIND_COMPLETED, BOUND_BY_CONTROLLER},
    matching::is_bound_to,
};
use crate::Error;
use k8s_openapi::{
    api::core::v1::{PersistentVolume, PersistentVolumeClaim},
    apimachinery::pkg::apis::meta::v1::Time,
};
use kube::{Api, ResourceExt, api::PostParams};
use orlop_client::{EventType, events::reference};

impl Binder {
    pub(super) fn volumes_api(&self) -> Api<PersistentVolume> {
        Api::all(self.cluster.client.clone())
    }

    pub(super) fn claims_api(&self, claim: &PersistentVolumeClaim) -> Api<PersistentVolumeClaim> {
        self.cluster.api(claim.metadata.namespace.as_deref().unwrap_or_default())
    }

    pub(super) async fn write_volume(&self, volume: &PersistentVolume) -> Result<PersistentVolume, Error> {
        let written = self
            .volumes_api()
            .replace(&volume.name_any(), &PostParams::default(), volume)
            .await
            .map_err(Error::at("writing a volume"))?;
        self.cluster.persistent_volumes.observe(written.clone());
        Ok(written)
    }

    pub(super) async fn write_claim(
        &self,
        claim: &PersistentVolumeClaim,
    ) -> Result<PersistentVolumeClaim, Error> {
        let written = self
            .claims_api(claim)
            .replace(&claim.name_any(), &PostParams::default(), claim)
            .await
            .map_err(Error::at("writing a claim"))?;
        self.cluster.persistent_volume_claims.observe(written.clone());
        Ok(written)
    }

    pub(super) async fn write_claim_status(
        &self,
        claim: &PersistentVolumeClaim,
    ) -> Result<PersistentVolumeClaim, Error> {
        let written = self
            .claims_api(claim)
            .replace_status(&claim.name_any(), &PostParams::default(), claim)
            .await
            .map_err(Error::at("writing the status of a claim"))?;
        self.cluster.persistent_volume_claims.observe(written.clone());
        Ok(written)
    }

    /// Says in which phase a volume is.
    pub(super) async fn volume_phase(
        &self,
        mut volume: PersistentVolume,
        phase: &str,
        why: Option<(&str, &str)>,
    ) -> Result<PersistentVolume, Error> {
        let mut status = volume.status.clone().unwrap_or_default();
        if status.phase.as_deref() == Some(phase) {
            return Ok(volume);
        }
        status.phase = Some(phase.into());
        status.reason = why.map(|(reason, _)| reason.into());
        status.message = why.map(|(_, message)| message.into());
        status.last_phase_transition_time = Some(Time(self.cluster.now()));
        volume.status = Some(status);
        let written = self
            .volumes_api()
            .replace_status(&volume.name_any(), &PostParams::default(), &volume)
            .await
            .map_err(Error::at("writing the status of a volume"))?;
        self.cluster.persistent_volumes.observe(written.clone());
        Ok(written)
    }

    /// Says in which phase a claim is, and what it has.
    pub(super) async fn claim_phase(
        &self,
        mut claim: PersistentVolumeClaim,
        phase: &str,
        volume: Option<&PersistentVolume>,
    ) -> Result<PersistentVolumeClaim, Error> {
        let before = claim.status.clone().unwrap_or_default();
        let mut status = before.clone();
        let newly = status.phase.as_deref() != Some(phase);
        status.phase = Some(phase.into());
        match volume.and_then(|v| v.spec.as_ref()) {
            None => (status.access_modes, status.capacity) = (None, None),
            Some(spec) => {
                status.access_modes = spec.access_modes.clone();
                if newly || status.capacity.is_none() {
                    status.capacity = spec.capacity.clone();
                }
            }
        }
        if status == before {
            return Ok(claim);
        }
        claim.status = Some(status);
        self.write_claim_status(&claim).await
    }

    /// Binds both to each other, or finishes that: the volume first, so that nobody else takes it.
    pub(super) async fn bind(
        &self,
        volume: PersistentVolume,
        claim: PersistentVolumeClaim,
    ) -> Result<(), Error> {
        let volume = self.keep_for(volume, &claim).await?;
        let volume = self.volume_phase(volume, "Bound", None).await?;
        let claim = self.name_volume(claim, &volume).await?;
        self.claim_phase(claim, "Bound", Some(&volume)).await?;
        Ok(())
    }

    /// Writes the claim into the volume.
    async fn keep_for(
        &self,
        mut volume: PersistentVolume,
        claim: &PersistentVolumeClaim,
    ) -> Result<PersistentVolume, Error> {
        let was_kept = is_bound_to(&volume, claim);
        let spec = volume.spec.get_or_insert_default();
        let complete = spec.claim_ref.as_ref().is_some_and(|r| r.uid == claim.metadata.uid);
        if was_kept && complete {
            return Ok(volume);
        }
        spec.claim_ref = Some(reference(claim));
        if !was_kept {
            volume.annotations_mut().insert(BOUND_BY_CONTROLLER.into(), "yes".into());
        }
        self.write_volume(&volume).await
    }

    /// Writes the volume into the claim.
    async fn name_volume(
        &self,
        mut claim: PersistentVolumeClaim,
        volume: &PersistentVolume,
    ) -> Result<PersistentVolumeClaim, Error> {
        let named = claim.spec.as_ref().is_some_and(|s| s.volume_name == volume.metadata.name);
        if named && claim.annotations().contains_key(BIND_COMPLETED) {
            return Ok(claim);
        }
        claim.spec.get_or_insert_default().volume_name = volume.metadata.name.clone();
        if !named {
            claim.annotations_mut().insert(BOUND_BY_CONTROLLER.into(), "yes".into());
        }
        claim.annotations_mut().insert(BIND_COMPLETED.into(), "yes".into());
        self.write_claim(&claim).await
    }

    /// Makes a volume free again. What the user wrote of the claim stays.
    pub(super) async fn unbind(&self, mut volume: PersistentVolume) -> Result<(), Error> {
        let by_controller = volume.annotations_mut().remove(BOUND_BY_CONTROLLER).is_some();
        if let Some(spec) = &mut volume.spec {
            if by_controller {
                spec.claim_ref = None;
            } else if let Some(reference) = &mut spec.claim_ref {
                reference.uid = None;
            }
        }
        let volume = self.write_volume(&volume).await?;
        self.volume_phase(volume, "Available", None).await?;
        Ok(())
    }

    /// A claim has lost its volume for good.
    pub(super) async fn lose(
        &self,
        claim: PersistentVolumeClaim,
        reason: &'static str,
        message: &'static str,
    ) -> Result<(), Error> {
        if claim.status.as_ref().and_then(|s| s.phase.as_deref()) == Some("Lost") {
            return Ok(());
        }
        let claim = self.claim_phase(claim, "Lost", None).await?;
        self.cluster.recorder.event(&claim, EventType::Warning, reason, message);
        Ok(())
    }
}
