//! A watch that outlives connections: it goes on from the revision after the last one that it delivered.
//!
//! A task reads, so that events are taken from the connection whether or not somebody waits for them, and so that a caller
//! who drops [`Watch::next`] half way loses nothing. It holds at most [`BATCHES_AHEAD`] batches and one answer of etcd.
//!
//! Invariant: a revision is delivered once, whole, and in order. What was received of a revision when the connection is lost is
//! thrown away, because `next` moves only when a batch is handed over.

use std::{
    hash::{BuildHasher, RandomState},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use kafscale_core::backoff::Backoff;
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
};
use tonic::Streaming;

use super::{client::Client, keyspace::Keyspace, proto};
use crate::{Error, ErrorKind, Event, Result, Revision, Watch, WatchBatch};

const BATCHES_AHEAD: usize = 2;
const FIRST_RETRY_DELAY: Duration = Duration::from_millis(50);
const MAX_RETRY_DELAY: Duration = Duration::from_secs(2);

/// The caller's end.
#[derive(Debug)]
pub(super) struct EtcdWatch {
    batches: mpsc::Receiver<Result<WatchBatch>>,
    task: JoinHandle<()>,
}

impl Drop for EtcdWatch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[async_trait]
impl Watch for EtcdWatch {
    async fn next(&mut self) -> Result<WatchBatch> {
        self.batches.recv().await.unwrap_or_else(|| Err(Error::new(ErrorKind::Retry, "the watch is over")))
    }
}

/// The task's end.
struct Follower {
    client: Arc<Client>,
    keyspace: Keyspace,
    prefix: String,
    /// The first revision that was not delivered.
    next: Revision,
    batches: mpsc::Sender<Result<WatchBatch>>,
    /// Said no twice in a row, the second time to a new token.
    denied: bool,
}

type Answers = Streaming<proto::WatchResponse>;

/// Why a stream is not read any more.
enum End {
    /// The connection or the member is gone: go on elsewhere.
    Lost(String),
    /// For good; nobody listens any more if there is no error.
    Over(Option<Error>),
}

/// Opens a watch; it is in place when this returns.
pub(super) async fn open(
    client: Arc<Client>,
    keyspace: Keyspace,
    prefix: &str,
    from: Revision,
    mut closed: watch::Receiver<bool>,
) -> Result<EtcdWatch> {
    let (batches, receiver) = mpsc::channel(BATCHES_AHEAD);
    let prefix = prefix.to_owned();
    let mut follower = Follower { client, keyspace, prefix, next: from, batches, denied: false };
    let opened = follower.open().await?;
    let task = tokio::spawn(async move {
        let batches = follower.batches.clone();
        let over = tokio::select! {
            over = follower.run(opened) => over,
            _ = closed.wait_for(|closed| *closed) => Some(super::closed()),
        };
        if let Some(error) = over {
            // Nobody may be there to hear it.
            let _ = batches.send(Err(error)).await;
        }
    });
    Ok(EtcdWatch { batches: receiver, task })
}

impl Follower {
    async fn open(&self) -> Result<(proto::WatchResponse, Answers)> {
        let (key, range_end) = self.keyspace.prefix_range(&self.prefix);
        let start_revision = super::to_i64(self.next)?;
        self.client.watch(proto::WatchCreateRequest { key, range_end, start_revision, fragment: true }).await
    }

    async fn run(&mut self, opened: (proto::WatchResponse, Answers)) -> Option<Error> {
        let mut opened = Some(opened);
        // The watches of all brokers are cut at the same moment when a member of etcd goes away.
        let seed = RandomState::new().hash_one(&self.prefix);
        let mut backoff = Backoff::new(FIRST_RETRY_DELAY, MAX_RETRY_DELAY, seed);
        loop {
            let why = match opened.take() {
                Some((first, answers)) => match self.follow(first, answers).await {
                    End::Over(error) => return error,
                    End::Lost(why) => {
                        backoff.reset();
                        why
                    }
                },
                None => String::new(),
            };
            if !why.is_empty() {
                tracing::info!(prefix = %self.prefix, next = %self.next, why, "a watch is opened again");
            }
            tokio::time::sleep(backoff.pause()).await;
            match self.open().await {
                Ok(again) => opened = Some(again),
                Err(error) if error.kind() == ErrorKind::Retry => {}
                Err(error) => return Some(error),
            }
        }
    }

    /// Hands over what comes until the stream ends.
    async fn follow(&mut self, first: proto::WatchResponse, mut answers: Answers) -> End {
        let mut events = Vec::new();
        let mut answer = first;
        loop {
            if answer.canceled {
                return self.cancelled(&answer).await;
            }
            if let Err(end) = self.take(&mut events, answer).await {
                return end;
            }
            answer = match answers.message().await {
                Ok(Some(answer)) => answer,
                Ok(None) => return End::Lost("the stream ended".to_owned()),
                Err(status) => {
                    let error = self.client.error(&status);
                    return match error.kind() {
                        ErrorKind::Retry => End::Lost(error.to_string()),
                        _ => End::Over(Some(error)),
                    };
                }
            };
        }
    }

    /// Adds an answer to the events, and hands over all revisions that are complete with it.
    async fn take(&mut self, events: &mut Vec<Event>, answer: proto::WatchResponse) -> Result<(), End> {
        for event in answer.events {
            self.denied = false;
            events.push(self.keyspace.event(event).map_err(|e| End::Over(Some(e)))?);
        }
        let Some(last) = events.last().map(Event::revision) else { return Ok(()) };
        let complete = match answer.fragment {
            true => events.partition_point(|event| event.revision() < last),
            false => events.len(),
        };
        let rest = events.split_off(complete);
        let events = std::mem::replace(events, rest);
        if let Some(revision) = events.last().map(Event::revision) {
            let handed_over = self.batches.send(Ok(WatchBatch { revision, events })).await;
            handed_over.map_err(|_| End::Over(None))?;
            self.next = revision.next();
        }
        Ok(())
    }

    async fn cancelled(&mut self, answer: &proto::WatchResponse) -> End {
        if answer.compact_revision > 0 {
            let next = self.next;
            let why =
                format!("changes at revision {next} are not kept any more: list again and watch from there");
            return End::Over(Some(Error::new(ErrorKind::Compacted, why)));
        }
        let reason = answer.cancel_reason.clone();
        // etcd says the same of a token that has run out and of a permission that is missing.
        if reason.contains("permission denied") || reason.contains("auth") {
            if self.denied {
                let why = format!("etcd does not let this user watch {}: {reason}", self.prefix);
                return End::Over(Some(Error::new(ErrorKind::Denied, why)));
            }
            self.denied = true;
            self.client.forget_token().await;
        }
        End::Lost(format!("etcd cancelled the watch: {reason}"))
    }
}
