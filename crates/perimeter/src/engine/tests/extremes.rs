//! Steps over values at the ends of their types: over rows that are held none fails, whatever is in the row.

use arrow::array::{
    BooleanArray, Date32Array, Decimal128Array, Int8Array, IntervalMonthDayNanoArray, StringArray,
    TimestampMicrosecondArray, TimestampNanosecondArray, UInt64Array,
};
use arrow::datatypes::IntervalMonthDayNano;

use super::*;

const ROWS: i64 = 24;

/// Values at the ends of each type, in turn; the entity is `patient_id`.
pub fn extremes() -> RecordBatch {
    let ids: Vec<i64> = (0..ROWS).collect();
    fn of<T: Copy>(ids: &[i64], values: &[T]) -> Vec<Option<T>> {
        let at = |id: &i64| values.get(usize::try_from(*id).expect("small") % (values.len() + 1)).copied();
        ids.iter().map(at).collect()
    }
    let decimal = |values: &[i128], scale: i8| {
        let array: Decimal128Array = of(&ids, values).into_iter().collect();
        Arc::new(array.with_precision_and_scale(38, scale).expect("a decimal"))
    };
    const NINES: i128 = 10_i128.pow(38) - 1;
    let spans = [(i32::MAX, i32::MAX, i64::MAX), (i32::MIN, i32::MIN, i64::MIN), (1, 0, 0)];
    let spans = spans.map(|(months, days, nanoseconds)| IntervalMonthDayNano { months, days, nanoseconds });
    let texts = ["", "1", "-9223372036854775808", "1e400", "2026-11-30", "\u{130}\u{149}", "NaN", "a"];
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("patient_id", Arc::new(Int64Array::from(ids.clone()))),
        ("n", Arc::new(Int64Array::from(ids.clone()))),
        ("tiny", Arc::new(of(&ids, &[i8::MIN, i8::MAX, -1, 0]).into_iter().collect::<Int8Array>())),
        ("whole", Arc::new(of(&ids, &[i64::MIN, i64::MAX, -1, 0, 1]).into_iter().collect::<Int64Array>())),
        ("unsigned", Arc::new(of(&ids, &[u64::MAX, 0, 1]).into_iter().collect::<UInt64Array>())),
        (
            "float",
            Arc::new(
                of(&ids, &[f64::MAX, f64::MIN, f64::NAN, f64::INFINITY, 0.0])
                    .into_iter()
                    .collect::<Float64Array>(),
            ),
        ),
        ("large", decimal(&[NINES, -NINES, 0, 1], 0)),
        ("fine", decimal(&[NINES, -NINES, 0, 1], 1)),
        ("finest", decimal(&[NINES, -NINES, 0, 1], 37)),
        ("text", Arc::new(of(&ids, &texts).into_iter().collect::<StringArray>())),
        ("day", Arc::new(of(&ids, &[i32::MIN, i32::MAX, 0, 20_000]).into_iter().collect::<Date32Array>())),
        (
            "at",
            Arc::new(of(&ids, &[i64::MIN, i64::MAX, 0]).into_iter().collect::<TimestampNanosecondArray>()),
        ),
        (
            "time",
            Arc::new(of(&ids, &[i64::MIN, i64::MAX, 0]).into_iter().collect::<TimestampMicrosecondArray>()),
        ),
        ("span", Arc::new(of(&ids, &spans).into_iter().collect::<IntervalMonthDayNanoArray>())),
        ("yes", Arc::new(of(&ids, &[true, false]).into_iter().collect::<BooleanArray>())),
    ];
    RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(name, array)| (name, array, true)))
        .expect("columns of one length")
}

const COLUMNS: [&str; 13] = [
    "tiny", "whole", "unsigned", "float", "large", "fine", "finest", "text", "day", "at", "time", "span",
    "yes",
];

