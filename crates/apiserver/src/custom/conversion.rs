//! Conversion by webhook: a ConversionReview over TLS, to a URL or to a Service of the cluster. What is asked and what answer is
//! believed is `orlop-custom`'s to say.

use crate::{
    registry::{Registry, versions::Converter},
    webhook::{self, Patience},
};
use async_trait::async_trait;
use orlop_api::{Status, object::text};
use orlop_custom::conversion;
use serde_json::Value;
use std::{
    sync::{Arc, Weak},
    time::Duration,
};

/// A list of many objects is converted in one question.
const PATIENCE: Patience = Patience { timeout: Duration::from_secs(30), largest: 64 << 20 };

/// A conversion webhook.
pub(crate) struct Webhook {
    registry: Weak<Registry>,
    /// `spec.conversion.webhook.clientConfig`.
    config: Value,
}

impl Webhook {
    pub(crate) fn new(registry: &Arc<Registry>, definition: &Value) -> Self {
        let config = definition.pointer("/spec/conversion/webhook/clientConfig").cloned().unwrap_or_default();
        Self { registry: Arc::downgrade(registry), config }
    }
}

#[async_trait]
impl Converter for Webhook {
    async fn convert(&self, objects: Vec<Value>, api_version: &str) -> Result<Vec<Value>, Status> {
        // What is in the wanted version already is not asked about.
        let there = |o: &Value| text(o, "/apiVersion") == api_version;
        let asked: Vec<Value> = objects.iter().filter(|o| !there(o)).cloned().collect();
        if asked.is_empty() {
            return Ok(objects);
        }
        let failed = |why: String| {
            let (version, kind) = (text(&asked[0], "/apiVersion"), text(&asked[0], "/kind"));
            Status::internal(format!("conversion webhook for {version}, Kind={kind} failed: {why}"))
        };
        let uid = uuid::Uuid::new_v4().to_string();
        let question = conversion::question(&uid, &asked, api_version);
        let registry = self.registry.upgrade().ok_or_else(|| failed("the server is shutting down".into()))?;
        let review = webhook::post(&registry, &self.config, PATIENCE, &question).await.map_err(failed)?;
        let mut converted =
            conversion::answer(&review, &uid, &asked, api_version).map_err(failed)?.into_iter();
        let all =
            objects.into_iter().map(|o| if there(&o) { o } else { converted.next().unwrap_or_default() });
        Ok(all.collect())
    }
}
