//! Directories and files of all formats, read as tables.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{ArrayRef, Float64Array, Int64Array, RecordBatch, StringArray};
use datafusion::prelude::SessionContext;
use object_store::memory::InMemory;
use object_store::path::Path as ObjectPath;
use object_store::{ObjectStore, ObjectStoreExt as _};
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;
use tempfile::TempDir;

use super::pattern::Pattern;
use super::root::{FileError, Root, Version};
use super::{Files, FilesConfig};
use crate::collection::conformance::{self, Subject, caller, open, rows};
use crate::collection::{Collection, CollectionError};
use crate::rules::Holds;

fn files(dir: &Path, more: &str) -> Files {
    let config: FilesConfig = basic_toml::from_str(&format!("root = \"data\"\n{more}")).unwrap();
    Files::new("trials", &config, dir).unwrap()
}

fn with_files(all: &[(&str, &str)]) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (path, text) in all {
        let path = dir.path().join("data").join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    dir
}

/// Rows from `first` on, every third name NULL.
fn parquet(first: i64, count: i64) -> Vec<u8> {
    let ids: Vec<i64> = (first..first + count).collect();
    let name = |id: &i64| (id % 3 != 0).then(|| format!("name {id}"));
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("id", Arc::new(Int64Array::from(ids.clone()))),
        ("name", Arc::new(StringArray::from(ids.iter().map(name).collect::<Vec<_>>()))),
        ("size", Arc::new(Float64Array::from(ids.iter().map(|id| *id as f64 / 2.0).collect::<Vec<_>>()))),
    ];
    written(&RecordBatch::try_from_iter(columns).unwrap(), 10)
}

fn written(batch: &RecordBatch, group_rows: usize) -> Vec<u8> {
    let properties = WriterProperties::builder()
        .set_max_row_group_row_count(Some(group_rows))
        .set_compression(Compression::ZSTD(ZstdLevel::default()))
        .build();
    let mut bytes = Vec::new();
    let mut writer = ArrowWriter::try_new(&mut bytes, batch.schema(), Some(properties)).unwrap();
    writer.write(batch).unwrap();
    writer.close().unwrap();
    bytes
}

