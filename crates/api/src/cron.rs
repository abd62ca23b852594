//! Schedules of CronJobs: the five fields of cron and the `@` names, as the schedule parser that Kubernetes uses reads
//! them. Says whether one is right, in that parser's words; when it fires is the controller's business.

/// What is wrong with a schedule.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ScheduleError(String);

fn wrong<T>(why: String) -> Result<T, ScheduleError> {
    Err(ScheduleError(why))
}

/// One of the five fields: its smallest and largest number, and the names of its numbers.
struct Field {
    least: u64,
    most: u64,
    names: &'static [&'static str],
    /// The number of the first name.
    first: u64,
}

const MONTHS: [&str; 12] =
    ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
const DAYS: [&str; 7] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];

const FIELDS: [Field; 5] = [
    Field { least: 0, most: 59, names: &[], first: 0 },
    Field { least: 0, most: 23, names: &[], first: 0 },
    Field { least: 1, most: 31, names: &[], first: 0 },
    Field { least: 1, most: 12, names: &MONTHS, first: 1 },
    Field { least: 0, most: 6, names: &DAYS, first: 0 },
];

const DESCRIPTORS: [&str; 7] =
    ["@yearly", "@annually", "@monthly", "@weekly", "@daily", "@midnight", "@hourly"];

/// Whether a text is a schedule. A time zone in front (`TZ=…`) is read over: whether it may stand there is not this
/// module's to say.
///
/// # Errors
/// With what is wrong, where something is.
pub fn check(schedule: &str) -> Result<(), ScheduleError> {
    if schedule.is_empty() {
        return wrong("empty spec string".into());
    }
    let mut rest = schedule;
    if rest.starts_with("TZ=") || rest.starts_with("CRON_TZ=") {
        rest = rest.split_once(' ').map_or("", |(_, rest)| rest).trim();
    }
    if rest.starts_with('@') {
        return check_descriptor(rest);
    }
    let fields: Vec<&str> = rest.split_whitespace().collect();
    if fields.len() != FIELDS.len() {
        let shown = fields.join(" ");
        return wrong(format!("expected exactly 5 fields, found {}: [{shown}]", fields.len()));
    }
    fields.iter().zip(&FIELDS).try_for_each(|(text, field)| check_field(text, field))
}

fn check_descriptor(text: &str) -> Result<(), ScheduleError> {
    if DESCRIPTORS.contains(&text) {
        return Ok(());
    }
    match text.strip_prefix("@every ") {
        Some(duration) if is_go_duration(duration) => Ok(()),
        Some(duration) => {
            wrong(format!("failed to parse duration {text}: time: invalid duration {duration:?}"))
        }
        None => wrong(format!("unrecognized descriptor: {text}")),
    }
}

/// `1h30m`, `-1.5s`, `0`.
fn is_go_duration(text: &str) -> bool {
    let mut rest = text.strip_prefix(['-', '+']).unwrap_or(text);
    if rest == "0" {
        return true;
    }
    if rest.is_empty() {
        return false;
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (number, after) = rest.split_at(digits);
        if !number.bytes().any(|b| b.is_ascii_digit()) || number.matches('.').count() > 1 {
            return false;
        }
        // The longer units first: `ms` is no `m`.
        let units = ["ns", "us", "µs", "μs", "ms", "s", "m", "h"];
        match units.iter().find_map(|unit| after.strip_prefix(unit)) {
            Some(next) => rest = next,
            None => return false,
        }
    }
    true
}

fn check_field(text: &str, field: &Field) -> Result<(), ScheduleError> {
    text.split(',').filter(|part| !part.is_empty()).try_for_each(|part| check_range(part, field))
}

fn check_range(text: &str, field: &Field) -> Result<(), ScheduleError> {
    let parts: Vec<&str> = text.split('/').collect();
    let bounds: Vec<&str> = parts[0].split('-').collect();
    let (start, mut end) = match bounds[..] {
        ["*" | "?", ..] => (field.least, field.most),
        [only] => {
            let number = number_or_name(only, field)?;
            (number, number)
        }
        [from, to] => (number_or_name(from, field)?, number_or_name(to, field)?),
        _ => return wrong(format!("too many hyphens: {text}")),
    };
    let step = match parts[..] {
        [_] => 1,
        [_, step] => {
            if bounds.len() == 1 {
                // From there on, in steps.
                end = field.most;
            }
            number(step)?
        }
        _ => return wrong(format!("too many slashes: {text}")),
    };
    match () {
        () if start < field.least => {
            wrong(format!("beginning of range ({start}) below minimum ({}): {text}", field.least))
        }
        () if end > field.most => {
            wrong(format!("end of range ({end}) above maximum ({}): {text}", field.most))
        }
        () if start > end => {
            wrong(format!("beginning of range ({start}) beyond end of range ({end}): {text}"))
        }
        () if step == 0 => wrong(format!("step of range should be a positive number: {text}")),
        () => Ok(()),
    }
}

fn number_or_name(text: &str, field: &Field) -> Result<u64, ScheduleError> {
    let lower = text.to_lowercase();
    match field.names.iter().zip(field.first..).find(|(name, _)| **name == lower) {
        Some((_, number)) => Ok(number),
        None => number(text),
    }
}

fn number(text: &str) -> Result<u64, ScheduleError> {
    match text.parse::<i64>() {
        Ok(number) => u64::try_from(number)
            .or_else(|_| wrong(format!("negative number ({number}) not allowed: {text}"))),
        Err(_) => {
            wrong(format!("failed to parse int from {text}: strconv.Atoi: parsing {text:?}: invalid syntax"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schedules_that_are_right() {
        for schedule in [
            "* * * * *",
            "*/5 0 1,15 * MON-fri",
            "0 0 ? jan-DEC/2 sun",
            "59 23 31 12 6",
            "1-5/2 * * * *",
            "5/15 * * * *",
            "@hourly",
            "@every 1h30m",
            "@every 1.5s",
            "TZ=UTC 0 * * * *",
            "CRON_TZ=Europe/Berlin @daily",
            "  0  *  * * *  ",
        ] {
            assert_eq!(check(schedule), Ok(()), "{schedule}");
        }
    }

    #[test]
    fn schedules_that_are_wrong_and_why() {
        for (schedule, why) in [
            ("", "empty spec string"),
            ("error", "expected exactly 5 fields, found 1: [error]"),
            ("* * * * * *", "expected exactly 5 fields, found 6: [* * * * * *]"),
            ("60 * * * *", "end of range (60) above maximum (59): 60"),
            ("* * 0 * *", "beginning of range (0) below minimum (1): 0"),
            ("5-1 * * * *", "beginning of range (5) beyond end of range (1): 5-1"),
            ("*/0 * * * *", "step of range should be a positive number: */0"),
            ("1-2-3 * * * *", "too many hyphens: 1-2-3"),
            ("1/2/3 * * * *", "too many slashes: 1/2/3"),
            (
                "* * * * noday",
                "failed to parse int from noday: strconv.Atoi: parsing \"noday\": invalid syntax",
            ),
            ("* * * * 7", "end of range (7) above maximum (6): 7"),
            ("@never", "unrecognized descriptor: @never"),
            ("@every x", "failed to parse duration @every x: time: invalid duration \"x\""),
        ] {
            assert_eq!(check(schedule).unwrap_err().to_string(), why, "{schedule:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "[-@A-Za-z0-9*/?, =éµ.]{0,24}") {
            let _ = check(&text);
        }
    }
}
