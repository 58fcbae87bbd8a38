//! A worker: takes tasks of queries from other servers of SQL, and gives their rows.
//!
//! Whoever connects is admitted by [`super::handshake`] first. A connection is for one thing: a task, which ends with
//! it, or one partition of the rows of a task.
//!
//! Invariant: a stream of rows ends with a frame that says that it is complete, or with one that says why it is not;
//! one that just stops was cut off.

use std::io;
use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::RecordBatch;
use datafusion::error::DataFusionError;
use datafusion::execution::SendableRecordBatchStream;
use futures_util::{FutureExt as _, StreamExt as _};
use kafscale_settings::failure::Failure;
use tokio::io::{AsyncReadExt as _, ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use super::batches::{self, Encoder};
use super::channel::{ALIVE_INTERVAL, SILENCE_LIMIT};
use super::frames::{self, DATA_BYTES, FrameError, Kind, PLAN_BYTES, SMALL_BYTES, Wire};
use super::handshake::Refusal;
use super::task::{Task, Workshop};
use super::tasks::Tasks;
use super::wire::{End, Execute, Failed, Task as TaskHead};
use crate::error::SqlError;
use crate::running::apart;
use crate::threads::QueryHandle;

/// Open at once; others wait. Each partition that is read is one.
const CONNECTIONS_MAX: usize = 4096;
/// Of those, as many whose other side is not known yet.
const UNKNOWN_MAX: usize = 64;
const TLS_LIMIT: Duration = Duration::from_secs(10);

pub struct WorkerServer {
    listener: TcpListener,
    address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    workshop: Workshop,
    tasks: Arc<Tasks>,
    tls: Option<TlsAcceptor>,
    threads: QueryHandle,
    unknown: Semaphore,
}

impl WorkerServer {
    pub async fn bind(
        address: SocketAddr,
        workshop: Workshop,
        queries_max: usize,
        tls: Option<TlsAcceptor>,
        threads: QueryHandle,
    ) -> Result<WorkerServer, Failure> {
        let failed = |e: io::Error| Failure::runtime(format!("cannot listen on {address}: {e}"));
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let tasks = Arc::new(Tasks::new(queries_max));
        let unknown = Semaphore::new(UNKNOWN_MAX);
        let shared = Arc::new(Shared { workshop, tasks, tls, threads, unknown });
        Ok(WorkerServer { listener, address, shared })
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until it is dropped.
    pub async fn serve(self) {
        let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        let mut connections = JoinSet::new();
        loop {
            let place = Arc::clone(&places).acquire_owned().await.expect("it is never closed");
            let (stream, peer) = match self.listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be taken");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            while connections.try_join_next().is_some() {}
            let shared = Arc::clone(&self.shared);
            connections.spawn(async move {
                let _place = place;
                if let Err(error) = shared.connection(stream).await {
                    tell(&error, peer);
                }
            });
        }
    }
}

fn tell(error: &Refusal, peer: SocketAddr) {
    match error {
        // It has gone, as whoever needs no more rows does.
        Refusal::Frame(FrameError::Closed) => tracing::debug!(%peer, "a connection was closed"),
        error => tracing::warn!(%peer, %error, "a connection was refused"),
    }
}

impl Shared {
    async fn connection(self: Arc<Shared>, stream: TcpStream) -> Result<(), Refusal> {
        let unknown = self.unknown.acquire().await.expect("it is never closed");
        stream.set_nodelay(true).map_err(FrameError::Io)?;
        let mut wire: Box<dyn Wire> = match &self.tls {
            None => Box::new(stream),
            Some(tls) => {
                let accepted = tokio::time::timeout(TLS_LIMIT, tls.accept(stream)).await;
                Box::new(accepted.map_err(|_| FrameError::Silent(TLS_LIMIT))?.map_err(FrameError::Io)?)
            }
        };
        self.workshop.peers.identity.admit(&mut *wire).await?;
        drop(unknown);
        let frame = frames::read_within(&mut wire, PLAN_BYTES, SILENCE_LIMIT).await?;
        match frame.kind {
            Kind::Ping => Ok(frames::write(&mut wire, Kind::Pong, b"null").await?),
            Kind::Task => self.task(wire, frame.expect(Kind::Task)?).await,
            _ => {
                let execute: Execute = frame.expect(Kind::Execute)?;
                let (shared, threads) = (Arc::clone(&self), self.threads.clone());
                let done = threads.run(async move { Ok(shared.partition(wire, execute).await) }).await;
                // Its connection ended without a word, which the other side takes for what it is.
                done.unwrap_or_else(|panicked| Err(Refusal::Told(panicked.to_string())))
            }
        }
    }

    /// Has a task for as long as the other side says that the query goes on.
    async fn task(self: Arc<Shared>, mut wire: Box<dyn Wire>, head: TaskHead) -> Result<(), Refusal> {
        let plan = frames::read_within(&mut wire, PLAN_BYTES, SILENCE_LIMIT).await?;
        if plan.kind != Kind::Plan {
            return Err(FrameError::Unexpected(plan.kind).into());
        }
        let id = head.id;
        let place = match self.tasks.admit(id) {
            Ok(place) => place,
            Err(error) => return Ok(frames::write_json(&mut wire, Kind::Failed, &Failed::of(&error)).await?),
        };
        let shared = Arc::clone(&self);
        let made = self.threads.run(async move { shared.workshop.task(head, &plan.body).await });
        let task = match while_alive(&mut wire, made).await? {
            Ok(task) => Arc::new(task),
            Err(error) => {
                tracing::warn!(query = %id.query, stage = id.stage, task = id.task, %error, "a task was refused");
                return Ok(frames::write_json(&mut wire, Kind::Failed, &Failed::of(&error)).await?);
            }
        };
        place.fill(Arc::clone(&task));
        tracing::info!(query = %id.query, stage = id.stage, task = id.task, "a task began");
        let accompanied = async {
            frames::write(&mut wire, Kind::Planned, b"null").await?;
            until_done(&mut wire).await
        };
        let ended = accompanied.await;
        drop(place);
        let report = task.report();
        let rows: u64 = report.topics.values().map(|read| read.rows).sum();
        tracing::info!(query = %id.query, stage = id.stage, task = id.task, rows, done = ended.is_ok(), "a task ended");
        ended?;
        Ok(frames::write_json(&mut wire, Kind::Report, &report).await?)
    }

    /// Gives the rows of a partition.
    async fn partition(&self, wire: Box<dyn Wire>, execute: Execute) -> Result<(), Refusal> {
        let (mut from, to) = tokio::io::split(wire);
        let mut giving = Giving { to };
        let given = async {
            match self.rows(execute).await {
                Ok((task, rows)) => giving.all(&task, rows).await,
                Err(error) => giving.fail(&error).await,
            }
        };
        tokio::select! {
            given = given => Ok(given?),
            () = closed(&mut from) => Ok(()),
        }
    }

    async fn rows(&self, execute: Execute) -> Result<(Arc<Task>, SendableRecordBatchStream), SqlError> {
        let task = self.tasks.get(execute.id).await?;
        // A step may compute for long, and the other side is to hear of this one meanwhile.
        let begun = async { task.execute(execute.head, execute.partition).map(apart) };
        let begun = AssertUnwindSafe(Arc::clone(task.query()).doing(begun));
        let rows = begun.catch_unwind().await.map_err(|panic| SqlError::panicked(&*panic))??;
        Ok((task, rows))
    }
}

/// Tells the other side that this one works, while it does.
async fn while_alive<T>(wire: &mut Box<dyn Wire>, work: impl Future<Output = T>) -> Result<T, FrameError> {
    let mut work = pin!(work);
    loop {
        tokio::select! {
            done = &mut work => return Ok(done),
            () = tokio::time::sleep(ALIVE_INTERVAL) => frames::write(wire, Kind::Alive, b"").await?,
        }
    }
}

/// Waits until the query is at its end. A side that is lost is an error.
async fn until_done(wire: &mut Box<dyn Wire>) -> Result<(), FrameError> {
    loop {
        let frame = frames::read_within(wire, SMALL_BYTES, SILENCE_LIMIT).await?;
        match frame.kind {
            Kind::Alive => {}
            Kind::Done => return Ok(()),
            other => return Err(FrameError::Unexpected(other)),
        }
    }
}

/// Waits until the other side has gone. It has nothing more to say.
async fn closed(from: &mut ReadHalf<Box<dyn Wire>>) {
    let _ = from.read(&mut [0]).await;
}

struct Giving {
    to: WriteHalf<Box<dyn Wire>>,
}

/// What comes next of a stream of rows.
enum Next {
    Batch(RecordBatch),
    Failed(SqlError),
    Complete,
    Waiting,
}

impl Giving {
    async fn all(&mut self, task: &Task, mut rows: SendableRecordBatchStream) -> Result<(), FrameError> {
        let mut sent = 0_u64;
        let mut encoder = match Encoder::new(&rows.schema()) {
            Ok(encoder) => encoder,
            Err(error) => return self.fail(&DataFusionError::from(error).into()).await,
        };
        loop {
            match next(task, &mut rows).await {
                Next::Waiting => frames::write(&mut self.to, Kind::Alive, b"").await?,
                Next::Failed(error) => return self.fail(&error).await,
                Next::Complete => {
                    let end = End { rows: sent };
                    return frames::write_json(&mut self.to, Kind::End, &end).await;
                }
                Next::Batch(batch) => {
                    sent += batch.num_rows() as u64;
                    for part in batches::parts(&batch) {
                        let bytes = match encoder.encode(&part) {
                            Ok(bytes) => bytes,
                            Err(error) => return self.fail(&DataFusionError::from(error).into()).await,
                        };
                        for piece in bytes.chunks(DATA_BYTES) {
                            frames::write(&mut self.to, Kind::Data, piece).await?;
                        }
                    }
                }
            }
        }
    }

    async fn fail(&mut self, error: &SqlError) -> Result<(), FrameError> {
        frames::write_json(&mut self.to, Kind::Failed, &Failed::of(error)).await
    }
}

async fn next(task: &Task, rows: &mut SendableRecordBatchStream) -> Next {
    tokio::select! {
        biased;
        () = task.ended().cancelled() => Next::Failed(SqlError::Cancelled),
        polled = AssertUnwindSafe(rows.next()).catch_unwind() => match polled {
            Ok(Some(Ok(batch))) => Next::Batch(batch),
            Ok(Some(Err(error))) => Next::Failed(error.into()),
            Ok(None) => Next::Complete,
            Err(panic) => Next::Failed(SqlError::panicked(&*panic)),
        },
        () = tokio::time::sleep(ALIVE_INTERVAL) => Next::Waiting,
    }
}

#[cfg(test)]
mod tests {
    use std::task::Poll;

    use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
    use futures_util::stream;

    use super::*;

    /// A task that panics, at its own place or in a task of its own, is told of as an error.
    #[tokio::test]
    async fn a_stream_that_panics_does_not_end_as_if_it_were_complete() {
        let schema = Arc::new(arrow::datatypes::Schema::empty());
        let failing = || {
            stream::poll_fn(|_| -> Poll<Option<Result<RecordBatch, DataFusionError>>> {
                panic!("made to fail")
            })
        };
        for is_apart in [false, true] {
            let rows: SendableRecordBatchStream =
                Box::pin(RecordBatchStreamAdapter::new(Arc::clone(&schema), failing()));
            let rows = if is_apart { apart(rows) } else { rows };
            let (near, mut far) = tokio::io::duplex(1 << 16);
            let wire: Box<dyn Wire> = Box::new(near);
            let (_from, to) = tokio::io::split(wire);
            Giving { to }.all(&Task::of_nothing(), rows).await.unwrap();
            let frame = frames::read(&mut far, SMALL_BYTES).await.unwrap();
            assert_eq!(frame.kind, Kind::Failed);
            let told = frame.json::<Failed>().unwrap();
            assert_eq!(told.code, "XX000");
            assert!(told.message.contains("made to fail"), "{}", told.message);
        }
    }
}
