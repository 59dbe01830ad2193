//! Dates as mail, logs and file names write them, always in UTC. Any [`Wall`] has a date; of dates in text only those
//! of RFC 3339 are read.
use crate::time::Wall;
use alloc::format;
use alloc::string::String;

const WEEKDAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
const MONTHS: [&str; 12] =
    ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

struct Civil {
    year: i64,
    /// 1 to 12.
    month: usize,
    day: i64,
    weekday: usize,
    hour: i64,
    minute: i64,
    second: i64,
    micros: i64,
}

/// Days to year, month and day by the proleptic Gregorian calendar, counted in eras of 400 years from 0000-03-01.
fn civil(wall: Wall) -> Civil {
    let seconds = wall.unix_seconds();
    let micros = wall.0.rem_euclid(1_000_000_000) / 1000;
    let days = seconds.div_euclid(86_400);
    let of_day = seconds.rem_euclid(86_400);
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let of_era = shifted.rem_euclid(146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * of_year + 2) / 153;
    let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
    Civil {
        year: year_of_era + era * 400 + i64::from(month <= 2),
        month: month as usize,
        day: of_year - (153 * march_month + 2) / 5 + 1,
        weekday: days.rem_euclid(7) as usize,
        hour: of_day / 3600,
        minute: of_day / 60 % 60,
        second: of_day % 60,
        micros,
    }
}

/// `Tue, 24 Nov 2026 17:13:29 +0000`.
pub fn rfc5322(wall: Wall) -> String {
    let c = civil(wall);
    let (weekday, month) = (WEEKDAYS[c.weekday], MONTHS[c.month - 1]);
    format!(
        "{weekday}, {:02} {month} {:04} {:02}:{:02}:{:02} +0000",
        c.day, c.year, c.hour, c.minute, c.second
    )
}

/// Writes `number` in decimal, with leading zeros, over the whole of `field`.
fn put(field: &mut [u8], number: i64) {
    let mut rest = number.unsigned_abs() as u32;
    for digit in field.iter_mut().rev() {
        *digit = b'0' + (rest % 10) as u8;
        rest /= 10;
    }
}

/// `2026-11-24T17:13:29.000123Z`, in ASCII: log lines have two of them each.
pub fn rfc3339_octets(wall: Wall) -> [u8; 27] {
    let c = civil(wall);
    let mut text = *b"0000-00-00T00:00:00.000000Z";
    put(&mut text[0..4], c.year);
    put(&mut text[5..7], c.month as i64);
    put(&mut text[8..10], c.day);
    put(&mut text[11..13], c.hour);
    put(&mut text[14..16], c.minute);
    put(&mut text[17..19], c.second);
    put(&mut text[20..26], c.micros);
    text
}

/// `2026-11-24T17:13:29.000123Z`.
pub fn rfc3339(wall: Wall) -> String {
    String::from_utf8_lossy(&rfc3339_octets(wall)).into_owned()
}

/// `20261124-171329`, the name of a log segment.
pub fn segment_name(wall: Wall) -> String {
    let c = civil(wall);
    format!("{:04}{:02}{:02}-{:02}{:02}{:02}", c.year, c.month, c.day, c.hour, c.minute, c.second)
}

/// Reads `2026-11-24T17:13:29.000123Z` and the like with an offset (RFC 3339 5.6). `None`: it isn't one, or it lies
/// outside what a [`Wall`] can hold. A leap second is the second after it.
pub fn parse_rfc3339(text: &str) -> Option<Wall> {
    let separators =
        [(4, b"-"), (7, b"-"), (10, b"Tt"), (13, b":"), (16, b":")] as [(usize, &[u8]); 5];
    let is_separated = separators
        .iter()
        .all(|(at, allowed)| text.as_bytes().get(*at).is_some_and(|byte| allowed.contains(byte)));
    if !is_separated {
        return None;
    }
    let (year, month, day) = (digits(text, 0, 4)?, digits(text, 5, 2)?, digits(text, 8, 2)?);
    let (hour, minute) = (digits(text, 11, 2)?, digits(text, 14, 2)?);
    let second = digits(text, 17, 2)?;
    if !(1..=12).contains(&month) || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let days = days_of(year, month, day)?;
    let (nanos, zone) = fraction(text.get(19..)?)?;
    let of_day = hour * 3600 + minute * 60 + second - offset_seconds(zone)?;
    let seconds = days * 86_400 + of_day;
    seconds.checked_mul(1_000_000_000)?.checked_add(nanos).map(Wall)
}

fn digits(text: &str, at: usize, count: usize) -> Option<i64> {
    let part = text.get(at..at + count)?;
    part.bytes().all(|byte| byte.is_ascii_digit()).then(|| part.parse().ok()).flatten()
}

/// Days since 1970-01-01, by the proleptic Gregorian calendar; `None` where the month has no such day.
fn days_of(year: i64, month: i64, day: i64) -> Option<i64> {
    let is_leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let in_month = match month {
        2 => 28 + i64::from(is_leap),
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    };
    if !(1..=in_month).contains(&day) {
        return None;
    }
    // Years that begin in March put the leap day at the end.
    let year = if month <= 2 { year - 1 } else { year };
    let march_month = (month + 9) % 12;
    let era = year.div_euclid(400);
    let of_era = year.rem_euclid(400);
    let of_year = (153 * march_month + 2) / 5 + day - 1;
    Some(era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468)
}

