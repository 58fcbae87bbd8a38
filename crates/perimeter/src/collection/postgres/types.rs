//! Types of PostgreSQL as types of the engine, and values from the one to the other.
//!
//! What has no counterpart is selected as text: enumerations, ranges, addresses, composite types,
//! intervals, `numeric` without a precision. Dates and times are kept within the years 1 to 9999,
//! so that `infinity` becomes the end of 9999; whatever lies between keeps its order.

use std::sync::Arc;

use arrow::array::NullBufferBuilder;
use arrow::array::{
    ArrayRef, BinaryBuilder, BooleanBuilder, Date32Builder, Decimal128Builder, Float32Builder,
    Float64Builder, Int16Builder, Int32Builder, Int64Builder, ListArray, StringBuilder,
    Time64MicrosecondBuilder, TimestampMicrosecondBuilder,
};
use arrow::buffer::{OffsetBuffer, ScalarBuffer};
use arrow::datatypes::{DataType, Field, TimeUnit};
use tokio_postgres::types::{FromSql, Type};

const DAYS_TO_2000: i32 = 10_957;
const MICROS_TO_2000: i64 = 946_684_800_000_000;
const DAY_MICROS: i64 = 86_400_000_000;
/// 0001-01-01 and 9999-12-31.
pub const DAYS: std::ops::RangeInclusive<i32> = -719_162..=2_932_896;
pub const MICROS: std::ops::RangeInclusive<i64> = -62_135_596_800_000_000..=253_402_300_799_999_999;
/// What a precision of `numeric` may be, to be a decimal of the engine.
const PRECISION_MAX: u8 = 38;

/// How a column is read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    Bool,
    Int2,
    Int4,
    Int8,
    /// Four bytes without a sign.
    Oid,
    Float4,
    Float8,
    Numeric {
        precision: u8,
        scale: i8,
    },
    /// Compared byte by byte, for equality at least.
    Text,
    /// By a cast in the statement.
    AsText,
    Bytea,
    Uuid,
    Json,
    Jsonb,
    Date,
    Timestamp,
    Timestamptz,
    Time,
    /// Of one dimension.
    List(Box<Kind>),
}

/// A value that does not have the form of its type, or none that the engine has.
#[derive(Debug, thiserror::Error)]
#[error("a value of the type {0} cannot be used")]
pub struct Misfit(pub &'static str);

impl Kind {
    /// `modifier` is `atttypmod`; `plain_text` says that equal texts are equal byte by byte in the
    /// column's collation.
    pub fn of(type_oid: u32, modifier: i32, plain_text: bool) -> Kind {
        let Some(known) = Type::from_oid(type_oid) else { return Kind::AsText };
        match known {
            Type::BOOL => Kind::Bool,
            Type::INT2 => Kind::Int2,
            Type::INT4 => Kind::Int4,
            Type::INT8 => Kind::Int8,
            Type::OID => Kind::Oid,
            Type::FLOAT4 => Kind::Float4,
            Type::FLOAT8 => Kind::Float8,
            Type::NUMERIC => Kind::numeric(modifier),
            Type::TEXT | Type::VARCHAR if plain_text => Kind::Text,
            Type::BYTEA => Kind::Bytea,
            Type::UUID => Kind::Uuid,
            Type::JSON => Kind::Json,
            Type::JSONB => Kind::Jsonb,
            Type::DATE => Kind::Date,
            Type::TIMESTAMP => Kind::Timestamp,
            Type::TIMESTAMPTZ => Kind::Timestamptz,
            Type::TIME => Kind::Time,
            _ => Kind::AsText,
        }
    }

    /// Of an array, by the type of its elements. None: it is text.
    pub fn list_of(element_oid: u32, modifier: i32) -> Kind {
        match Kind::of(element_oid, modifier, true) {
            Kind::AsText => Kind::AsText,
            element => Kind::List(Box::new(element)),
        }
    }

    fn numeric(modifier: i32) -> Kind {
        let Ok(packed) = u32::try_from(modifier - 4) else { return Kind::AsText };
        // The lower eleven bits are the scale, which has a sign (PostgreSQL's numeric.c).
        let scale = i32::try_from(packed & 0x7ff).map_or(0, |scale| (scale ^ 1024) - 1024);
        match (u8::try_from(packed >> 16), i8::try_from(scale)) {
            (Ok(precision), Ok(scale))
                if precision <= PRECISION_MAX
                    && (0..=i8::try_from(precision).unwrap_or(0)).contains(&scale) =>
            {
                Kind::Numeric { precision, scale }
            }
            _ => Kind::AsText,
        }
    }

    pub fn data_type(&self) -> DataType {
        match self {
            Kind::Bool => DataType::Boolean,
            Kind::Int2 => DataType::Int16,
            Kind::Int4 => DataType::Int32,
            Kind::Int8 | Kind::Oid => DataType::Int64,
            Kind::Float4 => DataType::Float32,
            Kind::Float8 => DataType::Float64,
            Kind::Numeric { precision, scale } => DataType::Decimal128(*precision, *scale),
            Kind::Text | Kind::AsText | Kind::Uuid | Kind::Json | Kind::Jsonb => DataType::Utf8,
            Kind::Bytea => DataType::Binary,
            Kind::Date => DataType::Date32,
            Kind::Timestamp => DataType::Timestamp(TimeUnit::Microsecond, None),
            Kind::Timestamptz => DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
            Kind::Time => DataType::Time64(TimeUnit::Microsecond),
            Kind::List(element) => DataType::List(element_field(element)),
        }
    }

    /// The type of a parameter that is compared with such a column. None: nothing is.
    pub fn parameter(&self) -> Option<Type> {
        Some(match self {
            Kind::Bool => Type::BOOL,
            Kind::Int2 => Type::INT2,
            Kind::Int4 => Type::INT4,
            Kind::Int8 => Type::INT8,
            Kind::Oid => Type::OID,
            Kind::Float4 => Type::FLOAT4,
            Kind::Float8 => Type::FLOAT8,
            Kind::Numeric { .. } => Type::NUMERIC,
            Kind::Text | Kind::AsText => Type::TEXT,
            Kind::Uuid => Type::UUID,
            Kind::Date => Type::DATE,
            Kind::Timestamp => Type::TIMESTAMP,
            Kind::Timestamptz => Type::TIMESTAMPTZ,
            Kind::Bytea | Kind::Json | Kind::Jsonb | Kind::Time | Kind::List(_) => return None,
        })
    }
}

fn element_field(element: &Kind) -> Arc<Field> {
    Arc::new(Field::new_list_field(element.data_type(), true))
}

/// A value as the server sends it.
pub struct Raw<'a>(pub Option<&'a [u8]>);

