//! A file with symmetric keys, one a line, base64: the newest first. Lines that begin with `#` are for people.

use crate::{Error, files};
use base64::{Engine, prelude::BASE64_STANDARD};
use std::path::Path;

const HEAD: &str = "# Keys by which Secrets are encrypted on disk, base64. The first encrypts, all decrypt. Whoever loses this file
# loses the Secrets: keep a copy of it, apart from copies of the store.\n";

/// Reads the keys in `NAME` in `dir`; where there is no such file it is made, with one key of `make`.
///
/// # Errors
/// Where the file cannot be read or written, or a line is no key.
pub fn read_or_create(
    dir: &Path,
    name: &str,
    make: impl FnOnce() -> Result<Vec<u8>, Error>,
) -> Result<Vec<Vec<u8>>, Error> {
    files::private_dir(dir)?;
    let path = dir.join(name);
    let text = match files::read(&path)? {
        Some(text) => text,
        None => {
            let text = format!("{HEAD}{}\n", BASE64_STANDARD.encode(make()?));
            files::write_private(&path, &text)?;
            text
        }
    };
    text.lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(|line| BASE64_STANDARD.decode(line).map_err(|e| Error::certificate("reading a list of keys", e)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_made_once_and_keys_can_be_put_in_front() {
        let dir = tempfile::tempdir().expect("a folder");
        let first = read_or_create(dir.path(), "keys", || Ok(vec![1; 32])).expect("made");
        assert_eq!(first, [vec![1; 32]]);
        let again = read_or_create(dir.path(), "keys", || panic!("it is there")).expect("read");
        assert_eq!(again, first);
        let path = dir.path().join("keys");
        let text = std::fs::read_to_string(&path).expect("read");
        std::fs::write(&path, format!("{}\n{text}", BASE64_STANDARD.encode([2; 32]))).expect("written");
        let both = read_or_create(dir.path(), "keys", || Ok(Vec::new())).expect("read");
        assert_eq!(both, [vec![2; 32], vec![1; 32]]);
        std::fs::write(&path, "not base64!").expect("written");
        assert!(read_or_create(dir.path(), "keys", || Ok(Vec::new())).is_err());
    }
}
