//! The fields of a log line, in one line whatever they say: names and reasons that clients choose may have line breaks and sequences that
//! a terminal obeys, and would else pass for lines of their own.

use std::fmt;

use tracing_subscriber::field::RecordFields;
use tracing_subscriber::fmt::FormatFields;
use tracing_subscriber::fmt::format::{DefaultFields, Writer};

/// Formats fields as `tracing` does by default, with control characters and those that turn the direction of text escaped.
#[derive(Debug, Default)]
pub struct OneLine;

impl<'writer> FormatFields<'writer> for OneLine {
    fn format_fields<R: RecordFields>(&self, mut writer: Writer<'writer>, fields: R) -> fmt::Result {
        let mut text = String::new();
        DefaultFields::new().format_fields(Writer::new(&mut text), fields)?;
        for c in text.chars() {
            if c.is_control() || turns(c) {
                write!(writer, "{}", c.escape_default())?;
            } else {
                writer.write_char(c)?;
            }
        }
        Ok(())
    }
}

/// Breaks lines, or changes the order in which characters are shown (Unicode Standard Annex 9).
fn turns(c: char) -> bool {
    matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Written {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn what_a_client_says_makes_no_line_of_its_own() {
        let written = Written::default();
        let writer = written.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_ansi(false)
            .without_time()
            .fmt_fields(OneLine)
            .with_writer(move || writer.clone())
            .finish();
        tracing::subscriber::with_default(subscriber, || {
            let group = "g\nERROR all is lost\r\x1b[2J\u{2028}\u{202e}ü";
            tracing::info!(%group, "the group\trebalances");
        });
        let text = String::from_utf8(written.0.lock().unwrap().clone()).unwrap();
        let expected = r"the group\trebalances group=g\nERROR all is lost\r\u{1b}[2J\u{2028}\u{202e}ü";
        assert!(text.ends_with(&format!("{expected}\n")) && text.lines().count() == 1, "{text}");
    }
}
