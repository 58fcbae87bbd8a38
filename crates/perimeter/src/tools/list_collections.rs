//! `list_collections`: the collections and tables that the caller may know of.

use std::sync::Arc;

use kafscale_agent::answer::ToolError;
use kafscale_agent::answer::budget::Budget;
use kafscale_agent::schemars::{self, JsonSchema};
use kafscale_agent::{About, Call, Tool};
use serde::{Deserialize, Serialize};

use super::reads;
use crate::perimeter::{Perimeter, caller_of};

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Args {
    purpose: Option<String>,
    /// Only names with this in them
    name_contains: Option<String>,
}

#[derive(Debug, Serialize, JsonSchema)]
struct Answer {
    collections: Vec<Listed>,
    /// There are more: ask with name_contains.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    truncated: bool,
}

#[derive(Debug, Serialize, JsonSchema)]
struct Listed {
    name: String,
    kind: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    about: Option<String>,
    tables: Vec<String>,
    /// Why tables cannot be listed now.
    #[serde(skip_serializing_if = "Option::is_none")]
    unavailable: Option<String>,
}

pub fn tool(perimeter: Arc<Perimeter>) -> Tool {
    let about = About {
        name: "list_collections",
        title: "List collections",
        description: "Data collections and their tables that you may know of. Then: describe_collection, query.",
        annotations: reads(),
    };
    Tool::new(about, move |call: Call, args: Args| {
        let perimeter = Arc::clone(&perimeter);
        async move { answer(&perimeter, &call, args).await }
    })
}

async fn answer(perimeter: &Perimeter, call: &Call, args: Args) -> Result<Answer, ToolError> {
    let caller = caller_of(call, args.purpose.as_deref())?;
    let decide = perimeter.decide("list_collections");
    let wanted = args.name_contains.unwrap_or_default().to_lowercase();
    let mut budget = Budget::default();
    let mut answer = Answer { collections: Vec::new(), truncated: false };
    for (name, collection) in perimeter.engine.collections().iter() {
        if !decide.knows_collection(&caller, name) {
            continue;
        }
        let (mut tables, unavailable) =
            match perimeter.engine.known_tables(&caller, decide.as_ref(), name).await {
                Ok(tables) => (tables, None),
                Err(error) => (Vec::new(), Some(error.to_string())),
            };
        tables.retain(|table| name.contains(&wanted) || table.to_lowercase().contains(&wanted));
        if tables.is_empty() && unavailable.is_none() {
            continue;
        }
        let mut listed = Listed {
            name: name.clone(),
            kind: collection.kind(),
            about: perimeter.about.get(name).cloned(),
            tables: Vec::new(),
            unavailable,
        };
        answer.truncated |= !budget.take(&listed);
        for table in tables {
            if !budget.take(&table) {
                answer.truncated = true;
                break;
            }
            listed.tables.push(table);
        }
        answer.collections.push(listed);
    }
    Ok(answer)
}
