//! Tables whose rows are in answers of JSON, as the configuration declares them: columns with their
//! types and places, and which conditions of a statement are told to the source. Common to `http` and
//! `mcp`.
//!
//! Invariant: a condition is only ever told to a source beside the engine, which evaluates it again. A
//! source that ignores it costs time, and gives nothing that was not asked for.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arrow::array::RecordBatch;
use arrow::temporal_conversions::date32_to_datetime;
use async_trait::async_trait;
use chrono::Utc;
use datafusion::common::ScalarValue;
use futures_util::{StreamExt as _, stream};
use kafscale_core::sql_schema::{self, SqlColumn, SqlType};
use kafscale_sql::topic::cell::Cell;
use serde::{Deserialize, Deserializer, de};
use serde_json::{Value, json};

use super::json_rows::{Columns, Pointer, checked, rows};
use super::predicate::{Comparison, Leaf, Predicate, Pushed, Test, text};
use super::remote::{Memory, Request, Rows as RowStream};
use super::rows::{Rows, Tally};
use super::web::{Failed, engine_error};
use super::{Provenance, SourceTable};
use crate::rules::Holds;

/// A value that is longer is NULL, and counted.
const VALUE_BYTES_MAX: usize = 1 << 20;
/// Questions that one scan may be made of, where arguments have several values.
const CALLS_MAX: usize = 100;

/// Columns with their types in SQL, as `id bigint, name text`.
#[derive(Debug, Clone, Default)]
pub struct ColumnList(pub Vec<SqlColumn>);

impl<'de> Deserialize<'de> for ColumnList {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        sql_schema::parse(&String::deserialize(deserializer)?).map(ColumnList).map_err(de::Error::custom)
    }
}

/// Why a table's declaration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DeclaredError {
    #[error("tables.{table}: there are no columns; write them, as in columns = \"id bigint, name text\"")]
    NoColumns { table: String },
    #[error("tables.{table}.{key}: there is no column {column} in `columns`")]
    NoColumn { table: String, key: &'static str, column: String },
    #[error("tables.{table}.arguments: {column} is a column of the answer too; call one of them otherwise")]
    Twice { table: String, column: String },
    #[error(
        "tables.{table}: the column {column} cannot be told to the source: only text, bigint, int, boolean and date can"
    )]
    Type { table: String, column: String },
}

/// What the configuration says of a table.
#[derive(Debug, Clone, Copy)]
pub struct Declaration<'c> {
    pub rows: &'c Pointer,
    pub columns: &'c ColumnList,
    /// Of columns that are not fields of a row by their own names.
    pub pointers: &'c BTreeMap<String, Pointer>,
    /// Which parameter an equality of a column becomes.
    pub filters: &'c BTreeMap<String, String>,
    /// Columns that are no part of an answer, and have to be given.
    pub arguments: &'c ColumnList,
}

/// See the file's comment.
#[derive(Debug)]
pub struct Declared {
    pub table: String,
    /// Those of the answer, then the arguments.
    pub columns: Vec<SqlColumn>,
    of_answer: usize,
    rows: Pointer,
    pointers: Vec<Pointer>,
    /// By the column: what the source calls it.
    parameters: BTreeMap<usize, String>,
}

impl Declared {
    pub fn new(table: &str, declaration: Declaration<'_>) -> Result<Declared, DeclaredError> {
        let Declaration { rows, columns, pointers, filters, arguments } = declaration;
        let table = table.to_owned();
        let of_answer = columns.0.len();
        if of_answer == 0 {
            return Err(DeclaredError::NoColumns { table });
        }
        if let Some(twice) = arguments.0.iter().find(|a| columns.0.iter().any(|c| c.name == a.name)) {
            return Err(DeclaredError::Twice { table, column: twice.name.clone() });
        }
        let all: Vec<SqlColumn> = columns.0.iter().chain(&arguments.0).cloned().collect();
        if let Some(column) = pointers.keys().find(|name| !columns.0.iter().any(|c| c.name == **name)) {
            return Err(DeclaredError::NoColumn { table, key: "pointers", column: column.clone() });
        }
        if let Some(column) = filters.keys().find(|name| !all.iter().any(|c| c.name == **name)) {
            return Err(DeclaredError::NoColumn { table, key: "filters", column: column.clone() });
        }
        let parameter = |(at, column): (usize, &SqlColumn)| match filters.get(&column.name) {
            Some(parameter) => Some((at, parameter.clone())),
            None if at >= of_answer => Some((at, column.name.clone())),
            None => None,
        };
        let parameters: BTreeMap<usize, String> = all.iter().enumerate().filter_map(parameter).collect();
        let told = [SqlType::Text, SqlType::Int8, SqlType::Int4, SqlType::Boolean, SqlType::Date];
        if let Some(at) = parameters.keys().find(|at| !told.contains(&all[**at].sql_type)) {
            return Err(DeclaredError::Type { table, column: all[*at].name.clone() });
        }
        let pointer = |column: &SqlColumn| {
            pointers.get(&column.name).cloned().unwrap_or_else(|| Pointer::field(&column.name))
        };
        Ok(Declared {
            table,
            pointers: columns.0.iter().map(pointer).collect(),
            rows: rows.clone(),
            columns: all,
            of_answer,
            parameters,
        })
    }

