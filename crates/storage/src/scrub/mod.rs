//! Checking a whole store against its checksums: `kafscale verify`. Reads everything and writes nothing.
//!
//! What it knows is in the store: segments, the write-ahead log, and the last snapshot of the metadata. Which of the segments make up a
//! partition now is in the metadata, which is not read; so offsets that no segment has are told of, and whether somebody missed them is
//! for a person to say.

mod chains;
mod files;
mod segments;
mod snapshot;

use std::collections::HashMap;
use std::path::Path as FilePath;
use std::sync::Arc;

use kafscale_core::ids::{Offset, TopicId};
use object_store::ObjectStore;
use object_store::path::Path;

use crate::disaster::local::is_data_directory;
use crate::disaster::survey::Segments;
use crate::log::identity;
use crate::store::{StoreError, listing, open_to_look, s3};
use crate::{StoreUrl, disaster};

/// More findings than this are counted only.
const LISTED_MAX: usize = 10_000;

/// What a person can do about a finding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Harm {
    /// Records cannot be read.
    Records,
    /// A broker does not start, or does not serve partitions, until this is mended.
    Start,
    /// The last write of the write-ahead log is not whole: whether its records were acknowledged is not known.
    Unknown,
    /// Everything can be read without the damaged part.
    None,
}

/// Something that is not as it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    pub object: String,
    /// The first byte of what is damaged, from the beginning of the object or file: where the batch begins, or, where it is not known
    /// which batch is meant, the write. 0 where all of it is meant.
    pub position: u64,
    /// The topic's name, or its id where nothing names it.
    pub topic: Option<String>,
    pub partition: Option<i32>,
    /// The first and the last offset concerned, where they are known.
    pub offsets: Option<(Offset, Offset)>,
    pub why: String,
    pub harm: Harm,
}

/// How far it is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Progress {
    pub objects_done: u64,
    pub objects: u64,
    pub bytes_done: u64,
    pub bytes: u64,
    pub findings: u64,
}

/// What came of it.
#[derive(Debug, Default)]
pub struct Scrubbed {
    pub progress: Progress,
    pub segments: u64,
    pub wal_objects: u64,
    pub batches: u64,
    pub findings: Vec<Finding>,
}

/// Told of each finding when it is made, and of the progress after each object.
pub trait Watch: Send {
    fn found(&mut self, finding: &Finding);
    fn progress(&mut self, progress: &Progress);
}

/// Why a store was not checked to its end.
#[derive(Debug, thiserror::Error)]
pub enum ScrubError {
    #[error("{0} is not there")]
    NotThere(String),
    #[error("{0} is not the data directory of a broker")]
    NotAStore(String),
    #[error(
        "there is nothing of a broker in {0}: no segment, no write-ahead log, no snapshot of metadata. Is the bucket the right one, and the \
         prefix?"
    )]
    Empty(String),
    #[error("{place} cannot be read: {source}")]
    Store { place: String, source: StoreError },
    #[error("{place} cannot be read: {source}")]
    Io { place: String, source: std::io::Error },
}

struct Scrub<'a> {
    store: Arc<dyn ObjectStore>,
    place: String,
    topics: HashMap<TopicId, String>,
    done: Scrubbed,
    watch: &'a mut dyn Watch,
}

