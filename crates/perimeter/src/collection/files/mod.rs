//! Files below a directory, or below a prefix in a bucket, as tables.
//!
//! [`root`] lists and reads, [`pattern`] says which files are a table's. Rows are made by [`decode`] out of [`records`], in the
//! columns that [`infer`] finds, or, of [`parquet`], by the engine.

pub mod decode;
pub mod infer;
pub mod parquet;
pub mod pattern;
pub mod records;
pub mod root;
pub mod table;
#[cfg(test)]
mod tests;
pub mod thrift;

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::datatypes::Schema;
use async_trait::async_trait;
use kafscale_core::sql_schema::SqlColumn;
use kafscale_settings::units::ByteSize;
use serde::Deserialize;
use serde_json::{Value, json};

use self::decode::{Layout, form, header, text_columns};
use self::infer::{Found, Seen};
use self::pattern::{Pattern, PatternError, partitions};
use self::records::{Records, fields};
use self::root::{BucketOptions, FileEntry, FileError, Root};
use self::table::{Contents, FilesTable, TableFile, told};
use super::rows::schema_of;
use super::{Collection, CollectionError, Provenance, SourceTable};
use crate::caller::Caller;
use crate::rules::Holds;
use crate::secret::{SecretError, SecretSlot, SecretSource};

const MAX_FILES: usize = 10_000;
const MAX_BYTES: u64 = 1 << 40;
/// Tables without a setting of their own.
const MAX_TABLES: usize = 1_000;
/// Files that are looked at for the columns of a table,
const SAMPLE_FILES: usize = 8;
/// and of each of them so many bytes and records.
const SAMPLE_BYTES: u64 = 1 << 20;
const SAMPLE_RECORDS: usize = 1_000;
/// Files that the provenance of an answer names one by one.
const FILES_TOLD: usize = 1_000;

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FilesConfig {
    /// A directory, or `s3://bucket/prefix`. Nothing outside of it is read.
    pub root: String,
    /// Tables by their names. Without any, each file and each directory of files is a table of its own.
    #[serde(default)]
    pub tables: BTreeMap<String, FileTable>,
    /// The most files of one table. Default: 10,000.
    pub max_files: Option<usize>,
    /// The most bytes of one table, as `10GiB`. Default: 1 TiB.
    pub max_bytes: Option<String>,
    /// Address of the S3 server, for others than Amazon's.
    pub endpoint: Option<String>,
    pub region: Option<String>,
    /// Name the bucket in the host instead of the path.
    #[serde(default)]
    pub virtual_host: bool,
    pub access_key_id: Option<String>,
    pub secret_access_key: Option<SecretSource>,
}

/// One table of files.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileTable {
    /// Below the root, with `*`, `?` and `**`, as `trials/*/year=*/*.parquet`.
    pub path: String,
    /// Default: by the extension.
    pub format: Option<Format>,
    /// Of CSV, a single character. Default: a comma, and a tabulator in `.tsv`.
    pub delimiter: Option<char>,
    /// Whether the first line of CSV names the columns. Default: it does.
    pub header: Option<bool>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    Parquet,
    Csv,
    /// One array of objects, or objects one after the other.
    Json,
    /// An object on each line.
    Ndjson,
    /// A row for each line.
    Text,
    /// A row for each section.
    Markdown,
}

impl Format {
    fn of(path: &str) -> Option<Format> {
        let (_, extension) = path.rsplit_once('.')?;
        Some(match extension.to_ascii_lowercase().as_str() {
            "parquet" | "pq" => Format::Parquet,
            "csv" | "tsv" => Format::Csv,
            "json" => Format::Json,
            "ndjson" | "jsonl" => Format::Ndjson,
            "txt" | "log" | "text" => Format::Text,
            "md" | "markdown" => Format::Markdown,
            _ => return None,
        })
    }
}

/// Why the settings of a collection of files cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FilesConfigError {
    #[error("tables.{table}.path: {source}")]
    Path { table: String, source: PatternError },
    #[error("tables.{table}: a table's name is a lower-case letter, then letters, digits and underscores")]
    Name { table: String },
    #[error("tables.{table}.delimiter must be one ASCII character, and no quote or line break")]
    Delimiter { table: String },
    #[error("max_bytes: {0}")]
    MaxBytes(String),
    #[error("root: `{0}` has no bucket; write s3://bucket or s3://bucket/prefix")]
    NoBucket(String),
    #[error("access_key_id and secret_access_key belong together, and are for s3:// only")]
    Key,
}

