//! Times for people to read: RFC 3339 in UTC.
//!
//! Source: Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms", for the day of the calendar.

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
        }
    }

    #[test]
    fn no_time_is_out_of_reach() {
        for ms in [i64::MIN, i64::MAX] {
            assert!(seconds(ms).ends_with('Z'));
        }
    }
}
