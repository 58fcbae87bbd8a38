//! The register of erasure requests: a chain of lines in the form of an audit log, beside that of the server, with its own head and
//! anchor. Only the commands read it and write to it; a server does neither.
//!
//! Invariant: no identifier of a subject is in it, no value of a row, and no name of a file.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::io;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use kafscale_audit::{AuditError, Event, MAX_LINE_BYTES, Violation, append_once, hex, verify_whole_lines};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::found::{Found, Gap, Place};
use super::hashes::SubjectHash;
use crate::shape::TableName;

/// The method of its lines.
const METHOD: &str = "erasure";
/// Of all hashes in a line, in JSON.
const HASHES_BYTES: usize = MAX_LINE_BYTES / 4;
/// How often somebody else may write just before a line is.
const ATTEMPTS: u32 = 5;

#[derive(Debug, thiserror::Error)]
pub enum RegisterError {
    #[error("the register of erasure requests does not hold: {0}")]
    Violated(#[from] Violation),
    #[error(
        "the register of erasure requests does not hold: its anchor {} is not there: bring it back, or name --audit-anchor as before",
        .0.display()
    )]
    NoAnchor(PathBuf),
    #[error("line {line} of the register of erasure requests is none: {source}")]
    Form { line: u64, source: serde_json::Error },
    #[error("the register of erasure requests cannot be looked at: {}: {source}", path.display())]
    Unreadable { path: PathBuf, source: io::Error },
    #[error(
        "somebody else accepted a gap of {0}, verified or withdrew it meanwhile: look at its report, and try again"
    )]
    Changed(String),
    #[error("others write to the register of erasure requests all the time: try again")]
    Busy,
    #[error("more identifiers are linked than a line of the register has room for")]
    TooManyHashes,
    #[error("the register of erasure requests cannot be written: {0}")]
    Unwritten(#[source] AuditError),
}

/// A line of the register: its number and its hash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct End {
    line: u64,
    hash: String,
}

/// Hashes of identifiers in hex, by the label of their columns.
pub type Hashes = BTreeMap<String, BTreeSet<String>>;

/// What a line says. The principal of the line is who did it.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "what", rename_all = "snake_case")]
pub enum Entry {
    Open {
        request: String,
        subject: String,
        key_check: String,
        hashes: Hashes,
        reason: String,
        found: Found,
        /// Links that were not followed: other identifiers of the subject may be unknown.
        links: Vec<Gap>,
    },
    Record {
        request: String,
        /// `collection.table`, or what is no collection, such as a backup.
        place: String,
        note: String,
        /// When it ends there, as somebody says.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        until: Option<String>,
    },
    Accept {
        request: String,
        gaps: Vec<Gap>,
        reason: String,
    },
    Verify {
        request: String,
        found: Found,
        /// Of identifiers that were linked since.
        hashes: Hashes,
    },
    Withdraw {
        request: String,
        reason: String,
    },
}

impl Entry {
    fn request(&self) -> &str {
        match self {
            Entry::Open { request, .. }
            | Entry::Record { request, .. }
            | Entry::Accept { request, .. }
            | Entry::Verify { request, .. }
            | Entry::Withdraw { request, .. } => request,
        }
    }

    fn hashes(&self) -> Option<&Hashes> {
        match self {
            Entry::Open { hashes, .. } | Entry::Verify { hashes, .. } => Some(hashes),
            Entry::Record { .. } | Entry::Accept { .. } | Entry::Withdraw { .. } => None,
        }
    }

    fn tool(&self) -> &'static str {
        match self {
            Entry::Open { .. } => "erasure.open",
            Entry::Record { .. } => "erasure.record",
            Entry::Accept { .. } => "erasure.accept",
            Entry::Verify { .. } => "erasure.verify",
            Entry::Withdraw { .. } => "erasure.withdraw",
        }
    }

    fn tables(&self) -> BTreeSet<String> {
        match self {
            Entry::Open { found, .. } | Entry::Verify { found, .. } => {
                found.places.iter().map(|place| place.table.to_string()).collect()
            }
            Entry::Record { place, .. } => BTreeSet::from([place.clone()]),
            Entry::Accept { gaps, .. } => gaps.iter().map(|gap| gap.table.clone()).collect(),
            Entry::Withdraw { .. } => BTreeSet::new(),
        }
    }
}

/// Somebody did something at some time.
#[derive(Debug, Clone, Serialize)]
pub struct Done {
    pub time: String,
    pub by: String,
    pub what: String,
}

/// Where a request stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum State {
    Open,
    /// All that remains is expected to end, by itself or as somebody has recorded, at the latest of these times.
    Waiting {
        until: String,
    },
    /// Nothing was found where everything was searched, but for gaps that somebody accepted.
    Closed,
    Withdrawn,
}

#[derive(Debug, Clone, Serialize)]
pub struct Recorded {
    pub place: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until: Option<String>,
    #[serde(flatten)]
    pub done: Done,
}

#[derive(Debug, Clone, Serialize)]
pub struct Accepted {
    pub gap: Gap,
    /// How often was verified before: a later look asks for it again.
    #[serde(skip)]
    look: usize,
    #[serde(flatten)]
    pub done: Done,
}

