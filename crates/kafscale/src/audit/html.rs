//! The report as one page of HTML to read and to print: no scripts, nothing from elsewhere, and a policy that forbids both.
//!
//! Invariant: every value goes through [`escape`]; there is no attribute with a value in it.

use std::io::{self, Write};

use kafscale_observe::names;

use super::access::Access;
use super::report::{Form, Head};
use super::text::{COLUMNS, row, totals};

const TEXT_CHARS: usize = 4_000;
const HEAD: &str = "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n\
<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n\
<meta name=\"referrer\" content=\"no-referrer\"><title>Audit report</title>\n<style>\n\
body { font: 14px/1.4 system-ui, sans-serif; margin: 2em auto; max-width: 70em; padding: 0 1em; color: #111; background: #fff }\n\
table { border-collapse: collapse; width: 100%; margin: 1em 0 }\n\
th, td { text-align: left; vertical-align: top; padding: .3em .6em; border-bottom: 1px solid #ccc; overflow-wrap: anywhere }\n\
td.n, th.n { text-align: right; white-space: nowrap }\n\
.holds { border-left: .4em solid #1a7f37; padding: .2em .8em }\n\
.broken { border: .2em solid #b00020; padding: .5em .8em; font-weight: bold }\n\
.refused td:first-child { border-left: .3em solid #b00020 }\n\
small { color: #555 }\n\
@media print { body { margin: 0; max-width: none; font-size: 9pt } thead { display: table-header-group } tr { break-inside: avoid } }\n\
</style></head><body>\n<h1>Audit report</h1>\n";

pub struct Html;

impl Form for Html {
    fn begin(&mut self, out: &mut dyn Write, head: &Head) -> io::Result<()> {
        out.write_all(HEAD.as_bytes())?;
        writeln!(out, "<p>Of the log {}, made {}.</p>", escape(&head.log), escape(&head.made))?;
        let class = if head.chain.verified.is_ok() { "holds" } else { "broken" };
        write!(out, "<p class=\"{class}\">The chain {}.", escape(&head.chain.in_words()))?;
        if let Ok(verified) = &head.chain.verified {
            write!(out, "<br><small>last line: sha256 {}</small>", escape(&verified.last_hash))?;
        }
        let about = if head.about.is_empty() { "all calls".to_owned() } else { head.about.join("; ") };
        writeln!(out, "</p>\n<p>About: {}.<br>Calls: {}.</p>", escape(&about), escape(&totals(head)))?;
        for note in &head.sums.notes {
            writeln!(out, "<p>Note: {}.</p>", escape(note))?;
        }
        if head.sums.possible > 0 {
            let listed = if head.possible_is_counted { " They are not listed." } else { "" };
            writeln!(
                out,
                "<p>Note: {} answers may hold the subject and do not name it.{listed}</p>",
                head.sums.possible
            )?;
        }
        out.write_all(b"<h2>By principal, purpose and table</h2>\n<table><thead><tr>")?;
        for (at, column) in COLUMNS.iter().enumerate() {
            write!(out, "<th{}>{column}</th>", numeric(at))?;
        }
        out.write_all(b"</tr></thead><tbody>\n")?;
        for (group, counts) in &head.sums.groups {
            out.write_all(b"<tr>")?;
            for (at, cell) in row(group, counts).iter().enumerate() {
                write!(out, "<td{}>{}</td>", numeric(at), escape(cell))?;
            }
            out.write_all(b"</tr>\n")?;
        }
        if !head.lists_calls {
            return Ok(());
        }
        out.write_all(
            b"</tbody></table>\n<h2>Calls</h2>\n<table><thead><tr><th>time, line</th><th>who</th><th>what</th><th>what for</th>\
              <th>outcome</th><th>what was seen, and what was held back</th></tr></thead><tbody>\n",
        )
    }

    fn call(&mut self, out: &mut dyn Write, access: &Access) -> io::Result<()> {
        let class = if access.came.saw() { "" } else { " class=\"refused\"" };
        write!(out, "<tr{class}><td>{}<br><small>line {}</small></td>", escape(&access.time), access.line)?;
        write!(out, "<td>{}", escape(&access.principal))?;
        for (word, value) in [("by", &access.agent), ("for", &access.on_behalf_of), ("from", &access.peer)] {
            if let Some(value) = value {
                write!(out, "<br><small>{word} {}</small>", escape(value))?;
            }
        }
        write!(out, "</td><td>{}<br>{}", escape(&access.tool), escape(&access.tables_in_words()))?;
        if let Some(statement) = &access.statement {
            write!(out, "<br><small>{}</small>", escape(statement))?;
        }
        write!(out, "</td><td>{}</td><td>{}", escape(&access.purpose), access.came.word())?;
        let rows = access.rows_in_words();
        if !rows.is_empty() {
            write!(out, "<br>{} rows left", escape(&rows))?;
        }
        if let Some(mention) = access.subject {
            write!(out, "<br>subject: {}", escape(&format!("{mention:?}").to_lowercase()))?;
        }
        out.write_all(b"</td><td>")?;
        if let Some(why) = &access.why {
            write!(out, "Why not: {}<br>", escape(why))?;
        }
        for clear in access.in_clear.iter().filter(|_| access.came.saw()) {
            write!(out, "In clear, if asked for: {}<br>", escape(clear))?;
        }
        for held in &access.held_back {
            write!(out, "Held back: {}<br>", escape(held))?;
        }
        if !access.rules.is_empty() {
            write!(out, "<small>rules: {}</small>", escape(&access.rules.join(", ")))?;
        }
        out.write_all(b"</td></tr>\n")
    }

    fn end(&mut self, out: &mut dyn Write, _: &Head) -> io::Result<()> {
        out.write_all(
            b"</tbody></table>\n<p><small>The log holds no rows of answers: what was in clear is what the rules let the caller be shown, \
              if the statement asked for it.</small></p>\n</body></html>\n",
        )
    }
}

fn numeric(at: usize) -> &'static str {
    if at < 3 { "" } else { " class=\"n\"" }
}

/// Controls are spelled out, so that nothing reorders or hides what is printed.
pub fn escape(text: &str) -> String {
    let shown = names::text(text, TEXT_CHARS);
    let mut escaped = String::with_capacity(shown.len());
    for c in shown.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            plain => escaped.push(plain),
        }
    }
    escaped
}
