//! Follows files that are changed while the server runs: tokens, certificates.
//!
//! Invariant: what cannot be read changes nothing, and is told once, until it can be read again.

use std::fmt::Display;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

/// How often a file is looked at.
pub const INTERVAL: Duration = Duration::from_secs(2);

/// Calls `reload` again and again until `stop`. It says whether anything is different.
pub async fn follow<E: Display>(
    what: &str,
    stop: CancellationToken,
    mut reload: impl FnMut() -> Result<bool, E>,
) {
    let mut broken = false;
    while stop.run_until_cancelled(tokio::time::sleep(INTERVAL)).await.is_some() {
        match reload() {
            Ok(is_new) => {
                if is_new || broken {
                    tracing::info!("{what} reloaded");
                }
                broken = false;
            }
            Err(error) if !broken => {
                tracing::error!(%error, "{what} cannot be reloaded, and stays as it was");
                broken = true;
            }
            Err(_) => {}
        }
    }
}
