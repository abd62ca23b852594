//! Values while evaluating: JSON typed by a declaration, and what the libraries add. Equality and order are those of the
//! language (numbers of different kinds compare by value).

use crate::message::Message;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Map, Number, Value as Json};
use std::{
    cmp::Ordering,
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

/// What an `authorizer` variable asks when an expression calls `check(verb)`: given are what the expression said.
pub trait Authorizer: Send + Sync {
    /// Whether the request would be allowed, with the reason; `Err` where it could not be found out.
    fn check(&self, question: &Question) -> Result<(bool, String), String>;
}

/// What an expression asks an [`Authorizer`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Question {
    /// Of a path that is no resource.
    pub path: Option<String>,
    /// API group.
    pub group: String,
    /// Resource (plural).
    pub resource: String,
    /// Subresource.
    pub subresource: String,
    /// Namespace.
    pub namespace: String,
    /// Name of the object.
    pub name: String,
    /// Verb.
    pub verb: String,
    /// The service account (namespace, name) that is asked about instead of the user.
    pub service_account: Option<(String, String)>,
    /// `fieldSelector(…)`.
    pub field_selector: Option<String>,
    /// `labelSelector(…)`.
    pub label_selector: Option<String>,
}

/// An authorizer with what has been said so far.
#[derive(Clone)]
pub struct Authorization {
    /// Who answers.
    pub authorizer: Arc<dyn Authorizer>,
    /// What is asked.
    pub question: Question,
    /// The answer, once asked.
    pub answer: Option<Result<(bool, String), String>>,
}

impl std::fmt::Debug for Authorization {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.question.fmt(f)
    }
}

/// A map's key.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Key {
    /// A boolean.
    Bool(bool),
    /// A whole number, of either kind.
    Int(i128),
    /// Text.
    String(Arc<str>),
}

/// A value.
#[derive(Clone, Debug)]
pub enum Value {
    /// Null.
    Null,
    /// A boolean.
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// A whole number without a sign.
    Uint(u64),
    /// A floating-point number.
    Double(f64),
    /// Text.
    String(Arc<str>),
    /// Bytes.
    Bytes(Arc<[u8]>),
    /// A point in time.
    Timestamp(Timestamp),
    /// A length of time.
    Duration(SignedDuration),
    /// A list.
    List(Arc<Vec<Value>>),
    /// A list without order: equal to another with the same entries (`x-kubernetes-list-type: set`), and joined by `+`.
    Set(Arc<Vec<Value>>),
    /// A list of objects known by these keys (`x-kubernetes-list-type: map`).
    MapList(Arc<(Vec<String>, Vec<Value>)>),
    /// A map or an object.
    Map(Arc<BTreeMap<Key, Value>>),
    /// An object that the expression made.
    Message(Arc<Message>),
    /// A value that may be absent.
    Optional(Option<Arc<Value>>),
    /// A type.
    Type(Arc<str>),
    /// `net.IP`.
    Ip(std::net::IpAddr),
    /// `net.CIDR`, with its host bits.
    Cidr(std::net::IpAddr, u8),
    /// `kubernetes.URL`.
    Url(Arc<crate::library::url::Url>),
    /// `kubernetes.Quantity`.
    Quantity(orlop_api::quantity::Quantity),
    /// `kubernetes.Semver`.
    Semver(Arc<crate::library::semver::Semver>),
    /// `kubernetes.NamedFormat`.
    Format(crate::library::format::NamedFormat),
    /// `kubernetes.authorization.…`.
    Authorization(Arc<Authorization>),
    /// A value whose evaluation failed: the error comes when somebody looks at it (`variables.x` of a policy).
    Failed(Arc<str>),
}

impl Value {
    /// Text.
    pub fn string(text: impl Into<Arc<str>>) -> Self {
        Self::String(text.into())
    }

    /// A list.
    pub fn list(entries: Vec<Value>) -> Self {
        Self::List(Arc::new(entries))
    }

