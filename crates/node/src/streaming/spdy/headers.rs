//! Header blocks (SPDY Draft 3, section 2.6.10): names and values, compressed over the whole life of a connection.

use super::{dictionary::dictionary, frame::FrameError};
use bytes::{Buf, BufMut};
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

/// Most bytes of a decompressed header block. Kubernetes sends a few short names.
const LIMIT: usize = 64 << 10;

/// Names (lower case) and values.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Headers(pub Vec<(String, String)>);

impl Headers {
    /// The value of a name, given in lower case.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    fn to_block(&self) -> Vec<u8> {
        let mut block = Vec::new();
        block.put_u32(self.0.len() as u32);
        for text in self.0.iter().flat_map(|(name, value)| [name, value]) {
            block.put_u32(text.len() as u32);
            block.put_slice(text.as_bytes());
        }
        block
    }

    fn from_block(mut block: &[u8]) -> Option<Self> {
        let count = block.try_get_u32().ok()?;
        let mut text = || {
            let length = block.try_get_u32().ok()? as usize;
            let (text, rest) = block.split_at_checked(length)?;
            block = rest;
            Some(String::from_utf8_lossy(text).into_owned())
        };
        let mut headers = Vec::new();
        for _ in 0..count {
            headers.push((text()?.to_ascii_lowercase(), text()?));
        }
        Some(Self(headers))
    }
}

/// Compresses header blocks, in the order in which they are sent.
pub struct Compressor(Compress);

impl Compressor {
    pub fn new() -> Result<Self, FrameError> {
        let mut compress = Compress::new(Compression::fast(), true);
        compress.set_dictionary(dictionary()).map_err(|_| FrameError::Compression)?;
        Ok(Self(compress))
    }

    pub fn compress(&mut self, headers: &Headers) -> Result<Vec<u8>, FrameError> {
        let block = headers.to_block();
        let mut out = Vec::with_capacity(block.len() + 64);
        let before = self.0.total_in();
        loop {
            let taken = (self.0.total_in() - before) as usize;
            let status = self.0.compress_vec(&block[taken..], &mut out, FlushCompress::Sync);
            status.map_err(|_| FrameError::Compression)?;
            let all_taken = (self.0.total_in() - before) as usize == block.len();
            // Room that is left over means that nothing waits to be written any more.
            if all_taken && out.len() < out.capacity() {
                return Ok(out);
            }
            out.reserve(256);
        }
    }
}

/// Decompresses header blocks, in the order in which they came.
pub struct Decompressor(Decompress);

impl Decompressor {
    pub fn new() -> Self {
        Self(Decompress::new(true))
    }

    pub fn decompress(&mut self, mut data: &[u8]) -> Result<Headers, FrameError> {
        let mut out = Vec::with_capacity(1024);
        loop {
            let before = (self.0.total_in(), out.len());
            let outcome = self.0.decompress_vec(data, &mut out, FlushDecompress::Sync);
            data = &data[(self.0.total_in() - before.0) as usize..];
            match outcome {
                Ok(Status::Ok | Status::BufError) => {
                    if data.is_empty() && out.len() < out.capacity() {
                        break;
                    }
                    // No progress although there is room: the block is cut off.
                    if out.len() == before.1 && out.len() < out.capacity() && !data.is_empty() {
                        return Err(FrameError::Compression);
                    }
                }
                Ok(Status::StreamEnd) => return Err(FrameError::Compression),
                Err(e) if e.needs_dictionary().is_some() => {
                    self.0.set_dictionary(dictionary()).map_err(|_| FrameError::Compression)?;
                }
                Err(_) => return Err(FrameError::Compression),
            }
            if out.len() > LIMIT {
                return Err(FrameError::TooLong);
            }
            out.reserve(1024);
        }
        Headers::from_block(&out).ok_or(FrameError::Headers)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn headers(pairs: &[(&str, &str)]) -> Headers {
        Headers(pairs.iter().map(|(n, v)| (n.to_string(), v.to_string())).collect())
    }

    #[test]
    fn a_block_that_would_grow_too_large_is_refused() {
        let bomb = headers(&[("a", &"x".repeat(1 << 20))]);
        let block = Compressor::new().expect("a compressor").compress(&bomb).expect("compressed");
        assert!(block.len() < 32 << 10, "{}", block.len());
        assert_eq!(Decompressor::new().decompress(&block), Err(FrameError::TooLong));
    }

    proptest! {
        /// Blocks depend on all blocks before them.
        #[test]
        fn blocks_come_through_in_their_order(
            blocks in prop::collection::vec(prop::collection::vec(("[a-z]{0,20}", "\\PC{0,200}"), 0..6), 1..6)
        ) {
            let (mut compressor, mut decompressor) = (Compressor::new().expect("a compressor"), Decompressor::new());
            for block in blocks {
                let block = Headers(block);
                let data = compressor.compress(&block).expect("compressed");
                prop_assert_eq!(decompressor.decompress(&data), Ok(block));
            }
        }

        #[test]
        fn no_bytes_make_it_panic(data in prop::collection::vec(any::<u8>(), 0..200), cut in 0usize..200) {
            let _ = Decompressor::new().decompress(&data);
            let _ = Headers::from_block(&data);
            let block = Compressor::new().expect("a compressor").compress(&headers(&[("streamtype", "data")])).expect("compressed");
            let _ = Decompressor::new().decompress(&block[..cut.min(block.len())]);
        }
    }
}
