//! Durations as `kubectl` shows them (k8s.io/apimachinery `duration.HumanDuration`): at most two units, coarser
//! the longer they get. Nothing here reads a clock.

use jiff::Timestamp;

/// A duration of so many seconds, as a person reads it: `5m30s`, `3h`, `12d`.
pub fn human(seconds: i64) -> String {
    // Clocks of two machines may differ a little: up to a second into the future counts as now.
    if seconds < -1 {
        return "<invalid>".to_string();
    }
    let seconds = seconds.max(0);
    let (minutes, hours) = (seconds / 60, seconds / 3600);
    let (days, years) = (hours / 24, hours / 24 / 365);
    match () {
        () if seconds < 120 => format!("{seconds}s"),
        () if minutes < 10 => two(minutes, 'm', seconds % 60, 's'),
        () if minutes < 180 => format!("{minutes}m"),
        () if hours < 8 => two(hours, 'h', minutes % 60, 'm'),
        () if hours < 48 => format!("{hours}h"),
        () if hours < 24 * 8 => two(days, 'd', hours % 24, 'h'),
        () if hours < 24 * 365 * 2 => format!("{days}d"),
        () if hours < 24 * 365 * 8 => two(years, 'y', days % 365, 'd'),
        () => format!("{years}y"),
    }
}

/// Two units, without the second where it is zero.
fn two(large: i64, large_unit: char, small: i64, small_unit: char) -> String {
    if small == 0 {
        format!("{large}{large_unit}")
    } else {
        format!("{large}{large_unit}{small}{small_unit}")
    }
}

/// The time that passed from `then` to `now`; `<unknown>` where there is no `then`.
pub fn since(then: Option<Timestamp>, now: Timestamp) -> String {
    match then {
        // Whole seconds, rounded towards zero, as Go's conversion does.
        Some(then) => human(now.duration_since(then).as_secs()),
        None => "<unknown>".to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_as_kubectl_prints_them() {
        const H: i64 = 3600;
        const D: i64 = 24 * H;
        for (seconds, want) in [
            (-2, "<invalid>"),
            (-1, "0s"),
            (0, "0s"),
            (119, "119s"),
            (120, "2m"),
            (150, "2m30s"),
            (599, "9m59s"),
            (600, "10m"),
            (179 * 60 + 59, "179m"),
            (3 * H, "3h"),
            (3 * H + 60, "3h1m"),
            (8 * H - 1, "7h59m"),
            (8 * H + 59 * 60, "8h"),
            (48 * H - 1, "47h"),
            (2 * D, "2d"),
            (2 * D + 5 * H, "2d5h"),
            (8 * D - 1, "7d23h"),
            (8 * D + 5 * H, "8d"),
            (2 * 365 * D - 1, "729d"),
            (2 * 365 * D, "2y"),
            (2 * 365 * D + D, "2y1d"),
            (8 * 365 * D + 7 * D, "8y"),
        ] {
            assert_eq!(human(seconds), want, "{seconds} seconds");
        }
    }

    #[test]
    fn an_age_without_a_start_is_unknown() {
        let now: Timestamp = "2026-01-01T00:10:00Z".parse().unwrap();
        assert_eq!(since(None, now), "<unknown>");
        assert_eq!(since(Some("2026-01-01T00:00:00Z".parse().unwrap()), now), "10m");
        assert_eq!(since(Some("2026-01-01T00:10:01Z".parse().unwrap()), now), "0s");
    }
}
