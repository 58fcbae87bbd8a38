//! Whose rows leave in no answer: the subjects of erasure requests, from when they are opened until nothing remains of them.
//!
//! Invariant: a request that cannot be carried out on a table, because its key is another one now, denies the table. A register that
//! cannot be read changes nothing while the server runs, and no server starts on one.

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use kafscale_sql::topic::layout::MetaColumn;
use parking_lot::RwLock;
use tokio_util::sync::CancellationToken;

use super::hashes::{SubjectHash, is_compared, key_check};
use super::register::{self, Register, RegisterError, Request};
use crate::rules::{ColumnInfo, Holds, Rulebook};
use crate::shape::{ColumnShape, Erased};

const INTERVAL: Duration = Duration::from_secs(1);

/// The requests as of one moment.
#[derive(Debug, Default)]
pub struct Suppressed {
    requests: Vec<Hashed>,
    /// The last line of the register, for the hash of the rules.
    end: String,
}

/// The hashes of one kind of subjects, made with one key.
#[derive(Debug)]
struct Hashed {
    subject: String,
    key_check: String,
    by_label: BTreeMap<String, Arc<HashSet<SubjectHash>>>,
}

/// Why requests cannot be carried out on a table.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Impossible {
    #[error("the rules know no data subject `{0}` any more")]
    NoSubject(String),
    #[error(
        "the key of the data subject `{0}` is another one than when requests were opened: verify them again, or withdraw them"
    )]
    OtherKey(String),
    #[error("the column `{0}` identifies subjects, and is of a type whose values are not compared")]
    Type(String),
}

impl Suppressed {
    pub fn of(register: &Register) -> Suppressed {
        let mut requests: Vec<Hashed> = Vec::new();
        for request in register.requests.values().filter(|request| request.is_suppressed()) {
            add(&mut requests, request);
        }
        let end = if requests.is_empty() { String::new() } else { register.end_told() };
        Suppressed { requests, end }
    }

    /// What stands as the hash of the rules in each audit line: it names the register's last line, where there are requests.
    pub fn hash_with(&self, rules: &str) -> String {
        if self.end.is_empty() { rules.to_owned() } else { format!("{rules}+erasures:{}", self.end) }
    }

    /// What is left out of a table, by columns that have a label of a request.
    pub fn of_table(
        &self,
        rules: &Rulebook,
        columns: &[ColumnInfo],
        shaped: &[ColumnShape],
    ) -> Result<Vec<Erased>, Impossible> {
        let mut erased = Vec::new();
        if self.requests.is_empty() {
            return Ok(erased);
        }
        for (column, shaped) in columns.iter().zip(shaped).filter(|(column, _)| identifies(column)) {
            for of in &self.requests {
                for (label, hashes) in of.by_label.iter().filter(|(label, _)| shaped.labels.contains(label)) {
                    let subject = rules.data_subjects().iter().find(|known| known.name == of.subject);
                    let subject = subject.ok_or_else(|| Impossible::NoSubject(of.subject.clone()))?;
                    if key_check(&subject.key) != of.key_check {
                        return Err(Impossible::OtherKey(of.subject.clone()));
                    }
                    if !is_compared(&column.data_type) {
                        return Err(Impossible::Type(column.name.clone()));
                    }
                    erased.push(Erased {
                        column: column.name.clone(),
                        label: label.clone(),
                        key: subject.key.clone(),
                        hashes: Arc::clone(hashes),
                    });
                }
            }
        }
        Ok(erased)
    }
}

/// A whole record has all labels of its topic, and is compared with no identifier.
pub fn identifies(column: &ColumnInfo) -> bool {
    column.holds != Holds::Everything || column.name == MetaColumn::Key.name()
}

fn add(all: &mut Vec<Hashed>, request: &Request) {
    let at = all.iter().position(|of| of.subject == request.subject && of.key_check == request.key_check);
    let at = at.unwrap_or_else(|| {
        let (subject, key_check) = (request.subject.clone(), request.key_check.clone());
        all.push(Hashed { subject, key_check, by_label: BTreeMap::new() });
        all.len() - 1
    });
    for (label, hashes) in request.hashes() {
        let known = all[at].by_label.entry(label).or_default();
        Arc::make_mut(known).extend(hashes);
    }
}

/// The register as a running server follows it.
#[derive(Debug, Default)]
pub struct Followed {
    path: Option<PathBuf>,
    anchor: PathBuf,
    now: RwLock<Now>,
}

#[derive(Debug, Default)]
struct Now {
    suppressed: Arc<Suppressed>,
    seen: Option<(u64, SystemTime)>,
    is_broken: bool,
}

impl Followed {
    /// Reads the register with which a server starts, where there is one. It waits for the disk.
    pub fn open(path: &Path, anchor: &Path) -> Result<Followed, RegisterError> {
        let seen = stamp(path);
        let suppressed = Arc::new(Suppressed::of(&register::read(path, anchor)?));
        let now = RwLock::new(Now { suppressed, seen, is_broken: false });
        Ok(Followed { path: Some(path.to_owned()), anchor: anchor.to_owned(), now })
    }

    pub fn current(&self) -> Arc<Suppressed> {
        Arc::clone(&self.now.read().suppressed)
    }

    /// Whether the requests that hold are older than what is in the file.
    pub fn is_broken(&self) -> bool {
        self.now.read().is_broken
    }

    /// Looks whether there are other lines. It waits for the disk.
    pub fn look(&self) {
        let Some(path) = &self.path else { return };
        let seen = stamp(path);
        if seen == self.now.read().seen {
            return;
        }
        let read = register::read(path, &self.anchor);
        let mut now = self.now.write();
        match read {
            // A file that is gone is a register without requests only where it never was.
            Ok(_) if seen.is_none() => now.is_broken = true,
            Ok(register) => {
                let suppressed = Suppressed::of(&register);
                tracing::info!(
                    requests = register.requests.len(),
                    line = suppressed.end,
                    "erasure requests are read"
                );
                *now = Now { suppressed: Arc::new(suppressed), seen, is_broken: false };
            }
            Err(error) => {
                if !std::mem::replace(&mut now.is_broken, true) {
                    tracing::error!(%error, "the register of erasure requests cannot be used; those from before hold");
                }
            }
        }
    }

    /// Looks each second, until `stop`.
    pub async fn watch(self: Arc<Self>, stop: CancellationToken) {
        while stop.run_until_cancelled(tokio::time::sleep(INTERVAL)).await.is_some() {
            let followed = Arc::clone(&self);
            if let Err(error) = tokio::task::spawn_blocking(move || followed.look()).await {
                tracing::error!(%error, "the register of erasure requests could not be looked at");
            }
        }
    }
}

fn stamp(path: &Path) -> Option<(u64, SystemTime)> {
    let file = std::fs::metadata(path).ok()?;
    Some((file.len(), file.modified().ok()?))
}
