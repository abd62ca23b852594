use super::*;
use libcontainer::oci_spec::runtime::Spec;

const ALL: u64 = (1 << 41) - 1;

fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(String::from).collect()
}

fn image() -> ImageConfig {
    ImageConfig {
        env: vec![("A".into(), "image".into()), ("B".into(), "image".into())],
        entrypoint: words("/entry -x"),
        cmd: words("default"),
        working_dir: "/srv".into(),
        ..ImageConfig::default()
    }
}

fn around() -> Surroundings {
    Surroundings {
        hostname: Some("web-0".into()),
        shm: "/run/s/shm".into(),
        cgroup: "/orlop/pod1/c1".into(),
        bounding_set: ALL,
        ..Surroundings::default()
    }
}

fn translated(spec: &ContainerSpec) -> Spec {
    serde_json::from_value(translate(spec, &image(), &around()).unwrap().spec).unwrap()
}

#[test]
fn a_command_replaces_the_images_words_and_arguments_alone_only_its_cmd() {
    for (command, args, want) in [
        ("", "", "/entry -x default"),
        ("", "a b", "/entry -x a b"),
        ("/bin/run", "", "/bin/run"),
        ("/bin/run", "a", "/bin/run a"),
    ] {
        let spec = ContainerSpec { command: words(command), args: words(args), ..ContainerSpec::default() };
        let process = translated(&spec).process().clone().unwrap();
        assert_eq!(process.args().clone().unwrap(), words(want));
    }
    let nothing = translate(&ContainerSpec::default(), &ImageConfig::default(), &around());
    assert!(matches!(nothing, Err(Error::Start(_))));
}

#[test]
fn the_environment_is_the_defaults_then_the_images_then_the_pods() {
    let spec = ContainerSpec {
        env: vec![("B".into(), "pod".into()), ("C".into(), "1".into()), ("C".into(), "2".into())],
        tty: true,
        ..ContainerSpec::default()
    };
    let env = translated(&spec).process().as_ref().unwrap().env().clone().unwrap();
    let want = [&format!("PATH={DEFAULT_PATH}"), "TERM=xterm", "HOSTNAME=web-0", "A=image", "B=pod", "C=2"];
    assert_eq!(env, want);
}

#[test]
fn capabilities_are_the_default_set_with_what_is_added_and_dropped() {
    let with = |privileged, add: &str, drop: &str| {
        let security = Security {
            privileged,
            capabilities_add: words(add),
            capabilities_drop: words(drop),
            ..Security::default()
        };
        capabilities(&security, ALL).unwrap()
    };
    assert_eq!(with(false, "", "").len(), 14);
    assert_eq!(with(false, "NET_BIND_SERVICE", "ALL"), ["NET_BIND_SERVICE"]);
    assert_eq!(with(false, "", "all"), Vec::<String>::new());
    assert_eq!(with(false, "ALL", "").len(), 41);
    assert_eq!(with(false, "ALL", "CAP_SYS_ADMIN").len(), 40);
    assert!(with(false, "cap_sys_time", "").contains(&"SYS_TIME".to_string()));
    assert_eq!(with(true, "", "ALL").len(), 41);
    let unknown = Security { capabilities_add: words("FLY"), ..Security::default() };
    assert!(capabilities(&unknown, ALL).is_err());
    // What the machine does not give cannot be passed on.
    let lacking = capabilities(&Security { privileged: true, ..Security::default() }, ALL & !(1 << 24));
    assert!(!lacking.unwrap().contains(&"SYS_RESOURCE".to_string()));
}

#[test]
fn an_ordinary_container_is_confined() {
    let spec = translated(&ContainerSpec::default());
    let linux = spec.linux().as_ref().unwrap();
    assert!(linux.seccomp().is_some());
    assert!(linux.masked_paths().as_ref().unwrap().contains(&"/proc/kcore".to_string()));
    assert!(linux.readonly_paths().as_ref().unwrap().contains(&"/proc/sys".to_string()));
    let sys = spec.mounts().as_ref().unwrap().iter().find(|m| m.destination() == Path::new("/sys")).unwrap();
    assert!(sys.options().as_ref().unwrap().contains(&"ro".to_string()));
    let process = spec.process().as_ref().unwrap();
    assert_eq!(process.no_new_privileges(), None);
    assert!(process.rlimits().is_none());
    let capabilities = process.capabilities().as_ref().unwrap();
    assert!(capabilities.inheritable().is_none() && capabilities.ambient().is_none());
    assert!(linux.resources().is_none());
}

