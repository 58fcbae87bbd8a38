//! The group commit of the embedded store with a file: one thread takes all commands that wait, makes them durable in one
//! commit, applies them to the image and answers them.
//!
//! What waits is bounded in bytes. When a commit fails, the disk is opened again to learn whether it happened after all;
//! until that is known nothing else is committed, and callers are told to retry. So a full disk fails its commands and
//! nothing else, and the store goes on by itself when there is room again.

use std::{
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use parking_lot::{Condvar, Mutex};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use super::{Command, Shared, disk::Disk, image::Staged};
use crate::{Error, ErrorKind, Op, Result, TxnOutcome};

/// What may wait or be under way, in units of [`UNIT_BYTES`].
const BUDGET_UNITS: usize = 32 * 1024;
const UNIT_BYTES: usize = 1024;
/// Commands in one commit.
const MAX_COMMIT: usize = 1024;
/// A disk that could not be opened again is left alone so long.
const REOPEN_INTERVAL: Duration = Duration::from_millis(250);

#[derive(Debug)]
struct Submission {
    command: Command,
    reply: oneshot::Sender<Result<TxnOutcome>>,
    /// Returned to the budget when the command is answered.
    _budget: OwnedSemaphorePermit,
}

/// Where commands wait for the writer.
#[derive(Debug)]
pub(super) struct Mailbox {
    waiting: Mutex<Waiting>,
    filled: Condvar,
    budget: Arc<Semaphore>,
}

#[derive(Debug, Default)]
struct Waiting {
    submissions: Vec<Submission>,
    closed: bool,
}

impl Mailbox {
    pub(super) fn new() -> Self {
        Self {
            waiting: Mutex::default(),
            filled: Condvar::new(),
            budget: Arc::new(Semaphore::new(BUDGET_UNITS)),
        }
    }

    /// Waits for room, hands the command over, and waits for its answer. A command that was handed over is done even
    /// if the caller is gone.
    pub(super) async fn submit(&self, command: Command) -> Result<TxnOutcome> {
        let budget = Arc::clone(&self.budget).acquire_many_owned(units(&command)).await;
        let _budget = budget.map_err(|_| closed())?;
        let (reply, answer) = oneshot::channel();
        {
            let mut waiting = self.waiting.lock();
            if waiting.closed {
                return Err(closed());
            }
            waiting.submissions.push(Submission { command, reply, _budget });
        }
        self.filled.notify_one();
        answer.await.unwrap_or_else(|_| Err(stopped()))
    }

    /// Refuses further commands and lets the writer end when it has done those that wait.
    pub(super) fn close(&self) {
        self.waiting.lock().closed = true;
        self.budget.close();
        self.filled.notify_one();
    }

    /// Blocks until there is something to do; `None` when the mailbox is closed and empty.
    fn take(&self) -> Option<Vec<Submission>> {
        let mut waiting = self.waiting.lock();
        while waiting.submissions.is_empty() {
            if waiting.closed {
                return None;
            }
            self.filled.wait(&mut waiting);
        }
        let count = waiting.submissions.len().min(MAX_COMMIT);
        Some(waiting.submissions.drain(..count).collect())
    }
}

fn units(command: &Command) -> u32 {
    let bytes: usize = match command {
        Command::Revoke(_) => 0,
        Command::Txn(txn) => txn
            .then
            .iter()
            .map(|op| match op {
                Op::Put { key, value, .. } => key.len() + value.len(),
                Op::Delete { key } | Op::DeletePrefix { prefix: key } => key.len(),
            })
            .sum(),
    };
    u32::try_from(1 + bytes / UNIT_BYTES).expect("a valid transaction is smaller than the budget")
}

fn closed() -> Error {
    Error::new(ErrorKind::Retry, "the metadata store is closed")
}

/// The thread ended in a way that it never should.
pub(super) fn stopped() -> Error {
    Error::new(ErrorKind::Internal, "the writer of the metadata store has stopped; restart the process")
}

/// Starts the thread, which ends after [`Mailbox::close`].
pub(super) fn spawn(
    mailbox: Arc<Mailbox>,
    shared: Arc<Shared>,
    disk: Disk,
) -> Result<thread::JoinHandle<()>> {
    let run = move || {
        // Also when the loop panics, so that callers get an error instead of waiting for an answer.
        let _close = CloseOnExit(Arc::clone(&mailbox));
        let mut writer = Writer { shared, disk, doubt: None, broken: None };
        while let Some(batch) = mailbox.take() {
            writer.commit(batch);
        }
        writer.disk.close();
    };
    thread::Builder::new().name("kafscale-meta".to_owned()).spawn(run).map_err(|e| {
        Error::new(ErrorKind::Retry, format!("cannot start the writer of the metadata store: {e}"))
    })
}

struct CloseOnExit(Arc<Mailbox>);

impl Drop for CloseOnExit {
    fn drop(&mut self) {
        self.0.close();
        self.0.waiting.lock().submissions.clear();
    }
}

struct Writer {
    shared: Arc<Shared>,
    disk: Disk,
    /// A commit failed, and whether it happened is not known yet.
    doubt: Option<Staged>,
    /// The disk could not be opened again: when that was tried last, and how it failed.
    broken: Option<(Instant, Error)>,
}

/// Whether a commit that failed is on the disk after all.
enum Settled {
    Happened,
    DidNotHappen,
}

impl Writer {
    fn commit(&mut self, batch: Vec<Submission>) {
        if let Err(error) = self.settle() {
            answer(batch, |_| Err(error.clone()));
            return;
        }
        let mut outcomes = Vec::with_capacity(batch.len());
        let staged = {
            let image = self.shared.image.read();
            let mut staged = Staged::new(&image);
            for submission in &batch {
                outcomes.push(staged.stage(&image, &submission.command));
            }
            staged
        };
        if staged.changes().is_empty() {
            self.shared.apply(staged);
            answer(batch, |i| outcomes[i].clone());
            return;
        }
        match self.disk.commit(staged.revision(), staged.changes()) {
            Ok(()) => {
                self.shared.apply(staged);
                answer(batch, |i| outcomes[i].clone());
            }
            Err(error) => {
                tracing::warn!(%error, "a commit to the metadata store failed");
                self.doubt = Some(staged);
                match self.settle() {
                    Ok(Settled::Happened) => answer(batch, |i| outcomes[i].clone()),
                    Ok(Settled::DidNotHappen) => answer(batch, |_| Err(error.clone())),
                    // Whether it happened is open, so the caller must not take it for undone.
                    Err(_) => answer(batch, |_| Err(Error::new(ErrorKind::Retry, error.to_string()))),
                }
            }
        }
    }

    /// Learns what became of a commit in doubt, if there is one.
    fn settle(&mut self) -> Result<Settled> {
        if self.doubt.is_none() {
            return Ok(Settled::DidNotHappen);
        }
        if let Some((tried, error)) = &self.broken
            && tried.elapsed() < REOPEN_INTERVAL
        {
            return Err(error.clone());
        }
        let reopened = self.disk.reopen();
        let on_disk = match reopened {
            Ok(revision) => revision,
            Err(error) => {
                self.broken = Some((Instant::now(), error.clone()));
                return Err(error);
            }
        };
        let before = self.shared.image.read().revision();
        let tried = self.doubt.as_ref().map(Staged::revision);
        let known = if on_disk == before || Some(on_disk) == tried {
            // Only now it is durable, and the journal does not say what did not happen.
            self.disk.note_reached()
        } else {
            Err(Error::corrupt(format!(
                "the metadata store is at revision {on_disk}, where {before} or a little more was written"
            )))
        };
        if let Err(error) = known {
            self.broken = Some((Instant::now(), error.clone()));
            return Err(error);
        }
        let staged = self.doubt.take().expect("checked above");
        if on_disk == staged.revision() {
            self.shared.apply(staged);
        }
        self.broken = None;
        tracing::info!(revision = %on_disk, "the metadata store is writable again");
        Ok(if on_disk == before { Settled::DidNotHappen } else { Settled::Happened })
    }
}

fn answer(batch: Vec<Submission>, outcome: impl Fn(usize) -> Result<TxnOutcome>) {
    for (i, submission) in batch.into_iter().enumerate() {
        // The caller may have given up waiting.
        let _ = submission.reply.send(outcome(i));
    }
}
