//! The newest transactions of the store once more, beside the database, so that neither of the two can lose one without a word.
//!
//! redb commits in one phase: when the newest pages of its file cannot be read, it goes back to the commit before, as if the
//! process had been stopped in the middle of the last one. After damage that would be an acknowledged commit rolled back.
//! `{dir}/meta/kafscale.commits` therefore says which revision was reached, and holds the changes themselves where they are small:
//! a database that stands below its journal is brought up to it, or refused.
//!
//! The file is a ring of [`SLOTS`] slots of [`SLOT_BYTES`], preallocated. A record is made ready before the commit that it describes, and
//! written to the next slot with the sync of that commit ([`super::tandem`]): past the page cache where the file system allows that, so
//! that the one flush makes the device keep both. Changes that do not fit in a slot are not kept; a record that says only which
//! revision was reached follows their commit, with a sync of its own.
//!
//! Integers are little-endian:
//!
//! | at | bytes | what |
//! |---|---|---|
//! | 0 | 4 | magic `KFSJ` |
//! | 4 | 4 | CRC-32C of what follows, to the end of the changes |
//! | 8 | 4 | version, 2 |
//! | 12 | 4 | size of the changes in bytes; 2^32-1 where they are not kept |
//! | 16 | 8 | number of the record, one more than that of the record before |
//! | 24 | 8 | revision before the commit |
//! | 32 | 8 | revision after the commit |
//! | 40 | 8 | id of the database; version 1 has none, and its changes begin here |
//! | 48 | | the changes: for each key, its size (4), the size of its entry (4; 2^32-1 where the key is deleted), key and entry |
//!
//! Invariant: the record with the highest number says the truth. A commit that failed and did not happen is followed by a record that says so.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, Read as _, Seek as _, SeekFrom, Write as _},
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use kafscale_core::crc::crc32c;

use super::{
    disk::{decode_entry, encode_entry},
    image::Entry,
};
use crate::Revision;

const NAME: &str = "kafscale.commits";
const SLOTS: u64 = 4;
const SLOT_BYTES: usize = 64 << 10;
const SIZE_BYTES: u64 = SLOTS * SLOT_BYTES as u64;
const MAGIC: [u8; 4] = *b"KFSJ";
const VERSION: u32 = 2;
const HEADER_BYTES: usize = 48;
/// Of version 1, without the id of the database.
const SHORT_HEADER_BYTES: usize = 40;
/// The size that stands for "not kept", and for "deleted".
const NONE: u32 = u32::MAX;
/// What writes past the page cache are aligned to.
const ALIGN: usize = 4096;

/// The final state of every key that a commit changes; `None` is deleted.
pub(super) type Changes = BTreeMap<String, Option<Entry>>;

/// What the journal says about one commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Record {
    number: u64,
    /// The database that it was written for. Earlier versions did not say.
    pub database: Option<u64>,
    pub before: Revision,
    pub after: Revision,
    /// `None` where they were too large.
    pub changes: Option<Changes>,
}

/// The open file.
#[derive(Debug)]
pub(super) struct Journal {
    path: PathBuf,
    file: File,
    /// Writes go past the page cache.
    direct: bool,
    next_number: u64,
    /// The database that it is written for.
    pub database: u64,
    /// The record that is ready to be written, or was written last.
    content: Vec<u8>,
    is_ready: bool,
    /// Room for that record, and for moving its beginning to where it is aligned.
    buffer: Vec<u8>,
}

impl Journal {
    /// Opens the journal of a directory, or makes an empty one, which is there for good when the directory has been synced. Gives the
    /// records in their order.
    pub(super) fn open(meta: &Path) -> io::Result<(Journal, Vec<Record>)> {
        let path = meta.join(NAME);
        if !path.exists() {
            create(meta, &path)?;
        }
        let bytes = fs::metadata(&path)?.len();
        if bytes < SIZE_BYTES {
            // Cut short. What it says is of use; what is missing is written anew.
            let file = File::options().write(true).open(&path)?;
            let missing = usize::try_from(SIZE_BYTES - bytes).expect("a journal is small");
            file.write_all_at(&vec![0; missing], bytes)?;
            file.sync_all()?;
        }
        let records = read(meta)?;
        let next_number = records.last().map_or(1, |last| last.number + 1);
        let (file, direct) = open_file(&path)?;
        let (content, buffer, is_ready) = (Vec::new(), Vec::new(), false);
        Ok((Journal { path, file, direct, next_number, database: 0, content, is_ready, buffer }, records))
    }

