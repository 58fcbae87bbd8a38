//! `kafscale perimeter erasure`: requests of data subjects that they be erased (GDPR, article 17), from opening to closing.
//!
//! The commands find a subject ([`search`]), say what erases it ([`steps`]), and keep who did what in a register that is a chain of
//! its own ([`register`]). They erase nothing: the owners of the sources do. Servers have no part in it, and read no register.

mod found;
mod hashes;
mod links;
mod names;
mod register;
mod report;
mod search;
mod steps;
mod subjects;

use std::collections::BTreeMap;
use std::sync::Arc;

use kafscale_core::clock::Clock;
use kafscale_core::utc;
use kafscale_settings::failure::Failure;
use kafscale_settings::perimeter::{ErasureCommand, ErasureFormat, PerimeterArgs, RecordArgs, SubjectArgs};
use serde_json::{Map, json};

use self::found::{Found, Gap};
use self::hashes::{SubjectHasher, key_check};
use self::names::Names;
use self::register::{Entry, Files, Hashes, Register, RegisterError, Request, State};
use self::report::{Elsewhere, shown};
use self::search::{Search, Target, Targets};
use crate::catalog::Collections;
use crate::labelled::Labelled;
use crate::rules::{DataSubject, Rulebook};
use crate::rules_live::LiveRules;
use crate::run::{RuleFiles, SystemClock, config, print};

/// Of what people write.
const TEXT_BYTES_MAX: usize = 1_000;

/// What the commands work on.
struct Office {
    collections: Collections,
    rules: Rulebook,
    labelled: Labelled,
    files: Files,
    elsewhere: Elsewhere,
    clock: Arc<dyn Clock>,
}

pub async fn run(args: &PerimeterArgs, command: &ErasureCommand) -> Result<(), Failure> {
    let files = Files::beside(&args.edge.audit_log, args.edge.audit_anchor.as_deref());
    let labelled = Labelled::beside(&args.edge.audit_log).map_err(|e| Failure::usage(e.to_string()))?;
    let elsewhere =
        Elsewhere { audit_log: args.edge.audit_log.display().to_string(), delivered: labelled.topics() };
    if let ErasureCommand::Report { request, format } = command {
        let register = read(&files)?;
        let requests: Vec<&Request> = match request {
            Some(id) => vec![known(&register, id)?],
            None => register.requests.values().collect(),
        };
        eprintln!("the register is {}", files.register.display());
        return print(&report::of_requests(&requests, &elsewhere, *format));
    }
    let office = Office::open(args, files, labelled, elsewhere).await?;
    match command {
        ErasureCommand::Find { subject, identifiers } => office.find(subject, *identifiers).await,
        ErasureCommand::Open { subject, by, reason } => office.begin(subject, by, reason).await,
        ErasureCommand::Record(record) => office.record(record),
        ErasureCommand::Accept { request, table, by, reason } => office.accept(request, table, by, reason),
        ErasureCommand::Verify { request, by } => office.verify(request, by).await,
        ErasureCommand::Withdraw { request, by, reason } => office.withdraw(request, by, reason),
        ErasureCommand::Report { .. } => Ok(()),
    }
}

fn failed(files: &Files) -> impl Fn(RegisterError) -> Failure {
    let register = files.register.display().to_string();
    move |error| Failure::runtime(format!("{register}: {error}"))
}

fn read(files: &Files) -> Result<Register, Failure> {
    files.read().map_err(failed(files))
}

fn known<'r>(register: &'r Register, id: &str) -> Result<&'r Request, Failure> {
    let request = register.requests.get(id);
    request.ok_or_else(|| Failure::usage(format!("there is no erasure request {}", shown(id))))
}

/// A request about which there may be more to say.
fn not_withdrawn<'r>(register: &'r Register, id: &str) -> Result<&'r Request, Failure> {
    let request = known(register, id)?;
    match request.state {
        State::Withdrawn => Err(Failure::usage(format!("{} was withdrawn", shown(id)))),
        State::Open | State::Waiting { .. } | State::Closed => Ok(request),
    }
}

fn progress(what: &str) {
    eprintln!("{}", shown(what));
}

