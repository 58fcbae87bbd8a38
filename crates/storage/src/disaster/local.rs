//! The data directory of a local disk, while metadata is rebuilt from it: locked, and with what its write-ahead files hold.

use std::fs::File;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use crate::log::{claim, claim_to_look};
use crate::wal::recovery::{self, RecoveredFile};

#[derive(Debug)]
pub struct Local {
    /// Those of each node in the order of its log. There is one node, unless the node id was changed.
    pub files: Vec<RecoveredFile>,
    _lock: Option<File>,
}

impl Local {
    /// With `looks_only` nothing is written there. Errors are for a person.
    pub async fn open(directory: &Path, looks_only: bool) -> Result<Local, String> {
        let directory = directory.to_owned();
        let opened = tokio::task::spawn_blocking(move || open(&directory, looks_only)).await;
        opened.map_err(|e| e.to_string())?
    }
}

/// Whether a directory is or was a broker's, which makes this file first of all.
pub fn is_data_directory(directory: &Path) -> bool {
    directory.join("VERSION").is_file()
}

fn open(directory: &Path, looks_only: bool) -> Result<Local, String> {
    if !is_data_directory(directory) {
        return Err(format!("{} is not the data directory of a broker", directory.display()));
    }
    let lock = if looks_only { claim_to_look(directory) } else { claim(directory).map(Some) };
    let lock = lock.map_err(|e| e.to_string())?;
    let recover = if looks_only { recovery::read_all } else { recovery::recover };
    let mut files = Vec::new();
    for node in nodes(&directory.join("wal"))? {
        files.extend(recover(&node).map_err(|e| e.to_string())?);
    }
    Ok(Local { files, _lock: lock })
}

/// The directories of the nodes that have written here.
fn nodes(wal: &Path) -> Result<Vec<PathBuf>, String> {
    let failed = |e: std::io::Error| format!("{}: {e}", wal.display());
    let listed = match std::fs::read_dir(wal) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        listed => listed.map_err(failed)?,
    };
    let paths = listed.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>, std::io::Error>>();
    let mut nodes: Vec<_> = paths.map_err(failed)?.into_iter().filter(|path| path.is_dir()).collect();
    nodes.sort();
    Ok(nodes)
}