    /// Makes ready what says which commit is about to be made; `false` when it is too large to be noted before it happened.
    pub(super) fn prepare_commit(&mut self, before: Revision, after: Revision, changes: &Changes) -> bool {
        self.begin();
        for (key, change) in changes {
            let mut entry = Vec::new();
            if let Some(change) = change {
                encode_entry(change, &mut entry);
            }
            if self.content.len() + 8 + key.len() + entry.len() > SLOT_BYTES {
                return false;
            }
            let entry_bytes = if change.is_some() { size(entry.len()) } else { NONE };
            self.content.extend_from_slice(&size(key.len()).to_le_bytes());
            self.content.extend_from_slice(&entry_bytes.to_le_bytes());
            self.content.extend_from_slice(key.as_bytes());
            self.content.extend_from_slice(&entry);
        }
        let changes_bytes = size(self.content.len() - HEADER_BYTES);
        self.finish(changes_bytes, before, after);
        true
    }

    /// Makes ready what says which revision is reached.
    pub(super) fn prepare_reached(&mut self, revision: Revision) {
        self.begin();
        self.finish(NONE, revision, revision);
    }

    /// Whether there is a record to be written with the next sync.
    pub(super) fn has_ready(&self) -> bool {
        self.is_ready
    }

    /// The commit was given up: its record, if it has not been written, is not to be written with another sync.
    pub(super) fn forget_ready(&mut self) {
        self.is_ready = false;
    }

    /// Writes to another file from now on, not past the page cache.
    #[cfg(test)]
    pub(super) fn write_to(&mut self, file: File) {
        (self.file, self.direct) = (file, false);
    }

    fn begin(&mut self) {
        self.is_ready = false;
        self.content.clear();
        self.content.resize(HEADER_BYTES, 0);
    }

    /// Completes the record, whose changes are in `content`.
    fn finish(&mut self, changes_bytes: u32, before: Revision, after: Revision) {
        let header = &mut self.content[..HEADER_BYTES];
        header[..4].copy_from_slice(&MAGIC);
        header[8..12].copy_from_slice(&VERSION.to_le_bytes());
        header[12..16].copy_from_slice(&changes_bytes.to_le_bytes());
        header[16..24].copy_from_slice(&self.next_number.to_le_bytes());
        header[24..32].copy_from_slice(&before.0.to_le_bytes());
        header[32..40].copy_from_slice(&after.0.to_le_bytes());
        header[40..48].copy_from_slice(&self.database.to_le_bytes());
        let crc = crc32c(&self.content[8..]);
        self.content[4..8].copy_from_slice(&crc.to_le_bytes());
        self.is_ready = true;
    }

    /// Writes the record that is ready into the next slot. When this returns, the device has it, but may lose it before its next flush.
    pub(super) fn write_ready(&mut self) -> io::Result<()> {
        let size_bytes = self.content.len().next_multiple_of(ALIGN);
        if self.buffer.len() < size_bytes + ALIGN {
            self.buffer.resize(size_bytes + ALIGN, 0);
        }
        let at = self.buffer.as_ptr().align_offset(ALIGN);
        let aligned = &mut self.buffer[at..at + size_bytes];
        aligned[..self.content.len()].copy_from_slice(&self.content);
        aligned[self.content.len()..].fill(0);
        let slot = self.next_number % SLOTS * SLOT_BYTES as u64;
        match self.file.write_all_at(aligned, slot) {
            // A file system that says so only now.
            Err(e) if e.kind() == io::ErrorKind::InvalidInput && self.direct => {
                self.file = File::options().write(true).open(&self.path)?;
                self.direct = false;
                self.file.write_all_at(aligned, slot)?;
            }
            written => written?,
        }
        if !self.direct {
            self.file.sync_data()?;
        }
        self.next_number += 1;
        self.is_ready = false;
        Ok(())
    }
}

/// The records of the journal of a directory, in their order. One that is not there has none.
pub(super) fn read(meta: &Path) -> io::Result<Vec<Record>> {
    let file = match File::open(meta.join(NAME)) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(e),
    };
    let slots: io::Result<Vec<_>> = (0..SLOTS).map(|slot| read_slot(&file, slot)).collect();
    let mut records: Vec<_> = slots?.iter().filter_map(|slot| decode(slot)).collect();
    records.sort_unstable_by_key(|record| record.number);
    Ok(records)
}

/// As much of a slot as its record takes.
fn read_slot(file: &File, slot: u64) -> io::Result<Vec<u8>> {
    let read = |bytes: usize| {
        let mut content = Vec::with_capacity(bytes);
        let mut from = file;
        from.seek(SeekFrom::Start(slot * SLOT_BYTES as u64))?;
        from.take(bytes as u64).read_to_end(&mut content)?;
        Ok::<_, io::Error>(content)
    };
    let begin = read(ALIGN)?;
    let changes_bytes = word(&begin, 12).filter(|bytes| *bytes != NONE).unwrap_or(0) as usize;
    match HEADER_BYTES.saturating_add(changes_bytes).min(SLOT_BYTES) {
        few if few <= ALIGN => Ok(begin),
        many => read(many),
    }
}

