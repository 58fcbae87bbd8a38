//! Runs a role's future to its end, on threads that end with it.

use std::future::Future;
use std::time::Duration;

use tokio::runtime::Builder;

use crate::failure::Failure;

/// A thread that waits for a disk that does not answer is left behind.
const THREADS_END_WITHIN: Duration = Duration::from_secs(1);

pub fn block_on<T>(
    mut threads: Builder,
    role: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    let runtime = threads
        .enable_all()
        .build()
        .map_err(|e| Failure::runtime(format!("the threads could not be started: {e}")))?;
    let outcome = runtime.block_on(role);
    runtime.shutdown_timeout(THREADS_END_WITHIN);
    outcome
}
