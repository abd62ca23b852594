use crate::machine::Machine;
use orlop_runtime::{
    ContainerRuntime, ContainerSpec, Error, Images,
    image::{BuildOptions, ImageConfig, ImageStore, StoreOptions, build_from_directory},
};

#[tokio::test(flavor = "multi_thread")]
async fn a_container_runs_from_an_imported_image_as_the_image_says() {
    let mut machine = Machine::closed();
    let config = ImageConfig {
        env: vec![("GREETING".into(), "hello".into())],
        entrypoint: ["sh", "-c"].map(String::from).to_vec(),
        cmd: vec!["echo $GREETING from $(pwd) as $(id -un); touch /tmp/mine; trap 'exit 9' QUIT; echo ready; while :; do sleep 0.02; done".into()],
        user: "web".into(),
        working_dir: "/home/web".into(),
        stop_signal: "SIGQUIT".into(),
        ..ImageConfig::default()
    };
    let options = BuildOptions { config, names: vec!["example.com/app:1".into()], ..BuildOptions::default() };
    let archive = machine.path("app.tar");
    build_from_directory(&machine.path("busybox"), &options, std::fs::File::create(&archive).unwrap())
        .unwrap();
    let store_options = StoreOptions { root: machine.path("images"), ..StoreOptions::default() };
    let store = ImageStore::open(store_options).unwrap();
    machine.config.images = store.clone();
    machine.open().await;
    let reader = tokio::fs::File::open(&archive).await.unwrap();
    let image = store.import(Box::pin(reader), None).await.unwrap()[0].id.clone();
    machine.sandbox("s").await;
    for id in ["one", "two"] {
        let spec = ContainerSpec {
            id: id.into(),
            sandbox_id: "s".into(),
            image_id: image.clone(),
            log_path: format!("{id}.log").into(),
            ..ContainerSpec::default()
        };
        machine.start(spec).await;
        machine.printed(id, "ready").await;
        assert_eq!(machine.log(id), "hello from /home/web as web\nready\n");
    }
    // What one writes the other does not see, and an image in use is not taken away.
    assert_eq!(machine.exec("one", "touch /tmp/x; ls /tmp").await.1, "mine\nx\n");
    assert_eq!(machine.exec("two", "ls /tmp").await.1, "mine\n");
    store.remove("example.com/app:1").await.unwrap();
    assert_eq!(machine.exec("two", "echo $GREETING").await.1, "hello\n");
    machine.stop_container("one", std::time::Duration::from_secs(20)).await.unwrap();
    assert_eq!(machine.container_status("one").await.unwrap().exit_code, 9);
    machine.remove_sandbox("s").await.unwrap();
    let mut spec = machine.container_spec("three", "s", "true");
    spec.image_id = image;
    assert!(matches!(machine.create_container(spec).await, Err(Error::NotFound { what: "sandbox", .. })));
}
