//! Bringing one object of the own chain into the store: sent again, with the same bytes, until it is there or somebody else's
//! object stands in its place.

use std::sync::Arc;
use std::time::Duration;

use object_store::path::Path;
use object_store::{Error, ObjectStore, PutMode, PutOptions, PutPayload};
use tokio::time::{Instant, sleep, timeout};

use super::identity::{Identity, inspect};
use crate::store::backoff::waits;

/// One attempt may take this long; what then comes of it is found out by the next one.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(15);

/// An object on its way.
#[derive(Debug, Clone)]
pub struct Upload {
    pub path: Path,
    pub payload: PutPayload,
    pub identity: Identity,
}

/// How it ended. It does not end in failure: whatever goes wrong is tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The object is there. The chain was not sealed below it at this time.
    Durable(Instant),
    /// Something else is in its place: a seal.
    Fenced,
}

/// Tells the writer of an attempt that failed.
pub type OnTrouble = Arc<dyn Fn(&str) + Send + Sync>;

pub async fn upload(store: Arc<dyn ObjectStore>, upload: Upload, trouble: OnTrouble) -> Outcome {
    let mut backoff = waits(upload.identity.header.id.seq);
    let first = Instant::now();
    loop {
        let began = Instant::now();
        match attempt(&*store, &upload).await {
            Attempt::Created => return Outcome::Durable(began),
            // An earlier attempt did it. Which one is not known.
            Attempt::Own => return Outcome::Durable(first),
            Attempt::Taken => return Outcome::Fenced,
            Attempt::Failed(why) => trouble(&format!("{}: {why}", upload.path)),
        }
        sleep(backoff.pause()).await;
    }
}

enum Attempt {
    Created,
    Own,
    Taken,
    Failed(String),
}

async fn attempt(store: &dyn ObjectStore, upload: &Upload) -> Attempt {
    let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
    let put = store.put_opts(&upload.path, upload.payload.clone(), options);
    match timeout(ATTEMPT_TIMEOUT, put).await {
        Ok(Ok(_)) => Attempt::Created,
        // 412, or 409 while another request for the same name is under way: only the object itself tells which.
        Ok(Err(Error::AlreadyExists { .. } | Error::Precondition { .. })) => resolve(store, upload).await,
        Ok(Err(error)) => Attempt::Failed(error.to_string()),
        Err(_) => Attempt::Failed(format!("no answer within {} s", ATTEMPT_TIMEOUT.as_secs())),
    }
}

/// The name is taken: by an earlier attempt whose answer was lost, or by somebody else.
async fn resolve(store: &dyn ObjectStore, upload: &Upload) -> Attempt {
    match timeout(ATTEMPT_TIMEOUT, inspect(store, &upload.path)).await {
        Ok(Ok(Some(found))) if found == upload.identity => Attempt::Own,
        Ok(Ok(Some(_))) => Attempt::Taken,
        Ok(Ok(None)) => Attempt::Failed("a conflict with another request".into()),
        Ok(Err(error)) => Attempt::Failed(error.to_string()),
        Err(_) => Attempt::Failed("no answer when it was read".into()),
    }
}
