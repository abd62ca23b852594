//! Manifests and indexes (OCI image-spec; Docker image manifest version 2, schema 2) and the choice of the one for this
//! machine. Pure.

use super::digest::Digest;
use crate::Error;
use serde::Deserialize;
use std::collections::BTreeMap;

/// What is asked of a registry.
pub const MANIFEST_TYPES: &[&str] = &[
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.docker.distribution.manifest.v2+json",
];

/// One of the two documents that a reference can lead to.
#[derive(Clone, Debug)]
pub enum Document {
    /// One image.
    Manifest(Manifest),
    /// A choice of images.
    Index(Vec<Descriptor>),
}

/// One image: its configuration and its layers, bottom first.
#[derive(Clone, Debug, Deserialize)]
pub struct Manifest {
    /// The configuration.
    pub config: Descriptor,
    /// The layers.
    #[serde(default)]
    pub layers: Vec<Descriptor>,
}

/// Where content is and what it must be.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// What it is.
    #[serde(default)]
    pub media_type: String,
    /// Its digest.
    pub digest: Digest,
    /// Its length.
    pub size: u64,
    /// What it runs on (in an index).
    pub platform: Option<Platform>,
    /// More about it: names, in a layout.
    #[serde(default, deserialize_with = "or_default")]
    pub annotations: BTreeMap<String, String>,
}

/// What an image runs on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Platform {
    /// `linux`.
    #[serde(default)]
    pub os: String,
    /// `amd64`, in Go's words.
    #[serde(default)]
    pub architecture: String,
    /// `v7`, `v8`.
    #[serde(default)]
    pub variant: Option<String>,
}

fn or_default<'de, D: serde::Deserializer<'de>, T: Deserialize<'de> + Default>(d: D) -> Result<T, D::Error> {
    Ok(Option::<T>::deserialize(d)?.unwrap_or_default())
}

impl Document {
    /// Reads a manifest or an index. Their media type decides; where they carry none, their content does.
    pub fn parse(bytes: &[u8]) -> Result<Self, Error> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Outline {
            schema_version: u32,
            media_type: Option<String>,
            manifests: Option<Vec<Descriptor>>,
            #[serde(flatten)]
            rest: BTreeMap<String, serde_json::Value>,
        }
        let bad = |e: serde_json::Error| Error::Damaged(format!("manifest is not valid: {e}"));
        let outline: Outline = serde_json::from_slice(bytes).map_err(bad)?;
        if outline.schema_version != 2 {
            let version = outline.schema_version;
            return Err(Error::Damaged(format!("manifests of schema version {version} are not supported")));
        }
        let has = |key: &str| outline.rest.contains_key(key);
        match (outline.manifests, outline.media_type.as_deref()) {
            // A document that could be read as both is a trap for those who sign one and run the other (CVE-2021-41190).
            (Some(_), _) if has("config") || has("layers") => {
                Err(Error::Damaged("manifest is an index and an image at once".into()))
            }
            (Some(entries), None) => Ok(Self::Index(entries)),
            (Some(entries), Some(kind)) if kind == MANIFEST_TYPES[0] || kind == MANIFEST_TYPES[2] => {
                Ok(Self::Index(entries))
            }
            (None, None) => serde_json::from_slice(bytes).map(Self::Manifest).map_err(bad),
            (None, Some(kind)) if kind == MANIFEST_TYPES[1] || kind == MANIFEST_TYPES[3] => {
                serde_json::from_slice(bytes).map(Self::Manifest).map_err(bad)
            }
            (_, Some(kind)) => Err(Error::Damaged(format!("manifest has the unknown media type {kind}"))),
        }
    }
}

impl Manifest {
    /// Checks what this runtime can unpack, before anything is fetched.
    pub fn check(&self, diff_ids: &[Digest]) -> Result<(), Error> {
        if self.layers.len() != diff_ids.len() {
            let (layers, ids) = (self.layers.len(), diff_ids.len());
            return Err(Error::Damaged(format!("manifest has {layers} layers, the configuration {ids}")));
        }
        match self.layers.iter().find(|layer| !is_layer(&layer.media_type)) {
            Some(layer) => {
                Err(Error::Damaged(format!("layers of type {} are not supported", layer.media_type)))
            }
            None => Ok(()),
        }
    }
}

