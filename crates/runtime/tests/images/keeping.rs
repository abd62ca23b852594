//! Keeping: what survives a crash, what is removed and what is not.

use super::{
    fake::{Behaviour, FakeRegistry},
    fixture::{Compression, Fixture, Home, Layer, Mounted, until_empty},
};
use orlop_runtime::{Error, Images};

async fn registry(images: &[(&str, &Fixture)]) -> FakeRegistry {
    let behaviour = images.iter().fold(Behaviour::default(), |b, (tag, image)| b.with(tag, image));
    FakeRegistry::start(behaviour).await
}

#[tokio::test]
async fn images_are_there_after_the_store_is_opened_again() {
    let image = Fixture::small("kept");
    let registry = registry(&[("1", &image)]).await;
    let home = Home::new();
    let pulled = home.store.pull(&registry.name("app:1"), None).await.unwrap();
    // What a killed process leaves: an unfinished layer, a layer that no image names.
    let root = home.root();
    std::fs::create_dir_all(root.join("tmp/7/fs/half")).unwrap();
    std::fs::create_dir_all(root.join("layers").join("0".repeat(64)).join("fs")).unwrap();
    std::fs::write(root.join("blobs/sha256").join("1".repeat(64)), "rubbish").unwrap();
    let home = home.reopen();
    let listed = home.store.list().await.unwrap();
    assert_eq!((listed.len(), &listed[0].id, &listed[0].tags), (1, &pulled.id, &pulled.tags));
    assert_eq!(home.read(&pulled.id, "etc/text").unwrap(), "kept");
    assert_eq!((home.count("layers"), home.count("blobs/sha256")), (1, 2));
    until_empty(&root.join("tmp")).await;
    until_empty(&root.join("rubbish")).await;
}

#[tokio::test]
async fn an_image_whose_layer_was_lost_is_not_there_and_can_be_pulled_again() {
    let image = Fixture::small("again");
    let registry = registry(&[("1", &image)]).await;
    let home = Home::new();
    let name = registry.name("app:1");
    let id = home.store.pull(&name, None).await.unwrap().id;
    let layer = std::fs::read_dir(home.root().join("layers")).unwrap().next().unwrap().unwrap().path();
    std::fs::remove_dir_all(layer).unwrap();
    let home = home.reopen();
    assert!(home.store.resolve(&name).await.unwrap().is_none());
    home.store.pull(&name, None).await.unwrap();
    assert_eq!(home.read(&id, "etc/text").unwrap(), "again");
}

#[tokio::test]
async fn what_nothing_uses_any_more_goes_and_what_a_container_uses_stays() {
    let shared = Layer::new(&[("shared", "s")], Compression::Gzip);
    let with =
        |text: &str| Fixture::new(vec![shared.clone(), Layer::new(&[("own", text)], Compression::Gzip)]);
    let (one, two) = (with("one"), with("two"));
    let registry = registry(&[("1", &one), ("2", &two)]).await;
    let home = Home::new();
    let [first, second] = [registry.name("app:1"), registry.name("app:2")];
    let id = home.store.pull(&first, None).await.unwrap().id;
    home.store.pull(&second, None).await.unwrap();
    assert_eq!(home.count("layers"), 3, "the layer of both is kept once");

    let container = home.container("c1");
    let mounted = Mounted(home.store.prepare_rootfs(&id, &container).unwrap());
    mounted.0.mount().unwrap();
    home.store.remove(&first).await.unwrap();
    assert!(home.store.resolve(&first).await.unwrap().is_none());
    assert!(matches!(home.store.prepare_rootfs(&id, &home.container("c2")), Err(Error::NotFound { .. })));
    assert_eq!(home.count("layers"), 3, "a container runs on it");
    let home = home.reopen();
    assert_eq!(home.count("layers"), 3, "and does so while the store is closed");
    assert_eq!(std::fs::read_to_string(mounted.0.target.join("own")).unwrap(), "one");

    home.store.remove_rootfs(&container).unwrap();
    home.store.remove_rootfs(&container).unwrap();
    assert!(!mounted.0.target.exists());
    home.store.collect_garbage().unwrap();
    assert_eq!(home.count("layers"), 2);
    home.store.remove(&second).await.unwrap();
    home.store.remove(&second).await.unwrap();
    assert_eq!((home.count("layers"), home.count("blobs/sha256")), (0, 0));
}

