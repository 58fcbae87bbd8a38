//! The bytes of a value, by a plan: a cell for each wanted column. Nested values become JSON.
//!
//! Invariant: time and memory are bounded by the length of the value, whatever the bytes and the schema say. Types that take no bytes
//! (`null`, a record of nothing) could be repeated 2^63 times in ten bytes, so that what is read is counted too.

use std::borrow::Cow;

use super::resolve::{Give, Plan, Read, RecordStep, Step, StepId};
use super::schema::Logical;
use crate::topic::cell::{Cell, push_json};
use crate::topic::values::with_point;

/// Values within values.
const MAX_DEPTH: usize = 100;
/// What may be read beside one thing for each byte, and the text that it may become.
const FREE_STEPS: usize = 10_000;
const MAX_TEXT_BYTES: usize = 16 << 20;
/// Of one decimal: 1,233 digits.
const MAX_DECIMAL_BYTES: usize = 512;
/// Nine digits.
const GROUP: u64 = 1_000_000_000;

/// Why bytes are no value of a schema.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Bad {
    #[error("the bytes end before the value does, or go on behind it")]
    Length,
    #[error("the bytes are none of its schema")]
    Form,
    #[error("it is nested too deep, or too large as JSON")]
    TooLarge,
}

impl Plan {
    /// Reads a value: into `cells`, what `slots` wants of the table's fields. What has no field in the value stays as it is there.
    pub fn read<'a>(
        &self,
        value: &'a [u8],
        slots: &[Option<usize>],
        cells: &mut [Cell<'a>],
    ) -> Result<(), Bad> {
        let mut input = Input { bytes: value, left: value.len().saturating_add(FREE_STEPS), depth: 0 };
        self.row(self.root, &mut input, slots, cells)?;
        if input.bytes.is_empty() { Ok(()) } else { Err(Bad::Length) }
    }

    fn row<'a>(
        &self,
        id: StepId,
        input: &mut Input<'a>,
        slots: &[Option<usize>],
        cells: &mut [Cell<'a>],
    ) -> Result<(), Bad> {
        match self.step(id) {
            Step::Union(branches) => {
                let branch = input.branch(branches)?;
                input.nested(|input| self.row(branch, input, slots, cells))
            }
            Step::Record(record) => self.fields(record, input, slots, cells),
            Step::Misfit(_) => Err(Bad::Form),
            Step::Null | Step::Scalar(..) | Step::Enum(_) | Step::Array(_) | Step::Map(_) => {
                match slots.first().copied().flatten() {
                    Some(slot) => cells[slot] = self.cell(id, input)?,
                    None => self.skip(id, input)?,
                }
                Ok(())
            }
        }
    }

    fn fields<'a>(
        &self,
        record: &RecordStep,
        input: &mut Input<'a>,
        slots: &[Option<usize>],
        cells: &mut [Cell<'a>],
    ) -> Result<(), Bad> {
        let slot_of = |place: usize| slots.get(place).copied().flatten();
        for field in &record.fields {
            match field.wanted.as_ref().and_then(|(_, place)| slot_of(*place)) {
                Some(slot) => cells[slot] = self.cell(field.step, input)?,
                None => self.skip(field.step, input)?,
            }
        }
        for missing in &record.missing {
            if let Some(slot) = slot_of(missing.place) {
                cells[slot] = match &missing.default {
                    Some(json) => Cell::Json(Cow::Owned(json.clone())),
                    None => Cell::Misfit,
                };
            }
        }
        Ok(())
    }

