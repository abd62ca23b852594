//! Follows the objects of one resource: lists them page by page, then watches, goes on where a watch ended, and lists anew when
//! the server no longer knows what happened since. It hands on the bytes that the server sent, so there is one such machine for
//! all kinds; what the objects mean it never asks.

mod head;
#[cfg(test)]
mod tests;

use bytes::{Bytes, BytesMut};
use futures::{Stream, StreamExt};
use head::Head;
use http_body_util::BodyExt;
use kube::{Api, Client, Resource, client::Body};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::value::RawValue;
use std::{
    collections::VecDeque,
    hash::{DefaultHasher, Hash, Hasher},
    ops::Range,
    time::Duration,
};
use tokio::time::{Instant, sleep_until, timeout};

/// How many objects a page of a list has, as client-go asks for.
const PAGE: u32 = 500;
/// A watch is asked to end after this to twice this, so that watches spread.
const LEAST_WATCH: u64 = 290;
/// How much later than that a silent connection is taken for dead.
const SILENCE: Duration = Duration::from_secs(10);
/// A watch that ends sooner without a word has failed.
const TOO_SHORT: Duration = Duration::from_secs(1);
const FIRST_RETRY: Duration = Duration::from_millis(500);
const LAST_RETRY: Duration = Duration::from_secs(30);
/// `Gone`: what happened since is no longer known.
const GONE: u16 = 410;

/// Why following is interrupted. It always goes on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The server was not reached, or the connection broke.
    #[error("{0}")]
    Client(#[from] kube::Error),
    /// The server refused.
    #[error("{1} ({0})")]
    Refused(u16, String),
    /// It did not say what an API server says.
    #[error("not what an API server says: {0}")]
    Malformed(#[from] serde_json::Error),
    /// It ended a watch at once.
    #[error("the watch ended at once")]
    Ended,
}

/// Which objects are followed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    path: String,
    labels: String,
    fields: String,
    metadata_only: bool,
}

impl Source {
    /// All that an [`Api`] is about.
    pub fn of<K: Resource>(api: &Api<K>) -> Self {
        Self::at(api.resource_url())
    }

    /// All below a path such as `/api/v1/pods`.
    pub fn at(path: impl Into<String>) -> Self {
        Self { path: path.into(), labels: String::new(), fields: String::new(), metadata_only: false }
    }

    /// Those that a label selector chooses.
    pub fn labels(mut self, selector: impl Into<String>) -> Self {
        self.labels = selector.into();
        self
    }

    /// Those that a field selector chooses.
    pub fn fields(mut self, selector: impl Into<String>) -> Self {
        self.fields = selector.into();
        self
    }

    /// Nothing but their metadata.
    pub fn metadata_only(mut self) -> Self {
        self.metadata_only = true;
        self
    }

    fn request(&self, more: &[(&str, &str)]) -> http::Request<Body> {
        let selectors = [("labelSelector", self.labels.as_str()), ("fieldSelector", self.fields.as_str())];
        let mut query = form_urlencoded::Serializer::new(String::new());
        query.extend_pairs(selectors.iter().chain(more).filter(|(_, v)| !v.is_empty()));
        let accept = match self.metadata_only {
            false => "application/json",
            true => {
                "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1,application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
            }
        };
        let mut request = http::Request::new(Body::empty());
        // The path is an API's own and the query is encoded; were they not, the server would say so.
        *request.uri_mut() = format!("{}?{}", self.path, query.finish()).parse().unwrap_or_default();
        request.headers_mut().insert(http::header::ACCEPT, http::HeaderValue::from_static(accept));
        request
    }

