//! `logs`: what a container wrote.

use crate::{ConnectionArgs, Error, pods, write_all};
use std::process::ExitCode;
use tokio::io::AsyncBufReadExt;

/// Arguments of `logs`.
#[derive(Clone, Debug, clap::Args)]
pub struct LogsArgs {
    /// Pod, or KIND/NAME of what selects it: `deploy/web`
    #[arg(value_name = "POD")]
    pub target: String,
    /// Container [default: the first]
    #[arg(short, long, value_name = "NAME")]
    pub container: Option<String>,
    /// Go on printing what it writes
    #[arg(short, long)]
    pub follow: bool,
    /// Of the run before its last restart
    #[arg(short, long)]
    pub previous: bool,
    /// Only the last lines
    #[arg(long, value_name = "LINES")]
    pub tail: Option<u64>,
    /// Only what was written in the last seconds
    #[arg(long, value_name = "SECONDS")]
    pub since: Option<u64>,
    /// The time before each line
    #[arg(long)]
    pub timestamps: bool,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub connection: ConnectionArgs,
}

pub(crate) async fn run(args: LogsArgs) -> Result<ExitCode, Error> {
    let api = args.connection.connect().await?;
    let found = pods::find(&api, &args.target, args.container.as_deref()).await?;
    let (tail, since) = (args.tail.map(|n| n.to_string()), args.since.map(|n| n.to_string()));
    let mut query = vec![("container", found.container.as_str())];
    for (wanted, name) in
        [(args.follow, "follow"), (args.previous, "previous"), (args.timestamps, "timestamps")]
    {
        if wanted {
            query.push((name, "true"));
        }
    }
    query.extend(tail.as_deref().map(|n| ("tailLines", n)));
    query.extend(since.as_deref().map(|n| ("sinceSeconds", n)));
    let mut log = api.stream(&pods::subresource(&api, &found.pod, "log"), &query, "*/*").await?;
    loop {
        let part = log.fill_buf().await.map_err(|e| Error::io("reading the log", e))?;
        if part.is_empty() {
            return Ok(ExitCode::SUCCESS);
        }
        write_all(&mut std::io::stdout(), part)?;
        let length = part.len();
        log.consume(length);
    }
}
