//! Requests from when they are opened to when nothing remains, and their register.

use super::*;

/// It may have been erased, or only hidden from the perimeter.
#[tokio::test]
async fn a_table_that_is_not_there_any_more_is_a_gap_until_somebody_says_that_it_is_erased() {
    let dir = tempfile::tempdir().unwrap();
    hospital(dir.path());
    let office = office(dir.path(), rules(RULES, 7));
    sql(dir.path(), "CREATE TABLE visits (id INT); INSERT INTO visits VALUES (7)");
    office.begin(&asked(dir.path(), "7"), "dpo", "").await.unwrap();
    erase(dir.path());
    sql(dir.path(), "DROP TABLE wards; ALTER TABLE visits RENAME TO wards");
    let Request { id, .. } = only(&office);
    for _ in 0..2 {
        assert!(office.verify(&id, "dpo").await.is_err());
        assert_eq!(gaps(only(&office).last_found()), ["clinic.visits"]);
    }
    office.accept(&id, "clinic.visits", "dpo", "dropped").unwrap();
    assert_eq!(only(&office).state, State::Closed);
}

/// Also what a look between the first and the last has found.
#[tokio::test]
async fn what_any_look_has_found_and_the_rules_except_later_is_a_gap() {
    let dir = tempfile::tempdir().unwrap();
    hospital(dir.path());
    tables(dir.path(), "visits");
    let plain = office(dir.path(), rules(RULES, 7));
    plain.begin(&asked(dir.path(), "7"), "dpo", "").await.unwrap();
    let Request { id, .. } = only(&plain);
    sql(dir.path(), "INSERT INTO visits VALUES (7)");
    plain.verify(&id, "dpo").await.unwrap_err();
    erase(dir.path());
    let text = RULES.replace("\"clinic.wards\"", "\"clinic.wards\", \"clinic.visits\"");
    let excepting = office(dir.path(), rules(&text, 7));
    for _ in 0..3 {
        excepting.verify(&id, "dpo").await.unwrap_err();
        assert_eq!(gaps(only(&excepting).last_found()), ["clinic.visits"]);
    }
}

/// The same words may be about other files.
#[tokio::test]
async fn a_gap_is_accepted_as_of_one_look() {
    let dir = tempfile::tempdir().unwrap();
    hospital(dir.path());
    let office = office(dir.path(), rules(RULES, 7));
    office.begin(&asked(dir.path(), "7"), "dpo", "").await.unwrap();
    let Request { id, .. } = only(&office);
    let scan = dir.path().join("papers/letters/scan.pdf");
    fs::write(&scan, "of others").unwrap();
    let early = office.accept(&id, "papers.*", "dpo", "looked").unwrap_err();
    assert!(early.message().contains("verify it first"), "{}", early.message());
    office.verify(&id, "dpo").await.unwrap_err();
    office.accept(&id, "papers.*", "dpo", "looked").unwrap();
    // Rows remain.
    assert_eq!(only(&office).state, State::Open);
    fs::remove_file(&scan).unwrap();
    fs::write(dir.path().join("papers/letters/M-7.pdf"), "of the subject").unwrap();
    erase(dir.path());
    office.verify(&id, "dpo").await.unwrap_err();
    assert_eq!((only(&office).open_gaps().len(), only(&office).state), (1, State::Open));
    office.accept(&id, "papers.*", "dpo", "looked again").unwrap();
    assert_eq!(only(&office).state, State::Closed);
    // A closed one that is looked at again is open again where something came.
    sql(dir.path(), "INSERT INTO people VALUES (7, 'M-7')");
    office.verify(&id, "dpo").await.unwrap_err();
    assert_eq!(only(&office).state, State::Open);
}

/// What has to stay, by law, and until when, is recorded by somebody.
#[tokio::test]
async fn what_remains_waits_for_the_day_that_somebody_recorded() {
    let dir = tempfile::tempdir().unwrap();
    hospital(dir.path());
    let office = office(dir.path(), rules(RULES, 7));
    office.begin(&asked(dir.path(), "7"), "dpo", "").await.unwrap();
    let Request { id, .. } = only(&office);
    fs::remove_file(dir.path().join("papers/letters/M-7.csv")).unwrap();
    let until = |day: &str| RecordArgs {
        until: Some(day.to_owned()),
        ..recorded(&id, Some("clinic.people"), None, "article 17(3)(b)")
    };
    for bad in ["soon", "2036-13-01", "2036-01-31T00:00:00Z", ""] {
        assert!(office.record(&until(bad)).is_err(), "{bad}");
    }
    office.record(&until("2036-01-31")).unwrap();
    assert_eq!(only(&office).state, State::Open, "nobody has looked yet");
    office.verify(&id, "dpo").await.unwrap_err();
    assert_eq!(only(&office).state, State::Waiting { until: "2036-01-31".to_owned() });
    office.record(&until("2030-01-31")).unwrap();
    assert_eq!(only(&office).state, State::Waiting { until: "2030-01-31".to_owned() });
}