#[tokio::test]
async fn a_container_gets_the_same_root_when_it_is_prepared_again() {
    let image = Fixture::small("x");
    let registry = registry(&[("1", &image)]).await;
    let home = Home::new();
    let id = home.store.pull(&registry.name("app:1"), None).await.unwrap().id;
    let container = home.container("c");
    let first = Mounted(home.store.prepare_rootfs(&id, &container).unwrap());
    first.0.mount().unwrap();
    std::fs::write(first.0.target.join("written"), "kept").unwrap();
    let second = home.store.prepare_rootfs(&id, &container).unwrap();
    second.mount().unwrap();
    assert_eq!(first.0, second);
    assert_eq!(std::fs::read_to_string(second.target.join("written")).unwrap(), "kept");
}

#[tokio::test]
async fn an_image_without_layers_has_an_empty_root() {
    let image = Fixture::new(vec![]);
    let registry = registry(&[("1", &image)]).await;
    let home = Home::new();
    let id = home.store.pull(&registry.name("scratch:1"), None).await.unwrap().id;
    let mounted = Mounted(home.store.prepare_rootfs(&id, &home.container("c")).unwrap());
    mounted.0.mount().unwrap();
    assert_eq!(std::fs::read_dir(&mounted.0.target).unwrap().count(), 0);
    std::fs::write(mounted.0.target.join("x"), "").unwrap();
    assert_eq!(std::fs::read_dir(home.root().join("empty")).unwrap().count(), 0);
}

#[tokio::test]
async fn a_process_killed_at_any_moment_of_pulling_loses_nothing_acknowledged() {
    const CHILD: &str = "ORLOP_TEST_PULL";
    if let Ok(work) = std::env::var(CHILD) {
        return pull_until_killed(&work).await;
    }
    let images: Vec<(String, Fixture)> =
        (0..6).map(|n| (n.to_string(), Fixture::new(vec![Layer::large(1), Layer::large(n + 2)]))).collect();
    let behaviour = images.iter().fold(Behaviour::default(), |b, (tag, image)| b.with(tag, image));
    let registry = FakeRegistry::start(behaviour).await;
    let home = Home::new();
    let Home { store, dir } = home;
    drop(store);
    for pause in [30, 90, 200, 400, 700] {
        let mut child = std::process::Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "keeping::a_process_killed_at_any_moment_of_pulling_loses_nothing_acknowledged",
            ])
            .env(CHILD, format!("{} {}", dir.path().join("images").display(), registry.address))
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        tokio::time::sleep(std::time::Duration::from_millis(pause)).await;
        let _ = child.kill();
        child.wait().unwrap();
        let acknowledged =
            std::fs::read_to_string(dir.path().join("images.acknowledged")).unwrap_or_default();
        let store = super::fixture::open(&dir.path().join("images"));
        for name in acknowledged.lines() {
            let found = store.resolve(name).await.unwrap();
            assert!(found.is_some(), "{name} was acknowledged and is gone");
        }
        until_empty(&dir.path().join("images/tmp")).await;
        until_empty(&dir.path().join("images/rubbish")).await;
    }
    // And all of it can be finished.
    let store = super::fixture::open(&dir.path().join("images"));
    for (tag, image) in &images {
        let pulled = store.pull(&registry.name(&format!("app:{tag}")), None).await.unwrap();
        assert_eq!(pulled.id, image.id().to_string());
    }
}

/// The other process of the test above: pulls, and writes down what was acknowledged.
async fn pull_until_killed(work: &str) {
    use std::io::Write;
    let (root, address) = work.split_once(' ').unwrap();
    let store = super::fixture::open(std::path::Path::new(root));
    let mut log =
        std::fs::File::options().append(true).create(true).open(format!("{root}.acknowledged")).unwrap();
    for n in 0..6 {
        let name = format!("{address}/app:{n}");
        store.pull(&name, None).await.unwrap();
        writeln!(log, "{name}").unwrap();
    }
}
