//! Values of Avro: what is read of them, and that nothing else happens with bytes that are none.

use proptest::prelude::*;

use super::*;
use crate::topic::avro::Schema;

/// An encoder of the few forms that tests need.
fn long(number: i64) -> Vec<u8> {
    let mut zigzag = ((number << 1) ^ (number >> 63)).cast_unsigned();
    let mut bytes = Vec::new();
    while zigzag >= 0x80 {
        bytes.push((zigzag & 0x7f) as u8 | 0x80);
        zigzag >>= 7;
    }
    bytes.push(zigzag as u8);
    bytes
}

fn text(text: &str) -> Vec<u8> {
    [long(text.len() as i64), text.as_bytes().to_vec()].concat()
}

fn plan(writer: &str, reader: &str) -> (Plan, usize) {
    let reader = Schema::parse(reader, &[]).unwrap();
    let plan = Plan::new(&Schema::parse(writer, &[]).unwrap(), &reader).unwrap();
    (plan, reader.columns().len())
}

fn read<'a>(writer: &str, reader: &str, value: &'a [u8]) -> Result<Vec<Cell<'a>>, Bad> {
    let (plan, columns) = plan(writer, reader);
    let mut cells = vec![Cell::Null; columns];
    let slots: Vec<Option<usize>> = (0..columns).map(Some).collect();
    let outcome = plan.read(value, &slots, &mut cells);
    // Whoever wants nothing comes to the same end.
    assert_eq!(plan.read(value, &vec![None; columns], &mut []).is_ok(), outcome.is_ok());
    outcome.map(|()| cells)
}

fn record(fields: &str) -> String {
    format!(r#"{{"type":"record","name":"R","fields":[{fields}]}}"#)
}

fn json(text: &str) -> Cell<'_> {
    Cell::Json(text.into())
}

