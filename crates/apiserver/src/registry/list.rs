//! Lists: which objects, as of which revision, in pages (Kubernetes documentation, "API Concepts", "Retrieving large
//! results sets in chunks" and "Resource versions"). Serves from the cache wherever the cache shows that revision.

use super::{Registry, Resource, commit::store_error, continue_token::ContinueToken, selection::Selection};
use crate::{
    cache::object::Object,
    request::{ListOptions, options::Match},
};
use orlop_api::Status;
use orlop_store::{Error, Revision};
use serde_json::json;
use std::{sync::Arc, time::Duration};

/// How long a request waits for a revision that has not happened yet.
const FRESH_WAIT: Duration = Duration::from_secs(3);
/// Entries taken from the store at once when objects must be filtered.
const CHUNK: usize = 500;

/// A page of a list.
pub(crate) struct Listing {
    pub objects: Vec<Arc<Object>>,
    pub revision: Revision,
    pub next: Option<ContinueToken>,
    pub remaining: Option<u64>,
}

/// Makes a page of a whole list.
fn cut(listing: &mut Listing, limit: usize, begun: i64) {
    if limit == 0 || listing.objects.len() <= limit {
        return;
    }
    listing.objects.truncate(limit);
    listing.next = listing
        .objects
        .last()
        .map(|last| ContinueToken::new(listing.revision, last.suffix().to_string(), None, begun));
}

/// The revision that must be shown, and from where on.
struct Page {
    at: Revision,
    after: Option<String>,
    remaining: Option<u64>,
    /// When the list was begun.
    begun: i64,
}

