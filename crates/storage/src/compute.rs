//! Work that keeps a processor busy for longer than a task should.
//!
//! Invariant: where the runtime has one thread only, the work is done in place, in its turn: a simulation depends on no scheduling
//! of the operating system (docs/adr/0009).

use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::task::{JoinError, spawn_blocking};

/// Does the work beside the runtime's own threads, so that it keeps no task waiting. The error means that the runtime is going down, or
/// that the work panicked.
pub async fn compute<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, JoinError> {
    match Handle::current().runtime_flavor() {
        RuntimeFlavor::CurrentThread => Ok(work()),
        _ => spawn_blocking(work).await,
    }
}
