//! Reads a tar stream entry by entry: ustar, GNU (long names, sparse files) and PAX. Made for streams from strangers:
//! memory is bounded, values are bytes (an extended attribute may hold newlines, which the `tar` crate's reader of PAX
//! records does not survive), and what is malformed is an error. It touches no files.

use std::io::{self, Read};
use tar::Header;

pub use tar::EntryType;

const BLOCK: u64 = 512;
/// Most bytes of one extension: PAX records or a long name.
const MAX_EXTENSION: u64 = 1 << 20;
/// Most pieces of a sparse file.
const MAX_SEGMENTS: usize = 1 << 16;

/// One member of an archive.
#[derive(Clone, Debug)]
pub struct Entry {
    /// What it is.
    pub kind: EntryType,
    /// Path as written.
    pub path: Vec<u8>,
    /// Target of a link, as written.
    pub link: Vec<u8>,
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u64,
    /// Group.
    pub gid: u64,
    /// Seconds and nanoseconds since the epoch.
    pub mtime: (i64, u32),
    /// Major and minor number of a device.
    pub device: (u32, u32),
    /// Extended attributes (`SCHILY.xattr.` records).
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// Bytes of the body in the archive.
    pub size: u64,
    /// Where the body's bytes go, if the file has holes.
    pub sparse: Option<Sparse>,
}

/// A file with holes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sparse {
    /// Length with its holes.
    pub length: u64,
    /// Offset and length of each piece of data, in the order of the body.
    pub segments: Vec<(u64, u64)>,
}

/// A tar archive as it passes. [`TarStream::next_entry`] goes to the next member; reading reads the body of the current one.
pub struct TarStream<R> {
    reader: R,
    /// Bytes of the body that are not read yet, and of its padding.
    left: u64,
    padding: u64,
    position: u64,
    globals: Pax,
    skip: Skip<R>,
}

/// Goes over so many bytes; tells how many there were.
type Skip<R> = fn(&mut R, u64) -> io::Result<u64>;

impl<R: Read> TarStream<R> {
    /// Reads from here on.
    pub fn new(reader: R) -> Self {
        Self::skipping_with(reader, |reader, n| io::copy(&mut reader.take(n), &mut io::sink()))
    }

    /// Like [`TarStream::new`], with a faster way to go over bodies that nobody reads.
    pub fn skipping_with(reader: R, skip: Skip<R>) -> Self {
        Self { reader, left: 0, padding: 0, position: 0, globals: Pax::default(), skip }
    }

    /// How many bytes of the archive were read: right after [`TarStream::next_entry`], where the body begins.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// What is read from, at the point that was reached.
    pub fn into_inner(self) -> R {
        self.reader
    }

    /// The next member; `None` at the end of the archive.
    pub fn next_entry(&mut self) -> io::Result<Option<Entry>> {
        let (mut pax, mut long_name, mut long_link) = (self.globals.clone(), None, None);
        loop {
            self.skip_body()?;
            let Some(block) = self.block()? else { return Ok(None) };
            if block.iter().all(|b| *b == 0) {
                return Ok(None); // the first of the two zero blocks that end an archive
            }
            let header = Header::from_byte_slice(&block);
            check_sum(&block)?;
            let size = number(&block[124..136])?;
            match header.entry_type() {
                EntryType::XHeader => pax.read(&self.extension(size)?)?,
                EntryType::XGlobalHeader => {
                    let records = self.extension(size)?;
                    self.globals.read(&records)?;
                    pax.read(&records)?;
                }
                EntryType::GNULongName => long_name = Some(until_nul(self.extension(size)?)),
                EntryType::GNULongLink => long_link = Some(until_nul(self.extension(size)?)),
                _ => return self.entry(&block, pax, long_name, long_link).map(Some),
            }
        }
    }

