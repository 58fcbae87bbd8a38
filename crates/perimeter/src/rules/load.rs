//! Reading rules: the files of policies, `rules.toml`, and the keys that it names.

use std::path::{Path, PathBuf};

use kafscale_audit::hex;
use kafscale_meta::files::read_small_text;
use sha2::{Digest as _, Sha256};

use super::cache::Cache;
use super::error::{RulesError, Warning};
use super::obligations::{Obligations, ReadKey};
use super::policies::{Policies, SCHEMA};
use super::prepared::Prepared;

/// Of all policies together, and of `rules.toml`.
const MAX_BYTES: u64 = 16 << 20;
/// Tables whose labels are remembered, in each of two generations.
const CACHED_TABLES: usize = 1_024;

/// Policies and obligations, checked. It never changes.
#[derive(Debug)]
pub struct Rulebook {
    pub(super) policies: Policies,
    pub(super) obligations: Obligations,
    pub(super) tables: Cache<Prepared>,
    hash: String,
    warnings: Vec<Warning>,
}

/// The texts of rules.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Texts {
    policies: Vec<(PathBuf, String)>,
    rules: (PathBuf, String),
}

impl Texts {
    #[cfg(test)]
    pub(super) fn of(policies: &str, rules: &str) -> Texts {
        Texts {
            policies: vec![("policies.cedar".into(), policies.to_owned())],
            rules: ("rules.toml".into(), rules.to_owned()),
        }
    }

    /// `policies` is a file, or a directory of which the files are read that end with `.cedar`.
    pub(super) fn read(policies: &Path, rules: &Path) -> Result<Texts, RulesError> {
        let mut left = MAX_BYTES;
        let mut read = |path: &Path| {
            let text = read_small_text(path, MAX_BYTES);
            let text = text.map_err(|source| RulesError::Unreadable { path: path.to_owned(), source })?;
            left = left.checked_sub(text.len() as u64).ok_or(RulesError::TooLarge { limit: MAX_BYTES })?;
            Ok((path.to_owned(), text))
        };
        let files = policy_files(policies)?;
        let policies = files.iter().map(|path| read(path)).collect::<Result<_, RulesError>>()?;
        Ok(Texts { policies, rules: read(rules)? })
    }

    /// SHA-256 over the schema, the policies with the names of their files, and `rules.toml`. Keys
    /// are not in it.
    pub(super) fn hash(&self) -> String {
        let mut hash = Sha256::new();
        let mut add = |text: &[u8]| {
            hash.update((text.len() as u64).to_le_bytes());
            hash.update(text);
        };
        add(SCHEMA.as_bytes());
        for (path, text) in &self.policies {
            add(path.file_name().unwrap_or_default().as_encoded_bytes());
            add(text.as_bytes());
        }
        add(self.rules.1.as_bytes());
        hex(&hash.finalize())
    }
}

fn policy_files(path: &Path) -> Result<Vec<PathBuf>, RulesError> {
    let unreadable = |source| RulesError::Unreadable { path: path.to_owned(), source };
    if !std::fs::metadata(path).map_err(unreadable)?.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let mut files = Vec::new();
    for entry in std::fs::read_dir(path).map_err(unreadable)? {
        let file = entry.map_err(unreadable)?.path();
        if file.extension().is_some_and(|extension| extension == "cedar") {
            files.push(file);
        }
    }
    files.sort();
    match files.is_empty() {
        true => Err(RulesError::NoPolicies { path: path.to_owned() }),
        false => Ok(files),
    }
}

impl Rulebook {
    /// Reads and checks rules: `policies` is a file or a directory of `*.cedar`, `rules` is
    /// `rules.toml`.
    pub fn load(policies: &Path, rules: &Path, read_key: ReadKey<'_>) -> Result<Rulebook, RulesError> {
        Rulebook::of(&Texts::read(policies, rules)?, read_key)
    }

    pub(super) fn of(texts: &Texts, read_key: ReadKey<'_>) -> Result<Rulebook, RulesError> {
        let mut warnings = Vec::new();
        let policies = Policies::parse(&texts.policies, &mut warnings)?;
        let (path, text) = &texts.rules;
        let obligations = Obligations::parse(path, text, read_key, &mut warnings)?;
        obligations.warn_of_idle_labels(|label| policies.says(label), &mut warnings);
        let hash = texts.hash();
        Ok(Rulebook { policies, obligations, tables: Cache::new(CACHED_TABLES), hash, warnings })
    }

    /// SHA-256 of what the rules were read from, in hex.
    pub fn hash(&self) -> &str {
        &self.hash
    }

    /// What is odd about them.
    pub fn warnings(&self) -> &[Warning] {
        &self.warnings
    }
}
