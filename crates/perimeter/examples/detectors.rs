//! What the last net finds in texts, for `tests/perimeter/detectors`: for each line `{"column", "text"}` of standard input one
//! `{"text", "found", "nanoseconds"}` on standard output.

use std::io::{BufRead as _, Write as _};
use std::time::Instant;

use kafscale_perimeter::detect::{Column, Filtered, filtered};
use serde_json::{Value, json};

/// Each text is searched so often: the fastest counts.
const TIMES: usize = 3;

fn main() -> std::io::Result<()> {
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    for line in std::io::stdin().lock().lines() {
        let row: Value = serde_json::from_str(&line?)?;
        let (column, text) = (row["column"].as_str().unwrap_or(""), row["text"].as_str().unwrap_or(""));
        let column = Column::of(column, std::iter::empty());
        let mut fastest = u128::MAX;
        let mut answer = (None, Filtered::default());
        for _ in 0..TIMES {
            let mut counts = Filtered::default();
            let begun = Instant::now();
            let made = filtered(text, &column, &mut counts);
            fastest = fastest.min(begun.elapsed().as_nanos());
            answer = (made, counts);
        }
        let (made, counts) = answer;
        let made = made.unwrap_or_else(|| text.to_owned());
        writeln!(
            out,
            "{}",
            json!({"text": made, "found": counts.in_words(), "nanoseconds": fastest as u64})
        )?;
    }
    out.flush()
}
