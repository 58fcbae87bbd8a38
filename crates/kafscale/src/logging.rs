//! Log lines on standard error, as text or JSON. Standard output is for what the user asked to see.

use std::io::IsTerminal as _;

use tracing_subscriber::EnvFilter;

use crate::cli::{LogFormat, LoggingArgs};
use crate::failure::Failure;

pub fn init(args: &LoggingArgs) -> Result<(), Failure> {
    let filter = EnvFilter::builder().parse(&args.log_level).map_err(|e| {
        let level = &args.log_level;
        Failure::usage(format!("--log-level `{level}`: {e}; use error, warn, info, debug or trace"))
    })?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match args.log_format {
        LogFormat::Text => builder.with_ansi(std::io::stderr().is_terminal()).init(),
        LogFormat::Json => builder.json().flatten_event(true).init(),
    }
    Ok(())
}
