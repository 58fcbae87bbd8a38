//! The bytes of one file in, rows of the wanted columns out: CSV, JSON, text and Markdown.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::error::ArrowError;
use kafscale_core::sql_schema::{SqlColumn, SqlType};
use kafscale_sql::topic::cell::Cell;
use kafscale_sql::topic::json::Fields;

use super::Format;
use super::infer::Found;
use super::records::{Field, Form, RecordError, Records, fields};
use crate::collection::rows::{Rows, Tally};

/// A section of Markdown that is longer is several rows.
const MAX_SECTION_BYTES: usize = 1 << 20;

/// How the files of a table are read, but for Parquet.
#[derive(Debug, Clone)]
pub struct Layout {
    pub format: Format,
    pub delimiter: u8,
    pub header: bool,
    /// Of the files, then those of the names of directories.
    pub columns: Vec<SqlColumn>,
    pub of_files: usize,
    /// See [`Found::renamed`].
    pub renamed: BTreeMap<String, String>,
}

/// The columns of a line of text, and of a section of Markdown.
pub fn text_columns(format: Format) -> Vec<SqlColumn> {
    let column = |name: &str, sql_type| SqlColumn { name: name.to_owned(), sql_type };
    let (path, line, text) =
        (column("path", SqlType::Text), column("line", SqlType::Int8), column("text", SqlType::Text));
    match format {
        Format::Markdown => vec![path, column("section", SqlType::Text), line, text],
        _ => vec![path, line, text],
    }
}

pub fn form(format: Format) -> Form {
    match format {
        Format::Csv => Form::Csv,
        Format::Json => Form::Json,
        _ => Form::Lines,
    }
}

