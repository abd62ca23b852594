//! The kubeconfig file that lets a person or program in (Kubernetes documentation, "Organizing Cluster Access Using
//! kubeconfig Files").

use crate::{Credential, Error, files};
use base64::{Engine, prelude::BASE64_STANDARD};
use serde_json::json;
use std::path::Path;

/// The text of a kubeconfig with one cluster, one user, one context. JSON, which every YAML reader takes.
pub fn render(server: &str, authority: &str, user: &str, credential: &Credential) -> String {
    let encode = |pem: &str| BASE64_STANDARD.encode(pem);
    let config = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "orlop", "cluster": {
            "server": server,
            "certificate-authority-data": encode(authority),
        }}],
        "users": [{"name": user, "user": {
            "client-certificate-data": encode(&credential.certificate),
            "client-key-data": encode(&credential.key),
        }}],
        "contexts": [{"name": "orlop", "context": {"cluster": "orlop", "user": user}}],
        "current-context": "orlop",
    });
    serde_saphyr::to_string(&config).unwrap_or_else(|_| config.to_string())
}

/// Writes a kubeconfig that only root can read, atomically.
pub fn write(path: &Path, text: &str) -> Result<(), Error> {
    files::write_private(path, text)
}
