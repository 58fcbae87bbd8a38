//! The last net over the values of an answer: texts, bytes that are texts, whole numbers that are numbers of cards, and all of that
//! within lists, structs, maps and dictionaries.
//!
//! Invariant: what cannot be looked at, because it is nested deeper than [`DEPTH_MAX`] or of a type that is not known here, is
//! withheld: it is NULL.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray as _, BinaryArray, BooleanArray, BooleanBufferBuilder, FixedSizeListArray,
    GenericListArray, GenericListViewArray, MapArray, OffsetSizeTrait, RecordBatch, StringArray, StructArray,
    new_null_array,
};
use arrow::compute::{cast, nullif};
use arrow::datatypes::{DataType, Field, Schema};
use arrow::error::{ArrowError, Result};
use arrow::util::display::{ArrayFormatter, FormatOptions};

use super::columns::SAMPLE;
use super::identifiers::Identifier;
use super::{Column, Filtered, Kind, filtered, is_card_number};
use crate::engine::Rows;
use crate::governed::lineage::Labels;

/// Lists in lists, and so on.
const DEPTH_MAX: usize = 16;
/// The least whole number that is looked at: one of eight digits.
const NUMBER_MIN: f64 = 1e7;

/// Takes personal data out of the values of an answer.
pub fn filter(rows: &mut Rows, labels: &[Labels]) -> Filtered {
    let mut counts = Filtered::default();
    // What is withheld is NULL.
    let nullable = |field: &Arc<Field>| Field::clone(field).with_nullable(true);
    let fields: Vec<Field> = rows.schema.fields().iter().map(nullable).collect();
    let schema = Arc::new(Schema::new_with_metadata(fields, rows.schema.metadata().clone()));
    for batch in &mut rows.batches {
        let columns = batch.columns().iter().enumerate();
        let columns = columns.map(|(at, column)| match labels.get(at).is_none_or(Labels::is_empty) {
            true => searched(column, schema.field(at).name(), 0, &mut counts)
                .unwrap_or_else(|_| withheld(column, &mut counts)),
            false => Arc::clone(column),
        });
        let columns: Vec<ArrayRef> = columns.collect();
        *batch = match RecordBatch::try_new(Arc::clone(&schema), columns) {
            Ok(made) => made,
            Err(_) => nothing(batch, &schema, &mut counts),
        };
    }
    rows.schema = schema;
    counts
}

fn withheld(column: &ArrayRef, counts: &mut Filtered) -> ArrayRef {
    counts.withheld += (column.len() - column.null_count()) as u64;
    new_null_array(column.data_type(), column.len())
}

/// As many rows, without a value.
fn nothing(batch: &RecordBatch, schema: &Arc<Schema>, counts: &mut Filtered) -> RecordBatch {
    counts.withheld += (batch.num_rows() * batch.num_columns()) as u64;
    let of = |field: &Arc<Field>| new_null_array(field.data_type(), batch.num_rows());
    let columns = schema.fields().iter().map(of).collect();
    RecordBatch::try_new(Arc::clone(schema), columns)
        .unwrap_or_else(|_| RecordBatch::new_empty(Arc::clone(schema)))
}

