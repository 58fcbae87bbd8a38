//! One interface for all formats: from the bytes of a value to a cell for each wanted column.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use kafscale_core::sql_schema::{MAX_COLUMNS, SqlColumn, SqlType};
use parking_lot::RwLock;
use serde::de::IgnoredAny;

use super::cell::Cell;
use super::decode::split_csv;
use super::json::Fields;
use super::layout::{Layout, MetaColumn, ValueFormat};
use super::protobuf::wire;
use super::registry::{Registered, Registry, RegistryError};
use super::{avro, protobuf};

/// A scan asks the registry for so many ids that it does not have. Values could have billions of them.
const UNKNOWN_IDS: usize = 100;
/// And remembers so many writers.
const WRITERS: usize = 10_000;

/// Why a value gives no cells.
#[derive(Debug)]
pub enum NoValue {
    /// It is none of its format.
    Bad,
    /// It cannot be read, for a reason that it shares with others.
    Because(String),
    /// Nobody knows whether it can be read.
    Registry(RegistryError),
}

/// Where the columns of a table come from, and what else is to be known to read its values.
#[derive(Debug, Clone)]
pub enum Source {
    Avro { table: Arc<avro::Schema>, from: Origin },
    Protobuf { table: Arc<protobuf::Table>, file: protobuf::File, from: Origin },
}

/// Who has the schemas of writers.
#[derive(Debug, Clone)]
pub enum Origin {
    Registry(Arc<Registry>),
    /// The table's schema is the writer's. With `framed`, values of Avro have the id of a schema before them: nothing in the bytes
    /// tells one from the other. Those of Protobuf may have it or not.
    Here {
        framed: bool,
    },
}

impl Source {
    pub fn format(&self) -> ValueFormat {
        match self {
            Source::Avro { .. } => ValueFormat::Avro,
            Source::Protobuf { .. } => ValueFormat::Protobuf,
        }
    }

    pub fn columns(&self) -> Vec<SqlColumn> {
        self.fields().into_iter().map(|(_, column)| column).collect()
    }

    /// The columns, and the place of the field that each is of. Names that every topic has are taken.
    fn fields(&self) -> Vec<(usize, SqlColumn)> {
        let columns = match self {
            Source::Avro { table, .. } => table.columns(),
            Source::Protobuf { table, .. } => table.columns(),
        };
        let taken = |name: &str| MetaColumn::ALL.iter().any(|meta| meta.name() == name);
        let free = columns.into_iter().enumerate().filter(|(_, (name, _))| !taken(name));
        free.take(MAX_COLUMNS)
            .map(|(place, (name, sql_type))| (place, SqlColumn { name, sql_type }))
            .collect()
    }

    /// By the places of fields: the places among the wanted columns.
    fn slots(&self, wanted: &[usize]) -> Vec<Option<usize>> {
        let fields = self.fields();
        let last = fields.last().map_or(0, |(place, _)| place + 1);
        let mut slots = vec![None; last];
        for (slot, column) in wanted.iter().enumerate() {
            slots[fields[*column].0] = Some(slot);
        }
        slots
    }
}

/// Reads the values of a topic.
#[derive(Debug)]
pub enum Reader {
    Json(Fields),
    /// The places of the wanted fields in a line, and whether they are JSON.
    Csv(Vec<(usize, bool)>),
    Avro(AvroReader),
    Protobuf(ProtobufReader),
    /// There are no columns of values.
    Nothing,
}

