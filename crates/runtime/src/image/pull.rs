//! Pulls an image: manifest, configuration, layers three at a time, each verified while it is unpacked. Who asks for an
//! image that is being pulled already waits for that pull; a layer that two images share is fetched once.

use super::{
    config::ImageConfig,
    digest::{Digest, chain_ids},
    index::Record,
    inherit::inherit,
    layer::{Expected, Scratch, read_layer},
    manifest::{Document, Manifest, Platform, check_platform, choose},
    reference::Reference,
    registry::{Failure, Session},
    store::ImageStore,
};
use crate::{Error, Image, RegistryAuth};
use bytes::Bytes;
use futures::{
    FutureExt, StreamExt, TryStreamExt,
    future::{BoxFuture, WeakShared},
    stream,
};
use parking_lot::Mutex;
use std::{
    collections::HashMap,
    io::{self, Read},
    path::PathBuf,
    sync::{Arc, Weak},
};
use tokio::sync::{mpsc, watch};

/// Layers of one image that are fetched at a time.
const PARALLEL_LAYERS: usize = 3;

type Outcome = Result<Image, String>;
/// What two who ask for the same thing have in common.
type Request = (String, Option<RegistryAuth>);
type SharedPull = WeakShared<BoxFuture<'static, Outcome>>;

/// Pulls that are under way.
#[derive(Default)]
pub(super) struct Pulls {
    images: Mutex<HashMap<Request, SharedPull>>,
    layers: Mutex<HashMap<Digest, Weak<tokio::sync::Mutex<()>>>>,
}

impl Pulls {
    /// Whoever holds it makes the layer; the others wait and then find it made.
    fn layer(&self, chain: &Digest) -> Arc<tokio::sync::Mutex<()>> {
        let mut layers = self.layers.lock();
        layers.retain(|_, lock| lock.strong_count() > 0);
        match layers.get(chain).and_then(Weak::upgrade) {
            Some(lock) => lock,
            None => {
                let lock = Arc::default();
                layers.insert(chain.clone(), Arc::downgrade(&lock));
                lock
            }
        }
    }
}

impl ImageStore {
    /// See [`crate::Images::pull`].
    pub(super) async fn pull_shared(
        self: Arc<Self>,
        text: &str,
        auth: Option<RegistryAuth>,
    ) -> Result<Image, Error> {
        let reference = Reference::parse(text)?;
        let shared = {
            let mut images = self.pulls.images.lock();
            images.retain(|_, pull| pull.upgrade().is_some());
            let key = (reference.to_string(), auth.clone());
            match images.get(&key).and_then(WeakShared::upgrade) {
                Some(pull) => pull,
                None => {
                    let store = self.clone();
                    let pull = async move {
                        store.pull_one(&reference, auth).await.map_err(|failure| match failure {
                            Error::Pull { why, .. } => why,
                            Error::Io { step, source } => format!("{step}: {source}"),
                            Error::Damaged(why) => why,
                            other => other.to_string(),
                        })
                    };
                    let pull = pull.boxed().shared();
                    images.extend(pull.downgrade().map(|weak| (key, weak)));
                    pull
                }
            }
        };
        shared.await.map_err(|why| Error::Pull { reference: text.to_string(), why })
    }

    async fn pull_one(
        self: Arc<Self>,
        reference: &Reference,
        auth: Option<RegistryAuth>,
    ) -> Result<Image, Error> {
        let failed =
            |failure: Failure| Error::Pull { reference: reference.to_string(), why: failure.into_message() };
        let session = self.registries.session(reference, auth).await.map_err(failed)?;
        let (named, digest, body, manifest) = find_manifest(&session, reference).await?;
        let config_bytes = session.blob(&manifest.config).await.map_err(failed)?;
        let config = ImageConfig::parse(&config_bytes)?;
        check_platform(&config.os, &config.architecture, &Platform::host())?;
        manifest.check(&config.diff_ids)?;

        let id = manifest.config.digest.clone();
        let chain = chain_ids(&config.diff_ids);
        let pin = self.pin(chain.iter().cloned().chain([id.clone(), digest.clone()]));
        self.fetch_layers(&session, &manifest, &config.diff_ids, &chain).await?;
        let record = Record {
            manifest: Some(digest.clone()),
            layers: chain,
            size: manifest.layers.iter().map(|layer| layer.size).sum(),
            tags: reference.tagged().filter(|_| reference.digest().is_none()).into_iter().collect(),
            digests: [reference.pinned(&named)].into(),
            user: config.user,
        };
        blocking(move || {
            let _pin = pin; // until the index names the content
            self.content.put_blob(&digest, &body)?;
            self.content.put_blob(&id, &config_bytes)?;
            self.content.sync()?;
            self.add(id.clone(), record)?;
            self.image(&id)
        })
        .await
    }

