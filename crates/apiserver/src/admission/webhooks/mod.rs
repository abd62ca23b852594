//! Admission webhooks (Kubernetes documentation, "Dynamic Admission Control"): which ones a write concerns, calling them, and
//! what follows from their answers. Where there are no configurations, nothing of this runs.

mod review;

use super::{
    Request,
    expressions::{self, Expressions, Names},
    matching, notes,
    rounds::Round,
    view::View,
};
use crate::{
    identity::Authorizer,
    webhook::{self, Patience},
};
use futures::future::join_all;
use orlop_api::{
    Status,
    object::{int, list, text},
};
use review::Verdict;
use serde_json::Value;
use std::{sync::Arc, time::Duration};

const GROUP: &str = "admissionregistration.k8s.io";
/// Bytes of an answer: a patch is hardly ever larger than the object, and that is limited.
const LARGEST: usize = 3 << 20;

/// Which of the two kinds of webhook.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    Mutating,
    Validating,
}

impl Phase {
    fn plural(self) -> &'static str {
        match self {
            Self::Mutating => "mutatingwebhookconfigurations",
            Self::Validating => "validatingwebhookconfigurations",
        }
    }
}

/// A webhook of a configuration.
pub(super) struct Hook {
    value: Value,
    configuration: String,
    /// The version of the resource that its rules name, where that is not the request's.
    version: Option<String>,
    /// Whether its selectors and conditions chose the request, so that it may be asked again.
    asked: bool,
}

impl Hook {
    fn name(&self) -> &str {
        text(&self.value, "/name")
    }

    fn ignores_failure(&self) -> bool {
        text(&self.value, "/failurePolicy") == "Ignore"
    }

    fn reinvoked(&self) -> bool {
        text(&self.value, "/reinvocationPolicy") == "IfNeeded"
    }
}

/// What calls of webhooks need.
pub(super) struct Caller<'a> {
    pub expressions: &'a Expressions,
    pub authorizer: Option<&'a Arc<dyn Authorizer>>,
}

/// Whether there are any webhooks of the phase at all.
pub(super) fn exist(request: &Request<'_>, phase: Phase) -> bool {
    request.registry.find(GROUP, "v1", phase.plural()).is_some_and(|r| r.cache.len() > 0)
        && !matching::is_exempt(request)
}

/// The webhooks whose rules are about the request, in order.
pub(super) fn interested(request: &Request<'_>, phase: Phase) -> Vec<Hook> {
    let mut hooks = Vec::new();
    for configuration in request.look_up_all((GROUP, "v1", phase.plural()), "") {
        let name = text(&configuration, "/metadata/name").to_string();
        for hook in list(&configuration, "/webhooks") {
            let matched =
                matching::matched_version(list(hook, "/rules"), text(hook, "/matchPolicy"), request);
            if let Some(version) = matched {
                let version = (version != &*request.kind.version).then(|| version.to_string());
                let configuration = name.clone();
                hooks.push(Hook { value: hook.clone(), configuration, version, asked: false });
            }
        }
    }
    hooks
}

/// A webhook could not be asked.
fn unreachable(hook: &Hook, why: &str) -> Status {
    Status::internal(format!("failed calling webhook {:?}: failed to call webhook: {why}", hook.name()))
}

