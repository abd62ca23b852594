//! Reads images from archives: OCI image layouts (image-spec, "Image Layout") and what `docker save` writes, old and new,
//! plain or compressed. An archive is a stream whose parts come in any order, so it is written to a temporary file first
//! and read from there; layers are verified and unpacked like those of a registry.

use super::{
    config::ImageConfig,
    content::MAX_BLOB,
    digest::{Digest, chain_ids},
    index::Record,
    layer::{Expected, decompress, read_layer},
    manifest::{Descriptor, Document, Manifest, Platform, check_platform, choose},
    reference::Reference,
    store::ImageStore,
    tar_stream::{EntryType, TarStream},
    unpack::components,
};
use crate::{Error, Image};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    io::{self, BufReader, BufWriter, Read, Seek},
    os::unix::fs::FileExt,
    path::Path,
    sync::Arc,
};

/// Most members of an archive. A layer is one member, so there are few.
const MAX_MEMBERS: usize = 100_000;
/// How many links in a row lead to a member.
const MAX_LINKS: usize = 8;

const CONTAINERD_NAME: &str = "io.containerd.image.name";
const OCI_NAME: &str = "org.opencontainers.image.ref.name";

/// An image in an archive, before its layers are read.
struct Found {
    id: Digest,
    config: Vec<u8>,
    manifest: Option<(Digest, Vec<u8>)>,
    /// What a digest reference names: the manifest, or the index that led to it.
    named: Option<Digest>,
    /// Member names, with digest and size where they are told.
    layers: Vec<(String, Option<Descriptor>)>,
    names: BTreeSet<Reference>,
    /// A bare tag: names an image only together with a repository.
    tag: Option<String>,
}

impl ImageStore {
    /// Reads all images of an archive. `name` tags the one that has no name in it. Blocks.
    pub(super) fn import_archive(
        self: &Arc<Self>,
        stream: impl Read,
        name: Option<&str>,
    ) -> Result<Vec<Image>, Error> {
        let name = name.map(Reference::parse).transpose()?;
        let archive = Archive::spool(stream, &self.content.scratch())?;
        let mut found = find_images(&archive)?;
        if found.is_empty() {
            return Err(Error::Damaged("there is no image in the archive".into()));
        }
        give_names(&mut found, name.as_ref())?;
        found.into_iter().map(|image| self.import_one(&archive, image)).collect()
    }

    fn import_one(self: &Arc<Self>, archive: &Archive, found: Found) -> Result<Image, Error> {
        let config = ImageConfig::parse(&found.config)?;
        check_platform(&config.os, &config.architecture, &Platform::host())?;
        if found.layers.len() != config.diff_ids.len() {
            let (layers, ids) = (found.layers.len(), config.diff_ids.len());
            return Err(Error::Damaged(format!("image has {layers} layers, its configuration {ids}")));
        }
        let chain = chain_ids(&config.diff_ids);
        let manifest_digest = found.manifest.as_ref().map(|(digest, _)| digest.clone());
        let kept = chain.iter().cloned().chain([found.id.clone()]).chain(manifest_digest.clone());
        let _pin = self.pin(kept);
        let mut size = 0;
        for (n, (member, descriptor)) in found.layers.iter().enumerate() {
            let stream = archive.open(member)?;
            size += stream.left;
            if self.content.has_layer(&chain[n]) {
                continue;
            }
            let expected = Expected {
                digest: descriptor.as_ref().map(|d| d.digest.clone()),
                size: descriptor.as_ref().map(|d| d.size),
                diff_id: config.diff_ids[n].clone(),
            };
            let scratch = read_layer(stream, &expected, self.content.scratch())?;
            self.keep_layer(scratch, &chain[..=n])?;
        }
        if let Some((digest, bytes)) = &found.manifest {
            self.content.put_blob(digest, bytes)?;
        }
        self.content.put_blob(&found.id, &found.config)?;
        self.content.sync()?;
        let pinned = |named: &Digest| found.names.iter().map(|name| name.pinned(named)).collect();
        let record = Record {
            manifest: manifest_digest,
            layers: chain,
            size,
            tags: found.names.iter().filter_map(Reference::tagged).collect(),
            digests: found.named.as_ref().map(pinned).unwrap_or_default(),
            user: config.user,
        };
        self.add(found.id.clone(), record)?;
        self.image(&found.id)
    }
}