    /// A map with text keys.
    pub fn object(fields: impl IntoIterator<Item = (String, Value)>) -> Self {
        Self::Map(Arc::new(fields.into_iter().map(|(k, v)| (Key::String(k.into()), v)).collect()))
    }

    /// An authorizer variable.
    pub fn authorizer(authorizer: Arc<dyn Authorizer>) -> Self {
        let question = Question::default();
        Self::Authorization(Arc::new(Authorization { authorizer, question, answer: None }))
    }

    /// JSON as it is: whole numbers are `int`, others `double`.
    pub fn from_json(json: &Json) -> Self {
        match json {
            Json::Null => Self::Null,
            Json::Bool(b) => Self::Bool(*b),
            Json::Number(n) => number(n),
            Json::String(s) => Self::string(s.as_str()),
            Json::Array(entries) => Self::list(entries.iter().map(Self::from_json).collect()),
            Json::Object(map) => Self::object(map.iter().map(|(k, v)| (k.clone(), Self::from_json(v)))),
        }
    }

    /// Back to JSON, where there is any.
    pub fn to_json(&self) -> Option<Json> {
        Some(match self {
            Self::Null => Json::Null,
            Self::Bool(b) => Json::Bool(*b),
            Self::Int(n) => Json::from(*n),
            Self::Uint(n) => Json::from(*n),
            Self::Double(n) => Number::from_f64(*n).map(Json::Number)?,
            Self::String(s) => Json::from(&**s),
            Self::Bytes(b) => {
                use base64::Engine;
                Json::from(base64::engine::general_purpose::STANDARD.encode(b))
            }
            Self::Timestamp(t) => Json::from(t.to_string()),
            Self::Duration(d) => Json::from(crate::library::time::duration_text(*d)),
            Self::List(l) | Self::Set(l) => Json::Array(l.iter().map(Self::to_json).collect::<Option<_>>()?),
            Self::MapList(l) => Json::Array(l.1.iter().map(Self::to_json).collect::<Option<_>>()?),
            Self::Map(map) => {
                let mut out = Map::new();
                for (key, value) in &**map {
                    let key = match key {
                        Key::Bool(b) => b.to_string(),
                        Key::Int(n) => n.to_string(),
                        Key::String(s) => s.to_string(),
                    };
                    out.insert(key, value.to_json()?);
                }
                Json::Object(out)
            }
            Self::Message(message) => {
                let fields =
                    message.fields.iter().map(|(name, value)| Some((name.to_string(), value.to_json()?)));
                Json::Object(fields.collect::<Option<_>>()?)
            }
            Self::Optional(Some(value)) => value.to_json()?,
            Self::Optional(None) => Json::Null,
            _ => return None,
        })
    }

    /// The name that `type(x)` gives it.
    pub fn type_name(&self) -> &str {
        match self {
            Self::Null => "null_type",
            Self::Bool(_) => "bool",
            Self::Int(_) => "int",
            Self::Uint(_) => "uint",
            Self::Double(_) => "double",
            Self::String(_) => "string",
            Self::Bytes(_) => "bytes",
            Self::Timestamp(_) => "google.protobuf.Timestamp",
            Self::Duration(_) => "google.protobuf.Duration",
            Self::List(_) | Self::Set(_) | Self::MapList(_) => "list",
            Self::Map(_) => "map",
            Self::Message(message) => &message.name,
            Self::Optional(_) => "optional_type",
            Self::Type(_) => "type",
            Self::Ip(_) => "net.IP",
            Self::Cidr(..) => "net.CIDR",
            Self::Url(_) => "kubernetes.URL",
            Self::Quantity(_) => "kubernetes.Quantity",
            Self::Semver(_) => "kubernetes.Semver",
            Self::Format(_) => "kubernetes.NamedFormat",
            Self::Authorization(_) => "kubernetes.authorization.Authorizer",
            Self::Failed(_) => "error",
        }
    }

