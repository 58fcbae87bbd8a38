//! What is to be known of a message and of those in it to read their bytes, and the columns that it gives.

use std::collections::{BTreeMap, HashMap};

use kafscale_core::sql_schema::SqlType;
use prost_reflect::{Cardinality, FieldDescriptor, Kind as FieldKind, MessageDescriptor};

/// The place of a message among those of its table.
pub type MessageId = usize;

#[derive(Debug)]
pub struct Table {
    pub(super) messages: Vec<Message>,
}

impl Table {
    /// All of it as text, the same for the same table.
    pub fn described(&self) -> String {
        let message = |Message { name, fields, by_number, known, implicit }: &Message| {
            let numbers: BTreeMap<_, _> = by_number.iter().collect();
            format!("{name} {fields:?} {numbers:?} {known:?} {implicit:?}\n")
        };
        self.messages.iter().map(message).collect()
    }
}

#[derive(Debug)]
pub struct Message {
    pub(super) name: String,
    pub(super) fields: Vec<Field>,
    pub(super) by_number: HashMap<u32, usize>,
    pub(super) known: Option<Known>,
    /// Its fields that have a value also where the bytes say nothing, in JSON.
    pub(super) implicit: Vec<usize>,
}

/// Messages that mean something that SQL has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Known {
    Timestamp,
    Duration,
    Wrapper,
    /// Struct and ListValue, whose one field is their value.
    Inside,
    Value,
}

#[derive(Debug)]
pub struct Field {
    pub(super) name: String,
    pub(super) kind: Kind,
    pub(super) count: Count,
    /// Which of the alternatives of its message it belongs to.
    pub(super) oneof: Option<usize>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Count {
    /// Always has a value.
    Implicit,
    Optional,
    Required,
    List,
    Map,
}

#[derive(Debug)]
pub enum Kind {
    Double,
    Float,
    Int32,
    Int64,
    Uint32,
    Uint64,
    Sint32,
    Sint64,
    Fixed32,
    Fixed64,
    Sfixed32,
    Sfixed64,
    Bool,
    String,
    Bytes,
    Enum(HashMap<i32, String>),
    Message(MessageId),
}

impl Table {
    pub fn new(root: &MessageDescriptor) -> Table {
        let (mut places, mut open) = (HashMap::from([(root.full_name().to_owned(), 0)]), vec![root.clone()]);
        let mut messages = Vec::new();
        // A message that is not known yet is put behind the others.
        while let Some(descriptor) = open.get(messages.len()).cloned() {
            let mut place = |inner: MessageDescriptor| {
                let next = open.len();
                let id = *places.entry(inner.full_name().to_owned()).or_insert(next);
                if id == next {
                    open.push(inner);
                }
                id
            };
            messages.push(Message::new(&descriptor, &mut place));
        }
        Table { messages }
    }

    /// The full name of the message.
    pub fn name(&self) -> &str {
        &self.messages[0].name
    }

    /// Name and type of each column.
    pub fn columns(&self) -> Vec<(String, SqlType)> {
        let column = |field: &Field| (field.name.clone(), self.sql_type(field));
        self.messages[0].fields.iter().map(column).collect()
    }

