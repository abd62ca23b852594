//! Streams between the agent's clients and processes in containers. Bytes go through pipes and terminals straight between
//! the two: the shim only passes the descriptors.

use crate::{
    Error, ExecOutput, ExecSpec, ExitStatus, Reader, Session, TerminalSize, Writer,
    container::Container,
    protocol::{ExecRequest, Reply, Request},
    shim_client::ShimConnection,
};
use std::{
    fs::File,
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    path::Path,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, ReadBuf},
    net::unix::pipe,
    sync::mpsc,
};

/// How long entering a container may take.
const EXEC_LIMIT: Duration = Duration::from_secs(60);
/// How much of each output [`exec_sync`] keeps.
const OUTPUT_LIMIT: usize = 16 << 10;
/// How long output may trickle on from what a finished command has left running.
const OUTPUT_GRACE: Duration = Duration::from_millis(500);

fn step(what: &'static str) -> impl Fn(io::Error) -> Error {
    move |e| Error::io(what, e)
}

/// Output of a process: a pipe, or a terminal, whose end reads as an error.
struct Output(pipe::Receiver);

impl AsyncRead for Output {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match Pin::new(&mut self.0).poll_read(context, buffer) {
            Poll::Ready(Err(e)) if e.raw_os_error() == Some(libc::EIO) => Poll::Ready(Ok(())),
            other => other,
        }
    }
}

fn reader(descriptor: OwnedFd) -> Result<Reader, Error> {
    let receiver = (|| {
        rustix::io::ioctl_fionbio(&descriptor, true)?;
        pipe::Receiver::from_file_unchecked(File::from(descriptor))
    })();
    Ok(Box::pin(Output(receiver.map_err(step("taking over an output"))?)))
}

fn writer(descriptor: OwnedFd) -> Result<Writer, Error> {
    let sender = (|| {
        rustix::io::ioctl_fionbio(&descriptor, true)?;
        pipe::Sender::from_file_unchecked(File::from(descriptor))
    })();
    Ok(Box::pin(sender.map_err(step("taking over an input"))?))
}

/// A pipe for one of a process's streams, if it is wanted.
fn pipe_if(wanted: bool) -> Result<Option<(OwnedFd, OwnedFd)>, Error> {
    match wanted {
        true => {
            let (reader, writer) = io::pipe().map_err(step("making a pipe"))?;
            Ok(Some((reader.into(), writer.into())))
        }
        false => Ok(None),
    }
}

/// Takes terminal sizes and applies them, as long as somebody may send some.
fn resizer(master: Option<OwnedFd>) -> mpsc::Sender<TerminalSize> {
    let (sender, mut sizes) = mpsc::channel::<TerminalSize>(4);
    if let Some(master) = master {
        tokio::spawn(async move {
            while let Some(size) = sizes.recv().await {
                let size =
                    libc::winsize { ws_row: size.height, ws_col: size.width, ws_xpixel: 0, ws_ypixel: 0 };
                // SAFETY: TIOCSWINSZ reads a winsize through the pointer.
                unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCSWINSZ, &size) };
            }
        });
    }
    sender
}

/// A process that has been started in a container.
struct Started {
    connection: ShimConnection,
    stdin: Option<Writer>,
    stdout: Option<Reader>,
    stderr: Option<Reader>,
    master: Option<OwnedFd>,
}

async fn start(folder: &Path, sandbox: &str, request: ExecRequest) -> Result<Started, Error> {
    let mut connection = ShimConnection::open(folder, sandbox).await?;
    let piped = !request.tty;
    let stdin = pipe_if(piped && request.stdin)?;
    let stdout = pipe_if(piped && request.stdout)?;
    let stderr = pipe_if(piped && request.stderr)?;
    let theirs: Vec<BorrowedFd<'_>> = stdin
        .iter()
        .map(|(read, _)| read.as_fd())
        .chain(stdout.iter().chain(&stderr).map(|(_, write)| write.as_fd()))
        .collect();
    let (wants_input, wants_output) = (request.stdin, request.stdout);
    let asked = Request::Exec(request);
    let (reply, mut descriptors) = connection.ask(&asked, &theirs, EXEC_LIMIT).await?;
    if let Reply::Started { warnings, .. } = &reply {
        for warning in warnings {
            tracing::debug!(sandbox, "exec: {warning}");
        }
    }
    // With a terminal, one descriptor is input and output both.
    let master = descriptors.pop();
    let copy = |wanted: bool| match (&master, wanted) {
        (Some(master), true) => master.try_clone().map(Some).map_err(step("copying a terminal")),
        _ => Ok(None),
    };
    let stdin = stdin.map(|(_, write)| write).or(copy(wants_input && !piped)?);
    let stdout = stdout.map(|(read, _)| read).or(copy(wants_output && !piped)?);
    Ok(Started {
        connection,
        stdin: stdin.map(writer).transpose()?,
        stdout: stdout.map(reader).transpose()?,
        stderr: stderr.map(|(read, _)| reader(read)).transpose()?,
        master,
    })
}

