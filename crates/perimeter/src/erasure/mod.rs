//! `kafscale perimeter erasure`: requests of data subjects that they be erased (GDPR, article 17), from opening to closing.
//!
//! The perimeter finds a subject ([`search`]), says what erases it ([`steps`]), keeps who did what in a register that is a chain of
//! its own ([`register`]), and lets no row of it leave meanwhile ([`suppressed`]). It erases nothing: the owners of the sources do.

pub mod hashes;
pub mod register;
mod report;
pub mod search;
mod steps;
pub mod suppressed;

use std::collections::{BTreeMap, HashSet};
use std::io::BufRead as _;
use std::path::PathBuf;
use std::sync::Arc;

use kafscale_core::clock::Clock;
use kafscale_core::utc;
use kafscale_settings::failure::Failure;
use kafscale_settings::perimeter::{ErasureCommand, ErasureFormat, PerimeterArgs, SubjectArgs};

use self::hashes::{SubjectHasher, key_check};
use self::register::{Entry, Register, Request, State};
use self::search::{Found, Search, Target, Targets};
use crate::catalog::Collections;
use crate::labelled::Labelled;
use crate::rules::{DataSubject, Rulebook};
use crate::rules_live::LiveRules;
use crate::run::{RuleFiles, SystemClock, config, print};

/// Of an identifier, and of what people write.
const TEXT_BYTES_MAX: usize = 1_000;

/// What the commands work on.
struct Office {
    collections: Collections,
    rules: Rulebook,
    labelled: Labelled,
    register: PathBuf,
    anchor: PathBuf,
    clock: Arc<dyn Clock>,
}

pub async fn run(args: &PerimeterArgs, command: &ErasureCommand) -> Result<(), Failure> {
    if let ErasureCommand::Report { request, format } = command {
        let (register, anchor) = register::beside(&args.edge.audit_log, args.edge.audit_anchor.as_deref());
        return told(&read(&register, &anchor)?, request.as_deref(), *format);
    }
    let office = Office::open(args).await?;
    match command {
        ErasureCommand::Find(subject) => office.find(subject).await,
        ErasureCommand::Open { subject, by, reason } => office.begin(subject, by, reason).await,
        ErasureCommand::Record { request, table, by, note } => office.record(request, table, by, note).await,
        ErasureCommand::Verify { request, by } => office.verify(request, by).await,
        ErasureCommand::Withdraw { request, by, reason } => office.withdraw(request, by, reason).await,
        ErasureCommand::Report { .. } => Ok(()),
    }
}

fn told(register: &Register, request: Option<&str>, format: ErasureFormat) -> Result<(), Failure> {
    let requests: Vec<&Request> = match request {
        Some(id) => vec![known(register, id)?],
        None => register.requests.values().collect(),
    };
    print(&report::of_requests(&requests, format))
}

fn read(register: &std::path::Path, anchor: &std::path::Path) -> Result<Register, Failure> {
    register::read(register, anchor).map_err(|e| Failure::runtime(format!("{}: {e}", register.display())))
}

fn known<'r>(register: &'r Register, id: &str) -> Result<&'r Request, Failure> {
    register.requests.get(id).ok_or_else(|| Failure::usage(format!("there is no erasure request {id}")))
}

fn progress(what: &str) {
    eprintln!("{what}");
}

impl Office {
    async fn open(args: &PerimeterArgs) -> Result<Office, Failure> {
        let config = config(&args.files)?;
        let usage = |e: &dyn std::fmt::Display| Failure::usage(e.to_string());
        let rules = LiveRules::read(RuleFiles::of(&args.files, &config), config.base()).await;
        let (register, anchor) = register::beside(&args.edge.audit_log, args.edge.audit_anchor.as_deref());
        Ok(Office {
            collections: config.open().map_err(|e| usage(&e))?,
            rules: rules.map_err(|e| usage(&e))?,
            labelled: Labelled::beside(&args.edge.audit_log).map_err(|e| usage(&e))?,
            register,
            anchor,
            clock: Arc::new(SystemClock),
        })
    }

