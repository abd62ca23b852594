//! The part of JSONPath that printer columns, `scale` and selectable fields use: `.spec.replicas`, `['a.b']`, `[0]`, `[*]`,
//! `[?(@.type=="Ready")]`. Reads values, never changes them.

use serde_json::Value;

/// A step.
#[derive(Clone, Debug, PartialEq)]
enum Step {
    Field(String),
    Index(i64),
    All,
    /// Entries of which a field compares so with a value.
    Where(Vec<String>, Comparison, Value),
    /// Entries that have a field.
    Has(Vec<String>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Comparison {
    Equal,
    Unequal,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

/// A path.
#[derive(Clone, Debug, PartialEq)]
pub struct JsonPath(Vec<Step>);

fn name(text: &str) -> (String, &str) {
    let (mut out, mut chars) = (String::new(), text.char_indices());
    while let Some((at, c)) = chars.next() {
        match c {
            '\\' => out.extend(chars.next().map(|(_, c)| c)),
            '.' | '[' => return (out, &text[at..]),
            c => out.push(c),
        }
    }
    (out, "")
}

fn literal(text: &str) -> Option<Value> {
    let text = text.trim();
    for quote in ['"', '\''] {
        if let Some(inner) = text.strip_prefix(quote).and_then(|t| t.strip_suffix(quote)) {
            return Some(inner.into());
        }
    }
    serde_json::from_str(text).ok()
}

fn filter(text: &str) -> Option<Step> {
    let operators = [
        ("==", Comparison::Equal),
        ("!=", Comparison::Unequal),
        ("<=", Comparison::LessOrEqual),
        (">=", Comparison::GreaterOrEqual),
        ("<", Comparison::Less),
        (">", Comparison::Greater),
    ];
    let fields = |text: &str| -> Option<Vec<String>> {
        let JsonPath(steps) = JsonPath::parse(text.trim().strip_prefix('@')?)?;
        steps
            .into_iter()
            .map(|s| match s {
                Step::Field(name) if !name.contains(['=', '<', '>', '!', ' ']) => Some(name),
                _ => None,
            })
            .collect()
    };
    for (sign, comparison) in operators {
        if let Some((left, right)) = text.split_once(sign) {
            return Some(Step::Where(fields(left)?, comparison, literal(right)?));
        }
    }
    Some(Step::Has(fields(text)?))
}

impl JsonPath {
    /// Reads a path, with or without braces around it.
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        let text = text.strip_prefix('{').and_then(|t| t.strip_suffix('}')).unwrap_or(text);
        let mut rest = text.strip_prefix('$').unwrap_or(text);
        let mut steps = Vec::new();
        while !rest.is_empty() {
            if let Some(tail) = rest.strip_prefix('.') {
                if tail.starts_with('.') {
                    return None;
                }
                let (field, tail) = name(tail);
                match field.as_str() {
                    "" if tail.is_empty() && steps.is_empty() => {}
                    "" if tail.starts_with('[') => {}
                    "" => return None,
                    "*" => steps.push(Step::All),
                    _ => steps.push(Step::Field(field)),
                }
                rest = tail;
            } else if let Some(tail) = rest.strip_prefix('[') {
                let end = if tail.starts_with("?(") { tail.find(")]")? + 1 } else { tail.find(']')? };
                let inside = &tail[..end];
                rest = &tail[end + 1..];
                if let Some(condition) = inside.strip_prefix("?(").and_then(|c| c.strip_suffix(')')) {
                    steps.push(filter(condition)?);
                } else if inside == "*" {
                    steps.push(Step::All);
                } else if let Ok(index) = inside.parse() {
                    steps.push(Step::Index(index));
                } else if let Some(Value::String(field)) = literal(inside) {
                    steps.push(Step::Field(field));
                } else {
                    return None;
                }
            } else if steps.is_empty() {
                let (field, tail) = name(rest);
                steps.push(Step::Field(field));
                rest = tail;
            } else {
                return None;
            }
        }
        Some(Self(steps))
    }

    /// The names that the path goes through, where it goes through names only.
    pub fn fields(&self) -> Option<Vec<&str>> {
        self.0.iter().map(|s| if let Step::Field(name) = s { Some(name.as_str()) } else { None }).collect()
    }

    /// All values that it leads to.
    pub fn find<'a>(&self, value: &'a Value) -> Vec<&'a Value> {
        let mut here = vec![value];
        for step in &self.0 {
            here = here.into_iter().flat_map(|v| next(step, v)).collect();
        }
        here
    }
}

