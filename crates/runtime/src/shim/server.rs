//! The shim's loop: one thread, one poll(2). Everything that it waits for is a descriptor; nothing in here blocks.

use super::{
    client::{Client, Role},
    container::{Container, Ends, make_streams, now},
    exec::{Target, exec},
    helper::{Helper, Outcome},
    launch::{Streams, launch},
};
use crate::{
    cgroup::Cgroups,
    layout::{STARTED_RECORD, write_record},
    protocol::{ErrorKind, ExecRequest, Reply, Request, StartRequest, StartedRecord, VERSION},
};
use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        signal::{Signal, kill},
        signalfd::SignalFd,
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::Pid,
};
use std::{
    collections::{BTreeMap, HashMap},
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    os::unix::net::UnixListener,
    time::{Duration, Instant},
};

/// A shim that nobody ever asks for anything ends: the agent that made it died before it could remember it.
const UNCLAIMED: Duration = Duration::from_secs(60);
/// How long a shim that is told to end waits for its containers to die.
const LAST_WAIT: Duration = Duration::from_secs(10);
/// When to try again what failed for want of disk.
const RETRY: Duration = Duration::from_millis(500);

/// What a helper works on, and for whom.
struct Job {
    helper: Helper,
    client: u64,
    kind: JobKind,
}

enum JobKind {
    Start(Box<StartRequest>, Ends),
    Exec,
}

/// See the module.
pub struct Server {
    listener: UnixListener,
    signals: SignalFd,
    cgroups: Option<Cgroups>,
    init: Option<i32>,
    clients: Vec<Client>,
    next_client: u64,
    containers: BTreeMap<String, Container>,
    jobs: Vec<Job>,
    /// Processes that ended before it was known whose they are.
    unclaimed: HashMap<i32, WaitStatus>,
    claimed: bool,
    born: Instant,
    /// Who asked for the end, and when.
    ending: Option<(u64, Instant)>,
    buffer: Vec<u8>,
}

