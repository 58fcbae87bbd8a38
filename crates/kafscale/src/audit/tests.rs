//! Reports over logs that were really written, with values that try to break out of each form.

use std::path::{Path, PathBuf};

use clap::Parser;
use kafscale_observe::audit::{AuditLog, Decision, Event};
use serde_json::{Value, json};

use super::report::{self, Stopped};
use super::{ReportArgs, csv, html};

const HOSTILE: [&str; 9] = [
    "<script>alert(1)</script>",
    "\"><img src=x onerror=alert(1)>",
    "=HYPERLINK(\"http://evil.example\",\"x\")",
    " \t@SUM(1+1)",
    "＝1+1",
    "\u{1b}[2J\u{1b}]0;owned\u{7}\u{9b}31m\u{7f}",
    "a\u{202e}b\u{200b}c",
    "one\r\ntwo,\"three\"",
    "</td></tr></table><!--",
];

#[derive(Debug, Parser)]
struct Line {
    #[command(flatten)]
    report: ReportArgs,
}

struct Log {
    dir: tempfile::TempDir,
}

impl Log {
    async fn of(events: impl IntoIterator<Item = Event>) -> Log {
        let dir = tempfile::tempdir().unwrap();
        let log = AuditLog::open(&dir.path().join("audit.jsonl")).unwrap();
        for event in events {
            log.append(event).await.unwrap();
        }
        Log { dir }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("audit.jsonl")
    }

    /// The report, and whether the log holds.
    fn report(&self, words: &[&str]) -> (String, bool) {
        report_of(&self.path(), words)
    }

    fn calls(&self, words: &[&str]) -> Vec<Value> {
        let (text, _) = self.report(&[&["--format", "json"], words].concat());
        let report: Value = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}"));
        report["calls"].as_array().unwrap().clone()
    }
}

fn report_of(path: &Path, words: &[&str]) -> (String, bool) {
    let start = ["report", path.to_str().unwrap(), "--quiet"];
    let line = start.iter().chain(words);
    let args = Line::try_parse_from(line).unwrap().report;
    let mut out = Vec::new();
    let held = report::write(&args, &mut out).unwrap_or_else(|e| panic!("{e:?}"));
    (String::from_utf8(out).unwrap(), held.is_ok())
}

/// The two lines of a query, as the perimeter writes them.
fn query(at_ms: i64, principal: &str, purpose: &str, sql: &str, table: &str) -> [Event; 2] {
    let (collection, name) = table.split_once('.').unwrap();
    let mut decided = Event::new(at_ms, principal, "http");
    decided.method = "tools/call".into();
    decided.tool = Some("query".into());
    decided.request_id = Some("1".into());
    decided.arguments = Some(json!({ "sql": sql, "purpose": purpose }));
    decided.arguments_sha256 = Some(format!("digest of {sql}"));
    decided.outcome = "decided".into();
    let mut outcome = decided.clone();
    decided.details = Some(json!({
        "caller": { "principal": principal, "groups": [], "purpose": purpose }, "rules_hash": "abc",
        "tables": [table], "rules": ["names"],
        "perimeter": { "tables": [{
            "table": { "collection": collection, "table": name }, "allowed": true, "by": ["names"],
            "row_filters": ["ward = 3"], "min_group": ["patient_id", 10], "max_rows": 50,
            "columns": [
                { "name": "id", "type": "Int64", "shown": "shown" },
                { "name": "name", "type": "Utf8", "shown": "masked:hash(k)" },
                { "name": "ssn", "type": "Utf8", "shown": "hidden" },
            ],
        }] },
    }));
    outcome.outcome = "ok".into();
    outcome.details = Some(json!({
        "rows": 5, "rows_shown": 2, "filtered": "taken out of texts: 1 × e-mail address",
        "computed_from": [{ "table": table, "as_of": {} }], "handle": "h_1",
    }));
    [decided, outcome]
}

