//! A timer that is exact to some ten microseconds; tokio's own counts in milliseconds.

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use anyhow::Result;
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};
use tokio::io::unix::AsyncFd;

#[derive(Debug)]
pub struct Timer(AsyncFd<OwnedFd>);

impl Timer {
    // What came instead of `AsyncFd::new` needs unsafe code; an owned descriptor is what either asks for.
    #[allow(deprecated)]
    pub fn new() -> Result<Self> {
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        Ok(Self(AsyncFd::new(timerfd_create(TimerfdClockId::Monotonic, flags)?)?))
    }

    pub async fn wait_until(&self, due: Instant) -> Result<()> {
        loop {
            let rest = due.saturating_duration_since(Instant::now());
            if rest.is_zero() {
                return Ok(());
            }
            self.sleep(rest).await?;
        }
    }

    async fn sleep(&self, time: Duration) -> Result<()> {
        let zero = Timespec { tv_sec: 0, tv_nsec: 0 };
        let it_value =
            Timespec { tv_sec: i64::try_from(time.as_secs())?, tv_nsec: time.subsec_nanos().max(1).into() };
        timerfd_settime(&self.0, TimerfdTimerFlags::empty(), &Itimerspec { it_interval: zero, it_value })?;
        let mut ready = self.0.readable().await?;
        let mut expirations = [0; 8];
        // What it counts is of no interest, only that it is taken.
        let _ = rustix::io::read(&self.0, &mut expirations);
        ready.clear_ready();
        Ok(())
    }
}

/// When which request is due: `per_second` of them over all lanes, lane after lane.
#[derive(Debug, Clone, Copy)]
pub struct Schedule {
    pub start: Instant,
    pub per_second: f64,
    pub lanes: u64,
    pub requests: u64,
}

impl Schedule {
    pub fn due(&self, request: u64) -> Instant {
        self.start + Duration::from_secs_f64(request as f64 / self.per_second)
    }

    /// When the `nth` request of a lane is due.
    pub fn due_in_lane(&self, lane: u64, nth: u64) -> Instant {
        self.due(nth * self.lanes + lane)
    }

    /// How many requests a lane has.
    pub fn in_lane(&self, lane: u64) -> u64 {
        self.requests / self.lanes + u64::from(lane < self.requests % self.lanes)
    }
}
