//! `explain_query`: what a query would be given and cost, without a row of data.

use std::sync::Arc;

use kafscale_agent::answer::ToolError;
use kafscale_agent::schemars::{self, JsonSchema};
use kafscale_agent::{About, Call, Tool};
use serde::{Deserialize, Serialize};

use super::reads;
use crate::answer::shaped_by;
use crate::perimeter::{Perimeter, caller_of, told};

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Args {
    #[schemars(length(min = 1, max = 65536))]
    sql: String,
    purpose: Option<String>,
}

#[derive(Debug, Serialize, JsonSchema)]
struct Answer {
    /// Whether query would answer.
    allowed: bool,
    tables: Vec<String>,
    shaped_by: Vec<String>,
    /// Labels of each column of the answer, by its name.
    labels: Vec<(String, Vec<String>)>,
    /// The steps, and which of your conditions each source is asked to apply. What the rules ask of it is not told.
    plan: String,
    rules: String,
}

pub fn tool(perimeter: Arc<Perimeter>) -> Tool {
    let about = About {
        name: "explain_query",
        title: "Explain a query",
        description: "What query would do with this SQL and purpose: allowed or not and why, masks and suppression, the plan. Reads no data.",
        annotations: reads(),
    };
    Tool::new(about, move |call: Call, args: Args| {
        let perimeter = Arc::clone(&perimeter);
        async move { answer(&perimeter, &call, args).await }
    })
}

async fn answer(perimeter: &Perimeter, call: &Call, args: Args) -> Result<Answer, ToolError> {
    let caller = caller_of(call, args.purpose.as_deref())?;
    let planned = perimeter.decided(call, &caller, "explain_query", &args.sql, None).await?;
    let plan = planned.explain().await.map_err(|error| told(&error))?;
    let names = planned.column_names();
    let labels = names.into_iter().zip(&planned.labels).filter(|(_, labels)| !labels.is_empty());
    Ok(Answer {
        allowed: true,
        tables: planned.used.iter().map(|used| used.table.to_string()).collect(),
        shaped_by: shaped_by(&planned.used),
        labels: labels.map(|(name, labels)| (name, labels.iter().cloned().collect())).collect(),
        plan,
        rules: planned.rules_hash().to_owned(),
    })
}
