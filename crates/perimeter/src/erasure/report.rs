//! What was found, and where requests stand, as text, CSV and JSON.

use std::fmt::Write as _;

use kafscale_settings::perimeter::ErasureFormat;
use serde_json::json;

use super::register::{Request, State};
use super::search::{Found, Place};

pub fn of_found(found: &Found, format: ErasureFormat) -> String {
    match format {
        ErasureFormat::Text => text_of(found),
        ErasureFormat::Json => lines_of_json(&json!({ "complete": found.is_complete(), "found": found })),
        ErasureFormat::Csv => {
            let mut csv =
                row(["table", "kind", "part", "columns", "rows", "erased_by", "until", "not_searched"]);
            found.places.iter().for_each(|place| csv += &row(cells(place).each_ref().map(String::as_str)));
            for gap in &found.gaps {
                csv += &row([&gap.table, "", "", "", "", "", "", &gap.why]);
            }
            csv
        }
    }
}

pub fn of_requests(requests: &[&Request], format: ErasureFormat) -> String {
    match format {
        ErasureFormat::Text if requests.is_empty() => "There are no erasure requests.\n".to_owned(),
        ErasureFormat::Text => requests.iter().map(|request| request_in_words(request)).collect(),
        ErasureFormat::Json => lines_of_json(&json!(requests)),
        ErasureFormat::Csv => {
            let mut csv = row(["request", "state", "time", "by", "what", "table", "rows", "until"]);
            requests.iter().for_each(|request| csv += &rows_of(request));
            csv
        }
    }
}

pub fn state(state: &State) -> String {
    match state {
        State::Open => "open".to_owned(),
        State::ClosedUntil { until } => format!("closed; what remains ends by {until}"),
        State::Closed => "closed; nothing remains".to_owned(),
        State::Withdrawn => "withdrawn".to_owned(),
    }
}

fn lines_of_json(value: &serde_json::Value) -> String {
    serde_json::to_string_pretty(value).unwrap_or_default() + "\n"
}

fn text_of(found: &Found) -> String {
    let mut text = String::new();
    for place in &found.places {
        let Place { table, kind, part, columns, rows, erased_by, until } = place;
        let part = part.as_ref().map_or(String::new(), |part| format!(", {}", shown(part)));
        let _ =
            writeln!(text, "{} ({kind}{part}): {rows} rows, by {}", shown(table), shown(&columns.join(", ")));
        let _ = writeln!(text, "    what erases it: {}", shown(erased_by));
        if let Some(until) = until {
            let _ = writeln!(text, "    remains until {until} by retention, and the next check of it");
        }
    }
    for gap in &found.gaps {
        let _ = writeln!(text, "NOT SEARCHED {}: {}", shown(&gap.table), shown(&gap.why));
    }
    let _ = writeln!(text, "{}.", found.in_words());
    text
}

fn request_in_words(request: &Request) -> String {
    let Request { id, subject, opened, found, recorded, verified, withdrawn, .. } = request;
    let mut text = String::new();
    let _ = writeln!(text, "{id}: a {}, {}", shown(subject), state(&request.state));
    let line = |text: &mut String, what: &str, done: &super::register::Done| {
        let why = if done.what.is_empty() { String::new() } else { format!(": {}", shown(&done.what)) };
        let _ = writeln!(text, "  {what} {} by {}{why}", done.time, shown(&done.by));
    };
    line(&mut text, "opened", opened);
    let _ = writeln!(text, "  found then: {}", found.in_words());
    for (table, done) in recorded {
        line(&mut text, &format!("erased from {}", shown(table)), done);
    }
    if let Some((done, now)) = verified {
        line(&mut text, "verified", done);
        let is_there = |table: &str| now.places.iter().any(|place| place.table == table);
        let is_gap = |table: &str| now.gaps.iter().any(|gap| gap.table == table);
        let mut before: Vec<&String> = found.places.iter().map(|place| &place.table).collect();
        before.dedup();
        for table in before.into_iter().filter(|table| !is_there(table) && !is_gap(table)) {
            let who = if recorded.contains_key(table) { "" } else { ", and nobody recorded who erased it" };
            let _ = writeln!(text, "  gone from {}{who}", shown(table));
        }
        text_of(now).lines().for_each(|line| _ = writeln!(text, "  {line}"));
    }
    if let Some(done) = withdrawn {
        line(&mut text, "withdrawn", done);
    }
    text
}

/// A line for each thing that was done, and for what was there at the last look.
fn rows_of(request: &Request) -> String {
    let told = state(&request.state);
    let line = |done: &super::register::Done, what: String, table: &str, rows: &str, until: &str| {
        row([&request.id, &told, &done.time, &done.by, &what, table, rows, until])
    };
    let mut csv = line(&request.opened, format!("opened: {}", request.opened.what), "", "", "");
    let places = |done: &super::register::Done, what: &str, found: &Found| {
        let mut csv = String::new();
        for place in &found.places {
            let until = place.until.as_deref().unwrap_or_default();
            csv += &line(done, what.to_owned(), &place.table, &place.rows.to_string(), until);
        }
        for gap in &found.gaps {
            csv += &line(done, format!("not searched: {}", gap.why), &gap.table, "", "");
        }
        csv
    };
    csv += &places(&request.opened, "found", &request.found);
    for (table, done) in &request.recorded {
        csv += &line(done, format!("erased: {}", done.what), table, "", "");
    }
    if let Some((done, found)) = &request.verified {
        csv += &line(done, format!("verified: {}", done.what), "", "", "");
        csv += &places(done, "remains", found);
    }
    if let Some(done) = &request.withdrawn {
        csv += &line(done, format!("withdrawn: {}", done.what), "", "", "");
    }
    csv
}

fn cells(place: &Place) -> [String; 8] {
    let Place { table, kind, part, columns, rows, erased_by, until } = place.clone();
    let (part, until) = (part.unwrap_or_default(), until.unwrap_or_default());
    [table, kind, part, columns.join(" "), rows.to_string(), erased_by, until, String::new()]
}

fn row(cells: [&str; 8]) -> String {
    cells.map(cell).join(",") + "\r\n"
}

/// What a spreadsheet would take for a formula is text.
fn cell(text: &str) -> String {
    let text = shown(text);
    let start = if text.starts_with(['=', '+', '-', '@']) { "'" } else { "" };
    format!("\"{start}{}\"", text.replace('"', "\"\""))
}

/// Names come from the sources, and must not steer a terminal.
fn shown(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}
