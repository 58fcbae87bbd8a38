//! The report for a terminal. What is in lines is shown with its controls spelled out.

use std::io::{self, Write};

use kafscale_observe::names;

use super::access::Access;
use super::report::{Form, Head};
use super::sums::{Counts, Group};

/// Of a value in a table; elsewhere they are whole, up to a line's length.
const CELL_CHARS: usize = 44;
const TEXT_CHARS: usize = 4_000;

pub struct Text;

impl Form for Text {
    fn begin(&mut self, out: &mut dyn Write, head: &Head) -> io::Result<()> {
        writeln!(out, "Audit report of {}, made {}", shown(&head.log), head.made)?;
        writeln!(out, "  chain   {}", shown(&head.chain.in_words()))?;
        if let Ok(verified) = &head.chain.verified {
            writeln!(out, "          last line: sha256 {}", verified.last_hash)?;
        }
        let about = if head.about.is_empty() { "all calls".to_owned() } else { head.about.join("; ") };
        writeln!(out, "  about   {}", shown(&about))?;
        writeln!(out, "  calls   {}", totals(head))?;
        for note in &head.sums.notes {
            writeln!(out, "  note    {}", shown(note))?;
        }
        if head.sums.possible > 0 {
            let listed = if head.possible_is_counted { ", not listed without --possible" } else { "" };
            writeln!(
                out,
                "  note    {} answers may hold the subject and do not name it{listed}",
                head.sums.possible
            )?;
        }
        sums(out, head)?;
        if head.lists_calls { writeln!(out) } else { Ok(()) }
    }

    fn call(&mut self, out: &mut dyn Write, access: &Access) -> io::Result<()> {
        let Access { line, time, principal, tool, came, .. } = access;
        let what =
            if access.tables.is_empty() { String::new() } else { format!("  {}", access.tables_in_words()) };
        let rows = access.rows_in_words();
        let rows = if rows.is_empty() { rows } else { format!(", {rows} rows left") };
        let heading =
            format!("{time}  {}  {}{}  {}{rows}", shown(principal), shown(tool), shown(&what), came.word());
        writeln!(out, "{heading}  (line {line})")?;
        let mut more = |what: &str, text: &str| {
            if text.is_empty() { Ok(()) } else { writeln!(out, "    {what:<10} {}", shown(text)) }
        };
        more("purpose", &access.purpose)?;
        more("agent", access.agent.as_deref().unwrap_or_default())?;
        more("from", access.peer.as_deref().unwrap_or_default())?;
        more("for", access.on_behalf_of.as_deref().unwrap_or_default())?;
        more("why not", access.why.as_deref().unwrap_or_default())?;
        for clear in access.in_clear.iter().filter(|_| came.saw()) {
            more("in clear", clear)?;
        }
        for held in &access.held_back {
            more("held back", held)?;
        }
        more("rules", &access.rules.join(", "))?;
        if let Some(mention) = access.subject {
            more("subject", &format!("{mention:?}").to_lowercase())?;
        }
        more("statement", access.statement.as_deref().unwrap_or_default())
    }

    fn end(&mut self, out: &mut dyn Write, head: &Head) -> io::Result<()> {
        if !head.lists_calls {
            return Ok(());
        }
        writeln!(
            out,
            "\nThe log holds no rows of answers. \"In clear\" is what the rules let a caller be shown, if its statement asked for it."
        )
    }
}

pub fn totals(head: &Head) -> String {
    let Counts { answered, rows_left, refused, failed, unanswered } = head.sums.all;
    let mut text = format!("{answered} answered ({rows_left} rows left), {refused} refused, {failed} failed");
    if unanswered > 0 {
        text += &format!(", {unanswered} without an outcome");
    }
    if head.sums.refusals_left_out > 0 {
        text += &format!(", {} refusals of a flood that have no line", head.sums.refusals_left_out);
    }
    text
}

pub const COLUMNS: [&str; 7] =
    ["principal", "purpose", "tables", "answered", "rows left", "refused", "failed"];

/// One row for each group, in the order of [`COLUMNS`].
pub fn row(group: &Group, counts: &Counts) -> [String; 7] {
    let Counts { answered, rows_left, refused, failed, unanswered } = *counts;
    let numbers = [answered, rows_left, refused, failed + unanswered].map(|number| number.to_string());
    let [answered, rows_left, refused, failed] = numbers;
    [
        group.principal.clone(),
        group.purpose.clone(),
        group.tables.clone(),
        answered,
        rows_left,
        refused,
        failed,
    ]
}

fn sums(out: &mut dyn Write, head: &Head) -> io::Result<()> {
    let rows = || head.sums.groups.iter().map(|(group, counts)| row(group, counts).map(|cell| cut(&cell)));
    let mut widths = COLUMNS.map(str::len);
    for row in rows() {
        for (width, cell) in widths.iter_mut().zip(&row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    for row in std::iter::once(COLUMNS.map(str::to_owned)).chain(rows()) {
        let mut line = String::new();
        for (at, (cell, width)) in row.iter().zip(widths).enumerate() {
            line += &if at < 3 { format!("  {cell:<width$}") } else { format!("  {cell:>width$}") };
        }
        writeln!(out, "{}", line.trim_end())?;
    }
    Ok(())
}

fn shown(text: &str) -> String {
    names::text(text, TEXT_CHARS)
}

fn cut(text: &str) -> String {
    let shown = names::text(text, CELL_CHARS);
    match shown.char_indices().nth(CELL_CHARS) {
        Some((end, _)) => format!("{}…", &shown[..end]),
        None => shown,
    }
}
