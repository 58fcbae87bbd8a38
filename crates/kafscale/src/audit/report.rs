//! `kafscale audit report`: verifies the chain, adds up, and then writes call after call, in the form that was asked for.
//!
//! The log is read three times and never held: first the chain, then the sums, which stand before the calls, then the calls.
//! Lines that came meanwhile are left out, and lines behind a break of the chain are not believed.

use std::io::{self, BufWriter, ErrorKind, IsTerminal as _, Write};
use std::ops::ControlFlow;
use std::path::Path;
use std::time::{Duration, Instant};

use kafscale_core::clock::Clock as _;
use kafscale_core::utc;
use kafscale_observe::audit::{self, Verified, Violation};

use super::access::Access;
use super::pairing::Pairing;
use super::select::Selection;
use super::sums::Sums;
use super::{Format, ReportArgs, csv, html, json, text};
use crate::clock::SystemClock;
use crate::failure::Failure;

const TELL_EVERY: Duration = Duration::from_secs(2);
const NOTES_MAX: usize = 20;

/// What is said of the whole report.
#[derive(Debug)]
pub struct Head {
    pub log: String,
    pub made: String,
    pub chain: Chain,
    /// What the report is about; empty: all of the log.
    pub about: Vec<String>,
    pub sums: Sums,
    /// `--subject` and not `--possible`: answers that may hold it are counted and not listed.
    pub possible_is_counted: bool,
    /// Not `--summary`.
    pub lists_calls: bool,
}

/// What came of the verification.
#[derive(Debug)]
pub struct Chain {
    /// Lines that the report is about.
    pub lines: u64,
    pub verified: Result<Verified, Violation>,
}

impl Chain {
    pub fn in_words(&self) -> String {
        match &self.verified {
            Ok(Verified { lines, end_confirmed, .. }) => {
                let end = match end_confirmed {
                    Some(()) => "no line is missing at the end",
                    None => "there is no .head file, so that lines missing at the end would not show",
                };
                format!("holds: {lines} lines, {end}")
            }
            Err(violation) => {
                format!("DOES NOT HOLD: {violation}. This report is of lines 1 to {} only", self.lines)
            }
        }
    }
}

/// A form of the report.
pub trait Form {
    fn begin(&mut self, out: &mut dyn Write, head: &Head) -> io::Result<()>;
    fn call(&mut self, out: &mut dyn Write, access: &Access) -> io::Result<()>;
    fn end(&mut self, out: &mut dyn Write, head: &Head) -> io::Result<()>;
}

pub fn run(args: &ReportArgs) -> Result<(), Failure> {
    let mut out = BufWriter::new(io::stdout().lock());
    let held =
        match write(args, &mut out).and_then(|held| out.flush().map_err(Stopped::Written).map(|()| held)) {
            Ok(held) => held,
            // A reader that has seen enough.
            Err(Stopped::Written(error)) if error.kind() == ErrorKind::BrokenPipe => return Ok(()),
            Err(Stopped::Written(error)) => return Err(Failure::runtime(error.to_string())),
            Err(Stopped::Read(violation)) => Err(violation),
        };
    held.map_err(|e| super::does_not_hold(&args.file, &e))
}

/// Why there is no report, or half of one.
#[derive(Debug)]
pub enum Stopped {
    Written(io::Error),
    Read(Violation),
}

/// Writes the report; inside is whether the log holds.
pub fn write(args: &ReportArgs, out: &mut dyn Write) -> Result<Result<(), Violation>, Stopped> {
    let mut progress = Progress::new(args);
    let verified = audit::verify_watched(&args.file, args.anchor.as_deref(), &mut |bytes| {
        progress.at("verified", bytes)
    });
    let lines = match &verified {
        Ok(verified) => verified.lines,
        Err(violation) => believed(&args.file, violation).map_err(Stopped::Read)?,
    };
    let chain = Chain { lines, verified };
    let selection = Selection::new(args);
    let mut sums = Sums::default();
    let (mut notes, mut left_out) = (Vec::new(), 0);
    each(
        args,
        lines,
        &selection,
        |walked| {
            progress.at("added up", walked.bytes);
            left_out += walked.event.refusals_left_out;
            if walked.event.method == "audit/begin" && notes.len() < NOTES_MAX {
                notes.push(format!("line {}: {}", walked.seq(), walked.event.outcome));
            }
        },
        |access| {
            sums.add(access);
            Ok(())
        },
    )?;
    (sums.notes, sums.refusals_left_out) = (notes, left_out);
    let head = Head {
        log: args.file.display().to_string(),
        made: utc::seconds(SystemClock.now_ms()),
        chain,
        about: selection.in_words(),
        sums,
        possible_is_counted: args.subject.is_some() && !args.possible,
        lists_calls: !args.summary,
    };
    progress.clear();
    // Calls that scroll by are progress enough.
    progress.is_quiet |= io::stdout().is_terminal();
    let mut form = form(args);
    form.begin(out, &head).map_err(Stopped::Written)?;
    if head.lists_calls {
        each(
            args,
            lines,
            &selection,
            |walked| progress.at("written", walked.bytes),
            |access| {
                if selection.lists(access) { form.call(out, access) } else { Ok(()) }
            },
        )?;
    }
    form.end(out, &head).map_err(Stopped::Written)?;
    progress.clear();
    Ok(head.chain.verified.map(|_| ()))
}

