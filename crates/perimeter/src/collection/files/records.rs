//! Where one record of a file ends and the next begins, as the bytes come in: lines, lines of CSV with line breaks in quotes,
//! objects of JSON in an array or one after the other.
//!
//! Invariant: no more than one record, and what was pushed last, is held; a record larger than [`MAX_RECORD_BYTES`] is an error.

use std::borrow::Cow;
use std::ops::Range;

pub const MAX_RECORD_BYTES: usize = 16 << 20;
/// Some editors write it before UTF-8.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    Lines,
    Csv,
    Json,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    #[error("a record is larger than {MAX_RECORD_BYTES} bytes, or quotes or brackets are not closed")]
    TooLarge,
    #[error("it ends in the middle of a record")]
    CutOff,
    #[error("it is neither an array of objects nor objects")]
    NoObjects,
}

/// See the file's comment.
#[derive(Debug)]
pub struct Records {
    form: Form,
    held: Vec<u8>,
    /// What is held before this was given.
    begin: usize,
    /// What is held before this was looked at.
    seen: usize,
    in_quotes: bool,
    after_backslash: bool,
    depth: usize,
    in_array: bool,
    is_first: bool,
}

impl Records {
    pub fn new(form: Form) -> Records {
        Records {
            form,
            held: Vec::new(),
            begin: 0,
            seen: 0,
            in_quotes: false,
            after_backslash: false,
            depth: 0,
            in_array: false,
            is_first: true,
        }
    }

    pub fn push(&mut self, bytes: &[u8]) {
        self.held.drain(..self.begin);
        self.seen -= self.begin;
        self.begin = 0;
        self.held.extend_from_slice(bytes);
        if self.is_first && !BYTE_ORDER_MARK.starts_with(&self.held) {
            self.is_first = false;
            if self.held.starts_with(BYTE_ORDER_MARK) {
                (self.begin, self.seen) = (BYTE_ORDER_MARK.len(), BYTE_ORDER_MARK.len());
            }
        }
    }

    /// The next record without its line break. None: it is not there yet, or, `at_end`, there is none any more.
    pub fn next(&mut self, at_end: bool) -> Result<Option<&[u8]>, RecordError> {
        // Perhaps only the beginning of a mark is there.
        if self.is_first && !at_end {
            return Ok(None);
        }
        let found = match self.form {
            Form::Lines | Form::Csv => self.next_line(at_end)?,
            Form::Json => self.next_object(at_end)?,
        };
        match found {
            Some(found) => Ok(Some(&self.held[found])),
            None if self.held.len() - self.begin > MAX_RECORD_BYTES => Err(RecordError::TooLarge),
            None => Ok(None),
        }
    }

    fn next_line(&mut self, at_end: bool) -> Result<Option<Range<usize>>, RecordError> {
        let has_quotes = self.form == Form::Csv;
        while let Some(byte) = self.held.get(self.seen) {
            self.seen += 1;
            match byte {
                b'"' if has_quotes => self.in_quotes = !self.in_quotes,
                b'\n' if !self.in_quotes => return self.give(self.seen - 1),
                _ => {}
            }
        }
        match at_end && self.begin < self.held.len() {
            true if self.in_quotes => Err(RecordError::CutOff),
            true => self.give(self.held.len()),
            false => Ok(None),
        }
    }

    fn give(&mut self, end: usize) -> Result<Option<Range<usize>>, RecordError> {
        let begin = std::mem::replace(&mut self.begin, self.seen);
        if end - begin > MAX_RECORD_BYTES {
            return Err(RecordError::TooLarge);
        }
        let is_return = end > begin && self.held[end - 1] == b'\r';
        Ok(Some(begin..end - usize::from(is_return)))
    }

    fn next_object(&mut self, at_end: bool) -> Result<Option<Range<usize>>, RecordError> {
        while let Some(byte) = self.held.get(self.seen).copied() {
            self.seen += 1;
            if self.in_quotes {
                match byte {
                    _ if self.after_backslash => self.after_backslash = false,
                    b'\\' => self.after_backslash = true,
                    b'"' => self.in_quotes = false,
                    _ => {}
                }
                continue;
            }
            match byte {
                b'{' if self.depth == 0 => {
                    self.begin = self.seen - 1;
                    self.depth = 1;
                }
                b'[' if self.depth == 0 && !self.in_array => self.in_array = true,
                b']' if self.depth == 0 && self.in_array => self.in_array = false,
                b',' | b' ' | b'\t' | b'\r' | b'\n' if self.depth == 0 => self.begin = self.seen,
                _ if self.depth == 0 => return Err(RecordError::NoObjects),
                b'{' | b'[' => self.depth += 1,
                b'}' | b']' => {
                    self.depth -= 1;
                    if self.depth == 0 {
                        let begin = std::mem::replace(&mut self.begin, self.seen);
                        return Ok(Some(begin..self.seen));
                    }
                }
                b'"' => self.in_quotes = true,
                _ => {}
            }
            if self.depth == 0 {
                self.begin = self.seen;
            }
        }
        match at_end && (self.depth > 0 || self.in_array) {
            true => Err(RecordError::CutOff),
            false => Ok(None),
        }
    }
}

