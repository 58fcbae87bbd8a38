//! What a person has given up of a local write-ahead log: files that are gone, and places in files that are damaged. Written by
//! `kafscale restore --accept-loss`; a start that finds something else lost is refused as before.
//!
//! Invariant: no new file gets the number of one that was given up, so that the loss of a new one is never taken for an old loss.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::files::Place;

const VERSION: u32 = 1;
/// A larger file was not written by this program.
const BYTES_MAX: u64 = 64 << 20;

/// Something that was lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Loss {
    /// The files with these numbers, the last one included.
    Files { first: u64, last: u64 },
    /// What is in a file from here up to the next object that can be read.
    Place { file_no: u64, position: u64 },
}

impl Loss {
    pub fn begins_at(&self) -> Place {
        match *self {
            Loss::Files { first, .. } => Place { file_no: first, position: 0 },
            Loss::Place { file_no, position } => Place { file_no, position },
        }
    }
}

/// `given-up.json` beside the files.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GivenUp {
    v: u32,
    /// First and last numbers of files, in order, with others between.
    files: Vec<(u64, u64)>,
    /// Numbers of files and positions in them.
    places: BTreeSet<(u64, u64)>,
}

impl GivenUp {
    pub fn path(dir: &Path) -> PathBuf {
        dir.join("given-up.json")
    }

    /// What was given up in a directory. A list that cannot be read gives nothing up.
    pub fn read(dir: &Path) -> GivenUp {
        let path = Self::path(dir);
        let read = || {
            std::fs::metadata(&path).ok().filter(std::fs::Metadata::is_file)?;
            let mut bytes = Vec::new();
            File::open(&path).ok()?.take(BYTES_MAX).read_to_end(&mut bytes).ok()?;
            serde_json::from_slice::<GivenUp>(&bytes).ok().filter(|found| found.v == VERSION)
        };
        read().unwrap_or_default()
    }

    /// Adds to what is in the directory, durably.
    pub fn add(dir: &Path, losses: &[Loss]) -> io::Result<()> {
        let mut all = Self::read(dir);
        for loss in losses {
            match *loss {
                Loss::Files { first, last } => all.files.push((first, last)),
                Loss::Place { file_no, position } => _ = all.places.insert((file_no, position)),
            }
        }
        all.files.sort_unstable();
        all.files.dedup_by(|next, before| {
            let follows = next.0 <= before.1.saturating_add(1);
            if follows {
                before.1 = before.1.max(next.1);
            }
            follows
        });
        all.write(dir)
    }

    fn write(&self, dir: &Path) -> io::Result<()> {
        let (path, staged) = (Self::path(dir), dir.join("given-up.tmp"));
        let list = GivenUp { v: VERSION, ..self.clone() };
        std::fs::write(&staged, serde_json::to_vec(&list)?)?;
        File::open(&staged)?.sync_all()?;
        std::fs::rename(&staged, path)?;
        File::open(dir)?.sync_all()
    }

    /// Forgets what is below the oldest file that is needed.
    pub fn prune(mut self, dir: &Path, oldest: u64) -> io::Result<GivenUp> {
        if self == GivenUp::default() {
            return Ok(self);
        }
        let before = self.clone();
        self.files.retain(|(_, last)| last.saturating_add(1) >= oldest);
        self.places.retain(|(file_no, _)| *file_no >= oldest);
        match (self.files.is_empty() && self.places.is_empty(), self == before) {
            (true, _) => std::fs::remove_file(Self::path(dir))?,
            (false, true) => {}
            (false, false) => self.write(dir)?,
        }
        Ok(self)
    }

    pub fn has(&self, loss: &Loss) -> bool {
        match loss {
            Loss::Files { first, last } => self.files.iter().any(|(f, l)| f <= first && last <= l),
            Loss::Place { file_no, position } => self.places.contains(&(*file_no, *position)),
        }
    }

    /// Whether a file was given up as a whole. One of this number that is there was put back afterwards: no new file gets it.
    pub fn has_file(&self, file_no: u64) -> bool {
        self.has(&Loss::Files { first: file_no, last: file_no })
    }

    /// The last file that was given up.
    pub fn last_file(&self) -> Option<u64> {
        self.files.last().map(|(_, last)| *last)
    }

    /// Where something is missing: in the file of this number, at or behind this position.
    pub fn places(&self) -> impl Iterator<Item = Place> {
        let files = self.files.iter().map(|(first, _)| Place { file_no: *first, position: 0 });
        files.chain(
            self.places.iter().map(|(file_no, position)| Place { file_no: *file_no, position: *position }),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(first: u64, last: u64) -> Loss {
        Loss::Files { first, last }
    }

    #[test]
    fn what_is_given_up_is_known_until_its_neighbour_is_freed() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        assert_eq!(GivenUp::read(dir), GivenUp::default());
        let place = |position| Loss::Place { file_no: 7, position };
        GivenUp::add(dir, &[files(4, 4), place(5000)]).unwrap();
        GivenUp::add(dir, &[files(5, 5), files(9, 12)]).unwrap();
        let known = GivenUp::read(dir);
        for (loss, expect) in [
            (files(4, 5), true),
            (files(5, 5), true),
            (files(4, 6), false),
            (files(10, 11), true),
            (place(5000), true),
            (place(6000), false),
        ] {
            assert_eq!(known.has(&loss), expect, "{loss:?}");
        }
        assert_eq!(known.last_file(), Some(12));
        let known = known.prune(dir, 6).unwrap();
        assert!(known.has(&files(4, 5)), "what follows it is still needed");
        let known = known.prune(dir, 8).unwrap();
        assert_eq!(known, GivenUp::read(dir));
        assert!(!known.has(&files(4, 5)) && !known.has(&place(5000)) && known.has(&files(9, 12)));
        known.prune(dir, 14).unwrap();
        assert!(!GivenUp::path(dir).exists());
    }

    #[test]
    fn a_list_that_cannot_be_read_gives_nothing_up() {
        let dir = tempfile::tempdir().unwrap();
        GivenUp::add(dir.path(), &[files(4, 4)]).unwrap();
        let path = GivenUp::path(dir.path());
        let sound = std::fs::read(&path).unwrap();
        for bytes in [
            &b""[..],
            b"{}",
            b"\xff\xff",
            &sound[..sound.len() - 2],
            br#"{"v":2,"files":[[4,4]],"places":[]}"#,
        ] {
            std::fs::write(&path, bytes).unwrap();
            assert!(!GivenUp::read(dir.path()).has(&files(4, 4)));
        }
        std::fs::remove_file(&path).unwrap();
        std::fs::create_dir(&path).unwrap();
        assert_eq!(GivenUp::read(dir.path()), GivenUp::default());
    }
}
