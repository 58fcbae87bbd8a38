//! `why_denied`: which rules keep a table or a column from the caller, and what would have to change, without a word of what is
//! hidden.

use std::sync::Arc;

use kafscale_agent::answer::ToolError;
use kafscale_agent::schemars::{self, JsonSchema};
use kafscale_agent::{About, Call, Tool};
use serde::{Deserialize, Serialize};

use super::reads;
use crate::answer::{mask_in_words, shape_in_words};
use crate::deciding::Allowed;
use crate::engine::Described;
use crate::perimeter::{Perimeter, caller_of};
use crate::shape::Shown;

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Args {
    collection: String,
    table: String,
    column: Option<String>,
    /// The purpose that was given, or another one to compare with
    purpose: Option<String>,
}

#[derive(Debug, Serialize, JsonSchema)]
struct Answer {
    /// query would answer, shaped or not.
    allowed: bool,
    why: String,
    /// The ids of rules, to name to whoever keeps them.
    rules: Vec<String>,
    what_would_change_it: String,
}

pub fn tool(perimeter: Arc<Perimeter>) -> Tool {
    let about = About {
        name: "why_denied",
        title: "Why something is denied or masked",
        description: "Which rules deny, mask or suppress a table or column for you and this purpose, and what would have to change.",
        annotations: reads(),
    };
    Tool::new(about, move |call: Call, args: Args| {
        let perimeter = Arc::clone(&perimeter);
        async move { answer(&perimeter, &call, args).await }
    })
}

async fn answer(perimeter: &Perimeter, call: &Call, args: Args) -> Result<Answer, ToolError> {
    let caller = caller_of(call, args.purpose.as_deref())?;
    let decide = perimeter.decide("why_denied");
    let described = perimeter.engine.describe(&caller, decide.as_ref(), &args.collection, &args.table).await;
    let change = |what: &str| {
        format!(
            "ask whoever keeps the rules of {} for {what}; another purpose may be decided otherwise",
            args.collection
        )
    };
    Ok(match described.map_err(|error| ToolError::Unavailable(error.to_string()))? {
        // The same words whether it is there or not.
        Described::Nothing => Answer {
            allowed: false,
            why: "there is no such table, or this caller may not know of it".to_owned(),
            rules: Vec::new(),
            what_would_change_it: change("access, by the name of the table"),
        },
        Described::Denied(why) => Answer {
            allowed: false,
            why,
            rules: Vec::new(),
            what_would_change_it: change("access to the table"),
        },
        Described::Table { allowed, .. } => {
            let Allowed { shape, .. } = *allowed;
            let Some(name) = &args.column else {
                return Ok(Answer {
                    allowed: true,
                    why: shape_in_words(&shape).unwrap_or_else(|| "nothing is kept back".to_owned()),
                    rules: shape.rules_told(),
                    what_would_change_it: change("less to be kept back"),
                });
            };
            let column =
                shape.columns.iter().find(|column| &column.name == name && column.shown != Shown::Hidden);
            match column {
                None => Answer {
                    allowed: false,
                    why: "there is no such column, or this caller may not know of it".to_owned(),
                    rules: Vec::new(),
                    what_would_change_it: change("access, by the name of the column"),
                },
                Some(column) => Answer {
                    allowed: true,
                    why: match &column.shown {
                        Shown::Masked(mask) => format!("the column is masked {}", mask_in_words(mask)),
                        Shown::AsIs | Shown::Hidden => "the column is shown as it is".to_owned(),
                    },
                    rules: column.rules.clone(),
                    what_would_change_it: change("the column without its mask"),
                },
            }
        }
    })
}
