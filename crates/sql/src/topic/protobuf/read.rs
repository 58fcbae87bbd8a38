//! The bytes of a message: a cell for each wanted field. Messages in it, lists and maps become JSON.
//!
//! As everywhere in Protobuf: of a field that is there twice the last one counts, messages that are there twice are one, and fields
//! with unknown numbers are nobody's business. A field with a known number whose bytes are of another type does not fit.

use std::borrow::Cow;
use std::collections::HashMap;

use indexmap::IndexMap;

use super::table::{Count, Field, Kind, Known, Message, MessageId, Table};
use super::wire::{self, Bad, MAX_DEPTH, Wire};
use crate::topic::cell::{Cell, push_json};

const MAX_TEXT_BYTES: usize = 16 << 20;

/// A field that the bytes have: its place in its message, and what there is.
type Found<'a> = (usize, Wire<'a>);

impl Table {
    /// Reads a value: into `cells`, what `slots` wants of the fields.
    pub fn read<'a>(
        &self,
        value: &'a [u8],
        slots: &[Option<usize>],
        cells: &mut [Cell<'a>],
    ) -> Result<(), Bad> {
        let message = &self.messages[0];
        let wanted = |place: usize| slots.get(place).copied().flatten();
        let found = message.found(value, |place| wanted(place).is_some())?;
        let mut groups = found.chunk_by(|one, other| one.0 == other.0).peekable();
        for (place, field) in message.fields.iter().enumerate() {
            let group = groups.next_if(|group| group[0].0 == place).unwrap_or_default();
            if let Some(slot) = wanted(place) {
                cells[slot] = self.cell(field, group, 0)?;
            }
        }
        Ok(())
    }