fn steps() -> Vec<String> {
    let mut steps = Vec::new();
    let calls = [
        "ceil(@)",
        "floor(@)",
        "abs(@)",
        "round(@)",
        "round(@, -15)",
        "trunc(@, 15)",
        "signum(@)",
        "sin(@)",
        "-(@)",
        "date_trunc('year', @)",
        "date_part('week', @)",
        "upper(@)",
        "initcap(@)",
        "reverse(@)",
        "ascii(@)",
        "bit_length(@)",
        "length(@)",
        "substr(@, -5, 3)",
        "left(@, -1000000)",
        "split_part(@, '1', 2)",
        "replace(@, '1', '22222222')",
        "concat(@, @)",
        "concat_ws(@, @, @)",
        "@ || @",
        "greatest(@, 1)",
        "nullif(@, 0)",
        "coalesce(@, 1)",
        "@ IN (1, 2)",
        "@ BETWEEN 0 AND 1",
        "@ / -1",
        "@ % -1",
        "@ * 3",
        "@ + 1",
    ];
    let types = [
        "smallint",
        "bigint",
        "real",
        "double",
        "decimal(38,10)",
        "decimal(3,2)",
        "text",
        "date",
        "timestamp",
        "time",
        "boolean",
        "interval",
    ];
    for column in COLUMNS {
        steps.extend(calls.iter().map(|call| call.replace('@', column)));
        steps.extend(types.iter().map(|to| format!("CAST({column} AS {to})")));
        for other in COLUMNS {
            steps.extend(
                ["+", "-", "*", "/", "%", "="].iter().map(|operator| format!("{column} {operator} {other}")),
            );
        }
    }
    steps
}

/// Not even one that a type of the engine does not know: that would be told where there is a row only.
#[tokio::test]
async fn no_step_over_held_rows_fails_on_a_row() {
    let clinic = Clinical::new(Given { min_group: Some(5), ..Given::default() });
    let (mut answered, mut wrong) = (0, Vec::new());
    for step in steps() {
        let sql = format!("SELECT count({step}) FROM clinic.extremes WHERE ({step}) IS NULL OR n > -1");
        let caller = Caller { principal: step.clone(), ..Caller::default() };
        let planned = match clinic.engine.plan(caller, Arc::new(clinic.given.clone()), &sql, 1).await {
            Ok(planned) => planned,
            Err(_) => continue,
        };
        match planned.run(AnswerLimits { rows: 10, bytes: 1 << 20 }).await {
            Ok(_) => answered += 1,
            Err(
                error @ (QueryError::Withheld(_)
                | QueryError::Panicked
                | QueryError::TimedOut(_)
                | QueryError::Sql(SqlError::NoMemory { .. })),
            ) => wrong.push(format!("{step}: {error:?}")),
            // The rest is told when the steps of the execution are made, before there are rows: types that do not fit.
            Err(_) => {}
        }
    }
    assert!(wrong.is_empty(), "{} of {answered}: {}", wrong.len(), wrong.join("\n"));
    assert!(answered > 500, "{answered}");
}

#[tokio::test]
async fn what_fails_on_one_row_is_null_there_alone() {
    let clinic = Clinical::new(Given { min_group: Some(2), ..Given::default() });
    let count =
        async |step: &str| clinic.value(&format!("SELECT count(*) FROM clinic.extremes WHERE {step}")).await;
    // Of 24 rows four have the least whole number, and four none at all.
    assert_eq!(count("whole / (n - n - 1) IS NOT NULL").await, "16");
    assert_eq!(count("floor(fine) IS NULL").await, count("fine IS NULL OR fine < -1").await);
    assert_eq!(count("length(text || text) > -1").await, count("text IS NOT NULL").await);
}

#[tokio::test]
async fn texts_that_are_put_together_have_an_end() {
    let clinic = Clinical::new(Given { min_group: Some(2), ..Given::default() });
    let mut from =
        "SELECT CASE WHEN n < 9 THEN 'aaaaaaaaaaaaaaaa' ELSE 'b' END AS x FROM clinic.extremes".to_owned();
    for level in 0..12 {
        from = format!("SELECT x || x AS x FROM ({from}) t{level}");
    }
    assert_eq!(clinic.value(&format!("SELECT count(*) FROM ({from}) t WHERE x IS NULL")).await, "9");
}