    /// Says of columns that other columns are parts of them: `/who` of `/who/name`.
    pub fn with_what_columns_hold(&self, table: SourceTable) -> SourceTable {
        let parts = |at: usize| {
            let of = move |(other, pointer): &(usize, &Pointer)| {
                *other != at && self.pointers[at].contains(pointer)
            };
            let parts = self.pointers.iter().enumerate().filter(of);
            parts.map(|(other, _)| self.columns[other].name.clone()).collect::<Vec<_>>()
        };
        (0..self.of_answer).fold(table, |table, at| match parts(at) {
            none if none.is_empty() => table,
            parts => table.holding(&self.columns[at].name, Holds::Columns(parts)),
        })
    }

    pub fn has_arguments(&self) -> bool {
        self.columns.len() > self.of_answer
    }

    /// What a column is called as a parameter.
    pub fn parameter(&self, column: usize) -> &str {
        self.parameters.get(&column).map_or("", String::as_str)
    }

    /// What each argument is called as a parameter.
    pub fn arguments(&self) -> impl Iterator<Item = &str> {
        (self.of_answer..self.columns.len()).map(|column| self.parameter(column))
    }

    pub fn parameters(&self) -> impl Iterator<Item = &str> {
        self.parameters.values().map(String::as_str)
    }

    pub fn pushed(&self, leaf: &Leaf) -> Pushed {
        let is_told = self.parameters.contains_key(&leaf.column) && given(&leaf.test).is_some();
        if is_told { Pushed::Partly } else { Pushed::No }
    }

    /// The questions that give all rows which can fulfil the conditions.
    pub fn calls(&self, predicates: &[Predicate]) -> Result<Vec<Call>, AskError> {
        let mut values = self.given(predicates);
        for column in self.of_answer..self.columns.len() {
            if !values.contains_key(&column) {
                let column = self.columns[column].name.clone();
                return Err(AskError::Missing { table: self.table.clone(), column });
            }
        }
        // A source that ignores it would give a row for each of several values.
        values.retain(|column, values| *column >= self.of_answer || values.len() < 2);
        let mut calls = vec![Call::default()];
        for (column, values) in values {
            if calls.len().saturating_mul(values.len()) > CALLS_MAX {
                return Err(AskError::TooMany { table: self.table.clone() });
            }
            let with = |call: &Call, value: &Given| {
                let mut call = call.clone();
                call.0.insert(column, value.clone());
                call
            };
            calls = calls.iter().flat_map(|call| values.iter().map(move |value| with(call, value))).collect();
        }
        Ok(calls)
    }

    /// The values that columns can have where all of the conditions are fulfilled.
    fn given(&self, all: &[Predicate]) -> BTreeMap<usize, BTreeSet<Given>> {
        let mut values: BTreeMap<usize, BTreeSet<Given>> = BTreeMap::new();
        for (column, given) in all.iter().flat_map(|predicate| self.given_by(predicate)) {
            let known = values.entry(column).or_insert_with(|| given.clone());
            known.retain(|value| given.contains(value));
        }
        values
    }

    fn given_by(&self, predicate: &Predicate) -> BTreeMap<usize, BTreeSet<Given>> {
        match predicate {
            Predicate::All(parts) => self.given(parts),
            // The engine writes a short list as these.
            Predicate::Any(parts) => {
                let of_each = parts.iter().map(|part| self.given_by(part));
                let both = |a: BTreeMap<usize, BTreeSet<Given>>, mut b: BTreeMap<usize, BTreeSet<Given>>| {
                    let common = a.into_iter().filter_map(|(column, mut values)| {
                        values.append(&mut b.remove(&column)?);
                        Some((column, values))
                    });
                    common.collect()
                };
                of_each.reduce(both).unwrap_or_default()
            }
            Predicate::Leaf(Leaf { column, test }) => {
                let given = given(test).filter(|_| self.parameters.contains_key(column));
                given.into_iter().map(|given| (*column, given)).collect()
            }
        }
    }
}

