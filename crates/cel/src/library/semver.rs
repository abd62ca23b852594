//! Kubernetes' semver library: versions as semver.org 2.0.0 orders them.

use super::Outcome;
use crate::value::Value;
use std::{cmp::Ordering, sync::Arc};

/// A version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Semver {
    numbers: [u64; 3],
    pre: Vec<String>,
}

fn number(text: &str) -> Option<u64> {
    let plain = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    if plain && (text == "0" || !text.starts_with('0')) { text.parse().ok() } else { None }
}

fn word(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
}

impl Semver {
    fn parse(text: &str) -> Option<Self> {
        let (rest, build) = text.split_once('+').map_or((text, None), |(a, b)| (a, Some(b)));
        let (core, pre) = rest.split_once('-').map_or((rest, None), |(a, b)| (a, Some(b)));
        let mut parts = core.split('.');
        let mut next = || number(parts.next()?);
        let numbers = [next()?, next()?, next()?];
        if parts.next().is_some() || build.is_some_and(|b| !b.split('.').all(word)) {
            return None;
        }
        let pre: Vec<String> = pre.map(|p| p.split('.').map(str::to_string).collect()).unwrap_or_default();
        let digits = |p: &str| p.bytes().all(|b| b.is_ascii_digit());
        if !pre.iter().all(|p| word(p) && (!digits(p) || number(p).is_some())) {
            return None;
        }
        Some(Self { numbers, pre })
    }

    /// Reads also `v1`, `1.2` and `01.2.3`.
    fn parse_loosely(text: &str) -> Option<Self> {
        let text = text.strip_prefix('v').unwrap_or(text);
        let end = text.find(['-', '+']).unwrap_or(text.len());
        let (core, tail) = text.split_at(end);
        let mut parts: Vec<String> = core
            .split('.')
            .map(|p| {
                let bare = p.trim_start_matches('0');
                if bare.is_empty() && !p.is_empty() { "0".to_string() } else { bare.to_string() }
            })
            .collect();
        while parts.len() < 3 {
            if !tail.is_empty() {
                return None;
            }
            parts.push("0".into());
        }
        Self::parse(&format!("{}{tail}", parts.join(".")))
    }

    fn compare(&self, other: &Self) -> Ordering {
        self.numbers.cmp(&other.numbers).then_with(|| match (self.pre.is_empty(), other.pre.is_empty()) {
            (true, true) => Ordering::Equal,
            (true, false) => Ordering::Greater,
            (false, true) => Ordering::Less,
            (false, false) => {
                for (a, b) in self.pre.iter().zip(&other.pre) {
                    let order = match (number(a), number(b)) {
                        (Some(a), Some(b)) => a.cmp(&b),
                        (Some(_), None) => Ordering::Less,
                        (None, Some(_)) => Ordering::Greater,
                        (None, None) => a.cmp(b),
                    };
                    if order.is_ne() {
                        return order;
                    }
                }
                self.pre.len().cmp(&other.pre.len())
            }
        })
    }
}

pub(super) fn call(function: &str, args: &[Value]) -> Option<Outcome> {
    let read =
        |text: &str, loosely: bool| if loosely { Semver::parse_loosely(text) } else { Semver::parse(text) };
    let made = |version: Option<Semver>, text: &str| {
        version
            .map(|v| Value::Semver(Arc::new(v)))
            .ok_or_else(|| format!("semver parse error during conversion from string: {text:?}"))
    };
    Some(match (function, args) {
        ("semver", [Value::String(text)]) => made(read(text, false), text),
        ("semver", [Value::String(text), Value::Bool(loosely)]) => made(read(text, *loosely), text),
        ("isSemver", [Value::String(text)]) => Ok(Value::Bool(read(text, false).is_some())),
        ("isSemver", [Value::String(text), Value::Bool(loosely)]) => {
            Ok(Value::Bool(read(text, *loosely).is_some()))
        }
        ("major", [Value::Semver(v)]) => Ok(Value::Int(v.numbers[0] as i64)),
        ("minor", [Value::Semver(v)]) => Ok(Value::Int(v.numbers[1] as i64)),
        ("patch", [Value::Semver(v)]) => Ok(Value::Int(v.numbers[2] as i64)),
        ("isLessThan", [Value::Semver(a), Value::Semver(b)]) => Ok(Value::Bool(a.compare(b).is_lt())),
        ("isGreaterThan", [Value::Semver(a), Value::Semver(b)]) => Ok(Value::Bool(a.compare(b).is_gt())),
        ("compareTo", [Value::Semver(a), Value::Semver(b)]) => Ok(Value::Int(a.compare(b) as i64)),
        _ => return None,
    })
}
