//! What an expression costs, in the units of Kubernetes' limits: about one for a look at a value, a tenth for a character.
//! The same rule prices a call while evaluating (with true sizes) and before (with the largest possible ones).

/// A part of a size, rounded up.
fn part(size: u64, factor: f64) -> u64 {
    (size as f64 * factor).ceil() as u64
}

const CHARACTER: f64 = 0.1;
const REGEX: f64 = 0.25;

/// What making a list costs.
pub(crate) const LIST: u64 = 10;
/// What making a map costs.
pub(crate) const MAP: u64 = 30;
/// What making an object costs.
pub(crate) const MESSAGE: u64 = 40;
/// What a turn of a macro costs besides its step.
pub(crate) const TURN: u64 = 3;

/// What calling a function with arguments of these sizes costs, without its arguments.
pub(crate) fn call(function: &str, sizes: &[u64]) -> u64 {
    let size = |at: usize| sizes.get(at).copied().unwrap_or(1);
    match function {
        "_&&_" | "_||_" | "_?_:_" => 0,
        "_==_" | "_!=_" | "_<_" | "_<=_" | "_>_" | "_>=_" => part(size(0).min(size(1)), CHARACTER).max(1),
        "_+_" if sizes.iter().any(|s| *s > 1) => part(size(0).saturating_add(size(1)), CHARACTER).max(1),
        "@in" => size(1).max(1),
        "startsWith" | "endsWith" => part(size(1), CHARACTER),
        "contains" => part(size(0), CHARACTER).saturating_mul(part(size(1), CHARACTER)),
        "matches" | "find" | "findAll" => {
            part(size(0).saturating_add(1), CHARACTER).saturating_mul(part(size(1), REGEX).max(1))
        }
        "sum" | "min" | "max" | "isSorted" | "indexOf" | "lastIndexOf" => size(0).max(1),
        "sets.contains" | "sets.equivalent" | "sets.intersects" => size(0).saturating_mul(size(1)).max(1),
        "string"
        | "bytes"
        | "url"
        | "isURL"
        | "ip"
        | "isIP"
        | "cidr"
        | "isCIDR"
        | "quantity"
        | "isQuantity"
        | "semver"
        | "isSemver"
        | "validate"
        | "lowerAscii"
        | "upperAscii"
        | "replace"
        | "split"
        | "substring"
        | "trim"
        | "charAt"
        | "join"
        | "strings.quote"
        | "jsonpatch.escapeKey"
        | "format" => part(size(0), CHARACTER).max(1),
        "check" => 350_000,
        _ => 1,
    }
}

/// The size that the result of a call can have.
pub(crate) fn result(function: &str, sizes: &[u64]) -> u64 {
    let size = |at: usize| sizes.get(at).copied().unwrap_or(1);
    match function {
        "_+_" => size(0).saturating_add(size(1)),
        "_?_:_" => size(1).max(size(2)),
        "replace" => size(0).saturating_add(1).saturating_mul(size(2).saturating_add(1)),
        "jsonpatch.escapeKey" => size(0).saturating_mul(2),
        "format" | "join" | "strings.quote" => u64::MAX,
        "orValue" | "or" => size(0).max(size(1)),
        "lowerAscii" | "upperAscii" | "trim" | "substring" | "split" | "findAll" | "find" | "string"
        | "bytes" | "dyn" => size(0),
        _ => 1,
    }
}
