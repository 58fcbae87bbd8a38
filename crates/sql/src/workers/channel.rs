//! How workers are reached: what datafusion-distributed asks of a connection, over a protocol of ours.
//!
//! Its own, over gRPC, ends a stream of rows in the same way when they are complete and when whoever made them panicked.
//! Here a stream is complete with a frame that says so and how many rows there were; all else is an error.
//!
//! Each partition has a connection of its own, so that one that is not read holds up no other.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::RecordBatch;
use async_trait::async_trait;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::TaskContext;
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryReservation};
use datafusion::physical_plan::metrics::ExecutionPlanMetricsSet;
use datafusion_distributed::{
    ChannelResolver, CoordinatorToWorkerMsg, ExecuteTaskRequest, GetWorkerInfoRequest, GetWorkerInfoResponse,
    MaybeEncoded, ProducerHead, SetPlanRequest, TaskKey, WorkerChannel, WorkerToCoordinatorMsg,
};
use futures_util::StreamExt as _;
use futures_util::stream::{self, BoxStream};
use http::HeaderMap;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_rustls::TlsConnector;
use tokio_util::task::AbortOnDropHandle;
use url::Url;

use super::batches::Decoder;
use super::codec::{self, Encoded};
use super::frames::{self, DATA_BYTES, FrameError, Kind, PLAN_BYTES, SMALL_BYTES, Wire};
use super::handshake::{Identity, Refusal, lost};
use super::wire::{End, Execute, Failed, Head, Report, Task, TaskId};
use crate::query::Query;

/// Connecting, with TLS and all.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// Whoever waits for the other side hears from it this often.
pub const ALIVE_INTERVAL: Duration = Duration::from_secs(5);
/// A side that is not heard of for so long is lost.
pub const SILENCE_LIMIT: Duration = Duration::from_secs(30);
/// Looking whether a worker is there. Planning waits for it.
const PING_LIMIT: Duration = Duration::from_secs(3);

/// How this process reaches workers.
pub struct Peers {
    pub identity: Identity,
    /// With it all connections use TLS.
    pub tls: Option<TlsConnector>,
}

impl Peers {
    pub async fn connect(&self, worker: &Url) -> Result<Box<dyn Wire>, Refusal> {
        let connecting = tokio::time::timeout(CONNECT_LIMIT, self.dial(worker));
        let mut wire = connecting.await.map_err(|_| FrameError::Silent(CONNECT_LIMIT))??;
        self.identity.greet(&mut *wire).await?;
        Ok(wire)
    }

    async fn dial(&self, worker: &Url) -> Result<Box<dyn Wire>, Refusal> {
        let host = worker.host_str().unwrap_or_default().trim_matches(['[', ']']).to_owned();
        let stream = TcpStream::connect((&*host, worker.port().unwrap_or_default()));
        let stream = stream.await.map_err(FrameError::Io)?;
        stream.set_nodelay(true).map_err(FrameError::Io)?;
        let Some(tls) = &self.tls else { return Ok(Box::new(stream)) };
        let name = ServerName::try_from(host).map_err(|e| Refusal::Told(format!("its name: {e}")))?;
        Ok(Box::new(tls.connect(name, stream).await.map_err(FrameError::Io)?))
    }

    /// Whether a worker would take a task now.
    pub async fn ping(&self, worker: &Url) -> Result<(), Refusal> {
        let asked = async {
            let mut wire = self.connect(worker).await?;
            frames::write(&mut wire, Kind::Ping, b"null").await?;
            Ok::<(), Refusal>(frames::read(&mut wire, SMALL_BYTES).await?.expect(Kind::Pong)?)
        };
        tokio::time::timeout(PING_LIMIT, asked).await.unwrap_or(Err(FrameError::Silent(PING_LIMIT).into()))
    }
}

/// The address as users write it.
pub fn shown(worker: &Url) -> String {
    format!("{}:{}", worker.host_str().unwrap_or_default(), worker.port().unwrap_or_default())
}

fn cut_off(worker: &Url, why: impl std::fmt::Display) -> DataFusionError {
    lost(&shown(worker), why).into()
}

/// The query of a plan, where the connections to workers find it.
pub struct OfQuery(pub Arc<Query>);

/// See the file's comment.
#[derive(Clone)]
pub struct Resolver(pub Arc<Peers>);

#[async_trait]
impl ChannelResolver for Resolver {
    async fn get_worker_client_for_url(&self, url: &Url) -> Result<Box<dyn WorkerChannel>> {
        Ok(Box::new(Channel { peers: Arc::clone(&self.0), worker: url.clone() }))
    }
}

struct Channel {
    peers: Arc<Peers>,
    worker: Url,
}