impl Server {
    /// A shim that is ready to serve.
    pub fn new(listener: UnixListener, signals: SignalFd, init: Option<i32>) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        Ok(Self {
            listener,
            signals,
            cgroups: Cgroups::detect().ok(),
            init,
            clients: Vec::new(),
            next_client: 0,
            containers: BTreeMap::new(),
            jobs: Vec::new(),
            unclaimed: HashMap::new(),
            claimed: false,
            born: Instant::now(),
            ending: None,
            buffer: Vec::new(),
        })
    }

    /// Serves until it is told to end.
    pub fn run(mut self) {
        loop {
            self.wait();
            self.accept();
            self.finish_jobs();
            self.reap();
            for container in self.containers.values_mut() {
                container.pump(&mut self.buffer);
            }
            self.serve();
            self.announce();
            self.containers.retain(|_, container| !container.is_finished());
            if self.is_over() {
                return;
            }
        }
    }

    /// Waits until something can be done. What that is, the callers find out by trying: all descriptors are non-blocking
    /// and few.
    fn wait(&self) {
        let mut set = Vec::with_capacity(16);
        want(&mut set, self.signals.as_fd(), false);
        want(&mut set, self.listener.as_fd(), false);
        for client in &self.clients {
            let (socket, write) = client.interest();
            want(&mut set, socket, false);
            if write {
                want(&mut set, socket, true);
            }
        }
        for job in &self.jobs {
            want(&mut set, job.helper.socket(), false);
        }
        for (descriptor, write) in self.containers.values().flat_map(Container::interests) {
            want(&mut set, descriptor, write);
        }
        let timeout = self.timeout().map_or(PollTimeout::NONE, |wait| {
            PollTimeout::try_from(wait + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX)
        });
        let _ = poll(&mut set, timeout);
    }

    fn timeout(&self) -> Option<Duration> {
        if let Some((_, since)) = self.ending {
            return Some(LAST_WAIT.saturating_sub(since.elapsed()));
        }
        if self.containers.values().any(|c| c.exit.as_ref().is_some_and(|(_, on_disk)| !on_disk)) {
            return Some(RETRY);
        }
        (!self.claimed).then(|| UNCLAIMED.saturating_sub(self.born.elapsed()))
    }

    fn is_over(&mut self) -> bool {
        if !self.claimed && self.born.elapsed() >= UNCLAIMED {
            return true;
        }
        let Some((client, since)) = self.ending else { return false };
        let dead = self.jobs.is_empty() && !self.containers.values().any(Container::runs);
        if !dead && since.elapsed() < LAST_WAIT {
            return false;
        }
        if let Some(init) = self.init {
            let _ = kill(Pid::from_raw(init), Signal::SIGKILL);
            let _ = waitpid(Pid::from_raw(init), None);
        }
        self.reply(client, &Reply::Ok, None);
        true
    }

    fn accept(&mut self) {
        while let Ok((socket, _)) = self.listener.accept() {
            self.next_client += 1;
            if let Ok(client) = Client::new(self.next_client, socket) {
                self.clients.push(client);
            }
        }
    }

    fn serve(&mut self) {
        let mut requests = Vec::new();
        let mut gone = Vec::new();
        for client in &mut self.clients {
            client.flush();
            match client.read() {
                Some(asked) => requests.extend(asked.into_iter().map(|(r, fds)| (client.id, r, fds))),
                None => gone.push(client.id),
            }
        }
        for id in gone {
            self.clients.retain(|client| client.id != id);
            for container in self.containers.values_mut() {
                container.detach(id);
            }
        }
        for (client, request, descriptors) in requests {
            self.claimed = true;
            if let Err((kind, message)) = self.handle(client, request, descriptors) {
                self.reply(client, &Reply::Error { kind, message }, None);
            }
        }
    }

    fn reply(&mut self, client: u64, reply: &Reply, descriptor: Option<OwnedFd>) {
        if let Some(client) = self.clients.iter_mut().find(|c| c.id == client) {
            client.say(reply, descriptor);
        }
    }

    fn set_role(&mut self, client: u64, role: Role) {
        if let Some(client) = self.clients.iter_mut().find(|c| c.id == client) {
            client.role = role;
        }
    }

    fn handle(&mut self, client: u64, request: Request, descriptors: Vec<OwnedFd>) -> Result<(), Failure> {
        match request {
            Request::Hello { .. } => {
                let running = self.containers.iter().filter(|(_, c)| c.runs()).map(|(id, _)| id.clone());
                let pid = std::process::id() as i32;
                let hello = Reply::Hello { version: VERSION, pid, running: running.collect() };
                self.reply(client, &hello, None);
            }
            Request::Subscribe => {
                self.set_role(client, Role::Subscriber);
                self.reply(client, &Reply::Ok, None);
            }
            Request::Start(start) => self.start(client, start)?,
            Request::Signal { id, signal, all } => {
                let container = self.running(&id)?;
                let pid = Pid::from_raw(container.pid);
                let cgroup = container.request.cgroup.clone();
                if all && let Some(cgroups) = &self.cgroups {
                    cgroups.kill(&cgroup);
                }
                let signal = Signal::try_from(signal).map_err(|e| (ErrorKind::State, e.to_string()))?;
                // It is our child and not reaped yet, so the number is still its own.
                kill(pid, signal).map_err(|e| (ErrorKind::Other, format!("signalling {id}: {e}")))?;
                self.reply(client, &Reply::Ok, None);
            }
            Request::Exec(request) => self.exec(client, request, descriptors)?,
            Request::KillExec => {
                let role = self.clients.iter().find(|c| c.id == client).map(|c| c.role.clone());
                if let Some(Role::Exec { pid }) = role {
                    let _ = kill(Pid::from_raw(-pid), Signal::SIGKILL);
                    let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
                }
            }
            Request::Attach { id, stdout, stderr, stdin } => {
                let mut descriptors = descriptors.into_iter();
                let container = self.running(&id)?;
                let out = if stdout { descriptors.next() } else { None };
                let err = if stderr { descriptors.next() } else { None };
                container.attach(client, out, err).map_err(other)?;
                let input = if stdin { container.input().map_err(other)? } else { None };
                self.set_role(client, Role::Attached { container: id });
                self.reply(client, &Reply::Attached, input);
            }
            Request::ReopenLog { id } => {
                self.running(&id)?.reopen_log().map_err(other)?;
                self.reply(client, &Reply::Ok, None);
            }
            Request::PortForward { port } => {
                let socket = connect(port).map_err(other)?;
                self.reply(client, &Reply::Connected, Some(socket));
            }
            Request::Shutdown => {
                self.ending.get_or_insert((client, Instant::now()));
                for container in self.containers.values().filter(|c| c.runs()) {
                    if let Some(cgroups) = &self.cgroups {
                        cgroups.kill(&container.request.cgroup);
                    }
                    let _ = kill(Pid::from_raw(container.pid), Signal::SIGKILL);
                }
                for job in &self.jobs {
                    let _ = kill(job.helper.pid, Signal::SIGKILL);
                }
            }
        }
        Ok(())
    }

    fn running(&mut self, id: &str) -> Result<&mut Container, Failure> {
        self.containers
            .get_mut(id)
            .filter(|c| c.runs())
            .ok_or_else(|| (ErrorKind::State, format!("container {id} is not running")))
    }

    fn start(&mut self, client: u64, request: StartRequest) -> Result<(), Failure> {
        if self.ending.is_some() {
            return Err((ErrorKind::State, "the sandbox is being stopped".into()));
        }
        if let Ok(container) = self.running(&request.id) {
            let started = Reply::Started { pid: container.pid, warnings: Vec::new() };
            self.reply(client, &started, None);
            return Ok(());
        }
        let starting = |job: &Job| matches!(&job.kind, JobKind::Start(r, _) if r.id == request.id);
        if self.jobs.iter().any(starting) {
            return Err((ErrorKind::State, format!("container {} is being started", request.id)));
        }
        let (ends, streams) = match request.tty {
            true => (Ends::default(), Streams::default()),
            false => make_streams(request.stdin).map_err(other)?,
        };
        let folder = request.folder.clone();
        let helper = Helper::start(|reporter| launch(&folder, streams, reporter)).map_err(other)?;
        self.jobs.push(Job { helper, client, kind: JobKind::Start(Box::new(request), ends) });
        Ok(())
    }

    fn exec(&mut self, client: u64, request: ExecRequest, given: Vec<OwnedFd>) -> Result<(), Failure> {
        let container = self.running(&request.id)?;
        let mut given = given.into_iter();
        let mut next = |wanted: bool| if wanted && !request.tty { given.next() } else { None };
        let streams = Streams {
            stdin: next(request.stdin),
            stdout: next(request.stdout),
            stderr: next(request.stderr),
        };
        let pid = container.pid;
        let (folder, cgroup) = (container.request.folder.clone(), container.request.cgroup.clone());
        let (command, tty) = (request.command, request.tty);
        let helper = Helper::start(|reporter| {
            exec(&Target { folder: &folder, cgroup: &cgroup, pid }, command, tty, streams, reporter)
        });
        self.jobs.push(Job { helper: helper.map_err(other)?, client, kind: JobKind::Exec });
        Ok(())
    }

    fn finish_jobs(&mut self) {
        let mut done = Vec::new();
        let mut index = 0;
        while index < self.jobs.len() {
            match self.jobs[index].helper.read() {
                Some(outcome) => done.push((self.jobs.swap_remove(index), outcome)),
                None => index += 1,
            }
        }
        for (job, outcome) in done {
            match (outcome, job.kind) {
                (Outcome::Running { pid, warnings, master }, JobKind::Start(request, ends)) => {
                    self.started(job.client, *request, ends, (pid, warnings, master));
                }
                (Outcome::Running { pid, warnings, master }, JobKind::Exec) => {
                    self.set_role(job.client, Role::Exec { pid });
                    self.reply(job.client, &Reply::Started { pid, warnings }, master);
                }
                (Outcome::Failed { kind, message }, kind_of_job) => {
                    if let (JobKind::Start(request, _), Some(cgroups)) = (&kind_of_job, &self.cgroups) {
                        cgroups.kill(&request.cgroup);
                    }
                    self.reply(job.client, &Reply::Error { kind, message }, None);
                }
            }
        }
    }

    fn started(
        &mut self,
        client: u64,
        request: StartRequest,
        ends: Ends,
        (pid, warnings, master): (i32, Vec<String>, Option<OwnedFd>),
    ) {
        let record = StartedRecord { pid, started_at: now() };
        let written = write_record(&request.folder.join(STARTED_RECORD), &record);
        let id = request.id.clone();
        let cgroup = request.cgroup.clone();
        let made = written.map_err(|e| e.to_string()).and_then(|()| {
            Container::new(request, pid, ends, master).map_err(|e| format!("opening the log: {e}"))
        });
        match made {
            Ok(container) => {
                self.containers.insert(id, container);
                self.reply(client, &Reply::Started { pid, warnings }, None);
            }
            Err(message) => {
                if let Some(cgroups) = &self.cgroups {
                    cgroups.kill(&cgroup);
                }
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
                self.reply(client, &Reply::Error { kind: ErrorKind::Other, message }, None);
            }
        }
    }

    /// Takes note of every process that has ended: our children, and as the sub-reaper all orphans below us.
    fn reap(&mut self) {
        while let Ok(Some(_)) = self.signals.read_signal() {}
        while let Ok(status) = waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            let Some(pid) = status.pid() else { break };
            self.unclaimed.insert(pid.as_raw(), status);
        }
        if self.unclaimed.is_empty() {
            return;
        }
        for container in self.containers.values_mut().filter(|c| c.runs()) {
            if let Some(status) = self.unclaimed.remove(&container.pid) {
                container.ended(status, self.cgroups.as_ref(), &mut self.buffer);
            }
        }
        for client in &mut self.clients {
            if let Role::Exec { pid } = client.role
                && let Some(status) = self.unclaimed.remove(&pid)
            {
                client.role = Role::Plain;
                let code = super::container::exit_record(status, false, 0).exit_code;
                client.say(&Reply::ExecExited { code }, None);
            }
        }
        // With no helper at work, nobody can claim these any more.
        if self.jobs.is_empty() {
            self.unclaimed = HashMap::new();
        }
    }

    /// Writes exits down, then tells.
    fn announce(&mut self) {
        let ended: Vec<String> = self
            .containers
            .iter_mut()
            .filter_map(|(id, container)| container.record_exit().then(|| id.clone()))
            .collect();
        for id in ended {
            for client in &mut self.clients {
                let told = match &client.role {
                    Role::Subscriber => true,
                    Role::Attached { container } => *container == id,
                    Role::Plain | Role::Exec { .. } => false,
                };
                if told {
                    client.say(&Reply::Exited { id: id.clone() }, None);
                }
            }
        }
    }
}

