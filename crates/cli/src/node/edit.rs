//! Changes to a Node that depend on what it is: read, decide, write on the condition that nobody was faster, else again.

use super::{get, patch, path};
use crate::{Error, api::Api};
use serde_json::Value;

/// Tries before giving up: a node's status is written often.
const TRIES: usize = 10;

/// Writes what `decide` makes of the node: a merge patch, or `None` if it is right already. Says whether something was written.
pub(super) async fn edit(
    api: &Api,
    node: &str,
    decide: impl Fn(&Value) -> Result<Option<Value>, Error>,
) -> Result<bool, Error> {
    let mut tries = 0;
    loop {
        let now = get(api, node).await?;
        let Some(mut change) = decide(&now)? else { return Ok(false) };
        change["metadata"]["resourceVersion"] = now["metadata"]["resourceVersion"].clone();
        tries += 1;
        match patch(api, &path(node), "application/merge-patch+json", &change).await {
            Err(Error::Server { code: 409, .. }) if tries < TRIES => {}
            outcome => return outcome.map(|_| true),
        }
    }
}
