//! One layer from its compressed bytes to a folder, in one pass: while the bytes go by they are counted and hashed,
//! decompressed, hashed again and unpacked. Nothing is kept unless all three agree with what the image says.

use super::{
    digest::{Digest, Hasher},
    remove_tree::remove_tree,
    unpack::{Limits, Unpacked, unpack},
};
use crate::Error;
use std::{
    io::{self, BufRead, BufReader, Read},
    path::{Path, PathBuf},
};

/// What a layer must turn out to be.
#[derive(Clone, Debug)]
pub struct Expected {
    /// Digest of the bytes as they come; `None` where an archive does not tell (docker's).
    pub digest: Option<Digest>,
    /// How many there are.
    pub size: Option<u64>,
    /// Digest of the decompressed tar stream.
    pub diff_id: Digest,
}

/// An unpacked layer that has no name in the store yet. Dropping it removes it.
pub struct Scratch {
    /// Holds the folder `fs`.
    pub path: PathBuf,
    /// What is left to be done with it.
    pub unpacked: Unpacked,
    /// Bytes as they came.
    pub size: u64,
    kept: bool,
}

impl Scratch {
    /// The layer's files.
    pub fn files(&self) -> PathBuf {
        self.path.join("fs")
    }

    /// The folder has been given its final name.
    pub fn keep(mut self) {
        self.kept = true;
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if !self.kept {
            let _ = remove_tree(&self.path); // what stays is removed when the store is opened next
        }
    }
}

/// Reads a layer and unpacks it into `path`/fs. Blocks. An error of the stream itself comes back as [`Error::Io`].
pub fn read_layer(stream: impl Read, expected: &Expected, path: PathBuf) -> Result<Scratch, Error> {
    let mut scratch = Scratch { path, unpacked: Unpacked::default(), size: 0, kept: false };
    let files = scratch.files();
    make_folder(&scratch.path).and_then(|()| make_folder(&files))?;

    let hasher = expected.digest.as_ref().map(Hasher::like);
    let watched = Watched { stream, hasher, count: 0, most: expected.size, broken: false };
    let mut compressed = BufReader::with_capacity(128 << 10, watched);
    let outcome = unpack_all(&mut compressed, expected, &files);
    let watched = compressed.into_inner();
    // What was wrong with the bytes explains best why they could not be unpacked; a stream that broke off says nothing of them.
    let outcome = match outcome {
        Err(Error::Io { step, source }) if step == READING && !watched.broken => {
            Err(Error::Damaged(format!("bad content of a layer: {source}")))
        }
        other => other,
    };
    if !watched.broken {
        check("bytes", expected.size, Some(watched.count))?;
        check("digest", expected.digest.as_ref(), watched.hasher.map(Hasher::finish).as_ref())?;
    }
    let (unpacked, diff_id) = outcome?;
    check("diff id", Some(&expected.diff_id), Some(&diff_id))?;
    (scratch.size, scratch.unpacked) = (watched.count, unpacked);
    Ok(scratch)
}

/// Everything from the compressed stream to the folder. Reads the stream to its end also where unpacking fails, so that its
/// digest can be told, unless the stream itself fails.
fn unpack_all(
    compressed: &mut impl BufRead,
    expected: &Expected,
    files: &Path,
) -> Result<(Unpacked, Digest), Error> {
    let reading = |e| Error::io(READING, e);
    let outcome = {
        let stream = decompress(compressed).map_err(reading)?;
        let hasher = Some(Hasher::like(&expected.diff_id));
        let mut plain = Watched { stream, hasher, count: 0, most: None, broken: false };
        let unpacked = unpack(&mut plain, files, Limits::default());
        unpacked.map(|unpacked| (unpacked, plain.hasher.map_or_else(|| Digest::of(b""), Hasher::finish)))
    };
    // A decompressor stops where its format ends; what comes after belongs to the digest, too.
    let rest = io::copy(compressed, &mut io::sink()).map_err(reading);
    let outcome = outcome?;
    rest.map(|_| outcome)
}

/// The step of errors that came from the stream.
const READING: &str = "reading layer";

fn check<T: PartialEq + std::fmt::Display>(
    what: &str,
    expected: Option<T>,
    found: Option<T>,
) -> Result<(), Error> {
    match (expected, found) {
        (Some(expected), Some(found)) if expected != found => {
            Err(Error::Damaged(format!("bad content of a layer: {what} should be {expected}, found {found}")))
        }
        _ => Ok(()),
    }
}

