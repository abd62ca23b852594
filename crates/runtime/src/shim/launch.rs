//! Starting a container: mounts its root file system where only it sees it, fills in what only that can tell, and lets
//! libcontainer make and start it. Runs in a helper.

use super::{
    console,
    filter::Filter,
    helper::{Report, Reporter},
    program,
    rootfs::Root,
};
use crate::{
    layout::{
        BUNDLE_CONFIG, CONTAINER_RECORD, NAMESPACES, SHM, WHOLE_SPEC, filters, read_record, write_record,
    },
    oci_spec::bidirectional,
    protocol::ErrorKind,
    records::ContainerRecord,
    user::resolve,
};
use libcontainer::{
    capabilities::drop_privileges,
    container::builder::ContainerBuilder,
    error::LibcontainerError,
    notify_socket::{NOTIFY_FILE, NotifySocket},
    oci_spec::runtime::{LinuxCapabilities, LinuxSeccomp, Spec},
    syscall::syscall::{SyscallType, create_syscall},
    workload::{Executor, ExecutorError, ExecutorValidationError},
};
use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
};
use std::{
    os::fd::{AsFd, OwnedFd},
    path::Path,
};

/// Folder of a container's folder where libcontainer keeps what it needs between creating and starting.
pub const STATE: &str = "oci";

/// The container's ends of its standard streams; with a terminal there are none.
#[derive(Default)]
pub struct Streams {
    /// Input.
    pub stdin: Option<OwnedFd>,
    /// Output.
    pub stdout: Option<OwnedFd>,
    /// Errors.
    pub stderr: Option<OwnedFd>,
}

/// Starts the container whose records lie in `folder`.
pub fn launch(folder: &Path, streams: Streams, reporter: Reporter) {
    if let Err((kind, message)) = try_launch(folder, streams, reporter) {
        reporter.fail(kind, message);
    }
}

type Failure = (ErrorKind, String);

fn at(step: &'static str) -> impl Fn(nix::Error) -> Failure {
    move |e| (ErrorKind::Other, format!("{step}: {e}"))
}

fn try_launch(folder: &Path, streams: Streams, reporter: Reporter) -> Result<(), Failure> {
    let other = |e: crate::Error| (ErrorKind::Other, text(&e));
    let missing = || (ErrorKind::State, "the container's records are gone".to_string());
    let record: ContainerRecord =
        read_record(&folder.join(CONTAINER_RECORD)).map_err(other)?.ok_or_else(missing)?;
    let mut spec: serde_json::Value =
        read_record(&folder.join(BUNDLE_CONFIG)).map_err(other)?.ok_or_else(missing)?;

    // What is mounted here vanishes with the container: nothing is left on the host, whatever is killed. Only mounts that
    // the host is to see must be made in its own namespace.
    if !bidirectional(&record.spec) {
        unshare(CloneFlags::CLONE_NEWNS).map_err(at("making a mount namespace"))?;
        nix::unistd::chdir("/").map_err(at("leaving the sandbox's folder"))?;
        let slave = MsFlags::MS_REC | MsFlags::MS_SLAVE;
        mount(None::<&str>, "/", None::<&str>, slave, None::<&str>)
            .map_err(at("leaving the host's mounts"))?;
        forget_other_sandboxes(&record)
            .map_err(|e| (ErrorKind::Other, format!("leaving the host's mounts: {e}")))?;
        keep_private(&spec)?;
    }
    record.rootfs.mount().map_err(other)?;
    settle(&record, &mut spec)?;
    let confinement = Confinement::take(&mut spec, folder)?;
    write_record(&folder.join(BUNDLE_CONFIG), &spec).map_err(other)?;
    let warnings = set_oom_score(record.spec.resources.oom_score_adj.unwrap_or(0));

    let state = folder.join(STATE);
    let _ = std::fs::remove_dir_all(&state);
    std::fs::create_dir(&state)
        .map_err(|e| (ErrorKind::Other, format!("making {}: {e}", state.display())))?;
    let console = match record.spec.tty {
        true => Some(console::Listener::bind(folder).map_err(|e| (ErrorKind::Other, e))?),
        false => None,
    };
    let mut builder = ContainerBuilder::new(record.spec.id.clone(), SyscallType::default())
        .with_root_path(&state)
        .map_err(create_failure)?
        .with_executor(Launch { reporter, confinement })
        .with_console_socket(console.as_ref().map(console::Listener::path));
    builder.stdin = streams.stdin;
    builder.stdout = streams.stdout;
    builder.stderr = streams.stderr;
    let container =
        builder.as_init(folder).with_systemd(false).with_detach(true).build().map_err(create_failure)?;
    let pid = container.pid().ok_or((ErrorKind::Other, "the container has no process".to_string()))?;
    let master = match &console {
        Some(listener) => Some(listener.receive().map_err(|e| (ErrorKind::Other, e))?),
        None => None,
    };
    reporter.say(&Report::Made { pid: pid.as_raw(), warnings }, master.as_ref().map(AsFd::as_fd));
    NotifySocket::new(container.root.join(NOTIFY_FILE))
        .notify_container_start()
        .map_err(|e| (ErrorKind::Other, text(&e)))
}

