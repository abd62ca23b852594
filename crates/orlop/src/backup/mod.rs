//! `orlop backup`: the cluster's state and the keys that it needs, in one file; and a cluster from such a file. `orlop_store::backup`
//! says what the file looks like.

mod new_file;
mod restore;
pub(crate) mod schedule;
pub(crate) mod socket;
mod source;

pub(crate) use restore::refuse_unfinished;
pub(crate) use schedule::ScheduleArguments;
pub(crate) use source::Source;

use crate::{Error, founding, layout::Layout, lock, membership::Membership};
use clap::{Args, Subcommand};
use new_file::NewFile;
use orlop_store::{
    Embedded, Options,
    backup::{Contents, read},
};
use std::{
    fs::File,
    io::{BufReader, Seek, Write},
    path::{Path, PathBuf},
    sync::Arc,
};

/// Problems of a file are told up to this many.
const PROBLEMS: usize = 20;

#[derive(Args)]
pub(crate) struct BackupArguments {
    #[command(subcommand)]
    verb: BackupVerb,
}

#[derive(Subcommand)]
enum BackupVerb {
    /// Write a backup of the server on this machine, whether it runs or not. The file holds the cluster's keys: keep it secret
    Create {
        /// The file to make; there must be none of that name
        #[arg(value_name = "FILE")]
        file: PathBuf,
        /// The folder that holds the cluster
        #[arg(long, default_value = orlop_cli::DEFAULT_DATA_DIR, value_name = "DIR")]
        data_dir: PathBuf,
    },
    /// Make a cluster from a backup, in a folder that is empty; then start it with `orlop server` and the flags that it had
    Restore {
        /// The backup
        #[arg(value_name = "FILE")]
        file: PathBuf,
        /// The folder that is to hold the cluster
        #[arg(long, default_value = orlop_cli::DEFAULT_DATA_DIR, value_name = "DIR")]
        data_dir: PathBuf,
    },
    /// Read all of a backup and say what is wrong with it
    Verify {
        /// The backup
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
    /// Say when the server on this machine makes backups, and which there are: `orlop server --backup-interval` and its neighbours
    Schedule {
        /// The folder that holds the cluster
        #[arg(long, default_value = orlop_cli::DEFAULT_DATA_DIR, value_name = "DIR")]
        data_dir: PathBuf,
    },
}

pub(crate) fn run(arguments: BackupArguments) -> Result<(), Error> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Error::at("starting"))?;
    match arguments.verb {
        BackupVerb::Create { file, data_dir } => {
            let contents = runtime.block_on(create(&file, &data_dir))?;
            println!(
                "wrote {}: {}. It holds the cluster's keys: keep it secret",
                file.display(),
                summary(&contents)
            );
        }
        BackupVerb::Restore { file, data_dir } => {
            let contents = whole(&file)?;
            let said = summary(&contents);
            restore::restore(contents, &data_dir)?;
            println!(
                "restored into {}: {said}. Start it with `orlop server --data-dir {}` and the flags that it had",
                data_dir.display(),
                data_dir.display()
            );
        }
        BackupVerb::Verify { file } => println!("{} is whole: {}", file.display(), summary(&whole(&file)?)),
        BackupVerb::Schedule { data_dir } => {
            let layout = find(&data_dir)?;
            let said = runtime.block_on(socket::ask_schedule(&layout))?;
            print!(
                "{}",
                said.ok_or_else(|| {
                    Error::Configuration(format!(
                        "no server runs in {}: only a running one makes backups",
                        data_dir.display()
                    ))
                })?
            );
        }
    }
    Ok(())
}

fn find(data_dir: &Path) -> Result<Layout, Error> {
    let none = || Error::Configuration(format!("{} is not a data folder of Orlop", data_dir.display()));
    let layout = Layout::find(data_dir)?.ok_or_else(none)?;
    if Membership::is_in(data_dir) {
        return Err(Error::Configuration(format!(
            "{} is that of a worker, which holds no state: make the backup where `orlop server` runs",
            data_dir.display()
        )));
    }
    Ok(layout)
}

/// Makes a backup: by the running server, or, where none runs, from its folder.
async fn create(target: &Path, data_dir: &Path) -> Result<Contents, Error> {
    let layout = find(data_dir)?;
    let mut made = NewFile::create(target)?;
    if !socket::receive(&layout, made.file()).await? {
        let _lock = lock::take(&layout.lock())?;
        refuse_unfinished(layout.root())?;
        // Where the state is in etcd, only a server that runs can read it.
        founding::may_be_alone(&layout)?;
        let store =
            Embedded::open(layout.store(), Options::default()).map_err(Error::at("opening the store"))?;
        let node = crate::address::host_name()?;
        let chunks = Source::new(Arc::new(store), &layout, &node).chunks().await?;
        write(made.file(), chunks)?;
    }
    let writing = || Error::at(format!("reading {} again", target.display()));
    made.file().rewind().map_err(writing())?;
    let contents = read(BufReader::new(made.file())).map_err(writing())?;
    if !contents.problems.is_empty() {
        return Err(damaged(target, &contents));
    }
    made.keep()?;
    Ok(contents)
}

fn write(file: &mut File, chunks: impl Iterator<Item = Vec<u8>>) -> Result<(), Error> {
    for chunk in chunks {
        file.write_all(&chunk).map_err(Error::at("writing the backup"))?;
    }
    Ok(())
}

/// Reads a backup that must be whole.
fn whole(path: &Path) -> Result<Contents, Error> {
    let reading = || Error::at(format!("reading {}", path.display()));
    let file = File::open(path).map_err(reading())?;
    let contents = read(BufReader::with_capacity(1 << 20, file)).map_err(reading())?;
    if contents.problems.is_empty() { Ok(contents) } else { Err(damaged(path, &contents)) }
}

fn damaged(path: &Path, contents: &Contents) -> Error {
    let mut problems: Vec<String> =
        contents.problems.iter().take(PROBLEMS).map(ToString::to_string).collect();
    problems.insert(0, format!("{} is damaged, do not rely on it:", path.display()));
    Error::Configuration(problems.join("\n  "))
}

fn summary(contents: &Contents) -> String {
    let of = contents.manifest.as_ref();
    format!(
        "{} objects at revision {} and {} files, made {} on {:?} by Orlop {}",
        contents.entries.len(),
        of.map_or(0, |m| m.revision.0),
        contents.files.len(),
        of.map_or("", |m| &m.created),
        of.map_or("", |m| &m.node),
        of.map_or("", |m| &m.program),
    )
}
