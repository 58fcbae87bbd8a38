//! Log lines on standard error, as text or JSON. Standard output is for what the user asked to see.

use std::io::IsTerminal as _;

use tracing_subscriber::EnvFilter;

use crate::cli::{LogFormat, LoggingArgs};
use crate::failure::Failure;

/// It tells of every request. A directive of the user for the same target comes later, and wins.
const QUIET: &str = "rmcp=warn";

pub fn init(args: &LoggingArgs) -> Result<(), Failure> {
    let level = &args.log_level;
    let filter = EnvFilter::builder().parse(format!("{QUIET},{level}")).map_err(|e| {
        Failure::usage(format!("--log-level `{level}`: {e}; use error, warn, info, debug or trace"))
    })?;
    // A line that cannot be written, to a file on a full disk or a pipe that nobody reads, is lost. By default it would be told of
    // on standard error, which then panics.
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .log_internal_errors(false);
    match args.log_format {
        LogFormat::Text => builder.with_ansi(std::io::stderr().is_terminal()).init(),
        LogFormat::Json => builder.json().flatten_event(true).init(),
    }
    Ok(())
}
