//! What a search finds, and what it says that it has not searched.

use super::*;

#[tokio::test]
async fn a_subject_is_found_by_all_its_identifiers_and_gaps_are_told() {
    let dir = tempfile::tempdir().unwrap();
    hospital(dir.path());
    fs::write(dir.path().join("papers/letters/scan.pdf"), "M-7").unwrap();
    let office = office(dir.path(), rules(&RULES.replace(", \"clinic.notes\"", ""), 7));
    // Also from the other end of the link.
    for subject in ["7", " 7.0 ", "subject.mrn=M-7"] {
        let (targets, found) = found(&office, dir.path(), subject).await;
        let places: Vec<_> = found.places.iter().map(|p| (p.table.to_string(), p.part(), p.rows)).collect();
        let letter = Some("letters/M-7.csv".to_owned());
        let expected = [("clinic.people".to_owned(), None, 2), ("papers.letters".to_owned(), letter, 2)];
        assert_eq!(places, expected, "{subject}");
        assert_eq!(found.places[0].columns.keys().collect::<Vec<_>>(), ["id", "mrn"]);
        // Files of another format are in no table.
        assert_eq!((gaps(&found), found.excepted), (vec!["clinic.notes", "papers.*"], 1));
        assert_eq!(found.gaps[1].names, ["letters/scan.pdf"]);
        let kept = found.for_register(&Names::new(&targets));
        let text = json!(kept).to_string();
        assert!(!text.contains("M-7") && !text.contains("csv") && !text.contains("pdf"), "{text}");
        assert_eq!(kept.places[1].part().as_deref(), Some("1 files"));
    }
}

/// A search without a result is complete only where everything was searched.
#[tokio::test]
async fn what_is_down_is_no_absence() {
    let dir = tempfile::tempdir().unwrap();
    hospital(dir.path());
    let more = "[collections.gone]\nkind = \"sqlite\"\npath = \"gone.db\"\n";
    let config = dir.path().join("perimeter.toml");
    fs::write(&config, fs::read_to_string(&config).unwrap() + more).unwrap();
    let office = office(dir.path(), rules(RULES, 7));
    let nobody = "999\nsubject.mrn=M-999";
    let (_, found) = found(&office, dir.path(), nobody).await;
    assert!(found.places.is_empty() && gaps(&found) == ["gone.*"], "{found:?}");
    assert!(found.in_words().contains("INCOMPLETE"));
    assert!(office.find(&asked(dir.path(), nobody), false).await.is_err());
}

/// A disk that is not mounted, a right that was revoked, another configuration.
#[tokio::test]
async fn a_collection_without_tables_is_a_gap() {
    let dir = tempfile::tempdir().unwrap();
    hospital(dir.path());
    fs::remove_dir_all(dir.path().join("papers/letters")).unwrap();
    let (_, some) = found(&office(dir.path(), rules(RULES, 7)), dir.path(), "7").await;
    assert_eq!(gaps(&some), ["papers.*"]);
    let text = RULES.replace("\"clinic.wards\"", "\"clinic.wards\", \"papers.*\"");
    let (_, excepted) = found(&office(dir.path(), rules(&text, 7)), dir.path(), "7").await;
    assert!(excepted.is_complete());
    fs::write(dir.path().join("perimeter.toml"), "").unwrap();
    let (_, none) = found(&office(dir.path(), rules(RULES, 7)), dir.path(), "7").await;
    assert_eq!(gaps(&none), ["*", "clinic.people"]);
}

/// Whose rows are gone from the link may have a number all the same.
#[tokio::test]
async fn an_identifier_that_no_link_has_is_a_gap() {
    let dir = tempfile::tempdir().unwrap();
    hospital(dir.path());
    let linked = office(dir.path(), rules(RULES, 7));
    sql(dir.path(), "INSERT INTO people VALUES (71, NULL), (NULL, 'M-72')");
    for (subject, expected) in [
        // The link has a row, and nothing stands beside it.
        ("71", vec![]),
        ("subject.mrn=M-72", vec![]),
        ("999", vec!["clinic.people", "papers.letters"]),
        ("subject.mrn=M-999", vec!["clinic.people"]),
        ("999\nsubject.mrn=M-999", vec![]),
    ] {
        let (_, found) = found(&linked, dir.path(), subject).await;
        assert_eq!(gaps(&found), expected, "{subject}");
        assert!(found.gaps.iter().all(|gap| gap.why.contains("was not compared")), "{:?}", found.gaps);
    }
    let text = RULES.replace("links = { table = \"clinic.people\", from = \"id\", to = \"mrn\" }", "");
    let unlinked = office(dir.path(), rules(&text, 7));
    assert_eq!(gaps(&found(&unlinked, dir.path(), "7").await.1), ["clinic.people", "papers.letters"]);
    assert_eq!(found(&unlinked, dir.path(), "7\nsubject.mrn=M-7").await.1.gaps, []);
}

