//! What a shared store must do before anything is entrusted to it: take credentials, have the bucket, read back what was written, and
//! refuse to create an object that is there. Without the last one two brokers could overwrite each other's records.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use object_store::path::Path;
use object_store::{Error, ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload};

use tokio::time::Instant;

use super::backoff::persist;
use super::patient::Patient;
use super::{StoreError, StoreErrorKind, open_store, status_of};
use crate::StoreUrl;

/// Requests that fail are repeated for so long before the caller hears of it, who waits for more than a hiccup.
const PATIENCE: Duration = Duration::from_secs(3);
/// Where no key is configured, the machine's role is looked for, whose service may be up later than this process.
const ROLE_PATIENCE: Duration = Duration::from_secs(15);

/// Why a store cannot be used, or not yet.
#[derive(Debug, thiserror::Error)]
#[error("{place}: {unfit}")]
pub struct ProbeError {
    place: String,
    unfit: Unfit,
}

impl ProbeError {
    /// Whether waiting may mend it: the store is away, or busy.
    pub fn may_pass(&self) -> bool {
        matches!(self.unfit, Unfit::Unreachable(_))
    }
}

/// Tries a store that brokers share before anything is entrusted to it. `unique` names an object that nobody else uses. There is nothing
/// to try on a local disk.
pub async fn probe(url: &StoreUrl, unique: &str) -> Result<(), ProbeError> {
    if !url.is_shared() {
        return Ok(());
    }
    let failed = |unfit| ProbeError { place: url.describe(), unfit };
    let store = open_store(url, &Arc::default()).map_err(|e| failed(unfit(e)))?;
    // An answer that ends early is not what the store has.
    let store = Patient::where_shared(url, store, 0);
    let from = Instant::now();
    loop {
        match verify(&*store, unique).await {
            Err(Unfit::NoCredentials(_)) if from.elapsed() < ROLE_PATIENCE => {}
            verdict => return verdict.map_err(failed),
        }
    }
}

/// Where the objects are that a store is tried with.
pub const PROBES: &str = "probe";

/// Why a store is not used. The text says what to do.
#[derive(Debug, thiserror::Error)]
pub enum Unfit {
    #[error(
        "it created an object that was there already, although it was asked not to (If-None-Match: *). Brokers would overwrite each \
         other's records; use a store that honours conditional creation"
    )]
    Overwrites,
    #[error(
        "it does not support conditional creation (If-None-Match: *), without which brokers would overwrite each other's records: {0}"
    )]
    NoConditions(String),
    #[error("it did not give back what had been written just before")]
    Forgets,
    #[error("the bucket does not exist, or the endpoint is not that of an S3 server: {0}")]
    NoBucket(String),
    #[error(
        "it refuses the credentials, or they lack permission to get, put, list and delete objects \
         (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, or the role of this machine): {0}"
    )]
    Denied(String),
    #[error(
        "there are no credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or give this machine a role ({0})"
    )]
    NoCredentials(String),
    #[error("it does not answer: {0}")]
    Unreachable(String),
    #[error("{0}")]
    Other(String),
}

/// Tries a store with one object, whose name nobody else uses.
pub(crate) async fn verify(store: &dyn ObjectStore, unique: &str) -> Result<(), Unfit> {
    let mut attempt = 0;
    let (path, content) = persist(PATIENCE, 0, || {
        // A new name each time: an attempt whose answer was lost may have created the one before.
        attempt += 1;
        let content = format!("{unique}-{attempt}");
        Box::pin(async move {
            let path = Path::from(format!("{PROBES}/{content}"));
            create(store, &path, content.clone()).await.map_err(worth_another_name)?;
            Ok((path, content))
        })
    })
    .await
    .map_err(unfit)?;
    let verdict = verify_created(store, &path, &content).await;
    // A leftover of a few bytes, but nothing else will be deleted either.
    if let (Ok(()), Err(error)) = (&verdict, store.delete(&path).await) {
        tracing::warn!(%path, %error, "the object store does not delete; it will grow until it does");
    }
    verdict
}

