//! Images made by the tests, a store to put them in, and a real registry to fetch them from.

use orlop_runtime::image::{Digest, ImageStore, RootfsMount, StoreOptions};
use serde_json::json;
use std::{
    io::Write,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

#[derive(Clone, Copy)]
pub enum Compression {
    None,
    Gzip,
    Zstd,
}

/// One layer.
#[derive(Clone)]
pub struct Layer {
    pub bytes: Vec<u8>,
    pub diff_id: Digest,
    pub media_type: &'static str,
}

pub fn tar_of(files: &[(&str, &str)]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, body) in files {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o755);
        if name.ends_with('/') {
            header.set_entry_type(tar::EntryType::Directory);
            header.set_size(0);
            builder.append_data(&mut header, name, std::io::empty()).unwrap();
        } else {
            header.set_size(body.len() as u64);
            builder.append_data(&mut header, name, body.as_bytes()).unwrap();
        }
    }
    builder.into_inner().unwrap()
}

impl Layer {
    pub fn new(files: &[(&str, &str)], compression: Compression) -> Self {
        Self::of_tar(tar_of(files), compression)
    }

    pub fn of_tar(tar: Vec<u8>, compression: Compression) -> Self {
        let diff_id = Digest::of(&tar);
        let (bytes, media_type) = match compression {
            Compression::None => (tar, "application/vnd.oci.image.layer.v1.tar"),
            Compression::Gzip => (gzip(&tar), "application/vnd.oci.image.layer.v1.tar+gzip"),
            Compression::Zstd => {
                (zstd::encode_all(&tar[..], 1).unwrap(), "application/vnd.oci.image.layer.v1.tar+zstd")
            }
        };
        Self { bytes, diff_id, media_type }
    }

    /// A layer that takes some time to be sent.
    pub fn large(seed: u8) -> Self {
        let mut state = u32::from(seed) + 1;
        let noise: Vec<u8> = (0..400 << 10)
            .map(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                b'a' + (state >> 28) as u8
            })
            .collect();
        let name = format!("large-{seed}");
        Self::new(&[(&name, std::str::from_utf8(&noise).unwrap())], Compression::Gzip)
    }
}

pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// One image.
#[derive(Clone)]
pub struct Fixture {
    pub layers: Vec<Layer>,
    pub config: Vec<u8>,
    pub manifest: Vec<u8>,
}

pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

pub fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

impl Fixture {
    pub fn new(layers: Vec<Layer>) -> Self {
        Self::for_platform(layers, architecture())
    }

    pub fn for_platform(layers: Vec<Layer>, architecture: &str) -> Self {
        let diff_ids: Vec<&str> = layers.iter().map(|layer| layer.diff_id.as_str()).collect();
        let config = json!({
            "architecture": architecture, "os": "linux",
            "config": {"Env": ["PATH=/bin", "A=b"], "Cmd": ["/bin/sh"], "User": "1000:1000"},
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        })
        .to_string()
        .into_bytes();
        let mut fixture = Self { layers, config, manifest: vec![] };
        fixture.manifest = fixture.manifest_json().to_string().into_bytes();
        fixture
    }

    pub fn manifest_json(&self) -> serde_json::Value {
        let layers: Vec<_> = self
            .layers
            .iter()
            .map(|layer| {
                json!({
                    "mediaType": layer.media_type, "digest": Digest::of(&layer.bytes).as_str(),
                    "size": layer.bytes.len(),
                })
            })
            .collect();
        json!({
            "schemaVersion": 2, "mediaType": MANIFEST,
            "config": {
                "mediaType": "application/vnd.oci.image.config.v1+json",
                "digest": self.id().as_str(), "size": self.config.len(),
            },
            "layers": layers,
        })
    }

    pub fn small(text: &str) -> Self {
        Self::new(vec![Layer::new(&[("etc/", ""), ("etc/text", text)], Compression::Gzip)])
    }

    pub fn id(&self) -> Digest {
        Digest::of(&self.config)
    }

    pub fn digest(&self) -> Digest {
        Digest::of(&self.manifest)
    }
}

/// A store in a temporary folder, and a container folder whose mount goes away with the test.
pub struct Home {
    pub store: Arc<ImageStore>,
    pub dir: tempfile::TempDir,
}