    fn cell<'a>(&self, field: &Field, found: &[Found<'a>], depth: usize) -> Result<Cell<'a>, Bad> {
        match (field.count, found.last()) {
            (Count::List | Count::Map, _) => {
                let mut json = String::new();
                let fits = self.json(field, found, &mut json, depth)?;
                Ok(if fits { Cell::Json(Cow::Owned(json)) } else { Cell::Misfit })
            }
            (Count::Optional, None) => Ok(Cell::Null),
            (Count::Required, None) => Ok(Cell::Misfit),
            (Count::Implicit, None) => Ok(field.kind.default()),
            (_, Some((_, last))) => match field.kind {
                Kind::Message(id) => self.message_cell(id, found, depth),
                _ => Ok(field.kind.cell(*last)),
            },
        }
    }

    fn message_cell<'a>(&self, id: MessageId, found: &[Found<'a>], depth: usize) -> Result<Cell<'a>, Bad> {
        if depth > MAX_DEPTH {
            return Err(Bad::TooLarge);
        }
        let Some(bytes) = merged(found) else { return Ok(Cell::Misfit) };
        let message = &self.messages[id];
        match (message.known, bytes) {
            (Some(Known::Timestamp), bytes) => {
                let (seconds, nanos) = message.seconds_and_nanos(&bytes)?;
                let micros =
                    seconds.checked_mul(1_000_000).and_then(|us| us.checked_add(nanos.div_euclid(1_000)));
                Ok(micros.map_or(Cell::Misfit, Cell::Timestamp))
            }
            (Some(Known::Duration), bytes) => {
                let (seconds, nanos) = message.seconds_and_nanos(&bytes)?;
                Ok(duration(seconds, nanos).map_or(Cell::Misfit, |text| Cell::Text(Cow::Owned(text))))
            }
            (Some(Known::Wrapper), Cow::Borrowed(bytes)) => self.inside(message, bytes, depth),
            // It is there twice: nobody writes that, and it would have to be copied.
            (Some(Known::Wrapper), Cow::Owned(_)) => Ok(Cell::Misfit),
            (Some(Known::Inside | Known::Value) | None, bytes) => {
                let mut json = String::new();
                let fits = self.json_message(id, &bytes, &mut json, depth + 1)?;
                Ok(if fits { Cell::Json(Cow::Owned(json)) } else { Cell::Misfit })
            }
        }
    }

    /// The one field of a message.
    fn inside<'a>(&self, message: &Message, bytes: &'a [u8], depth: usize) -> Result<Cell<'a>, Bad> {
        let found = message.found(bytes, |_| true)?;
        self.cell(&message.fields[0], &found, depth + 1)
    }

    /// Writes a field as JSON. `false`: something in it does not fit.
    fn json(&self, field: &Field, found: &[Found<'_>], json: &mut String, depth: usize) -> Result<bool, Bad> {
        if json.len() > MAX_TEXT_BYTES || depth > MAX_DEPTH {
            return Err(Bad::TooLarge);
        }
        match field.count {
            Count::List => {
                json.push('[');
                let fits = self.json_list(&field.kind, found, json, depth)?;
                json.push(']');
                Ok(fits)
            }
            Count::Map => self.json_map(&field.kind, found, json, depth),
            Count::Implicit | Count::Optional | Count::Required => match (&field.kind, found) {
                (Kind::Message(id), found) if !found.is_empty() && self.messages[*id].known.is_none() => {
                    let Some(bytes) = merged(found) else { return Ok(false) };
                    self.json_message(*id, &bytes, json, depth + 1)
                }
                _ => {
                    let cell = self.cell(field, found, depth)?;
                    cell.write_json(json);
                    Ok(cell != Cell::Misfit)
                }
            },
        }
    }

    fn json_list(
        &self,
        kind: &Kind,
        found: &[Found<'_>],
        json: &mut String,
        depth: usize,
    ) -> Result<bool, Bad> {
        let start = json.len();
        let item = |json: &mut String| {
            if json.len() > start {
                json.push_str(", ");
            }
            if json.len() > MAX_TEXT_BYTES { Err(Bad::TooLarge) } else { Ok(()) }
        };
        for one in found {
            match (kind, one.1) {
                (Kind::Message(id), _) => {
                    item(json)?;
                    let Some(bytes) = merged(std::slice::from_ref(one)) else { return Ok(false) };
                    if self.messages[*id].known.is_some() {
                        let cell = self.message_cell(*id, std::slice::from_ref(one), depth + 1)?;
                        cell.write_json(json);
                        if cell == Cell::Misfit {
                            return Ok(false);
                        }
                    } else if !self.json_message(*id, &bytes, json, depth + 1)? {
                        return Ok(false);
                    }
                }
                // Numbers may stand one behind the other in one field.
                (kind, Wire::Bytes(mut packed)) if kind.packs() => {
                    while !packed.is_empty() {
                        item(json)?;
                        kind.cell(kind.unpack(&mut packed)?).write_json(json);
                    }
                }
                (kind, wire) => {
                    item(json)?;
                    let cell = kind.cell(wire);
                    cell.write_json(json);
                    if cell == Cell::Misfit {
                        return Ok(false);
                    }
                }
            }
        }
        Ok(true)
    }

    /// Entries are messages of a key and a value. Of those with the same key, the last counts.
    fn json_map(
        &self,
        kind: &Kind,
        found: &[Found<'_>],
        json: &mut String,
        depth: usize,
    ) -> Result<bool, Bad> {
        let Kind::Message(entry) = kind else { return Ok(false) };
        let entry = &self.messages[*entry];
        let [key_field, value_field] = &entry.fields[..] else { return Ok(false) };
        let mut entries: IndexMap<String, Vec<Found<'_>>> = IndexMap::new();
        for (_, wire) in found {
            let Wire::Bytes(bytes) = wire else { return Ok(false) };
            let fields = entry.found(bytes, |_| true)?;
            let (keys, values): (Vec<Found<'_>>, Vec<Found<'_>>) =
                fields.into_iter().partition(|one| one.0 == 0);
            let key = match keys.last() {
                Some((_, wire)) => key_field.kind.cell(*wire),
                None => key_field.kind.default(),
            };
            if key == Cell::Misfit {
                return Ok(false);
            }
            entries.insert(key.text().into_owned(), values);
        }
        json.push('{');
        for (at, (key, values)) in entries.iter().enumerate() {
            if at > 0 {
                json.push_str(", ");
            }
            push_json(json, key);
            json.push_str(": ");
            let fits = match (&value_field.kind, &values[..]) {
                // A value that is not there is an empty one.
                (Kind::Message(_), []) => {
                    self.json(value_field, &[(1, Wire::Bytes(&[]))], json, depth + 1)?
                }
                (kind, []) => {
                    kind.default().write_json(json);
                    true
                }
                (_, values) => self.json(value_field, values, json, depth + 1)?,
            };
            if !fits {
                return Ok(false);
            }
        }
        json.push('}');
        Ok(true)
    }

    fn json_message(
        &self,
        id: MessageId,
        bytes: &[u8],
        json: &mut String,
        depth: usize,
    ) -> Result<bool, Bad> {
        if json.len() > MAX_TEXT_BYTES || depth > MAX_DEPTH {
            return Err(Bad::TooLarge);
        }
        let message = &self.messages[id];
        let found = message.found(bytes, |_| true)?;
        match message.known {
            Some(Known::Inside) => return self.json(&message.fields[0], &found, json, depth + 1),
            Some(Known::Value) => {
                return match found.last() {
                    // The first of them is null_value.
                    Some((place @ 1.., _)) => self.json(&message.fields[*place], &found, json, depth + 1),
                    Some((0, _)) | None => {
                        json.push_str("null");
                        Ok(true)
                    }
                };
            }
            Some(Known::Timestamp | Known::Duration | Known::Wrapper) | None => {}
        }
        let mut first = true;
        let mut implicit = message.implicit.iter().copied().peekable();
        json.push('{');
        let mut name = |place: usize, json: &mut String| {
            if !std::mem::take(&mut first) {
                json.push_str(", ");
            }
            push_json(json, &message.fields[place].name);
            json.push_str(": ");
        };
        for group in found.chunk_by(|one, other| one.0 == other.0) {
            let place = group[0].0;
            while let Some(before) = implicit.next_if(|before| *before <= place) {
                if before < place {
                    name(before, json);
                    self.json(&message.fields[before], &[], json, depth)?;
                }
            }
            name(place, json);
            if !self.json(&message.fields[place], group, json, depth)? {
                return Ok(false);
            }
        }
        for place in implicit {
            name(place, json);
            self.json(&message.fields[place], &[], json, depth)?;
        }
        json.push('}');
        Ok(true)
    }
}

/// The bytes of a message that is there once, or in pieces.
fn merged<'a>(found: &[Found<'a>]) -> Option<Cow<'a, [u8]>> {
    let bytes = |wire: &Wire<'a>| match wire {
        Wire::Bytes(bytes) | Wire::Group(bytes) => Some(*bytes),
        Wire::Varint(_) | Wire::Fixed64(_) | Wire::Fixed32(_) => None,
    };
    match found {
        [(_, one)] => bytes(one).map(Cow::Borrowed),
        many => {
            let pieces: Option<Vec<&[u8]>> = many.iter().map(|(_, wire)| bytes(wire)).collect();
            Some(Cow::Owned(pieces?.concat()))
        }
    }
}

