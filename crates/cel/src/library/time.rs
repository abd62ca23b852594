//! Times and lengths of time: parts of them, and Go's way of writing lengths.

use super::Outcome;
use crate::value::Value;
use jiff::{SignedDuration, tz::TimeZone};

/// `1h2m3.5s`, `-1.5h`, `100ms`: how Go writes and reads lengths of time.
pub fn parse_duration(text: &str) -> Option<SignedDuration> {
    let (negative, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Some(SignedDuration::ZERO);
    }
    if rest.is_empty() {
        return None;
    }
    let mut nanos: i128 = 0;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, tail) = rest.split_at(end);
        let (unit, scale): (&str, i128) = [
            ("ns", 1),
            ("us", 1_000),
            ("µs", 1_000),
            ("μs", 1_000),
            ("ms", 1_000_000),
            ("s", 1_000_000_000),
            ("m", 60_000_000_000),
            ("h", 3_600_000_000_000),
        ]
        .into_iter()
        .find(|(unit, _)| {
            tail.strip_prefix(unit).is_some_and(|t| !t.starts_with(|c: char| c.is_alphabetic()))
        })?;
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if whole.is_empty() && fraction.is_empty() || whole.len() > 19 || fraction.contains('.') {
            return None;
        }
        let whole: i128 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
        nanos = nanos.checked_add(whole.checked_mul(scale)?)?;
        let mut step = scale;
        for digit in fraction.bytes() {
            step /= 10;
            nanos += i128::from(digit - b'0') * step;
        }
        rest = &tail[unit.len()..];
    }
    let nanos = i64::try_from(if negative { -nanos } else { nanos }).ok()?;
    Some(SignedDuration::from_nanos(nanos))
}

/// A length as Go's `time.Duration` reads: `1.5s`, as the language writes it (seconds only).
pub(crate) fn duration_text(duration: SignedDuration) -> String {
    let nanos = duration.as_nanos();
    let (whole, fraction) = (nanos.unsigned_abs() / 1_000_000_000, nanos.unsigned_abs() % 1_000_000_000);
    let sign = if nanos < 0 { "-" } else { "" };
    if fraction == 0 {
        return format!("{sign}{whole}s");
    }
    let digits = format!("{fraction:09}");
    format!("{sign}{whole}.{}s", digits.trim_end_matches('0'))
}

fn zone(name: &str) -> Option<TimeZone> {
    if name.is_empty() || name.eq_ignore_ascii_case("utc") {
        return Some(TimeZone::UTC);
    }
    // `+01:30`, `-08:00`.
    let (sign, rest) = match name.as_bytes()[0] {
        b'-' => (-1, &name[1..]),
        b'+' => (1, &name[1..]),
        b'0'..=b'9' => (1, name),
        _ => return TimeZone::get(name).ok(),
    };
    let (hours, minutes) = rest.split_once(':')?;
    let (hours, minutes): (i32, i32) = (hours.parse().ok()?, minutes.parse().ok()?);
    if !(0..24).contains(&hours) || !(0..60).contains(&minutes) {
        return None;
    }
    jiff::tz::Offset::from_seconds(sign * (hours * 3600 + minutes * 60)).ok().map(|o| o.to_time_zone())
}

pub(super) fn call(function: &str, args: &[Value]) -> Option<Outcome> {
    if let [Value::Duration(d)] = args {
        return Some(Ok(Value::Int(match function {
            "getHours" => d.as_secs() / 3600,
            "getMinutes" => d.as_secs() / 60,
            "getSeconds" => d.as_secs(),
            "getMilliseconds" => i64::try_from(d.as_millis()).unwrap_or(i64::MAX),
            _ => return None,
        })));
    }
    let (time, name) = match args {
        [Value::Timestamp(t)] => (t, ""),
        [Value::Timestamp(t), Value::String(zone)] => (t, &**zone),
        _ => return None,
    };
    let Some(zone) = zone(name) else {
        return Some(Err(format!("unknown time zone {name}")));
    };
    let t = time.to_zoned(zone);
    Some(Ok(Value::Int(match function {
        "getFullYear" => i64::from(t.year()),
        "getMonth" => i64::from(t.month()) - 1,
        "getDayOfYear" => i64::from(t.day_of_year()) - 1,
        "getDayOfMonth" => i64::from(t.day()) - 1,
        "getDate" => i64::from(t.day()),
        "getDayOfWeek" => i64::from(t.weekday().to_sunday_zero_offset()),
        "getHours" => i64::from(t.hour()),
        "getMinutes" => i64::from(t.minute()),
        "getSeconds" => i64::from(t.second()),
        "getMilliseconds" => i64::from(t.millisecond()),
        _ => return None,
    })))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_of_time_are_read_as_go_reads_them() {
        for (text, nanos) in [
            ("1h", Some(3_600_000_000_000)),
            ("1h2m3.5s", Some(3_723_500_000_000)),
            ("-1.5h", Some(-5_400_000_000_000)),
            ("100ms", Some(100_000_000)),
            ("1µs", Some(1000)),
            ("0", Some(0)),
            ("", None),
            ("1", None),
            ("1d", None),
            (".s", None),
            ("1.2.3s", None),
            ("9999999999999999999h", None),
        ] {
            assert_eq!(parse_duration(text).map(|d| d.as_nanos()), nanos, "{text}");
        }
        assert_eq!(duration_text(SignedDuration::from_millis(-1500)), "-1.5s");
    }
}
