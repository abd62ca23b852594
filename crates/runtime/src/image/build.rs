//! Makes an image of one layer out of a folder, without a registry or a builder: for tests, examples, and whoever has a
//! static binary to run. The same folder always gives the same image, byte for byte.

use super::{
    config::ImageConfig,
    digest::{Digest, Hasher},
    inherit::xattrs,
    manifest::Platform,
    reference::Reference,
};
use crate::Error;
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, HashMap},
    fs::{self, File},
    io::{self, Read, Seek, Write},
    os::unix::{ffi::OsStrExt, fs::FileTypeExt, fs::MetadataExt},
    path::{Path, PathBuf},
};
use tar::{EntryType, Header};

/// What to make of a folder.
#[derive(Clone, Debug, Default)]
pub struct BuildOptions {
    /// How the image wants to be run. Its `diff_ids` are ignored; an empty `os` and `architecture` are this machine's.
    pub config: ImageConfig,
    /// The image's names.
    pub names: Vec<String>,
    /// Keep the owners that the files have; else everything is root's.
    pub keep_owners: bool,
    /// Time of all files and of the image, in seconds since the epoch.
    pub timestamp: u64,
}

/// Writes an OCI image layout as a tar archive. Returns the image's id. Blocks.
pub fn build_from_directory(
    rootfs: &Path,
    options: &BuildOptions,
    archive: impl Write,
) -> Result<Digest, Error> {
    let names = options.names.iter().map(|name| Reference::parse(name)).collect::<Result<Vec<_>, _>>()?;
    let step = |e| Error::io(format!("building an image from {}", rootfs.display()), e);
    build(rootfs, options, &names, archive).map_err(step)
}

fn build(
    rootfs: &Path,
    options: &BuildOptions,
    names: &[Reference],
    archive: impl Write,
) -> io::Result<Digest> {
    let layer = Layer::pack(rootfs, options)?;
    let config = config_json(&options.config, &layer.diff_id, options.timestamp)?.to_string();
    let id = Digest::of(config.as_bytes());
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {
            "mediaType": "application/vnd.oci.image.config.v1+json", "digest": id.as_str(), "size": config.len(),
        },
        "layers": [{
            "mediaType": "application/vnd.oci.image.layer.v1.tar+gzip",
            "digest": layer.digest.as_str(), "size": layer.size,
        }],
    })
    .to_string();
    let manifest_digest = Digest::of(manifest.as_bytes());
    let entry = |name: Option<&Reference>| {
        let mut entry = json!({
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "digest": manifest_digest.as_str(), "size": manifest.len(),
        });
        if let Some(name) = name {
            entry["annotations"] = json!({
                "io.containerd.image.name": name.to_string(),
                "org.opencontainers.image.ref.name": name.tag().unwrap_or_default(),
            });
        }
        entry
    };
    let entries: Vec<Value> = if names.is_empty() {
        vec![entry(None)]
    } else {
        names.iter().map(|name| entry(Some(name))).collect()
    };
    let index = json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": entries,
    });

    let mut tar = tar::Builder::new(archive);
    let mut add = |name: &str, size: u64, body: &mut dyn Read| {
        let mut header = Header::new_ustar();
        header.set_size(size);
        header.set_mode(0o644);
        header.set_mtime(options.timestamp);
        tar.append_data(&mut header, name, body)
    };
    let blob = |digest: &Digest| format!("blobs/sha256/{}", digest.hex());
    add("oci-layout", 30, &mut &br#"{"imageLayoutVersion":"1.0.0"}"#[..])?;
    let index = index.to_string();
    add("index.json", index.len() as u64, &mut index.as_bytes())?;
    add(&blob(&manifest_digest), manifest.len() as u64, &mut manifest.as_bytes())?;
    add(&blob(&id), config.len() as u64, &mut config.as_bytes())?;
    add(&blob(&layer.digest), layer.size, &mut &layer.file)?;
    tar.into_inner()?.flush()?;
    Ok(id)
}

fn config_json(config: &ImageConfig, diff_id: &Digest, timestamp: u64) -> io::Result<Value> {
    let host = Platform::host();
    let or = |text: &str, default: String| if text.is_empty() { default } else { text.to_string() };
    let created = jiff::Timestamp::from_second(i64::try_from(timestamp).unwrap_or(0))
        .map_err(|e| io::Error::new(io::ErrorKind::InvalidInput, e))?
        .to_string();
    let set = |paths: &std::collections::BTreeSet<String>| -> BTreeMap<String, Value> {
        paths.iter().map(|path| (path.clone(), json!({}))).collect()
    };
    let all = json!({
        "Env": config.env.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>(),
        "Entrypoint": config.entrypoint, "Cmd": config.cmd, "User": config.user,
        "WorkingDir": config.working_dir, "StopSignal": config.stop_signal,
        "Volumes": set(&config.volumes), "ExposedPorts": set(&config.exposed_ports), "Labels": config.labels,
    });
    let mut said = serde_json::Map::new();
    for (key, value) in all.as_object().into_iter().flatten() {
        let empty = value.as_str() == Some("")
            || value.as_array().is_some_and(Vec::is_empty)
            || value.as_object().is_some_and(serde_json::Map::is_empty);
        if !empty {
            said.insert(key.clone(), value.clone());
        }
    }
    Ok(json!({
        "created": created,
        "architecture": or(&config.architecture, host.architecture),
        "os": or(&config.os, host.os),
        "config": said,
        "rootfs": {"type": "layers", "diff_ids": [diff_id.as_str()]},
        "history": [{"created": created, "created_by": "orlop image build"}],
    }))
}

