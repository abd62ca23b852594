//! Kubernetes quantities (`100m`, `1.5Gi`, `12e6`): fixed-point numbers with the suffix family they were written
//! in, exactly as k8s.io/apimachinery `resource.Quantity` documents them. Never a floating-point number.

use k8s_openapi::apimachinery::pkg::api::resource::Quantity as TypedQuantity;
use serde_json::Value;
use std::{
    cmp::Ordering,
    fmt,
    iter::Sum,
    ops::{Add, AddAssign, Sub, SubAssign},
};

/// The family of suffixes that a quantity is written with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// `12e6`.
    DecimalExponent,
    /// `12Mi`.
    BinarySi,
    /// `12M`.
    #[default]
    DecimalSi,
}

/// A number with nine decimal places. Equality and order look at the number, not at how it is written.
#[derive(Clone, Copy, Debug, Default)]
pub struct Quantity {
    nano: i128,
    format: Format,
}

/// Why a text is no quantity, in Kubernetes' words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QuantityError {
    /// Not a number with a suffix.
    #[error("quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'")]
    Format,
    /// Nothing known after the number.
    #[error("unable to parse quantity's suffix")]
    Suffix,
}

const NANO: i128 = 1_000_000_000;
/// The largest magnitude, in units of 10⁻⁹.
const MAX: i128 = i64::MAX as i128 * NANO;
const DECIMAL: [(&str, u32); 10] =
    [("E", 27), ("P", 24), ("T", 21), ("G", 18), ("M", 15), ("k", 12), ("", 9), ("m", 6), ("u", 3), ("n", 0)];
const BINARY: [&str; 7] = ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];

impl Quantity {
    /// Nothing.
    pub const ZERO: Self = Self { nano: 0, format: Format::DecimalSi };

    /// So many whole units, written with decimal suffixes.
    pub fn from_units(units: i64) -> Self {
        Self { nano: i128::from(units) * NANO, format: Format::DecimalSi }
    }

    /// So many thousandths, written with decimal suffixes: the usual form of CPU.
    pub fn from_milli(milli: i64) -> Self {
        Self { nano: i128::from(milli) * (NANO / 1000), format: Format::DecimalSi }
    }

    /// So many bytes, written with binary suffixes: the usual form of memory.
    pub fn from_bytes(bytes: i64) -> Self {
        Self { nano: i128::from(bytes) * NANO, format: Format::BinarySi }
    }

    /// Reads a quantity. What is finer than 10⁻⁹ is rounded away from zero, what is larger than 2⁶³−1 is capped.
    ///
    /// # Errors
    /// When the text is not of the documented form.
    pub fn parse(text: &str) -> Result<Self, QuantityError> {
        let (negative, unsigned) = match text.as_bytes().first() {
            Some(b'-') => (true, &text[1..]),
            Some(b'+') => (false, &text[1..]),
            _ => (false, text),
        };
        let number_end = unsigned.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(unsigned.len());
        let (number, suffix) = unsigned.split_at(number_end);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if whole.len() + fraction.len() == 0 || fraction.contains('.') || !suffix_is_well_formed(suffix) {
            return Err(QuantityError::Format);
        }
        let (format, scale) = Scale::of(suffix).ok_or(QuantityError::Suffix)?;
        let magnitude = magnitude(whole, fraction, scale);
        Ok(Self { nano: if negative { -magnitude } else { magnitude }, format })
    }

    /// The number of whole units, rounded away from zero.
    pub fn value(self) -> i64 {
        self.in_units_of(NANO)
    }

    /// The number of thousandths, rounded away from zero.
    pub fn milli_value(self) -> i64 {
        self.in_units_of(NANO / 1000)
    }

    fn in_units_of(self, unit: i128) -> i64 {
        let up = self.nano.unsigned_abs().div_ceil(unit.unsigned_abs());
        let up = i64::try_from(up).unwrap_or(i64::MAX);
        if self.nano < 0 { -up } else { up }
    }