fn is_layer(media_type: &str) -> bool {
    let base = media_type.trim_end_matches("+gzip").trim_end_matches("+zstd").trim_end_matches(".gzip");
    media_type.is_empty()
        || matches!(
            base,
            "application/vnd.oci.image.layer.v1.tar"
                | "application/vnd.oci.image.layer.nondistributable.v1.tar"
                | "application/vnd.docker.image.rootfs.diff.tar"
                | "application/vnd.docker.image.rootfs.foreign.diff.tar"
        )
}

impl Platform {
    /// What this machine runs.
    pub fn host() -> Self {
        let (architecture, variant) = match std::env::consts::ARCH {
            "x86_64" => ("amd64", None),
            "x86" => ("386", None),
            "aarch64" => ("arm64", Some("v8")),
            "arm" => ("arm", Some("v7")),
            "powerpc64" if cfg!(target_endian = "little") => ("ppc64le", None),
            other => (other, None),
        };
        Self { os: "linux".into(), architecture: architecture.into(), variant: variant.map(Into::into) }
    }

    /// How well an image for `offered` runs here: lower is better, `None` is not at all.
    fn rank(&self, offered: &Self) -> Option<u32> {
        if offered.os != self.os {
            return None;
        }
        let offered_variant = offered.variant.as_deref().filter(|v| !v.is_empty());
        let level = |variant: &str| variant.trim_start_matches('v').parse::<u32>().ok();
        match (self.architecture.as_str(), offered.architecture.as_str()) {
            ("arm64", "arm64") => match offered_variant {
                None | Some("v8") => Some(0),
                Some(_) => None, // v8.1 and later need what this machine may not have
            },
            ("arm", "arm") => {
                let own = level(self.variant.as_deref().unwrap_or("v7"))?;
                let wanted = level(offered_variant.unwrap_or("v7"))?;
                own.checked_sub(wanted)
            }
            // v2 and later are sets of instructions that this machine may not have.
            ("amd64", "amd64") => matches!(offered_variant, None | Some("v1")).then_some(0),
            (own, offered) => (own == offered).then_some(0),
        }
    }
}

/// Checks that a configuration is one for this machine: a registry may answer with a single image for another.
pub fn check_platform(os: &str, architecture: &str, host: &Platform) -> Result<(), Error> {
    let offered = Platform { os: os.into(), architecture: architecture.into(), variant: None };
    let unsaid = os.is_empty() || architecture.is_empty();
    if unsaid || host.rank(&offered).is_some() || (host.architecture == "arm" && architecture == "arm") {
        Ok(())
    } else {
        Err(Error::Damaged(format!("image is for {offered}, this machine is {host}")))
    }
}

/// The image of an index that runs best on `host`: among equals the first. An entry that does not say what it runs on is
/// taken if nothing fits.
pub fn choose<'a>(entries: &'a [Descriptor], host: &Platform) -> Result<&'a Descriptor, Error> {
    let best = entries
        .iter()
        .filter_map(|entry| Some((host.rank(entry.platform.as_ref()?)?, entry)))
        .min_by_key(|(rank, _)| *rank);
    if let Some((_, entry)) = best {
        return Ok(entry);
    }
    if let Some(entry) = entries.iter().find(|entry| entry.platform.is_none()) {
        return Ok(entry);
    }
    let mut offered: Vec<String> = entries
        .iter()
        .filter_map(|entry| entry.platform.as_ref())
        .filter(|p| p.os != "unknown") // attestations
        .map(ToString::to_string)
        .collect();
    offered.dedup();
    Err(Error::Damaged(format!("no image for {host}, only for {}", offered.join(", "))))
}

impl std::fmt::Display for Platform {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        match self.variant.as_deref() {
            Some(variant) if !variant.is_empty() => write!(f, "/{variant}"),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn platform(text: &str) -> Platform {
        let mut parts = text.split('/').map(ToString::to_string);
        Platform {
            os: parts.next().unwrap_or_default(),
            architecture: parts.next().unwrap_or_default(),
            variant: parts.next(),
        }
    }

