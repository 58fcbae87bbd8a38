//! What to do with each part of a value that was written with one schema, for a table that has another one ("Schema Resolution" of the
//! specification): fields are matched by name, numbers are promoted, what is missing takes its default.
//!
//! Differences from the specification, each of which gives more rows: records need not have the same name; a field that does not fit
//! makes its column NULL, and not the whole value unreadable.

use std::collections::{HashMap, HashSet};

use serde_json::Value;

use super::schema::{Field, Kind, Logical, Schema, Type, TypeId, Unit};
use crate::topic::cell::{Cell, hex, push_json};

/// The place of a step in its plan.
pub type StepId = usize;

/// More steps than any value needs; each pair of types that meet is one.
const MAX_STEPS: usize = 100_000;
const MAX_DEFAULT_BYTES: usize = 64 << 10;
const MAX_DEFAULT_DEPTH: usize = 32;

/// How the bytes of a value become cells, or JSON.
#[derive(Debug)]
pub struct Plan {
    steps: Vec<Step>,
    pub root: StepId,
}

#[derive(Debug)]
pub enum Step {
    Null,
    Scalar(Read, Give),
    /// The table's symbols, by the writer's numbers.
    Enum(Vec<Option<String>>),
    Record(RecordStep),
    Array(StepId),
    Map(StepId),
    Union(Vec<StepId>),
    /// Is read as the writer wrote it, and does not fit.
    Misfit(StepId),
}

#[derive(Debug, Default)]
pub struct RecordStep {
    pub fields: Vec<FieldStep>,
    pub missing: Vec<Missing>,
}

/// A field of the table's schema that the writer did not know.
#[derive(Debug)]
pub struct Missing {
    pub name: String,
    pub place: usize,
    /// In JSON. `None`: there is none, or it is none of its type.
    pub default: Option<String>,
}

#[derive(Debug)]
pub struct FieldStep {
    pub step: StepId,
    /// The name in the table's schema, and the place among its fields. `None`: it is skipped.
    pub wanted: Option<(String, usize)>,
}

/// What is in the bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Read {
    Boolean,
    Int,
    Long,
    Float,
    Double,
    Bytes,
    String,
    Fixed(usize),
}

/// What it means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Give {
    Plain,
    /// Bytes that are a text in the table, and a text that is bytes there.
    Text,
    Bytes,
    Logical(Logical),
}

impl Plan {
    /// `None`: it would be too large.
    pub fn new(writer: &Schema, reader: &Schema) -> Option<Plan> {
        let mut resolver =
            Resolver { writer, reader, steps: Vec::new(), known: HashMap::new(), open: Vec::new() };
        let root = resolver.step(writer.root, Some(reader.root));
        // One after the other, and not each within the other: a schema may be nested deeper than a stack.
        while let Some((writer, reader, id)) = resolver.open.pop() {
            if resolver.steps.len() > MAX_STEPS {
                return None;
            }
            let step = match reader {
                None => resolver.as_written(writer),
                Some(reader) => resolver.resolved(writer, reader),
            };
            resolver.steps[id] = match step {
                Some(step) => step,
                None => Step::Misfit(resolver.step(writer, None)),
            };
        }
        Some(Plan { steps: resolver.steps, root })
    }

    pub fn step(&self, id: StepId) -> &Step {
        &self.steps[id]
    }
}

struct Resolver<'s> {
    writer: &'s Schema,
    reader: &'s Schema,
    steps: Vec<Step>,
    /// By the writer's type and the reader's; without one, for skipping.
    known: HashMap<(TypeId, Option<TypeId>), StepId>,
    /// Steps that have a place, and nothing there yet.
    open: Vec<(TypeId, Option<TypeId>, StepId)>,
}

