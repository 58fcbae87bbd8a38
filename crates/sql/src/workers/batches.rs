//! Rows on their way between processes, in the stream form of Arrow's IPC format. A batch keeps nothing of others
//! alive, and large ones go in parts.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::buffer::Buffer;
use arrow::datatypes::Schema;
use arrow::error::ArrowError;
use arrow_ipc::reader::StreamDecoder;
use arrow_ipc::writer::StreamWriter;

use crate::running::batch_bytes;
use crate::sorting::own_memory;

/// A larger batch is sent in parts of about this size.
const PART_BYTES: u64 = 8 << 20;

pub struct Encoder(StreamWriter<Vec<u8>>);

impl Encoder {
    pub fn new(schema: &Schema) -> Result<Encoder, ArrowError> {
        Ok(Encoder(StreamWriter::try_new(Vec::new(), schema)?))
    }

    /// The bytes of a batch, behind those of the schema if it is the first one.
    pub fn encode(&mut self, batch: &RecordBatch) -> Result<Vec<u8>, ArrowError> {
        self.0.write(&own_memory(batch)?)?;
        Ok(std::mem::take(self.0.get_mut()))
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
    RecordBatch::try_new_with_options(Arc::clone(schema), batch.columns().to_vec(), &options)
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
        let bytes = Encoder::new(&batch.schema()).unwrap().encode(&batch).unwrap();
        let found = Decoder::default().decode(bytes).unwrap();
        assert_eq!((found.len(), found[0].num_rows()), (1, 7));
        assert!(parts(&batch.slice(0, 0)).is_empty());
    }
}
