//! One leader among several pods: who holds the Lease. Who loses it ends, as client-go's election does.

use crate::Result;
use k8s_openapi::{api::coordination::v1, apimachinery::pkg::apis::meta::v1::MicroTime, jiff::Timestamp};
use kube::{Api, Client, api::PostParams};
use std::time::Duration;

const SECONDS: i32 = 2;
const PAUSE: Duration = Duration::from_millis(400);

/// A Lease, and who wants it.
pub(crate) struct Lease {
    api: Api<v1::Lease>,
    name: String,
    holder: String,
}

impl Lease {
    pub(crate) fn new(client: Client, namespace: &str, name: &str, holder: &str) -> Self {
        Self { api: Api::namespaced(client, namespace), name: name.into(), holder: holder.into() }
    }

    /// Waits until nobody else holds it, and takes it.
    pub(crate) async fn acquire(&self) -> Result<()> {
        while !self.take().await? {
            tokio::time::sleep(PAUSE).await;
        }
        Ok(())
    }

    /// Holds it; ends when it is lost.
    pub(crate) async fn renew(&self) -> Result<()> {
        while self.take().await? {
            tokio::time::sleep(PAUSE).await;
        }
        Err("the lease is lost".into())
    }

    /// Lets others have it at once.
    pub(crate) async fn release(&self) -> Result<()> {
        let mut entry = self.api.entry(&self.name).await?.or_insert(v1::Lease::default);
        let spec = entry.get_mut().spec.get_or_insert_default();
        if spec.holder_identity.as_deref() == Some(&self.holder) {
            spec.holder_identity = None;
            entry.commit(&PostParams::default()).await?;
        }
        Ok(())
    }

    /// Takes or renews it, unless somebody else holds it or is quicker.
    async fn take(&self) -> Result<bool> {
        let mut entry = self.api.entry(&self.name).await?.or_insert(v1::Lease::default);
        let spec = entry.get_mut().spec.get_or_insert_default();
        let now = Timestamp::now();
        let until = |time: &MicroTime| time.0.as_second() + i64::from(SECONDS);
        let held =
            spec.holder_identity.as_deref().is_some_and(|holder| !holder.is_empty() && holder != self.holder);
        if held && spec.renew_time.as_ref().is_some_and(|time| until(time) >= now.as_second()) {
            return Ok(false);
        }
        if spec.holder_identity.as_deref() != Some(&self.holder) {
            spec.lease_transitions = Some(spec.lease_transitions.unwrap_or_default() + 1);
            spec.acquire_time = Some(MicroTime(now));
        }
        spec.holder_identity = Some(self.holder.clone());
        spec.lease_duration_seconds = Some(SECONDS);
        spec.renew_time = Some(MicroTime(now));
        match entry.commit(&PostParams::default()).await {
            Ok(()) => Ok(true),
            Err(kube::api::entry::CommitError::Save(kube::Error::Api(status))) if status.code == 409 => {
                Ok(false)
            }
            Err(error) => Err(error.into()),
        }
    }
}