    /// The same, without parts finer than a thousandth: those are rounded away from zero.
    #[must_use]
    pub fn round_up_to_milli(self) -> Self {
        let unit = NANO / 1000;
        let up = self.nano.unsigned_abs().div_ceil(unit.unsigned_abs()).cast_signed() * unit;
        Self { nano: cap(if self.nano < 0 { -up } else { up }), ..self }
    }

    /// The family of suffixes it was written with.
    pub fn format(self) -> Format {
        self.format
    }

    /// The number as a float, as near as one comes.
    pub fn approximate(self) -> f64 {
        self.nano as f64 / NANO as f64
    }

    /// Whether it is nothing.
    pub fn is_zero(self) -> bool {
        self.nano == 0
    }

    /// Whether it is less than nothing.
    pub fn is_negative(self) -> bool {
        self.nano < 0
    }

    /// Whether it has a fraction of a unit.
    pub fn is_whole(self) -> bool {
        self.nano % NANO == 0
    }

    /// So many times as much.
    #[must_use]
    pub fn times(self, factor: i64) -> Self {
        Self { nano: cap(self.nano.saturating_mul(i128::from(factor))), ..self }
    }

    /// Reads the quantity of a typed object; one that cannot be read counts as zero, since validation keeps such
    /// objects out.
    pub fn of(typed: &TypedQuantity) -> Self {
        Self::parse(&typed.0).unwrap_or_default()
    }

    /// Reads a quantity from JSON: a string, or a bare number.
    ///
    /// # Errors
    /// When the value is neither, or the text is not of the documented form.
    pub fn from_json(value: &Value) -> Result<Self, QuantityError> {
        match value {
            Value::String(text) => Self::parse(text.trim()),
            Value::Number(number) => Self::parse(&number.to_string()),
            _ => Err(QuantityError::Format),
        }
    }
}

/// Writes the quantity at `value` in canonical form, as every Kubernetes API does with what it is given. Leaves
/// alone what cannot be read: that is for validation to say.
pub fn canonicalize(value: &mut Value) {
    if let Ok(quantity) = Quantity::from_json(value) {
        *value = quantity.to_string().into();
    }
}

/// What the number before a suffix is multiplied with, so that the result counts 10⁻⁹.
enum Scale {
    Ten(i64),
    Two(u32),
}

impl Scale {
    fn of(suffix: &str) -> Option<(Format, Self)> {
        if let Some((_, power)) = DECIMAL.iter().find(|(name, _)| *name == suffix) {
            return Some((Format::DecimalSi, Self::Ten(i64::from(*power))));
        }
        if let Some(power) = BINARY.iter().position(|name| *name == suffix) {
            return Some((Format::BinarySi, Self::Two(power as u32 * 10)));
        }
        let exponent: i64 = suffix.strip_prefix(['e', 'E'])?.parse().ok()?;
        Some((Format::DecimalExponent, Self::Ten(exponent.checked_add(9)?)))
    }
}

fn suffix_is_well_formed(suffix: &str) -> bool {
    let rest = suffix.trim_start_matches(|c| "eEinumkKMGTP".contains(c));
    let rest = rest.strip_prefix(['+', '-']).unwrap_or(rest);
    rest.bytes().all(|b| b.is_ascii_digit())
}

/// `whole.fraction` times the scale in units of 10⁻⁹, rounded up and capped.
fn magnitude(whole: &str, fraction: &str, scale: Scale) -> i128 {
    let digits = format!("{whole}{fraction}");
    let digits = digits.trim_start_matches('0');
    if digits.is_empty() {
        return 0;
    }
    let places = fraction.len() as i64;
    // As many digits as fit beside the factor; those beyond matter for rounding only.
    let (power, factor, kept) = match scale {
        Scale::Ten(power) => (power.saturating_sub(places), 1, digits.len().min(38)),
        Scale::Two(power) => (9 - places, 1i128 << power, digits.len().min(20)),
    };
    let rest_is_zero = digits[kept..].bytes().all(|b| b == b'0');
    let power = power.saturating_add((digits.len() - kept) as i64);
    let mantissa = digits[..kept].parse::<i128>().unwrap_or(i128::MAX).saturating_mul(factor);
    let scaled = match power {
        0..=38 => mantissa.saturating_mul(10i128.pow(power as u32)),
        39.. => i128::MAX,
        -38..0 => {
            let divisor = 10i128.pow(power.unsigned_abs() as u32);
            let up = mantissa % divisor != 0 || !rest_is_zero;
            mantissa / divisor + i128::from(up)
        }
        _ => 1,
    };
    cap(scaled)
}

