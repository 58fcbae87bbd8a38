//! Runs a broker from its first moment to its last: limits, backends, listeners, signals, and an orderly stop.
//!
//! Started in the order metadata, log, broker, workload, and stopped in the opposite order, each step awaited.

use std::future::Future;
use std::io::Write;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use kafscale_observe::{ObserveSettings, Prepared, Server};
use tokio::runtime::Builder;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::failure::Failure;
use crate::hangup::{Hangups, Reread};
use crate::node::{self, OpenNode, RunningNode};
use crate::stop::StopTime;
use crate::{demo, limits, logging, mcp, runtime};

/// What runs beside the broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Beside {
    Nothing,
    /// The banner of the demo, and its workload at this rate if there is one.
    Demo {
        orders_per_second: Option<u32>,
    },
}

/// The banner waits this long for the sample workload. Members of a run that was killed hold up a group for longer.
const BANNER_PATIENCE: Duration = Duration::from_secs(5);

/// Members leave their groups in this share of a stop, or are left behind: the broker has to stop as well.
const WORKLOAD_TENTHS: u32 = 4;
/// Agents do not hold up clients.
const MCP_TENTHS: u32 = 3;

/// A wrapper that passes a signal on to a process group that has it already (`timeout` does) is not a user who insists.
const SIGNAL_ECHO: Duration = Duration::from_millis(250);

pub fn run(mut config: Config, beside: Beside, warnings: Vec<String>, reread: Reread) -> Result<(), Failure> {
    let started = Instant::now();
    let log = logging::init(&config.logging);
    for warning in warnings {
        tracing::warn!("{warning}");
    }
    let open_files = limits::raise_open_files();
    tracing::debug!(?open_files, "open files allowed");
    let (wanted, max_connections) = (config.limits.max_connections, &mut config.limits.max_connections);
    *max_connections = limits::connections_within(open_files, wanted);
    if *max_connections < wanted {
        tracing::warn!(
            wanted,
            max_connections,
            ?open_files,
            "fewer connections than --max-connections: this process may not open enough files (ulimit -n, LimitNOFILE=)"
        );
    }
    if config.forgets() {
        tracing::warn!(
            "NOTHING IS KEPT: --store memory: and --meta memory: lose every record and topic when this process ends"
        );
    }
    runtime::block_on(Builder::new_multi_thread(), async {
        let _hangups = Hangups::take(log, reread)?;
        serve(config, beside, started).await
    })
}

async fn serve(config: Config, beside: Beside, started: Instant) -> Result<(), Failure> {
    // Before anything is opened, so that a stop during recovery is a clean one too.
    let mut signals = StopSignals::listen()?;
    let (mut node, prepared) = tokio::select! {
        started = start(beside, &config) => started?,
        name = signals.next() => {
            tracing::info!(signal = name, "stopped before the broker was ready");
            return Ok(());
        }
    };
    let mcp = match start_mcp(&config, prepared).await {
        Ok(mcp) => mcp,
        Err(failure) => {
            node.stop(StopTime::begin(config.limits.drain_timeout.0)).await;
            return Err(failure);
        }
    };
    node.all_serve();
    let mcp_addr = mcp.as_ref().map(Server::addr);
    log_ready(&config, &node, mcp_addr, started);
    let stop_workload = CancellationToken::new();
    let workload = tokio::spawn(beside_the_broker(beside, &config, &node, mcp_addr, stop_workload.clone()));
    let name = loop {
        let lost = tokio::select! {
            name = signals.next() => break name,
            lost = node.lost() => lost,
        };
        tracing::error!(?lost, "this broker lost its place in the cluster, and joins anew");
        node = tokio::select! {
            node = node.rejoin(lost, &config) => node?,
            name = signals.next() => {
                tracing::info!(signal = name, "stopped before the broker was ready again");
                return Ok(());
            }
        };
        tracing::info!("a member of the cluster again");
    };
    let stopping = Instant::now();
    tell(std::io::stderr(), &format!("\nstopping cleanly ({name}); once more to stop at once\n"));
    let time = StopTime::begin(config.limits.drain_timeout.0);
    let stop = async {
        stop_workload.cancel();
        if time.limit(WORKLOAD_TENTHS, workload).await.is_none() {
            tracing::warn!("the sample workload did not stop in time");
        }
        if let Some(mcp) = mcp
            && time.limit(MCP_TENTHS, mcp.shutdown()).await.is_none()
        {
            tracing::warn!("the MCP server did not stop in time");
        }
        node.stop(time).await;
    };
    tokio::select! {
        () = stop => {}
        name = signals.next_after_the_first() => {
            return Err(Failure::runtime(format!(
                "stopped at once ({name}). Acknowledged records are safe; the next start recovers them from the write-ahead log."
            )));
        }
    }
    tracing::info!(stop_ms = stopping.elapsed().as_millis(), "stopped");
    Ok(())
}