/// Waits until an executed process has ended.
async fn exec_exit(connection: &mut ShimConnection) -> Result<ExitStatus, Error> {
    while let Some((reply, _)) = connection.next().await? {
        if let Reply::ExecExited { code } = reply {
            return Ok(ExitStatus { code });
        }
    }
    // The shim is gone, and its containers with it.
    Ok(ExitStatus { code: 128 + libc::SIGKILL })
}

/// Runs a command in a container and streams with it.
pub async fn exec(folder: &Path, sandbox: &str, id: &str, spec: ExecSpec) -> Result<Session, Error> {
    let request = ExecRequest {
        id: id.to_string(),
        command: spec.command,
        tty: spec.tty,
        stdin: spec.stdin,
        stdout: spec.stdout,
        stderr: spec.stderr && !spec.tty,
    };
    let mut started = start(folder, sandbox, request).await?;
    Ok(Session {
        stdin: started.stdin,
        stdout: started.stdout,
        stderr: started.stderr,
        resize: resizer(started.master),
        exit: Box::pin(async move { exec_exit(&mut started.connection).await }),
    })
}

/// Keeps the first bytes of an output and drops the rest, so that its writer never waits.
async fn collect(output: Option<Reader>) -> Vec<u8> {
    let mut kept = Vec::new();
    let Some(mut output) = output else { return kept };
    let mut buffer = vec![0; 8 << 10];
    while let Ok(read @ 1..) = output.read(&mut buffer).await {
        let room = OUTPUT_LIMIT - kept.len();
        kept.extend_from_slice(&buffer[..read.min(room)]);
    }
    kept
}

/// Runs a command in a container to its end; kills it when it has taken too long.
pub async fn exec_sync(
    folder: &Path,
    sandbox: &str,
    id: &str,
    command: Vec<String>,
    timeout: Duration,
) -> Result<ExecOutput, Error> {
    let request = ExecRequest { id: id.into(), command, stdout: true, stderr: true, ..Default::default() };
    let started = start(folder, sandbox, request).await?;
    let mut connection = started.connection;
    let stdout = tokio::spawn(collect(started.stdout));
    let stderr = tokio::spawn(collect(started.stderr));
    let aborts = [stdout.abort_handle(), stderr.abort_handle()];
    let outcome = tokio::time::timeout(timeout, exec_exit(&mut connection)).await;
    let Ok(exit) = outcome else {
        connection.send(&Request::KillExec, &[]).await?;
        let _ = tokio::time::timeout(OUTPUT_GRACE, exec_exit(&mut connection)).await;
        aborts.iter().for_each(tokio::task::AbortHandle::abort);
        return Err(Error::Timeout("the command"));
    };
    let code = exit?.code;
    // Something that the command left in the background may hold its output open for ever.
    let both = async { (stdout.await.unwrap_or_default(), stderr.await.unwrap_or_default()) };
    let (stdout, stderr) = tokio::time::timeout(OUTPUT_GRACE, both).await.unwrap_or_default();
    aborts.iter().for_each(tokio::task::AbortHandle::abort);
    Ok(ExecOutput { stdout, stderr, code })
}

/// Streams with a container's main process.
pub async fn attach(
    folder: &Path,
    container: Arc<Container>,
    stdin: bool,
    stdout: bool,
    stderr: bool,
) -> Result<Session, Error> {
    let record = container.record();
    let (id, tty) = (record.spec.id, record.spec.tty);
    let stderr = stderr && !tty;
    let mut connection = ShimConnection::open(folder, &record.spec.sandbox_id).await?;
    let (out, err) = (pipe_if(stdout)?, pipe_if(stderr)?);
    let theirs: Vec<BorrowedFd<'_>> = out.iter().chain(&err).map(|(_, write)| write.as_fd()).collect();
    // Of a terminal the descriptor is needed for its size too.
    let asked = Request::Attach { id, stdout, stderr, stdin: stdin || tty };
    let (_, mut descriptors) = connection.ask(&asked, &theirs, EXEC_LIMIT).await?;
    let input = descriptors.pop();
    let master = match (&input, tty) {
        (Some(input), true) => Some(input.try_clone().map_err(step("copying a terminal"))?),
        _ => None,
    };
    Ok(Session {
        stdin: input.filter(|_| stdin).map(writer).transpose()?,
        stdout: out.map(|(read, _)| reader(read)).transpose()?,
        stderr: err.map(|(read, _)| reader(read)).transpose()?,
        resize: resizer(master),
        exit: Box::pin(async move {
            // The connection is the attachment: it is kept until the container ends.
            while let Some((reply, _)) = connection.next().await? {
                if matches!(reply, Reply::Exited { .. }) {
                    break;
                }
            }
            let exit = container.wait_exit(EXEC_LIMIT).await;
            Ok(ExitStatus { code: exit.map_or(128 + libc::SIGKILL, |e| e.exit_code) })
        }),
    })
}
