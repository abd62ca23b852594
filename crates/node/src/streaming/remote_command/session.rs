//! Joins a process's streams to a client's until the process has ended or the client is gone.

use super::super::websocket::Gone;
use bytes::{Bytes, BytesMut};
use orlop_runtime::{Error, ExitStatus, Reader, Session, TerminalSize, Writer};
use std::time::Duration;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::{mpsc, watch},
};
use tokio_util::sync::CancellationToken;

/// Most bytes in one message to the client.
const BLOCK: usize = 32 << 10;
/// A process that has ended may leave children which hold its output open. What they write is passed on as long as it
/// comes; after this silence nobody waits for them any more.
const SILENCE: Duration = Duration::from_secs(1);

/// A stream of a remote command. The numbers are those of the channel protocols.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Channel {
    Stdin = 0,
    Stdout = 1,
    Stderr = 2,
    Error = 3,
    Resize = 4,
}

/// What a client sends.
pub struct Input {
    /// Ends when the client has closed its input or is gone.
    pub stdin: mpsc::Receiver<Bytes>,
    /// The newest size of its terminal.
    pub resize: watch::Receiver<Option<TerminalSize>>,
    /// Is cancelled when the client is gone.
    pub gone: CancellationToken,
}

/// Takes what a process writes to its client, and waits while the client is slow.
#[async_trait::async_trait]
pub trait Output: Send + Sync {
    async fn write(&self, channel: Channel, bytes: Bytes) -> Result<(), Gone>;
}

/// How the process ended; none if the client was gone before. Everything of the session is closed on return.
pub async fn run(session: Session, input: Input, output: &dyn Output) -> Option<Result<ExitStatus, Error>> {
    let Session { stdin, stdout, stderr, resize, exit } = session;
    let Input { stdin: typed, resize: mut sizes, gone } = input;
    let ended = CancellationToken::new();
    let outputs = async {
        tokio::join!(
            copy_out(stdout, Channel::Stdout, output, &ended),
            copy_out(stderr, Channel::Stderr, output, &ended),
        )
    };
    let finish = async {
        let exit = async {
            let status = exit.await;
            ended.cancel();
            status
        };
        tokio::join!(exit, outputs).0
    };
    let inputs = async {
        let resizing = async {
            while sizes.changed().await.is_ok() {
                let newest = *sizes.borrow_and_update();
                if let Some(size) = newest
                    && resize.send(size).await.is_err()
                {
                    return;
                }
            }
        };
        tokio::join!(copy_in(stdin, typed), resizing);
        std::future::pending::<()>().await
    };
    tokio::select! {
        status = finish => Some(status),
        () = inputs => None,
        () = gone.cancelled() => None,
    }
}

async fn copy_in(stdin: Option<Writer>, mut typed: mpsc::Receiver<Bytes>) {
    let Some(mut stdin) = stdin else { return };
    while let Some(bytes) = typed.recv().await {
        if stdin.write_all(&bytes).await.is_err() || stdin.flush().await.is_err() {
            return;
        }
    }
    let _ = stdin.shutdown().await;
}

async fn copy_out(from: Option<Reader>, channel: Channel, to: &dyn Output, ended: &CancellationToken) {
    let Some(mut from) = from else { return };
    let silence = async || {
        ended.cancelled().await;
        tokio::time::sleep(SILENCE).await;
    };
    let mut buffer = BytesMut::new();
    loop {
        buffer.reserve(BLOCK);
        let read = tokio::select! {
            biased;
            read = from.read_buf(&mut buffer) => read,
            () = silence() => return,
        };
        // A terminal whose other side is closed reads as an error.
        if !matches!(read, Ok(1..)) || to.write(channel, buffer.split().freeze()).await.is_err() {
            return;
        }
    }
}
