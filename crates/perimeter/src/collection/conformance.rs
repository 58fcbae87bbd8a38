//! What every kind of collection does, whatever its source: each kind runs this over a table of its own.
//!
//! The table is read once as a whole. Then every query gives over the table what it gives over that copy in memory, so that a
//! filter that the source evaluates otherwise than the engine is found, on the values that the table has.

use std::sync::Arc;
use std::time::Duration;

use arrow::array::RecordBatch;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use datafusion::catalog::MemTable;
use datafusion::common::ScalarValue;
use datafusion::prelude::{SessionConfig, SessionContext};
use futures_util::StreamExt as _;
use futures_util::future::join_all;

use super::{Collection, SourceTable};
use crate::caller::Caller;

/// Nothing of it takes that long.
const LONGEST: Duration = Duration::from_secs(600);
/// Values of a column that filters are tried with.
const VALUES_TRIED: usize = 3;

/// A table with at least three rows, at least one NULL, and at most a few thousand values.
pub struct Subject {
    pub collection: Arc<dyn Collection>,
    pub table: String,
    /// All rows, sorted, their values joined by `|`, NULL written as such. Empty: not compared.
    pub expected: Vec<String>,
}

/// Panics where the collection does not conform.
pub async fn check(subject: Subject) {
    tokio::time::timeout(LONGEST, check_all(subject)).await.expect("it does not hang");
}

async fn check_all(subject: Subject) {
    let Subject { collection, table, expected } = &subject;
    let tables = collection.tables().await.expect("tables are listed");
    assert!(tables.contains(table), "{table} in {tables:?}");
    assert!(!collection.check().await.expect("it can be checked").is_empty());
    let none = collection.table("no_such_table", &caller()).await.expect("that is no failure");
    assert!(none.is_none(), "a table that is not there");

    let trial = Trial::new(collection.as_ref(), table).await;
    let whole = trial.rows("SELECT * FROM t").await;
    assert!(whole.len() >= 3, "a table of three rows at least");
    if !expected.is_empty() {
        assert_eq!(&whole, expected);
    }
    trial.check_projections().await;
    trial.check_filters().await;
    trial.check_limits(whole.len()).await;
    trial.check_together().await;
    check_at_once(collection.as_ref(), table, &whole).await;
    check_dropped(collection.as_ref(), table, &whole).await;
    check_provenance(collection.as_ref(), table).await;
}

pub fn caller() -> Caller {
    Caller { principal: "alice".to_owned(), ..Caller::default() }
}

/// The table as one statement finds it.
pub async fn open(collection: &dyn Collection, table: &str) -> SourceTable {
    let begun = collection.begin(&caller()).await.expect("a statement begins");
    let collection = begun.as_deref().unwrap_or(collection);
    collection.table(table, &caller()).await.expect("the table is found").expect("the table is there")
}

fn context() -> SessionContext {
    SessionContext::new_with_config(SessionConfig::new().with_target_partitions(4))
}

/// All rows of a query, sorted, as text.
pub async fn rows(context: &SessionContext, sql: &str) -> Result<Vec<String>, String> {
    let frame = context.sql(sql).await.map_err(|e| format!("{sql}: {e}"))?;
    let batches = frame.collect().await.map_err(|e| format!("{sql}: {e}"))?;
    let mut lines: Vec<String> = batches.iter().flat_map(lines).collect();
    lines.sort();
    Ok(lines)
}

/// The rows of a batch as text.
pub fn lines(batch: &RecordBatch) -> Vec<String> {
    let options = FormatOptions::default().with_null("NULL");
    let formatters: Vec<_> = batch
        .columns()
        .iter()
        .map(|column| ArrayFormatter::try_new(column.as_ref(), &options).expect("it can be shown"))
        .collect();
    let line = |row| formatters.iter().map(|f| f.value(row).to_string()).collect::<Vec<_>>().join("|");
    (0..batch.num_rows()).map(line).collect()
}

/// The table `t`, and its copy `copy`.
struct Trial {
    context: SessionContext,
    columns: Vec<String>,
    copy: Vec<RecordBatch>,
}

