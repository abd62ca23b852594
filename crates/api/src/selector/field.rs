//! Field selectors of query strings (`status.phase=Running,spec.nodeName!=n1`), by the grammar of
//! k8s.io/apimachinery `fields.ParseSelector`. What a field is worth is the kind's to say.

use super::SelectorError;
use crate::Kind;
use std::fmt;

/// One comparison.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldTerm {
    /// The dotted path.
    pub path: String,
    /// The value it is compared with.
    pub value: String,
    /// Whether it must differ.
    pub negated: bool,
}

/// A field selector. The default one matches everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldSelector {
    terms: Vec<FieldTerm>,
}

impl FieldSelector {
    /// Reads the form of query strings. In values, `\,`, `\=` and `\\` stand for themselves.
    ///
    /// # Errors
    /// Where the text is no selector.
    pub fn parse(text: &str) -> Result<Self, SelectorError> {
        let mut terms = Vec::new();
        for part in split_unescaped(text).into_iter().filter(|part| !part.is_empty()) {
            let cannot = || SelectorError(format!("invalid selector: '{text}'; can't understand '{part}'"));
            terms.push(term(part).ok_or_else(cannot)?);
        }
        Ok(Self { terms })
    }

    /// One exact comparison.
    pub fn equals(path: &str, value: &str) -> Self {
        Self { terms: vec![FieldTerm { path: path.into(), value: value.into(), negated: false }] }
    }

    /// All comparisons; each must hold.
    pub fn terms(&self) -> &[FieldTerm] {
        &self.terms
    }

    /// Whether every object matches.
    pub fn is_everything(&self) -> bool {
        self.terms.is_empty()
    }

    /// Whether an object whose fields `get` looks up matches.
    pub fn matches_with(&self, get: impl Fn(&str) -> String) -> bool {
        self.terms.iter().all(|term| (get(&term.path) == term.value) != term.negated)
    }

    /// The value that a field must have to match, where the selector says so.
    pub fn exact_value(&self, path: &str) -> Option<&str> {
        self.terms.iter().find(|t| t.path == path && !t.negated).map(|t| t.value.as_str())
    }

    /// Checks that the kind knows all the fields.
    ///
    /// # Errors
    /// For the first that it does not know.
    pub fn check(&self, kind: &Kind) -> Result<(), SelectorError> {
        let known = |path: &str| {
            path == "metadata.name"
                || (path == "metadata.namespace" && kind.namespaced())
                || kind.selectable_fields.iter().any(|f| f == path)
        };
        match self.terms.iter().find(|t| !known(&t.path)) {
            None => Ok(()),
            Some(term) if kind.selectable_fields.is_empty() => Err(SelectorError(format!(
                "{:?} is not a known field selector: only \"metadata.name\", \"metadata.namespace\"",
                term.path
            ))),
            Some(term) if (&*kind.group, &*kind.kind) == ("batch", "Job") => {
                Err(SelectorError(format!("field label {:?} not supported for batchv1.Job", term.path)))
            }
            Some(term) => Err(SelectorError(format!("field label not supported: {}", term.path))),
        }
    }
}

impl fmt::Display for FieldSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, term) in self.terms.iter().enumerate() {
            let comma = if at > 0 { "," } else { "" };
            let operator = if term.negated { "!=" } else { "=" };
            write!(f, "{comma}{}{operator}{}", term.path, escape(&term.value))?;
        }
        Ok(())
    }
}

/// Splits at commas that no backslash precedes.
fn split_unescaped(text: &str) -> Vec<&str> {
    let mut parts = Vec::new();
    let (mut start, mut escaped) = (0, false);
    for (at, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            ',' => {
                parts.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[start..]);
    parts
}

fn term(text: &str) -> Option<FieldTerm> {
    for (at, _) in text.char_indices() {
        for (operator, negated) in [("!=", true), ("==", false), ("=", false)] {
            if let Some(value) = text[at..].strip_prefix(operator) {
                return Some(FieldTerm { path: text[..at].to_string(), value: unescape(value)?, negated });
            }
        }
    }
    None
}

fn unescape(text: &str) -> Option<String> {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => out.push(chars.next().filter(|c| matches!(c, '\\' | ',' | '='))?),
            ',' | '=' => return None,
            c => out.push(c),
        }
    }
    Some(out)
}

fn escape(text: &str) -> String {
    text.replace('\\', "\\\\").replace(',', "\\,").replace('=', "\\=")
}
