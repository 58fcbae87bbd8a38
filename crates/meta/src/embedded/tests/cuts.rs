//! Whatever moment the power fails at: nothing that was answered is lost, no commit is there by half, and the store opens.
//!
//! Every write and sync of both files is recorded while a store is opened and commits are made. Then each moment is tried: what was
//! synced is there; of what was written since, any part may be, sector by sector and in any order.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use parking_lot::Mutex;
use redb::{StorageBackend, backends::FileBackend};
use tempfile::TempDir;

use crate::{
    ErrorKind, KeyValue, Result, Revision,
    embedded::{
        disk::{self, Disk, Looked},
        image::{Entry, Image},
    },
};

const FILES: [&str; 2] = ["meta/kafscale.redb", "meta/kafscale.commits"];
const DATABASE: usize = 0;
const JOURNAL: usize = 1;
const SECTOR_BYTES: usize = 512;

/// What happened to the files, in order.
#[derive(Debug, Clone)]
enum Step {
    Write {
        file: usize,
        offset: usize,
        data: Vec<u8>,
    },
    /// Of the database.
    SetLen(usize),
    Sync,
    /// A caller knows of this revision.
    Answered(Revision),
}

/// What happened since it was made, and the journal as it was seen last.
#[derive(Debug)]
struct Recording {
    steps: Vec<Step>,
    journal_path: PathBuf,
    journal: Vec<u8>,
}

#[derive(Debug)]
struct RecordedFile {
    file: FileBackend,
    recording: Arc<Mutex<Recording>>,
}

impl StorageBackend for RecordedFile {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.recording.lock().steps.push(Step::SetLen(usize::try_from(len).unwrap()));
        self.file.set_len(len)
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let offset_now = usize::try_from(offset).unwrap();
        let step = Step::Write { file: DATABASE, offset: offset_now, data: data.to_vec() };
        self.recording.lock().steps.push(step);
        self.file.write(offset, data)
    }

    fn sync_data(&self) -> io::Result<()> {
        let recording = &mut *self.recording.lock();
        // What the journal wrote was written for this sync.
        let journal = fs::read(&recording.journal_path).unwrap_or_default();
        for offset in (0..journal.len()).step_by(SECTOR_BYTES) {
            let data = &journal[offset..offset + SECTOR_BYTES];
            if recording.journal.get(offset..offset + SECTOR_BYTES) != Some(data) {
                recording.steps.push(Step::Write { file: JOURNAL, offset, data: data.to_vec() });
            }
        }
        recording.journal = journal;
        recording.steps.push(Step::Sync);
        self.file.sync_data()
    }
}

struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % bound
    }

    fn coin(&mut self) -> bool {
        self.below(2) == 0
    }
}

/// Of what was not synced, what is there after a crash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Left {
    /// The process was killed, and the machine went on.
    All,
    Nothing,
    SomeWrites,
    SomeSectors,
}

type Files = [Vec<u8>; 2];

/// The files after a crash behind these steps, and the last revision that somebody knows of.
fn crash(initial: &Files, steps: &[Step], left: Left, random: &mut Random) -> (Files, Revision) {
    let synced = steps.iter().rposition(|step| matches!(step, Step::Sync)).map_or(0, |at| at + 1);
    let (mut files, mut answered) = (initial.clone(), Revision(0));
    for (i, step) in steps.iter().enumerate() {
        let whole = i < synced || left == Left::All || (left == Left::SomeWrites && random.coin());
        match step {
            Step::Write { file, offset, data } => {
                for (sector, bytes) in data.chunks(SECTOR_BYTES).enumerate() {
                    let at = offset + sector * SECTOR_BYTES;
                    let fits = files[*file].len() >= at + bytes.len();
                    if fits && (whole || (left == Left::SomeSectors && random.coin())) {
                        files[*file][at..at + bytes.len()].copy_from_slice(bytes);
                    }
                }
            }
            Step::SetLen(len) if whole || (left == Left::SomeSectors && random.coin()) => {
                files[DATABASE].resize(*len, 0);
            }
            Step::SetLen(_) | Step::Sync => {}
            Step::Answered(revision) => answered = *revision,
        }
    }
    (files, answered)
}

fn read(dir: &Path) -> Files {
    FILES.map(|file| fs::read(dir.join(file)).unwrap())
}