    /// How long watches are asked to last: the same for the same source, and spread over sources.
    fn watch_seconds(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        (&self.path, &self.labels, &self.fields).hash(&mut hasher);
        LEAST_WATCH + hasher.finish() % LEAST_WATCH
    }
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event<T> {
    /// A list begins.
    Init,
    /// An object of the list.
    InitApply(T),
    /// The list has ended: what was there before and is not in it is gone.
    InitDone,
    /// An object came or changed.
    Apply(T),
    /// An object went; its last state.
    Delete(T),
}

impl<T> Event<T> {
    /// Makes something else of the object.
    pub fn try_map<U, E>(self, make: impl FnOnce(T) -> Result<U, E>) -> Result<Event<U>, E> {
        Ok(match self {
            Self::Init => Event::Init,
            Self::InitApply(object) => Event::InitApply(make(object)?),
            Self::InitDone => Event::InitDone,
            Self::Apply(object) => Event::Apply(make(object)?),
            Self::Delete(object) => Event::Delete(make(object)?),
        })
    }
}

/// An object as the server sent it.
#[derive(Clone, Debug)]
pub struct Object {
    json: Bytes,
    managed_fields: Option<Range<usize>>,
}

impl Object {
    fn read(json: Bytes) -> (Self, String) {
        let Head { resource_version, managed_fields } = Head::of(&json);
        (Self { json, managed_fields }, resource_version)
    }

    /// Decodes it, without its managed fields: clients that follow objects do not read those, and they are half of most.
    ///
    /// # Errors
    /// Where it is not what the type says.
    pub fn decode<K: DeserializeOwned>(&self) -> Result<K, serde_json::Error> {
        let slim = self.managed_fields.as_ref().and_then(|range| {
            let (before, after) = (self.json.get(..range.start)?, self.json.get(range.end..)?);
            Some([before, b"null", after].concat())
        });
        serde_json::from_slice(slim.as_deref().unwrap_or(&self.json))
    }
}

#[derive(Deserialize)]
struct Frame<'a> {
    #[serde(rename = "type")]
    kind: &'a str,
    #[serde(borrow)]
    object: &'a RawValue,
}

#[derive(Deserialize)]
struct Page<'a> {
    metadata: PageMetadata,
    #[serde(borrow, default)]
    items: Option<Vec<&'a RawValue>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct PageMetadata {
    #[serde(default)]
    resource_version: String,
    #[serde(default, rename = "continue")]
    token: String,
}

/// The type and the object of a line. Servers write them in this order, which saves a look at every byte.
fn split(line: &[u8]) -> Result<(&str, &[u8]), serde_json::Error> {
    let usual = || {
        let rest = line.strip_prefix(b"{\"type\":\"")?;
        let (kind, rest) = rest.split_at(rest.iter().position(|b| *b == b'"')?);
        let object = rest.strip_prefix(b"\",\"object\":")?.trim_ascii_end().strip_suffix(b"}")?;
        Some((std::str::from_utf8(kind).ok()?, object))
    };
    match usual() {
        Some(frame) => Ok(frame),
        None => {
            serde_json::from_slice::<Frame<'_>>(line).map(|frame| (frame.kind, frame.object.get().as_bytes()))
        }
    }
}

/// What a server says when it refuses; `code` is that of the response.
fn refused(code: u16, said: &[u8]) -> Error {
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Said {
        code: u16,
        message: String,
    }
    let said: Said = serde_json::from_slice(said).unwrap_or_default();
    Error::Refused(if code == 0 { said.code } else { code }, said.message)
}

/// Two pieces as one.
fn joined(first: Bytes, second: Bytes) -> Bytes {
    if first.is_empty() {
        return second;
    }
    let mut all = BytesMut::with_capacity(first.len() + second.len());
    all.extend_from_slice(&first);
    all.extend_from_slice(&second);
    all.freeze()
}

enum State {
    /// A list must be made.
    Unlisted,
    /// A list is under way: objects that are here already, and the token for those that follow or the version of the whole.
    Listing(VecDeque<Object>, Result<String, String>),
    /// Everything up to a version is known.
    Listed(String),
    Watching {
        version: String,
        body: Body,
        /// What has arrived of lines that are not told yet.
        arrived: Bytes,
        begun: Instant,
        silent: bool,
    },
}

