//! Follows files that are changed while the server runs: tokens, certificates.
//!
//! Invariant: what cannot be read changes nothing, and is told once, until it can be read again.

use std::fmt::Display;
use std::time::Duration;

use kafscale_meta::files::{Apart, TIMEOUT};
use tokio_util::sync::CancellationToken;

/// How often a file is looked at.
pub const INTERVAL: Duration = Duration::from_secs(2);

/// Reads something again and again until `stop`, apart from everything else, and hands it to `apply`, which says whether anything is
/// different.
pub async fn follow<T: Send + 'static, E: Display + Send + 'static>(
    what: &str,
    stop: CancellationToken,
    read: impl Fn() -> Result<T, E> + Clone + Send + 'static,
    apply: impl Fn(T) -> bool,
) {
    let (mut apart, mut broken) = (Apart::default(), false);
    while stop.run_until_cancelled(tokio::time::sleep(INTERVAL)).await.is_some() {
        let Some(read) = stop.run_until_cancelled(apart.run(read.clone())).await else { return };
        let read = match read {
            Some(read) => read.map_err(|error| error.to_string()),
            None => Err(format!("it cannot be read within {} s", TIMEOUT.as_secs())),
        };
        match read {
            Ok(read) => {
                if apply(read) || broken {
                    tracing::info!("{what} reloaded");
                }
                broken = false;
            }
            Err(error) if !broken => {
                tracing::error!(error, "{what} cannot be reloaded, and stays as it was");
                broken = true;
            }
            Err(_) => {}
        }
    }
}