/// The values that a column can have.
fn given(test: &Test) -> Option<BTreeSet<Given>> {
    match test {
        Test::Compare(Comparison::Eq, value) => Some(BTreeSet::from([Given::of(value)?])),
        Test::In { values, negated: false } => values.iter().map(Given::of).collect(),
        Test::Compare(..) | Test::In { .. } | Test::Null { .. } | Test::Like { .. } => None,
    }
}

/// Why a statement cannot be answered. For the caller: no values.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    #[error(
        "the table {table} has to be asked for each {column}: write {column} = … or {column} IN (…) with constants into WHERE"
    )]
    Missing { table: String, column: String },
    #[error("the table {table} would have to be asked more than {CALLS_MAX} times: give fewer values")]
    TooMany { table: String },
    #[error(
        "a value of {column} cannot be asked for: it is a part of a path, and must not be empty, `.`, `..`, or have slashes or control characters in it"
    )]
    Path { column: String },
}

/// One question: the value of each column that is told to the source.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Call(pub BTreeMap<usize, Given>);

/// A value that a source is told.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Given {
    Text(String),
    Int(i64),
    Boolean(bool),
    /// Days since 1970.
    Date(i32),
}

impl Given {
    fn of(value: &ScalarValue) -> Option<Given> {
        Some(match value {
            ScalarValue::Int64(Some(value)) => Given::Int(*value),
            ScalarValue::Int32(Some(value)) => Given::Int(i64::from(*value)),
            ScalarValue::Boolean(Some(value)) => Given::Boolean(*value),
            ScalarValue::Date32(Some(days)) => Given::Date(*days),
            other => Given::Text(text(other)?.to_owned()),
        })
    }

    pub fn text(&self) -> String {
        match self {
            Given::Text(text) => text.clone(),
            Given::Int(value) => value.to_string(),
            Given::Boolean(value) => value.to_string(),
            Given::Date(days) => date32_to_datetime(*days)
                .map_or_else(|| days.to_string(), |day| day.format("%Y-%m-%d").to_string()),
        }
    }

    pub fn json(&self) -> Value {
        match self {
            Given::Int(value) => json!(value),
            Given::Boolean(value) => json!(value),
            Given::Text(_) | Given::Date(_) => json!(self.text()),
        }
    }

    fn cell(&self) -> Cell<'_> {
        match self {
            Given::Text(text) => Cell::Text(text.as_str().into()),
            Given::Int(value) => Cell::Int(*value),
            Given::Boolean(value) => Cell::Boolean(*value),
            Given::Date(days) => Cell::Date(*days),
        }
    }
}

/// What one statement takes of a table.
#[derive(Debug, Default)]
pub struct Taken {
    pub tally: Arc<Tally>,
    pub questions: AtomicU64,
}

impl Taken {
    pub fn asked(&self) {
        self.questions.fetch_add(1, Ordering::Relaxed);
    }

    pub fn provenance(self: &Arc<Self>) -> Provenance {
        let (taken, from) = (Arc::clone(self), Utc::now().to_rfc3339());
        Provenance(Arc::new(move || {
            let mut told = taken.tally.told();
            told["questions"] = json!(taken.questions.load(Ordering::Relaxed));
            told["from"] = json!(from);
            told["to"] = json!(Utc::now().to_rfc3339());
            told
        }))
    }
}

/// Answers of a source, one after the other.
#[async_trait]
pub trait Answers: Send + 'static {
    /// The next one, and what was asked. `rows` is how many the one before had. None: there are no
    /// more.
    async fn next(&mut self, rows: usize, memory: &Memory) -> Result<Option<(Vec<u8>, Call)>, Failed>;
}

/// Makes rows of the columns that a request wants.
#[derive(Debug)]
pub struct Decoder {
    declared: Arc<Declared>,
    sql: Vec<SqlColumn>,
    columns: Columns,
    /// For each wanted column: its place among those of the answer, or the argument.
    places: Vec<Result<usize, usize>>,
    tally: Arc<Tally>,
}

