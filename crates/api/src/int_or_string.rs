//! Numbers that may be a share of a whole (`25%`), as rollouts and budgets have them
//! (k8s.io/apimachinery `intstr`).

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde_json::Value;

/// How a share that is no whole number is rounded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rounding {
    /// To the next larger one.
    Up,
    /// To the next smaller one.
    Down,
}

/// A plain number, or a percentage of something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Amount {
    /// So many.
    Count(i64),
    /// So many hundredths.
    Percent(i64),
}

impl Amount {
    /// The amount in a typed object; `None` for a string that is no percentage.
    pub fn of(typed: &IntOrString) -> Option<Self> {
        match typed {
            IntOrString::Int(count) => Some(Self::Count(i64::from(*count))),
            IntOrString::String(text) => percent(text).map(Self::Percent),
        }
    }

    /// The amount in JSON; `None` for anything but a whole number or a percentage.
    pub fn from_json(value: &Value) -> Option<Self> {
        match value {
            Value::Number(number) => number.as_i64().map(Self::Count),
            Value::String(text) => percent(text).map(Self::Percent),
            _ => None,
        }
    }

    /// How many of `total` it is.
    pub fn resolve(self, total: i64, rounding: Rounding) -> i64 {
        match self {
            Self::Count(count) => count,
            Self::Percent(percent) => {
                let share = percent.saturating_mul(total);
                let up = rounding == Rounding::Up && share.rem_euclid(100) != 0;
                share.div_euclid(100) + i64::from(up)
            }
        }
    }
}

/// How many of `total` a typed value is, or `fallback` where there is none or it cannot be read.
pub fn resolve(value: Option<&IntOrString>, fallback: i64, total: i64, rounding: Rounding) -> i64 {
    value.and_then(Amount::of).map_or(fallback, |amount| amount.resolve(total, rounding))
}

/// How many pods a rolling update may have above (surge) and below (unavailable) the desired number: surge is
/// rounded up, unavailable down, and where both come out as zero one pod may be unavailable, so that the update
/// can move.
pub fn rolling_update_bounds(
    max_surge: Option<&IntOrString>,
    max_unavailable: Option<&IntOrString>,
    desired: i64,
) -> (i64, i64) {
    let surge = resolve(max_surge, 0, desired, Rounding::Up);
    let unavailable = resolve(max_unavailable, 0, desired, Rounding::Down);
    if surge == 0 && unavailable == 0 { (0, 1) } else { (surge, unavailable) }
}

fn percent(text: &str) -> Option<i64> {
    let digits = text.strip_suffix('%')?;
    let all_digits = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    if all_digits { digits.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentages_are_rounded_as_asked() {
        for (percent, total, up, down) in
            [(25, 10, 3, 2), (25, 4, 1, 1), (0, 7, 0, 0), (100, 7, 7, 7), (1, 1, 1, 0)]
        {
            let amount = Amount::Percent(percent);
            assert_eq!(amount.resolve(total, Rounding::Up), up);
            assert_eq!(amount.resolve(total, Rounding::Down), down);
        }
        assert_eq!(Amount::Count(3).resolve(1, Rounding::Down), 3);
    }

    #[test]
    fn only_whole_percentages_are_read() {
        for bad in ["25", "%", "-1%", "2.5%", "25 %", "x%"] {
            assert_eq!(Amount::of(&IntOrString::String(bad.into())), None, "{bad}");
        }
        assert_eq!(Amount::of(&IntOrString::String("25%".into())), Some(Amount::Percent(25)));
    }

    #[test]
    fn a_rolling_update_can_always_move() {
        let share = |text: &str| IntOrString::String(text.into());
        assert_eq!(rolling_update_bounds(Some(&share("25%")), Some(&share("25%")), 10), (3, 2));
        assert_eq!(rolling_update_bounds(Some(&share("0%")), Some(&share("25%")), 3), (0, 1));
        assert_eq!(rolling_update_bounds(Some(&IntOrString::Int(1)), Some(&IntOrString::Int(0)), 3), (1, 0));
    }
}
