//! Which images are here, under which names: pure bookkeeping. Where it is kept is the store's.

use super::{config::ImageConfig, digest::Digest, reference::Reference};
use crate::{Error, Image};
use std::collections::{BTreeMap, BTreeSet};

/// All images by id.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Index {
    /// By id: the digest of the configuration.
    pub images: BTreeMap<Digest, Record>,
}

/// One image.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Record {
    /// Its manifest, where it came with one that is kept.
    pub manifest: Option<Digest>,
    /// Chain ids of its layers, bottom first.
    pub layers: Vec<Digest>,
    /// Bytes of its layers, compressed as they came.
    pub size: u64,
    /// Names with a tag.
    pub tags: BTreeSet<String>,
    /// Names with a manifest digest.
    pub digests: BTreeSet<String>,
    /// `config.User`, for listing without reading the configuration.
    pub user: String,
}

impl Record {
    /// As the agent sees it.
    pub fn image(&self, id: &Digest) -> Image {
        let user = ImageConfig { user: self.user.clone(), ..Default::default() };
        Image {
            id: id.to_string(),
            tags: self.tags.iter().cloned().collect(),
            digests: self.digests.iter().cloned().collect(),
            size: self.size,
            uid: user.uid(),
            username: user.username(),
        }
    }
}

impl Index {
    /// Adds an image, or more names for one that is here. Tags move to it from any other image.
    pub fn add(&mut self, id: Digest, record: Record) {
        for (_, other) in self.images.iter_mut().filter(|(other, _)| **other != id) {
            other.tags.retain(|tag| !record.tags.contains(tag));
        }
        let entry = self.images.entry(id).or_default();
        let Record { manifest, layers, size, tags, digests, user } = record;
        entry.manifest = manifest.or(entry.manifest.take());
        (entry.layers, entry.size, entry.user) = (layers, size, user);
        entry.tags.extend(tags);
        entry.digests.extend(digests);
        // An image that lost its last name to a newer one stays for as long as a digest or nothing but its id names it:
        // containers may run on it. Removing it is for the agent's garbage collection.
    }

    /// The image that a name, digest or id names. The id may be given without `sha256:` and, from 12 digits on, cut short.
    pub fn find(&self, text: &str) -> Result<Option<&Digest>, Error> {
        if let Some(id) = self.find_by_id(text) {
            return Ok(Some(id));
        }
        if Digest::parse(text).is_ok() || Digest::parse(&format!("sha256:{text}")).is_ok() {
            return Ok(None);
        }
        let reference = Reference::parse(text)?;
        let found = match reference.digest() {
            Some(digest) => {
                let name = reference.pinned(digest);
                self.images.iter().find(|(_, record)| record.digests.contains(&name))
            }
            None => {
                let name = reference.to_string();
                self.images.iter().find(|(_, record)| record.tags.contains(&name))
            }
        };
        Ok(found.map(|(id, _)| id))
    }

    fn find_by_id(&self, text: &str) -> Option<&Digest> {
        let hex = text.strip_prefix("sha256:").unwrap_or(text);
        if hex.len() < 12 || !hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            return None;
        }
        let mut found = self.images.keys().filter(|id| id.hex().starts_with(hex));
        match (found.next(), found.next()) {
            (Some(id), None) => Some(id),
            _ => None,
        }
    }

    /// Takes a name away; the image goes with its last name. An id takes the image with all its names. Returns whether there
    /// was anything to remove.
    pub fn remove(&mut self, text: &str) -> Result<bool, Error> {
        let Some(id) = self.find(text)?.cloned() else { return Ok(false) };
        if self.find_by_id(text).is_some() {
            self.images.remove(&id);
            return Ok(true);
        }
        let reference = Reference::parse(text)?;
        let Some(record) = self.images.get_mut(&id) else { return Ok(false) };
        match reference.digest() {
            Some(digest) => {
                record.digests.remove(&reference.pinned(digest));
            }
            None => {
                record.tags.remove(&reference.to_string());
                // A digest came with the pull of a tag of its repository, and goes with the last of them.
                let name = reference.name();
                if !record.tags.iter().any(|tag| repository_of(tag) == name) {
                    record.digests.retain(|digest| repository_of(digest) != name);
                }
            }
        }
        if record.tags.is_empty() && record.digests.is_empty() {
            self.images.remove(&id);
        }
        Ok(true)
    }

    /// Blobs that must stay.
    pub fn blobs(&self) -> BTreeSet<Digest> {
        let of = |(id, record): (&Digest, &Record)| [Some(id.clone()), record.manifest.clone()];
        self.images.iter().flat_map(of).flatten().collect()
    }

    /// Layers (chain ids) that must stay.
    pub fn layers(&self) -> BTreeSet<Digest> {
        self.images.values().flat_map(|record| record.layers.iter().cloned()).collect()
    }
}

