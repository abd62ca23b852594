//! Service-account tokens for projected volumes: asked of the API, bound to the pod, renewed when four fifths of their life are
//! over (Kubernetes documentation, "Service Account token volume projection").

use crate::{Error, pod::PodExt, volumes::Tokens};
use jiff::Timestamp;
use k8s_openapi::api::{
    authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec},
    core::v1::{Pod, ServiceAccount, ServiceAccountTokenProjection},
};
use kube::{Api, Client, api::PostParams};
use std::{collections::BTreeMap, time::Duration};

const DEFAULT_SECONDS: i64 = 3600;
/// A token is renewed at least this often, however long it lives.
const LONGEST: Duration = Duration::from_secs(24 * 3600);

struct Held {
    token: String,
    renew_at: Timestamp,
}

/// The tokens of one pod.
#[derive(Default)]
pub(crate) struct PodTokens {
    held: BTreeMap<(Option<String>, i64), Held>,
}

impl PodTokens {
    /// All tokens that the pod's volumes hold, fresh enough at `now`, and when the next one must be renewed.
    pub async fn get(
        &mut self,
        client: &Client,
        pod: &Pod,
        now: Timestamp,
    ) -> Result<(Tokens, Option<Timestamp>), Error> {
        let mut tokens = Tokens::new();
        let mut renew_at: Option<Timestamp> = None;
        for (volume, source) in wanted(pod) {
            let seconds = source.expiration_seconds.unwrap_or(DEFAULT_SECONDS);
            let key = (source.audience.clone().filter(|a| !a.is_empty()), seconds);
            if self.held.get(&key).is_none_or(|h| h.renew_at <= now) {
                let held = request(client, pod, &key, now).await?;
                self.held.insert(key.clone(), held);
            }
            if let Some(held) = self.held.get(&key) {
                tokens.insert((volume.into(), source.path.clone()), held.token.clone());
                renew_at = Some(renew_at.map_or(held.renew_at, |at| at.min(held.renew_at)));
            }
        }
        Ok((tokens, renew_at))
    }
}

/// The token sources of a pod's volumes, by volume.
fn wanted(pod: &Pod) -> impl Iterator<Item = (&str, &ServiceAccountTokenProjection)> {
    pod.spec_ref().volumes.iter().flatten().flat_map(|v| {
        let sources = v.projected.iter().flat_map(|p| p.sources.iter().flatten());
        sources.filter_map(|s| Some((v.name.as_str(), s.service_account_token.as_ref()?)))
    })
}

async fn request(
    client: &Client,
    pod: &Pod,
    (audience, seconds): &(Option<String>, i64),
    now: Timestamp,
) -> Result<Held, Error> {
    let account =
        pod.spec_ref().service_account_name.as_deref().filter(|n| !n.is_empty()).unwrap_or("default");
    let bound = BoundObjectReference {
        api_version: Some("v1".into()),
        kind: Some("Pod".into()),
        name: Some(pod.name().into()),
        uid: Some(pod.uid().into()),
    };
    let spec = TokenRequestSpec {
        audiences: Some(audience.iter().cloned().collect()),
        bound_object_ref: Some(bound),
        expiration_seconds: Some(*seconds),
    };
    let request = TokenRequest { spec: Some(spec), ..TokenRequest::default() };
    let api = Api::<ServiceAccount>::namespaced(client.clone(), pod.namespace());
    let answer = api
        .create_token_request(account, &PostParams::default(), &request)
        .await
        .map_err(|e| Error::api("failed to fetch token", e))?;
    let status = answer.status.ok_or_else(|| Error::Pod("the API gave no token".into()))?;
    let (Some(token), Some(expires)) = (status.token, status.expiration_timestamp) else {
        return Err(Error::Pod("the API gave no token".into()));
    };
    let life = crate::back_off::elapsed(now, expires.0);
    Ok(Held { token, renew_at: now + renew_after(life) })
}

/// How long a token that lives so long is used.
fn renew_after(life: Duration) -> Duration {
    (life * 4 / 5).min(LONGEST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_renewed_at_four_fifths_of_its_life_and_at_least_daily() {
        assert_eq!(renew_after(Duration::from_secs(3600)), Duration::from_secs(2880));
        assert_eq!(renew_after(Duration::from_secs(10 * 24 * 3600)), LONGEST);
    }
}