impl Caller<'_> {
    /// Whether the selectors and conditions of a webhook are about the request as it is now.
    fn concerns(&self, hook: &Hook, request: &Request<'_>, object: Option<&Value>) -> Result<bool, Status> {
        if !matching::selectors_match(&hook.value, request, object) {
            return Ok(false);
        }
        let conditions = list(&hook.value, "/matchConditions");
        if conditions.is_empty() {
            return Ok(true);
        }
        let values = expressions::values(request, object, self.authorizer);
        match expressions::conditions_hold(self.expressions, conditions, &Names::default(), &values) {
            Ok(holds) => Ok(holds),
            Err(why) if hook.ignores_failure() => {
                tracing::warn!(webhook = hook.name(), why, "match conditions cannot be evaluated");
                Ok(false)
            }
            Err(why) => Err(request.forbidden(&why)),
        }
    }

    /// Asks a webhook. `None` where it could not be asked and that is to be ignored.
    async fn call(
        &self,
        hook: &Hook,
        request: &Request<'_>,
        object: Option<&Value>,
    ) -> Result<Option<Verdict>, Status> {
        let name = hook.name();
        if request.dry_run && !matches!(text(&hook.value, "/sideEffects"), "None" | "NoneOnDryRun") {
            return Err(Status::bad_request(format!("admission webhook {name:?} does not support dry run")));
        }
        let versions = list(&hook.value, "/admissionReviewVersions");
        let version = versions.iter().filter_map(Value::as_str).find(|v| matches!(*v, "v1" | "v1beta1"));
        let seconds = int(&hook.value, "/timeoutSeconds").unwrap_or(10).clamp(1, 30).unsigned_abs();
        let patience = Patience { timeout: Duration::from_secs(seconds), largest: LARGEST };
        let uid = uuid::Uuid::new_v4().to_string();
        let version = version.unwrap_or("v1");
        let asked = review::ask(request, object, &uid, version);
        let config = hook.value.get("clientConfig").unwrap_or(&Value::Null);
        let answer = webhook::post(request.registry, config, patience, &asked).await;
        match answer.and_then(|answer| review::read(name, &answer, &uid, version)) {
            Ok(verdict) => {
                verdict.warnings.iter().for_each(|w| notes::warn(w.as_str()));
                verdict.annotations.iter().for_each(|(k, v)| notes::annotate(k.as_str(), v.as_str()));
                Ok(Some(verdict))
            }
            Err(why) if hook.ignores_failure() => {
                let configuration = hook.configuration.as_str();
                tracing::warn!(webhook = name, configuration, why, "a webhook failed and is ignored");
                Ok(None)
            }
            Err(why) => {
                tracing::warn!(webhook = name, why, "a webhook failed");
                Err(unreachable(hook, &why))
            }
        }
    }

    /// Asks one mutating webhook, in the version that it knows. Tells whether it changed the object.
    async fn mutate_once(
        &self,
        hook: &mut Hook,
        request: &Request<'_>,
        object: &mut Option<&mut Value>,
    ) -> Result<bool, Status> {
        let Some(version) = hook.version.clone() else {
            return self.mutate_as_it_is(hook, request, object).await;
        };
        if !matching::selectors_match(&hook.value, request, object.as_deref()) {
            return Ok(false);
        }
        let mut view = View::new(&version, request, object.as_deref()).await?;
        let mut seen = view.object.take();
        let changed = self.mutate_as_it_is(hook, &view.request(request), &mut seen.as_mut()).await?;
        if let (true, Some(seen), Some(object)) = (changed, seen, object.as_deref_mut()) {
            *object = view.back(seen).await?;
        }
        Ok(changed)
    }

    async fn mutate_as_it_is(
        &self,
        hook: &mut Hook,
        request: &Request<'_>,
        object: &mut Option<&mut Value>,
    ) -> Result<bool, Status> {
        if !self.concerns(hook, request, object.as_deref())? {
            return Ok(false);
        }
        hook.asked = true;
        let Some(verdict) = self.call(hook, request, object.as_deref()).await? else { return Ok(false) };
        if let Some(denied) = verdict.denied {
            return Err(denied);
        }
        if verdict.patch.is_null() || verdict.patch.as_array().is_some_and(Vec::is_empty) {
            return Ok(false);
        }
        let Some(object) = object.as_deref_mut() else {
            return Err(Status::internal(format!(
                "admission webhook {:?} attempted to modify the object, which is not supported for this operation",
                hook.name()
            )));
        };
        let before = object.clone();
        if let Err(error) = orlop_schema::patch::json_patch(object, &verdict.patch) {
            *object = before;
            let why = Status::from(error).message;
            if hook.ignores_failure() {
                tracing::warn!(webhook = hook.name(), why, "a webhook's patch does not apply and is ignored");
                return Ok(false);
            }
            return Err(Status::internal(why));
        }
        Ok(*object != before)
    }

    /// Asks the mutating webhooks of a round, one after the other. Tells the place of the last one that changed the object.
    pub(super) async fn mutate(
        &self,
        hooks: &mut [Hook],
        request: &Request<'_>,
        mut object: Option<&mut Value>,
        round: Round,
    ) -> Result<Option<usize>, Status> {
        let mut last_change = None;
        for (at, hook) in hooks.iter_mut().enumerate() {
            let wishes = hook.asked && hook.reinvoked();
            if round.asks(at, wishes, last_change.is_some())
                && self.mutate_once(hook, request, &mut object).await?
            {
                last_change = Some(at);
            }
        }
        Ok(last_change)
    }

    /// Asks all validating webhooks at once; the first refusal counts.
    pub(super) async fn validate(&self, request: &Request<'_>, object: Option<&Value>) -> Result<(), Status> {
        let hooks = interested(request, Phase::Validating);
        let mut concerned = Vec::new();
        for hook in &hooks {
            let view = match &hook.version {
                Some(version) if matching::selectors_match(&hook.value, request, object) => {
                    Some(View::new(version, request, object).await?)
                }
                Some(_) => continue,
                None => None,
            };
            let concerns = match &view {
                Some(view) => self.concerns(hook, &view.request(request), view.object.as_ref())?,
                None => self.concerns(hook, request, object)?,
            };
            if concerns {
                concerned.push((hook, view));
            }
        }
        let calls = concerned.iter().map(async |(hook, view)| match view {
            Some(view) => self.call(hook, &view.request(request), view.object.as_ref()).await,
            None => self.call(hook, request, object).await,
        });
        let answers = join_all(calls).await;
        for answer in answers {
            if let Some(denied) = answer?.and_then(|verdict| verdict.denied) {
                return Err(denied);
            }
        }
        Ok(())
    }
}
