//! Tables of cases, each a request and what is expected of its decision.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::str::FromStr as _;

use arrow::datatypes::DataType;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::error::Place;
use super::file::{explain_toml, lines_of};
use super::load::Rulebook;
use super::one_or_more::OneOrMore;
use super::record::TableRecord;
use super::{Action, ColumnInfo, Holds, Request};
use crate::caller::Caller;
use crate::shape::TableName;

/// Cases that cannot be run.
#[derive(Debug, thiserror::Error)]
pub enum CasesError {
    #[error("{place}: {why}")]
    Toml { place: Place, why: String, source: Box<basic_toml::Error> },
    #[error("{}: {why}", path.display())]
    Table { path: PathBuf, why: String },
    #[error("{} holds no [[case]]", path.display())]
    Empty { path: PathBuf },
}

/// What came of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CasesReport {
    /// For a terminal.
    pub text: String,
    pub passed: usize,
    pub failed: usize,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct CasesFile {
    /// The columns of tables, each with its type.
    #[serde(default)]
    tables: BTreeMap<String, BTreeMap<String, String>>,
    #[serde(default)]
    case: Vec<Case>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    name: Option<String>,
    principal: String,
    #[serde(default)]
    groups: OneOrMore<String>,
    #[serde(default)]
    purpose: String,
    agent: Option<String>,
    on_behalf_of: Option<String>,
    #[serde(default)]
    claims: Map<String, Value>,
    #[serde(default)]
    consent: OneOrMore<String>,
    tool: Option<String>,
    /// RFC 3339.
    time: Option<String>,
    #[serde(default = "query")]
    action: Action,
    table: String,
    expect: Expected,
    shown: Option<Vec<String>>,
    hidden: Option<Vec<String>>,
    /// Each with its mask, such as `"fixed"` or `"keep_last(4)"`; `"*"` is any.
    masked: Option<BTreeMap<String, String>>,
    row_filter: Option<OneOrMore<String>>,
    min_group: Option<u32>,
    max_rows: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Expected {
    Allow,
    Deny,
}

fn query() -> Action {
    Action::Query
}

/// Runs the cases in the text of the file at `path`.
pub fn run(book: &Rulebook, path: &Path, text: &str) -> Result<CasesReport, CasesError> {
    let file: CasesFile = basic_toml::from_str(text).map_err(|source| {
        let (place, why) = explain_toml(path, text, &source);
        CasesError::Toml { place, why, source: Box::new(source) }
    })?;
    let wrong = |why| CasesError::Table { path: path.to_owned(), why };
    if file.case.is_empty() {
        return Err(CasesError::Empty { path: path.to_owned() });
    }
    let mut report = CasesReport { text: String::new(), passed: 0, failed: 0 };
    let lines = lines_of(text, "case", file.case.len());
    for (case, line) in file.case.iter().zip(lines) {
        let columns = file.tables.get(&case.table);
        let columns =
            columns.ok_or_else(|| wrong(format!("[tables] says no columns of `{}`", case.table)))?;
        let columns = columns_of(columns).map_err(wrong)?;
        let differs = case.run(book, &columns).map_err(wrong)?;
        if differs.is_empty() {
            report.passed += 1;
            continue;
        }
        report.failed += 1;
        let line = line.map(|line| format!("line {line}, ")).unwrap_or_default();
        let name = case.name.as_deref().unwrap_or(&case.principal);
        let _ = writeln!(report.text, "FAILED {line}{name}, {} of {}", case.action.name(), case.table);
        for difference in differs {
            let _ = writeln!(report.text, "  {difference}");
        }
    }
    let _ = writeln!(report.text, "{} passed, {} failed", report.passed, report.failed);
    Ok(report)
}

/// Columns from names and types as Arrow writes them, `, raw` behind that of a column that holds others.
pub fn columns_of(columns: &BTreeMap<String, String>) -> Result<Vec<ColumnInfo>, String> {
    let columns = columns.iter().map(|(name, data_type)| {
        let (data_type, holds) = match data_type.strip_suffix(", raw") {
            Some(data_type) => (data_type, Holds::Everything),
            None => (data_type.as_str(), Holds::Nothing),
        };
        let data_type = DataType::from_str(data_type)
            .map_err(|_| format!("`{data_type}` is no type; write Utf8, Int64, Date32 and so on"))?;
        Ok(ColumnInfo { holds, ..ColumnInfo::new(name, data_type) })
    });
    columns.collect()
}

/// A table by its name. A dot in the name of the collection cannot be.
pub fn table_of(text: &str) -> Result<TableName, String> {
    let parts =
        text.split_once('.').filter(|(collection, table)| !collection.is_empty() && !table.is_empty());
    let (collection, table) = parts.ok_or_else(|| format!("`{text}` is not COLLECTION.TABLE"))?;
    Ok(TableName::new(collection, table))
}

impl Case {
    /// What differs from what is expected.
    fn run(&self, book: &Rulebook, columns: &[ColumnInfo]) -> Result<Vec<String>, String> {
        let caller = Caller {
            principal: self.principal.clone(),
            groups: self.groups.0.clone(),
            agent: self.agent.clone(),
            on_behalf_of: self.on_behalf_of.clone(),
            purpose: self.purpose.clone(),
            claims: self.claims.clone(),
        };
        let time_ms = match &self.time {
            None => 0,
            Some(time) => chrono::DateTime::parse_from_rfc3339(time)
                .map_err(|_| format!("`{time}` is no time as in 2026-01-31T12:00:00Z"))?
                .timestamp_millis(),
        };
        let table = table_of(&self.table)?;
        let request = Request {
            tool: self.tool.as_deref().unwrap_or(self.action.name()),
            consent: &self.consent.0,
            ..Request::new(&caller, self.action, time_ms)
        };
        let decision = book.decide(&request, &table, columns);
        let record = TableRecord::new(&table, columns, &decision);
        let mut differs = Vec::new();
        if record.allowed != (self.expect == Expected::Allow) {
            let said = if record.allowed { "allow" } else { "deny" };
            differs.push(format!("it is {said}"));
            differs.extend(decision.reasons.for_auditor.iter().map(|reason| format!("because {reason}")));
            return Ok(differs);
        }
        self.compare_columns(&record, &mut differs)?;
        self.compare_table(&record, &mut differs);
        Ok(differs)
    }

    fn compare_columns(&self, record: &TableRecord, differs: &mut Vec<String>) -> Result<(), String> {
        let named = |list: &Option<Vec<String>>, shown: &str| {
            list.iter().flatten().map(|name| (name.clone(), shown.to_owned())).collect::<Vec<_>>()
        };
        let mut expected = [named(&self.shown, "shown"), named(&self.hidden, "hidden")].concat();
        let masked = self.masked.iter().flatten();
        expected.extend(masked.map(|(name, mask)| (name.clone(), format!("masked:{mask}"))));
        for (name, expected) in expected {
            let column = record.columns.iter().find(|column| column.name == name);
            let found = column.ok_or_else(|| format!("[tables] says nothing of the column `{name}`"))?;
            let holds =
                found.shown == expected || (expected == "masked:*" && found.shown.starts_with("masked:"));
            if !holds {
                differs.push(format!("{name} is {}, expected {expected}", found.shown));
            }
        }
        Ok(())
    }

    fn compare_table(&self, record: &TableRecord, differs: &mut Vec<String>) {
        if let Some(OneOrMore(filters)) = &self.row_filter {
            let mut filters = filters.clone();
            filters.sort();
            if filters != record.row_filters {
                differs.push(format!("the row filters are {:?}, expected {filters:?}", record.row_filters));
            }
        }
        let size = record.min_group.as_ref().map(|(_, size)| *size);
        if self.min_group.is_some() && self.min_group != size {
            differs.push(format!("the least group is {size:?}, expected {:?}", self.min_group));
        }
        if self.max_rows.is_some() && self.max_rows != record.max_rows {
            differs.push(format!("the most rows are {:?}, expected {:?}", record.max_rows, self.max_rows));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::tests::{POLICIES, RULES, book};

    const TABLE: &str = "[tables.\"hospital.patients\"]\nid = \"Int64\"\nname = \"Utf8\"\nhiv = \"Boolean\"\nward = \"Utf8\"\n";

    fn run_case(case: &str) -> Result<CasesReport, String> {
        let text = format!("{TABLE}[[case]]\ntable = \"hospital.patients\"\n{case}");
        run(&book(POLICIES, RULES), Path::new("cases.toml"), &text).map_err(|e| e.to_string())
    }

    #[test]
    fn cases_that_hold_pass_and_others_say_what_differs() {
        let alice = "principal = \"alice\"\ngroups = \"analysts\"\n";
        let bob = "principal = \"bob\"\ngroups = [\"nurses\"]\npurpose = \"treatment\"\nclaims = { ward = \"W3\" }\n";
        for (case, expected) in [
            (
                format!(
                    "{alice}expect = \"allow\"\nshown = [\"id\"]\nhidden = [\"hiv\"]\nmasked = {{ name = \"fixed\" }}"
                ),
                "",
            ),
            (
                format!(
                    "{alice}expect = \"allow\"\nmasked = {{ name = \"*\" }}\nmin_group = 10\nmax_rows = 1000"
                ),
                "",
            ),
            (format!("{bob}expect = \"allow\"\nrow_filter = \"ward = 'W3'\""), ""),
            (format!("{bob}action = \"export\"\nexpect = \"deny\""), ""),
            (format!("{bob}expect = \"deny\""), "it is allow"),
            (
                format!("{alice}action = \"export\"\nexpect = \"allow\""),
                "because hospital.patients: no policy permits it",
            ),
            (
                format!("{alice}expect = \"allow\"\nshown = [\"name\"]"),
                "name is masked:fixed, expected shown",
            ),
            (
                format!("{alice}expect = \"allow\"\nmin_group = 5"),
                "the least group is Some(10), expected Some(5)",
            ),
            (format!("{alice}expect = \"allow\"\nrow_filter = \"ward = 'W3'\""), "the row filters are []"),
        ] {
            let report = run_case(&case).unwrap();
            assert_eq!(report.failed, usize::from(!expected.is_empty()), "{case}: {}", report.text);
            assert!(report.text.contains(expected), "{case}: {}", report.text);
            assert!(expected.is_empty() || report.text.contains("FAILED line 6, "), "{}", report.text);
        }
    }

    #[test]
    fn cases_that_mean_nothing_are_errors() {
        for (case, expected) in [
            ("principal = \"a\"\nexpect = \"allowed\"", "allowed"),
            ("principal = \"a\"\nexpect = \"deny\"\nshow = []", "show"),
            ("principal = \"a\"\nexpect = \"deny\"\ntime = \"noon\"", "no time"),
            ("principal = \"alice\"\ngroups = \"analysts\"\nexpect = \"allow\"\nshown = [\"nam\"]", "`nam`"),
        ] {
            let error = run_case(case).unwrap_err();
            assert!(error.contains(expected), "{case}: {error}");
        }
        let book = book(POLICIES, RULES);
        let run = |text: &str| run(&book, Path::new("cases.toml"), text).unwrap_err().to_string();
        assert!(run("").contains("holds no [[case]]"));
        assert!(
            run("[[case]]\nprincipal = \"a\"\ntable = \"a.b\"\nexpect = \"deny\"")
                .contains("no columns of `a.b`")
        );
        let text =
            "[tables.\"a.b\"]\nc = \"text\"\n[[case]]\nprincipal = \"a\"\ntable = \"a.b\"\nexpect = \"deny\"";
        assert!(run(text).contains("is no type"));
    }
}
