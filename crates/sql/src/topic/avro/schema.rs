//! Schemas of Avro: their JSON, as an arena of types that may contain each other. And the columns that a schema gives.
//!
//! Invariant: every place of a type is in the arena; a named type is in it once.

use std::collections::{HashMap, HashSet};

use kafscale_core::sql_schema::{MAX_PRECISION, SqlType};
use serde_json::{Map, Value};

/// More types than any schema has, and more branches than any union.
const MAX_TYPES: usize = 20_000;
const MAX_BRANCHES: usize = 1_000;

/// Why a text is no schema of Avro.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SchemaError {
    #[error("it is no JSON: {0}")]
    Json(String),
    #[error("there is no type `{0}`")]
    Unknown(String),
    #[error("the type `{0}` is there twice")]
    Twice(String),
    #[error("{0}")]
    Form(String),
    #[error("it has more than {MAX_TYPES} types, or a union of more than {MAX_BRANCHES}")]
    TooLarge,
}

/// The place of a type in its schema.
pub type TypeId = usize;

#[derive(Debug)]
pub struct Schema {
    types: Vec<Type>,
    pub root: TypeId,
}

#[derive(Debug, Clone)]
pub struct Type {
    pub kind: Kind,
    pub logical: Option<Logical>,
}

#[derive(Debug, Clone)]
pub enum Kind {
    Null,
    Boolean,
    Int,
    Long,
    Float,
    Double,
    Bytes,
    String,
    Fixed { name: String, size: usize },
    Enum { name: String, symbols: Vec<String>, default: Option<String> },
    Record { name: String, fields: Vec<Field> },
    Array(TypeId),
    Map(TypeId),
    Union(Vec<TypeId>),
}

#[derive(Debug, Clone)]
pub struct Field {
    pub name: String,
    pub aliases: Vec<String>,
    pub field_type: TypeId,
    pub default: Option<Value>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Logical {
    Decimal {
        precision: u32,
        scale: u32,
    },
    Date,
    TimeMillis,
    TimeMicros,
    /// So many units are a microsecond, or the other way round.
    Timestamp(Unit),
    LocalTimestamp(Unit),
    Uuid,
    Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    Millis,
    Micros,
    Nanos,
}

impl Unit {
    /// `None`: too many to be counted.
    pub fn micros(self, units: i64) -> Option<i64> {
        match self {
            Unit::Millis => units.checked_mul(1_000),
            Unit::Micros => Some(units),
            Unit::Nanos => Some(units.div_euclid(1_000)),
        }
    }
}

impl Schema {
    /// Reads a schema. The named types of those that it refers to come first, each after those that it refers to itself.
    pub fn parse(text: &str, references: &[String]) -> Result<Schema, SchemaError> {
        let mut parser = Parser { types: Vec::new(), names: HashMap::new() };
        let mut read = |text: &str| {
            // A bare name is a schema too, and some registries give it without its quotes.
            let json = serde_json::from_str(text).or_else(|e| match is_name(text.trim()) {
                true => Ok(Value::String(text.trim().to_owned())),
                false => Err(SchemaError::Json(e.to_string())),
            });
            parser.schema(&json?, "")
        };
        for reference in references {
            read(reference)?;
        }
        let root = read(text)?;
        Ok(Schema { types: parser.types, root })
    }

    pub fn get(&self, id: TypeId) -> &Type {
        &self.types[id]
    }

    /// Name and type of each column: the fields of a record, or `value` for any other schema.
    pub fn columns(&self) -> Vec<(String, SqlType)> {
        match &self.get(self.root).kind {
            Kind::Record { fields, .. } => {
                fields.iter().map(|field| (field.name.clone(), self.sql_type(field.field_type))).collect()
            }
            _ => vec![("value".to_owned(), self.sql_type(self.root))],
        }
    }

