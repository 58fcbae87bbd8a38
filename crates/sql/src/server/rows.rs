//! Rows as clients take them: the types that they are told of, and the values.

use std::sync::Arc;

use arrow::array::{Array as _, ArrayRef, AsArray as _, RecordBatch};
use arrow::datatypes::{
    DataType, Decimal32Type, Decimal64Type, Decimal128Type, Decimal256Type, Field, Schema, UInt64Type,
};
use arrow_pg::datatypes::field_into_pg_type;
use arrow_pg::encoder::encode_value;
use datafusion::error::DataFusionError;
use futures_util::{Stream, StreamExt as _, stream};
use kafscale_meter::Current;
use pgwire::api::Type;
use pgwire::api::portal::Format;
use pgwire::api::results::{DataRowEncoder, FieldFormat, FieldInfo};
use pgwire::error::{ErrorInfo, PgWireError, PgWireResult};
use pgwire::messages::data::DataRow;

use super::nul;
use super::numeric::Numeric;
use super::statements::pg_error;
use super::text;
use crate::error::SqlError;
use crate::metered;
use crate::postgres::names;
use crate::running::batch_bytes;
use crate::topic::layout::JSON_MARK;

/// A `numeric` without precision and scale, as the engine plans it.
const UNBOUND_NUMERIC: (u8, i8) = (38, 10);

/// Smaller rows are sent without asking whether there is room for it.
const LARGE_ROW_BYTES: u64 = 1 << 20;
const ROW_COPIES: u64 = 4;

/// The columns of an answer.
pub fn fields(schema: &Schema, format: &Format) -> PgWireResult<Arc<Vec<FieldInfo>>> {
    if let Format::Individual(formats) = format
        && formats.len() != schema.fields().len()
    {
        let message = format!(
            "bind message has {} result formats but query has {} columns",
            formats.len(),
            schema.fields().len()
        );
        let info = ErrorInfo::new("ERROR".to_owned(), "08P01".to_owned(), message);
        return Err(PgWireError::UserError(Box::new(info)));
    }
    let field = |(at, field): (usize, &Arc<Field>)| {
        let datatype = type_of(field)?;
        let size = size_of(&datatype);
        let name = nul::shown(names::shown(field.name())).into_owned();
        let info = FieldInfo::new(name, None, None, datatype, format.format_for(at));
        Ok::<FieldInfo, PgWireError>(info.with_type_size(size))
    };
    Ok(Arc::new(schema.fields().iter().enumerate().map(field).collect::<Result<_, _>>()?))
}

fn type_of(field: &Arc<Field>) -> PgWireResult<Type> {
    match field.data_type() {
        _ if field.metadata().contains_key(JSON_MARK) => Ok(Type::JSON),
        // PostgreSQL gives a NULL without a type as text, too.
        DataType::Null => Ok(Type::TEXT),
        // row_number() and its like.
        DataType::UInt64 => Ok(Type::INT8),
        DataType::Decimal32(..) | DataType::Decimal64(..) | DataType::Decimal256(..) => Ok(Type::NUMERIC),
        _ => field_into_pg_type(field),
    }
}

/// Whether two answers have columns of the same names and types.
pub fn are_alike(one: &Schema, other: &Schema) -> PgWireResult<bool> {
    let (one, other) = (fields(one, &Format::UnifiedText)?, fields(other, &Format::UnifiedText)?);
    let is_alike = |(a, b): (&FieldInfo, &FieldInfo)| a.name() == b.name() && a.datatype() == b.datatype();
    Ok(one.len() == other.len() && one.iter().zip(other.iter()).all(is_alike))
}

/// The type of PostgreSQL that values of a type are given as.
pub fn pg_type(data_type: &DataType) -> PgWireResult<Type> {
    type_of(&Arc::new(Field::new("", data_type.clone(), true)))
}

fn size_of(datatype: &Type) -> i16 {
    match *datatype {
        Type::BOOL | Type::CHAR => 1,
        Type::INT2 => 2,
        Type::INT4 | Type::FLOAT4 | Type::DATE | Type::OID => 4,
        Type::INT8 | Type::FLOAT8 | Type::TIMESTAMP | Type::TIMESTAMPTZ | Type::TIME => 8,
        Type::INTERVAL => 16,
        Type::NAME => 64,
        _ => -1,
    }
}