/// Tags the image that has no name with the one that was asked for.
fn give_names(found: &mut [Found], name: Option<&Reference>) -> Result<(), Error> {
    let Some(name) = name else { return Ok(()) };
    let single = found.len() == 1;
    let mut unnamed: Vec<&mut Found> = found.iter_mut().filter(|image| image.names.is_empty()).collect();
    match unnamed.as_mut_slice() {
        [] if single => found[0].names = [name.clone()].into(),
        [] => {}
        [one] => one.names = [name.clone()].into(),
        many => {
            // Several without a name but with a tag each: tags of the given repository.
            for image in many.iter_mut() {
                let tag = image.tag.as_ref().ok_or_else(|| {
                    Error::State(format!(
                        "the archive holds several images without a name: {name} fits only one"
                    ))
                })?;
                image.names = [Reference::parse(&format!("{}:{tag}", name.name()))?].into();
            }
        }
    }
    Ok(())
}

fn find_images(archive: &Archive) -> Result<Vec<Found>, Error> {
    if archive.members.contains_key("index.json") {
        let mut found = find_in_layout(archive)?;
        // Newer `docker save` writes both; the older part knows names that annotations may lack.
        if archive.members.contains_key("manifest.json") {
            for entry in docker_entries(archive)? {
                let id = Digest::of(&archive.read(&entry.config)?);
                if let Some(image) = found.iter_mut().find(|image| image.id == id) {
                    image.names.extend(entry.names()?);
                }
            }
        }
        Ok(found)
    } else if archive.members.contains_key("manifest.json") {
        find_in_docker_archive(archive)
    } else {
        Err(Error::Damaged(
            "neither index.json nor manifest.json is in the archive: it holds no image".into(),
        ))
    }
}

fn find_in_layout(archive: &Archive) -> Result<Vec<Found>, Error> {
    let Document::Index(entries) = Document::parse(&archive.read("index.json")?)? else {
        return Err(Error::Damaged("index.json is not an index".into()));
    };
    let mut found: Vec<Found> = Vec::new();
    for entry in entries.iter().filter(|entry| is_wanted(entry, &entries)) {
        let (digest, bytes, manifest) = find_manifest(archive, entry, 0)?;
        let config = archive.blob(&manifest.config)?;
        let (names, tag) = layout_names(entry)?;
        // The same image under another name.
        if let Some(known) = found.iter_mut().find(|known| known.id == manifest.config.digest) {
            known.names.extend(names);
            continue;
        }
        let layers =
            manifest.layers.into_iter().map(|layer| (blob_name(&layer.digest), Some(layer))).collect();
        found.push(Found {
            id: manifest.config.digest,
            config,
            manifest: Some((digest, bytes)),
            named: Some(entry.digest.clone()),
            layers,
            names,
            tag,
        });
    }
    Ok(found)
}

/// Leaves out images for other machines, where index.json itself is the choice between platforms, and attestations.
fn is_wanted(entry: &Descriptor, all: &[Descriptor]) -> bool {
    match &entry.platform {
        None => true,
        Some(platform) if platform.os == "unknown" => false,
        Some(_) => {
            let same_name: Vec<Descriptor> =
                all.iter().filter(|other| other.annotations == entry.annotations).cloned().collect();
            match choose(&same_name, &Platform::host()) {
                Ok(best) => best.digest == entry.digest,
                Err(_) => all.len() == 1, // fails later, saying what the image is for
            }
        }
    }
}