async fn verify_created(store: &dyn ObjectStore, path: &Path, content: &str) -> Result<(), Unfit> {
    let create_again = || {
        Box::pin(async {
            match create(store, path, "another".to_owned()).await {
                Ok(()) => Ok(true),
                Err(Error::AlreadyExists { .. } | Error::Precondition { .. }) => Ok(false),
                Err(e) => Err(e),
            }
        }) as BoxFuture<'_, _>
    };
    if persist(PATIENCE, 1, create_again).await.map_err(unfit)? {
        return Err(Unfit::Overwrites);
    }
    let read = persist(PATIENCE, 2, || Box::pin(async { store.get(path).await?.bytes().await }));
    match read.await {
        Ok(read) if read == content.as_bytes() => Ok(()),
        Ok(_) => Err(Unfit::Forgets),
        Err(e) if e.kind() == StoreErrorKind::NotFound => Err(Unfit::Forgets),
        Err(e) => Err(unfit(e)),
    }
}

async fn create(store: &dyn ObjectStore, path: &Path, content: String) -> object_store::Result<()> {
    let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
    store.put_opts(path, PutPayload::from(content), options).await.map(drop)
}

/// Nobody else uses the name: a conflict is with an attempt of the client whose answer was lost, and passes.
fn worth_another_name(error: Error) -> Error {
    match error {
        Error::AlreadyExists { .. } | Error::Precondition { .. } => {
            Error::Generic { store: "probe", source: Box::new(error) }
        }
        other => other,
    }
}

fn unfit(error: StoreError) -> Unfit {
    let text = error.to_string();
    if matches!(*error.source, Error::NotImplemented { .. }) || status_of(&error.source) == Some(501) {
        return Unfit::NoConditions(text);
    }
    // Where no key is configured, the client looks for a role: at the address that clouds have for it.
    if ["169.254.169.254", "169.254.170.", "InvalidToken", "credential"]
        .iter()
        .any(|sign| text.contains(sign))
    {
        return Unfit::NoCredentials(text);
    }
    match error.kind() {
        StoreErrorKind::NotFound => Unfit::NoBucket(text),
        StoreErrorKind::Denied => Unfit::Denied(text),
        StoreErrorKind::Retry => Unfit::Unreachable(text),
        StoreErrorKind::Exists | StoreErrorKind::Full | StoreErrorKind::Internal => Unfit::Other(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::faulty::{Asked, Fault, Faulty};

    #[tokio::test(start_paused = true)]
    async fn a_store_that_honours_conditions_is_fit_even_when_it_is_busy() {
        let store = Faulty::new();
        verify(&*store, "a").await.unwrap();
        let mut asked = 0;
        store.rule(move |_, _| {
            asked += 1;
            if asked % 3 == 0 { Fault::None } else { Fault::SlowDown }
        });
        verify(&*store, "b").await.unwrap();
        let mut first = true;
        store.rule(move |asked, _| {
            let lost = asked == Asked::Put && std::mem::take(&mut first);
            if lost { Fault::LostAnswer } else { Fault::None }
        });
        verify(&*store, "c").await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_store_that_is_not_fit_is_refused_with_the_reason() {
        let store = Faulty::new();
        store.rule(|_, _| Fault::LostRequest);
        assert!(matches!(verify(&*store, "a").await, Err(Unfit::Unreachable(_))));
        store.heal();
        store.ignore_conditions();
        assert!(matches!(verify(&*store, "b").await, Err(Unfit::Overwrites)));
    }

    #[tokio::test(start_paused = true)]
    async fn neither_a_conflict_nor_a_short_answer_makes_a_store_unfit() {
        for (when, fault) in [(Asked::Put, Fault::Conflict), (Asked::Get, Fault::Short)] {
            let store = Faulty::new();
            let mut first = true;
            let due = fault.clone();
            store.rule(
                move |asked, _| {
                    if asked == when && std::mem::take(&mut first) { due.clone() } else { Fault::None }
                },
            );
            let probed = probe(&StoreUrl::Shared(store), "a").await;
            assert!(probed.is_ok(), "{fault:?}: {probed:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_probe_says_what_waiting_may_mend() {
        let store = Faulty::new();
        let url = StoreUrl::Shared(store.clone());
        probe(&url, "a").await.unwrap();
        for (fault, may_pass) in [
            (Fault::SlowDown, true),
            (Fault::LostRequest, true),
            (Fault::Denied, false),
            (Fault::NoBucket, false),
        ] {
            let from = Instant::now();
            let rule = fault.clone();
            store.rule(move |_, _| rule.clone());
            let error = probe(&url, "b").await.unwrap_err();
            assert_eq!(error.may_pass(), may_pass, "{fault:?}: {error}");
            assert!(from.elapsed() <= PATIENCE, "{fault:?}: the caller hears of it soon");
        }
    }
}