/// The same values without personal data. Fails where they cannot be made so.
fn searched(values: &ArrayRef, name: &str, depth: usize, counts: &mut Filtered) -> Result<ArrayRef> {
    if depth > DEPTH_MAX {
        return Err(ArrowError::NotYetImplemented("it is nested too deeply".to_owned()));
    }
    let within =
        |values: &ArrayRef, name: &str, counts: &mut Filtered| searched(values, name, depth + 1, counts);
    let inner = |values: &ArrayRef, counts: &mut Filtered| within(values, name, counts);
    match values.data_type() {
        DataType::Null
        | DataType::Boolean
        | DataType::Int8
        | DataType::Int16
        | DataType::Int32
        | DataType::UInt8
        | DataType::UInt16
        | DataType::UInt32
        | DataType::Float16
        | DataType::Float32
        | DataType::Date32
        | DataType::Date64
        | DataType::Time32(_)
        | DataType::Time64(_)
        | DataType::Timestamp(..)
        | DataType::Duration(_)
        | DataType::Interval(_)
        | DataType::Decimal32(..) => Ok(Arc::clone(values)),
        DataType::Int64
        | DataType::UInt64
        | DataType::Float64
        | DataType::Decimal64(..)
        | DataType::Decimal128(..)
        | DataType::Decimal256(..) => numbers(values, name, counts),
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => texts(values, name, counts),
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView | DataType::FixedSizeBinary(_) => {
            bytes(values, name, counts)
        }
        DataType::List(field) => list::<i32>(values, field, inner, counts),
        DataType::LargeList(field) => list::<i64>(values, field, inner, counts),
        DataType::ListView(field) => list_view::<i32>(values, field, inner, counts),
        DataType::LargeListView(field) => list_view::<i64>(values, field, inner, counts),
        DataType::FixedSizeList(field, size) => {
            let list = values.as_fixed_size_list();
            let inner = within(list.values(), name, counts)?;
            let nulls = list.nulls().cloned();
            Ok(Arc::new(FixedSizeListArray::try_new(Arc::clone(field), *size, inner, nulls)?))
        }
        DataType::Struct(fields) => {
            let of = values.as_struct();
            let columns = of.columns().iter().zip(fields);
            let columns = columns.map(|(column, field)| within(column, field.name(), counts));
            let columns = columns.collect::<Result<_>>()?;
            let nulls = of.nulls().cloned();
            Ok(Arc::new(StructArray::try_new_with_length(fields.clone(), columns, nulls, of.len())?))
        }
        DataType::Map(field, ordered) => {
            let map = values.as_map();
            let entries: ArrayRef = Arc::new(map.entries().clone());
            let entries = within(&entries, name, counts)?.as_struct().clone();
            let (offsets, nulls) = (map.offsets().clone(), map.nulls().cloned());
            Ok(Arc::new(MapArray::try_new(Arc::clone(field), offsets, entries, nulls, *ordered)?))
        }
        DataType::Dictionary(..) => {
            let dictionary = values.as_any_dictionary();
            Ok(dictionary.with_values(within(dictionary.values(), name, counts)?))
        }
        DataType::Union(..) | DataType::RunEndEncoded(..) => {
            Err(ArrowError::NotYetImplemented(values.data_type().to_string()))
        }
    }
}

fn list<O: OffsetSizeTrait>(
    values: &ArrayRef,
    field: &Arc<Field>,
    within: impl Fn(&ArrayRef, &mut Filtered) -> Result<ArrayRef>,
    counts: &mut Filtered,
) -> Result<ArrayRef> {
    let list = values.as_list::<O>();
    let (first, last) = (list.value_offsets()[0], list.value_offsets()[list.len()]);
    // What others of the same values hold is not of this answer.
    let used = list.values().slice(first.as_usize(), (last - first).as_usize());
    let lengths = list.offsets().lengths();
    let offsets = arrow::buffer::OffsetBuffer::from_lengths(lengths);
    let nulls = list.nulls().cloned();
    Ok(Arc::new(GenericListArray::<O>::try_new(Arc::clone(field), offsets, within(&used, counts)?, nulls)?))
}

fn list_view<O: OffsetSizeTrait>(
    values: &ArrayRef,
    field: &Arc<Field>,
    within: impl Fn(&ArrayRef, &mut Filtered) -> Result<ArrayRef>,
    counts: &mut Filtered,
) -> Result<ArrayRef> {
    let list = values.as_list_view::<O>();
    let inner = within(list.values(), counts)?;
    let (offsets, sizes, nulls) = (list.offsets().clone(), list.sizes().clone(), list.nulls().cloned());
    Ok(Arc::new(GenericListViewArray::<O>::try_new(Arc::clone(field), offsets, sizes, inner, nulls)?))
}

fn texts(values: &ArrayRef, name: &str, counts: &mut Filtered) -> Result<ArrayRef> {
    let texts = cast(values, &DataType::Utf8)?;
    let texts = texts.as_string::<i32>();
    let column = Column::of(name, texts.iter().flatten());
    let before = counts.clone();
    let made: StringArray = texts
        .iter()
        .map(|text| text.map(|text| filtered(text, &column, counts).unwrap_or_else(|| text.to_owned())))
        .collect();
    if *counts == before { Ok(Arc::clone(values)) } else { cast(&made, values.data_type()) }
}

