//! What types each function takes and gives, for the checker. One line an overload: `receiver|name(arguments)->result`;
//! a capital letter is a type that the call decides.

use crate::types::Type;
use std::{
    collections::HashMap,
    sync::{Arc, LazyLock},
};

/// One overload.
#[derive(Debug)]
pub(crate) struct Overload {
    /// Whether it is called as `receiver.name(…)`.
    pub method: bool,
    /// Types of the receiver, if any, and the arguments.
    pub args: Vec<Type>,
    pub result: Type,
}

const TABLE: &str = "
|_==_(A,A)->bool
|_!=_(A,A)->bool
|!_(bool)->bool
|-_(int)->int
|-_(double)->double
|_&&_(bool,bool)->bool
|_||_(bool,bool)->bool
|_?_:_(bool,A,A)->A
|_+_(int,int)->int
|_+_(uint,uint)->uint
|_+_(double,double)->double
|_+_(string,string)->string
|_+_(bytes,bytes)->bytes
|_+_(list(A),list(A))->list(A)
|_+_(timestamp,duration)->timestamp
|_+_(duration,timestamp)->timestamp
|_+_(duration,duration)->duration
|_-_(int,int)->int
|_-_(uint,uint)->uint
|_-_(double,double)->double
|_-_(timestamp,timestamp)->duration
|_-_(timestamp,duration)->timestamp
|_-_(duration,duration)->duration
|_*_(int,int)->int
|_*_(uint,uint)->uint
|_*_(double,double)->double
|_/_(int,int)->int
|_/_(uint,uint)->uint
|_/_(double,double)->double
|_%_(int,int)->int
|_%_(uint,uint)->uint
|@in(A,list(A))->bool
|@in(A,map(A,B))->bool
|_[_](list(A),int)->A
|_[_](map(A,B),A)->B
|_[_](optional(list(A)),int)->optional(A)
|_[_](optional(map(A,B)),A)->optional(B)
|_[?_](list(A),int)->optional(A)
|_[?_](map(A,B),A)->optional(B)
|_[?_](optional(list(A)),int)->optional(A)
|_[?_](optional(map(A,B)),A)->optional(B)
|size(string)->int
|size(bytes)->int
|size(list(A))->int
|size(map(A,B))->int
string|size()->int
bytes|size()->int
list(A)|size()->int
map(A,B)|size()->int
|type(A)->type
|dyn(A)->dyn
|bool(bool)->bool
|bool(string)->bool
|int(int)->int
|int(uint)->int
|int(double)->int
|int(string)->int
|int(timestamp)->int
|int(duration)->int
|uint(uint)->uint
|uint(int)->uint
|uint(double)->uint
|uint(string)->uint
|double(double)->double
|double(int)->double
|double(uint)->double
|double(string)->double
|string(string)->string
|string(bool)->string
|string(int)->string
|string(uint)->string
|string(double)->string
|string(bytes)->string
|string(timestamp)->string
|string(duration)->string
|string(ip)->string
|string(cidr)->string
|bytes(bytes)->bytes
|bytes(string)->bytes
|timestamp(string)->timestamp
|timestamp(int)->timestamp
|timestamp(timestamp)->timestamp
|duration(string)->duration
|duration(duration)->duration
timestamp|getFullYear()->int
timestamp|getMonth()->int
timestamp|getDayOfYear()->int
timestamp|getDayOfMonth()->int
timestamp|getDate()->int
timestamp|getDayOfWeek()->int
timestamp|getHours()->int
timestamp|getMinutes()->int
timestamp|getSeconds()->int
timestamp|getMilliseconds()->int
timestamp|getFullYear(string)->int
timestamp|getMonth(string)->int
timestamp|getDayOfYear(string)->int
timestamp|getDayOfMonth(string)->int
timestamp|getDate(string)->int
timestamp|getDayOfWeek(string)->int
timestamp|getHours(string)->int
timestamp|getMinutes(string)->int
timestamp|getSeconds(string)->int
timestamp|getMilliseconds(string)->int
duration|getHours()->int
duration|getMinutes()->int
duration|getSeconds()->int
duration|getMilliseconds()->int
string|contains(string)->bool
string|startsWith(string)->bool
string|endsWith(string)->bool
string|matches(string)->bool
|matches(string,string)->bool
string|charAt(int)->string
string|indexOf(string)->int
string|indexOf(string,int)->int
string|lastIndexOf(string)->int
string|lastIndexOf(string,int)->int
string|lowerAscii()->string
string|upperAscii()->string
string|replace(string,string)->string
string|replace(string,string,int)->string
string|split(string)->list(string)
string|split(string,int)->list(string)
string|substring(int)->string
string|substring(int,int)->string
string|trim()->string
string|format(list(dyn))->string
|strings.quote(string)->string
|jsonpatch.escapeKey(string)->string
list(string)|join()->string
list(string)|join(string)->string
string|find(string)->string
string|findAll(string)->list(string)
string|findAll(string,int)->list(string)
list(int)|isSorted()->bool
list(uint)|isSorted()->bool
list(double)|isSorted()->bool
list(bool)|isSorted()->bool
list(string)|isSorted()->bool
list(bytes)|isSorted()->bool
list(duration)|isSorted()->bool
list(timestamp)|isSorted()->bool
list(int)|sum()->int
list(uint)|sum()->uint
list(double)|sum()->double
list(duration)|sum()->duration
list(int)|min()->int
list(uint)|min()->uint
list(double)|min()->double
list(bool)|min()->bool
list(string)|min()->string
list(bytes)|min()->bytes
list(duration)|min()->duration
list(timestamp)|min()->timestamp
list(int)|max()->int
list(uint)|max()->uint
list(double)|max()->double
list(bool)|max()->bool
list(string)|max()->string
list(bytes)|max()->bytes
list(duration)|max()->duration
list(timestamp)|max()->timestamp
list(A)|indexOf(A)->int
list(A)|lastIndexOf(A)->int
|sets.contains(list(A),list(A))->bool
|sets.equivalent(list(A),list(A))->bool
|sets.intersects(list(A),list(A))->bool
|url(string)->url
|isURL(string)->bool
url|getScheme()->string
url|getHost()->string
url|getHostname()->string
url|getPort()->string
url|getEscapedPath()->string
url|getQuery()->map(string,list(string))
|ip(string)->ip
|isIP(string)->bool
|ip.isCanonical(string)->bool
ip|family()->int
ip|isUnspecified()->bool
ip|isLoopback()->bool
ip|isLinkLocalMulticast()->bool
ip|isLinkLocalUnicast()->bool
ip|isGlobalUnicast()->bool
|cidr(string)->cidr
|isCIDR(string)->bool
cidr|containsIP(string)->bool
cidr|containsIP(ip)->bool
cidr|containsCIDR(string)->bool
cidr|containsCIDR(cidr)->bool
cidr|ip()->ip
cidr|masked()->cidr
cidr|prefixLength()->int
|quantity(string)->quantity
|isQuantity(string)->bool
quantity|sign()->int
quantity|isInteger()->bool
quantity|asInteger()->int
quantity|asApproximateFloat()->double
quantity|add(quantity)->quantity
quantity|add(int)->quantity
quantity|sub(quantity)->quantity
quantity|sub(int)->quantity
quantity|isLessThan(quantity)->bool
quantity|isGreaterThan(quantity)->bool
quantity|compareTo(quantity)->int
|semver(string)->semver
|semver(string,bool)->semver
|isSemver(string)->bool
|isSemver(string,bool)->bool
semver|major()->int
semver|minor()->int
semver|patch()->int
semver|isLessThan(semver)->bool
semver|isGreaterThan(semver)->bool
semver|compareTo(semver)->int
|format.named(string)->optional(format)
|format.dns1123Label()->format
|format.dns1123Subdomain()->format
|format.dns1035Label()->format
|format.qualifiedName()->format
|format.dns1123LabelPrefix()->format
|format.dns1123SubdomainPrefix()->format
|format.dns1035LabelPrefix()->format
|format.labelValue()->format
|format.uri()->format
|format.uuid()->format
|format.byte()->format
|format.date()->format
|format.datetime()->format
format|validate(string)->optional(list(string))
|optional.of(A)->optional(A)
|optional.ofNonZeroValue(A)->optional(A)
|optional.none()->optional(A)
optional(A)|hasValue()->bool
optional(A)|value()->A
optional(A)|orValue(A)->A
optional(A)|or(optional(A))->optional(A)
authorizer|path(string)->pathcheck
authorizer|group(string)->groupcheck
authorizer|serviceAccount(string,string)->authorizer
authorizer|requestResource()->resourcecheck
groupcheck|resource(string)->resourcecheck
resourcecheck|subresource(string)->resourcecheck
resourcecheck|namespace(string)->resourcecheck
resourcecheck|name(string)->resourcecheck
resourcecheck|fieldSelector(string)->resourcecheck
resourcecheck|labelSelector(string)->resourcecheck
resourcecheck|check(string)->decision
pathcheck|check(string)->decision
decision|allowed()->bool
decision|reason()->string
decision|errored()->bool
decision|error()->string
";

