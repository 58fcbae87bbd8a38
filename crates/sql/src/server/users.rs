//! The file of users: a line for each, `name:password` or `name:SCRAM-SHA-256$4096:salt$StoredKey:ServerKey`, as PostgreSQL keeps it in
//! `pg_authid`. Lines that begin with `#` are left out. The file is read again when it has changed.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use kafscale_meta::files::read_small_text;
use parking_lot::Mutex;

use super::scram::Verifier;

const MAX_FILE_BYTES: u64 = 1 << 20;

/// Why a file of users is none. The line is not repeated: it may hold a password.
#[derive(Debug, thiserror::Error)]
pub enum UsersError {
    #[error("the users file {}: {source}", path.display())]
    Unreadable { path: PathBuf, source: io::Error },
    #[error("the users file {}: line {line} is no `name:password`, or its verifier is none", path.display())]
    Line { path: PathBuf, line: usize },
}

#[derive(Debug)]
pub struct Users {
    path: PathBuf,
    known: Mutex<Known>,
}

#[derive(Debug)]
struct Known {
    modified: Option<SystemTime>,
    verifiers: HashMap<String, Verifier>,
}

impl Users {
    pub fn load(path: &Path) -> Result<Users, UsersError> {
        Ok(Users { path: path.to_owned(), known: Mutex::new(Known::read(path)?) })
    }

    /// For a user that nobody knows as well, so that who asks cannot tell.
    pub fn verifier(&self, name: &str) -> Verifier {
        let mut known = self.known.lock();
        if modified(&self.path) != known.modified {
            match Known::read(&self.path) {
                Ok(read) => *known = read,
                Err(error) => tracing::warn!(%error, "the users are those of before"),
            }
        }
        known.verifiers.get(name).cloned().unwrap_or_else(|| Verifier::of_nobody(name))
    }
}

fn modified(path: &Path) -> Option<SystemTime> {
    std::fs::metadata(path).and_then(|meta| meta.modified()).ok()
}

impl Known {
    fn read(path: &Path) -> Result<Known, UsersError> {
        let modified = modified(path);
        let text = read_small_text(path, MAX_FILE_BYTES)
            .map_err(|source| UsersError::Unreadable { path: path.to_owned(), source })?;
        let mut verifiers = HashMap::new();
        for (at, line) in text.lines().enumerate() {
            if line.trim().is_empty() || line.starts_with('#') {
                continue;
            }
            let failed = || UsersError::Line { path: path.to_owned(), line: at + 1 };
            let (name, secret) = line.split_once(':').ok_or_else(failed)?;
            let verifier = Verifier::of(secret).filter(|_| !name.is_empty()).ok_or_else(failed)?;
            verifiers.insert(name.to_owned(), verifier);
        }
        Ok(Known { modified, verifiers })
    }
}
