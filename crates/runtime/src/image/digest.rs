//! Digests of content (OCI image-spec, "Digests"): parsed at the edge, so that one can be used as a path without fear.

use sha2::{Digest as _, Sha256, Sha512};
use std::fmt::Write as _;

/// A well-formed digest, `sha256:…` or `sha512:…`, in lower case.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest {
    text: String,
    colon: usize,
}

impl Digest {
    /// Reads `ALGORITHM:HEX`. The error says what is wrong.
    pub fn parse(text: &str) -> Result<Self, String> {
        let Some((algorithm, hex)) = text.split_once(':') else {
            return Err(format!("digest {text:?} has no algorithm"));
        };
        let length = match algorithm {
            "sha256" => 64,
            "sha512" => 128,
            _ => return Err(format!("digest algorithm {algorithm:?} is not known")),
        };
        if hex.len() != length || !hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            return Err(format!("digest {text:?} is not {length} lower-case hexadecimal digits"));
        }
        Ok(Self { text: text.to_string(), colon: algorithm.len() })
    }

    /// The SHA-256 of some bytes.
    pub fn of(bytes: &[u8]) -> Self {
        let mut hasher = Hasher::sha256();
        hasher.update(bytes);
        hasher.finish()
    }

    /// Whether these bytes are what the digest names.
    pub fn matches(&self, bytes: &[u8]) -> bool {
        let mut hasher = Hasher::like(self);
        hasher.update(bytes);
        hasher.finish() == *self
    }

    /// `sha256` or `sha512`.
    pub fn algorithm(&self) -> &str {
        &self.text[..self.colon]
    }

    /// The digits.
    pub fn hex(&self) -> &str {
        &self.text[self.colon + 1..]
    }

    /// As written.
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl TryFrom<String> for Digest {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        Self::parse(&text)
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> Self {
        digest.text
    }
}

impl std::fmt::Display for Digest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::fmt::Debug for Digest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.text)
    }
}

/// Makes a [`Digest`] of bytes as they pass.
#[derive(Clone)]
pub enum Hasher {
    /// SHA-256.
    Sha256(Sha256),
    /// SHA-512.
    Sha512(Box<Sha512>),
}

impl Hasher {
    /// For a new digest.
    pub fn sha256() -> Self {
        Self::Sha256(Sha256::new())
    }

    /// With the algorithm of the digest that the result will be compared with.
    pub fn like(digest: &Digest) -> Self {
        if digest.algorithm() == "sha512" { Self::Sha512(Box::default()) } else { Self::sha256() }
    }

    /// Takes in more bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha256(h) => h.update(bytes),
            Self::Sha512(h) => h.update(bytes),
        }
    }

    /// The digest of all bytes so far.
    pub fn finish(self) -> Digest {
        let (name, sum) = match self {
            Self::Sha256(h) => ("sha256", h.finalize().to_vec()),
            Self::Sha512(h) => ("sha512", h.finalize().to_vec()),
        };
        let mut text = format!("{name}:");
        for byte in sum {
            let _ = write!(text, "{byte:02x}"); // writing into a string cannot fail
        }
        Digest { text, colon: name.len() }
    }
}

/// The chain ids of layers from their diff ids, bottom first (OCI image-spec, "Layer ChainID"): the name of a layer
/// together with all below it.
pub fn chain_ids(diff_ids: &[Digest]) -> Vec<Digest> {
    let mut chain: Vec<Digest> = Vec::with_capacity(diff_ids.len());
    for diff in diff_ids {
        let next = match chain.last() {
            None => diff.clone(),
            Some(parent) => Digest::of(format!("{parent} {diff}").as_bytes()),
        };
        chain.push(next);
    }
    chain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_that_could_be_another_path_is_refused() {
        let good = format!("sha256:{}", "a".repeat(64));
        assert_eq!(Digest::parse(&good).unwrap().hex(), "a".repeat(64));
        for bad in ["", "sha256", "sha256:", "sha256:../../etc/passwd", "md5:0123", "sha256:ABC"] {
            assert!(Digest::parse(bad).is_err(), "{bad} was taken");
        }
        assert!(Digest::parse(&format!("sha256:{}", "A".repeat(64))).is_err());
        assert!(Digest::parse(&format!("sha256:{}/", "a".repeat(63))).is_err());
    }

    #[test]
    fn digests_are_those_of_the_standard() {
        let empty = Digest::of(b"");
        assert_eq!(empty.as_str(), "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
        assert!(empty.matches(b"") && !empty.matches(b"x"));
    }

    #[test]
    fn a_chain_names_a_layer_with_all_below_it() {
        let [a, b] = [Digest::of(b"a"), Digest::of(b"b")];
        let chain = chain_ids(&[a.clone(), b.clone()]);
        assert_eq!(chain[0], a);
        assert_eq!(chain[1], Digest::of(format!("{a} {b}").as_bytes()));
        assert_ne!(chain_ids(&[b.clone(), a])[1], chain[1]);
    }
}
