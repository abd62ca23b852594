//! Text: the standard functions, the extended strings library, and regular expressions.

use super::{Outcome, time};
use crate::value::{Key, Value};
use parking_lot::Mutex;
use regex::Regex;
use std::collections::VecDeque;

/// The largest compiled regular expression.
const REGEX_SIZE: usize = 1 << 22;
/// The largest of those that are kept by hundreds.
const SMALL_SIZE: usize = 1 << 17;

/// Regular expressions that were used lately, the newest last: small ones, and a few large ones.
static SMALL: Lately = Lately { most: 256, kept: Mutex::new(VecDeque::new()) };
static LARGE: Lately = Lately { most: 8, kept: Mutex::new(VecDeque::new()) };

struct Lately {
    most: usize,
    kept: Mutex<VecDeque<(Box<str>, Regex)>>,
}

impl Lately {
    fn get(&self, pattern: &str) -> Option<Regex> {
        self.kept.lock().iter().rev().find(|(known, _)| **known == *pattern).map(|(_, regex)| regex.clone())
    }

    fn keep(&self, pattern: &str, regex: &Regex) {
        let mut kept = self.kept.lock();
        if kept.len() >= self.most {
            kept.pop_front();
        }
        kept.push_back((pattern.into(), regex.clone()));
    }
}

/// Whether using a pattern means to compile it first.
pub(crate) fn is_new(pattern: &str) -> bool {
    SMALL.get(pattern).or_else(|| LARGE.get(pattern)).is_none()
}

pub(crate) fn compile(pattern: &str) -> Result<Regex, String> {
    if let Some(regex) = SMALL.get(pattern).or_else(|| LARGE.get(pattern)) {
        return Ok(regex);
    }
    for (lately, size) in [(&SMALL, SMALL_SIZE), (&LARGE, REGEX_SIZE)] {
        let made = regex::RegexBuilder::new(pattern).size_limit(size).dfa_size_limit(SMALL_SIZE).build();
        match made {
            Ok(regex) => {
                lately.keep(pattern, &regex);
                return Ok(regex);
            }
            Err(regex::Error::CompiledTooBig(_)) if size < REGEX_SIZE => {}
            Err(e) => return Err(format!("error parsing regexp: {e}")),
        }
    }
    Err("error parsing regexp: expression too large".to_string())
}

fn int(at: Option<usize>) -> Value {
    Value::Int(at.map_or(-1, |at| at as i64))
}

/// Where `wanted` stands in `text`, in characters, at `from` or behind it.
fn find(text: &str, wanted: &str, from: usize) -> Option<usize> {
    let start = text.char_indices().map(|(at, _)| at).chain([text.len()]).nth(from)?;
    let at = text[start..].find(wanted)?;
    Some(from + text[start..start + at].chars().count())
}

/// Where `wanted` stands last in `text`, in characters, at `from` or before it.
fn find_back(text: &str, wanted: &str, from: usize) -> Option<usize> {
    // It may begin at `from`, so it ends so many bytes later at most.
    let start = text.char_indices().map(|(at, _)| at).nth(from).unwrap_or(text.len());
    let mut end = start.saturating_add(wanted.len()).min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let at = text[..end].rfind(wanted)?;
    Some(text[..at].chars().count())
}

fn chars(text: &str) -> Vec<char> {
    text.chars().collect()
}

fn place(text: &[char], at: i64) -> Result<usize, String> {
    usize::try_from(at).ok().filter(|at| *at <= text.len()).ok_or_else(|| format!("index out of range: {at}"))
}

fn strings(parts: impl Iterator<Item = String>) -> Value {
    Value::list(parts.map(Value::string).collect())
}

fn limited(limit: i64, parts: &mut dyn Iterator<Item = String>) -> Value {
    match usize::try_from(limit) {
        Ok(limit) => strings(parts.take(limit)),
        Err(_) => strings(parts),
    }
}