#[tokio::test]
async fn links_are_followed_for_different_identifiers_up_to_a_bound_that_is_a_gap() {
    let dir = tempfile::tempdir().unwrap();
    hospital(dir.path());
    let office = office(dir.path(), rules(RULES, 7));
    // Thousands of rows that say the same, then one that says more.
    sql(
        dir.path(),
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 3000)
         INSERT INTO people SELECT 7, 'M-7' FROM n; INSERT INTO people VALUES (7, '[\"M-7\", \"M-8\"]');",
    );
    fs::write(dir.path().join("papers/letters/eight.csv"), "mrn,text\nM-8,a\n").unwrap();
    let (_, all) = found(&office, dir.path(), "7").await;
    assert!(all.is_complete() && all.places.iter().any(|p| p.file.as_deref() == Some("letters/eight.csv")));
    sql(
        dir.path(),
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 300)
         INSERT INTO people SELECT 7, 'X-' || i FROM n;",
    );
    let (_, many) = found(&office, dir.path(), "7").await;
    assert!(many.gaps.iter().any(|gap| gap.why.contains("identifiers are linked")), "{:?}", many.gaps);
}

/// A value that stands for none, or a number that two people share, makes nobody else the subject.
#[tokio::test]
async fn a_shared_value_is_a_gap_until_all_that_have_it_are_given() {
    let dir = tempfile::tempdir().unwrap();
    hospital(dir.path());
    tables(dir.path(), "visits");
    let office = office(dir.path(), rules(RULES, 7));
    sql(dir.path(), "INSERT INTO people VALUES (7, 'N/A'), (8, 'N/A'), (9, 'N/A'), (9, 'M-9')");
    sql(dir.path(), "INSERT INTO visits VALUES (7), (8), (9), (9)");
    let visits = |found: &Found| {
        let places = found.places.iter().filter(|place| place.table.table == "visits");
        places.map(|place| place.rows).sum::<u64>()
    };
    for subject in ["7", "subject.mrn=N/A", "7\n8"] {
        let (_, some) = found(&office, dir.path(), subject).await;
        assert!(visits(&some) <= 2 && gaps(&some).contains(&"clinic.people"), "{subject}: {some:?}");
        let whys: Vec<&String> = some.gaps.iter().map(|gap| &gap.why).collect();
        assert!(whys.iter().any(|why| why.contains("give those that are the subject's")), "{whys:?}");
    }
    // Records that were merged.
    let (targets, all) = found(&office, dir.path(), "7\n8\n9").await;
    assert!(all.is_complete() && visits(&all) == 4, "{all:?}");
    assert!(all.in_words().contains("for 3 of subject.mrn, 3 of subject.patient"), "{}", all.in_words());
    assert_eq!(Vec::from_iter(&targets["subject.mrn"].known), ["M-7", "M-9", "N/A"]);
    // One has it alone.
    let (_, back) = found(&office, dir.path(), "subject.mrn=M-7").await;
    assert!(gaps(&back).contains(&"clinic.people") && visits(&back) == 1, "{back:?}");
}

#[tokio::test]
async fn links_are_followed_until_nothing_is_new_up_to_a_bound_that_is_a_gap() {
    let dir = tempfile::tempdir().unwrap();
    hospital(dir.path());
    sql(dir.path(), "CREATE TABLE merged (before TEXT, after INT)");
    let more = "\n[[label]]\ntable = \"clinic.merged\"\ncolumn = \"before\"\nlabels = \"subject.mrn\"\n\
        [[label]]\ntable = \"clinic.merged\"\ncolumn = \"after\"\nlabels = \"subject.patient\"\n";
    let link = "links = [{ table = \"clinic.people\", from = \"id\", to = \"mrn\" }, \
        { table = \"clinic.merged\", from = \"before\", to = \"after\" }]";
    let text =
        RULES.replace("links = { table = \"clinic.people\", from = \"id\", to = \"mrn\" }", link) + more;
    let office = office(dir.path(), rules(&text, 7));
    let merge = |n: u32| {
        sql(
            dir.path(),
            &format!(
                "INSERT INTO merged VALUES ('M-{n}', {0}); INSERT INTO people VALUES ({0}, 'M-{0}')",
                n + 1
            ),
        );
    };
    (7..12).for_each(merge);
    fs::write(dir.path().join("papers/letters/last.csv"), "mrn,text\nM-12,a\n").unwrap();
    let (_, all) = found(&office, dir.path(), "7").await;
    assert!(all.is_complete() && all.places.iter().any(|p| p.file.as_deref() == Some("letters/last.csv")));
    (12..60).for_each(merge);
    let (_, far) = found(&office, dir.path(), "7").await;
    assert!(far.gaps.iter().any(|gap| gap.why.contains("links lead on")), "{:?}", far.gaps);
}

#[tokio::test]
async fn labels_are_the_same_in_any_case() {
    let dir = tempfile::tempdir().unwrap();
    hospital(dir.path());
    let text =
        RULES.replace("[\"subject.patient\", \"subject.mrn\"]", "[\"Subject.Patient\", \"SUBJECT.mrn\"]");
    assert_ne!(text, RULES);
    let office = office(dir.path(), rules(&text, 7));
    let (_, all) = found(&office, dir.path(), "7").await;
    assert!(all.is_complete() && all.places.len() == 2, "{all:?}");
}