    async fn fetch_layers(
        self: &Arc<Self>,
        session: &Session,
        manifest: &Manifest,
        diff_ids: &[Digest],
        chain: &[Digest],
    ) -> Result<(), Error> {
        let done = watch::Sender::new(vec![false; chain.len()]);
        let done = &done;
        let fetch = |n: usize| async move {
            let lock = self.pulls.layer(&chain[n]);
            let _guard = lock.lock().await;
            if !self.content.has_layer(&chain[n]) {
                let layer = &manifest.layers[n];
                let expected = Expected {
                    digest: Some(layer.digest.clone()),
                    size: Some(layer.size),
                    diff_id: diff_ids[n].clone(),
                };
                let (sender, receiver) = mpsc::channel(32);
                let reader = ChannelReader { receiver, chunk: Bytes::new() };
                let path = self.content.scratch();
                let (sent, scratch) = tokio::join!(
                    session.stream(layer, sender),
                    blocking(move || read_layer(reader, &expected, path))
                );
                sent.map_err(|failure| Error::Damaged(failure.into_message()))?;
                let scratch = scratch?;
                // Only downwards, also between pulls: nobody waits in a circle. The layers below were begun before.
                let below =
                    done.subscribe().wait_for(|done| done[..n].iter().all(|done| *done)).await.is_ok();
                debug_assert!(below, "the sender lives in this function");
                let (store, chain) = (self.clone(), chain[..=n].to_vec());
                blocking(move || store.keep_layer(scratch, &chain)).await?;
            }
            done.send_modify(|done| done[n] = true);
            Ok(())
        };
        stream::iter(0..chain.len()).map(fetch).buffer_unordered(PARALLEL_LAYERS).try_collect::<()>().await
    }

    /// Completes an unpacked layer and gives it its name: the last of `chain`. Those before must be there. Blocks.
    pub(super) fn keep_layer(&self, scratch: Scratch, chain: &[Digest]) -> Result<(), Error> {
        let Some((own, below)) = chain.split_last() else { return Ok(()) };
        let below: Vec<PathBuf> = below.iter().rev().map(|chain| self.content.layer_files(chain)).collect();
        inherit(&scratch.files(), &scratch.unpacked, &below)?;
        self.content.commit_layer(&scratch.path, own)?;
        scratch.keep();
        Ok(())
    }
}

/// The digest that the reference leads to, and the image's own manifest: digest, bytes and content. They differ where the
/// reference leads to an index.
async fn find_manifest(
    session: &Session,
    reference: &Reference,
) -> Result<(Digest, Digest, Bytes, Manifest), Error> {
    let damaged = |failure: Failure| Error::Damaged(failure.into_message());
    let body = session.manifest(None).await.map_err(damaged)?;
    let named = match reference.digest() {
        Some(digest) => checked(digest, &body)?,
        None => Digest::of(&body),
    };
    let entry = match Document::parse(&body)? {
        Document::Manifest(manifest) => return Ok((named.clone(), named, body, manifest)),
        Document::Index(entries) => choose(&entries, &Platform::host())?.clone(),
    };
    let body = session.manifest(Some(&entry.digest)).await.map_err(damaged)?;
    checked(&entry.digest, &body)?;
    match Document::parse(&body)? {
        Document::Manifest(manifest) => Ok((named, entry.digest, body, manifest)),
        Document::Index(_) => Err(Error::Damaged("an index leads to another index".into())),
    }
}

fn checked(digest: &Digest, body: &[u8]) -> Result<Digest, Error> {
    if digest.matches(body) {
        Ok(digest.clone())
    } else {
        let found = Digest::of(body);
        Err(Error::Damaged(format!("bad digest: the registry sent {found} for {digest}")))
    }
}

/// Runs what blocks on a thread for such things.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    match tokio::task::spawn_blocking(work).await {
        Ok(outcome) => outcome,
        Err(e) => Err(Error::io("running on a blocking thread", io::Error::other(e))),
    }
}

/// Reads on a blocking thread what arrives on the network.
struct ChannelReader {
    receiver: mpsc::Receiver<Result<Bytes, ()>>,
    chunk: Bytes,
}

impl Read for ChannelReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.chunk.is_empty() {
            match self.receiver.blocking_recv() {
                Some(Ok(chunk)) => self.chunk = chunk,
                Some(Err(())) => {
                    return Err(io::Error::new(io::ErrorKind::ConnectionAborted, "download failed"));
                }
                None => return Ok(0),
            }
        }
        let n = buffer.len().min(self.chunk.len());
        buffer[..n].copy_from_slice(&self.chunk.split_to(n));
        Ok(n)
    }
}
