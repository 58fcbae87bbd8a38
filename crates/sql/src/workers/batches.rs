//! Rows on their way between processes, in the stream form of Arrow's IPC format. A batch keeps nothing of others
//! alive, and large ones go in parts.

use std::sync::Arc;

use arrow::array::{ArrayRef, Int8Array, RecordBatch};
use arrow::buffer::Buffer;
use arrow::datatypes::{DataType, Field, Schema};
use arrow::error::ArrowError;
use arrow_ipc::reader::StreamDecoder;
use arrow_ipc::writer::StreamWriter;

use crate::running::batch_bytes;
use crate::sorting::own_memory;

/// A larger batch is sent in parts of about this size.
const PART_BYTES: u64 = 8 << 20;

pub struct Encoder {
    writer: StreamWriter<Vec<u8>>,
    /// With a column behind the others: a batch without a byte in it is not told from none by who reads the stream.
    padded: Option<Arc<Schema>>,
}

impl Encoder {
    pub fn new(schema: &Schema) -> Result<Encoder, ArrowError> {
        let is_empty = schema.fields().iter().all(|field| *field.data_type() == DataType::Null);
        let padded = is_empty.then(|| {
            let pad = Arc::new(Field::new("", DataType::Int8, false));
            Arc::new(Schema::new(schema.fields().iter().cloned().chain([pad]).collect::<Vec<_>>()))
        });
        let writer = StreamWriter::try_new(Vec::new(), padded.as_deref().unwrap_or(schema))?;
        Ok(Encoder { writer, padded })
    }

    /// The bytes of a batch, behind those of the schema if it is the first one. What is decoded goes through [`with_schema`].
    pub fn encode(&mut self, batch: &RecordBatch) -> Result<Vec<u8>, ArrowError> {
        let batch = match &self.padded {
            Some(schema) => {
                let pad: ArrayRef = Arc::new(Int8Array::from(vec![0; batch.num_rows()]));
                let columns = batch.columns().iter().cloned().chain([pad]);
                RecordBatch::try_new(Arc::clone(schema), columns.collect())?
            }
            None => own_memory(batch)?,
        };
        self.writer.write(&batch)?;
        Ok(std::mem::take(self.writer.get_mut()))
    }
}

/// A batch, cut into parts that are not too large.
pub fn parts(batch: &RecordBatch) -> Vec<RecordBatch> {
    let (rows, bytes) = (batch.num_rows(), batch_bytes(batch));
    let count = usize::try_from(bytes.div_ceil(PART_BYTES)).unwrap_or(usize::MAX).clamp(1, rows.max(1));
    let step = rows.div_ceil(count).max(1);
    (0..rows).step_by(step).map(|first| batch.slice(first, step.min(rows - first))).collect()
}

#[derive(Default)]
pub struct Decoder(StreamDecoder);

impl Decoder {
    /// The batches that are complete with these bytes.
    pub fn decode(&mut self, bytes: Vec<u8>) -> Result<Vec<RecordBatch>, ArrowError> {
        let (mut buffer, mut batches) = (Buffer::from_vec(bytes), Vec::new());
        while !buffer.is_empty() {
            if let Some(batch) = self.0.decode(&mut buffer)? {
                batches.push(batch);
            }
        }
        Ok(batches)
    }
}

/// The same rows, with the fields of a plan: what a function says of a field beside its type gets lost on the way.
pub fn with_schema(batch: RecordBatch, schema: &Arc<Schema>) -> Result<RecordBatch, ArrowError> {
    let options = arrow::array::RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    let columns = batch.columns().iter().take(schema.fields().len()).cloned();
    RecordBatch::try_new_with_options(Arc::clone(schema), columns.collect(), &options)
}

#[cfg(test)]
mod tests {
    use arrow::array::{ArrayRef, Int64Array, RecordBatchOptions, StringViewArray};

    use super::*;

    #[test]
    fn rows_come_in_parts_and_are_the_same() {
        let texts = (0..4000).map(|i| format!("{i:08000}"));
        let columns: [(&str, ArrayRef); 2] = [
            ("n", Arc::new(Int64Array::from_iter_values(0..4000))),
            ("t", Arc::new(StringViewArray::from_iter_values(texts))),
        ];
        let whole = RecordBatch::try_from_iter(columns).unwrap();
        let (mut encoder, mut decoder) = (Encoder::new(&whole.schema()).unwrap(), Decoder::default());
        let mut found = Vec::new();
        for part in parts(&whole) {
            let bytes = encoder.encode(&part).unwrap();
            assert!(bytes.len() < 10 << 20, "{} bytes at once", bytes.len());
            for piece in bytes.chunks(1 << 20) {
                found.extend(decoder.decode(piece.to_vec()).unwrap());
            }
        }
        assert!(found.len() > 3);
        assert_eq!(arrow::compute::concat_batches(&whole.schema(), &found).unwrap(), whole);
    }

    #[test]
    fn rows_without_columns_are_counted() {
        let options = RecordBatchOptions::new().with_row_count(Some(7));
        let batch =
            RecordBatch::try_new_with_options(Arc::new(Schema::empty()), Vec::new(), &options).unwrap();
        let nulls: ArrayRef = Arc::new(arrow::array::NullArray::new(7));
        for batch in [batch.clone(), RecordBatch::try_from_iter([("n", nulls)]).unwrap()] {
            let bytes = Encoder::new(&batch.schema()).unwrap().encode(&batch).unwrap();
            let found = Decoder::default().decode(bytes).unwrap();
            let found: Vec<_> =
                found.into_iter().map(|found| with_schema(found, &batch.schema()).unwrap()).collect();
            assert_eq!(found, [batch]);
        }
        assert!(parts(&batch.slice(0, 0)).is_empty());
    }
}
