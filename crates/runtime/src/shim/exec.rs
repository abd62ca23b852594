//! Running another process in a container: joins its namespaces and cgroup, takes on its user, capabilities and
//! system-call filter, and executes the program. Runs in a helper.
//!
//! libcontainer can do this too, but it leaves the filter out, and takes several times as long.

use super::{
    console,
    filter::Filter,
    helper::{Report, Reporter},
    launch::{Streams, set_oom_score},
    program,
};
use crate::{
    cgroup::Cgroups,
    layout::{BUNDLE_CONFIG, WHOLE_SPEC, filters, read_record},
    protocol::ErrorKind,
};
use libcontainer::{
    capabilities,
    oci_spec::runtime::{LinuxNamespaceType, Process, Spec},
    seccomp::initialize_seccomp,
    syscall::syscall::create_syscall,
};
use nix::{
    sched::CloneFlags,
    unistd::{ForkResult, Gid, Uid, fork},
};
use std::{
    fs::File,
    os::fd::{AsFd, AsRawFd, OwnedFd},
    path::Path,
};

/// The container to enter.
pub struct Target<'a> {
    /// Its folder.
    pub folder: &'a Path,
    /// Its cgroup.
    pub cgroup: &'a Path,
    /// Its first process.
    pub pid: i32,
}

/// Runs `command` there.
pub fn exec(target: &Target<'_>, command: Vec<String>, tty: bool, streams: Streams, reporter: Reporter) {
    if let Err(message) = try_exec(target, command, tty, streams, reporter) {
        reporter.fail(ErrorKind::Start, message);
    }
}

fn at<E: std::fmt::Display>(step: &'static str) -> impl Fn(E) -> String {
    move |e| format!("{step}: {e}")
}

fn try_exec(
    target: &Target<'_>,
    command: Vec<String>,
    tty: bool,
    streams: Streams,
    reporter: Reporter,
) -> Result<(), String> {
    let read = |name| read_record(&target.folder.join(name)).map_err(at("reading the container's spec"));
    let spec: Option<Spec> = read(WHOLE_SPEC)?;
    let spec = match spec {
        Some(whole) => whole,
        None => read(BUNDLE_CONFIG)?.ok_or("the container's spec is gone")?,
    };
    // Where compiled filters are is out of reach from inside.
    let profile = spec.linux().as_ref().and_then(|linux| linux.seccomp().as_ref());
    let filter = match profile {
        Some(profile) => {
            Filter::of(profile, &filters(target.folder)).map_err(at("compiling the seccomp filter"))?
        }
        None => None,
    };
    let process = spec.process().as_ref().ok_or("the container's spec has no process")?;
    let null = File::options().read(true).write(true).open("/dev/null").map_err(at("opening /dev/null"))?;
    let cgroups = Cgroups::detect().map_err(at("looking for cgroups"))?;
    let oom_score = std::fs::read_to_string(format!("/proc/{}/oom_score_adj", target.pid))
        .ok()
        .and_then(|text| text.trim().parse().ok())
        .unwrap_or(0);
    let container = rustix::process::pidfd_open(
        rustix::process::Pid::from_raw(target.pid).ok_or("the container has no process")?,
        rustix::process::PidfdFlags::empty(),
    )
    .map_err(at("the container does not run"))?;
    let warnings = set_oom_score(oom_score);
    cgroups.add_process(target.cgroup, std::process::id()).map_err(at("joining the container's cgroup"))?;
    // Processes of the container must not look into this one while it is half inside.
    nix::sys::prctl::set_dumpable(false).map_err(at("becoming undumpable"))?;
    // Its network, IPC and UTS namespaces are the shim's own already.
    let mut spaces = CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWPID;
    let has = |kind| {
        let linux = spec.linux().as_ref();
        linux.and_then(|l| l.namespaces().as_ref()).is_some_and(|all| all.iter().any(|n| n.typ() == kind))
    };
    if has(LinuxNamespaceType::Cgroup) {
        spaces |= CloneFlags::CLONE_NEWCGROUP;
    }
    nix::sched::setns(&container, spaces).map_err(at("joining the container's namespaces"))?;
    let terminal = match tty {
        true => Some(console::open_pair().map_err(at("making a terminal"))?),
        false => None,
    };
    // The process namespace is entered by forking.
    // SAFETY: this process has one thread, so the child may do anything.
    match unsafe { fork() }.map_err(at("forking"))? {
        ForkResult::Parent { child } => {
            let master = terminal.as_ref().map(|(master, _)| master.as_fd());
            reporter.say(&Report::Made { pid: child.as_raw(), warnings }, master);
            Ok(())
        }
        ForkResult::Child => {
            let slave = terminal.map(|(_, slave)| slave);
            let why = match become_process(
                &spec,
                process,
                filter.as_ref(),
                &command,
                Stdio { slave, streams, null: null.into() },
            ) {
                Ok(never) => match never {},
                Err(why) => why,
            };
            reporter.fail(ErrorKind::Start, why);
            // SAFETY: ends this process at once.
            unsafe { libc::_exit(127) }
        }
    }
}

