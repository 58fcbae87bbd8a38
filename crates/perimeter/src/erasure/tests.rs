//! Requests from when they are opened to when nothing remains, on files and a made-up register.

use std::fs;
use std::path::Path;

use serde_json::json;

use super::suppressed::{Followed, Impossible, Suppressed};
use super::*;
use crate::config::Config;
use crate::rules::ColumnInfo;
use crate::shape::{ColumnShape, Shown};

const RULES: &str = r#"
[keys.subjects]
env = "K"
[[label]]
table = "clinic.people"
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
without = "clinic.wards"
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
    let (register, anchor) = register::beside(&dir.join("audit.jsonl"), None);
    Office {
        collections: Config::parse(&path, &text).unwrap().open().unwrap(),
        rules,
        labelled: Labelled::default(),
        register,
        anchor,
        clock: Arc::new(SystemClock),
    }
}

fn hospital(dir: &Path) {
    let db = rusqlite::Connection::open(dir.join("clinic.db")).unwrap();
    db.execute_batch(
        "CREATE TABLE people (id INT, mrn TEXT); CREATE TABLE wards (n INT); CREATE TABLE notes (x TEXT);
         INSERT INTO people VALUES (7, 'M-7'), (7, NULL), (70, 'M-70'), (NULL, 'M-1');",
    )
    .unwrap();
    fs::create_dir_all(dir.join("papers/letters")).unwrap();
    fs::write(dir.join("papers/letters/M-7.csv"), "mrn,text\nM-7,a\nM-7,b\nM-70,c\n").unwrap();
    fs::write(dir.join("papers/letters/other.csv"), "mrn,text\nM-70,c\n").unwrap();
    let text = "[collections.clinic]\nkind = \"sqlite\"\npath = \"clinic.db\"\n\
        [collections.papers]\nkind = \"files\"\nroot = \"papers\"\n";
    fs::write(dir.join("perimeter.toml"), text).unwrap();
}

fn asked(subject: &str) -> SubjectArgs {
    SubjectArgs { subject: subject.to_owned(), kind: None, label: None, format: ErasureFormat::Text }
}

#[tokio::test]
async fn a_subject_is_found_by_all_its_identifiers_and_gaps_are_told() {
    let dir = tempfile::tempdir().unwrap();
    hospital(dir.path());
    let office = office(dir.path(), rules(RULES, 7));
    let (_, targets, found) = office.sought(&asked("7")).await.unwrap();
    let places: Vec<_> = found.places.iter().map(|p| (p.table.as_str(), p.part.as_deref(), p.rows)).collect();
    assert_eq!(places, [("clinic.people", None, 2), ("papers.letters", Some("letters/M-7.csv"), 2)]);
    assert_eq!(found.places[0].columns, ["id", "mrn"]);
    let gaps: Vec<_> = found.gaps.iter().map(|gap| gap.table.as_str()).collect();
    assert_eq!((gaps, found.excepted), (vec!["clinic.notes"], 1));
    assert!(!found.is_complete() && found.state() == State::Open);
    // Names of files are those of subjects.
    let kept = json!(found.without_subjects(&targets)).to_string();
    assert!(!kept.contains("M-7") && kept.contains("letters/:subject.csv"), "{kept}");
    // The same by hashes alone.
    let blind =
        targets.into_iter().map(|(label, target)| (label, Target { values: None, ..target })).collect();
    let again = office.search(office.kind(None).unwrap()).run(&blind).await;
    assert_eq!(again.places.iter().map(|p| p.rows).collect::<Vec<_>>(), [2, 2]);
    assert!(json!(again.without_subjects(&blind)).to_string().contains("letters/:subject.csv"));
}

/// A search without a result is complete only where everything was searched.
#[tokio::test]
async fn what_is_down_is_no_absence() {
    let dir = tempfile::tempdir().unwrap();
    hospital(dir.path());
    let more = "[collections.gone]\nkind = \"sqlite\"\npath = \"gone.db\"\n";
    let config = dir.path().join("perimeter.toml");
    fs::write(&config, fs::read_to_string(&config).unwrap() + more).unwrap();
    let office = office(
        dir.path(),
        rules(
            &RULES.replace("wards\"", "wards\", \"clinic.notes\"]").replace("without = \"", "without = [\""),
            7,
        ),
    );
    let (_, _, found) = office.sought(&asked("999")).await.unwrap();
    assert!(found.places.is_empty() && found.gaps.len() == 1 && found.gaps[0].table == "gone.*", "{found:?}");
    assert!(found.in_words().contains("INCOMPLETE") && office.find(&asked("999")).await.is_err());
}