/// Nanoseconds, and what follows the fraction. Digits beyond nanoseconds are dropped.
fn fraction(text: &str) -> Option<(i64, &str)> {
    let Some(rest) = text.strip_prefix('.') else { return Some((0, text)) };
    let length = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    if length == 0 {
        return None;
    }
    let kept = length.min(9);
    let value: i64 = rest[..kept].parse().ok()?;
    Some((value * 10_i64.pow(9 - kept as u32), &rest[length..]))
}

fn offset_seconds(zone: &str) -> Option<i64> {
    if zone == "Z" || zone == "z" {
        return Some(0);
    }
    let sign = match zone.as_bytes().first()? {
        b'+' => 1,
        b'-' => -1,
        _ => return None,
    };
    let (hours, minutes) = (digits(zone, 1, 2)?, digits(zone, 4, 2)?);
    let valid = zone.len() == 6 && zone.as_bytes()[3] == b':' && hours < 24 && minutes < 60;
    valid.then_some(sign * (hours * 3600 + minutes * 60))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn dates_of_rfc_3339_are_read() {
        for (text, seconds) in [
            ("1970-01-01T00:00:00Z", 0),
            ("1969-12-31T23:59:59z", -1),
            ("2000-02-29T00:00:00Z", 951_782_400),
            ("2026-11-24t17:13:29Z", 1_795_540_409),
            ("2026-11-24T19:13:29+02:00", 1_795_540_409),
            ("2026-11-24T11:43:29-05:30", 1_795_540_409),
            ("1990-12-31T23:59:60Z", 662_688_000),
        ] {
            assert_eq!(parse_rfc3339(text), Some(Wall::from_unix_seconds(seconds)), "{text}");
        }
        assert_eq!(parse_rfc3339("1970-01-01T00:00:00.5Z"), Some(Wall(500_000_000)));
        assert_eq!(parse_rfc3339("1970-01-01T00:00:00.1234567899Z"), Some(Wall(123_456_789)));
    }

    #[test]
    fn what_is_no_date_is_not_read() {
        for text in [
            "",
            "2026-11-24",
            "2026-11-24 17:13:29Z",
            "2026-11-24T17:13:29",
            "2026-11-24T17:13Z",
            "2026-11-24T17:13:29.Z",
            "2026-11-24T17:13:29Zx",
            "2026-11-24T17:13:29+0200",
            "2026-11-24T17:13:29+24:00",
            "2026-13-24T17:13:29Z",
            "2026-00-24T17:13:29Z",
            "2026-02-29T17:13:29Z",
            "2026-11-31T17:13:29Z",
            "2026-11-24T24:00:00Z",
            "+026-11-24T17:13:29Z",
            "9999-12-31T23:59:59Z",
            "é026-11-24T17:13:29Z",
        ] {
            assert_eq!(parse_rfc3339(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_again(nanos in any::<i64>()) {
            let micros = Wall(nanos.div_euclid(1000).saturating_mul(1000));
            prop_assume!(micros.0 <= nanos);
            prop_assert_eq!(parse_rfc3339(&rfc3339(micros)), Some(micros));
        }

        #[test]
        fn no_text_makes_it_panic(text in "[0-9TZ:.+-]{0,40}|.{0,30}") {
            let _ = parse_rfc3339(&text);
        }
    }

    #[test]
    fn known_moments_have_their_dates() {
        for (seconds, expected) in [
            (0, "Thu, 01 Jan 1970 00:00:00 +0000"),
            (-1, "Wed, 31 Dec 1969 23:59:59 +0000"),
            (951_782_400, "Tue, 29 Feb 2000 00:00:00 +0000"),
            (1_709_251_199, "Thu, 29 Feb 2024 23:59:59 +0000"),
            (1_795_540_409, "Tue, 24 Nov 2026 17:13:29 +0000"),
            (4_107_542_400, "Mon, 01 Mar 2100 00:00:00 +0000"),
        ] {
            assert_eq!(rfc5322(Wall::from_unix_seconds(seconds)), expected);
        }
    }

    #[test]
    fn fractions_are_microseconds_rounded_down() {
        assert_eq!(rfc3339(Wall(1_795_540_409_000_123_999)), "2026-11-24T17:13:29.000123Z");
        assert_eq!(rfc3339(Wall(-1)), "1969-12-31T23:59:59.999999Z");
        assert_eq!(segment_name(Wall(1_795_540_409_000_123_999)), "20261124-171329");
    }

    #[test]
    fn the_ends_of_time_have_dates_too() {
        assert_eq!(rfc3339(Wall(i64::MIN)), "1677-09-21T00:12:43.145224Z");
        assert_eq!(rfc3339(Wall(i64::MAX)), "2262-04-11T23:47:16.854775Z");
        assert_eq!(segment_name(Wall(i64::MIN)), "16770921-001243");
        assert_eq!(rfc5322(Wall(i64::MAX)), "Fri, 11 Apr 2262 23:47:16 +0000");
    }
}
