//! One call as a report tells of it: what the line of its decision and the line of its outcome say, together.
//!
//! Invariant: nothing is concluded that a line does not say. Which rows an answer had is in no line; of columns a line says what
//! the caller could be shown, not what the statement asked for.

use std::sync::LazyLock;

use kafscale_observe::audit::{Decision, Event};
use serde::Serialize;
use serde_json::{Map, Value};

/// What came of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Came {
    Answered,
    /// Rows had left when it failed.
    AnsweredInPart,
    /// By rules, or for want of a token.
    Refused,
    /// The statement or the source was at fault, or the time was over.
    Failed,
    /// It was decided, and the log has no outcome: no answer left.
    Unanswered,
}

impl Came {
    pub fn word(self) -> &'static str {
        match self {
            Came::Answered => "answered",
            Came::AnsweredInPart => "answered in part",
            Came::Refused => "refused",
            Came::Failed => "failed",
            Came::Unanswered => "unanswered",
        }
    }

    pub fn saw(self) -> bool {
        matches!(self, Came::Answered | Came::AnsweredInPart)
    }
}

/// What is known of a subject from a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Mention {
    /// A statement or a row filter names it.
    Named,
    /// An answer over tables that may hold it.
    Possible,
}

#[derive(Debug, Clone, Serialize)]
pub struct Access {
    /// The line of the outcome, or of the decision where there is no outcome.
    pub line: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub decided_in_line: Option<u64>,
    pub time: String,
    pub principal: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub agent: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on_behalf_of: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peer: Option<String>,
    pub purpose: String,
    pub tool: String,
    /// `collection.table`, or a topic.
    pub tables: Vec<String>,
    pub came: Came,
    /// Why not, where it was not answered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// Rows that left, and those of the whole result, which may have stayed inside.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rows_left: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rows: Option<u64>,
    /// Columns that the caller could be shown as they are.
    pub in_clear: Vec<String>,
    /// Masks, hidden columns, row filters, least groups, limits, and what the last net took out.
    pub held_back: Vec<String>,
    pub rules: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rules_sha256: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub arguments_sha256: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subject: Option<Mention>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub statement: Option<String>,
    /// Rows of at least one table are in the answer one by one, and not in groups alone.
    #[serde(skip)]
    pub row_filters: Vec<String>,
    /// The handle that keeps the result.
    #[serde(skip)]
    pub handle: Option<String>,
    /// Arguments that are too long for a line are in it as their digest.
    #[serde(skip)]
    pub arguments_are_there: bool,
}

fn text(of: &Map<String, Value>, name: &str) -> Option<String> {
    of.get(name)?.as_str().map(str::to_owned)
}

fn texts(of: Option<&Value>) -> Vec<String> {
    let items = of.and_then(Value::as_array).into_iter().flatten();
    items.filter_map(Value::as_str).map(str::to_owned).collect()
}

static NONE: LazyLock<Map<String, Value>> = LazyLock::new(Map::new);

fn object(value: Option<&Value>) -> &Map<String, Value> {
    value.and_then(Value::as_object).unwrap_or(&NONE)
}

impl Access {
    /// Of a line alone.
    pub fn of(line: u64, event: &Event) -> Access {
        let (details, arguments) = (object(event.details.as_ref()), object(event.arguments.as_ref()));
        let caller = object(details.get("caller"));
        let method = if event.method.is_empty() { "none" } else { event.method.as_str() };
        let mut access = Access {
            line,
            decided_in_line: None,
            time: event.time.clone(),
            principal: event.principal.clone(),
            agent: event
                .oauth_client
                .clone()
                .or_else(|| text(caller, "agent"))
                .or_else(|| event.client.clone()),
            on_behalf_of: text(caller, "on_behalf_of"),
            peer: event.peer.clone(),
            purpose: text(caller, "purpose").or_else(|| text(arguments, "purpose")).unwrap_or_default(),
            tool: event.tool.clone().unwrap_or_else(|| method.to_owned()),
            tables: Vec::new(),
            came: came(event),
            why: text(details, "why").or_else(|| (event.outcome != "ok").then(|| event.outcome.clone())),
            rows_left: details.get("rows_shown").and_then(Value::as_u64).or(event.result_rows),
            rows: details.get("rows").and_then(Value::as_u64).or(event.result_rows),
            in_clear: Vec::new(),
            held_back: Vec::new(),
            rules: texts(details.get("rules")),
            rules_sha256: text(details, "rules_hash"),
            arguments_sha256: event.arguments_sha256.clone(),
            subject: None,
            statement: event.arguments.as_ref().map(Value::to_string),
            row_filters: Vec::new(),
            handle: text(details, "handle"),
            arguments_are_there: event.arguments.is_some() || event.arguments_sha256.is_none(),
        };
        access.note_tables(event, details, arguments);
        access.note_record(object(details.get("perimeter")));
        access.held_back.extend(text(details, "filtered"));
        if details.contains_key("sha256") && details.contains_key("bytes") {
            access.held_back.push("not known: the line has only the digest of its details".to_owned());
        }
        access
    }

