//! The conformance suite on both forms of the embedded store, and what only they promise.

mod cuts;
mod faults;
mod files;
mod memory;

use std::sync::Arc;

use super::EmbeddedStore;
use crate::conformance::Subject;

async fn memory_subject() -> Subject {
    Subject { store: Arc::new(EmbeddedStore::memory()), root: "/t/".to_owned(), keep: Box::new(()) }
}

async fn file_subject() -> Subject {
    let dir = tempfile::tempdir().unwrap();
    let store = EmbeddedStore::file(dir.path()).await.unwrap();
    Subject { store: Arc::new(store), root: "/t/".to_owned(), keep: Box::new(dir) }
}

mod memory_conformance {
    crate::conformance_suite!(super::memory_subject);
}

mod file_conformance {
    crate::conformance_suite!(super::file_subject);
}
