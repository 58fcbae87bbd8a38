//! Rows as COPY writes them: text, CSV, and PostgreSQL's binary form (the chapter on COPY in its manual).

use bytes::{BufMut as _, Bytes, BytesMut};
use pgwire::api::portal::Format;
use pgwire::api::results::FieldInfo;
use pgwire::messages::data::DataRow;

use crate::statement::{CopyFormat, Force, TextFormat};

const BINARY_HEAD: &[u8] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";
const BINARY_TAIL: &[u8] = &[0xff, 0xff];

/// Writes rows that are encoded as [`Writer::row_format`] says.
pub struct Writer {
    format: CopyFormat,
    /// Which columns are always quoted.
    quoted: Vec<bool>,
}

impl Writer {
    pub fn new(format: CopyFormat, fields: &[FieldInfo]) -> Writer {
        let is_forced = |field: &FieldInfo| match &format {
            CopyFormat::Csv { force_quote, .. } => force_quote.iter().any(|force| match force {
                Force::All => true,
                Force::Column(name) => name == field.name(),
            }),
            CopyFormat::Binary | CopyFormat::Text(_) => false,
        };
        let quoted = fields.iter().map(is_forced).collect();
        Writer { format, quoted }
    }

    pub fn row_format(format: &CopyFormat) -> Format {
        if matches!(format, CopyFormat::Binary) { Format::UnifiedBinary } else { Format::UnifiedText }
    }

    pub fn is_binary(&self) -> bool {
        matches!(self.format, CopyFormat::Binary)
    }

    /// What stands before all rows.
    pub fn head(&self, fields: &[FieldInfo]) -> Option<Bytes> {
        let names = || fields.iter().map(|field| Some(field.name().as_bytes()));
        match &self.format {
            CopyFormat::Binary => Some(Bytes::from_static(BINARY_HEAD)),
            CopyFormat::Text(text) | CopyFormat::Csv { text, .. } if text.header => {
                let no_force = vec![false; fields.len()];
                Some(self.line(names(), &no_force))
            }
            CopyFormat::Text(_) | CopyFormat::Csv { .. } => None,
        }
    }

    /// What stands behind all rows.
    pub fn tail(&self) -> Option<Bytes> {
        self.is_binary().then(|| Bytes::from_static(BINARY_TAIL))
    }

    pub fn row(&self, row: &DataRow) -> Bytes {
        match self.format {
            CopyFormat::Binary => {
                let mut out = BytesMut::with_capacity(2 + row.data.len());
                out.put_i16(row.field_count);
                out.put_slice(&row.data);
                out.freeze()
            }
            CopyFormat::Text(_) | CopyFormat::Csv { .. } => self.line(Values(&row.data), &self.quoted),
        }
    }

    fn line<'a>(&self, values: impl Iterator<Item = Option<&'a [u8]>>, quoted: &[bool]) -> Bytes {
        let mut out = BytesMut::new();
        for (at, value) in values.enumerate() {
            match &self.format {
                CopyFormat::Csv { text, quote, escape, .. } => {
                    separate(&mut out, at, text);
                    let forced = quoted.get(at).copied().unwrap_or_default();
                    let alone = quoted.len() == 1;
                    match value {
                        None => out.put_slice(text.null.as_bytes()),
                        Some(value) if forced || needs_quotes(value, text, *quote, alone) => {
                            put_quoted(&mut out, value, *quote, *escape);
                        }
                        Some(value) => out.put_slice(value),
                    }
                }
                CopyFormat::Text(text) => {
                    separate(&mut out, at, text);
                    match value {
                        None => out.put_slice(text.null.as_bytes()),
                        Some(value) => put_escaped(&mut out, value, text.delimiter),
                    }
                }
                CopyFormat::Binary => {}
            }
        }
        out.put_u8(b'\n');
        out.freeze()
    }
}

fn separate(out: &mut BytesMut, at: usize, text: &TextFormat) {
    if at > 0 {
        out.put_u8(text.delimiter);
    }
}

fn needs_quotes(value: &[u8], text: &TextFormat, quote: u8, alone: bool) -> bool {
    let special = |byte: &u8| *byte == text.delimiter || *byte == quote || matches!(byte, b'\n' | b'\r');
    value == text.null.as_bytes() || (alone && value == b"\\.") || value.iter().any(special)
}

