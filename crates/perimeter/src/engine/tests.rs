//! The governed path over a small clinic: what must not leave does not, and what is allowed is answered rightly.

use std::sync::Arc;

use arrow::array::{ArrayRef, Float64Array, Int64Array, RecordBatch, StringArray};
use arrow::util::pretty::pretty_format_batches;
use async_trait::async_trait;
use clap::Parser as _;
use datafusion::datasource::MemTable;
use kafscale_settings::perimeter::PerimeterLimitArgs;
use kafscale_sql::threads::QueryThreads;
use serde_json::json;

use super::*;
use crate::collection::{Collection, Provenance, SourceTable};
use crate::handles::HandleLimits;
use crate::shape::{ColumnShape, Counted, DatePart, Mask, MaskKey, MinGroup, Shown, TableShape};

mod covered;
mod extremes;

const SECRET_NAME: &str = "Zebedee";
const SECRET_SSN: &str = "987-65-4320";

#[derive(Debug, clap::Parser)]
struct Arguments {
    #[command(flatten)]
    limits: PerimeterLimitArgs,
}

/// 100 patients in four wards; ward 4 has only three. Patient 7 is the one that attackers look for.
fn patients() -> RecordBatch {
    let ids: Vec<i64> = (0..100).collect();
    let ward = |id: &i64| if *id >= 97 { 4 } else { id % 3 + 1 };
    let name = |id: &i64| if *id == 7 { SECRET_NAME.to_owned() } else { format!("Name{id}") };
    let ssn = |id: &i64| if *id == 7 { SECRET_SSN.to_owned() } else { format!("123-45-{:04}", id + 1000) };
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("id", Arc::new(Int64Array::from(ids.clone()))),
        ("name", Arc::new(ids.iter().map(name).map(Some).collect::<StringArray>())),
        ("ssn", Arc::new(ids.iter().map(ssn).map(Some).collect::<StringArray>())),
        ("ward", Arc::new(ids.iter().map(ward).collect::<Int64Array>())),
        (
            "born",
            Arc::new(ids.iter().map(|id| Some(format!("19{:02}-05-17", id % 100))).collect::<StringArray>()),
        ),
        (
            "weight",
            Arc::new(
                ids.iter().map(|id| (*id != 11).then_some(60.0 + (*id as f64))).collect::<Float64Array>(),
            ),
        ),
    ];
    RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(name, array)| (name, array, true)))
        .expect("columns of one length")
}

/// 1,200 visits of the same patients, one of patient 7 with something rare, and one of nobody.
fn visits() -> RecordBatch {
    let rows: Vec<i64> = (0..1202).collect();
    let special = |row: &i64| (*row >= 1200).then_some(*row - 1200);
    let patient = |row: &i64| match special(row) {
        Some(0) => Some(7),
        Some(_) => None,
        None => Some(row * 7 % 100),
    };
    let diagnosis = |row: &i64| match special(row) {
        Some(0) => "plague",
        Some(_) => "unknown",
        None => ["flu", "asthma", "fracture"][(row * 31 % 97 % 3) as usize],
    };
    let cost = |row: &i64| match special(row) {
        Some(0) => 99999.25,
        Some(_) => 12345.5,
        None => 100.0 + (row * 37 % 900) as f64,
    };
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("id", Arc::new(Int64Array::from(rows.clone()))),
        ("patient_id", Arc::new(rows.iter().map(patient).collect::<Int64Array>())),
        ("month", Arc::new(rows.iter().map(|row| row / 100 % 12 + 1).collect::<Int64Array>())),
        ("diagnosis", Arc::new(rows.iter().map(|row| Some(diagnosis(row))).collect::<StringArray>())),
        ("cost", Arc::new(rows.iter().map(|row| Some(cost(row))).collect::<Float64Array>())),
    ];
    RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(name, array)| (name, array, true)))
        .expect("columns of one length")
}

#[derive(Debug)]
struct Clinic;

#[async_trait]
impl Collection for Clinic {
    /// So that labels of topics may stick to it.
    fn kind(&self) -> &'static str {
        "topics"
    }

    fn table_named<'n>(&self, name: &'n str) -> &'n str {
        name.split_once("@tail:").map_or(name, |(table, _)| table)
    }

    async fn tables(&self) -> Result<Vec<String>, CollectionError> {
        Ok(["patients", "visits", "wards"].map(str::to_owned).to_vec())
    }

    async fn table(&self, name: &str, _: &Caller) -> Result<Option<SourceTable>, CollectionError> {
        // As sources do that do not care about the case.
        let name = self.table_named(name).to_lowercase();
        let batch = match name.as_str() {
            "patients" => patients(),
            "visits" => visits(),
            "wards" => {
                let columns: Vec<(&str, ArrayRef)> = vec![
                    ("ward", Arc::new(Int64Array::from(vec![1, 2, 3, 4]))),
                    ("title", Arc::new(StringArray::from(vec!["north", "south", "west", "locked"]))),
                ];
                RecordBatch::try_from_iter(columns).expect("columns of one length")
            }
            "extremes" => extremes::extremes(),
            _ => return Ok(None),
        };
        let provider = Arc::new(MemTable::try_new(batch.schema(), vec![vec![batch]]).expect("a table"));
        Ok(Some(SourceTable::new(name, provider, Provenance(Arc::new(|| json!("memory"))))))
    }

    async fn check(&self) -> Result<Vec<String>, CollectionError> {
        Ok(Vec::new())
    }
}

/// What is given of patients; wards are as they are.
#[derive(Debug, Clone, Default)]
struct Given {
    shown: Vec<(&'static str, Shown)>,
    row_filters: Vec<String>,
    min_group: Option<u32>,
    entities_per_day: Option<u64>,
}

impl Decide for Given {
    fn hash(&self) -> &str {
        "test"
    }

    fn knows_collection(&self, _: &Caller, collection: &str) -> bool {
        collection == "clinic"
    }

    fn knows(&self, _: &Caller, table: &TableName) -> bool {
        table.collection == "clinic"
    }

