//! The ranges into which routes may have been made, on disk before the first one is: routes carry no name.

use crate::Error;
use ipnet::IpNet;
use std::{fs, io, io::Write, path::Path};

const FILE: &str = "routed-ranges";

/// What is noted.
pub(super) fn read(dir: &Path) -> Result<Vec<IpNet>, Error> {
    let path = dir.join(FILE);
    match fs::read_to_string(&path) {
        Ok(text) => Ok(text.lines().filter_map(|line| line.parse().ok()).collect()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(source) => Err(Error::Io { step: format!("reading {}", path.display()), source }),
    }
}

/// Notes these instead.
pub(super) fn write(dir: &Path, ranges: &[IpNet]) -> Result<(), Error> {
    let path = dir.join(FILE);
    if read(dir)? == ranges {
        return Ok(());
    }
    let write = || {
        fs::create_dir_all(dir)?;
        let new = path.with_extension("new");
        let mut file = fs::File::create(&new)?;
        for range in ranges {
            writeln!(file, "{range}")?;
        }
        file.sync_all()?;
        fs::rename(&new, &path)
    };
    write().map_err(|source| Error::Io { step: format!("writing {}", path.display()), source })
}

/// Notes nothing any more.
pub(super) fn forget(dir: &Path) -> Result<(), Error> {
    for name in [FILE.to_string(), format!("{FILE}.new")] {
        let path = dir.join(name);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(Error::Io { step: format!("removing {}", path.display()), source: error });
            }
            _ => {}
        }
    }
    Ok(())
}

/// All of both.
pub(super) fn union(one: &[IpNet], other: &[IpNet]) -> Vec<IpNet> {
    let mut all = one.to_vec();
    all.extend(other.iter().filter(|range| !one.contains(range)));
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_noted_is_found_again_until_it_is_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let ranges = ["10.42.0.0/16".parse().unwrap(), "fd00::/48".parse().unwrap()];
        assert_eq!(read(dir.path()).unwrap(), []);
        write(dir.path(), &ranges).unwrap();
        assert_eq!(read(dir.path()).unwrap(), ranges);
        assert_eq!(union(&ranges[..1], &ranges), ranges);
        forget(dir.path()).unwrap();
        forget(dir.path()).unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