impl Resolver<'_> {
    /// How to read what the writer wrote as what the reader wants; without a reader, as it is.
    fn step(&mut self, writer: TypeId, reader: Option<TypeId>) -> StepId {
        let next = self.steps.len();
        let id = *self.known.entry((writer, reader)).or_insert(next);
        if id == next {
            self.steps.push(Step::Null);
            self.open.push((writer, reader, id));
        }
        id
    }

    fn as_written(&mut self, writer: TypeId) -> Option<Step> {
        let Type { kind, logical } = self.writer.get(writer).clone();
        Some(match kind {
            Kind::Null => Step::Null,
            Kind::Enum { symbols, .. } => Step::Enum(symbols.into_iter().map(Some).collect()),
            Kind::Record { fields, .. } => {
                let step =
                    |field: &Field| FieldStep { step: self.step(field.field_type, None), wanted: None };
                Step::Record(RecordStep { fields: fields.iter().map(step).collect(), missing: Vec::new() })
            }
            Kind::Array(items) => Step::Array(self.step(items, None)),
            Kind::Map(values) => Step::Map(self.step(values, None)),
            Kind::Union(branches) => {
                Step::Union(branches.into_iter().map(|branch| self.step(branch, None)).collect())
            }
            other => Step::Scalar(read_of(&other)?, logical.map_or(Give::Plain, Give::Logical)),
        })
    }

    /// `None`: the two do not go together.
    fn resolved(&mut self, writer: TypeId, reader: TypeId) -> Option<Step> {
        if let Kind::Union(branches) = self.writer.get(writer).kind.clone() {
            let steps = branches.into_iter().map(|branch| self.step(branch, Some(reader))).collect();
            return Some(Step::Union(steps));
        }
        if let Kind::Union(branches) = &self.reader.get(reader).kind {
            let branch = self.branch(writer, branches)?;
            return self.resolved(writer, branch);
        }
        let (written, wanted) = (self.writer.get(writer).clone(), self.reader.get(reader).clone());
        match (written.kind, wanted.kind) {
            (Kind::Null, Kind::Null) => Some(Step::Null),
            (Kind::Record { fields, .. }, Kind::Record { fields: wanted, .. }) => {
                Some(Step::Record(self.record(&fields, &wanted)))
            }
            (Kind::Array(items), Kind::Array(wanted)) => Some(Step::Array(self.step(items, Some(wanted)))),
            (Kind::Map(values), Kind::Map(wanted)) => Some(Step::Map(self.step(values, Some(wanted)))),
            (Kind::Enum { symbols, .. }, Kind::Enum { symbols: wanted, default, .. }) => {
                let known =
                    |symbol: String| if wanted.contains(&symbol) { Some(symbol) } else { default.clone() };
                Some(Step::Enum(symbols.into_iter().map(known).collect()))
            }
            (written_kind, wanted_kind) => {
                let (read, wants) = (read_of(&written_kind)?, read_of(&wanted_kind)?);
                let give = match (promotes(read, wants)?, wanted.logical) {
                    (give @ (Give::Text | Give::Bytes), _) => give,
                    (_, None) => Give::Plain,
                    // A number counts what its writer says that it counts.
                    (_, Some(logical)) => Give::Logical(written.logical.unwrap_or(logical)),
                };
                Some(Step::Scalar(read, give))
            }
        }
    }

    /// The branch of the reader's union for what was written: the same type, or else the first that it can become.
    fn branch(&self, writer: TypeId, branches: &[TypeId]) -> Option<TypeId> {
        let written = &self.writer.get(writer).kind;
        let same = branches.iter().find(|id| is_same(written, &self.reader.get(**id).kind));
        let becomes = |id: &&TypeId| {
            let wanted = &self.reader.get(**id).kind;
            match (read_of(written), read_of(wanted)) {
                (Some(read), Some(wants)) => promotes(read, wants).is_some(),
                // Records with other names.
                _ => std::mem::discriminant(written) == std::mem::discriminant(wanted),
            }
        };
        same.or_else(|| branches.iter().find(becomes)).copied()
    }

    fn record(&mut self, written: &[Field], wanted: &[Field]) -> RecordStep {
        let places = Places::new(written, wanted);
        let mut record = RecordStep::default();
        let mut found = vec![false; wanted.len()];
        for field in written {
            let place = places.of(&field.name).filter(|place| !std::mem::replace(&mut found[*place], true));
            let step = self.step(field.field_type, place.map(|place| wanted[place].field_type));
            let wanted = place.map(|place| (wanted[place].name.clone(), place));
            record.fields.push(FieldStep { step, wanted });
        }
        let missing = wanted.iter().enumerate().filter(|(place, _)| !found[*place]);
        record.missing = missing.map(|(place, field)| self.missing(place, field)).collect();
        record
    }

    fn missing(&self, place: usize, field: &Field) -> Missing {
        let mut json = String::new();
        let default = field.default.as_ref();
        let default =
            default.and_then(|value| write_default(self.reader, field.field_type, value, &mut json, 0));
        Missing { name: field.name.clone(), place, default: default.map(|()| json) }
    }
}

/// Which of the reader's fields a writer's field is: that of its name, or one that had this name before.
struct Places<'f> {
    by_name: HashMap<&'f str, usize>,
    by_alias: HashMap<&'f str, usize>,
}