fn denied(at_ms: i64, principal: &str) -> [Event; 2] {
    let [mut decided, mut outcome] =
        query(at_ms, principal, "research", "SELECT * FROM clinic.salaries", "clinic.salaries");
    decided.decision = Decision::Deny;
    decided.details = Some(
        json!({ "caller": { "purpose": "research" }, "denied": "clinic.salaries", "why": "no rule lets you", "rules": ["no"] }),
    );
    (outcome.outcome, outcome.details) = ("invalid".into(), None);
    [decided, outcome]
}

#[tokio::test]
async fn a_decision_and_its_outcome_are_one_call() {
    let mut killed = query(3_000, "bob", "research", "SELECT 3", "clinic.visits");
    killed[0].request_id = Some("7".into());
    let log = Log::of(
        query(1_000, "ana", "research", "SELECT 1", "clinic.patients")
            .into_iter()
            .chain(denied(2_000, "ana"))
            .chain(killed.into_iter().take(1)),
    )
    .await;
    let calls = log.calls(&[]);
    assert_eq!(calls.len(), 3, "{calls:#?}");
    let seen = &calls[0];
    assert_eq!((&seen["line"], &seen["decided_in_line"]), (&json!(2), &json!(1)));
    assert_eq!(
        (&seen["came"], &seen["rows_left"], &seen["rows"]),
        (&json!("answered"), &json!(2), &json!(5))
    );
    assert_eq!((&seen["purpose"], &seen["tables"]), (&json!("research"), &json!(["clinic.patients"])));
    assert_eq!(seen["in_clear"], json!(["clinic.patients: id (in figures alone)"]));
    assert_eq!(
        seen["held_back"],
        json!([
            "clinic.patients: masked name hash(k)",
            "clinic.patients: hidden ssn",
            "clinic.patients: only rows with ward = 3",
            "clinic.patients: only in groups of at least 10 patient_id",
            "clinic.patients: max_rows 50",
            "taken out of texts: 1 × e-mail address",
        ])
    );
    assert_eq!((&calls[1]["came"], &calls[1]["why"]), (&json!("refused"), &json!("no rule lets you")));
    assert_eq!((&calls[2]["came"], &calls[2]["line"]), (&json!("unanswered"), &json!(5)));
    assert!(calls.iter().all(|call| call.get("statement").is_none()));
    assert!(log.calls(&["--statements"])[0]["statement"].as_str().unwrap().contains("SELECT 1"));
    let (text, held) = log.report(&[]);
    assert!(held && text.contains("holds: 5 lines, no line is missing at the end"), "{text}");
    assert!(text.contains("1 answered (2 rows left), 1 refused, 0 failed, 1 without an outcome"), "{text}");
}

#[tokio::test]
async fn calls_are_chosen_by_who_what_and_when() {
    let day = 86_400_000;
    let log = Log::of(
        query(0, "ana", "research", "SELECT 1 FROM t WHERE id = 4711", "clinic.patients")
            .into_iter()
            .chain(query(day, "bob", "care", "SELECT 2", "clinic.visits"))
            .chain(query(2 * day, "ana", "care", "SELECT 3", "shop.orders")),
    )
    .await;
    let lines = |words: &[&str]| -> Vec<u64> {
        log.calls(words).iter().map(|call| call["line"].as_u64().unwrap()).collect()
    };
    for (words, expected) in [
        (&["--principal", "ana"][..], &[2, 6][..]),
        (&["--collection", "clinic"], &[2, 4]),
        (&["--collection", "clinic.visits"], &[4]),
        (&["--tool", "get_result"], &[]),
        (&["--since", "1970-01-02"], &[4, 6]),
        (&["--until", "1970-01-02T00:00:00Z"], &[2]),
        (&["--since", "1970-01-02", "--until", "1970-01-03"], &[4]),
        (&["--subject", "4711"], &[2]),
        (&["--subject", "471"], &[]),
        (&["--subject", "4711", "--possible"], &[2, 4, 6]),
        (&["--summary"], &[]),
    ] {
        assert_eq!(lines(words), expected, "{words:?}");
    }
    let (text, _) = log.report(&["--subject", "4711"]);
    assert!(
        text.contains("2 answers may hold the subject and do not name it, not listed without --possible"),
        "{text}"
    );
    for wrong in [&["--since", "yesterday"][..], &["--possible"], &["--format", "pdf"]] {
        assert!(Line::try_parse_from(["report", "file"].iter().chain(wrong)).is_err(), "{wrong:?}");
    }
}