impl<'a> FromSql<'a> for Raw<'a> {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn std::error::Error + Sync + Send>> {
        Ok(Raw(Some(raw)))
    }

    fn from_sql_null(_: &Type) -> Result<Self, Box<dyn std::error::Error + Sync + Send>> {
        Ok(Raw(None))
    }

    fn accepts(_: &Type) -> bool {
        true
    }
}

/// The values of a column.
pub enum Values {
    Bool(BooleanBuilder),
    Int2(Int16Builder),
    Int4(Int32Builder),
    Int8(Int64Builder),
    Oid(Int64Builder),
    Float4(Float32Builder),
    Float8(Float64Builder),
    Numeric { values: Decimal128Builder, scale: i8 },
    Text(StringBuilder),
    Uuid(StringBuilder),
    Jsonb(StringBuilder),
    Bytea(BinaryBuilder),
    Date(Date32Builder),
    Timestamp(TimestampMicrosecondBuilder),
    Time(Time64MicrosecondBuilder),
    List { element: Kind, values: Box<Values>, ends: Vec<i32>, present: NullBufferBuilder },
}

impl Values {
    pub fn new(kind: &Kind) -> Values {
        match kind {
            Kind::Bool => Values::Bool(BooleanBuilder::new()),
            Kind::Int2 => Values::Int2(Int16Builder::new()),
            Kind::Int4 => Values::Int4(Int32Builder::new()),
            Kind::Int8 => Values::Int8(Int64Builder::new()),
            Kind::Oid => Values::Oid(Int64Builder::new()),
            Kind::Float4 => Values::Float4(Float32Builder::new()),
            Kind::Float8 => Values::Float8(Float64Builder::new()),
            Kind::Numeric { scale, .. } => Values::Numeric {
                values: Decimal128Builder::new().with_data_type(kind.data_type()),
                scale: *scale,
            },
            Kind::Text | Kind::AsText | Kind::Json => Values::Text(StringBuilder::new()),
            Kind::Uuid => Values::Uuid(StringBuilder::new()),
            Kind::Jsonb => Values::Jsonb(StringBuilder::new()),
            Kind::Bytea => Values::Bytea(BinaryBuilder::new()),
            Kind::Date => Values::Date(Date32Builder::new()),
            Kind::Timestamp | Kind::Timestamptz => {
                Values::Timestamp(TimestampMicrosecondBuilder::new().with_data_type(kind.data_type()))
            }
            Kind::Time => Values::Time(Time64MicrosecondBuilder::new()),
            Kind::List(element) => Values::List {
                element: (**element).clone(),
                values: Box::new(Values::new(element)),
                ends: vec![0],
                present: NullBufferBuilder::new(0),
            },
        }
    }

