//! A look at the beginning of an object's JSON without parsing the rest: its version, and where its managed fields stand. What it
//! walks over it does not check; whoever decodes the object does.

use std::ops::Range;

/// What [`Head::of`] finds.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Head {
    /// `metadata.resourceVersion`.
    pub resource_version: String,
    /// Where the value of `metadata.managedFields` stands.
    pub managed_fields: Option<Range<usize>>,
}

impl Head {
    /// Reads the head of an object. Nothing is found in what is not one.
    pub(super) fn of(json: &[u8]) -> Self {
        let mut head = Self::default();
        let mut walk = Walk { json, at: 0 };
        walk.members(|walk, key| {
            if key != b"metadata" {
                return walk.skip();
            }
            walk.members(|walk, key| {
                let start = walk.at;
                walk.skip()?;
                let value = start..walk.at;
                match key {
                    b"resourceVersion" => {
                        let text = walk.json.get(value)?.strip_prefix(b"\"")?.strip_suffix(b"\"")?;
                        head.resource_version = std::str::from_utf8(text).ok()?.to_string();
                    }
                    b"managedFields" => head.managed_fields = Some(value),
                    _ => {}
                }
                Some(())
            });
            // Nothing else is looked for.
            None
        });
        head
    }
}

/// A place in a JSON text.
struct Walk<'a> {
    json: &'a [u8],
    at: usize,
}

impl<'a> Walk<'a> {
    /// The next byte that is not white space.
    fn peek(&mut self) -> Option<u8> {
        loop {
            let byte = *self.json.get(self.at)?;
            if !byte.is_ascii_whitespace() {
                return Some(byte);
            }
            self.at += 1;
        }
    }

    fn expect(&mut self, byte: u8) -> Option<()> {
        (self.peek()? == byte).then(|| self.at += 1)
    }

    /// Walks over a string; what stands between its quotes, as it is written.
    fn string(&mut self) -> Option<&'a [u8]> {
        self.expect(b'"')?;
        let start = self.at;
        loop {
            match *self.json.get(self.at)? {
                b'"' => break,
                b'\\' => self.at += 2,
                _ => self.at += 1,
            }
        }
        self.at += 1;
        self.json.get(start..self.at - 1)
    }

    /// Walks over a value.
    fn skip(&mut self) -> Option<()> {
        let mut depth = 0_usize;
        loop {
            match self.peek()? {
                b'"' => {
                    self.string()?;
                }
                b'{' | b'[' => {
                    depth += 1;
                    self.at += 1;
                }
                b'}' | b']' => {
                    depth = depth.checked_sub(1)?;
                    self.at += 1;
                }
                b',' | b':' if depth > 0 => {
                    self.at += 1;
                    continue;
                }
                b',' | b':' => return None,
                _ => {
                    let rest = self.json.get(self.at..)?;
                    let ends = |b: &u8| matches!(b, b',' | b'}' | b']' | b':') || b.is_ascii_whitespace();
                    self.at += rest.iter().position(ends).unwrap_or(rest.len()).max(1);
                }
            }
            if depth == 0 {
                return Some(());
            }
        }
    }

    /// Walks over an object; `see` is told each key and must walk over its value, or gives `None` to end the walk.
    fn members(&mut self, mut see: impl FnMut(&mut Self, &[u8]) -> Option<()>) -> Option<()> {
        self.expect(b'{')?;
        if self.peek()? == b'}' {
            self.at += 1;
            return Some(());
        }
        loop {
            let key = self.string()?;
            self.expect(b':')?;
            self.peek()?;
            see(self, key)?;
            match self.peek()? {
                b',' => self.at += 1,
                b'}' => {
                    self.at += 1;
                    return Some(());
                }
                _ => return None,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(json: &str) -> (String, String) {
        let head = Head::of(json.as_bytes());
        (head.resource_version, head.managed_fields.map_or(String::new(), |r| json[r].to_string()))
    }

    #[test]
    fn version_and_managed_fields_are_found_wherever_they_stand_in_the_metadata() {
        let fields = r#"[{"a": "}]\"", "f": {"resourceVersion": {}, "x": [1, -2.5e3, null, true]}}]"#;
        for json in [
            format!(
                r#"{{"metadata":{{"resourceVersion":"7","managedFields":{fields},"name":"x"}},"spec":{{}}}}"#
            ),
            format!(r#"{{"metadata":{{"name":"x","managedFields":{fields},"resourceVersion":"7"}}}}"#),
            format!(
                " {{ \"kind\" : \"a\\\"metadata\" ,\n \"spec\":{{\"metadata\":{{\"resourceVersion\":\"1\"}}}}, \"metadata\" : {{ \"managedFields\" : {fields} , \"resourceVersion\" : \"7\" }} }} "
            ),
        ] {
            assert_eq!(found(&json), ("7".into(), fields.into()), "{json}");
        }
    }

    #[test]
    fn what_is_not_there_is_not_found_and_what_is_broken_does_no_harm() {
        let whole =
            r#"{"kind":"A","metadata":{"labels":{"a":"b\\"},"managedFields":[{}],"resourceVersion":"12"}}"#;
        assert_eq!(found(whole).0, "12");
        for end in 0..whole.len() {
            Head::of(&whole.as_bytes()[..end]);
        }
        for json in
            ["", "{}", "[]", "null", "{\"metadata\":{}}", "{\"metadata\":null}", "}{", "{\"metadata\":{,}}"]
        {
            assert_eq!(found(json), Default::default(), "{json}");
        }
    }
}