#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    #[error(transparent)]
    Record(#[from] RecordError),
    #[error("rows could not be put together: {0}")]
    Rows(#[from] ArrowError),
}

/// Where the value of a wanted column is.
#[derive(Debug, Clone, Copy)]
enum Place {
    /// This column of the files.
    File(usize),
    /// This value of the directories.
    Directory(usize),
}

enum Shape {
    /// At which fields of a record the wanted columns are, once the first line has said so.
    Csv(Option<Vec<Option<usize>>>),
    Json(Fields),
    Text,
    Markdown(Section),
}

/// See the file's comment.
pub struct Decoder {
    layout: Arc<Layout>,
    path: String,
    directories: Vec<Option<String>>,
    wanted: Vec<Place>,
    records: Records,
    shape: Shape,
    line: i64,
    rows: Rows,
}

#[derive(Debug, Default)]
struct Section {
    /// Of the headings above, each with its level.
    headings: Vec<(usize, String)>,
    line: i64,
    text: String,
    in_code: bool,
}

impl Decoder {
    /// `projection` is of the layout's columns; `directories` are the values of those that are in the path.
    pub fn new(
        layout: Arc<Layout>,
        path: &str,
        directories: Vec<Option<String>>,
        projection: &[usize],
        tally: Arc<Tally>,
    ) -> Decoder {
        let columns: Vec<SqlColumn> = projection.iter().map(|at| layout.columns[*at].clone()).collect();
        let place = |at: &usize| match at.checked_sub(layout.of_files) {
            Some(directory) => Place::Directory(directory),
            None => Place::File(*at),
        };
        let shape = match layout.format {
            Format::Csv if layout.header => Shape::Csv(None),
            Format::Csv => Shape::Csv(Some((0..layout.of_files).map(Some).collect())),
            Format::Json | Format::Ndjson => {
                Shape::Json(Fields::new(layout.columns[..layout.of_files].iter()))
            }
            Format::Markdown => Shape::Markdown(Section::default()),
            Format::Text | Format::Parquet => Shape::Text,
        };
        Decoder {
            path: path.to_owned(),
            directories,
            wanted: projection.iter().map(place).collect(),
            records: Records::new(form(layout.format)),
            shape,
            line: 0,
            rows: Rows::new(&columns, tally),
            layout,
        }
    }

    /// The next bytes of the file, and whether they are the last.
    pub fn decode(&mut self, bytes: &[u8], at_end: bool) -> Result<Vec<RecordBatch>, DecodeError> {
        let mut batches = Vec::new();
        self.records.push(bytes);
        let mut records = std::mem::replace(&mut self.records, Records::new(Form::Lines));
        while let Some(record) = records.next(at_end)? {
            self.line += 1;
            self.add(record);
            if self.rows.is_full() {
                batches.extend(self.rows.take()?);
            }
        }
        self.records = records;
        if at_end {
            if let Shape::Markdown(section) = &mut self.shape {
                let last = std::mem::take(section);
                self.put_section(&last);
            }
            batches.extend(self.rows.take()?);
        }
        Ok(batches)
    }

    fn add(&mut self, record: &[u8]) {
        let mut shape = std::mem::replace(&mut self.shape, Shape::Text);
        match &mut shape {
            Shape::Csv(places) => match places {
                None => *places = Some(places_by_name(&self.layout, record)),
                Some(_) if record.is_empty() => {}
                Some(places) => self.put_fields(places, record),
            },
            Shape::Json(_) if record.iter().all(u8::is_ascii_whitespace) => {}
            Shape::Json(wanted) => self.put_object(wanted, record),
            Shape::Text => self.put_line(record),
            Shape::Markdown(section) => {
                if let Some(done) = section.add(self.line, &String::from_utf8_lossy(record)) {
                    self.put_section(&done);
                }
            }
        }
        self.shape = shape;
    }

    /// A row, its values of the file by the column's number.
    fn put<'c>(&mut self, mut of_file: impl FnMut(usize) -> Cell<'c>) {
        for (at, place) in self.wanted.iter().enumerate() {
            match place {
                Place::File(column) => self.rows.put(at, &of_file(*column)),
                Place::Directory(column) => {
                    let value = self.directories.get(*column).and_then(Option::as_deref);
                    self.rows.put(at, &value.map_or(Cell::Null, |value| Cell::Text(value.into())));
                }
            }
        }
        self.rows.end_row();
    }

    fn put_fields(&mut self, places: &[Option<usize>], record: &[u8]) {
        let found = fields(record, self.layout.delimiter);
        let layout = Arc::clone(&self.layout);
        self.put(|column| {
            let field = places.get(column).copied().flatten().and_then(|place| found.get(place));
            field.map_or(Cell::Null, |field| cell_of(field, layout.columns[column].sql_type))
        });
    }

    fn put_object(&mut self, wanted: &Fields, record: &[u8]) {
        let mut found = vec![None; wanted.len()];
        let is_object = wanted.read(record, &mut found);
        self.put(|column| match found[column] {
            _ if !is_object => Cell::Misfit,
            Some(raw) => Cell::Json(raw.into()),
            None => Cell::Null,
        });
    }

    fn put_line(&mut self, record: &[u8]) {
        let (path, line) = (self.path.clone(), self.line);
        self.put(|column| match column {
            0 => Cell::Text(path.as_str().to_owned().into()),
            1 => Cell::Int(line),
            _ => text_of(record),
        });
    }

    fn put_section(&mut self, section: &Section) {
        if section.text.trim().is_empty() {
            return;
        }
        let path = self.path.clone();
        let headings: Vec<&str> = section.headings.iter().map(|(_, heading)| heading.as_str()).collect();
        let heading = headings.join(" > ");
        self.put(|column| match column {
            0 => Cell::Text(path.as_str().to_owned().into()),
            1 => Cell::Text(heading.clone().into()),
            2 => Cell::Int(section.line),
            _ => Cell::Text(section.text.trim().to_owned().into()),
        });
    }
}

impl Section {
    /// Adds a line. Gives the section before it, where it begins another one.
    fn add(&mut self, line: i64, text: &str) -> Option<Section> {
        let is_fence = text.trim_start().starts_with("```") || text.trim_start().starts_with("~~~");
        self.in_code ^= is_fence;
        let level = text.bytes().take_while(|byte| *byte == b'#').count();
        let heading = text.get(level..).filter(|rest| rest.is_empty() || rest.starts_with(' '));
        let heading = heading.filter(|_| (1..=6).contains(&level) && !self.in_code && !is_fence);
        let is_long = self.text.len() > MAX_SECTION_BYTES;
        let mut done = None;
        if heading.is_some() || is_long {
            let next = Section { headings: self.headings.clone(), line, ..Section::default() };
            let in_code = self.in_code;
            done = Some(std::mem::replace(self, next));
            self.in_code = in_code;
        }
        match heading {
            Some(heading) => {
                self.headings.retain(|(above, _)| *above < level);
                self.headings.push((level, heading.trim().trim_end_matches('#').trim_end().to_owned()));
            }
            None => {
                if self.line == 0 {
                    self.line = line;
                }
                self.text.push_str(text);
                self.text.push('\n');
            }
        }
        done
    }
}