fn below<'a>(value: &'a Value, fields: &[String]) -> Option<&'a Value> {
    fields.iter().try_fold(value, |v, name| v.get(name))
}

fn entries(value: &Value) -> Vec<&Value> {
    match value {
        Value::Array(entries) => entries.iter().collect(),
        Value::Object(map) => map.values().collect(),
        _ => Vec::new(),
    }
}

fn next<'a>(step: &Step, value: &'a Value) -> Vec<&'a Value> {
    match step {
        Step::Field(name) => value.get(name).into_iter().collect(),
        Step::Index(at) => {
            let Some(list) = value.as_array() else { return Vec::new() };
            let at = if *at < 0 { *at + list.len() as i64 } else { *at };
            usize::try_from(at).ok().and_then(|at| list.get(at)).into_iter().collect()
        }
        Step::All => entries(value),
        Step::Has(fields) => entries(value).into_iter().filter(|e| below(e, fields).is_some()).collect(),
        Step::Where(fields, comparison, wanted) => entries(value)
            .into_iter()
            .filter(|e| below(e, fields).is_some_and(|v| compares(v, *comparison, wanted)))
            .collect(),
    }
}

fn compares(value: &Value, comparison: Comparison, wanted: &Value) -> bool {
    let order = match (value, wanted) {
        (Value::Number(a), Value::Number(b)) => a.as_f64().partial_cmp(&b.as_f64()),
        (Value::String(a), Value::String(b)) => Some(a.cmp(b)),
        _ => None,
    };
    match comparison {
        Comparison::Equal => value == wanted,
        Comparison::Unequal => value != wanted,
        Comparison::Less => order.is_some_and(std::cmp::Ordering::is_lt),
        Comparison::LessOrEqual => order.is_some_and(std::cmp::Ordering::is_le),
        Comparison::Greater => order.is_some_and(std::cmp::Ordering::is_gt),
        Comparison::GreaterOrEqual => order.is_some_and(std::cmp::Ordering::is_ge),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn paths_lead_to_values() {
        let object = json!({
            "spec": {"replicas": 3, "list": [{"a": 1}, {"a": 2}], "x.y": "dotted"},
            "status": {"conditions": [{"type": "Synced", "status": "False"}, {"type": "Ready", "status": "True"}]},
        });
        for (path, expected) in [
            (".spec.replicas", json!([3])),
            ("{.spec.replicas}", json!([3])),
            (".spec['x.y']", json!(["dotted"])),
            (".spec.x\\.y", json!(["dotted"])),
            (".spec.list[1].a", json!([2])),
            (".spec.list[-1].a", json!([2])),
            (".spec.list[*].a", json!([1, 2])),
            (".status.conditions[?(@.type==\"Ready\")].status", json!(["True"])),
            (".status.conditions[?(@.type=='Ready')].status", json!(["True"])),
            (".spec.list[?(@.a>1)].a", json!([2])),
            (".spec.nope.deeper", json!([])),
        ] {
            let found: Vec<Value> =
                JsonPath::parse(path).unwrap().find(&object).into_iter().cloned().collect();
            assert_eq!(Value::from(found), expected, "{path}");
        }
        for path in [".spec..x", ".spec[", ".spec[?(@.a=)]", ".spec[x]", ".spec."] {
            assert_eq!(JsonPath::parse(path), None, "{path}");
        }
    }
}
