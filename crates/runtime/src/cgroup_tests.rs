use super::*;

const HYBRID: &str = "\
24 23 0:22 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755
25 24 0:23 / /sys/fs/cgroup/cpu,cpuacct rw shared:3 - cgroup cgroup rw,cpu,cpuacct
26 24 0:24 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
27 24 0:25 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd
28 24 0:26 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw
";

#[test]
fn a_machine_with_v1_controllers_is_v1_and_its_bare_hierarchies_are_known() {
    let found = Cgroups::from_mountinfo(HYBRID);
    assert!(!found.is_unified());
    assert_eq!(found.controllers["cpu"], PathBuf::from("/sys/fs/cgroup/cpu,cpuacct"));
    assert_eq!(found.controllers["cpuacct"], found.controllers["cpu"]);
    let bare = ["/sys/fs/cgroup/systemd", "/sys/fs/cgroup/unified"].map(PathBuf::from);
    assert_eq!(found.others, bare);
    assert_eq!(found.folders(Path::new("/orlop/a")).count(), 2);
}

#[test]
fn a_machine_with_only_the_unified_hierarchy_is_v2() {
    let found = Cgroups::from_mountinfo("25 24 0:23 / /sys/fs/cgroup rw shared:3 - cgroup2 cgroup2 rw\n");
    assert!(found.is_unified());
    assert_eq!(found.unified_folder(Path::new("/orlop/a")), Some("/sys/fs/cgroup/orlop/a".into()));
}

#[test]
fn the_group_of_a_process_is_found_in_either_version() {
    let v1 = Cgroups::from_mountinfo(HYBRID);
    let text = "9:name=systemd:/init\n4:memory:/a/b\n1:cpu,cpuacct:/c\n0::/d\n";
    assert_eq!(v1.procs_of(text), Some("/sys/fs/cgroup/memory/a/b/cgroup.procs".into()));
    let v2 = Cgroups::from_mountinfo("25 24 0:23 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n");
    assert_eq!(v2.procs_of("0::/\n"), Some("/sys/fs/cgroup/cgroup.procs".into()));
    assert_eq!(v2.procs_of("nonsense"), None);
}

fn full() -> Resources {
    Resources {
        cpu_quota: 50_000,
        cpu_period: 100_000,
        cpu_shares: 512,
        memory_limit: 1 << 20,
        pids_limit: 10,
        cpuset_cpus: "0-1".into(),
        hugepage_limits: [("2MB".to_string(), 4096)].into(),
        ..Resources::default()
    }
}

fn lines(settings: Vec<Setting>) -> Vec<String> {
    settings.into_iter().map(|s| format!("{} {}", s.file, s.value)).collect()
}

#[test]
fn limits_become_the_files_of_v1() {
    let want = [
        "cpu.shares 512",
        "cpu.cfs_period_us 100000",
        "cpu.cfs_quota_us 50000",
        "memory.limit_in_bytes 1048576",
        "memory.memsw.limit_in_bytes 1048576",
        "pids.max 10",
        "cpuset.cpus 0-1",
        "hugetlb.2MB.limit_in_bytes 4096",
    ];
    assert_eq!(lines(settings_v1(&full(), false)), want);
    assert!(settings_v1(&Resources::default(), false).is_empty());
}

#[test]
fn limits_become_the_files_of_v2() {
    let want = [
        "cpu.weight 20",
        "cpu.max 50000 100000",
        "memory.max 1048576",
        "memory.swap.max 0",
        "pids.max 10",
        "cpuset.cpus 0-1",
        "hugetlb.2MB.max 4096",
    ];
    assert_eq!(lines(settings_v2(&full(), false)), want);
    assert!(settings_v2(&Resources::default(), false).is_empty());
}

#[test]
fn an_update_lifts_the_limits_it_does_not_name() {
    let want = ["cpu.max max 100000", "memory.max max", "memory.swap.max max", "pids.max max"];
    assert_eq!(lines(settings_v2(&Resources::default(), true)), want);
    let want =
        ["cpu.cfs_quota_us -1", "memory.memsw.limit_in_bytes -1", "memory.limit_in_bytes -1", "pids.max max"];
    assert_eq!(lines(settings_v1(&Resources::default(), true)), want);
}

#[test]
fn shares_and_weights_agree_at_the_ends() {
    for (shares, want) in [(0, 1), (2, 1), (1024, 39), (262_144, 10_000), (1 << 40, 10_000)] {
        assert_eq!(weight(shares), want, "{shares}");
    }
}

#[test]
fn a_counter_is_found_by_its_whole_name() {
    let text = "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n";
    assert_eq!(keyed(text, "oom_kill"), Some(3));
    assert_eq!(keyed(text, "oom"), None);
}

/// Removes the group, also when the test fails.
struct Group(Cgroups, PathBuf);
impl Drop for Group {
    fn drop(&mut self) {
        let _ = self.0.remove(&self.1);
    }
}

#[test]
fn a_group_is_made_limited_read_and_removed_on_this_machine() {
    let cgroups = Cgroups::detect().unwrap();
    let top = PathBuf::from(format!("/orlop-test-cgroup-{}", std::process::id()));
    let group = Group(cgroups.clone(), top.clone());
    let path = top.join("burstable/pod1/c1");
    assert_eq!(cgroups.create(&path), Vec::<String>::new());
    let resources = Resources { memory_limit: 8 << 20, pids_limit: 7, ..Resources::default() };
    assert_eq!(cgroups.apply(&path, &resources, false), Vec::<String>::new());
    let file = if cgroups.is_unified() { "memory.max" } else { "memory.limit_in_bytes" };
    let folder = cgroups.folder_of("memory", &path).unwrap();
    assert_eq!(std::fs::read_to_string(folder.join(file)).unwrap().trim(), (8 << 20).to_string());
    assert_eq!(cgroups.stats(&path, 5).pids, 0);
    assert_eq!(cgroups.processes(&path), Vec::<i32>::new());
    // A limit whose controller is missing is a warning, not an error.
    let huge = Resources { hugepage_limits: [("3MB".to_string(), 1)].into(), ..Resources::default() };
    assert_eq!(cgroups.apply(&path, &huge, false).len(), 1);
    assert!(cgroups.remove(&path).unwrap());
    cgroups.prune_parents(&path, &top);
    assert!(folder.ancestors().nth(2).is_some_and(|burstable| !burstable.exists()));
    assert!(cgroups.folder_of("memory", &top).unwrap().exists());
    drop(group);
    assert!(!cgroups.folder_of("memory", &top).unwrap().exists());
}