pub(super) fn call(function: &str, args: &[Value]) -> Option<Outcome> {
    if function == "join" {
        return Some(join(args.first()?.entries()?, args.get(1)));
    }
    let Value::String(text) = args.first()? else { return None };
    Some(match (function, &args[1..]) {
        ("contains", [Value::String(s)]) => Ok(Value::Bool(text.contains(&**s))),
        ("startsWith", [Value::String(s)]) => Ok(Value::Bool(text.starts_with(&**s))),
        ("endsWith", [Value::String(s)]) => Ok(Value::Bool(text.ends_with(&**s))),
        ("matches", [Value::String(s)]) => compile(s).map(|r| Value::Bool(r.is_match(text))),
        ("find", [Value::String(s)]) => {
            compile(s).map(|r| Value::string(r.find(text).map_or("", |m| m.as_str())))
        }
        ("findAll", [Value::String(s)]) => {
            compile(s).map(|r| strings(r.find_iter(text).map(|m| m.as_str().to_string())))
        }
        ("findAll", [Value::String(s), Value::Int(limit)]) => {
            compile(s).map(|r| limited(*limit, &mut r.find_iter(text).map(|m| m.as_str().to_string())))
        }
        ("charAt", [Value::Int(at)]) => {
            let text = chars(text);
            place(&text, *at).map(|at| Value::string(text.get(at).map(char::to_string).unwrap_or_default()))
        }
        ("indexOf", [Value::String(s)]) => Ok(int(find(text, s, 0))),
        ("indexOf", [Value::String(s), Value::Int(from)]) => {
            place(&chars(text), *from).map(|from| int(find(text, s, from)))
        }
        ("lastIndexOf", [Value::String(s)]) => Ok(int(find_back(text, s, usize::MAX))),
        ("lastIndexOf", [Value::String(s), Value::Int(from)]) => {
            place(&chars(text), *from).map(|from| int(find_back(text, s, from)))
        }
        ("lowerAscii", []) => Ok(Value::string(text.to_ascii_lowercase())),
        ("upperAscii", []) => Ok(Value::string(text.to_ascii_uppercase())),
        ("replace", [Value::String(a), Value::String(b)]) => Ok(Value::string(text.replace(&**a, b))),
        ("replace", [Value::String(a), Value::String(b), Value::Int(n)]) => {
            Ok(Value::string(match usize::try_from(*n) {
                Ok(n) => text.replacen(&**a, b, n),
                Err(_) => text.replace(&**a, b),
            }))
        }
        ("split", [Value::String(s)]) => Ok(split(text, s, -1)),
        ("split", [Value::String(s), Value::Int(n)]) => Ok(split(text, s, *n)),
        ("substring", [Value::Int(from)]) => {
            let text = chars(text);
            place(&text, *from).map(|from| Value::string(text[from..].iter().collect::<String>()))
        }
        ("substring", [Value::Int(from), Value::Int(to)]) => {
            let text = chars(text);
            match (place(&text, *from), place(&text, *to)) {
                (Ok(from), Ok(to)) if from <= to => {
                    Ok(Value::string(text[from..to].iter().collect::<String>()))
                }
                (Err(e), _) | (_, Err(e)) => Err(e),
                _ => Err(format!("invalid substring range. start: {from}, end: {to}")),
            }
        }
        ("trim", []) => Ok(Value::string(text.trim())),
        ("strings.quote", []) => Ok(Value::string(quote(text))),
        ("jsonpatch.escapeKey", []) => Ok(Value::string(text.replace('~', "~0").replace('/', "~1"))),
        ("format", [list]) => format(text, list.entries()?),
        _ => return None,
    })
}

fn split(text: &str, separator: &str, limit: i64) -> Value {
    let parts: Box<dyn Iterator<Item = String>> = match (limit, separator.is_empty()) {
        (0, _) => return Value::list(Vec::new()),
        (limit, true) => {
            let all: Vec<char> = chars(text);
            let most = usize::try_from(limit).unwrap_or(usize::MAX).min(all.len().max(1));
            let mut parts: Vec<String> = all.iter().take(most - 1).map(char::to_string).collect();
            if !all.is_empty() {
                parts.push(all[most - 1..].iter().collect());
            }
            if limit < 0 {
                parts = all.iter().map(char::to_string).collect();
            }
            Box::new(parts.into_iter())
        }
        (limit, false) => match usize::try_from(limit) {
            Ok(limit) => Box::new(text.splitn(limit, separator).map(str::to_string)),
            Err(_) => Box::new(text.split(separator).map(str::to_string)),
        },
    };
    strings(parts)
}

fn join(list: &[Value], separator: Option<&Value>) -> Outcome {
    let separator = match separator {
        None => "",
        Some(Value::String(s)) => s,
        Some(_) => return Err("no such overload".into()),
    };
    let mut out = String::new();
    for (at, entry) in list.iter().enumerate() {
        let Value::String(entry) = entry else { return Err("no such overload".into()) };
        if at > 0 {
            out.push_str(separator);
        }
        out.push_str(entry);
    }
    Ok(Value::string(out))
}