fn find_manifest(
    archive: &Archive,
    entry: &Descriptor,
    depth: usize,
) -> Result<(Digest, Vec<u8>, Manifest), Error> {
    let bytes = archive.blob(entry)?;
    match Document::parse(&bytes)? {
        Document::Manifest(manifest) => Ok((entry.digest.clone(), bytes, manifest)),
        Document::Index(_) if depth >= 2 => Err(Error::Damaged("indexes are nested too deep".into())),
        Document::Index(entries) => {
            // An archive may hold only some of the images that its index lists.
            let here: Vec<Descriptor> =
                entries.into_iter().filter(|e| archive.members.contains_key(&blob_name(&e.digest))).collect();
            find_manifest(archive, choose(&here, &Platform::host())?, depth + 1)
        }
    }
}

/// The names of a layout's entry: full ones, and a bare tag.
fn layout_names(entry: &Descriptor) -> Result<(BTreeSet<Reference>, Option<String>), Error> {
    if let Some(name) = entry.annotations.get(CONTAINERD_NAME) {
        return Ok(([Reference::parse(name)?].into(), None));
    }
    match entry.annotations.get(OCI_NAME) {
        Some(name) if name.contains(['/', ':', '@']) => Ok(([Reference::parse(name)?].into(), None)),
        tag => Ok((BTreeSet::new(), tag.cloned())),
    }
}

fn blob_name(digest: &Digest) -> String {
    format!("blobs/{}/{}", digest.algorithm(), digest.hex())
}

/// An entry of docker's manifest.json.
#[derive(serde::Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerEntry {
    config: String,
    repo_tags: Option<Vec<String>>,
    layers: Option<Vec<String>>,
}

impl DockerEntry {
    fn names(&self) -> Result<BTreeSet<Reference>, Error> {
        self.repo_tags.iter().flatten().map(|tag| Reference::parse(tag)).collect()
    }
}

fn docker_entries(archive: &Archive) -> Result<Vec<DockerEntry>, Error> {
    serde_json::from_slice(&archive.read("manifest.json")?)
        .map_err(|e| Error::Damaged(format!("manifest.json is not valid: {e}")))
}

fn find_in_docker_archive(archive: &Archive) -> Result<Vec<Found>, Error> {
    let mut found = Vec::new();
    for entry in docker_entries(archive)? {
        let config = archive.read(&entry.config)?;
        let id = Digest::of(&config);
        let stem = entry.config.rsplit('/').next().unwrap_or_default().trim_end_matches(".json");
        if let Ok(named) = Digest::parse(&format!("sha256:{stem}"))
            && named != id
        {
            return Err(Error::Damaged(format!("bad digest: the configuration {named} is {id}")));
        }
        let names = entry.names()?;
        let layers = entry.layers.unwrap_or_default().into_iter().map(|layer| (layer, None)).collect();
        found.push(Found { id, config, manifest: None, named: None, layers, names, tag: None });
    }
    Ok(found)
}

/// A tar archive in a temporary file without a name.
struct Archive {
    file: File,
    members: BTreeMap<String, Member>,
}

enum Member {
    File { offset: u64, size: u64 },
    Link(String),
}

impl Archive {
    /// Writes a stream down, decompressed, and lists its members.
    fn spool(stream: impl Read, path: &Path) -> Result<Self, Error> {
        let step = |e| Error::io("writing the archive to a temporary file", e);
        let mut file = File::options().read(true).write(true).create_new(true).open(path).map_err(step)?;
        std::fs::remove_file(path).map_err(step)?;
        let mut stream = BufReader::with_capacity(128 << 10, stream);
        {
            let mut plain = decompress(&mut stream).map_err(reading)?;
            let mut writer = BufWriter::with_capacity(128 << 10, &file);
            copy(&mut plain, &mut writer)?;
            io::Write::flush(&mut writer).map_err(step)?;
        }
        file.rewind().map_err(step)?;
        let members = list(&file)?;
        Ok(Self { file, members })
    }

