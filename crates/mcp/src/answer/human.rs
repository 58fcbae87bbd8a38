//! Numbers as a person says them.

/// `7 days`, `1 h 30 min`, `250 ms`. At most two units.
pub fn duration_ms(ms: i64) -> String {
    const UNITS: [(i64, &str, &str); 5] = [
        (86_400_000, "day", "days"),
        (3_600_000, "h", "h"),
        (60_000, "min", "min"),
        (1_000, "s", "s"),
        (1, "ms", "ms"),
    ];
    if ms <= 0 {
        return format!("{ms} ms");
    }
    let mut rest = ms;
    let mut parts = Vec::new();
    for (size, one, many) in UNITS {
        let count = rest / size;
        rest %= size;
        if count > 0 && parts.len() < 2 {
            parts.push(format!("{count} {}", if count == 1 { one } else { many }));
        }
    }
    parts.join(" ")
}

/// `1 GiB`, `1.5 MiB`, `512 B`.
pub fn size_bytes(bytes: i64) -> String {
    const UNITS: [&str; 7] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value.abs() >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    let text = format!("{value:.2}");
    let text = if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
    format!("{text} {}", UNITS[unit])
}

/// A time as RFC 3339 in UTC, to the second.
pub fn time_ms(ms: i64) -> String {
    let seconds = ms.div_euclid(1000);
    let (days, of_day) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    let (year, month, day) = civil(days);
    let (hour, minute, second) = (of_day / 3600, of_day / 60 % 60, of_day % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

/// Year, month and day of a day since 1970 (Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms").
fn civil(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let of_era = days.rem_euclid(146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (ms, text) in [
            (604_800_000, "7 days"),
            (86_400_000, "1 day"),
            (5_400_000, "1 h 30 min"),
            (250, "250 ms"),
            (90_061_001, "1 day 1 h"),
            (0, "0 ms"),
        ] {
            assert_eq!(duration_ms(ms), text);
        }
    }

    #[test]
    fn sizes() {
        for (bytes, text) in [
            (1_073_741_824, "1 GiB"),
            (1_572_864, "1.5 MiB"),
            (512, "512 B"),
            (100, "100 B"),
            (1_048_588, "1 MiB"),
            (0, "0 B"),
        ] {
            assert_eq!(size_bytes(bytes), text);
        }
    }

    #[test]
    fn times() {
        for (ms, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_400_000, "2000-02-29T00:00:00Z"),
            (1_795_338_417_999, "2026-11-22T09:06:57Z"),
            (-1, "1969-12-31T23:59:59Z"),
        ] {
            assert_eq!(time_ms(ms), text);
        }
    }
}
