//! Opens collections and rules, and serves agents until the process is told to stop; or carries out a command.

use std::io::{self, Write as _};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use kafscale_core::clock::Clock;
use kafscale_settings::failure::Failure;
use kafscale_settings::log_line::OneLine;
use kafscale_settings::perimeter::{PerimeterArgs, PerimeterCommand, PerimeterFiles};
use kafscale_sql::threads::{QueryThreads, STACK_BYTES};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

use crate::catalog::Collections;
use crate::classify::Classified;
use crate::config::Config;
use crate::engine::Engine;
use crate::handles::{HandleLimits, Handles};
use crate::labelled::Labelled;
use crate::perimeter::Perimeter;
use crate::rules::{Inventory, Rules};
use crate::rules_live::LiveRules;
use crate::{check, classify, erasure, policy, server};

/// Whether the rules have been exchanged is looked at so often.
const RULES_INTERVAL: Duration = Duration::from_secs(5);
/// What collections have is asked for no more often, however often rules are exchanged.
const INVENTORY_INTERVAL: Duration = Duration::from_secs(600);
/// A collection with more tables is not asked for all of their columns by itself; `kafscale perimeter check` has a higher limit.
const INVENTORY_TABLES_MAX: usize = 100;
/// About one state of the rules, in the log.
const WARNINGS_MAX: usize = 50;

pub fn run(args: &PerimeterArgs) -> Result<(), Failure> {
    // The protocol's library tells of each request; `--log-level rmcp=info` shows that.
    let level = format!("rmcp=warn,{}", args.logging.log_level);
    let filter = EnvFilter::try_new(level)
        .map_err(|e| Failure::usage(format!("--log-level {}: {e}", args.logging.log_level)))?;
    // Only what goes wrong is of interest beside what a command prints.
    let filter = if args.command.is_some() { EnvFilter::new("warn") } else { filter };
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
    let outcome = runtime.block_on(async {
        match &args.command {
            None => serve(args).await,
            Some(PerimeterCommand::Check) => check(args).await,
            Some(PerimeterCommand::Classify { collection }) => classify(args, collection.as_deref()).await,
            Some(PerimeterCommand::Erasure { command }) => erasure::run(args, command).await,
            Some(PerimeterCommand::Policy { command }) => policy::run(&args.files, command).await,
        }
    });
    runtime.shutdown_background();
    outcome
}

/// Where policies and rules are.
pub struct RuleFiles {
    pub policies: PathBuf,
    pub rules: PathBuf,
}

impl RuleFiles {
    pub fn of(files: &PerimeterFiles, config: &Config) -> RuleFiles {
        let beside =
            |given: &Option<PathBuf>, name: &str| given.clone().unwrap_or_else(|| config.base().join(name));
        RuleFiles { policies: beside(&files.policies, "policies"), rules: beside(&files.rules, "rules.toml") }
    }
}

pub fn config(files: &PerimeterFiles) -> Result<Config, Failure> {
    Config::load(&files.config).map_err(|e| Failure::usage(e.to_string()))
}

async fn check(args: &PerimeterArgs) -> Result<(), Failure> {
    let config = config(&args.files)?;
    let rows = check::run(&config).await.map_err(|e| Failure::usage(e.to_string()))?;
    let (text, is_well) = check::print(&rows);
    let collections = config.open().map_err(|e| Failure::usage(e.to_string()))?;
    let inventory = check::inventory(&collections, check::TABLES_MAX).await;
    let loaded = LiveRules::read(RuleFiles::of(&args.files, &config), config.base()).await;
    let (of_rules, are_well) = check::print_rules(&loaded, &inventory);
    print(&(of_rules + &text))?;
    match (is_well, are_well) {
        (true, true) => Ok(()),
        (false, _) => Err(Failure::runtime("not every collection can be used".to_owned())),
        (true, false) => Err(Failure::runtime("the rules cannot be used".to_owned())),
    }
}

async fn classify(args: &PerimeterArgs, only: Option<&str>) -> Result<(), Failure> {
    let config = config(&args.files)?;
    let collections = config.open().map_err(|e| Failure::usage(e.to_string()))?;
    if let Some(name) = only.filter(|name| !collections.contains_key(*name)) {
        return Err(Failure::usage(format!("there is no collection {name}")));
    }
    let mut found = Classified::default();
    for (name, collection) in
        collections.iter().filter(|(name, _)| only.is_none_or(|only| only == name.as_str()))
    {
        classify::classify(name, collection.as_ref(), &mut found).await;
    }
    print(&classify::print(&found))
}

