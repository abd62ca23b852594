//! Sends a log to its reader and, if it is to be followed, waits for more: for changes in its folder (inotify), and for the
//! container's end.

use super::{
    options::LogOptions,
    reader::{LogReader, Progress},
};
use bytes::Bytes;
use orlop_runtime::{ContainerRuntime, ContainerState, Error, RuntimeEvent};
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use std::{
    io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use tokio::{
    io::unix::AsyncFd,
    sync::{broadcast::error::RecvError, mpsc},
};

/// The last lines may be written a little after the container's end is told.
const QUIET: Duration = Duration::from_millis(100);
/// Events may be lost while the runtime is reached anew: from time to time the container itself is asked.
const RECHECK: Duration = Duration::from_secs(10);

/// The container whose log is followed until it ends.
pub struct Followed {
    pub runtime: Arc<dyn ContainerRuntime>,
    pub container: String,
}

/// Sends a log; returns when it is sent, or when nobody reads any more.
pub async fn send(
    path: PathBuf,
    options: LogOptions,
    followed: Option<Followed>,
    sender: &mpsc::Sender<io::Result<Bytes>>,
) -> io::Result<()> {
    // Watching begins before reading, so that nothing is missed between the two.
    let changes = match &followed {
        Some(_) => Some(Changes::watch(&path)?),
        None => None,
    };
    let mut end = std::pin::pin!(async {
        match followed {
            Some(followed) => followed.ended().await,
            None => std::future::pending().await,
        }
    });
    let mut ended = false;
    let mut reader = blocking(move || LogReader::open(path, options)).await?;
    loop {
        let (progress, text);
        (reader, progress, text) = blocking(move || read_block(reader)).await?;
        if !text.is_empty() && sender.send(Ok(text.into())).await.is_err() {
            return Ok(());
        }
        let Some(changes) = &changes else {
            match progress {
                Progress::More => continue,
                Progress::CaughtUp | Progress::Full => break,
            }
        };
        match progress {
            Progress::More => {}
            Progress::Full => return Ok(()),
            Progress::CaughtUp if ended => {
                if tokio::time::timeout(QUIET, changes.next()).await.is_err() {
                    break;
                }
            }
            Progress::CaughtUp => tokio::select! {
                changed = changes.next() => changed?,
                () = &mut end => ended = true,
                () = sender.closed() => return Ok(()),
            },
        }
    }
    let mut text = Vec::new();
    reader.finish(&mut text);
    if !text.is_empty() {
        let _ = sender.send(Ok(text.into())).await;
    }
    Ok(())
}

fn read_block(mut reader: LogReader) -> io::Result<(LogReader, Progress, Vec<u8>)> {
    let mut text = Vec::new();
    let progress = reader.read(&mut text)?;
    Ok((reader, progress, text))
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
}

impl Followed {
    /// Waits until the container does not run any more.
    async fn ended(&self) {
        loop {
            let mut events = self.runtime.events();
            match self.runtime.container_status(&self.container).await {
                Ok(status) if matches!(status.state, ContainerState::Created | ContainerState::Running) => {}
                Ok(_) | Err(Error::NotFound { .. }) => return,
                Err(e) => {
                    tracing::debug!(container = self.container, error = %e, "cannot ask for a container")
                }
            }
            let news = async {
                loop {
                    match events.recv().await {
                        Ok(RuntimeEvent::Exited { container_id, .. }) if container_id == self.container => {
                            return;
                        }
                        Ok(RuntimeEvent::SandboxLost { .. }) | Err(RecvError::Lagged(_)) => return,
                        Ok(RuntimeEvent::Exited { .. }) => {}
                        Err(RecvError::Closed) => std::future::pending().await,
                    }
                }
            };
            let _ = tokio::time::timeout(RECHECK, news).await;
        }
    }
}

/// Changes in the folder of a log.
struct Changes {
    inotify: AsyncFd<OwnedFd>,
}

impl Changes {
    fn watch(log: &Path) -> io::Result<Self> {
        let folder = log.parent().ok_or(io::ErrorKind::InvalidInput)?;
        let inotify = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        let what = WatchFlags::MODIFY | WatchFlags::CREATE | WatchFlags::MOVED_TO | WatchFlags::ONLYDIR;
        inotify::add_watch(&inotify, folder, what)?;
        #[expect(
            deprecated,
            reason = "its successor needs unsafe code for descriptors that may be closed early; this one lives as long"
        )]
        let inotify = AsyncFd::new(inotify)?;
        Ok(Self { inotify })
    }

    /// Waits for the next ones and takes all that are there.
    async fn next(&self) -> io::Result<()> {
        let mut buffer = [0; 4096];
        loop {
            let mut ready = self.inotify.readable().await?;
            let mut any = false;
            loop {
                match ready.try_io(|fd| Ok(rustix::io::read(fd.get_ref(), &mut buffer)?)) {
                    Ok(Ok(_)) => any = true,
                    Ok(Err(e)) => return Err(e),
                    Err(_) => break,
                }
            }
            if any {
                return Ok(());
            }
        }
    }
}
