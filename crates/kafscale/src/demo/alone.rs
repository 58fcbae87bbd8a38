//! `kafscale workload`: the demo's workload as a process of its own, against a broker that runs elsewhere.
//!
//! It ends when the broker cannot be used; whoever started it starts it again.

use std::path::Path;
use std::time::Duration;

use tokio::runtime::Builder;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::workload;
use crate::cli::WorkloadArgs;
use crate::failure::Failure;
use crate::hangup::{Hangups, Reread};
use crate::run::StopSignals;
use crate::stop::StopTime;
use crate::{logging, runtime};

/// Members that cannot leave their groups by then are left behind.
const STOP_WITHIN: Duration = Duration::from_secs(10);

pub fn run(args: &WorkloadArgs, reread: Reread) -> Result<(), Failure> {
    let log = logging::init(&args.logging);
    if let Some(path) = &args.ready_file {
        // One of an earlier run says nothing.
        let _ = std::fs::remove_file(path);
    }
    runtime::block_on(Builder::new_current_thread(), async {
        let _hangups = Hangups::take(log, reread)?;
        let mut signals = StopSignals::listen()?;
        let bootstrap = &args.bootstrap;
        let unknown = |why: String| Failure::runtime(format!("the broker {bootstrap}: {why}"));
        let looked_up = tokio::net::lookup_host((bootstrap.host.as_str(), bootstrap.port));
        let mut found = tokio::select! {
            found = looked_up => found.map_err(|e| unknown(e.to_string()))?,
            _ = signals.next() => return Ok(()),
        };
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
                StopTime::begin(STOP_WITHIN).limit(10, running).await.unwrap_or(Ok(()))
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