/// Bytes are looked at as the text that they may be.
fn bytes(values: &ArrayRef, name: &str, counts: &mut Filtered) -> Result<ArrayRef> {
    let all = cast(values, &DataType::Binary)?;
    let all = all.as_binary::<i32>();
    let column = Column::of(name, std::iter::empty());
    let before = counts.clone();
    let made: Vec<Option<Vec<u8>>> = all
        .iter()
        .map(|bytes| {
            bytes.map(|bytes| match filtered(&String::from_utf8_lossy(bytes), &column, counts) {
                Some(text) => text.into_bytes(),
                None => bytes.to_vec(),
            })
        })
        .collect();
    if *counts == before {
        return Ok(Arc::clone(values));
    }
    if matches!(values.data_type(), DataType::FixedSizeBinary(_)) {
        let is_other = |(made, all): (&Option<Vec<u8>>, Option<&[u8]>)| made.as_deref() != all;
        let found: BooleanArray = made.iter().zip(all.iter()).map(is_other).map(Some).collect();
        return nullif(values, &found);
    }
    let made: BinaryArray = made.iter().map(Option::as_deref).collect();
    cast(&made, values.data_type())
}

/// Whole numbers that are numbers of cards or identifiers are NULL.
fn numbers(values: &ArrayRef, name: &str, counts: &mut Filtered) -> Result<ArrayRef> {
    let options = FormatOptions::new();
    // Most numbers are too small, and need not be written out.
    let magnitudes = cast(values, &DataType::Float64)?;
    let magnitudes = magnitudes.as_primitive::<arrow::datatypes::Float64Type>();
    let formatter = ArrayFormatter::try_new(values.as_ref(), &options)?;
    let written = |at: usize| {
        if values.is_null(at) || magnitudes.value(at) < NUMBER_MIN {
            return None;
        }
        let number = match values.data_type() {
            DataType::Float64 => format!("{:.1}", magnitudes.value(at)),
            _ => formatter.value(at).to_string(),
        };
        let (whole, fraction) = number.split_once('.').unwrap_or((&number, ""));
        fraction.bytes().all(|digit| digit == b'0').then(|| whole.to_owned())
    };
    let sample: Vec<String> = (0..values.len()).filter_map(written).take(SAMPLE).collect();
    let column = Column::of(name, sample.iter().map(String::as_str));
    let kind = |number: String| match is_card_number(&number) {
        true => Some(Kind::Card),
        false => column.identifier(&number).map(Identifier::kind),
    };
    let mut found = BooleanBufferBuilder::new(values.len());
    let mut count = 0;
    for at in 0..values.len() {
        let kind = written(at).and_then(kind);
        found.append(kind.is_some());
        if let Some(kind) = kind {
            counts.add(kind, 1);
            count += 1;
        }
    }
    match count {
        0 => Ok(Arc::clone(values)),
        _ => nullif(values, &BooleanArray::new(found.finish(), None)),
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{
        Decimal128Array, DictionaryArray, FixedSizeBinaryArray, Float64Array, Int32Array, Int64Array,
        ListBuilder, MapBuilder, StringBuilder, StringViewArray, UInt64Array,
    };
    use arrow::datatypes::Int32Type;
    use arrow::util::pretty::pretty_format_batches;

    use super::*;

    const MAIL: &str = "ada@example.org";
    const CARD: i64 = 4_111_111_111_111_111;

    fn list_of(texts: &[&str]) -> ArrayRef {
        let mut list = ListBuilder::new(StringBuilder::new());
        for text in texts {
            list.values().append_value(text);
            list.append(true);
        }
        Arc::new(list.finish())
    }

    fn check(columns: Vec<(&str, ArrayRef)>) -> (String, Option<String>) {
        let batch = RecordBatch::try_from_iter(columns).expect("columns of one length");
        let labels = vec![Labels::new(); batch.num_columns()];
        let mut rows = Rows {
            schema: batch.schema(),
            rows: batch.num_rows() as u64,
            bytes: 0,
            cut_by: None,
            batches: vec![batch],
        };
        let counts = filter(&mut rows, &labels);
        (pretty_format_batches(&rows.batches).expect("rows").to_string(), counts.in_words())
    }

    #[test]
    fn values_within_values_are_searched() {
        let mut map = MapBuilder::new(None, StringBuilder::new(), StringBuilder::new());
        map.keys().append_value(MAIL);
        map.values().append_value("+49 30 901820");
        map.append(true).expect("a map");
        let text: ArrayRef = Arc::new(StringArray::from(vec![MAIL]));
        let field = Arc::new(Field::new("contact", DataType::Utf8, false));
        let nested = StructArray::from(vec![(field, Arc::clone(&text))]);
        let dictionary = DictionaryArray::<Int32Type>::new(Int32Array::from(vec![0]), Arc::clone(&text));
        let hex = FixedSizeBinaryArray::try_from_iter(std::iter::once(MAIL.as_bytes())).expect("bytes");
        let columns: Vec<(&str, ArrayRef)> = vec![
            ("list", list_of(&[MAIL])),
            ("map", Arc::new(map.finish())),
            ("struct", Arc::new(nested)),
            ("dictionary", Arc::new(dictionary)),
            ("view", Arc::new(StringViewArray::from(vec![MAIL]))),
            ("bytes", Arc::new(BinaryArray::from(vec![MAIL.as_bytes()]))),
            ("fixed", Arc::new(hex)),
        ];
        for (name, column) in columns {
            let (shown, said) = check(vec![(name, column)]);
            let is_in = |text: &str| {
                shown.contains(text) || shown.contains(&kafscale_agent::audit::hex(text.as_bytes()))
            };
            assert!(!is_in("ada@") && !is_in("901820"), "{name}: {shown}");
            assert!(said.is_some_and(|said| said.contains("e-mail address")), "{name}: {shown}");
        }
    }

    #[test]
    fn numbers_of_cards_are_withheld_and_other_numbers_stay() {
        let columns = || -> Vec<(&str, ArrayRef)> {
            let decimal = Decimal128Array::from(vec![i128::from(CARD) * 100, 1999]);
            vec![
                ("int", Arc::new(Int64Array::from(vec![CARD, CARD + 1]))),
                ("unsigned", Arc::new(UInt64Array::from(vec![CARD as u64, 7]))),
                ("float", Arc::new(Float64Array::from(vec![CARD as f64, 0.5]))),
                ("decimal", Arc::new(decimal.with_precision_and_scale(20, 2).expect("a decimal"))),
            ]
        };
        for (name, column) in columns() {
            let (shown, said) = check(vec![(name, column)]);
            assert!(!shown.contains("4111111111111111"), "{name}: {shown}");
            assert_eq!(said.as_deref(), Some("taken out of values: 1 × card number"), "{name}");
        }
        // Times in milliseconds, numbers of rows, sums.
        let fine =
            [1_764_450_000_000, 9_007_199_254_740_991, 1_234_567_890_123_456, 4_111_111_111_111, -CARD];
        let (shown, said) = check(vec![("n", Arc::new(Int64Array::from(fine.to_vec())))]);
        assert_eq!(said, None, "{shown}");
        let numbers = || Arc::new(Int64Array::from(vec![111_222_333, 111_222_334])) as ArrayRef;
        let (shown, said) = check(vec![("bsn", numbers()), ("n", numbers())]);
        assert_eq!(shown.matches("111222333").count(), 1, "{shown}");
        assert_eq!(said.as_deref(), Some("taken out of values: 1 × NL BSN"));
    }

    #[test]
    fn what_is_nested_too_deeply_is_withheld() {
        let mut values = list_of(&[MAIL]);
        for _ in 0..DEPTH_MAX + 2 {
            let field = Arc::new(Field::new("item", values.data_type().clone(), true));
            let offsets = arrow::buffer::OffsetBuffer::from_lengths([values.len()]);
            values = Arc::new(GenericListArray::<i32>::new(field, offsets, values, None));
        }
        let (shown, said) = check(vec![("deep", values)]);
        assert!(!shown.contains("ada"), "{shown}");
        assert_eq!(said.as_deref(), Some("taken out of values: 1 values withheld that cannot be searched"));
    }

    #[test]
    fn labelled_columns_and_parts_of_lists_stay() {
        let list = list_of(&["a", MAIL, "b"]).slice(2, 1);
        assert_eq!(check(vec![("list", list)]).1, None);
        let batch =
            RecordBatch::try_from_iter([("mail", Arc::new(StringArray::from(vec![MAIL])) as ArrayRef)]);
        let batch = batch.expect("a batch");
        let mut rows = Rows { schema: batch.schema(), rows: 1, bytes: 0, cut_by: None, batches: vec![batch] };
        let labels = vec![Labels::from(["pii.email".to_owned()])];
        assert_eq!(filter(&mut rows, &labels).in_words(), None);
    }
}
