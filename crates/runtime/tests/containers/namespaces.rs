use crate::machine::Machine;
use orlop_runtime::{ContainerRuntime, ContainerSpec, Error};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

#[tokio::test(flavor = "multi_thread")]
async fn containers_of_a_sandbox_share_network_ipc_and_name_but_not_processes() {
    let machine = Machine::new().await;
    machine.sandbox("s").await;
    machine.start(machine.container_spec("a", "s", "echo shared > /dev/shm/x; sleep 100")).await;
    machine.start(machine.container_spec("b", "s", "sleep 100")).await;
    let script = "for n in net ipc uts; do readlink /proc/self/ns/$n; done; hostname; cat /sys/class/net/lo/operstate; ip -o addr show lo";
    let (_, a) = machine.exec("a", script).await;
    assert_eq!(a, machine.exec("b", script).await.1);
    assert!(a.contains("pod\n") && a.contains("127.0.0.1/8"), "{a}");
    let host = std::fs::read_link("/proc/self/ns/net").unwrap();
    assert!(!a.contains(host.to_str().unwrap()));
    assert_eq!(machine.exec("b", "cat /dev/shm/x").await.1, "shared\n");
    let (_, ps) = machine.exec("b", "cat /proc/1/comm; ls -d /proc/[0-9]* | wc -l").await;
    assert!(ps.starts_with("sleep\n"), "{ps}");
    // The pin is the very namespace.
    let netns = machine.list_sandboxes().await.unwrap()[0].netns.clone().unwrap();
    use std::os::unix::fs::MetadataExt;
    assert!(a.contains(&format!("net:[{}]", std::fs::metadata(netns).unwrap().ino())));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shared_process_namespace_has_an_init_that_reaps() {
    let machine = Machine::new().await;
    let mut spec = machine.sandbox_spec("s");
    spec.share_pid = true;
    machine.run_sandbox(spec).await.unwrap();
    machine.start(machine.container_spec("a", "s", "sleep 4321")).await;
    let script = "(sh -c 'sleep 0.1' &); sleep 0.4; ps -o stat,args; echo done; sleep 7654 & exit 0";
    machine.start(machine.container_spec("b", "s", script)).await;
    let status = machine.ended("b").await;
    assert_eq!(status.exit_code, 0);
    let log = machine.log("b");
    let zombies = log.lines().filter(|line| line.starts_with('Z')).count();
    assert!(log.contains("sleep 4321") && zombies == 0, "{log}");
    assert_eq!(machine.exec("a", "cat /proc/1/comm").await.1, "orlop-init\n");
    // What the ended container left running is gone, the other one is not.
    assert_eq!(machine.exec("a", "ps | grep -c '[s]leep 7654'").await.1, "0\n");
    machine.stop_container("a", std::time::Duration::ZERO).await.unwrap();
    assert_eq!(machine.container_status("a").await.unwrap().exit_code, 137);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_may_see_the_processes_of_one_beside_it_while_that_runs() {
    let machine = Machine::new().await;
    machine.sandbox("s").await;
    let looking = |id: &str, at: &str| ContainerSpec {
        processes_of: Some(at.into()),
        ..machine.container_spec(id, "s", "ps -o args; cat /proc/1/comm; sleep 5432 & exit 0")
    };
    assert!(matches!(machine.create_container(looking("l", "a")).await, Err(Error::NotFound { .. })));
    machine.start(machine.container_spec("a", "s", "sleep 4321")).await;
    let (status, log) = machine.run(looking("l", "a")).await;
    assert_eq!(status.exit_code, 0);
    assert!(log.contains("sleep 4321") && log.ends_with("sleep\n"), "{log}");
    // What it left behind is gone; the one that it looked at is not.
    assert_eq!(machine.exec("a", "ps | grep -c '[s]leep 5432'").await.1, "0\n");
    machine.stop_container("a", std::time::Duration::ZERO).await.unwrap();
    assert!(matches!(machine.create_container(looking("m", "a")).await, Err(Error::State(_))));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sandbox_may_have_the_hosts_namespaces() {
    let machine = Machine::new().await;
    let mut spec = machine.sandbox_spec("s");
    (spec.host_network, spec.host_pid, spec.host_ipc, spec.hostname) = (true, true, true, None);
    let status = machine.run_sandbox(spec).await.unwrap();
    assert_eq!(status.netns, None);
    let script = "for n in net pid ipc uts; do readlink /proc/self/ns/$n; done; (sleep 8765 &) ; exit 2";
    let (status, log) = machine.run(machine.container_spec("c", "s", script)).await;
    assert_eq!(status.exit_code, 2);
    for name in ["net", "pid", "ipc", "uts"] {
        let host = std::fs::read_link(format!("/proc/self/ns/{name}")).unwrap();
        assert!(log.contains(host.to_str().unwrap()), "{name} in {log}");
    }
    let own = std::process::Command::new("pgrep").args(["-f", "^sleep 8765"]).output().unwrap();
    assert!(own.stdout.is_empty(), "left in the host's process namespace");
}

#[tokio::test(flavor = "multi_thread")]
async fn sysctls_are_set_in_the_sandbox_and_refused_for_the_host() {
    let machine = Machine::new().await;
    let mut spec = machine.sandbox_spec("s");
    spec.sysctls.insert("net.ipv4.ip_unprivileged_port_start".into(), "77".into());
    spec.sysctls.insert("kernel.shm_rmid_forced".into(), "1".into());
    machine.run_sandbox(spec).await.unwrap();
    let script = "cat /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/kernel/shm_rmid_forced";
    assert_eq!(machine.output("c", script).await, "77\n1\n");
    let mut spec = machine.sandbox_spec("bad");
    spec.sysctls.insert("vm.swappiness".into(), "1".into());
    let error = machine.run_sandbox(spec).await.unwrap_err();
    assert!(error.to_string().contains("vm.swappiness"), "{error}");
    assert_eq!(machine.list_sandboxes().await.unwrap().len(), 1);
    assert!(!machine.traces().iter().any(|t| t.contains("sandboxes/bad")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_of_the_sandbox_can_be_reached_from_outside() {
    let machine = Machine::new().await;
    machine.sandbox("s").await;
    let script = "echo ready; nc -ll -p 8080 -e cat; sleep 100";
    machine.start(machine.container_spec("c", "s", script)).await;
    machine.printed("c", "ready").await;
    let mut tries = 0;
    let mut stream = loop {
        match machine.port_forward("s", 8080).await {
            Ok(stream) => break stream,
            Err(e) => assert!(tries < 1000, "{e}"),
        }
        tries += 1;
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    };
    stream.write_all(b"echo").await.unwrap();
    let mut back = [0; 4];
    let reading = stream.read_exact(&mut back);
    tokio::time::timeout(std::time::Duration::from_secs(10), reading).await.unwrap().unwrap();
    assert_eq!(&back, b"echo");
    let refused = machine.port_forward("s", 9).await.unwrap_err();
    assert!(refused.to_string().contains("shim") || refused.to_string().contains("port 9"), "{refused}");
}
