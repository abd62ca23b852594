//! What must hold of autoscalers after every commit: they want neither more nor less than they may. Pure.

use super::facts::Lately;
use jiff::Timestamp;
use orlop_api::object::{int, text};
use serde_json::Value;
use std::{collections::BTreeMap, sync::Arc};

/// How far an autoscaler may go.
#[derive(Debug, Default)]
struct Bounds {
    least: Lately,
    most: Lately,
}

/// What the history has shown of autoscalers.
#[derive(Debug, Default)]
pub(super) struct Autoscalers(BTreeMap<Arc<str>, Bounds>);

impl Autoscalers {
    /// Takes in an autoscaler as it is now. It may rest on what its bounds were since `since`.
    pub(super) fn take_in(
        &mut self,
        key: &Arc<str>,
        autoscaler: Option<&Value>,
        now: Timestamp,
        since: Timestamp,
    ) -> Option<String> {
        let Some(autoscaler) = autoscaler else {
            self.0.remove(key);
            return None;
        };
        let bounds = self.0.entry(key.clone()).or_default();
        bounds.least.push(now, int(autoscaler, "/spec/minReplicas").unwrap_or(1));
        bounds.most.push(now, int(autoscaler, "/spec/maxReplicas").unwrap_or(0));
        let (least, most) = (bounds.least.least_since(since), bounds.most.most_since(since));
        let wants = int(autoscaler, "/status/desiredReplicas").unwrap_or(0);
        let seen = int(autoscaler, "/status/observedGeneration").is_some();
        let name = text(autoscaler, "/metadata/name");
        // It leaves alone what somebody scaled to nothing.
        (seen && wants != 0 && !(least..=most).contains(&wants))
            .then(|| format!("autoscaler {name} wants {wants}, but may want {least} to {most}"))
    }
}