/// Whether a directory has one.
pub(super) fn exists(meta: &Path) -> bool {
    meta.join(NAME).exists()
}

/// Puts the journal of a database that is gone aside.
pub(super) fn put_aside(meta: &Path) -> io::Result<()> {
    match fs::rename(meta.join(NAME), meta.join(format!("{NAME}.old"))) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// The records that lead from a revision to the last one that was reached. `Err` gives that revision when they do not.
pub(super) fn path_from(revision: Revision, records: &[Record]) -> Result<Vec<&Record>, Revision> {
    let Some(last) = records.last() else { return Ok(Vec::new()) };
    let (mut at, mut path) = (last.after, Vec::new());
    for record in records.iter().rev() {
        if at <= revision {
            break;
        }
        // Not one that was given up, nor one that only says what was reached.
        if record.after == at && record.before < at && record.changes.is_some() {
            path.push(record);
            at = record.before;
        }
    }
    path.reverse();
    if at > revision || path.first().is_some_and(|first| first.before != revision) {
        return Err(last.after);
    }
    Ok(path)
}

/// Whole or not at all: made under another name first.
fn create(meta: &Path, path: &Path) -> io::Result<()> {
    let unfinished = meta.join(format!("{NAME}.new"));
    let mut file = File::create(&unfinished)?;
    for _ in 0..SLOTS {
        file.write_all(&[0; SLOT_BYTES])?;
    }
    file.sync_data()?;
    fs::rename(&unfinished, path)
}

/// Past the page cache where the file system allows it.
fn open_file(path: &Path) -> io::Result<(File, bool)> {
    let flags = rustix::fs::OFlags::DIRECT.bits().cast_signed();
    match File::options().write(true).custom_flags(flags).open(path) {
        Ok(file) => Ok((file, true)),
        Err(e) if e.kind() == io::ErrorKind::InvalidInput => {
            Ok((File::options().write(true).open(path)?, false))
        }
        Err(e) => Err(e),
    }
}

fn size(bytes: usize) -> u32 {
    u32::try_from(bytes).expect("a transaction is far smaller than 4 GiB")
}

fn word(slot: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(slot.get(at..at + 4)?.try_into().ok()?))
}

fn decode(slot: &[u8]) -> Option<Record> {
    let word = |at| word(slot, at);
    let long = |at: usize| Some(u64::from_le_bytes(slot.get(at..at + 8)?.try_into().ok()?));
    let changes_bytes = word(12)?;
    let kept = if changes_bytes == NONE { 0 } else { changes_bytes as usize };
    let header_bytes = match word(8)? {
        1 => SHORT_HEADER_BYTES,
        VERSION => HEADER_BYTES,
        _ => return None,
    };
    let content = slot.get(8..header_bytes.checked_add(kept)?)?;
    if slot[..4] != MAGIC || word(4)? != crc32c(content) {
        return None;
    }
    let database = if header_bytes == HEADER_BYTES { Some(long(40)?) } else { None };
    let changes = match changes_bytes {
        NONE => None,
        _ => Some(decode_changes(&content[header_bytes - 8..])?),
    };
    let (before, after) = (Revision(long(24)?), Revision(long(32)?));
    Some(Record { number: long(16)?, database, before, after, changes })
}