type Failure = (ErrorKind, String);

fn other(error: io::Error) -> Failure {
    (ErrorKind::Other, error.to_string())
}

fn want<'a>(set: &mut Vec<PollFd<'a>>, descriptor: BorrowedFd<'a>, write: bool) {
    set.push(PollFd::new(descriptor, if write { PollFlags::POLLOUT } else { PollFlags::POLLIN }));
}

/// Begins to connect to a port of the sandbox's loopback: the shim lives in its network namespace. IPv6 is tried if IPv4
/// says no at once.
fn connect(port: u16) -> io::Result<OwnedFd> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, connect, socket_with};
    use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let attempt = |family, address: SocketAddr| -> io::Result<OwnedFd> {
        let socket = socket_with(family, SocketType::STREAM, flags, None)?;
        match connect(&socket, &address) {
            Ok(()) | Err(rustix::io::Errno::INPROGRESS) => {}
            Err(e) => return Err(e.into()),
        }
        // A refusal of the loopback is there by now.
        match rustix::net::sockopt::socket_error(&socket)? {
            Ok(()) => Ok(socket),
            Err(e) => Err(e.into()),
        }
    };
    attempt(AddressFamily::INET, (Ipv4Addr::LOCALHOST, port).into()).or_else(|refused| {
        attempt(AddressFamily::INET6, (Ipv6Addr::LOCALHOST, port).into()).map_err(|_| refused)
    })
}
