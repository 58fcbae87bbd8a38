//! Whether what was read of a partition may be answered: somebody else may own it by now, and have more.
//!
//! While the lease surely holds, nobody can have taken anything over. When it does not, the chain decides: who creates an object in it
//! was its owner until then, since the controller seals the chain before it gives the partitions away (ADR 0007). A read that is covered by a
//! proof of the last second is answered; it can miss what was written elsewhere in that second, and nothing of what it holds ever changes.
//!
//! The question is asked after the reading, so that a process which is stopped in between does not answer from the past.

use std::time::Duration;

use tokio::time::{Instant, timeout};

use crate::node::Node;

/// For so long a proof that the chain is not sealed is good for reads.
const PROOF_LASTS: Duration = Duration::from_secs(1);
/// The store is given this long for a proof. Consumers then look for another leader.
const PROVE_TIMEOUT: Duration = Duration::from_secs(5);

/// Whether this broker owned, until a second ago at least, what it owns by its own image.
pub async fn are_current(node: &Node) -> bool {
    is_proved(node, |proved| proved.elapsed() <= PROOF_LASTS).await
}

/// Whether nobody had taken over before `at` what this broker owns by its own image: what it said then of a producer's batches was so.
pub async fn were_current(node: &Node, at: Instant) -> bool {
    is_proved(node, |proved| proved >= at).await
}

async fn is_proved(node: &Node, is_enough: impl Fn(Instant) -> bool) -> bool {
    if node.cluster.lease_holds() || node.log.proved_at().is_some_and(&is_enough) {
        return true;
    }
    // On a local disk this is at once: the lock of the directory is the fence.
    match timeout(PROVE_TIMEOUT, node.log.prove()).await {
        Ok(Ok(proved)) => is_enough(proved),
        Ok(Err(_)) | Err(_) => false,
    }
}
