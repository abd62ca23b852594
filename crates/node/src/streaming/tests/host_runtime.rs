//! A container runtime whose containers are this machine: exec runs processes here, port-forward connects here.

use orlop_runtime::*;
use parking_lot::Mutex;
use rustix::{
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
    termios::{Winsize, tcsetwinsize},
};
use std::{
    collections::HashSet,
    fs::File,
    io,
    os::fd::OwnedFd,
    pin::Pin,
    process::Stdio,
    task::{Context, Poll, ready},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf, unix::AsyncFd},
    process::{Child, Command},
    sync::{broadcast, mpsc},
};

pub struct HostRuntime {
    running: Mutex<HashSet<String>>,
    events: broadcast::Sender<RuntimeEvent>,
}

impl HostRuntime {
    pub fn new() -> Self {
        Self { running: Mutex::default(), events: broadcast::channel(16).0 }
    }

    pub fn set_running(&self, id: &str) {
        self.running.lock().insert(id.into());
    }

    pub fn end(&self, id: &str) {
        self.running.lock().remove(id);
        let _ =
            self.events.send(RuntimeEvent::Exited { sandbox_id: "sandbox".into(), container_id: id.into() });
    }
}

fn not_here<T>() -> Result<T, Error> {
    Err(Error::State("this machine is no container".into()))
}

fn exit(mut child: Child) -> Pin<Box<dyn Future<Output = Result<ExitStatus, Error>> + Send>> {
    Box::pin(async move {
        let status = child.wait().await.map_err(|e| Error::io("waiting", e))?;
        Ok(ExitStatus { code: status.code().unwrap_or(137) })
    })
}

fn with_pipes(spec: &ExecSpec) -> io::Result<Session> {
    let pipe = |wanted: bool| if wanted { Stdio::piped() } else { Stdio::null() };
    let mut child = Command::new(&spec.command[0])
        .args(&spec.command[1..])
        .stdin(pipe(spec.stdin))
        .stdout(pipe(spec.stdout))
        .stderr(pipe(spec.stderr))
        .spawn()?;
    Ok(Session {
        stdin: child.stdin.take().map(|s| Box::pin(s) as Writer),
        stdout: child.stdout.take().map(|s| Box::pin(s) as Reader),
        stderr: child.stderr.take().map(|s| Box::pin(s) as Reader),
        resize: mpsc::channel(1).0,
        exit: exit(child),
    })
}

fn with_terminal(spec: &ExecSpec) -> io::Result<Session> {
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let master = openpt(flags)?;
    grantpt(&master)?;
    unlockpt(&master)?;
    let name = ptsname(&master, Vec::new())?;
    let slave = File::options().read(true).write(true).open(name.to_str().map_err(io::Error::other)?)?;
    rustix::io::ioctl_fionbio(&master, true)?;
    // It makes the terminal the controlling one, which takes unsafe code here.
    let child = Command::new("setsid")
        .args(["--ctty", "--wait"])
        .args(&spec.command)
        .stdin(slave.try_clone()?)
        .stdout(slave.try_clone()?)
        .stderr(slave)
        .spawn()?;
    let (resize, mut sizes) = mpsc::channel::<TerminalSize>(1);
    let terminal = master.try_clone()?;
    tokio::spawn(async move {
        while let Some(size) = sizes.recv().await {
            let size = Winsize { ws_row: size.height, ws_col: size.width, ws_xpixel: 0, ws_ypixel: 0 };
            let _ = tcsetwinsize(&terminal, size);
        }
    });
    Ok(Session {
        stdin: if spec.stdin { Some(Box::pin(Terminal::new(master.try_clone()?)?)) } else { None },
        stdout: Some(Box::pin(Terminal::new(master)?)),
        stderr: None,
        resize,
        exit: exit(child),
    })
}

/// The master side of a terminal.
struct Terminal(AsyncFd<OwnedFd>);

impl Terminal {
    #[expect(deprecated, reason = "its successor needs unsafe code")]
    fn new(fd: OwnedFd) -> io::Result<Self> {
        AsyncFd::new(fd).map(Self)
    }
}