struct Stdio {
    slave: Option<OwnedFd>,
    streams: Streams,
    null: OwnedFd,
}

impl Stdio {
    fn connect(&self, uid: Uid) -> nix::Result<()> {
        let Some(slave) = &self.slave else {
            let given = [&self.streams.stdin, &self.streams.stdout, &self.streams.stderr];
            for (number, stream) in given.into_iter().enumerate() {
                nix::unistd::dup2(stream.as_ref().unwrap_or(&self.null).as_raw_fd(), number as i32)?;
            }
            return Ok(());
        };
        nix::unistd::fchown(slave.as_raw_fd(), Some(uid), None)?;
        // SAFETY: TIOCSCTTY takes a number.
        if unsafe { libc::ioctl(slave.as_raw_fd(), libc::TIOCSCTTY, 0) } < 0 {
            return Err(nix::Error::last());
        }
        for number in 0..3 {
            nix::unistd::dup2(slave.as_raw_fd(), number)?;
        }
        Ok(())
    }
}

/// The order matters: what needs privileges comes before they are dropped, the filter as late as it can be.
fn become_process(
    spec: &Spec,
    process: &Process,
    compiled: Option<&Filter>,
    command: &[String],
    stdio: Stdio,
) -> Result<std::convert::Infallible, String> {
    let user = process.user();
    let uid = Uid::from_raw(user.uid());
    nix::unistd::setsid().map_err(at("making a session"))?;
    stdio.connect(uid).map_err(at("connecting the standard streams"))?;
    // SAFETY: marks every other descriptor to be closed when the program is executed; closes none.
    if unsafe { libc::syscall(libc::SYS_close_range, 3, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) } < 0 {
        return Err(format!("closing descriptors: {}", nix::Error::last()));
    }
    let late = process.no_new_privileges() == Some(true);
    let profile = spec.linux().as_ref().and_then(|linux| linux.seccomp().as_ref());
    let filter = || match (compiled, profile) {
        (Some(filter), _) => filter.load().map_err(at("loading the seccomp filter")),
        (None, Some(profile)) => {
            initialize_seccomp(profile).map(drop).map_err(at("loading the seccomp filter"))
        }
        (None, None) => Ok(()),
    };
    if late {
        nix::sys::prctl::set_no_new_privs().map_err(at("setting no_new_privs"))?;
    }
    let early_folder = nix::unistd::chdir(process.cwd());
    if !late {
        filter()?;
    }
    let groups: Vec<Gid> = user.additional_gids().iter().flatten().map(|gid| Gid::from_raw(*gid)).collect();
    nix::unistd::setgroups(&groups).map_err(at("setting groups"))?;
    let syscall = create_syscall();
    syscall.set_id(uid, Gid::from_raw(user.gid())).map_err(at("setting the user"))?;
    capabilities::reset_effective(syscall.as_ref()).map_err(at("setting capabilities"))?;
    if let Some(set) = process.capabilities() {
        capabilities::drop_privileges(set, syscall.as_ref()).map_err(at("setting capabilities"))?;
    }
    if early_folder.is_err() {
        nix::unistd::chdir(process.cwd()).map_err(at("changing to the working directory"))?;
    }
    if late {
        filter()?;
    }
    let environment = process.env().as_deref().unwrap_or(&[]);
    let program = command.first().ok_or("no command specified")?;
    let path = program::find(program, environment)?;
    program::execute(&path, command, environment)
}