/// A crash in the middle of a line takes nothing else with it.
#[tokio::test]
async fn half_a_line_of_the_register_is_replaced_by_the_next() {
    let dir = tempfile::tempdir().unwrap();
    hospital(dir.path());
    let office = office(dir.path(), rules(RULES, 7));
    office.begin(&asked(dir.path(), "7"), "dpo", "").await.unwrap();
    let Files { register, .. } = &office.files;
    let whole = fs::read(register).unwrap();
    fs::write(register, [&whole[..], &whole[..whole.len() / 2]].concat()).unwrap();
    let Request { id, .. } = only(&office);
    office.withdraw(&id, "dpo", "a mistake").unwrap();
    assert_eq!((only(&office).state, verified(&office)), (State::Withdrawn, 2));
}

#[tokio::test]
async fn a_request_goes_from_open_to_closed_and_its_register_is_a_chain() {
    let dir = tempfile::tempdir().unwrap();
    hospital(dir.path());
    let office = office(dir.path(), rules(RULES, 7));
    let begin = |by: &'static str, reason: &'static str| {
        let (office, args) = (&office, asked(dir.path(), "7"));
        async move { office.begin(&args, by, reason).await }
    };
    assert!(begin("dpo", "letter of M-7").await.is_err(), "the reason names the subject");
    assert!(begin(" ", "letter 12").await.is_err(), "nobody opens it");
    begin("dpo", "letter 12").await.unwrap();
    let Request { id, .. } = only(&office);
    assert!(office.record(&recorded(&id, Some("clinic.wards"), None, "")).is_err());
    assert!(office.record(&recorded(&id, Some("clinic.people"), None, "of M-7")).is_err());
    assert!(office.withdraw(&id, "dpo", "of M-7").is_err() && office.withdraw(&id, "dpo", "").is_err());
    office.record(&recorded(&id, Some("clinic.people"), None, "ticket 4")).unwrap();
    office.record(&recorded(&id, None, Some("backups of the clinic"), "tapes")).unwrap();
    assert!(office.verify(&id, "dpo").await.is_err());
    assert_eq!(only(&office).state, State::Open);
    erase(dir.path());
    office.verify(&id, "dpo").await.unwrap();
    assert_eq!(only(&office).state, State::Closed);
    let told = report::of_requests(&[&only(&office)], &office.elsewhere, ErasureFormat::Text);
    for expected in [
        "closed: nothing was found",
        "recorded for clinic.people",
        "by ann: ticket 4",
        "recorded for backups of the clinic, where it ends by 2027-01-31, ",
        "gone from papers.letters, and nobody recorded",
        "audit log: as long as it is kept",
        "not known to the perimeter",
    ] {
        assert!(told.contains(expected), "{expected} in\n{told}");
    }
    let written = fs::read_to_string(&office.files.register).unwrap();
    assert!(!written.contains("M-7") && written.lines().count() == 5, "{written}");
    assert_eq!(verified(&office), 5);
}

/// Names of tables have one, and texts of errors.
#[tokio::test]
async fn the_register_has_no_identifier_from_the_names_of_a_source() {
    let dir = tempfile::tempdir().unwrap();
    hospital(dir.path());
    sql(dir.path(), "CREATE TABLE \"file_M-7\" (x INT); CREATE TABLE \"of M-7\" (\"mrn M-7\" TEXT)");
    sql(dir.path(), "INSERT INTO \"of M-7\" VALUES ('M-7')");
    let more = "\n[[label]]\ntable = \"clinic.of*\"\ncolumn = \"mrn*\"\nlabels = \"subject.mrn\"\n";
    let office = office(dir.path(), rules(&format!("{RULES}{more}"), 7));
    office.begin(&asked(dir.path(), "7"), "dpo", "").await.unwrap_err();
    let Request { id, .. } = only(&office);
    erase(dir.path());
    sql(dir.path(), "DROP TABLE \"of M-7\"");
    office.verify(&id, "dpo").await.unwrap_err();
    assert_eq!(gaps(only(&office).last_found()), ["clinic.file_:subject", "clinic.of :subject"]);
    let written = fs::read_to_string(&office.files.register).unwrap();
    assert!(!written.contains("M-7") && written.contains("mrn :subject"), "{written}");
}

