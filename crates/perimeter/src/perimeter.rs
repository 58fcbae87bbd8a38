//! The perimeter as its tools use it: the engine, the rules as they are now, and the clock.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use kafscale_agent::answer::ToolError;
use kafscale_agent::audit::Decision as Verdict;
use kafscale_agent::{Call, JsonObject};
use kafscale_core::clock::Clock;
use serde_json::{Value, json};

use crate::answer::shaped_by;
use crate::caller::Caller;
use crate::catalog::Used;
use crate::deciding::Decide;
use crate::engine::{Engine, Planned, QueryError};
use crate::rules::checked_purpose;
use crate::rules::record::KEY;
use crate::rules_live::LiveRules;

#[derive(Debug)]
pub struct Perimeter {
    pub engine: Engine,
    pub rules: LiveRules,
    pub clock: Arc<dyn Clock>,
    /// What the configuration says of each collection.
    pub about: BTreeMap<String, String>,
    pub audit_log: Option<Arc<Path>>,
}

/// The caller of a tool, as its token and its request say.
pub fn caller_of(call: &Call, purpose: Option<&str>) -> Result<Caller, ToolError> {
    let purpose = checked_purpose(purpose.unwrap_or_default());
    let purpose = purpose.map_err(|error| ToolError::invalid(error.to_string()))?;
    let principal = &call.principal;
    let mut claims = (*principal.claims).clone();
    let on_behalf_of =
        claims.get("act").and_then(|act| act.get("sub")).and_then(Value::as_str).map(str::to_owned);
    claims.retain(|name, _| !matches!(name.as_str(), "exp" | "iat" | "nbf" | "jti"));
    Ok(Caller {
        principal: principal.name.to_string(),
        groups: principal.groups().map(str::to_owned).collect(),
        agent: principal.client.as_deref().map(str::to_owned),
        on_behalf_of,
        purpose,
        claims,
    })
}

impl Perimeter {
    /// The rules as they are now.
    pub fn decide(&self, tool: &'static str) -> Arc<dyn Decide> {
        self.rules.now(tool, self.clock.now_ms())
    }

    /// Plans a statement, and writes the decision down: nothing is read before that.
    pub async fn decided(
        &self,
        call: &Call,
        caller: &Caller,
        tool: &'static str,
        sql: &str,
    ) -> Result<Planned, ToolError> {
        let decide = self.decide(tool);
        let hash = decide.hash().to_owned();
        let planned = self.engine.plan(caller.clone(), Arc::clone(&decide), sql, self.clock.now_ms()).await;
        let mut details = about(caller, &hash);
        match planned {
            Ok(planned) => {
                details.extend(tables(&planned.used));
                let records = planned.used.iter().filter_map(|used| used.record.as_deref().cloned());
                let record = decide.record(caller, records.collect());
                details.extend(record.map(|record| (KEY.to_owned(), record)));
                let charged = self.rules.charge(&caller.principal, planned.budgets(), self.clock.now_ms());
                if let Err(exhausted) = charged {
                    details.insert("why".to_owned(), json!(exhausted.to_string()));
                    call.line.decide(Verdict::Deny, details).await?;
                    return Err(ToolError::invalid(exhausted.to_string()));
                }
                call.line.decide(Verdict::Allow, details).await?;
                Ok(planned)
            }
            Err(error) => {
                if let QueryError::Denied(denied) = &error {
                    details.insert("denied".to_owned(), json!(denied.table.to_string()));
                    details.insert("is_there".to_owned(), json!(denied.is_there));
                    details.insert("rules".to_owned(), json!(denied.rules));
                    let records = denied.record.as_deref().cloned().into_iter().collect();
                    details.extend(decide.record(caller, records).map(|record| (KEY.to_owned(), record)));
                }
                let refused = matches!(error, QueryError::Denied(_) | QueryError::Refused(_));
                details.insert("why".to_owned(), json!(error.to_string()));
                if refused {
                    call.line.decide(Verdict::Deny, details).await?;
                } else {
                    call.line.add(details);
                }
                Err(told(&error))
            }
        }
    }
}

/// What an audit line says of who asked and under which rules.
pub fn about(caller: &Caller, rules_hash: &str) -> JsonObject {
    let mut about = JsonObject::new();
    about.insert("caller".to_owned(), json!(caller));
    about.insert("rules_hash".to_owned(), json!(rules_hash));
    about
}

/// What an audit line says of the tables of a statement.
fn tables(used: &[Used]) -> JsonObject {
    let names: Vec<String> = used.iter().map(|used| used.table.to_string()).collect();
    let rules: BTreeSet<&String> = used.iter().flat_map(|used| &used.rules).collect();
    let mut tables = JsonObject::new();
    tables.insert("tables".to_owned(), json!(names));
    tables.insert("shaped_by".to_owned(), json!(shaped_by(used)));
    tables.insert("rules".to_owned(), json!(rules));
    tables
}

/// An error as the agent is told of it: what went wrong, and what to do.
pub fn told(error: &QueryError) -> ToolError {
    let text = match error.hint() {
        Some(hint) => {
            let (first, rest) = hint.split_at(hint.chars().next().map_or(0, char::len_utf8));
            format!("{}. {}{rest}.", error.to_string().trim_end_matches('.'), first.to_uppercase())
        }
        None => error.to_string(),
    };
    match error {
        QueryError::Collection(_) | QueryError::TimedOut(_) => ToolError::Unavailable(text),
        _ => ToolError::Invalid(text),
    }
}