/// What is taken out of libcontainer's hands: it would compile the filter anew for each container. The filter has to be loaded
/// before capabilities are dropped, so these come along.
#[derive(Clone)]
struct Confinement {
    filter: Filter,
    capabilities: Option<LinuxCapabilities>,
    no_new_privileges: bool,
}

impl Confinement {
    /// Takes it out of the spec, which is left whole for those who join the container later.
    fn take(spec: &mut serde_json::Value, folder: &Path) -> Result<Option<Self>, Failure> {
        let failed = |e: serde_json::Error| (ErrorKind::Start, format!("reading the container's spec: {e}"));
        let profile = &spec["linux"]["seccomp"];
        if profile.is_null() {
            return Ok(None);
        }
        let profile: LinuxSeccomp = serde_json::from_value(profile.clone()).map_err(failed)?;
        let filter = Filter::of(&profile, &filters(folder))
            .map_err(|e| (ErrorKind::Start, format!("compiling the seccomp filter: {e}")))?;
        let Some(filter) = filter else { return Ok(None) };
        write_record(&folder.join(WHOLE_SPEC), spec).map_err(|e| (ErrorKind::Other, text(&e)))?;
        spec["linux"]["seccomp"].take();
        let capabilities = serde_json::from_value(spec["process"]["capabilities"].take()).map_err(failed)?;
        let no_new_privileges = spec["process"]["noNewPrivileges"] == true;
        Ok(Some(Self { filter, capabilities, no_new_privileges }))
    }

    /// Confines this process. The filter needs a privilege that is dropped here, unless there are to be no new ones; in that case
    /// it comes last, because it need not allow what dropping takes.
    fn enter(&self) -> Result<(), String> {
        let load = || self.filter.load().map_err(|e| format!("loading the seccomp filter: {e}"));
        if !self.no_new_privileges {
            load()?;
        }
        if let Some(set) = &self.capabilities {
            drop_privileges(set, create_syscall().as_ref())
                .map_err(|e| format!("dropping capabilities: {}", text(&e)))?;
        }
        if self.no_new_privileges { load() } else { Ok(()) }
    }
}

/// Fills in what the root file system tells: who the user is, where home is; makes the working folder.
fn settle(record: &ContainerRecord, spec: &mut serde_json::Value) -> Result<(), Failure> {
    let start = |message: String| (ErrorKind::Start, message);
    let io = |e: std::io::Error| (ErrorKind::Start, format!("looking into the root file system: {e}"));
    let root = Root::open(&record.rootfs.target).map_err(|e| io(e.into()))?;
    let (passwd, group) =
        (root.read(Path::new("/etc/passwd")).map_err(io)?, root.read(Path::new("/etc/group")).map_err(io)?);
    let identity = resolve(&record.spec.security.user, &record.image_user, &passwd, &group).map_err(start)?;
    let process = &mut spec["process"];
    process["user"] = serde_json::json!({
        "uid": identity.uid,
        "gid": identity.gid,
        "additionalGids": identity.groups,
    });
    if let Some(environment) = process["env"].as_array_mut()
        && !environment.iter().any(|e| e.as_str().is_some_and(|e| e.starts_with("HOME=")))
    {
        environment.push(format!("HOME={}", identity.home).into());
    }
    let cwd = process["cwd"].as_str().unwrap_or("/");
    root.make_folder(Path::new(cwd)).map_err(|e| start(format!("making the working directory {cwd:?}: {e}")))
}