fn cap(nano: i128) -> i128 {
    nano.clamp(-MAX, MAX)
}

impl fmt::Display for Quantity {
    /// Canonical form: no fraction, the largest suffix that loses nothing.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.nano == 0 {
            return f.write_str("0");
        }
        let units = self.nano / NANO;
        if self.format == Format::BinarySi && self.is_whole() && units.abs() >= 1024 {
            let power = (units.trailing_zeros() / 10).min(BINARY.len() as u32 - 1);
            return write!(f, "{}{}", units >> (power * 10), BINARY[power as usize]);
        }
        for (suffix, power) in DECIMAL {
            let unit = 10i128.pow(power);
            if self.nano % unit == 0 {
                let number = self.nano / unit;
                return match self.format {
                    Format::DecimalExponent if power != 9 => write!(f, "{number}e{}", i64::from(power) - 9),
                    _ => write!(f, "{number}{suffix}"),
                };
            }
        }
        Ok(()) // the last unit is 1, which divides everything
    }
}

impl PartialEq for Quantity {
    fn eq(&self, other: &Self) -> bool {
        self.nano == other.nano
    }
}

impl Eq for Quantity {}

impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Quantity {
    fn cmp(&self, other: &Self) -> Ordering {
        self.nano.cmp(&other.nano)
    }
}

impl Add for Quantity {
    type Output = Self;
    /// The sum, capped; zero takes the form of the other.
    fn add(self, other: Self) -> Self {
        let format = if self.nano == 0 { other.format } else { self.format };
        Self { nano: cap(self.nano + other.nano), format }
    }
}

impl Sub for Quantity {
    type Output = Self;
    fn sub(self, other: Self) -> Self {
        self + Self { nano: -other.nano, ..other }
    }
}