#[tokio::test]
async fn a_kept_result_is_of_the_tables_of_its_query() {
    let mut page = Event::new(2_000, "ana", "http");
    (page.tool, page.outcome) = (Some("get_result".into()), "ok".into());
    page.arguments = Some(json!({ "handle": "h_1" }));
    page.details = Some(json!({ "rows_shown": 3 }));
    let mut again = page.clone();
    (again.tool, again.arguments) =
        (Some("query".into()), Some(json!({ "sql": "SELECT * FROM handles.h_1" })));
    let first = query(1_000, "ana", "research", "SELECT 1", "clinic.patients");
    let foreign = Event { principal: "eve".into(), outcome: "invalid".into(), ..again.clone() };
    let log = Log::of(first.into_iter().chain([page, again, foreign])).await;
    let calls = log.calls(&["--collection", "clinic"]);
    assert_eq!(calls.len(), 3, "{calls:#?}");
    assert!(calls.iter().all(|call| call["tables"] == json!(["clinic.patients"])));
}

#[tokio::test]
async fn values_do_not_break_out_of_any_form() {
    let mut events = Vec::new();
    for hostile in HOSTILE {
        let [mut decided, mut outcome] = query(0, hostile, hostile, hostile, "clinic.patients");
        for event in [&mut decided, &mut outcome] {
            event.client = Some(hostile.into());
            event.tool = Some(hostile.into());
        }
        decided.details.as_mut().unwrap()["tables"] = json!([hostile]);
        decided.details.as_mut().unwrap()["perimeter"]["tables"][0]["columns"][0]["name"] = json!(hostile);
        outcome.details.as_mut().unwrap()["why"] = json!(hostile);
        events.extend([decided, outcome]);
    }
    let mut anew = Event::new(0, "server", "server");
    (anew.method, anew.outcome) = ("audit/begin".into(), HOSTILE[0].into());
    events.push(anew);
    let log = Log::of(events).await;
    for format in ["text", "csv", "json", "html"] {
        let (text, held) = log.report(&["--format", format, "--statements"]);
        assert!(held);
        let obeyed =
            |c: char| (c.is_control() && !matches!(c, '\n' | '\r')) || matches!(c, '\u{202e}' | '\u{200b}');
        assert!(!text.contains(obeyed), "{format}: {text:?}");
    }
    let (page, _) = log.report(&["--format", "html", "--statements"]);
    for tag in ["<script", "<img", "<!--", "</table><", "onerror=alert(1)>"] {
        assert!(!page.contains(tag), "{tag} in {page}");
    }
    assert_eq!(page.matches("<tr").count(), page.matches("</tr>").count());
    assert_eq!((page.matches("<table").count(), page.matches("</table>").count()), (2, 2));
    let (table, _) = log.report(&["--format", "csv", "--statements"]);
    let rows: Vec<&str> = table.split("\r\n").filter(|row| !row.is_empty()).collect();
    assert_eq!(rows.len(), 1 + HOSTILE.len(), "{table}");
    let columns = rows[0].split(',').count();
    for row in &rows[1..] {
        assert!(!row.contains(['\n', '\r']));
        assert_eq!(cells(row), columns, "{row}");
    }
    let values = log.calls(&["--statements"]);
    for (call, hostile) in values.iter().zip(HOSTILE) {
        assert_eq!(
            (&call["principal"], &call["purpose"]),
            (&json!(hostile), &json!(hostile)),
            "JSON changes values"
        );
    }
}

