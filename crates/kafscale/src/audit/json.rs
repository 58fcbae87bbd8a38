//! The report as one JSON object, written call by call.
//!
//! Values are as they are in the log. Characters that a terminal would obey or that reorder text are escaped, which JSON allows.

use std::io::{self, Write};

use serde::Serialize;
use serde_json::json;

use super::access::Access;
use super::report::{Form, Head};

#[derive(Debug, Default)]
pub struct Json {
    goes_on: bool,
}

impl Form for Json {
    fn begin(&mut self, out: &mut dyn Write, head: &Head) -> io::Result<()> {
        let chain = match &head.chain.verified {
            Ok(verified) => json!({
                "holds": true, "lines": verified.lines, "last_line_sha256": verified.last_hash,
                "end_confirmed": verified.end_confirmed.is_some(),
            }),
            Err(violation) => {
                json!({ "holds": false, "lines": head.chain.lines, "violation": violation.to_string() })
            }
        };
        let sums: Vec<_> =
            head.sums.groups.iter().map(|(group, counts)| json!({ "of": group, "counts": counts })).collect();
        let about = json!({
            "log": head.log, "made": head.made, "chain": chain, "about": head.about, "notes": head.sums.notes,
            "totals": head.sums.all, "possible": head.sums.possible, "refusals_left_out": head.sums.refusals_left_out,
        });
        let text = line(&about);
        write!(out, "{{\"report\":{text},\n\"sums\":{},\n\"calls\":[", line(&sums))
    }

    fn call(&mut self, out: &mut dyn Write, access: &Access) -> io::Result<()> {
        let comma = if std::mem::replace(&mut self.goes_on, true) { "," } else { "" };
        write!(out, "{comma}\n{}", line(access))
    }

    fn end(&mut self, out: &mut dyn Write, _: &Head) -> io::Result<()> {
        out.write_all(b"\n]}\n")
    }
}

fn line(value: &impl Serialize) -> String {
    let text = serde_json::to_string(value).expect("texts and numbers have a form in JSON");
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        // Such characters are in strings only, where an escape is the same.
        if c.is_ascii() || kafscale_observe::names::shown(c.encode_utf8(&mut [0; 4])).len() == c.len_utf8() {
            safe.push(c);
        } else {
            for unit in c.encode_utf16(&mut [0; 2]) {
                safe += &format!("\\u{unit:04x}");
            }
        }
    }
    // DEL is the one control that JSON leaves as it is.
    safe.replace('\u{7f}', "\\u007f")
}