impl Home {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self { store: open(&dir.path().join("images")), dir }
    }

    pub fn root(&self) -> PathBuf {
        self.dir.path().join("images")
    }

    /// Closes the store and opens it again.
    pub fn reopen(self) -> Self {
        let Self { store, dir } = self;
        drop(store);
        Self { store: open(&dir.path().join("images")), dir }
    }

    pub fn container(&self, name: &str) -> PathBuf {
        let dir = self.dir.path().join("containers").join(name);
        std::fs::create_dir_all(&dir).unwrap();
        dir
    }

    /// What a file of an image holds, as a container sees it.
    pub fn read(&self, image_id: &str, path: &str) -> std::io::Result<String> {
        let dir = self.container("reader");
        let mounted = Mounted(self.store.prepare_rootfs(image_id, &dir).unwrap());
        mounted.0.mount().unwrap();
        let text = std::fs::read_to_string(mounted.0.target.join(path));
        drop(mounted);
        self.store.remove_rootfs(&dir).unwrap();
        text
    }

    /// How much lies in a folder of the store.
    pub fn count(&self, folder: &str) -> usize {
        std::fs::read_dir(self.root().join(folder)).unwrap().count()
    }
}

/// Waits for what is removed in the background.
pub async fn until_empty(folder: &Path) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while std::fs::read_dir(folder).is_ok_and(|entries| entries.count() > 0) {
        assert!(Instant::now() < deadline, "{} is not emptied", folder.display());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

pub fn open(root: &Path) -> Arc<ImageStore> {
    ImageStore::open(StoreOptions { root: root.to_path_buf(), ..Default::default() }).unwrap()
}

/// Unmounts also when a test fails.
pub struct Mounted(pub RootfsMount);

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = orlop_runtime::image::snapshot::unmount_all(&self.0.target);
    }
}

/// Debian's docker-registry on a loopback port.
pub struct DockerRegistry {
    child: Child,
    pub address: String,
    _dir: tempfile::TempDir,
}

/// A line of htpasswd: user `user`, password `secret`, bcrypt.
const HTPASSWD: &str = "user:$2y$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a\n";

impl DockerRegistry {
    pub async fn start(with_auth: bool) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
        let mut config = format!(
            "version: 0.1\nlog:\n  level: error\nstorage:\n  filesystem:\n    rootdirectory: {}\nhttp:\n  addr: {address}\n",
            dir.path().join("data").display()
        );
        if with_auth {
            let passwords = dir.path().join("htpasswd");
            std::fs::write(&passwords, HTPASSWD).unwrap();
            config += &format!("auth:\n  htpasswd:\n    realm: test\n    path: {}\n", passwords.display());
        }
        std::fs::write(dir.path().join("config.yml"), config).unwrap();
        let child = Command::new("docker-registry")
            .arg("serve")
            .arg(dir.path().join("config.yml"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("docker-registry is installed (Debian package docker-registry)");
        let registry = Self { child, address, _dir: dir };
        let deadline = Instant::now() + Duration::from_secs(30);
        while tokio::net::TcpStream::connect(&registry.address).await.is_err() {
            assert!(Instant::now() < deadline, "docker-registry did not start");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        registry
    }

    pub async fn push(&self, repository: &str, tag: &str, image: &Fixture, auth: Option<(&str, &str)>) {
        use oci_client::{Client, Reference, RegistryOperation, client, secrets::RegistryAuth};
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = Client::new(client::ClientConfig {
            protocol: client::ClientProtocol::Http,
            ..Default::default()
        });
        let reference = Reference::with_tag(self.address.clone(), repository.into(), tag.into());
        let auth = auth.map_or(RegistryAuth::Anonymous, |(u, p)| RegistryAuth::Basic(u.into(), p.into()));
        client.auth(&reference, &auth, RegistryOperation::Push).await.unwrap();
        for blob in image.layers.iter().map(|layer| &layer.bytes).chain([&image.config]) {
            client.push_blob(&reference, blob.clone(), Digest::of(blob).as_str()).await.unwrap();
        }
        client
            .push_manifest_raw(&reference, image.manifest.clone(), MANIFEST.parse().unwrap())
            .await
            .unwrap();
    }
}

impl Drop for DockerRegistry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
