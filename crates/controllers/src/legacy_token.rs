//! Secrets of type `kubernetes.io/service-account-token`: each gets a token of the account that it names, and goes with the
//! account (Kubernetes documentation, "Managing Service Accounts", "Token controller").

use crate::{Error, signers::Keys};
use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::{Secret, ServiceAccount};
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, Patch, PatchParams, Preconditions},
};
use orlop_client::{Informer, Key, Queue, Source, api_reason, found, run_workers};
use orlop_pki::{ObjectRef, token::LegacyClaims};
use serde_json::{Map, Value, json};
use std::sync::Arc;

const ACCOUNT: &str = "kubernetes.io/service-account.name";
const ACCOUNT_UID: &str = "kubernetes.io/service-account.uid";

struct Tokens {
    client: Client,
    keys: Keys,
    secrets: Arc<Informer<Secret>>,
}

/// Fills and removes until dropped.
pub(crate) fn start(client: Client, keys: Keys) -> BoxFuture<'static, ()> {
    let (secrets, accounts) =
        (Arc::<Informer<Secret>>::default(), Arc::<Informer<ServiceAccount>>::default());
    let queue = Queue::default();
    let on_secret = queue.clone();
    secrets.on_change(move |_, new| {
        if let Some(secret) = new {
            on_secret.add(Key::of(&**secret));
        }
    });
    let (on_account, of_account) = (queue.clone(), secrets.clone());
    accounts.on_change(move |_, new| {
        if new.is_none() {
            // Whose account went is looked at again.
            of_account.all().iter().for_each(|secret| on_account.add(Key::of(&**secret)));
        }
    });
    Box::pin(async move {
        let all_secrets = Api::<Secret>::all(client.clone());
        let only = Source::of(&all_secrets).fields("type=kubernetes.io/service-account-token");
        let all_accounts = Api::all(client.clone());
        let this = Tokens { client, keys, secrets: secrets.clone() };
        tokio::join!(
            secrets.run_selected(all_secrets.into_client(), only),
            accounts.run(all_accounts),
            run_workers("tokens", queue, 1, |key: Key| this.reconcile(key))
        );
    })
}

/// What the Secret lacks, as a merge patch; `make` signs a token where there is none.
fn lacking(
    secret: &Secret,
    account: &ObjectRef,
    authority: &str,
    make: impl FnOnce() -> Result<String, Error>,
) -> Result<Option<Value>, Error> {
    let held =
        |key: &str| secret.data.as_ref().and_then(|data| data.get(key)).map(|bytes| bytes.0.as_slice());
    let mut data = Map::new();
    let mut put = |key: &str, value: &str| {
        data.insert(key.into(), json!(k8s_openapi::ByteString(value.as_bytes().to_vec())));
    };
    if held("ca.crt") != Some(authority.as_bytes()) {
        put("ca.crt", authority);
    }
    let namespace = secret.namespace().unwrap_or_default();
    if held("namespace").is_none() {
        put("namespace", &namespace);
    }
    if held("token").is_none_or(<[u8]>::is_empty) {
        put("token", &make()?);
    }
    let named = secret.annotations().get(ACCOUNT_UID) == Some(&account.uid);
    if named && data.is_empty() {
        return Ok(None);
    }
    Ok(Some(json!({"metadata": {"annotations": {ACCOUNT_UID: account.uid}}, "data": data})))
}

impl Tokens {
    async fn reconcile(&self, key: Key) -> Result<(), Error> {
        let Some(secret) = self.secrets.get(&key.namespace, &key.name) else { return Ok(()) };
        if secret.metadata.deletion_timestamp.is_some() {
            return Ok(());
        }
        let Some(name) = secret.annotations().get(ACCOUNT).cloned() else { return Ok(()) };
        let accounts: Api<ServiceAccount> = Api::namespaced(self.client.clone(), &key.namespace);
        let account = found(accounts.get(&name).await).map_err(Error::at("reading a service account"))?;
        let uid = account.and_then(|a| a.metadata.uid).unwrap_or_default();
        let wanted = secret.annotations().get(ACCOUNT_UID);
        let api: Api<Secret> = Api::namespaced(self.client.clone(), &key.namespace);
        if uid.is_empty() || wanted.is_some_and(|wanted| !wanted.is_empty() && *wanted != uid) {
            let preconditions = Preconditions { uid: secret.uid(), resource_version: None };
            let only = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
            return match api.delete(&key.name, &only).await {
                Err(error) if !matches!(api_reason(&error), Some("NotFound" | "Conflict")) => {
                    Err(Error::at("removing a token whose account is gone")(error))
                }
                _ => Ok(()),
            };
        }
        let account = ObjectRef { name, uid };
        let claims = LegacyClaims::new(&key.namespace, &key.name, &account);
        let make =
            || self.keys.service_accounts.sign_legacy(&claims).map_err(|e| Error::Object(e.to_string()));
        if let Some(patch) = lacking(&secret, &account, self.keys.authority.certificate(), make)? {
            let written = api
                .patch(&key.name, &PatchParams::default(), &Patch::Merge(patch))
                .await
                .map_err(Error::at("writing a token"))?;
            self.secrets.observe(written);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_missing_is_filled_in() {
        let account = ObjectRef { name: "robot".into(), uid: "u".into() };
        let secret = |value: Value| -> Secret { serde_json::from_value(value).unwrap() };
        let make = || Ok("token".to_string());
        let empty = secret(json!({"metadata": {"namespace": "n", "annotations": {ACCOUNT: "robot"}}}));
        let patch = lacking(&empty, &account, "ca", make).unwrap().unwrap();
        assert_eq!(patch["data"], json!({"ca.crt": "Y2E=", "namespace": "bg==", "token": "dG9rZW4="}));
        assert_eq!(patch["metadata"]["annotations"][ACCOUNT_UID], "u");
        let full = secret(json!({
            "metadata": {"namespace": "n", "annotations": {ACCOUNT: "robot", ACCOUNT_UID: "u"}},
            "data": {"ca.crt": "Y2E=", "namespace": "bg==", "token": "eA=="},
        }));
        assert_eq!(lacking(&full, &account, "ca", make).unwrap(), None);
        let renewed = lacking(&full, &account, "new", make).unwrap().unwrap();
        assert_eq!(renewed["data"], json!({"ca.crt": "bmV3"}), "the token stays");
    }
}
