use crate::machine::{Machine, SHIM};
use orlop_runtime::{ContainerRuntime, ContainerState, RuntimeEvent};
use std::{
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
    time::Duration,
};

async fn listening(machine: &Machine) -> tokio::sync::broadcast::Receiver<RuntimeEvent> {
    machine.events()
}

#[tokio::test(flavor = "multi_thread")]
async fn containers_live_on_without_the_agent_and_are_found_again() {
    let mut machine = Machine::new().await;
    machine.sandbox("s").await;
    machine
        .start(machine.container_spec("stays", "s", "n=0; while :; do n=$((n+1)); echo $n; sleep 0.02; done"))
        .await;
    machine.start(machine.container_spec("ends", "s", "sleep 0.3; exit 8")).await;
    machine.create_container(machine.container_spec("new", "s", "echo started later")).await.unwrap();
    let before = machine.container_status("stays").await.unwrap();
    machine.close();
    let lines = machine.log("stays").lines().count();
    tokio::time::sleep(Duration::from_millis(600)).await;
    assert!(machine.log("stays").lines().count() > lines);
    machine.open().await;
    let after = machine.container_status("stays").await.unwrap();
    assert_eq!(
        (after.state, after.pid, after.started_at),
        (ContainerState::Running, before.pid, before.started_at)
    );
    let ended = machine.container_status("ends").await.unwrap();
    assert_eq!((ended.state, ended.exit_code), (ContainerState::Exited, 8));
    // Everything works as before: events, exec, starting what was made before, stopping.
    let mut events = listening(&machine).await;
    assert_eq!(machine.exec("stays", "echo hi").await.1, "hi\n");
    machine.start_container("new").await.unwrap();
    let want = RuntimeEvent::Exited { sandbox_id: "s".into(), container_id: "new".into() };
    assert_eq!(events.recv().await.unwrap(), want);
    assert_eq!(machine.log("new"), "started later\n");
    assert!(machine.list_sandboxes().await.unwrap()[0].ready);
    machine.stop_container("stays", Duration::ZERO).await.unwrap();
}

/// An agent in a process of its own, killed with the test.
struct Agent(Child);
impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn killing_the_agent_hurts_no_container() {
    let mut machine = Machine::closed();
    let mut agent = Agent(
        Command::new(SHIM)
            .arg("agent")
            .args([machine.path("root"), machine.config.cgroup_root.clone().into(), machine.path("busybox")])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap(),
    );
    let mut line = String::new();
    BufReader::new(agent.0.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "ready\n");
    agent.0.kill().unwrap();
    agent.0.wait().unwrap();
    let log = machine.path("root/logs/c.log");
    let lines = || std::fs::read_to_string(&log).unwrap().lines().count();
    let before = lines();
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(lines() > before);
    machine.open().await;
    assert_eq!(machine.container_status("c").await.unwrap().state, ContainerState::Running);
    machine.exec("c", "touch /end").await;
    assert_eq!(machine.ended("c").await.exit_code, 7);
    // The shim is in a group of the runtime's own, not in its agent's.
    machine.remove_sandbox("s").await.unwrap();
}

fn shim_pid(machine: &Machine) -> i32 {
    std::fs::read_to_string(machine.path("root/sandboxes/s/shim.lock")).unwrap().trim().parse().unwrap()
}

fn kill(pid: i32) {
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_shim_takes_its_containers_with_it_and_that_is_told() {
    let machine = Machine::new().await;
    machine.sandbox("s").await;
    machine.start(machine.container_spec("c", "s", "sleep 100")).await;
    let pid = machine.container_status("c").await.unwrap().pid;
    let mut events = listening(&machine).await;
    kill(shim_pid(&machine));
    let exited = RuntimeEvent::Exited { sandbox_id: "s".into(), container_id: "c".into() };
    assert_eq!(events.recv().await.unwrap(), exited);
    assert_eq!(events.recv().await.unwrap(), RuntimeEvent::SandboxLost { sandbox_id: "s".into() });
    let status = machine.container_status("c").await.unwrap();
    assert_eq!((status.state, status.exit_code), (ContainerState::Exited, 137));
    assert!(!std::path::Path::new(&format!("/proc/{pid}/root/bin")).exists());
    assert!(!machine.list_sandboxes().await.unwrap()[0].ready);
    machine.remove_sandbox("s").await.unwrap();
    machine.sandbox("s").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shim_that_was_killed_while_the_agent_was_away_is_noticed() {
    let mut machine = Machine::new().await;
    let mut shared = machine.sandbox_spec("s");
    shared.share_pid = true;
    machine.run_sandbox(shared).await.unwrap();
    machine.start(machine.container_spec("c", "s", "sleep 100")).await;
    machine.close();
    kill(shim_pid(&machine));
    machine.open().await;
    let status = machine.container_status("c").await.unwrap();
    assert_eq!((status.state, status.exit_code), (ContainerState::Exited, 137));
    assert!(!machine.list_sandboxes().await.unwrap()[0].ready);
    assert!(!machine.traces().iter().any(|t| t.contains("sandboxes/s")), "{:#?}", machine.traces());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_never_finished_is_removed_when_the_runtime_opens() {
    let mut machine = Machine::new().await;
    machine.sandbox("s").await;
    machine.start(machine.container_spec("c", "s", "sleep 100")).await;
    machine.close();
    // As if the agent had died between two steps: before a sandbox was told of, before a container's record was written.
    let record = machine.path("root/sandboxes/s/sandbox.json");
    let text = std::fs::read_to_string(&record).unwrap();
    std::fs::write(&record, text.replace("\"Made\"", "\"Making\"")).unwrap();
    std::fs::create_dir_all(machine.path("root/containers/half/upper/x")).unwrap();
    std::fs::create_dir_all(machine.path("root/sandboxes/empty")).unwrap();
    std::fs::create_dir_all(machine.path("root/sandboxes/torn")).unwrap();
    std::fs::write(machine.path("root/sandboxes/torn/sandbox.json"), "{\"spec").unwrap();
    machine.open().await;
    assert!(machine.list_sandboxes().await.unwrap().is_empty());
    assert!(machine.list_containers().await.unwrap().is_empty());
    for folder in ["sandboxes", "containers"] {
        assert_eq!(std::fs::read_dir(machine.path("root").join(folder)).unwrap().count(), 0);
    }
    assert!(!machine.traces().iter().any(|t| t.contains("shim ")), "{:#?}", machine.traces());
}

#[tokio::test(flavor = "multi_thread")]
async fn two_runtimes_cannot_use_one_root() {
    let machine = Machine::new().await;
    let second = orlop_runtime::Runtime::open(machine.config.clone()).await;
    assert!(second.is_err_and(|e| e.to_string().contains("another process uses")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shim_keeps_little_memory_and_has_one_thread() {
    let machine = Machine::new().await;
    machine.sandbox("s").await;
    machine.start(machine.container_spec("c", "s", "echo x; sleep 100")).await;
    machine.exec("c", "true").await;
    machine.printed("c", "x").await;
    let pid = shim_pid(&machine);
    let rollup = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
    let own: u64 = rollup
        .lines()
        .find_map(|l| l.strip_prefix("Anonymous:"))
        .and_then(|l| l.trim().trim_end_matches(" kB").parse().ok())
        .unwrap();
    assert!(own < 2048, "{rollup}");
    assert_eq!(std::fs::read_dir(format!("/proc/{pid}/task")).unwrap().count(), 1);
}
