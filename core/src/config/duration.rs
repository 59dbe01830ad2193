//! Times as operators write them: `30s`, `5 mins`, `1h 30m`, or a number of seconds. Units and rendering are those of
//! the humantime crate. Invariant: what is rendered parses to the same value. Nothing longer than
//! [`limits::OPTION_SECONDS`] parses, so that sums of times from policy can't overflow.
use crate::limits;
use crate::time::Duration;
use alloc::string::{String, ToString};
use core::fmt;
use serde_json::{Number, Value};

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct DurationError(pub &'static str);

pub(super) const EXPECTED: &str = "a time such as '30s' or '1h 30m', or a number of seconds";

const SECOND: u64 = 1_000_000_000;
/// 365.25 days and a twelfth of it, to a hundredth of a day.
const YEAR: u64 = 31_557_600;
const MONTH: u64 = 2_630_016;
const DAY: u64 = 86_400;

/// Reads a text of numbers with units, largest unit first or not.
pub fn parse(text: &str) -> Result<Duration, DurationError> {
    let mut rest = text.trim();
    match rest {
        "" => return Err(DurationError("it is empty")),
        "0" => return Ok(Duration::ZERO),
        _ => {}
    }
    let mut total = 0_u128;
    while !rest.is_empty() {
        let (number, after) = split(rest, |c| c.is_ascii_digit());
        if number.is_empty() {
            return Err(DurationError("a number is missing, as in '1h 30m'"));
        }
        let number: u64 = number.parse().map_err(|_| TOO_LONG)?;
        let (unit, after) = split(after.trim_start(), char::is_alphabetic);
        // Neither factor nor sum can overflow: the total is looked at after each term.
        total += u128::from(number) * u128::from(nanoseconds(unit)?);
        if total > u128::from(limits::OPTION_SECONDS) * u128::from(SECOND) {
            return Err(TOO_LONG);
        }
        rest = after.trim_start();
    }
    let nanos = (total % u128::from(SECOND)) as u32;
    Ok(Duration::new((total / u128::from(SECOND)) as u64, nanos))
}

const TOO_LONG: DurationError = DurationError("it is longer than 100 years");

fn split(text: &str, belongs: fn(char) -> bool) -> (&str, &str) {
    text.split_at(text.find(|c| !belongs(c)).unwrap_or(text.len()))
}

fn nanoseconds(unit: &str) -> Result<u64, DurationError> {
    Ok(match unit {
        "nanos" | "nsec" | "ns" => 1,
        "micros" | "usec" | "us" | "µs" | "μs" => 1_000,
        "millis" | "msec" | "ms" => 1_000_000,
        "seconds" | "second" | "secs" | "sec" | "s" => SECOND,
        "minutes" | "minute" | "mins" | "min" | "m" => 60 * SECOND,
        "hours" | "hour" | "hrs" | "hr" | "h" => 3600 * SECOND,
        "days" | "day" | "d" => DAY * SECOND,
        "weeks" | "week" | "wks" | "wk" | "w" => 7 * DAY * SECOND,
        "months" | "month" | "M" => MONTH * SECOND,
        "years" | "year" | "yrs" | "yr" | "y" => YEAR * SECOND,
        "" => return Err(DurationError("a unit is missing, as in '30s'")),
        _ => {
            return Err(DurationError("units are ns, us, ms, s, m, h, days, weeks, months, years"));
        }
    })
}

/// Whole or fractional seconds.
fn from_number(number: &Number) -> Result<Duration, DurationError> {
    if let Some(seconds) = number.as_u64() {
        return within(Duration::from_secs(seconds));
    }
    match number.as_f64() {
        Some(seconds) if seconds < 0.0 => Err(DurationError("a time can't be negative")),
        Some(seconds) => within(Duration::try_from_secs_f64(seconds).map_err(|_| TOO_LONG)?),
        None => Err(TOO_LONG),
    }
}

fn within(duration: Duration) -> Result<Duration, DurationError> {
    match duration <= Duration::from_secs(limits::OPTION_SECONDS) {
        true => Ok(duration),
        false => Err(TOO_LONG),
    }
}

/// Any of the forms that policy may use.
pub fn from_json(value: &Value) -> Result<Duration, DurationError> {
    match value {
        Value::String(text) => parse(text),
        Value::Number(number) => from_number(number),
        _ => Err(DurationError("it is neither text nor a number")),
    }
}

/// `10m`, `2s 481ms`, `0s`.
pub fn render(duration: Duration) -> String {
    Human(duration).to_string()
}

/// Displayed as [`render`] renders it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Human(pub Duration);

impl fmt::Display for Human {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let (seconds, nanos) = (self.0.as_secs(), u64::from(self.0.subsec_nanos()));
        let (years, in_year) = (seconds / YEAR, seconds % YEAR);
        let (months, in_month) = (in_year / MONTH, in_year % MONTH);
        let (days, in_day) = (in_month / DAY, in_month % DAY);
        let parts = [
            (years, if years == 1 { "year" } else { "years" }),
            (months, if months == 1 { "month" } else { "months" }),
            (days, if days == 1 { "day" } else { "days" }),
            (in_day / 3600, "h"),
            (in_day / 60 % 60, "m"),
            (in_day % 60, "s"),
            (nanos / 1_000_000, "ms"),
            (nanos / 1_000 % 1_000, "us"),
            (nanos % 1_000, "ns"),
        ];
        let mut gap = "";
        for (number, unit) in parts.into_iter().filter(|(number, _)| *number > 0) {
            write!(f, "{gap}{number}{unit}")?;
            gap = " ";
        }
        if self.0.is_zero() { f.write_str("0s") } else { Ok(()) }
    }
}