/// With every address that is served.
fn log_ready(config: &Config, node: &RunningNode, mcp: Option<SocketAddr>, started: Instant) {
    tracing::info!(
        kafka = %node.kafka_addr(),
        internal = node.internal_addr().map(display),
        metrics = %node.metrics_addr(),
        mcp = mcp.map(display),
        store = %config.store,
        meta = %config.meta,
        meta_ms = node.timings.meta.as_millis(),
        log_ms = node.timings.log.as_millis(),
        start_ms = started.elapsed().as_millis(),
        "ready"
    );
}

/// None: there is no MCP server in this process.
fn mcp_settings(beside: Beside, config: &Config) -> Option<ObserveSettings> {
    match beside {
        Beside::Nothing => config.mcp.beside_a_broker(),
        Beside::Demo { .. } => Some(config.mcp.beside_the_demo()),
    }
}

/// Starts the broker. What may refuse the server for AI agents does so before any client is served.
async fn start(beside: Beside, config: &Config) -> Result<(RunningNode, Option<Prepared>), Failure> {
    let settings = mcp_settings(beside, config);
    let topic_defaults = || node::topic_defaults(config);
    let with_defaults =
        settings.map(|settings| ObserveSettings { topic_defaults: topic_defaults(), ..settings });
    let mcp = with_defaults.map(mcp::checked).transpose()?;
    let open = OpenNode::open(config, mcp.as_ref()).await?;
    let prepared = match mcp {
        Some(mcp) => Some(mcp::prepare(mcp, open.metadata().clone()).await?),
        None => None,
    };
    Ok((open.serve(config).await?, prepared))
}

async fn start_mcp(config: &Config, prepared: Option<Prepared>) -> Result<Option<Server>, Failure> {
    let Some(prepared) = prepared else { return Ok(None) };
    match prepared.serve().await.map_err(mcp::start_failure) {
        Ok(server) => Ok(Some(server)),
        // The demo is for trying out: a second one on other ports must not fail for a port that nobody asked for.
        Err(Failure::Runtime(why)) if config.mcp.mcp_http_addr.is_none() => {
            tracing::warn!("there is no MCP server: {why}");
            Ok(None)
        }
        Err(failure) => Err(failure),
    }
}

/// A future of its own, so that it can be spawned without a borrow of the node.
fn beside_the_broker(
    beside: Beside,
    config: &Config,
    node: &RunningNode,
    mcp: Option<SocketAddr>,
    stop: CancellationToken,
) -> impl Future<Output = ()> + Send + 'static {
    let broker = node.kafka_addr();
    let (banner, orders_per_second) = match beside {
        Beside::Nothing => (None, None),
        Beside::Demo { orders_per_second: rate } => {
            (Some(demo::banner(config, broker, node.metrics_addr(), mcp, rate.is_some())), rate)
        }
    };
    let (ready, workload_is_ready) = oneshot::channel();
    let workload = async move {
        if let Some(rate) = orders_per_second
            && let Err(error) = demo::run_workload(broker, rate, ready, stop).await
        {
            tracing::error!(%error, "the sample workload has stopped; the broker goes on without it");
        }
    };
    // What the banner tells of should be there to be asked for.
    let announce = async move {
        _ = tokio::time::timeout(BANNER_PATIENCE, workload_is_ready).await;
        tell(std::io::stdout(), &banner.unwrap_or_default());
    };
    async move { _ = tokio::join!(announce, workload) }
}

/// Nobody may be reading any more, which is no reason to end.
fn tell(mut to: impl Write, text: &str) {
    _ = to.write_all(text.as_bytes()).and_then(|()| to.flush());
}

/// Ctrl-C, and what service managers and containers send.
pub struct StopSignals {
    interrupt: Signal,
    terminate: Signal,
}

impl StopSignals {
    pub fn listen() -> Result<Self, Failure> {
        let listen =
            |kind| signal(kind).map_err(|e| Failure::runtime(format!("signals cannot be received: {e}")));
        Ok(Self { interrupt: listen(SignalKind::interrupt())?, terminate: listen(SignalKind::terminate())? })
    }

    /// The next one that is meant as a second one.
    async fn next_after_the_first(&mut self) -> &'static str {
        let mut echo = std::pin::pin!(tokio::time::sleep(SIGNAL_ECHO));
        loop {
            tokio::select! {
                () = &mut echo => return self.next().await,
                _ = self.next() => {}
            }
        }
    }

    pub async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.interrupt.recv() => "SIGINT",
            _ = self.terminate.recv() => "SIGTERM",
        }
    }
}
