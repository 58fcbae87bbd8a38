//! The memory for answers other than Fetch's: charged before an answer is built, given back when the peer has taken it.
//!
//! What fits beside every connection is not charged. One answer may take half of the budget, so that there is always room for another one; what
//! would take more is refused by whoever builds it, with a code that says so. Whoever waits for room waits in the order of
//! arrival, and a peer that does not take its answer is disconnected, so that everybody gets a turn.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Smaller answers are bounded by the number of connections.
const LITTLE_BYTES: usize = 16 << 10;

/// A budget of bytes.
#[derive(Debug)]
pub struct AnswerMemory {
    left: Arc<Semaphore>,
    total_bytes: usize,
}

/// What an answer holds of the budget; nothing, if it is a little one.
pub type Room = Option<OwnedSemaphorePermit>;

/// The answer would take more than any may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the answer would take {bytes} bytes of memory, and the most for one is {max}")]
pub struct AnswerTooLarge {
    pub bytes: usize,
    pub max: usize,
}

impl AnswerMemory {
    pub fn new(total_bytes: usize) -> AnswerMemory {
        // A semaphore's permits are taken in numbers of 32 bits.
        let total_bytes = total_bytes.min(Semaphore::MAX_PERMITS).min(u32::MAX as usize);
        AnswerMemory { left: Arc::new(Semaphore::new(total_bytes)), total_bytes }
    }

    /// The most that one answer may take.
    pub fn largest_bytes(&self) -> usize {
        self.total_bytes / 2
    }

    /// Waits until there is room.
    pub async fn take(&self, bytes: usize) -> Result<Room, AnswerTooLarge> {
        if bytes <= LITTLE_BYTES {
            return Ok(None);
        }
        let max = self.largest_bytes();
        let permits = u32::try_from(bytes).ok().filter(|_| bytes <= max);
        let permits = permits.ok_or(AnswerTooLarge { bytes, max })?;
        let taken = Arc::clone(&self.left).acquire_many_owned(permits).await;
        Ok(Some(taken.expect("the budget is never closed")))
    }

    pub fn used_bytes(&self) -> usize {
        self.total_bytes - self.left.available_permits()
    }
}

/// Gives back what was taken beyond the `bytes` that the answer has become.
pub fn shrink(room: &mut Room, bytes: usize) {
    if let Some(held) = room
        && let Some(excess) = held.num_permits().checked_sub(bytes)
    {
        drop(held.split(excess));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn answers_share_the_budget() {
        let memory = AnswerMemory::new(1 << 20);
        assert!(memory.take(LITTLE_BYTES).await.unwrap().is_none(), "little ones are not charged");
        let too_large = memory.take((1 << 19) + 1).await.unwrap_err();
        assert_eq!(too_large, AnswerTooLarge { bytes: (1 << 19) + 1, max: 1 << 19 });
        let mut first = memory.take(1 << 19).await.unwrap();
        let second = memory.take(1 << 19).await.unwrap();
        assert_eq!(memory.used_bytes(), 1 << 20);
        let third = tokio::time::timeout(std::time::Duration::from_millis(20), memory.take(1 << 18)).await;
        assert!(third.is_err(), "it waits");
        shrink(&mut first, 1000);
        memory.take(1 << 18).await.unwrap();
        drop((first, second));
        assert_eq!(memory.used_bytes(), 0);
    }
}
