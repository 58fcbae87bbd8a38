//! What the audit log says was charged today, read when the program starts.
//!
//! Only lines of today are read: where they begin is found by the times of lines, which ascend but for the time that a call takes.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Read as _, Seek as _, SeekFrom};
use std::path::Path;
use std::time::Duration;

use kafscale_core::utc;
use serde::Deserialize;

use crate::rules::budgets::{Budgets, Charged, DAY_MS};

/// With its line break.
const MAX_LINE_BYTES: u64 = kafscale_audit::MAX_LINE_BYTES as u64 + 1;

/// What is looked at of a line.
#[derive(Deserialize)]
struct Line {
    time: String,
    principal: String,
    details: Option<Details>,
}

#[derive(Deserialize)]
struct Details {
    charged: Option<Charged>,
}

/// What each principal was charged on the day of `now_ms`. A call takes at most `longest`.
pub fn of_today(log: &Path, now_ms: i64, longest: Duration) -> io::Result<HashMap<String, Charged>> {
    let day = Budgets::day_of(now_ms);
    let longest_ms = i64::try_from(longest.as_millis()).unwrap_or(DAY_MS).min(DAY_MS);
    let since = utc::seconds(day * DAY_MS - longest_ms);
    let mut file = File::open(log)?;
    let start = first_since(&mut file, &since)?;
    file.seek(SeekFrom::Start(start))?;
    let mut reader = BufReader::with_capacity(1 << 20, file);
    let mut all: HashMap<String, Charged> = HashMap::new();
    let mut text = Vec::new();
    loop {
        text.clear();
        if reader.by_ref().take(MAX_LINE_BYTES).read_until(b'\n', &mut text)? == 0 {
            return Ok(all);
        }
        // Half a line at the end is of an answer that was not given.
        let Ok(line) = serde_json::from_slice::<Line>(&text) else { continue };
        let Some(charged) = line.details.and_then(|details| details.charged) else { continue };
        if charged.day == day {
            let of = all.entry(line.principal).or_default();
            of.queries = of.queries.saturating_add(charged.queries);
            of.rows = of.rows.saturating_add(charged.rows);
            of.entities = of.entities.saturating_add(charged.entities);
            of.refusals = of.refusals.saturating_add(charged.refusals);
        }
    }
}

/// Where the first line begins whose time is not before `since`.
fn first_since(file: &mut File, since: &str) -> io::Result<u64> {
    let (mut low, mut high) = (0, file.metadata()?.len());
    while low < high {
        let middle = low + (high - low) / 2;
        match line_from(file, middle)? {
            Some((end, time)) if time.as_str() < since => low = end,
            _ => high = middle,
        }
    }
    Ok(low)
}

/// The first line that begins at `from` or later: where it ends, and its time. None: there is none.
fn line_from(file: &mut File, from: u64) -> io::Result<Option<(u64, String)>> {
    file.seek(SeekFrom::Start(from.saturating_sub(1)))?;
    let mut reader = BufReader::new(&mut *file);
    let mut at = from.saturating_sub(1);
    let mut text = Vec::new();
    if from > 0 {
        // The rest of the line before; it is empty where one begins right here.
        at += reader.by_ref().take(MAX_LINE_BYTES).read_until(b'\n', &mut text)? as u64;
        text.clear();
    }
    let read = reader.take(MAX_LINE_BYTES).read_until(b'\n', &mut text)?;
    let line = serde_json::from_slice::<Line>(&text).ok();
    Ok(line.map(|line| (at + read as u64, line.time)))
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    const DAY: i64 = 20_000;

    fn line(at_ms: i64, principal: &str, day: i64, rest: &str) -> String {
        let time = utc::seconds(at_ms);
        format!(
            "{{\"v\":1,\"time\":\"{time}\",\"principal\":\"{principal}\",\"arguments\":{{\"sql\":\"\\\"charged\\\":{{\\\"day\\\":{day},\\\"rows\\\":9}}{rest}\"}},\
             \"details\":{{\"rows\":2,\"charged\":{{\"day\":{day},\"queries\":1,\"rows\":2}}}}}}\n"
        )
    }

    #[test]
    fn todays_lines_are_found_in_a_long_log() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("audit.jsonl");
        let now_ms = DAY * DAY_MS + 3_600_000;
        for (before, today) in [(0_usize, 0_usize), (0, 3), (3, 0), (1, 1), (500, 40), (40, 500)] {
            let mut file = File::create(&path).unwrap();
            for n in 0..before {
                let rest = "x".repeat(n % 90);
                file.write_all(line((DAY - 1) * DAY_MS + n as i64, "ada", DAY - 1, &rest).as_bytes())
                    .unwrap();
            }
            for n in 0..today {
                // The line of a call that began before midnight, and was charged after.
                let at_ms = DAY * DAY_MS + n as i64 - if n == 0 { 5_000 } else { 0 };
                file.write_all(line(at_ms, if n % 2 == 0 { "ada" } else { "bob" }, DAY, "").as_bytes())
                    .unwrap();
            }
            file.write_all(b"{\"v\":1,\"time\":\"20").unwrap();
            let found = of_today(&path, now_ms, Duration::from_secs(35)).unwrap();
            let of = |name: &str| found.get(name).map_or((0, 0), |charged| (charged.queries, charged.rows));
            let ada = today.div_ceil(2) as u64;
            assert_eq!(of("ada"), (ada, 2 * ada), "{before} lines before {today}");
            assert_eq!(of("bob").0, (today / 2) as u64);
        }
    }

    #[test]
    fn the_lines_of_other_days_are_not_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("audit.jsonl");
        let mut file = File::create(&path).unwrap();
        for n in 0..50_000 {
            file.write_all(line((DAY - 9) * DAY_MS + n, "ada", DAY - 9, "").as_bytes()).unwrap();
        }
        let bytes = file.metadata().unwrap().len();
        file.write_all(line(DAY * DAY_MS, "ada", DAY, "").as_bytes()).unwrap();
        let mut file = File::open(&path).unwrap();
        assert_eq!(first_since(&mut file, &utc::seconds(DAY * DAY_MS - 1000)).unwrap(), bytes);
    }
}