    fn sql_type(&self, id: TypeId) -> SqlType {
        let Type { kind, logical } = self.get(id);
        match (kind, logical) {
            (_, Some(Logical::Decimal { precision, scale })) => {
                match (u8::try_from(*precision), u8::try_from(*scale)) {
                    (Ok(precision @ 1..=MAX_PRECISION), Ok(scale)) => SqlType::Numeric(precision, scale),
                    // Text keeps all digits.
                    _ => SqlType::Text,
                }
            }
            (_, Some(Logical::Date)) => SqlType::Date,
            (_, Some(Logical::TimeMillis | Logical::TimeMicros)) => SqlType::Time,
            (_, Some(Logical::Timestamp(_))) => SqlType::Timestamp,
            (_, Some(Logical::LocalTimestamp(_))) => SqlType::LocalTimestamp,
            (_, Some(Logical::Uuid)) => SqlType::Text,
            (_, Some(Logical::Duration)) => SqlType::Json,
            (Kind::Null | Kind::String | Kind::Enum { .. }, None) => SqlType::Text,
            (Kind::Boolean, None) => SqlType::Boolean,
            (Kind::Int, None) => SqlType::Int4,
            (Kind::Long, None) => SqlType::Int8,
            (Kind::Float, None) => SqlType::Float4,
            (Kind::Double, None) => SqlType::Float8,
            (Kind::Bytes | Kind::Fixed { .. }, None) => SqlType::Bytea,
            (Kind::Record { .. } | Kind::Array(_) | Kind::Map(_), None) => SqlType::Json,
            (Kind::Union(branches), None) => {
                let values = branches.iter().filter(|id| !matches!(self.get(**id).kind, Kind::Null));
                let mut types = values.map(|id| match self.get(*id).kind {
                    // A union cannot hold another one.
                    Kind::Union(_) => SqlType::Json,
                    _ => self.sql_type(*id),
                });
                let first = types.next().unwrap_or(SqlType::Text);
                if types.all(|other| other == first) { first } else { SqlType::Json }
            }
        }
    }
}

struct Parser {
    types: Vec<Type>,
    /// By their full names.
    names: HashMap<String, TypeId>,
}

impl Parser {
    fn add(&mut self, kind: Kind, logical: Option<Logical>) -> Result<TypeId, SchemaError> {
        if self.types.len() >= MAX_TYPES {
            return Err(SchemaError::TooLarge);
        }
        self.types.push(Type { kind, logical });
        Ok(self.types.len() - 1)
    }

    fn schema(&mut self, json: &Value, namespace: &str) -> Result<TypeId, SchemaError> {
        match json {
            Value::String(name) => self.named(name, namespace),
            Value::Array(branches) if branches.len() > MAX_BRANCHES => Err(SchemaError::TooLarge),
            Value::Array(branches) => {
                let branches: Result<Vec<TypeId>, SchemaError> =
                    branches.iter().map(|branch| self.schema(branch, namespace)).collect();
                self.add(Kind::Union(branches?), None)
            }
            Value::Object(object) => self.object(object, namespace),
            Value::Null | Value::Bool(_) | Value::Number(_) => {
                Err(SchemaError::Form(format!("`{json}` is no type")))
            }
        }
    }

    fn named(&mut self, name: &str, namespace: &str) -> Result<TypeId, SchemaError> {
        if let Some(kind) = primitive(name) {
            return self.add(kind, None);
        }
        let known = self.names.get(&full_name(name, namespace)).or_else(|| self.names.get(name));
        known.copied().ok_or_else(|| SchemaError::Unknown(name.to_owned()))
    }

    fn object(&mut self, object: &Map<String, Value>, namespace: &str) -> Result<TypeId, SchemaError> {
        let missing = |what: &str| SchemaError::Form(format!("a type has no `{what}`"));
        let declared = object.get("type").ok_or_else(|| missing("type"))?;
        let Value::String(name) = declared else { return self.schema(declared, namespace) };
        match name.as_str() {
            "array" => {
                let items = self.schema(object.get("items").ok_or_else(|| missing("items"))?, namespace)?;
                self.add(Kind::Array(items), None)
            }
            "map" => {
                let values =
                    self.schema(object.get("values").ok_or_else(|| missing("values"))?, namespace)?;
                self.add(Kind::Map(values), None)
            }
            "record" | "error" => self.record(object, namespace),
            "enum" => {
                let name = own_name(object, namespace)?;
                let symbols = texts(object.get("symbols"));
                let default = object.get("default").and_then(Value::as_str).map(str::to_owned);
                self.add_named(name.clone(), Kind::Enum { name, symbols, default }, None)
            }
            "fixed" => {
                let name = own_name(object, namespace)?;
                let size =
                    object.get("size").and_then(Value::as_u64).and_then(|size| usize::try_from(size).ok());
                let kind = Kind::Fixed { name: name.clone(), size: size.ok_or_else(|| missing("size"))? };
                let logical = logical(object, &kind);
                self.add_named(name, kind, logical)
            }
            other => match primitive(other) {
                Some(kind) => {
                    let logical = logical(object, &kind);
                    self.add(kind, logical)
                }
                None => self.named(other, namespace),
            },
        }
    }

