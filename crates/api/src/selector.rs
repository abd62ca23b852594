//! Label selectors and field selectors: what a query string or a meta/v1 `LabelSelector` says, and what matches
//! it. The reading of query strings is in the submodules; parse errors use the words of k8s.io/apimachinery.

mod field;
mod parse;

pub use field::{FieldSelector, FieldTerm};

use crate::{FieldError, name};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use serde_json::{Map, Value, json};
use std::{collections::BTreeMap, fmt};

/// Why a selector cannot be read, as a person should be told.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct SelectorError(String);

/// How the value of a label is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operator {
    /// `key=value`
    Equals,
    /// `key==value`
    DoubleEquals,
    /// `key!=value`; also where the label is missing.
    NotEquals,
    /// `key in (a,b)`
    In,
    /// `key notin (a,b)`; also where the label is missing.
    NotIn,
    /// `key`
    Exists,
    /// `!key`
    DoesNotExist,
    /// `key>5`
    GreaterThan,
    /// `key<5`
    LessThan,
}

impl Operator {
    fn as_str(self) -> &'static str {
        match self {
            Self::Equals => "=",
            Self::DoubleEquals => "==",
            Self::NotEquals => "!=",
            Self::In => "in",
            Self::NotIn => "notin",
            Self::Exists => "exists",
            Self::DoesNotExist => "!",
            Self::GreaterThan => "gt",
            Self::LessThan => "lt",
        }
    }
}

/// One thing that must be true of an object's labels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Requirement {
    key: String,
    operator: Operator,
    /// Sorted, without doubles.
    values: Vec<String>,
}

impl Requirement {
    /// A requirement, checked.
    ///
    /// # Errors
    /// Where key, values or their number are not what the operator takes.
    pub fn new(key: &str, operator: Operator, values: &[&str]) -> Result<Self, SelectorError> {
        let mut errors = Vec::new();
        for message in name::qualified_name(key) {
            errors.push(FieldError::invalid("key", key, message));
        }
        let mut values: Vec<String> = values.iter().map(ToString::to_string).collect();
        values.sort();
        values.dedup();
        let mut wrong = |is: bool, detail: &str| {
            if is {
                errors.push(FieldError::invalid("values", json!(values), detail));
            }
        };
        match operator {
            Operator::In | Operator::NotIn => {
                wrong(values.is_empty(), "for 'in', 'notin' operators, values set can't be empty");
            }
            Operator::Equals | Operator::DoubleEquals | Operator::NotEquals => {
                wrong(values.len() != 1, "exact-match compatibility requires one single value");
            }
            Operator::Exists | Operator::DoesNotExist => {
                wrong(!values.is_empty(), "values set must be empty for exists and does not exist");
            }
            Operator::GreaterThan | Operator::LessThan => {
                wrong(values.len() != 1, "for 'Gt', 'Lt' operators, exactly one value is required");
                let numbers = values.iter().all(|v| v.parse::<i64>().is_ok());
                wrong(!numbers, "for 'Gt', 'Lt' operators, the value must be an integer");
            }
        }
        for (at, value) in values.iter().enumerate() {
            for message in name::label_value(value) {
                errors.push(FieldError::invalid(format!("values[{at}][{key}]"), value.as_str(), message));
            }
        }
        match errors.as_slice() {
            [] => Ok(Self { key: key.to_string(), operator, values }),
            [one] => Err(SelectorError(one.to_string())),
            many => {
                let all = many.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
                Err(SelectorError(format!("[{all}]")))
            }
        }
    }

    /// The label looked at.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// How it is compared.
    pub fn operator(&self) -> Operator {
        self.operator
    }

    /// With what it is compared, sorted.
    pub fn values(&self) -> &[String] {
        &self.values
    }

    /// Whether a label with this value (`None`: a missing one) is as required.
    pub fn accepts(&self, value: Option<&str>) -> bool {
        let listed = || value.is_some_and(|v| self.values.iter().any(|w| w == v));
        match self.operator {
            Operator::Equals | Operator::DoubleEquals | Operator::In => listed(),
            Operator::NotEquals | Operator::NotIn => !listed(),
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
            Operator::GreaterThan => self.compare(value, |ours, bound| ours > bound),
            Operator::LessThan => self.compare(value, |ours, bound| ours < bound),
        }
    }