fn put(dir: &Path, files: &Files) {
    for (file, bytes) in FILES.iter().zip(files) {
        fs::write(dir.join(file), bytes).unwrap();
    }
}

fn open_recorded(dir: &Path, looks: bool) -> (Disk, Revision, Arc<Mutex<Recording>>) {
    let journal_path = dir.join(FILES[JOURNAL]);
    let journal = fs::read(&journal_path).unwrap_or_default();
    let recording = Recording { steps: Vec::new(), journal_path: journal_path.clone(), journal };
    let recording = Arc::new(Mutex::new(recording));
    let shared = Arc::clone(&recording);
    let opener = move |path: &Path| {
        let file = File::options().read(true).write(true).create(true).truncate(false).open(path)?;
        let file = FileBackend::new(file)?;
        let recorded = RecordedFile { file, recording: Arc::clone(&shared) };
        Ok(Box::new(recorded) as Box<dyn StorageBackend>)
    };
    let (disk, image) = match looks {
        true => disk::look_with(dir, Box::new(opener)).unwrap().expect("it was opened before").0.open(),
        false => disk::open_with(dir, Box::new(opener)),
    }
    .unwrap();
    recording.lock().journal = fs::read(&journal_path).unwrap();
    recording.lock().steps.push(Step::Answered(image.revision()));
    (disk, image.revision(), recording)
}

/// What there was at each revision.
type History = BTreeMap<Revision, BTreeMap<String, Entry>>;

/// Makes commits of several kinds, and keeps in `history` what each made of the store.
fn commit(disk: &mut Disk, from: Revision, recording: &Mutex<Recording>, history: &mut History, count: u64) {
    let (mut state, mut revision) = (history[&from].clone(), from);
    for i in 0..count {
        revision = revision.next();
        let entry = |bytes: usize| Entry {
            value: vec![u8::try_from(revision.0 % 251).unwrap(); bytes].into(),
            create_revision: revision,
            mod_revision: revision,
            lease: None,
        };
        let changes = match (revision.0 + i) % 6 {
            0 => BTreeMap::from([("/a".to_owned(), Some(entry(3))), ("/b".to_owned(), Some(entry(9_000)))]),
            1 => BTreeMap::from([("/a".to_owned(), None), (format!("/{i}"), Some(entry(40)))]),
            // More than the journal keeps.
            2 => BTreeMap::from([("/large".to_owned(), Some(entry(70_000 + revision.0 as usize)))]),
            _ => BTreeMap::from([(format!("/{}", revision.0 % 5), Some(entry(200)))]),
        };
        for (key, change) in &changes {
            match change {
                Some(entry) => state.insert(key.clone(), entry.clone()),
                None => state.remove(key),
            };
        }
        // It may be found before anybody was told of it.
        history.insert(revision, state.clone());
        disk.commit(revision, &changes).unwrap();
        recording.lock().steps.push(Step::Answered(revision));
    }
}

/// Opens what a crash left, twice: the second time it must find what the first time said.
fn check(dir: &Path, files: &Files, answered: Revision, history: &History, what: &dyn std::fmt::Debug) {
    put(dir, files);
    let mut found = None;
    // A look changes nothing and finds the same.
    drop(look_alone(dir).unwrap_or_else(|e| panic!("{what:?}: {e}")));
    assert!(read(dir) == *files, "{what:?}: a look has changed a file");
    for looks in [true, false] {
        let opened = match looks {
            true => look_alone(dir).and_then(|(looked, image)| {
                assert_eq!(image.revision(), looked.open()?.1.revision(), "{what:?}");
                Ok(image)
            }),
            false => open_alone(dir).map(|(_, image)| image),
        };
        let image = opened.unwrap_or_else(|e| panic!("{what:?}: {e}"));
        let listing = image.list("");
        assert!(
            answered <= listing.revision && listing.revision <= answered.next(),
            "{what:?}: {answered}, then {}",
            listing.revision
        );
        let expected: Vec<_> =
            history[&listing.revision].iter().map(|(key, entry)| entry_of(key, entry)).collect();
        assert!(listing.kvs == expected, "{what:?}: another state at {}", listing.revision);
        assert_eq!(*found.get_or_insert(listing.revision), listing.revision, "{what:?}");
    }
}

