//! The backend for several servers: etcd, 3.4 or newer, whose revisions are the store's own. It keeps nothing but
//! connections: every read goes through etcd's quorum, and a watch goes on where it was when a member is lost.

mod link;
mod translate;
mod upkeep;
mod verdict;
mod watcher;
mod wire;

use crate::{Commit, Entry, Error, Page, Revision, Store, Txn, Watch};
use bytes::Bytes;
use link::{Call, Link};
use std::{sync::Arc, time::Duration};
use tokio_util::sync::CancellationToken;
use wire::{
    CompactionRequest, CompactionResponse, RangeRequest, RangeResponse, StatusRequest, StatusResponse,
    TxnResponse,
};

/// Entries that one question asks for: etcd sends an answer in one message.
const PAGE: usize = 1000;
/// How often a listing of the newest state begins again when history ran away from it.
const TRIES: usize = 3;

const RANGE: Call = Call { path: "/etcdserverpb.KV/Range", step: "reading from etcd", repeatable: true };
const TXN: Call = Call { path: "/etcdserverpb.KV/Txn", step: "writing to etcd", repeatable: false };
const COMPACT: Call = Call { path: "/etcdserverpb.KV/Compact", step: "compacting etcd", repeatable: true };
const STATUS: Call =
    Call { path: "/etcdserverpb.Maintenance/Status", step: "asking etcd how it is", repeatable: true };

/// Where etcd is, and who asks.
#[derive(Clone, Debug, Default)]
pub struct Endpoints {
    /// Addresses of members, `http://HOST:PORT` or `https://HOST:PORT`. The first one that answers is asked.
    pub addresses: Vec<String>,
    /// The certificate of the authority that signed the members' certificates, PEM; https needs it.
    pub authority: Option<Vec<u8>>,
    /// The certificate and the key that we show, PEM.
    pub identity: Option<(Vec<u8>, Vec<u8>)>,
}

/// How a store on etcd behaves.
#[derive(Clone, Debug)]
pub struct EtcdOptions {
    /// Where it is.
    pub endpoints: Endpoints,
    /// History older than this is compacted; `None` leaves that to somebody else.
    pub retention: Option<Duration>,
}

/// A store on etcd. Dropping it ends its watches.
pub struct Etcd {
    shared: Arc<Shared>,
}

/// What the store and its watches share.
struct Shared {
    link: Arc<Link>,
    closing: CancellationToken,
}

impl Etcd {
    /// Finds etcd.
    ///
    /// # Errors
    /// [`Error::Address`] where an address or a certificate is none, [`Error::Unreachable`] where no member answers.
    pub async fn open(options: EtcdOptions) -> Result<Self, Error> {
        let link = Arc::new(Link::new(&options.endpoints)?);
        let shared = Arc::new(Shared { link, closing: CancellationToken::new() });
        let store = Self { shared };
        store.revision().await?;
        let (shared, closing) = (store.shared.clone(), store.shared.closing.clone());
        tokio::spawn(async move {
            let watched = shared.link.clone().watch_over::<RangeRequest, RangeResponse>(RANGE, nothing());
            tokio::select! {
                () = closing.cancelled() => {}
                () = watched => {}
                () = upkeep::compact_every(&shared, options.retention) => {}
            }
        });
        Ok(store)
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        self.shared.closing.cancel();
    }
}

/// A question about a key that is never there: the answer tells the newest revision.
fn nothing() -> RangeRequest {
    RangeRequest { key: Bytes::from_static(b"\0"), keys_only: true, limit: 1, ..RangeRequest::default() }
}

fn header(response: &RangeResponse) -> Revision {
    translate::revision(response.header.as_ref().map_or(0, |h| h.revision))
}

impl Shared {
    async fn range(&self, request: RangeRequest) -> Result<RangeResponse, Error> {
        let requested = translate::revision(request.revision);
        match self.link.ask(RANGE, request).await {
            Err(Error::Compacted { .. }) => Err(self.compacted(requested).await),
            Err(Error::Future { .. }) => Err(Error::Future { requested, newest: self.newest().await? }),
            other => other,
        }
    }

    async fn newest(&self) -> Result<Revision, Error> {
        Ok(header(&self.link.ask(RANGE, nothing()).await?))
    }

    /// The error for a revision that has been compacted: only a watch tells what the oldest one is.
    async fn compacted(&self, requested: Revision) -> Error {
        let oldest = self.oldest().await.unwrap_or(Revision(requested.0 + 1));
        Error::Compacted { requested, oldest }
    }

