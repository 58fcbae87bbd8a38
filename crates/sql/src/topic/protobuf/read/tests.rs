//! Messages of Protobuf: what is read of them, and that nothing else happens with bytes that are none.

use std::collections::HashMap;
use std::sync::LazyLock;

use proptest::prelude::*;

use super::*;
use crate::topic::protobuf::File;

const EVERYTHING: &str = r#"
syntax = "proto3"; package t;
import "google/protobuf/timestamp.proto"; import "google/protobuf/duration.proto"; import "google/protobuf/wrappers.proto";
import "google/protobuf/struct.proto";
message M {
  double d = 1; float f = 2; int32 i = 3; int64 l = 4; uint32 ui = 5; uint64 ul = 6; sint32 si = 7; sint64 sl = 8;
  fixed32 f32 = 9; fixed64 f64 = 10; sfixed32 s32 = 11; sfixed64 s64 = 12; bool b = 13; string s = 14; bytes y = 15;
  E e = 16; In in = 17; repeated int32 many = 18; map<string, In> map = 19; optional string maybe = 20;
  oneof either { string left = 21; In right = 22; }
  google.protobuf.Timestamp at = 23; google.protobuf.Duration took = 24; google.protobuf.Int64Value wrapped = 25;
  google.protobuf.Struct any = 26; repeated In ins = 27; repeated string texts = 28; map<int32, E> numbered = 29;
}
message In { string name = 1; int32 n = 2; In deeper = 3; repeated E es = 4; }
enum E { ZERO = 0; ONE = 1; }
"#;

static TABLE: LazyLock<Table> = LazyLock::new(|| table(EVERYTHING));

fn table(text: &str) -> Table {
    let file = File::compile("t.proto", text, HashMap::new()).unwrap();
    Table::new(&file.message(None).unwrap())
}

