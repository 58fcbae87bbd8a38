//! Requests from when they are opened to when nothing remains, on files and a database.

use std::fs;
use std::path::Path;

use super::*;
use crate::config::Config;

mod finding;
mod requests;

const RULES: &str = r#"
[keys.subjects]
env = "K"
[[label]]
table = ["clinic.people", "clinic.visits"]
column = "id"
labels = "subject.patient"
[[label]]
table = ["clinic.people", "papers.letters"]
column = "mrn"
labels = "subject.mrn"
[[subject]]
name = "patient"
labels = ["subject.patient", "subject.mrn"]
key = "subjects"
links = { table = "clinic.people", from = "id", to = "mrn" }
without = ["clinic.wards", "clinic.notes"]
"#;

fn rules(text: &str, key: u8) -> Rulebook {
    let dir = tempfile::tempdir().unwrap();
    let (policies, rules) = (dir.path().join("p.cedar"), dir.path().join("rules.toml"));
    fs::write(&policies, "permit (principal, action, resource);").unwrap();
    fs::write(&rules, text).unwrap();
    Rulebook::load(&policies, &rules, &move |_| Ok(vec![key; 32])).unwrap()
}

fn office(dir: &Path, rules: Rulebook) -> Office {
    let path = dir.join("perimeter.toml");
    let text = fs::read_to_string(&path).unwrap();
    Office {
        collections: Config::parse(&path, &text).unwrap().open().unwrap(),
        rules,
        labelled: Labelled::default(),
        files: Files::beside(&dir.join("audit.jsonl"), None),
        elsewhere: Elsewhere { audit_log: "audit.jsonl".to_owned(), delivered: Vec::new() },
        clock: Arc::new(SystemClock),
    }
}

fn sql(dir: &Path, text: &str) {
    rusqlite::Connection::open(dir.join("clinic.db")).unwrap().execute_batch(text).unwrap();
}

fn hospital(dir: &Path) {
    sql(
        dir,
        "CREATE TABLE people (id INT, mrn TEXT); CREATE TABLE wards (n INT); CREATE TABLE notes (x TEXT);
         INSERT INTO people VALUES (7, 'M-7'), (7, NULL), (70, 'M-70'), (NULL, 'M-1');",
    );
    fs::create_dir_all(dir.join("papers/letters")).unwrap();
    fs::write(dir.join("papers/letters/M-7.csv"), "mrn,text\nM-7,a\nM-7,b\nM-70,c\n").unwrap();
    fs::write(dir.join("papers/letters/other.csv"), "mrn,text\nM-70,c\n").unwrap();
    let text = "[collections.clinic]\nkind = \"sqlite\"\npath = \"clinic.db\"\n\
        [collections.papers]\nkind = \"files\"\nroot = \"papers\"\n";
    fs::write(dir.join("perimeter.toml"), text).unwrap();
}

/// The identifiers come from a file.
fn asked(dir: &Path, subject: &str) -> SubjectArgs {
    let path = dir.join("subject");
    fs::write(&path, subject).unwrap();
    let subject = format!("file:{}", path.display());
    SubjectArgs { subject, kind: None, format: ErasureFormat::Text }
}

async fn found(office: &Office, dir: &Path, subject: &str) -> (Targets, Found) {
    let (kind, targets, links) = office.sought(&asked(dir, subject)).await.unwrap();
    let mut found = office.search(kind).run(&targets, None).await;
    links.into_iter().for_each(|gap| found.gap(gap));
    (targets, found)
}

fn only(office: &Office) -> Request {
    office.files.read().unwrap().requests.values().next().unwrap().clone()
}

/// How many lines the register has.
fn verified(office: &Office) -> u64 {
    let register = office.files.register.display();
    let anchor = format!("{register}.anchor");
    kafscale_audit::verify_anchored(&office.files.register, Path::new(&anchor)).unwrap().lines
}

fn tables(dir: &Path, names: &str) {
    names.split(' ').for_each(|name| sql(dir, &format!("CREATE TABLE {name} (id INT)")));
}

fn erase(dir: &Path) {
    sql(dir, "DELETE FROM people WHERE id = 7 OR mrn = 'M-7'");
    fs::remove_file(dir.join("papers/letters/M-7.csv")).unwrap();
}

fn recorded(id: &str, table: Option<&str>, elsewhere: Option<&str>, note: &str) -> RecordArgs {
    RecordArgs {
        request: id.to_owned(),
        table: table.map(str::to_owned),
        elsewhere: elsewhere.map(str::to_owned),
        by: "ann".to_owned(),
        note: note.to_owned(),
        until: elsewhere.map(|_| "2027-01-31".to_owned()),
    }
}

fn gaps(found: &Found) -> Vec<&str> {
    found.gaps.iter().map(|gap| gap.table.as_str()).collect()
}
