//! The last net over the values of an answer: texts, bytes that are texts, whole numbers that are numbers of cards, and all of that
//! within lists, structs, maps and dictionaries. Patterns of the rules are looked for in the same values, and in columns with labels.
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
use super::{Column, Filtered, Kind, filtered, is_card_number, plain};
use crate::engine::Rows;
use crate::governed::lineage::Lineage;
use crate::validate::{Done, Pattern};

/// Lists in lists, and so on.
const DEPTH_MAX: usize = 16;
/// The least whole number that is looked at: one of eight digits.
const NUMBER_MIN: f64 = 1e7;

/// A pattern of the rules with which no answer leaves was found.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("rules let no answer out that has {0}; leave it out of what you ask for")]
pub struct Refused(pub Arc<str>);

/// Takes personal data out of the values of an answer, and what patterns of the rules say.
pub fn filter(
    rows: &mut Rows,
    lineages: &[Lineage],
    patterns: &[Arc<Pattern>],
) -> std::result::Result<Filtered, Refused> {
    let mut found = Seen::default();
    // What is withheld is NULL.
    let nullable = |field: &Arc<Field>| Field::clone(field).with_nullable(true);
    let fields: Vec<Field> = rows.schema.fields().iter().map(nullable).collect();
    let schema = Arc::new(Schema::new_with_metadata(fields, rows.schema.metadata().clone()));
    for batch in &mut rows.batches {
        let columns = batch.columns().iter().enumerate();
        let columns = columns.map(|(at, column)| {
            let personal = lineages.get(at).is_none_or(Lineage::is_searched);
            if !personal && patterns.is_empty() {
                return Arc::clone(column);
            }
            let searched =
                Search { personal, patterns }.searched(column, schema.field(at).name(), 0, &mut found);
            searched.unwrap_or_else(|_| withheld(column, &mut found.counts))
        });
        let columns: Vec<ArrayRef> = columns.collect();
        *batch = match RecordBatch::try_new(Arc::clone(&schema), columns) {
            Ok(made) => made,
            Err(_) => nothing(batch, &schema, &mut found.counts),
        };
        if let Some(refused) = found.refused {
            rows.batches.clear();
            return Err(refused);
        }
    }
    rows.schema = schema;
    Ok(found.counts)
}

/// What was found so far.
#[derive(Debug, Clone, Default, PartialEq)]
struct Seen {
    counts: Filtered,
    refused: Option<Refused>,
}

/// What is looked for in a column.
#[derive(Debug, Clone, Copy)]
struct Search<'a> {
    /// Personal data.
    personal: bool,
    patterns: &'a [Arc<Pattern>],
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

