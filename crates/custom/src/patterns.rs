//! The regular expressions of a schema. Each is compiled when a value is first compared with it, and kept; all together take
//! no more memory than they may, however many a schema has: the others are compiled anew whenever they are needed.

use crate::{schema::Schema, value::parts};
use regex::Regex;
use std::{
    collections::HashMap,
    sync::{
        OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
};

/// The largest compiled expression, in bytes.
const LARGEST: usize = 1 << 22;
/// What the kept expressions of one schema may take.
const KEPT: usize = 32 << 20;

/// The patterns of a schema.
#[derive(Debug)]
pub struct Patterns {
    known: HashMap<String, OnceLock<Kept>>,
    left: AtomicUsize,
}

#[derive(Debug)]
enum Kept {
    Regex(Regex),
    /// There was no room for it.
    Not,
    /// It is no regular expression: it is no rule.
    Broken,
}

impl Default for Patterns {
    fn default() -> Self {
        Self { known: HashMap::new(), left: AtomicUsize::new(KEPT) }
    }
}

impl Patterns {
    /// All patterns of a schema.
    pub fn of(schema: &Schema) -> Self {
        let mut patterns = Self::default();
        patterns.collect(schema);
        patterns
    }

    fn collect(&mut self, schema: &Schema) {
        if !schema.pattern.is_empty() && !self.known.contains_key(&schema.pattern) {
            self.known.insert(schema.pattern.clone(), OnceLock::new());
        }
        for part in parts(schema) {
            self.collect(part);
        }
    }

    pub(crate) fn matches(&self, pattern: &str, text: &str) -> bool {
        match self.known.get(pattern).map(|kept| kept.get_or_init(|| self.keep(pattern))) {
            Some(Kept::Regex(regex)) => regex.is_match(text),
            Some(Kept::Broken) => true,
            Some(Kept::Not) | None => compile(pattern).map_or(true, |r| r.is_match(text)),
        }
    }

    fn keep(&self, pattern: &str) -> Kept {
        for size in [LARGEST >> 6, LARGEST >> 3, LARGEST] {
            match limited(pattern, size) {
                Ok(regex) => {
                    let spend = |left: usize| left.checked_sub(size);
                    let paid = self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, spend);
                    return if paid.is_ok() { Kept::Regex(regex) } else { Kept::Not };
                }
                Err(regex::Error::CompiledTooBig(_)) => {}
                Err(_) => return Kept::Broken,
            }
        }
        Kept::Broken
    }
}

fn limited(pattern: &str, size: usize) -> Result<Regex, regex::Error> {
    regex::RegexBuilder::new(pattern).size_limit(size).dfa_size_limit(1 << 18).build()
}

/// Compiles a pattern; the error is in the words of Go's parser as far as they can be known.
pub fn compile(pattern: &str) -> Result<Regex, String> {
    limited(pattern, LARGEST).map_err(|e| {
        let why = e.to_string();
        format!(
            "error parsing regexp: {}",
            why.lines().last().unwrap_or_default().trim_start_matches("error: ")
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn patterns_that_find_no_room_to_be_kept_still_match() {
        let fields: serde_json::Map<String, serde_json::Value> = (0..30)
            .map(|n| (format!("f{n}"), json!({"type": "string", "pattern": format!("^\\pL{{1,40}}{n}$")})))
            .collect();
        let patterns = Patterns::of(&Schema::parse(&json!({"type": "object", "properties": fields})));
        for n in 0..30 {
            let pattern = format!("^\\pL{{1,40}}{n}$");
            assert!(patterns.known.contains_key(&pattern), "{pattern}");
            assert!(patterns.matches(&pattern, &format!("aé{n}")));
            assert!(!patterns.matches(&pattern, "1"));
        }
        let kept = patterns.known.values().filter(|k| matches!(k.get(), Some(Kept::Regex(_)))).count();
        assert!((1..30).contains(&kept), "{kept}");
    }
}
