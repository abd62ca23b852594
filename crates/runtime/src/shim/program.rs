//! Finding and executing a container's program, from inside the container. Looks before it leaps, so that the reason is
//! told in the words people know from other runtimes.

use nix::{
    fcntl::AtFlags,
    unistd::{AccessFlags, faccessat},
};
use std::{convert::Infallible, ffi::CString, path::Path};

/// Where a program is: as given if it has a slash, else found in the `PATH` of `environment`. For the ids and the working
/// folder that the process has now.
pub fn find(program: &str, environment: &[String]) -> Result<String, String> {
    if program.contains('/') {
        return match check(program) {
            Ok(()) => Ok(program.into()),
            Err(nix::Error::ENOENT) => {
                Err(format!("exec: {program:?}: stat {program}: no such file or directory"))
            }
            Err(nix::Error::EISDIR) => Err(format!("exec: {program:?}: is a directory")),
            Err(e) => Err(format!("exec: {program:?}: {}", e.desc().to_lowercase())),
        };
    }
    let path = environment.iter().rev().find_map(|entry| entry.strip_prefix("PATH=")).unwrap_or("");
    let mut denied = false;
    for folder in path.split(':') {
        let candidate = format!("{}/{program}", if folder.is_empty() { "." } else { folder });
        match check(&candidate) {
            Ok(()) => return Ok(candidate),
            Err(nix::Error::EACCES) => denied = true,
            Err(_) => {}
        }
    }
    Err(match denied {
        true => format!("exec: {program:?}: permission denied"),
        false => format!("exec: {program:?}: executable file not found in $PATH"),
    })
}

fn check(path: &str) -> nix::Result<()> {
    let stat = nix::sys::stat::stat(Path::new(path))?;
    if stat.st_mode & libc::S_IFMT == libc::S_IFDIR {
        return Err(nix::Error::EISDIR);
    }
    faccessat(None, path, AccessFlags::X_OK, AtFlags::AT_EACCESS)
}

/// Becomes the program. Returns only the reason why not.
pub fn execute(path: &str, arguments: &[String], environment: &[String]) -> Result<Infallible, String> {
    let text = |words: &[String]| -> Result<Vec<CString>, String> {
        words
            .iter()
            .map(|w| CString::new(w.as_bytes()).map_err(|_| format!("exec: {w:?}: contains NUL")))
            .collect()
    };
    let (arguments, environment) = (text(arguments)?, text(environment)?);
    let program = CString::new(path).map_err(|_| format!("exec: {path:?}: contains NUL"))?;
    super::helper::restore_signals();
    nix::unistd::execve(&program, &arguments, &environment)
        .map_err(|e| format!("exec {path}: {}", e.desc().to_lowercase()))
}