fn task_id(key: TaskKey) -> TaskId {
    TaskId { query: key.query_id, stage: key.stage_id, task: key.task_number }
}

#[async_trait]
impl WorkerChannel for Channel {
    async fn coordinator_channel(
        &mut self,
        _: HeaderMap,
        request: SetPlanRequest,
        until_end: BoxStream<'static, CoordinatorToWorkerMsg>,
        _: ExecutionPlanMetricsSet,
        context: &Arc<TaskContext>,
    ) -> Result<BoxStream<'static, Result<WorkerToCoordinatorMsg>>> {
        let MaybeEncoded::Decoded(plan) = &request.plan else {
            return Err(DataFusionError::Internal("a plan was encoded by others".to_owned()));
        };
        let Encoded { plan, topics, .. } = codec::encode(plan, context)?;
        let task = Task { id: task_id(request.task_key), tasks: request.task_count, topics };
        let query = context.session_config().get_extension::<OfQuery>();
        let worker = self.worker.clone();
        let wire = begin(&self.peers, &worker, &task, &plan).await?;
        let accompanied = async move {
            let report = accompany(wire, &worker, until_end).await?;
            if let Some(query) = query {
                report.add_to(&query.0);
            }
            Ok(())
        };
        // Nothing is said but where it fails.
        let said = stream::once(accompanied).filter_map(async |ended: Result<()>| ended.err().map(Err));
        Ok(said.boxed())
    }

    async fn execute_task(
        &mut self,
        _: HeaderMap,
        request: ExecuteTaskRequest,
        _: ExecutionPlanMetricsSet,
        context: &Arc<TaskContext>,
    ) -> Result<Vec<BoxStream<'static, Result<RecordBatch>>>> {
        let head = head(request.producer_head, context)?;
        let id = task_id(request.task_key);
        let of_partition = |partition| {
            let execute = Execute { id, partition, head: head.clone() };
            let memory = MemoryConsumer::new("WorkerRows").register(context.memory_pool());
            rows(Arc::clone(&self.peers), self.worker.clone(), execute, Arc::new(memory))
        };
        Ok((request.target_partition_start..request.target_partition_end).map(of_partition).collect())
    }

    async fn get_worker_info(&mut self, _: GetWorkerInfoRequest) -> Result<GetWorkerInfoResponse> {
        Ok(GetWorkerInfoResponse { version: env!("CARGO_PKG_VERSION").to_owned() })
    }
}

fn head(head: ProducerHead, context: &Arc<TaskContext>) -> Result<Head> {
    Ok(match head {
        ProducerHead::None => Head::Nothing,
        ProducerHead::BroadcastExec { output_partitions } => Head::Broadcast { output_partitions },
        ProducerHead::RepartitionExec { partitioning } => {
            let partitioning = match partitioning {
                MaybeEncoded::Encoded(bytes) => bytes,
                MaybeEncoded::Decoded(partitioning) => codec::encode_partitioning(&partitioning, context)?,
            };
            Head::Repartition { partitioning }
        }
    })
}

/// Gives a worker a task, and waits until it has looked at it.
async fn begin(peers: &Peers, worker: &Url, task: &Task, plan: &[u8]) -> Result<Box<dyn Wire>> {
    let lost = |why: FrameError| cut_off(worker, why);
    let mut wire = peers.connect(worker).await.map_err(|why| cut_off(worker, why))?;
    frames::write_json(&mut wire, Kind::Task, task).await.map_err(lost)?;
    frames::write(&mut wire, Kind::Plan, plan).await.map_err(lost)?;
    loop {
        let frame = frames::read_within(&mut wire, SMALL_BYTES, SILENCE_LIMIT).await.map_err(lost)?;
        match frame.kind {
            Kind::Alive => {}
            Kind::Failed => return Err(failed(&frame, worker)),
            _ => {
                frame.expect::<()>(Kind::Planned).map_err(lost)?;
                return Ok(wire);
            }
        }
    }
}

fn failed(frame: &frames::Frame, worker: &Url) -> DataFusionError {
    match frame.json::<Failed>() {
        Ok(failed) => failed.error().into(),
        Err(why) => cut_off(worker, why),
    }
}

