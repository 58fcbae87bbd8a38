//! Opens the cluster for reading, and answers: once, or clients until the process is stopped.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use kafscale_meta::Metadata;
use kafscale_settings::failure::Failure;
use kafscale_settings::log_line::OneLine;
use kafscale_settings::sql::{SchemaArgs, Source, SqlArgs, WorkerSettings};
use kafscale_storage::StoreUrl;
use kafscale_storage::scan::{ScanOptions, Scanner};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

use crate::audit::Audit;
use crate::catalog::Cluster;
use crate::engine::{Engine, own_session};
use crate::follow::LOOK_INTERVAL;
use crate::local;
use crate::server::{Server, tls_acceptor};
use crate::threads::{QueryHandle, QueryThreads, STACK_BYTES};
use crate::topic::infer::Layouts;
use crate::topic::schemas::Schemas;
use crate::workers;
use crate::workers::server::WorkerServer;
use crate::workers::task::Workshop;

pub fn run(args: &SqlArgs) -> Result<(), Failure> {
    args.check()?;
    let source = args.source()?;
    let filter = EnvFilter::try_new(&args.logging.log_level)
        .map_err(|e| Failure::usage(format!("--log-level {}: {e}", args.logging.log_level)))?;
    // Only what goes wrong is of interest beside answers.
    let filter = if args.answer.is_local() { EnvFilter::new("warn") } else { filter };
    tracing_subscriber::fmt()
        .with_writer(io::stderr)
        .log_internal_errors(false)
        .fmt_fields(OneLine)
        .with_env_filter(filter)
        .init();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_stack_size(STACK_BYTES)
        .build()
        .map_err(|e| Failure::runtime(format!("the threads could not be started: {e}")))?;
    let threads = QueryThreads::start(args.limits.max_queries)
        .map_err(|e| Failure::runtime(format!("the threads of queries could not be started: {e}")))?;
    let outcome = runtime.block_on(answer_or_serve(args, source, threads.handle()));
    drop(threads);
    runtime.shutdown_background();
    outcome
}

async fn answer_or_serve(args: &SqlArgs, source: Source, threads: QueryHandle) -> Result<(), Failure> {
    let settings = args.workers.settings(args.server.listen)?;
    let is_local = matches!(source.store, StoreUrl::File(_));
    let cache_bytes = usize::try_from(args.limits.cache_bytes.0).unwrap_or(usize::MAX);
    let cluster = open_cluster(source, cache_bytes, &args.schemas).await?;
    if args.workers.worker {
        return work(Arc::new(cluster), args, &settings, threads).await;
    }
    let workers = workers::workers(&cluster, &settings).await?;
    let mut engine = Engine::new(Arc::new(cluster), &args.limits, threads)?;
    engine.workers = workers;
    if is_local {
        engine.look_interval = LOOK_INTERVAL;
    }
    let engine = Arc::new(engine);
    match &args.answer.command {
        Some(text) => local::answer_all(&engine, text, &args.answer).await,
        None if args.answer.interactive => local::prompt::run(engine, &args.answer).await,
        None => serve(engine, args).await,
    }
}

/// Serves clients until the process is told to stop.
async fn serve(engine: Arc<Engine>, args: &SqlArgs) -> Result<(), Failure> {
    let failed = |e: io::Error| Failure::runtime(format!("signals cannot be received: {e}"));
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    let audit = match &args.server.audit_log {
        Some(path) => Some(Arc::new(open_audit(path, args.server.audit_anchor.as_deref()).await?)),
        None => None,
    };
    let server = Server::bind(&args.server, engine, audit.clone()).await?;
    let address = server.address();
    tracing::info!(%address, "SQL is served; connect with: psql -h {} -p {}", address.ip(), address.port());
    tokio::select! {
        () = server.serve() => {}
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    if let Some(audit) = audit {
        // Connections that are being dropped note what they did.
        for _ in 0..100 {
            if Arc::strong_count(&audit) == 1 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        audit.close().await.map_err(|e| Failure::runtime(e.to_string()))?;
    }
    tracing::info!("stopped");
    Ok(())
}

/// Does parts of the queries of others until the process is told to stop.
async fn work(
    cluster: Arc<Cluster>,
    args: &SqlArgs,
    settings: &WorkerSettings,
    threads: QueryHandle,
) -> Result<(), Failure> {
    let failed = |e: io::Error| Failure::runtime(format!("signals cannot be received: {e}"));
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    let tls = tls_acceptor(&args.server)?;
    let peers = workers::peers(&cluster, settings).await?;
    let workshop = Workshop { cluster, base: own_session(&args.limits)?, peers };
    let queries_max = usize::try_from(args.limits.max_queries).unwrap_or(usize::MAX);
    let server = WorkerServer::bind(args.server.listen.0, workshop, queries_max, tls, threads).await?;
    let address = server.address();
    tracing::info!(%address, "this is a worker; name it with --workers {address}");
    tokio::select! {
        () = server.serve() => {}
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tracing::info!("stopped");
    Ok(())
}

async fn open_audit(path: &Path, anchor: Option<&Path>) -> Result<Audit, Failure> {
    Audit::open(path, anchor).await.map_err(|e| Failure::runtime(e.to_string()))
}

/// What is read of the store is kept up to `cache_bytes`.
pub async fn open_cluster(
    source: Source,
    cache_bytes: usize,
    schemas: &SchemaArgs,
) -> Result<Cluster, Failure> {
    let failed = |e: kafscale_meta::Error| Failure::runtime(e.to_string());
    let store = kafscale_meta::open_for_reading(&source.meta, &source.etcd).await.map_err(failed)?;
    let metadata = Metadata::new(store, &source.cluster_name).map_err(failed)?;
    let options = ScanOptions { cache_bytes };
    let scanner = Scanner::open(&source.store, metadata, options).await;
    let scanner = scanner.map_err(|e| Failure::runtime(e.to_string()))?;
    let layouts = Layouts::new(Schemas::open(schemas)?);
    Ok(Cluster { scanner, layouts })
}
