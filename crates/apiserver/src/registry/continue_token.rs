//! The `continue` token of a list: where the next page starts, of which revision, and how many objects were left.

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use orlop_api::Status;
use serde::{Deserialize, Serialize};

/// A place in a list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ContinueToken {
    /// The revision that all pages show.
    #[serde(rename = "rv")]
    pub revision: u64,
    /// The last key of the page before, without the resource's prefix.
    #[serde(rename = "start")]
    pub after: String,
    /// How many objects were behind that key, if that was known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remaining: Option<u64>,
}

impl ContinueToken {
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
    fn a_token_survives_the_round_trip_and_nonsense_is_refused() {
        let token = ContinueToken { revision: 7, after: "default/ä".into(), remaining: Some(3) };
        assert_eq!(ContinueToken::decode(&token.encode()).unwrap(), token);
        for nonsense in ["", "!!!", "bm8", "e30"] {
            assert_eq!(ContinueToken::decode(nonsense).unwrap_err().code, 400, "{nonsense}");
        }
    }
}
