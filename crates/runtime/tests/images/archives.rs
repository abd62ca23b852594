//! Archives: OCI layouts and docker's, as the tools in the field write them.

use super::fixture::{Compression, Fixture, Home, Layer, MANIFEST, architecture, gzip};
use orlop_runtime::{
    Error, Image, Images,
    image::{BuildOptions, Digest, ImageConfig, build_from_directory},
};
use serde_json::{Value, json};

#[derive(Clone, Default)]
struct ArchiveBuilder(Vec<(String, Vec<u8>)>);

impl ArchiveBuilder {
    fn add(mut self, name: &str, body: impl Into<Vec<u8>>) -> Self {
        self.0.push((name.into(), body.into()));
        self
    }

    fn blob(self, body: &[u8]) -> Self {
        let name = format!("blobs/sha256/{}", Digest::of(body).hex());
        self.add(&name, body)
    }

    fn image(self, image: &Fixture) -> Self {
        let with_layers = image.layers.iter().fold(self, |archive, layer| archive.blob(&layer.bytes));
        with_layers.blob(&image.config).blob(&image.manifest)
    }

    fn index(self, manifests: Value) -> Self {
        let index = json!({"schemaVersion": 2, "manifests": manifests});
        self.add("oci-layout", r#"{"imageLayoutVersion":"1.0.0"}"#).add("index.json", index.to_string())
    }

    fn tar(self) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (name, body) in self.0 {
            let mut header = tar::Header::new_gnu();
            header.set_size(body.len() as u64);
            header.set_mode(0o644);
            builder.append_data(&mut header, name, &body[..]).unwrap();
        }
        builder.into_inner().unwrap()
    }
}

fn entry(image: &Fixture, annotations: Value) -> Value {
    json!({
        "mediaType": MANIFEST, "digest": image.digest().as_str(), "size": image.manifest.len(),
        "annotations": annotations,
    })
}

async fn import(home: &Home, archive: Vec<u8>, name: Option<&str>) -> Result<Vec<Image>, Error> {
    home.store.import(Box::pin(std::io::Cursor::new(archive)), name.map(Into::into)).await
}

fn tags(images: &[Image]) -> Vec<String> {
    let mut tags: Vec<String> = images.iter().flat_map(|image| image.tags.clone()).collect();
    tags.sort();
    tags
}

#[tokio::test]
async fn a_layout_with_several_images_gives_each_its_name() {
    let (one, two) = (Fixture::small("one"), Fixture::small("two"));
    let archive = ArchiveBuilder::default()
        .image(&one)
        .image(&two)
        .index(json!([
            entry(&one, json!({"io.containerd.image.name": "docker.io/library/one:1", "org.opencontainers.image.ref.name": "1"})),
            entry(&one, json!({"org.opencontainers.image.ref.name": "localhost/alias:2"})),
            entry(&two, json!({"org.opencontainers.image.ref.name": "quay.io/two"})),
        ]))
        .tar();
    for archive in [archive.clone(), gzip(&archive), zstd::encode_all(&archive[..], 1).unwrap()] {
        let home = Home::new();
        let images = import(&home, archive, None).await.unwrap();
        assert_eq!(images.len(), 2);
        assert_eq!(tags(&images), ["docker.io/library/one:1", "localhost/alias:2", "quay.io/two:latest"]);
        let found = home.store.resolve("quay.io/two").await.unwrap().unwrap();
        assert_eq!(home.read(&found.id, "etc/text").unwrap(), "two");
        assert_eq!(found.digests, [format!("quay.io/two@{}", two.digest())]);
    }
}