/// As RFC 4180 has it: quotes in a cell are doubled.
fn cells(row: &str) -> usize {
    let (mut cells, mut quoted) = (1, false);
    for c in row.chars() {
        match c {
            '"' => quoted = !quoted,
            ',' if !quoted => cells += 1,
            _ => {}
        }
    }
    assert!(!quoted, "{row} ends within a cell");
    cells
}

#[test]
fn a_cell_is_never_a_formula() {
    for text in ["=1", "+1", "-1", "@x", "\t=1", " =1", "＝1", "−1", "\r=1"] {
        let cell = csv::cell(text);
        let first = cell.trim_start_matches(['"', ' ']).chars().next().unwrap();
        assert!(first == '\'' || first == '\\', "{text:?} is {cell}");
    }
    assert_eq!(csv::cell("a=b, \"c\""), "\"a=b, \"\"c\"\"\"");
    assert_eq!(html::escape("<a href='x'>&\"\u{202e}"), "&lt;a href=&#39;x&#39;&gt;&amp;&quot;\\u{202e}");
}

#[tokio::test]
async fn a_log_that_does_not_hold_is_reported_up_to_where_it_does() {
    let events = || {
        (0..4).flat_map(|n| query(n * 1_000, "ana", "research", &format!("SELECT {n}"), "clinic.patients"))
    };
    let log = Log::of(events()).await;
    let whole = std::fs::read_to_string(log.path()).unwrap();
    let changed: String = whole.replace("SELECT 2", "SELECT 9");
    std::fs::write(log.path(), changed).unwrap();
    let (text, held) = log.report(&[]);
    // Line 5 was changed, which line 6 shows.
    assert!(!held && text.contains("DOES NOT HOLD: line 6:"), "{text}");
    assert!(text.contains("of lines 1 to 5 only"), "{text}");
    assert_eq!(log.calls(&[]).len(), 3);
    assert!(log.report(&["--format", "csv"]).0.contains("DOES NOT HOLD"));
    let (page, _) = log.report(&["--format", "html"]);
    assert!(page.contains("class=\"broken\">The chain DOES NOT HOLD"), "{page}");

    let cut: String = whole.lines().take(6).map(|line| format!("{line}\n")).collect();
    std::fs::write(log.path(), cut).unwrap();
    let (text, held) = log.report(&[]);
    assert!(!held && text.contains("the end is missing: 6 lines are there, line 8 was written"), "{text}");
    assert_eq!(log.calls(&[]).len(), 3);

    std::fs::write(log.dir.path().join("audit.jsonl.head"), "no head").unwrap();
    let (text, held) = log.report(&[]);
    assert!(!held && text.contains("is not the head"), "{text}");
    let missing = ["report", "/no/such/log", "--quiet"];
    let args = Line::try_parse_from(missing).unwrap().report;
    assert!(matches!(report::write(&args, &mut Vec::new()), Err(Stopped::Read(_))));
}

/// Callers choose their purposes: sums have an end, and the calls are not held.
#[tokio::test]
async fn many_purposes_are_summed_in_bounded_memory() {
    let events = (0..2_100).map(|n| {
        let [_, mut outcome] = query(n, "ana", &format!("purpose {n}"), "SELECT 1", "clinic.patients");
        outcome.request_id = Some(n.to_string());
        outcome
    });
    let log = Log::of(events).await;
    let (text, _) = log.report(&["--summary", "--format", "json"]);
    let report: Value = serde_json::from_str(&text).unwrap();
    let sums = report["sums"].as_array().unwrap();
    assert_eq!(sums.len(), 2_001);
    let counted: u64 = sums.iter().map(|sum| sum["counts"]["answered"].as_u64().unwrap()).sum();
    assert_eq!(counted, 2_100);
}