    fn note_tables(&mut self, event: &Event, details: &Map<String, Value>, arguments: &Map<String, Value>) {
        self.tables = texts(details.get("tables"));
        self.tables.extend(text(details, "denied"));
        let from = details.get("computed_from").and_then(Value::as_array).into_iter().flatten();
        self.tables.extend(from.filter_map(|from| text(object(Some(from)), "table")));
        self.tables.extend(object(event.read.as_ref()).keys().cloned());
        if let Some(collection) = text(arguments, "collection") {
            let table = text(arguments, "table").map_or(String::new(), |table| format!(".{table}"));
            self.tables.push(collection + &table);
        }
        self.tables.sort();
        self.tables.dedup();
    }

    /// What the perimeter decided about each table.
    fn note_record(&mut self, record: &Map<String, Value>) {
        let tables = record.get("tables").and_then(Value::as_array).into_iter().flatten();
        for table in
            tables.filter_map(Value::as_object).filter(|t| t.get("allowed") == Some(&Value::Bool(true)))
        {
            let name = object(table.get("table"));
            let part = |of| text(name, of).unwrap_or_default();
            let name = format!("{}.{}", part("collection"), part("table"));
            let (mut clear, mut masked, mut hidden) = (Vec::new(), Vec::new(), Vec::new());
            for column in table.get("columns").and_then(Value::as_array).into_iter().flatten() {
                let column = object(Some(column));
                let (Some(column), Some(shown)) = (text(column, "name"), text(column, "shown")) else {
                    continue;
                };
                match shown.as_str() {
                    "shown" => clear.push(column),
                    "hidden" => hidden.push(column),
                    masked_how => {
                        masked.push(format!("{column} {}", masked_how.trim_start_matches("masked:")));
                    }
                }
            }
            let mut tell = |what: &str, list: &[String]| {
                if !list.is_empty() {
                    self.held_back.push(format!("{name}: {what} {}", list.join(", ")));
                }
            };
            tell("masked", &masked);
            tell("hidden", &hidden);
            let filters = texts(table.get("row_filters"));
            tell("only rows with", &filters);
            let min_group = table.get("min_group").and_then(Value::as_array).map(Vec::as_slice);
            if let Some([entity, size]) = min_group {
                tell("only in groups of at least", &[format!("{size} {}", entity.as_str().unwrap_or("?"))]);
            }
            for limit in ["max_rows", "max_bytes"] {
                if let Some(most) = table.get(limit).and_then(Value::as_u64) {
                    tell(limit, &[most.to_string()]);
                }
            }
            self.row_filters.extend(filters);
            if !clear.is_empty() {
                let grouped = if min_group.is_some() { " (in figures alone)" } else { "" };
                self.in_clear.push(format!("{name}: {}{grouped}", clear.join(", ")));
            }
        }
    }

    /// The decision that came before this outcome.
    pub fn with_decision(mut self, decision: Access) -> Access {
        self.decided_in_line = Some(decision.line);
        if decision.came == Came::Refused && !self.came.saw() {
            (self.came, self.why) = (Came::Refused, decision.why);
        }
        self.on_behalf_of = decision.on_behalf_of;
        self.purpose = decision.purpose;
        self.tables.extend(decision.tables);
        self.tables.sort();
        self.tables.dedup();
        self.in_clear = decision.in_clear;
        self.held_back.splice(0..0, decision.held_back);
        self.rules.extend(decision.rules);
        self.rules_sha256 = decision.rules_sha256.or(self.rules_sha256);
        self.row_filters = decision.row_filters;
        self.handle = self.handle.or(decision.handle);
        self
    }

    /// Whether it is about data, or refused: what a report is about.
    pub fn counts(&self, event: &Event) -> bool {
        event.tool.is_some() || !self.tables.is_empty() || self.came == Came::Refused
    }

    pub fn tables_in_words(&self) -> String {
        self.tables.join(", ")
    }

    /// Rows that left, of all of the result.
    pub fn rows_in_words(&self) -> String {
        match (self.came.saw(), self.rows_left, self.rows) {
            (false, ..) | (true, None, None) => String::new(),
            (true, Some(left), Some(all)) if left < all => format!("{left} of {all}"),
            (true, left, all) => left.or(all).unwrap_or_default().to_string(),
        }
    }
}

fn came(event: &Event) -> Came {
    match (event.decision, event.outcome.as_str()) {
        (Decision::Deny, _) | (Decision::Allow, "denied") => Came::Refused,
        (Decision::Allow, "decided") => Came::Unanswered,
        (Decision::Allow, "ok") => Came::Answered,
        (Decision::Allow, _) if event.result_rows.is_some_and(|rows| rows > 0) => Came::AnsweredInPart,
        (Decision::Allow, _) => Came::Failed,
    }
}