fn make_folder(path: &Path) -> Result<(), Error> {
    std::fs::create_dir(path)
        .and_then(|()| {
            std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o755)) // whatever the umask
        })
        .map_err(|e| Error::io(format!("making {}", path.display()), e))
}

/// The plain bytes behind whatever compression the first bytes tell of. Media types are not asked: they are wrong often.
pub(super) fn decompress<'a>(stream: &'a mut impl BufRead) -> io::Result<Box<dyn Read + 'a>> {
    let start = stream.fill_buf()?;
    Ok(match start {
        [0x1f, 0x8b, ..] => Box::new(flate2::bufread::MultiGzDecoder::new(stream)),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Box::new(zstd::stream::read::Decoder::with_buffer(stream)?),
        // A frame to be skipped comes first in seekable variants.
        [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Box::new(zstd::stream::read::Decoder::with_buffer(stream)?),
        _ => Box::new(stream),
    })
}

/// Counts and hashes what is read, and stops a stream that is longer than announced.
struct Watched<R> {
    stream: R,
    hasher: Option<Hasher>,
    count: u64,
    most: Option<u64>,
    /// The stream itself failed.
    broken: bool,
}

impl<R: Read> Read for Watched<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.stream.read(buffer).inspect_err(|e| {
            self.broken |= e.kind() != io::ErrorKind::Interrupted;
        })?;
        self.count += n as u64;
        if self.most.is_some_and(|most| self.count > most) {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "longer than announced"));
        }
        if let Some(hasher) = &mut self.hasher {
            hasher.update(&buffer[..n]);
        }
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn archive() -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_size(5);
        header.set_mode(0o644);
        builder.append_data(&mut header, "greeting", &b"hello"[..]).unwrap();
        builder.into_inner().unwrap()
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn expect(bytes: &[u8]) -> Expected {
        Expected {
            digest: Some(Digest::of(bytes)),
            size: Some(bytes.len() as u64),
            diff_id: Digest::of(&archive()),
        }
    }

    fn read(bytes: &[u8], expected: &Expected) -> Result<String, String> {
        let dir = tempfile::tempdir().unwrap();
        let scratch = read_layer(bytes, expected, dir.path().join("layer"))
            .map_err(|e| e.to_string())
            .inspect_err(|_| {
                assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "something was left behind")
            })?;
        Ok(std::fs::read_to_string(scratch.files().join("greeting")).unwrap())
    }

    #[test]
    fn every_compression_is_known_by_its_first_bytes() {
        let plain = archive();
        let two_members = [gzip(&plain[..100]), gzip(&plain[100..])].concat();
        let skippable =
            [&[0x50, 0x2a, 0x4d, 0x18, 2, 0, 0, 0, 9, 9], &zstd::encode_all(&plain[..], 3).unwrap()[..]];
        for bytes in [
            plain.clone(),
            gzip(&plain),
            two_members,
            zstd::encode_all(&plain[..], 3).unwrap(),
            skippable.concat(),
        ] {
            assert_eq!(read(&bytes, &expect(&bytes)).unwrap(), "hello");
        }
    }

    #[test]
    fn a_layer_that_is_not_what_was_announced_leaves_nothing_behind() {
        let bytes = gzip(&archive());
        let wrong = |change: fn(&mut Expected)| {
            let mut expected = expect(&bytes);
            change(&mut expected);
            read(&bytes, &expected).unwrap_err()
        };
        assert!(wrong(|e| e.digest = Some(Digest::of(b"other"))).contains("digest should be"));
        assert!(wrong(|e| e.size = Some(1)).contains("bytes should be 1"));
        assert!(wrong(|e| e.size = Some(1 << 20)).contains("bytes should be 1048576"));
        assert!(wrong(|e| e.diff_id = Digest::of(b"other")).contains("diff id should be"));
        let cut = &bytes[..bytes.len() / 2];
        assert!(read(cut, &expect(&bytes)).unwrap_err().contains("bytes should be"));
        assert!(read(cut, &Expected { digest: None, size: None, ..expect(&bytes) }).is_err());
        let mut longer = bytes.clone();
        longer.extend(b"tail");
        assert!(read(&longer, &expect(&bytes)).unwrap_err().contains("bytes should be"));
    }
}