/// What a table is made of, by the settings or by what was found.
#[derive(Debug, Clone)]
struct Wanted {
    pattern: Pattern,
    format: Option<Format>,
    delimiter: Option<u8>,
    header: bool,
}

impl Wanted {
    fn found(pattern: Pattern) -> Wanted {
        Wanted { pattern, format: None, delimiter: None, header: true }
    }
}

#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "there is one for each collection")]
enum Place {
    Directory(PathBuf),
    Bucket { bucket: String, prefix: String, options: BucketOptions, key: Option<(String, SecretSlot)> },
}

#[derive(Debug)]
pub struct Files {
    collection: String,
    place: Place,
    tables: BTreeMap<String, Wanted>,
    max_files: usize,
    max_bytes: u64,
}

impl Files {
    pub fn new(collection: &str, config: &FilesConfig, base: &Path) -> Result<Files, FilesConfigError> {
        let wanted = |(name, table): (&String, &FileTable)| Ok((name.clone(), wanted(name, table)?));
        let max_bytes = match &config.max_bytes {
            Some(text) => text.parse::<ByteSize>().map_err(FilesConfigError::MaxBytes)?.0,
            None => MAX_BYTES,
        };
        Ok(Files {
            collection: collection.to_owned(),
            place: place(config, base)?,
            tables: config.tables.iter().map(wanted).collect::<Result<_, _>>()?,
            max_files: config.max_files.unwrap_or(MAX_FILES),
            max_bytes,
        })
    }

    fn told(&self, error: FileError) -> CollectionError {
        told(&self.collection, error)
    }

    async fn root(&self) -> Result<Root, CollectionError> {
        let opened = match &self.place {
            Place::Directory(path) => Root::directory(path),
            Place::Bucket { bucket, prefix, options, key } => {
                let refused = |source: SecretError| CollectionError::Refused {
                    collection: self.collection.clone(),
                    source: Box::new(source),
                };
                let key = match key {
                    Some((id, slot)) => Some((id.clone(), slot.get().await.map_err(refused)?)),
                    None => None,
                };
                Root::bucket(bucket, prefix, &BucketOptions { key, ..options.clone() })
            }
        };
        opened.map_err(|e| self.told(e))
    }

    /// The tables by what is directly below the root.
    async fn found(&self, root: &Root) -> Result<BTreeMap<String, Wanted>, FileError> {
        let mut found: BTreeMap<String, Wanted> = BTreeMap::new();
        for entry in root.top(MAX_TABLES).await? {
            let (stem, pattern) = match entry.strip_suffix('/') {
                Some(directory) => (directory, Pattern::below(directory)),
                None if Format::of(&entry).is_none() => continue,
                None => (
                    entry.rsplit_once('.').map_or(entry.as_str(), |(stem, _)| stem),
                    Pattern::exactly(&entry),
                ),
            };
            // Two of the same name: the second keeps its whole name.
            let name = if found.contains_key(stem) { entry.trim_end_matches('/') } else { stem };
            found.insert(name.to_owned(), Wanted::found(pattern));
        }
        Ok(found)
    }

    async fn tables_of(&self, root: &Root) -> Result<BTreeMap<String, Wanted>, CollectionError> {
        if self.tables.is_empty() {
            return self.found(root).await.map_err(|e| self.told(e));
        }
        Ok(self.tables.clone())
    }

    /// The files of a table, which are all of one format.
    async fn files_of(&self, root: &Root, wanted: &Wanted) -> Result<(Format, Vec<FileEntry>), FileError> {
        let mut files = root.list(&wanted.pattern, self.max_files).await?;
        let format = wanted.format.or_else(|| commonest(&files)).ok_or(FileError::NoFiles)?;
        if wanted.format.is_none() {
            files.retain(|file| Format::of(&file.path) == Some(format));
        }
        Ok((format, files))
    }

