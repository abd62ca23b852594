//! Making a sandbox: the shim moves into the namespaces that its containers will share, and pins them.

use crate::{
    cgroup::Cgroups,
    layout::{NAMESPACES, SHM},
    records::SandboxRecord,
};
use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
};
use std::{fs::File, os::fd::AsRawFd, path::Path};

/// Name of the group of the shims themselves, at the top of the runtime's cgroup.
pub const SHIM_CGROUP: &str = "shim";

fn at<E: std::fmt::Display>(step: &'static str) -> impl Fn(E) -> String {
    move |e| format!("{step}: {e}")
}

/// Makes everything, with the sandbox's folder as working folder. Returns the process id of the shared process
/// namespace's init, if there is one.
pub fn setup(record: &SandboxRecord) -> Result<Option<i32>, String> {
    let spec = &record.spec;
    // The last thing to be killed for memory, where that may be asked for.
    let _ = std::fs::write("/proc/self/oom_score_adj", "-998");
    std::fs::create_dir_all(NAMESPACES).map_err(at("making the folder for namespaces"))?;

    let own_uts = spec.hostname.is_some() || !spec.host_network;
    let mut flags = CloneFlags::empty();
    flags.set(CloneFlags::CLONE_NEWNET, !spec.host_network);
    flags.set(CloneFlags::CLONE_NEWIPC, !spec.host_ipc);
    flags.set(CloneFlags::CLONE_NEWUTS, own_uts);
    unshare(flags).map_err(at("making namespaces"))?;
    for (own, name) in [(!spec.host_network, "net"), (!spec.host_ipc, "ipc"), (own_uts, "uts")] {
        if own {
            pin(&format!("/proc/self/ns/{name}"), name)?;
        }
    }
    if let Some(hostname) = &spec.hostname {
        nix::unistd::sethostname(hostname).map_err(at("setting the host name"))?;
    }
    if !spec.host_network {
        loopback_up()?;
    }
    for (name, value) in &spec.sysctls {
        sysctl(name, value, !spec.host_network, !spec.host_ipc)?;
    }
    if !spec.host_ipc {
        std::fs::create_dir_all(SHM).map_err(at("making the folder for shared memory"))?;
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
        mount(Some("shm"), SHM, Some("tmpfs"), flags, Some("mode=1777,size=64m"))
            .map_err(at("mounting shared memory"))?;
    }
    // Whoever stops the agent's service must not take the containers with it.
    if let Ok(cgroups) = Cgroups::detect() {
        cgroups.adopt_process(&record.cgroup_root.join(SHIM_CGROUP), std::process::id());
    }
    if spec.share_pid && !spec.host_pid {
        let init = start_init()?;
        pin(&format!("/proc/{init}/ns/pid"), "pid")?;
        return Ok(Some(init));
    }
    Ok(None)
}

fn pin(namespace: &str, name: &str) -> Result<(), String> {
    let path = Path::new(NAMESPACES).join(name);
    File::create(&path).map_err(at("making the pin of a namespace"))?;
    mount(Some(namespace), &path, None::<&str>, MsFlags::MS_BIND, None::<&str>)
        .map_err(at("pinning a namespace"))
}

fn loopback_up() -> Result<(), String> {
    let socket = std::net::UdpSocket::bind("0.0.0.0:0").map_err(at("opening a socket"))?;
    // SAFETY: all zeroes is a valid ifreq.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
        *to = *from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    // SAFETY: SIOCSIFFLAGS reads an ifreq through the pointer.
    if unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS as _, &request) } < 0 {
        return Err(format!("bringing up lo: {}", nix::Error::last()));
    }
    Ok(())
}

fn sysctl(name: &str, value: &str, own_network: bool, own_ipc: bool) -> Result<(), String> {
    let path = namespaced_sysctl(name, own_network, own_ipc)
        .ok_or_else(|| format!("sysctl {name:?} is not the sandbox's own"))?;
    std::fs::write(format!("/proc/sys/{path}"), value)
        .map_err(|e| format!("setting sysctl {name} to {value}: {e}"))
}

/// Where a kernel parameter of the sandbox's own namespaces lies; `None` for one that would change the host.
fn namespaced_sysctl(name: &str, own_network: bool, own_ipc: bool) -> Option<String> {
    // With slashes, dots belong to names (`net/ipv4/conf/eth0.1/forwarding`).
    let path = if name.contains('/') { name.to_string() } else { name.replace('.', "/") };
    if path.split('/').any(|part| part.is_empty() || part == "." || part == "..") {
        return None;
    }
    let ipc = path.starts_with("kernel/shm")
        || path.starts_with("kernel/msg")
        || path == "kernel/sem"
        || path.starts_with("fs/mqueue/");
    ((own_network && path.starts_with("net/")) || (own_ipc && ipc)).then_some(path)
}

/// The first process of the sandbox's process namespace: inherits orphans and reaps them. Dies with the shim.
fn start_init() -> Result<i32, String> {
    let flags = libc::CLONE_NEWPID | libc::SIGCHLD;
    // SAFETY: without a stack this clones like fork(2), and this process has one thread.
    let pid = unsafe { libc::syscall(libc::SYS_clone, flags, 0, 0, 0, 0) };
    match pid {
        -1 => Err(format!("making a process namespace: {}", nix::Error::last())),
        0 => init(),
        pid => Ok(pid as i32),
    }
}

fn init() -> ! {
    use nix::sys::{
        signal::{SigSet, SigmaskHow, Signal, sigprocmask},
        wait::{WaitPidFlag, waitpid},
    };
    let _ = nix::sys::prctl::set_pdeathsig(Signal::SIGKILL);
    let _ = nix::sys::prctl::set_name(c"orlop-init");
    // SAFETY: nothing here uses a descriptor.
    unsafe { libc::syscall(libc::SYS_close_range, 0, u32::MAX, 0) };
    let _ = nix::unistd::chdir("/");
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGCHLD);
    let _ = sigprocmask(SigmaskHow::SIG_SETMASK, Some(&signals), None);
    loop {
        while waitpid(None, Some(WaitPidFlag::WNOHANG)).is_ok_and(|s| s.pid().is_some()) {}
        let _ = signals.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_parameters_of_the_sandboxs_own_namespaces_may_be_set() {
        let path = |name: &str| namespaced_sysctl(name, true, true);
        let port = "net.ipv4.ip_unprivileged_port_start";
        assert_eq!(path(port).as_deref(), Some("net/ipv4/ip_unprivileged_port_start"));
        assert_eq!(
            path("net/ipv4/conf/eth0.1/forwarding").as_deref(),
            Some("net/ipv4/conf/eth0.1/forwarding")
        );
        assert_eq!(path("kernel.shm_rmid_forced").as_deref(), Some("kernel/shm_rmid_forced"));
        for name in ["kernel.panic", "vm.swappiness", "net/../kernel/panic", "net..x", "kernel.hostname"] {
            assert_eq!(path(name), None, "{name}");
        }
        assert_eq!(namespaced_sysctl(port, false, true), None);
        assert_eq!(namespaced_sysctl("kernel.sem", true, false), None);
    }
}