/// Columns that have named a subject in a table, each with its label.
pub type Named = BTreeSet<(String, String)>;

#[derive(Debug, Clone, Serialize)]
pub struct Request {
    pub id: String,
    pub subject: String,
    #[serde(skip)]
    pub key_check: String,
    #[serde(skip)]
    pub hashes: Hashes,
    #[serde(flatten)]
    pub state: State,
    pub opened: Done,
    /// As of when it was opened.
    pub found: Found,
    /// See [`Entry::Open`].
    pub links: Vec<Gap>,
    pub recorded: Vec<Recorded>,
    pub accepted: Vec<Accepted>,
    /// When it was looked at again, and what was there.
    pub verified: Option<(Done, Found)>,
    pub withdrawn: Option<Done>,
    /// Where it was found at any time.
    #[serde(skip)]
    pub seen: BTreeMap<TableName, Named>,
    #[serde(skip)]
    looks: usize,
    /// The line of the register that changed last what the next one builds on.
    #[serde(skip)]
    pub line: u64,
}

impl Request {
    /// The last look.
    pub fn last_found(&self) -> &Found {
        self.verified.as_ref().map_or(&self.found, |(_, found)| found)
    }

    /// What was not searched at the last look, and nobody has accepted. Links that were not followed at first are among it: nobody
    /// can follow them any more when their rows are erased.
    pub fn open_gaps(&self) -> Vec<&Gap> {
        let is_accepted = |gap: &Gap, look: Option<usize>| {
            let mut accepted = self.accepted.iter();
            accepted.any(|accepted| accepted.gap == *gap && look.is_none_or(|look| accepted.look == look))
        };
        let links = self.links.iter().filter(|gap| !is_accepted(gap, None));
        let mut open: Vec<&Gap> = Vec::new();
        for gap in
            links.chain(self.last_found().gaps.iter().filter(|gap| !is_accepted(gap, Some(self.looks))))
        {
            if !open.contains(&gap) {
                open.push(gap);
            }
        }
        open
    }

    /// As they are compared.
    pub fn hashes(&self) -> impl Iterator<Item = (String, HashSet<SubjectHash>)> {
        self.hashes
            .iter()
            .map(|(label, hashes)| (label.clone(), hashes.iter().filter_map(|text| parse(text)).collect()))
    }

    /// When a place that was found is expected to be gone: by itself, or as somebody has recorded of its table.
    pub fn until<'r>(&'r self, place: &'r Place) -> Option<&'r String> {
        let table = place.table.to_string();
        let recorded = self.recorded.iter().filter(|recorded| recorded.place == table);
        place.until.as_ref().or_else(|| recorded.filter_map(|recorded| recorded.until.as_ref()).next_back())
    }

    fn saw(&mut self, found: &Found) {
        for place in &found.places {
            let columns = place.columns.iter().map(|(column, label)| (column.clone(), label.clone()));
            self.seen.entry(place.table.clone()).or_default().extend(columns);
        }
    }

    /// Where it stands after a look.
    fn looked(&self) -> State {
        let Some((_, found)) = &self.verified else { return State::Open };
        let ends: Option<Vec<&String>> = found.places.iter().map(|place| self.until(place)).collect();
        match ends {
            Some(ends) if self.open_gaps().is_empty() => match ends.into_iter().max() {
                None => State::Closed,
                Some(until) => State::Waiting { until: until.clone() },
            },
            Some(_) | None => State::Open,
        }
    }

    fn take(&mut self, done: impl FnOnce(String) -> Done, line: u64, entry: Entry) {
        match entry {
            Entry::Open { .. } => return,
            Entry::Record { place, note, until, .. } => {
                self.recorded.push(Recorded { place, until, done: done(note) });
                self.state = self.looked();
                return;
            }
            Entry::Accept { gaps, reason, .. } => {
                let (look, done) = (self.looks, done(reason));
                let accepted = gaps.into_iter().map(|gap| Accepted { gap, look, done: done.clone() });
                self.accepted.extend(accepted);
                self.state = self.looked();
            }
            Entry::Verify { found, hashes, .. } => {
                for (label, hashes) in hashes {
                    self.hashes.entry(label).or_default().extend(hashes);
                }
                self.saw(&found);
                self.looks += 1;
                self.verified = Some((done(found.in_words()), found));
                self.state = self.looked();
            }
            Entry::Withdraw { reason, .. } => {
                (self.state, self.withdrawn) = (State::Withdrawn, Some(done(reason)));
            }
        }
        self.line = line;
    }
}

fn parse(text: &str) -> Option<SubjectHash> {
    let mut hash = SubjectHash::default();
    if text.len() != 2 * hash.len() || !text.is_ascii() {
        return None;
    }
    for (at, byte) in hash.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[2 * at..2 * at + 2], 16).ok()?;
    }
    Some(hash)
}

/// As the register has them.
pub fn told(hashes: &HashSet<SubjectHash>) -> BTreeSet<String> {
    hashes.iter().map(|hash| hex(hash)).collect()
}

