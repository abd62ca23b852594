//! Which server to speak to, and as whom.

use crate::{Error, api::Api};
use kube::config::{Config, KubeConfigOptions, Kubeconfig};
use std::path::{Path, PathBuf};

/// Where a server on this machine keeps everything, unless told otherwise.
pub const DEFAULT_DATA_DIR: &str = "/var/lib/orlop";

/// Which cluster, and where in it.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct ConnectionArgs {
    /// Kubeconfig file [default: $KUBECONFIG, else that of the server on this machine, else ~/.kube/config]
    #[arg(long, value_name = "FILE", help_heading = "Connection")]
    pub kubeconfig: Option<PathBuf>,
    /// Context of the kubeconfig to use
    #[arg(long, value_name = "NAME", help_heading = "Connection")]
    pub context: Option<String>,
    /// Data folder of the server on this machine, for its kubeconfig
    #[arg(long, value_name = "DIR", default_value = DEFAULT_DATA_DIR, help_heading = "Connection")]
    pub data_dir: PathBuf,
    /// Namespace [default: that of the context]
    #[arg(short, long, value_name = "NAME", help_heading = "Connection")]
    pub namespace: Option<String>,
}

impl ConnectionArgs {
    /// Prepares to speak to the server. Does not speak yet.
    pub(crate) async fn connect(&self) -> Result<Api, Error> {
        let env = std::env::var_os("KUBECONFIG").filter(|value| !value.is_empty());
        let home = std::env::var_os("HOME").map(PathBuf::from);
        let files = self.files(env.as_deref(), home.as_deref())?;
        let options = KubeConfigOptions { context: self.context.clone(), ..Default::default() };
        let failed = |e: kube::config::KubeconfigError| Error::Kubeconfig(in_words(&e));
        let mut merged: Option<Kubeconfig> = None;
        for file in &files {
            let read = Kubeconfig::read_from(file).map_err(failed)?;
            merged = Some(match merged {
                None => read,
                Some(first) => first.merge(read).map_err(failed)?,
            });
        }
        let config =
            Config::from_custom_kubeconfig(merged.unwrap_or_default(), &options).await.map_err(failed)?;
        let server = config.cluster_url.to_string().trim_end_matches('/').to_string();
        let namespace = self.namespace.clone().unwrap_or_else(|| config.default_namespace.clone());
        let client = kube::Client::try_from(config).map_err(|e| Error::Kubeconfig(in_words(&e)))?;
        Ok(Api::new(client, server, namespace))
    }

    /// The first place that has a kubeconfig. `env` may name several files, of which missing ones are left out.
    fn files(&self, env: Option<&std::ffi::OsStr>, home: Option<&Path>) -> Result<Vec<PathBuf>, Error> {
        if let Some(file) = &self.kubeconfig {
            return Ok(vec![file.clone()]);
        }
        if let Some(env) = env {
            let named: Vec<PathBuf> =
                std::env::split_paths(env).filter(|p| !p.as_os_str().is_empty()).collect();
            let found: Vec<PathBuf> = named.iter().filter(|file| file.exists()).cloned().collect();
            if found.is_empty() {
                return Err(Error::Kubeconfig(format!(
                    "KUBECONFIG names {}, which is not there",
                    env.display()
                )));
            }
            return Ok(found);
        }
        let own = self.data_dir.join("admin.kubeconfig");
        let users = home.map(|home| home.join(".kube/config"));
        match [Some(own.clone()), users].into_iter().flatten().find(|file| is_readable(file)) {
            Some(file) => Ok(vec![file]),
            None => Err(Error::Kubeconfig(format!(
                "no kubeconfig: is a server running on this machine? Looked for {} and ~/.kube/config; name another with \
                 --kubeconfig, --data-dir or KUBECONFIG",
                own.display()
            ))),
        }
    }
}

fn is_readable(file: &Path) -> bool {
    std::fs::File::open(file).is_ok()
}

/// An error with its causes, each said once.
pub(crate) fn in_words(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        next = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_kubeconfig_is_used() {
        let dir = tempfile::tempdir().unwrap();
        let (home, data) = (dir.path().join("home"), dir.path().join("data"));
        std::fs::create_dir_all(home.join(".kube")).unwrap();
        std::fs::create_dir_all(&data).unwrap();
        let args = |kubeconfig: Option<&str>| ConnectionArgs {
            kubeconfig: kubeconfig.map(Into::into),
            data_dir: data.clone(),
            ..Default::default()
        };
        let find = |args: ConnectionArgs, env: Option<&str>| {
            args.files(env.map(AsRef::as_ref), Some(&home)).map_err(|e| e.to_string())
        };
        let error = find(args(None), None).unwrap_err();
        assert!(error.contains("is a server running on this machine?"), "{error}");
        std::fs::write(home.join(".kube/config"), "").unwrap();
        assert_eq!(find(args(None), None).unwrap(), [home.join(".kube/config")]);
        std::fs::write(data.join("admin.kubeconfig"), "").unwrap();
        assert_eq!(find(args(None), None).unwrap(), [data.join("admin.kubeconfig")]);
        let env = format!("/missing:{}", home.join(".kube/config").display());
        assert_eq!(find(args(None), Some(&env)).unwrap(), [home.join(".kube/config")]);
        assert!(find(args(None), Some("/missing")).unwrap_err().contains("/missing"));
        assert_eq!(find(args(Some("/own")), Some(&env)).unwrap(), [PathBuf::from("/own")]);
    }
}
