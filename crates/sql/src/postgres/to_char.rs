//! `to_char` with PostgreSQL's patterns (the chapter on formatting functions in its manual), and with chrono's where there is a `%`.

use std::fmt::Write as _;
use std::sync::Arc;

use arrow::array::{Array as _, ArrayRef, AsArray as _, StringArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float64Type, TimeUnit, TimestampMicrosecondType};
use chrono::{DateTime, Datelike as _, NaiveDateTime, Timelike as _};
use datafusion::error::Result;

use super::scalar::utf8;
use crate::error::SqlError;

pub fn to_char(args: &[ArrayRef], rows: usize) -> Result<ArrayRef> {
    let patterns = utf8(&args[1])?;
    let written: StringArray = if args[0].data_type().is_numeric() {
        let numbers = cast(&args[0], &DataType::Float64)?;
        let numbers = numbers.as_primitive::<Float64Type>();
        let both = |row: &usize| numbers.is_valid(*row) && patterns.is_valid(*row);
        (0..rows).map(|row| both(&row).then(|| number(numbers.value(row), patterns.value(row)))).collect()
    } else {
        let times = cast(&args[0], &DataType::Timestamp(TimeUnit::Microsecond, None))?;
        let times = times.as_primitive::<TimestampMicrosecondType>();
        let value = |row: usize| {
            if times.is_null(row) || patterns.is_null(row) {
                return Ok(None);
            }
            let at = DateTime::from_timestamp_micros(times.value(row)).map(|at| at.naive_utc());
            at.map(|at| time(at, patterns.value(row))).transpose()
        };
        (0..rows).map(value).collect::<std::result::Result<_, SqlError>>()?
    };
    Ok(Arc::new(written))
}

/// Longer ones before those that they begin with.
const PATTERNS: [&str; 44] = [
    "HH24", "HH12", "HH", "MI", "SSSS", "SS", "MS", "US", "AM", "PM", "am", "pm", "A.M.", "P.M.", "YYYY",
    "YYY", "YY", "IYYY", "Y,YYY", "Y", "MONTH", "Month", "month", "MON", "Mon", "mon", "MM", "DAY", "Day",
    "day", "DDD", "DD", "DY", "Dy", "dy", "IDDD", "ID", "D", "WW", "IW", "W", "Q", "TZH", "OF",
];

fn time(at: NaiveDateTime, pattern: &str) -> std::result::Result<String, SqlError> {
    if pattern.contains('%') {
        let mut out = String::new();
        let bad = |_| SqlError::BadValue(format!("\"{pattern}\" is no format of a time"));
        write!(out, "{}", at.and_utc().format(pattern)).map_err(bad)?;
        return Ok(out);
    }
    let (mut out, mut rest, mut plain) = (String::new(), pattern, false);
    while let Some(first) = rest.chars().next() {
        if first == '"' {
            let (text, behind) = rest[1..].split_once('"').unwrap_or((&rest[1..], ""));
            out.push_str(text);
            rest = behind;
        } else if let Some(behind) = rest.strip_prefix("FM").or_else(|| rest.strip_prefix("fm")) {
            (plain, rest) = (true, behind);
        } else if let Some(behind) = rest.strip_prefix("TZ").filter(|behind| !behind.starts_with(['H', 'M']))
        {
            out.push_str("UTC");
            rest = behind;
        } else if let Some(found) = found(rest) {
            let written = part(at, found, plain);
            rest = &rest[found.len()..];
            plain = false;
            out.push_str(&written);
            if let Some(behind) = rest.strip_prefix("TH").or_else(|| rest.strip_prefix("th")) {
                out.push_str(ordinal(&written, rest.starts_with('T')));
                rest = behind;
            }
        } else {
            out.push(first);
            rest = &rest[first.len_utf8()..];
        }
    }
    Ok(out)
}

/// The same pattern in chrono's words, for reading.
pub fn chrono_pattern(pattern: &str) -> String {
    let (mut out, mut rest) = (String::new(), pattern);
    while let Some(first) = rest.chars().next() {
        if let Some(behind) = rest.strip_prefix("FM") {
            rest = behind;
        } else if let Some(found) = found(rest) {
            rest = &rest[found.len()..];
            out.push_str(match found {
                "HH24" => "%H",
                "HH12" | "HH" => "%I",
                "MI" => "%M",
                "SS" => "%S",
                "MS" => "%3f",
                "US" => "%6f",
                "AM" | "PM" | "am" | "pm" => "%p",
                "YYYY" => "%Y",
                "YY" => "%y",
                "MONTH" | "Month" | "month" => "%B",
                "MON" | "Mon" | "mon" => "%b",
                "MM" => "%m",
                "DAY" | "Day" | "day" => "%A",
                "DY" | "Dy" | "dy" => "%a",
                "DDD" => "%j",
                "DD" => "%d",
                "TZH" | "OF" => "%#z",
                other => other,
            });
        } else {
            out.push(first);
            rest = &rest[first.len_utf8()..];
        }
    }
    out
}