/// Encoders.
fn varint(mut number: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while number >= 0x80 {
        bytes.push((number & 0x7f) as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
    bytes
}

fn number(field: u64, number: u64) -> Vec<u8> {
    [varint(field << 3), varint(number)].concat()
}

fn bytes(field: u64, bytes: &[u8]) -> Vec<u8> {
    [varint(field << 3 | 2), varint(bytes.len() as u64), bytes.to_vec()].concat()
}

fn read_all(table: &Table, value: &[u8]) -> Result<HashMap<String, String>, Bad> {
    let columns = table.columns();
    let slots: Vec<Option<usize>> = (0..columns.len()).map(Some).collect();
    let mut cells = vec![Cell::Null; columns.len()];
    let outcome = table.read(value, &slots, &mut cells);
    let shown = |((name, _), cell): (&(String, _), &Cell<'_>)| {
        let mut json = String::new();
        match cell {
            Cell::Misfit => json.push('!'),
            cell => cell.write_json(&mut json),
        }
        (name.clone(), json)
    };
    outcome.map(|()| columns.iter().zip(&cells).map(shown).collect())
}

/// The columns that a value gives, checked to be these.
fn check(table: &Table, value: &[u8], expected: &[(&str, &str)]) {
    let found = read_all(table, value).unwrap();
    for (name, json) in expected {
        assert_eq!(found[*name], *json, "{name} of {value:?}");
    }
}

#[test]
fn a_value_of_nothing_has_defaults() {
    let expected = [
        ("d", "0"),
        ("ul", "0"),
        ("s", "\"\""),
        ("b", "false"),
        ("y", r#""\\x""#),
        ("e", "\"ZERO\""),
        ("in", "null"),
        ("many", "[]"),
        ("map", "{}"),
        ("maybe", "null"),
        ("left", "null"),
        ("at", "null"),
        ("wrapped", "null"),
        ("any", "null"),
    ];
    check(&TABLE, &[], &expected);
}

#[test]
fn numbers_of_each_kind_are_read() {
    let fixed64 = |field: u64, bits: u64| [varint(field << 3 | 1), bits.to_le_bytes().to_vec()].concat();
    let fixed32 = |field: u64, bits: u32| [varint(field << 3 | 5), bits.to_le_bytes().to_vec()].concat();
    let value = [
        fixed64(1, 1.5_f64.to_bits()),
        fixed32(2, f32::NAN.to_bits()),
        number(3, u64::MAX),
        number(4, u64::MAX),
        number(5, 1 << 33 | 7),
        number(6, u64::MAX),
        number(7, 1),
        number(8, u64::MAX),
        fixed32(9, u32::MAX),
        fixed64(10, u64::MAX),
        fixed32(11, u32::MAX),
        fixed64(12, u64::MAX),
        number(13, 5),
        number(16, 1),
        number(99, 1),
    ]
    .concat();
    let expected = [
        ("d", "1.5"),
        ("f", "\"NaN\""),
        ("i", "-1"),
        ("l", "-1"),
        ("ui", "7"),
        ("ul", "18446744073709551615"),
        ("si", "-1"),
        ("sl", "-9223372036854775808"),
        ("f32", "4294967295"),
        ("f64", "18446744073709551615"),
        ("s32", "-1"),
        ("s64", "-1"),
        ("b", "true"),
        ("e", "\"ONE\""),
    ];
    let table = &*TABLE;
    check(table, &value, &expected);
    check(table, &number(16, 7), &[("e", "7")]);
    // What is there twice counts as it was last; what is of another type does not fit.
    check(table, &[number(3, 1), number(3, 2)].concat(), &[("i", "2")]);
    check(table, &[number(14, 1), bytes(3, b"x")].concat(), &[("s", "!"), ("i", "!"), ("l", "0")]);
    check(table, &bytes(14, b"\xff"), &[("s", "!")]);
}

#[test]
fn messages_lists_and_maps_are_json() {
    let table = &*TABLE;
    let inner = |name: &str, n: u64| [bytes(1, name.as_bytes()), number(2, n)].concat();
    let entry = |key: &[u8], value: &[u8]| bytes(19, &[key.to_vec(), value.to_vec()].concat());
    let value = [
        bytes(17, &inner("a\"", 5)),
        // The rest of the same message.
        bytes(17, &[bytes(3, &inner("deep", 0)), bytes(4, &[0, 1])].concat()),
        bytes(18, &[1, 2, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1]),
        number(18, 4),
        entry(&bytes(1, b"k"), &bytes(2, &inner("old", 1))),
        entry(&bytes(1, b"k"), &bytes(2, &inner("new", 1))),
        entry(&[], &[]),
        bytes(27, &[]),
        bytes(27, &inner("x", 1)),
        bytes(28, b"one"),
        bytes(28, b""),
        bytes(29, &[number(1, u64::MAX), number(2, 1)].concat()),
    ]
    .concat();
    let empty = r#"{"name": "", "n": 0, "es": []}"#;
    let expected = [
        (
            "in",
            r#"{"name": "a\"", "n": 5, "deeper": {"name": "deep", "n": 0, "es": []}, "es": ["ZERO", "ONE"]}"#
                .to_owned(),
        ),
        ("many", "[1, 2, -1, 4]".to_owned()),
        ("map", format!(r#"{{"k": {{"name": "new", "n": 1, "es": []}}, "": {empty}}}"#)),
        ("ins", format!(r#"[{empty}, {{"name": "x", "n": 1, "es": []}}]"#)),
        ("texts", r#"["one", ""]"#.to_owned()),
        ("numbered", r#"{"-1": "ONE"}"#.to_owned()),
    ];
    check(table, &value, &expected.each_ref().map(|(name, json)| (*name, json.as_str())));
    check(table, &bytes(17, &bytes(2, b"no number")), &[("in", "!"), ("s", "\"\"")]);
}

#[test]
fn alternatives_exclude_each_other() {
    let table = &*TABLE;
    let (left, right) = (bytes(21, b"l"), bytes(22, &[]));
    check(table, &left, &[("left", "\"l\""), ("right", "null")]);
    let expected = [("left", "null"), ("right", r#"{"name": "", "n": 0, "es": []}"#)];
    check(table, &[left, right].concat(), &expected);
    check(table, &bytes(20, b""), &[("maybe", "\"\"")]);
}

#[test]
fn well_known_messages_mean_what_they_say() {
    let table = &*TABLE;
    let moment = |seconds: i64, nanos: i64| [number(1, seconds as u64), number(2, nanos as u64)].concat();
    let entry = |key: &[u8], value: &[u8]| bytes(1, &[bytes(1, key), bytes(2, value)].concat());
    let list = bytes(6, &[bytes(1, &number(4, 1)), bytes(1, &number(1, 0))].concat());
    let structure = [
        entry(b"a", &[varint(2 << 3 | 1), 1.5_f64.to_le_bytes().to_vec()].concat()),
        entry(b"l", &list),
        entry(b"n", &[]),
    ]
    .concat();
    let value = [
        bytes(23, &moment(-1, 999_999_999)),
        bytes(24, &moment(-1, -500_000_000)),
        bytes(25, &number(1, 5)),
        bytes(26, &structure),
    ]
    .concat();
    let expected = [
        ("at", "\"1969-12-31T23:59:59.999999Z\""),
        ("took", "\"-1.500s\""),
        ("wrapped", "5"),
        ("any", r#"{"a": 1.5, "l": [true, null], "n": null}"#),
    ];
    check(table, &value, &expected);
    check(table, &bytes(25, &[]), &[("wrapped", "0")]);
    check(table, &bytes(23, &moment(i64::MAX, 0)), &[("at", "!")]);
    check(table, &bytes(24, &moment(1, -1)), &[("took", "!")]);
}

#[test]
fn proto2_has_groups_and_required_fields() {
    let table = table(
        r#"syntax = "proto2"; message M { required int32 must = 1; optional int32 may = 2 [default = 7];
           optional group Sub = 3 { optional string s = 4; } repeated int32 n = 5; extensions 100 to 200; }"#,
    );
    let group = [varint(3 << 3 | 3), bytes(4, b"in"), varint(3 << 3 | 4)].concat();
    let expected = [("must", "!"), ("may", "null"), ("sub", r#"{"s": "in"}"#), ("n", "[1, 2]")];
    check(&table, &[group.clone(), number(5, 1), number(5, 2), number(150, 1)].concat(), &expected);
    let unknown = [varint(77 << 3 | 3), group.clone(), varint(77 << 3 | 4), number(1, 1)].concat();
    check(&table, &unknown, &[("must", "1"), ("sub", "null")]);
    for cut in [&group[..group.len() - 1], &[varint(3 << 3 | 3), varint(4 << 3 | 4)].concat()] {
        assert_eq!(read_all(&table, cut), Err(Bad::Form));
    }
}

#[test]
fn bombs_do_not_go_off() {
    let table = &*TABLE;
    let nested = |levels: usize| (0..levels).fold(Vec::new(), |inner, _| bytes(3, &inner));
    assert!(read_all(table, &bytes(17, &nested(40))).is_ok());
    assert_eq!(read_all(table, &bytes(17, &nested(1_000))), Err(Bad::TooLarge));
    let open =
        vec![(77 << 3 | 3) as u8; 100_000].iter().flat_map(|_| varint(77 << 3 | 3)).collect::<Vec<u8>>();
    assert_eq!(read_all(table, &open), Err(Bad::TooLarge));
    for value in [&[2 << 3 | 2, 0xff, 0xff, 0xff, 0xff, 0x0f][..], &[0, 0], &[7], &[0x80; 11]] {
        assert!(read_all(table, value).is_err(), "{value:?}");
    }
    // A list of lists in a Struct, as deep as the bytes go.
    let lists = (0..2_000).fold(Vec::new(), |inner, _| bytes(6, &bytes(1, &inner)));
    let structure = bytes(26, &bytes(1, &bytes(2, &lists)));
    assert_eq!(read_all(table, &structure), Err(Bad::TooLarge));
    // Many empty messages, each of which is longer as JSON.
    let many: Vec<u8> = bytes(27, &[]).repeat(600_000);
    assert_eq!(read_all(table, &many), Err(Bad::TooLarge));
}

proptest! {
    #[test]
    fn arbitrary_bytes_are_read_or_refused(value in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = read_all(&TABLE, &value);
    }

    #[test]
    fn fields_of_any_bytes_give_json(
        fields in proptest::collection::vec((1_u64..31, proptest::collection::vec(any::<u8>(), 0..20)), 0..20)
    ) {
        let value: Vec<u8> = fields.iter().flat_map(|(field, value)| bytes(*field, value)).collect();
        if let Ok(columns) = read_all(&TABLE, &value) {
            for (name, json) in columns.into_iter().filter(|(_, json)| json != "!") {
                prop_assert!(serde_json::from_str::<serde::de::IgnoredAny>(&json).is_ok(), "{name}: {json}");
            }
        }
    }
}