impl Decoder {
    pub fn new(declared: &Arc<Declared>, projection: &[usize], tally: &Arc<Tally>) -> Decoder {
        let mut pointers = Vec::new();
        let place = |at: &usize| match declared.pointers.get(*at) {
            Some(pointer) => {
                pointers.push(pointer.clone());
                Ok(pointers.len() - 1)
            }
            None => Err(*at),
        };
        Decoder {
            places: projection.iter().map(place).collect(),
            sql: projection.iter().map(|at| declared.columns[*at].clone()).collect(),
            columns: Columns::new(pointers.into_iter()),
            declared: Arc::clone(declared),
            tally: Arc::clone(tally),
        }
    }

    /// The rows of a whole answer, charged as they are made: an answer of a few bytes may have many.
    pub fn decode(
        &self,
        answer: &[u8],
        call: &Call,
        memory: &Memory,
    ) -> Result<VecDeque<RecordBatch>, Failed> {
        let answer = checked(answer)?;
        let mut batches = VecDeque::new();
        let mut building = Rows::new(&self.sql, Arc::clone(&self.tally));
        let mut take = |building: &mut Rows| {
            if let Some(batch) = building.take()? {
                memory.charge(batch.get_array_memory_size()).map_err(Failed::Memory)?;
                batches.push_back(batch);
            }
            Ok::<_, Failed>(())
        };
        rows(answer, &self.declared.rows, |row| {
            self.put(&mut building, row, call);
            if building.is_full() { take(&mut building) } else { Ok::<_, Failed>(()) }
        })?;
        take(&mut building)?;
        Ok(batches)
    }

    fn put(&self, building: &mut Rows, row: &str, call: &Call) {
        let mut cells = vec![None; self.places.len()];
        let has_places = self.columns.read(row, |at, value| cells[at] = value);
        for (at, place) in self.places.iter().enumerate() {
            let cell = match place {
                Err(argument) => call.0.get(argument).map_or(Cell::Null, Given::cell),
                Ok(column) => match cells[*column] {
                    Some(raw) if raw.len() > VALUE_BYTES_MAX => Cell::Misfit,
                    Some(raw) => Cell::Json(raw.into()),
                    None if has_places => Cell::Null,
                    None => Cell::Misfit,
                },
            };
            building.put(at, &cell);
        }
        building.end_row();
    }
}

/// The rows of all answers.
pub fn stream(
    collection: String,
    decoder: Decoder,
    request: &Request,
    memory: Memory,
    answers: impl Answers,
) -> RowStream {
    let scan = Scan {
        collection,
        decoder,
        answers,
        memory,
        ready: VecDeque::new(),
        rows: 0,
        left: request.limit.unwrap_or(usize::MAX),
    };
    let batches = stream::try_unfold(scan, async |mut scan| {
        let batch = scan.next().await.map_err(|failed| engine_error(failed, &scan.collection))?;
        Ok(batch.map(|batch| (batch, scan)))
    });
    batches.boxed()
}

struct Scan<A> {
    collection: String,
    decoder: Decoder,
    answers: A,
    memory: Memory,
    ready: VecDeque<RecordBatch>,
    /// Of the last answer.
    rows: usize,
    /// Rows until the limit.
    left: usize,
}

impl<A: Answers> Scan<A> {
    async fn next(&mut self) -> Result<Option<RecordBatch>, Failed> {
        while self.ready.is_empty() && self.left > 0 {
            self.memory.release();
            let Some((answer, call)) = self.answers.next(self.rows, &self.memory).await? else {
                return Ok(None);
            };
            let at =
                |source| Failed::At { table: self.decoder.declared.table.clone(), source: Box::new(source) };
            self.ready = self.decoder.decode(&answer, &call, &self.memory).map_err(at)?;
            self.rows = self.ready.iter().map(RecordBatch::num_rows).sum();
        }
        let batch = self.ready.pop_front().filter(|_| self.left > 0);
        let batch = batch.map(|batch| batch.slice(0, batch.num_rows().min(self.left)));
        self.left -= batch.as_ref().map_or(0, RecordBatch::num_rows);
        Ok(batch)
    }
}