    fn sql_type(&self, field: &Field) -> SqlType {
        if matches!(field.count, Count::List | Count::Map) {
            return SqlType::Json;
        }
        match &field.kind {
            Kind::Double => SqlType::Float8,
            Kind::Float => SqlType::Float4,
            Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => SqlType::Int4,
            Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 | Kind::Uint32 | Kind::Fixed32 => SqlType::Int8,
            Kind::Uint64 | Kind::Fixed64 => SqlType::Numeric(20, 0),
            Kind::Bool => SqlType::Boolean,
            Kind::String | Kind::Enum(_) => SqlType::Text,
            Kind::Bytes => SqlType::Bytea,
            Kind::Message(id) => match self.messages[*id].known {
                Some(Known::Timestamp) => SqlType::Timestamp,
                Some(Known::Duration) => SqlType::Text,
                Some(Known::Wrapper) => {
                    self.messages[*id].fields.first().map_or(SqlType::Json, |inner| self.sql_type(inner))
                }
                Some(Known::Inside | Known::Value) | None => SqlType::Json,
            },
        }
    }
}

impl Message {
    fn new(
        descriptor: &MessageDescriptor,
        place: &mut impl FnMut(MessageDescriptor) -> MessageId,
    ) -> Message {
        let mut fields: Vec<Field> = Vec::new();
        let (mut by_number, mut oneofs) = (HashMap::new(), HashMap::new());
        // In the order of the text, and not of their numbers.
        let mut in_order: Vec<FieldDescriptor> = descriptor.fields().collect();
        in_order.sort_by_key(|field| field.path().last().copied());
        for field in in_order {
            by_number.insert(field.number(), fields.len());
            let oneof = field.containing_oneof().map(|oneof| {
                let next = oneofs.len();
                *oneofs.entry(oneof.full_name().to_owned()).or_insert(next)
            });
            let count = match field.cardinality() {
                _ if field.is_map() => Count::Map,
                Cardinality::Repeated => Count::List,
                Cardinality::Required => Count::Required,
                Cardinality::Optional if field.supports_presence() => Count::Optional,
                Cardinality::Optional => Count::Implicit,
            };
            fields.push(Field {
                name: field.name().to_owned(),
                kind: Kind::new(field.kind(), place),
                count,
                oneof,
            });
        }
        let has_value = |field: &Field| matches!(field.count, Count::Implicit | Count::List | Count::Map);
        let implicit = (0..fields.len()).filter(|at| has_value(&fields[*at])).collect();
        let name = descriptor.full_name().to_owned();
        Message { known: Known::of(&name, fields.len()), name, fields, by_number, implicit }
    }
}

impl Known {
    /// A message of one of these names that somebody else has written has other fields, as likely as not.
    fn of(name: &str, fields: usize) -> Option<Known> {
        let known = match (name.strip_prefix("google.protobuf.")?, fields) {
            ("Timestamp", 2) => Known::Timestamp,
            ("Duration", 2) => Known::Duration,
            ("Struct" | "ListValue", 1) => Known::Inside,
            ("Value", 6) => Known::Value,
            (
                "DoubleValue" | "FloatValue" | "Int64Value" | "UInt64Value" | "Int32Value" | "UInt32Value"
                | "BoolValue" | "StringValue" | "BytesValue",
                1,
            ) => Known::Wrapper,
            _ => return None,
        };
        Some(known)
    }
}

impl Kind {
    fn new(kind: FieldKind, place: &mut impl FnMut(MessageDescriptor) -> MessageId) -> Kind {
        match kind {
            FieldKind::Double => Kind::Double,
            FieldKind::Float => Kind::Float,
            FieldKind::Int32 => Kind::Int32,
            FieldKind::Int64 => Kind::Int64,
            FieldKind::Uint32 => Kind::Uint32,
            FieldKind::Uint64 => Kind::Uint64,
            FieldKind::Sint32 => Kind::Sint32,
            FieldKind::Sint64 => Kind::Sint64,
            FieldKind::Fixed32 => Kind::Fixed32,
            FieldKind::Fixed64 => Kind::Fixed64,
            FieldKind::Sfixed32 => Kind::Sfixed32,
            FieldKind::Sfixed64 => Kind::Sfixed64,
            FieldKind::Bool => Kind::Bool,
            FieldKind::String => Kind::String,
            FieldKind::Bytes => Kind::Bytes,
            FieldKind::Enum(values) => {
                // Of several names for a number, the first counts.
                let mut names = HashMap::new();
                for value in values.values() {
                    names.entry(value.number()).or_insert_with(|| value.name().to_owned());
                }
                Kind::Enum(names)
            }
            FieldKind::Message(message) => Kind::Message(place(message)),
        }
    }
}
