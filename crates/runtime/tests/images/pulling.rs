//! Pulling: what is fetched, what is refused, and what a person reads then.

use super::{
    fake::{Behaviour, FakeRegistry},
    fixture::{Compression, DockerRegistry, Fixture, Home, Layer, MANIFEST, architecture, tar_of},
};
use orlop_runtime::{
    Error, Images, RegistryAuth,
    image::{Digest, ImageStore, StoreOptions},
};
use serde_json::json;

fn auth(username: &str, password: &str) -> Option<RegistryAuth> {
    Some(RegistryAuth { username: username.into(), password: password.into() })
}

async fn refused(home: &Home, name: &str, auth: Option<RegistryAuth>) -> String {
    let error = home.store.pull(name, auth).await.expect_err("the pull went well");
    assert!(matches!(&error, Error::Pull { reference, .. } if reference == name), "{error:?}");
    assert!(home.store.list().await.unwrap().is_empty());
    // Layers that were on their way when another failed clean up after themselves, a moment later.
    for _ in 0..500 {
        if home.count("tmp") == 0 {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    assert_eq!((home.count("layers"), home.count("tmp")), (0, 0), "something was left behind: {error}");
    error.to_string()
}

fn three_layers() -> Fixture {
    Fixture::new(vec![
        Layer::new(&[("bin/", ""), ("bin/a", "first"), ("bin/b", "first")], Compression::Gzip),
        Layer::new(&[("bin/", ""), ("bin/.wh.a", ""), ("bin/c", "second")], Compression::Zstd),
        Layer::new(&[("bin/", ""), ("bin/b", "third")], Compression::None),
    ])
}

#[tokio::test]
async fn an_image_of_a_real_registry_runs_as_its_layers_say() {
    let registry = DockerRegistry::start(false).await;
    let image = three_layers();
    registry.push("team/app", "v1", &image, None).await;
    let home = Home::new();
    let name = format!("{}/team/app:v1", registry.address);
    assert!(home.store.resolve(&name).await.unwrap().is_none());
    let pulled = home.store.pull(&name, None).await.unwrap();
    assert_eq!(pulled.id, image.id().to_string());
    assert_eq!(pulled.tags, std::slice::from_ref(&name));
    assert_eq!(pulled.digests, [format!("{}/team/app@{}", registry.address, image.digest())]);
    assert_eq!(pulled.size, image.layers.iter().map(|l| l.bytes.len() as u64).sum::<u64>());
    assert_eq!((pulled.uid, pulled.username.as_deref()), (Some(1000), None));
    for text in [&name, &pulled.digests[0], &pulled.id] {
        assert_eq!(home.store.resolve(text).await.unwrap().unwrap().id, pulled.id, "{text}");
    }
    assert!(home.read(&pulled.id, "bin/a").is_err(), "the second layer takes it away");
    assert_eq!(home.read(&pulled.id, "bin/b").unwrap(), "third");
    assert_eq!(home.read(&pulled.id, "bin/c").unwrap(), "second");
    let config = home.store.config(&pulled.id).unwrap();
    assert_eq!((config.cmd[0].as_str(), config.env.len()), ("/bin/sh", 2));
    // By digest, too.
    let home = Home::new();
    let pinned = format!("{}/team/app@{}", registry.address, image.digest());
    let pulled = home.store.pull(&pinned, None).await.unwrap();
    assert_eq!((pulled.tags.len(), pulled.digests), (0, vec![pinned]));
}

#[tokio::test]
async fn a_registry_with_passwords_opens_to_the_right_one_only() {
    let registry = DockerRegistry::start(true).await;
    registry.push("app", "1", &Fixture::small("secret"), Some(("user", "secret"))).await;
    let home = Home::new();
    let name = format!("{}/app:1", registry.address);
    assert!(refused(&home, &name, None).await.contains("needs credentials"));
    assert!(refused(&home, &name, auth("user", "wrong")).await.contains("refuses the credentials"));
    let pulled = home.store.pull(&name, auth("user", "secret")).await.unwrap();
    assert_eq!(home.read(&pulled.id, "etc/text").unwrap(), "secret");
}

#[tokio::test]
async fn a_token_is_fetched_with_the_credentials_where_a_registry_wants_one() {
    let registry =
        FakeRegistry::start(Behaviour { token: true, ..Default::default() }.with("1", &three_layers())).await;
    let home = Home::new();
    let name = registry.name("app:1");
    assert!(refused(&home, &name, None).await.contains("wrong user or password"));
    assert!(refused(&home, &name, auth("user", "wrong")).await.contains("refuses authentication"));
    home.store.pull(&name, auth("user", "secret")).await.unwrap();
}

#[tokio::test]
async fn what_is_not_there_is_said_to_be_not_found() {
    let registry = DockerRegistry::start(false).await;
    registry.push("app", "1", &Fixture::small("x"), None).await;
    let home = Home::new();
    let message = refused(&home, &format!("{}/app:2", registry.address), None).await;
    assert!(message.contains("not found in 127.0.0.1"), "{message}");
    let message = refused(&home, &format!("{}/nothing", registry.address), None).await;
    assert!(message.contains("not found in 127.0.0.1"), "{message}");
    let address = registry.address.clone();
    drop(registry);
    let message = refused(&home, &format!("{address}/app:1"), None).await;
    assert!(message.contains(&format!("cannot connect to {address}")), "{message}");
    assert!(message.to_lowercase().contains("connection refused"), "{message}");
    let message = home.store.pull("Not/A/Name", None).await.unwrap_err();
    assert!(matches!(message, Error::InvalidReference { .. }), "{message}");
}

#[tokio::test]
async fn a_registry_that_lies_is_found_out() {
    let image = three_layers();
    let other = Fixture::small("other");
    let layer = Digest::of(&image.layers[0].bytes).to_string();
    let behaviour = || Behaviour::default().with("1", &image);

    let mut lies = behaviour(); // another layer of the same length
    lies.blobs.get_mut(&layer).unwrap().reverse();
    let registry = FakeRegistry::start(lies).await;
    let message = refused(&Home::new(), &registry.name("app:1"), None).await;
    assert!(message.contains("digest should be sha256:"), "{message}");

    let mut lies = behaviour(); // a longer one
    lies.blobs.get_mut(&layer).unwrap().extend([0; 100]);
    let registry = FakeRegistry::start(lies).await;
    let message = refused(&Home::new(), &registry.name("app:1"), None).await;
    assert!(message.contains("bad size of sha256:"), "{message}");

    let mut lies = behaviour(); // one cut short
    lies.blobs.get_mut(&layer).unwrap().truncate(50);
    let registry = FakeRegistry::start(lies).await;
    let message = refused(&Home::new(), &registry.name("app:1"), None).await;
    assert!(message.contains("sends 50 bytes where"), "{message}");

    let mut lies = behaviour(); // another configuration
    lies.blobs.insert(image.id().to_string(), other.config.clone());
    let registry = FakeRegistry::start(lies).await;
    let message = refused(&Home::new(), &registry.name("app:1"), None).await;
    assert!(message.contains("bad digest") || message.contains("bad size"), "{message}");

    let mut lies = behaviour(); // another manifest under a digest
    lies.manifests.insert(image.digest().to_string(), (MANIFEST.into(), other.manifest.clone()));
    let registry = FakeRegistry::start(lies).await;
    let message = refused(&Home::new(), &registry.name(&format!("app@{}", image.digest())), None).await;
    assert!(message.to_lowercase().contains("digest"), "{message}");

    let mut forged = image.clone(); // a configuration whose diff ids are not those of the layers
    forged.config = String::from_utf8(image.config.clone())
        .unwrap()
        .replace(image.layers[0].diff_id.as_str(), Digest::of(b"forged").as_str())
        .into_bytes();
    forged.manifest = forged.manifest_json().to_string().into_bytes();
    let registry = FakeRegistry::start(Behaviour::default().with("1", &forged)).await;
    let message = refused(&Home::new(), &registry.name("app:1"), None).await;
    assert!(message.contains("diff id should be"), "{message}");
}

#[tokio::test]
async fn an_archive_in_a_layer_that_tries_to_escape_is_refused() {
    let mut header = tar::Header::new_gnu();
    header.as_old_mut().name[..10].copy_from_slice(b"../escaped");
    header.set_size(0);
    header.set_cksum();
    let tar = [header.as_bytes().as_slice(), &[0; 1024]].concat();
    let image = Fixture::new(vec![Layer::of_tar(tar, Compression::Gzip)]);
    let registry = FakeRegistry::start(Behaviour::default().with("1", &image)).await;
    let message = refused(&Home::new(), &registry.name("app:1"), None).await;
    assert!(message.contains("leads out of the layer"), "{message}");
}

#[tokio::test]
async fn a_download_goes_on_where_it_broke_off() {
    for no_ranges in [false, true] {
        let image = Fixture::new(vec![Layer::large(1)]);
        let length = image.layers[0].bytes.len();
        let most = if no_ranges { length - 10 } else { length / 3 };
        let behaviour =
            Behaviour { break_after: Some(most), no_ranges, unavailable: 2, ..Default::default() };
        let registry = FakeRegistry::start(behaviour.with("1", &image)).await;
        let home = Home::new();
        let name = registry.name("app:1");
        let pull = home.store.pull(&name, None);
        if no_ranges {
            // From the start each time, and never to the end: it is given up, and says where.
            let message = pull.await.unwrap_err().to_string();
            assert!(message.contains("broke off"), "{message}");
            continue;
        }
        pull.await.unwrap();
        let offsets = registry.requests_for(&Digest::of(&image.layers[0].bytes));
        assert!(offsets.len() >= 3 && offsets[0] == 0, "{offsets:?}");
        assert!(offsets.windows(2).all(|pair| pair[0] < pair[1]), "{offsets:?}");
    }
}

#[tokio::test]
async fn the_image_for_this_machine_is_chosen_from_an_index() {
    let own = Fixture::small("own");
    let foreign = Fixture::for_platform(own.layers.clone(), "s390x");
    let entry = |image: &Fixture, architecture: &str, os: &str| {
        json!({
            "mediaType": MANIFEST, "digest": image.digest().as_str(), "size": image.manifest.len(),
            "platform": {"architecture": architecture, "os": os},
        })
    };
    let index = json!({
        "schemaVersion": 2, "mediaType": "application/vnd.docker.distribution.manifest.list.v2+json",
        "manifests": [entry(&foreign, "s390x", "linux"), entry(&foreign, "unknown", "unknown"), entry(&own, architecture(), "linux")],
    })
    .to_string();
    let mut behaviour = Behaviour::default().with("own", &own).with("foreign", &foreign);
    let kind = "application/vnd.docker.distribution.manifest.list.v2+json".to_string();
    behaviour.manifests.insert("1".into(), (kind.clone(), index.clone().into_bytes()));
    let only_foreign = index.replace(&format!("\"{}\"", architecture()), "\"mips\"");
    behaviour.manifests.insert("2".into(), (kind, only_foreign.into_bytes()));
    let registry = FakeRegistry::start(behaviour).await;
    let home = Home::new();
    let message = refused(&home, &registry.name("app:2"), None).await;
    assert!(message.contains("no image for linux/") && message.contains("linux/s390x"), "{message}");
    let message = refused(&home, &registry.name("app:foreign"), None).await;
    assert!(message.contains("image is for linux/s390x"), "{message}");
    let pulled = home.store.pull(&registry.name("app:1"), None).await.unwrap();
    assert_eq!(pulled.id, own.id().to_string());
    assert!(
        pulled.digests[0].ends_with(Digest::of(index.as_bytes()).as_str()),
        "the index is what was named"
    );
}

#[tokio::test]
async fn many_who_want_the_same_image_fetch_it_once() {
    let image = Fixture::new(vec![Layer::large(1), Layer::large(2), Layer::large(3), Layer::large(4)]);
    let registry =
        FakeRegistry::start(Behaviour { slow: true, ..Default::default() }.with("1", &image)).await;
    let home = Home::new();
    let pulls = (0..8).map(|_| {
        let (store, name) = (home.store.clone(), registry.name("app:1"));
        tokio::spawn(async move { store.pull(&name, None).await.unwrap().id })
    });
    for id in futures::future::join_all(pulls).await {
        assert_eq!(id.unwrap(), image.id().to_string());
    }
    for layer in &image.layers {
        assert_eq!(registry.requests_for(&Digest::of(&layer.bytes)).len(), 1);
    }
    assert_eq!(registry.requests_for(&image.id()).len(), 1);
}

#[tokio::test]
async fn images_that_share_layers_fetch_them_once_whatever_the_order() {
    let base = vec![Layer::large(1), Layer::new(&[("tmp/x", "implied folder")], Compression::Gzip)];
    let with = |seed: u8| Fixture::new([base.clone(), vec![Layer::large(seed)]].concat());
    let (one, two) = (with(10), with(11));
    let behaviour = Behaviour { slow: true, ..Default::default() }.with("1", &one).with("2", &two);
    let registry = FakeRegistry::start(behaviour).await;
    let home = Home::new();
    let names = [registry.name("app:1"), registry.name("app:2")];
    let (a, b) = tokio::join!(home.store.pull(&names[0], None), home.store.pull(&names[1], None));
    assert_ne!(a.unwrap().id, b.unwrap().id);
    for layer in &base {
        assert_eq!(registry.requests_for(&Digest::of(&layer.bytes)).len(), 1);
    }
    assert_eq!(home.count("layers"), 4);
}

#[tokio::test]
async fn a_pull_that_nobody_waits_for_any_more_leaves_nothing_and_can_be_repeated() {
    let image = Fixture::new((0..4).map(Layer::large).collect());
    let registry =
        FakeRegistry::start(Behaviour { slow: true, ..Default::default() }.with("1", &image)).await;
    let home = Home::new();
    let name = registry.name("app:1");
    let cut = tokio::time::timeout(std::time::Duration::from_millis(150), home.store.pull(&name, None)).await;
    assert!(cut.is_err());
    home.store.pull(&name, None).await.unwrap();
    assert_eq!(home.count("layers"), 4);
}

#[tokio::test]
async fn a_folder_that_a_layer_only_implies_keeps_the_mode_from_below() {
    use std::os::unix::fs::PermissionsExt;
    let mut builder = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::Directory);
    header.set_mode(0o1777);
    header.set_size(0);
    builder.append_data(&mut header, "tmp", std::io::empty()).unwrap();
    let image = Fixture::new(vec![
        Layer::of_tar(builder.into_inner().unwrap(), Compression::Gzip),
        Layer::of_tar(tar_of(&[("tmp/cache/file", "x")]), Compression::Gzip),
    ]);
    let registry = FakeRegistry::start(Behaviour::default().with("1", &image)).await;
    let home = Home::new();
    let id = home.store.pull(&registry.name("app:1"), None).await.unwrap().id;
    let mount = super::fixture::Mounted(home.store.prepare_rootfs(&id, &home.container("c")).unwrap());
    mount.0.mount().unwrap();
    let mode =
        |path: &str| std::fs::metadata(mount.0.target.join(path)).unwrap().permissions().mode() & 0o7777;
    assert_eq!((mode("tmp"), mode("tmp/cache")), (0o1777, 0o755));
}

#[tokio::test]
async fn a_registry_configured_as_insecure_is_spoken_to_in_plain_http() {
    // Leads to this machine but does not look like it: only the configuration can tell.
    let image = Fixture::small("x");
    let registry = FakeRegistry::start(Behaviour::default().with("1", &image)).await;
    let host = registry.address.replace("127.0.0.1", "0.0.0.0");
    let dir = tempfile::tempdir().unwrap();
    let store = |name: &str, insecure: Vec<String>| {
        ImageStore::open(StoreOptions { root: dir.path().join(name), insecure_registries: insecure }).unwrap()
    };
    let name = format!("{host}/app:1");
    store("plain", vec![host.clone()]).pull(&name, None).await.unwrap();
    let error = store("tls", vec![]).pull(&name, None).await.unwrap_err();
    assert!(error.to_string().contains("cannot connect"), "{error}");
}
