//! Where the cluster's state is: in the data folder, or in etcd, which several servers share.

use crate::{Error, layout::Layout};
use clap::Args;
use orlop_store::{Embedded, Endpoints, Etcd, EtcdOptions, Options, Store};
use std::{fs, path::PathBuf, sync::Arc, time::Duration};

/// How much of etcd's history is kept: as much as pages of a list may need.
const RETENTION: Duration = Duration::from_secs(360);

#[derive(Args)]
pub(crate) struct DatastoreArguments {
    /// Keep the state in etcd at these addresses, with commas between them, instead of in the data folder; several servers may
    /// share it
    #[arg(long, value_name = "URL[,URL]", value_delimiter = ',')]
    datastore_endpoint: Vec<String>,
    /// The certificate of the authority that signed etcd's certificates
    #[arg(long, value_name = "FILE", requires = "datastore_endpoint")]
    datastore_cafile: Option<PathBuf>,
    /// The certificate that etcd is shown
    #[arg(long, value_name = "FILE", requires = "datastore_keyfile")]
    datastore_certfile: Option<PathBuf>,
    /// Its key
    #[arg(long, value_name = "FILE", requires = "datastore_certfile")]
    datastore_keyfile: Option<PathBuf>,
}

impl DatastoreArguments {
    /// Where etcd is, if the state is there.
    pub(crate) fn etcd(&self) -> Result<Option<Endpoints>, Error> {
        if self.datastore_endpoint.is_empty() {
            return Ok(None);
        }
        let read = |path: &PathBuf| fs::read(path).map_err(Error::at(format!("reading {}", path.display())));
        let identity = match (&self.datastore_certfile, &self.datastore_keyfile) {
            (Some(certificate), Some(key)) => Some((read(certificate)?, read(key)?)),
            _ => None,
        };
        Ok(Some(Endpoints {
            addresses: self.datastore_endpoint.clone(),
            authority: self.datastore_cafile.as_ref().map(read).transpose()?,
            identity,
        }))
    }
}

/// Finds etcd.
pub(crate) async fn open_etcd(endpoints: Endpoints) -> Result<Arc<dyn Store>, Error> {
    let options = EtcdOptions { endpoints, retention: Some(RETENTION) };
    Ok(Arc::new(Etcd::open(options).await.map_err(Error::at("opening etcd"))?))
}

/// Opens the store in the data folder.
pub(crate) async fn open_embedded(layout: &Layout) -> Result<Arc<dyn Store>, Error> {
    let folder = layout.store();
    let store = tokio::task::spawn_blocking(move || Embedded::open(folder, Options::default()))
        .await
        .map_err(Error::at("opening the store"))?
        .map_err(Error::at("opening the store"))?;
    Ok(Arc::new(store))
}
