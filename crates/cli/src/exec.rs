//! `exec`: runs a command in a container, with this terminal as its own if wanted (WebSocket, `v5.channel.k8s.io` or v4).

use crate::{ConnectionArgs, Error, api::Api, pods, write_all};
use futures::SinkExt;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{AttachParams, AttachedProcess, TerminalSize};
use rustix::termios::{OptionalActions, Termios, isatty, tcgetattr, tcgetwinsize, tcsetattr};
use std::{
    io::{Read, Write, stdin},
    process::ExitCode,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    signal::unix::{SignalKind, signal},
    sync::mpsc,
};

/// Bytes under way in each direction.
const BUFFER: usize = 64 << 10;

/// Arguments of `exec`.
#[derive(Clone, Debug, clap::Args)]
pub struct ExecArgs {
    /// Pod, or KIND/NAME of what selects it: `deploy/web`
    #[arg(value_name = "POD")]
    pub target: String,
    /// Container [default: the first]
    #[arg(short, long, value_name = "NAME")]
    pub container: Option<String>,
    /// Pass standard input on
    #[arg(short = 'i', long)]
    pub stdin: bool,
    /// Give the command a terminal
    #[arg(short, long)]
    pub tty: bool,
    /// The command, after --
    #[arg(last = true, required = true, value_name = "COMMAND")]
    pub command: Vec<String>,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub connection: ConnectionArgs,
}

pub(crate) async fn run(args: ExecArgs) -> Result<ExitCode, Error> {
    let api = args.connection.connect().await?;
    let found = pods::find(&api, &args.target, args.container.as_deref()).await?;
    let has_terminal = args.stdin && isatty(stdin());
    let tty = args.tty && has_terminal;
    if args.tty && !has_terminal {
        eprintln!("Unable to use a TTY - input is not a terminal");
    }
    let params = AttachParams {
        container: Some(found.container),
        stdin: args.stdin,
        stdout: true,
        stderr: !tty,
        tty,
        max_stdin_buf_size: Some(BUFFER),
        max_stdout_buf_size: Some(BUFFER),
        max_stderr_buf_size: Some(BUFFER),
    };
    let pods = kube::Api::<Pod>::namespaced(api.client.clone(), &api.namespace);
    let process = pods.exec(&found.pod, &args.command, &params).await.map_err(|e| api.explain(e))?;
    // From here to the end of the command the terminal is the command's.
    let raw = if tty { Some(RawTerminal::enter()?) } else { None };
    let outcome = stream(&api, process).await;
    drop(raw);
    outcome
}

async fn stream(api: &Api, mut process: AttachedProcess) -> Result<ExitCode, Error> {
    if let Some(input) = process.stdin() {
        tokio::spawn(feed(input));
    }
    if let Some(sizes) = process.terminal_size() {
        tokio::spawn(tell_sizes(sizes));
    }
    let status = process.take_status();
    let (out, err) = (process.stdout(), process.stderr());
    let copied = tokio::join!(copy(out, std::io::stdout()), copy(err, std::io::stderr()));
    copied.0.and(copied.1)?;
    let status = match status {
        Some(status) => status.await,
        None => None,
    };
    match status {
        Some(status) => {
            let status = serde_json::to_value(&status).map_err(|e| Error::Answer(e.to_string()))?;
            exit_code(&status)
        }
        None => Err(match process.join().await {
            Err(e) => api.explain(kube::Error::Service(Box::new(e))),
            Ok(()) => Error::Answer("the connection ended before the command did".into()),
        }),
    }
}

/// The command's exit code, from the `Status` that ends an exec.
fn exit_code(status: &serde_json::Value) -> Result<ExitCode, Error> {
    if status["status"] == "Success" {
        return Ok(ExitCode::SUCCESS);
    }
    let causes = status["details"]["causes"].as_array().into_iter().flatten();
    let code = causes
        .filter(|cause| cause["reason"] == "ExitCode")
        .find_map(|cause| cause["message"].as_str()?.parse::<i32>().ok());
    match code {
        Some(code) => Ok(ExitCode::from(u8::try_from(code & 0xff).unwrap_or(1))),
        None => Err(crate::api::from_status(500, status.to_string().as_bytes())),
    }
}

async fn copy(from: Option<impl AsyncRead + Unpin>, mut to: impl Write) -> Result<(), Error> {
    let Some(mut from) = from else { return Ok(()) };
    let mut buffer = vec![0; BUFFER];
    loop {
        let n = from.read(&mut buffer).await.map_err(|e| Error::io("reading the output", e))?;
        if n == 0 {
            return Ok(());
        }
        write_all(&mut to, &buffer[..n])?;
    }
}

/// Passes standard input on. It is read on a thread of its own, which a read that never returns cannot keep from ending with
/// the process.
async fn feed(mut input: impl AsyncWrite + Unpin) {
    let (sender, mut receiver) = mpsc::channel::<Vec<u8>>(4);
    std::thread::spawn(move || {
        let mut buffer = vec![0; BUFFER];
        while let Ok(n @ 1..) = stdin().lock().read(&mut buffer) {
            if sender.blocking_send(buffer[..n].to_vec()).is_err() {
                break;
            }
        }
    });
    while let Some(bytes) = receiver.recv().await {
        if input.write_all(&bytes).await.is_err() || input.flush().await.is_err() {
            return;
        }
    }
    let _ = input.shutdown().await; // the command may have ended already
}

/// Tells the size of this terminal now and whenever it changes.
async fn tell_sizes(mut sizes: impl futures::Sink<TerminalSize> + Unpin) {
    let Ok(mut changes) = signal(SignalKind::window_change()) else { return };
    loop {
        if let Ok(size) = tcgetwinsize(stdin()) {
            let size = TerminalSize { width: size.ws_col, height: size.ws_row };
            if sizes.send(size).await.is_err() {
                return;
            }
        }
        if changes.recv().await.is_none() {
            return;
        }
    }
}

/// A terminal that passes every key on. As it was before when this is dropped.
struct RawTerminal(Termios);

impl RawTerminal {
    fn enter() -> Result<Self, Error> {
        let failed = |e: rustix::io::Errno| Error::io("preparing the terminal", e.into());
        let before = tcgetattr(stdin()).map_err(failed)?;
        let mut raw = before.clone();
        raw.make_raw();
        // What was typed ahead stays typed.
        tcsetattr(stdin(), OptionalActions::Now, &raw).map_err(failed)?;
        Ok(Self(before))
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        let _ = tcsetattr(stdin(), OptionalActions::Drain, &self.0); // a terminal that is gone needs no mode
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_exit_code_is_that_of_the_command() {
        let failed = json!({
            "status": "Failure", "reason": "NonZeroExitCode", "message": "command terminated with exit code 3",
            "details": {"causes": [{"reason": "ExitCode", "message": "3"}]},
        });
        assert_eq!(exit_code(&failed).unwrap(), ExitCode::from(3));
        assert_eq!(exit_code(&json!({"status": "Success"})).unwrap(), ExitCode::SUCCESS);
        let broken = json!({"status": "Failure", "reason": "InternalError", "message": "no such program"});
        assert_eq!(
            exit_code(&broken).unwrap_err().to_string(),
            "Error from server (InternalError): no such program"
        );
    }
}