/// What an answer that somebody looks at to check the settings has, in one line; and the columns that
/// are nowhere in it, in another one.
pub fn told(
    declared: &Arc<Declared>,
    answer: &[u8],
    call: &Call,
    memory: &Memory,
) -> Result<Vec<String>, Failed> {
    let all: Vec<usize> = (0..declared.columns.len()).collect();
    let batches = Decoder::new(declared, &all, &Arc::default()).decode(answer, call, memory)?;
    let rows: usize = batches.iter().map(RecordBatch::num_rows).sum();
    let mut lines = vec![format!("{}: {rows} rows in the first answer", declared.table)];
    let is_nowhere =
        |at: &usize| batches.iter().all(|batch| batch.column(*at).null_count() == batch.num_rows());
    let nowhere: Vec<&str> =
        (0..declared.of_answer).filter(is_nowhere).map(|at| declared.columns[at].name.as_str()).collect();
    if rows > 0 && !nowhere.is_empty() {
        lines.push(format!(
            "warning: {}: without a value in any row: {}",
            declared.table,
            nowhere.join(", ")
        ));
    }
    Ok(lines)
}

#[cfg(test)]
mod tests {
    use arrow::util::pretty::pretty_format_batches;
    use datafusion::execution::memory_pool::{GreedyMemoryPool, MemoryConsumer, MemoryPool};

    use super::*;

    #[derive(Deserialize)]
    struct Holder {
        #[serde(default)]
        rows: Pointer,
        #[serde(default)]
        columns: ColumnList,
        #[serde(default)]
        pointers: BTreeMap<String, Pointer>,
        #[serde(default)]
        filters: BTreeMap<String, String>,
        #[serde(default)]
        arguments: ColumnList,
    }

    fn declared(text: &str) -> Result<Arc<Declared>, String> {
        let Holder { rows, columns, pointers, filters, arguments } =
            basic_toml::from_str(text).map_err(|e| e.to_string())?;
        let declaration = Declaration {
            rows: &rows,
            columns: &columns,
            pointers: &pointers,
            filters: &filters,
            arguments: &arguments,
        };
        Declared::new("t", declaration).map(Arc::new).map_err(|e| e.to_string())
    }

    #[test]
    fn a_column_holds_those_within_it() {
        let text = "columns = \"id int, who json, name text, whole json, again json\"\n\
            [pointers]\nname = \"/who/name\"\nwhole = \"\"\nagain = \"/who\"";
        let declared = declared(text).unwrap();
        let schema = super::super::rows::schema_of(&declared.columns);
        let provider = Arc::new(datafusion::datasource::MemTable::try_new(schema, vec![vec![]]).unwrap());
        let table = SourceTable::new("t", provider, Provenance(Arc::new(|| Value::Null)));
        let columns = declared.with_what_columns_hold(table).columns;
        let held = |names: &[&str]| Holds::Columns(names.iter().map(|name| (*name).to_owned()).collect());
        let holds: Vec<Holds> = columns.into_iter().map(|column| column.holds).collect();
        let whole = held(&["id", "who", "name", "again"]);
        let expected =
            [Holds::Nothing, held(&["name", "again"]), Holds::Nothing, whole, held(&["who", "name"])];
        assert_eq!(holds, expected);
    }

    fn eq(column: usize, value: impl Into<ScalarValue>) -> Predicate {
        Predicate::Leaf(Leaf { column, test: Test::Compare(Comparison::Eq, value.into()) })
    }

    fn is_in(column: usize, values: &[i64]) -> Predicate {
        let values = values.iter().map(|value| ScalarValue::from(*value)).collect();
        Predicate::Leaf(Leaf { column, test: Test::In { values, negated: false } })
    }

    fn memory(bytes: usize) -> Memory {
        let pool: Arc<dyn MemoryPool> = Arc::new(GreedyMemoryPool::new(bytes));
        Memory::new(MemoryConsumer::new("test").register(&pool))
    }

    #[test]
    fn declarations_are_checked() {
        for (text, why) in [
            ("", "there are no columns"),
            (
                "columns = \"id bigint\"\npointers = { nam = \"/a\" }",
                "tables.t.pointers: there is no column nam",
            ),
            (
                "columns = \"id bigint\"\nfilters = { nam = \"a\" }",
                "tables.t.filters: there is no column nam",
            ),
            ("columns = \"id bigint\"\narguments = \"id bigint\"", "is a column of the answer too"),
            ("columns = \"at timestamp\"\nfilters = { at = \"at\" }", "cannot be told to the source"),
            ("columns = \"id bigint\"\npointers = { id = \"a\" }", "begins with a slash"),
            ("columns = \"id nonsense\"", "no type for the column id"),
        ] {
            let error = declared(text).map(|_| ()).unwrap_err();
            assert!(error.contains(why), "{text}: {error}");
        }
    }

