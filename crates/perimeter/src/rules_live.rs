//! Rules that are exchanged while the perimeter runs, and the budgets of the day.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::runtime::Handle;

use crate::charged;
use crate::deciding::{Decide, Ruled};
use crate::rules::budgets::{Budgets, Charged, Exhausted};
use crate::rules::ledger::{Ledger, LedgerError};
use crate::rules::{KeyReader, KeySource, Limits, Rulebook, Rules, RulesError, Source};
use crate::run::RuleFiles;
use crate::secret::SecretSource;

#[derive(Debug)]
pub struct LiveRules {
    pub rules: Arc<Rules>,
    budgets: Arc<Budgets>,
}

impl LiveRules {
    /// Reads the rules, and the keys that they name.
    pub async fn open(files: RuleFiles, base: &Path) -> Result<LiveRules, RulesError> {
        let read_key = key_reader(base);
        let load = move || Rules::open(files.policies, files.rules, read_key);
        let rules = tokio::task::spawn_blocking(load).await.expect("reading rules does not panic")?;
        Ok(LiveRules { rules: Arc::new(rules), budgets: Arc::default() })
    }

    /// The rules as the files have them, for somebody who looks at them.
    pub async fn read(files: RuleFiles, base: &Path) -> Result<Rulebook, RulesError> {
        let read_key = key_reader(base);
        let load = move || Rulebook::load(&files.policies, &files.rules, &read_key);
        tokio::task::spawn_blocking(load).await.expect("reading rules does not panic")
    }

    /// The rules as they are now, for one call of a tool.
    pub fn now(&self, tool: &'static str, time_ms: i64) -> Arc<dyn Decide> {
        let entity_key = self.budgets.entity_key(Budgets::day_of(time_ms));
        Arc::new(Ruled { rulebook: self.rules.current(), tool, time_ms, entity_key })
    }

    /// Goes on with the budgets of the day as the audit log has them, and its ledger of entities.
    /// A call takes at most `longest`.
    pub async fn go_on(&self, audit_log: &Path, time_ms: i64, longest: Duration) -> Result<(), LedgerError> {
        let (log, budgets) = (audit_log.to_owned(), Arc::clone(&self.budgets));
        let began = Instant::now();
        let restored = tokio::task::spawn_blocking(move || {
            let charged = charged::of_today(&log, time_ms, longest)
                .map_err(|source| LedgerError::Unreadable { path: log.clone(), source })?;
            let principals = charged.len();
            budgets.restore(Budgets::day_of(time_ms), charged, Ledger::beside(&log))?;
            Ok::<_, LedgerError>(principals)
        });
        let principals = restored.await.expect("reading a log does not panic")?;
        tracing::info!(principals, took = ?began.elapsed(), "the budgets of today go on");
        Ok(())
    }

    /// Charges a query, before it is executed. None: it has no budget.
    pub fn charge(
        &self,
        principal: &str,
        limits: Limits,
        time_ms: i64,
    ) -> Result<Option<Charged>, Exhausted> {
        if limits == Limits::default() {
            return Ok(None);
        }
        self.budgets.begin(principal, Budgets::day_of(time_ms), &limits).map(Some)
    }

    /// Notes that an answer was refused, or failed, which tells something of its rows. None: it has no budget.
    pub fn refuse(&self, principal: &str, limits: Limits, time_ms: i64) -> Option<Charged> {
        limits.is_of_answers().then(|| self.budgets.refuse(principal, Budgets::day_of(time_ms)))
    }

    /// Charges rows and entities of an answer, before it leaves. None: it has no budget.
    pub async fn settle(
        &self,
        principal: &str,
        limits: Limits,
        rows: u64,
        entities: HashSet<u64>,
        time_ms: i64,
    ) -> Result<Option<Charged>, Exhausted> {
        if limits == Limits::default() {
            return Ok(None);
        }
        let (budgets, principal) = (Arc::clone(&self.budgets), principal.to_owned());
        let day = Budgets::day_of(time_ms);
        let settle = move || budgets.settle(&principal, day, &limits, rows, &entities);
        let settled = tokio::task::spawn_blocking(settle).await;
        settled.map_err(|_| Exhausted::Unkept)?.map(Some)
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
