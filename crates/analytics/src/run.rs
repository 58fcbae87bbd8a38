//! Opens the cluster for reading, and answers: once, or clients until the process is stopped.

use std::io::{self, Write as _};
use std::sync::Arc;

use kafscale_meta::Metadata;
use kafscale_settings::failure::Failure;
use kafscale_settings::sql::{Source, SqlArgs};
use kafscale_storage::scan::{ScanOptions, Scanner};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

use crate::answer;
use crate::catalog::Cluster;
use crate::engine::{Engine, Running};
use crate::error::SqlError;
use crate::server::Server;
use crate::statement::{QueryText, Statement, parse_all};
use crate::topic::infer::Layouts;
use crate::topic::schemas::Schemas;

pub fn run(args: &SqlArgs) -> Result<(), Failure> {
    args.check()?;
    let source = args.source()?;
    let filter = EnvFilter::try_new(&args.logging.log_level)
        .map_err(|e| Failure::usage(format!("--log-level {}: {e}", args.logging.log_level)))?;
    // Only what goes wrong is of interest beside one answer.
    let filter = if args.answer.command.is_some() { EnvFilter::new("warn") } else { filter };
    tracing_subscriber::fmt().with_writer(io::stderr).with_env_filter(filter).init();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|e| Failure::runtime(format!("the threads could not be started: {e}")))?;
    let outcome = runtime.block_on(answer_or_serve(args, source));
    runtime.shutdown_background();
    outcome
}

async fn answer_or_serve(args: &SqlArgs, source: Source) -> Result<(), Failure> {
    let cluster = open(source, args).await?;
    let engine = Engine::new(Arc::new(cluster), &args.limits)?;
    match &args.answer.command {
        Some(text) => answer_all(&engine, text, args).await,
        None => serve(engine, args).await,
    }
}

/// Serves clients until the process is told to stop.
async fn serve(engine: Engine, args: &SqlArgs) -> Result<(), Failure> {
    let failed = |e: io::Error| Failure::runtime(format!("signals cannot be received: {e}"));
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    let server = Server::bind(&args.server, engine).await?;
    let address = server.address();
    tracing::info!(%address, "SQL is served; connect with: psql -h {} -p {}", address.ip(), address.port());
    tokio::select! {
        () = server.serve() => {}
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tracing::info!("stopped");
    Ok(())
}

async fn open(source: Source, args: &SqlArgs) -> Result<Cluster, Failure> {
    let failed = |e: kafscale_meta::Error| Failure::runtime(e.to_string());
    let store = kafscale_meta::open_for_reading(&source.meta, &source.etcd).await.map_err(failed)?;
    let metadata = Metadata::new(store, &source.cluster_name).map_err(failed)?;
    let cache_bytes = usize::try_from(args.limits.cache_bytes.0).unwrap_or(usize::MAX);
    let options = ScanOptions { cache_bytes };
    let scanner = Scanner::open(&source.store, metadata, options).await;
    let scanner = scanner.map_err(|e| Failure::runtime(e.to_string()))?;
    let layouts = Layouts::new(Schemas::open(&args.schemas)?);
    Ok(Cluster { scanner, layouts })
}

async fn answer_all(engine: &Engine, text: &str, args: &SqlArgs) -> Result<(), Failure> {
    let failed = |error: SqlError| {
        let hint = error.hint().map(|hint| format!("\nhint: {hint}")).unwrap_or_default();
        Failure::runtime(format!("{error}{hint}"))
    };
    for statement in parse_all(text).map_err(failed)? {
        let query = match statement {
            Statement::Query(query) => query,
            Statement::Explain { query, analyze } => {
                for line in explain(engine, &query, analyze).await.map_err(failed)? {
                    println!("{line}");
                }
                continue;
            }
            Statement::Set(_)
            | Statement::Show(_)
            | Statement::Begin
            | Statement::Commit
            | Statement::Rollback
            | Statement::Nothing(_) => continue,
        };
        let running = start(engine, &query).await.map_err(failed)?;
        let asked = Arc::clone(&running.query);
        let out = io::BufWriter::new(io::stdout().lock());
        match answer::write(running, args.answer.format, out).await {
            Err(error) if error.is_closed() => return Ok(()),
            Err(answer::AnswerError::Sql(error)) => return Err(failed(error)),
            Err(error) => return Err(Failure::runtime(error.to_string())),
            Ok(_) => {}
        }
        let mut err = io::stderr().lock();
        for notice in asked.notices() {
            let _ = writeln!(err, "{notice}");
        }
    }
    Ok(())
}

async fn start(engine: &Engine, query: &QueryText) -> Result<Running, SqlError> {
    let planner = engine.begin(query.scan_full);
    let plan = planner.plan(query).await?;
    planner.run(plan, None).await
}

async fn explain(engine: &Engine, query: &QueryText, analyze: bool) -> Result<Vec<String>, SqlError> {
    let planner = engine.begin(query.scan_full);
    let plan = planner.plan(query).await?;
    if !analyze {
        return planner.explain(plan, None).await;
    }
    let mut running = planner.run(plan, None).await?;
    while let Some(batch) = futures_util::StreamExt::next(&mut running.rows).await {
        batch?;
    }
    Ok(Running::measured(&*running.plan))
}