/// See the module.
pub struct Watcher {
    client: Client,
    source: Source,
    state: State,
    /// Whether lists are made in pages: not after pages took so long that the server forgot the first.
    pages: bool,
    /// How often in a row something failed.
    failures: u32,
    /// Nothing is asked before.
    not_before: Option<Instant>,
}

impl Watcher {
    /// One that has not begun.
    pub fn new(client: Client, source: Source) -> Self {
        Self { client, source, state: State::Unlisted, pages: true, failures: 0, not_before: None }
    }

    /// Where it follows.
    pub fn source(&self) -> &str {
        &self.source.path
    }

    /// What happened next. After an error it goes on, later and later. When the future is dropped, no event is lost.
    pub async fn next(&mut self) -> Result<Event<Object>, Error> {
        loop {
            if let Some(at) = self.not_before.take() {
                sleep_until(at).await;
            }
            match self.step().await {
                Ok(Some(event)) => return Ok(event),
                Ok(None) => {}
                Err(error) => {
                    let pause = FIRST_RETRY.saturating_mul(1 << self.failures.min(10)).min(LAST_RETRY);
                    self.failures += 1;
                    self.not_before = Some(Instant::now() + pause);
                    return Err(error);
                }
            }
        }
    }

    /// The same as a stream of decoded objects, which never ends.
    pub fn into_stream<K: DeserializeOwned>(self) -> impl Stream<Item = Result<Event<K>, Error>> + Send {
        self.into_raw_stream().map(|event| Ok(event?.try_map(|object| object.decode())?))
    }

    /// Follows one object by its name: what it is now, and whether it is there.
    pub fn follow_one<K: DeserializeOwned + Send>(
        client: Client,
        source: Source,
        name: &str,
    ) -> impl Stream<Item = Result<Option<K>, Error>> + Send {
        let one = source.fields(format!("metadata.name={name}"));
        let events = Self::new(client, one).into_stream::<K>();
        // Whether the list under way has named it.
        let told = events.scan(false, |listed, event| {
            let now = match event {
                Ok(Event::Init) => {
                    *listed = false;
                    None
                }
                Ok(Event::InitApply(object)) => {
                    *listed = true;
                    Some(Ok(Some(object)))
                }
                Ok(Event::InitDone) if *listed => None,
                Ok(Event::Apply(object)) => Some(Ok(Some(object))),
                Ok(Event::InitDone | Event::Delete(_)) => Some(Ok(None)),
                Err(error) => Some(Err(error)),
            };
            std::future::ready(Some(now))
        });
        told.filter_map(std::future::ready)
    }

    fn into_raw_stream(self) -> impl Stream<Item = Result<Event<Object>, Error>> + Send {
        futures::stream::unfold(self, |mut watcher| async move {
            let event = watcher.next().await;
            Some((event, watcher))
        })
    }

    async fn step(&mut self) -> Result<Option<Event<Object>>, Error> {
        match std::mem::replace(&mut self.state, State::Unlisted) {
            State::Unlisted => {
                self.list(String::new()).await?;
                Ok(Some(Event::Init))
            }
            State::Listing(mut objects, then) => match (objects.pop_front(), then) {
                (Some(object), then) => {
                    self.state = State::Listing(objects, then);
                    Ok(Some(Event::InitApply(object)))
                }
                (None, Ok(token)) => {
                    self.list(token).await?;
                    Ok(None)
                }
                (None, Err(version)) => {
                    self.failures = 0;
                    self.state = State::Listed(version);
                    Ok(Some(Event::InitDone))
                }
            },
            State::Listed(version) => {
                self.watch(version).await?;
                Ok(None)
            }
            watching @ State::Watching { .. } => {
                self.state = watching;
                self.hear().await
            }
        }
    }