    fn compare(&self, value: Option<&str>, holds: impl Fn(i64, i64) -> bool) -> bool {
        let number = |text: Option<&str>| text.and_then(|t| t.parse::<i64>().ok());
        match (number(value), number(self.values.first().map(String::as_str))) {
            (Some(ours), Some(bound)) => holds(ours, bound),
            _ => false,
        }
    }
}

impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let values = self.values.join(",");
        match self.operator {
            // The empty value alone: `()` would be no value at all.
            Operator::In | Operator::NotIn if values.is_empty() => {
                write!(f, "{} {} (,)", self.key, self.operator.as_str())
            }
            Operator::Exists => write!(f, "{}", self.key),
            Operator::DoesNotExist => write!(f, "!{}", self.key),
            Operator::In | Operator::NotIn => write!(f, "{} {} ({values})", self.key, self.operator.as_str()),
            Operator::GreaterThan => write!(f, "{}>{values}", self.key),
            Operator::LessThan => write!(f, "{}<{values}", self.key),
            _ => write!(f, "{}{}{values}", self.key, self.operator.as_str()),
        }
    }
}

/// A label selector. The default one matches everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selector {
    /// Sorted by key. All must hold.
    requirements: Vec<Requirement>,
    /// Set where nothing may match, whatever the requirements.
    never: bool,
}

impl Selector {
    /// Matches every object.
    pub fn everything() -> Self {
        Self::default()
    }

    /// Matches no object.
    pub fn nothing() -> Self {
        Self { requirements: Vec::new(), never: true }
    }

    /// Reads the form of query strings: `a=b,c!=d,e in (f,g),h,!i`.
    ///
    /// # Errors
    /// Where the text is no selector.
    pub fn parse(text: &str) -> Result<Self, SelectorError> {
        parse::parse(text).map(Self::from_requirements)
    }

    fn from_requirements(mut requirements: Vec<Requirement>) -> Self {
        requirements.sort_by(|a, b| a.key.cmp(&b.key));
        Self { requirements, never: false }
    }

    /// Reads a meta/v1 `LabelSelector`: an empty one matches everything, a missing one nothing.
    ///
    /// # Errors
    /// Where a key, value or operator is wrong.
    pub fn of(selector: Option<&LabelSelector>) -> Result<Self, SelectorError> {
        let Some(selector) = selector else { return Ok(Self::nothing()) };
        let mut requirements = Vec::new();
        for (key, value) in selector.match_labels.iter().flatten() {
            requirements.push(Requirement::new(key, Operator::Equals, &[value])?);
        }
        for expression in selector.match_expressions.iter().flatten() {
            let operator = match expression.operator.as_str() {
                "In" => Operator::In,
                "NotIn" => Operator::NotIn,
                "Exists" => Operator::Exists,
                "DoesNotExist" => Operator::DoesNotExist,
                other => {
                    return Err(SelectorError(format!("{other:?} is not a valid label selector operator")));
                }
            };
            let values: Vec<&str> = expression.values.iter().flatten().map(String::as_str).collect();
            requirements.push(Requirement::new(&expression.key, operator, &values)?);
        }
        Ok(Self::from_requirements(requirements))
    }

    /// Reads a meta/v1 `LabelSelector` that is JSON; see [`Selector::of`].
    ///
    /// # Errors
    /// Where it has another shape, or a key, value or operator is wrong.
    pub fn from_json(selector: Option<&Value>) -> Result<Self, SelectorError> {
        match selector.filter(|s| !s.is_null()) {
            None => Ok(Self::nothing()),
            Some(value) => {
                use serde::Deserialize as _;
                let typed = LabelSelector::deserialize(value).map_err(|e| SelectorError(e.to_string()))?;
                Self::of(Some(&typed))
            }
        }
    }

