//! Rules that are exchanged while the perimeter runs, and the budgets of the day.

use std::path::Path;
use std::sync::Arc;

use tokio::runtime::Handle;

use crate::deciding::{Decide, Ruled};
use crate::rules::budgets::{Budgets, Exhausted};
use crate::rules::{KeyReader, KeySource, Limits, Rulebook, Rules, RulesError, Source};
use crate::run::RuleFiles;
use crate::secret::SecretSource;

#[derive(Debug)]
pub struct LiveRules {
    pub rules: Arc<Rules>,
    budgets: Budgets,
}

impl LiveRules {
    /// Reads the rules, and the keys that they name.
    pub async fn open(files: RuleFiles, base: &Path) -> Result<LiveRules, RulesError> {
        let read_key = key_reader(base);
        let load = move || Rules::open(files.policies, files.rules, read_key);
        let rules = tokio::task::spawn_blocking(load).await.expect("reading rules does not panic")?;
        Ok(LiveRules { rules: Arc::new(rules), budgets: Budgets::default() })
    }

    /// The rules as the files have them, for somebody who looks at them.
    pub async fn read(files: RuleFiles, base: &Path) -> Result<Rulebook, RulesError> {
        let read_key = key_reader(base);
        let load = move || Rulebook::load(&files.policies, &files.rules, &read_key);
        tokio::task::spawn_blocking(load).await.expect("reading rules does not panic")
    }

    /// The rules as they are now, for one call of a tool.
    pub fn now(&self, tool: &'static str, time_ms: i64) -> Arc<dyn Decide> {
        Arc::new(Ruled { rulebook: self.rules.current(), tool, time_ms })
    }

    /// Charges a query, before it is executed.
    pub fn charge(&self, principal: &str, limits: Limits, time_ms: i64) -> Result<(), Exhausted> {
        self.budgets.begin(principal, Budgets::day_of(time_ms), &limits).map(|_| ())
    }

    /// Charges the rows of an answer, before it leaves.
    pub fn settle(&self, principal: &str, limits: Limits, rows: u64, time_ms: i64) -> Result<(), Exhausted> {
        self.budgets.settle(principal, Budgets::day_of(time_ms), &limits, rows, &Default::default())
    }
}

/// Reads keys of masks as all secrets are read. It waits, and is not called on threads that must not.
pub fn key_reader(base: &Path) -> KeyReader {
    let (base, handle) = (base.to_owned(), Handle::current());
    Box::new(move |source: &KeySource| -> Result<Vec<u8>, Source> {
        let source = match (&source.env, &source.file, &source.command) {
            (Some(name), None, None) => SecretSource::Env(name.clone()),
            (None, Some(path), None) => SecretSource::File(path.clone()),
            (None, None, Some(command)) => SecretSource::Command(command.clone()),
            _ => return Err("a key is one of env, file and command".into()),
        };
        Ok(handle.block_on(source.read(&base))?.expose().as_bytes().to_vec())
    })
}
