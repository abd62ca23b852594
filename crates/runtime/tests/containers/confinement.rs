use crate::machine::Machine;
use orlop_runtime::{ContainerRuntime, Device, Error, Mount, Propagation, Seccomp, Security, User};

fn security(change: impl FnOnce(&mut Security)) -> Security {
    let mut security = Security::default();
    change(&mut security);
    security
}

#[tokio::test(flavor = "multi_thread")]
async fn the_environment_is_complete_and_in_order() {
    let machine = Machine::new().await;
    machine.sandbox("s").await;
    let mut spec = machine.container_spec("c", "s", "env; pwd; hostname; id; umask");
    spec.env = vec![("A".into(), "1 $HOME".into()), ("A".into(), "2".into())];
    spec.working_dir = Some("/made/for/me".into());
    let (_, log) = machine.run(spec).await;
    for line in [
        "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "HOSTNAME=pod",
        "FROM_IMAGE=yes",
        "HOME=/root",
        "A=2",
        "/made/for/me",
        "pod",
        "uid=0(root) gid=0(root) groups=0(root)",
        "0022",
    ] {
        assert!(log.lines().any(|l| l == line), "{line:?} in {log}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn users_are_taken_from_the_spec_and_completed_from_the_image() {
    let machine = Machine::new().await;
    machine.sandbox("s").await;
    let mut spec = machine.container_spec("c", "s", "id; echo $HOME; grep Cap /proc/self/status; sleep 100");
    spec.security.user = User { uid: Some(33), gid: None, supplemental_groups: vec![77] };
    machine.start(spec).await;
    machine.printed("c", "CapAmb").await;
    let log = machine.log("c");
    assert!(log.contains("uid=33(web) gid=34(web) groups=34(web),40(logs),77"), "{log}");
    assert!(log.contains("/home/web\n"), "{log}");
    assert!(log.contains("CapEff:\t0000000000000000"), "{log}");
    // What is executed later is the same somebody.
    let (_, exec) = machine.exec("c", "id; echo $HOME $FROM_IMAGE; grep Cap /proc/self/status").await;
    assert!(exec.contains("uid=33(web) gid=34(web) groups=34(web),40(logs),77"), "{exec}");
    assert!(exec.contains("/home/web yes\n") && exec.contains("CapEff:\t0000000000000000"), "{exec}");
    let caps =
        |text: &str| text.lines().filter(|l| l.starts_with("Cap")).map(String::from).collect::<Vec<_>>();
    assert_eq!(caps(&log), caps(&exec));
}

#[tokio::test(flavor = "multi_thread")]
async fn capabilities_are_what_was_asked_for() {
    let machine = Machine::new().await;
    machine.sandbox("s").await;
    let script = "grep -E 'CapEff|CapBnd|CapInh|NoNewPrivs|Seccomp:' /proc/self/status";
    for (id, security, effective, filter) in [
        ("default", Security::default(), "00000000a80425fb", "2"),
        ("none", security(|s| s.capabilities_drop = vec!["ALL".into()]), "0000000000000000", "2"),
        (
            "one",
            security(|s| {
                s.capabilities_drop = vec!["ALL".into()];
                s.capabilities_add = vec!["NET_ADMIN".into()];
                s.no_new_privileges = true;
            }),
            "0000000000001000",
            "2",
        ),
        ("free", security(|s| s.seccomp = Seccomp::Unconfined), "00000000a80425fb", "0"),
    ] {
        let nnp = u8::from(security.no_new_privileges);
        let mut spec = machine.container_spec(id, "s", &format!("{script}; sleep 100"));
        spec.security = security;
        machine.start(spec).await;
        machine.printed(id, "Seccomp").await;
        let (_, exec) = machine.exec(id, script).await;
        for text in [machine.log(id), exec] {
            assert!(text.contains(&format!("CapEff:\t{effective}")), "{id}: {text}");
            assert!(text.contains(&format!("CapBnd:\t{effective}")), "{id}: {text}");
            assert!(text.contains("CapInh:\t0000000000000000"), "{id}: {text}");
            assert!(text.contains(&format!("NoNewPrivs:\t{nnp}")), "{id}: {text}");
            assert!(text.contains(&format!("Seccomp:\t{filter}")), "{id}: {text}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_default_filter_holds_for_the_first_process_and_for_executed_ones() {
    let machine = Machine::new().await;
    machine.sandbox("s").await;
    let script = "unshare -U true 2>&1; mount -t tmpfs x /tmp 2>&1; echo done";
    machine.start(machine.container_spec("c", "s", &format!("{script}; sleep 100"))).await;
    machine.printed("c", "done").await;
    for text in [machine.log("c"), machine.exec("c", script).await.1] {
        assert_eq!(
            text.matches("Operation not permitted").count() + text.matches("permission denied").count(),
            2,
            "{text}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_profile_of_the_host_can_be_named_and_must_be_there() {
    let machine = Machine::new().await;
    machine.sandbox("s").await;
    let profile = machine.path("profile.json");
    let text = r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["mkdir","mkdirat"],"action":"SCMP_ACT_ERRNO","errnoRet":28}]}"#;
    std::fs::write(&profile, text).unwrap();
    let mut spec = machine.container_spec("c", "s", "mkdir /x 2>&1");
    spec.security.seccomp = Seccomp::Localhost(profile);
    let (_, log) = machine.run(spec).await;
    assert!(log.contains("No space left on device"), "{log}");
    let mut spec = machine.container_spec("d", "s", "true");
    spec.security.seccomp = Seccomp::Localhost(machine.path("none.json"));
    assert!(matches!(machine.create_container(spec).await, Err(Error::Io { .. })));
    assert!(matches!(machine.container_status("d").await, Err(Error::NotFound { .. })));
}

#[tokio::test(flavor = "multi_thread")]
async fn proc_and_sys_are_masked_and_read_only_unless_asked_otherwise() {
    let machine = Machine::new().await;
    machine.sandbox("s").await;
    let script = "echo 1 > /proc/sys/kernel/panic; echo 0 > /proc/irq/default_smp_affinity; touch /sys/kernel/x; \
                  mkdir /sys/fs/cgroup/x; mkdir /sys/fs/cgroup/memory/x; ls /sys/firmware | wc -l; \
                  cat /proc/timer_list /proc/keys /proc/interrupts 2>/dev/null | wc -c";
    let log = machine.output("c", &format!("({script}) 2>&1")).await;
    assert_eq!(log.matches("Read-only file system").count(), 5, "{log}");
    assert!(log.ends_with("0\n0\n"), "{log}");
    let mut spec = machine.container_spec("p", "s", "ls /dev");
    spec.security.privileged = true;
    let (_, log) = machine.run(spec).await;
    assert!(log.contains("kmsg"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_runtimes_program_cannot_be_overwritten_through_a_process_of_ours() {
    use nix::sys::statvfs::{FsFlags, statvfs};
    let machine = Machine::new().await;
    machine.sandbox("s").await;
    let pid = std::fs::read_to_string(machine.path("root/sandboxes/s/shim.lock")).unwrap();
    let flags = |path: &str| statvfs(path).unwrap().flags();
    assert!(!flags(crate::machine::SHIM).contains(FsFlags::ST_RDONLY));
    assert!(flags(&format!("/proc/{pid}/exe")).contains(FsFlags::ST_RDONLY));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_privileged_container_may_write_kernel_parameters() {
    let machine = Machine::new().await;
    machine.sandbox("s").await;
    let script = "touch /proc/sys/kernel/shm_rmid_forced && echo writable";
    let mut spec = machine.container_spec("p", "s", script);
    spec.security.privileged = true;
    let (_, log) = machine.run(spec).await;
    assert!(log.contains("writable"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_root_can_be_read_only_and_mounts_are_as_asked() {
    let machine = Machine::new().await;
    machine.sandbox("s").await;
    std::fs::create_dir_all(machine.path("volume/inner")).unwrap();
    std::fs::write(machine.path("volume/file"), "from the host").unwrap();
    std::fs::write(machine.path("hosts"), "127.0.0.1 me\n").unwrap();
    let mount = |host: &str, container: &str, read_only| Mount {
        host_path: machine.path(host),
        container_path: container.into(),
        read_only,
        propagation: Propagation::Private,
    };
    let script = "touch /x; cat /data/file; echo; echo back > /data/answer; touch /fixed/x; cat /etc/hosts; \
                  touch /dev/shm/x && echo shm";
    let mut spec = machine.container_spec("c", "s", &format!("({script}) 2>&1"));
    spec.security.read_only_rootfs = true;
    spec.mounts = vec![
        mount("volume", "/data", false),
        mount("volume", "/fixed", true),
        mount("hosts", "/etc/hosts", true),
    ];
    let (_, log) = machine.run(spec).await;
    assert_eq!(log.matches("Read-only file system").count(), 2, "{log}");
    assert!(log.contains("from the host\n") && log.contains("127.0.0.1 me\nshm\n"), "{log}");
    assert_eq!(std::fs::read_to_string(machine.path("volume/answer")).unwrap(), "back\n");
    let mut spec = machine.container_spec("d", "s", "true");
    spec.mounts = vec![mount("nowhere", "/data", false)];
    machine.create_container(spec).await.unwrap();
    let error = machine.start_container("d").await.unwrap_err();
    assert!(matches!(&error, Error::Start(why) if why.contains("nowhere")), "{error}");
}

/// A tmpfs mount that other mounts propagate to and from, gone with the test.
struct Shared(std::path::PathBuf);

impl Shared {
    fn new(path: std::path::PathBuf) -> Self {
        use nix::mount::{MsFlags, mount};
        std::fs::create_dir_all(&path).unwrap();
        mount(Some("x"), &path, Some("tmpfs"), MsFlags::empty(), None::<&str>).unwrap();
        mount(None::<&str>, &path, None::<&str>, MsFlags::MS_SHARED, None::<&str>).unwrap();
        std::fs::create_dir(path.join("later")).unwrap();
        std::fs::create_dir(path.join("inside")).unwrap();
        Self(path)
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        for name in ["later", "inside", ""] {
            let _ = nix::mount::umount2(&self.0.join(name), nix::mount::MntFlags::MNT_DETACH);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn mounts_made_later_are_seen_where_propagation_says_so() {
    let machine = Machine::new().await;
    machine.sandbox("s").await;
    let shared = Shared::new(machine.path("shared"));
    for (id, propagation) in [
        ("private", Propagation::Private),
        ("slave", Propagation::HostToContainer),
        ("shared", Propagation::Bidirectional),
    ] {
        let mut spec = machine.container_spec(id, "s", "sleep 100");
        spec.security.privileged = propagation == Propagation::Bidirectional;
        let (host_path, container_path) = (shared.0.clone(), "/v".into());
        spec.mounts = vec![Mount { host_path, container_path, read_only: false, propagation }];
        machine.start(spec).await;
    }
    let late = shared.0.join("later");
    nix::mount::mount(Some("y"), &late, Some("tmpfs"), nix::mount::MsFlags::empty(), None::<&str>).unwrap();
    std::fs::write(late.join("seen"), "").unwrap();
    assert_eq!(machine.exec("private", "ls /v/later").await.1, "");
    assert_eq!(machine.exec("slave", "ls /v/later").await.1, "seen\n");
    assert_eq!(machine.exec("shared", "ls /v/later").await.1, "seen\n");
    let script = "mount -t tmpfs z /v/inside && touch /v/inside/from-container";
    assert_eq!(machine.exec("shared", script).await.0, 0);
    assert!(shared.0.join("inside/from-container").exists());
    assert_eq!(machine.exec("slave", "ls /v/inside").await.1, "from-container\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn devices_are_there_if_asked_for_and_no_others_can_be_opened() {
    let machine = Machine::new().await;
    machine.sandbox("s").await;
    let script = "head -c 3 /dev/nought | wc -c; mknod /mem c 1 1 && cat /mem; ls /dev; head -c 1 /dev/urandom | wc -c";
    let mut spec = machine.container_spec("c", "s", &format!("({script}) 2>&1"));
    spec.devices = vec![Device {
        host_path: "/dev/zero".into(),
        container_path: "/dev/nought".into(),
        permissions: "rwm".into(),
    }];
    let (_, log) = machine.run(spec).await;
    assert!(log.starts_with("3\n") && log.ends_with("1\n"), "{log}");
    assert!(log.contains("/mem': Operation not permitted"), "{log}");
    assert!(!log.contains("kmsg"), "{log}");
    let mut spec = machine.container_spec("p", "s", "ls /dev");
    spec.security.privileged = true;
    let (_, log) = machine.run(spec).await;
    assert!(log.contains("kmsg"), "{log}");
}
