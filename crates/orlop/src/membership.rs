//! What a worker keeps of the cluster that it joined, in its data folder, so that it starts again without a token and without
//! the server: where the server is, its authority, the node's name and credentials, and its ranges. `agent.json` is written
//! last: without it, nothing was joined.

use crate::{Error, cluster_layout::ClusterLayout, layout::Layout};
use ipnet::IpNet;
use orlop_pki::{Credential, node_credential};
use serde::{Deserialize, Serialize};
use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
};

const FILE: &str = "agent.json";

/// Settings of a worker.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Settings {
    /// URL of the API server.
    pub(crate) server: String,
    /// Name of the node.
    pub(crate) node: String,
    /// The cluster's authority (PEM).
    pub(crate) authority: String,
    pub(crate) cluster: ClusterLayout,
    /// The node's own ranges of pod addresses.
    pub(crate) pod_ranges: Vec<IpNet>,
}

/// A worker that has joined.
pub(crate) struct Membership {
    pub(crate) settings: Settings,
    /// By which the API server knows the node.
    pub(crate) client: Credential,
    /// By which the node serves logs and exec.
    pub(crate) serving: Credential,
}

pub(crate) fn client_file(layout: &Layout) -> PathBuf {
    layout.tls().join("node-client.pem")
}

pub(crate) fn serving_file(layout: &Layout) -> PathBuf {
    layout.tls().join("node-serving.pem")
}

impl Membership {
    /// Whether a folder is that of a worker.
    pub(crate) fn is_in(root: &Path) -> bool {
        root.join(FILE).exists()
    }

    /// Reads it; `None` if nothing was joined.
    pub(crate) fn read(layout: &Layout) -> Result<Option<Self>, Error> {
        let path = layout.root().join(FILE);
        let failed = |path: &Path| format!("reading {}", path.display());
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(Error::at(failed(&path))(e)),
        };
        let settings = serde_json::from_str(&text).map_err(Error::at(failed(&path)))?;
        let credential = |path: PathBuf| {
            let kept = node_credential::read(&path).map_err(Error::at(failed(&path)))?;
            kept.ok_or_else(|| Error::Configuration(format!("{} is missing: join again", path.display())))
        };
        let (client, serving) = (credential(client_file(layout))?, credential(serving_file(layout))?);
        Ok(Some(Self { settings, client, serving }))
    }

    /// Writes all of it.
    pub(crate) fn write(&self, layout: &Layout) -> Result<(), Error> {
        for (path, credential) in [(client_file(layout), &self.client), (serving_file(layout), &self.serving)]
        {
            node_credential::write(&path, credential)
                .map_err(Error::at(format!("writing {}", path.display())))?;
        }
        self.settings.write(layout)
    }
}

impl Settings {
    /// Writes the settings alone, atomically.
    pub(crate) fn write(&self, layout: &Layout) -> Result<(), Error> {
        let path = layout.root().join(FILE);
        let temporary = path.with_extension("new");
        let text = serde_json::to_vec_pretty(self).map_err(Error::at("writing settings"))?;
        let write = || {
            let mut file = fs::File::create(&temporary)?;
            file.write_all(&text)?;
            file.sync_all()?;
            fs::rename(&temporary, &path)?;
            fs::File::open(layout.root())?.sync_all()
        };
        write().map_err(Error::at(format!("writing {}", path.display())))
    }
}
