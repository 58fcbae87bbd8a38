//! `kafscale audit`: verifies an audit log, and reports what it says about who saw what.

mod access;
mod csv;
mod html;
mod json;
mod pairing;
mod report;
mod select;
mod sign;
mod sums;
mod text;

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand, ValueEnum};
use kafscale_core::utc;
use kafscale_observe::audit::{self, Violation};

use crate::failure::Failure;

const REPORT_EXAMPLES: &str = "\
Examples:
  kafscale audit report perimeter-audit.jsonl
  kafscale audit report perimeter-audit.jsonl --principal alice --since 2026-11-01 --until 2026-12-01
  kafscale audit report perimeter-audit.jsonl --collection clinic --format html > november.html
  kafscale audit report perimeter-audit.jsonl --subject 4711 --possible --format csv > disclosures.csv

The chain is verified first, and the report says what came of it; lines behind a break are left out.
The log holds no rows of answers. What is known of a subject is whether a statement or a row filter
names it; an answer over the same tables may hold it without naming it (--possible).

Exit status: 0 the log holds, 1 it does not hold or cannot be read, 2 a wrong argument.";

const SIGN_EXAMPLES: &str = "\
Examples:
  openssl genpkey -algorithm ed25519 -out audit.key && chmod 600 audit.key
  openssl pkey -in audit.key -pubout -out audit.pub
  kafscale audit sign /var/log/kafscale/audit.jsonl --key audit.key --heads /mnt/other/audit.heads
  kafscale audit verify /var/log/kafscale/audit.jsonl --heads /mnt/other/audit.heads --public-key audit.pub

Run it by a timer, as a user or on a machine that can read the log, with a key that the server has not:
whoever takes the server over can then write the log, its head and its anchor anew, and not the heads.
Nothing is signed unless the log holds, with every line that was signed before.";

#[derive(Debug, Subcommand)]
pub enum AuditCommand {
    /// Find any line of an audit log that was changed, removed or moved
    Verify {
        file: PathBuf,

        /// The file of --mcp-audit-anchor or --audit-anchor: shows lines that are missing at the end, too
        #[arg(long, value_name = "FILE")]
        anchor: Option<PathBuf>,

        /// Signed heads that `kafscale audit sign` wrote: every line that was signed must be there
        #[arg(long, value_name = "FILE", requires = "public_key")]
        heads: Option<PathBuf>,

        /// The public key of those signatures (Ed25519, PEM)
        #[arg(long, value_name = "FILE", requires = "heads")]
        public_key: Option<PathBuf>,
    },
    /// Verify an audit log, and write down, signed, where it ends
    #[command(after_help = SIGN_EXAMPLES)]
    Sign {
        file: PathBuf,

        /// The private key (Ed25519, PKCS #8 in PEM), which nobody but its owner may read
        #[arg(long, value_name = "FILE")]
        key: PathBuf,

        /// The file to add a signed head to; best where nobody can change what is there
        #[arg(long, value_name = "FILE")]
        heads: PathBuf,
    },
    /// Verify an audit log and report who saw what, what for, what was held back and what was refused
    #[command(after_help = REPORT_EXAMPLES)]
    Report(Box<ReportArgs>),
}

#[derive(Debug, Args)]
pub struct ReportArgs {
    pub file: PathBuf,

    /// The file of --mcp-audit-anchor or --audit-anchor: shows lines that are missing at the end, too
    #[arg(long, value_name = "FILE")]
    pub anchor: Option<PathBuf>,

    /// Form of the report; html is one page without scripts, to read or to print
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t = Format::Text)]
    pub format: Format,

    /// Only calls of this principal
    #[arg(long, value_name = "NAME")]
    pub principal: Option<String>,

    /// Only calls whose statement or row filter names this value, such as the number of a patient
    #[arg(long, value_name = "VALUE")]
    pub subject: Option<String>,

    /// With --subject: also answers that do not name it and may hold it
    #[arg(long, requires = "subject")]
    pub possible: bool,

    /// Only calls about this collection, or this table: COLLECTION.TABLE
    #[arg(long, value_name = "NAME")]
    pub collection: Option<String>,

    /// Only calls of this tool
    #[arg(long, value_name = "NAME")]
    pub tool: Option<String>,

    /// Only calls at or after this time: 2026-11-29, or 2026-11-29T10:00:00Z
    #[arg(long, value_name = "TIME", value_parser = time)]
    pub since: Option<i64>,

    /// Only calls before this time
    #[arg(long, value_name = "TIME", value_parser = time)]
    pub until: Option<i64>,

    /// The sums alone
    #[arg(long)]
    pub summary: bool,

    /// With the statements, which may name people
    #[arg(long)]
    pub statements: bool,

    /// Tell no progress
    #[arg(long, short)]
    pub quiet: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    Text,
    Csv,
    Json,
    Html,
}

/// A day is its beginning, in UTC.
fn time(text: &str) -> Result<i64, &'static str> {
    let begins = format!("{text}T00:00:00Z");
    utc::parse(text)
        .or_else(|| utc::parse(&begins))
        .ok_or("expected a day (2026-11-29) or a time with its zone (2026-11-29T10:00:00Z)")
}

/// Runs `kafscale audit`.
pub fn run(command: &AuditCommand) -> Result<(), Failure> {
    match command {
        AuditCommand::Verify { file, anchor, heads, public_key } => {
            verify(file, anchor.as_deref(), heads.as_deref().zip(public_key.as_deref()))
        }
        AuditCommand::Sign { file, key, heads } => {
            let signed = sign::sign(file, key, heads).map_err(|e| Failure::runtime(e.to_string()))?;
            crate::print_all(signed.as_bytes())
        }
        AuditCommand::Report(args) => report::run(args),
    }
}

fn verify(file: &Path, anchor: Option<&Path>, signed: Option<(&Path, &Path)>) -> Result<(), Failure> {
    let verified = audit::verify_watched(file, anchor, &mut |_| ()).map_err(|e| does_not_hold(file, &e))?;
    let end = match verified.end_confirmed {
        Some(()) => "no line is missing at the end",
        None => "there is no .head file, so that lines missing at the end would not show",
    };
    let cut_off = match verified.cut_off {
        0 => String::new(),
        1 => "1 decision has no outcome: its call was cut off, or is just at work\n".to_owned(),
        calls => {
            format!("{calls} decisions have no outcome: their calls were cut off, or are just at work\n")
        }
    };
    let mut text = format!(
        "{}: {} lines hold, {end}\n{cut_off}last line: sha256 {}\n",
        file.display(),
        verified.lines,
        verified.last_hash
    );
    if let Some((heads, public_key)) = signed {
        let (_, count) = sign::verify(file, heads, public_key)
            .map_err(|e| Failure::runtime(format!("{} does not hold: {e}", file.display())))?;
        text += &format!("{count} signed heads hold\n");
    }
    crate::print_all(text.as_bytes())
}

/// A log that cannot be read is not said to be tampered with.
fn does_not_hold(file: &Path, violation: &Violation) -> Failure {
    Failure::runtime(match violation {
        Violation::Unreadable { .. } => violation.to_string(),
        Violation::Line { .. }
        | Violation::EndMissing { .. }
        | Violation::Head { .. }
        | Violation::Shortened { .. }
        | Violation::NotAnchored { .. } => format!("{} does not hold: {violation}", file.display()),
    })
}

#[cfg(test)]
mod tests;