#[test]
fn a_privileged_container_is_not() {
    let security = Security { privileged: true, ..Security::default() };
    let spec = ContainerSpec { security, ..ContainerSpec::default() };
    let made = translate(&spec, &image(), &around()).unwrap();
    assert_eq!(made.devices, None);
    let spec: Spec = serde_json::from_value(made.spec).unwrap();
    let linux = spec.linux().as_ref().unwrap();
    assert!(linux.seccomp().is_none());
    assert!(linux.masked_paths().as_ref().unwrap().is_empty());
    let sys = spec.mounts().as_ref().unwrap().iter().find(|m| m.destination() == Path::new("/sys")).unwrap();
    assert!(sys.options().as_ref().unwrap().contains(&"rw".to_string()));
}

#[test]
fn asked_for_mounts_come_last_parents_first_and_replace_defaults() {
    let mount = |path: &str| Mount {
        host_path: "/h".into(),
        container_path: path.into(),
        read_only: true,
        propagation: Propagation::HostToContainer,
    };
    let spec = ContainerSpec {
        mounts: vec![mount("/data/a/b"), mount("/data"), mount("/dev/shm")],
        ..ContainerSpec::default()
    };
    let spec = translated(&spec);
    let mounts = spec.mounts().as_ref().unwrap();
    let order: Vec<&str> = mounts.iter().filter_map(|m| m.destination().to_str()).collect();
    assert_eq!(order[order.len() - 3..], ["/data", "/dev/shm", "/data/a/b"]);
    assert_eq!(order.iter().filter(|p| **p == "/dev/shm").count(), 1);
    assert_eq!(mounts.last().unwrap().options().clone().unwrap(), ["rbind", "rslave", "ro"]);
}

#[test]
fn devices_are_made_and_allowed() {
    let device = crate::Device {
        host_path: "/dev/zero".into(),
        container_path: "/dev/nought".into(),
        permissions: "rw".into(),
    };
    let spec = ContainerSpec { devices: vec![device], ..ContainerSpec::default() };
    let made = translate(&spec, &image(), &around()).unwrap();
    assert_eq!(made.devices.unwrap().last().unwrap(), "c 1:5 rw");
    assert_eq!(made.spec["linux"]["devices"][0]["path"], "/dev/nought");
    let device = crate::Device { host_path: "/etc/hostname".into(), ..spec.devices[0].clone() };
    let spec = ContainerSpec { devices: vec![device], ..ContainerSpec::default() };
    assert!(matches!(translate(&spec, &image(), &around()), Err(Error::Start(_))));
}

#[test]
fn namespaces_follow_the_sandbox() {
    let kinds = |around: &Surroundings| {
        let made = translate(&ContainerSpec::default(), &image(), around).unwrap().spec;
        let spaces = made["linux"]["namespaces"].as_array().unwrap().clone();
        spaces.iter().map(|n| n.to_string().replace('"', "")).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(kinds(&around()), "{type:mount} {type:pid}");
    assert_eq!(kinds(&Surroundings { host_pid: true, ..around() }), "{type:mount}");
    let shared = Surroundings { pid_namespace: Some("/p".into()), ..around() };
    assert_eq!(kinds(&shared), "{type:mount} {path:/p,type:pid}");
}

#[test]
fn a_container_sees_its_own_cgroup_and_cannot_change_it() {
    let v1 = Surroundings { cgroup_mounts: vec!["/cg/cpu,cpuacct".into(), "/cg/memory".into()], ..around() };
    for (privileged, access) in [(false, "ro"), (true, "rw")] {
        let security = Security { privileged, ..Security::default() };
        let spec = ContainerSpec { security, ..ContainerSpec::default() };
        let made = translate(&spec, &image(), &v1).unwrap().spec;
        let mounts = made["mounts"].as_array().unwrap();
        let memory = mounts.iter().find(|m| m["destination"] == "/sys/fs/cgroup/memory").unwrap();
        assert_eq!(memory["source"], "/cg/memory/orlop/pod1/c1");
        assert!(memory["options"].as_array().unwrap().contains(&json!(access)));
        let read_only = made["linux"]["readonlyPaths"].as_array().unwrap();
        assert_eq!(read_only.contains(&json!("/sys/fs/cgroup")), !privileged);
    }
    let v2 = Surroundings { unified_cgroups: true, ..around() };
    let made = translate(&ContainerSpec::default(), &image(), &v2).unwrap().spec;
    let mounts = made["mounts"].as_array().unwrap();
    let cgroup = mounts.iter().find(|m| m["destination"] == "/sys/fs/cgroup").unwrap();
    assert_eq!(cgroup["type"], "cgroup");
    assert!(cgroup["options"].as_array().unwrap().contains(&json!("ro")));
}