static OVERLOADS: LazyLock<HashMap<&'static str, Vec<Overload>>> = LazyLock::new(|| {
    let mut out: HashMap<&'static str, Vec<Overload>> = HashMap::new();
    for line in TABLE.lines().filter(|l| !l.is_empty()) {
        if let Some((name, overload)) = read(line) {
            out.entry(name).or_default().push(overload);
        }
    }
    for compare in ["_<_", "_<=_", "_>_", "_>=_"] {
        let same = [Type::Bool, Type::String, Type::Bytes, Type::Timestamp, Type::Duration];
        let numbers = [Type::Int, Type::Uint, Type::Double];
        let pairs = same
            .iter()
            .map(|t| (t, t))
            .chain(numbers.iter().flat_map(|a| numbers.iter().map(move |b| (a, b))));
        let overloads = pairs.map(|(a, b)| Overload {
            method: false,
            args: vec![a.clone(), b.clone()],
            result: Type::Bool,
        });
        out.insert(compare, overloads.collect());
    }
    out
});

/// All overloads of a name.
pub(crate) fn overloads(function: &str) -> Option<&'static [Overload]> {
    OVERLOADS.get(function).map(Vec::as_slice)
}

/// Whether `namespace.name` is a function.
pub(crate) fn is_qualified(namespace: &str, name: &str) -> bool {
    matches!(namespace, "sets" | "ip" | "format" | "optional" | "strings" | "jsonpatch")
        && OVERLOADS.contains_key(format!("{namespace}.{name}").as_str())
}

