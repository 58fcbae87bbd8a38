//! The wall clock as an injected dependency, so that a whole cluster can run on simulated time.
//!
//! Only the trait lives here. Timers use the runtime's own clock, which the simulation replaces as well.

/// Wall-clock time for record timestamps, retention and metadata.
pub trait Clock: Send + Sync + std::fmt::Debug + 'static {
    /// Milliseconds since the Unix epoch.
    fn now_ms(&self) -> i64;
}