impl Reader {
    /// For some of the columns, by their places among those of the values.
    pub fn new(layout: &Layout, wanted: &[usize]) -> Reader {
        let columns = || wanted.iter().map(|place| &layout.columns[*place]);
        if wanted.is_empty() {
            return Reader::Nothing;
        }
        match (layout.format, &layout.source) {
            (_, Some(source @ Source::Avro { table, from })) => Reader::Avro(AvroReader {
                table: Arc::clone(table),
                slots: source.slots(wanted),
                own: avro::Plan::new(table, table).map(Arc::new),
                writers: Writers::new(from),
            }),
            (_, Some(source @ Source::Protobuf { table, file, from })) => Reader::Protobuf(ProtobufReader {
                table: Arc::clone(table),
                file: file.clone(),
                slots: source.slots(wanted),
                writers: Writers::new(from),
            }),
            (ValueFormat::Json, None) => Reader::Json(Fields::new(columns())),
            (ValueFormat::Csv, None) => {
                let is_json = columns().map(|column| column.sql_type == SqlType::Json);
                Reader::Csv(wanted.iter().copied().zip(is_json).collect())
            }
            (ValueFormat::Text | ValueFormat::Raw | ValueFormat::Avro | ValueFormat::Protobuf, None) => {
                Reader::Nothing
            }
        }
    }

    /// Puts what is wanted of a value into its cells, which are NULL before. After an error they are anything.
    pub fn read<'a>(&self, value: &'a [u8], cells: &mut [Cell<'a>]) -> Result<(), NoValue> {
        match self {
            Reader::Json(fields) => {
                let fits = fields.each(value, |place, raw| cells[place] = Cell::Json(Cow::Borrowed(raw)));
                if fits { Ok(()) } else { Err(NoValue::Bad) }
            }
            Reader::Csv(places) => {
                let fields = std::str::from_utf8(value).ok().and_then(split_csv).ok_or(NoValue::Bad)?;
                for (cell, (place, is_json)) in cells.iter_mut().zip(places) {
                    *cell = match fields.get(*place) {
                        None => Cell::Null,
                        Some(text) if text.is_empty() => Cell::Null,
                        Some(text) if !is_json => Cell::Text(Cow::Owned(text.clone())),
                        Some(text) => match serde_json::from_str::<IgnoredAny>(text) {
                            Ok(_) => Cell::Json(Cow::Owned(text.clone())),
                            Err(_) => Cell::Misfit,
                        },
                    };
                }
                Ok(())
            }
            Reader::Avro(reader) => reader.read(value, cells),
            Reader::Protobuf(reader) => reader.read(value, cells),
            Reader::Nothing => Ok(()),
        }
    }
}

type ByHead<T> = HashMap<Box<[u8]>, Result<T, String>>;

/// What is known of those who wrote the values, by the first bytes of these.
#[derive(Debug)]
struct Writers<T> {
    from: Origin,
    known: RwLock<ByHead<T>>,
    unknown: AtomicUsize,
}

impl<T: Clone> Writers<T> {
    fn new(from: &Origin) -> Writers<T> {
        Writers { from: from.clone(), known: RwLock::default(), unknown: AtomicUsize::new(0) }
    }

    fn of(
        &self,
        head: &[u8],
        id: u32,
        make: impl FnOnce(Option<Registered>) -> Result<T, String>,
    ) -> Result<T, NoValue> {
        if let Some(known) = self.known.read().get(head) {
            return known.clone().map_err(NoValue::Because);
        }
        let made = match &self.from {
            Origin::Here { .. } => make(None),
            Origin::Registry(registry) => {
                if self.unknown.load(Ordering::Relaxed) >= UNKNOWN_IDS {
                    return Err(NoValue::Because(
                        "too many ids that the schema registry does not have".to_owned(),
                    ));
                }
                match registry.wait_for(id).map_err(NoValue::Registry)? {
                    Registered::Unknown => {
                        self.unknown.fetch_add(1, Ordering::Relaxed);
                        Err(format!("the schema registry {} has no schema {id}", registry.url()))
                    }
                    Registered::Unusable(why) => Err(format!("the schema {id} cannot be used: {why}")),
                    found @ (Registered::Avro(_) | Registered::Protobuf(_)) => {
                        make(Some(found)).map_err(|why| format!("schema {id}: {why}"))
                    }
                }
            }
        };
        let mut known = self.known.write();
        if known.len() >= WRITERS {
            known.clear();
        }
        known.insert(head.into(), made.clone());
        made.map_err(NoValue::Because)
    }
}

