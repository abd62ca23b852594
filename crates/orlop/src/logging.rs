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

/// Libraries that say more than their level suggests: the DNS server logs every query at info, the netlink library warns of each
/// "not found" that we ask for on purpose. Who wants to hear them names them.
const TALKATIVE: [(&str, &str); 2] = [("hickory", "hickory_server=warn"), ("nlink", "nlink=error")];

fn directives(wanted: &str) -> String {
    let quiet =
        TALKATIVE.iter().filter(|(library, _)| !wanted.contains(library)).map(|(_, directive)| *directive);
    std::iter::once(wanted).chain(quiet).collect::<Vec<_>>().join(",")
}

/// Starts logging; called once.
pub(crate) fn start(arguments: &LogArguments) -> Result<(), crate::Error> {
    let filter = EnvFilter::try_new(directives(&arguments.log))
        .map_err(crate::Error::at(format!("reading the log filter {:?}", arguments.log)))?;
    let builder = fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match arguments.log_format {
        Format::Text => builder.with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr())).init(),
        Format::Json => builder.json().init(),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn talkative_libraries_are_heard_only_by_name() {
        assert_eq!(directives("warn"), "warn,hickory_server=warn,nlink=error");
        assert_eq!(directives("info,nlink=debug"), "info,nlink=debug,hickory_server=warn");
    }
}