#[tokio::test]
async fn a_name_given_tags_what_has_none() {
    let (one, two) = (Fixture::small("one"), Fixture::small("two"));
    let unnamed = ArchiveBuilder::default().image(&one).index(json!([entry(&one, json!({}))])).tar();
    let home = Home::new();
    let images = import(&home, unnamed.clone(), None).await.unwrap();
    assert!(images[0].tags.is_empty() && images[0].id == one.id().to_string());
    let images = import(&home, unnamed, Some("app:3")).await.unwrap();
    assert_eq!(images[0].tags, ["docker.io/library/app:3"]);
    let bare = json!({"org.opencontainers.image.ref.name": "v1"});
    let archive = ArchiveBuilder::default().image(&one).index(json!([entry(&one, bare.clone())])).tar();
    assert_eq!(
        import(&home, archive, Some("app:4")).await.unwrap()[0].tags.last().unwrap(),
        "docker.io/library/app:4"
    );
    let two_bare =
        json!([entry(&one, bare), entry(&two, json!({"org.opencontainers.image.ref.name": "v2"}))]);
    let archive = ArchiveBuilder::default().image(&one).image(&two).index(two_bare).tar();
    let images = import(&Home::new(), archive, Some("repo")).await.unwrap();
    assert_eq!(tags(&images), ["docker.io/library/repo:v1", "docker.io/library/repo:v2"]);
    let nameless = json!([entry(&one, json!({})), entry(&two, json!({}))]);
    let archive = ArchiveBuilder::default().image(&one).image(&two).index(nameless).tar();
    let error = import(&home, archive, Some("app")).await.unwrap_err();
    assert!(error.to_string().contains("several images without a name"), "{error}");
}

/// As `docker save` wrote before version 25: layers in folders, and links between those that are the same.
fn old_docker_archive(image: &Fixture, tags: &[&str]) -> Vec<u8> {
    let config = format!("{}.json", image.id().hex());
    let mut builder = tar::Builder::new(Vec::new());
    let mut layers = Vec::new();
    for (n, layer) in image.layers.iter().enumerate() {
        let name = format!("layer{n}/layer.tar");
        let mut header = tar::Header::new_gnu();
        header.set_size(layer.bytes.len() as u64);
        header.set_mode(0o644);
        builder.append_data(&mut header, &name, &layer.bytes[..]).unwrap();
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_size(0);
        let link = format!("link{n}/layer.tar");
        builder.append_link(&mut header, &link, format!("../{name}")).unwrap();
        layers.push(link);
    }
    let manifest = json!([{"Config": config, "RepoTags": tags, "Layers": layers}]).to_string();
    for (name, body) in [(config.as_str(), &image.config[..]), ("manifest.json", manifest.as_bytes())] {
        let mut header = tar::Header::new_gnu();
        header.set_size(body.len() as u64);
        header.set_mode(0o644);
        builder.append_data(&mut header, name, body).unwrap();
    }
    builder.into_inner().unwrap()
}

#[tokio::test]
async fn what_old_docker_saves_is_read() {
    let image = Fixture::new(vec![
        Layer::new(&[("a", "1"), ("b", "1")], Compression::None),
        Layer::new(&[("b", "2")], Compression::None),
    ]);
    let home = Home::new();
    let images =
        import(&home, gzip(&old_docker_archive(&image, &["app:1", "other/app:2"])), None).await.unwrap();
    assert_eq!(tags(&images), ["docker.io/library/app:1", "docker.io/other/app:2"]);
    assert_eq!(
        (home.read(&images[0].id, "a").unwrap(), home.read(&images[0].id, "b").unwrap()),
        ("1".into(), "2".into())
    );
}

#[tokio::test]
async fn what_new_docker_saves_is_read_with_the_names_of_both_of_its_indexes() {
    let image = Fixture::small("x");
    let layer = format!("blobs/sha256/{}", Digest::of(&image.layers[0].bytes).hex());
    let docker = json!([{
        "Config": format!("blobs/sha256/{}", image.id().hex()), "RepoTags": ["app:1"], "Layers": [layer],
    }]);
    // An index for several platforms, of which only one image is in the archive.
    let missing = Fixture::for_platform(image.layers.clone(), "s390x");
    let platform = |image: &Fixture, architecture: &str| {
        let mut entry = entry(image, json!({}));
        entry["platform"] = json!({"os": "linux", "architecture": architecture});
        entry
    };
    let inner = json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [platform(&missing, "s390x"), platform(&image, architecture())],
    })
    .to_string();
    let outer = json!([{
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "digest": Digest::of(inner.as_bytes()).as_str(), "size": inner.len(),
    }]);
    let archive = ArchiveBuilder::default()
        .image(&image)
        .blob(inner.as_bytes())
        .add("manifest.json", docker.to_string())
        .index(outer)
        .tar();
    let images = import(&Home::new(), archive, None).await.unwrap();
    assert_eq!(tags(&images), ["docker.io/library/app:1"]);
    assert_eq!(images[0].id, image.id().to_string());
}