impl Message {
    /// The fields that bytes have and somebody wants, by their places. Of alternatives there is the last one.
    fn found<'a>(&self, mut bytes: &'a [u8], wanted: impl Fn(usize) -> bool) -> Result<Vec<Found<'a>>, Bad> {
        let mut found: Vec<Found<'a>> = Vec::new();
        let mut chosen: HashMap<usize, usize> = HashMap::new();
        while let Some((number, wire)) = wire::next(&mut bytes)? {
            let Some(place) = self.by_number.get(&number).copied() else { continue };
            if let Some(oneof) = self.fields[place].oneof {
                chosen.insert(oneof, place);
            }
            if wanted(place) {
                found.push((place, wire));
            }
        }
        found.sort_by_key(|(place, _)| *place);
        if !chosen.is_empty() {
            let is_chosen = |place: usize, oneof: usize| chosen.get(&oneof) == Some(&place);
            found.retain(|(place, _)| self.fields[*place].oneof.is_none_or(|oneof| is_chosen(*place, oneof)));
        }
        Ok(found)
    }

    fn seconds_and_nanos(&self, bytes: &[u8]) -> Result<(i64, i64), Bad> {
        let found = self.found(bytes, |_| true)?;
        let last = |wanted: usize| match found.iter().rev().find(|(place, _)| *place == wanted) {
            None => Ok(0),
            Some((_, Wire::Varint(number))) => Ok(number.cast_signed()),
            Some(_) => Err(Bad::Form),
        };
        Ok((last(0)?, last(1)?))
    }
}

