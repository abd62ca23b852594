use crate::machine::Machine;
use orlop_runtime::{ContainerRuntime, ContainerState, Error, RuntimeEvent};
use std::time::Duration;

#[tokio::test(flavor = "multi_thread")]
async fn a_container_runs_prints_and_ends_with_its_code() {
    let machine = Machine::new().await;
    machine.sandbox("s").await;
    let mut events = machine.events();
    let spec = machine.container_spec("c", "s", "echo out; echo err >&2; exit 3");
    let (status, _) = machine.run(spec).await;
    assert_eq!((status.exit_code, status.signal, status.reason.as_str()), (3, 0, "Error"));
    assert!(status.created_at <= status.started_at && status.started_at <= status.finished_at);
    let log = machine.raw_log("c");
    assert!(log.contains(" stdout F out\n") && log.contains(" stderr F err\n"), "{log}");
    let want = RuntimeEvent::Exited { sandbox_id: "s".into(), container_id: "c".into() };
    assert_eq!(events.recv().await.unwrap(), want);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_that_a_signal_ends_says_which() {
    let machine = Machine::new().await;
    machine.sandbox("s").await;
    machine.start(machine.container_spec("c", "s", "kill -USR1 $$; sleep 100")).await;
    // The first process of a process namespace is deaf to its own signals, so the one from outside counts.
    machine.signal_container("c", libc::SIGKILL).await.unwrap();
    let status = machine.ended("c").await;
    assert_eq!((status.exit_code, status.signal), (137, 9));
    let gone = machine.signal_container("c", libc::SIGKILL).await;
    assert!(matches!(gone, Err(Error::State(_))));
}

#[tokio::test(flavor = "multi_thread")]
async fn stopping_asks_first_and_kills_when_the_grace_is_over() {
    let machine = Machine::new().await;
    machine.sandbox("s").await;
    let polite = "trap 'echo bye; exit 5' TERM; echo ready; while :; do sleep 0.05; done";
    machine.start(machine.container_spec("polite", "s", polite)).await;
    machine
        .start(machine.container_spec("deaf", "s", "trap '' TERM; echo ready; while :; do sleep 1; done"))
        .await;
    for id in ["polite", "deaf"] {
        machine.printed(id, "ready").await;
    }
    machine.stop_container("polite", Duration::from_secs(20)).await.unwrap();
    assert_eq!(machine.container_status("polite").await.unwrap().exit_code, 5);
    assert_eq!(machine.log("polite"), "ready\nbye\n");
    machine.stop_container("deaf", Duration::from_millis(200)).await.unwrap();
    assert_eq!(machine.container_status("deaf").await.unwrap().exit_code, 137);
    machine.stop_container("deaf", Duration::from_secs(1)).await.unwrap();
    machine.stop_container("never-was", Duration::from_secs(1)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_started_says_why_and_ends_with_128() {
    let machine = Machine::new().await;
    machine.sandbox("s").await;
    for (id, program, why) in [
        ("a", "none", r#"exec: "none": executable file not found in $PATH"#),
        ("b", "/none", r#"exec: "/none": stat /none: no such file or directory"#),
        ("c", "/etc/not-executable", r#"exec: "/etc/not-executable": permission denied"#),
        ("d", "/etc", r#"exec: "/etc": is a directory"#),
        ("e", "bad-interpreter", "exec /bin/bad-interpreter: no such file or directory"),
    ] {
        let mut spec = machine.container_spec(id, "s", "");
        spec.command = vec![program.into()];
        machine.create_container(spec).await.unwrap();
        let error = machine.start_container(id).await.unwrap_err();
        assert!(matches!(error, Error::Start(_)), "{error:?}");
        assert!(error.to_string().ends_with(why), "{error}");
        let status = machine.container_status(id).await.unwrap();
        assert_eq!((status.state, status.exit_code), (ContainerState::Exited, 128));
        assert_eq!(status.reason, "StartError");
        assert_eq!(status.message, error.to_string());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_call_can_be_repeated() {
    let machine = Machine::new().await;
    for _ in 0..2 {
        machine.sandbox("s").await;
        let spec = machine.container_spec("c", "s", "sleep 100");
        machine.create_container(spec).await.unwrap();
        machine.start_container("c").await.unwrap();
    }
    assert_eq!(machine.list_containers().await.unwrap().len(), 1);
    for _ in 0..2 {
        machine.stop_container("c", Duration::ZERO).await.unwrap();
        machine.remove_container("c").await.unwrap();
    }
    assert!(matches!(machine.container_status("c").await, Err(Error::NotFound { .. })));
    for _ in 0..2 {
        machine.stop_sandbox("s").await.unwrap();
    }
    assert!(!machine.list_sandboxes().await.unwrap()[0].ready);
    for _ in 0..2 {
        machine.remove_sandbox("s").await.unwrap();
    }
    assert!(machine.list_sandboxes().await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn removing_a_sandbox_leaves_nothing_but_logs() {
    let machine = Machine::new().await;
    machine.sandbox("s").await;
    machine.start(machine.container_spec("c", "s", "(sleep 1000 &) ; echo here; sleep 1000")).await;
    machine.printed("c", "here").await;
    let netns = machine.list_sandboxes().await.unwrap()[0].netns.clone().unwrap();
    assert!(netns.exists());
    machine.remove_sandbox("s").await.unwrap();
    assert!(!netns.exists());
    // The runtime itself is still there: its group, and the mount that its sandboxes lie on.
    let own =
        |trace: &String| trace.ends_with(&machine.config.cgroup_root) || trace.contains("/root/sandboxes ");
    let left: Vec<String> = machine.traces().into_iter().filter(|trace| !own(trace)).collect();
    assert!(left.is_empty(), "{left:#?}");
    for folder in ["sandboxes", "containers"] {
        assert_eq!(std::fs::read_dir(machine.path("root").join(folder)).unwrap().count(), 0);
    }
    assert_eq!(machine.log("c"), "here\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn twenty_containers_at_once_all_run_and_all_go() {
    let machine = std::sync::Arc::new(Machine::new().await);
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..20 {
        let machine = machine.clone();
        tasks.spawn(async move {
            let (sandbox, id) = (format!("s{n}"), format!("c{n}"));
            machine.sandbox(&sandbox).await;
            machine.start(machine.container_spec(&id, &sandbox, &format!("echo {n}; exit {n}"))).await;
            let status = machine.ended(&id).await;
            assert_eq!((status.exit_code, machine.log(&id)), (n, format!("{n}\n")));
            machine.remove_sandbox(&sandbox).await.unwrap();
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
    assert!(machine.list_containers().await.unwrap().is_empty());
}