    fn chosen(host: &str, offered: &[&str]) -> Result<String, String> {
        let entries: Vec<Descriptor> = offered
            .iter()
            .enumerate()
            .map(|(n, text)| Descriptor {
                media_type: String::new(),
                digest: Digest::of(&[n as u8]),
                size: n as u64,
                platform: (!text.is_empty()).then(|| platform(text)),
                annotations: BTreeMap::new(),
            })
            .collect();
        choose(&entries, &platform(host))
            .map(|found| offered[found.size as usize].to_string())
            .map_err(|e| e.to_string())
    }

    #[test]
    fn the_image_that_runs_best_here_is_chosen() {
        for (host, offered, expected) in [
            ("linux/amd64", &["linux/arm64", "linux/amd64"][..], "linux/amd64"),
            ("linux/amd64", &["windows/amd64", "linux/amd64/v3", "linux/amd64"], "linux/amd64"),
            ("linux/arm64/v8", &["linux/arm/v7", "linux/arm64/v8"], "linux/arm64/v8"),
            ("linux/arm64/v8", &["linux/arm64"], "linux/arm64"),
            ("linux/arm/v7", &["linux/arm/v5", "linux/arm/v6", "linux/arm/v8"], "linux/arm/v6"),
            ("linux/arm/v7", &["linux/arm/v6", "linux/arm"], "linux/arm"),
            ("linux/amd64", &["unknown/unknown", ""], ""),
            ("linux/riscv64", &["linux/riscv64"], "linux/riscv64"),
        ] {
            assert_eq!(chosen(host, offered).unwrap(), expected, "{host} of {offered:?}");
        }
        let error = chosen("linux/amd64", &["linux/arm64/v8", "unknown/unknown"]).unwrap_err();
        assert!(error.contains("no image for linux/amd64, only for linux/arm64/v8"), "{error}");
        assert!(chosen("linux/arm64/v8", &["linux/arm/v7"]).is_err());
    }

    #[test]
    fn documents_are_told_apart_and_ambiguous_ones_refused() {
        let digest = Digest::of(b"");
        let config = format!(r#""config":{{"digest":"{digest}","size":1,"annotations":null}}"#);
        let manifests = format!(r#""manifests":[{{"digest":"{digest}","size":1}}]"#);
        let parse = |text: &str| Document::parse(text.as_bytes());
        assert!(matches!(
            parse(&format!("{{\"schemaVersion\":2,{config},\"layers\":[]}}")),
            Ok(Document::Manifest(_))
        ));
        assert!(
            matches!(parse(&format!("{{\"schemaVersion\":2,{manifests}}}")), Ok(Document::Index(i)) if i.len() == 1)
        );
        for bad in [
            format!("{{\"schemaVersion\":1,{config}}}"),
            format!("{{\"schemaVersion\":2,{config},{manifests}}}"),
            format!("{{\"schemaVersion\":2,\"mediaType\":\"text/html\",{config}}}"),
            format!("{{\"schemaVersion\":2,\"mediaType\":\"{}\",{config}}}", MANIFEST_TYPES[0]),
            "{\"schemaVersion\":2}".into(),
            "<html>".into(),
            "{\"schemaVersion\":2,\"config\":{\"digest\":\"sha256:../..\",\"size\":1}}".into(),
        ] {
            assert!(matches!(parse(&bad), Err(Error::Damaged(_))), "{bad}");
        }
    }

    #[test]
    fn layers_that_cannot_be_unpacked_are_refused_before_they_are_fetched() {
        let layer = |kind: &str| Descriptor {
            media_type: kind.into(),
            digest: Digest::of(b""),
            size: 1,
            platform: None,
            annotations: BTreeMap::new(),
        };
        let manifest = |kind: &str| Manifest { config: layer(""), layers: vec![layer(kind)] };
        for good in [
            "application/vnd.oci.image.layer.v1.tar",
            "application/vnd.oci.image.layer.v1.tar+zstd",
            "application/vnd.docker.image.rootfs.diff.tar.gzip",
            "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
        ] {
            manifest(good).check(&[Digest::of(b"")]).unwrap();
        }
        for bad in
            ["application/vnd.oci.image.layer.v1.tar+gzip+encrypted", "application/vnd.cncf.helm.chart"]
        {
            assert!(manifest(bad).check(&[Digest::of(b"")]).is_err(), "{bad}");
        }
        assert!(manifest("").check(&[]).is_err(), "layers and diff ids do not match");
    }
}
