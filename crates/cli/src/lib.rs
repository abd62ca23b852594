//! Client verbs for people without kubectl: `apply`, `get`, `logs`, `exec`, `delete`, `explain`, `net` and `network`, and `image` for the images of
//! this machine, and `simulate`. Each verb is a `clap` shape and a function; the binary mounts them. They know only the public API: what is
//! here works against any Kubernetes API server, and nothing of Orlop's inside is used (but `image`, which speaks to the socket
//! of the server on this machine; `explain`, which asks the scheduler's core; and `simulate`, which runs all of the control plane on
//! a copy of a cluster).

mod api;
mod apply;
mod connect;
mod delete;
mod error;
mod exec;
mod explain;
mod explain_connection;
mod get;
mod image;
mod logs;
mod manifest;
mod net;
mod network;
mod node;
mod pods;
mod resources;
mod simulate;
mod status;
mod table;
mod token;
mod top;

pub use apply::ApplyArgs;
pub use connect::{ConnectionArgs, DEFAULT_DATA_DIR};
pub use delete::DeleteArgs;
pub use error::Error;
pub use exec::ExecArgs;
pub use explain::{ExplainArgs, ExplainVerb};
pub use explain_connection::ExplainConnectionArgs;
pub use get::{GetArgs, OutputFormat};
pub use image::{ImageArgs, ImageVerb};
pub use logs::LogsArgs;
pub use net::{NetArgs, NetPart};
pub use network::{NetworkArgs, NetworkVerb};
pub use node::{DrainArgs, NodeArgs, NodeVerb};
pub use simulate::{SimulateArgs, SimulateFormat};
pub use status::StatusArgs;
pub use token::{TokenArgs, TokenVerb, join_command};
pub use top::{Order, TopArgs, TopVerb};

use std::process::ExitCode;

/// What a person can ask of a cluster.
#[derive(Clone, Debug, clap::Subcommand)]
pub enum ClientVerb {
    /// Create or change objects so that they are as files describe them
    Apply(ApplyArgs),
    /// Show objects: in a table, or whole as YAML or JSON
    Get(GetArgs),
    /// Print what a container wrote
    Logs(LogsArgs),
    /// Run a command in a container
    Exec(ExecArgs),
    /// Say why a pod is where it is or has no node, and what would help; or which NetworkPolicy decides about a connection
    Explain(ExplainArgs),
    /// Say what would happen to a cluster: the real scheduler and controllers on a copy of it, in virtual time
    Simulate(Box<SimulateArgs>),
    /// Delete objects, and wait until they are gone
    Delete(DeleteArgs),
    /// Show the cluster's network: networks, addresses, ways from this machine, Services
    Net(NetArgs),
    /// Networks that people make: list, create, remove, connect and disconnect running pods, inspect
    Network(NetworkArgs),
    /// Tokens by which machines join: create, list, delete
    Token(TokenArgs),
    /// The machines of the cluster: list, show, label, cordon, drain, maintenance, uncordon, remove
    Node(Box<NodeArgs>),
    /// How the cluster is: who serves it, which parts are well, who leads, how its nodes are
    Status(StatusArgs),
    /// What nodes and pods use now
    Top(TopArgs),
    /// Images of this machine: import, pull, list, remove, build
    Image(ImageArgs),
}

/// Does what was asked. An error's text is complete (`Error from server (NotFound): …`, `error: …`): print it as it is and exit
/// with 1. The exit code is that of the command, for `exec`.
pub async fn run(verb: ClientVerb) -> Result<ExitCode, Error> {
    let outcome = match verb {
        ClientVerb::Apply(args) => apply::run(args).await,
        ClientVerb::Get(args) => get::run(args).await,
        ClientVerb::Logs(args) => logs::run(args).await,
        ClientVerb::Exec(args) => exec::run(args).await,
        ClientVerb::Explain(args) => explain::run(args).await,
        ClientVerb::Simulate(args) => simulate::run(*args).await,
        ClientVerb::Delete(args) => delete::run(args).await,
        ClientVerb::Net(args) => net::run(args).await,
        ClientVerb::Network(args) => network::run(args).await,
        ClientVerb::Token(args) => token::run(args).await,
        ClientVerb::Node(args) => node::run(*args).await,
        ClientVerb::Status(args) => status::run(args).await,
        ClientVerb::Top(args) => top::run(args).await,
        ClientVerb::Image(args) => image::run(args).await,
    };
    match outcome {
        // Whoever read the output has had enough (`orlop get pods | head -1`).
        Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::BrokenPipe => {
            Ok(ExitCode::SUCCESS)
        }
        other => other,
    }
}

/// Writes to standard output at once; what follows may take long.
pub(crate) fn print(text: &str) -> Result<(), Error> {
    write_all(&mut std::io::stdout(), text.as_bytes())
}

/// Writes all of it, and has it leave. It may block: a verb has nothing else to do while nobody takes its output.
pub(crate) fn write_all(to: &mut impl std::io::Write, bytes: &[u8]) -> Result<(), Error> {
    to.write_all(bytes).and_then(|()| to.flush()).map_err(|e| Error::io("writing the output", e))
}