async fn conforms(collection: Files, table: &str, expected: &[&str]) {
    let expected = expected.iter().map(|line| (*line).to_owned()).collect();
    conformance::check(Subject { collection: Arc::new(collection), table: table.to_owned(), expected }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn text_formats_conform() {
    let dir = with_files(&[
        (
            "people.csv",
            "id,name,height,born,zip\n1,Ann,1.5,1980-02-29,00123\n2,,,,\n3,\"a%\",2,1990-01-01,x\n",
        ),
        (
            "visits.ndjson",
            "{\"id\":1,\"at\":\"2024-01-01T10:00:00Z\",\"ok\":true}\n{\"id\":2,\"tags\":[1]}\n{\"id\":null}\n",
        ),
        ("sites.json", "[{\"id\": 1, \"name\": \"Bern\"}, {\"id\": 2}, {\"id\": \"x\", \"name\": \"A\"}]"),
        ("notes.txt", "one\n\nA%\n"),
        ("guide.md", "# A\ntext\n## B\nmore\n# C\nend\n"),
        ("_SUCCESS", ""),
        ("photo.jpg", "?"),
    ]);
    let all = || files(dir.path(), "");
    assert_eq!(all().tables().await.unwrap(), ["guide", "notes", "people", "sites", "visits"]);
    let people = ["1|Ann|1.5|1980-02-29|00123", "2|NULL|NULL|NULL|NULL", "3|a%|2.0|1990-01-01|x"];
    conforms(all(), "people", &people).await;
    let visits = ["1|2024-01-01T10:00:00Z|true|NULL", "2|NULL|NULL|[1]", "NULL|NULL|NULL|NULL"];
    conforms(all(), "visits", &visits).await;
    conforms(all(), "sites", &["\"x\"|A", "1|Bern", "2|NULL"]).await;
    conforms(all(), "notes", &["notes.txt|1|one", "notes.txt|2|", "notes.txt|3|A%"]).await;
    conforms(all(), "guide", &[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn parquet_conforms_in_directories_that_are_columns() {
    let dir = with_files(&[("trials/a/year=2023/_tmp.parquet", "?")]);
    for (site, year, first) in [("a", "2023", 0), ("a", "2024", 100), ("b", "2024", 200)] {
        let directory = dir.path().join(format!("data/trials/{site}/year={year}"));
        fs::create_dir_all(&directory).unwrap();
        fs::write(directory.join("1.parquet"), parquet(first, 25)).unwrap();
    }
    let collection = || {
        files(
            dir.path(),
            "[tables.results]\npath = \"trials/*/year=*/*.parquet\"\n[tables.none]\npath = \"x/*.csv\"",
        )
    };
    conforms(collection(), "results", &[]).await;
    let source = open(&collection(), "results").await;
    let context = SessionContext::new();
    context.register_table("t", source.provider).unwrap();
    let found = rows(&context, "SELECT count(*), min(id), max(year) FROM t WHERE year > 2023").await.unwrap();
    assert_eq!(found, ["50|100|2024"]);
    // Directories are pruned by the engine's own words, row groups by their statistics.
    let plan =
        rows(&context, "EXPLAIN SELECT id FROM t WHERE year = 2023 AND id = 7").await.unwrap().concat();
    assert!(plan.contains("files=1 of 3"), "{plan}");
    let told = (source.provenance.0)();
    assert_eq!(told["file_count"], 3, "{told}");
    assert!(told["files"][0]["path"].as_str().unwrap().starts_with("trials/a/year=2023"), "{told}");
    let error = collection().table("none", &caller()).await.unwrap_err();
    assert!(matches!(error, CollectionError::Unusable { .. }), "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn row_groups_are_passed_over_by_their_statistics() {
    let dir = with_files(&[]);
    fs::create_dir_all(dir.path().join("data")).unwrap();
    fs::write(dir.path().join("data/t.parquet"), parquet(0, 1_000)).unwrap();
    let source = open(&files(dir.path(), ""), "t").await;
    let context = SessionContext::new();
    context.register_table("t", source.provider).unwrap();
    assert_eq!(rows(&context, "SELECT name FROM t WHERE id = 500").await.unwrap(), ["name 500"]);
    assert_eq!((source.provenance.0)()["rows_read"], 10);
}

/// A rule about `who` is about both.
#[tokio::test]
async fn a_second_column_of_a_name_holds_the_first() {
    let dir = with_files(&[("a.csv", "id,who,text, who \n1,a,b,c\n"), ("b.csv", "who,who_2\na,b\n")]);
    let collection = files(dir.path(), "");
    let holds = async |table| {
        let columns = open(&collection, table).await.columns.into_iter();
        columns.filter(|column| column.holds != Holds::Nothing).map(|c| (c.name, c.holds)).collect::<Vec<_>>()
    };
    assert_eq!(holds("a").await, [("who_2".to_owned(), Holds::Columns(vec!["who".to_owned()]))]);
    assert_eq!(holds("b").await, []);
}

#[tokio::test]
async fn nothing_outside_of_the_root_is_read() {
    let dir = with_files(&[("inside/a.csv", "id\n1\n"), ("b.csv", "id\n2\n")]);
    let data = dir.path().join("data");
    fs::write(dir.path().join("secret.csv"), "id\nSECRET\n").unwrap();
    fs::create_dir(dir.path().join("other")).unwrap();
    fs::write(dir.path().join("other/secret.csv"), "id\nSECRET\n").unwrap();
    let link = |to: &str, at: &str| std::os::unix::fs::symlink(to, data.join(at)).unwrap();
    link("../secret.csv", "relative.csv");
    link(dir.path().join("secret.csv").to_str().unwrap(), "absolute.csv");
    link("../other", "directory");
    link("/proc/self/root/etc", "magic");
    link("inside/a.csv", "good.csv");
    rustix::fs::mkfifoat(rustix::fs::CWD, data.join("pipe.csv"), rustix::fs::Mode::RWXU).unwrap();
    let collection = files(dir.path(), "");
    assert_eq!(collection.tables().await.unwrap(), ["b", "good", "inside"]);
    let config = "[tables.all]\npath = \"**/*.csv\"\n[tables.named]\npath = \"directory/secret.csv\"";
    let collection = files(dir.path(), config);
    let context = SessionContext::new();
    context.register_table("t", open(&collection, "all").await.provider).unwrap();
    assert_eq!(rows(&context, "SELECT id FROM t").await.unwrap(), ["1", "1", "2"]);
    assert!(collection.table("named", &caller()).await.is_err());
}

#[tokio::test]
async fn a_link_that_is_put_in_the_place_of_a_file_is_not_followed() {
    let dir = with_files(&[("a.csv", "id\n1\n")]);
    let path = dir.path().join("data/a.csv");
    let source = open(&files(dir.path(), ""), "a").await;
    fs::write(dir.path().join("secret.csv"), "id\n7\n").unwrap();
    fs::remove_file(&path).unwrap();
    std::os::unix::fs::symlink("../secret.csv", &path).unwrap();
    let context = SessionContext::new();
    context.register_table("t", source.provider).unwrap();
    let error = rows(&context, "SELECT * FROM t").await.unwrap_err();
    assert!(error.contains("the collection trials refuses"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_changes_is_told() {
    let dir = with_files(&[("a.csv", "id\n1\n")]);
    fs::write(dir.path().join("data/b.parquet"), parquet(0, 10)).unwrap();
    for (name, changed) in [("a.csv", b"id\n2\n3\n".to_vec()), ("b.parquet", parquet(5, 11))] {
        let source = open(&files(dir.path(), ""), &name[..1]).await;
        fs::write(dir.path().join("data").join(name), changed).unwrap();
        let context = SessionContext::new();
        context.register_table("t", source.provider).unwrap();
        let error = rows(&context, "SELECT * FROM t").await.unwrap_err();
        assert!(error.contains("the collection trials changed while it was read"), "{error}");
    }
}

/// The error of a table whose file has these bytes, with its sources.
async fn error_of(name: &str, bytes: &[u8]) -> String {
    let dir = with_files(&[]);
    fs::create_dir_all(dir.path().join("data")).unwrap();
    fs::write(dir.path().join("data").join(name), bytes).unwrap();
    let source = match files(dir.path(), "").table("t", &caller()).await {
        Ok(source) => source.unwrap(),
        Err(error) => return format!("{error} {error:?}"),
    };
    let context = SessionContext::new();
    context.register_table("t", source.provider).unwrap();
    let frame = context.sql("SELECT * FROM t").await.unwrap();
    let error = frame.collect().await.expect_err("it fails");
    format!("{error} {error:?}")
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_and_hostile_files_are_told_without_their_contents() {
    let whole = parquet(0, 25);
    let secret = RecordBatch::try_from_iter([(
        "x",
        Arc::new(StringArray::from(vec!["SECRET".repeat(20_000_000)])) as ArrayRef,
    )])
    .unwrap();
    let bomb = written(&secret, 10);
    assert!(bomb.len() < 1 << 20, "it is small, and large where it is decompressed");
    let mut footer = whole.clone();
    let at = footer.len() - 8;
    footer[at..at + 4].copy_from_slice(&u32::MAX.to_le_bytes());
    let mut zeros = whole.clone();
    let end = zeros.len() - 12;
    zeros[end - 200..end].fill(0);
    let mut pages = whole.clone();
    pages[4..200].fill(0xff);
    for (what, name, bytes) in [
        ("cut off", "t.parquet", whole[..whole.len() / 2].to_vec()),
        ("empty", "t.parquet", Vec::new()),
        ("no Parquet", "t.parquet", b"SECRET".repeat(100)),
        ("the length of the footer", "t.parquet", footer),
        ("zeros in the footer", "t.parquet", zeros),
        ("pages", "t.parquet", pages),
        ("a page of 120 MB", "t.parquet", bomb),
        ("a quote without an end", "t.csv", format!("id\n\"{}", "SECRET".repeat(4_000_000)).into_bytes()),
        ("a line without an end", "t.txt", b"SECRET".repeat(4_000_000)),
        ("JSON that is cut off", "t.json", b"[{\"id\": 1}, {\"id\": \"SECRET".to_vec()),
        ("no JSON", "t.json", b"SECRET".to_vec()),
    ] {
        let error = error_of(name, &bytes).await;
        assert!(
            error.contains("the collection trials answered something that cannot be used"),
            "{what}: {error}"
        );
        assert!(!error.contains("SECRET"), "{what}: {error}");
    }
}

/// Whatever byte of a file is another one, reading it gives rows or an error. The library panics at some.
#[tokio::test(flavor = "multi_thread")]
async fn no_byte_of_parquet_ends_the_process() {
    let whole = parquet(0, 12);
    let dir = with_files(&[]);
    fs::create_dir_all(dir.path().join("data")).unwrap();
    for at in (4..whole.len()).step_by(3) {
        let mut bytes = whole.clone();
        bytes[at] ^= 0xff;
        fs::write(dir.path().join("data/t.parquet"), bytes).unwrap();
        let collection = files(dir.path(), "");
        let read = tokio::spawn(async move {
            let Ok(Some(source)) = collection.table("t", &caller()).await else { return };
            let context = SessionContext::new();
            context.register_table("t", source.provider).unwrap();
            let _ = rows(&context, "SELECT * FROM t").await;
        });
        assert!(read.await.is_ok(), "byte {at}");
    }
}

#[tokio::test]
async fn files_and_bytes_of_a_table_are_bounded() {
    let dir = with_files(&[("t/a.csv", "id\n1\n"), ("t/b.csv", "id\n2\n"), ("t/c.csv", "id\n3\n")]);
    for more in ["max_files = 2", "max_bytes = \"10\""] {
        let error = files(dir.path(), more).table("t", &caller()).await.unwrap_err();
        assert!(matches!(error, CollectionError::Unusable { .. }), "{more}: {error:?}");
    }
    let read = files(dir.path(), "max_files = 3").table("t", &caller()).await.unwrap();
    assert!(read.is_some());
}

#[tokio::test]
async fn a_bucket_is_read_as_a_directory_is() {
    let store = Arc::new(InMemory::new());
    let put = async |path: &str, text: &str| {
        store.put(&ObjectPath::from(path), text.to_owned().into()).await.unwrap();
    };
    put("in/a/x=1/1.csv", "id\n1\n").await;
    put("in/b.csv", "id\n2\n").await;
    put("outside/c.csv", "id\n3\n").await;
    let of = Arc::clone(&store) as Arc<dyn ObjectStore>;
    let root = Root::Bucket { store: of, prefix: ObjectPath::from("in"), told: "s3://bucket/in".to_owned() };
    assert_eq!(root.top(10).await.unwrap(), ["a/", "b.csv"]);
    let listed = root.list(&Pattern::parse("**/*.csv").unwrap(), 10).await.unwrap();
    assert_eq!(listed.iter().map(|f| f.path.as_str()).collect::<Vec<_>>(), ["a/x=1/1.csv", "b.csv"]);
    assert_eq!(root.read(&listed[1], 3, 100).await.unwrap(), "2\n");
    // Other parts of a second in a listing than in an answer, as MinIO has them, are no change.
    let mut other = listed[1].clone();
    let Version::Object { modified_ms, .. } = &mut other.version else { panic!("it is no object") };
    *modified_ms += 999 - 2 * modified_ms.rem_euclid(1_000);
    assert_eq!(root.read(&other, 3, 100).await.unwrap(), "2\n");
    let Version::Object { etag, modified_ms } = &mut other.version else { panic!("it is no object") };
    (*etag, *modified_ms) = (None, *modified_ms + 1_000);
    assert!(matches!(root.read(&other, 3, 100).await, Err(FileError::Changed { .. })));
    put("in/b.csv", "id\n4\n").await;
    assert!(matches!(root.read(&listed[1], 0, 100).await, Err(FileError::Changed { .. })));
    store.delete(&ObjectPath::from("in/a/x=1/1.csv")).await.unwrap();
    assert!(matches!(root.read(&listed[0], 0, 100).await, Err(FileError::Changed { .. })));
}

#[test]
fn settings_that_cannot_be_are_refused() {
    for (text, expected) in [
        ("root = \"s3://\"", "no bucket"),
        ("root = \"a\"\naccess_key_id = \"x\"", "belong together"),
        ("root = \"a\"\nmax_bytes = \"ten\"", "max_bytes"),
        ("root = \"a\"\n[tables.T]\npath = \"x\"", "tables.T"),
        ("root = \"a\"\n[tables.t]\npath = \"../x\"", "tables.t.path"),
        ("root = \"a\"\n[tables.t]\npath = \"x\"\ndelimiter = \"ä\"", "tables.t.delimiter"),
    ] {
        let config: FilesConfig = basic_toml::from_str(text).unwrap();
        let error = Files::new("trials", &config, Path::new("/")).unwrap_err().to_string();
        assert!(error.contains(expected), "{text}: {error}");
    }
}
