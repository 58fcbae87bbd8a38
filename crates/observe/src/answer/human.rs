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
}
