//! A store whose values under some prefixes are encrypted: whoever reads the disk, or a copy of it, learns the keys of those
//! entries and the length of their values, and nothing else.
//!
//! Each value is sealed with AES-256-GCM under a key of its own, which is derived from a master key and a random salt of 32
//! bytes (HMAC-SHA-256), so that no nonce is ever used twice however much is written. The entry's key is authenticated with it:
//! a value that is moved to another entry does not open. The first master key seals, all of them open: a new one is put in
//! front, [`Sealed::open`] seals everything with it, and the old one can go.

use crate::{Change, Commit, Entry, Error, Op, Page, Revision, Store, Txn, Watch, WatchBatch};
use bytes::Bytes;
use futures::StreamExt;
use ring::{
    aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    hmac,
    rand::{SecureRandom, SystemRandom},
};
use std::{fmt, sync::Arc};

/// How a sealed value begins: no JSON and no protobuf does.
const MAGIC: &[u8] = b"\0orlop sealed 1\0";
const ID_LEN: usize = 8;
const SALT_LEN: usize = 32;
const KEY_LEN: usize = 32;
/// Entries that are sealed anew at once.
const PAGE: usize = 500;

/// A master key.
struct Key {
    id: [u8; ID_LEN],
    secret: hmac::Key,
}

/// Master keys: the first seals, all open.
pub struct Keys(Vec<Key>);

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} keys", self.0.len())
    }
}

impl Keys {
    /// Keys of 32 random bytes each. At least one.
    ///
    /// # Errors
    /// Where there is none, or one has another length.
    pub fn new(keys: &[Vec<u8>]) -> Result<Self, Error> {
        let wrong = |what: &str| failed("reading the keys of the store", what.to_string());
        if keys.is_empty() {
            return Err(wrong("there is none"));
        }
        let key = |bytes: &Vec<u8>| {
            if bytes.len() != KEY_LEN {
                return Err(wrong("a key must have 32 bytes"));
            }
            let digest = ring::digest::digest(&ring::digest::SHA256, bytes);
            let mut id = [0; ID_LEN];
            id.copy_from_slice(&digest.as_ref()[..ID_LEN]);
            Ok(Key { id, secret: hmac::Key::new(hmac::HMAC_SHA256, bytes) })
        };
        keys.iter().map(key).collect::<Result<_, _>>().map(Self)
    }

    /// A new random key.
    ///
    /// # Errors
    /// Where the machine has no random numbers.
    pub fn generate() -> Result<Vec<u8>, Error> {
        let mut bytes = vec![0; KEY_LEN];
        SystemRandom::new()
            .fill(&mut bytes)
            .map_err(|_| failed("making a key", "no random numbers".into()))?;
        Ok(bytes)
    }

    fn first(&self) -> &Key {
        // `new` makes no empty list.
        &self.0[0]
    }
}

impl Key {
    /// The key of one value.
    fn derived(&self, salt: &[u8]) -> Option<LessSafeKey> {
        let tag = hmac::sign(&self.secret, salt);
        Some(LessSafeKey::new(UnboundKey::new(&AES_256_GCM, tag.as_ref()).ok()?))
    }
}

#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Why(String);

fn failed(step: &'static str, why: String) -> Error {
    Error::Backend { step, cause: Arc::new(Why(why)) }
}

/// What seals and opens.
struct Cipher {
    keys: Keys,
    prefixes: Vec<String>,
    random: SystemRandom,
}

impl Cipher {
    fn concerns(&self, key: &str) -> bool {
        self.prefixes.iter().any(|prefix| key.starts_with(prefix.as_str()))
    }

    fn seal(&self, key: &str, value: &[u8]) -> Result<Bytes, Error> {
        let cannot = || failed("encrypting a value", format!("{key} could not be sealed"));
        let mut salt = [0; SALT_LEN];
        self.random.fill(&mut salt).map_err(|_| cannot())?;
        let master = self.keys.first();
        let mut out =
            Vec::with_capacity(MAGIC.len() + ID_LEN + SALT_LEN + value.len() + AES_256_GCM.tag_len());
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&master.id);
        out.extend_from_slice(&salt);
        let mut sealed = value.to_vec();
        // The key is used once, so any nonce is new.
        let nonce = Nonce::assume_unique_for_key([0; NONCE_LEN]);
        let derived = master.derived(&salt).ok_or_else(cannot)?;
        derived.seal_in_place_append_tag(nonce, Aad::from(key), &mut sealed).map_err(|_| cannot())?;
        out.extend_from_slice(&sealed);
        Ok(out.into())
    }

    /// The value, and whether the first key sealed it. What is not sealed at all was written before there were keys.
    fn open(&self, key: &str, value: &Bytes) -> Result<(Bytes, bool), Error> {
        let Some(rest) = value.strip_prefix(MAGIC) else { return Ok((value.clone(), false)) };
        let cannot = |why: &str| failed("decrypting a value", format!("{key}: {why}"));
        let (id, rest) = rest.split_at_checked(ID_LEN).ok_or_else(|| cannot("it is cut short"))?;
        let (salt, sealed) = rest.split_at_checked(SALT_LEN).ok_or_else(|| cannot("it is cut short"))?;
        let at = self.keys.0.iter().position(|k| k.id == id);
        let at = at.ok_or_else(|| cannot("none of the keys sealed it; was one removed?"))?;
        let master = self.keys.0.get(at).and_then(|k| k.derived(salt)).ok_or_else(|| cannot("a bad key"))?;
        let nonce = Nonce::assume_unique_for_key([0; NONCE_LEN]);
        let mut plain = sealed.to_vec();
        let length = master
            .open_in_place(nonce, Aad::from(key), &mut plain)
            .map_err(|_| cannot("it was changed, or moved from elsewhere"))?
            .len();
        plain.truncate(length);
        Ok((plain.into(), at == 0))
    }

    fn entry(&self, mut entry: Entry) -> Result<Entry, Error> {
        if self.concerns(&entry.key) {
            entry.value = self.open(&entry.key, &entry.value)?.0;
        }
        Ok(entry)
    }

    fn batch(&self, batch: Arc<WatchBatch>) -> Result<Arc<WatchBatch>, Error> {
        if !batch.changes.iter().any(|change| self.concerns(&change.entry.key)) {
            return Ok(batch);
        }
        let open = |change: &Change| {
            let entry = if change.deleted { change.entry.clone() } else { self.entry(change.entry.clone())? };
            let previous = change.previous.clone().map(|entry| self.entry(entry)).transpose()?;
            Ok(Change { entry, previous, deleted: change.deleted })
        };
        let changes = batch.changes.iter().map(open).collect::<Result<_, Error>>()?;
        Ok(Arc::new(WatchBatch { revision: batch.revision, changes }))
    }
}