fn quote(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '\x07' => out.push_str("\\a"),
            '\x08' => out.push_str("\\b"),
            '\x0c' => out.push_str("\\f"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\x0b' => out.push_str("\\v"),
            '\\' => out.push_str("\\\\"),
            '"' => out.push_str("\\\""),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// `"%s has %d".format([a, b])`.
fn format(pattern: &str, args: &[Value]) -> Outcome {
    let (mut out, mut args) = (String::new(), args.iter());
    let mut chars = pattern.chars().peekable();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        if chars.peek() == Some(&'%') {
            chars.next();
            out.push('%');
            continue;
        }
        let mut precision = None;
        if chars.peek() == Some(&'.') {
            chars.next();
            let mut digits = String::new();
            while let Some(digit) = chars.next_if(char::is_ascii_digit) {
                digits.push(digit);
            }
            precision = digits.parse::<usize>().ok().filter(|n| *n <= 1000);
            if precision.is_none() {
                return Err("could not parse formatting clause: could not convert precision".into());
            }
        }
        let Some(verb) = chars.next() else { return Err("unexpected end of format string".into()) };
        let arg = args.next().ok_or_else(|| "index 0 out of range".to_string())?;
        let bad = || {
            format!("could not parse formatting clause: {} can't be formatted as %{verb}", arg.type_name())
        };
        match (verb, arg) {
            ('s', value) => out.push_str(&show(value).ok_or_else(bad)?),
            ('d', Value::Int(n)) => out.push_str(&n.to_string()),
            ('d', Value::Uint(n)) => out.push_str(&n.to_string()),
            ('f', Value::Double(n)) => out.push_str(&format!("{n:.*}", precision.unwrap_or(6))),
            ('f', Value::Int(n)) => out.push_str(&format!("{:.*}", precision.unwrap_or(6), *n as f64)),
            ('e', Value::Double(n)) => {
                let text = format!("{n:.*e}", precision.unwrap_or(6));
                let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
                let (sign, digits) = match exponent.strip_prefix('-') {
                    Some(digits) => ('-', digits),
                    None => ('+', exponent),
                };
                out.push_str(&format!("{mantissa}e{sign}{digits:0>2}"));
            }
            ('b', Value::Int(n)) if *n < 0 => out.push_str(&format!("-{:b}", n.unsigned_abs())),
            ('b', Value::Int(n)) => out.push_str(&format!("{n:b}")),
            ('b', Value::Uint(n)) => out.push_str(&format!("{n:b}")),
            ('b', Value::Bool(b)) => out.push(if *b { '1' } else { '0' }),
            ('x', Value::Int(n)) if *n >= 0 => out.push_str(&format!("{n:x}")),
            ('X', Value::Int(n)) if *n >= 0 => out.push_str(&format!("{n:X}")),
            ('x', Value::Int(n)) => out.push_str(&format!("-{:x}", n.unsigned_abs())),
            ('X', Value::Int(n)) => out.push_str(&format!("-{:X}", n.unsigned_abs())),
            ('x', Value::Uint(n)) => out.push_str(&format!("{n:x}")),
            ('X', Value::Uint(n)) => out.push_str(&format!("{n:X}")),
            ('x', Value::String(s)) => s.bytes().for_each(|b| out.push_str(&format!("{b:02x}"))),
            ('X', Value::String(s)) => s.bytes().for_each(|b| out.push_str(&format!("{b:02X}"))),
            ('x', Value::Bytes(s)) => s.iter().for_each(|b| out.push_str(&format!("{b:02x}"))),
            ('X', Value::Bytes(s)) => s.iter().for_each(|b| out.push_str(&format!("{b:02X}"))),
            ('o', Value::Int(n)) if *n >= 0 => out.push_str(&format!("{n:o}")),
            ('o', Value::Uint(n)) => out.push_str(&format!("{n:o}")),
            ('b' | 'd' | 'e' | 'f' | 'o' | 'x' | 'X', _) => return Err(bad()),
            (verb, _) => {
                return Err(format!(
                    "could not parse formatting clause: unrecognized formatting clause \"{verb}\""
                ));
            }
        }
    }
    Ok(Value::string(out))
}

/// A value as `%s` shows it.
fn show(value: &Value) -> Option<String> {
    Some(match value {
        Value::String(s) => s.to_string(),
        Value::Bool(b) => b.to_string(),
        Value::Int(n) => n.to_string(),
        Value::Uint(n) => n.to_string(),
        Value::Double(n) => n.to_string(),
        Value::Null => "null".to_string(),
        Value::Bytes(b) => String::from_utf8_lossy(b).into_owned(),
        Value::Timestamp(t) => t.to_string(),
        Value::Duration(d) => time::duration_text(*d),
        Value::Type(name) => name.to_string(),
        Value::Map(map) => {
            let mut parts = Vec::new();
            for (key, value) in &**map {
                let key = match key {
                    Key::Bool(b) => b.to_string(),
                    Key::Int(n) => n.to_string(),
                    Key::String(s) => s.to_string(),
                };
                parts.push(format!("{key}: {}", show(value)?));
            }
            format!("{{{}}}", parts.join(", "))
        }
        list => {
            let parts: Vec<String> = list.entries()?.iter().map(show).collect::<Option<_>>()?;
            format!("[{}]", parts.join(", "))
        }
    })
}