    fn cell<'a>(&self, id: StepId, input: &mut Input<'a>) -> Result<Cell<'a>, Bad> {
        Ok(match self.step(id) {
            Step::Null => Cell::Null,
            Step::Scalar(read, give) => input.scalar(*read, *give)?,
            Step::Enum(symbols) => match input.symbol(symbols)? {
                Some(symbol) => Cell::Text(Cow::Owned(symbol.to_owned())),
                None => Cell::Misfit,
            },
            Step::Union(branches) => {
                let branch = input.branch(branches)?;
                return input.nested(|input| self.cell(branch, input));
            }
            Step::Misfit(as_written) => {
                self.skip(*as_written, input)?;
                Cell::Misfit
            }
            Step::Record(_) | Step::Array(_) | Step::Map(_) => {
                let mut json = String::new();
                let fits = self.json(id, input, &mut json)?;
                if fits { Cell::Json(Cow::Owned(json)) } else { Cell::Misfit }
            }
        })
    }

    /// Writes a value as JSON. `false`: something in it does not fit.
    fn json(&self, id: StepId, input: &mut Input<'_>, json: &mut String) -> Result<bool, Bad> {
        if json.len() > MAX_TEXT_BYTES {
            return Err(Bad::TooLarge);
        }
        match self.step(id) {
            Step::Array(items) => {
                json.push('[');
                let mut fits = true;
                input.items(|input, first| {
                    separate(json, first);
                    fits &= self.json(*items, input, json)?;
                    Ok(())
                })?;
                json.push(']');
                Ok(fits)
            }
            Step::Map(values) => {
                json.push('{');
                let mut fits = true;
                input.items(|input, first| {
                    separate(json, first);
                    push_json(json, &input.lossy()?);
                    json.push_str(": ");
                    fits &= self.json(*values, input, json)?;
                    Ok(())
                })?;
                json.push('}');
                Ok(fits)
            }
            Step::Record(record) => input.nested(|input| self.json_record(record, input, json)),
            Step::Union(branches) => {
                let branch = input.branch(branches)?;
                input.nested(|input| self.json(branch, input, json))
            }
            Step::Null | Step::Scalar(..) | Step::Enum(_) | Step::Misfit(_) => {
                let cell = self.cell(id, input)?;
                cell.write_json(json);
                Ok(cell != Cell::Misfit)
            }
        }
    }

    fn json_record(
        &self,
        record: &RecordStep,
        input: &mut Input<'_>,
        json: &mut String,
    ) -> Result<bool, Bad> {
        let (mut fits, mut first) = (true, true);
        let mut name_of = |json: &mut String, name: &str| {
            separate(json, std::mem::take(&mut first));
            push_json(json, name);
            json.push_str(": ");
        };
        json.push('{');
        for field in &record.fields {
            match &field.wanted {
                Some((name, _)) => {
                    name_of(json, name);
                    fits &= self.json(field.step, input, json)?;
                }
                None => self.skip(field.step, input)?,
            }
        }
        for missing in &record.missing {
            name_of(json, &missing.name);
            fits &= missing.default.is_some();
            json.push_str(missing.default.as_deref().unwrap_or("null"));
        }
        json.push('}');
        Ok(fits)
    }

    fn skip(&self, id: StepId, input: &mut Input<'_>) -> Result<(), Bad> {
        match self.step(id) {
            Step::Null => Ok(()),
            Step::Scalar(Read::Bytes | Read::String, _) => input.length_and_bytes().map(drop),
            Step::Scalar(read, _) => input.scalar(*read, Give::Plain).map(drop),
            Step::Enum(symbols) => input.symbol(symbols).map(drop),
            Step::Misfit(as_written) => self.skip(*as_written, input),
            Step::Array(items) => input.items(|input, _| self.skip(*items, input)),
            Step::Map(values) => input.items(|input, _| {
                input.length_and_bytes()?;
                self.skip(*values, input)
            }),
            Step::Record(record) => {
                input.nested(|input| record.fields.iter().try_for_each(|field| self.skip(field.step, input)))
            }
            Step::Union(branches) => {
                let branch = input.branch(branches)?;
                input.nested(|input| self.skip(branch, input))
            }
        }
    }
}

fn separate(json: &mut String, first: bool) {
    if !first {
        json.push_str(", ");
    }
}

/// What is left of a value.
struct Input<'a> {
    bytes: &'a [u8],
    /// How many things may still be read.
    left: usize,
    depth: usize,
}

