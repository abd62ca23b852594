//! An image's configuration (OCI image-spec, "Image Configuration"), reduced to what running a container needs.
//! Reads Docker's spelling too, with its nulls.

use super::digest::Digest;
use crate::Error;
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};

/// How an image wants to be run.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct ImageConfig {
    /// `NAME=VALUE` pairs, split. Entries without `=` are dropped.
    pub env: Vec<(String, String)>,
    /// What is always run.
    pub entrypoint: Vec<String>,
    /// Default arguments, or the program where there is no entrypoint.
    pub cmd: Vec<String>,
    /// `USER[:GROUP]`, names or numbers; empty is root.
    pub user: String,
    /// Working directory; empty is `/`.
    pub working_dir: String,
    /// `SIGTERM`, `15`; empty is SIGTERM.
    pub stop_signal: String,
    /// Paths declared as volumes.
    pub volumes: BTreeSet<String>,
    /// `80/tcp`.
    pub exposed_ports: BTreeSet<String>,
    /// Labels of the image.
    pub labels: BTreeMap<String, String>,
    /// `amd64`, `arm64`, ….
    pub architecture: String,
    /// `linux`.
    pub os: String,
    /// Digests of the uncompressed layers, bottom first.
    pub diff_ids: Vec<Digest>,
}

impl ImageConfig {
    /// Reads a configuration blob.
    pub fn parse(bytes: &[u8]) -> Result<Self, Error> {
        let raw: Raw = serde_json::from_slice(bytes)
            .map_err(|e| Error::Damaged(format!("image configuration is not valid: {e}")))?;
        let config = raw.config.unwrap_or_default();
        let split = |pair: String| pair.split_once('=').map(|(name, value)| (name.into(), value.into()));
        Ok(Self {
            env: config.env.unwrap_or_default().into_iter().filter_map(split).collect(),
            entrypoint: config.entrypoint.map(Words::into_vec).unwrap_or_default(),
            cmd: config.cmd.map(Words::into_vec).unwrap_or_default(),
            user: config.user.unwrap_or_default(),
            working_dir: config.working_dir.unwrap_or_default(),
            stop_signal: config.stop_signal.unwrap_or_default(),
            volumes: config.volumes.unwrap_or_default().into_keys().collect(),
            exposed_ports: config.exposed_ports.unwrap_or_default().into_keys().collect(),
            labels: config.labels.unwrap_or_default(),
            architecture: raw.architecture,
            os: raw.os,
            diff_ids: raw.rootfs.diff_ids.unwrap_or_default(),
        })
    }

    /// The user if the image names it by number: Kubernetes' `runAsNonRoot` can only check those.
    pub fn uid(&self) -> Option<u32> {
        let user = self.user_part();
        if user.is_empty() { Some(0) } else { user.parse().ok() }
    }

    /// The user if the image gives it by name.
    pub fn username(&self) -> Option<String> {
        let user = self.user_part();
        (!user.is_empty() && user.parse::<u32>().is_err()).then(|| user.to_string())
    }

    fn user_part(&self) -> &str {
        self.user.split(':').next().unwrap_or_default()
    }
}

#[derive(Deserialize)]
struct Raw {
    #[serde(default)]
    architecture: String,
    #[serde(default)]
    os: String,
    config: Option<RawConfig>,
    #[serde(default)]
    rootfs: RawRootfs,
}

#[derive(Deserialize, Default)]
struct RawRootfs {
    diff_ids: Option<Vec<Digest>>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase")]
struct RawConfig {
    env: Option<Vec<String>>,
    entrypoint: Option<Words>,
    cmd: Option<Words>,
    user: Option<String>,
    working_dir: Option<String>,
    stop_signal: Option<String>,
    volumes: Option<BTreeMap<String, serde::de::IgnoredAny>>,
    exposed_ports: Option<BTreeMap<String, serde::de::IgnoredAny>>,
    labels: Option<BTreeMap<String, String>>,
}

/// Old images write a single word as a string.
#[derive(Deserialize)]
#[serde(untagged)]
enum Words {
    Many(Vec<String>),
    One(String),
}

impl Words {
    fn into_vec(self) -> Vec<String> {
        match self {
            Self::Many(words) => words,
            Self::One(word) => vec![word],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_docker_configuration_with_nulls_is_read() {
        let text = br#"{"architecture":"amd64","os":"linux","config":{"Env":["PATH=/bin","A=b=c","bare"],
            "Cmd":["sh"],"Entrypoint":null,"User":"1000:100","WorkingDir":"/srv","StopSignal":"SIGQUIT",
            "Volumes":{"/data":{}},"ExposedPorts":{"80/tcp":{}},"Labels":null},"rootfs":{"type":"layers","diff_ids":null},
            "history":[{"created":"x"}]}"#;
        let config = ImageConfig::parse(text).unwrap();
        assert_eq!(config.env, [("PATH".into(), "/bin".into()), ("A".into(), "b=c".into())]);
        assert_eq!((config.cmd, config.entrypoint), (vec!["sh".to_string()], vec![]));
        assert!(config.volumes.contains("/data") && config.exposed_ports.contains("80/tcp"));
        assert_eq!(config.stop_signal, "SIGQUIT");
    }

    #[test]
    fn users_are_told_apart_by_number_and_name() {
        for (user, uid, name) in [
            ("", Some(0), None),
            ("0", Some(0), None),
            ("1000:www", Some(1000), None),
            ("www-data", None, Some("www-data")),
            ("www-data:33", None, Some("www-data")),
        ] {
            let config = ImageConfig { user: user.into(), ..Default::default() };
            assert_eq!((config.uid(), config.username().as_deref()), (uid, name), "{user}");
        }
    }

    #[test]
    fn a_configuration_with_a_malformed_diff_id_is_damaged() {
        let error = ImageConfig::parse(br#"{"rootfs":{"diff_ids":["sha256:../x"]}}"#).unwrap_err();
        assert!(matches!(error, Error::Damaged(_)), "{error}");
    }
}