/// A compressed layer in a temporary file.
struct Layer {
    file: File,
    digest: Digest,
    size: u64,
    diff_id: Digest,
}

impl Layer {
    fn pack(rootfs: &Path, options: &BuildOptions) -> io::Result<Self> {
        let file = tempfile::tempfile()?;
        let compressed = Tee { to: io::BufWriter::new(file), hasher: Hasher::sha256(), count: 0 };
        // Level and header are fixed (no name, no time): the bytes depend on nothing but the folder.
        let gzip = flate2::write::GzEncoder::new(compressed, flate2::Compression::fast());
        let mut tar = tar::Builder::new(Tee { to: gzip, hasher: Hasher::sha256(), count: 0 });
        let mut packer = Packer { tar: &mut tar, options, seen: HashMap::new() };
        packer.folder(rootfs, Path::new("."))?;
        let plain = tar.into_inner()?;
        let compressed = plain.to.finish()?;
        let mut file = compressed.to.into_inner().map_err(io::IntoInnerError::into_error)?;
        file.rewind()?;
        Ok(Self {
            file,
            digest: compressed.hasher.finish(),
            size: compressed.count,
            diff_id: plain.hasher.finish(),
        })
    }
}

struct Packer<'a, W: Write> {
    tar: &'a mut tar::Builder<W>,
    options: &'a BuildOptions,
    /// First names of files that have several, by device and inode.
    seen: HashMap<(u64, u64), PathBuf>,
}

impl<W: Write> Packer<'_, W> {
    fn folder(&mut self, source: &Path, name: &Path) -> io::Result<()> {
        self.member(source, name)?;
        let mut names = fs::read_dir(source)?
            .map(|entry| entry.map(|entry| entry.file_name()))
            .collect::<io::Result<Vec<_>>>()?;
        names.sort();
        for inner in names {
            let (source, name) = (source.join(&inner), name.join(&inner));
            if fs::symlink_metadata(&source)?.is_dir() {
                self.folder(&source, &name)?;
            } else {
                self.member(&source, &name)?;
            }
        }
        Ok(())
    }

    fn member(&mut self, source: &Path, name: &Path) -> io::Result<()> {
        let meta = fs::symlink_metadata(source)?;
        let kind = meta.file_type();
        let mut header = Header::new_gnu();
        header.set_mode(meta.mode() & 0o7777);
        header.set_mtime(self.options.timestamp);
        if self.options.keep_owners {
            header.set_uid(meta.uid().into());
            header.set_gid(meta.gid().into());
        }
        header.set_size(0);
        if meta.nlink() > 1 && kind.is_file() {
            if let Some(first) = self.seen.get(&(meta.dev(), meta.ino())) {
                header.set_entry_type(EntryType::Link);
                return self.tar.append_link(&mut header, name, first);
            }
            self.seen.insert((meta.dev(), meta.ino()), name.to_path_buf());
        }
        if !kind.is_symlink() {
            self.attributes(source)?;
        }
        if kind.is_dir() {
            header.set_entry_type(EntryType::Directory);
            self.tar.append_data(&mut header, name, io::empty())
        } else if kind.is_symlink() {
            header.set_entry_type(EntryType::Symlink);
            self.tar.append_link(&mut header, name, fs::read_link(source)?)
        } else if kind.is_file() {
            header.set_size(meta.len());
            self.tar.append_data(&mut header, name, File::open(source)?.take(meta.len()))
        } else if kind.is_socket() {
            Ok(()) // a socket is nothing without the process that listens
        } else {
            header.set_entry_type(if kind.is_fifo() {
                EntryType::Fifo
            } else if kind.is_char_device() {
                EntryType::Char
            } else {
                EntryType::Block
            });
            header.set_device_major(rustix::fs::major(meta.rdev()))?;
            header.set_device_minor(rustix::fs::minor(meta.rdev()))?;
            self.tar.append_data(&mut header, name, io::empty())
        }
    }

    /// Capabilities and what users set. Labels of security modules belong to this machine, not to the image.
    fn attributes(&mut self, source: &Path) -> io::Result<()> {
        let wanted = |name: &[u8]| name == b"security.capability" || name.starts_with(b"user.");
        for (name, value) in xattrs(source)? {
            if wanted(&name) {
                let name = std::ffi::OsStr::from_bytes(&name).to_string_lossy().into_owned();
                self.tar
                    .append_pax_extensions([(format!("SCHILY.xattr.{name}").as_str(), value.as_slice())])?;
            }
        }
        Ok(())
    }
}

/// Counts and hashes what is written.
struct Tee<W> {
    to: W,
    hasher: Hasher,
    count: u64,
}

impl<W: Write> Write for Tee<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = self.to.write(bytes)?;
        self.hasher.update(&bytes[..n]);
        self.count += n as u64;
        Ok(n)
    }
    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}