/// A reader that is gone, as behind `| head`, is no failure.
pub fn print(text: &str) -> Result<(), Failure> {
    match io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(Failure::runtime(error.to_string())),
        _ => Ok(()),
    }
}

/// The clock of the system.
#[derive(Debug)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now_ms(&self) -> i64 {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
    }
}

/// Tells the log what is odd about rules, at the start and when they are exchanged, until `stop`.
async fn warn_of_rules(rules: Arc<Rules>, collections: Collections, stop: CancellationToken) {
    let mut checked = String::new();
    let mut known: Option<(Instant, Inventory)> = None;
    loop {
        let book = rules.current();
        if book.hash() != checked {
            book.hash().clone_into(&mut checked);
            if known.as_ref().is_none_or(|(at, _)| at.elapsed() >= INVENTORY_INTERVAL) {
                let found = check::inventory(&collections, INVENTORY_TABLES_MAX);
                let Some(found) = stop.run_until_cancelled(found).await else { break };
                known = Some((Instant::now(), found));
            }
            let Some((_, inventory)) = &known else { break };
            let warnings = check::warnings(&book, inventory);
            warnings.iter().take(WARNINGS_MAX).for_each(|warning| tracing::warn!("{warning}"));
            if warnings.len() > WARNINGS_MAX {
                tracing::warn!("{} more; kafscale perimeter check has all", warnings.len() - WARNINGS_MAX);
            }
        }
        if stop.run_until_cancelled(tokio::time::sleep(RULES_INTERVAL)).await.is_none() {
            break;
        }
    }
}

async fn serve(args: &PerimeterArgs) -> Result<(), Failure> {
    let failed = |e: io::Error| Failure::runtime(format!("signals cannot be received: {e}"));
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    let mut hangup = signal(SignalKind::hangup()).map_err(failed)?;
    let edge = server::edge(&args.edge).map_err(|e| Failure::usage(e.to_string()))?;
    let config = config(&args.files)?;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let rules = LiveRules::open(RuleFiles::of(&args.files, &config), config.base()).await;
    let rules = rules.map_err(|e| Failure::usage(e.to_string()))?;
    let (watched, reloaded) = (Arc::clone(&rules.rules), Arc::clone(&rules.rules));
    let collections = config.open().map_err(|e| Failure::usage(e.to_string()))?;
    let (checked, all) = (Arc::clone(&rules.rules), collections.clone());
    let limits = args.limits.of_queries();
    let threads = QueryThreads::start(limits.max_queries)
        .map_err(|e| Failure::runtime(format!("the threads of queries could not be started: {e}")))?;
    let handles = Arc::new(Handles::new(HandleLimits::default()));
    let mut engine = Engine::new(collections, &limits, threads.handle(), handles)?;
    let labelled = Labelled::beside(&args.edge.audit_log).map_err(|e| Failure::runtime(e.to_string()))?;
    engine.labelled = Arc::new(labelled);
    let perimeter = Arc::new(Perimeter {
        engine,
        rules,
        clock: Arc::clone(&clock),
        about: std::collections::BTreeMap::new(),
        audit_log: Some(args.edge.audit_log.as_path().into()),
    });
    let stop = CancellationToken::new();
    let timeout = args.limits.query_timeout.0;
    let shared = Arc::clone(&perimeter);
    let prepared = server::prepare(edge, shared, timeout, Arc::clone(&clock), stop.clone()).await;
    let mut prepared = prepared.map_err(|e| Failure::runtime(e.to_string()))?;
    // The log holds by now, and is ours.
    let log = &args.edge.audit_log;
    let went_on = perimeter.rules.go_on(log, clock.now_ms(), timeout + server::BESIDE_QUERIES).await;
    went_on.map_err(|e| Failure::runtime(e.to_string()))?;
    prepared.beside(Arc::clone(&watched).watch(stop.clone()));
    prepared.beside(warn_of_rules(checked, all, stop.clone()));
    let broken = "the rules in the files are not used: those from before hold";
    prepared.remark(move || watched.state().broken.map(|_| broken));
    let server = prepared.serve().await.map_err(|e| Failure::runtime(e.to_string()))?;
    tracing::info!(address = %server.addr(), "the perimeter is served; an MCP client is told: http://{}/mcp", server.addr());
    let again = async {
        // Keys may be others although the files are the same.
        while hangup.recv().await.is_some() {
            let rules = Arc::clone(&reloaded);
            let _ = tokio::task::spawn_blocking(move || rules.reload()).await;
        }
    };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
        () = again => {}
    }
    server.shutdown().await;
    drop(threads);
    tracing::info!("stopped");
    Ok(())
}