fn text_of(bytes: &[u8]) -> Cell<'_> {
    std::str::from_utf8(bytes).map_or(Cell::Misfit, |text| Cell::Text(text.into()))
}

fn cell_of<'f>(field: &'f Field<'_>, sql_type: SqlType) -> Cell<'f> {
    let is_text = matches!(sql_type, SqlType::Text | SqlType::Json);
    if field.bytes.is_empty() && !(field.is_quoted && is_text) {
        return Cell::Null;
    }
    text_of(&field.bytes)
}

/// Where a file has the columns of the table, by its first line.
fn places_by_name(layout: &Layout, first: &[u8]) -> Vec<Option<usize>> {
    let names = Found::default().name_header(header(first, layout.delimiter));
    let columns = layout.columns[..layout.of_files].iter();
    columns.map(|column| names.iter().position(|name| *name == column.name)).collect()
}

/// The names in the first line of CSV.
pub fn header(first: &[u8], delimiter: u8) -> impl Iterator<Item = String> {
    fields(first, delimiter).into_iter().map(|field| String::from_utf8_lossy(&field.bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collection::conformance::lines;

    fn layout(format: Format, columns: &str) -> Arc<Layout> {
        let columns = match columns {
            "" => text_columns(format),
            columns => kafscale_core::sql_schema::parse(columns).unwrap(),
        };
        let of_files = columns.len();
        Arc::new(Layout {
            format,
            delimiter: b',',
            header: true,
            columns,
            of_files,
            renamed: BTreeMap::new(),
        })
    }

    fn decoded(layout: &Arc<Layout>, text: &str, step: usize) -> Vec<String> {
        let all: Vec<usize> = (0..layout.columns.len()).collect();
        let mut decoder = Decoder::new(Arc::clone(layout), "a/b.x", vec![], &all, Arc::default());
        let mut found = Vec::new();
        let chunks: Vec<&[u8]> = text.as_bytes().chunks(step).collect();
        for (at, chunk) in chunks.iter().enumerate() {
            let batches = decoder.decode(chunk, at + 1 == chunks.len()).unwrap();
            found.extend(batches.iter().flat_map(lines));
        }
        found
    }

    #[test]
    fn files_are_decoded_wherever_their_bytes_are_cut() {
        for (layout, text, expected) in [
            // In another order, with one column more and one less, and a value that does not fit.
            (
                layout(Format::Csv, "id bigint, name text, size real"),
                "name,other,id\n\"a, \"\"b\"\"\",x,1\n,,2\n\"\",y,x\n",
                vec!["1|a, \"b\"|NULL", "2|NULL|NULL", "NULL||NULL"],
            ),
            (
                layout(Format::Json, "id bigint, tags json"),
                "[{\"id\": 1, \"tags\": [1]}, {\"tags\": null}]",
                vec!["1|[1]", "NULL|NULL"],
            ),
            (
                layout(Format::Ndjson, "id bigint"),
                "{\"id\":1}\n\n[2]\n{\"id\":\"x\"}\n",
                vec!["1", "NULL", "NULL"],
            ),
            (layout(Format::Text, ""), "one\n\nthree", vec!["a/b.x|1|one", "a/b.x|2|", "a/b.x|3|three"]),
            (
                layout(Format::Markdown, ""),
                "intro\n# A\ntext\n## B ##\n```\n# no heading\n```\n# C\n\nend",
                vec![
                    "a/b.x||1|intro",
                    "a/b.x|A|2|text",
                    "a/b.x|A > B|4|```\n# no heading\n```",
                    "a/b.x|C|8|end",
                ],
            ),
        ] {
            for step in [1, 3, 1_000] {
                assert_eq!(decoded(&layout, text, step), expected, "{text:?} by {step}");
            }
        }
    }
}
