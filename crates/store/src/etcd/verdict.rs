//! What an error of etcd means for whoever asked: final, or worth another member; and whether a write may have happened.
//! Pure, by the codes and texts of etcd's `rpctypes`.

use crate::{Error, Revision};
use std::sync::Arc;
use tonic::{Code, ConnectError, Status};

/// What to do about a failed request.
#[derive(Debug)]
pub(super) enum Verdict {
    /// The answer will be the same everywhere.
    Final(Error),
    /// Nothing happened: the request did not get through, or was refused before anything else.
    NotDone,
    /// It may or may not have happened.
    Unknown,
}

/// etcd's words for what callers tell apart.
const COMPACTED: &str = "required revision has been compacted";
const FUTURE: &str = "required revision is a future revision";
const FULL: &str = "database space exceeded";
const TOO_LARGE: [&str; 3] = ["request is too large", "message larger than max", "message length too large"];
/// Said before a request is proposed to the other members.
const REFUSED: [&str; 3] = ["no leader", "too many requests", "not capable"];
/// Said of a request that is wrong in itself.
const WRONG: [&str; 3] = ["too many operations in txn request", "duplicate key given", "key is not provided"];

/// Judges a failed request. `step` says what was being done.
pub(super) fn judge(step: &'static str, status: Status) -> Verdict {
    let text = status.message();
    let says = |words: &[&str]| words.iter().any(|w| text.contains(w));
    // The caller knows the revisions, and puts them in.
    let (requested, zero) = (Revision(0), Revision(0));
    if says(&[COMPACTED]) {
        return Verdict::Final(Error::Compacted { requested, oldest: zero });
    }
    if says(&[FUTURE]) {
        return Verdict::Final(Error::Future { requested, newest: zero });
    }
    if says(&[FULL]) {
        return Verdict::Final(Error::Quota);
    }
    if says(&TOO_LARGE) {
        return Verdict::Final(Error::TooLarge);
    }
    if says(&WRONG) {
        return Verdict::Final(Error::BadTxn(text.to_string()));
    }
    if says(&REFUSED) || was_not_sent(&status) {
        return Verdict::NotDone;
    }
    match status.code() {
        Code::Unauthenticated
        | Code::PermissionDenied
        | Code::Unimplemented
        | Code::InvalidArgument
        | Code::FailedPrecondition => {
            Verdict::Final(Error::Backend { step, cause: Arc::new(Said(text.to_string())) })
        }
        // Connections that break, members that stop, leaders that change.
        _ => Verdict::Unknown,
    }
}

/// Whether there was no connection to send the request over.
fn was_not_sent(status: &Status) -> bool {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = std::error::Error::source(status);
    while let Some(error) = cause {
        if error.is::<ConnectError>() {
            return true;
        }
        cause = error.source();
    }
    false
}

/// No member answered.
pub(super) fn unreachable(step: &'static str, why: impl Into<String>) -> Error {
    Error::Unreachable { step, cause: Arc::new(Said(why.into())) }
}

/// The words of a failure with the causes beneath it.
pub(super) fn told(status: &Status) -> String {
    let mut text = status.message().to_string();
    let mut cause: Option<&(dyn std::error::Error + 'static)> = std::error::Error::source(status);
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    text
}

/// What etcd, or the way to it, said.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Said(String);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_etcd_says_is_told_apart() {
        let verdict = |code, text: &str| judge("testing", Status::new(code, text));
        let is_final = |code, text: &str| match verdict(code, text) {
            Verdict::Final(error) => error,
            other => panic!("{text}: {other:?}"),
        };
        let full = is_final(Code::ResourceExhausted, "etcdserver: mvcc: database space exceeded");
        assert!(matches!(full, Error::Quota));
        let large = is_final(Code::InvalidArgument, "etcdserver: request is too large");
        assert!(matches!(large, Error::TooLarge));
        let larger = is_final(Code::ResourceExhausted, "grpc: received message larger than max (5 vs. 4)");
        assert!(matches!(larger, Error::TooLarge));
        let gone = is_final(Code::OutOfRange, "etcdserver: mvcc: required revision has been compacted");
        assert!(matches!(gone, Error::Compacted { .. }));
        let ahead = is_final(Code::OutOfRange, "etcdserver: mvcc: required revision is a future revision");
        assert!(matches!(ahead, Error::Future { .. }));
        let denied = is_final(Code::PermissionDenied, "etcdserver: permission denied");
        assert!(matches!(denied, Error::Backend { .. }));
        assert!(matches!(verdict(Code::Unavailable, "etcdserver: no leader"), Verdict::NotDone));
        for ambiguous in ["etcdserver: leader changed", "etcdserver: request timed out", "broken pipe"] {
            assert!(matches!(verdict(Code::Unavailable, ambiguous), Verdict::Unknown), "{ambiguous}");
        }
    }
}