    /// The oldest revision that can be read, where an older one was compacted.
    async fn oldest(&self) -> Option<Revision> {
        let all = Bytes::from_static(b"\0");
        let create = wire::WatchCreateRequest {
            key: all.clone(),
            range_end: all,
            start_revision: 1,
            prev_kv: false,
            fragment: true,
        };
        let request = wire::WatchRequest { create: Some(create) };
        let (mut messages, _moved) = self.link.watch(request).await.ok()?;
        while let Ok(Some(message)) = messages.message().await {
            if message.canceled {
                return (message.compact_revision > 0).then(|| translate::revision(message.compact_revision));
            }
            if !message.events.is_empty() {
                return None;
            }
        }
        None
    }

    async fn compact(&self, revision: Revision) -> Result<(), Error> {
        let request = CompactionRequest { revision: translate::number(revision) };
        match self.link.ask::<_, CompactionResponse>(COMPACT, request).await {
            // Somebody was faster.
            Err(Error::Compacted { .. }) => Ok(()),
            Err(Error::Future { .. }) => {
                Err(Error::Future { requested: revision, newest: self.newest().await? })
            }
            other => other.map(|_| ()),
        }
    }

    /// One look at all entries of a page, in as many questions as it takes.
    async fn list(
        &self,
        prefix: &str,
        start_after: Option<&str>,
        at: Option<Revision>,
        limit: usize,
    ) -> Result<Page, Error> {
        let wanted = if limit == 0 { usize::MAX } else { limit };
        // etcd's history begins with revision 1, which is empty; 0 would be the newest.
        let mut revision = at.map_or(0, |at| translate::number(at).max(1));
        let (mut key, range_end) = translate::range(prefix, start_after);
        let (mut entries, mut shown) = (Vec::new(), at);
        loop {
            let page = PAGE.min(wanted - entries.len());
            let (key_now, range_end) = (key.clone(), range_end.clone());
            let limit = i64::try_from(page).unwrap_or(i64::MAX);
            let request = RangeRequest { key: key_now, range_end, limit, revision, keys_only: false };
            let response = self.range(request).await?;
            let newest = header(&response);
            let shown = *shown.get_or_insert(newest);
            revision = translate::number(shown).max(1);
            if let Some(last) = response.kvs.last() {
                key = [&last.key[..], b"\0"].concat().into();
            }
            entries.extend(response.kvs.into_iter().filter_map(translate::entry));
            if !response.more || entries.len() >= wanted {
                return Ok(Page { entries, revision: shown, more: response.more });
            }
        }
    }
}

#[async_trait::async_trait]
impl Store for Etcd {
    async fn get(&self, key: &str) -> Result<(Option<Entry>, Revision), Error> {
        let request = RangeRequest { key: translate::bytes(key), ..RangeRequest::default() };
        let response = self.shared.range(request).await?;
        let revision = header(&response);
        Ok((response.kvs.into_iter().next().and_then(translate::entry), revision))
    }

    async fn list(
        &self,
        prefix: &str,
        start_after: Option<&str>,
        at: Option<Revision>,
        limit: usize,
    ) -> Result<Page, Error> {
        for _ in 1..TRIES {
            match self.shared.list(prefix, start_after, at, limit).await {
                Err(Error::Compacted { .. }) if at.is_none() => {}
                other => return other,
            }
        }
        self.shared.list(prefix, start_after, at, limit).await
    }

    async fn commit(&self, txn: Txn) -> Result<Commit, Error> {
        let request = translate::request(&txn)?;
        let response: TxnResponse = self.shared.link.ask(TXN, request).await?;
        translate::outcome(&txn, response)
            .ok_or_else(|| verdict::unreachable(TXN.step, "the answer does not fit to the question"))
    }

    async fn watch(&self, prefix: &str, after: Revision) -> Result<Watch, Error> {
        // Tells at once whether history goes back that far.
        let known = RangeRequest { revision: translate::number(after).max(1), ..nothing() };
        match self.shared.range(known).await {
            Err(Error::Compacted { oldest, .. }) => Err(Error::Compacted { requested: after, oldest }),
            other => other.map(|_| watcher::start(self.shared.clone(), prefix, after)),
        }
    }

    async fn compact(&self, revision: Revision) -> Result<(), Error> {
        if revision.0 == 0 {
            return Ok(());
        }
        self.shared.compact(revision).await
    }

    async fn revision(&self) -> Result<Revision, Error> {
        self.shared.newest().await
    }

    fn is_shared(&self) -> bool {
        true
    }

    async fn size(&self) -> Result<u64, Error> {
        let status: StatusResponse = self.shared.link.ask(STATUS, StatusRequest {}).await?;
        Ok(u64::try_from(status.db_size).unwrap_or_default())
    }
}
