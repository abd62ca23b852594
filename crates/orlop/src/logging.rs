//! Structured logs on standard error, quiet by default.

use clap::{Args, ValueEnum};
use tracing_subscriber::{EnvFilter, fmt};

/// How logs are written.
#[derive(Args, Clone, Debug)]
pub(crate) struct LogArguments {
    /// What is logged: error, warn, info, debug, trace, or directives such as "warn,orlop_node=debug"
    #[arg(long, default_value = "warn", env = "ORLOP_LOG", value_name = "FILTER")]
    log: String,
    /// How a line looks
    #[arg(long, value_enum, default_value_t = Format::Text, value_name = "FORMAT")]
    log_format: Format,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Format {
    /// For people
    Text,
    /// One JSON object a line
    Json,
}

/// Starts logging; called once.
pub(crate) fn start(arguments: &LogArguments) -> Result<(), crate::Error> {
    // The DNS library logs every query at info; who wants that names it.
    let quiet = if arguments.log.contains("hickory") { "" } else { ",hickory_server=warn" };
    let filter = EnvFilter::try_new(format!("{}{quiet}", arguments.log))
        .map_err(crate::Error::at(format!("reading the log filter {:?}", arguments.log)))?;
    let builder = fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match arguments.log_format {
        Format::Text => builder.with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr())).init(),
        Format::Json => builder.json().init(),
    }
    Ok(())
}