    /// Each of these labels must be there with its value: the selector of a Service. Values are not checked.
    pub fn from_labels<'a>(labels: impl IntoIterator<Item = (&'a String, &'a String)>) -> Self {
        let requirement = |(key, value): (&String, &String)| Requirement {
            key: key.clone(),
            operator: Operator::Equals,
            values: vec![value.clone()],
        };
        Self::from_requirements(labels.into_iter().map(requirement).collect())
    }

    /// What must hold, sorted by key.
    pub fn requirements(&self) -> &[Requirement] {
        &self.requirements
    }

    /// Whether every object matches.
    pub fn is_everything(&self) -> bool {
        !self.never && self.requirements.is_empty()
    }

    /// Whether no object can match, whatever its labels.
    pub fn is_nothing(&self) -> bool {
        self.never
    }

    /// Whether an object whose labels `get` looks up matches.
    pub fn matches_with<'a>(&self, get: impl Fn(&str) -> Option<&'a str>) -> bool {
        !self.never && self.requirements.iter().all(|r| r.accepts(get(&r.key)))
    }

    /// Whether an object with these labels matches.
    pub fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        self.matches_with(|key| labels.get(key).map(String::as_str))
    }

    /// Whether a typed object with these labels, if it has any, matches.
    pub fn matches_labels(&self, labels: Option<&BTreeMap<String, String>>) -> bool {
        self.matches_with(|key| labels?.get(key).map(String::as_str))
    }

    /// Whether an object with these labels in JSON, if it has any, matches.
    pub fn matches_json(&self, labels: Option<&Map<String, Value>>) -> bool {
        self.matches_with(|key| labels?.get(key)?.as_str())
    }

    /// The value that a label must have to match, where the selector says so: a way to look into an index.
    pub fn exact_value(&self, key: &str) -> Option<&str> {
        let exact = |r: &&Requirement| {
            r.key == key
                && r.values.len() == 1
                && matches!(r.operator, Operator::Equals | Operator::DoubleEquals | Operator::In)
        };
        self.requirements.iter().find(exact).map(|r| r.values[0].as_str())
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, requirement) in self.requirements.iter().enumerate() {
            write!(f, "{}{requirement}", if at > 0 { "," } else { "" })?;
        }
        Ok(())
    }
}

impl std::str::FromStr for Selector {
    type Err = SelectorError;
    fn from_str(text: &str) -> Result<Self, SelectorError> {
        Self::parse(text)
    }
}

/// All that is wrong with the meta/v1 `LabelSelector` at `path` of an object.
pub fn validate(selector: &LabelSelector, path: &str) -> Vec<FieldError> {
    let mut errors = Vec::new();
    for (key, value) in selector.match_labels.iter().flatten() {
        let path = format!("{path}.matchLabels");
        let of = |messages: Vec<String>, shown: &str| {
            messages.into_iter().map(|m| FieldError::invalid(&path, shown, m)).collect::<Vec<_>>()
        };
        errors.extend(of(name::qualified_name(key), key));
        errors.extend(of(name::label_value(value), value));
    }
    for (at, expression) in selector.match_expressions.iter().flatten().enumerate() {
        let path = format!("{path}.matchExpressions[{at}]");
        let values: Vec<&String> = expression.values.iter().flatten().collect();
        match expression.operator.as_str() {
            "In" | "NotIn" if values.is_empty() => errors.push(FieldError::required(
                format!("{path}.values"),
                "must be specified when `operator` is 'In' or 'NotIn'",
            )),
            "Exists" | "DoesNotExist" if !values.is_empty() => errors.push(FieldError::forbidden(
                format!("{path}.values"),
                "may not be specified when `operator` is 'Exists' or 'DoesNotExist'",
            )),
            "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
            other => errors.push(FieldError::invalid(
                format!("{path}.operator"),
                other,
                "not a valid selector operator",
            )),
        }
        for message in name::qualified_name(&expression.key) {
            errors.push(FieldError::invalid(format!("{path}.key"), expression.key.as_str(), message));
        }
        for (at, value) in values.iter().enumerate() {
            for message in name::label_value(value) {
                errors.push(FieldError::invalid(format!("{path}.values[{at}]"), value.as_str(), message));
            }
        }
    }
    errors
}

#[cfg(test)]
mod tests;