fn decode_changes(mut content: &[u8]) -> Option<Changes> {
    let mut changes = Changes::new();
    while !content.is_empty() {
        let (sizes, rest) = content.split_at_checked(8)?;
        let (key_bytes, entry_bytes) = sizes.split_at(4);
        let key_bytes = u32::from_le_bytes(key_bytes.try_into().ok()?) as usize;
        let entry_bytes = u32::from_le_bytes(entry_bytes.try_into().ok()?);
        let (key, rest) = rest.split_at_checked(key_bytes)?;
        let is_deleted = entry_bytes == NONE;
        let (entry, rest) = rest.split_at_checked(if is_deleted { 0 } else { entry_bytes as usize })?;
        let entry = if is_deleted { None } else { Some(decode_entry(entry)?) };
        changes.insert(std::str::from_utf8(key).ok()?.to_owned(), entry);
        content = rest;
    }
    Some(changes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::LeaseId;

    fn note(journal: &mut Journal, before: u64, after: u64, changes: &Changes) -> bool {
        let fits = journal.prepare_commit(Revision(before), Revision(after), changes);
        if fits {
            journal.write_ready().unwrap();
        }
        fits
    }

    fn entries() -> impl Strategy<Value = Option<Entry>> {
        let entry = (any::<Vec<u8>>(), 1..99u64, 1..99u64, 0..3i64);
        proptest::option::of(entry.prop_map(|(value, created, modified, lease)| Entry {
            value: value.into(),
            create_revision: Revision(created),
            mod_revision: Revision(modified),
            lease: (lease != 0).then_some(LeaseId(lease)),
        }))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn records_come_back_as_they_were_noted(changes in proptest::collection::btree_map(".{0,20}", entries(), 0..20)) {
            let dir = tempfile::tempdir().unwrap();
            let (mut journal, none) = Journal::open(dir.path()).unwrap();
            prop_assert!(none.is_empty());
            for revision in 1..10 {
                prop_assert!(note(&mut journal, revision, revision + 1, &changes));
            }
            journal.prepare_reached(Revision(77));
            journal.write_ready().unwrap();
            let (_, records) = Journal::open(dir.path()).unwrap();
            let numbers: Vec<_> = records.iter().map(|r| r.number).collect();
            prop_assert_eq!(numbers, vec![7, 8, 9, 10]);
            prop_assert_eq!(&records[2].changes, &Some(changes));
            prop_assert_eq!((records[2].before, records[2].after), (Revision(9), Revision(10)));
            prop_assert_eq!((&records[3].changes, records[3].after), (&None, Revision(77)));
        }

        #[test]
        fn no_bytes_make_reading_fail(bytes in proptest::collection::vec(any::<u8>(), 0..200), at in 0..260_000usize) {
            let dir = tempfile::tempdir().unwrap();
            let (mut journal, _) = Journal::open(dir.path()).unwrap();
            note(&mut journal, 1, 2, &Changes::new());
            let file = File::options().write(true).open(dir.path().join("kafscale.commits")).unwrap();
            file.write_all_at(&bytes, at as u64).unwrap();
            let (_, records) = Journal::open(dir.path()).unwrap();
            prop_assert!(records.len() <= 1);
        }
    }

    #[test]
    fn a_path_leads_to_what_was_reached_last_or_is_not_taken() {
        let record = |number, before, after, kept: bool| Record {
            number,
            database: None,
            before: Revision(before),
            after: Revision(after),
            changes: kept.then(Changes::new),
        };
        let records =
            [record(1, 5, 6, true), record(2, 6, 9, true), record(3, 6, 6, false), record(4, 6, 8, true)];
        let numbers = |revision| {
            path_from(Revision(revision), &records)
                .map(|path| path.iter().map(|r| r.number).collect::<Vec<_>>())
        };
        assert_eq!(numbers(8), Ok(vec![]));
        assert_eq!(numbers(20), Ok(vec![]), "the database is ahead");
        assert_eq!(numbers(6), Ok(vec![4]), "not the one that was given up");
        assert_eq!(numbers(5), Ok(vec![1, 4]));
        assert_eq!(numbers(4), Err(Revision(8)));
        assert_eq!(numbers(7), Err(Revision(8)), "a revision that there never was");
        assert_eq!(path_from(Revision(3), &[record(1, 4, 4, false)]), Err(Revision(4)));
        assert_eq!(path_from(Revision(3), &[]), Ok(vec![]));
    }

    #[test]
    fn a_record_names_its_database_and_one_of_version_1_is_read_all_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let (mut journal, _) = Journal::open(dir.path()).unwrap();
        journal.database = 77;
        let changes = Changes::from([("k".to_owned(), None)]);
        note(&mut journal, 1, 2, &changes);
        let path = dir.path().join(NAME);
        let slot = fs::read(&path).unwrap()[SLOT_BYTES..].to_vec();
        let (changes_bytes, now) = (9, decode(&slot).unwrap());
        assert_eq!((now.database, now.changes.as_ref()), (Some(77), Some(&changes)));
        let mut before =
            [&slot[..SHORT_HEADER_BYTES], &slot[HEADER_BYTES..HEADER_BYTES + changes_bytes]].concat();
        before[8] = 1;
        let crc = crc32c(&before[8..]);
        before[4..8].copy_from_slice(&crc.to_le_bytes());
        assert_eq!(decode(&before), Some(Record { database: None, ..now }));
    }

    #[test]
    fn changes_that_are_too_large_are_not_noted_before() {
        let dir = tempfile::tempdir().unwrap();
        let (mut journal, _) = Journal::open(dir.path()).unwrap();
        let entry = |bytes| Entry {
            value: vec![1; bytes].into(),
            create_revision: Revision(1),
            mod_revision: Revision(1),
            lease: None,
        };
        let one = |bytes| Changes::from([("k".to_owned(), Some(entry(bytes)))]);
        let most = SLOT_BYTES - HEADER_BYTES - 8 - 1 - 24;
        assert!(note(&mut journal, 1, 2, &one(most)));
        assert!(!note(&mut journal, 2, 3, &one(most + 1)));
        let (_, records) = Journal::open(dir.path()).unwrap();
        assert_eq!(records.len(), 1);
        assert_eq!(records[0].changes, Some(one(most)));
    }
}
