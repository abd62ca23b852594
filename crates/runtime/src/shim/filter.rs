//! System-call filters (seccomp(2)) of the OCI runtime spec. Compiling one takes longer than all else that a container's start
//! computes, and there are few different ones: each is compiled once and its program kept in a folder.

use crate::image::digest::Digest;
use libcontainer::oci_spec::runtime::{
    LinuxSeccomp, LinuxSeccompAction, LinuxSeccompFilterFlag, LinuxSeccompOperator, LinuxSyscall,
};
use libseccomp::{ScmpAction, ScmpArch, ScmpArgCompare, ScmpCompareOp, ScmpFilterContext, ScmpSyscall};
use std::{collections::BTreeSet, error::Error, io, path::Path};

/// Changes whenever what is compiled from the same profile does.
const EDITION: &str = "1";
/// Bytes of an instruction (`struct sock_filter`).
const INSTRUCTION: usize = 8;
/// The most that the kernel takes (`BPF_MAXINSNS`).
const LONGEST: usize = 4096 * INSTRUCTION;

/// A filter that can be loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter {
    program: Vec<u8>,
    flags: libc::c_ulong,
}

impl Filter {
    /// The filter of a profile: out of `folder`, if it was compiled before. `None` for a profile with a listener, which has to be
    /// told of the filter when it is loaded.
    pub fn of(profile: &LinuxSeccomp, folder: &Path) -> Result<Option<Self>, String> {
        let notify = |rule: &LinuxSyscall| rule.action() == LinuxSeccompAction::ScmpActNotify;
        if profile.default_action() == LinuxSeccompAction::ScmpActNotify
            || profile.syscalls().iter().flatten().any(notify)
        {
            return Ok(None);
        }
        let flags = profile.flags().iter().flatten().fold(0, |flags, flag| flags | number(*flag));
        let text = serde_json::to_vec(profile).map_err(|e| e.to_string())?;
        let name = Digest::of(&[EDITION.as_bytes(), &text].concat());
        let path = folder.join(name.hex());
        if let Some(program) = std::fs::read(&path).ok().filter(|program| sound(program)) {
            return Ok(Some(Self { program, flags }));
        }
        let program = compile(profile, folder, &path).map_err(|e| e.to_string())?;
        Ok(Some(Self { program, flags }))
    }

    /// Puts this process under the filter for good. Needs CAP_SYS_ADMIN or no_new_privs.
    pub fn load(&self) -> io::Result<()> {
        let program = libc::sock_fprog {
            len: (self.program.len() / INSTRUCTION) as u16,
            filter: self.program.as_ptr().cast_mut().cast(),
        };
        // SAFETY: the kernel copies `len` instructions from `filter`, which is that long, and changes nothing.
        let outcome = unsafe {
            libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, self.flags, &raw const program)
        };
        match outcome {
            0 => Ok(()),
            -1 => Err(io::Error::last_os_error()),
            thread => Err(io::Error::other(format!("thread {thread} cannot be put under it"))),
        }
    }
}

fn number(flag: LinuxSeccompFilterFlag) -> libc::c_ulong {
    match flag {
        LinuxSeccompFilterFlag::SeccompFilterFlagTsync => libc::SECCOMP_FILTER_FLAG_TSYNC,
        LinuxSeccompFilterFlag::SeccompFilterFlagLog => libc::SECCOMP_FILTER_FLAG_LOG,
        LinuxSeccompFilterFlag::SeccompFilterFlagSpecAllow => libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW,
        // It is about listeners.
        LinuxSeccompFilterFlag::SeccompFilterFlagWaitKillableRecv => 0,
    }
}

fn sound(program: &[u8]) -> bool {
    !program.is_empty() && program.len() <= LONGEST && program.len().is_multiple_of(INSTRUCTION)
}

/// Compiles a profile and leaves the program at `path`, where that can be.
fn compile(profile: &LinuxSeccomp, folder: &Path, path: &Path) -> Result<Vec<u8>, Box<dyn Error>> {
    let context = translate(profile)?;
    let mut file =
        match std::fs::create_dir_all(folder).and_then(|()| tempfile::NamedTempFile::new_in(folder)) {
            Ok(file) => file,
            Err(_) => tempfile::NamedTempFile::new()?,
        };
    context.export_bpf(file.as_file())?;
    let program = std::fs::read(file.path())?;
    if !sound(&program) {
        return Err(format!("a filter of {} bytes cannot be loaded", program.len()).into());
    }
    // Written whole and then renamed: nobody ever reads half of one. Not being kept costs only time.
    let _ = io::Write::flush(&mut file);
    let _ = file.persist(path);
    Ok(program)
}

fn translate(profile: &LinuxSeccomp) -> Result<ScmpFilterContext, Box<dyn Error>> {
    let default = action(profile.default_action(), profile.default_errno_ret())?;
    let mut context = ScmpFilterContext::new(default)?;
    // A search tree instead of a chain: what is called often must not wait for what is early in the alphabet.
    context.set_ctl_optimize(2)?;
    for arch in profile.architectures().iter().flatten() {
        context.add_arch(word(arch)?.parse::<ScmpArch>()?)?;
    }
    for rule in profile.syscalls().iter().flatten() {
        let action = action(rule.action(), rule.errno_ret())?;
        // The library refuses rules that say what holds anyway.
        if action != default {
            add(&mut context, rule, action)?;
        }
    }
    Ok(context)
}

