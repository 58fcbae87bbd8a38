//! What was found, and where requests stand, as text and JSON.
//!
//! Invariant: no character that steers a terminal leaves: names come from the sources.

use std::fmt::Write as _;

use kafscale_settings::perimeter::ErasureFormat;
use serde_json::{Map, Value, json};

use super::found::{Found, Gap, Place};
use super::register::{Accepted, Done, Recorded, Request, State};
use super::steps::what_erases;

/// What is kept of subjects beside the collections, as far as the perimeter knows.
#[derive(Debug)]
pub struct Elsewhere {
    pub audit_log: String,
    /// Topics to which answers were written.
    pub delivered: Vec<String>,
}

impl Elsewhere {
    fn rows(&self) -> Vec<[String; 3]> {
        let row = |what: &str, until: &str, how: String| [what.to_owned(), until.to_owned(), how];
        let delivered = match self.delivered.is_empty() {
            true => "none are known".to_owned(),
            false => format!(
                "searched as other topics are, by the labels of their columns: {}",
                self.delivered.join(", ")
            ),
        };
        vec![
            row(
                "audit log",
                "as long as it is kept",
                format!(
                    "{}: lines whose statement names the subject cannot be taken out; `kafscale audit report --subject` lists them, and who was answered",
                    self.audit_log
                ),
            ),
            row("kept results (handles)", "an hour", "or until the server ends".to_owned()),
            row("answers delivered to topics", "as their topics keep them", delivered),
            row(
                "backups, replicas, versions of objects, snapshots, recipients",
                "not known to the perimeter",
                "record them: `erasure record --elsewhere`".to_owned(),
            ),
        ]
    }
}

/// With what else is told of it, by its names.
pub fn of_found(found: &Found, beside: &Map<String, Value>, format: ErasureFormat) -> String {
    match format {
        ErasureFormat::Text => {
            let line = |(name, value): (&String, &Value)| {
                let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
                format!("{name}: {}\n", shown(&text))
            };
            beside.iter().map(line).collect::<String>() + &text_of(found)
        }
        ErasureFormat::Json => {
            let mut told = beside.clone();
            told.insert("complete".to_owned(), json!(found.is_complete()));
            told.insert("found".to_owned(), json_of(found));
            json_text(&Value::Object(told))
        }
    }
}

pub fn of_requests(requests: &[&Request], elsewhere: &Elsewhere, format: ErasureFormat) -> String {
    match format {
        ErasureFormat::Text if requests.is_empty() => "There are no erasure requests.\n".to_owned(),
        ErasureFormat::Text => {
            let mut text: String = requests.iter().map(|request| request_in_words(request)).collect();
            text += "kept elsewhere, whatever was erased:\n";
            for [what, until, how] in elsewhere.rows() {
                let _ = writeln!(text, "  {}: {}; {}", shown(&what), shown(&until), shown(&how));
            }
            text
        }
        ErasureFormat::Json => {
            let rows = elsewhere.rows().into_iter();
            let rows = rows.map(|[what, until, how]| json!({ "what": what, "until": until, "how": how }));
            let requests: Vec<Value> = requests.iter().map(|request| request_json(request)).collect();
            json_text(&json!({ "requests": requests, "elsewhere": rows.collect::<Vec<_>>() }))
        }
    }
}

pub fn state(state: &State) -> String {
    match state {
        State::Open => "open".to_owned(),
        State::Waiting { until } => {
            format!("waiting: what remains is expected to end by {until}; verify it then")
        }
        State::Closed => "closed: nothing was found, and no gap is left".to_owned(),
        State::Withdrawn => "withdrawn".to_owned(),
    }
}

fn json_of(found: &Found) -> Value {
    let mut json = json!(found);
    let places = found.places.iter().map(|place| {
        let mut told = json!(place);
        told["table"] = json!(place.table.to_string());
        told["erased_by"] = json!(what_erases(place));
        if let Some(part) = place.part() {
            told["part"] = json!(part);
        }
        told
    });
    json["places"] = places.collect();
    let gaps = found.gaps.iter().map(|gap| json!({ "table": gap.table, "why": why(gap) }));
    json["gaps"] = gaps.collect();
    json
}

fn request_json(request: &Request) -> Value {
    let mut told = json!(request);
    told["found"] = json_of(&request.found);
    if let Some((done, found)) = &request.verified {
        told["verified"] = json!([done, json_of(found)]);
    }
    told["open_gaps"] = json!(request.open_gaps());
    told
}

/// What a terminal would take for a command is written as JSON writes it.
fn json_text(value: &Value) -> String {
    let text = serde_json::to_string_pretty(value).unwrap_or_default();
    let mut made = String::with_capacity(text.len() + 1);
    for c in text.chars() {
        if c != '\n' && steers(c) {
            let mut units = [0; 2];
            c.encode_utf16(&mut units).iter().for_each(|unit| _ = write!(made, "\\u{unit:04x}"));
        } else {
            made.push(c);
        }
    }
    made + "\n"
}