/// A store that encrypts.
pub struct Sealed {
    inner: Arc<dyn Store>,
    cipher: Arc<Cipher>,
}

impl Sealed {
    /// Wraps a store: values of keys with one of the prefixes are encrypted. What is not sealed with the first key yet is
    /// written anew.
    ///
    /// # Errors
    /// Where something was sealed with a key that is not among `keys`, or the store fails.
    pub async fn open(inner: Arc<dyn Store>, keys: Keys, prefixes: &[&str]) -> Result<Self, Error> {
        let prefixes = prefixes.iter().map(|p| p.to_string()).collect();
        let cipher = Cipher { keys, prefixes, random: SystemRandom::new() };
        let sealed = Self { inner, cipher: Arc::new(cipher) };
        for prefix in &sealed.cipher.prefixes {
            sealed.seal_anew(prefix).await?;
        }
        Ok(sealed)
    }

    async fn seal_anew(&self, prefix: &str) -> Result<(), Error> {
        let mut after: Option<Arc<str>> = None;
        let mut count = 0_usize;
        loop {
            let page = self.inner.list(prefix, after.as_deref(), None, PAGE).await?;
            after = page.entries.last().map(|entry| entry.key.clone());
            for entry in page.entries {
                let (plain, newest) = self.cipher.open(&entry.key, &entry.value)?;
                if newest {
                    continue;
                }
                let value = self.cipher.seal(&entry.key, &plain)?;
                // Whoever was faster sealed it already.
                self.inner.commit(Txn::replace(entry.key, entry.modified, value)).await?;
                count += 1;
            }
            if !page.more {
                break;
            }
        }
        if count > 0 {
            tracing::info!(prefix, count, "values were encrypted with the newest key");
        }
        Ok(())
    }
}

#[async_trait::async_trait]
impl Store for Sealed {
    async fn get(&self, key: &str) -> Result<(Option<Entry>, Revision), Error> {
        let (entry, revision) = self.inner.get(key).await?;
        Ok((entry.map(|entry| self.cipher.entry(entry)).transpose()?, revision))
    }

    async fn list(
        &self,
        prefix: &str,
        start_after: Option<&str>,
        at: Option<Revision>,
        limit: usize,
    ) -> Result<Page, Error> {
        let mut page = self.inner.list(prefix, start_after, at, limit).await?;
        page.entries = page.entries.into_iter().map(|e| self.cipher.entry(e)).collect::<Result<_, _>>()?;
        Ok(page)
    }

    async fn commit(&self, mut txn: Txn) -> Result<Commit, Error> {
        for op in &mut txn.ops {
            if let Op::Put(key, value) = op
                && self.cipher.concerns(key)
            {
                *value = self.cipher.seal(key, value)?;
            }
        }
        Ok(match self.inner.commit(txn).await? {
            Commit::Conflict { key, current } => {
                let current = current.map(|entry| self.cipher.entry(entry)).transpose()?;
                Commit::Conflict { key, current }
            }
            done => done,
        })
    }

    async fn watch(&self, prefix: &str, after: Revision) -> Result<Watch, Error> {
        let cipher = self.cipher.clone();
        let watch = self.inner.watch(prefix, after).await?;
        Ok(Box::pin(watch.map(move |item| item.and_then(|batch| cipher.batch(batch)))))
    }

    async fn compact(&self, revision: Revision) -> Result<(), Error> {
        self.inner.compact(revision).await
    }

    async fn revision(&self) -> Result<Revision, Error> {
        self.inner.revision().await
    }

    fn is_shared(&self) -> bool {
        self.inner.is_shared()
    }

    async fn size(&self) -> Result<u64, Error> {
        self.inner.size().await
    }
}