    async fn open(&self, root: Root, name: &str, wanted: &Wanted) -> Result<FilesTable, FileError> {
        let (format, files) = self.files_of(&root, wanted).await?;
        let bytes = files.iter().map(|file| file.bytes).fold(0, u64::saturating_add);
        if bytes > self.max_bytes {
            return Err(FileError::TooLarge { most: self.max_bytes });
        }
        let (files, directories) = with_directories(files)?;
        let sample = sample(&files);
        let (contents, schema) = match format {
            Format::Parquet => {
                let of_files = parquet::schema(&root, &sample).await?;
                let in_path = |name: &str| directories.iter().any(|column| column.name == name);
                let kept = of_files.fields().iter().filter(|field| !in_path(field.name()));
                // What is in the path counts more, as everywhere else.
                let of_files = Arc::new(Schema::new(kept.cloned().collect::<Vec<_>>()));
                let all: Vec<_> = of_files
                    .fields()
                    .iter()
                    .cloned()
                    .chain(schema_of(&directories).fields().iter().cloned())
                    .collect();
                (Contents::Parquet(of_files), Arc::new(Schema::new(all)))
            }
            _ => {
                let layout = layout(&root, &sample, format, wanted, &directories).await?;
                let schema = schema_of(&layout.columns);
                (Contents::Rows(Arc::new(layout)), schema)
            }
        };
        Ok(FilesTable {
            collection: self.collection.clone(),
            name: name.to_owned(),
            root: Arc::new(root),
            files,
            contents,
            directories,
            schema,
            tally: Arc::default(),
        })
    }
}

fn place(config: &FilesConfig, base: &Path) -> Result<Place, FilesConfigError> {
    let key = match (&config.access_key_id, &config.secret_access_key) {
        (Some(id), Some(secret)) => Some((id.clone(), SecretSlot::new(secret.clone(), base))),
        (None, None) => None,
        _ => return Err(FilesConfigError::Key),
    };
    let Some(place) = config.root.strip_prefix("s3://") else {
        return match key {
            None => Ok(Place::Directory(base.join(&config.root))),
            Some(_) => Err(FilesConfigError::Key),
        };
    };
    let (bucket, prefix) = place.split_once('/').unwrap_or((place, ""));
    if bucket.is_empty() {
        return Err(FilesConfigError::NoBucket(config.root.clone()));
    }
    let options = BucketOptions {
        endpoint: config.endpoint.clone(),
        region: config.region.clone(),
        virtual_host: config.virtual_host,
        key: None,
    };
    let (bucket, prefix) = (bucket.to_owned(), prefix.trim_matches('/').to_owned());
    Ok(Place::Bucket { bucket, prefix, options, key })
}

fn wanted(name: &str, table: &FileTable) -> Result<Wanted, FilesConfigError> {
    let table_name = || name.to_owned();
    if !crate::config::is_identifier(name) {
        return Err(FilesConfigError::Name { table: table_name() });
    }
    let pattern = Pattern::parse(&table.path)
        .map_err(|source| FilesConfigError::Path { table: table_name(), source })?;
    let delimiter = |c: char| match u8::try_from(c) {
        Ok(byte) if byte.is_ascii() && !matches!(byte, b'"' | b'\r' | b'\n') => Ok(byte),
        _ => Err(FilesConfigError::Delimiter { table: table_name() }),
    };
    Ok(Wanted {
        pattern,
        format: table.format,
        delimiter: table.delimiter.map(delimiter).transpose()?,
        header: table.header.unwrap_or(true),
    })
}

/// The format of most files.
fn commonest(files: &[FileEntry]) -> Option<Format> {
    let mut counts: BTreeMap<Format, usize> = BTreeMap::new();
    for format in files.iter().filter_map(|file| Format::of(&file.path)) {
        *counts.entry(format).or_default() += 1;
    }
    counts.into_iter().max_by_key(|(_, count)| *count).map(|(format, _)| format)
}

