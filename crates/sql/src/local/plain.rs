//! Answers in types that every reader of a format knows, a few megabytes of rows at a time.

use std::sync::Arc;

use arrow::array::{RecordBatch, RecordBatchOptions};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, FieldRef, Fields, Schema, SchemaRef};
use arrow::error::ArrowError;

use crate::running::batch_bytes;

/// Of rows that are converted together: texts of one array have offsets of 32 bits, and copies of
/// them take memory.
const SLICE_BYTES: u64 = 4 << 20;

/// What a format has types for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Plain {
    /// Views of text and bytes are younger than many programs that read Arrow.
    Arrow,
    /// Parquet has no lengths of time that are exact to the nanosecond: they are text.
    Parquet,
}

impl Plain {
    pub fn schema(self, schema: &Schema) -> SchemaRef {
        Arc::new(Schema::new(self.fields(schema.fields())))
    }

    fn fields(self, fields: &Fields) -> Fields {
        fields.iter().map(|field| self.field(field)).collect()
    }

    fn field(self, field: &FieldRef) -> FieldRef {
        Arc::new(Field::clone(field).with_data_type(self.data_type(field.data_type())))
    }

    fn data_type(self, data_type: &DataType) -> DataType {
        match data_type {
            DataType::Utf8View => DataType::Utf8,
            DataType::BinaryView => DataType::Binary,
            DataType::Interval(_) | DataType::Duration(_) if self == Plain::Parquet => DataType::Utf8,
            DataType::List(item) | DataType::ListView(item) => DataType::List(self.field(item)),
            DataType::LargeList(item) | DataType::LargeListView(item) => {
                DataType::LargeList(self.field(item))
            }
            DataType::FixedSizeList(item, length) => DataType::FixedSizeList(self.field(item), *length),
            DataType::Struct(fields) => DataType::Struct(self.fields(fields)),
            DataType::Map(entries, sorted) => DataType::Map(self.field(entries), *sorted),
            DataType::Dictionary(_, values) => self.data_type(values),
            DataType::RunEndEncoded(_, values) => self.data_type(values.data_type()),
            other => other.clone(),
        }
    }
}

/// Gives the rows of a batch in the types of a plain schema.
pub fn each_slice<E: From<ArrowError>>(
    batch: &RecordBatch,
    schema: &SchemaRef,
    mut give: impl FnMut(&RecordBatch) -> Result<(), E>,
) -> Result<(), E> {
    let rows = batch.num_rows();
    let row_bytes = batch_bytes(batch).div_ceil(rows.max(1) as u64).max(1);
    let most = usize::try_from(SLICE_BYTES / row_bytes).unwrap_or(usize::MAX).max(1);
    for first in (0..rows).step_by(most) {
        let slice = batch.slice(first, most.min(rows - first));
        let columns = slice.columns().iter().zip(schema.fields());
        let columns: Result<_, _> = columns.map(|(column, field)| cast(column, field.data_type())).collect();
        let options = RecordBatchOptions::new().with_row_count(Some(slice.num_rows()));
        give(&RecordBatch::try_new_with_options(Arc::clone(schema), columns?, &options)?)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use arrow::array::{Array as _, ArrayRef, ListArray, StringViewArray, StructArray};
    use arrow::buffer::OffsetBuffer;
    use arrow::datatypes::IntervalUnit;

    use super::*;

    #[test]
    fn views_and_lengths_of_time_are_plain_at_any_depth() {
        let views = Arc::new(Field::new("item", DataType::Utf8View, true));
        let length = DataType::Interval(IntervalUnit::MonthDayNano);
        let row = DataType::Struct(vec![Field::new("b", DataType::BinaryView, true)].into());
        let schema = Schema::new(vec![
            Field::new("l", DataType::List(views), true),
            Field::new("s", row, true),
            Field::new("i", length.clone(), true),
        ]);
        let shown = |plain: Plain| {
            plain.schema(&schema).fields().iter().map(|f| f.data_type().clone()).collect::<Vec<_>>()
        };
        let list = DataType::List(Arc::new(Field::new("item", DataType::Utf8, true)));
        let row = DataType::Struct(vec![Field::new("b", DataType::Binary, true)].into());
        assert_eq!(shown(Plain::Arrow), [list.clone(), row.clone(), length]);
        assert_eq!(shown(Plain::Parquet), [list, row, DataType::Utf8]);
    }

    #[test]
    fn large_rows_are_given_a_few_at_a_time() {
        let texts: ArrayRef =
            Arc::new(StringViewArray::from_iter_values((0..20).map(|_| "x".repeat(1 << 20))));
        let field = Arc::new(Field::new("item", DataType::Utf8View, true));
        let lists =
            ListArray::new(Arc::clone(&field), OffsetBuffer::from_lengths([1; 20]), Arc::clone(&texts), None);
        let row = StructArray::from(vec![(Arc::new(Field::new("t", DataType::Utf8View, true)), texts)]);
        let schema = Schema::new(vec![
            Field::new("l", lists.data_type().clone(), true),
            Field::new("s", row.data_type().clone(), true),
        ]);
        let batch = RecordBatch::try_new(Arc::new(schema), vec![Arc::new(lists), Arc::new(row)]).unwrap();
        let plain = Plain::Parquet.schema(&batch.schema());
        let mut slices = Vec::new();
        let given = each_slice(&batch, &plain, |slice| {
            slices.push(slice.num_rows());
            assert_eq!(slice.schema(), plain);
            Ok::<_, ArrowError>(())
        });
        given.unwrap();
        assert_eq!(slices.iter().sum::<usize>(), 20);
        assert!(slices.iter().all(|rows| *rows <= 4), "{slices:?}");
    }
}
