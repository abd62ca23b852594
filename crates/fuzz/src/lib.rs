//! Fuzz targets: every parser that a stranger can reach, and what is done with what it read, as functions of bytes. The
//! tests run each of them on its seeds and on a fixed number of mutations; `fuzz.sh` lets libFuzzer drive the same
//! functions for as long as one likes. A target panics where a promise is broken, and promises nothing else. Is no part
//! of the product.

pub mod mutate;
pub mod sections;
pub mod targets;

use std::path::{Path, PathBuf};

/// A function of bytes that must neither panic nor hang nor grow without bound.
#[derive(Clone, Copy)]
pub struct Target {
    /// Its name, which is also that of the folder of its seeds.
    pub name: &'static str,
    /// What is fuzzed.
    pub run: fn(&[u8]),
    /// How many mutations the tests try: fewer where each takes long.
    pub tries: usize,
}

impl Target {
    /// The target of that name.
    pub fn named(name: &str) -> Option<Self> {
        targets::ALL.iter().copied().find(|t| t.name == name)
    }

    /// Where its seeds are.
    pub fn corpus(&self) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(self.name)
    }

    /// Its seeds, in the order of their names.
    pub fn seeds(&self) -> std::io::Result<Vec<Vec<u8>>> {
        let mut paths =
            std::fs::read_dir(self.corpus())?.map(|e| Ok(e?.path())).collect::<std::io::Result<Vec<_>>>()?;
        paths.sort();
        paths.iter().map(std::fs::read).collect()
    }
}
