//! Cursors that a client has declared: queries that go on as far as their rows are fetched, and wait meanwhile.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use datafusion::common::ParamValues;
use datafusion::error::DataFusionError;
use futures_util::{Stream, StreamExt as _, stream};
use kafscale_meter::Current;
use parking_lot::Mutex;
use tokio::sync::OwnedMutexGuard;

use crate::error::SqlError;
use crate::running::{Rows, Running};
use crate::statement::Declare;

/// Of one client. Each may hold a batch of rows, and what its query has in memory.
const MOST_CURSORS: usize = 64;

/// The cursors of one client, by name.
#[derive(Default)]
pub struct Cursors {
    open: Mutex<HashMap<String, Arc<Cursor>>>,
    declared: AtomicU64,
}

pub struct Cursor {
    pub declared: Declare,
    pub schema: SchemaRef,
    pub values: Option<ParamValues>,
    /// How many were declared before it.
    number: u64,
    progress: Arc<tokio::sync::Mutex<Progress>>,
}

/// How far the rows are taken.
pub struct Progress {
    rows: Rows,
    /// Of a batch that was taken in part.
    rest: Option<RecordBatch>,
    is_at_start: bool,
}

impl Cursors {
    pub fn check_new(&self, name: &str) -> Result<(), SqlError> {
        match self.open.lock().contains_key(name) {
            true => Err(state("42P03", format!("cursor \"{name}\" already exists"))),
            false => Ok(()),
        }
    }

    pub fn add(
        &self,
        declared: &Declare,
        values: Option<ParamValues>,
        running: Running,
    ) -> Result<(), SqlError> {
        let schema = Arc::clone(&running.schema);
        let progress = Arc::new(tokio::sync::Mutex::new(Progress::of(running)));
        let number = self.declared.fetch_add(1, Ordering::Relaxed);
        let cursor = Arc::new(Cursor { declared: declared.clone(), schema, values, number, progress });
        let mut cursors = self.open.lock();
        if cursors.len() >= MOST_CURSORS {
            return Err(state("54000", format!("there are {MOST_CURSORS} cursors already")));
        }
        cursors.insert(declared.name.clone(), cursor);
        Ok(())
    }

    pub fn find(&self, name: &str) -> Result<Arc<Cursor>, SqlError> {
        let found = self.open.lock().get(name).cloned();
        found.ok_or_else(|| state("34000", format!("cursor \"{name}\" does not exist")))
    }

    /// One, or all.
    pub fn close(&self, name: Option<&str>) -> Result<(), SqlError> {
        match name {
            None => self.open.lock().clear(),
            Some(name) => {
                self.find(name)?;
                self.open.lock().remove(name);
            }
        }
        Ok(())
    }

    /// How many were declared so far.
    pub fn count(&self) -> u64 {
        self.declared.load(Ordering::Relaxed)
    }

    /// At the end of a transaction, those go that were not declared to stay.
    pub fn end_transaction(&self) {
        self.open.lock().retain(|_, cursor| cursor.declared.hold);
    }

    /// What is rolled back never declared those that came behind so many others.
    pub fn roll_back_to(&self, count: u64) {
        self.open.lock().retain(|_, cursor| cursor.number < count);
    }
}

fn state(code: &'static str, message: String) -> SqlError {
    SqlError::State { code, message }
}

impl Progress {
    pub fn of(running: Running) -> Progress {
        Progress { rows: running.rows, rest: None, is_at_start: true }
    }

    /// See [`Rows::counted_for`].
    pub fn counted_for(&self) -> Current {
        self.rows.counted_for()
    }

    pub fn is_at_start(&self) -> bool {
        self.is_at_start
    }

    /// At most so many rows.
    async fn next(&mut self, most: Option<u64>) -> Option<Result<RecordBatch, DataFusionError>> {
        self.is_at_start = false;
        let batch = match self.rest.take() {
            Some(rest) => rest,
            None => match self.rows.next().await? {
                Ok(batch) => batch,
                Err(error) => return Some(Err(error)),
            },
        };
        let count = batch.num_rows();
        let taken = most.map_or(count, |most| usize::try_from(most).unwrap_or(count).min(count));
        if taken < count {
            self.rest = Some(batch.slice(taken, count - taken));
        }
        Some(Ok(batch.slice(0, taken)))
    }
}

impl Cursor {
    /// How far its rows are taken. Until that is dropped, nothing else is fetched from the same cursor.
    pub fn progress(&self) -> Result<OwnedMutexGuard<Progress>, SqlError> {
        let progress = Arc::clone(&self.progress).try_lock_owned();
        progress.map_err(|_| state("55006", format!("cursor \"{}\" is in use", self.declared.name)))
    }
}

/// So many of the rows that are left, or all.
pub fn taken(
    progress: OwnedMutexGuard<Progress>,
    rows: Option<u64>,
) -> impl Stream<Item = Result<RecordBatch, DataFusionError>> + Send {
    stream::unfold((progress, rows), |(mut progress, left)| async move {
        if left == Some(0) {
            return None;
        }
        let batch = progress.next(left).await?;
        let count = batch.as_ref().map_or(u64::MAX, |batch| batch.num_rows() as u64);
        Some((batch, (progress, left.map(|left| left.saturating_sub(count)))))
    })
}