/// Checks everything in a store. `now_ms` tells whether brokers run beside it.
pub async fn scrub(url: &StoreUrl, now_ms: i64, watch: &mut dyn Watch) -> Result<Scrubbed, ScrubError> {
    let place = url.describe();
    let failed =
        |source: object_store::Error| ScrubError::Store { place: place.clone(), source: source.into() };
    let store: Arc<dyn ObjectStore> = match url {
        StoreUrl::Memory => return Ok(Scrubbed::default()),
        StoreUrl::Shared(store) => Arc::clone(store),
        StoreUrl::S3(config) => s3::open(config).map_err(failed)?,
        StoreUrl::File(dir) if !dir.is_dir() => return Err(ScrubError::NotThere(place)),
        StoreUrl::File(dir) if !is_data_directory(dir) => return Err(ScrubError::NotAStore(place)),
        StoreUrl::File(dir) => {
            open_to_look(dir).map_err(|source| ScrubError::Store { place: place.clone(), source })?
        }
    };
    let segments = Segments::of(&*store).await.map_err(failed)?;
    let sizes = || segments.by_partition.values().flatten().map(|object| object.size_bytes);
    let mut done = Scrubbed::default();
    done.progress.objects = sizes().count() as u64;
    done.progress.bytes = sizes().sum();
    let mut topics = snapshot::topics(&*store).await;
    topics.extend(segments.topics.iter().map(|(id, name)| (*id, name.clone())));
    let mut scrub = Scrub { store, place: place.clone(), topics, done, watch };
    match url {
        StoreUrl::File(dir) => {
            let wal = dir.join("wal");
            let (nodes, files) = files::nodes(&wal)
                .and_then(|nodes| Ok((nodes, files::list(&wal)?)))
                .map_err(|source| ScrubError::Io { place, source })?;
            scrub.done.progress.objects += files.len() as u64;
            scrub.done.progress.bytes += files.iter().map(|file| file.size_bytes).sum::<u64>();
            let extents = segments::check(&mut scrub, segments).await?;
            files::check(&mut scrub, nodes, files)?;
            snapshot::check(&mut scrub, &extents, now_ms).await?;
            strangers(&mut scrub, dir)?;
        }
        StoreUrl::S3(_) | StoreUrl::Shared(_) | StoreUrl::Memory => {
            let chains = disaster::survey::chains(&*scrub.store).await.map_err(failed)?;
            if scrub.done.progress.objects == 0
                && chains.is_empty()
                && is_empty(&*scrub.store).await.map_err(failed)?
            {
                return Err(ScrubError::Empty(place));
            }
            let objects = || chains.values().flat_map(|objects| objects.values());
            scrub.done.progress.objects += objects().count() as u64;
            scrub.done.progress.bytes += objects().sum::<u64>();
            let extents = segments::check(&mut scrub, segments).await?;
            chains::check(&mut scrub, chains).await?;
            snapshot::check(&mut scrub, &extents, now_ms).await?;
        }
    }
    Ok(scrub.done)
}

/// What is among the segments, and is none of kafscale's.
fn strangers(scrub: &mut Scrub<'_>, dir: &FilePath) -> Result<(), ScrubError> {
    let found = listing::strangers(dir, &Path::from("topics")).map_err(|e| scrub.failed(e))?;
    for path in found {
        scrub.found(Finding {
            object: format!("{path:?}"),
            position: 0,
            topic: None,
            partition: None,
            offsets: None,
            why: "kafscale has not made it, and no object can be called so: it is left alone".to_owned(),
            harm: Harm::None,
        });
    }
    Ok(())
}

impl Scrub<'_> {
    fn found(&mut self, finding: Finding) {
        self.done.progress.findings += 1;
        self.watch.found(&finding);
        if self.done.findings.len() < LISTED_MAX {
            self.done.findings.push(finding);
        }
    }

    fn object_done(&mut self, size_bytes: u64) {
        self.done.progress.objects_done += 1;
        self.done.progress.bytes_done += size_bytes;
        self.watch.progress(&self.done.progress);
    }

    fn topic(&self, id: TopicId) -> String {
        self.topics.get(&id).cloned().unwrap_or_else(|| id.to_string())
    }

    fn failed(&self, source: impl Into<StoreError>) -> ScrubError {
        ScrubError::Store { place: self.place.clone(), source: source.into() }
    }
}

/// Whether a store without segments and chains was never a broker's.
async fn is_empty(store: &dyn ObjectStore) -> object_store::Result<bool> {
    Ok(!identity::is_there(store).await? && disaster::snapshot::numbers(store).await?.is_empty())
}

/// The directory of a store, for the names of its files.
fn display(path: &FilePath) -> String {
    path.display().to_string()
}
