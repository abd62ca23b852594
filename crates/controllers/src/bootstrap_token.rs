//! Bootstrap tokens go when they have expired (Kubernetes documentation, "Authenticating with Bootstrap Tokens").

use crate::Error;
use futures::future::BoxFuture;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;
use kube::{
    Api, Client,
    api::{DeleteParams, Preconditions},
};
use orlop_client::{Clock, Informer, Key, Queue, Source, api_reason, run_workers};
use std::{sync::Arc, time::Duration};

const NAMESPACE: &str = "kube-system";
/// A far end is looked at again after this long: clocks can be put forward.
const LOOK: Duration = Duration::from_secs(3600);

/// Removes until dropped.
pub(crate) fn start(client: Client, clock: Clock) -> BoxFuture<'static, ()> {
    let secrets = Arc::<Informer<Secret>>::default();
    let queue = Queue::default();
    let on_change = queue.clone();
    secrets.on_change(move |_, new| {
        if let Some(secret) = new {
            on_change.add(Key::of(&**secret));
        }
    });
    Box::pin(async move {
        let api: Api<Secret> = Api::namespaced(client, NAMESPACE);
        let only = Source::of(&api).fields("type=bootstrap.kubernetes.io/token");
        let reconcile = |key: Key| {
            let (api, secrets, queue, clock) = (&api, &secrets, &queue, &clock);
            async move {
                let Some(secret) = secrets.get(&key.namespace, &key.name) else { return Ok(()) };
                match left(&secret, clock()) {
                    None => Ok(()),
                    Some(Duration::ZERO) => remove(api, &secret, &key.name).await,
                    Some(left) => {
                        queue.add_after(key, left.min(LOOK));
                        Ok(())
                    }
                }
            }
        };
        tokio::join!(
            secrets.clone().run_selected(api.clone().into_client(), only),
            run_workers("token-cleaner", queue.clone(), 1, reconcile)
        );
    })
}

/// How long the token still lives; `None` for ever. What cannot be read is over.
fn left(secret: &Secret, now: Timestamp) -> Option<Duration> {
    let text = String::from_utf8_lossy(&secret.data.as_ref()?.get("expiration")?.0).into_owned();
    if text.is_empty() {
        return None;
    }
    let end = text.parse::<Timestamp>().unwrap_or(now);
    Some(Duration::try_from(end.duration_since(now)).unwrap_or_default())
}

async fn remove(api: &Api<Secret>, secret: &Secret, name: &str) -> Result<(), Error> {
    let preconditions = Preconditions { uid: secret.metadata.uid.clone(), resource_version: None };
    let only = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
    match api.delete(name, &only).await {
        Err(error) if !matches!(api_reason(&error), Some("NotFound" | "Conflict")) => {
            Err(Error::at("removing an expired bootstrap token")(error))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_token_lives_until_its_end() {
        let now: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let left = |expiration: &str| {
            let data = json!({"expiration": k8s_openapi::ByteString(expiration.as_bytes().to_vec())});
            left(&serde_json::from_value(json!({"data": data})).unwrap(), now)
        };
        assert_eq!(left("2026-01-01T00:01:00Z"), Some(Duration::from_secs(60)));
        assert_eq!(left("2025-12-31T23:59:59Z"), Some(Duration::ZERO));
        assert_eq!(left("tomorrow"), Some(Duration::ZERO));
        assert_eq!(left(""), None);
    }
}