impl Search<'_> {
    /// The same values without what is looked for. Fails where they cannot be made so.
    fn searched(self, values: &ArrayRef, name: &str, depth: usize, seen: &mut Seen) -> Result<ArrayRef> {
        if depth > DEPTH_MAX {
            return Err(ArrowError::NotYetImplemented("it is nested too deeply".to_owned()));
        }
        let within =
            |values: &ArrayRef, name: &str, seen: &mut Seen| self.searched(values, name, depth + 1, seen);
        let inner = |values: &ArrayRef, seen: &mut Seen| within(values, name, seen);
        match values.data_type() {
            DataType::Null
            | DataType::Boolean
            | DataType::Date32
            | DataType::Date64
            | DataType::Time32(_)
            | DataType::Time64(_)
            | DataType::Timestamp(..)
            | DataType::Interval(_) => Ok(Arc::clone(values)),
            // A number of units of time.
            DataType::Duration(_) => {
                let numbers = self.numbers(&cast(values, &DataType::Int64)?, name, seen)?;
                Ok(cast(&numbers, values.data_type())?)
            }
            DataType::Int8
            | DataType::Int16
            | DataType::Int32
            | DataType::UInt8
            | DataType::UInt16
            | DataType::UInt32
            | DataType::Decimal32(..) => self.whole_numbers(values, seen),
            DataType::Int64
            | DataType::UInt64
            | DataType::Float16
            | DataType::Float32
            | DataType::Float64
            | DataType::Decimal64(..)
            | DataType::Decimal128(..)
            | DataType::Decimal256(..) => self.numbers(values, name, seen),
            DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => self.texts(values, name, seen),
            DataType::Binary
            | DataType::LargeBinary
            | DataType::BinaryView
            | DataType::FixedSizeBinary(_) => self.bytes(values, name, seen),
            DataType::List(field) => list::<i32>(values, field, inner, seen),
            DataType::LargeList(field) => list::<i64>(values, field, inner, seen),
            DataType::ListView(field) => list_view::<i32>(values, field, inner, seen),
            DataType::LargeListView(field) => list_view::<i64>(values, field, inner, seen),
            DataType::FixedSizeList(field, size) => {
                let list = values.as_fixed_size_list();
                let inner = within(list.values(), name, seen)?;
                let nulls = list.nulls().cloned();
                Ok(Arc::new(FixedSizeListArray::try_new(Arc::clone(field), *size, inner, nulls)?))
            }
            DataType::Struct(fields) => {
                let of = values.as_struct();
                let columns = of.columns().iter().zip(fields);
                let columns = columns.map(|(column, field)| within(column, field.name(), seen));
                let columns = columns.collect::<Result<_>>()?;
                let nulls = of.nulls().cloned();
                Ok(Arc::new(StructArray::try_new_with_length(fields.clone(), columns, nulls, of.len())?))
            }
            DataType::Map(field, ordered) => {
                let map = values.as_map();
                let entries: ArrayRef = Arc::new(map.entries().clone());
                let entries = within(&entries, name, seen)?.as_struct().clone();
                let (offsets, nulls) = (map.offsets().clone(), map.nulls().cloned());
                Ok(Arc::new(MapArray::try_new(Arc::clone(field), offsets, entries, nulls, *ordered)?))
            }
            DataType::Dictionary(..) => {
                let dictionary = values.as_any_dictionary();
                Ok(dictionary.with_values(within(dictionary.values(), name, seen)?))
            }
            DataType::Union(..) | DataType::RunEndEncoded(..) => {
                Err(ArrowError::NotYetImplemented(values.data_type().to_string()))
            }
        }
    }

    fn texts(self, values: &ArrayRef, name: &str, seen: &mut Seen) -> Result<ArrayRef> {
        let texts = cast(values, &DataType::Utf8)?;
        let texts = texts.as_string::<i32>();
        let column = Column::of(name, texts.iter().flatten());
        let before = seen.clone();
        let made: StringArray = texts
            .iter()
            .map(|text| text.map(|text| self.clean(text, &column, seen).unwrap_or_else(|| text.to_owned())))
            .collect();
        if *seen == before { Ok(Arc::clone(values)) } else { cast(&made, values.data_type()) }
    }

    /// Bytes are looked at as the text that they may be.
    fn bytes(self, values: &ArrayRef, name: &str, seen: &mut Seen) -> Result<ArrayRef> {
        let all = cast(values, &DataType::Binary)?;
        let all = all.as_binary::<i32>();
        let column = Column::of(name, std::iter::empty());
        let before = seen.clone();
        let made: Vec<Option<Vec<u8>>> = all
            .iter()
            .map(|bytes| {
                bytes.map(|bytes| match self.clean(&String::from_utf8_lossy(bytes), &column, seen) {
                    Some(text) => text.into_bytes(),
                    None => bytes.to_vec(),
                })
            })
            .collect();
        if *seen == before {
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
    fn numbers(self, values: &ArrayRef, name: &str, seen: &mut Seen) -> Result<ArrayRef> {
        if !self.personal {
            return self.whole_numbers(values, seen);
        }
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
                DataType::Float16 | DataType::Float32 | DataType::Float64 => {
                    format!("{:.1}", magnitudes.value(at))
                }
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
                seen.counts.add(kind, 1);
                count += 1;
            }
        }
        let left = match count {
            0 => Arc::clone(values),
            _ => nullif(values, &BooleanArray::new(found.finish(), None))?,
        };
        self.whole_numbers(&left, seen)
    }

    /// Whole numbers that fit a pattern as they are written are NULL.
    fn whole_numbers(self, values: &ArrayRef, seen: &mut Seen) -> Result<ArrayRef> {
        if self.patterns.is_empty() {
            return Ok(Arc::clone(values));
        }
        let options = FormatOptions::new();
        let formatter = ArrayFormatter::try_new(values.as_ref(), &options)?;
        let fits = |at: usize| {
            let written = (!values.is_null(at)).then(|| formatter.value(at).to_string());
            let written = written.filter(|number| !number.contains(['e', 'E', 'N', 'i']))?;
            let (whole, fraction) = written.split_once('.').unwrap_or((&written, ""));
            let is_whole = fraction.bytes().all(|digit| digit == b'0');
            is_whole.then(|| self.clean_of_rules(whole, seen)).flatten()
        };
        let found: BooleanArray = (0..values.len()).map(fits).map(|found| Some(found.is_some())).collect();
        if found.true_count() == 0 { Ok(Arc::clone(values)) } else { nullif(values, &found) }
    }

    /// The text without what is looked for. None: nothing of it is there.
    fn clean(self, text: &str, column: &Column, seen: &mut Seen) -> Option<String> {
        let by_rules = self.clean_of_rules(text, seen);
        let now = by_rules.as_deref().unwrap_or(text);
        let personal = self.personal.then(|| filtered(now, column, &mut seen.counts)).flatten();
        personal.or(by_rules)
    }

    fn clean_of_rules(self, text: &str, seen: &mut Seen) -> Option<String> {
        let mut made: Option<String> = None;
        for pattern in self.patterns {
            let now = made.as_deref().unwrap_or(text);
            match pattern.done {
                Done::Refuse => {
                    if pattern.is_in(now) || plain(now).is_some_and(|plain| pattern.is_in(&plain)) {
                        seen.refused.get_or_insert_with(|| Refused(Arc::clone(&pattern.name)));
                    }
                }
                Done::Withhold => {
                    let plainly = || plain(now).and_then(|plain| pattern.withheld(&plain));
                    if let Some((text, count)) = pattern.withheld(now).or_else(plainly) {
                        seen.counts.add_pattern(&pattern.name, count);
                        made = Some(text);
                    }
                }
            }
        }
        made
    }
}