/// The rows of batches, one by one, made when they are taken.
pub fn encoded(
    batches: impl Stream<Item = Result<RecordBatch, DataFusionError>> + Send + 'static,
    of: Current,
    fields: Arc<Vec<FieldInfo>>,
) -> impl Stream<Item = PgWireResult<DataRow>> + Send {
    batches.flat_map(move |batch| match batch {
        Ok(batch) => {
            let is_large = batch_bytes(&batch) > LARGE_ROW_BYTES;
            let columns: Vec<ArrayRef> = batch.columns().iter().map(nul::without).collect();
            let (mut encoder, fields) = (DataRowEncoder::new(Arc::clone(&fields)), Arc::clone(&fields));
            let rows = (0..batch.num_rows()).map(move |row| {
                if is_large {
                    check_room(&batch.slice(row, 1), of)?;
                }
                for (at, field) in fields.iter().enumerate() {
                    encode(&mut encoder, &columns[at], batch.schema_ref().field(at), row, field)?;
                }
                Ok(encoder.take_row())
            });
            stream::iter(rows).left_stream()
        }
        Err(error) => {
            let error = pg_error(&SqlError::from(error));
            stream::once(async move { Err(error) }).right_stream()
        }
    })
}

/// A row is written as a text, then into a message and then into what is sent.
fn check_room(row: &RecordBatch, of: Current) -> PgWireResult<()> {
    let bytes = batch_bytes(row);
    if bytes > LARGE_ROW_BYTES {
        let _entered = of.enter();
        let room = metered::reserve((bytes * ROW_COPIES) as f64);
        room.map_err(|error| pg_error(&SqlError::from(error)))?;
    }
    Ok(())
}

/// One value.
fn encode(
    encoder: &mut DataRowEncoder,
    column: &ArrayRef,
    of: &Field,
    row: usize,
    field: &FieldInfo,
) -> PgWireResult<()> {
    if column.is_null(row) {
        return encoder.encode_field(&None::<i8>);
    }
    if field.format() == FieldFormat::Text
        && let Some(text) = text::of(column, row)
    {
        return encoder.encode_field(&Numeric::new(text, false));
    }
    let numeric = |text: String, (precision, scale): (u8, i8)| {
        Numeric::new(text, (precision, scale) == UNBOUND_NUMERIC)
    };
    match column.data_type() {
        DataType::Decimal32(p, s) => encoder
            .encode_field(&numeric(column.as_primitive::<Decimal32Type>().value_as_string(row), (*p, *s))),
        DataType::Decimal64(p, s) => encoder
            .encode_field(&numeric(column.as_primitive::<Decimal64Type>().value_as_string(row), (*p, *s))),
        DataType::Decimal128(p, s) => encoder
            .encode_field(&numeric(column.as_primitive::<Decimal128Type>().value_as_string(row), (*p, *s))),
        DataType::Decimal256(p, s) => encoder
            .encode_field(&numeric(column.as_primitive::<Decimal256Type>().value_as_string(row), (*p, *s))),
        DataType::UInt64 => {
            let value = column.as_primitive::<UInt64Type>().value(row);
            let value = i64::try_from(value).map_err(|_| {
                let message = format!("{value} is out of range for type bigint");
                pg_error(&SqlError::State { code: "22003", message })
            })?;
            encoder.encode_field(&value)
        }
        _ => encode_value(encoder, column, row, of, field),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_alike_by_their_names_and_types() {
        let schema = |fields: &[(&str, DataType)]| {
            Schema::new(
                fields.iter().map(|(name, kind)| Field::new(*name, kind.clone(), true)).collect::<Vec<_>>(),
            )
        };
        let one = schema(&[("a", DataType::Int64), ("b", DataType::Utf8)]);
        for (other, expected) in [
            (schema(&[("a", DataType::Int64), ("b", DataType::Utf8View)]), true),
            (schema(&[("a", DataType::Utf8), ("b", DataType::Utf8)]), false),
            (schema(&[("a", DataType::Int64), ("c", DataType::Utf8)]), false),
            (schema(&[("a", DataType::Int64)]), false),
        ] {
            assert_eq!(are_alike(&one, &other).unwrap(), expected, "{other}");
        }
        let named = fields(&schema(&[("x\0y", DataType::Utf8)]), &Format::UnifiedText).unwrap();
        assert_eq!(named[0].name(), "x\u{fffd}y");
    }
}
