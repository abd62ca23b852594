//! Kubernetes' URL library: absolute URIs and absolute paths, as Go's `url.ParseRequestURI` reads them.

use super::Outcome;
use crate::value::Value;
use std::{collections::BTreeMap, sync::Arc};

/// A URL in parts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Url {
    text: String,
    scheme: String,
    host: String,
    path: String,
    query: String,
}

fn plain(text: &str) -> bool {
    text.chars().all(|c| !c.is_control() && c != ' ')
}

impl Url {
    /// Reads an absolute URI or an absolute path.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let wrong =
            |why: &str| format!("URL parse error during conversion from string: parse {text:?}: {why}");
        if text.is_empty() {
            return Err(wrong("empty url"));
        }
        if !plain(text) {
            return Err(wrong("net/url: invalid control character in URL"));
        }
        let (before, query) = text.split_once('?').unwrap_or((text, ""));
        let mut url = Self {
            text: text.into(),
            scheme: String::new(),
            host: String::new(),
            path: String::new(),
            query: query.into(),
        };
        let mut rest = before;
        if !rest.starts_with('/') {
            let Some((scheme, tail)) = rest.split_once(':') else {
                return Err(wrong("invalid URI for request"));
            };
            let letters = scheme.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.'));
            if !letters || !scheme.starts_with(|c: char| c.is_ascii_alphabetic()) {
                return Err(wrong("first path segment in URL cannot contain colon"));
            }
            url.scheme = scheme.to_ascii_lowercase();
            rest = tail;
            if !rest.starts_with('/') {
                return Err(wrong("invalid URI for request"));
            }
            if let Some(tail) = rest.strip_prefix("//") {
                let (authority, path) = match tail.find('/') {
                    Some(at) => tail.split_at(at),
                    None => (tail, ""),
                };
                let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
                let port = match host.rfind(']') {
                    Some(end) if host.starts_with('[') => &host[end + 1..],
                    _ => host.find(':').map_or("", |at| &host[at..]),
                };
                let digits = port.strip_prefix(':').unwrap_or_default();
                if !port.is_empty() && (!port.starts_with(':') || !digits.bytes().all(|b| b.is_ascii_digit()))
                {
                    return Err(wrong(&format!("invalid port {port:?} after host")));
                }
                url.host = host.to_string();
                rest = path;
            }
        }
        let mut bytes = rest.bytes();
        while let Some(byte) = bytes.next() {
            if byte == b'%' {
                let ok = |b: Option<u8>| b.is_some_and(|b| b.is_ascii_hexdigit());
                if !ok(bytes.next()) || !ok(bytes.next()) {
                    return Err(wrong("invalid URL escape"));
                }
            }
        }
        url.path = rest.to_string();
        Ok(url)
    }

    fn hostname(&self) -> &str {
        match self.host.strip_prefix('[').and_then(|h| h.split_once(']')) {
            Some((inside, _)) => inside,
            None => self.host.split(':').next().unwrap_or_default(),
        }
    }

    fn port(&self) -> &str {
        let after = self.host.rfind(']').map_or(&*self.host, |at| &self.host[at + 1..]);
        after.split_once(':').map_or("", |(_, port)| port)
    }

    fn query(&self) -> Value {
        let mut out: BTreeMap<String, Vec<Value>> = BTreeMap::new();
        for pair in self.query.split('&').filter(|p| !p.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            out.entry(unescape(key)).or_default().push(Value::string(unescape(value)));
        }
        Value::object(out.into_iter().map(|(k, v)| (k, Value::list(v))))
    }
}

/// Whether a text is an absolute URI or path.
pub fn is_uri(text: &str) -> bool {
    Url::parse(text).is_ok()
}

fn unescape(text: &str) -> String {
    let (mut out, mut bytes) = (Vec::new(), text.bytes());
    while let Some(byte) = bytes.next() {
        match byte {
            b'+' => out.push(b' '),
            b'%' => {
                let mut ahead = bytes.clone();
                let digit = |b: Option<u8>| b.and_then(|b| char::from(b).to_digit(16));
                match (digit(ahead.next()), digit(ahead.next())) {
                    (Some(a), Some(b)) => {
                        out.push((a * 16 + b) as u8);
                        bytes = ahead;
                    }
                    _ => out.push(b'%'),
                }
            }
            byte => out.push(byte),
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// A path with what must be escaped escaped.
fn escaped(path: &str) -> String {
    let mut out = String::new();
    for byte in path.bytes() {
        let plain = byte.is_ascii_alphanumeric() || b"-_.~/$&+,:;=@!'()*%[]".contains(&byte);
        if plain { out.push(byte.into()) } else { out.push_str(&format!("%{byte:02X}")) }
    }
    out
}

pub(super) fn call(function: &str, args: &[Value]) -> Option<Outcome> {
    Some(match (function, args) {
        ("url", [Value::String(text)]) => Url::parse(text).map(|u| Value::Url(Arc::new(u))),
        ("isURL", [Value::String(text)]) => Ok(Value::Bool(Url::parse(text).is_ok())),
        ("getScheme", [Value::Url(u)]) => Ok(Value::string(u.scheme.as_str())),
        ("getHost", [Value::Url(u)]) => Ok(Value::string(u.host.as_str())),
        ("getHostname", [Value::Url(u)]) => Ok(Value::string(u.hostname())),
        ("getPort", [Value::Url(u)]) => Ok(Value::string(u.port())),
        ("getEscapedPath", [Value::Url(u)]) => Ok(Value::string(escaped(&u.path))),
        ("getQuery", [Value::Url(u)]) => Ok(u.query()),
        _ => return None,
    })
}