impl AsyncRead for Terminal {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            let mut guard = ready!(self.0.poll_read_ready(cx))?;
            let room = buf.initialize_unfilled();
            if let Ok(read) = guard.try_io(|fd| Ok(rustix::io::read(fd.get_ref(), room)?)) {
                return Poll::Ready(read.map(|n| buf.advance(n)));
            }
        }
    }
}

impl AsyncWrite for Terminal {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            let mut guard = ready!(self.0.poll_write_ready(cx))?;
            if let Ok(written) = guard.try_io(|fd| Ok(rustix::io::write(fd.get_ref(), bytes)?)) {
                return Poll::Ready(written);
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[async_trait::async_trait]
impl ContainerRuntime for HostRuntime {
    async fn exec(&self, _: &str, spec: ExecSpec) -> Result<Session, Error> {
        let started = if spec.tty { with_terminal(&spec) } else { with_pipes(&spec) };
        started.map_err(|e| Error::Start(format!("exec {:?}: {e}", spec.command[0])))
    }

    async fn attach(&self, _: &str, stdin: bool, stdout: bool, stderr: bool) -> Result<Session, Error> {
        let command = ["sh", "-c", "echo attached; cat; exit 9"].map(Into::into).to_vec();
        with_pipes(&ExecSpec { command, tty: false, stdin, stdout, stderr })
            .map_err(|e| Error::io("attach", e))
    }

    async fn port_forward(&self, _: &str, port: u16) -> Result<tokio::net::TcpStream, Error> {
        let connected = tokio::net::TcpStream::connect(("127.0.0.1", port)).await;
        connected.map_err(|e| Error::io(format!("connecting to port {port}"), e))
    }

    async fn container_status(&self, id: &str) -> Result<ContainerStatus, Error> {
        let running = self.running.lock().contains(id);
        Ok(ContainerStatus {
            id: id.into(),
            sandbox_id: "sandbox".into(),
            labels: Default::default(),
            image_id: String::new(),
            state: if running { ContainerState::Running } else { ContainerState::Exited },
            created_at: 0,
            started_at: 0,
            finished_at: 0,
            exit_code: 0,
            signal: 0,
            reason: String::new(),
            message: String::new(),
            pid: 0,
            log_path: Default::default(),
        })
    }

    async fn container_stats(&self, _: &str) -> Result<Stats, Error> {
        Ok(Stats {
            at: 1_780_000_000_000_000_000,
            cpu_usage_ns: 5,
            memory_working_set: 6,
            memory_usage: 7,
            pids: 8,
        })
    }

    fn events(&self) -> broadcast::Receiver<RuntimeEvent> {
        self.events.subscribe()
    }

    async fn run_sandbox(&self, _: SandboxSpec) -> Result<SandboxStatus, Error> {
        not_here()
    }
    async fn stop_sandbox(&self, _: &str) -> Result<(), Error> {
        not_here()
    }
    async fn remove_sandbox(&self, _: &str) -> Result<(), Error> {
        not_here()
    }
    async fn list_sandboxes(&self) -> Result<Vec<SandboxStatus>, Error> {
        not_here()
    }
    async fn create_container(&self, _: ContainerSpec) -> Result<(), Error> {
        not_here()
    }
    async fn start_container(&self, _: &str) -> Result<(), Error> {
        not_here()
    }
    async fn stop_container(&self, _: &str, _: Duration) -> Result<(), Error> {
        not_here()
    }
    async fn signal_container(&self, _: &str, _: i32) -> Result<(), Error> {
        not_here()
    }
    async fn remove_container(&self, _: &str) -> Result<(), Error> {
        not_here()
    }
    async fn list_containers(&self) -> Result<Vec<ContainerStatus>, Error> {
        not_here()
    }
    async fn update_container(&self, _: &str, _: Resources) -> Result<(), Error> {
        not_here()
    }
    async fn update_sandbox(&self, _: &str, _: Resources) -> Result<(), Error> {
        not_here()
    }
    async fn container_disk(&self, _: &str) -> Result<u64, Error> {
        not_here()
    }
    async fn reopen_log(&self, _: &str) -> Result<(), Error> {
        not_here()
    }
    async fn exec_sync(&self, _: &str, _: Vec<String>, _: Duration) -> Result<ExecOutput, Error> {
        not_here()
    }
}