/// The fields of a record of CSV (RFC 4180). One that is in quotes may have two of them for one.
pub fn fields(record: &[u8], delimiter: u8) -> Vec<Field<'_>> {
    let mut fields = Vec::new();
    let mut rest = record;
    loop {
        let (field, behind) = first_field(rest, delimiter);
        fields.push(field);
        match behind {
            Some(behind) => rest = behind,
            None => return fields,
        }
    }
}

/// A field, and whether it stood in quotes: then it is a text, though it be empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Field<'a> {
    pub bytes: Cow<'a, [u8]>,
    pub is_quoted: bool,
}

fn first_field(rest: &[u8], delimiter: u8) -> (Field<'_>, Option<&[u8]>) {
    let Some(inner) = rest.strip_prefix(b"\"") else {
        let end = rest.iter().position(|byte| *byte == delimiter);
        let (field, behind) = end.map_or((rest, None), |end| (&rest[..end], Some(&rest[end + 1..])));
        return (Field { bytes: field.into(), is_quoted: false }, behind);
    };
    let mut text: Cow<'_, [u8]> = Cow::Borrowed(&[]);
    let mut inner = inner;
    loop {
        let quote = inner.iter().position(|byte| *byte == b'"').unwrap_or(inner.len());
        let (part, behind) = inner.split_at(quote);
        append(&mut text, part);
        let behind = behind.get(1..).unwrap_or(&[]);
        if let Some(more) = behind.strip_prefix(b"\"") {
            append(&mut text, b"\"");
            inner = more;
            continue;
        }
        // What stands between the quote and the delimiter should not be there, and is kept.
        let end = behind.iter().position(|byte| *byte == delimiter);
        let (tail, next) = end.map_or((behind, None), |end| (&behind[..end], Some(&behind[end + 1..])));
        append(&mut text, tail);
        return (Field { bytes: text, is_quoted: true }, next);
    }
}

fn append<'a>(text: &mut Cow<'a, [u8]>, part: &'a [u8]) {
    match text {
        Cow::Borrowed([]) => *text = Cow::Borrowed(part),
        _ if part.is_empty() => {}
        _ => text.to_mut().extend_from_slice(part),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All records, the bytes coming `step` at a time.
    fn records(form: Form, text: &str, step: usize) -> Result<Vec<String>, RecordError> {
        let (mut records, mut found) = (Records::new(form), Vec::new());
        let mut chunks = text.as_bytes().chunks(step).peekable();
        while let Some(chunk) = chunks.next() {
            records.push(chunk);
            while let Some(record) = records.next(chunks.peek().is_none())? {
                found.push(String::from_utf8_lossy(record).into_owned());
            }
        }
        Ok(found)
    }

    #[test]
    fn records_are_found_wherever_the_bytes_are_cut() {
        for (form, text, expected) in [
            (Form::Lines, "a\r\n\nb", vec!["a", "", "b"]),
            (Form::Lines, "\u{feff}a\n", vec!["a"]),
            (Form::Csv, "a,\"b\nc\"\n\"d\"\"\n\",e\n", vec!["a,\"b\nc\"", "\"d\"\"\n\",e"]),
            (
                Form::Json,
                " [ {\"a\": \"]}\\\"\"}, {\"b\":[{}]} ]\n",
                vec!["{\"a\": \"]}\\\"\"}", "{\"b\":[{}]}"],
            ),
            (Form::Json, "{\"a\":1}\n{\"a\":2}", vec!["{\"a\":1}", "{\"a\":2}"]),
            (Form::Json, "[]", vec![]),
        ] {
            for step in [1, 2, 3, 7, 1_000] {
                assert_eq!(records(form, text, step).unwrap(), expected, "{text:?} by {step}");
            }
        }
    }

    #[test]
    fn what_is_cut_off_or_no_object_is_an_error() {
        for (form, text, error) in [
            (Form::Csv, "a,\"b\n", RecordError::CutOff),
            (Form::Json, "[{\"a\":1}, {\"b\"", RecordError::CutOff),
            (Form::Json, "[{\"a\":1}", RecordError::CutOff),
            (Form::Json, "[1, 2]", RecordError::NoObjects),
            (Form::Json, "PAR1", RecordError::NoObjects),
        ] {
            assert_eq!(records(form, text, 3), Err(error), "{text}");
        }
        let endless = "x".repeat(MAX_RECORD_BYTES + (5 << 20));
        assert_eq!(records(Form::Lines, &endless, 4 << 20), Err(RecordError::TooLarge));
        assert_eq!(records(Form::Csv, &format!("\"{endless}"), 4 << 20), Err(RecordError::TooLarge));
    }

    #[test]
    fn fields_are_those_of_rfc_4180() {
        let of = |text: &str| {
            let found = fields(text.as_bytes(), b',').into_iter();
            found.map(|f| (String::from_utf8(f.bytes.into_owned()).unwrap(), f.is_quoted)).collect::<Vec<_>>()
        };
        let plain = |text: &str| (text.to_owned(), false);
        let quoted = |text: &str| (text.to_owned(), true);
        assert_eq!(of("a,,b"), [plain("a"), plain(""), plain("b")]);
        assert_eq!(of("\"a,b\",\"\",\"c\"\"d\"\"\""), [quoted("a,b"), quoted(""), quoted("c\"d\"")]);
        assert_eq!(of(""), [plain("")]);
        assert_eq!(of("\"a\"b,c"), [quoted("ab"), plain("c")]);
        assert_eq!(of("a\"b,c"), [plain("a\"b"), plain("c")]);
    }
}
