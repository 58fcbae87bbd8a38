//! `my_activity`: what the audit log has of the caller, newest first.

use std::sync::Arc;

use kafscale_agent::answer::ToolError;
use kafscale_agent::answer::budget::Budget;
use kafscale_agent::schemars::{self, JsonSchema};
use kafscale_agent::{About, Call, Tool};
use serde::{Deserialize, Serialize};

use super::reads;
use crate::perimeter::Perimeter;

const LINES_DEFAULT: usize = 20;
const LINES_MAX: usize = 200;

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Args {
    /// 20 by default
    #[schemars(range(min = 1, max = 200))]
    limit: Option<usize>,
}

#[derive(Debug, Serialize, JsonSchema)]
struct Answer {
    columns: [&'static str; 5],
    rows: Vec<Row>,
    /// There are more, or the log goes back further than was looked.
    truncated: bool,
}

/// Time, tool, decision, outcome, tables.
type Row = (String, String, String, String, Vec<String>);

pub fn tool(perimeter: Arc<Perimeter>) -> Tool {
    let about = About {
        name: "my_activity",
        title: "My activity",
        description: "What the audit log holds of your own calls, newest first: decisions and outcomes.",
        annotations: reads(),
    };
    Tool::new(about, move |call: Call, args: Args| {
        let perimeter = Arc::clone(&perimeter);
        async move { answer(&perimeter, &call, args).await }
    })
}

async fn answer(perimeter: &Perimeter, call: &Call, args: Args) -> Result<Answer, ToolError> {
    let columns = ["time", "tool", "decision", "outcome", "tables"];
    let Some(log) = perimeter.audit_log.clone() else {
        return Err(ToolError::Unavailable("this perimeter keeps no audit log that can be read".to_owned()));
    };
    let (principal, most) =
        (call.principal.name.to_string(), args.limit.unwrap_or(LINES_DEFAULT).min(LINES_MAX));
    let read = tokio::task::spawn_blocking(move || crate::activity::of(&log, &principal, most)).await;
    let activity = match read {
        Ok(Ok(activity)) => activity,
        Ok(Err(_)) | Err(_) => {
            return Err(ToolError::Unavailable("the audit log cannot be read now".to_owned()));
        }
    };
    let mut budget = Budget::default();
    let (mut rows, mut truncated) = (Vec::new(), activity.goes_on);
    for line in activity.lines {
        let row: Row = (line.time, line.tool, line.decision, line.outcome, line.tables);
        if !budget.take(&row) {
            truncated = true;
            break;
        }
        rows.push(row);
    }
    Ok(Answer { columns, rows, truncated })
}