fn repository_of(name: &str) -> &str {
    match name.split_once('@') {
        Some((repository, _)) => repository,
        None => name.rsplit_once(':').map_or(name, |(repository, _)| repository),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(text: &str) -> Digest {
        Digest::of(text.as_bytes())
    }

    fn named(tags: &[&str], digests: &[&str]) -> Record {
        Record {
            tags: tags.iter().map(ToString::to_string).collect(),
            digests: digests.iter().map(ToString::to_string).collect(),
            ..Default::default()
        }
    }

    #[test]
    fn an_image_is_found_by_tag_digest_id_and_short_id() {
        let mut index = Index::default();
        let pinned = format!("docker.io/library/nginx@{}", digest("manifest"));
        index.add(digest("config"), named(&["docker.io/library/nginx:1"], &[&pinned]));
        let id = digest("config");
        let with_tag = format!("nginx:9@{}", digest("manifest"));
        for text in
            ["nginx:1", "docker.io/nginx:1", &pinned, &with_tag, id.as_str(), id.hex(), &id.hex()[..12]]
        {
            assert_eq!(index.find(text).unwrap(), Some(&id), "{text}");
        }
        for text in
            ["nginx", "nginx:2", "other/nginx:1", &id.hex()[..11], digest("x").as_str(), digest("x").hex()]
        {
            assert_eq!(index.find(text).unwrap(), None, "{text}");
        }
        assert!(index.find("Not A Name").is_err());
    }

    #[test]
    fn a_tag_moves_to_the_newer_image_and_the_older_one_stays_by_its_digest() {
        let mut index = Index::default();
        let old = format!("docker.io/library/a@{}", digest("old manifest"));
        index.add(digest("old"), named(&["docker.io/library/a:1"], &[&old]));
        index.add(digest("new"), named(&["docker.io/library/a:1"], &[]));
        assert_eq!(index.find("a:1").unwrap(), Some(&digest("new")));
        assert_eq!(index.find(&old).unwrap(), Some(&digest("old")));
    }

    #[test]
    fn an_image_goes_with_its_last_name() {
        let mut index = Index::default();
        let [a, b] = ["a", "b"].map(|n| format!("docker.io/library/{n}@{}", digest("manifest")));
        let tags = ["docker.io/library/a:1", "docker.io/library/a:2", "docker.io/library/b:1"];
        index.add(digest("config"), named(&tags, &[&a, &b]));
        assert!(index.remove("a:1").unwrap());
        assert!(index.find(&a).unwrap().is_some(), "another tag of the repository is left");
        assert!(index.remove("a:2").unwrap());
        assert!(index.find(&a).unwrap().is_none());
        assert!(!index.remove("a:2").unwrap());
        assert!(index.remove("b:1").unwrap());
        assert!(index.images.is_empty());
    }

    #[test]
    fn removing_by_id_takes_all_names() {
        let mut index = Index::default();
        index.add(digest("config"), named(&["docker.io/library/a:1", "docker.io/library/b:1"], &[]));
        assert!(index.remove(digest("config").as_str()).unwrap());
        assert!(index.images.is_empty());
    }
}
