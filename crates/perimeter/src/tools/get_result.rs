//! `get_result`: pages of a result that was kept, filtered again under the rules as they are now.

use std::sync::Arc;

use kafscale_agent::answer::ToolError;
use kafscale_agent::schemars::{self, JsonSchema};
use kafscale_agent::{About, Call, JsonObject, Tool};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::query::UNTRUSTED;
use super::reads;
use crate::answer::{AnswerColumn, TOKENS_DEFAULT, TOKENS_MAX, columns, page, shaped_by};
use crate::catalog::{NO_LONGER_GIVEN, still_holds};
use crate::perimeter::{Perimeter, about, caller_of};
use kafscale_agent::audit::Decision as Verdict;

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Args {
    handle: String,
    /// The same as of the query
    purpose: Option<String>,
    first_row: Option<u64>,
    #[schemars(range(min = 1, max = 10_000))]
    limit: Option<u64>,
    /// 800 by default
    #[schemars(range(min = 400, max = 8000))]
    max_tokens: Option<usize>,
}

#[derive(Debug, Serialize, JsonSchema)]
struct Answer {
    columns: Vec<AnswerColumn>,
    rows: Vec<Vec<Value>>,
    row_count: u64,
    complete: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_row: Option<u64>,
    shaped_by: Vec<String>,
    notice: &'static str,
}

pub fn tool(perimeter: Arc<Perimeter>) -> Tool {
    let about = About {
        name: "get_result",
        title: "Get rows of a result",
        description: "Rows of a handle that query gave to you, from first_row on, for the same purpose. A handle lasts an hour.",
        annotations: reads(),
    };
    Tool::new(about, move |call: Call, args: Args| {
        let perimeter = Arc::clone(&perimeter);
        async move { answer(&perimeter, &call, args).await }
    })
}

async fn answer(perimeter: &Perimeter, call: &Call, args: Args) -> Result<Answer, ToolError> {
    let caller = caller_of(call, args.purpose.as_deref())?;
    let decide = perimeter.decide("get_result");
    let unknown = || {
        ToolError::invalid(
            "unknown handle: it is not yours, or of another purpose or delegation, or too old; query again",
        )
    };
    let handle = perimeter.engine.handles.find(&caller, &args.handle).ok_or_else(unknown)?;
    let mut details = about(&caller, decide.hash());
    details.insert("handle".to_owned(), json!(handle.name));
    // What is kept is given as anew: to this token, by this tool, at this hour.
    if !still_holds(&caller, decide.as_ref(), &handle.used) {
        call.line.decide(Verdict::Deny, details).await?;
        return Err(ToolError::invalid(NO_LONGER_GIVEN));
    }
    call.line.decide(Verdict::Allow, details).await?;
    let first = args.first_row.unwrap_or(0);
    let budget = args.max_tokens.unwrap_or(TOKENS_DEFAULT).min(TOKENS_MAX);
    let rows = page(&handle.batches, first, args.limit.unwrap_or(u64::MAX), budget);
    let next = first + rows.len() as u64;
    let mut outcome = JsonObject::new();
    outcome.insert("rows_shown".to_owned(), json!(rows.len()));
    call.line.add(outcome);
    Ok(Answer {
        columns: columns(&handle.schema, &handle.labels),
        rows,
        row_count: handle.rows,
        complete: handle.is_complete,
        next_row: (next < handle.rows).then_some(next),
        shaped_by: shaped_by(&handle.used),
        notice: UNTRUSTED,
    })
}