#[tokio::test]
async fn a_link_that_was_down_keeps_a_request_open_until_somebody_accepts_it() {
    let dir = tempfile::tempdir().unwrap();
    hospital(dir.path());
    let office = office(dir.path(), rules(RULES, 7));
    let db = dir.path().join("clinic.db");
    fs::rename(&db, dir.path().join("away")).unwrap();
    let _ = office.begin(&asked(dir.path(), "7"), "dpo", "").await;
    fs::rename(dir.path().join("away"), &db).unwrap();
    let Request { id, links, .. } = only(&office);
    assert_eq!(links.iter().map(|gap| gap.table.as_str()).collect::<Vec<_>>(), ["clinic.people"]);
    // The row that links is erased before anybody follows it.
    sql(dir.path(), "DELETE FROM people WHERE id = 7");
    let of_link = |request: &Request| {
        request.open_gaps().iter().any(|gap| gap.why.contains("the link was not followed"))
    };
    for _ in 0..2 {
        assert!(office.verify(&id, "dpo").await.is_err());
        assert!(only(&office).state == State::Open && of_link(&only(&office)));
    }
    office.accept(&id, "clinic.people", "dpo", "searched by hand").unwrap();
    assert_eq!(only(&office).state, State::Open);
    office.accept(&id, "papers.letters", "dpo", "searched by hand").unwrap();
    assert!(office.accept(&id, "clinic.wards", "dpo", "no gap").is_err());
    assert_eq!(only(&office).state, State::Closed);
    let told = report::of_requests(&[&only(&office)], &office.elsewhere, ErasureFormat::Text);
    let lines = ["gap accepted, clinic.people", "by dpo: searched by hand"];
    assert!(lines.iter().all(|line| told.contains(line)), "{told}");
    // What was accepted of the opening is so for ever, and what a look does not search is asked for again.
    assert!(office.verify(&id, "dpo").await.is_err());
    assert!(!of_link(&only(&office)) && only(&office).open_gaps().len() == 2);
}

#[tokio::test]
async fn identifiers_that_are_linked_later_are_looked_for() {
    let dir = tempfile::tempdir().unwrap();
    hospital(dir.path());
    let office = office(dir.path(), rules(RULES, 7));
    office.begin(&asked(dir.path(), "7"), "dpo", "").await.unwrap();
    sql(dir.path(), "INSERT INTO people VALUES (7, 'M-9')");
    fs::write(dir.path().join("papers/letters/nine.csv"), "mrn,text\nM-9,a\n").unwrap();
    let request = only(&office);
    assert!(office.verify(&request.id, "dpo").await.is_err());
    let later = only(&office);
    assert!(later.hashes["subject.mrn"].len() > request.hashes["subject.mrn"].len());
    let rows: u64 = later.last_found().places.iter().map(|place| place.rows).sum();
    assert_eq!(rows, 3 + 3, "{:?}", later.last_found());
    // The row that links is gone, and the identifier is known still.
    sql(dir.path(), "DELETE FROM people WHERE id = 7");
    assert!(office.verify(&request.id, "dpo").await.is_err());
    let rows: u64 = only(&office).last_found().places.iter().map(|place| place.rows).sum();
    assert_eq!(rows, 3, "{:?}", later.last_found());
}

#[tokio::test]
async fn rules_and_collections_that_changed_close_nothing() {
    let dir = tempfile::tempdir().unwrap();
    hospital(dir.path());
    office(dir.path(), rules(RULES, 7)).begin(&asked(dir.path(), "7"), "dpo", "").await.unwrap();
    let text = RULES.replace("\"clinic.wards\"", "\"clinic.*\", \"papers.letters\"");
    let excepting = office(dir.path(), rules(&text, 7));
    let Request { id, .. } = only(&excepting);
    assert!(excepting.verify(&id, "dpo").await.is_err());
    let why: Vec<_> = only(&excepting).last_found().gaps.iter().map(|gap| gap.why.clone()).collect();
    assert!(why.iter().filter(|why| why.contains("the rules except it now")).count() == 2, "{why:?}");
    let config = dir.path().join("perimeter.toml");
    let text = fs::read_to_string(&config).unwrap();
    fs::write(&config, text.split("[collections.papers]").next().unwrap()).unwrap();
    sql(dir.path(), "UPDATE people SET id = 8, mrn = 'M-8' WHERE id = 7");
    let without = office(dir.path(), rules(RULES, 7));
    assert!(without.verify(&id, "dpo").await.is_err());
    assert_eq!(gaps(only(&without).last_found()), ["papers.letters"]);
    // With another key nobody can look, and says why.
    let other = office(dir.path(), rules(RULES, 8)).verify(&id, "dpo").await.unwrap_err().message();
    assert!(other.contains("put the old key back, or withdraw"), "{other}");
}