/// As Protobuf writes it in JSON. `None`: its parts do not go together.
fn duration(seconds: i64, nanos: i64) -> Option<String> {
    let good = nanos.unsigned_abs() < 1_000_000_000 && (seconds.signum() * nanos.signum() >= 0);
    good.then(|| {
        let sign = if seconds < 0 || nanos < 0 { "-" } else { "" };
        let behind = format!("{:09}", nanos.unsigned_abs());
        // None, three, six or nine of them.
        let digits = behind.trim_end_matches('0').len().div_ceil(3) * 3;
        let point = if digits > 0 { "." } else { "" };
        format!("{sign}{}{point}{}s", seconds.unsigned_abs(), &behind[..digits])
    })
}

impl Kind {
    fn default(&self) -> Cell<'static> {
        match self {
            Kind::Double => Cell::Float8(0.0),
            Kind::Float => Cell::Float4(0.0),
            Kind::Bool => Cell::Boolean(false),
            Kind::String => Cell::Text(Cow::Borrowed("")),
            Kind::Bytes => Cell::Bytes(Cow::Borrowed(&[])),
            Kind::Uint64 | Kind::Fixed64 => Cell::Numeric(0, 0),
            Kind::Enum(_) => self.cell(Wire::Varint(0)),
            Kind::Message(_) => Cell::Null,
            Kind::Int32
            | Kind::Int64
            | Kind::Uint32
            | Kind::Sint32
            | Kind::Sint64
            | Kind::Fixed32
            | Kind::Sfixed32
            | Kind::Sfixed64 => Cell::Int(0),
        }
    }

    /// The value of a field that is no message. What is too large for it loses its upper bits, as in other readers.
    fn cell<'a>(&self, wire: Wire<'a>) -> Cell<'a> {
        match (self, wire) {
            (Kind::Double, Wire::Fixed64(bits)) => Cell::Float8(f64::from_bits(bits)),
            (Kind::Float, Wire::Fixed32(bits)) => Cell::Float4(f32::from_bits(bits)),
            (Kind::Int32, Wire::Varint(number)) => Cell::Int(i64::from(number as i32)),
            (Kind::Int64, Wire::Varint(number)) => Cell::Int(number.cast_signed()),
            (Kind::Uint32, Wire::Varint(number)) => Cell::Int(i64::from(number as u32)),
            (Kind::Uint64, Wire::Varint(number)) | (Kind::Fixed64, Wire::Fixed64(number)) => {
                Cell::Numeric(i128::from(number), 0)
            }
            (Kind::Sint32, Wire::Varint(number)) => Cell::Int(wire::zigzag(u64::from(number as u32))),
            (Kind::Sint64, Wire::Varint(number)) => Cell::Int(wire::zigzag(number)),
            (Kind::Fixed32, Wire::Fixed32(number)) => Cell::Int(i64::from(number)),
            (Kind::Sfixed32, Wire::Fixed32(number)) => Cell::Int(i64::from(number.cast_signed())),
            (Kind::Sfixed64, Wire::Fixed64(number)) => Cell::Int(number.cast_signed()),
            (Kind::Bool, Wire::Varint(number)) => Cell::Boolean(number != 0),
            (Kind::String, Wire::Bytes(bytes)) => {
                std::str::from_utf8(bytes).map_or(Cell::Misfit, |text| Cell::Text(Cow::Borrowed(text)))
            }
            (Kind::Bytes, Wire::Bytes(bytes)) => Cell::Bytes(Cow::Borrowed(bytes)),
            (Kind::Enum(names), Wire::Varint(number)) => match names.get(&(number as i32)) {
                Some(name) => Cell::Text(Cow::Owned(name.clone())),
                None => Cell::Int(i64::from(number as i32)),
            },
            _ => Cell::Misfit,
        }
    }

    /// Whether many of them may stand in one field.
    fn packs(&self) -> bool {
        !matches!(self, Kind::String | Kind::Bytes | Kind::Message(_))
    }

    fn unpack(&self, packed: &mut &[u8]) -> Result<Wire<'static>, Bad> {
        match self {
            Kind::Double | Kind::Fixed64 | Kind::Sfixed64 => wire::fixed64(packed).map(Wire::Fixed64),
            Kind::Float | Kind::Fixed32 | Kind::Sfixed32 => wire::fixed32(packed).map(Wire::Fixed32),
            _ => wire::varint(packed).map(Wire::Varint),
        }
    }
}

#[cfg(test)]
mod tests;