    fn entry(
        &mut self,
        block: &[u8; BLOCK as usize],
        mut pax: Pax,
        name: Option<Vec<u8>>,
        link: Option<Vec<u8>>,
    ) -> io::Result<Entry> {
        let header = Header::from_byte_slice(block);
        let mut kind = header.entry_type();
        let size = match (kind, pax.size) {
            // Links and folders have no body, whatever their header says.
            (EntryType::Link | EntryType::Symlink | EntryType::Directory, _) => 0,
            (EntryType::Char | EntryType::Block | EntryType::Fifo, _) => 0,
            (_, Some(size)) => size,
            (_, None) => number(&block[124..136])?,
        };
        if i64::try_from(size).is_err() {
            return Err(malformed("size of a member"));
        }
        self.left = size;
        self.padding = (BLOCK - size % BLOCK) % BLOCK;
        let mut sparse = None;
        if kind == EntryType::GNUSparse {
            sparse = Some(self.gnu_sparse(header)?);
            kind = EntryType::Regular;
        } else if let Some(length) = pax.sparse_length {
            let mut segments = std::mem::take(&mut pax.segments);
            if pax.sparse_major == Some(1) {
                segments = self.pax_sparse_map()?;
            }
            sparse = Some(Sparse { length, segments });
        }
        if let Some(sparse) = &sparse {
            sparse.check(self.left)?;
        }
        let path = pax
            .sparse_name
            .or(pax.path)
            .or(name)
            .unwrap_or_else(|| until_nul(header.path_bytes().into_owned()));
        // Before POSIX a folder was a file whose name ends with a slash.
        if kind == EntryType::Regular && path.ends_with(b"/") {
            kind = EntryType::Directory;
        }
        Ok(Entry {
            kind,
            path,
            link: pax.link.or(link).unwrap_or_else(|| {
                header.link_name_bytes().map(|l| until_nul(l.into_owned())).unwrap_or_default()
            }),
            mode: number(&block[100..108])? as u32 & 0o7777,
            uid: pax.uid.map_or_else(|| number(&block[108..116]), Ok)?,
            gid: pax.gid.map_or_else(|| number(&block[116..124]), Ok)?,
            mtime: pax.mtime.unwrap_or((number(&block[136..148])? as i64, 0)),
            device: match kind {
                EntryType::Char | EntryType::Block => {
                    (number(&block[329..337])? as u32, number(&block[337..345])? as u32)
                }
                _ => (0, 0),
            },
            xattrs: pax.xattrs,
            size: self.left,
            sparse,
        })
    }

    /// The map of an old GNU sparse file: four pieces in the header, more in blocks of their own before the body.
    fn gnu_sparse(&mut self, header: &Header) -> io::Result<Sparse> {
        let gnu = header.as_gnu().ok_or_else(|| malformed("sparse file without a GNU header"))?;
        let mut sparse = Sparse { length: gnu.real_size()?, segments: Vec::new() };
        let mut take = |pieces: &[tar::GnuSparseHeader]| -> io::Result<()> {
            for piece in pieces.iter().filter(|piece| !piece.is_empty()) {
                sparse.segments.push((piece.offset()?, piece.length()?));
            }
            if sparse.segments.len() > MAX_SEGMENTS {
                return Err(malformed("sparse file with too many pieces"));
            }
            Ok(())
        };
        take(&gnu.sparse)?;
        let mut more = gnu.is_extended();
        while more {
            let mut extended = tar::GnuExtSparseHeader::new();
            self.reader.read_exact(extended.as_mut_bytes())?;
            self.position += BLOCK;
            take(&extended.sparse)?;
            more = extended.is_extended();
        }
        Ok(sparse)
    }

    /// The map of a PAX 1.0 sparse file: decimal lines at the start of the body, up to a block's end.
    fn pax_sparse_map(&mut self) -> io::Result<Vec<(u64, u64)>> {
        let mut text = Vec::new();
        let mut numbers: Vec<u64> = Vec::new();
        let mut wanted = 1;
        while numbers.len() < wanted {
            let mut block = [0u8; BLOCK as usize];
            if self.left < BLOCK {
                return Err(malformed("map of a sparse file is cut short"));
            }
            self.reader.read_exact(&mut block)?;
            self.position += BLOCK;
            self.left -= BLOCK;
            for byte in block {
                match byte {
                    b'\n' if numbers.len() < wanted => {
                        numbers.push(decimal(&text)?);
                        text.clear();
                        if numbers.len() == 1 {
                            let pieces = usize::try_from(numbers[0]).unwrap_or(usize::MAX);
                            if pieces > MAX_SEGMENTS {
                                return Err(malformed("sparse file with too many pieces"));
                            }
                            wanted = 1 + 2 * pieces;
                        }
                    }
                    b'0'..=b'9' if text.len() < 20 => text.push(byte),
                    _ if numbers.len() >= wanted => break,
                    _ => return Err(malformed("map of a sparse file")),
                }
            }
        }
        Ok(numbers[1..].chunks_exact(2).map(|pair| (pair[0], pair[1])).collect())
    }

