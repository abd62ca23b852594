//! A data folder from a backup. A note in the folder says that it is unfinished until it is not: no server starts on half a cluster.

use crate::{Error, layout::Layout, lock};
use orlop_store::{
    Embedded, Revision,
    backup::{Contents, LEAP, SideFile},
};
use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::Write,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Component, Path},
};

/// Is in the folder while it is filled.
const UNFINISHED: &str = "restore.unfinished";
/// What a file system puts into its root by itself.
const LOST_AND_FOUND: &str = "lost+found";
/// Where files of a backup may be.
const FOLDER: &str = "tls";
/// Without these there is no cluster.
const NEEDED: [&str; 2] = ["tls/ca.crt", "tls/ca.key"];

/// Fails where a restore into the folder did not come to its end.
pub(crate) fn refuse_unfinished(data_dir: &Path) -> Result<(), Error> {
    if data_dir.join(UNFINISHED).exists() {
        return Err(Error::Configuration(format!(
            "a restore into {} did not come to its end: run `orlop backup restore` again",
            data_dir.display()
        )));
    }
    Ok(())
}

/// Fills an empty folder, or one that another restore left unfinished.
pub(super) fn restore(contents: Contents, data_dir: &Path) -> Result<(), Error> {
    check(&contents)?;
    let failed = |step: &str| Error::at(format!("{step} {}", data_dir.display()));
    DirBuilder::new().recursive(true).mode(0o755).create(data_dir).map_err(failed("creating"))?;
    let note = data_dir.join(UNFINISHED);
    let mut names = fs::read_dir(data_dir).map_err(failed("reading"))?;
    let is_empty = names.all(|entry| entry.is_ok_and(|e| e.file_name() == LOST_AND_FOUND));
    if !is_empty && !note.exists() {
        return Err(Error::Configuration(format!(
            "{} is not empty: restore into an empty folder (`orlop reset` empties that of a cluster that is no longer wanted)",
            data_dir.display()
        )));
    }
    let sync = || File::open(data_dir).and_then(|folder| folder.sync_all());
    fs::write(&note, "a backup is being restored into this folder\n")
        .and_then(|()| sync())
        .map_err(failed("writing into"))?;
    let layout = Layout::create(data_dir)?;
    let lock = lock::take(&layout.lock())?;
    for folder in [layout.tls(), layout.store()] {
        match fs::remove_dir_all(&folder) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(failed("clearing")(error));
            }
            _ => {}
        }
    }
    for file in &contents.files {
        write(layout.root(), file).map_err(failed("writing into"))?;
    }
    let at = Revision(contents.manifest.map_or(0, |m| m.revision.0) + LEAP);
    Embedded::restore(layout.store(), at, contents.entries).map_err(Error::at("writing the store"))?;
    sync().map_err(failed("writing into"))?;
    fs::remove_file(&note).and_then(|()| sync()).map_err(failed("finishing"))?;
    drop(lock);
    Ok(())
}

fn check(contents: &Contents) -> Result<(), Error> {
    for file in &contents.files {
        let path = Path::new(&file.name);
        let is_plain = path.components().all(|part| matches!(part, Component::Normal(_)));
        if !is_plain || !path.starts_with(FOLDER) {
            return Err(Error::Configuration(format!(
                "the backup has a file where none belongs: {:?}",
                file.name
            )));
        }
    }
    if let Some(missing) = NEEDED.iter().find(|name| !contents.files.iter().any(|f| f.name == **name)) {
        return Err(Error::Configuration(format!("the backup has no {missing}: it is not that of a server")));
    }
    Ok(())
}

fn write(root: &Path, file: &SideFile) -> std::io::Result<()> {
    let path = root.join(&file.name);
    let folder = path.parent().unwrap_or(root);
    DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    let mut made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
    made.write_all(&file.bytes)?;
    made.sync_all()?;
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn contents(names: &[&str]) -> Contents {
        let files =
            names.iter().map(|name| SideFile { name: name.to_string(), bytes: b"x".to_vec() }).collect();
        Contents { files, ..Contents::default() }
    }

    #[test]
    fn only_an_empty_folder_is_filled_and_half_a_restore_is_repeated() {
        let dir = tempfile::tempdir().expect("a folder");
        let data = dir.path().join("data");
        restore(contents(&NEEDED), &data).expect("restored");
        refuse_unfinished(&data).expect("finished");
        assert_eq!(fs::read(data.join("tls/ca.key")).expect("there"), b"x");
        let again = restore(contents(&NEEDED), &data).expect_err("refused").to_string();
        assert!(again.contains("is not empty"), "{again}");
        fs::write(data.join(UNFINISHED), "").expect("written");
        assert!(refuse_unfinished(&data).is_err());
        restore(contents(&NEEDED), &data).expect("restored");
        refuse_unfinished(&data).expect("finished");
    }

    #[test]
    fn no_file_gets_out_of_its_folder() {
        let dir = tempfile::tempdir().expect("a folder");
        for name in ["tls/../../evil", "/etc/passwd", "admin.kubeconfig", "tls/./x/../../y"] {
            let names = [NEEDED[0], NEEDED[1], name];
            let why = restore(contents(&names), dir.path()).expect_err("refused").to_string();
            assert!(why.contains("where none belongs"), "{why}");
        }
        assert!(
            restore(contents(&["tls/ca.crt"]), dir.path())
                .expect_err("refused")
                .to_string()
                .contains("ca.key")
        );
    }
}