fn list<O: OffsetSizeTrait>(
    values: &ArrayRef,
    field: &Arc<Field>,
    within: impl Fn(&ArrayRef, &mut Seen) -> Result<ArrayRef>,
    seen: &mut Seen,
) -> Result<ArrayRef> {
    let list = values.as_list::<O>();
    let (first, last) = (list.value_offsets()[0], list.value_offsets()[list.len()]);
    // What others of the same values hold is not of this answer.
    let used = list.values().slice(first.as_usize(), (last - first).as_usize());
    let lengths = list.offsets().lengths();
    let offsets = arrow::buffer::OffsetBuffer::from_lengths(lengths);
    let nulls = list.nulls().cloned();
    Ok(Arc::new(GenericListArray::<O>::try_new(Arc::clone(field), offsets, within(&used, seen)?, nulls)?))
}

fn list_view<O: OffsetSizeTrait>(
    values: &ArrayRef,
    field: &Arc<Field>,
    within: impl Fn(&ArrayRef, &mut Seen) -> Result<ArrayRef>,
    seen: &mut Seen,
) -> Result<ArrayRef> {
    let list = values.as_list_view::<O>();
    let inner = within(list.values(), seen)?;
    let (offsets, sizes, nulls) = (list.offsets().clone(), list.sizes().clone(), list.nulls().cloned());
    Ok(Arc::new(GenericListViewArray::<O>::try_new(Arc::clone(field), offsets, sizes, inner, nulls)?))
}