/// All requests, by id.
#[derive(Debug, Default)]
pub struct Register {
    pub requests: BTreeMap<String, Request>,
    /// The last line. None: there is none.
    end: Option<End>,
}

impl Register {
    fn take(&mut self, line: u64, time: &str, by: &str, entry: Entry) {
        let done = |what: String| Done { time: time.to_owned(), by: by.to_owned(), what };
        if let Entry::Open { request: id, subject, key_check, hashes, reason, found, links } = entry {
            let mut request = Request {
                id: id.clone(),
                subject,
                key_check,
                hashes,
                state: State::Open,
                opened: done(reason),
                found: found.clone(),
                links,
                recorded: Vec::new(),
                accepted: Vec::new(),
                verified: None,
                withdrawn: None,
                seen: BTreeMap::new(),
                looks: 0,
                line,
            };
            request.saw(&found);
            self.requests.entry(id).or_insert(request);
            return;
        }
        // What was withdrawn stays so.
        let known = self.requests.get_mut(entry.request());
        if let Some(request) = known.filter(|request| request.state != State::Withdrawn) {
            request.take(done, line, entry);
        }
    }
}

/// Where the register is, and its anchor.
#[derive(Debug, Clone)]
pub struct Files {
    pub register: PathBuf,
    anchor: PathBuf,
}

impl Files {
    pub fn beside(audit_log: &Path, audit_anchor: Option<&Path>) -> Files {
        let with = |path: &Path, end: &str| {
            let mut path = path.to_owned().into_os_string();
            path.push(end);
            PathBuf::from(path)
        };
        let register = with(audit_log, ".erasures");
        let anchor =
            audit_anchor.map_or_else(|| with(&register, ".anchor"), |anchor| with(anchor, ".erasures"));
        Files { register, anchor }
    }

    /// Verifies and reads a register. One that is not there, and of which no anchor is, has no requests.
    pub fn read(&self) -> Result<Register, RegisterError> {
        let mut register = Register::default();
        match (bytes_of(&self.register)?, bytes_of(&self.anchor)?) {
            (None | Some(0), None) => return Ok(register),
            (Some(_), None) => return Err(RegisterError::NoAnchor(self.anchor.clone())),
            (_, Some(_)) => {}
        }
        let verified =
            verify_whole_lines(&self.register, &self.anchor).map_err(|violation| match violation {
                Violation::Unreadable { path, error } => RegisterError::Unreadable { path, source: error },
                other => RegisterError::Violated(other),
            })?;
        let mut wrong = None;
        kafscale_audit::read(&self.register, verified.lines, |walked| {
            let event = walked.event;
            if event.method != METHOD {
                return ControlFlow::Continue(());
            }
            let details = event.details.clone().unwrap_or_default();
            match serde_json::from_value::<Entry>(details["entry"].clone()) {
                Ok(entry) => {
                    register.take(walked.seq(), &event.time, &event.principal, entry);
                    ControlFlow::Continue(())
                }
                Err(source) => {
                    wrong = Some(RegisterError::Form { line: walked.seq(), source });
                    ControlFlow::Break(())
                }
            }
        })?;
        if let Some(wrong) = wrong {
            return Err(wrong);
        }
        register.end = (verified.lines > 0).then_some(End { line: verified.lines, hash: verified.last_hash });
        Ok(register)
    }

    /// Adds a line about a request that is as it was `seen`, whatever was written about others meanwhile. It is on disk, and
    /// anchored, when this returns what the register has then.
    pub fn append(
        &self,
        now_ms: i64,
        by: &str,
        seen: Option<&Request>,
        entry: &Entry,
    ) -> Result<Register, RegisterError> {
        entry.hashes().map_or(Ok(()), fits)?;
        let mut event = Event::new(now_ms, by, "command");
        event.method = METHOD.to_owned();
        event.tool = Some(entry.tool().to_owned());
        event.outcome = "ok".to_owned();
        event.details = Some(json!({ "tables": entry.tables(), "entry": entry }));
        for _ in 0..ATTEMPTS {
            let register = self.read()?;
            if let Some(seen) = seen
                && register.requests.get(&seen.id).is_none_or(|request| request.line != seen.line)
            {
                return Err(RegisterError::Changed(seen.id.clone()));
            }
            let after = register.end.as_ref().map_or((0, ""), |end| (end.line, end.hash.as_str()));
            match append_once(&self.register, &self.anchor, after, &event) {
                Ok(_) => return self.read(),
                Err(AuditError::Changed { .. }) => {}
                Err(other) => return Err(RegisterError::Unwritten(other)),
            }
        }
        Err(RegisterError::Busy)
    }
}

/// Whether a line has room for them.
pub fn fits(hashes: &Hashes) -> Result<(), RegisterError> {
    match json!(hashes).to_string().len() {
        0..=HASHES_BYTES => Ok(()),
        _ => Err(RegisterError::TooManyHashes),
    }
}

/// None: there is no such file. That nobody may look is not that there is none.
fn bytes_of(path: &Path) -> Result<Option<u64>, RegisterError> {
    match std::fs::metadata(path) {
        Ok(file) => Ok(Some(file.len())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(RegisterError::Unreadable { path: path.to_owned(), source }),
    }
}