impl<'a> Input<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], Bad> {
        let (taken, rest) = self.bytes.split_at_checked(count).ok_or(Bad::Length)?;
        self.bytes = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Bad> {
        self.take(N)?.try_into().map_err(|_| Bad::Length)
    }

    /// A number of variable length, in zigzag.
    fn long(&mut self) -> Result<i64, Bad> {
        let (mut number, mut at) = (0_u64, 0);
        loop {
            let byte = *self.bytes.get(at).ok_or(Bad::Length)?;
            let bits = u64::from(byte & 0x7f);
            // The tenth byte has one bit.
            if at == 9 && byte > 1 {
                return Err(Bad::Form);
            }
            number |= bits << (7 * at);
            at += 1;
            if byte & 0x80 == 0 {
                break;
            }
        }
        self.bytes = &self.bytes[at..];
        Ok((number >> 1).cast_signed() ^ -((number & 1).cast_signed()))
    }

    fn length_and_bytes(&mut self) -> Result<&'a [u8], Bad> {
        let length = usize::try_from(self.long()?).map_err(|_| Bad::Form)?;
        self.take(length)
    }

    fn lossy(&mut self) -> Result<Cow<'a, str>, Bad> {
        Ok(String::from_utf8_lossy(self.length_and_bytes()?))
    }

    fn branch(&mut self, branches: &[StepId]) -> Result<StepId, Bad> {
        let at = usize::try_from(self.long()?).map_err(|_| Bad::Form)?;
        branches.get(at).copied().ok_or(Bad::Form)
    }

    /// `None`: one that the table does not have.
    fn symbol<'s>(&mut self, symbols: &'s [Option<String>]) -> Result<Option<&'s str>, Bad> {
        let at = usize::try_from(self.long()?).map_err(|_| Bad::Form)?;
        Ok(symbols.get(at).ok_or(Bad::Form)?.as_deref())
    }

    fn nested<T>(&mut self, read: impl FnOnce(&mut Self) -> Result<T, Bad>) -> Result<T, Bad> {
        self.count()?;
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(Bad::TooLarge);
        }
        let done = read(self);
        self.depth -= 1;
        done
    }

    fn count(&mut self) -> Result<(), Bad> {
        self.left = self.left.checked_sub(1).ok_or(Bad::TooLarge)?;
        Ok(())
    }

    /// The items of an array or a map, which come in blocks.
    fn items(&mut self, mut read: impl FnMut(&mut Self, bool) -> Result<(), Bad>) -> Result<(), Bad> {
        self.nested(|input| {
            let mut first = true;
            loop {
                let count = input.long()?;
                if count == 0 {
                    return Ok(());
                }
                if count < 0 {
                    // The length of the block, for those who skip it.
                    input.long()?;
                }
                for _ in 0..count.unsigned_abs() {
                    input.count()?;
                    read(input, std::mem::take(&mut first))?;
                }
            }
        })
    }

    fn scalar(&mut self, read: Read, give: Give) -> Result<Cell<'a>, Bad> {
        let number = match read {
            Read::Boolean => {
                return match self.array()? {
                    [0] => Ok(Cell::Boolean(false)),
                    [1] => Ok(Cell::Boolean(true)),
                    _ => Err(Bad::Form),
                };
            }
            Read::Float => return Ok(Cell::Float4(f32::from_le_bytes(self.array()?))),
            Read::Double => return Ok(Cell::Float8(f64::from_le_bytes(self.array()?))),
            Read::Bytes => return Ok(of_bytes(self.length_and_bytes()?, give)),
            Read::Fixed(size) => return Ok(of_bytes(self.take(size)?, give)),
            Read::String => return Ok(of_text(self.length_and_bytes()?, give)),
            Read::Int => i64::from(i32::try_from(self.long()?).map_err(|_| Bad::Form)?),
            Read::Long => self.long()?,
        };
        let Give::Logical(logical) = give else { return Ok(Cell::Int(number)) };
        let cell = match logical {
            Logical::Date => i32::try_from(number).ok().map(Cell::Date),
            Logical::TimeMillis => number.checked_mul(1_000).map(Cell::Time),
            Logical::TimeMicros => Some(Cell::Time(number)),
            Logical::Timestamp(unit) => unit.micros(number).map(Cell::Timestamp),
            Logical::LocalTimestamp(unit) => unit.micros(number).map(Cell::LocalTimestamp),
            Logical::Decimal { .. } | Logical::Uuid | Logical::Duration => None,
        };
        Ok(cell.unwrap_or(Cell::Misfit))
    }
}