fn form(args: &ReportArgs) -> Box<dyn Form> {
    match args.format {
        Format::Text => Box::new(text::Text),
        Format::Csv => Box::<csv::Csv>::default(),
        Format::Json => Box::<json::Json>::default(),
        Format::Html => Box::new(html::Html),
    }
}

/// How many lines before a break can be believed.
fn believed(file: &Path, violation: &Violation) -> Result<u64, Violation> {
    match violation {
        Violation::Line { line, .. } | Violation::NotAnchored { line } => Ok(line.saturating_sub(1)),
        Violation::EndMissing { last, .. } | Violation::Shortened { last, .. } => Ok(*last),
        // Without its head or its anchor, the chain itself can still be walked.
        Violation::Head { .. } => match audit::read(file, u64::MAX, |_| ControlFlow::Continue(())) {
            Err(Violation::Line { line, .. }) => Ok(line.saturating_sub(1)),
            read => read,
        },
        Violation::Unreadable { path, error } => Err(Violation::Unreadable {
            path: path.clone(),
            error: io::Error::new(error.kind(), error.to_string()),
        }),
    }
}

/// Walks over the calls that the report is about.
fn each(
    args: &ReportArgs,
    lines: u64,
    selection: &Selection<'_>,
    mut look: impl FnMut(&audit::Walked<'_>),
    mut call: impl FnMut(&Access) -> io::Result<()>,
) -> Result<(), Stopped> {
    let mut written = Ok(());
    let mut pairing = Pairing::default();
    let mut tell = |access: Access, written: &mut io::Result<()>| {
        if let Some(mut access) = selection.choose(access) {
            if !args.statements {
                access.statement = None;
            }
            if written.is_ok() {
                *written = call(&access);
            }
        }
    };
    let read = audit::read(&args.file, lines, |walked| {
        look(walked);
        pairing.take(walked, &mut |access| tell(access, &mut written));
        if written.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    });
    let read = read.map_err(Stopped::Read)?;
    if written.is_ok() && read < lines {
        return Err(Stopped::Read(Violation::EndMissing { last: read, expected: lines }));
    }
    pairing.finish(&mut |access| tell(access, &mut written));
    written.map_err(Stopped::Written)
}

/// Tells on standard error how far a long log is read.
struct Progress {
    told: Instant,
    bytes: u64,
    is_quiet: bool,
    /// On a terminal one line is written over and over.
    rewrites: bool,
    /// The line is there.
    is_shown: bool,
}

impl Progress {
    fn new(args: &ReportArgs) -> Self {
        let bytes = std::fs::metadata(&args.file).map_or(0, |file| file.len());
        let rewrites = io::stderr().is_terminal();
        Self { told: Instant::now(), bytes, is_quiet: args.quiet, rewrites, is_shown: false }
    }

    fn at(&mut self, what: &str, bytes: u64) {
        if self.is_quiet || self.told.elapsed() < TELL_EVERY {
            return;
        }
        self.told = Instant::now();
        self.clear();
        let mib = |bytes: u64| bytes as f64 / 1_048_576.0;
        let line = format!("{what} {:.0} of {:.0} MiB", mib(bytes), mib(self.bytes));
        if self.rewrites {
            eprint!("{line}")
        } else {
            eprintln!("{line}")
        }
        self.is_shown = self.rewrites;
    }

    fn clear(&mut self) {
        if std::mem::take(&mut self.is_shown) {
            eprint!("\r\x1b[K");
        }
    }
}