impl Trial {
    async fn new(collection: &dyn Collection, table: &str) -> Trial {
        let context = context();
        let provider = open(collection, table).await.provider;
        let schema = provider.schema();
        context.register_table("t", provider).expect("it is registered");
        let frame = context.sql("SELECT * FROM t").await.expect("it is planned");
        let copy = frame.collect().await.expect("it is read");
        for batch in &copy {
            assert_eq!(batch.schema().fields(), schema.fields(), "batches have the schema of the table");
        }
        let memory = MemTable::try_new(Arc::clone(&schema), vec![copy.clone()]).expect("a copy is made");
        context.register_table("copy", Arc::new(memory)).expect("it is registered");
        let quoted = |name: &String| format!("\"{}\"", name.replace('"', "\"\""));
        let columns = schema.fields().iter().map(|field| quoted(field.name())).collect();
        Trial { context, columns, copy }
    }

    async fn rows(&self, sql: &str) -> Vec<String> {
        rows(&self.context, sql).await.expect("it is answered")
    }

    /// Both tables give the same. `sql` names the table as `{t}`.
    async fn same(&self, sql: &str) {
        let of = async |table: &str| rows(&self.context, &sql.replace("{t}", table)).await;
        match (of("t").await, of("copy").await) {
            (Ok(found), Ok(expected)) => assert_eq!(found, expected, "{sql}"),
            // What the engine refuses, it refuses of both, unless the source has left out the rows for
            // which it does.
            (_, Err(_)) => {}
            (found, expected) => panic!("{sql}: {found:?}, and over the copy {expected:?}"),
        }
    }

    async fn check_projections(&self) {
        self.same("SELECT count(*) FROM {t}").await;
        for column in &self.columns {
            self.same(&format!("SELECT {column} FROM {{t}}")).await;
            self.same(&format!("SELECT count({column}), count(DISTINCT {column}) FROM {{t}}")).await;
        }
        let backwards = self.columns.iter().rev().cloned().collect::<Vec<_>>().join(", ");
        self.same(&format!("SELECT {backwards} FROM {{t}}")).await;
        let first = &self.columns[0];
        self.same(&format!("SELECT {first} AS a, {first} AS b FROM {{t}}")).await;
    }

    /// Some values of a column, as literals of SQL.
    fn values(&self, column: usize) -> Vec<String> {
        let mut values: Vec<ScalarValue> = Vec::new();
        for batch in &self.copy {
            let of = batch.column(column);
            for row in 0..of.len() {
                let value = ScalarValue::try_from_array(of, row).expect("it is a value");
                if values.len() < VALUES_TRIED && !value.is_null() && !values.contains(&value) {
                    values.push(value);
                }
            }
        }
        values.iter().filter_map(literal).collect()
    }

    async fn check_filters(&self) {
        let mut each = Vec::new();
        for (at, column) in self.columns.iter().enumerate() {
            each.push(format!("{column} IS NULL"));
            each.push(format!("{column} IS NOT NULL"));
            let values = self.values(at);
            for value in &values {
                for operator in ["=", "<>", "<", "<=", ">", ">="] {
                    each.push(format!("{column} {operator} {value}"));
                    each.push(format!("NOT ({value} {operator} {column})"));
                }
            }
            if !values.is_empty() {
                let list = values.join(", ");
                each.push(format!("{column} IN ({list})"));
                each.push(format!("{column} NOT IN ({list})"));
                each.push(format!("{column} BETWEEN {} AND {}", values[0], values[values.len() - 1]));
            }
            for pattern in ["a%", "%a%", "A%", "_", "%\\%%"] {
                each.push(format!("{column} LIKE '{pattern}'"));
                each.push(format!("{column} ILIKE '{pattern}'"));
            }
            each.push(format!("{column} = ''"));
            each.push(format!("{column} = 0"));
            each.push(format!("{column} > -1.5"));
            each.push(format!("{column} = 'x'' OR 1=1 --'"));
        }
        for filter in &each {
            self.same(&format!("SELECT * FROM {{t}} WHERE {filter}")).await;
        }
        // Neighbours together, some with a limit, which counts rows that fulfil them.
        for pair in each.windows(2).step_by(7) {
            self.same(&format!("SELECT * FROM {{t}} WHERE ({}) OR ({})", pair[0], pair[1])).await;
            self.same(&format!("SELECT count(*) FROM {{t}} WHERE ({}) AND NOT ({})", pair[0], pair[1])).await;
            self.same(&format!("SELECT count(*) FROM (SELECT 1 FROM {{t}} WHERE {} LIMIT 2) AS l", pair[0]))
                .await;
        }
    }

