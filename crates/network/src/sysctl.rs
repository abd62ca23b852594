//! The one setting of the whole machine that pods need: IPv4 forwarding. It is put back when the network is removed.

use crate::Error;
use std::{fs, io, path::Path};

const FORWARDING: &str = "/proc/sys/net/ipv4/ip_forward";
const REMEMBERED: &str = "ip_forward";

/// Turns forwarding on, and remembers in `state_dir` if it was off. What cannot be set is a warning: it may be on a machine
/// where somebody else has to.
pub(crate) fn enable_forwarding(state_dir: &Path) -> Result<(), Error> {
    let before = fs::read_to_string(FORWARDING).unwrap_or_default();
    if before.trim() == "1" {
        return Ok(());
    }
    let note = state_dir.join(REMEMBERED);
    fs::create_dir_all(state_dir)
        .and_then(|()| fs::write(&note, before.trim()))
        .map_err(|source| Error::Io { step: format!("writing {}", note.display()), source })?;
    if let Err(error) = fs::write(FORWARDING, "1") {
        tracing::warn!(%error, "net.ipv4.ip_forward cannot be set: pods will reach neither each other nor the world");
    }
    Ok(())
}

/// Puts forwarding back if we turned it on and nobody else (`others`) of ours needs it.
pub(crate) fn restore_forwarding(state_dir: &Path, others: bool) -> Result<(), Error> {
    let note = state_dir.join(REMEMBERED);
    match fs::read_to_string(&note) {
        Ok(before) => {
            if !others && let Err(error) = fs::write(FORWARDING, before) {
                tracing::warn!(%error, "net.ipv4.ip_forward cannot be put back");
            }
            fs::remove_file(&note)
                .map_err(|source| Error::Io { step: format!("removing {}", note.display()), source })
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(source) => Err(Error::Io { step: format!("reading {}", note.display()), source }),
    }
}
