//! Rates and limits as operators write them: `"100/5m,max_burst=10"`, `"local:32"`. What is rendered parses to the
//! same value. Counting against them is the engine's business.
use super::options;
use super::read::{self, Form, Report, Table};
use crate::limits;
use crate::time::Duration;
use alloc::format;
use alloc::string::{String, ToString};
use core::fmt;
use core::str::FromStr;
use serde::{Deserialize, Deserializer, Serialize, de};
use serde_json::Value;

/// `[local:]LIMIT/[N]PERIOD[,max_burst=B]`. Serialised as that text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ThrottleSpec {
    /// At least 1.
    pub limit: u64,
    /// At least one second.
    pub period: Duration,
    pub max_burst: Option<u64>,
    /// Never shared with other nodes.
    pub local: bool,
}

/// An integer of at least 1, with an optional `local:`. Serialised as a table; every form is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct LimitSpec {
    pub limit: u64,
    pub force_local: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct RateError(pub &'static str);

const LOCAL: &str = "local:";
const ZERO: RateError = RateError("it must be at least 1");
const TOO_LARGE: RateError = RateError("the number is too large");

/// Digits, with `_` and `,` between them as one likes.
fn number(text: &str) -> Result<u64, RateError> {
    let digits: String = text.trim().chars().filter(|c| !matches!(c, '_' | ',')).collect();
    match digits.bytes().all(|byte| byte.is_ascii_digit()) && !digits.is_empty() {
        true => digits.parse().map_err(|_| TOO_LARGE),
        false => Err(RateError("a whole number is missing")),
    }
}

fn positive(text: &str) -> Result<u64, RateError> {
    match number(text)? {
        0 => Err(ZERO),
        positive => Ok(positive),
    }
}

/// Whether `local:` stood before it, and what follows.
fn without_local(text: &str) -> (bool, &str) {
    match text.trim().strip_prefix(LOCAL) {
        Some(rest) => (true, rest),
        None => (false, text),
    }
}

/// `[N]PERIOD`
fn period(text: &str) -> Result<Duration, RateError> {
    let text = text.trim();
    let (multiplier, unit) = text.split_at(text.find(char::is_alphabetic).unwrap_or(text.len()));
    let unit = match unit {
        "s" | "sec" | "second" => 1,
        "m" | "min" | "minute" => 60,
        "h" | "hr" | "hour" => 3600,
        "d" | "day" => 86_400,
        _ => return Err(RateError("the period is one of s, m, h, d, as in '100/5m'")),
    };
    let multiplier = if multiplier.trim().is_empty() { 1 } else { positive(multiplier)? };
    match multiplier.checked_mul(unit).filter(|seconds| *seconds <= limits::OPTION_SECONDS) {
        Some(seconds) => Ok(Duration::from_secs(seconds)),
        None => Err(RateError("the period is longer than 100 years")),
    }
}

impl FromStr for ThrottleSpec {
    type Err = RateError;
    fn from_str(text: &str) -> Result<ThrottleSpec, RateError> {
        let (local, rest) = without_local(text);
        let (limit, rest) =
            rest.split_once('/').ok_or(RateError("it reads LIMIT/PERIOD, as in '100/h'"))?;
        let (per, burst) = match rest.split_once(',') {
            Some((per, option)) => (per, Some(max_burst(option)?)),
            None => (rest, None),
        };
        let (limit, period) = (positive(limit)?, period(per)?);
        Ok(ThrottleSpec { limit, period, max_burst: burst, local })
    }
}

fn max_burst(option: &str) -> Result<u64, RateError> {
    let burst = option.trim().strip_prefix("max_burst=");
    positive(burst.ok_or(RateError("only ',max_burst=N' may follow the period"))?)
}

impl fmt::Display for ThrottleSpec {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(if self.local { LOCAL } else { "" })?;
        write!(f, "{}/", self.limit)?;
        match self.period.as_secs() {
            86_400 => f.write_str("d"),
            3600 => f.write_str("h"),
            60 => f.write_str("m"),
            1 => f.write_str("s"),
            seconds => write!(f, "{seconds}s"),
        }?;
        self.max_burst.map_or(Ok(()), |burst| write!(f, ",max_burst={burst}"))
    }
}

