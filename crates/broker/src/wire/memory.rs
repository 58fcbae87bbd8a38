//! The memory for requests of all connections.
//!
//! Small requests have a part of it to themselves: peers that announce large ones and send them slowly, or never, keep only
//! other large ones waiting.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// What takes more is large.
const SMALL_MAX_BYTES: usize = 1 << 20;
/// What small requests need at least.
const FOR_SMALL_MIN_BYTES: usize = 16 << 20;

/// A budget of bytes in two parts.
#[derive(Debug)]
pub struct RequestMemory {
    small: Arc<Semaphore>,
    large: Arc<Semaphore>,
    total_bytes: usize,
}

impl RequestMemory {
    /// What a broker needs whose largest request takes `largest` bytes.
    pub fn needed_bytes(largest: usize) -> usize {
        largest.saturating_add(FOR_SMALL_MIN_BYTES)
    }

    /// `total_bytes` must be enough for `largest`.
    pub fn new(total_bytes: usize, largest: usize) -> RequestMemory {
        assert!(total_bytes >= Self::needed_bytes(largest), "a request would wait for ever");
        let total_bytes = total_bytes.min(Semaphore::MAX_PERMITS);
        let small = (total_bytes / 4).min(total_bytes - largest);
        RequestMemory {
            small: Arc::new(Semaphore::new(small)),
            large: Arc::new(Semaphore::new(total_bytes - small)),
            total_bytes,
        }
    }

    /// Waits until there is room.
    pub async fn take(&self, bytes: usize) -> OwnedSemaphorePermit {
        let part = if bytes <= SMALL_MAX_BYTES { &self.small } else { &self.large };
        let permits =
            u32::try_from(bytes).expect("a frame states less than 2 GiB, and only small ones are multiplied");
        Arc::clone(part).acquire_many_owned(permits).await.expect("the budget is never closed")
    }

    pub fn used_bytes(&self) -> usize {
        self.total_bytes - self.small.available_permits() - self.large.available_permits()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn large_requests_leave_room_for_small_ones() {
        let memory = RequestMemory::new(200 << 20, 100 << 20);
        let held = memory.take(100 << 20).await;
        let second = memory.take(100 << 20);
        tokio::pin!(second);
        assert!(futures_now(second.as_mut()).is_none(), "it does not fit");
        let small = memory.take(1 << 20).await;
        assert!(memory.used_bytes() >= 101 << 20);
        drop((held, small));
        drop(second.await);
    }

    fn futures_now<F: Future>(future: std::pin::Pin<&mut F>) -> Option<F::Output> {
        let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
        match future.poll(&mut cx) {
            std::task::Poll::Ready(output) => Some(output),
            std::task::Poll::Pending => None,
        }
    }
}
