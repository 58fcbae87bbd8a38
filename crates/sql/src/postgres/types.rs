//! The types of PostgreSQL that columns here can have: their oids, as the server's headers (`pg_type.dat`) give them, and their names.

use arrow::datatypes::DataType;

/// A row of `pg_type`.
#[derive(Debug, Clone, Copy)]
pub struct PgType {
    pub oid: i32,
    pub name: &'static str,
    /// As `format_type` writes it.
    pub sql_name: &'static str,
    /// -1 for what has no fixed size.
    pub size_bytes: i16,
    pub category: &'static str,
    /// Of its arrays.
    pub array_oid: i32,
}

const fn pg(
    oid: i32,
    name: &'static str,
    sql_name: &'static str,
    size_bytes: i16,
    category: &'static str,
    array_oid: i32,
) -> PgType {
    PgType { oid, name, sql_name, size_bytes, category, array_oid }
}

pub const TYPES: [PgType; 21] = [
    pg(16, "bool", "boolean", 1, "B", 1000),
    pg(17, "bytea", "bytea", -1, "U", 1001),
    pg(18, "char", "\"char\"", 1, "S", 1002),
    pg(19, "name", "name", 64, "S", 1003),
    pg(20, "int8", "bigint", 8, "N", 1016),
    pg(21, "int2", "smallint", 2, "N", 1005),
    pg(23, "int4", "integer", 4, "N", 1007),
    pg(25, "text", "text", -1, "S", 1009),
    pg(26, "oid", "oid", 4, "N", 1028),
    pg(114, "json", "json", -1, "U", 199),
    pg(700, "float4", "real", 4, "N", 1021),
    pg(701, "float8", "double precision", 8, "N", 1022),
    pg(1042, "bpchar", "character", -1, "S", 1014),
    pg(1043, "varchar", "character varying", -1, "S", 1015),
    pg(1082, "date", "date", 4, "D", 1182),
    pg(1083, "time", "time without time zone", 8, "D", 1183),
    pg(1114, "timestamp", "timestamp without time zone", 8, "D", 1115),
    pg(1184, "timestamptz", "timestamp with time zone", 8, "D", 1185),
    pg(1186, "interval", "interval", 16, "T", 1187),
    pg(1700, "numeric", "numeric", -1, "N", 1231),
    pg(2950, "uuid", "uuid", 16, "U", 2951),
];

pub fn by_sql_name(sql_name: &str) -> Option<&'static PgType> {
    TYPES.iter().find(|pg_type| pg_type.sql_name == sql_name)
}

/// The type of `pg_type` by its short name.
pub fn by_name(name: &str) -> Option<&'static PgType> {
    TYPES.iter().find(|pg_type| pg_type.name == name)
}

/// What a value's type is called.
pub fn name_of(data_type: &DataType) -> String {
    match data_type {
        DataType::Boolean => "boolean",
        DataType::Int8 | DataType::Int16 | DataType::UInt8 => "smallint",
        DataType::Int32 | DataType::UInt16 => "integer",
        DataType::Int64 | DataType::UInt32 | DataType::UInt64 => "bigint",
        DataType::Float16 | DataType::Float32 => "real",
        DataType::Float64 => "double precision",
        DataType::Decimal128(..) | DataType::Decimal256(..) => "numeric",
        DataType::Binary | DataType::BinaryView | DataType::LargeBinary => "bytea",
        DataType::Date32 | DataType::Date64 => "date",
        DataType::Time32(_) | DataType::Time64(_) => "time without time zone",
        DataType::Timestamp(_, None) => "timestamp without time zone",
        DataType::Timestamp(_, Some(_)) => "timestamp with time zone",
        DataType::Interval(_) | DataType::Duration(_) => "interval",
        DataType::Null => "unknown",
        DataType::List(item) => return format!("{}[]", name_of(item.data_type())),
        _ => "text",
    }
    .to_owned()
}

/// The name of a type by its oid, of arrays too.
pub fn format(oid: i64) -> Option<String> {
    let found = |pg_type: &PgType| match oid {
        oid if oid == i64::from(pg_type.oid) => Some(pg_type.sql_name.to_owned()),
        oid if oid == i64::from(pg_type.array_oid) => Some(format!("{}[]", pg_type.sql_name)),
        _ => None,
    };
    TYPES.iter().find_map(found)
}