    /// Reads a page; the first one without a token. After an error the list begins anew.
    async fn list(&mut self, token: String) -> Result<(), Error> {
        let limit = if self.pages { PAGE.to_string() } else { String::new() };
        let query = [("limit", limit.as_str()), ("continue", token.as_str())];
        let text = match self.ask(&query).await {
            Ok(body) => body.collect().await?.to_bytes(),
            Err(error) => {
                self.pages &= token.is_empty() || !matches!(error, Error::Refused(GONE, _));
                return Err(error);
            }
        };
        let page: Page<'_> = serde_json::from_slice(&text)?;
        let items = page.items.into_iter().flatten();
        let objects = items.map(|item| Object::read(text.slice_ref(item.get().as_bytes())).0).collect();
        let PageMetadata { resource_version, token } = page.metadata;
        let then = if token.is_empty() { Err(resource_version) } else { Ok(token) };
        self.state = State::Listing(objects, then);
        Ok(())
    }

    async fn watch(&mut self, version: String) -> Result<(), Error> {
        let seconds = self.source.watch_seconds().to_string();
        let query = [
            ("watch", "true"),
            ("allowWatchBookmarks", "true"),
            ("timeoutSeconds", seconds.as_str()),
            ("resourceVersion", version.as_str()),
        ];
        match self.ask(&query).await {
            Ok(body) => {
                let (arrived, begun) = (Bytes::new(), Instant::now());
                self.state = State::Watching { version, body, arrived, begun, silent: true };
                Ok(())
            }
            Err(error) => {
                if !matches!(error, Error::Refused(GONE, _)) {
                    self.state = State::Listed(version);
                }
                Err(error)
            }
        }
    }

    /// Hears one line of a watch.
    async fn hear(&mut self) -> Result<Option<Event<Object>>, Error> {
        let limit = Duration::from_secs(self.source.watch_seconds()) + SILENCE;
        let State::Watching { version, body, arrived, begun, silent } = &mut self.state else {
            return Ok(None);
        };
        let Some(end) = arrived.iter().position(|b| *b == b'\n') else {
            let ended = match timeout(limit, body.frame()).await {
                Ok(Some(Ok(frame))) => {
                    if let Ok(data) = frame.into_data() {
                        *arrived = joined(std::mem::take(arrived), data);
                    }
                    return Ok(None);
                }
                Ok(Some(Err(error))) => Err(error.into()),
                Ok(None) if *silent && begun.elapsed() < TOO_SHORT => Err(Error::Ended),
                Ok(None) | Err(_) => Ok(None),
            };
            self.state = State::Listed(std::mem::take(version));
            return ended;
        };
        let line = arrived.split_to(end + 1);
        if line.trim_ascii().is_empty() {
            return Ok(None);
        }
        let (kind, object) = match split(&line) {
            Ok(frame) => frame,
            Err(error) => {
                self.state = State::Listed(std::mem::take(version));
                return Err(error.into());
            }
        };
        (*silent, self.failures) = (false, 0);
        let (object, now) = Object::read(line.slice_ref(object));
        if kind == "ERROR" {
            let error = refused(0, &object.json);
            if !matches!(error, Error::Refused(GONE, _)) {
                self.state = State::Listed(std::mem::take(version));
            } else {
                self.state = State::Unlisted;
            }
            return Err(error);
        }
        if !now.is_empty() {
            *version = now;
        }
        Ok(match kind {
            "ADDED" | "MODIFIED" => Some(Event::Apply(object)),
            "DELETED" => Some(Event::Delete(object)),
            _ => None,
        })
    }

    async fn ask(&mut self, query: &[(&str, &str)]) -> Result<Body, Error> {
        let response = self.client.send(self.source.request(query)).await?;
        let code = response.status();
        if code.is_success() {
            return Ok(response.into_body());
        }
        let said = response.into_body().collect().await?.to_bytes();
        Err(refused(code.as_u16(), &said))
    }
}
