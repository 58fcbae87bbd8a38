//! `describe_collection`: the tables and columns that this caller would get, with labels and what the rules do to them.

use std::sync::Arc;

use kafscale_agent::answer::ToolError;
use kafscale_agent::answer::budget::Budget;
use kafscale_agent::schemars::{self, JsonSchema};
use kafscale_agent::{About, Call, Tool};
use serde::{Deserialize, Serialize};

use super::reads;
use crate::answer::{mask_in_words, shape_in_words, type_name};
use crate::config::is_identifier;
use crate::engine::Described;
use crate::governed::masks::masked_type;
use crate::perimeter::{Perimeter, caller_of};
use crate::rules::ColumnInfo;
use crate::shape::{Shown, TableName, TableShape};

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Args {
    collection: String,
    /// One table; without it all
    table: Option<String>,
    /// What you would use it for; rules may depend on it
    purpose: Option<String>,
}

#[derive(Debug, Serialize, JsonSchema)]
struct Answer {
    collection: String,
    tables: Vec<Table>,
    /// Ask for one table: the rest did not fit.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    truncated: bool,
}

#[derive(Debug, Serialize, JsonSchema)]
struct Table {
    name: String,
    /// Name, type, labels, and what is done to it
    columns: Vec<(String, String, Vec<String>, Option<String>)>,
    #[serde(skip_serializing_if = "Option::is_none")]
    shaped_by: Option<String>,
    /// Why query would refuse it.
    #[serde(skip_serializing_if = "Option::is_none")]
    denied: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    example: Option<String>,
}

pub fn tool(perimeter: Arc<Perimeter>) -> Tool {
    let about = About {
        name: "describe_collection",
        title: "Describe a collection",
        description: "Columns of a collection's tables as you would get them for this purpose: type, labels, masks, and an example query.",
        annotations: reads(),
    };
    Tool::new(about, move |call: Call, args: Args| {
        let perimeter = Arc::clone(&perimeter);
        async move { answer(&perimeter, &call, args).await }
    })
}

async fn answer(perimeter: &Perimeter, call: &Call, args: Args) -> Result<Answer, ToolError> {
    let caller = caller_of(call, args.purpose.as_deref())?;
    let decide = perimeter.decide("describe_collection");
    let unknown = || {
        ToolError::invalid("unknown collection or table (list_collections names those that you may know of)")
    };
    if !decide.knows_collection(&caller, &args.collection) {
        return Err(unknown());
    }
    let mut names = perimeter
        .engine
        .known_tables(&caller, decide.as_ref(), &args.collection)
        .await
        .map_err(|error| ToolError::Unavailable(error.to_string()))?;
    if let Some(table) = &args.table {
        names.retain(|name| name == table);
    }
    if names.is_empty() {
        return Err(unknown());
    }
    let mut budget = Budget::default();
    let mut answer = Answer { collection: args.collection.clone(), tables: Vec::new(), truncated: false };
    for name in names {
        let described = perimeter.engine.describe(&caller, decide.as_ref(), &args.collection, &name).await;
        let table = match described.map_err(|error| ToolError::Unavailable(error.to_string()))? {
            Described::Nothing => continue,
            Described::Denied(why) => {
                Table { name, columns: Vec::new(), shaped_by: None, denied: Some(why), example: None }
            }
            Described::Table { allowed, columns } => shown(&allowed.shape, &columns),
        };
        if !budget.take(&table) {
            answer.truncated = true;
            break;
        }
        answer.tables.push(table);
    }
    Ok(answer)
}

/// A name without quotes is one in lower case.
fn in_sql(TableName { collection, table }: &TableName) -> String {
    match is_identifier(table) {
        true => format!("{collection}.{table}"),
        false => format!("{collection}.\"{}\"", table.replace('"', "\"\"")),
    }
}

fn shown(shape: &TableShape, columns: &[ColumnInfo]) -> Table {
    let types = |name: &str| columns.iter().find(|column| column.name == name);
    let visible: Vec<_> = shape.columns.iter().filter(|column| column.shown != Shown::Hidden).collect();
    let described = visible.iter().map(|column| {
        let of_source = types(&column.name).map(|column| &column.data_type);
        let (of, mask) = match &column.shown {
            Shown::Masked(mask) => (
                of_source.map(|of_source| type_name(&masked_type(mask, of_source))),
                Some(format!("masked {}", mask_in_words(mask))),
            ),
            Shown::AsIs | Shown::Hidden => (of_source.map(type_name), None),
        };
        let of = of.unwrap_or_default();
        (column.name.clone(), of, column.labels.clone(), mask)
    });
    let table = in_sql(&shape.table);
    let example = match &shape.min_group {
        Some(_) => format!("SELECT count(*) FROM {table}"),
        None => format!("SELECT * FROM {table} LIMIT 10"),
    };
    Table {
        name: shape.table.table.clone(),
        columns: described.collect(),
        shaped_by: shape_in_words(shape),
        denied: None,
        example: Some(example),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_example_has_quotes_where_a_name_needs_them() {
        for (table, text) in [("visits", "a.visits"), ("Visits", "a.\"Visits\""), ("x\"y", "a.\"x\"\"y\"")] {
            assert_eq!(in_sql(&TableName::new("a", table)), text);
        }
    }
}