/// Tells a worker that the query goes on, until it is at its end. Gives what the task has read.
async fn accompany(
    wire: Box<dyn Wire>,
    worker: &Url,
    mut until_end: BoxStream<'static, CoordinatorToWorkerMsg>,
) -> Result<Report> {
    let lost = |why: FrameError| cut_off(worker, why);
    let (mut from, mut to) = tokio::io::split(wire);
    let mut answer = pin!(frames::read(&mut from, PLAN_BYTES));
    let mut alive = tokio::time::interval(ALIVE_INTERVAL);
    loop {
        tokio::select! {
            said = until_end.next() => {
                if said.is_none() {
                    break;
                }
            }
            _ = alive.tick() => frames::write(&mut to, Kind::Alive, b"").await.map_err(lost)?,
            early = &mut answer => {
                let frame = early.map_err(lost)?;
                return Err(match frame.kind {
                    Kind::Failed => failed(&frame, worker),
                    other => lost(FrameError::Unexpected(other)),
                });
            }
        }
    }
    frames::write(&mut to, Kind::Done, b"").await.map_err(lost)?;
    let answered = tokio::time::timeout(SILENCE_LIMIT, answer).await;
    let frame = answered.map_err(|_| lost(FrameError::Silent(SILENCE_LIMIT)))?.map_err(lost)?;
    match frame.kind {
        Kind::Failed => Err(failed(&frame, worker)),
        _ => frame.expect(Kind::Report).map_err(lost),
    }
}

/// What comes of a partition.
enum Item {
    Rows(RecordBatch, usize),
    Failed(DataFusionError),
    Complete,
}

/// The rows of one partition. They are asked for at once: a task that gives rows to several waits for none of them.
fn rows(
    peers: Arc<Peers>,
    worker: Url,
    execute: Execute,
    memory: Arc<MemoryReservation>,
) -> BoxStream<'static, Result<RecordBatch>> {
    let (items, taken) = mpsc::channel(1);
    let reading = {
        let (worker, memory) = (worker.clone(), Arc::clone(&memory));
        async move {
            let ended = fetch(&peers, &worker, &execute, &items, &memory).await;
            // Whoever has gone needs to know nothing.
            let _ = items.send(ended.map_or_else(Item::Failed, |()| Item::Complete)).await;
        }
    };
    let reading = AbortOnDropHandle::new(tokio::spawn(reading));
    stream::try_unfold(Some((taken, reading)), move |left| {
        let (worker, memory) = (worker.clone(), Arc::clone(&memory));
        async move {
            let Some((mut taken, reading)) = left else { return Ok(None) };
            match taken.recv().await {
                Some(Item::Rows(batch, bytes)) => {
                    memory.shrink(bytes);
                    Ok(Some((batch, Some((taken, reading)))))
                }
                Some(Item::Complete) => Ok(None),
                Some(Item::Failed(error)) => Err(error),
                None => Err(cut_off(&worker, "its rows are not read any more")),
            }
        }
    })
    .boxed()
}

async fn fetch(
    peers: &Peers,
    worker: &Url,
    execute: &Execute,
    items: &mpsc::Sender<Item>,
    memory: &MemoryReservation,
) -> Result<()> {
    let lost = |why: FrameError| cut_off(worker, why);
    let mut wire = peers.connect(worker).await.map_err(|why| cut_off(worker, why))?;
    frames::write_json(&mut wire, Kind::Execute, execute).await.map_err(lost)?;
    let (mut decoder, mut rows) = (Decoder::default(), 0_u64);
    loop {
        let frame = frames::read_within(&mut wire, DATA_BYTES, SILENCE_LIMIT).await.map_err(lost)?;
        match frame.kind {
            Kind::Alive => {}
            Kind::Data => {
                for batch in decoder.decode(frame.body)? {
                    rows += batch.num_rows() as u64;
                    let bytes = batch.get_array_memory_size();
                    memory.grow(bytes);
                    if items.send(Item::Rows(batch, bytes)).await.is_err() {
                        return Ok(());
                    }
                }
            }
            Kind::Failed => return Err(failed(&frame, worker)),
            _ => {
                let end: End = frame.expect(Kind::End).map_err(lost)?;
                let why = || format!("{rows} rows came, and it has sent {}", end.rows);
                return if end.rows == rows { Ok(()) } else { Err(cut_off(worker, why())) };
            }
        }
    }
}

impl std::fmt::Debug for Peers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Peers").field("tls", &self.tls.is_some()).finish_non_exhaustive()
    }
}

/// Whether workers are there: those that are, and why others are not.
pub async fn reachable(peers: &Peers, workers: &[Url]) -> (Vec<Url>, Vec<(Url, Refusal)>) {
    let asked = workers.iter().map(|worker| async move { (worker.clone(), peers.ping(worker).await) });
    let (mut there, mut others) = (Vec::new(), Vec::new());
    for (worker, answered) in futures_util::future::join_all(asked).await {
        match answered {
            Ok(()) => there.push(worker),
            Err(why) => others.push((worker, why)),
        }
    }
    (there, others)
}
