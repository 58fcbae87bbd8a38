//! The rules of a running perimeter.

use std::path::Path;
use std::sync::Arc;

use crate::caller::Caller;
use crate::deciding::{Decide, Ruled, Rules};
use crate::rules::{KeySource, Limits, Rulebook, RulesError};
use crate::run::RuleFiles;
use crate::secret::SecretSource;

#[derive(Debug)]
struct Fixed(Arc<Rulebook>);

impl Rules for Fixed {
    fn now(&self, tool: &'static str, time_ms: i64) -> Arc<dyn Decide> {
        Arc::new(Ruled { rulebook: Arc::clone(&self.0), tool, time_ms })
    }

    fn charge(&self, _: &Caller, _: Limits, _: i64) -> Result<(), String> {
        Ok(())
    }
}

pub async fn open(files: &RuleFiles, base: &Path) -> Result<Arc<dyn Rules>, RulesError> {
    let base = base.to_owned();
    let (policies, rules) = (files.policies.clone(), files.rules.clone());
    let load = move || {
        let handle = tokio::runtime::Handle::current();
        let read_key = |source: &KeySource| -> Result<Vec<u8>, Box<dyn std::error::Error + Send + Sync>> {
            let source = match (&source.env, &source.file, &source.command) {
                (Some(name), None, None) => SecretSource::Env(name.clone()),
                (None, Some(path), None) => SecretSource::File(path.clone()),
                (None, None, Some(command)) => SecretSource::Command(command.clone()),
                _ => return Err("a key is one of env, file and command".into()),
            };
            Ok(handle.block_on(source.read(&base))?.expose().as_bytes().to_vec())
        };
        Rulebook::load(&policies, &rules, &read_key)
    };
    let rulebook = tokio::task::spawn_blocking(load).await.expect("loading rules does not panic")?;
    Ok(Arc::new(Fixed(Arc::new(rulebook))))
}
