//! The threads of queries, apart from those that talk to clients: whatever a query computes, others
//! are answered.
//!
//! There are more of them than processors, so that one step that takes long keeps no other query
//! waiting, and the system gives them less than what answers clients, and brokers on the same
//! machine.

use std::future::Future;
use std::io;
use std::num::NonZero;

use tokio::runtime::{Builder, Handle, Runtime};
use tokio_util::task::AbortOnDropHandle;

use crate::error::SqlError;

/// Of a thread, for what is nested deeply. Only what is used of it takes memory.
pub const STACK_BYTES: usize = 32 << 20;
const THREADS_MAX: usize = 64;
/// Above 0 is less than others. At 10 a thread that is ready gets a tenth of what one at 0 gets, so that an
/// acknowledgement that became possible does not wait for a scan: at 5 it was a third. At 15 it would be a thirtieth,
/// and queries beside anything that computes would hardly come to an end.
const NICENESS: i32 = 10;

/// Owns the threads.
#[derive(Debug)]
pub struct QueryThreads(Option<Runtime>);

impl QueryThreads {
    pub fn start(max_queries: u32) -> io::Result<QueryThreads> {
        let processors = std::thread::available_parallelism().map_or(1, NonZero::get);
        let queries = usize::try_from(max_queries).unwrap_or(THREADS_MAX);
        let threads = (processors * queries.saturating_add(1)).clamp(4, THREADS_MAX.max(2 * processors));
        let runtime = Builder::new_multi_thread()
            .enable_all()
            .worker_threads(threads)
            .thread_name("query")
            .thread_stack_size(STACK_BYTES)
            .on_thread_start(give_way)
            .build()?;
        Ok(QueryThreads(Some(runtime)))
    }

    pub fn handle(&self) -> QueryHandle {
        QueryHandle(self.0.as_ref().expect("it is there until it is dropped").handle().clone())
    }
}

impl Drop for QueryThreads {
    /// A step that computes is not waited for.
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

/// Where queries run.
#[derive(Debug, Clone)]
pub struct QueryHandle(Handle);

impl QueryHandle {
    /// Does `work` there. Whoever does not wait any more ends it.
    pub async fn run<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, SqlError>> + Send + 'static,
    ) -> Result<T, SqlError> {
        match AbortOnDropHandle::new(self.0.spawn(work)).await {
            Ok(done) => done,
            Err(error) => Err(SqlError::Panicked(error.to_string())),
        }
    }
}

/// On Linux this is of the calling thread alone; elsewhere it would be of the process.
fn give_way() {
    #[cfg(target_os = "linux")]
    if let Err(error) = rustix::process::setpriority_process(None, NICENESS) {
        tracing::debug!(%error, "the threads of queries have the priority of all others");
    }
}
