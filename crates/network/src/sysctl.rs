//! The settings of the whole machine that pods need: forwarding, of each address family that they have. They are put back when the
//! network is removed.

use crate::{Error, family::Family, layout::Layout};
use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

const ROOT: &str = "/proc/sys/net";
const FORWARDING4: &str = "ipv4/ip_forward";
const FORWARDING6: &str = "ipv6/conf/all/forwarding";
/// What versions with IPv4 alone remembered: the setting's value and nothing else.
const REMEMBERED4: &str = "ip_forward";
/// The settings that were changed for IPv6, one a line, with the values they had.
const REMEMBERED6: &str = "ipv6_settings";

/// Turns forwarding on, and remembers in `state_dir` if it was off. What cannot be set is a warning: it may be on a machine
/// where somebody else has to.
pub(crate) fn enable_forwarding(layout: &Layout, state_dir: &Path) -> Result<(), Error> {
    if layout.side(Family::V4).is_some() {
        let before = read(FORWARDING4);
        if before != "1" {
            note(state_dir, REMEMBERED4, &before)?;
            set(FORWARDING4, "1");
        }
    }
    if layout.side(Family::V6).is_some() {
        enable_forwarding6(state_dir)?;
    }
    Ok(())
}

fn enable_forwarding6(state_dir: &Path) -> Result<(), Error> {
    if !Path::new(ROOT).join("ipv6").exists() {
        return Err(Error::Config(
            "pods are to have IPv6 addresses, but this machine's kernel has no IPv6".into(),
        ));
    }
    let before = read(FORWARDING6);
    if before == "1" {
        return Ok(());
    }
    // A link that forwards pays no heed to router advertisements unless it is told to (2): the machine would lose its own
    // default route.
    let mut changes: BTreeMap<String, (String, &str)> =
        links_heeding_routers().into_iter().map(|setting| (setting, ("1".to_owned(), "2"))).collect();
    changes.insert(FORWARDING6.into(), (before, "1"));
    let text: String = changes.iter().map(|(setting, (before, _))| format!("{setting} {before}\n")).collect();
    note(state_dir, REMEMBERED6, &text)?;
    // Sorted by name: `all` comes first, and the advertisements that are missed in between come again.
    for (setting, (_, value)) in &changes {
        set(setting, value);
    }
    Ok(())
}

/// `accept_ra` of links that take it as "unless forwarding".
fn links_heeding_routers() -> Vec<String> {
    let links = fs::read_dir(Path::new(ROOT).join("ipv6/conf")).into_iter().flatten().flatten();
    links
        .filter_map(|link| link.file_name().into_string().ok())
        .filter(|link| !matches!(link.as_str(), "all" | "default" | "lo"))
        .map(|link| format!("ipv6/conf/{link}/accept_ra"))
        .filter(|setting| read(setting) == "1")
        .collect()
}

/// Puts forwarding back if we turned it on and nobody else (`others`) of ours needs it.
pub(crate) fn restore_forwarding(state_dir: &Path, others: bool) -> Result<(), Error> {
    let restore = |name: &str, restore: &dyn Fn(&str)| {
        let note = state_dir.join(name);
        match fs::read_to_string(&note) {
            Ok(before) => {
                if !others {
                    restore(before.trim());
                }
                fs::remove_file(&note)
                    .map_err(|source| Error::Io { step: format!("removing {}", note.display()), source })
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(source) => Err(Error::Io { step: format!("reading {}", note.display()), source }),
        }
    };
    let first = restore(REMEMBERED4, &|before| set(FORWARDING4, before));
    let second = restore(REMEMBERED6, &|before| {
        // Links may be gone by now; that is no reason to warn.
        let there = before.lines().filter_map(|line| line.split_once(' ')).filter(|(name, _)| is_ours(name));
        there.filter(|(setting, _)| path(setting).exists()).for_each(|(setting, value)| set(setting, value));
    });
    first.and(second)
}

/// Whether a remembered line names a setting that we change: the file is data, not an order.
fn is_ours(setting: &str) -> bool {
    setting == FORWARDING6
        || setting
            .strip_prefix("ipv6/conf/")
            .and_then(|rest| rest.strip_suffix("/accept_ra"))
            .is_some_and(|link| !link.contains('/') && !link.starts_with('.'))
}

/// Settings of a pod's link on the host for IPv6: a pod is no router, whatever it says.
pub(crate) fn distrust_routers(link: &str) {
    let setting = format!("ipv6/conf/{link}/accept_ra");
    if read(&setting) != "0" {
        set(&setting, "0");
    }
}

fn path(setting: &str) -> PathBuf {
    Path::new(ROOT).join(setting)
}

fn read(setting: &str) -> String {
    fs::read_to_string(path(setting)).unwrap_or_default().trim().to_owned()
}

fn set(setting: &str, value: &str) {
    if let Err(error) = fs::write(path(setting), value) {
        tracing::warn!(%error, "net/{setting} cannot be set to {value}: pods may reach neither each other nor the world");
    }
}

fn note(state_dir: &Path, name: &str, text: &str) -> Result<(), Error> {
    let note = state_dir.join(name);
    fs::create_dir_all(state_dir)
        .and_then(|()| fs::write(&note, text))
        .map_err(|source| Error::Io { step: format!("writing {}", note.display()), source })
}
