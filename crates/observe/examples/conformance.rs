//! The server for the official conformance suite: the real one with the suite's fixtures, over a small cluster in memory,
//! without authentication on loopback. It prints its address, and runs until its input ends.
//!
//!     cargo run -p kafscale-observe --features conformance --example conformance

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use kafscale_core::clock::Clock;
use kafscale_meta::{EmbeddedStore, Metadata};
use kafscale_observe::{ObserveConfig, ObserveSettings, start};
use tokio::io::AsyncReadExt as _;

#[derive(Debug)]
struct SystemClock;

impl Clock for SystemClock {
    fn now_ms(&self) -> i64 {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let metadata = Metadata::new(Arc::new(EmbeddedStore::memory()), "conformance")?;
    let mut settings = ObserveSettings::default();
    settings.edge.listen = SocketAddr::from(([127, 0, 0, 1], 0));
    settings.edge.calls_per_second = 10_000;
    settings.edge.calls_burst = 10_000;
    let server = start(ObserveConfig::new(settings)?, metadata, Arc::new(SystemClock)).await?;
    println!("http://{}/mcp", server.addr());
    tokio::io::stdin().read_to_end(&mut Vec::new()).await?;
    server.shutdown().await;
    Ok(())
}
