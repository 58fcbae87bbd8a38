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

/// What a filter may name: our crates that write to the log.
const OWN_TARGETS: [&str; 7] = [
    "kafscale",
    "kafscale_agent",
    "kafscale_audit",
    "kafscale_broker",
    "kafscale_identity",
    "kafscale_meta",
    "kafscale_storage",
];
/// And libraries that do.
const LIBRARY_TARGETS: [&str; 11] = [
    "h2",
    "hyper_util",
    "object_store",
    "quinn",
    "quinn_proto",
    "quinn_udp",
    "reqwest",
    "rmcp",
    "rustls",
    "tonic",
    "tower",
];

/// What is logged: a level, or filters such as `info,kafscale_storage=debug`.
///
/// `EnvFilter` takes a word that is no level for the name of a module, and then logs nothing else; and a target that nothing has for one
/// that may come. Here both are refused.
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
            if let Some(target) = target(directive).filter(|target| !is_known(target)) {
                let (own, libraries) = (OWN_TARGETS.join(", "), LIBRARY_TARGETS.join(", "));
                return Err(format!(
                    "nothing logs as `{target}`; the targets are {own}, and of libraries {libraries}"
                ));
            }
        }
        let text = directives.join(",");
        EnvFilter::builder().parse(&text).map_err(|e| format!("{e}; {expected}"))?;
        Ok(Self(text))
    }
}

/// What a directive `target[span{field=value}]=level` names, where it names anything.
fn target(directive: &str) -> Option<&str> {
    let (filter, _) = directive.rsplit_once('=')?;
    let target = filter.split('[').next().unwrap_or_default().trim();
    (!target.is_empty()).then_some(target)
}

fn is_known(target: &str) -> bool {
    let name = target.split("::").next().unwrap_or_default();
    OWN_TARGETS.contains(&name) || LIBRARY_TARGETS.contains(&name)
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
    pub change: Box<dyn Fn(EnvFilter) -> bool + Send + Sync>,
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
pub mod tests {
    use super::*;

    #[test]
    fn a_word_that_is_no_level_is_refused() {
        for text in [
            "info",
            "WARN",
            "off",
            "info,kafscale_storage=debug",
            "error, rmcp::service=trace",
            "kafscale[b{c=1}]=info",
            "[b{c=1}]=info",
        ] {
            assert_eq!(text.parse::<LogLevel>().map(|l| l.to_string()), Ok(text.replace(' ', "")));
        }
        for text in
            ["loud", "", "info,", "info,loud", "kafscale_storage", "kafscale_storage=loud", "a=b=c", "2"]
        {
            let refused = text.parse::<LogLevel>();
            assert!(refused.is_err_and(|why| why.contains("error, warn, info")), "{text}");
        }
    }

    #[test]
    fn a_target_that_nothing_has_is_refused_with_those_that_there_are() {
        for text in ["info,kafscale_storag=debug", "storage=debug", "kafscale-storage=debug", "a[b]=info"] {
            let why = text.parse::<LogLevel>().unwrap_err();
            assert!(why.contains("kafscale_meta, kafscale_storage, and of libraries h2"), "{text}: {why}");
        }
    }

    /// Those that Cargo.lock has depend on tracing or log; nothing else can write a line.
    #[test]
    fn the_targets_are_the_crates_that_write_to_the_log() {
        let lock = std::fs::read_to_string("../../Cargo.lock").unwrap();
        // Not in this program, or in tests only.
        let not_here = ["iana-time-zone", "kafscale-settings", "kafscale-sim", "tracing-subscriber"];
        let writes = |package: &&str| {
            let depends = |on: &str| {
                package.contains(&format!("\n \"{on}\",")) || package.contains(&format!("\n \"{on} "))
            };
            depends("tracing") || depends("log")
        };
        let name = |package: &str| package.split('"').nth(1).unwrap().to_owned();
        let mut found: Vec<_> = lock.split("[[package]]").skip(1).filter(writes).map(name).collect();
        found.retain(|name| !not_here.contains(&name.as_str()));
        found.iter_mut().for_each(|name| *name = name.replace('-', "_"));
        let mut known = [&OWN_TARGETS[..], &LIBRARY_TARGETS].concat();
        known.sort_unstable();
        found.sort_unstable();
        assert_eq!(found, known);
    }

    /// Lines in memory.
    #[derive(Clone, Default)]
    pub struct Written(Arc<std::sync::Mutex<Vec<u8>>>);

    impl Written {
        pub fn text(&self) -> String {
            String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
        }
    }

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
        let text = written.text();
        let count = |what: &str| text.lines().filter(|line| line.contains(what)).count();
        assert_eq!((count("response error"), count("no room")), (10, 1), "{text}");
        assert_eq!((count("other"), count("at the user's wish")), (20, 20), "{text}");
        assert_eq!(count("requests of MCP clients that failed left_out=90"), 1, "{text}");
    }
}
