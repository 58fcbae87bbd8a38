//! Log lines on standard error, as text or JSON. Standard output is for what the user asked to see.

use std::fmt;
use std::io::IsTerminal as _;
use std::str::FromStr;

use std::sync::Arc;

use kafscale_broker::log_limit::{Line, LogLimits};
use kafscale_settings::log_line::OneLine;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::{Context, Layer, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::cli::{LogFormat, LoggingArgs};

/// It tells of every request. A directive of the user for the same target comes later, and wins.
const QUIET: &str = "rmcp=warn";

const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

/// What is logged: a level, or filters such as `info,kafscale_storage=debug`.
///
/// `EnvFilter` takes a word that is no level for the name of a module, and then logs nothing else; here it is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogLevel(String);

impl FromStr for LogLevel {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let expected =
            "use off, error, warn, info, debug or trace, or filters such as info,kafscale_storage=debug";
        let directives = directives(text);
        for directive in &directives {
            let level = directive.rsplit_once('=').map_or(*directive, |(_, level)| level).trim();
            if !LEVELS.iter().any(|known| known.eq_ignore_ascii_case(level)) {
                return Err(format!("`{level}` is not a level; {expected}"));
            }
        }
        let text = directives.join(",");
        EnvFilter::builder().parse(&text).map_err(|e| format!("{e}; {expected}"))?;
        Ok(Self(text))
    }
}

/// The parts between commas, those within brackets aside.
fn directives(text: &str) -> Vec<&str> {
    let (mut depth, mut from, mut parts) = (0_i32, 0, Vec::new());
    for (at, c) in text.char_indices() {
        match c {
            '[' | '{' => depth += 1,
            ']' | '}' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(text[from..at].trim());
                from = at + 1;
            }
            _ => {}
        }
    }
    parts.push(text[from..].trim());
    parts
}

impl fmt::Display for LogLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl LogLevel {
    fn filter(&self) -> EnvFilter {
        EnvFilter::builder().parse_lossy(format!("{QUIET},{self}"))
    }
}

/// Warnings and errors that MCP clients can cause, limited like those of Kafka clients. The limit is here because most of them are
/// written by a library.
struct AgentLines(Arc<LogLimits>);

impl<S: Subscriber> Layer<S> for AgentLines {
    fn event_enabled(&self, event: &Event<'_>, _: Context<'_, S>) -> bool {
        let metadata = event.metadata();
        let line = match metadata.target().split("::").next() {
            Some("rmcp") => Line::AgentRequests,
            Some("kafscale_agent" | "kafscale_identity" | "kafscale_observe") => Line::AgentServer,
            Some(_) | None => return true,
        };
        *metadata.level() > Level::WARN || self.0.allow(line)
    }
}

/// Changes what is logged while the program runs.
pub struct LogControl {
    change: Box<dyn Fn(EnvFilter) -> bool + Send + Sync>,
    pub limits: Arc<LogLimits>,
}

impl LogControl {
    pub fn set(&self, level: &LogLevel) {
        if !(self.change)(level.filter()) {
            tracing::warn!("the log level could not be changed");
        }
    }
}

pub fn init(args: &LoggingArgs) -> LogControl {
    // A line that cannot be written, to a file on a full disk or a pipe that nobody reads, is lost. By default it would be told of
    // on standard error, which then panics.
    let builder = tracing_subscriber::fmt().with_writer(std::io::stderr).log_internal_errors(false);
    let filter = args.log_level.filter();
    let limits = Arc::new(LogLimits::default());
    let agents = AgentLines(Arc::clone(&limits));
    match args.log_format {
        LogFormat::Text => {
            let ansi = std::io::stderr().is_terminal();
            let builder = builder.with_ansi(ansi).fmt_fields(OneLine);
            let builder = builder.with_env_filter(filter).with_filter_reloading();
            let handle = builder.reload_handle();
            builder.finish().with(agents).init();
            LogControl { change: Box::new(move |filter| handle.reload(filter).is_ok()), limits }
        }
        LogFormat::Json => {
            let builder = builder.json().flatten_event(true).with_env_filter(filter).with_filter_reloading();
            let handle = builder.reload_handle();
            builder.finish().with(agents).init();
            LogControl { change: Box::new(move |filter| handle.reload(filter).is_ok()), limits }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_that_is_no_level_is_refused() {
        for text in
            ["info", "WARN", "off", "info,kafscale_storage=debug", "error, a::b=trace", "a[b{c=1}]=info"]
        {
            assert_eq!(text.parse::<LogLevel>().map(|l| l.to_string()), Ok(text.replace(' ', "")));
        }
        for text in
            ["loud", "", "info,", "info,loud", "kafscale_storage", "kafscale_storage=loud", "a=b=c", "2"]
        {
            let refused = text.parse::<LogLevel>();
            assert!(refused.is_err_and(|why| why.contains("error, warn, info")), "{text}");
        }
    }

    /// Lines in memory.
    #[derive(Clone, Default)]
    struct Written(Arc<std::sync::Mutex<Vec<u8>>>);

    impl std::io::Write for Written {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_flood_that_mcp_clients_cause_is_cut_short_and_hides_nothing_else() {
        let written = Written::default();
        let writer = written.clone();
        let subscriber =
            tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish();
        let limits = Arc::new(LogLimits::default());
        tracing::subscriber::with_default(subscriber.with(AgentLines(Arc::clone(&limits))), || {
            for _ in 0..100 {
                tracing::warn!(target: "rmcp::service", "response error");
            }
            tracing::error!(target: "kafscale_agent::call", "no room");
            for _ in 0..20 {
                tracing::warn!(target: "kafscale_storage", "other");
                tracing::info!(target: "rmcp::service", "told at the user's wish");
            }
            limits.summarize();
        });
        let text = String::from_utf8(written.0.lock().unwrap().clone()).unwrap();
        let count = |what: &str| text.lines().filter(|line| line.contains(what)).count();
        assert_eq!((count("response error"), count("no room")), (10, 1), "{text}");
        assert_eq!((count("other"), count("at the user's wish")), (20, 20), "{text}");
        assert_eq!(count("requests of MCP clients that failed left_out=90"), 1, "{text}");
    }
}