#[cfg(test)]
mod tests {
    use arrow::array::{
        Decimal128Array, DictionaryArray, DurationSecondArray, FixedSizeBinaryArray, Float32Array,
        Float64Array, Int32Array, Int64Array, ListBuilder, MapBuilder, StringBuilder, StringViewArray,
        UInt64Array,
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
        let labels = vec![Lineage::default(); batch.num_columns()];
        let mut rows = Rows {
            schema: batch.schema(),
            rows: batch.num_rows() as u64,
            bytes: 0,
            cut_by: None,
            batches: vec![batch],
        };
        let counts = filter(&mut rows, &labels, &[]).expect("it leaves");
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

    fn labelled(label: &str) -> Lineage {
        Lineage { labels: [label.to_owned()].into(), has_unlabelled: false }
    }

    /// Rules that withhold `ab1` and its like, and whole numbers of six digits, and refuse `secret`.
    fn patterns() -> Vec<Arc<Pattern>> {
        let rule = "withhold = { code = 'ab\\d', file = '^\\d{6}$' }\nrefuse = { \"a mark\" = '(?i)secret' }";
        Pattern::of_rule(basic_toml::from_str(rule).expect("a rule")).expect("patterns")
    }

    #[test]
    fn patterns_of_rules_are_taken_out_of_all_values() {
        let labelled = vec![labelled("pii.note"); 7];
        let decimal = Decimal128Array::from(vec![12_345_600, 150]).with_precision_and_scale(20, 2);
        let columns: Vec<(&str, ArrayRef)> = vec![
            ("text", Arc::new(StringArray::from(vec!["see ab1, ab2", "ab"]))),
            ("wide", Arc::new(StringArray::from(vec!["\u{ff41}b\u{200b}1", MAIL]))),
            ("bytes", Arc::new(BinaryArray::from(vec![b"ab7".as_slice(), b"xyz".as_slice()]))),
            ("small", Arc::new(Int32Array::from(vec![123_456, 12_345]))),
            ("decimal", Arc::new(decimal.expect("a decimal"))),
            ("real", Arc::new(Float32Array::from(vec![765_432.0, 1.5]))),
            ("span", Arc::new(DurationSecondArray::from(vec![765_432, 15]))),
        ];
        let batch = RecordBatch::try_from_iter(columns).expect("columns of one length");
        let mut rows = Rows { schema: batch.schema(), rows: 2, bytes: 0, cut_by: None, batches: vec![batch] };
        let counts = filter(&mut rows, &labelled, &patterns()).expect("it leaves");
        let shown = pretty_format_batches(&rows.batches).expect("rows").to_string();
        assert_eq!(counts.in_words().as_deref(), Some("taken out of values: 4 × code, 4 × file"), "{shown}");
        assert!(shown.contains("see [code], [code]") && shown.contains(MAIL), "{shown}");
        assert!(!shown.contains("123456") && shown.contains("12345") && !shown.contains("765432"), "{shown}");
    }

    #[test]
    fn an_answer_with_what_rules_refuse_does_not_leave() {
        for column in [
            Arc::new(StringArray::from(vec!["Se\u{ad}cret"])) as ArrayRef,
            list_of(&["a", "TOP SECRET"]),
            Arc::new(BinaryArray::from(vec![b"secret".as_slice()])),
        ] {
            let batch = RecordBatch::try_from_iter([("x", column)]).expect("a batch");
            let mut rows =
                Rows { schema: batch.schema(), rows: 1, bytes: 0, cut_by: None, batches: vec![batch] };
            let refused = filter(&mut rows, &[Lineage::default()], &patterns());
            assert_eq!(refused, Err(Refused("a mark".into())));
            assert!(rows.batches.is_empty());
        }
    }

    #[test]
    fn labelled_columns_and_parts_of_lists_stay() {
        let list = list_of(&["a", MAIL, "b"]).slice(2, 1);
        assert_eq!(check(vec![("list", list)]).1, None);
        let batch =
            RecordBatch::try_from_iter([("mail", Arc::new(StringArray::from(vec![MAIL])) as ArrayRef)]);
        let batch = batch.expect("a batch");
        let mut rows = Rows { schema: batch.schema(), rows: 1, bytes: 0, cut_by: None, batches: vec![batch] };
        assert_eq!(filter(&mut rows, &[labelled("pii.email")], &[]).expect("it leaves").in_words(), None);
        // Beside something of a column without labels, the label says nothing of all of it.
        let mixed = Lineage { has_unlabelled: true, ..labelled("pii.email") };
        assert!(filter(&mut rows, &[mixed], &[]).expect("it leaves").in_words().is_some());
    }
}