/// The id of a value's schema: a 0, then the number with the highest byte first.
pub fn framed(value: &[u8]) -> Option<(u32, &[u8])> {
    let (head, rest) = value.split_first_chunk::<5>()?;
    let [0, id @ ..] = head else { return None };
    Some((u32::from_be_bytes(*id), rest))
}

fn unframed() -> NoValue {
    NoValue::Because("values do not begin with the id of a schema".to_owned())
}

#[derive(Debug)]
pub struct AvroReader {
    table: Arc<avro::Schema>,
    slots: Vec<Option<usize>>,
    own: Option<Arc<avro::Plan>>,
    writers: Writers<Arc<avro::Plan>>,
}

impl AvroReader {
    fn read<'a>(&self, value: &'a [u8], cells: &mut [Cell<'a>]) -> Result<(), NoValue> {
        let too_large = || "the schemas are too large together".to_owned();
        if let Origin::Here { framed: has_id } = self.writers.from {
            let own = self.own.as_ref().ok_or_else(|| NoValue::Because(too_large()))?;
            let value = if has_id { framed(value).ok_or_else(unframed)?.1 } else { value };
            return own.read(value, &self.slots, cells).map_err(|_| NoValue::Bad);
        }
        let (id, rest) = framed(value).ok_or_else(unframed)?;
        let plan = self.writers.of(&value[..5], id, |writer| match writer {
            Some(Registered::Avro(writer)) => {
                avro::Plan::new(&writer, &self.table).map(Arc::new).ok_or_else(too_large)
            }
            _ => Err("it is no schema of Avro".to_owned()),
        })?;
        plan.read(rest, &self.slots, cells).map_err(|_| NoValue::Bad)
    }
}

#[derive(Debug)]
pub struct ProtobufReader {
    table: Arc<protobuf::Table>,
    file: protobuf::File,
    slots: Vec<Option<usize>>,
    writers: Writers<()>,
}

impl ProtobufReader {
    fn read<'a>(&self, value: &'a [u8], cells: &mut [Cell<'a>]) -> Result<(), NoValue> {
        // No message begins with a 0, so that none is taken for the other.
        let Some((id, mut rest)) = framed(value) else {
            return match self.writers.from {
                Origin::Here { .. } => self.table.read(value, &self.slots, cells).map_err(|_| NoValue::Bad),
                Origin::Registry(_) => Err(unframed()),
            };
        };
        let places = places(&mut rest).ok_or(NoValue::Bad)?;
        let head = &value[..value.len() - rest.len()];
        self.writers.of(head, id, |writer| {
            let written = match &writer {
                None => self.file.at(&places),
                Some(Registered::Protobuf(file)) => file.at(&places),
                Some(_) => return Err("it is no schema of Protobuf".to_owned()),
            };
            // Fields are known by their numbers, so that the table's message reads what other versions of it wrote.
            match written {
                Some(message) if message.full_name() == self.table.name() => Ok(()),
                Some(message) => {
                    Err(format!("values are {}, and not {}", message.full_name(), self.table.name()))
                }
                None => Err(format!("there is no message at {places:?}")),
            }
        })?;
        self.table.read(rest, &self.slots, cells).map_err(|_| NoValue::Bad)
    }
}

/// Which message a value is, as a list of places: a count and then as many numbers, in zigzag; a 0 alone is the first.
pub fn places(bytes: &mut &[u8]) -> Option<Vec<i64>> {
    const MOST: i64 = 32;
    let mut number = || wire::varint(bytes).ok().map(wire::zigzag);
    match number()? {
        0 => Some(vec![0]),
        count @ 1..=MOST => (0..count).map(|_| number()).collect(),
        _ => None,
    }
}
