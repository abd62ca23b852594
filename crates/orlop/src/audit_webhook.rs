//! The receiver of the audit log that a kubeconfig file names (kube-apiserver's `--audit-webhook-config-file`). Only carries;
//! what is sent when is the API server's business.

use crate::Error;
use bytes::Bytes;
use futures::future::BoxFuture;
use http::{Request, StatusCode, header, uri::PathAndQuery};
use kube::{
    Client, Config,
    client::Body,
    config::{KubeConfigOptions, Kubeconfig},
};
use orlop_apiserver::audit::{Receiver, Undelivered};
use std::path::Path;

pub(crate) struct AuditWebhook {
    client: Client,
    path: String,
}

impl AuditWebhook {
    /// Reads the file: where the receiver is, how it is known and who we are to it.
    pub(crate) async fn open(file: &Path) -> Result<Self, Error> {
        let step = |what: &str| format!("{what} --audit-webhook-config-file {}", file.display());
        let named = Kubeconfig::read_from(file).map_err(Error::at(step("reading")))?;
        let config = Config::from_custom_kubeconfig(named, &KubeConfigOptions::default()).await;
        let mut config = config.map_err(Error::at(step("understanding")))?;
        // The address is that of the receiver itself: nothing is put behind it.
        let path = config.cluster_url.path().to_string();
        let mut parts = std::mem::take(&mut config.cluster_url).into_parts();
        parts.path_and_query = Some(PathAndQuery::from_static("/"));
        config.cluster_url = parts.try_into().map_err(Error::at(step("understanding the server of")))?;
        let client = Client::try_from(config).map_err(Error::at(step("understanding")))?;
        Ok(Self { client, path })
    }

    async fn post(&self, list: Bytes) -> Result<(), Undelivered> {
        let passing = |why: &dyn std::error::Error| Undelivered { why: why.to_string(), passing: true };
        let request = Request::post(&self.path)
            .header(header::CONTENT_TYPE, "application/json")
            .body(Body::from(list.to_vec()))
            .map_err(|e| passing(&e))?;
        let answer = self.client.send(request).await.map_err(|e| passing(&e))?;
        let code = answer.status();
        if code.is_success() {
            return Ok(());
        }
        let passing = code.is_server_error() || code == StatusCode::TOO_MANY_REQUESTS;
        Err(Undelivered { why: format!("the webhook answered {code}"), passing })
    }
}

impl Receiver for AuditWebhook {
    fn deliver(&self, list: Bytes) -> BoxFuture<'_, Result<(), Undelivered>> {
        Box::pin(self.post(list))
    }
}