/// Drops the mounts of all sandboxes from this namespace but its own: there are several for each, and libcontainer reads the
/// list of all mounts many times over.
fn forget_other_sandboxes(record: &ContainerRecord) -> rustix::io::Result<()> {
    use rustix::{
        fs::CWD,
        mount::{MoveMountFlags, OpenTreeFlags, UnmountFlags, move_mount, open_tree, unmount},
    };
    let Some(all) = record.sandbox_folder.parent() else { return Ok(()) };
    let kept = [SHM.into(), Path::new(NAMESPACES).join("pid")].map(|name| record.sandbox_folder.join(name));
    let mut trees = Vec::new();
    for path in kept.into_iter().filter(|path| path.exists()) {
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        trees.push((open_tree(CWD, &path, flags)?, path));
    }
    match unmount(all, UnmountFlags::DETACH) {
        Ok(()) => {}
        // The sandboxes are not on a mount of their own: then they stay in sight, which is only slower.
        Err(rustix::io::Errno::INVAL) => return Ok(()),
        Err(e) => return Err(e),
    }
    for (tree, path) in trees {
        move_mount(tree, "", CWD, &path, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?;
    }
    Ok(())
}

/// Mounts that others make later below a volume must not show in the container unless it asks for them: libcontainer
/// clones a mount with its propagation, so the source is made private first.
fn keep_private(spec: &serde_json::Value) -> Result<(), Failure> {
    for entry in spec["mounts"].as_array().into_iter().flatten() {
        let private = entry["options"].as_array().is_some_and(|o| o.iter().any(|o| o == "rprivate"));
        let Some(source) = entry["source"].as_str().filter(|_| private && entry["type"] == "bind") else {
            continue;
        };
        let failed =
            |e: nix::Error| (ErrorKind::Start, format!("mounting {source}: {}", e.desc().to_lowercase()));
        let rec = MsFlags::MS_REC;
        mount(Some(source), source, None::<&str>, MsFlags::MS_BIND | rec, None::<&str>).map_err(failed)?;
        mount(None::<&str>, source, None::<&str>, MsFlags::MS_PRIVATE | rec, None::<&str>).map_err(failed)?;
    }
    Ok(())
}

/// Processes inherit it. Lowering it needs CAP_SYS_RESOURCE, which is not everywhere.
pub fn set_oom_score(value: i32) -> Vec<String> {
    match std::fs::write("/proc/self/oom_score_adj", value.to_string()) {
        Ok(()) => Vec::new(),
        Err(e) => vec![format!("oom_score_adj {value} cannot be set: {e}")],
    }
}

fn create_failure(error: LibcontainerError) -> Failure {
    (ErrorKind::Start, format!("unable to start container process: {}", text(&error)))
}

/// An error with its causes. libcontainer repeats some of them.
fn text(error: &dyn std::error::Error) -> String {
    let mut out = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let inner_text = inner.to_string();
        if !out.contains(&inner_text) {
            out.push_str(": ");
            out.push_str(&inner_text);
        }
        cause = inner.source();
    }
    out
}

/// The last step, in the container's own process: executes its program, and tells if that cannot be.
#[derive(Clone)]
struct Launch {
    reporter: Reporter,
    confinement: Option<Confinement>,
}

impl Launch {
    fn told(&self, why: String) -> String {
        let message = format!("unable to start container process: {why}");
        self.reporter.fail(ErrorKind::Start, message.clone());
        message
    }
}

fn words(spec: &Spec) -> Option<(&[String], &[String])> {
    let process = spec.process().as_ref()?;
    Some((process.args().as_deref().filter(|a| !a.is_empty())?, process.env().as_deref().unwrap_or(&[])))
}

impl Executor for Launch {
    fn validate(&self, spec: &Spec) -> Result<(), ExecutorValidationError> {
        let (args, env) = words(spec)
            .ok_or_else(|| ExecutorValidationError::ArgValidationError("no command specified".into()))?;
        if let Some(confinement) = &self.confinement {
            confinement.enter().map_err(|why| ExecutorValidationError::ArgValidationError(self.told(why)))?;
        }
        program::find(&args[0], env)
            .map(drop)
            .map_err(|why| ExecutorValidationError::ArgValidationError(self.told(why)))
    }

    fn exec(&self, spec: &Spec) -> Result<(), ExecutorError> {
        let (args, env) = words(spec).ok_or(ExecutorError::InvalidArg)?;
        let outcome = program::find(&args[0], env).and_then(|path| program::execute(&path, args, env));
        match outcome {
            Ok(never) => match never {},
            Err(why) => Err(ExecutorError::Other(self.told(why))),
        }
    }
}