fn why(gap: &Gap) -> String {
    match gap.names.is_empty() {
        true => gap.why.clone(),
        false => format!("{}, such as {}", gap.why, gap.names.join(", ")),
    }
}

fn text_of(found: &Found) -> String {
    let mut text = String::new();
    for place in &found.places {
        let Place { table, kind, columns, rows, until, .. } = place;
        let part = place.part().map_or(String::new(), |part| format!(", {}", shown(&part)));
        let columns: Vec<&str> = columns.keys().map(String::as_str).collect();
        let (table, columns) = (shown(&table.to_string()), shown(&columns.join(", ")));
        let _ = writeln!(text, "{table} ({kind}{part}): {rows} rows, by {columns}");
        let _ = writeln!(text, "    what erases it: {}", shown(&what_erases(place)));
        if let Some(until) = until {
            let _ = writeln!(text, "    without that expected to end by {until}");
        }
    }
    for gap in &found.gaps {
        let _ = writeln!(text, "NOT SEARCHED {}: {}", shown(&gap.table), shown(&why(gap)));
    }
    let _ = writeln!(text, "{}", found.in_words());
    text
}

fn request_in_words(request: &Request) -> String {
    let Request { id, subject, opened, found, recorded, accepted, verified, withdrawn, seen, .. } = request;
    let mut text = String::new();
    let _ = writeln!(text, "{}: a {}, {}", shown(id), shown(subject), shown(&state(&request.state)));
    let line = |text: &mut String, what: &str, done: &Done| {
        let why = if done.what.is_empty() { String::new() } else { format!(": {}", done.what) };
        let _ = writeln!(text, "  {}", shown(&format!("{what} {} by {}{why}", done.time, done.by)));
    };
    line(&mut text, "opened", opened);
    let _ = writeln!(text, "  found then: {}", found.in_words());
    for Recorded { place, until, done } in recorded {
        line(&mut text, &recorded_in_words(place, until.as_deref()), done);
    }
    for Accepted { gap, done, .. } in accepted {
        line(&mut text, &format!("gap accepted, {} ({}),", gap.table, gap.why), done);
    }
    if let Some((done, now)) = verified {
        line(&mut text, "verified", done);
        let is_there = |table: &str| now.places.iter().any(|place| place.table.to_string() == table);
        let is_gap = |table: &str| now.gaps.iter().any(|gap| gap.table == table);
        let before = seen.keys().map(ToString::to_string);
        for table in before.filter(|table| !is_there(table) && !is_gap(table)) {
            let is_recorded = recorded.iter().any(|recorded| recorded.place == table);
            let who = if is_recorded { "" } else { ", and nobody recorded who erased it" };
            let _ = writeln!(text, "  gone from {}{who}", shown(&table));
        }
    }
    text_of(request.last_found()).lines().for_each(|line| _ = writeln!(text, "  {line}"));
    for gap in request.open_gaps() {
        let _ = writeln!(text, "  GAP that keeps it open: {}: {}", shown(&gap.table), shown(&gap.why));
    }
    if let Some(done) = withdrawn {
        line(&mut text, "withdrawn", done);
    }
    text
}

fn recorded_in_words(place: &str, until: Option<&str>) -> String {
    match until {
        None => format!("recorded for {place}"),
        Some(until) => format!("recorded for {place}, where it ends by {until},"),
    }
}

/// A text that does not steer a terminal.
pub fn shown(text: &str) -> String {
    text.chars().map(|c| if steers(c) { ' ' } else { c }).collect()
}

/// Controls, and characters that change the direction of what follows, or are not seen.
fn steers(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shape::TableName;

    #[test]
    fn no_name_steers_a_terminal() {
        let bad = "cmd\u{1b}[2J\u{9b}31m\u{202e}x\r\n";
        let place = Place {
            table: TableName::new("c", bad),
            kind: "files".to_owned(),
            file: Some(bad.to_owned()),
            files: None,
            records: None,
            columns: [(bad.to_owned(), bad.to_owned())].into(),
            rows: 1,
            keeping: None,
            until: None,
        };
        let mut gap = Gap::new(bad, bad);
        gap.names = vec![bad.to_owned()];
        let found = Found { places: vec![place], gaps: vec![gap], ..Found::default() };
        let beside = Map::from_iter([("identifiers".to_owned(), json!([bad]))]);
        for format in [ErasureFormat::Text, ErasureFormat::Json] {
            let told = of_found(&found, &beside, format);
            assert!(!told.chars().any(|c| steers(c) && c != '\n'), "{told:?}");
            // Line breaks are only those of the format.
            assert!(format != ErasureFormat::Text || told.lines().count() == 5, "{told:?}");
        }
        let json: Value = serde_json::from_str(&of_found(&found, &beside, ErasureFormat::Json)).unwrap();
        assert_eq!(json["found"]["places"][0]["part"], bad);
    }
}
