use crate::machine::{Machine, cgroup_file};
use orlop_runtime::{ContainerRuntime, Error, Resources};

#[tokio::test(flavor = "multi_thread")]
async fn limits_are_in_the_cgroups_of_container_and_sandbox() {
    let machine = Machine::new().await;
    let mut sandbox = machine.sandbox_spec("s");
    sandbox.resources = Resources { memory_limit: 256 << 20, pids_limit: 100, ..Resources::default() };
    machine.run_sandbox(sandbox).await.unwrap();
    let mut spec = machine.container_spec("c", "s", "sleep 100");
    spec.resources = Resources {
        memory_limit: 64 << 20,
        cpu_quota: 50_000,
        cpu_period: 100_000,
        cpu_shares: 512,
        pids_limit: 20,
        oom_score_adj: Some(500),
        ..Resources::default()
    };
    machine.start(spec).await;
    let (pod, container) = (machine.cgroup("burstable/pod-s"), machine.cgroup("burstable/pod-s/c"));
    let memory = |path| cgroup_file("memory", path, "memory.limit_in_bytes", "memory.max");
    assert_eq!(memory(&pod), (256 << 20).to_string());
    assert_eq!(memory(&container), (64 << 20).to_string());
    assert_eq!(cgroup_file("pids", &container, "pids.max", "pids.max"), "20");
    let quota = || cgroup_file("cpu", &container, "cpu.cfs_quota_us", "cpu.max");
    assert!(["50000", "50000 100000"].contains(&quota().as_str()), "{}", quota());
    let pid = machine.container_status("c").await.unwrap().pid;
    assert_eq!(std::fs::read_to_string(format!("/proc/{pid}/oom_score_adj")).unwrap().trim(), "500");
    assert_eq!(machine.exec("c", "cat /proc/self/oom_score_adj").await.1, "500\n");

    let more =
        Resources { memory_limit: 128 << 20, cpu_quota: 70_000, cpu_period: 100_000, ..Resources::default() };
    machine.update_container("c", more).await.unwrap();
    assert_eq!(memory(&container), (128 << 20).to_string());
    assert!(quota().starts_with("70000"), "{}", quota());
    assert_eq!(cgroup_file("pids", &container, "pids.max", "pids.max"), "max");
    let less = Resources { memory_limit: 32 << 20, ..Resources::default() };
    machine.update_container("c", less).await.unwrap();
    assert_eq!(memory(&container), (32 << 20).to_string());
    assert!(quota().starts_with("-1") || quota().starts_with("max"), "{}", quota());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_uses_too_much_memory_is_killed_and_told_apart() {
    let machine = Machine::new().await;
    machine.sandbox("s").await;
    let mut spec = machine.container_spec("c", "s", "exec tail /dev/zero");
    spec.resources.memory_limit = 16 << 20;
    let (status, _) = machine.run(spec).await;
    assert_eq!((status.exit_code, status.reason.as_str()), (137, "OOMKilled"));
    // A limit that not even the start fits into is a failure to start, not a hang.
    let mut spec = machine.container_spec("d", "s", "true");
    spec.resources.memory_limit = 4096;
    machine.create_container(spec).await.unwrap();
    assert!(matches!(machine.start_container("d").await, Err(Error::Start(_) | Error::Shim { .. })));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fork_bomb_stays_within_its_limit() {
    let machine = Machine::new().await;
    machine.sandbox("s").await;
    let mut spec = machine.container_spec(
        "c",
        "s",
        "i=0; while [ $i -lt 30 ]; do sleep 100 & i=$((i+1)); done; sleep 100",
    );
    spec.resources.pids_limit = 10;
    machine.create_container(spec).await.unwrap();
    machine.start_container("c").await.unwrap();
    machine.ended("c").await;
    assert!(machine.log("c").contains("fork"), "{}", machine.log("c"));
}

#[tokio::test(flavor = "multi_thread")]
async fn use_is_counted() {
    let machine = Machine::new().await;
    machine.sandbox("s").await;
    let spec = machine.container_spec(
        "c",
        "s",
        "i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; echo done; sleep 100 & wait",
    );
    machine.start(spec).await;
    machine.printed("c", "done").await;
    let stats = machine.container_stats("c").await.unwrap();
    assert!(stats.cpu_usage_ns > 1_000_000 && stats.memory_usage > 0 && stats.at > 0, "{stats:?}");
    assert!(stats.memory_working_set <= stats.memory_usage);
    assert_eq!(stats.pids, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_may_not_be_lowered_is_gone_without() {
    let machine = Machine::new().await;
    machine.sandbox("s").await;
    let mut spec = machine.container_spec("c", "s", "cat /proc/self/oom_score_adj");
    spec.resources.oom_score_adj = Some(-998);
    let (status, log) = machine.run(spec).await;
    assert_eq!(status.exit_code, 0);
    assert!(["-998\n", "0\n"].contains(&log.as_str()), "{log}");
}
