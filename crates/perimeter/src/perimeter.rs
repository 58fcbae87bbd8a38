//! The perimeter as its tools use it: the engine, the rules as they are now, and the clock.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use kafscale_agent::answer::ToolError;
use kafscale_agent::audit::Decision as Verdict;
use kafscale_agent::{Call, JsonObject};
use kafscale_core::clock::Clock;
use serde_json::{Value, json};

use crate::answer::{computed_from_told, shaped_by};
use crate::caller::Caller;
use crate::catalog::{Denied, Used, holds_for};
use crate::deciding::{Decide, Ruling};
use crate::deliver::envelope::{Envelope, Made};
use crate::deliver::{DeliverError, Delivered, Records, deliver};
use crate::engine::{Engine, Planned, QueryError, Rows};
use crate::labelled::ColumnLabels;
use crate::rules::budgets::{CHARGED, Exhausted};
use crate::rules::record::KEY;
use crate::rules::{Action, checked_purpose};
use crate::rules_live::LiveRules;
use crate::shape::TableName;

#[derive(Debug)]
pub struct Perimeter {
    pub engine: Engine,
    pub rules: LiveRules,
    pub clock: Arc<dyn Clock>,
    /// What the configuration says of each collection.
    pub about: BTreeMap<String, String>,
    pub audit_log: Option<Arc<Path>>,
}