impl TryFrom<String> for ThrottleSpec {
    type Error = RateError;
    fn try_from(text: String) -> Result<ThrottleSpec, RateError> {
        text.parse()
    }
}

impl From<ThrottleSpec> for String {
    fn from(throttle: ThrottleSpec) -> String {
        throttle.to_string()
    }
}

impl Form for ThrottleSpec {
    fn read(value: Value, report: &mut Report) -> Option<ThrottleSpec> {
        read::from_text(value, "a rate such as '100/h' or '10/5m,max_burst=2'", report)
    }
}

super::render::shown_by_serde!(LimitSpec);

impl FromStr for LimitSpec {
    type Err = RateError;
    fn from_str(text: &str) -> Result<LimitSpec, RateError> {
        let (force_local, rest) = without_local(text);
        let limit = positive(rest)?;
        // What Lua and TOML can say as well.
        match i64::try_from(limit) {
            Ok(_) => Ok(LimitSpec { limit, force_local }),
            Err(_) => Err(TOO_LARGE),
        }
    }
}

/// As it may be written in policy: `32`, `local:32`.
impl fmt::Display for LimitSpec {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{}{}", if self.force_local { LOCAL } else { "" }, self.limit)
    }
}

impl Form for LimitSpec {
    fn read(value: Value, report: &mut Report) -> Option<LimitSpec> {
        let spec = match value {
            Value::Object(_) => limit_table(value, report)?,
            Value::Number(_) => LimitSpec { limit: u64::read(value, report)?, force_local: false },
            text => read::from_text(text, "a limit such as 32 or 'local:32'", report)?,
        };
        if spec.limit == 0 {
            report.error(format_args!("{ZERO}"));
        }
        Some(spec)
    }
}

fn limit_table(value: Value, report: &mut Report) -> Option<LimitSpec> {
    let mut table = Table::open(value, &options::LIMIT_SPEC, report)?;
    let limit = table.required("limit");
    let force_local = table.or("force_local", false);
    table.finish();
    Some(LimitSpec { limit, force_local })
}