    /// The next block, or `None` where the stream ends instead.
    fn block(&mut self) -> io::Result<Option<[u8; BLOCK as usize]>> {
        let mut block = [0u8; BLOCK as usize];
        let mut filled = 0;
        while filled < block.len() {
            match self.reader.read(&mut block[filled..]) {
                Ok(0) if filled == 0 => return Ok(None),
                Ok(0) => return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "archive is cut short")),
                Ok(n) => filled += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        self.position += BLOCK;
        Ok(Some(block))
    }

    fn extension(&mut self, size: u64) -> io::Result<Vec<u8>> {
        if size > MAX_EXTENSION {
            return Err(malformed("extension is larger than 1 MiB"));
        }
        self.left = size;
        self.padding = (BLOCK - size % BLOCK) % BLOCK;
        let mut bytes = Vec::new();
        self.read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    fn skip_body(&mut self) -> io::Result<()> {
        let rest = self.left + self.padding;
        let skipped = (self.skip)(&mut self.reader, rest)?;
        self.position += skipped;
        // The padding of the last member may be missing; a missing piece of a body may not.
        if skipped < self.left {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "archive is cut short"));
        }
        (self.left, self.padding) = (0, 0);
        Ok(())
    }
}

impl<R: Read> Read for TarStream<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = buffer.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        if most == 0 {
            return Ok(0);
        }
        let n = self.reader.read(&mut buffer[..most])?;
        if n == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "archive is cut short"));
        }
        self.left -= n as u64;
        self.position += n as u64;
        Ok(n)
    }
}

impl Sparse {
    fn check(&self, body: u64) -> io::Result<()> {
        let (mut end, mut sum) = (0u64, 0u64);
        for (offset, length) in &self.segments {
            let next = offset.checked_add(*length).ok_or_else(|| malformed("sparse file"))?;
            if *offset < end || next > self.length {
                return Err(malformed("pieces of a sparse file overlap or lie outside of it"));
            }
            end = next;
            sum += length;
        }
        if sum != body {
            return Err(malformed("pieces of a sparse file do not add up to its body"));
        }
        Ok(())
    }
}

/// What PAX records say about the next member.
#[derive(Clone, Debug, Default)]
struct Pax {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    uid: Option<u64>,
    gid: Option<u64>,
    mtime: Option<(i64, u32)>,
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    sparse_major: Option<u64>,
    sparse_name: Option<Vec<u8>>,
    sparse_length: Option<u64>,
    segments: Vec<(u64, u64)>,
}

impl Pax {
    /// Takes in records of the form `LENGTH KEY=VALUE\n`, where the length counts the whole record.
    fn read(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        let bad = || malformed("PAX record");
        while !bytes.is_empty() && bytes[0] != 0 {
            let space = bytes.iter().position(|b| *b == b' ').ok_or_else(bad)?;
            let length = usize::try_from(decimal(&bytes[..space])?).map_err(|_| bad())?;
            if length <= space + 1 || length > bytes.len() || bytes[length - 1] != b'\n' {
                return Err(bad());
            }
            let record = &bytes[space + 1..length - 1];
            let equals = record.iter().position(|b| *b == b'=').ok_or_else(bad)?;
            self.set(&record[..equals], &record[equals + 1..])?;
            bytes = &bytes[length..];
        }
        Ok(())
    }