    #[test]
    fn arguments_have_to_be_given_and_filters_may_be() {
        let table = declared(
            "columns = \"id bigint, state text\"\nfilters = { state = \"s\" }\narguments = \"owner bigint\"",
        );
        let table = table.unwrap();
        let calls = |predicates: &[Predicate]| table.calls(predicates).map_err(|e| e.to_string());
        let call = |values: &[(usize, Given)]| Call(values.iter().cloned().collect());
        assert!(calls(&[eq(1, "open")]).unwrap_err().contains("owner = …"));
        assert_eq!(
            calls(&[is_in(2, &[1, 2])]).unwrap(),
            [call(&[(2, Given::Int(1))]), call(&[(2, Given::Int(2))])]
        );
        let both = calls(&[eq(1, "open"), Predicate::All(vec![is_in(2, &[1, 2]), eq(2, 2_i64)])]).unwrap();
        assert_eq!(both, [call(&[(1, Given::Text("open".into())), (2, Given::Int(2))])]);
        assert!(calls(&[eq(2, 1_i64), eq(2, 2_i64)]).unwrap().is_empty(), "nothing is both");
        assert_eq!(calls(&[eq(0, 7_i64), eq(2, 1_i64)]).unwrap(), [call(&[(2, Given::Int(1))])], "no filter");
        assert!(calls(&[Predicate::Any(vec![eq(2, 1_i64), eq(0, 1_i64)])]).is_err());
        let either = Predicate::Any(vec![eq(2, 1_i64), Predicate::All(vec![eq(2, 3_i64), eq(1, "open")])]);
        let expected = [call(&[(2, Given::Int(1))]), call(&[(2, Given::Int(3))])];
        assert_eq!(calls(&[either]).unwrap(), expected);
        assert!(
            calls(&[is_in(2, &(0..101).collect::<Vec<_>>())]).unwrap_err().contains("more than 100 times")
        );
        let several = Predicate::Leaf(Leaf {
            column: 1,
            test: Test::In { values: vec!["a".into(), "b".into()], negated: false },
        });
        assert_eq!(calls(&[several, eq(2, 1_i64)]).unwrap(), [call(&[(2, Given::Int(1))])], "rows come once");
    }

    #[test]
    fn values_that_do_not_fit_are_null_and_counted() {
        let table = declared(
            "rows = \"/d\"\ncolumns = \"id bigint, name text, on date, tags json, n numeric(10,2)\"\n\
             pointers = { name = \"/who/name\" }\narguments = \"owner text\"",
        );
        let table = table.unwrap();
        let taken = Arc::<Taken>::default();
        let decoder = Decoder::new(&table, &[5, 0, 1, 2, 3, 4], &taken.tally);
        let long = "x".repeat(VALUE_BYTES_MAX);
        let answer = format!(
            r#"{{"d": [{{"id": 1, "who": {{"name": "Ann"}}, "on": "2026-01-02", "tags": [1], "n": 1.5}},
               {{"id": "one", "who": "x", "on": 5, "tags": null, "n": 1e99}},
               {{"id": 99999999999999999999, "id": 3, "who": {{"name": "{long}"}}}}, 7, {{}}]}}"#
        );
        let call = Call(BTreeMap::from([(5, Given::Text("bob".into()))]));
        let batches: Vec<_> = decoder.decode(answer.as_bytes(), &call, &memory(1 << 30)).unwrap().into();
        let shown = pretty_format_batches(&batches).unwrap().to_string();
        let lines: Vec<String> = shown.lines().map(|line| line.replace(' ', "")).collect();
        assert_eq!(
            lines[3..8],
            ["|bob|1|Ann|2026-01-02|[1]|1.50|", "|bob||||||", "|bob|3|||||", "|bob||||||", "|bob||||||"]
        );
        let told = (taken.provenance().0)();
        assert_eq!(told["misfits"], json!({"id": 2, "name": 2, "on": 2, "tags": 1, "n": 2}), "{told}");
    }

    #[test]
    fn a_small_answer_with_many_rows_takes_no_more_memory_than_there_is() {
        let columns: Vec<String> = (0..100).map(|n| format!("c{n} bigint")).collect();
        let table = declared(&format!("columns = \"{}\"", columns.join(", "))).unwrap();
        let all: Vec<usize> = (0..100).collect();
        let decoder = Decoder::new(&table, &all, &Arc::default());
        let answer = format!("[{}1]", "1,".repeat(1_000_000));
        let failed = decoder.decode(answer.as_bytes(), &Call::default(), &memory(64 << 20)).unwrap_err();
        assert!(matches!(failed, Failed::Memory(_)), "{failed:?}");
    }
}