#[tokio::test]
async fn a_column_that_named_the_subject_and_is_not_compared_any_more_is_a_gap() {
    let dir = tempfile::tempdir().unwrap();
    hospital(dir.path());
    office(dir.path(), rules(RULES, 7)).begin(&asked(dir.path(), "7"), "dpo", "").await.unwrap();
    sql(dir.path(), "UPDATE people SET id = 8 WHERE id = 7");
    fs::remove_file(dir.path().join("papers/letters/M-7.csv")).unwrap();
    let text = RULES.replace("[\"clinic.people\", \"papers.letters\"]", "\"papers.letters\"");
    let text = text.replace("links = { table = \"clinic.people\", from = \"id\", to = \"mrn\" }", "");
    let changed = office(dir.path(), rules(&text, 7));
    let Request { id, .. } = only(&changed);
    assert!(changed.verify(&id, "dpo").await.is_err());
    assert_eq!(gaps(only(&changed).last_found()), ["clinic.people"]);
    assert!(only(&changed).last_found().gaps[0].why.contains("not compared now"));
}

/// What somebody did meanwhile is not overwritten by who had not seen it, and others are not in the way.
#[tokio::test]
async fn two_officers_are_in_the_way_of_each_other_only_about_the_same_request() {
    let dir = tempfile::tempdir().unwrap();
    hospital(dir.path());
    let office = office(dir.path(), rules(RULES, 7));
    office.begin(&asked(dir.path(), "7"), "dpo", "").await.unwrap();
    let seen = only(&office);
    let id = &seen.id;
    let looked = Entry::Verify { request: id.clone(), found: Found::default(), hashes: Hashes::new() };
    // Meanwhile another one is opened, and something of this one is recorded.
    office.begin(&asked(dir.path(), "70"), "ann", "").await.unwrap();
    office.record(&recorded(id, Some("clinic.people"), None, "ticket 4")).unwrap();
    let register = office.append("dpo", Some(&seen), &looked).unwrap();
    assert_eq!(register.requests[id].state, State::Closed);
    // Now it was verified meanwhile, and then withdrawn.
    for _ in 0..2 {
        let late = office.append("ann", Some(&seen), &looked).unwrap_err();
        assert!(late.message().contains("somebody else"), "{}", late.message());
        let _ = office.withdraw(id, "dpo", "article 17(3)");
    }
    // Nor where somebody wrote it all the same.
    let register = office.append("ann", None, &looked).unwrap();
    assert_eq!(register.requests[id].state, State::Withdrawn);
    assert!(office.verify(id, "dpo").await.is_err());
    // Lines that others add at the same time are all there.
    let lines = verified(&office);
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                let what = Entry::Record {
                    request: "er-x".to_owned(),
                    place: "x".to_owned(),
                    note: String::new(),
                    until: None,
                };
                office.files.append(0, "cron", None, &what).unwrap();
            });
        }
    });
    assert_eq!(verified(&office), lines + 3);
}

#[tokio::test]
async fn an_anchor_that_is_gone_or_cannot_be_written_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    hospital(dir.path());
    let office = office(dir.path(), rules(RULES, 7));
    office.begin(&asked(dir.path(), "7"), "dpo", "").await.unwrap();
    let register = &office.files.register;
    let anchor = std::path::PathBuf::from(format!("{}.anchor", register.display()));
    let (lines, kept) = (fs::read(register).unwrap(), fs::read(&anchor).unwrap());
    fs::remove_file(&anchor).unwrap();
    assert!(office.files.read().is_err());
    fs::create_dir(&anchor).unwrap();
    assert!(office.files.read().is_err());
    assert!(office.begin(&asked(dir.path(), "8"), "dpo", "").await.is_err());
    assert_eq!(fs::read(register).unwrap(), lines);
    fs::remove_dir(&anchor).unwrap();
    fs::write(&anchor, kept).unwrap();
    office.files.read().unwrap();
    // Shortened, with its head.
    fs::write(register, "").unwrap();
    fs::remove_file(format!("{}.head", register.display())).unwrap();
    assert!(office.files.read().is_err());
    // What cannot be looked at is not absent.
    let odd = Files::beside(&dir.path().join("perimeter.toml/x"), None);
    assert!(matches!(odd.read(), Err(RegisterError::Unreadable { .. })));
}