/// In memory, where there is such a place: thousands of syncs take minutes on a slow disk.
fn directory() -> TempDir {
    tempfile::tempdir_in("/dev/shm").unwrap_or_else(|_| tempfile::tempdir().unwrap())
}

/// A test beside this one starts a process, which has all locks of this one until it is another program.
fn alone<T>(open: impl Fn() -> Result<T>) -> Result<T> {
    loop {
        match open() {
            Err(e) if e.kind() == ErrorKind::InUse => std::thread::yield_now(),
            opened => return opened,
        }
    }
}

fn open_alone(dir: &Path) -> Result<(Disk, Image)> {
    alone(|| disk::open(dir))
}

fn look_alone(dir: &Path) -> Result<(Looked, Image)> {
    alone(|| Ok(disk::look(dir)?.expect("it was opened before")))
}

fn entry_of(key: &str, entry: &Entry) -> KeyValue {
    KeyValue {
        key: key.to_owned(),
        value: entry.value.clone(),
        create_revision: entry.create_revision,
        mod_revision: entry.mod_revision,
        lease: None,
    }
}

#[test]
fn no_cut_loses_what_was_answered() {
    const LEFT: [Left; 4] = [Left::All, Left::Nothing, Left::SomeWrites, Left::SomeSectors];
    let (dir, copy) = (directory(), directory());
    let mut random = Random(11);
    drop(disk::open(dir.path()).unwrap());
    fs::create_dir(copy.path().join("meta")).unwrap();
    fs::write(copy.path().join("meta/LOCK"), []).unwrap();
    let initial = read(dir.path());
    let mut history = History::from([(Revision(0), BTreeMap::new())]);
    let (mut disk, from, recording) = open_recorded(dir.path(), false);
    commit(&mut disk, from, &recording, &mut history, 13);
    disk.close();
    drop(disk);
    let steps = recording.lock().steps.clone();
    let mut tried = 0;
    for cut in 1..=steps.len() {
        let left = LEFT[random.below(4)];
        let (files, answered) = crash(&initial, &steps[..cut], left, &mut random);
        check(copy.path(), &files, answered, &history, &(cut, left));
        tried += 1;
    }
    // The process is killed, starts again over what the page cache has, and then the power fails.
    for (i, killed_at) in (3..steps.len()).step_by(steps.len() / 9).enumerate() {
        let (files, _) = crash(&initial, &steps[..killed_at], Left::All, &mut random);
        put(dir.path(), &files);
        let mut history = history.clone();
        let (mut disk, from, recording) = open_recorded(dir.path(), i % 2 == 0);
        history.retain(|revision, _| *revision <= from);
        commit(&mut disk, from, &recording, &mut history, 2);
        disk.close();
        drop(disk);
        let all: Vec<_> = steps[..killed_at].iter().cloned().chain(recording.lock().steps.clone()).collect();
        for cut in killed_at..=all.len() {
            let left = LEFT[random.below(4)];
            let (files, answered) = crash(&initial, &all[..cut], left, &mut random);
            check(copy.path(), &files, answered, &history, &(killed_at, cut, left));
            tried += 1;
        }
    }
    assert!(tried > 300, "{tried} moments");
}

/// A store that was just made is not opened a second time: what it was made of must be durable when it has its name.
#[test]
fn no_cut_loses_what_a_new_store_has_answered() {
    const LEFT: [Left; 3] = [Left::Nothing, Left::SomeWrites, Left::SomeSectors];
    let (dir, copy) = (directory(), directory());
    let mut random = Random(13);
    let (mut disk, from, recording) = open_recorded(dir.path(), false);
    let named = recording.lock().steps.len();
    assert_eq!(from, Revision(0));
    fs::create_dir(copy.path().join("meta")).unwrap();
    fs::write(copy.path().join("meta/LOCK"), []).unwrap();
    // Its journal is whole before it has its name.
    let initial = [Vec::new(), read(dir.path())[JOURNAL].clone()];
    let mut history = History::from([(from, BTreeMap::new())]);
    commit(&mut disk, from, &recording, &mut history, 7);
    disk.close();
    drop(disk);
    let steps = recording.lock().steps.clone();
    for cut in named..=steps.len() {
        for left in LEFT {
            let (files, answered) = crash(&initial, &steps[..cut], left, &mut random);
            check(copy.path(), &files, answered, &history, &(cut, left));
        }
    }
}