    /// The entries of a list of any sort.
    pub fn entries(&self) -> Option<&[Value]> {
        match self {
            Self::List(l) | Self::Set(l) => Some(l),
            Self::MapList(l) => Some(&l.1),
            _ => None,
        }
    }

    pub(crate) fn key(&self) -> Option<Key> {
        Some(match self {
            Self::Bool(b) => Key::Bool(*b),
            Self::Int(n) => Key::Int(i128::from(*n)),
            Self::Uint(n) => Key::Int(i128::from(*n)),
            Self::Double(n) if n.fract() == 0.0 && n.abs() < 1e18 => Key::Int(*n as i128),
            Self::String(s) => Key::String(s.clone()),
            _ => return None,
        })
    }

    /// Whether it is the value that a field of its type has when nothing was said.
    pub(crate) fn is_zero(&self) -> bool {
        match self {
            Self::Null => true,
            Self::Bool(b) => !b,
            Self::Int(n) => *n == 0,
            Self::Uint(n) => *n == 0,
            Self::Double(n) => *n == 0.0,
            Self::String(s) => s.is_empty(),
            Self::Bytes(b) => b.is_empty(),
            Self::Duration(d) => d.is_zero(),
            Self::Map(m) => m.is_empty(),
            Self::Message(m) => m.fields.is_empty(),
            Self::Optional(o) => o.is_none(),
            _ => self.entries().is_some_and(<[Value]>::is_empty),
        }
    }

    /// How long it is to walk over, for costs.
    pub(crate) fn size(&self) -> u64 {
        match self {
            Self::String(s) => s.chars().count() as u64,
            Self::Bytes(b) => b.len() as u64,
            Self::Map(m) => m.len() as u64,
            Self::Optional(Some(v)) => v.size(),
            _ => self.entries().map_or(1, |e| e.len() as u64),
        }
    }

    /// Order, where there is one.
    pub(crate) fn compare(&self, other: &Self) -> Option<Ordering> {
        Some(match (self, other) {
            (Self::Bool(a), Self::Bool(b)) => a.cmp(b),
            (Self::Int(a), Self::Int(b)) => a.cmp(b),
            (Self::Uint(a), Self::Uint(b)) => a.cmp(b),
            (Self::Int(a), Self::Uint(b)) => i128::from(*a).cmp(&i128::from(*b)),
            (Self::Uint(a), Self::Int(b)) => i128::from(*a).cmp(&i128::from(*b)),
            (Self::Double(a), Self::Double(b)) => return a.partial_cmp(b),
            (Self::Double(a), Self::Int(b)) => return compare_double(*a, i128::from(*b)),
            (Self::Double(a), Self::Uint(b)) => return compare_double(*a, i128::from(*b)),
            (Self::Int(a), Self::Double(b)) => {
                return compare_double(*b, i128::from(*a)).map(Ordering::reverse);
            }
            (Self::Uint(a), Self::Double(b)) => {
                return compare_double(*b, i128::from(*a)).map(Ordering::reverse);
            }
            (Self::String(a), Self::String(b)) => a.cmp(b),
            (Self::Bytes(a), Self::Bytes(b)) => a.cmp(b),
            (Self::Timestamp(a), Self::Timestamp(b)) => a.cmp(b),
            (Self::Duration(a), Self::Duration(b)) => a.cmp(b),
            _ => return None,
        })
    }
}

fn compare_double(a: f64, b: i128) -> Option<Ordering> {
    if a.is_nan() {
        return None;
    }
    if a >= 1e20 {
        return Some(Ordering::Greater);
    }
    if a <= -1e20 {
        return Some(Ordering::Less);
    }
    let whole = a.trunc() as i128;
    Some(whole.cmp(&b).then(a.fract().partial_cmp(&0.0)?))
}