    pub fn push(&mut self, raw: Option<&[u8]>) -> Result<(), Misfit> {
        match self {
            Values::Bool(values) => {
                values.append_option(raw.map(|raw| fixed(raw, "boolean").map(|[b]| b != 0)).transpose()?);
            }
            Values::Int2(values) => {
                values.append_option(raw.map(|r| fixed(r, "smallint").map(i16::from_be_bytes)).transpose()?);
            }
            Values::Int4(values) => {
                values.append_option(raw.map(|r| fixed(r, "integer").map(i32::from_be_bytes)).transpose()?);
            }
            Values::Int8(values) => {
                values.append_option(raw.map(|r| fixed(r, "bigint").map(i64::from_be_bytes)).transpose()?);
            }
            Values::Oid(values) => {
                let value = |r| fixed(r, "oid").map(|bytes| i64::from(u32::from_be_bytes(bytes)));
                values.append_option(raw.map(value).transpose()?);
            }
            Values::Float4(values) => {
                values.append_option(raw.map(|r| fixed(r, "real").map(f32::from_be_bytes)).transpose()?);
            }
            Values::Float8(values) => {
                let value = |r| fixed(r, "double precision").map(f64::from_be_bytes);
                values.append_option(raw.map(value).transpose()?);
            }
            Values::Numeric { values, scale } => {
                values.append_option(raw.map(|raw| numeric(raw, *scale)).transpose()?);
            }
            Values::Text(values) => values.append_option(raw.map(String::from_utf8_lossy)),
            Values::Uuid(values) => values.append_option(raw.map(uuid_text).transpose()?),
            Values::Jsonb(values) => {
                // The first byte is the version of the form.
                values
                    .append_option(raw.map(|raw| String::from_utf8_lossy(raw.get(1..).unwrap_or_default())));
            }
            Values::Bytea(values) => values.append_option(raw),
            Values::Date(values) => values.append_option(raw.map(date).transpose()?),
            Values::Timestamp(values) => values.append_option(raw.map(timestamp).transpose()?),
            Values::Time(values) => values.append_option(raw.map(time).transpose()?),
            Values::List { element, values, ends, present } => {
                if let Some(raw) = raw {
                    push_elements(raw, element, values)?;
                }
                present.append(raw.is_some());
                ends.push(i32::try_from(values.len()).map_err(|_| Misfit("array"))?);
            }
        }
        Ok(())
    }

    fn len(&self) -> usize {
        use arrow::array::ArrayBuilder as _;
        match self {
            Values::Bool(values) => values.len(),
            Values::Int2(values) => values.len(),
            Values::Int4(values) => values.len(),
            Values::Int8(values) | Values::Oid(values) => values.len(),
            Values::Float4(values) => values.len(),
            Values::Float8(values) => values.len(),
            Values::Numeric { values, .. } => values.len(),
            Values::Text(values) | Values::Uuid(values) | Values::Jsonb(values) => values.len(),
            Values::Bytea(values) => values.len(),
            Values::Date(values) => values.len(),
            Values::Timestamp(values) => values.len(),
            Values::Time(values) => values.len(),
            Values::List { ends, .. } => ends.len() - 1,
        }
    }

    pub fn finish(self) -> ArrayRef {
        match self {
            Values::Bool(mut values) => Arc::new(values.finish()),
            Values::Int2(mut values) => Arc::new(values.finish()),
            Values::Int4(mut values) => Arc::new(values.finish()),
            Values::Int8(mut values) | Values::Oid(mut values) => Arc::new(values.finish()),
            Values::Float4(mut values) => Arc::new(values.finish()),
            Values::Float8(mut values) => Arc::new(values.finish()),
            Values::Numeric { mut values, .. } => Arc::new(values.finish()),
            Values::Text(mut values) | Values::Uuid(mut values) | Values::Jsonb(mut values) => {
                Arc::new(values.finish())
            }
            Values::Bytea(mut values) => Arc::new(values.finish()),
            Values::Date(mut values) => Arc::new(values.finish()),
            Values::Timestamp(mut values) => Arc::new(values.finish()),
            Values::Time(mut values) => Arc::new(values.finish()),
            Values::List { element, values, ends, mut present } => {
                let ends = OffsetBuffer::new(ScalarBuffer::from(ends));
                Arc::new(ListArray::new(element_field(&element), ends, values.finish(), present.finish()))
            }
        }
    }
}