/// The columns that are in the paths, which are the same for all files.
fn with_directories(files: Vec<FileEntry>) -> Result<(Vec<TableFile>, Vec<SqlColumn>), FileError> {
    let mut names: Option<(Vec<String>, String)> = None;
    let mut seen: Vec<Seen> = Vec::new();
    let mut with = Vec::with_capacity(files.len());
    for entry in files {
        let (keys, directories): (Vec<_>, Vec<_>) = partitions(&entry.path).into_iter().unzip();
        match &names {
            None => {
                seen = vec![Seen::Nothing; keys.len()];
                names = Some((keys, entry.path.clone()));
            }
            Some((first, path)) if *first != keys => {
                return Err(FileError::Different {
                    one: path.clone(),
                    other: entry.path,
                    why: "their directories name different columns".to_owned(),
                });
            }
            Some(_) => {}
        }
        for (seen, value) in seen.iter_mut().zip(&directories) {
            *seen = seen.and(value.as_deref().map_or(Seen::Nothing, Seen::of_text), false);
        }
        with.push(TableFile { entry, directories });
    }
    let names = names.map(|(names, _)| names).unwrap_or_default();
    let column = |(name, seen): (String, Seen)| SqlColumn { name, sql_type: seen.sql_type() };
    Ok((with, names.into_iter().zip(seen).map(column).collect()))
}

/// Some files from all over the table.
fn sample(files: &[TableFile]) -> Vec<&FileEntry> {
    let step = files.len().div_ceil(SAMPLE_FILES).max(1);
    let mut sample: Vec<&FileEntry> = files.iter().step_by(step).map(|file| &file.entry).collect();
    if let Some(last) = files.last().map(|file| &file.entry).filter(|last| sample.last() != Some(last)) {
        sample.push(last);
    }
    sample
}

/// The columns of files that do not state them.
async fn layout(
    root: &Root,
    sample: &[&FileEntry],
    format: Format,
    wanted: &Wanted,
    directories: &[SqlColumn],
) -> Result<Layout, FileError> {
    let is_tsv = sample.iter().any(|file| file.path.to_ascii_lowercase().ends_with(".tsv"));
    let delimiter = wanted.delimiter.unwrap_or(if is_tsv { b'\t' } else { b',' });
    let mut renamed = BTreeMap::new();
    let of_files = match format {
        Format::Text | Format::Markdown => text_columns(format),
        _ => {
            let mut found = Found::default();
            for file in sample {
                look_at(root, file, format, (delimiter, wanted.header), &mut found).await?;
            }
            renamed = std::mem::take(&mut found.renamed);
            found.columns()
        }
    };
    let in_path = |column: &SqlColumn| directories.iter().any(|other| other.name == column.name);
    let mut columns: Vec<SqlColumn> = of_files.into_iter().filter(|column| !in_path(column)).collect();
    let of_files = columns.len();
    columns.extend(directories.iter().cloned());
    Ok(Layout { format, delimiter, header: wanted.header, columns, of_files, renamed })
}

/// The first records of a file.
async fn look_at(
    root: &Root,
    file: &FileEntry,
    format: Format,
    (delimiter, has_header): (u8, bool),
    found: &mut Found,
) -> Result<(), FileError> {
    let bytes = root.read(file, 0, SAMPLE_BYTES).await?;
    let is_whole = file.bytes <= SAMPLE_BYTES;
    let mut records = Records::new(form(format));
    records.push(&bytes);
    let mut names: Option<Vec<String>> = None;
    let damaged = |why: String| FileError::Damaged { path: file.path.clone(), why };
    for _ in 0..SAMPLE_RECORDS {
        let Some(record) = records.next(is_whole).map_err(|e| damaged(e.to_string()))? else { break };
        if format != Format::Csv {
            found.add_object(record);
            continue;
        }
        match &names {
            None if has_header => names = Some(found.name_header(header(record, delimiter))),
            None => {
                names =
                    Some(found.name_header((1..=fields(record, delimiter).len()).map(|at| format!("c{at}"))));
                found.add_record(names.as_deref().unwrap_or_default(), record, delimiter);
            }
            Some(names) if !record.is_empty() => found.add_record(names, record, delimiter),
            Some(_) => {}
        }
    }
    Ok(())
}

fn renamed(table: &FilesTable) -> BTreeMap<String, String> {
    match &table.contents {
        Contents::Rows(layout) => layout.renamed.clone(),
        Contents::Parquet(_) => BTreeMap::new(),
    }
}

/// What rules say of a name is meant of each column that has it in the file.
fn with_renamed(table: SourceTable, renamed: &BTreeMap<String, String>) -> SourceTable {
    let of = |table: SourceTable, (name, in_file): (&String, &String)| {
        table.holding(name, Holds::Columns(vec![in_file.clone()]))
    };
    renamed.iter().fold(table, of)
}