impl Registry {
    /// Waits until everything up to `revision` is in the caches; 504 if that does not happen soon.
    pub(crate) async fn wait_fresh(&self, revision: Revision) -> Result<(), Status> {
        if self.caches.applied() >= revision {
            return Ok(());
        }
        if tokio::time::timeout(FRESH_WAIT, self.caches.wait(revision)).await.is_ok() {
            return Ok(());
        }
        let current = self.caches.applied();
        let mut status =
            Status::timeout(format!("Too large resource version: {revision}, current: {current}"));
        status.details = Some(json!({
            "causes": [{"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}],
            "retryAfterSeconds": 1,
        }));
        Err(status)
    }

    /// Waits until the caches have all that anybody has written before now: where others write to the store too, that takes a
    /// question to it. Those who ask at once share one.
    pub(crate) async fn catch_up(&self) -> Result<(), Status> {
        if !self.store.is_shared() {
            return Ok(());
        }
        let newest = self.newest.after_now(&*self.store).await.map_err(store_error)?;
        self.wait_fresh(newest).await
    }

    /// Lists objects, as the version shows them.
    pub(crate) async fn list(
        &self,
        resource: &Resource,
        selection: &Selection,
        options: &ListOptions,
    ) -> Result<Listing, Status> {
        let limit = if selection.looks_at_shown() { 0 } else { options.limit };
        let mut listing = self.list_stored(resource, selection, options, limit).await?;
        listing.objects = resource.show(listing.objects).await?;
        if selection.looks_at_shown() {
            listing.objects.retain(|object| selection.selects_shown(resource, object));
            let begun = options.continue_token.as_deref().and_then(|t| ContinueToken::decode(t).ok());
            let begun = begun.filter(|t| t.revision().is_some()).map(|t| t.begun);
            cut(&mut listing, options.limit, begun.unwrap_or_else(|| self.now().as_second()));
        }
        Ok(listing)
    }

    async fn list_stored(
        &self,
        resource: &Resource,
        selection: &Selection,
        options: &ListOptions,
        limit: usize,
    ) -> Result<Listing, Status> {
        if let Some(text) = &options.continue_token {
            let token = ContinueToken::decode(text)?;
            let begun = token.begun;
            if token.is_expired(self.now().as_second()) {
                return Err(token.too_old());
            }
            let Some(at) = token.revision() else {
                return Ok(self.list_newest(resource, selection, limit, Some(&token.after)));
            };
            let after = Some(token.after.clone());
            let page = Page { at, after, remaining: token.remaining, begun };
            let listed = self.list_at(resource, selection, limit, page).await;
            return listed.map_err(|status| if status.code == 410 { token.too_old() } else { status });
        }
        let begun = self.now().as_second();
        match (options.resource_version, options.resource_version_match) {
            (Some(n), Some(Match::Exact)) => {
                self.wait_fresh(Revision(n)).await?;
                let page = Page { at: Revision(n), after: None, remaining: None, begun };
                self.list_at(resource, selection, limit, page).await
            }
            // With a limit and no `resourceVersionMatch`, an old version is meant exactly, for the sake of old clients.
            (Some(n), None) if n > 0 && options.limit > 0 => {
                self.wait_fresh(Revision(n)).await?;
                let page = Page { at: Revision(n), after: None, remaining: None, begun };
                self.list_at(resource, selection, limit, page).await
            }
            (version, _) => {
                match version {
                    Some(version) => self.wait_fresh(Revision(version)).await?,
                    None => self.catch_up().await?,
                }
                Ok(self.list_newest(resource, selection, limit, None))
            }
        }
    }

    /// Every acknowledged write is in the cache, so the cache shows the newest state. `after` is the last key of the page
    /// before, without the resource's prefix.
    fn list_newest(
        &self,
        resource: &Resource,
        selection: &Selection,
        limit: usize,
        after: Option<&str>,
    ) -> Listing {
        let after = after.map(|a| format!("{}{a}", resource.cache.key_prefix));
        // Read before the snapshot: the snapshot shows at least this.
        let applied = self.caches.applied();
        let take = if limit == 0 { 0 } else { limit + 1 };
        let mut shown =
            resource.cache.snapshot(&selection.prefix, after.as_deref(), take, |o| selection.selects(o));
        let revision = applied.max(shown.changed);
        let more = limit > 0 && shown.objects.len() > limit;
        if more {
            shown.objects.truncate(limit);
        }
        let (next, remaining) = match shown.objects.last().filter(|_| more) {
            Some(last) => {
                let remaining = selection
                    .is_everything()
                    .then(|| resource.cache.count_after(&selection.prefix, &last.key) as u64);
                let after = last.suffix().to_string();
                let begun = self.now().as_second();
                (Some(ContinueToken::new(revision, after, remaining, begun)), remaining)
            }
            None => (None, None),
        };
        Listing { objects: shown.objects, revision, next, remaining }
    }

    async fn list_at(
        &self,
        resource: &Resource,
        selection: &Selection,
        limit: usize,
        page: Page,
    ) -> Result<Listing, Status> {
        let wanted = if limit == 0 { usize::MAX } else { limit };
        let after = page.after.as_ref().map(|a| format!("{}{a}", resource.cache.key_prefix));
        let (mut objects, more) = if resource.cache.changed() <= page.at {
            self.page_from_cache(resource, selection, wanted, after.as_deref())
        } else {
            self.page_from_store(resource, selection, wanted, page.at, after).await?
        };
        let remaining = page.remaining.map(|r| r.saturating_sub(objects.len() as u64)).filter(|_| more);
        objects.truncate(wanted);
        let next = objects
            .last()
            .filter(|_| more)
            .map(|last| ContinueToken::new(page.at, last.suffix().to_string(), remaining, page.begun));
        Ok(Listing { objects, revision: page.at, next, remaining })
    }

    fn page_from_cache(
        &self,
        resource: &Resource,
        selection: &Selection,
        wanted: usize,
        after: Option<&str>,
    ) -> (Vec<Arc<Object>>, bool) {
        let take = wanted.saturating_add(1);
        let mut objects =
            resource.cache.snapshot(&selection.prefix, after, take, |o| selection.selects(o)).objects;
        let more = objects.len() > wanted;
        objects.truncate(wanted);
        (objects, more)
    }

    async fn page_from_store(
        &self,
        resource: &Resource,
        selection: &Selection,
        wanted: usize,
        at: Revision,
        mut after: Option<String>,
    ) -> Result<(Vec<Arc<Object>>, bool), Status> {
        let mut objects = Vec::new();
        loop {
            let page =
                self.store.list(&selection.prefix, after.as_deref(), Some(at), CHUNK).await.map_err(|e| {
                    match e {
                        Error::Compacted { oldest, .. } if after.is_none() => Status::expired(format!(
                            "The resourceVersion for the provided list is too old. ({at} < {oldest})"
                        )),
                        other => store_error(other),
                    }
                })?;
            after = page.entries.last().map(|e| e.key.to_string());
            for entry in &page.entries {
                let Some(object) = resource.cache.read(entry) else { continue };
                if selection.selects(&object) {
                    if objects.len() == wanted {
                        return Ok((objects, true));
                    }
                    objects.push(Arc::new(object));
                }
            }
            if !page.more {
                return Ok((objects, false));
            }
        }
    }
}