    fn set(&mut self, key: &[u8], value: &[u8]) -> io::Result<()> {
        let text = || (!value.is_empty()).then(|| value.to_vec());
        match key {
            b"path" => self.path = text(),
            b"linkpath" => self.link = text(),
            b"size" => self.size = Some(decimal(value)?),
            b"uid" => self.uid = Some(decimal(value)?),
            b"gid" => self.gid = Some(decimal(value)?),
            b"mtime" => self.mtime = Some(time(value)?),
            b"GNU.sparse.major" => self.sparse_major = Some(decimal(value)?),
            b"GNU.sparse.name" => self.sparse_name = text(),
            b"GNU.sparse.size" | b"GNU.sparse.realsize" => self.sparse_length = Some(decimal(value)?),
            b"GNU.sparse.offset" => self.segments.push((decimal(value)?, 0)),
            b"GNU.sparse.numbytes" => {
                self.segments.last_mut().ok_or_else(|| malformed("PAX record"))?.1 = decimal(value)?;
            }
            b"GNU.sparse.map" => {
                let numbers = value.split(|b| *b == b',').map(decimal).collect::<Result<Vec<_>, _>>()?;
                self.segments = numbers.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect();
            }
            _ => {
                if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                    self.xattrs.retain(|(known, _)| known != name);
                    self.xattrs.push((name.to_vec(), value.to_vec()));
                }
            }
        }
        Ok(())
    }
}

fn malformed(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("malformed archive: {what}"))
}

fn decimal(text: &[u8]) -> io::Result<u64> {
    std::str::from_utf8(text).ok().and_then(|t| t.parse().ok()).ok_or_else(|| malformed("number"))
}

/// Seconds with a fraction: `1700000000.5`, `-1.25`.
fn time(text: &[u8]) -> io::Result<(i64, u32)> {
    let bad = || malformed("time");
    let text = std::str::from_utf8(text).map_err(|_| bad())?;
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let seconds: i64 = whole.parse().map_err(|_| bad())?;
    if !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return Err(bad());
    }
    let nanos: u32 = format!("{fraction:0<9.9}").parse().map_err(|_| bad())?;
    match (whole.starts_with('-'), nanos) {
        (true, 1..) => Ok((seconds.saturating_sub(1), 1_000_000_000 - nanos)),
        _ => Ok((seconds, nanos)),
    }
}

fn until_nul(mut bytes: Vec<u8>) -> Vec<u8> {
    if let Some(end) = bytes.iter().position(|b| *b == 0) {
        bytes.truncate(end);
    }
    bytes
}

/// A numeric field of a header: octal digits between spaces and NULs (nothing is 0), or base 256 where the first bit is set
/// (two's complement: a time before the epoch wraps into the upper half).
fn number(field: &[u8]) -> io::Result<u64> {
    if field[0] & 0x80 != 0 {
        let negative = field[0] & 0x40 != 0;
        let start = if negative { u64::MAX } else { 0 };
        let digits = field.iter().enumerate().map(|(i, b)| if i == 0 && !negative { b & 0x3f } else { *b });
        return Ok(digits.fold(start, |sum, digit| (sum << 8) | u64::from(digit)));
    }
    let mut sum = 0u64;
    let digits = field.iter().skip_while(|b| **b == b' ').take_while(|b| !matches!(b, b' ' | 0));
    for digit in digits {
        if !(b'0'..=b'7').contains(digit) {
            return Err(malformed("number in a header"));
        }
        sum = sum << 3 | u64::from(digit - b'0'); // 12 digits at most: 36 bits
    }
    Ok(sum)
}

