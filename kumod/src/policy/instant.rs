//! Moments as policy writes them: RFC 3339 text, or seconds since 1970.
use super::convert::show;
use super::error::fault;
use kumo_core::time::Wall;
use mlua::{Lua, Value};
use toml::value::{Datetime, Offset};

/// A moment from what policy gave; nil is none.
pub fn optional(lua: &Lua, value: &Value) -> mlua::Result<Option<Wall>> {
    match value {
        Value::Nil => Ok(None),
        Value::Integer(seconds) => Ok(Some(Wall::from_unix_seconds(*seconds))),
        // `as` saturates; a NaN becomes 1970.
        Value::Number(seconds) => Ok(Some(Wall((seconds * 1e9) as i64))),
        Value::String(text) => {
            let text = text.to_string_lossy();
            parse(&text).map(Some).ok_or_else(|| {
                fault(
                    lua,
                    format!("{text:?} is no RFC 3339 date and time, such as 2026-11-24T17:00:00Z"),
                )
            })
        }
        other => Err(fault(lua, format!("expected a date and time, got {}", show(other)))),
    }
}

/// Date, time and offset are all needed.
pub fn parse(text: &str) -> Option<Wall> {
    let moment: Datetime = text.parse().ok()?;
    let (date, time) = (moment.date?, moment.time?);
    let offset = match moment.offset? {
        Offset::Z => 0,
        Offset::Custom { minutes } => i64::from(minutes) * 60,
    };
    let days = days_since_1970(i64::from(date.year), i64::from(date.month), i64::from(date.day));
    let of_day = i64::from(time.hour) * 3600 + i64::from(time.minute) * 60;
    let seconds = days * 86_400 + of_day + i64::from(time.second) - offset;
    let nanos = i64::from(time.nanosecond);
    Some(Wall(seconds.saturating_mul(1_000_000_000).saturating_add(nanos)))
}

/// The proleptic Gregorian calendar, counted in eras of 400 years from 0000-03-01.
fn days_since_1970(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let of_era = year.rem_euclid(400);
    let of_year = (153 * (month + if month > 2 { -3 } else { 9 }) + 2) / 5 + day - 1;
    let day_of_era = of_era * 365 + of_era / 4 - of_era / 100 + of_year;
    era * 146_097 + day_of_era - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;
    use kumo_core::date::rfc3339;
    use proptest::prelude::*;

    #[test]
    fn offsets_and_fractions_count() {
        for (text, expected) in [
            ("2026-11-24T17:13:29Z", "2026-11-24T17:13:29.000000Z"),
            ("2023-03-01T17:00:00-08:00", "2023-03-02T01:00:00.000000Z"),
            ("2024-03-08T17:51:42.481711Z", "2024-03-08T17:51:42.481711Z"),
            ("2024-02-29 00:00:00+00:30", "2024-02-28T23:30:00.000000Z"),
        ] {
            assert_eq!(parse(text).map(rfc3339).as_deref(), Some(expected), "{text}");
        }
    }

    #[test]
    fn what_lacks_a_date_a_time_or_an_offset_is_none() {
        for text in ["", "soon", "2026-11-24", "17:00:00Z", "2026-11-24T17:00:00", "2026-13-01T00:00:00Z"]
        {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(seconds in 0i64..9_000_000_000, micros in 0i64..1_000_000) {
            let wall = Wall(seconds * 1_000_000_000 + micros * 1000);
            prop_assert_eq!(parse(&rfc3339(wall)), Some(wall));
        }
    }
}
