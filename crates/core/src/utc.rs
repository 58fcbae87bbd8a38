//! Times as people read and write them: RFC 3339.
//!
//! Source: Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms", for the day of the calendar.

/// Milliseconds since the epoch of an RFC 3339 time: `2026-11-22T09:06:57Z`, `2026-11-22T10:06:57.999+01:00`. `None` for any other text.
pub fn parse(text: &str) -> Option<i64> {
    let (date, rest) = text.split_at_checked(10)?;
    let (time, rest) = rest.strip_prefix(['T', 't', ' '])?.split_at_checked(8)?;
    let [year, month, day] = numbers(date, '-', [4, 2, 2])?;
    let [hour, minute, second] = numbers(time, ':', [2, 2, 2])?;
    let days = days_from_civil(year, month, day);
    let exists = civil(days) == (year, month, day);
    // A leap second is the one after it.
    if !exists || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let (fraction_ms, zone) = match rest.strip_prefix('.') {
        Some(rest) => {
            let end = rest.find(|c: char| !c.is_ascii_digit())?;
            (milliseconds_of(&rest[..end])?, &rest[end..])
        }
        None => (0, rest),
    };
    let seconds = ((days * 24 + hour) * 60 + minute) * 60 + second - 60 * zone_minutes(zone)?;
    Some(seconds * 1000 + fraction_ms)
}

fn numbers<const N: usize>(text: &str, separator: char, digits: [usize; N]) -> Option<[i64; N]> {
    let mut parts = text.split(separator);
    let mut out = [0; N];
    for (slot, digits) in out.iter_mut().zip(digits) {
        let part = parts.next().filter(|p| p.len() == digits && p.bytes().all(|b| b.is_ascii_digit()))?;
        *slot = part.parse().ok()?;
    }
    parts.next().is_none().then_some(out)
}

/// Of the digits behind the point; what is smaller than a millisecond is left out.
fn milliseconds_of(digits: &str) -> Option<i64> {
    let first: String = digits.chars().chain("000".chars()).take(3).collect();
    (!digits.is_empty()).then(|| first.parse().ok())?
}

/// `Z`, or how far local time is ahead of UTC: `+01:00`.
fn zone_minutes(zone: &str) -> Option<i64> {
    if matches!(zone, "Z" | "z") {
        return Some(0);
    }
    let (sign, rest) = match zone.strip_prefix('+') {
        Some(rest) => (1, rest),
        None => (-1, zone.strip_prefix('-')?),
    };
    let [hours, minutes] = numbers(rest, ':', [2, 2])?;
    (hours <= 23 && minutes <= 59).then_some(sign * (hours * 60 + minutes))
}

/// The day since 1970 of a year, a month and a day.
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = year - i64::from(month <= 2);
    let era = year.div_euclid(400);
    let of_era = year.rem_euclid(400);
    let of_year = (153 * (month + if month > 2 { -3 } else { 9 }) + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

/// To the second: `2026-11-22T09:06:57Z`.
pub fn seconds(unix_ms: i64) -> String {
    let (date, time, _) = parts(unix_ms);
    format!("{date}T{time}Z")
}

/// To the millisecond: `2026-11-22T09:06:57.999Z`.
pub fn milliseconds(unix_ms: i64) -> String {
    let (date, time, ms) = parts(unix_ms);
    format!("{date}T{time}.{ms:03}Z")
}

fn parts(unix_ms: i64) -> (String, String, i64) {
    let (days, of_day_ms) = (unix_ms.div_euclid(86_400_000), unix_ms.rem_euclid(86_400_000));
    let (year, month, day) = civil(days);
    let (hour, minute, second) = (of_day_ms / 3_600_000, of_day_ms / 60_000 % 60, of_day_ms / 1_000 % 60);
    let time = format!("{hour:02}:{minute:02}:{second:02}");
    (format!("{year:04}-{month:02}-{day:02}"), time, of_day_ms % 1_000)
}

/// Year, month and day of a day since 1970.
fn civil(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let of_era = days.rem_euclid(146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_of_the_calendar() {
        for (ms, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000Z"),
            (1_709_164_800_000, "2024-02-29T00:00:00.000Z"),
            (1_795_338_417_999, "2026-11-22T09:06:57.999Z"),
            (-1, "1969-12-31T23:59:59.999Z"),
            (4_107_542_399_999, "2100-02-28T23:59:59.999Z"),
            (4_107_542_400_000, "2100-03-01T00:00:00.000Z"),
        ] {
            assert_eq!(milliseconds(ms), text);
            assert_eq!(seconds(ms), format!("{}Z", &text[..19]));
            assert_eq!(parse(text), Some(ms), "{text}");
        }
    }

    #[test]
    fn times_are_read_as_people_write_them() {
        for (text, expect) in [
            ("2026-11-25T10:00:00Z", Some(1_795_600_800_000)),
            ("2026-11-25 10:00:00Z", Some(1_795_600_800_000)),
            ("2026-11-25T11:30:00.5+01:30", Some(1_795_600_800_500)),
            ("2026-11-25T05:00:00.0009-05:00", Some(1_795_600_800_000)),
            ("2026-11-25T10:00:00", None),
            ("2026-11-25", None),
            ("2026-02-29T10:00:00Z", None),
            ("2026-13-01T10:00:00Z", None),
            ("2026-11-25T24:00:00Z", None),
            ("2026-11-25T10:00:00.Z", None),
            ("2026-11-25T10:00:00+1:00", None),
            ("2026-11-25T10:00:00Zx", None),
            ("+026-11-25T10:00:00Z", None),
            ("yesterday", None),
            ("\u{e4}\u{e4}\u{e4}\u{e4}\u{e4}\u{e4}", None),
        ] {
            assert_eq!(parse(text), expect, "{text}");
        }
    }

    #[test]
    fn no_time_is_out_of_reach() {
        for ms in [i64::MIN, i64::MAX] {
            assert!(seconds(ms).ends_with('Z'));
        }
    }
}