/// A column of numbers has lost the zeros in front of some.
#[tokio::test]
async fn zeros_in_front_are_found_where_a_column_of_numbers_has_lost_them() {
    let dir = tempfile::tempdir().unwrap();
    hospital(dir.path());
    sql(dir.path(), "CREATE TABLE cards (mrn INT); INSERT INTO cards VALUES ('0042'), (43)");
    fs::write(dir.path().join("papers/letters/more.csv"), "mrn,text\n0042,a\n42,b\n").unwrap();
    let text = RULES.replace("\"papers.letters\"]", "\"papers.letters\", \"clinic.cards\"]");
    let office = office(dir.path(), rules(&text, 7));
    let (_, all) = found(&office, dir.path(), "7\nsubject.mrn=0042").await;
    let rows = |table: &str, file: Option<&str>| {
        let places = all.places.iter().filter(|p| p.table.table == table && p.file.as_deref() == file);
        places.map(|place| place.rows).sum::<u64>()
    };
    assert_eq!((rows("cards", None), rows("letters", Some("letters/more.csv"))), (1, 1), "{all:?}");
}

#[tokio::test]
async fn pseudonyms_are_found_however_the_source_wrote_the_identifier() {
    let dir = tempfile::tempdir().unwrap();
    hospital(dir.path());
    let uuid = "0192f8a0-5b7c-7d3e-8f10-1a2b3c4d5e6f";
    let masks = "\n[[obligation]]\nid = \"m\"\nlabels = \"subject.mrn\"\nmask = { hash = \"subjects\" }\n";
    let office = office(dir.path(), rules(&format!("{RULES}{masks}"), 7));
    let mut lines = "mrn,text\n".to_owned();
    for written in ["4711.0", &uuid.to_uppercase(), &uuid.replace('-', "").to_uppercase()] {
        let pseudonyms = office.rules.pseudonyms(written, &[]);
        assert_eq!(pseudonyms.len(), 1);
        lines += &format!("{},a\n", pseudonyms[0]);
    }
    fs::write(dir.path().join("papers/letters/delivered.csv"), lines).unwrap();
    for (given, expected) in [("4711", 1), (uuid, 2), ("4712", 0)] {
        let (_, all) = found(&office, dir.path(), &format!("7\nsubject.mrn={given}")).await;
        let of = all.places.iter().filter(|p| p.file.as_deref() == Some("letters/delivered.csv"));
        assert_eq!(of.map(|place| place.rows).sum::<u64>(), expected, "{given}");
    }
}

#[tokio::test]
async fn a_pattern_of_some_tables_excepts_no_collection() {
    let dir = tempfile::tempdir().unwrap();
    hospital(dir.path());
    for pattern in ["clinic.*table*", "clinic.n*", "clinic.??", "clinic.no table is called so"] {
        let text = RULES.replace("\"clinic.wards\"", &format!("\"clinic.wards\", \"{pattern}\""));
        let (_, some) = found(&office(dir.path(), rules(&text, 7)), dir.path(), "7").await;
        assert_eq!(some.places[0].table.to_string(), "clinic.people", "{pattern}");
    }
    // Of all tables, also where nobody can list them.
    let db = dir.path().join("clinic.db");
    fs::rename(&db, dir.path().join("away")).unwrap();
    for pattern in ["clinic.*", "*"] {
        let text = RULES.replace("\"clinic.wards\"", &format!("\"{pattern}\""));
        let (_, none) = found(&office(dir.path(), rules(&text, 7)), dir.path(), "subject.mrn=M-7").await;
        assert!(!gaps(&none).contains(&"clinic.*"), "{pattern}: {:?}", none.gaps);
    }
}

#[tokio::test]
async fn values_that_do_not_fit_are_a_gap() {
    let dir = tempfile::tempdir().unwrap();
    hospital(dir.path());
    sql(dir.path(), "CREATE TABLE visits (id INT); INSERT INTO visits VALUES (8), ('seven');");
    let office = office(dir.path(), rules(RULES, 7));
    let (_, found) = found(&office, dir.path(), "7").await;
    assert_eq!(gaps(&found), ["clinic.visits"]);
    assert!(found.gaps[0].why.contains("1 values do not fit"), "{:?}", found.gaps);
}

/// Many write for ever as the largest number.
#[test]
fn a_retention_of_ages_is_none() {
    let place = |ms| {
        let keeping = crate::collection::Keeping { compacts: false, retention_ms: Some(ms) };
        search::place_of_topic(keeping, 1_764_500_000_000)
    };
    assert_eq!(place(86_400_000).until.as_deref(), Some("2025-12-01T10:53:20Z"));
    assert_eq!((place(i64::MAX).until, place(i64::MAX / 2).until), (None, None));
}
