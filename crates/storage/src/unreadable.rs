//! Stored objects that the store does not give at the moment: permissions, a key, a network, a disk that is away. Each is logged once, and
//! kept for health and metrics until it is read again.
//!
//! This is not damage: nothing is lost, and readers are told to try again. Only what somebody met is known; what nobody has asked for
//! lately is not told of, since it may long be back.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::store::{StoreError, StoreErrorKind};

/// More objects than this are counted only.
const LISTED_MAX: usize = 1000;

/// One that nobody met for so long is not told of any more. A consumer that is held up asks much more often.
const LATELY: Duration = Duration::from_secs(60);

/// A read that failed only after it was tried again and again is not repeated for so long: each would cost as much.
const REST: Duration = Duration::from_secs(5);

#[derive(Debug)]
struct Met {
    error: StoreError,
    last: Instant,
}

#[derive(Debug, Default)]
pub struct Unreadable {
    listed: Mutex<BTreeMap<Arc<str>, Met>>,
    /// How many are listed, to be asked without the lock.
    count: AtomicUsize,
    failed_reads: AtomicU64,
}

/// What is known at one moment.
#[derive(Debug, Clone, Default)]
pub struct UnreadableReport {
    /// Segments and objects of the write-ahead log, and why they cannot be read.
    pub objects: Vec<(Arc<str>, String)>,
    /// Reads that failed since the start.
    pub failed_reads: u64,
}

impl Unreadable {
    /// An object was not given. Logged when that is new.
    pub(crate) fn note(&self, object: &Arc<str>, error: &StoreError) {
        self.failed_reads.fetch_add(1, Ordering::Relaxed);
        let mut listed = self.listed.lock();
        let met = Met { error: error.clone(), last: Instant::now() };
        if let Some(known) = listed.get_mut(object) {
            *known = met;
            return;
        }
        if listed.len() >= LISTED_MAX {
            listed.retain(|_, met| met.last.elapsed() < LATELY);
        }
        if listed.len() >= LISTED_MAX {
            return;
        }
        listed.insert(Arc::clone(object), met);
        self.count.store(listed.len(), Ordering::Relaxed);
        drop(listed);
        tracing::warn!(
            %object, %error,
            "a stored object cannot be read at the moment: clients that want its records are told to try again"
        );
    }

    /// Why an object was not given just now, where that took its time.
    pub(crate) fn failed_just_now(&self, object: &str) -> Option<StoreError> {
        if self.count.load(Ordering::Relaxed) == 0 {
            return None;
        }
        let listed = self.listed.lock();
        let met = listed.get(object).filter(|met| met.last.elapsed() < REST)?;
        (met.error.kind() == StoreErrorKind::Retry).then(|| met.error.clone())
    }

    /// It was read, or is not needed any more.
    pub(crate) fn forget(&self, object: &str) {
        self.forget_where(|listed| listed == object);
    }

    /// The partition in this directory belongs to somebody else now, or is gone.
    pub(crate) fn forget_below(&self, directory: &str) {
        let directory = directory.trim_end_matches('/');
        self.forget_where(|listed| listed.strip_prefix(directory).is_some_and(|rest| rest.starts_with('/')));
    }

    fn forget_where(&self, which: impl Fn(&str) -> bool) {
        if self.count.load(Ordering::Relaxed) == 0 {
            return;
        }
        let mut listed = self.listed.lock();
        listed.retain(|object, _| !which(object));
        self.count.store(listed.len(), Ordering::Relaxed);
    }

    pub(crate) fn report(&self) -> UnreadableReport {
        let listed = self.listed.lock();
        let lately = listed.iter().filter(|(_, met)| met.last.elapsed() < LATELY);
        UnreadableReport {
            objects: lately.map(|(object, met)| (Arc::clone(object), met.error.to_string())).collect(),
            failed_reads: self.failed_reads.load(Ordering::Relaxed),
        }
    }
}

impl UnreadableReport {
    /// One line for a person; `None` when everything that was asked for lately was given.
    pub fn summary(&self) -> Option<String> {
        let (object, error) = self.objects.first()?;
        let more = match self.objects.len() - 1 {
            0 => String::new(),
            more => format!(" (and {more} more objects)"),
        };
        Some(format!("cannot be read at the moment: {object}{more}: {error}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_failed_in_vain_is_not_tried_again_at_once() {
        let unreadable = Unreadable::default();
        let away = || object_store::Error::Generic { store: "S3", source: "status code: 500".into() }.into();
        let denied = object_store::Error::PermissionDenied { path: "b".into(), source: "no".into() };
        unreadable.note(&"a".into(), &away());
        unreadable.note(&"b".into(), &denied.into());
        let failed = |object| unreadable.failed_just_now(object).is_some();
        assert_eq!(["a", "b", "c"].map(failed), [true, false, false], "b fails at once");
        tokio::time::advance(REST).await;
        assert!(!failed("a"));
        unreadable.note(&"a".into(), &away());
        assert!(failed("a"));
        unreadable.forget("a");
        assert!(!failed("a"));
    }

    #[tokio::test(start_paused = true)]
    async fn an_object_is_told_of_until_it_is_read_or_nobody_asks_for_it_any_more() {
        let unreadable = Unreadable::default();
        let denied = || -> StoreError {
            object_store::Error::PermissionDenied { path: "a".into(), source: "no".into() }.into()
        };
        let listed = || unreadable.report().objects.len();
        for object in ["topics/a/0/s", "topics/a/0/t", "topics/a/00/s"] {
            unreadable.note(&object.into(), &denied());
            unreadable.note(&object.into(), &denied());
        }
        assert_eq!((listed(), unreadable.report().failed_reads), (3, 6));
        let summary = unreadable.report().summary().unwrap();
        assert!(summary.starts_with("cannot be read at the moment: topics/a/0/s (and 2 more"), "{summary}");
        unreadable.forget("topics/a/0/s");
        assert_eq!(listed(), 2);
        unreadable.forget_below("topics/a/0");
        assert_eq!(listed(), 1);
        tokio::time::advance(LATELY).await;
        assert_eq!((listed(), unreadable.report().summary()), (0, None));
        unreadable.note(&"topics/a/00/s".into(), &denied());
        assert_eq!(listed(), 1, "it is asked for again");
    }
}
