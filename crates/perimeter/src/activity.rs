//! Reads a principal's own lines off the end of the audit log.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::path::Path;

use kafscale_agent::audit::Event;
use serde_json::Value;

/// How far back it is looked.
const TAIL_BYTES: u64 = 4 << 20;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    pub time: String,
    pub tool: String,
    pub decision: String,
    pub outcome: String,
    pub tables: Vec<String>,
}

#[derive(Debug)]
pub struct Activity {
    /// Newest first.
    pub lines: Vec<Line>,
    /// There is more than this.
    pub goes_on: bool,
}

pub fn of(log: &Path, principal: &str, most: usize) -> io::Result<Activity> {
    let mut file = File::open(log)?;
    let length = file.metadata()?.len();
    let start = length.saturating_sub(TAIL_BYTES);
    file.seek(SeekFrom::Start(start))?;
    let mut bytes = Vec::new();
    file.take(TAIL_BYTES).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    // The first line may have lost its beginning.
    let whole = text.lines().skip(usize::from(start > 0));
    let mut own: Vec<Line> = whole.filter_map(|line| own_line(line, principal)).collect();
    let goes_on = start > 0 || own.len() > most;
    own.reverse();
    own.truncate(most);
    Ok(Activity { lines: own, goes_on })
}

fn own_line(line: &str, principal: &str) -> Option<Line> {
    let event: Event = serde_json::from_str(line).ok()?;
    if event.principal != principal {
        return None;
    }
    let tables = event.details.as_ref().and_then(|details| details.get("tables")).and_then(Value::as_array);
    let tables = tables.into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect();
    Some(Line {
        time: event.time,
        tool: event.tool.unwrap_or(event.method),
        decision: format!("{:?}", event.decision).to_lowercase(),
        outcome: event.outcome,
        tables,
    })
}