    fn search<'a>(&'a self, subject: &'a DataSubject) -> Search<'a> {
        let (collections, rules, labelled) = (&self.collections, &self.rules, &self.labelled);
        Search { collections, rules, labelled, subject, progress: &progress }
    }

    fn kind(&self, named: Option<&str>) -> Result<&DataSubject, Failure> {
        let all = self.rules.data_subjects();
        match (named, all) {
            (None, [only]) => Ok(only),
            (None, []) => {
                Err(Failure::usage("rules.toml has no [[subject]]: what identifies one is not known"))
            }
            (None, _) => {
                Err(Failure::usage("there are several kinds of data subjects: name one with --kind"))
            }
            (Some(name), all) => all
                .iter()
                .find(|subject| subject.name == name)
                .ok_or_else(|| Failure::usage(format!("rules.toml has no [[subject]] {name}"))),
        }
    }

    /// What is looked for, from what was given: other identifiers that are linked, and pseudonyms by masks.
    async fn sought(&self, args: &SubjectArgs) -> Result<(&DataSubject, Targets, Found), Failure> {
        let subject = self.kind(args.kind.as_deref())?;
        let label = match &args.label {
            None => subject.labels.first(),
            Some(label) => subject.labels.iter().find(|known| *known == label),
        };
        let label =
            label.ok_or_else(|| Failure::usage("--label is none of the labels of that kind of subject"))?;
        let value = identifier(&args.subject)?;
        let mut values = BTreeMap::from([(label.clone(), vec![value])]);
        let search = self.search(subject);
        let linked = search.linked(&mut values).await;
        let mut targets = Targets::new();
        for (label, values) in values {
            let with: Vec<String> =
                values.iter().flat_map(|value| self.rules.pseudonyms(value)).chain(values.clone()).collect();
            let hasher = SubjectHasher::new(&subject.key, &label);
            let hashes = with.iter().map(|value| hasher.hash(value)).collect();
            targets.insert(label, Target { hasher, hashes, values: Some(with) });
        }
        let mut found = search.run(&targets).await;
        found.gaps.extend(linked.err());
        Ok((subject, targets, found))
    }

    async fn find(&self, args: &SubjectArgs) -> Result<(), Failure> {
        let (_, _, found) = self.sought(args).await?;
        print(&report::of_found(&found, args.format))?;
        incomplete(&found)
    }

    async fn begin(&self, args: &SubjectArgs, by: &str, reason: &str) -> Result<(), Failure> {
        [by, reason].into_iter().try_for_each(short)?;
        read(&self.register, &self.anchor)?;
        let (subject, targets, found) = self.sought(args).await?;
        let id = format!(
            "er-{}-{}",
            &utc::seconds(self.clock.now_ms())[..10],
            &uuid::Uuid::new_v4().simple().to_string()[..8]
        );
        let hashes = targets.iter().map(|(label, target)| (label.clone(), register::told(&target.hashes)));
        let entry = Entry::Open {
            request: id.clone(),
            subject: subject.name.clone(),
            key_check: key_check(&subject.key),
            hashes: hashes.collect(),
            reason: reason.to_owned(),
            found: found.clone().without_subjects(&targets),
        };
        self.append(by, &entry).await?;
        let opened = format!("opened {id}: from now on no answer has rows of this subject\n");
        if args.format == ErasureFormat::Text {
            print(&(opened + &report::of_found(&found, args.format)))?;
        } else {
            eprint!("{opened}");
            print(&report::of_found(&found, args.format))?;
        }
        incomplete(&found)
    }