fn fixed<const N: usize>(raw: &[u8], name: &'static str) -> Result<[u8; N], Misfit> {
    raw.try_into().map_err(|_| Misfit(name))
}

fn date(raw: &[u8]) -> Result<i32, Misfit> {
    let days = i32::from_be_bytes(fixed(raw, "date")?);
    Ok(days.saturating_add(DAYS_TO_2000).clamp(*DAYS.start(), *DAYS.end()))
}

fn timestamp(raw: &[u8]) -> Result<i64, Misfit> {
    let micros = i64::from_be_bytes(fixed(raw, "timestamp")?);
    Ok(micros.saturating_add(MICROS_TO_2000).clamp(*MICROS.start(), *MICROS.end()))
}

/// 24:00:00, which the engine does not have, is a microsecond less.
fn time(raw: &[u8]) -> Result<i64, Misfit> {
    Ok(i64::from_be_bytes(fixed(raw, "time")?).clamp(0, DAY_MICROS - 1))
}

fn uuid_text(raw: &[u8]) -> Result<String, Misfit> {
    Ok(uuid::Uuid::from_bytes(fixed(raw, "uuid")?).to_string())
}

/// Digits to the base of 10,000: their number, the weight of the first, a sign, the scale, and the
/// digits, of two bytes each.
fn numeric(raw: &[u8], scale: i8) -> Result<i128, Misfit> {
    const MISFIT: Misfit = Misfit("numeric");
    let (header, digits) = raw.split_at_checked(8).ok_or(MISFIT)?;
    let weight = i32::from(i16::from_be_bytes([header[2], header[3]]));
    let negative = match u16::from_be_bytes([header[4], header[5]]) {
        0 => false,
        0x4000 => true,
        // Not a number, or without an end.
        _ => return Err(MISFIT),
    };
    let mut value = 0_i128;
    for (at, digit) in (0_i32..).zip(digits.chunks_exact(2)) {
        let digit = i128::from(u16::from_be_bytes([digit[0], digit[1]]));
        let exponent = (weight - at).saturating_mul(4).saturating_add(i32::from(scale));
        let power = 10_i128.checked_pow(exponent.unsigned_abs());
        let part = match (digit, power) {
            (0, _) => 0,
            (_, Some(power)) if exponent >= 0 => digit.checked_mul(power).ok_or(MISFIT)?,
            // Digits behind the scale are zero.
            (_, Some(power)) => digit / power,
            (_, None) => return Err(MISFIT),
        };
        value = value.checked_add(part).ok_or(MISFIT)?;
    }
    Ok(if negative { -value } else { value })
}

