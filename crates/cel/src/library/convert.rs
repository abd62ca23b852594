//! Conversions between types.

use super::{Outcome, time};
use crate::value::Value;

const MAX: f64 = 9_223_372_036_854_775_808.0;

pub(super) fn call(function: &str, args: &[Value]) -> Option<Outcome> {
    let [value] = args else { return None };
    let range = || "range error".to_string();
    let unreadable =
        |what: &str, text: &str| format!("type conversion error from 'string' to '{what}': {text:?}");
    Some(match (function, value) {
        ("dyn", value) => Ok(value.clone()),
        ("type", value) => Ok(Value::Type(value.type_name().into())),
        ("bool", Value::Bool(_))
        | ("int", Value::Int(_))
        | ("uint", Value::Uint(_))
        | ("double", Value::Double(_))
        | ("string", Value::String(_))
        | ("bytes", Value::Bytes(_))
        | ("timestamp", Value::Timestamp(_))
        | ("duration", Value::Duration(_)) => Ok(value.clone()),
        ("bool", Value::String(s)) => match &**s {
            "true" | "TRUE" | "True" | "t" | "1" => Ok(Value::Bool(true)),
            "false" | "FALSE" | "False" | "f" | "0" => Ok(Value::Bool(false)),
            _ => Err(unreadable("bool", s)),
        },
        ("int", Value::Uint(n)) => i64::try_from(*n).map(Value::Int).map_err(|_| range()),
        ("int", Value::Double(n)) if n.is_finite() && *n > -MAX && *n < MAX => Ok(Value::Int(*n as i64)),
        ("int" | "uint", Value::Double(n)) if function == "int" || *n < 0.0 || !n.is_finite() => Err(range()),
        ("int", Value::String(s)) => s.parse().map(Value::Int).map_err(|_| unreadable("int", s)),
        ("int", Value::Timestamp(t)) => Ok(Value::Int(t.as_second())),
        ("int", Value::Duration(d)) => i64::try_from(d.as_nanos()).map(Value::Int).map_err(|_| range()),
        ("uint", Value::Int(n)) => u64::try_from(*n).map(Value::Uint).map_err(|_| range()),
        ("uint", Value::Double(n)) if *n < 2.0 * MAX => Ok(Value::Uint(*n as u64)),
        ("uint", Value::Double(_)) => Err(range()),
        ("uint", Value::String(s)) => s.parse().map(Value::Uint).map_err(|_| unreadable("uint", s)),
        ("double", Value::Int(n)) => Ok(Value::Double(*n as f64)),
        ("double", Value::Uint(n)) => Ok(Value::Double(*n as f64)),
        ("double", Value::String(s)) => s.parse().map(Value::Double).map_err(|_| unreadable("double", s)),
        ("string", Value::Bool(b)) => Ok(Value::string(b.to_string())),
        ("string", Value::Int(n)) => Ok(Value::string(n.to_string())),
        ("string", Value::Uint(n)) => Ok(Value::string(n.to_string())),
        ("string", Value::Double(n)) => Ok(Value::string(n.to_string())),
        ("string", Value::Bytes(b)) => match std::str::from_utf8(b) {
            Ok(text) => Ok(Value::string(text)),
            Err(_) => Err("invalid UTF-8 in bytes, cannot convert to string".into()),
        },
        ("string", Value::Timestamp(t)) => Ok(Value::string(t.to_string())),
        ("string", Value::Duration(d)) => Ok(Value::string(time::duration_text(*d))),
        ("string", Value::Ip(ip)) => Ok(Value::string(ip.to_string())),
        ("string", Value::Cidr(ip, bits)) => Ok(Value::string(format!("{ip}/{bits}"))),
        ("bytes", Value::String(s)) => Ok(Value::Bytes(s.as_bytes().into())),
        ("timestamp", Value::String(s)) => {
            s.parse().map(Value::Timestamp).map_err(|_| unreadable("google.protobuf.Timestamp", s))
        }
        ("timestamp", Value::Int(n)) => {
            jiff::Timestamp::from_second(*n).map(Value::Timestamp).map_err(|_| range())
        }
        ("duration", Value::String(s)) => time::parse_duration(s)
            .map(Value::Duration)
            .ok_or_else(|| unreadable("google.protobuf.Duration", s)),
        _ => return None,
    })
}