fn put_quoted(out: &mut BytesMut, value: &[u8], quote: u8, escape: u8) {
    out.put_u8(quote);
    for byte in value {
        if *byte == quote || *byte == escape {
            out.put_u8(escape);
        }
        out.put_u8(*byte);
    }
    out.put_u8(quote);
}

fn put_escaped(out: &mut BytesMut, value: &[u8], delimiter: u8) {
    for byte in value {
        let escaped = match byte {
            b'\\' => b'\\',
            0x08 => b'b',
            0x0c => b'f',
            b'\n' => b'n',
            b'\r' => b'r',
            b'\t' => b't',
            0x0b => b'v',
            byte if *byte == delimiter => delimiter,
            byte => {
                out.put_u8(*byte);
                continue;
            }
        };
        out.put_slice(&[b'\\', escaped]);
    }
}

/// The values of an encoded row: a length, or -1 for NULL, before each.
struct Values<'a>(&'a [u8]);

impl<'a> Iterator for Values<'a> {
    type Item = Option<&'a [u8]>;

    fn next(&mut self) -> Option<Option<&'a [u8]>> {
        let (length, rest) = self.0.split_first_chunk::<4>()?;
        let Ok(length) = usize::try_from(i32::from_be_bytes(*length)) else {
            self.0 = rest;
            return Some(None);
        };
        let (value, rest) = rest.split_at_checked(length)?;
        self.0 = rest;
        Some(Some(value))
    }
}

#[cfg(test)]
mod tests {
    use pgwire::api::Type;
    use pgwire::api::results::FieldFormat;

    use super::*;

    fn row(values: &[Option<&str>]) -> DataRow {
        let mut data = BytesMut::new();
        for value in values {
            match value {
                None => data.put_i32(-1),
                Some(text) => {
                    data.put_i32(i32::try_from(text.len()).unwrap());
                    data.put_slice(text.as_bytes());
                }
            }
        }
        DataRow::new(data, i16::try_from(values.len()).unwrap())
    }

    fn fields(names: &[&str]) -> Vec<FieldInfo> {
        let field = |name: &&str| FieldInfo::new((*name).into(), None, None, Type::TEXT, FieldFormat::Text);
        names.iter().map(field).collect()
    }

    #[test]
    fn text_escapes_what_would_be_read_as_something_else() {
        let text = TextFormat { delimiter: b'\t', null: "\\N".into(), header: true };
        let columns = fields(&["a", "b\t", "c"]);
        let writer = Writer::new(CopyFormat::Text(text), &columns);
        assert_eq!(writer.head(&columns).unwrap(), "a\tb\\t\tc\n");
        assert_eq!(writer.row(&row(&[Some("x\ty\\"), None, Some("1\n2\r")])), "x\\ty\\\\\t\\N\t1\\n2\\r\n");
        assert_eq!(writer.tail(), None);
    }

    #[test]
    fn csv_quotes_what_needs_it() {
        let text = TextFormat { delimiter: b',', null: String::new(), header: true };
        let force_quote = vec![Force::Column("c".into())];
        let format = CopyFormat::Csv { text, quote: b'"', escape: b'"', force_quote };
        let columns = fields(&["a", "b", "c", "d"]);
        let writer = Writer::new(format, &columns);
        assert_eq!(writer.head(&columns).unwrap(), "a,b,c,d\n");
        let line = writer.row(&row(&[Some("x,\"y\""), None, Some("z"), Some("")]));
        assert_eq!(line, "\"x,\"\"y\"\"\",,\"z\",\"\"\n");
    }

    #[test]
    fn binary_rows_are_those_of_the_protocol_with_their_count() {
        let columns = fields(&["a"]);
        let writer = Writer::new(CopyFormat::Binary, &columns);
        assert_eq!(writer.head(&columns).unwrap().len(), 19);
        assert_eq!(&writer.row(&row(&[Some("x")]))[..], [0, 1, 0, 0, 0, 1, b'x']);
        assert_eq!(&writer.tail().unwrap()[..], [0xff, 0xff]);
    }
}