impl<'f> Places<'f> {
    fn new(written: &[Field], wanted: &'f [Field]) -> Places<'f> {
        let by_name = wanted.iter().enumerate().map(|(place, field)| (field.name.as_str(), place)).collect();
        let names: HashSet<&str> = written.iter().map(|field| field.name.as_str()).collect();
        let gone = wanted.iter().enumerate().filter(|(_, field)| !names.contains(field.name.as_str()));
        let aliases = |(place, field): (usize, &'f Field)| {
            field.aliases.iter().map(move |alias| (alias.as_str(), place))
        };
        Places { by_name, by_alias: gone.flat_map(aliases).collect() }
    }

    fn of(&self, name: &str) -> Option<usize> {
        self.by_name.get(name).or_else(|| self.by_alias.get(name)).copied()
    }
}

fn read_of(kind: &Kind) -> Option<Read> {
    Some(match kind {
        Kind::Boolean => Read::Boolean,
        Kind::Int => Read::Int,
        Kind::Long => Read::Long,
        Kind::Float => Read::Float,
        Kind::Double => Read::Double,
        Kind::Bytes => Read::Bytes,
        Kind::String => Read::String,
        Kind::Fixed { size, .. } => Read::Fixed(*size),
        Kind::Null | Kind::Enum { .. } | Kind::Record { .. } => return None,
        Kind::Array(_) | Kind::Map(_) | Kind::Union(_) => return None,
    })
}

/// Whether what was written can become what is wanted.
fn promotes(read: Read, wanted: Read) -> Option<Give> {
    match (read, wanted) {
        (Read::Int, Read::Long | Read::Float | Read::Double)
        | (Read::Long, Read::Float | Read::Double)
        | (Read::Float, Read::Double) => Some(Give::Plain),
        (Read::Bytes, Read::String) => Some(Give::Text),
        (Read::String, Read::Bytes) => Some(Give::Bytes),
        (one, other) if one == other => Some(Give::Plain),
        _ => None,
    }
}

fn is_same(written: &Kind, wanted: &Kind) -> bool {
    match (written, wanted) {
        (Kind::Record { name, .. }, Kind::Record { name: other, .. })
        | (Kind::Enum { name, .. }, Kind::Enum { name: other, .. })
        | (Kind::Fixed { name, .. }, Kind::Fixed { name: other, .. }) => {
            unqualified(name) == unqualified(other)
        }
        _ => std::mem::discriminant(written) == std::mem::discriminant(wanted),
    }
}

fn unqualified(name: &str) -> &str {
    name.rsplit('.').next().unwrap_or(name)
}

/// A default as the JSON that a value would have been given as. `None`: it is none of its type.
fn write_default(
    schema: &Schema,
    id: TypeId,
    default: &Value,
    json: &mut String,
    depth: usize,
) -> Option<()> {
    // A record may contain itself, by default.
    if depth > MAX_DEFAULT_DEPTH || json.len() > MAX_DEFAULT_BYTES {
        return None;
    }
    let inner =
        |id: TypeId, value: &Value, json: &mut String| write_default(schema, id, value, json, depth + 1);
    let Type { kind, logical } = schema.get(id);
    let whole = |give: fn(i64) -> Option<Cell<'static>>| default.as_i64().and_then(give);
    let micros = |unit: Unit| default.as_i64().and_then(|units| unit.micros(units));
    let bytes =
        || default.as_str()?.chars().map(|c| u8::try_from(u32::from(c)).ok()).collect::<Option<Vec<u8>>>();
    let cell = match (kind, logical, default) {
        (Kind::Null, _, Value::Null) => Cell::Null,
        (_, Some(Logical::Date), _) => whole(|n| Some(Cell::Date(i32::try_from(n).ok()?)))?,
        (_, Some(Logical::TimeMillis), _) => whole(|n| Some(Cell::Time(n.checked_mul(1_000)?)))?,
        (_, Some(Logical::TimeMicros), _) => whole(|n| Some(Cell::Time(n)))?,
        (_, Some(Logical::Timestamp(unit)), _) => Cell::Timestamp(micros(*unit)?),
        (_, Some(Logical::LocalTimestamp(unit)), _) => Cell::LocalTimestamp(micros(*unit)?),
        (_, Some(Logical::Decimal { scale, .. }), _) => {
            json.push_str(&super::read::decimal_text(&bytes()?, *scale));
            return Some(());
        }
        (Kind::Boolean, _, Value::Bool(value)) => Cell::Boolean(*value),
        (Kind::Int | Kind::Long, _, Value::Number(_)) => whole(|n| Some(Cell::Int(n)))?,
        (Kind::Float | Kind::Double, _, Value::Number(n)) => Cell::Float8(n.as_f64()?),
        (Kind::String | Kind::Enum { .. }, _, Value::String(text)) => Cell::Text(text.into()),
        (Kind::Bytes | Kind::Fixed { .. }, _, _) => {
            push_json(json, &hex(&bytes()?));
            return Some(());
        }
        (Kind::Array(items), _, Value::Array(values)) => {
            return separated(json, ('[', ']'), values, |value, json| inner(*items, value, json));
        }
        (Kind::Map(of), _, Value::Object(values)) => {
            return separated(json, ('{', '}'), values, |(name, value), json| {
                push_json(json, name);
                json.push_str(": ");
                inner(*of, value, json)
            });
        }
        (Kind::Record { fields, .. }, _, Value::Object(values)) => {
            return separated(json, ('{', '}'), fields, |field, json| {
                let value = values.get(&field.name).or(field.default.as_ref())?;
                push_json(json, &field.name);
                json.push_str(": ");
                inner(field.field_type, value, json)
            });
        }
        (Kind::Union(branches), _, value) => {
            let start = json.len();
            return branches.iter().find_map(|branch| {
                json.truncate(start);
                inner(*branch, value, json)
            });
        }
        _ => return None,
    };
    cell.write_json(json);
    Some(())
}

/// Writes items with commas between them.
fn separated<T>(
    json: &mut String,
    (open, close): (char, char),
    items: impl IntoIterator<Item = T>,
    mut write: impl FnMut(T, &mut String) -> Option<()>,
) -> Option<()> {
    json.push(open);
    for (at, item) in items.into_iter().enumerate() {
        if at > 0 {
            json.push_str(", ");
        }
        write(item, json)?;
    }
    json.push(close);
    Some(())
}
