//! The data directory of a local disk, while metadata is rebuilt from it: locked, and with what its write-ahead files hold.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use crate::error::OpenError;
use crate::log::{claim, claim_to_look};
use crate::wal::files::{Place, rename_aside};
use crate::wal::given_up::{GivenUp, Loss};
use crate::wal::recovery::{self, RecoveredFile, RecoveryError};
use crate::wal::recovery_point::RecoveryPoint;

#[derive(Debug)]
pub struct Local {
    /// Those of each node in the order of its log. There is one, unless the node id was changed.
    pub files: Vec<RecoveredFile>,
    logs: Vec<NodeLog>,
    _lock: Option<File>,
}

/// What is lost of the log of one node.
#[derive(Debug)]
struct NodeLog {
    directory: PathBuf,
    losses: Vec<(Loss, RecoveryError)>,
    /// Where they begin, and those that were given up before.
    lost: Vec<Place>,
}

/// Why nothing is rebuilt from a directory.
#[derive(Debug, thiserror::Error)]
pub enum LocalError {
    #[error("{} is not the data directory of a broker", .0.display())]
    NotOne(PathBuf),
    #[error(transparent)]
    Claim(#[from] OpenError),
    #[error(transparent)]
    Wal(#[from] RecoveryError),
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("the program itself failed: {0}")]
    Panicked(#[from] tokio::task::JoinError),
}

impl Local {
    /// With `looks_only` nothing is written there. What is lost is an error, unless it is `lossy`.
    pub async fn open(directory: &Path, looks_only: bool, lossy: bool) -> Result<Local, LocalError> {
        let directory = directory.to_owned();
        tokio::task::spawn_blocking(move || open(&directory, looks_only, lossy)).await?
    }

    /// What is lost, for a person.
    pub fn losses(&self) -> impl Iterator<Item = &RecoveryError> {
        self.logs.iter().flat_map(|log| &log.losses).map(|(_, error)| error)
    }

    /// Where records are lost in the log that a file is of.
    pub fn lost_in(&self, file: &RecoveredFile) -> &[Place] {
        let log = self.logs.iter().find(|log| file.path.starts_with(&log.directory));
        log.map_or(&[], |log| &log.lost)
    }

    /// Whether records are lost anywhere.
    pub fn lacks_any(&self) -> bool {
        self.logs.iter().any(|log| !log.lost.is_empty())
    }

    /// Gives up what is lost, so that the next start does without it. Blocks.
    pub fn give_up_losses(&self) -> Result<(), LocalError> {
        for log in &self.logs {
            log.give_up_losses().map_err(|source| LocalError::Io { path: log.directory.clone(), source })?;
        }
        Ok(())
    }
}

impl NodeLog {
    /// What cannot be read is kept for a person, and is not in the way. What is cut off here is refused as before, and is repeated.
    fn give_up_losses(&self) -> io::Result<()> {
        if self.losses.is_empty() {
            return Ok(());
        }
        self.losses
            .iter()
            .filter_map(|(_, error)| error.unreadable())
            .try_for_each(|path| rename_aside(path).map(drop))?;
        let losses: Vec<Loss> = self.losses.iter().map(|(loss, _)| *loss).collect();
        GivenUp::add(&self.directory, &losses)?;
        // It names files that are missing.
        RecoveryPoint::remove(&self.directory)
    }
}

/// Whether a directory is or was a broker's, which makes this file first of all.
pub fn is_data_directory(directory: &Path) -> bool {
    directory.join("VERSION").is_file()
}

fn open(directory: &Path, looks_only: bool, lossy: bool) -> Result<Local, LocalError> {
    if !is_data_directory(directory) {
        return Err(LocalError::NotOne(directory.to_owned()));
    }
    let lock = if looks_only { claim_to_look(directory)? } else { Some(claim(directory)?) };
    let (mut files, mut logs) = (Vec::new(), Vec::new());
    for directory in nodes(&directory.join("wal"))? {
        let (of_node, losses) = match lossy {
            true => recovery::salvage(&directory)?,
            false => (recovery::read_all(&directory)?, Vec::new()),
        };
        files.extend(of_node);
        let begin = losses.iter().map(|(loss, _)| loss.begins_at());
        let lost = begin.chain(GivenUp::read(&directory).places()).collect();
        logs.push(NodeLog { directory, losses, lost });
    }
    Ok(Local { files, logs, _lock: lock })
}

/// The directories of the nodes that have written here.
fn nodes(wal: &Path) -> Result<Vec<PathBuf>, LocalError> {
    let failed = |source| LocalError::Io { path: wal.to_owned(), source };
    let listed = match std::fs::read_dir(wal) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        listed => listed.map_err(failed)?,
    };
    let paths = listed.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>();
    let mut nodes: Vec<_> = paths.map_err(failed)?.into_iter().filter(|path| path.is_dir()).collect();
    nodes.sort();
    Ok(nodes)
}
