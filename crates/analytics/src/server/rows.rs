//! Rows as clients take them: the types that they are told of, and the values.

use std::sync::Arc;

use arrow::datatypes::{DataType, Schema};
use arrow_pg::datatypes::into_pg_type;
use arrow_pg::row_encoder::RowEncoder;
use datafusion::error::DataFusionError;
use futures_util::{Stream, StreamExt as _, stream};
use pgwire::api::Type;
use pgwire::api::portal::Format;
use pgwire::api::results::FieldInfo;
use pgwire::error::{PgWireError, PgWireResult};
use pgwire::messages::data::DataRow;

use super::statements::pg_error;
use crate::error::SqlError;
use crate::topic::layout::JSON_MARK;

/// The columns of an answer.
pub fn fields(schema: &Schema, format: &Format) -> PgWireResult<Arc<Vec<FieldInfo>>> {
    let field = |(at, field): (usize, &Arc<arrow::datatypes::Field>)| {
        let datatype = match field.metadata().contains_key(JSON_MARK) {
            true => Type::JSON,
            false => pg_type(field.data_type())?,
        };
        let size = size_of(&datatype);
        let info = FieldInfo::new(field.name().clone(), None, None, datatype, format.format_for(at));
        Ok::<FieldInfo, PgWireError>(info.with_type_size(size))
    };
    Ok(Arc::new(schema.fields().iter().enumerate().map(field).collect::<Result<_, _>>()?))
}

/// The type of PostgreSQL that values of a type are given as.
pub fn pg_type(data_type: &DataType) -> PgWireResult<Type> {
    match data_type {
        // PostgreSQL gives a NULL without a type as text, too.
        DataType::Null => Ok(Type::TEXT),
        other => into_pg_type(other),
    }
}

fn size_of(datatype: &Type) -> i16 {
    match *datatype {
        Type::BOOL => 1,
        Type::INT2 => 2,
        Type::INT4 | Type::FLOAT4 | Type::DATE | Type::OID => 4,
        Type::INT8 | Type::FLOAT8 | Type::TIMESTAMP | Type::TIMESTAMPTZ | Type::TIME => 8,
        Type::INTERVAL => 16,
        _ => -1,
    }
}

/// The rows of batches, one by one, made when they are taken.
pub fn encoded(
    batches: impl Stream<Item = Result<arrow::array::RecordBatch, DataFusionError>> + Send + 'static,
    fields: Arc<Vec<FieldInfo>>,
) -> impl Stream<Item = PgWireResult<DataRow>> + Send {
    batches.flat_map(move |batch| match batch {
        Ok(batch) => {
            let mut encoder = RowEncoder::new(batch, Arc::clone(&fields));
            stream::iter(std::iter::from_fn(move || encoder.next_row())).left_stream()
        }
        Err(error) => {
            let error = pg_error(&SqlError::from(error));
            stream::once(async move { Err(error) }).right_stream()
        }
    })
}