/// Types of the libraries by their names in the table and in messages.
pub(crate) const OPAQUE: [(&str, &str); 11] = [
    ("ip", "net.IP"),
    ("cidr", "net.CIDR"),
    ("url", "kubernetes.URL"),
    ("quantity", "kubernetes.Quantity"),
    ("semver", "kubernetes.Semver"),
    ("format", "kubernetes.NamedFormat"),
    ("authorizer", "kubernetes.authorization.Authorizer"),
    ("pathcheck", "kubernetes.authorization.PathCheck"),
    ("groupcheck", "kubernetes.authorization.GroupCheck"),
    ("resourcecheck", "kubernetes.authorization.ResourceCheck"),
    ("decision", "kubernetes.authorization.Decision"),
];

fn read(line: &'static str) -> Option<(&'static str, Overload)> {
    let (receiver, rest) = line
        .split_once('|')
        .filter(|_| !line.starts_with("|_||_"))
        .or_else(|| line.strip_prefix('|').map(|rest| ("", rest)))?;
    let (rest, result) = rest.rsplit_once("->")?;
    let (name, args) = rest.split_once('(')?;
    let args = args.strip_suffix(')')?;
    let mut types = Vec::new();
    if !receiver.is_empty() {
        types.push(ty(receiver)?);
    }
    for arg in split(args) {
        types.push(ty(arg)?);
    }
    Some((name, Overload { method: !receiver.is_empty(), args: types, result: ty(result)? }))
}

/// Splits at the commas that are in no parentheses.
fn split(text: &str) -> Vec<&str> {
    let (mut out, mut depth, mut start) = (Vec::new(), 0, 0);
    for (at, c) in text.char_indices() {
        match c {
            '(' => depth += 1,
            ')' => depth -= 1,
            ',' if depth == 0 => {
                out.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    if start < text.len() {
        out.push(&text[start..]);
    }
    out
}

fn ty(text: &str) -> Option<Type> {
    if let Some((outer, inner)) = text.strip_suffix(')').and_then(|t| t.split_once('(')) {
        let inner: Vec<Type> = split(inner).into_iter().map(ty).collect::<Option<_>>()?;
        return Some(match (outer, inner.as_slice()) {
            ("list", [entry]) => Type::list(entry.clone()),
            ("optional", [value]) => Type::Optional(Arc::new(value.clone())),
            ("map", [key, value]) => Type::map(key.clone(), value.clone()),
            _ => return None,
        });
    }
    Some(match text {
        "dyn" => Type::Dyn,
        "bool" => Type::Bool,
        "int" => Type::Int,
        "uint" => Type::Uint,
        "double" => Type::Double,
        "string" => Type::String,
        "bytes" => Type::Bytes,
        "timestamp" => Type::Timestamp,
        "duration" => Type::Duration,
        "type" => Type::Type,
        "A" | "B" => Type::Param(text.chars().next()?),
        _ => Type::Opaque(OPAQUE.iter().find(|(name, _)| *name == text)?.1),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_of_the_table_is_an_overload() {
        for line in TABLE.lines().filter(|l| !l.is_empty()) {
            assert!(read(line).is_some(), "{line}");
        }
        assert_eq!(overloads("_||_").unwrap().len(), 1);
        assert_eq!(overloads("_<_").unwrap().len(), 14);
    }
}
