//! SIGHUP: what can change while the program runs is read anew, and nothing ends.
//!
//! That is the log level, from the settings file. Certificates, token files and the policy of the MCP server are followed while they
//! change, so that they need no signal. The file is read apart from everything else: its disk may not answer.

use std::sync::Arc;

use kafscale_broker::log_limit::{self, Line, LogLimits};
use kafscale_meta::files::{Apart, TIMEOUT};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::cli::LoggingArgs;
use crate::failure::Failure;
use crate::logging::LogControl;

/// Reads the settings of this process anew: arguments, variables, settings file.
pub type Reread = fn() -> Result<LoggingArgs, Failure>;

/// Takes SIGHUP until it is dropped, and tells meanwhile how many lines of the log were left out.
pub struct Hangups {
    _tasks: JoinSet<()>,
    limits: Arc<LogLimits>,
}

impl Hangups {
    /// From now on the signal does not end the process any more. Must be called within a tokio runtime.
    pub fn take(log: LogControl, reread: Reread) -> Result<Self, Failure> {
        let mut hangups = signal(SignalKind::hangup())
            .map_err(|e| Failure::runtime(format!("signals cannot be received: {e}")))?;
        let limits = Arc::clone(&log.limits);
        let mut tasks = JoinSet::new();
        tasks.spawn(log_limit::summaries(vec![Arc::clone(&limits)], CancellationToken::new()));
        tasks.spawn(async move {
            let mut apart = Apart::default();
            while hangups.recv().await.is_some() {
                let hung = || {
                    let seconds = TIMEOUT.as_secs();
                    Err(Failure::runtime(format!("the settings file cannot be read within {seconds} s")))
                };
                reload(&log, apart.run(reread).await.unwrap_or_else(hung));
            }
        });
        Ok(Self { _tasks: tasks, limits })
    }
}

impl Drop for Hangups {
    fn drop(&mut self) {
        self.limits.summarize();
    }
}

fn reload(log: &LogControl, reread: Result<LoggingArgs, Failure>) {
    match reread {
        Ok(args) => {
            log.set(&args.log_level);
            if log.limits.allow(Line::SettingsRead) {
                tracing::info!(log_level = %args.log_level, "SIGHUP: the log level was read anew; other settings need a restart");
            }
        }
        // Whatever sends the signal may do so in a loop.
        Err(failure) if log.limits.allow(Line::SettingsUnread) => {
            let why = failure.message();
            tracing::error!(why, "SIGHUP: the settings cannot be read; everything stays as it was");
        }
        Err(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::logging::tests::Written;

    #[test]
    fn signals_in_a_loop_do_not_fill_the_log() {
        let written = Written::default();
        let writer = written.clone();
        let subscriber =
            tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish();
        let log = LogControl { change: Box::new(|_| true), limits: Arc::default() };
        tracing::subscriber::with_default(subscriber, || {
            for _ in 0..100 {
                reload(&log, Err(Failure::runtime("it is a directory".to_owned())));
            }
            log.limits.summarize();
        });
        let text = written.text();
        assert_eq!(text.lines().filter(|line| line.contains("it is a directory")).count(), 10, "{text}");
        assert!(text.contains("left_out=90"), "{text}");
    }
}
