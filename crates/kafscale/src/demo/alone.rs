//! `kafscale workload`: the demo's workload as a process of its own, against a broker that runs elsewhere.
//!
//! It ends when the broker cannot be used; whoever started it starts it again.

use std::path::Path;

use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::workload;
use crate::cli::WorkloadArgs;
use crate::failure::Failure;
use crate::logging;
use crate::run::StopSignals;

pub fn run(args: &WorkloadArgs) -> Result<(), Failure> {
    logging::init(&args.logging)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| Failure::runtime(format!("the threads could not be started: {e}")))?;
    if let Some(path) = &args.ready_file {
        // One of an earlier run says nothing.
        let _ = std::fs::remove_file(path);
    }
    runtime.block_on(async {
        let mut signals = StopSignals::listen()?;
        let bootstrap = &args.bootstrap;
        let unknown = |why: String| Failure::runtime(format!("the broker {bootstrap}: {why}"));
        let mut found = tokio::net::lookup_host((bootstrap.host.as_str(), bootstrap.port))
            .await
            .map_err(|e| unknown(e.to_string()))?;
        let broker = found.next().ok_or_else(|| unknown("the name has no address".into()))?;
        let stop = CancellationToken::new();
        let (ready, is_ready) = oneshot::channel();
        let running = async {
            let told = async {
                if let (Some(path), Ok(())) = (&args.ready_file, is_ready.await) {
                    make_ready(path);
                }
                std::future::pending().await
            };
            tokio::select! {
                ended = workload::run(broker, args.orders_per_second, ready, stop.clone()) => ended,
                never = told => never,
            }
        };
        tokio::pin!(running);
        let ended = tokio::select! {
            ended = &mut running => ended,
            signal = signals.next() => {
                tracing::info!(signal, "stopping");
                stop.cancel();
                running.await
            }
        };
        ended.map_err(|e| unknown(e.to_string()))
    })
}

fn make_ready(path: &Path) {
    match std::fs::write(path, "") {
        Ok(()) => tracing::info!(file = %path.display(), "the sample topics, records and groups are there"),
        Err(error) => tracing::error!(file = %path.display(), %error, "cannot make the ready file"),
    }
}
