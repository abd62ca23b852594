//! What of a log is wanted (core/v1 `PodLogOptions`). Pure.

use super::{
    super::{request::Query, response::Refusal},
    entry::Stream,
};
use http::StatusCode;
use jiff::{SignedDuration, Timestamp};

/// Parsed parameters of a log request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogOptions {
    pub follow: bool,
    pub previous: bool,
    /// So many lines from the end.
    pub tail: Option<u64>,
    /// Nothing older.
    pub since: Option<Timestamp>,
    pub timestamps: bool,
    /// At most so many bytes.
    pub limit: Option<u64>,
    /// Only this stream.
    pub stream: Option<Stream>,
}

impl LogOptions {
    /// Reads and checks the parameters, with the kubelet's codes for what it cannot read (400) and what makes no sense (422).
    pub fn parse(query: &Query, now: Timestamp) -> Result<Self, Refusal> {
        let tail = number(query, "tailLines")?;
        let limit = number(query, "limitBytes")?;
        let seconds = number(query, "sinceSeconds")?;
        let time = match query.get("sinceTime") {
            Some(text) => Some(text.parse::<Timestamp>().map_err(|_| undecodable("sinceTime", text))?),
            None => None,
        };
        require(tail.is_none_or(|n| n >= 0), "tailLines: must be greater than or equal to 0")?;
        require(limit.is_none_or(|n| n > 0), "limitBytes: must be greater than 0")?;
        require(seconds.is_none_or(|n| n > 0), "sinceSeconds: must be greater than 0")?;
        require(
            seconds.is_none() || time.is_none(),
            "at most one of `sinceTime` or `sinceSeconds` may be specified",
        )?;
        let stream = match query.get("stream") {
            None | Some("All") => None,
            Some("Stdout") => Some(Stream::Stdout),
            Some("Stderr") => Some(Stream::Stderr),
            Some(_) => return Err(invalid("stream: supported values: \"All\", \"Stderr\", \"Stdout\"")),
        };
        let ago = |n: i64| now.checked_sub(SignedDuration::from_secs(n)).unwrap_or(Timestamp::MIN);
        Ok(Self {
            follow: query.flag("follow"),
            previous: query.flag("previous"),
            tail: tail.map(i64::unsigned_abs),
            since: time.or(seconds.map(ago)),
            timestamps: query.flag("timestamps"),
            limit: limit.map(i64::unsigned_abs),
            stream,
        })
    }
}

fn number(query: &Query, name: &str) -> Result<Option<i64>, Refusal> {
    query.get(name).map(|text| text.parse().map_err(|_| undecodable(name, text))).transpose()
}

fn require(holds: bool, message: &str) -> Result<(), Refusal> {
    if holds { Ok(()) } else { Err(invalid(message)) }
}

fn undecodable(name: &str, text: &str) -> Refusal {
    Refusal::bad_request(format!("Unable to decode query: {name}: {text:?}"))
}

fn invalid(why: &str) -> Refusal {
    Refusal::new(StatusCode::UNPROCESSABLE_ENTITY, format!("Invalid request: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(query: &str) -> Result<LogOptions, u16> {
        let now = "2026-07-01T00:01:00Z".parse().expect("a time");
        LogOptions::parse(&Query::parse(query), now).map_err(|r| r.status.as_u16())
    }

    #[test]
    fn parameters_become_options() {
        let want = LogOptions {
            follow: true,
            tail: Some(0),
            since: Some("2026-07-01T00:00:00Z".parse().expect("a time")),
            limit: Some(5),
            stream: Some(Stream::Stderr),
            ..LogOptions::default()
        };
        let query = "follow=true&tailLines=0&sinceSeconds=60&limitBytes=5&stream=Stderr&timestamps=false";
        assert_eq!(parse(query), Ok(want));
        assert_eq!(parse("stream=All&previous=1").map(|o| (o.stream, o.previous)), Ok((None, true)));
        assert!(parse(&format!("sinceSeconds={}", i64::MAX)).is_ok(), "older than time itself");
    }

    #[test]
    fn what_cannot_be_read_is_400_and_what_makes_no_sense_422() {
        for query in ["tailLines=x", "sinceTime=yesterday", "limitBytes=1.5"] {
            assert_eq!(parse(query), Err(400), "{query}");
        }
        for query in [
            "tailLines=-1",
            "limitBytes=0",
            "sinceSeconds=0",
            "stream=stdout",
            "sinceSeconds=1&sinceTime=2026-07-01T00:00:00Z",
        ] {
            assert_eq!(parse(query), Err(422), "{query}");
        }
    }
}