impl<'de> Deserialize<'de> for LimitSpec {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<LimitSpec, D::Error> {
        if from.is_human_readable() {
            return read::value(Value::deserialize(from)?).map_err(de::Error::custom);
        }
        let (limit, force_local) = Deserialize::deserialize(from)?;
        match limit {
            0 => Err(de::Error::custom(format!("limit: {ZERO}"))),
            limit => Ok(LimitSpec { limit, force_local }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn throttle(limit: u64, seconds: u64) -> ThrottleSpec {
        let period = Duration::from_secs(seconds);
        ThrottleSpec { limit, period, max_burst: None, local: false }
    }

    #[test]
    fn every_form_of_a_rate_is_read_and_rendered_canonically() {
        let rows = [
            ("100/s", throttle(100, 1), "100/s"),
            ("100/sec", throttle(100, 1), "100/s"),
            ("100/second", throttle(100, 1), "100/s"),
            ("10/m", throttle(10, 60), "10/m"),
            ("10/min", throttle(10, 60), "10/m"),
            ("10/minute", throttle(10, 60), "10/m"),
            ("10000/hr", throttle(10_000, 3600), "10000/h"),
            ("10,000/hour", throttle(10_000, 3600), "10000/h"),
            ("1_000/day", throttle(1_000, 86_400), "1000/d"),
            ("3/5m", throttle(3, 300), "3/300s"),
            ("3/60s", throttle(3, 60), "3/m"),
            ("3/24h", throttle(3, 86_400), "3/d"),
            ("local:5/2d", ThrottleSpec { local: true, ..throttle(5, 172_800) }, "local:5/172800s"),
            (
                "1,000/5m,max_burst=2,0_0",
                ThrottleSpec { max_burst: Some(200), ..throttle(1_000, 300) },
                "1000/300s,max_burst=200",
            ),
        ];
        for (text, expected, rendered) in rows {
            assert_eq!(text.parse(), Ok(expected), "{text}");
            assert_eq!(expected.to_string(), rendered);
            assert_eq!(serde_json::to_value(expected).unwrap(), json!(rendered));
            assert_eq!(serde_json::from_value::<ThrottleSpec>(json!(text)).unwrap(), expected);
        }
    }

    #[test]
    fn what_is_no_rate_is_refused_with_a_reason() {
        let rows = [
            ("", "LIMIT/PERIOD"),
            ("100", "LIMIT/PERIOD"),
            ("0/s", "at least 1"),
            ("/s", "number is missing"),
            ("-1/s", "number is missing"),
            ("1/", "period is one of"),
            ("1/0m", "at least 1"),
            ("1/5", "period is one of"),
            ("1/week", "period is one of"),
            ("1/s,burst=2", "max_burst"),
            ("1/s,max_burst=0", "at least 1"),
            ("99999999999999999999/s", "too large"),
            ("1/18446744073709551615d", "longer than"),
            ("remote:1/s", "number is missing"),
        ];
        for (text, reason) in rows {
            let error = text.parse::<ThrottleSpec>().expect_err(text).to_string();
            assert!(error.contains(reason), "{text}: {error}");
        }
    }

    #[test]
    fn every_form_of_a_limit_is_read_and_rendered_as_a_table() {
        let rows = [
            (json!(32), 32, false),
            (json!(32.0), 32, false),
            (json!("32"), 32, false),
            (json!("10_000"), 10_000, false),
            (json!("10,000"), 10_000, false),
            (json!("local:8"), 8, true),
            (json!({"limit": 5}), 5, false),
            (json!({"limit": 5, "force_local": true}), 5, true),
        ];
        for (value, limit, force_local) in rows {
            let spec: LimitSpec = serde_json::from_value(value.clone()).expect("a limit");
            assert_eq!(spec, LimitSpec { limit, force_local }, "{value}");
            let rendered = serde_json::to_value(spec).unwrap();
            assert_eq!(rendered, json!({"limit": limit, "force_local": force_local}));
            let octets = postcard::to_allocvec(&spec).unwrap();
            assert_eq!(postcard::from_bytes::<LimitSpec>(&octets).unwrap(), spec);
            assert_eq!(spec.to_string().parse(), Ok(spec));
        }
    }

    #[test]
    fn what_is_no_limit_is_refused_with_a_reason() {
        let rows = [
            (json!(0), "at least 1"),
            (json!("0"), "at least 1"),
            (json!("local:0"), "at least 1"),
            (json!("9223372036854775808"), "too large"),
            (json!({"limit": 0}), "at least 1"),
            (json!({"force_local": true}), "limit: it is required"),
            (json!({"limit": 1, "forcelocal": true}), "'force_local'"),
            (json!(-1), "whole number"),
            (json!(1.5), "whole number"),
            (json!("ten"), "number is missing"),
            (json!(true), "a limit such as"),
        ];
        for (value, reason) in rows {
            let error = serde_json::from_value::<LimitSpec>(value.clone()).expect_err("a refusal");
            assert!(error.to_string().contains(reason), "{value}: {error}");
        }
    }

    proptest! {
        #[test]
        fn a_rate_that_is_rendered_parses_again(
            limit in 1..u64::MAX,
            seconds in 1..limits::OPTION_SECONDS,
            max_burst in proptest::option::of(1..u64::MAX),
            local: bool,
        ) {
            let period = Duration::from_secs(seconds);
            let spec = ThrottleSpec { limit, period, max_burst, local };
            prop_assert_eq!(spec.to_string().parse(), Ok(spec));
        }

        #[test]
        fn no_text_makes_it_panic(text in "[0-9a-z_,/:=]{0,40}|.{0,20}") {
            let _ = text.parse::<ThrottleSpec>();
            let _ = text.parse::<LimitSpec>();
        }
    }
}
