//! What systemd is told and given: when the process is ready or ends (sd_notify), and the unit that starts it.

use clap::{Args, ValueEnum};
use std::{
    ffi::OsStr,
    os::{
        linux::net::SocketAddrExt,
        unix::{
            ffi::OsStrExt,
            net::{SocketAddr, UnixDatagram},
        },
    },
};

const UNIT: &str = include_str!("../../../packaging/orlop.service");
const START: &str = "orlop server";

#[derive(Args)]
pub(crate) struct UnitArguments {
    /// What the unit starts
    #[arg(value_enum, default_value_t = Role::Server)]
    role: Role,
}

#[derive(Clone, Copy, ValueEnum)]
enum Role {
    /// `orlop server`
    Server,
    /// `orlop agent`, on a machine that has joined or whose configuration file names a server and a token
    Agent,
}

/// The unit; `program` is where this one is.
pub(crate) fn unit(arguments: &UnitArguments, program: Option<&str>) -> String {
    let role = match arguments.role {
        Role::Server => START,
        Role::Agent => "orlop agent",
    };
    let unit = UNIT.replace(&format!("/{START}"), &format!("/{role}"));
    match program {
        Some(program) => unit.replace("/usr/local/bin/orlop ", &format!("{program} ")),
        None => unit,
    }
}

/// Everything that is asked for runs.
pub(crate) fn ready() {
    tell("READY=1");
}

/// It comes to its end, as it was asked.
pub(crate) fn stopping() {
    tell("STOPPING=1");
}

/// Tells the service manager, if there is one. That it does not listen is no reason not to run.
fn tell(what: &str) {
    let Some(name) = std::env::var_os("NOTIFY_SOCKET") else { return };
    if let Err(error) = send(&name, what) {
        tracing::debug!(%error, "the service manager was not told");
    }
}

fn send(name: &OsStr, what: &str) -> std::io::Result<()> {
    let address = match name.as_bytes() {
        [b'@', rest @ ..] => SocketAddr::from_abstract_name(rest)?,
        _ => SocketAddr::from_pathname(name)?,
    };
    UnixDatagram::unbound()?.send_to_addr(what.as_bytes(), &address).map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_unit_starts_what_was_asked_for_and_leaves_containers_alone() {
        let server = unit(&UnitArguments { role: Role::Server }, None);
        assert!(
            server.contains("\nExecStart=/usr/local/bin/orlop server\n")
                && server.contains("\nKillMode=process\n")
        );
        let agent = unit(&UnitArguments { role: Role::Agent }, Some("/opt/orlop"));
        assert!(agent.contains("\nExecStart=/opt/orlop agent\n"), "{agent}");
    }

    #[test]
    fn whoever_listens_is_told() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("notify");
        let listener = UnixDatagram::bind(&path).expect("bound");
        send(path.as_os_str(), "READY=1").expect("sent");
        let mut buffer = [0; 16];
        let count = listener.recv(&mut buffer).expect("received");
        assert_eq!(&buffer[..count], b"READY=1");
        assert!(send(OsStr::new("/nonexistent/notify"), "x").is_err());
    }
}
