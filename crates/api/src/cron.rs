//! Schedules of CronJobs: the five fields of cron and the `@` names, as the schedule parser that Kubernetes uses reads
//! them. Says whether one is right, in that parser's words, and when it fires next; what then happens is the controller's
//! business.

use jiff::{SignedDuration, Timestamp, ToSpan, Zoned, tz::TimeZone};

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

/// When something happens again and again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Schedule {
    /// At the minutes that the five fields name.
    Fields(Fields),
    /// After so many whole seconds each time.
    Every(i64),
}

/// The five fields: a bit for each number that is named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fields {
    minutes: u64,
    hours: u64,
    days: u64,
    months: u64,
    weekdays: u64,
    /// Whether days, or weekdays, are left open (`*`): then the other of the two decides alone.
    open_days: bool,
    open_weekdays: bool,
}

/// Whether a text is a schedule. A time zone in front (`TZ=…`) is read over: whether it may stand there is not this
/// module's to say.
///
/// # Errors
/// With what is wrong, where something is.
pub fn check(schedule: &str) -> Result<(), ScheduleError> {
    parse(schedule).map(|_| ())
}

/// Reads a schedule, as [`check`] does.
///
/// # Errors
/// With what is wrong, where something is.
pub fn parse(schedule: &str) -> Result<Schedule, ScheduleError> {
    if schedule.is_empty() {
        return wrong("empty spec string".into());
    }
    let mut rest = schedule;
    if rest.starts_with("TZ=") || rest.starts_with("CRON_TZ=") {
        rest = rest.split_once(' ').map_or("", |(_, rest)| rest).trim();
    }
    if rest.starts_with('@') {
        return parse_descriptor(rest);
    }
    let fields: Vec<&str> = rest.split_whitespace().collect();
    if fields.len() != FIELDS.len() {
        let shown = fields.join(" ");
        return wrong(format!("expected exactly 5 fields, found {}: [{shown}]", fields.len()));
    }
    let mut read = [(0, false); 5];
    for ((text, field), read) in fields.iter().zip(&FIELDS).zip(&mut read) {
        *read = parse_field(text, field)?;
    }
    let [minutes, hours, days, months, weekdays] = read;
    Ok(Schedule::Fields(Fields {
        minutes: minutes.0,
        hours: hours.0,
        days: days.0,
        months: months.0,
        weekdays: weekdays.0,
        open_days: days.1,
        open_weekdays: weekdays.1,
    }))
}

fn parse_descriptor(text: &str) -> Result<Schedule, ScheduleError> {
    let fields = match text {
        "@yearly" | "@annually" => "0 0 1 1 *",
        "@monthly" => "0 0 1 * *",
        "@weekly" => "0 0 * * 0",
        "@daily" | "@midnight" => "0 0 * * *",
        "@hourly" => "0 * * * *",
        _ => {
            return match text.strip_prefix("@every ") {
                Some(duration) => match go_duration(duration) {
                    Some(seconds) => Ok(Schedule::Every((seconds as i64).max(1))),
                    None => {
                        wrong(format!("failed to parse duration {text}: time: invalid duration {duration:?}"))
                    }
                },
                None => wrong(format!("unrecognized descriptor: {text}")),
            };
        }
    };
    parse(fields)
}

/// How far ahead a time is looked for: a schedule that never fires (30 February) has none.
const YEARS: i16 = 5;

impl Schedule {
    /// The first time after `after` at which it fires, by the clocks of a time zone.
    pub fn next(&self, after: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        match self {
            Self::Every(seconds) => {
                let whole = Timestamp::from_second(after.as_second()).ok()?;
                whole.checked_add(SignedDuration::from_secs(*seconds)).ok()
            }
            Self::Fields(fields) => fields.next(after, zone),
        }
    }
}