fn number(n: &Number) -> Value {
    match (n.as_i64(), n.as_u64()) {
        (Some(n), _) => Value::Int(n),
        (None, Some(n)) => Value::Uint(n),
        _ => Value::Double(n.as_f64().unwrap_or_default()),
    }
}

/// Whether both lists have the same entries, in whatever order.
fn same_entries(a: &[Value], b: &[Value]) -> bool {
    if a.len() != b.len() {
        return false;
    }
    let keys = |list: &[Value]| list.iter().map(Value::key).collect::<Option<BTreeSet<_>>>();
    match (keys(a), keys(b)) {
        (Some(a), Some(b)) => a == b,
        _ => a.iter().all(|x| b.contains(x)) && b.iter().all(|x| a.contains(x)),
    }
}

/// What an entry of a list of objects is known by, where it has only keys that can be compared at once.
pub(crate) fn identity(entry: &Value, keys: &[String]) -> Option<Vec<Option<Key>>> {
    let Value::Map(map) = entry else { return None };
    let one = |name: &String| match map.get(&Key::String(name.as_str().into())) {
        None => Some(None),
        Some(value) => value.key().map(Some),
    };
    keys.iter().map(one).collect()
}

/// The entries of a list of objects by what they are known by, where that tells all of them apart.
fn by_identity<'a>(keys: &[String], list: &'a [Value]) -> Option<BTreeMap<Vec<Option<Key>>, &'a Value>> {
    let known: BTreeMap<_, _> =
        list.iter().map(|e| Some((identity(e, keys)?, e))).collect::<Option<BTreeMap<_, _>>>()?;
    (known.len() == list.len()).then_some(known)
}

/// As [`same_entries`], for lists of objects known by `keys`.
fn same_objects(keys: &[String], a: &[Value], b: &[Value]) -> bool {
    match (by_identity(keys, a), by_identity(keys, b)) {
        (Some(a), Some(b)) => a == b,
        _ => same_entries(a, b),
    }
}

/// How many pairs of entries are compared to find out whether two lists of the same length are equal where order does not
/// count; 0 where entries are found without that.
pub(crate) fn pairs(a: &Value, b: &Value) -> u64 {
    let (Some(x), Some(y)) = (a.entries(), b.entries()) else { return 0 };
    let found = match (a, b) {
        (Value::Set(_), _) | (_, Value::Set(_)) => x.iter().chain(y).all(|e| e.key().is_some()),
        (Value::MapList(list), _) | (_, Value::MapList(list)) => {
            by_identity(&list.0, x).is_some() && by_identity(&list.0, y).is_some()
        }
        _ => true,
    };
    if found { 0 } else { (x.len() as u64).saturating_mul(y.len() as u64) }
}

impl PartialEq for Value {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Null, Self::Null) => true,
            (Self::Map(a), Self::Map(b)) => a == b,
            (Self::Message(a), Self::Message(b)) => a == b,
            (Self::Set(a), b) | (b, Self::Set(a)) if b.entries().is_some() => {
                same_entries(a, b.entries().unwrap_or_default())
            }
            (Self::MapList(a), b) | (b, Self::MapList(a)) if b.entries().is_some() => {
                same_objects(&a.0, &a.1, b.entries().unwrap_or_default())
            }
            (Self::List(a), Self::List(b)) => a == b,
            (Self::Optional(a), Self::Optional(b)) => a == b,
            (Self::Type(a), Self::Type(b)) => a == b,
            (Self::Ip(a), Self::Ip(b)) => a == b,
            (Self::Cidr(a, b), Self::Cidr(c, d)) => a == c && b == d,
            (Self::Url(a), Self::Url(b)) => a == b,
            (Self::Quantity(a), Self::Quantity(b)) => a.cmp(b) == Ordering::Equal,
            (Self::Semver(a), Self::Semver(b)) => a == b,
            (Self::Format(a), Self::Format(b)) => a == b,
            (a, b) => a.compare(b) == Some(Ordering::Equal),
        }
    }
}