fn add(
    context: &mut ScmpFilterContext,
    rule: &LinuxSyscall,
    action: ScmpAction,
) -> Result<(), Box<dyn Error>> {
    let mut conditions = Vec::new();
    for argument in rule.args().iter().flatten() {
        let operator = match argument.op() {
            // The first value is the mask, the second what is left to be (seccomp_rule_add(3)).
            LinuxSeccompOperator::ScmpCmpMaskedEq => ScmpCompareOp::MaskedEqual(argument.value()),
            other => word(&other)?.parse()?,
        };
        let value = match argument.op() {
            LinuxSeccompOperator::ScmpCmpMaskedEq => argument.value_two().unwrap_or(0),
            _ => argument.value(),
        };
        conditions.push(ScmpArgCompare::new(argument.index() as u32, operator, value));
    }
    // All conditions must hold; but the library takes one for each argument, and several are then alternatives, as in runc.
    let arguments: Vec<usize> = rule.args().iter().flatten().map(|a| a.index()).collect();
    let distinct = arguments.iter().collect::<BTreeSet<_>>().len() == arguments.len();
    for name in rule.names() {
        // A call that the library does not know is one that the filter's default meets.
        let Ok(call) = ScmpSyscall::from_name(name) else { continue };
        match (conditions.is_empty(), distinct) {
            (true, _) => drop(context.add_rule(action, call)?),
            (false, true) => drop(context.add_rule_conditional(action, call, &conditions)?),
            (false, false) => {
                for condition in &conditions {
                    context.add_rule_conditional(action, call, std::slice::from_ref(condition))?;
                }
            }
        }
    }
    Ok(())
}

fn action(action: LinuxSeccompAction, number: Option<u32>) -> Result<ScmpAction, Box<dyn Error>> {
    let number = i32::try_from(number.unwrap_or(libc::EPERM as u32))?;
    Ok(ScmpAction::from_str(&word(&action)?, Some(number))?)
}

/// How the spec spells a value.
fn word(value: &impl serde::Serialize) -> Result<String, Box<dyn Error>> {
    match serde_json::to_value(value)? {
        serde_json::Value::String(word) => Ok(word),
        other => Err(format!("{other} is no word").into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seccomp::default_profile;

    fn profile(capabilities: &[&str]) -> LinuxSeccomp {
        let capabilities: Vec<String> = capabilities.iter().map(|c| c.to_string()).collect();
        serde_json::from_value(default_profile(&capabilities)).unwrap()
    }

    #[test]
    fn a_filter_is_compiled_once_and_each_profile_has_its_own() {
        let folder = tempfile::tempdir().unwrap();
        let kept = || std::fs::read_dir(folder.path()).unwrap().count();
        let first = Filter::of(&profile(&[]), folder.path()).unwrap().unwrap();
        assert_eq!((Filter::of(&profile(&[]), folder.path()).unwrap().unwrap(), kept()), (first.clone(), 1));
        let other = Filter::of(&profile(&["SYS_ADMIN"]), folder.path()).unwrap().unwrap();
        assert!(other != first && kept() == 2);
    }

    #[test]
    fn what_is_not_a_program_is_compiled_anew() {
        let folder = tempfile::tempdir().unwrap();
        let good = Filter::of(&profile(&[]), folder.path()).unwrap().unwrap();
        let file = std::fs::read_dir(folder.path()).unwrap().next().unwrap().unwrap().path();
        for broken in [&b""[..], b"123456789"] {
            std::fs::write(&file, broken).unwrap();
            assert_eq!(Filter::of(&profile(&[]), folder.path()).unwrap().unwrap(), good);
        }
    }

    #[test]
    fn a_filter_without_a_folder_still_works() {
        assert!(Filter::of(&profile(&[]), Path::new("/proc/nowhere")).unwrap().is_some());
    }

    /// In a process of its own, for there is no way back: 0, or the number of what was not as it should be.
    fn calls_under(filter: &Filter) -> i32 {
        use nix::{
            sys::wait::{WaitStatus, waitpid},
            unistd::{ForkResult, fork},
        };
        // SAFETY: the child makes system calls only and ends without running anything else.
        match unsafe { fork() }.unwrap() {
            ForkResult::Child => {
                let _ = nix::sys::prctl::set_no_new_privs();
                let loaded = filter.load().is_ok();
                let refused = |flags: i32| {
                    // SAFETY: without a stack this clones like fork(2), and this process has one thread.
                    match unsafe { libc::syscall(libc::SYS_clone, flags | libc::SIGCHLD, 0, 0, 0, 0) } {
                        // SAFETY: ends the clone at once.
                        0 => unsafe { libc::_exit(0) },
                        pid => pid < 0 && nix::Error::last() == nix::Error::EPERM,
                    }
                };
                // SAFETY: takes a number.
                let unshared = unsafe { libc::syscall(libc::SYS_unshare, libc::CLONE_NEWUTS) } == 0;
                let as_it_should = [
                    loaded,
                    !unshared,
                    refused(libc::CLONE_NEWUTS),
                    refused(libc::CLONE_NEWUSER),
                    !refused(0),
                ];
                let wrong = as_it_should.iter().position(|good| !good);
                // SAFETY: ends this process at once.
                unsafe { libc::_exit(wrong.map_or(0, |at| at as i32 + 1)) }
            }
            ForkResult::Parent { child } => match waitpid(child, None).unwrap() {
                WaitStatus::Exited(_, code) => code,
                other => panic!("{other:?}"),
            },
        }
    }

    #[test]
    fn a_loaded_filter_refuses_new_namespaces_and_allows_forks() {
        let folder = tempfile::tempdir().unwrap();
        let filter = Filter::of(&profile(&[]), folder.path()).unwrap().unwrap();
        assert_eq!(calls_under(&filter), 0);
    }
}