impl Fields {
    fn next(&self, after: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        let bit = |bits: u64, number: i8| u8::try_from(number).is_ok_and(|n| bits & (1 << n) != 0);
        let start = Timestamp::from_second(after.as_second()).ok()?;
        let mut at = start.checked_add(SignedDuration::from_secs(1)).ok()?.to_zoned(zone.clone());
        let last = at.year().checked_add(YEARS)?;
        // Up to the next whole minute.
        if at.second() > 0 {
            at = at.checked_add(SignedDuration::from_secs(60 - i64::from(at.second()))).ok()?;
        }
        while at.year() <= last {
            at = if !bit(self.months, at.month()) {
                later(&at, at.first_of_month().ok()?.checked_add(1.month()).ok()?)?
            } else if !self.on_day(&at) {
                later(&at, at.checked_add(1.day()).ok()?)?
            } else if !bit(self.hours, at.hour()) {
                // An hour on the wall is not always an hour: what the clocks leave out never comes.
                let rest = 60 - i64::from(at.minute());
                at.checked_add(SignedDuration::from_mins(rest)).ok()?
            } else if !bit(self.minutes, at.minute()) {
                at.checked_add(SignedDuration::from_mins(1)).ok()?
            } else {
                return Some(at.timestamp());
            };
        }
        None
    }

    fn on_day(&self, at: &Zoned) -> bool {
        let day = u8::try_from(at.day()).is_ok_and(|d| self.days & (1 << d) != 0);
        let weekday = u8::try_from(at.weekday().to_sunday_zero_offset());
        let weekday = weekday.is_ok_and(|d| self.weekdays & (1 << d) != 0);
        if self.open_days || self.open_weekdays { day && weekday } else { day || weekday }
    }
}

/// The beginning of a later day, which is after `now` in any case.
fn later(now: &Zoned, day: Zoned) -> Option<Zoned> {
    let start = day.start_of_day().ok()?;
    if start > *now { Some(start) } else { now.checked_add(SignedDuration::from_hours(1)).ok() }
}

/// The seconds of `1h30m`, `-1.5s`, `0`.
fn go_duration(text: &str) -> Option<f64> {
    let negative = text.starts_with('-');
    let mut rest = text.strip_prefix(['-', '+']).unwrap_or(text);
    if rest == "0" {
        return Some(0.0);
    }
    if rest.is_empty() {
        return None;
    }
    let mut seconds = 0.0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (number, after) = rest.split_at(digits);
        if !number.bytes().any(|b| b.is_ascii_digit()) {
            return None;
        }
        let number: f64 = number.parse().ok()?;
        // The longer units first: `ms` is no `m`.
        let units = [
            ("ns", 1e-9),
            ("us", 1e-6),
            ("µs", 1e-6),
            ("μs", 1e-6),
            ("ms", 1e-3),
            ("s", 1.0),
            ("m", 60.0),
            ("h", 3600.0),
        ];
        let (next, unit) = units.iter().find_map(|(unit, of)| Some((after.strip_prefix(unit)?, of)))?;
        seconds += number * unit;
        rest = next;
    }
    // Such a duration holds at most 2^63 nanoseconds.
    (seconds < 9_223_372_036.0).then_some(if negative { -seconds } else { seconds })
}

/// The numbers of a field, and whether it is left open.
fn parse_field(text: &str, field: &Field) -> Result<(u64, bool), ScheduleError> {
    let mut all = (0, false);
    for part in text.split(',').filter(|part| !part.is_empty()) {
        let (bits, open) = parse_range(part, field)?;
        all = (all.0 | bits, all.1 || open);
    }
    Ok(all)
}