    fn open(&self, name: &str) -> Result<Part<'_>, Error> {
        let mut at = normalized(name)?;
        for _ in 0..MAX_LINKS {
            match self.members.get(&at) {
                Some(Member::File { offset, size }) => {
                    return Ok(Part { file: &self.file, offset: *offset, left: *size });
                }
                Some(Member::Link(target)) => at = target.clone(),
                None => break,
            }
        }
        Err(Error::Damaged(format!("{name:?} is missing in the archive")))
    }

    fn read(&self, name: &str) -> Result<Vec<u8>, Error> {
        let mut part = self.open(name)?;
        if part.left > MAX_BLOB {
            return Err(Error::Damaged(format!("{name:?} is too large")));
        }
        let mut bytes = Vec::new();
        part.read_to_end(&mut bytes).map_err(reading)?;
        Ok(bytes)
    }

    fn blob(&self, descriptor: &Descriptor) -> Result<Vec<u8>, Error> {
        let bytes = self.read(&blob_name(&descriptor.digest))?;
        if bytes.len() as u64 == descriptor.size && descriptor.digest.matches(&bytes) {
            Ok(bytes)
        } else {
            let found = Digest::of(&bytes);
            Err(Error::Damaged(format!("bad digest: {} is {found} in the archive", descriptor.digest)))
        }
    }
}

fn reading(e: io::Error) -> Error {
    match e.kind() {
        io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput | io::ErrorKind::UnexpectedEof => {
            Error::Damaged(format!("the archive cannot be read: {e}"))
        }
        _ => Error::io("reading the archive", e),
    }
}

/// Like `io::copy`, but tells errors of reading from those of writing (a full disk).
fn copy(from: &mut dyn Read, to: &mut dyn io::Write) -> Result<(), Error> {
    let mut buffer = vec![0; 128 << 10];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(n) => to
                .write_all(&buffer[..n])
                .map_err(|e| Error::io("writing the archive to a temporary file", e))?,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(reading(e)),
        }
    }
}

fn list(file: &File) -> Result<BTreeMap<String, Member>, Error> {
    let mut members = BTreeMap::new();
    let length = file.metadata().map_err(reading)?.len();
    let mut tar =
        TarStream::skipping_with(Part { file, offset: 0, left: length }, |part, n| Ok(part.skip(n)));
    while let Some(entry) = tar.next_entry().map_err(reading)? {
        let name = normalized(&String::from_utf8_lossy(&entry.path))?;
        let member = match entry.kind {
            EntryType::Regular | EntryType::Continuous if entry.sparse.is_none() => {
                Member::File { offset: tar.position(), size: entry.size }
            }
            EntryType::Link => Member::Link(normalized(&String::from_utf8_lossy(&entry.link))?),
            // Old `docker save` links layers that are the same.
            EntryType::Symlink => {
                let folder = name.rsplit_once('/').map_or("", |(folder, _)| folder);
                Member::Link(normalized(&format!("{folder}/{}", String::from_utf8_lossy(&entry.link)))?)
            }
            _ => continue,
        };
        members.insert(name, member);
        if members.len() > MAX_MEMBERS {
            return Err(Error::Damaged("the archive has too many members".into()));
        }
    }
    Ok(members)
}

fn normalized(name: &str) -> Result<String, Error> {
    let parts = components(name.as_bytes())?;
    Ok(String::from_utf8_lossy(&parts.join(&b'/')).into_owned())
}

/// A stretch of a file.
struct Part<'a> {
    file: &'a File,
    offset: u64,
    left: u64,
}

impl Part<'_> {
    fn skip(&mut self, n: u64) -> u64 {
        let n = n.min(self.left);
        self.offset += n;
        self.left -= n;
        n
    }
}

impl Read for Part<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = buffer.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        let n = self.file.read_at(&mut buffer[..most], self.offset)?;
        self.offset += n as u64;
        self.left -= n as u64;
        Ok(n)
    }
}
