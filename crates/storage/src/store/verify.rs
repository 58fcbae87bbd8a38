//! What a shared store must do before anything is entrusted to it: take credentials, have the bucket, read back what was written, and
//! refuse to create an object that is there. Without the last one two brokers could overwrite each other's records.

use std::time::Duration;

use futures_util::future::BoxFuture;
use object_store::path::Path;
use object_store::{Error, ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload};

use super::backoff::persist;
use super::{StoreError, StoreErrorKind, status_of};

/// A store that is just starting, or busy, gets this long.
const PATIENCE: Duration = Duration::from_secs(15);

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
pub async fn verify(store: &dyn ObjectStore, unique: &str) -> Result<(), Unfit> {
    let mut attempt = 0;
    let (path, content) = persist(PATIENCE, 0, || {
        // A new name each time: an attempt whose answer was lost may have created the one before.
        attempt += 1;
        let content = format!("{unique}-{attempt}");
        Box::pin(async move {
            let path = Path::from(format!("probe/{content}"));
            create(store, &path, content.clone()).await?;
            Ok((path, content))
        })
    })
    .await
    .map_err(unfit)?;
    let verdict = verify_created(store, &path, &content).await;
    // Only a leftover of a few bytes, if it fails.
    let _ = store.delete(&path).await;
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
}