fn parse_range(text: &str, field: &Field) -> Result<(u64, bool), ScheduleError> {
    let parts: Vec<&str> = text.split('/').collect();
    let bounds: Vec<&str> = parts[0].split('-').collect();
    let mut open = false;
    let (start, mut end) = match bounds[..] {
        ["*" | "?", ..] => {
            open = true;
            (field.least, field.most)
        }
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
            let step = number(step)?;
            open &= step <= 1;
            step
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
        () => {
            let numbers = (start..=end).filter(|n| (n - start) % step == 0);
            Ok((numbers.fold(0, |bits, n| bits | (1 << n)), open))
        }
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

    fn following(schedule: &str, zone: &str, after: &str, count: usize) -> Vec<String> {
        let schedule = parse(schedule).unwrap();
        let zone = TimeZone::get(zone).unwrap();
        let mut at: Timestamp = after.parse().unwrap();
        let mut all = Vec::new();
        for _ in 0..count {
            let Some(next) = schedule.next(at, &zone) else { break };
            all.push(next.strftime("%Y-%m-%dT%H:%M").to_string());
            at = next;
        }
        all
    }

    #[test]
    fn the_next_time_is_the_first_that_all_fields_name() {
        for (schedule, after, want) in [
            ("* * * * *", "2026-01-01T00:00:00Z", ["2026-01-01T00:01", "2026-01-01T00:02"]),
            ("*/15 * * * *", "2026-01-01T00:31:07Z", ["2026-01-01T00:45", "2026-01-01T01:00"]),
            ("30 4 * * *", "2026-01-31T04:30:00Z", ["2026-02-01T04:30", "2026-02-02T04:30"]),
            ("0 0 29 2 *", "2026-01-01T00:00:00Z", ["2028-02-29T00:00", "2032-02-29T00:00"]),
            ("0 0 * * mon", "2026-01-01T00:00:00Z", ["2026-01-05T00:00", "2026-01-12T00:00"]),
            ("0 0 13 * fri", "2026-02-01T00:00:00Z", ["2026-02-06T00:00", "2026-02-13T00:00"]),
            ("0 12 1-7 * */7", "2026-01-01T00:00:00Z", ["2026-01-01T12:00", "2026-01-02T12:00"]),
            ("5/20 8-10/2 * dec *", "2026-01-01T00:00:00Z", ["2026-12-01T08:05", "2026-12-01T08:25"]),
            ("@monthly", "2026-01-15T00:00:00Z", ["2026-02-01T00:00", "2026-03-01T00:00"]),
            ("@every 90m", "2026-01-01T00:00:30.5Z", ["2026-01-01T01:30", "2026-01-01T03:00"]),
        ] {
            assert_eq!(following(schedule, "UTC", after, 2), want, "{schedule}");
        }
        assert!(following("0 0 30 2 *", "UTC", "2026-01-01T00:00:00Z", 1).is_empty(), "there is no such day");
    }

    #[test]
    fn clocks_that_are_put_forward_or_back_leave_hours_out_or_have_them_twice() {
        let berlin = |schedule, after, count| following(schedule, "Europe/Berlin", after, count);
        assert_eq!(berlin("30 9 * * *", "2026-03-27T12:00:00Z", 2), ["2026-03-28T08:30", "2026-03-29T07:30"]);
        // 02:30 does not come on 29 March.
        assert_eq!(berlin("30 2 * * *", "2026-03-28T12:00:00Z", 1), ["2026-03-30T00:30"]);
        // It comes twice on 25 October.
        assert_eq!(
            berlin("30 2 * * *", "2026-10-24T12:00:00Z", 3),
            ["2026-10-25T00:30", "2026-10-25T01:30", "2026-10-26T01:30"]
        );
    }

    proptest::proptest! {
        #[test]
        fn the_next_time_is_later_and_nothing_fires_before_it(
            minute in 0..60u8, step in 1..12u8, start in 0..2_000_000_000i64, zone in 0..4usize,
        ) {
            let zone = ["UTC", "America/New_York", "Asia/Kathmandu", "Australia/Lord_Howe"][zone];
            let zone = TimeZone::get(zone).unwrap();
            let schedule = parse(&format!("{minute} */{step} * * *")).unwrap();
            let after = Timestamp::from_second(start).unwrap();
            let next = schedule.next(after, &zone).unwrap();
            proptest::prop_assert!(next > after);
            let fires = |at: Timestamp| {
                let at = at.to_zoned(zone.clone());
                at.minute() as u8 == minute && (at.hour() as u8).is_multiple_of(step)
            };
            proptest::prop_assert!(fires(next));
            let mut at = Timestamp::from_second((start / 60 + 1) * 60).unwrap();
            while at < next {
                proptest::prop_assert!(!fires(at), "{at}");
                at += SignedDuration::from_mins(1);
            }
        }

        #[test]
        fn no_text_makes_it_panic(text in "[-@A-Za-z0-9*/?, =éµ.]{0,24}") {
            let _ = check(&text);
        }
    }
}
