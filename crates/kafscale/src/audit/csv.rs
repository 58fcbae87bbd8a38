//! The report as CSV (RFC 4180), one row for each call.
//!
//! Spreadsheets take a cell that begins with `=`, `+`, `-`, `@` or some blanks for a formula, quoted or not: such a cell begins with
//! an apostrophe here. Line breaks and other controls are spelled out, so that a row is a line.

use std::io::{self, Write};

use kafscale_observe::names;

use super::access::{Access, Mention};
use super::report::{Form, Head};

const HEADER: &str = "chain,line,decided_in_line,time,principal,agent,on_behalf_of,peer,purpose,tool,tables,outcome,why,rows_left,rows,\
                      in_clear,held_back,rules,rules_sha256,arguments_sha256,subject,statement";

/// Whether the chain holds stands in each row: rows are taken out of files.
#[derive(Debug, Default)]
pub struct Csv {
    chain: String,
}

impl Form for Csv {
    fn begin(&mut self, out: &mut dyn Write, head: &Head) -> io::Result<()> {
        self.chain = match &head.chain.verified {
            Ok(_) => "holds".to_owned(),
            Err(_) => head.chain.in_words(),
        };
        write!(out, "{HEADER}\r\n")
    }

    fn call(&mut self, out: &mut dyn Write, access: &Access) -> io::Result<()> {
        let number = |number: Option<u64>| number.map_or(String::new(), |number| number.to_string());
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        let subject = access.subject.map_or("", |subject| match subject {
            Mention::Named => "named",
            Mention::Possible => "possible",
        });
        let cells = [
            self.chain.clone(),
            access.line.to_string(),
            number(access.decided_in_line),
            access.time.clone(),
            access.principal.clone(),
            text(&access.agent),
            text(&access.on_behalf_of),
            text(&access.peer),
            access.purpose.clone(),
            access.tool.clone(),
            access.tables_in_words(),
            access.came.word().to_owned(),
            text(&access.why),
            number(access.rows_left.filter(|_| access.came.saw())),
            number(access.rows.filter(|_| access.came.saw())),
            access.in_clear.join("; "),
            access.held_back.join("; "),
            access.rules.join(", "),
            text(&access.rules_sha256),
            text(&access.arguments_sha256),
            subject.to_owned(),
            text(&access.statement),
        ];
        let cells: Vec<String> = cells.iter().map(|text| cell(text)).collect();
        write!(out, "{}\r\n", cells.join(","))
    }

    fn end(&mut self, _: &mut dyn Write, _: &Head) -> io::Result<()> {
        Ok(())
    }
}

/// The longest that a spreadsheet keeps.
const CELL_CHARS: usize = 32_000;

pub fn cell(text: &str) -> String {
    let shown = names::text(text, CELL_CHARS);
    // Also in the widths of East Asia, which some spreadsheets read as the same.
    let is_formula = |c: char| matches!(c, '=' | '+' | '-' | '@' | '＝' | '＋' | '－' | '＠' | '−');
    let guard = if shown.trim_start().starts_with(is_formula) { "'" } else { "" };
    format!("\"{guard}{}\"", shown.replace('"', "\"\""))
}