    fn decide(&self, _: &Caller, _: Action, table: &TableName, columns: &[ColumnInfo]) -> Ruling {
        let is_patients = table.table == "patients";
        let shown = |name: &str| {
            let given = self.shown.iter().find(|(column, _)| is_patients && *column == name);
            given.map_or(Shown::AsIs, |(_, shown)| shown.clone())
        };
        let columns = columns.iter().map(|column| ColumnShape {
            name: column.name.clone(),
            labels: if column.name == "ssn" { vec!["pii.ssn".to_owned()] } else { Vec::new() },
            shown: shown(&column.name),
            rules: Vec::new(),
        });
        Allowed::of(TableShape {
            table: table.clone(),
            columns: columns.collect(),
            row_filters: if is_patients { self.row_filters.clone() } else { Vec::new() },
            min_group: self.min_group.filter(|_| table.table != "wards").map(|size| MinGroup {
                entity: if is_patients { "id".to_owned() } else { "patient_id".to_owned() },
                size,
                rules: Vec::new(),
            }),
            counted: self
                .entities_per_day
                .filter(|_| is_patients)
                .map(|per_day| Counted { entity: "id".to_owned(), per_day }),
            max_rows: None,
            max_bytes: None,
            patterns: Vec::new(),
        })
    }
}

/// A source that finds tables in any case has none of another case here.
#[tokio::test]
async fn a_table_is_found_by_exactly_its_name() {
    let clinic = Clinical::new(Given::default());
    assert!(clinic.ask("SELECT id FROM clinic.patients WHERE id = 7").await.unwrap().contains('7'));
    let caller = Caller::default();
    for name in ["PATIENTS", "Patients", "patients@secret", "patients\u{131}"] {
        let told = clinic.ask(&format!("SELECT * FROM clinic.\"{name}\"")).await.unwrap_err();
        assert_eq!(told, crate::rules::not_there(&TableName::new("clinic", name), "query"));
        let described = clinic.engine.describe(&caller, &clinic.given, "clinic", name).await.unwrap();
        assert!(matches!(&described, Described::Denied(why) if *why == told), "{described:?}");
    }
}

/// The last rows are counted before the rules take some away.
#[tokio::test]
async fn the_end_of_a_table_is_not_had_where_rows_are_kept_back() {
    let sql = "SELECT count(*) FROM clinic.\"patients@tail:5\"";
    assert!(Clinical::new(Given::default()).ask(sql).await.unwrap().contains("100"));
    let of_a_ward = Given { row_filters: vec!["ward = 2".to_owned()], ..Given::default() };
    for given in [of_a_ward, Given { min_group: Some(10), ..Given::default() }] {
        let told = Clinical::new(given).ask(sql).await.unwrap_err();
        assert!(told.contains("rows of it are kept back"), "{told}");
    }
}

struct Clinical {
    engine: Engine,
    given: Given,
    principal: String,
    _threads: QueryThreads,
}

impl Clinical {
    fn new(given: Given) -> Clinical {
        Clinical::with(given, &[])
    }

    fn with(given: Given, arguments: &[&str]) -> Clinical {
        let arguments = std::iter::once(&"test").chain(arguments);
        let limits = Arguments::parse_from(arguments).limits.of_queries();
        let threads = QueryThreads::start(2).expect("threads");
        let collections = Collections::from([("clinic".to_owned(), Arc::new(Clinic) as Arc<dyn Collection>)]);
        let handles = Arc::new(Handles::new(HandleLimits::default()));
        let engine = Engine::new(collections, &limits, threads.handle(), handles).expect("an engine");
        Clinical { engine, given, principal: "ada".to_owned(), _threads: threads }
    }

    async fn ask(&self, sql: &str) -> Result<String, String> {
        let caller = Caller { principal: self.principal.clone(), ..Caller::default() };
        let told = |error: QueryError| error.to_string();
        let planned = self.engine.plan(caller, Arc::new(self.given.clone()), sql, 1).await.map_err(told)?;
        let rows = planned.run(AnswerLimits { rows: 1000, bytes: 1 << 20 }).await.map_err(told)?;
        Ok(pretty_format_batches(&rows.batches).expect("rows").to_string())
    }

    async fn explain(&self, sql: &str) -> Result<String, String> {
        let caller = Caller { principal: self.principal.clone(), ..Caller::default() };
        let told = |error: QueryError| error.to_string();
        let planned = self.engine.plan(caller, Arc::new(self.given.clone()), sql, 1).await.map_err(told)?;
        planned.explain().await.map_err(told)
    }

