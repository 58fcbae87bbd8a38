//! How rewriting makes way for appends, where both use one disk.
//!
//! Every byte is written twice: to the write-ahead log, where it is acknowledged, and later to a segment. While appends need the disk,
//! the second time can wait, as long as there is room for what gathers (`wal.burst.bytes`).

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// How long appends are watched before so much more is rewritten.
pub const WINDOW: Duration = Duration::from_millis(50);
pub const STRIDE_BYTES: u64 = 8 << 20;
/// They need the disk when writes are under way for more than one part of the window in so many.
const BUSY_PARTS: u32 = 4;

/// What the writer and the rewriter know of each other.
#[derive(Debug)]
pub struct Pace {
    origin: Instant,
    /// How long writes were under way, those that ended.
    ended_us: AtomicU64,
    /// When the one under way began, counted from the origin; 0 when there is none.
    began_us: AtomicU64,
    /// What was rewritten since appends were watched.
    rewritten_bytes: AtomicU64,
}

impl Default for Pace {
    fn default() -> Pace {
        Pace {
            origin: Instant::now(),
            ended_us: AtomicU64::new(0),
            began_us: AtomicU64::new(0),
            rewritten_bytes: AtomicU64::new(STRIDE_BYTES),
        }
    }
}

impl Pace {
    fn now_us(&self) -> u64 {
        u64::try_from(self.origin.elapsed().as_micros()).unwrap_or(u64::MAX).max(1)
    }

    /// A write begins. There is one writer.
    pub fn write_begins(&self) {
        self.began_us.store(self.now_us(), Ordering::Relaxed);
    }

    pub fn write_ends(&self) {
        let began = self.began_us.swap(0, Ordering::Relaxed);
        self.ended_us.fetch_add(self.now_us().saturating_sub(began), Ordering::Relaxed);
    }

    /// How long writes were under way so far.
    pub fn busy(&self) -> Duration {
        let under_way = match self.began_us.load(Ordering::Relaxed) {
            0 => 0,
            began => self.now_us().saturating_sub(began),
        };
        Duration::from_micros(self.ended_us.load(Ordering::Relaxed) + under_way)
    }

    /// Whether appends are to be watched before more is rewritten.
    pub fn is_due(&self) -> bool {
        self.rewritten_bytes.load(Ordering::Relaxed) >= STRIDE_BYTES
    }

    /// They left the disk alone: so much more can be rewritten.
    pub fn go_on(&self) {
        self.rewritten_bytes.store(0, Ordering::Relaxed);
    }

    pub fn rewrote(&self, bytes: u64) {
        self.rewritten_bytes.fetch_add(bytes, Ordering::Relaxed);
    }
}

/// Whether writes that were under way for so much of a window need the disk.
pub fn is_busy(under_way: Duration) -> bool {
    under_way > WINDOW / BUSY_PARTS
}
