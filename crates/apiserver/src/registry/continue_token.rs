//! The `continue` token of a list: where the next page starts, of which revision, and how many objects were left. A token is
//! good for some minutes, as in Kubernetes; who is late gets another one, with which the rest can be had as it is then.

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use orlop_api::Status;
use orlop_store::Revision;
use serde::{Deserialize, Serialize};

/// How long after its first page a list can be continued, in seconds: as long as Kubernetes keeps history at least.
const LIFETIME: i64 = 300;
/// Instead of a revision: whatever there is when the token is used.
const NEWEST: i64 = -1;
const TOO_OLD: &str = "The provided continue parameter is too old to display a consistent list result. You can start a new list without the continue parameter, or use the continue token in this response to retrieve the remainder of the results. Continuing with the provided token results in an inconsistent list - objects that were created, modified, or deleted between the time the first chunk was returned and now may show up in the list.";

/// A place in a list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ContinueToken {
    /// The revision that all pages show.
    #[serde(rename = "rv")]
    revision: i64,
    /// The last key of the page before, without the resource's prefix.
    #[serde(rename = "start")]
    pub after: String,
    /// How many objects were behind that key, if that was known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remaining: Option<u64>,
    /// When the list was begun, in seconds since the epoch.
    #[serde(default)]
    pub begun: i64,
}

impl ContinueToken {
    /// A place in a list that shows `revision`.
    pub(crate) fn new(revision: Revision, after: String, remaining: Option<u64>, begun: i64) -> Self {
        Self { revision: i64::try_from(revision.0).unwrap_or(NEWEST), after, remaining, begun }
    }

    /// The revision that all pages show; `None` where it is whatever there is.
    pub(crate) fn revision(&self) -> Option<Revision> {
        u64::try_from(self.revision).ok().map(Revision)
    }

    /// Whether the list was begun too long ago to be continued `now`.
    pub(crate) fn is_expired(&self, now: i64) -> bool {
        self.revision().is_some() && now.saturating_sub(self.begun) > LIFETIME
    }

    /// What is answered to who is too late: 410, with a token for the rest as it is when that is used.
    pub(crate) fn too_old(&self) -> Status {
        let rest = Self { revision: NEWEST, after: self.after.clone(), remaining: None, begun: 0 };
        let mut status = Status::expired(TOO_OLD);
        status.continue_token = Some(rest.encode());
        status
    }

    /// The token as the client gets it.
    pub(crate) fn encode(&self) -> String {
        // A struct of numbers and strings is always JSON.
        BASE64_URL_SAFE_NO_PAD.encode(serde_json::to_vec(self).unwrap_or_default())
    }

    /// The token as the client sends it back.
    pub(crate) fn decode(text: &str) -> Result<Self, Status> {
        let bad = || Status::bad_request("continue key is not valid: it was not made by this server");
        let bytes = BASE64_URL_SAFE_NO_PAD.decode(text.trim_end_matches('=')).map_err(|_| bad())?;
        serde_json::from_slice(&bytes).map_err(|_| bad())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_old_token_is_exchanged_for_one_that_never_gets_old() {
        let token = ContinueToken::new(Revision(7), "a".into(), Some(3), 1000);
        assert!(!token.is_expired(1000 + LIFETIME) && token.is_expired(1001 + LIFETIME));
        let status = token.too_old();
        assert_eq!((status.code, status.reason), (410, "Expired"));
        let rest = ContinueToken::decode(&status.continue_token.unwrap()).unwrap();
        assert_eq!((rest.revision(), rest.after.as_str(), rest.is_expired(i64::MAX)), (None, "a", false));
    }

    #[test]
    fn a_token_survives_the_round_trip_and_nonsense_is_refused() {
        let token = ContinueToken::new(Revision(7), "default/ä".into(), Some(3), 1000);
        assert_eq!(ContinueToken::decode(&token.encode()).unwrap(), token);
        for nonsense in ["", "!!!", "bm8", "e30"] {
            assert_eq!(ContinueToken::decode(nonsense).unwrap_err().code, 400, "{nonsense}");
        }
    }
}