/// The pattern at the beginning: names as they are written, numbers in small letters too.
fn found(rest: &str) -> Option<&'static str> {
    let exact = PATTERNS.iter().filter(|known| rest.starts_with(**known)).max_by_key(|known| known.len());
    let folded = || {
        let starts =
            |known: &&&str| rest.get(..known.len()).is_some_and(|head| head.eq_ignore_ascii_case(known));
        PATTERNS.iter().filter(starts).max_by_key(|known| known.len())
    };
    exact.or_else(folded).copied()
}

fn part(at: NaiveDateTime, pattern: &str, plain: bool) -> String {
    let number =
        |value: i64, width: usize| if plain { value.to_string() } else { format!("{value:0width$}") };
    let name = |format: &str, width: usize| {
        let name = at.format(format).to_string();
        if plain { name } else { format!("{name:<width$}") }
    };
    let hour12 = i64::from(at.hour12().1);
    let nanos = i64::from(at.nanosecond());
    let (day, year) = (i64::from(at.day()), i64::from(at.year()));
    match pattern {
        "HH24" => number(at.hour().into(), 2),
        "HH12" | "HH" => number(hour12, 2),
        "MI" => number(at.minute().into(), 2),
        "SSSS" => at.num_seconds_from_midnight().to_string(),
        "SS" => number(at.second().into(), 2),
        "MS" => number(nanos / 1_000_000, 3),
        "US" => number(nanos / 1_000, 6),
        "AM" | "PM" => (if at.hour() < 12 { "AM" } else { "PM" }).to_owned(),
        "am" | "pm" => (if at.hour() < 12 { "am" } else { "pm" }).to_owned(),
        "A.M." | "P.M." => (if at.hour() < 12 { "A.M." } else { "P.M." }).to_owned(),
        "YYYY" => number(year, 4),
        "Y,YYY" => format!("{},{:03}", year / 1_000, year % 1_000),
        "YYY" => number(year % 1_000, 3),
        "YY" => number(year % 100, 2),
        "Y" => (year % 10).to_string(),
        "IYYY" => number(at.iso_week().year().into(), 4),
        "MONTH" => name("%B", 9).to_uppercase(),
        "Month" => name("%B", 9),
        "month" => name("%B", 9).to_lowercase(),
        "MON" => name("%b", 3).to_uppercase(),
        "Mon" => name("%b", 3),
        "mon" => name("%b", 3).to_lowercase(),
        "MM" => number(at.month().into(), 2),
        "DAY" => name("%A", 9).to_uppercase(),
        "Day" => name("%A", 9),
        "day" => name("%A", 9).to_lowercase(),
        "DY" => name("%a", 3).to_uppercase(),
        "Dy" => name("%a", 3),
        "dy" => name("%a", 3).to_lowercase(),
        "DDD" => number(at.ordinal().into(), 3),
        "DD" => number(day, 2),
        "D" => (at.weekday().num_days_from_sunday() + 1).to_string(),
        "ID" => at.weekday().number_from_monday().to_string(),
        "IDDD" => number(i64::from(at.iso_week().week0() * 7 + at.weekday().number_from_monday()), 3),
        "WW" => number(i64::from(at.ordinal0() / 7 + 1), 2),
        "IW" => number(at.iso_week().week().into(), 2),
        "W" => ((day - 1) / 7 + 1).to_string(),
        "Q" => (at.month0() / 3 + 1).to_string(),
        "TZH" | "OF" => "+00".to_owned(),
        other => other.to_owned(),
    }
}

fn ordinal(number: &str, capitals: bool) -> &'static str {
    let teens = number.len() > 1 && number.as_bytes()[number.len() - 2] == b'1';
    match (number.bytes().last(), teens, capitals) {
        (Some(b'1'), false, true) => "ST",
        (Some(b'2'), false, true) => "ND",
        (Some(b'3'), false, true) => "RD",
        (_, _, true) => "TH",
        (Some(b'1'), false, false) => "st",
        (Some(b'2'), false, false) => "nd",
        (Some(b'3'), false, false) => "rd",
        (_, _, false) => "th",
    }
}