#[tokio::test]
async fn damaged_archives_are_refused_and_leave_nothing() {
    let image = Fixture::small("x");
    let good = ArchiveBuilder::default().image(&image).index(json!([entry(&image, json!({}))]));
    let mut damaged_layer = good.clone();
    damaged_layer.0[0].1.reverse();
    let mut damaged_manifest = good.clone();
    damaged_manifest.0[2].1.push(b' ');
    let mut without_layer = good.clone();
    without_layer.0.remove(0);
    let whole = good.tar();
    let forged_docker = {
        let mut forged = image.clone();
        forged.layers[0].bytes = Layer::new(&[("evil", "x")], Compression::None).bytes;
        old_docker_archive(&forged, &["app:1"])
    };
    for (archive, why) in [
        (damaged_layer.tar(), "digest should be"),
        (damaged_manifest.tar(), "bad digest"),
        (without_layer.tar(), "missing in the archive"),
        (whole[..whole.len() / 3].to_vec(), ""),
        (gzip(&whole)[..200].to_vec(), "cannot be read"),
        (forged_docker, "diff id should be"),
        (b"not an archive at all".to_vec(), "cannot be read"),
        (vec![], "holds no image"),
        (ArchiveBuilder::default().add("x", "y").tar(), "holds no image"),
        (ArchiveBuilder::default().index(json!([])).tar(), "no image in the archive"),
    ] {
        let home = Home::new();
        let error = import(&home, archive, None).await.expect_err(why);
        assert!(matches!(error, Error::Damaged(_)) && error.to_string().contains(why), "{why}: {error}");
        assert_eq!((home.count("layers"), home.count("tmp")), (0, 0), "{error}");
        assert!(home.store.list().await.unwrap().is_empty());
    }
}

fn sample_folder() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    std::fs::create_dir_all(root.join("bin")).unwrap();
    std::fs::copy("/bin/busybox", root.join("bin/busybox")).unwrap();
    std::fs::hard_link(root.join("bin/busybox"), root.join("bin/sh")).unwrap();
    std::os::unix::fs::symlink("busybox", root.join("bin/ls")).unwrap();
    std::fs::create_dir_all(root.join("n".repeat(150)).join("m".repeat(150))).unwrap();
    std::fs::write(root.join("n".repeat(150)).join("m".repeat(150)).join("deep"), "deep").unwrap();
    std::os::unix::fs::chown(root.join("bin/ls"), None, None).unwrap();
    dir
}

#[tokio::test]
async fn a_folder_becomes_an_image_that_runs() {
    let dir = sample_folder();
    let options = BuildOptions {
        config: ImageConfig {
            entrypoint: vec!["/bin/sh".into()],
            env: vec![("PATH".into(), "/bin".into())],
            exposed_ports: ["80/tcp".to_string()].into(),
            ..Default::default()
        },
        names: vec!["example:1".into(), "localhost/example:1".into()],
        ..Default::default()
    };
    let mut archive = Vec::new();
    let id = build_from_directory(dir.path(), &options, &mut archive).unwrap();
    let home = Home::new();
    let images = import(&home, archive, None).await.unwrap();
    assert_eq!((images.len(), images[0].id.as_str()), (1, id.as_str()));
    assert_eq!(tags(&images), ["docker.io/library/example:1", "localhost/example:1"]);
    let config = home.store.config(&images[0].id).unwrap();
    assert_eq!((&config.entrypoint[0], config.exposed_ports.len()), (&"/bin/sh".to_string(), 1));
    let mount =
        super::fixture::Mounted(home.store.prepare_rootfs(&images[0].id, &home.container("c")).unwrap());
    mount.0.mount().unwrap();
    let output = std::process::Command::new("chroot")
        .arg(&mount.0.target)
        .args(["/bin/sh", "-c", "/bin/ls / && /bin/busybox cat /n*/m*/deep"])
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("bin") && text.ends_with("deep"), "{text}");
}

#[test]
fn the_same_folder_gives_the_same_image_whenever_and_by_whomever_it_is_built() {
    let (one, two) = (sample_folder(), sample_folder());
    for path in ["bin/busybox", "bin"] {
        std::os::unix::fs::chown(two.path().join(path), Some(1000), Some(1000)).unwrap();
    }
    let build = |dir: &tempfile::TempDir| {
        let mut archive = Vec::new();
        build_from_directory(dir.path(), &BuildOptions::default(), &mut archive).unwrap();
        archive
    };
    assert!(build(&one) == build(&two));
    std::fs::write(two.path().join("more"), "").unwrap();
    assert!(build(&one) != build(&two));
}