#[test]
fn a_field_of_each_kind_is_read() {
    let schema = record(
        r#"{"name":"b","type":"boolean"},{"name":"i","type":"int"},{"name":"s","type":["null","string"]},
           {"name":"f","type":"float"},{"name":"d","type":"double"},{"name":"y","type":"bytes"},
           {"name":"e","type":{"type":"enum","name":"E","symbols":["A","B"]}},
           {"name":"x","type":{"type":"fixed","name":"X","size":2}},
           {"name":"a","type":{"type":"array","items":["null","long"]}},
           {"name":"m","type":{"type":"map","values":{"type":"record","name":"N","fields":[{"name":"t","type":"string"}]}}}"#,
    );
    let value = [
        vec![1],
        long(-7),
        [long(1), text("é")].concat(),
        1.5_f32.to_le_bytes().to_vec(),
        (-0.5_f64).to_le_bytes().to_vec(),
        [long(1), vec![0xff]].concat(),
        long(1),
        vec![1, 2],
        [long(2), long(1), long(i64::MIN), long(0), long(-1), long(2), long(1), long(5), long(0)].concat(),
        [long(1), text("k\""), text("v"), long(0)].concat(),
    ]
    .concat();
    let cells = read(&schema, &schema, &value).unwrap();
    let expected = [
        Cell::Boolean(true),
        Cell::Int(-7),
        Cell::Text("é".into()),
        Cell::Float4(1.5),
        Cell::Float8(-0.5),
        Cell::Bytes(Cow::Borrowed(&[0xff])),
        Cell::Text("B".into()),
        Cell::Bytes(Cow::Borrowed(&[1, 2])),
        json("[-9223372036854775808, null, 5]"),
        json(r#"{"k\"": {"t": "v"}}"#),
    ];
    assert_eq!(cells, expected);
    for end in 0..value.len() {
        assert!(read(&schema, &schema, &value[..end]).is_err(), "cut at {end}");
    }
    assert_eq!(read(&schema, &schema, &[value, vec![0]].concat()), Err(Bad::Length));
}

#[test]
fn logical_types_mean_what_they_say() {
    let one = |base: &str, logical: &str, more: &str| {
        record(&format!(r#"{{"name":"f","type":{{"type":{base},"logicalType":"{logical}"{more}}}}}"#))
    };
    let fixed = |size: usize| format!(r#""fixed","name":"F","size":{size}"#);
    let uuid: Vec<u8> = (0..16).collect();
    let long_number = [vec![0x7f], vec![0xff; 19]].concat();
    for (schema, value, cell) in [
        (one("\"int\"", "date", ""), long(-1), Cell::Date(-1)),
        (one("\"int\"", "time-millis", ""), long(1), Cell::Time(1_000)),
        (one("\"long\"", "timestamp-millis", ""), long(1), Cell::Timestamp(1_000)),
        (one("\"long\"", "timestamp-millis", ""), long(i64::MAX), Cell::Misfit),
        (one("\"long\"", "timestamp-micros", ""), long(1), Cell::Timestamp(1)),
        (one("\"long\"", "timestamp-nanos", ""), long(-1), Cell::Timestamp(-1)),
        (one("\"long\"", "local-timestamp-micros", ""), long(5), Cell::LocalTimestamp(5)),
        (one("\"string\"", "uuid", ""), text("u"), Cell::Text("u".into())),
        (one(&fixed(16), "uuid", ""), uuid, Cell::Text("00010203-0405-0607-0809-0a0b0c0d0e0f".into())),
        (
            one(&fixed(12), "duration", ""),
            vec![1, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0],
            json(r#"{"months": 1, "days": 2, "millis": 3}"#),
        ),
        (
            one("\"bytes\"", "decimal", r#","precision":5,"scale":2"#),
            [long(1), vec![0xff]].concat(),
            Cell::Numeric(-1, 2),
        ),
        (one("\"bytes\"", "decimal", r#","precision":5"#), long(0), Cell::Misfit),
        (
            one(&fixed(20), "decimal", r#","precision":48,"scale":3"#),
            long_number,
            json("730750818665451459101842416358141509827966271.487"),
        ),
    ] {
        assert_eq!(read(&schema, &schema, &value), Ok(vec![cell]), "{schema}");
    }
    assert_eq!(decimal_text(&[0x80, 0], 0), "-32768");
    assert_eq!(decimal_text(&[0xff; 30], 2), "-0.01");
    assert_eq!(decimal_text(&[0; 3], 0), "0");
}

#[test]
fn the_writers_values_become_the_tables() {
    let writer = record(
        r#"{"name":"gone","type":{"type":"array","items":"string"}},{"name":"n","type":"int"},{"name":"old","type":"string"},
           {"name":"e","type":{"type":"enum","name":"E","symbols":["NEW","A"]}},{"name":"w","type":"string"},
           {"name":"in","type":{"type":"record","name":"I","fields":[{"name":"a","type":"int"},{"name":"z","type":"int"}]}}"#,
    );
    let reader = record(
        r#"{"name":"added","type":["null","int"],"default":null},{"name":"in","type":{"type":"record","name":"I","fields":[
            {"name":"b","type":"string","default":"x"},{"name":"a","type":"double"}]}},
           {"name":"new","type":["null","string"],"aliases":["old"]},{"name":"n","type":"double"},
           {"name":"at","type":{"type":"long","logicalType":"timestamp-millis"},"default":1000},
           {"name":"e","type":{"type":"enum","name":"E","symbols":["A","U"],"default":"U"}},
           {"name":"w","type":"int"},{"name":"must","type":"int"},{"name":"y","type":"bytes","default":"\u00ff"}"#,
    );
    let value =
        [long(1), text("g"), long(0), long(3), text("o"), long(0), text("no number"), long(8), long(9)]
            .concat();
    let cells = read(&writer, &reader, &value).unwrap();
    let expected = [
        json("null"),
        json(r#"{"a": 8, "b": "x"}"#),
        Cell::Text("o".into()),
        Cell::Int(3),
        json("\"1970-01-01T00:00:01Z\""),
        Cell::Text("U".into()),
        Cell::Misfit,
        Cell::Misfit,
        json(r#""\\xff""#),
    ];
    assert_eq!(cells, expected);
}

#[test]
fn a_schema_need_be_no_record() {
    assert_eq!(read("\"string\"", "\"string\"", &text("a")), Ok(vec![Cell::Text("a".into())]));
    assert_eq!(read("\"int\"", r#"["null","long"]"#, &long(5)), Ok(vec![Cell::Int(5)]));
    let either = format!("[{},{}]", record(r#"{"name":"a","type":"int"}"#), "\"string\"");
    let table = record(r#"{"name":"a","type":"int"}"#);
    assert_eq!(read(&either, &table, &[long(0), long(4)].concat()), Ok(vec![Cell::Int(4)]));
    assert_eq!(read(&either, &table, &[long(1), text("x")].concat()), Err(Bad::Form));
}

#[test]
fn bombs_do_not_go_off() {
    let many = long(1 << 60);
    let nulls = r#"{"type":"array","items":"null"}"#;
    assert_eq!(read(nulls, nulls, &many), Err(Bad::TooLarge));
    let longs = r#"{"type":"array","items":"long"}"#;
    assert_eq!(read(longs, longs, &many), Err(Bad::Length));
    assert_eq!(read("\"bytes\"", "\"bytes\"", &many), Err(Bad::Length));
    assert_eq!(read("\"bytes\"", "\"bytes\"", &long(-1)), Err(Bad::Form));
    // A record that holds itself, and nothing else.
    let itself = record(r#"{"name":"a","type":"R"}"#);
    assert_eq!(read(&itself, &itself, &[]), Err(Bad::TooLarge));
    // Each holds the one before twice: 2^60 records of no bytes.
    let mut types = vec![record("").replace("\"R\"", "\"R0\"")];
    for i in 1..60 {
        let before = i - 1;
        types.push(format!(
            r#"{{"type":"record","name":"R{i}","fields":[{{"name":"a","type":"R{before}"}},{{"name":"b","type":"R{before}"}}]}}"#
        ));
    }
    let schema = format!("[{}]", types.join(","));
    assert_eq!(read(&schema, &schema, &long(59)), Err(Bad::TooLarge));
    // Each refers to the one before: nothing recurses on them.
    let mut chain = vec![record("").replace("\"R\"", "\"R0\"")];
    for i in 1..15_000 {
        let before = i - 1;
        chain.push(format!(
            r#"{{"type":"record","name":"R{i}","fields":[{{"name":"a","type":"R{before}"}}]}}"#
        ));
    }
    let last = Schema::parse(&chain.pop().unwrap(), &chain).unwrap();
    let plan = Plan::new(&last, &last).unwrap();
    assert_eq!(plan.read(&[], &[Some(0)], &mut [Cell::Null]), Err(Bad::TooLarge));
    // A default that contains itself.
    let reader = record(
        r#"{"name":"a","type":{"type":"record","name":"S","fields":[{"name":"s","type":"S","default":{}}]},"default":{}}"#,
    );
    assert_eq!(read(&record(""), &reader, &[]), Ok(vec![Cell::Misfit]));
    // A list in a list, as deep as the bytes go.
    let list = record(r#"{"name":"n","type":{"type":"array","items":"R"}}"#);
    assert_eq!(read(&list, &list, &[2; 5_000]), Err(Bad::TooLarge));
}

const NESTED: &str = r#"{"type":"record","name":"R","fields":[
    {"name":"s","type":"string"},{"name":"n","type":["null","long","R"]},{"name":"y","type":{"type":"map","values":"R"}},
    {"name":"a","type":{"type":"array","items":["null",{"type":"bytes","logicalType":"decimal","precision":9}]}},
    {"name":"t","type":{"type":"long","logicalType":"timestamp-millis"}},
    {"name":"e","type":{"type":"enum","name":"E","symbols":["A"]}},{"name":"f","type":"double"}]}"#;

proptest! {
    #[test]
    fn arbitrary_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        if let Ok(cells) = read(NESTED, NESTED, &bytes) {
            for cell in cells {
                let mut json = String::new();
                cell.write_json(&mut json);
                prop_assert!(serde_json::from_str::<serde::de::IgnoredAny>(&json).is_ok(), "{json}");
            }
        }
    }

    #[test]
    fn small_bytes_are_read_or_refused(bytes in proptest::collection::vec(0_u8..6, 0..300)) {
        let _ = read(NESTED, NESTED, &bytes);
    }

    #[test]
    fn numbers_are_read_as_they_are_written(number in any::<i64>()) {
        let value = long(number);
        prop_assert_eq!(read("\"long\"", "\"long\"", &value), Ok(vec![Cell::Int(number)]));
    }

    #[test]
    fn decimals_are_the_same_both_ways(number in any::<i128>(), scale in 0_u32..39) {
        let short = super::decimal(&number.to_be_bytes(), scale).text().into_owned();
        prop_assert_eq!(short, decimal_text(&number.to_be_bytes(), scale));
    }
}