impl AddAssign for Quantity {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

impl SubAssign for Quantity {
    fn sub_assign(&mut self, other: Self) {
        *self = *self - other;
    }
}

impl Sum for Quantity {
    fn sum<I: Iterator<Item = Self>>(all: I) -> Self {
        all.fold(Self::ZERO, Add::add)
    }
}

impl std::str::FromStr for Quantity {
    type Err = QuantityError;
    fn from_str(text: &str) -> Result<Self, QuantityError> {
        Self::parse(text)
    }
}

impl From<Quantity> for TypedQuantity {
    fn from(quantity: Quantity) -> Self {
        Self(quantity.to_string())
    }
}

impl TryFrom<&TypedQuantity> for Quantity {
    type Error = QuantityError;
    fn try_from(typed: &TypedQuantity) -> Result<Self, QuantityError> {
        Self::parse(&typed.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn q(text: &str) -> Quantity {
        Quantity::parse(text).unwrap_or_else(|e| panic!("{text}: {e}"))
    }

    #[test]
    fn a_quantity_is_written_in_canonical_form() {
        for (given, want) in [
            ("0", "0"),
            ("0Ki", "0"),
            ("-0", "0"),
            ("1000m", "1"),
            ("1.5", "1500m"),
            ("0.1", "100m"),
            (".5", "500m"),
            ("1.", "1"),
            ("1.5Gi", "1536Mi"),
            ("1024Mi", "1Gi"),
            ("1023Ki", "1023Ki"),
            ("512", "512"),
            ("1000", "1k"),
            ("100000k", "100M"),
            ("1e3", "1e3"),
            ("1E3", "1e3"),
            ("1.1e3", "1100"),
            ("12e6", "12e6"),
            ("100e-3", "100e-3"),
            ("1E", "1E"),
            ("0.5Ki", "512"),
            ("0.3Ki", "307200m"),
            ("-1.5Gi", "-1536Mi"),
            ("0.0000000001", "1n"),
            ("-0.0000000001", "-1n"),
            ("1u", "1u"),
            ("9223372036854775807", "9223372036854775807"),
            ("9223372036854775808", "9223372036854775807"),
            ("100E", "9223372036854775807"),
            ("99999999999999999999999999999999999999999Ei", "9223372036854775807"),
            ("+3", "3"),
            ("0001", "1"),
            ("1e999999", "9223372036854775807e0"),
        ] {
            let want = want.strip_suffix("e0").unwrap_or(want);
            assert_eq!(q(given).to_string(), want, "{given}");
        }
    }

    #[test]
    fn what_is_no_quantity_is_refused_in_kubernetes_words() {
        for bad in ["", "-", "+", ".", "1.2.3", "1 Gi", "Gi", "1%", "--1", "0x10", "1_000", "1Gi2x", "½"] {
            assert_eq!(Quantity::parse(bad), Err(QuantityError::Format), "{bad}");
        }
        for bad in ["1KI", "1kk", "1K", "1MiB", "1e", "1ee3", "1mi", "1Ee", "1Gi2", "1e1e"] {
            assert!(Quantity::parse(bad).is_err(), "{bad}");
        }
        assert_eq!(Quantity::parse("1K").unwrap_err().to_string(), "unable to parse quantity's suffix");
    }

    #[test]
    fn values_are_rounded_away_from_zero() {
        for (text, value, milli) in
            [("1", 1, 1000), ("100m", 1, 100), ("-100m", -1, -100), ("1n", 1, 1), ("1Ki", 1024, 1_024_000)]
        {
            assert_eq!((q(text).value(), q(text).milli_value()), (value, milli), "{text}");
        }
    }

    #[test]
    fn what_is_finer_than_a_thousandth_can_be_rounded_up() {
        assert_eq!(q("1500u").round_up_to_milli().to_string(), "2m");
        assert_eq!(q("-1500u").round_up_to_milli().to_string(), "-2m");
        assert_eq!(q("1Gi").round_up_to_milli().to_string(), "1Gi");
    }

    #[test]
    fn sums_keep_the_form_of_the_first_that_is_not_zero() {
        assert_eq!((q("1Gi") + q("1Gi")).to_string(), "2Gi");
        assert_eq!((Quantity::ZERO + q("1Gi")).to_string(), "1Gi");
        assert_eq!((q("1") - q("100m")).to_string(), "900m");
        assert_eq!([q("100m"), q("900m")].into_iter().sum::<Quantity>(), q("1"));
        assert_eq!(q("250m").times(4), q("1"));
    }

    #[test]
    fn bare_numbers_are_quantities_too() {
        let mut v = serde_json::json!(0.5);
        canonicalize(&mut v);
        assert_eq!(v, "500m");
        let mut v = serde_json::json!("nonsense");
        canonicalize(&mut v);
        assert_eq!(v, "nonsense");
    }

    proptest! {
        #[test]
        fn writing_and_reading_again_changes_nothing(nano in -MAX..=MAX, form in 0..3) {
            let format = [Format::DecimalExponent, Format::BinarySi, Format::DecimalSi][form as usize];
            let quantity = Quantity { nano, format };
            let text = quantity.to_string();
            let again = q(&text);
            prop_assert_eq!(again, quantity);
            prop_assert_eq!(again.to_string(), text);
        }

        #[test]
        fn any_text_is_read_or_refused_and_never_panics(text in "[-+]?[0-9.]{0,30}[eEinumkKMGTP]{0,3}[-+]?[0-9]{0,5}") {
            if let Ok(quantity) = Quantity::parse(&text) {
                prop_assert_eq!(q(&quantity.to_string()), quantity);
            }
        }

        #[test]
        fn order_and_sums_agree_with_whole_numbers(a in -1_000_000i64..1_000_000, b in -1_000_000i64..1_000_000) {
            let (x, y) = (Quantity::from_milli(a), Quantity::from_milli(b));
            prop_assert_eq!(x.cmp(&y), a.cmp(&b));
            prop_assert_eq!((x + y).milli_value(), a + b);
            prop_assert_eq!((x - y) + y, x);
        }
    }
}