/// A delivery may take so much longer than its query.
const DELIVERY_BEYOND: Duration = Duration::from_secs(3);

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
        export: Option<&TableName>,
    ) -> Result<Planned, ToolError> {
        let decide = self.decide(tool);
        let hash = decide.hash().to_owned();
        let planned = self.engine.plan(caller.clone(), Arc::clone(&decide), sql, self.clock.now_ms()).await;
        let mut details = about(caller, &hash);
        details.extend(export.map(|topic| ("deliver_to".to_owned(), json!(topic.to_string()))));
        let planned = match (planned, export) {
            (Ok(planned), Some(topic)) => match exported(caller, decide.as_ref(), &planned, topic) {
                Ok(()) => Ok(planned),
                Err(denied) => Err(denied.into()),
            },
            (planned, _) => planned,
        };
        match planned {
            Ok(planned) => {
                details.extend(tables(&planned.used));
                let records = planned.used.iter().filter_map(|used| used.record.as_deref().cloned());
                let record = decide.record(caller, records.collect());
                details.extend(record.map(|record| (KEY.to_owned(), record)));
                let charged = self.rules.charge(&caller.principal, planned.budgets(), self.clock.now_ms());
                match charged {
                    Ok(charged) => {
                        details.extend(charged.map(|charged| (CHARGED.to_owned(), json!(charged))))
                    }
                    Err(exhausted) => {
                        details.insert("why".to_owned(), json!(exhausted.to_string()));
                        call.line.decide(Verdict::Deny, details).await?;
                        return Err(ToolError::invalid(exhausted.to_string()));
                    }
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

    /// Writes an answer to a topic, as it would be shown.
    pub async fn deliver(
        &self,
        call: &Call,
        caller: &Caller,
        planned: &Planned,
        rows: &Rows,
        topic: &TableName,
        obligations: &[String],
    ) -> Result<Delivered, ToolError> {
        let delivery = uuid::Uuid::new_v4().simple().to_string();
        let made = Made {
            rules_hash: planned.rules_hash(),
            labels: &planned.labels,
            obligations,
            provenance: &computed_from_told(&planned.used),
            is_complete: rows.cut_by.is_none(),
            delivery: &delivery,
        };
        let envelope = Envelope::new(caller, &call.meta, made);
        let until = planned.deadline() + DELIVERY_BEYOND;
        let work = async {
            let collection = self.engine.collections().get(&topic.collection);
            let brokers = collection.and_then(|collection| collection.brokers());
            let brokers = brokers.ok_or_else(|| DeliverError::NotWritable(topic.collection.clone()))?;
            let records = Records::of(rows)?;
            let columns = rows.schema.fields().iter().map(|field| field.name().clone());
            let labels: ColumnLabels = columns.zip(planned.labels.iter().cloned()).collect();
            let (labelled, name) = (Arc::clone(&self.engine.labelled), topic.table.clone());
            let kept = tokio::task::spawn_blocking(move || labelled.add(&name, &labels)).await;
            match kept {
                Ok(Ok(())) => {}
                Ok(Err(error)) => return Err(unlabelled(&error)),
                Err(error) => return Err(unlabelled(&error)),
            }
            let when = (self.clock.now_ms(), until);
            deliver(brokers, &topic.table, &records, envelope, &delivery, when).await
        };
        let delivered = work.await;
        let mut details = JsonObject::new();
        match delivered {
            Ok((delivered, attempt)) => {
                let mut told = json!(delivered);
                told["attempt"] = json!(attempt);
                details.insert("delivered".to_owned(), told);
                call.line.add(details);
                Ok(delivered)
            }
            Err(error) => {
                details.insert("not_delivered".to_owned(), json!(error.to_string()));
                details.insert("delivery".to_owned(), json!(delivery));
                call.line.add(details);
                Err(match error {
                    DeliverError::Unwritten(_) | DeliverError::Unknown(_) | DeliverError::Unlabelled => {
                        ToolError::Unavailable(error.to_string())
                    }
                    _ => ToolError::Invalid(error.to_string()),
                })
            }
        }
    }

    /// Charges rows and entities of an answer before anything of it leaves, and notes that for the
    /// audit log.
    pub async fn settle(
        &self,
        call: &Call,
        caller: &Caller,
        planned: &Planned,
        rows: u64,
    ) -> Result<(), ToolError> {
        let (budgets, entities, now_ms) = (planned.budgets(), planned.entities(), self.clock.now_ms());
        let settled = self.rules.settle(&caller.principal, budgets, rows, entities, now_ms).await;
        let mut details = JsonObject::new();
        match settled {
            Ok(charged) => {
                details.extend(charged.map(|charged| (CHARGED.to_owned(), json!(charged))));
                call.line.add(details);
                Ok(())
            }
            Err(exhausted) => {
                details.insert("why".to_owned(), json!(exhausted.to_string()));
                call.line.add(details);
                // What cannot be kept tells of no row.
                if matches!(exhausted, Exhausted::Rows(_) | Exhausted::Entities(_)) {
                    self.refused(call, caller, planned);
                }
                Err(ToolError::Denied(exhausted.to_string()))
            }
        }
    }

    /// Charges an answer that was refused for what is in it, or failed on a row, and notes that for the audit log.
    pub fn refused(&self, call: &Call, caller: &Caller, planned: &Planned) {
        let charged = self.rules.refuse(&caller.principal, planned.budgets(), self.clock.now_ms());
        call.line.add(charged.map(|charged| (CHARGED.to_owned(), json!(charged))).into_iter().collect());
    }
}

/// Whether the rules let what was planned be exported to a topic: the topic, and each table as it
/// is given for the query.
fn exported(
    caller: &Caller,
    decide: &dyn Decide,
    planned: &Planned,
    topic: &TableName,
) -> Result<(), Denied> {
    if let Ruling::Denied { why, rules, record } = decide.decide(caller, Action::Export, topic, &[]) {
        return Err(Denied { table: topic.clone(), why, rules, record, is_there: true });
    }
    let denied = planned.used.iter().find(|used| !holds_for(caller, decide, Action::Export, used));
    match denied {
        None => Ok(()),
        Some(used) => Err(Denied {
            table: used.table.clone(),
            why: format!("no rule lets you export {} as you would be shown it", used.table),
            rules: Vec::new(),
            record: None,
            is_there: true,
        }),
    }
}

/// What an audit line says of who asked and under which rules.
pub fn about(caller: &Caller, rules_hash: &str) -> JsonObject {
    let mut about = JsonObject::new();
    about.insert("caller".to_owned(), json!(caller));
    about.insert("rules_hash".to_owned(), json!(rules_hash));
    about
}

fn unlabelled(error: &dyn std::fmt::Display) -> DeliverError {
    tracing::error!(%error, "labels of a topic cannot be kept, and nothing is written to it");
    DeliverError::Unlabelled
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