    /// The one value of an answer.
    async fn value(&self, sql: &str) -> String {
        let answer = self.ask(sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
        let row = answer.lines().nth(3).unwrap_or_else(|| panic!("{sql}: no row in {answer}"));
        row.trim_matches('|').trim().to_owned()
    }
}

/// Without the names of columns.
fn rows_of(answer: &str) -> usize {
    answer.lines().filter(|line| line.starts_with('|')).count().saturating_sub(1)
}

fn masked() -> Given {
    Given {
        shown: vec![
            ("name", Shown::Masked(Mask::Null)),
            ("ssn", Shown::Masked(Mask::KeepLast(4))),
            ("born", Shown::Masked(Mask::Date(DatePart::Year))),
        ],
        ..Given::default()
    }
}

#[tokio::test]
async fn masked_columns_are_masked_wherever_they_stand() {
    let clinic = Clinical::new(masked());
    let nothing = [
        format!("SELECT count(*) FROM clinic.patients WHERE ssn = '{SECRET_SSN}'"),
        format!("SELECT count(*) FROM clinic.patients WHERE name = '{SECRET_NAME}'"),
        "SELECT count(*) FROM clinic.patients WHERE ssn LIKE '987%'".to_owned(),
        "SELECT count(*) FROM clinic.patients WHERE name IS NOT NULL".to_owned(),
        format!("SELECT count(*) FROM clinic.patients p JOIN (VALUES ('{SECRET_SSN}')) v(s) ON p.ssn = v.s"),
        format!("SELECT count(*) FROM clinic.patients WHERE ssn IN (SELECT '{SECRET_SSN}')"),
        format!(
            "SELECT count(*) FROM clinic.wards w WHERE EXISTS (SELECT 1 FROM clinic.patients p WHERE p.ward = w.ward AND p.name = '{SECRET_NAME}')"
        ),
        format!("SELECT count(*) FILTER (WHERE name = '{SECRET_NAME}') FROM clinic.patients"),
        format!("SELECT coalesce(sum(CASE WHEN ssn = '{SECRET_SSN}' THEN 1 END), 0) FROM clinic.patients"),
        "SELECT count(*) FROM clinic.patients WHERE substr(born, 6) <> '01-01'".to_owned(),
    ];
    for sql in nothing {
        assert_eq!(clinic.value(&sql).await, "0", "{sql}");
    }
    let shown = [
        "SELECT * FROM clinic.patients",
        "SELECT ssn AS harmless, name AS x FROM clinic.patients ORDER BY ssn DESC",
        "SELECT max(ssn), min(name), max(born) FROM clinic.patients",
        "SELECT string_agg(ssn, ',') FROM clinic.patients",
        "SELECT row_number() OVER (ORDER BY name), ssn FROM clinic.patients",
        "WITH p AS (SELECT ssn s FROM clinic.patients UNION ALL SELECT name FROM clinic.patients) SELECT DISTINCT s FROM p",
        "SELECT CASE WHEN ward = 1 THEN ssn ELSE name END FROM clinic.patients",
        "SELECT CAST(ssn AS bytea), reverse(ssn), concat(name, ssn, born) FROM clinic.patients",
        "SELECT (SELECT max(ssn) FROM clinic.patients)",
    ];
    for sql in shown {
        let answer = clinic.ask(sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
        assert!(
            !answer.contains("987-65") && !answer.contains(SECRET_NAME) && !answer.contains("05-17"),
            "{sql}: {answer}"
        );
        assert!(!answer.contains("0234-56"), "{sql}");
    }
    let error = clinic.ask("SELECT CAST(ssn AS int) FROM clinic.patients").await.expect_err("not a number");
    assert!(!error.contains("987") && !error.contains("123-45"), "{error}");
}

#[tokio::test]
async fn labels_follow_values_whatever_they_are_called() {
    let clinic = Clinical::new(masked());
    let labels_of = async |sql: &str| {
        let caller = Caller { principal: "ada".to_owned(), ..Caller::default() };
        let planned = clinic.engine.plan(caller, Arc::new(masked()), sql, 1).await.expect("a plan");
        planned.labels.iter().map(|labels| !labels.is_empty()).collect::<Vec<_>>()
    };
    assert_eq!(labels_of("SELECT ward, ssn FROM clinic.patients").await, [false, true]);
    assert_eq!(
        labels_of("SELECT concat('x', s) a, w FROM (SELECT ssn s, ward w FROM clinic.patients) q").await,
        [true, false]
    );
    assert_eq!(labels_of("SELECT max(ssn), count(*) FROM clinic.patients").await, [true, false]);
    assert_eq!(
        labels_of("SELECT 1 AS one, ssn FROM clinic.patients UNION ALL SELECT 2, 'x'").await,
        [false, true]
    );
    assert_eq!(labels_of("SELECT (SELECT max(ssn) FROM clinic.patients)").await, [true]);
    let within = "(SELECT string_agg(ssn, ',') FROM clinic.patients)";
    for sql in [
        format!("SELECT DISTINCT ON (w.ward) w.ward, {within} FROM clinic.wards w"),
        format!("SELECT 1, t.x FROM (VALUES ({within})) t(x)"),
        format!("SELECT 1, CASE WHEN 'a' = ANY (SELECT ssn FROM clinic.patients) THEN {within} END"),
        "SELECT w.ward, l.x FROM clinic.wards w, LATERAL (SELECT max(p.ssn) x FROM clinic.patients p WHERE p.ward = w.ward) l"
            .to_owned(),
        "SELECT 1, x FROM (SELECT unnest(make_array(ssn)) x FROM clinic.patients) t".to_owned(),
    ] {
        assert_eq!(labels_of(&sql).await, [false, true], "{sql}");
    }
    assert_eq!(
        labels_of("SELECT w.title, p.ssn FROM clinic.wards w JOIN clinic.patients p ON p.ward = w.ward")
            .await,
        [false, true]
    );
}

/// A label says of a column that it is as it should be, and nothing of one beside it.
#[tokio::test]
async fn values_with_something_of_a_column_without_labels_are_searched() {
    let clinic = Clinical::new(masked());
    for (column, is_searched) in [
        ("name", true),
        ("ssn", false),
        ("concat(ssn, ' ', 'x')", false),
        ("name || left(ssn, 0)", true),
        ("coalesce(name, ssn)", true),
        ("CASE WHEN ward = 1 THEN ssn END", false),
        ("CASE WHEN ward = 1 THEN ssn ELSE name END", true),
        ("max(ssn) FILTER (WHERE ward = 1)", false),
        ("string_agg(ssn, ',' ORDER BY name)", false),
        ("first_value(ssn) OVER (PARTITION BY ward ORDER BY name)", false),
        ("(SELECT max(name) FROM clinic.patients) || max(ssn)", true),
        ("NULLIF(ssn, name)", true),
        ("count(*)", true),
    ] {
        let sql = format!("SELECT {column} AS x FROM clinic.patients");
        let unions =
            [sql.clone(), format!("SELECT x FROM ({sql}) t UNION ALL SELECT max(ssn) FROM clinic.patients")];
        for sql in unions.iter().take(if column == "count(*)" { 1 } else { 2 }) {
            let caller = Caller { principal: "ada".to_owned(), ..Caller::default() };
            let planned = clinic.engine.plan(caller, Arc::new(masked()), sql, 1).await;
            let planned = planned.unwrap_or_else(|error| panic!("{sql}: {error}"));
            assert_eq!(planned.lineages[0].is_searched(), is_searched, "{sql}");
        }
    }
}

#[tokio::test]
async fn hidden_columns_are_as_if_they_were_not_there() {
    let clinic = Clinical::new(Given { shown: vec![("ssn", Shown::Hidden)], ..Given::default() });
    let hidden = clinic.ask("SELECT ssn FROM clinic.patients").await.expect_err("it is hidden");
    let missing = clinic.ask("SELECT nothing FROM clinic.patients").await.expect_err("it is not there");
    assert_eq!(hidden.replace("ssn", "X"), missing.replace("nothing", "X"));
    let all = clinic.ask("SELECT * FROM clinic.patients LIMIT 1").await.expect("an answer");
    assert!(!all.contains("ssn"), "{all}");
}

#[tokio::test]
async fn what_the_caller_writes_is_not_evaluated_on_rows_that_are_kept_back() {
    let clinic = Clinical::new(Given { row_filters: vec!["id <> 7".to_owned()], ..Given::default() });
    assert_eq!(clinic.value("SELECT count(*) FROM clinic.patients").await, "99");
    let fine = [
        "SELECT count(*) FROM clinic.patients WHERE 1 / (id - 7) >= 0 OR id < 1000",
        "SELECT count(*) FROM clinic.patients WHERE CAST(replace(name, 'Name', '') AS int) >= 0",
        "SELECT count(1 / (id - 7)) FROM clinic.patients",
    ];
    for sql in fine {
        assert_eq!(clinic.value(sql).await, "99", "{sql}");
    }
    assert_eq!(clinic.value("SELECT count(*) FROM clinic.patients WHERE id = 7").await, "0");
    assert_eq!(clinic.value("SELECT count(*) FROM clinic.patients WHERE id = 8").await, "1");
}

fn grouped() -> Clinical {
    Clinical::new(Given { min_group: Some(10), shown: masked().shown, ..Given::default() })
}

#[tokio::test]
async fn ordinary_figures_of_groups_are_right() {
    let clinic = grouped();
    assert_eq!(clinic.value("SELECT count(*) FROM clinic.patients").await, "100");
    let wards = clinic
        .ask("SELECT ward, count(*) n, avg(weight) w FROM clinic.patients GROUP BY ward ORDER BY ward")
        .await
        .expect("wards");
    // Ward 4 has three patients, and another ward is kept back with it, so that the total tells nothing.
    assert_eq!(rows_of(&wards), 2, "{wards}");
    assert!(!wards.contains("| 4 "), "{wards}");
    let fine = [
        "SELECT w.title, count(*) FROM clinic.patients p JOIN clinic.wards w ON w.ward = p.ward GROUP BY w.title",
        "SELECT ward, sum(weight), avg(weight * 2.2), stddev(weight), median(weight), count(DISTINCT id) FROM clinic.patients GROUP BY ward",
        "SELECT avg(w) FROM (SELECT ward, avg(weight) w FROM clinic.patients GROUP BY ward) t",
        "SELECT DISTINCT ward FROM clinic.patients",
        "SELECT ward, sum(CASE WHEN weight > 100 THEN 1 ELSE 0 END) heavy FROM clinic.patients GROUP BY ward",
        "SELECT born, count(*) FROM clinic.patients GROUP BY born HAVING count(*) > 1 ORDER BY 2 DESC LIMIT 3",
        "SELECT count(*) FROM clinic.patients WHERE weight BETWEEN 80 AND 120 AND ward IN (1, 2)",
        "WITH p AS (SELECT * FROM clinic.patients WHERE ward = 1) SELECT count(*), avg(weight) FROM p",
    ];
    for sql in fine {
        if let Err(error) = clinic.ask(sql).await {
            panic!("{sql}: {error}");
        }
    }
}

#[tokio::test]
async fn nothing_tells_of_a_few() {
    let refused = [
        "SELECT * FROM clinic.patients",
        "SELECT id FROM clinic.patients LIMIT 1",
        "SELECT max(weight), min(weight) FROM clinic.patients",
        "SELECT array_agg(weight) FROM clinic.patients",
        "SELECT string_agg(CAST(weight AS text), ',') FROM clinic.patients",
        "SELECT first_value(weight) OVER (ORDER BY id) FROM clinic.patients",
        "SELECT sum(CASE WHEN id = 7 THEN weight * 1e9 ELSE 0 END) FROM clinic.patients",
        "SELECT sum(weight * (id = 7)::int) FROM clinic.patients",
        "SELECT sum(x) FROM (SELECT CASE WHEN id = 7 THEN 1000000 ELSE 1 END x FROM clinic.patients) t",
        "SELECT sum(v.w) FROM clinic.patients p JOIN (VALUES (7, 1000), (8, 0)) v(id, w) ON v.id = p.id",
        "SELECT sum((id - 1) * (id - 2)) FROM clinic.patients",
        "SELECT sum(weight / (id - 7)) FROM clinic.patients",
        "SELECT title FROM clinic.wards WHERE EXISTS (SELECT 1 FROM clinic.patients WHERE id = 7 AND weight > 60)",
        "SELECT title FROM clinic.wards WHERE ward IN (SELECT ward FROM clinic.patients WHERE id = 7)",
        "SELECT title, (SELECT count(*) FROM clinic.patients p WHERE p.ward = w.ward) FROM clinic.wards w",
        "SELECT count(*) FROM (SELECT * FROM clinic.patients ORDER BY id LIMIT 11) t",
        "SELECT ward, count(*) FROM clinic.patients GROUP BY ROLLUP (ward)",
        "SELECT count(*) FROM clinic.wards w LEFT SEMI JOIN clinic.patients p ON p.ward = w.ward AND p.id = 7",
        "SELECT weight FROM clinic.patients UNION ALL SELECT 1",
        "SELECT DISTINCT ON (ward) weight FROM clinic.patients",
    ];
    for sql in refused {
        let clinic = grouped();
        if let Ok(answer) = clinic.ask(sql).await {
            panic!("{sql}: {answer}");
        }
    }
    // Allowed, and nothing in it.
    for sql in [
        "SELECT count(*) FROM clinic.patients WHERE id = 7",
        "SELECT avg(weight) FROM clinic.patients WHERE id BETWEEN 5 AND 9",
        "SELECT ward, avg(weight) FROM clinic.patients WHERE ward = 4 GROUP BY ward",
        "SELECT DISTINCT weight FROM clinic.patients",
        "SELECT weight FROM clinic.patients EXCEPT SELECT 1",
        "SELECT id, count(*) FROM clinic.patients GROUP BY id",
        "SELECT p.id FROM clinic.patients p JOIN clinic.wards w ON w.ward = p.ward GROUP BY p.id",
    ] {
        let answer = grouped().ask(sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
        assert_eq!(rows_of(&answer), 0, "{sql}: {answer}");
    }
}

#[tokio::test]
async fn two_answers_do_not_tell_of_those_in_between() {
    let clinic = grouped();
    assert_eq!(clinic.value("SELECT sum(weight) FROM clinic.patients").await, "10879.0");
    for sql in [
        "SELECT sum(weight) FROM clinic.patients WHERE id <> 7",
        "SELECT sum(weight) FILTER (WHERE id <> 7) FROM clinic.patients",
        "SELECT sum(weight + 1) FROM clinic.patients WHERE id NOT IN (7, 8)",
        "SELECT avg(weight * 3) FROM clinic.patients WHERE id < 95",
        "SELECT avg(CASE WHEN id <> 7 THEN weight END) FROM clinic.patients",
    ] {
        match clinic.ask(sql).await {
            // A figure that is left out is NULL where it is the only row.
            Ok(answer) => assert!(values_of(&Ok(answer.clone())).concat().is_empty(), "{sql}: {answer}"),
            Err(error) => assert!(error.contains("single rows"), "{sql}: {error}"),
        }
    }
    // What differs by many is fine, and so is the same again.
    assert_ne!(clinic.value("SELECT sum(weight) FROM clinic.patients WHERE ward = 1").await, "");
    assert_eq!(clinic.value("SELECT sum(weight) FROM clinic.patients").await, "10879.0");
}

/// The values of an answer, none where there is none.
fn values_of(answer: &Result<String, String>) -> Vec<String> {
    let rows = answer.iter().flat_map(|answer| answer.lines().filter(|line| line.starts_with('|')).skip(1));
    let values = rows.flat_map(|row| {
        row.trim_matches('|').split('|').map(str::trim).map(str::to_owned).collect::<Vec<_>>()
    });
    values.filter(|value| !value.is_empty()).collect()
}

#[tokio::test]
async fn answers_to_one_principal_do_not_make_a_difference_of_a_few() {
    // The last of them is kept back, whole or in the figures named.
    let attacks: [(&[&str], usize); 13] = [
        // A row of somebody who has others.
        (&["SELECT sum(cost) FROM v", "SELECT sum(cost) FROM v WHERE diagnosis <> 'plague'"], 0),
        (&["SELECT sum(cost), sum(cost) FILTER (WHERE diagnosis <> 'plague') FROM v"], 1),
        // Figures of other kinds.
        (&["SELECT sum(cost) FROM v", "SELECT sum(cost + month) FROM v WHERE patient_id <> 7"], 0),
        (&["SELECT count(*) FROM v", "SELECT sum(month) FROM v WHERE patient_id <> 7"], 0),
        (&["SELECT count(*) FROM v", "SELECT sum(CASE WHEN patient_id <> 7 THEN 1 ELSE 0 END) FROM v"], 0),
        (&["SELECT count(*) FROM v", "SELECT avg(CASE WHEN patient_id <> 7 THEN 1 ELSE 0 END) FROM v"], 0),
        (&["SELECT count(*) FROM v", "SELECT DISTINCT 1 FROM v WHERE diagnosis <> 'plague'"], 0),
        // Three sets, in one answer and in three.
        (
            &["SELECT sum(cost), sum(cost) FILTER (WHERE patient_id % 2 = 0), \
               sum(cost) FILTER (WHERE patient_id % 2 = 1 AND patient_id <> 7) FROM v"],
            2,
        ),
        (
            &[
                "SELECT sum(cost) FROM v WHERE patient_id % 2 = 0",
                "SELECT count(*) FROM v WHERE patient_id % 2 = 1 AND patient_id <> 7",
                "SELECT avg(cost) FROM v",
            ],
            0,
        ),
        // What the groups of an answer are together.
        (
            &["SELECT count(*) FROM v", "SELECT month, count(*) FROM v WHERE patient_id <> 7 GROUP BY month"],
            0,
        ),
        (
            &[
                "SELECT month, count(*) FROM v GROUP BY month",
                "SELECT month, diagnosis, count(*) FROM v WHERE diagnosis <> 'plague' AND patient_id <> 7 GROUP BY 1, 2",
            ],
            0,
        ),
        // Twelve groups of one patient are one patient.
        (&["SELECT sum(cost) FROM v", "SELECT patient_id = 7, month, sum(cost) FROM v GROUP BY 1, 2"], 0),
        (
            &["SELECT month, count(*) FILTER (WHERE diagnosis = 'plague') FROM v WHERE month = 1 GROUP BY 1"],
            1,
        ),
    ];
    for (statements, left) in attacks {
        let clinic = grouped();
        let of_clinic = |sql: &str| sql.replace("FROM v", "FROM clinic.visits");
        let (last, before) = statements.split_last().expect("a statement");
        for sql in before {
            assert_ne!(values_of(&clinic.ask(&of_clinic(sql)).await), Vec::<String>::new(), "{sql}");
        }
        let answer = clinic.ask(&of_clinic(last)).await;
        assert!(answer.is_ok(), "{last}: {answer:?}");
        assert_eq!(values_of(&answer).len(), left, "{last}: {answer:?}");
    }
}

/// What changes is what the rules give, as for another purpose; the text stays.
#[tokio::test]
async fn the_same_text_under_other_rules_is_another_statement() {
    let sql = "SELECT count(*) FROM clinic.patients";
    let of = |filter: &str| Given { row_filters: vec![filter.to_owned()], ..grouped().given };
    let masked =
        Given { shown: vec![("ssn", Shown::Masked(Mask::Null))], min_group: Some(10), ..Given::default() };
    let by_number =
        format!("SELECT count(*) FROM clinic.patients WHERE ssn IS NULL OR ssn <> '{SECRET_SSN}'");
    let unmasked = Given { shown: Vec::new(), ..masked.clone() };
    for (sql, first, second, expected) in [
        (sql, of("id < 97"), of("id < 96"), 0),
        (sql, of("id < 97"), of("id < 97"), 1),
        (sql, of("id < 97"), of("id < 80"), 1),
        (&by_number, masked, unmasked, 0),
    ] {
        let clinic = Clinical::new(first);
        assert_eq!(values_of(&clinic.ask(sql).await).len(), 1);
        let clinic = Clinical { given: second, ..clinic };
        let answer = clinic.ask(sql).await;
        assert_eq!(values_of(&answer).len(), expected, "{sql}: {answer:?}");
    }
}

/// Whatever else an error may tell, it does not tell it without end.
#[tokio::test]
async fn failures_over_rows_that_are_held_have_an_end() {
    let clinic = grouped();
    let sql = "SELECT count(*) FROM clinic.patients";
    let released =
        Released { all: Arc::clone(&clinic.engine.releases), principal: "ada".to_owned(), now_ms: 1 };
    for _ in 0..FAILURES_MAX {
        assert!(clinic.ask(sql).await.is_ok());
        released.fail();
    }
    let error = clinic.ask(sql).await.expect_err("too many failed");
    assert!(error.contains("failed within a day"), "{error}");
    assert!(clinic.ask("SELECT count(*) FROM clinic.wards").await.is_ok());
    let other = Clinical { principal: "bob".to_owned(), ..clinic };
    assert!(other.ask(sql).await.is_ok());
}

#[tokio::test]
async fn rows_do_not_tell_of_themselves_in_one_answer() {
    // Whether the row is patient 7's, who has it, or 8's, who has not: the answer is the same.
    let oracles = [
        "SELECT count(DISTINCT CASE WHEN patient_id = @ AND diagnosis = 'plague' THEN 'a' ELSE 'b' END) FROM v",
        "SELECT approx_distinct(CASE WHEN diagnosis = 'plague' AND month = @ THEN 'a' ELSE 'b' END) FROM v",
        "SELECT DISTINCT 1 FROM v WHERE patient_id IN (1, 2, 3, 4, 5, 6, 9, 10, 11) OR (patient_id = @ AND diagnosis = 'plague')",
        "SELECT count(*) FROM v WHERE patient_id IN (1, 2, 3, 4, 5, 6, 9, 10, 11) OR (patient_id = @ AND cost > 9999)",
        "SELECT CASE WHEN patient_id = @ THEN -id ELSE patient_id % 2 END, sum(cost) FROM v GROUP BY 1",
        "SELECT count(*) FROM v JOIN generate_series(1, 1000) w(n) ON w.n <= CASE WHEN v.patient_id = @ AND v.diagnosis = 'plague' THEN v.cost ELSE 1 END",
        "SELECT median(cost) FROM v JOIN generate_series(1, 5000) w(n) ON w.n = 1 OR v.patient_id = @",
        "SELECT sum(v.cost) FROM v JOIN (VALUES (@, 1), (@, 2), (1, 3), (2, 4)) w(p, n) ON v.patient_id = w.p",
        "SELECT count(*) FROM v JOIN (VALUES (1, 'flu'), (@, 'plague')) w(p, d) ON v.patient_id = w.p AND v.diagnosis = w.d",
        "SELECT count(*) FROM (SELECT cost FROM v UNION ALL SELECT cost FROM v WHERE patient_id = @) t",
        "SELECT sum(floor(cost / 99999.25)) FROM v WHERE month <> @",
        "SELECT sum(round(cost, -5)) FROM v WHERE month <> @",
        "SELECT sum(CAST(cost / 99999.25 AS int)) FROM v WHERE month <> @",
        "SELECT sum((cost + 1e17) - 1e17) FROM v WHERE month <> @",
        "SELECT count(*) FROM v WHERE substr(diagnosis, 1, CASE WHEN patient_id = @ THEN -1 ELSE 1 END) IS NOT NULL",
        "SELECT count(*) FROM v WHERE split_part(diagnosis, 'a', CASE WHEN id = 1193 + @ THEN 0 ELSE 1 END) IS NOT NULL",
        "SELECT count(*) FROM v WHERE to_char(TIMESTAMP '2000-01-01', CASE WHEN id = 1193 + @ THEN '%Q%!' ELSE 'YYYY' END) IS NOT NULL",
        "SELECT count(*) FROM v WHERE patient_id = @ AND diagnosis = 'plague' AND substr(diagnosis, 1, -1) = ''",
        "SELECT count(*) FROM v WHERE (CASE WHEN id = 1193 + @ THEN 'x' ELSE '1' END) + 1 > 0 OR true",
        "SELECT count(*) FROM v WHERE abs(CASE WHEN id = 1193 + @ THEN -9223372036854775807 - 1 ELSE 1 END) IS NOT NULL",
        "SELECT count(*) FROM v WHERE date_trunc('year', CASE WHEN id = 1193 + @ THEN TIMESTAMP '1677-09-22' ELSE TIMESTAMP '2000-01-01' END) IS NOT NULL OR true",
        "SELECT count(*) FROM v WHERE patient_id = @ AND diagnosis = 'plague' AND date_part('dow', CASE WHEN month > 0 THEN INTERVAL '1 day' END) > 0",
        "SELECT count(*) FROM v WHERE EXISTS (SELECT 1 FROM clinic.wards w WHERE 1 / (v.id - 1193 - @ - w.ward + w.ward) > -5) OR true",
        "SELECT sum(cost) FROM v WHERE diagnosis = 'unknown' AND month <> @",
        "SELECT count(*) FROM v WHERE (CASE WHEN id = 1193 + @ THEN -9223372036854775807 - 1 ELSE 1 END) / (month - month - 1) IS NOT NULL OR id > -1",
        "SELECT count(*) FROM v WHERE (CASE WHEN id = 1193 + @ THEN -9223372036854775807 - 1 ELSE 1 END) % (month - month - 1) IS NOT NULL OR id > -1",
        "SELECT count(*) FROM v WHERE ceil(CASE WHEN id = 1193 + @ THEN CAST('9999999999999999999999999999999999999.9' AS decimal(38,1)) ELSE CAST(1 AS decimal(38,1)) END) IS NOT NULL OR id > -1",
        "SELECT count(*) FROM v WHERE floor(CASE WHEN id = 1193 + @ THEN CAST('-9999999999999999999999999999999999999.9' AS decimal(38,1)) ELSE CAST(1 AS decimal(38,1)) END) IS NOT NULL OR id > -1",
        "SELECT count(*) FROM v WHERE (CASE WHEN id = 1193 + @ THEN CAST('99999999999999999999999999999999999999' AS decimal(38,0)) ELSE CAST(1 AS decimal(38,0)) END) * CAST(7 AS decimal(38,0)) > 1 OR id > -1",
        "SELECT count(*) FROM v WHERE (CASE WHEN id = 1193 + @ THEN DATE '262142-01-01' ELSE DATE '2000-01-01' END) + INTERVAL '900000 months' IS NOT NULL OR id > -1",
        "SELECT count(*) FROM v WHERE diagnosis = 'plague' AND id = 1193 + @ AND diagnosis ~ '('",
        "SELECT count(*) FROM v WHERE diagnosis = 'plague' AND id = 1193 + @ AND diagnosis ~ '((a{1,99}){1,99}){1,99}'",
        "SELECT 1 FROM v WHERE diagnosis = 'plague' AND id = 1193 + @ GROUP BY 1 HAVING approx_distinct(cost) > 0",
        "SELECT count(*) FROM v WHERE diagnosis = 'plague' AND id = 1193 + @ AND (CASE WHEN month > 0 THEN INTERVAL '1 day' END) BETWEEN 0 AND 1",
    ];
    for oracle in oracles {
        let mut answers = Vec::new();
        for patient in ["7", "8"] {
            let sql = oracle.replace("FROM v", "FROM clinic.visits v").replace('@', patient);
            let answer = grouped().ask(&sql).await;
            answers.push(match answer {
                Ok(answer) => values_of(&Ok(answer)),
                Err(error) => vec![error.replace(['7', '8'], "@")],
            });
        }
        assert_eq!(answers[0], answers[1], "{oracle}");
        assert!(
            !answers[0].iter().any(|value| value == "1.0" || value == "100000.0"),
            "{oracle}: {answers:?}"
        );
    }
}

#[tokio::test]
async fn rows_of_nobody_are_in_no_figure() {
    assert_eq!(grouped().value("SELECT count(*) FROM clinic.visits").await, "1201");
    assert_eq!(
        grouped().value("SELECT max(n) FROM (SELECT count(*) n FROM clinic.visits WHERE month = 1) t").await,
        "101"
    );
}

#[tokio::test]
async fn sets_that_have_no_row_in_common_are_shown_although_people_are_in_both() {
    let clinic = grouped();
    assert_eq!(clinic.value("SELECT count(*) FROM clinic.visits").await, "1201");
    for sql in [
        "SELECT CASE WHEN month <= 6 THEN 1 ELSE 2 END half, count(*) FROM clinic.visits GROUP BY 1",
        "SELECT CASE WHEN cost > 500 THEN 'high' ELSE 'low' END k, count(*), sum(cost) FROM clinic.visits GROUP BY 1",
        "SELECT month, count(*), sum(cost), avg(cost), count(DISTINCT patient_id) FROM clinic.visits GROUP BY month",
        "SELECT count(*) FILTER (WHERE month > 6), count(*) FILTER (WHERE month <= 6) FROM clinic.visits",
        "SELECT diagnosis = 'flu', month > 3, stddev(cost) FROM clinic.visits GROUP BY 1, 2",
        "SELECT w.title, count(*) FROM clinic.wards w JOIN clinic.visits v ON v.month = w.ward GROUP BY 1",
        "SELECT w.title, count(v.id) FROM clinic.wards w LEFT JOIN clinic.visits v ON v.month = w.ward GROUP BY 1",
        "SELECT count(*) FROM clinic.visits WHERE month IN (SELECT ward FROM clinic.wards)",
        "SELECT upper(substr(diagnosis, 1, 2)), avg(cost / 100.0) FROM clinic.visits WHERE diagnosis <> 'plague' AND patient_id > 40 GROUP BY 1",
    ] {
        let answer = clinic.ask(sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
        let cells = answer
            .lines()
            .filter(|line| line.starts_with('|'))
            .flat_map(|line| line.trim_matches('|').split('|'));
        assert!(
            rows_of(&answer) >= 1 && cells.clone().all(|cell| !cell.trim().is_empty()),
            "{sql}: {answer}"
        );
    }
}

#[tokio::test]
async fn errors_on_single_rows_do_not_tell_of_them() {
    let clinic = grouped();
    // What could fail gives NULL, and is refused where it cannot.
    for sql in [
        "SELECT avg(CAST(ssn AS int)) FROM clinic.patients",
        "SELECT count(*) FROM clinic.patients WHERE 1 / (id - 7) > 0",
        "SELECT count(*) FROM clinic.patients WHERE CAST(name AS int) = 1",
        "SELECT count(*) FROM clinic.patients WHERE to_timestamp(ssn) > now()",
    ] {
        if let Err(error) = clinic.ask(sql).await {
            assert!(!error.contains("987") && !error.to_lowercase().contains("divi"), "{sql}: {error}");
        }
    }
}

#[tokio::test]
async fn handles_are_of_their_maker_and_purpose() {
    let clinic = Clinical::new(masked());
    let caller = Caller { principal: "ada".to_owned(), ..Caller::default() };
    let planned = clinic
        .engine
        .plan(caller.clone(), Arc::new(masked()), "SELECT ward, ssn FROM clinic.patients", 1)
        .await
        .expect("a plan");
    let rows = planned.run(AnswerLimits { rows: 1000, bytes: 1 << 20 }).await.expect("rows");
    let handle = clinic.engine.handles.keep(&caller, rows, &planned.lineages, planned.used.clone());
    let other_delegation = Caller { on_behalf_of: Some("carol".to_owned()), ..caller.clone() };
    assert!(clinic.engine.handles.find(&other_delegation, &handle.name).is_none());
    assert!(clinic.engine.handles.find(&caller, &handle.name).is_some());
    let sql = format!("SELECT count(*) FROM handles.{}", handle.name);
    assert_eq!(clinic.value(&sql).await, "100");
    let again = clinic.engine.plan(caller, Arc::new(masked()), &sql, 1).await.expect("a plan");
    let tables: Vec<String> = again.used.iter().map(|used| used.table.to_string()).collect();
    assert_eq!(tables, ["clinic.patients"], "what a result came from is what it is governed and audited by");
    let stricter = Given { row_filters: vec!["ward = 1".to_owned()], ..masked() };
    let clinic = Clinical { given: stricter, ..clinic };
    let error =
        clinic.ask(&sql).await.expect_err("less is given than when it was made, by rules with the same hash");
    assert!(error.contains("do not give you now"), "{error}");
    let other = Clinical { principal: "bob".to_owned(), given: masked(), ..clinic };
    assert!(other.ask(&sql).await.expect_err("it is not his").contains("does not exist"));
}

/// A name of the caller's choice, written to a topic and read back, does not have the pseudonym of whom it names.
#[tokio::test]
async fn pseudonyms_are_other_ones_where_answers_were_written_to() {
    let key = || MaskKey { name: "k".to_owned(), secret: Arc::from([7; 32]) };
    for mask in [Mask::Hash(key()), Mask::Tokenise(key())] {
        let clinic = Clinical::new(Given { shown: vec![("name", Shown::Masked(mask))], ..Given::default() });
        let sql = "SELECT name FROM clinic.patients WHERE id = 7";
        let before = clinic.value(sql).await;
        assert_eq!(clinic.value(sql).await, before);
        let columns = crate::labelled::ColumnLabels::from([("name".to_owned(), Default::default())]);
        clinic.engine.labelled.add("patients", &columns).expect("labels");
        let after = clinic.value(sql).await;
        assert!(after != before && after.len() == before.len(), "{before} {after}");
        assert_eq!(
            clinic.value(&format!("SELECT count(*) FROM clinic.patients WHERE name = '{before}'")).await,
            "0"
        );
    }
}

#[tokio::test]
async fn only_one_query_is_taken() {
    let clinic = Clinical::new(Given::default());
    for sql in [
        "",
        ";",
        "SELECT 1; SELECT 2",
        "DROP TABLE clinic.patients",
        "INSERT INTO clinic.patients VALUES (1)",
        "COPY clinic.patients TO 'x'",
        "SET x = 1",
        "SHOW ALL",
        "EXPLAIN SELECT 1",
        "CREATE EXTERNAL TABLE t STORED AS CSV LOCATION '/etc/passwd'",
        "SELECT * FROM '/etc/passwd'",
        "SELECT * FROM read_csv('/etc/passwd')",
        "SELECT __kafscale_entity_guard(id) FROM clinic.patients",
        "SELECT * FROM information_schema.tables",
        "SELECT pg_read_file('/etc/passwd')",
        "BEGIN",
    ] {
        assert!(clinic.ask(sql).await.is_err(), "{sql}");
    }
}

#[tokio::test]
async fn a_statement_that_is_nested_deeply_is_planned_soon() {
    let clinic = Clinical::new(masked());
    for (open, close) in [
        ("SELECT DISTINCT * FROM (", ") t"),
        ("SELECT max(ward) AS ward FROM (", ") t"),
        ("SELECT ward FROM (SELECT row_number() OVER (ORDER BY ward) AS n, ward FROM (", ") t) u"),
        ("SELECT * FROM (", " UNION ALL SELECT 1 AS ward) t"),
        ("SELECT * FROM (", " ORDER BY ward) t"),
    ] {
        let sql = format!("{}SELECT ward FROM clinic.patients{}", open.repeat(30), close.repeat(30));
        let caller = Caller { principal: "ada".to_owned(), ..Caller::default() };
        let planning = clinic.engine.plan(caller, Arc::new(masked()), &sql, 1);
        let planned = tokio::time::timeout(Duration::from_secs(20), planning).await;
        planned
            .unwrap_or_else(|_| panic!("{open}: it takes too long"))
            .unwrap_or_else(|error| panic!("{open}: {error}"));
    }
}

#[tokio::test]
async fn what_is_explained_has_nothing_of_the_rules() {
    let hidden = vec![("ssn", Shown::Hidden), ("id", Shown::Hidden), ("weight", Shown::Hidden)];
    let filtered = Given {
        shown: hidden.clone(),
        row_filters: vec!["weight < 4711 AND ssn <> 'x4712'".to_owned()],
        ..Given::default()
    };
    let grouped = Given {
        shown: hidden,
        min_group: Some(10),
        row_filters: filtered.row_filters.clone(),
        ..Given::default()
    };
    for (given, sql) in [
        (&filtered, "SELECT name FROM clinic.patients WHERE ward = 2 ORDER BY name"),
        (&filtered, "SELECT * FROM clinic.patients p JOIN clinic.wards w ON p.ward = w.ward"),
        (&grouped, "SELECT ward, count(*) FROM clinic.patients GROUP BY ward"),
        (&grouped, "SELECT name FROM clinic.patients"),
    ] {
        let clinic = Clinical::new(given.clone());
        let told = match clinic.explain(sql).await {
            Ok(plan) | Err(plan) => plan,
        };
        for secret in ["471", "ssn", "weight", "different id", ".id"] {
            assert!(!told.contains(secret), "{sql}: {secret} in {told}");
        }
        assert!(told.contains("clinic.patients"), "{sql}: {told}");
    }
    let pushed = Clinical::new(filtered).explain("SELECT name FROM clinic.patients WHERE ward = 2").await;
    assert!(pushed.as_ref().is_ok_and(|plan| plan.contains("ward = Int64(2)")), "{pushed:?}");
}

#[tokio::test]
async fn a_row_filter_that_does_not_fit_is_not_told() {
    for filter in ["nothing_known(ssn) = 4711", "ssn", "no_such_column = 4711"] {
        let given = Given {
            shown: vec![("ssn", Shown::Hidden)],
            row_filters: vec![filter.to_owned()],
            ..Given::default()
        };
        let error =
            Clinical::new(given).ask("SELECT ward FROM clinic.patients").await.expect_err("no filter");
        assert!(
            error.contains("a row filter of the rules cannot be evaluated on clinic.patients"),
            "{error}"
        );
        assert!(!error.contains("4711") && !error.contains("ssn") && !error.contains("column"), "{error}");
    }
}

/// A source may give its rows in the order of an index.
#[tokio::test]
async fn rows_do_not_come_in_the_order_of_what_is_not_shown() {
    let ids = async |given: Given, sql: &str| values_of(&Clinical::new(given).ask(sql).await);
    let all = "SELECT id FROM clinic.patients";
    let ordered: Vec<String> = (0..100).map(|id: i64| id.to_string()).collect();
    assert_eq!(ids(Given::default(), all).await, ordered);
    let hidden = || Given { shown: vec![("ssn", Shown::Hidden)], ..Given::default() };
    for given in [hidden(), masked()] {
        let mut mixed = ids(given.clone(), all).await;
        assert_ne!(mixed, ordered);
        assert_eq!(ids(given.clone(), all).await, mixed, "the same each time");
        assert_ne!(ids(given.clone(), "SELECT id FROM clinic.patients LIMIT 3").await, ordered[..3]);
        mixed.sort_by_key(|id| id.parse::<i64>().unwrap_or_default());
        assert_eq!(mixed, ordered);
        assert_eq!(ids(given, "SELECT count(*) FROM clinic.patients").await, ["100"]);
    }
}

/// That it fails would tell of rows of others.
#[tokio::test]
async fn rows_on_which_a_row_filter_fails_are_not_shown() {
    let filter = "CAST(CASE WHEN id = 7 THEN name ELSE '3' END AS int) = 3";
    let clinic = Clinical::new(Given { row_filters: vec![filter.to_owned()], ..Given::default() });
    assert_eq!(clinic.value("SELECT count(*) FROM clinic.patients").await, "99");
    for name in [SECRET_NAME, "Nobody"] {
        let sql = format!("SELECT count(*) FROM clinic.patients WHERE name = '{name}'");
        assert_eq!(clinic.value(&sql).await, "0");
    }
}

/// Errors of a statement that runs may have values in their texts, whatever they are about.
#[tokio::test]
async fn what_goes_wrong_while_a_statement_runs_is_told_in_few_words() {
    let clinic = Clinical::new(Given::default());
    for value in [
        "current_setting(name)",
        "kafscale_regclass(NULL::bigint, name)",
        "CAST(name AS int)",
        "repeat(name, 1000000000)",
    ] {
        let sql = format!("SELECT {value} FROM clinic.patients WHERE id = 7");
        if let Err(error) = clinic.ask(&sql).await {
            assert!(!error.to_lowercase().contains("zebedee"), "{sql}: {error}");
            let is_planned = error.contains("Invalid function") || error.contains("does not exist");
            assert!(is_planned || error.contains("on which value is not told"), "{sql}: {error}");
        }
    }
}

#[tokio::test]
async fn plans_that_would_take_too_long_are_refused() {
    let clinic = Clinical::new(masked());
    let joins = |count: usize| {
        let tables: Vec<String> = (0..count).map(|n| format!("clinic.patients p{n}")).collect();
        format!("SELECT count(*) FROM {} WHERE p0.id < 0", tables.join(", "))
    };
    let with = |levels: usize| {
        let mut sql = "WITH q0 AS (SELECT 1 AS a)".to_owned();
        for level in 1..levels {
            let before = level - 1;
            sql.push_str(&format!(", q{level} AS (SELECT a.a FROM q{before} a, q{before} b)"));
        }
        format!("{sql} SELECT count(*) FROM q{}", levels - 1)
    };
    let union = vec!["SELECT id FROM clinic.patients"; 90].join(" UNION ALL ");
    let list = |count: usize| (0..count).map(|n| n.to_string()).collect::<Vec<_>>().join(",");
    let refused = [joins(80), with(12), union, format!("SELECT {} FROM clinic.wards", "NOT ".repeat(9_000))];
    for sql in refused {
        let asked = tokio::time::timeout(Duration::from_secs(5), clinic.ask(&sql)).await;
        let error =
            asked.unwrap_or_else(|_| panic!("{sql:.80}: it takes too long")).expect_err("it is refused");
        assert!(!error.contains("panicked"), "{sql:.80}: {error:.300}");
    }
    for sql in [
        joins(8),
        with(5),
        format!("SELECT count(*) FROM clinic.patients WHERE id IN ({})", list(8_000)),
        vec!["SELECT id FROM clinic.patients"; 20].join(" UNION ALL "),
    ] {
        if let Err(error) = clinic.ask(&sql).await {
            panic!("{sql:.80}: {error:.300}");
        }
    }
}

#[tokio::test]
async fn the_time_of_a_statement_includes_its_planning() {
    let clinic = Clinical::with(masked(), &["--max-queries", "2", "--query-timeout", "1ms"]);
    let place = clinic.engine.planning.take(&"ada".into()).await;
    let error = clinic.ask("SELECT count(*) FROM clinic.patients").await.expect_err("no place is free");
    assert!(error.contains("took longer than"), "{error}");
    drop(place);
}

#[test]
fn keys_are_never_printed() {
    let key = MaskKey { name: "k".to_owned(), secret: Arc::from(b"hunter2".as_slice()) };
    assert!(!format!("{:?}", Mask::Hash(key)).contains("hunter2"));
}

#[test]
fn what_a_panic_says_is_not_told() {
    let error = QueryError::from(SqlError::Panicked("on the value ada".to_owned()));
    assert!(matches!(error, QueryError::Panicked) && !error.to_string().contains("ada"), "{error}");
}