impl Office {
    async fn open(
        args: &PerimeterArgs,
        files: Files,
        labelled: Labelled,
        elsewhere: Elsewhere,
    ) -> Result<Office, Failure> {
        let config = config(&args.files)?;
        let usage = |e: &dyn std::fmt::Display| Failure::usage(e.to_string());
        let rules = LiveRules::read(RuleFiles::of(&args.files, &config), config.base()).await;
        let rules = rules.map_err(|e| usage(&e))?;
        let collections = config.open().map_err(|e| usage(&e))?;
        Ok(Office { collections, rules, labelled, files, elsewhere, clock: Arc::new(SystemClock) })
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
                .ok_or_else(|| Failure::usage(format!("rules.toml has no [[subject]] {}", shown(name)))),
        }
    }

    /// What is looked for, from what was given: other identifiers that are linked, and pseudonyms by masks. With links that were not
    /// followed.
    async fn sought(&self, args: &SubjectArgs) -> Result<(&DataSubject, Targets, Vec<Gap>), Failure> {
        let subject = self.kind(args.kind.as_deref())?;
        let search = self.search(subject);
        let mut targets = Targets::new();
        for (label, value) in subjects::given(&args.subject, &subject.labels)? {
            search.add(&mut targets, &label, &value);
        }
        let links = search.follow_links(&mut targets).await;
        Ok((subject, targets, links))
    }

    async fn find(&self, args: &SubjectArgs, identifiers: bool) -> Result<(), Failure> {
        let (subject, targets, links) = self.sought(args).await?;
        let mut found = self.search(subject).run(&targets, None).await;
        links.into_iter().for_each(|gap| found.gap(gap));
        let mut beside = Map::new();
        if identifiers {
            let known: BTreeMap<_, _> =
                targets.iter().map(|(label, target)| (label, &target.known)).collect();
            beside.insert("identifiers".to_owned(), json!(known));
        }
        print(&report::of_found(&found, &beside, args.format))?;
        incomplete(&found)
    }

    async fn begin(&self, args: &SubjectArgs, by: &str, reason: &str) -> Result<(), Failure> {
        read(&self.files)?;
        said(by)?;
        let (subject, targets, links) = self.sought(args).await?;
        let names = Names::new(&targets);
        texts(&names, [by, reason])?;
        let hashes = Hashes::from_iter(
            targets.iter().map(|(label, target)| (label.clone(), register::told(&target.hashes))),
        );
        register::fits(&hashes).map_err(failed(&self.files))?;
        let mut found = self.search(subject).run(&targets, None).await;
        let day = utc::seconds(self.clock.now_ms());
        let id = format!("er-{}-{}", &day[..10], &uuid::Uuid::new_v4().simple().to_string()[..8]);
        let entry = Entry::Open {
            request: id.clone(),
            subject: subject.name.clone(),
            key_check: key_check(&subject.key),
            hashes,
            reason: reason.to_owned(),
            found: found.clone().for_register(&names),
            links: links.iter().map(|gap| gap.clone().for_register(&names)).collect(),
        };
        self.append(by, None, &entry)?;
        links.into_iter().for_each(|gap| found.gap(gap));
        let beside = Map::from_iter([("opened".to_owned(), json!(id))]);
        print(&report::of_found(&found, &beside, args.format))?;
        eprintln!("the register is {}", self.files.register.display());
        incomplete(&found)
    }

    fn record(&self, args: &RecordArgs) -> Result<(), Failure> {
        let RecordArgs { request: id, table, elsewhere, by, note, until } = args;
        let register = read(&self.files)?;
        let request = not_withdrawn(&register, id)?;
        let place = match (table, elsewhere) {
            (Some(table), _) => {
                self.check_table(request, table)?;
                table
            }
            (None, Some(what)) => what,
            (None, None) => return Err(Failure::usage("name a --table, or what is --elsewhere")),
        };
        let targets = self.targets(request)?;
        [by, place].into_iter().try_for_each(|text| said(text))?;
        texts(&Names::new(&targets), [by, place, note])?;
        if let Some(until) = until
            && (until.len() != 10 || utc::parse(&format!("{until}T00:00:00Z")).is_none())
        {
            return Err(Failure::usage("--until is a day, as 2027-01-31"));
        }
        let (request_id, place, note) = (id.clone(), place.clone(), note.clone());
        let entry = Entry::Record { request: request_id, place, note, until: until.clone() };
        let register = self.append(by, Some(request), &entry)?;
        print(&format!("recorded; {} is {}\n", shown(id), report::state(&known(&register, id)?.state)))
    }

    fn check_table(&self, request: &Request, table: &str) -> Result<(), Failure> {
        let gaps = request.found.gaps.iter().chain(&request.last_found().gaps).chain(&request.links);
        let gaps = gaps.map(|gap| gap.table.clone());
        let mut tables: Vec<String> = request.seen.keys().map(ToString::to_string).chain(gaps).collect();
        tables.sort();
        tables.dedup();
        match tables.iter().any(|known| known == table) {
            true => Ok(()),
            false => Err(Failure::usage(shown(&format!(
                "{} is not about {table}, but about: {}",
                request.id,
                tables.join(", ")
            )))),
        }
    }

    /// Says that what the last look did not search was searched otherwise, or has nothing of the subject.
    fn accept(&self, id: &str, table: &str, by: &str, reason: &str) -> Result<(), Failure> {
        let register = read(&self.files)?;
        let request = not_withdrawn(&register, id)?;
        if request.verified.is_none() {
            return Err(Failure::usage("verify it first: what that look does not search can be accepted"));
        }
        [by, reason].into_iter().try_for_each(said)?;
        texts(&Names::new(&self.targets(request)?), [by, reason])?;
        let open = request.open_gaps();
        let gaps: Vec<Gap> = open.iter().filter(|gap| gap.table == table).map(|gap| (*gap).clone()).collect();
        if gaps.is_empty() {
            let open: Vec<&str> = open.iter().map(|gap| gap.table.as_str()).collect();
            let why = format!("{table} is no gap of {id} now; these are: {}", open.join(", "));
            return Err(Failure::usage(shown(&why)));
        }
        let told: Vec<String> = gaps.iter().map(|gap| format!("{}: {}", gap.table, gap.why)).collect();
        let entry = Entry::Accept { request: id.to_owned(), gaps, reason: reason.to_owned() };
        let register = self.append(by, Some(request), &entry)?;
        let state = report::state(&known(&register, id)?.state);
        print(&shown(&format!("accepted by {by}: {}; {id} is {state}", told.join("; "))))?;
        print("\n")
    }

    /// The hashes of a request as they are looked for.
    fn targets(&self, request: &Request) -> Result<Targets, Failure> {
        let subject = self.kind(Some(&request.subject))?;
        if key_check(&subject.key) != request.key_check {
            let why = format!(
                "the key `{}` is another one than when {} was opened: put the old key back, or withdraw the request and open it anew",
                subject.key.name, request.id
            );
            return Err(Failure::usage(why));
        }
        let target = |(label, hashes): (String, std::collections::HashSet<_>)| {
            let hasher = SubjectHasher::new(&subject.key, &label);
            (label, Target { hasher, hashes, known: Default::default(), values: Default::default() })
        };
        Ok(request.hashes().map(target).collect())
    }

    async fn verify(&self, id: &str, by: &str) -> Result<(), Failure> {
        let register = read(&self.files)?;
        let request = not_withdrawn(&register, id)?;
        let before = self.targets(request)?;
        said(by)?;
        texts(&Names::new(&before), [by])?;
        let search = self.search(self.kind(Some(&request.subject))?);
        let mut targets = before.clone();
        let links = search.follow_links(&mut targets).await;
        let mut found = search.run(&targets, Some(request)).await;
        links.into_iter().for_each(|gap| found.gap(gap));
        let kept = found.clone().for_register(&Names::new(&targets));
        let entry = Entry::Verify { request: id.to_owned(), found: kept, hashes: added(&before, &targets) };
        let register = self.append(by, Some(request), &entry)?;
        let request = known(&register, id)?;
        print(&report::of_requests(&[request], &self.elsewhere, ErasureFormat::Text))?;
        // Names of files are told, and not kept.
        if found.places.iter().any(|place| place.file.is_some())
            || found.gaps.iter().any(|gap| !gap.names.is_empty())
        {
            print(&format!("in full:\n{}", report::of_found(&found, &Map::new(), ErasureFormat::Text)))?;
        }
        match &request.state {
            State::Closed => Ok(()),
            other => Err(Failure::runtime(format!("{id} is {}", report::state(other)))),
        }
    }

    /// Also where the key is gone: then nobody can tell whether the texts name the subject.
    fn withdraw(&self, id: &str, by: &str, reason: &str) -> Result<(), Failure> {
        let register = read(&self.files)?;
        let request = not_withdrawn(&register, id)?;
        let targets = self.targets(request).unwrap_or_default();
        [by, reason].into_iter().try_for_each(said)?;
        texts(&Names::new(&targets), [by, reason])?;
        let entry = Entry::Withdraw { request: id.to_owned(), reason: reason.to_owned() };
        self.append(by, Some(request), &entry)?;
        print(&format!("withdrew {}\n", shown(id)))
    }

    fn append(&self, by: &str, seen: Option<&Request>, entry: &Entry) -> Result<Register, Failure> {
        self.files.append(self.clock.now_ms(), by, seen, entry).map_err(failed(&self.files))
    }
}

/// Hashes that are new.
fn added(before: &Targets, now: &Targets) -> Hashes {
    let of = |(label, target): (&String, &Target)| {
        let known = before.get(label).map(|target| &target.hashes);
        let new = target.hashes.iter().filter(|hash| known.is_none_or(|known| !known.contains(*hash)));
        (label.clone(), register::told(&new.copied().collect()))
    };
    now.iter().map(of).collect()
}

/// Texts for the register name nobody, and are short.
fn texts<const N: usize>(names: &Names<'_>, texts: [&str; N]) -> Result<(), Failure> {
    texts.into_iter().try_for_each(|text| match text.len() {
        0..=TEXT_BYTES_MAX if names.are_in(text) => Err(Failure::usage(
            "a text for the register has an identifier of the subject in it: leave it out",
        )),
        0..=TEXT_BYTES_MAX => Ok(()),
        _ => Err(Failure::usage(format!("a text is longer than {TEXT_BYTES_MAX} bytes"))),
    })
}

fn said(text: &str) -> Result<(), Failure> {
    match text.trim().is_empty() {
        true => Err(Failure::usage("a name or a reason is empty")),
        false => Ok(()),
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
