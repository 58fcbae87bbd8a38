//! What the broker counts about itself. Names and labels are listed in docs/metrics.md; those without a base unit are the ones that
//! KafScale users have on their dashboards.
//!
//! Counters are bumped where things happen. Gauges of partitions and groups are read at the time of a scrape.

mod process;
mod rate;
mod registry;
mod scrape;
mod store_health;
mod text;

pub use registry::Metrics;
pub use scrape::render;