/// Dimensions, whether there are NULLs, the type; for each dimension its length and lower bound;
/// then each element with its length.
fn push_elements(raw: &[u8], element: &Kind, values: &mut Values) -> Result<(), Misfit> {
    const MISFIT: Misfit = Misfit("array");
    let mut rest = raw;
    let mut next = || {
        let (head, tail) = rest.split_first_chunk::<4>().ok_or(MISFIT)?;
        rest = tail;
        Ok::<i32, Misfit>(i32::from_be_bytes(*head))
    };
    let (dimensions, _has_nulls, _type) = (next()?, next()?, next()?);
    if dimensions == 0 {
        return Ok(());
    }
    if dimensions != 1 || matches!(element, Kind::List(_)) {
        return Err(Misfit("array of several dimensions"));
    }
    let (length, _lower_bound) = (next()?, next()?);
    for _ in 0..length {
        let (head, tail) = rest.split_first_chunk::<4>().ok_or(MISFIT)?;
        rest = tail;
        match usize::try_from(i32::from_be_bytes(*head)) {
            Ok(bytes) => {
                let (value, tail) = rest.split_at_checked(bytes).ok_or(MISFIT)?;
                rest = tail;
                values.push(Some(value))?;
            }
            Err(_) => values.push(None)?,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use arrow::array::{Array as _, AsArray as _};
    use arrow::datatypes::{Decimal128Type, Int32Type};

    use super::*;

    fn sent(weight: i16, sign: u16, scale: u16, digits: &[u16]) -> Vec<u8> {
        let count = u16::try_from(digits.len()).unwrap();
        let words = [count, weight.cast_unsigned(), sign, scale].into_iter().chain(digits.iter().copied());
        words.flat_map(u16::to_be_bytes).collect()
    }

    #[test]
    fn decimals_keep_every_digit() {
        for (weight, sign, scale, digits, expected) in [
            (0, 0, 2, &[12_u16, 3400][..], 1_234),
            (0, 0x4000, 2, &[0, 100], -1),
            (1, 0, 2, &[1], 1_000_000),
            (-1, 0, 2, &[500], 5),
            (0, 0, 2, &[], 0),
        ] {
            assert_eq!(numeric(&sent(weight, sign, scale, digits), 2).unwrap(), expected, "{digits:?}");
        }
        assert!(numeric(&sent(0, 0xC000, 0, &[]), 2).is_err(), "not a number");
        assert!(numeric(&sent(i16::MAX, 0, 0, &[9999]), 2).is_err(), "too large");
        assert!(numeric(&[0; 7], 2).is_err(), "cut short");
    }

    #[test]
    fn the_precision_decides_what_a_numeric_is() {
        let modifier = |precision: i32, scale: i32| ((precision << 16) | (scale & 0x7ff)) + 4;
        assert_eq!(Kind::numeric(modifier(12, 2)), Kind::Numeric { precision: 12, scale: 2 });
        assert_eq!(Kind::numeric(modifier(38, 38)), Kind::Numeric { precision: 38, scale: 38 });
        for without in [-1, modifier(39, 2), modifier(5, -2), modifier(2, 5), modifier(1000, 1000)] {
            assert_eq!(Kind::numeric(without), Kind::AsText, "{without}");
        }
    }

    #[test]
    fn infinity_is_the_end_of_the_years_that_there_are() {
        assert_eq!(date(&i32::MAX.to_be_bytes()).unwrap(), *DAYS.end());
        assert_eq!(date(&i32::MIN.to_be_bytes()).unwrap(), *DAYS.start());
        assert_eq!(date(&0_i32.to_be_bytes()).unwrap(), DAYS_TO_2000);
        assert_eq!(timestamp(&i64::MAX.to_be_bytes()).unwrap(), *MICROS.end());
        assert_eq!(timestamp(&i64::MIN.to_be_bytes()).unwrap(), *MICROS.start());
    }

    #[test]
    fn arrays_become_lists() {
        let sent = |words: &[i32]| words.iter().flat_map(|word| word.to_be_bytes()).collect::<Vec<u8>>();
        let mut values = Values::new(&Kind::List(Box::new(Kind::Int4)));
        values.push(Some(&sent(&[1, 1, 23, 3, 1, 4, 7, -1, 4, 9]))).unwrap();
        values.push(None).unwrap();
        values.push(Some(&sent(&[0, 0, 23]))).unwrap();
        assert!(values.push(Some(&sent(&[2, 0, 23, 1, 1, 1, 1, 4, 7]))).is_err(), "two dimensions");
        assert!(values.push(Some(&sent(&[1, 0, 23, 5, 1, 4, 7]))).is_err(), "cut short");
        let mut values = Values::new(&Kind::List(Box::new(Kind::Int4)));
        values.push(Some(&sent(&[1, 1, 23, 3, 1, 4, 7, -1, 4, 9]))).unwrap();
        values.push(None).unwrap();
        values.push(Some(&sent(&[0, 0, 23]))).unwrap();
        let array = values.finish();
        let lists = array.as_list::<i32>();
        assert_eq!((lists.len(), lists.is_null(1), lists.value(2).len()), (3, true, 0));
        assert_eq!(
            lists.value(0).as_primitive::<Int32Type>().iter().collect::<Vec<_>>(),
            [Some(7), None, Some(9)]
        );
    }

    #[test]
    fn values_of_another_length_are_refused() {
        for kind in [Kind::Bool, Kind::Int2, Kind::Int8, Kind::Float8, Kind::Uuid, Kind::Timestamp] {
            assert!(Values::new(&kind).push(Some(&[0; 3])).is_err(), "{kind:?}");
        }
        let mut decimals = Values::new(&Kind::Numeric { precision: 5, scale: 2 });
        decimals.push(Some(&sent(0, 0, 2, &[12, 3400]))).unwrap();
        assert_eq!(decimals.finish().as_primitive::<Decimal128Type>().value(0), 1_234);
    }
}
