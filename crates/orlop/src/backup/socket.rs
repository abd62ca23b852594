//! How `orlop backup` speaks with the running server: over a socket in the data folder that only its owner may use. Who connects says
//! one line and gets `ok` on a line and then what was asked for, or one line that says what is wrong.
//!
//! | line | answer |
//! |---|---|
//! | `create` | a backup |
//! | `schedule` | for people |

use super::{Source, schedule::Schedule};
use crate::{Error, layout::Layout};
use std::{
    fs::{self, File, Permissions},
    io::{self, Write},
    os::unix::fs::PermissionsExt,
    sync::Arc,
    time::Duration,
};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{UnixListener, UnixStream},
};
use tokio_util::sync::CancellationToken;

/// How long somebody may take to say what they want.
const PATIENCE: Duration = Duration::from_secs(10);
const CREATE: &str = "create";
const SCHEDULE: &str = "schedule";

/// Serves until `shutdown`.
pub(crate) async fn serve(
    layout: Layout,
    source: Source,
    schedule: Arc<Schedule>,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    let path = layout.backup_socket();
    let failed = || Error::at(format!("listening on {}", path.display()));
    // The data folder is locked: what is there is of a process that is no more. It gets its mode before it has its name.
    let unnamed = path.with_extension("sock.new");
    let _ = fs::remove_file(&unnamed); // there is none, as a rule
    let listener = UnixListener::bind(&unnamed).map_err(failed())?;
    fs::set_permissions(&unnamed, Permissions::from_mode(0o600)).map_err(failed())?;
    fs::rename(&unnamed, &path).map_err(failed())?;
    loop {
        let stream = tokio::select! {
            () = shutdown.cancelled() => break,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "cannot take a connection for now");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            },
        };
        let (source, schedule) = (source.clone(), schedule.clone());
        tokio::spawn(async move {
            if let Err(error) = answer(stream, &source, &schedule).await {
                tracing::debug!(%error, "a backup was not taken to its end");
            }
        });
    }
    let _ = fs::remove_file(&path); // whoever comes next replaces what stays
    Ok(())
}

async fn answer(stream: UnixStream, source: &Source, schedule: &Schedule) -> io::Result<()> {
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    tokio::time::timeout(PATIENCE, (&mut stream).take(64).read_line(&mut line)).await??;
    match line.trim() {
        CREATE => match source.chunks().await {
            Ok(chunks) => {
                stream.write_all(b"ok\n").await?;
                for chunk in chunks {
                    stream.write_all(&chunk).await?;
                }
            }
            Err(error) => stream.write_all(format!("{}\n", crate::join::in_words(&error)).as_bytes()).await?,
        },
        SCHEDULE => stream.write_all(format!("ok\n{}", schedule.in_words()).as_bytes()).await?,
        _ => stream.write_all(b"the server knows no such request\n").await?,
    }
    stream.shutdown().await
}

/// Asks; `None` where no server listens.
async fn ask(layout: &Layout, what: &str) -> Result<Option<BufReader<UnixStream>>, Error> {
    let path = layout.backup_socket();
    let failed = || Error::at(format!("asking the server at {}", path.display()));
    let stream = match UnixStream::connect(&path).await {
        Ok(stream) => stream,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
            return Ok(None);
        }
        Err(error) => return Err(failed()(error)),
    };
    let mut stream = BufReader::new(stream);
    stream.write_all(format!("{what}\n").as_bytes()).await.map_err(failed())?;
    let mut line = String::new();
    stream.read_line(&mut line).await.map_err(failed())?;
    match line.trim() {
        "ok" => Ok(Some(stream)),
        "" => Err(Error::Configuration("the server ended before it answered".into())),
        why => Err(Error::Configuration(format!("the server: {why}"))),
    }
}

/// Writes the running server's backup into a file. `false`: no server runs.
pub(super) async fn receive(layout: &Layout, file: &mut File) -> Result<bool, Error> {
    let Some(mut stream) = ask(layout, CREATE).await? else { return Ok(false) };
    let mut buffer = vec![0; 256 << 10];
    loop {
        let count = stream.read(&mut buffer).await.map_err(Error::at("receiving the backup"))?;
        if count == 0 {
            return Ok(true);
        }
        file.write_all(&buffer[..count]).map_err(Error::at("writing the backup"))?;
    }
}

/// What the running server says of its schedule, if one runs.
pub(super) async fn ask_schedule(layout: &Layout) -> Result<Option<String>, Error> {
    let Some(mut stream) = ask(layout, SCHEDULE).await? else { return Ok(None) };
    let mut text = String::new();
    stream.read_to_string(&mut text).await.map_err(Error::at("asking the server"))?;
    Ok(Some(text))
}
