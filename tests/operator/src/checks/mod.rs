//! What people do with `kube` beside controllers, each as a check that runs in a namespace of its own and says what is wrong.

mod discovering;
mod following;
mod pods;
mod watching;
mod writing;

use crate::Result;
use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{Client, core::ObjectMeta};
use std::{collections::BTreeMap, time::Duration};

/// Ends the check with words unless something is the case.
macro_rules! ensure {
    ($what:expr, $($words:tt)+) => {
        if !$what {
            return Err(format!($($words)+).into());
        }
    };
}
use ensure;

/// Runs a check by name.
pub(crate) async fn run(name: &str, namespace: &str) -> Result<()> {
    let client = Client::try_default().await?;
    let limit = Duration::from_secs(60);
    let check: BoxFuture<'_, Result<()>> = match name {
        "discovering" => Box::pin(discovering::check(client, namespace)),
        "following" => Box::pin(following::check(client, namespace)),
        "pods" => Box::pin(pods::check(client, namespace)),
        "watching" => Box::pin(watching::check(client, namespace)),
        "writing" => Box::pin(writing::check(client, namespace)),
        _ => return Err(format!("no check is called {name}").into()),
    };
    tokio::time::timeout(limit, check).await.map_err(|_| format!("{name} took longer than {limit:?}"))?
}

fn config_map(name: &str, data: &[(&str, &str)]) -> ConfigMap {
    let data: BTreeMap<String, String> = data.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect();
    ConfigMap {
        metadata: ObjectMeta { name: Some(name.into()), ..ObjectMeta::default() },
        data: Some(data),
        ..ConfigMap::default()
    }
}

/// The code, reason and message of what the API refused.
fn refusal<T: std::fmt::Debug>(result: kube::Result<T>) -> Result<(u16, String, String)> {
    match result {
        Err(kube::Error::Api(status)) => Ok((status.code, status.reason.clone(), status.message.clone())),
        other => Err(format!("not refused by the API: {other:?}").into()),
    }
}