#[tokio::test]
async fn a_request_goes_from_open_to_closed_and_its_register_is_a_chain() {
    let dir = tempfile::tempdir().unwrap();
    hospital(dir.path());
    let text = RULES.replace("without = \"clinic.wards\"", "without = [\"clinic.wards\", \"clinic.notes\"]");
    let office = office(dir.path(), rules(&text, 7));
    office.begin(&asked("7"), "dpo", "letter 12").await.unwrap();
    let state = || {
        let register = read(&office.register, &office.anchor).unwrap();
        let request = register.requests.values().next().unwrap().clone();
        (request.id.clone(), request.is_suppressed(), request.state)
    };
    let (id, suppressed, _) = state();
    assert!(suppressed && office.record(&id, "clinic.wards", "ann", "").await.is_err());
    office.record(&id, "clinic.people", "ann", "ticket 4").await.unwrap();
    assert!(office.verify(&id, "dpo").await.is_err());
    assert_eq!(state(), (id.clone(), true, State::Open));
    let db = rusqlite::Connection::open(dir.path().join("clinic.db")).unwrap();
    db.execute_batch("DELETE FROM people WHERE id = 7 OR mrn = 'M-7'").unwrap();
    fs::remove_file(dir.path().join("papers/letters/M-7.csv")).unwrap();
    office.verify(&id, "dpo").await.unwrap();
    assert_eq!(state(), (id.clone(), false, State::Closed));
    let register = read(&office.register, &office.anchor).unwrap();
    let all: Vec<&Request> = register.requests.values().collect();
    let told = report::of_requests(&all, ErasureFormat::Text);
    for expected in [
        "closed; nothing remains",
        "erased from clinic.people",
        "by ann: ticket 4",
        "gone from papers.letters, and nobody recorded",
    ] {
        assert!(told.contains(expected), "{expected} in\n{told}");
    }
    let csv = report::of_requests(&all, ErasureFormat::Csv);
    assert!(csv.lines().count() > 5 && csv.lines().all(|line| line.matches("\",\"").count() == 7), "{csv}");
    let written = fs::read_to_string(&office.register).unwrap();
    assert!(!written.contains("M-7") && written.lines().count() == 4, "{written}");
    kafscale_audit::verify_anchored(&office.register, &office.anchor).unwrap();
    // Who takes the last line away opens nothing.
    fs::write(&office.register, written.lines().take(1).map(|line| format!("{line}\n")).collect::<String>())
        .unwrap();
    assert!(read(&office.register, &office.anchor).is_err());
    fs::remove_file(&office.register).unwrap();
    assert!(Followed::open(&office.register, &office.anchor).is_err(), "a register that is gone");
}

#[tokio::test]
async fn an_open_request_leaves_rows_out_and_cannot_be_lost() {
    let dir = tempfile::tempdir().unwrap();
    hospital(dir.path());
    let office = office(dir.path(), rules(RULES, 7));
    let followed = Followed::open(&office.register, &office.anchor).unwrap();
    let columns = [ColumnInfo::new("id", arrow::datatypes::DataType::Int64)];
    let shaped = |label: &str| {
        let labels = vec![label.to_owned()];
        [ColumnShape { name: "id".to_owned(), labels, shown: Shown::Hidden, rules: Vec::new() }]
    };
    let of = |suppressed: &Suppressed, rules: &Rulebook, label: &str| {
        suppressed.of_table(rules, &columns, &shaped(label)).map(|erased| erased.len())
    };
    let patient = "subject.patient";
    assert_eq!(of(&followed.current(), &office.rules, patient), Ok(0));
    assert_eq!(followed.current().hash_with("h"), "h");
    let _ = office.begin(&asked("7"), "dpo", "").await;
    followed.look();
    assert_eq!(of(&followed.current(), &office.rules, patient), Ok(1));
    assert_eq!(of(&followed.current(), &office.rules, "plain"), Ok(0));
    assert!(followed.current().hash_with("h").starts_with("h+erasures:1:"));
    let other = of(&followed.current(), &rules(RULES, 8), patient);
    assert_eq!(other, Err(Impossible::OtherKey("patient".to_owned())));
    let none = of(&followed.current(), &rules("", 7), patient);
    assert_eq!(none, Err(Impossible::NoSubject("patient".to_owned())));
    let list = arrow::datatypes::DataType::new_list(arrow::datatypes::DataType::Int64, true);
    let nested = followed.current().of_table(&office.rules, &[ColumnInfo::new("id", list)], &shaped(patient));
    assert_eq!(nested, Err(Impossible::Type("id".to_owned())));
    let whole = fs::read(&office.register).unwrap();
    for broken in [&b""[..], b"{\"v\":1,", b"x\n"] {
        fs::write(&office.register, broken).unwrap();
        followed.look();
        assert!(followed.is_broken() && of(&followed.current(), &office.rules, patient) == Ok(1));
        assert!(Followed::open(&office.register, &office.anchor).is_err());
    }
    fs::write(&office.register, whole).unwrap();
    followed.look();
    assert!(!followed.is_broken());
    let again = Followed::open(&office.register, &office.anchor).unwrap();
    assert_eq!(of(&again.current(), &office.rules, patient), Ok(1), "a restart keeps it");
}
