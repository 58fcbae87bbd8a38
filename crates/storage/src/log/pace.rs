//! How rewriting makes way for appends, where both use one disk.
//!
//! Every byte is written twice: to the write-ahead log, where it is acknowledged, and later to a segment. While appends need the disk,
//! the second time can wait, as long as there is room for what gathers (`wal.burst.bytes`). When they need a part of it, segments are
//! written a little at a time with pauses, the shorter the less room there is.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// How long appends are watched before so much more is rewritten.
pub const WINDOW: Duration = Duration::from_millis(50);
pub const STRIDE_BYTES: u64 = 8 << 20;
/// They need the disk when writes are under way for more than one part of the window in so many.
const BUSY_PARTS: u32 = 4;

/// Appends go on when one was under way so lately.
const LATELY: Duration = Duration::from_millis(100);
/// While they do, and as long as there is all the room, using the disk is followed by a pause so many times as long.
const PAUSE_TIMES: f64 = 9.0;
const PAUSE_MAX: Duration = Duration::from_millis(200);

/// What is read or written at a time, while they go on and there is all the room, and otherwise. An append waits for one stretch.
const STRETCH_MIN_BYTES: usize = 128 << 10;
const STRETCH_MAX_BYTES: usize = 1 << 20;

/// What the writer and the rewriter know of each other.
#[derive(Debug)]
pub struct Pace {
    origin: Instant,
    /// How long writes were under way, those that ended.
    ended_us: AtomicU64,
    /// When the one under way began, counted from the origin; 0 when there is none.
    began_us: AtomicU64,
    /// When the last one ended.
    last_us: AtomicU64,
    /// What was rewritten since appends were watched.
    rewritten_bytes: AtomicU64,
    /// How much of the room for what is put off is taken, in thousandths.
    taken_permille: AtomicU64,
}

impl Default for Pace {
    fn default() -> Pace {
        Pace {
            origin: Instant::now(),
            ended_us: AtomicU64::new(0),
            began_us: AtomicU64::new(0),
            last_us: AtomicU64::new(0),
            rewritten_bytes: AtomicU64::new(STRIDE_BYTES),
            taken_permille: AtomicU64::new(0),
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
        let now = self.now_us();
        self.ended_us.fetch_add(now.saturating_sub(began), Ordering::Relaxed);
        self.last_us.store(now, Ordering::Relaxed);
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

    /// Of the room between two sizes of the write-ahead log, so much is taken.
    pub fn note_room(&self, taken_bytes: u64, room_bytes: u64) {
        let permille = taken_bytes.saturating_mul(1000).checked_div(room_bytes).unwrap_or(1000);
        self.taken_permille.store(permille.min(1000), Ordering::Relaxed);
    }

    /// Whether there are appends to make way for: one is under way, or was lately.
    pub fn appends_go_on(&self) -> bool {
        let since = self.now_us().saturating_sub(self.last_us.load(Ordering::Relaxed));
        self.began_us.load(Ordering::Relaxed) != 0 || Duration::from_micros(since) <= LATELY
    }

    /// How much to read or write before the next pause.
    pub fn stretch_bytes(&self) -> usize {
        if !self.appends_go_on() {
            return STRETCH_MAX_BYTES;
        }
        let taken = self.taken_permille.load(Ordering::Relaxed);
        (STRETCH_MIN_BYTES << (taken / 250)).min(STRETCH_MAX_BYTES)
    }

    /// How long to leave the disk to appends after rewriting used it for so long.
    pub fn pause_after(&self, took: Duration) -> Duration {
        if !self.appends_go_on() {
            return Duration::ZERO;
        }
        let free = 1.0 - self.taken_permille.load(Ordering::Relaxed) as f64 / 1000.0;
        took.mul_f64(free * PAUSE_TIMES).min(PAUSE_MAX)
    }
}

/// Whether writes that were under way for so much of a window need the disk.
pub fn is_busy(under_way: Duration) -> bool {
    under_way > WINDOW / BUSY_PARTS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_are_for_appends_that_go_on_and_get_shorter_as_room_gets_scarce() {
        let (pace, took) = (Pace::default(), Duration::from_millis(4));
        std::thread::sleep(LATELY + Duration::from_millis(20));
        assert_eq!(pace.pause_after(took), Duration::ZERO, "nobody appends");
        assert_eq!(pace.stretch_bytes(), STRETCH_MAX_BYTES, "nobody appends");
        pace.write_begins();
        assert_eq!(pace.pause_after(took), took * 9);
        assert_eq!(pace.stretch_bytes(), STRETCH_MIN_BYTES);
        pace.write_ends();
        pace.note_room(500, 1000);
        assert_eq!(pace.pause_after(took), took * 9 / 2);
        assert_eq!(pace.stretch_bytes(), STRETCH_MIN_BYTES * 4);
        pace.note_room(2000, 1000);
        assert_eq!(pace.pause_after(took), Duration::ZERO);
        assert_eq!(pace.stretch_bytes(), STRETCH_MAX_BYTES);
        pace.note_room(0, 0);
        assert_eq!(pace.pause_after(took), Duration::ZERO, "no room at all");
        pace.note_room(0, 1000);
        assert_eq!(pace.pause_after(Duration::from_secs(9)), PAUSE_MAX);
    }
}