fn check_sum(block: &[u8]) -> io::Result<()> {
    let sum: u64 =
        block.iter().enumerate().map(|(i, b)| if (148..156).contains(&i) { 32 } else { u64::from(*b) }).sum();
    if number(&block[148..156])? == sum { Ok(()) } else { Err(malformed("checksum of a header")) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn all(archive: &[u8]) -> io::Result<Vec<(Entry, Vec<u8>)>> {
        let mut tar = TarStream::new(archive);
        let mut entries = Vec::new();
        while let Some(entry) = tar.next_entry()? {
            let mut body = Vec::new();
            tar.read_to_end(&mut body)?;
            entries.push((entry, body));
        }
        Ok(entries)
    }

    fn file(builder: &mut tar::Builder<Vec<u8>>, name: &str, body: &[u8]) {
        let mut header = Header::new_gnu();
        header.set_size(body.len() as u64);
        header.set_mode(0o644);
        header.set_mtime(7);
        builder.append_data(&mut header, name, body).unwrap();
    }

    #[test]
    fn names_longer_than_a_header_and_attributes_with_newlines_arrive_whole() {
        let long = format!("{}/{}", "d".repeat(200), "f".repeat(250));
        let mut builder = tar::Builder::new(Vec::new());
        let capability = b"\x01\x00\x00\x02\n\x00=\n\x00";
        builder
            .append_pax_extensions([
                ("SCHILY.xattr.security.capability", &capability[..]),
                ("mtime", &b"-1.25"[..]),
                ("uid", &b"4000000000"[..]),
            ])
            .unwrap();
        file(&mut builder, "short", b"body");
        file(&mut builder, &long, &[7; 1000]);
        let entries = all(&builder.into_inner().unwrap()).unwrap();
        let (first, body) = &entries[0];
        assert_eq!(first.xattrs, [(b"security.capability".to_vec(), capability.to_vec())]);
        assert_eq!((first.mtime, first.uid), ((-2, 750_000_000), 4_000_000_000));
        assert_eq!(body, b"body");
        let (second, body) = &entries[1];
        assert_eq!(second.path, long.as_bytes());
        assert!(second.xattrs.is_empty(), "records are for one member only");
        assert_eq!((second.mtime, body.len()), ((7, 0), 1000));
    }

    #[test]
    fn holes_are_found_in_all_formats_that_gnu_tar_writes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("holes");
        let file = std::fs::File::create(&path).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&file, b"end", 50 << 20).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&file, b"middle", 1 << 20).unwrap();
        for format in [
            &["--format=gnu"][..],
            &["--format=posix"],
            &["--format=posix", "--sparse-version=0.0"],
            &["--format=posix", "--sparse-version=0.1"],
        ] {
            let tar = std::process::Command::new("tar")
                .args(format)
                .args(["--sparse", "-cf", "-", "-C"])
                .arg(dir.path())
                .arg("holes")
                .output()
                .unwrap();
            let entries = all(&tar.stdout).unwrap();
            let (entry, body) = &entries[0];
            let sparse = entry.sparse.as_ref().unwrap();
            assert_eq!((entry.path.as_slice(), sparse.length), (&b"holes"[..], (50 << 20) + 3), "{format:?}");
            assert!(body.len() < 100_000 && body.ends_with(b"end"), "{format:?}");
            assert_eq!(sparse.segments.iter().map(|s| s.1).sum::<u64>(), body.len() as u64);
        }
    }

    #[test]
    fn a_header_that_announces_a_gigabyte_of_records_is_refused_before_it_is_read() {
        let mut header = Header::new_ustar();
        header.set_entry_type(EntryType::XHeader);
        header.set_size(1 << 30);
        header.set_cksum();
        let error = TarStream::new(&header.as_bytes()[..]).next_entry().unwrap_err();
        assert!(error.to_string().contains("1 MiB"), "{error}");
    }

    #[test]
    fn numbers_are_octal_or_base_256_or_blank() {
        assert_eq!(number(b"0000755\0").unwrap(), 0o755);
        assert_eq!(number(b"   17 \0 ").unwrap(), 0o17);
        assert_eq!(number(&[0; 8]).unwrap(), 0);
        assert_eq!(number(b"\x80\0\0\0\0\0\0\0\x02\0\0\x01").unwrap(), (2 << 24) + 1);
        assert_eq!(number(&[0xff; 12]).unwrap() as i64, -1);
        assert!(number(b"0000789\0").is_err());
    }

    proptest! {
        #[test]
        fn damage_anywhere_never_panics_and_never_ends_in_a_loop(at in 0usize..6000, with in any::<u8>(), cut in 0usize..6000) {
            let mut builder = tar::Builder::new(Vec::new());
            builder.append_pax_extensions([("path", &b"other"[..]), ("GNU.sparse.map", b"0,1,5,3")]).unwrap();
            file(&mut builder, "a", b"body");
            file(&mut builder, &"n".repeat(300), &[1; 600]);
            let mut archive = builder.into_inner().unwrap();
            let len = archive.len();
            archive[at % len] = with;
            let _ = all(&archive);
            let _ = all(&archive[..cut % len]);
        }

        #[test]
        fn noise_never_panics(noise in proptest::collection::vec(any::<u8>(), 0..2048)) {
            let _ = all(&noise);
            let mut pax = Pax::default();
            let _ = pax.read(&noise);
        }
    }
}