    async fn check_limits(&self, all: usize) {
        for (limit, expected) in [(0, 0), (1, 1), (2, 2), (all, all), (all + 10, all)] {
            let found = self.rows(&format!("SELECT * FROM t LIMIT {limit}")).await;
            assert_eq!(found.len(), expected, "LIMIT {limit}");
        }
        assert_eq!(self.rows("SELECT * FROM t LIMIT 5 OFFSET 1").await.len(), 5.min(all - 1));
    }

    /// Several scans of one statement do not wait for each other.
    async fn check_together(&self) {
        let first = &self.columns[0];
        self.same("SELECT count(*) FROM {t} AS a CROSS JOIN (SELECT 1 FROM {t} LIMIT 3) AS b").await;
        self.same(&format!("SELECT count(*) FROM {{t}} a JOIN {{t}} b ON a.{first} = b.{first}")).await;
        self.same("SELECT * FROM {t} UNION ALL SELECT * FROM {t} UNION ALL SELECT * FROM {t}").await;
        self.same(&format!("SELECT {first} FROM {{t}} WHERE {first} IN (SELECT {first} FROM {{t}})")).await;
        self.same(&format!("SELECT {first}, count(*) FROM {{t}} GROUP BY {first}")).await;
    }
}

/// None: it has no literal that is worth a filter.
fn literal(value: &ScalarValue) -> Option<String> {
    let quoted = |text: &str| format!("'{}'", text.replace('\'', "''"));
    match value {
        ScalarValue::Utf8(Some(text))
        | ScalarValue::LargeUtf8(Some(text))
        | ScalarValue::Utf8View(Some(text)) => Some(quoted(text)),
        ScalarValue::Date32(_) => Some(format!("DATE '{value}'")),
        ScalarValue::TimestampSecond(..)
        | ScalarValue::TimestampMillisecond(..)
        | ScalarValue::TimestampMicrosecond(..)
        | ScalarValue::TimestampNanosecond(..)
        | ScalarValue::Binary(_)
        | ScalarValue::BinaryView(_)
        | ScalarValue::List(_)
        | ScalarValue::Struct(_)
        | ScalarValue::Time64Microsecond(_) => None,
        other => Some(other.to_string()),
    }
}

async fn check_at_once(collection: &dyn Collection, table: &str, whole: &[String]) {
    let statement = async || {
        let context = context();
        context.register_table("t", open(collection, table).await.provider).expect("it is registered");
        rows(&context, "SELECT * FROM t").await.expect("it is answered")
    };
    for found in join_all((0..8).map(|_| statement())).await {
        assert_eq!(found, whole);
    }
}

/// Who takes the first rows only leaves nothing behind that keeps others waiting.
async fn check_dropped(collection: &dyn Collection, table: &str, whole: &[String]) {
    for _ in 0..20 {
        let context = context();
        context.register_table("t", open(collection, table).await.provider).expect("it is registered");
        let frame = context.sql("SELECT * FROM t").await.expect("it is planned");
        let mut stream = frame.execute_stream().await.expect("it begins");
        let first = stream.next().await.expect("there are rows").expect("they can be read");
        assert!(first.num_rows() > 0);
        drop(stream);
    }
    check_at_once(collection, table, whole).await;
}

async fn check_provenance(collection: &dyn Collection, table: &str) {
    let source = open(collection, table).await;
    let context = context();
    context.register_table("t", source.provider).expect("it is registered");
    rows(&context, "SELECT * FROM t").await.expect("it is answered");
    let told = (source.provenance.0)();
    assert!(told.as_object().is_some_and(|told| !told.is_empty()), "it says as of when it was read: {told}");
}