fn of_text(bytes: &[u8], give: Give) -> Cell<'_> {
    match (give, std::str::from_utf8(bytes)) {
        (Give::Bytes, _) => Cell::Bytes(Cow::Borrowed(bytes)),
        (_, Ok(text)) => Cell::Text(Cow::Borrowed(text)),
        (_, Err(_)) => Cell::Misfit,
    }
}

fn of_bytes(bytes: &[u8], give: Give) -> Cell<'_> {
    match give {
        Give::Plain | Give::Bytes => Cell::Bytes(Cow::Borrowed(bytes)),
        Give::Text => of_text(bytes, give),
        Give::Logical(Logical::Decimal { scale, .. }) => decimal(bytes, scale),
        Give::Logical(Logical::Uuid) => match <[u8; 16]>::try_from(bytes) {
            Ok(bytes) => Cell::Text(Cow::Owned(uuid::Uuid::from_bytes(bytes).to_string())),
            Err(_) => Cell::Misfit,
        },
        Give::Logical(Logical::Duration) => {
            let part = |at: usize| bytes.get(at..at + 4)?.try_into().ok().map(u32::from_le_bytes);
            match (part(0), part(4), part(8)) {
                (Some(months), Some(days), Some(millis)) => Cell::Json(Cow::Owned(format!(
                    r#"{{"months": {months}, "days": {days}, "millis": {millis}}}"#
                ))),
                _ => Cell::Misfit,
            }
        }
        Give::Logical(_) => Cell::Misfit,
    }
}

/// A number in two's complement, the highest byte first.
fn decimal(bytes: &[u8], scale: u32) -> Cell<'_> {
    match u8::try_from(scale) {
        _ if bytes.is_empty() || bytes.len() > MAX_DECIMAL_BYTES => Cell::Misfit,
        Ok(scale) if bytes.len() <= 16 => {
            let negative = bytes[0] & 0x80 != 0;
            let mut whole = [if negative { 0xff } else { 0 }; 16];
            whole[16 - bytes.len()..].copy_from_slice(bytes);
            Cell::Numeric(i128::from_be_bytes(whole), scale)
        }
        _ => Cell::Json(Cow::Owned(decimal_text(bytes, scale))),
    }
}

/// The digits of a number of any length. There are few enough bytes for the schoolbook's way.
pub fn decimal_text(bytes: &[u8], scale: u32) -> String {
    let negative = bytes.first().is_some_and(|byte| byte & 0x80 != 0);
    let mut magnitude: Vec<u8> = bytes.iter().map(|byte| if negative { !byte } else { *byte }).collect();
    if negative {
        // Two's complement: all bits the other way round, and one more.
        let carried = magnitude.iter_mut().rev().any(|byte| {
            *byte = byte.wrapping_add(1);
            *byte != 0
        });
        if !carried {
            magnitude.insert(0, 1);
        }
    }
    let mut groups: Vec<u32> = Vec::new();
    while magnitude.iter().any(|byte| *byte != 0) {
        let mut rest = 0_u64;
        for byte in &mut magnitude {
            let number = (rest << 8) | u64::from(*byte);
            *byte = u8::try_from(number / GROUP).unwrap_or(u8::MAX);
            rest = number % GROUP;
        }
        groups.push(u32::try_from(rest).unwrap_or(u32::MAX));
    }
    let mut digits = groups.pop().unwrap_or(0).to_string();
    for group in groups.iter().rev() {
        digits.push_str(&format!("{group:09}"));
    }
    with_point(if negative { "-" } else { "" }, &digits, usize::try_from(scale).unwrap_or(usize::MAX))
}

#[cfg(test)]
mod tests;