/// `#[serde(with)]`: humantime text where people read it, serde's own form in binary formats.
pub mod text {
    use super::*;
    use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

    pub fn serialize<S: Serializer>(duration: &Duration, to: S) -> Result<S::Ok, S::Error> {
        match to.is_human_readable() {
            true => to.collect_str(&Human(*duration)),
            false => duration.serialize(to),
        }
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
        match from.is_human_readable() {
            true => from_json(&Value::deserialize(from)?).map_err(de::Error::custom),
            false => Duration::deserialize(from),
        }
    }
}

/// [`text`] for a time that may be absent.
pub mod optional_text {
    use super::*;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[derive(serde::Serialize, serde::Deserialize)]
    struct Text(#[serde(with = "super::text")] Duration);

    pub fn serialize<S: Serializer>(duration: &Option<Duration>, to: S) -> Result<S::Ok, S::Error> {
        duration.map(Text).serialize(to)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Duration>, D::Error> {
        Ok(Option::<Text>::deserialize(from)?.map(|text| text.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    #[test]
    fn every_form_of_a_time_is_read() {
        let seconds = Duration::from_secs;
        let rows = [
            (json!("30s"), seconds(30)),
            (json!("5 mins"), seconds(300)),
            (json!("1h 30m"), seconds(5400)),
            (json!("1h30m"), seconds(5400)),
            (json!(" 2s  481ms "), Duration::from_millis(2481)),
            (json!("10 seconds"), seconds(10)),
            (json!("1 day"), seconds(86_400)),
            (json!("2weeks"), seconds(14 * 86_400)),
            (json!("1month 1M"), seconds(2 * 2_630_016)),
            (json!("1year"), seconds(31_557_600)),
            (json!("3us 4µs 5ns"), Duration::from_nanos(7_005)),
            (json!("0"), Duration::ZERO),
            (json!("0s"), Duration::ZERO),
            (json!(30), seconds(30)),
            (json!(0), Duration::ZERO),
            (json!(1.5), Duration::from_millis(1500)),
            (json!(60.0), seconds(60)),
        ];
        for (value, expected) in rows {
            assert_eq!(from_json(&value), Ok(expected), "{value}");
        }
    }

    #[test]
    fn what_is_no_time_is_refused_with_a_reason() {
        let rows = [
            (json!(""), "empty"),
            (json!("30"), "unit is missing"),
            (json!("s"), "number is missing"),
            (json!("-5s"), "number is missing"),
            (json!("5 parsecs"), "units are"),
            (json!("1.5h"), "unit is missing"),
            (json!("101 years"), "longer than"),
            (json!("99999999999999999999s"), "longer than"),
            (json!("18446744073709551615 years"), "longer than"),
            (json!(-1), "negative"),
            (json!(-0.5), "negative"),
            (json!(1e300), "longer than"),
            (json!(u64::MAX), "longer than"),
            (json!(true), "neither"),
            (json!(null), "neither"),
        ];
        for (value, reason) in rows {
            let error = from_json(&value).expect_err("a refusal").to_string();
            assert!(error.contains(reason), "{value}: {error}");
        }
    }

    #[test]
    fn times_are_rendered_as_humantime_does() {
        let rows = [
            (Duration::ZERO, "0s"),
            (Duration::from_secs(600), "10m"),
            (Duration::from_millis(2481), "2s 481ms"),
            (Duration::from_secs(7 * 86_400), "7days"),
            (Duration::from_secs(86_400 + 3600), "1day 1h"),
            (Duration::from_secs(31_557_600 + 2_630_016), "1year 1month"),
            (Duration::from_nanos(1_002_003), "1ms 2us 3ns"),
        ];
        for (duration, text) in rows {
            assert_eq!(render(duration), text);
        }
    }

    #[derive(Debug, PartialEq, serde::Serialize, serde::Deserialize)]
    struct Times {
        #[serde(with = "text")]
        one: Duration,
        #[serde(with = "optional_text")]
        other: Option<Duration>,
    }

    #[test]
    fn serde_uses_text_in_json_and_round_trips_in_both_kinds_of_format() {
        let times = Times { one: Duration::from_secs(90), other: Some(Duration::from_millis(1)) };
        let as_json = serde_json::to_value(&times).unwrap();
        assert_eq!(as_json, json!({"one": "1m 30s", "other": "1ms"}));
        assert_eq!(serde_json::from_value::<Times>(as_json).unwrap(), times);
        let octets = postcard::to_allocvec(&times).unwrap();
        assert_eq!(postcard::from_bytes::<Times>(&octets).unwrap(), times);
        let none: Times = serde_json::from_value(json!({"one": 5, "other": null})).unwrap();
        assert_eq!(none, Times { one: Duration::from_secs(5), other: None });
    }

    proptest! {
        #[test]
        fn what_is_rendered_parses_again(
            seconds in 0..limits::OPTION_SECONDS, nanos in 0..1_000_000_000_u32,
        ) {
            let duration = Duration::new(seconds, nanos);
            prop_assert_eq!(parse(&render(duration)), Ok(duration));
        }

        #[test]
        fn no_text_makes_it_panic(text in "[0-9 a-zµ.\\-]{0,40}|.{0,20}") {
            let _ = parse(&text);
        }
    }
}