/// Of the patterns of numbers: 9, 0, `.` or D, `,` or G, MI, S, PL, FM. What does not fit is `#`.
fn number(value: f64, pattern: &str) -> String {
    let upper = pattern.to_uppercase();
    let (fill, picture) = (!upper.contains("FM"), upper.replace("FM", ""));
    let signed = picture.contains('S') || picture.contains("MI") || picture.contains("PL");
    let picture = picture.replace('G', ",").replace('D', ".");
    let (whole, fraction) = picture.split_once('.').unwrap_or((&picture, ""));
    let places = fraction.chars().filter(|c| matches!(c, '9' | '0')).count();
    let digits = format!("{:.places$}", value.abs());
    let (integer, behind) = digits.split_once('.').unwrap_or((&digits, ""));
    let slots = whole.chars().filter(|c| matches!(c, '9' | '0')).count();
    if integer.len() > slots && (integer != "0") {
        let hidden = |c: char| if c.is_ascii_digit() { '#' } else { c };
        let hidden: String =
            picture.chars().filter(|c| matches!(c, '9' | '0' | '.' | ',')).map(hidden).collect();
        return format!(
            "{}{hidden}",
            if value < 0.0 {
                "-"
            } else if fill {
                " "
            } else {
                ""
            }
        );
    }
    let forced = whole.chars().filter(|c| matches!(c, '9' | '0')).position(|c| c == '0');
    let integer = if integer == "0" && slots > 0 && forced.is_none() && places > 0 { "" } else { integer };
    let mut left = slots;
    let mut out = String::new();
    for c in whole.chars() {
        match c {
            '9' | '0' => {
                let is_digit = left <= integer.len();
                let zero = forced.is_some_and(|forced| slots - left >= forced);
                match (is_digit, zero) {
                    (true, _) => out.push_str(&integer[integer.len() - left..=integer.len() - left]),
                    (false, true) => out.push('0'),
                    (false, false) => out.push(' '),
                }
                left -= 1;
            }
            ',' => out.push(if out.trim().is_empty() { ' ' } else { ',' }),
            _ => {}
        }
    }
    let has_point = picture.contains('.');
    // Without fill, nines behind the point do not keep zeros.
    let behind = match fill {
        true => behind.to_owned(),
        false => {
            let kept = fraction.rfind('0').map_or(0, |at| at + 1);
            let trimmed = behind.trim_end_matches('0').len().max(kept.min(behind.len()));
            behind[..trimmed].to_owned()
        }
    };
    let negative = value < 0.0 && digits.bytes().any(|b| b.is_ascii_digit() && b != b'0');
    let sign = match (negative, signed) {
        (true, _) => "-",
        (false, true) if picture.contains('S') || picture.contains("PL") => "+",
        (false, _) if fill => " ",
        (false, _) => "",
    };
    let number = out.trim_start();
    let point = if has_point { "." } else { "" };
    let text = format!("{sign}{number}{point}{behind}");
    match fill {
        true => format!("{text:>width$}", width = out.len() + 1 + usize::from(has_point) + places),
        false => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What PostgreSQL 15 gives.
    #[test]
    fn patterns_of_times_are_those_of_postgresql() {
        let at =
            chrono::NaiveDate::from_ymd_opt(2026, 3, 2).unwrap().and_hms_micro_opt(15, 4, 5, 67_800).unwrap();
        for (pattern, expected) in [
            ("YYYY-MM-DD HH24:MI:SS", "2026-03-02 15:04:05"),
            ("yyyy-mm-dd hh24:mi", "2026-03-02 15:04"),
            ("HH12:MI AM, HH:MI pm", "03:04 PM, 03:04 pm"),
            ("MS US", "067 067800"),
            ("Month|FMMonth|MON|mon", "March    |March|MAR|mar"),
            ("Day|FMDay|Dy", "Monday   |Monday|Mon"),
            ("DDD D ID Q WW IW", "061 2 1 1 09 10"),
            ("FMDDth \"of\" FMMonth", "2nd of March"),
            ("YY IYYY TZ", "26 2026 UTC"),
            ("%Y/%m", "2026/03"),
        ] {
            assert_eq!(time(at, pattern).unwrap(), expected, "{pattern}");
        }
    }

    #[test]
    fn patterns_of_numbers_are_those_of_postgresql() {
        for (value, pattern, expected) in [
            (1234.5, "9,999.99", " 1,234.50"),
            (1234.5, "FM9,999.99", "1,234.5"),
            (-12.0, "999", " -12"),
            (0.5, "0.99", " 0.50"),
            (0.5, "FM990.00", "0.50"),
            (12.0, "00000", " 00012"),
            (12345.0, "999", " ###"),
            (1_234_567.891, "FM9,999,999.00", "1,234,567.89"),
        ] {
            assert_eq!(number(value, pattern), expected, "{pattern}");
        }
    }
}
