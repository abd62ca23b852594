//! What all servers of a cluster hold in common: the keys of its authorities, of service accounts and of Secrets. As files of
//! one server they can be read together, and be put into the folder of another.

use crate::{Error, authority::Authority, files, join_token};
use std::{collections::BTreeMap, path::Path};

/// The files, by their place in the folder. The last one makes a folder that of a member.
const FILES: [&str; 6] =
    ["sa.key", "secrets.keys", "front-proxy/ca.key", "front-proxy/ca.crt", "ca.key", "ca.crt"];

/// The contents of the files, by their place.
pub type SharedFiles = BTreeMap<String, String>;

/// Whether `dir` holds the authority of a cluster.
pub fn is_there(dir: &Path) -> Result<bool, Error> {
    Ok(files::read(&dir.join("ca.crt"))?.is_some())
}

/// The pin of the authority in `dir`, which tells clusters apart.
pub fn cluster_id(dir: &Path) -> Result<Option<String>, Error> {
    files::read(&dir.join("ca.crt"))?.map(|authority| join_token::pin(&authority)).transpose()
}

/// Reads the files in `dir`.
///
/// # Errors
/// Where one is missing.
pub fn read(dir: &Path) -> Result<SharedFiles, Error> {
    let read = |name: &&str| {
        let text = files::read(&dir.join(name))?.ok_or_else(|| {
            Error::certificate(
                "reading what servers share",
                format!("{name} is missing in {}", dir.display()),
            )
        })?;
        Ok((name.to_string(), text))
    };
    FILES.iter().map(read).collect()
}

/// Writes the files into `dir`; until the last one is there, nothing has been joined.
///
/// # Errors
/// Where one is missing among them, or cannot be written.
pub fn write(dir: &Path, shared: &SharedFiles) -> Result<(), Error> {
    files::private_dir(&dir.join("front-proxy"))?;
    for name in FILES {
        let text = shared
            .get(name)
            .ok_or_else(|| Error::certificate("writing what servers share", format!("{name} is missing")))?;
        files::write_private(&dir.join(name), text)?;
    }
    Ok(())
}

/// Makes the authorities where there are none yet.
///
/// # Errors
/// Where they cannot be made or written.
pub fn make_authorities(dir: &Path, now: i64) -> Result<(), Error> {
    Authority::open_or_create(dir, now)?;
    Authority::open_or_create(&dir.join("front-proxy"), now)?;
    crate::ServiceAccountKey::open_or_create(dir)?;
    Ok(())
}

/// Reads a small private file, if it is there.
pub fn read_note(dir: &Path, name: &str) -> Result<Option<String>, Error> {
    Ok(files::read(&dir.join(name))?.map(|text| text.trim().to_string()))
}

/// Writes a small private file.
pub fn write_note(dir: &Path, name: &str, text: &str) -> Result<(), Error> {
    files::private_dir(dir)?;
    files::write_private(&dir.join(name), &format!("{text}\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_one_server_holds_makes_another_folder_that_of_the_same_cluster() {
        let (a, b) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
        assert!(!is_there(a.path()).expect("looked"));
        make_authorities(a.path(), 1_790_000_000).expect("made");
        assert!(read(a.path()).is_err(), "there is no key of Secrets yet");
        write_note(a.path(), "secrets.keys", "a key").expect("written");
        let shared = read(a.path()).expect("read");
        write(b.path(), &shared).expect("written");
        assert_eq!(read(b.path()).expect("read"), shared);
        assert_eq!(cluster_id(a.path()).expect("read"), cluster_id(b.path()).expect("read"));
        let mut half = shared;
        half.remove("ca.key");
        let c = tempfile::tempdir().expect("a folder");
        assert!(write(c.path(), &half).is_err() && !is_there(c.path()).expect("looked"));
    }
}