    async fn record(&self, id: &str, table: &str, by: &str, note: &str) -> Result<(), Failure> {
        [by, table, note].into_iter().try_for_each(short)?;
        let register = read(&self.register, &self.anchor)?;
        let request = known(&register, id)?;
        if request.state == State::Withdrawn {
            return Err(Failure::usage(format!("{id} was withdrawn")));
        }
        let found = request.verified.as_ref().map_or(&request.found, |(_, found)| found);
        let places = request.found.places.iter().chain(&found.places).map(|place| &place.table);
        let gaps = request.found.gaps.iter().chain(&found.gaps).map(|gap| &gap.table);
        let mut tables: Vec<&String> = places.chain(gaps).collect();
        tables.sort();
        tables.dedup();
        if !tables.iter().any(|known| *known == table) {
            let tables = tables.into_iter().cloned().collect::<Vec<_>>().join(", ");
            return Err(Failure::usage(format!("{id} is not about {table}, but about: {tables}")));
        }
        let (request, table, note) = (id.to_owned(), table.to_owned(), note.to_owned());
        self.append(by, &Entry::Record { request, table, note }).await?;
        print(&format!("recorded for {id}; `erasure verify {id}` looks whether it is gone\n"))
    }

    async fn verify(&self, id: &str, by: &str) -> Result<(), Failure> {
        short(by)?;
        let register = read(&self.register, &self.anchor)?;
        let request = known(&register, id)?;
        if !request.is_suppressed() {
            return Err(Failure::usage(format!("{id} is {}", report::state(&request.state))));
        }
        let subject = self.kind(Some(&request.subject))?;
        if key_check(&subject.key) != request.key_check {
            let why = format!("the key `{}` is another one than when {id} was opened", subject.key.name);
            return Err(Failure::usage(why));
        }
        let target = |(label, hashes): (String, HashSet<_>)| {
            let hasher = SubjectHasher::new(&subject.key, &label);
            (label, Target { hasher, hashes, values: None })
        };
        let targets: Targets = request.hashes().map(target).collect();
        let found = self.search(subject).run(&targets).await.without_subjects(&targets);
        self.append(by, &Entry::Verify { request: id.to_owned(), found: found.clone() }).await?;
        let register = read(&self.register, &self.anchor)?;
        print(&report::of_requests(&[known(&register, id)?], ErasureFormat::Text))?;
        match found.state() {
            State::Open => Err(Failure::runtime(format!("{id} stays open"))),
            State::Closed | State::ClosedUntil { .. } | State::Withdrawn => Ok(()),
        }
    }

    async fn withdraw(&self, id: &str, by: &str, reason: &str) -> Result<(), Failure> {
        [by, reason].into_iter().try_for_each(short)?;
        known(&read(&self.register, &self.anchor)?, id)?;
        let entry = Entry::Withdraw { request: id.to_owned(), reason: reason.to_owned() };
        self.append(by, &entry).await?;
        print(&format!("withdrew {id}: rows of this subject leave again\n"))
    }

    async fn append(&self, by: &str, entry: &Entry) -> Result<(), Failure> {
        let appended =
            register::append(&self.register, &self.anchor, Arc::clone(&self.clock), by, entry).await;
        appended.map_err(|e| Failure::runtime(format!("{}: {e}", self.register.display())))
    }
}

fn identifier(given: &str) -> Result<String, Failure> {
    let mut value = given.to_owned();
    if given == "-" {
        value.clear();
        let read = std::io::stdin().lock().read_line(&mut value);
        read.map_err(|e| Failure::runtime(format!("standard input cannot be read: {e}")))?;
        value.truncate(value.trim_end_matches(['\n', '\r']).len());
    }
    short(&value)?;
    if value.is_empty() { Err(Failure::usage("--subject is empty")) } else { Ok(value) }
}

fn short(text: &str) -> Result<(), Failure> {
    match text.len() {
        0..=TEXT_BYTES_MAX => Ok(()),
        _ => Err(Failure::usage(format!("a text is longer than {TEXT_BYTES_MAX} bytes"))),
    }
}

fn incomplete(found: &Found) -> Result<(), Failure> {
    match found.is_complete() {
        true => Ok(()),
        false => {
            Err(Failure::runtime("the search is incomplete: what was not searched may hold the subject"))
        }
    }
}

#[cfg(test)]
mod tests;