#[async_trait]
impl Collection for Files {
    fn kind(&self) -> &'static str {
        "files"
    }

    async fn tables(&self) -> Result<Vec<String>, CollectionError> {
        let root = self.root().await?;
        Ok(self.tables_of(&root).await?.into_keys().collect())
    }

    async fn table(&self, name: &str, _: &Caller) -> Result<Option<SourceTable>, CollectionError> {
        let root = self.root().await?;
        let Some((name, wanted)) = self.tables_of(&root).await?.remove_entry(name) else { return Ok(None) };
        let place = root.told();
        let table = Arc::new(self.open(root, &name, &wanted).await.map_err(|e| self.told(e))?);
        let of = Arc::clone(&table);
        let provenance = move || provenance(&of, &place);
        let renamed = renamed(&table);
        Ok(Some(with_renamed(SourceTable::new(name, table, Provenance(Arc::new(provenance))), &renamed)))
    }

    async fn parts(&self, name: &str) -> Result<Vec<(String, SourceTable)>, CollectionError> {
        let root = self.root().await?;
        let Some(wanted) = self.tables_of(&root).await?.remove(name) else { return Ok(Vec::new()) };
        let place = root.told();
        let whole = self.open(root, name, &wanted).await.map_err(|e| self.told(e))?;
        let part = |file: &TableFile| {
            let (table, place) = (Arc::new(whole.of_file(file)), place.clone());
            let of = Arc::clone(&table);
            let told = Provenance(Arc::new(move || provenance(&of, &place)));
            let renamed = renamed(&table);
            (file.entry.path.clone(), with_renamed(SourceTable::new(name, table, told), &renamed))
        };
        Ok(whole.files.iter().map(part).collect())
    }

    async fn left_out(&self) -> Result<Vec<String>, CollectionError> {
        let root = self.root().await?;
        let tables = self.tables_of(&root).await?;
        let most = self.max_files.saturating_mul(tables.len() + 1);
        let all = root.list(&Pattern::all(), most).await.map_err(|e| self.told(e))?;
        let mut in_tables = HashSet::new();
        for wanted in tables.values() {
            match self.files_of(&root, wanted).await {
                Ok((_, files)) => in_tables.extend(files.into_iter().map(|file| file.path)),
                Err(FileError::NoFiles) => {}
                Err(error) => return Err(self.told(error)),
            }
        }
        Ok(all.into_iter().map(|file| file.path).filter(|path| !in_tables.contains(path)).collect())
    }

    async fn check(&self) -> Result<Vec<String>, CollectionError> {
        let root = self.root().await?;
        let tables = self.tables_of(&root).await?;
        let mut said = vec![format!("{} with {} tables", root.told(), tables.len())];
        for (name, wanted) in &tables {
            let files = root.list(&wanted.pattern, self.max_files).await.map_err(|e| self.told(e))?;
            let bytes: u64 = files.iter().map(|file| file.bytes).sum();
            let format = wanted.format.or_else(|| commonest(&files));
            let others =
                files.iter().filter(|file| wanted.format.or(Format::of(&file.path)) != format).count();
            said.push(match (format, others) {
                (None, _) => format!("{name}: no files of a known format"),
                (Some(_), 0) => format!("{name}: {} files, {}", files.len(), ByteSize(bytes)),
                (Some(format), others) => format!(
                    "{name}: {} files of {format:?}, {}; {others} files of other formats are left out",
                    files.len() - others,
                    ByteSize(bytes)
                ),
            });
        }
        Ok(said)
    }
}

fn provenance(table: &FilesTable, place: &str) -> Value {
    let files: Vec<Value> = table.files.iter().take(FILES_TOLD).map(|file| file.entry.told()).collect();
    let bytes: u64 = table.files.iter().map(|file| file.entry.bytes).sum();
    let mut told = json!({ "root": place, "files": files, "file_count": table.files.len(), "bytes": bytes });
    if let Contents::Rows(layout) = &table.contents
        && !matches!(layout.format, Format::Text | Format::Markdown)
    {
        told["columns"] =
            json!(format!("inferred from the first records of up to {} files", SAMPLE_FILES + 1));
    }
    if let (Some(told), Value::Object(counted)) = (told.as_object_mut(), table.tally.told()) {
        told.extend(counted);
    }
    told
}
