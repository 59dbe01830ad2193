//! Dates as mail, logs and file names write them, always in UTC. Any [`Wall`] has a date; nothing here parses.
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

#[cfg(test)]
mod tests {
    use super::*;

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