    fn add_named(
        &mut self,
        name: String,
        kind: Kind,
        logical: Option<Logical>,
    ) -> Result<TypeId, SchemaError> {
        if self.names.contains_key(&name) {
            return Err(SchemaError::Twice(name));
        }
        let id = self.add(kind, logical)?;
        self.names.insert(name, id);
        Ok(id)
    }

    fn record(&mut self, object: &Map<String, Value>, namespace: &str) -> Result<TypeId, SchemaError> {
        let name = own_name(object, namespace)?;
        let inside = name.rsplit_once('.').map_or("", |(namespace, _)| namespace).to_owned();
        // The record is known before its fields, which may be of its own type.
        let id = self.add_named(name.clone(), Kind::Record { name, fields: Vec::new() }, None)?;
        let (mut read, mut names) = (Vec::new(), HashSet::new());
        for field in object.get("fields").and_then(Value::as_array).into_iter().flatten() {
            let named = field.get("name").and_then(Value::as_str);
            let (Some(name), Some(declared)) = (named, field.get("type")) else {
                return Err(SchemaError::Form("a field has no name or no type".to_owned()));
            };
            if !names.insert(name) {
                return Err(SchemaError::Twice(name.to_owned()));
            }
            // `{"name": …, "type": "long", "logicalType": …}` is a mistake that is often made, and means `long`.
            let field_type = self.schema(declared, &inside)?;
            let (aliases, default) = (texts(field.get("aliases")), field.get("default").cloned());
            read.push(Field { name: name.to_owned(), aliases, field_type, default });
        }
        if let Kind::Record { fields, .. } = &mut self.types[id].kind {
            *fields = read;
        }
        Ok(id)
    }
}

fn primitive(name: &str) -> Option<Kind> {
    Some(match name {
        "null" => Kind::Null,
        "boolean" => Kind::Boolean,
        "int" => Kind::Int,
        "long" => Kind::Long,
        "float" => Kind::Float,
        "double" => Kind::Double,
        "bytes" => Kind::Bytes,
        "string" => Kind::String,
        _ => return None,
    })
}

/// What a type means. Meanings that do not go with it are left out, as the specification says.
fn logical(object: &Map<String, Value>, kind: &Kind) -> Option<Logical> {
    let number = |name: &str| object.get(name).and_then(Value::as_u64).and_then(|n| u32::try_from(n).ok());
    let name = object.get("logicalType")?.as_str()?;
    Some(match (name, kind) {
        ("decimal", Kind::Bytes | Kind::Fixed { .. }) => {
            let (precision, scale) = (number("precision")?, number("scale").unwrap_or(0));
            (1..=10_000).contains(&precision).then_some(())?;
            (scale <= precision).then_some(Logical::Decimal { precision, scale })?
        }
        ("date", Kind::Int) => Logical::Date,
        ("time-millis", Kind::Int) => Logical::TimeMillis,
        ("time-micros", Kind::Long) => Logical::TimeMicros,
        ("timestamp-millis", Kind::Long) => Logical::Timestamp(Unit::Millis),
        ("timestamp-micros", Kind::Long) => Logical::Timestamp(Unit::Micros),
        ("timestamp-nanos", Kind::Long) => Logical::Timestamp(Unit::Nanos),
        ("local-timestamp-millis", Kind::Long) => Logical::LocalTimestamp(Unit::Millis),
        ("local-timestamp-micros", Kind::Long) => Logical::LocalTimestamp(Unit::Micros),
        ("local-timestamp-nanos", Kind::Long) => Logical::LocalTimestamp(Unit::Nanos),
        ("uuid", Kind::String | Kind::Fixed { size: 16, .. }) => Logical::Uuid,
        ("duration", Kind::Fixed { size: 12, .. }) => Logical::Duration,
        _ => return None,
    })
}

fn own_name(object: &Map<String, Value>, namespace: &str) -> Result<String, SchemaError> {
    let name = object.get("name").and_then(Value::as_str);
    let name = name.ok_or_else(|| SchemaError::Form("a type has no `name`".to_owned()))?;
    let namespace = object.get("namespace").and_then(Value::as_str).unwrap_or(namespace);
    Ok(full_name(name, namespace))
}

fn full_name(name: &str, namespace: &str) -> String {
    match name.contains('.') || namespace.is_empty() {
        true => name.to_owned(),
        false => format!("{namespace}.{name}"),
    }
}

fn is_name(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.'))
}

fn texts(json: Option<&Value>) -> Vec<String> {
    let items = json.and_then(Value::as_array).into_iter().flatten();
    items.filter_map(Value::as_str).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn columns(text: &str) -> Vec<(String, SqlType)> {
        Schema::parse(text, &[]).unwrap().columns()
    }

    #[test]
    fn columns_have_the_types_of_fields() {
        let logical = |base: &str, name: &str| format!(r#"{{"type":"{base}","logicalType":"{name}"}}"#);
        for (declared, sql_type) in [
            (r#""boolean""#.to_owned(), SqlType::Boolean),
            (r#""int""#.to_owned(), SqlType::Int4),
            (r#"["null","long"]"#.to_owned(), SqlType::Int8),
            (r#"["double","null"]"#.to_owned(), SqlType::Float8),
            (r#"["null","string","int"]"#.to_owned(), SqlType::Json),
            (r#"["null"]"#.to_owned(), SqlType::Text),
            (r#""float""#.to_owned(), SqlType::Float4),
            (r#""bytes""#.to_owned(), SqlType::Bytea),
            (r#"{"type":"array","items":"int"}"#.to_owned(), SqlType::Json),
            (r#"{"type":"enum","name":"E","symbols":["A"]}"#.to_owned(), SqlType::Text),
            (logical("int", "date"), SqlType::Date),
            (logical("long", "date"), SqlType::Int8),
            (logical("long", "time-micros"), SqlType::Time),
            (logical("long", "timestamp-nanos"), SqlType::Timestamp),
            (logical("long", "local-timestamp-millis"), SqlType::LocalTimestamp),
            (logical("string", "uuid"), SqlType::Text),
            (logical("string", "something"), SqlType::Text),
            (
                r#"{"type":"bytes","logicalType":"decimal","precision":9,"scale":2}"#.to_owned(),
                SqlType::Numeric(9, 2),
            ),
            (r#"{"type":"bytes","logicalType":"decimal","precision":40}"#.to_owned(), SqlType::Text),
            (
                r#"{"type":"bytes","logicalType":"decimal","precision":2,"scale":3}"#.to_owned(),
                SqlType::Bytea,
            ),
        ] {
            let record =
                format!(r#"{{"type":"record","name":"R","fields":[{{"name":"f","type":{declared}}}]}}"#);
            assert_eq!(columns(&record), [("f".to_owned(), sql_type)], "{declared}");
        }
        assert_eq!(columns("\"long\""), [("value".to_owned(), SqlType::Int8)]);
        assert_eq!(columns("string"), [("value".to_owned(), SqlType::Text)]);
    }

    #[test]
    fn names_are_found_in_their_namespace_and_in_references() {
        let address = r#"{"type":"record","name":"Address","namespace":"a.b","fields":[]}"#.to_owned();
        let text = r#"{"type":"record","name":"a.b.R","fields":[
            {"name":"one","type":"Address"}, {"name":"two","type":"a.b.Address"}, {"name":"self","type":["null","R"]}]}"#;
        assert_eq!(Schema::parse(text, std::slice::from_ref(&address)).unwrap().columns().len(), 3);
        assert_eq!(Schema::parse(text, &[]).unwrap_err(), SchemaError::Unknown("Address".to_owned()));
        let twice = Schema::parse(&address, std::slice::from_ref(&address)).unwrap_err();
        assert_eq!(twice, SchemaError::Twice("a.b.Address".to_owned()));
    }

    #[test]
    fn what_is_no_schema_is_refused() {
        let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
        let wide = format!("[{}\"int\"]", "\"int\",".repeat(MAX_TYPES));
        for text in [
            "",
            "{",
            "{}",
            "1",
            "\"strin\"",
            r#"{"type":"array"}"#,
            r#"{"type":"fixed","name":"F"}"#,
            &deep,
            &wide,
        ] {
            assert!(Schema::parse(text, &[]).is_err(), "{}", &text[..text.len().min(40)]);
        }
    }
}
