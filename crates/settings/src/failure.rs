//! How the program ends when it cannot go on: one readable paragraph on standard error, and an exit status.

use std::process::ExitCode;

use crate::refusals;

/// Why the program stops. `Usage` (status 2) is for what the user wrote, `Runtime` (status 1) for what happened, `Refused` (status 1) for what the
/// cluster does not allow, and `Away` (status 1) for what does not answer at the moment: a broker waits for it, other commands say so.
#[derive(Debug)]
pub enum Failure {
    Usage(String),
    Runtime(String),
    Refused(String),
    Away(String),
    /// clap has its own way to print: help and version go to standard output with status 0.
    Clap(Box<clap::Error>),
}

impl Failure {
    pub fn usage(message: impl Into<String>) -> Self {
        Self::Usage(message.into())
    }

    pub fn runtime(message: impl Into<String>) -> Self {
        Self::Runtime(message.into())
    }

    pub fn refused(message: impl Into<String>) -> Self {
        Self::Refused(message.into())
    }

    pub fn away(message: impl Into<String>) -> Self {
        Self::Away(message.into())
    }

    /// What happened, for a log line.
    pub fn message(&self) -> String {
        match self {
            Self::Usage(message) | Self::Runtime(message) | Self::Refused(message) | Self::Away(message) => {
                message.clone()
            }
            Self::Clap(error) => error.to_string(),
        }
    }

    /// Prints the failure and gives the status to exit with.
    pub fn report(self) -> ExitCode {
        match self {
            Self::Usage(message) => {
                eprintln!("error: {message}");
                ExitCode::from(2)
            }
            Self::Runtime(message) | Self::Refused(message) | Self::Away(message) => {
                eprintln!("error: {message}");
                ExitCode::from(1)
            }
            Self::Clap(error) => {
                // A closed pipe (`kafscale --help | head -1`) is no failure worth a second message.
                let _ = error.print();
                ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2))
            }
        }
    }
}

impl From<clap::Error> for Failure {
    fn from(error: clap::Error) -> Self {
        Self::Clap(Box::new(refusals::reworded(error)))
    }
}
