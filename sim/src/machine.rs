//! A machine: one runtime with a clock of its own, which stands still unless the machine is run.
//!
//! Machines run one after the other, each for the same short window of simulated time, on one thread. Within its window a machine's clock
//! jumps from timer to timer. What machines send each other arrives in a later window.
//!
//! Invariant: nothing of a machine outlives its drop, except what it has sent. That is a crash: every task ends at the await where it is.

use std::future::Future;
use std::time::Duration;

use tokio::runtime::{Builder, Handle, Runtime};
use tokio::time::{Instant, advance, sleep_until};

#[derive(Debug)]
pub struct Machine {
    runtime: Runtime,
    /// The machine's clock when it was booted.
    origin: Instant,
    /// The same moment, since the beginning of the simulation.
    booted: Duration,
    /// How far it was run, since the beginning of the simulation.
    reached: Duration,
}

impl Machine {
    pub fn boot(now: Duration) -> Machine {
        let runtime = Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .expect("a runtime without IO needs nothing");
        let origin = {
            let _entered = runtime.enter();
            Instant::now()
        };
        Machine { runtime, origin, booted: now, reached: now }
    }

    pub fn handle(&self) -> Handle {
        self.runtime.handle().clone()
    }

    pub fn timeline(&self) -> Timeline {
        Timeline { origin: self.origin, booted: self.booted }
    }

    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.runtime.spawn(task);
    }

    /// Lets the machine work until the simulation has come to `end`.
    pub fn run_until(&mut self, end: Duration) {
        let local_end = self.origin + (end - self.booted);
        self.runtime.block_on(async { sleep_until(local_end).await });
        self.reached = end;
    }

    /// Makes up for the time since the machine was last run, in one leap: its tasks find themselves in the future before any timer has
    /// told them. This is how a process is after SIGSTOP and SIGCONT.
    pub fn leap(&mut self, now: Duration) {
        if let Some(missed) = now.checked_sub(self.reached).filter(|missed| !missed.is_zero()) {
            self.runtime.block_on(async { advance(missed).await });
            self.reached = now;
        }
    }
}

/// Turns a machine's clock into the simulation's time.
#[derive(Debug, Clone, Copy)]
pub struct Timeline {
    origin: Instant,
    booted: Duration,
}

impl Timeline {
    /// The time since the beginning of the simulation. To be called on the machine.
    pub fn now(&self) -> Duration {
        self.booted + (Instant::now() - self.origin)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use parking_lot::Mutex;
    use tokio::sync::mpsc;

    use super::*;

    #[test]
    fn a_machine_runs_its_window_and_no_longer() {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let mut machine = Machine::boot(Duration::from_secs(5));
        let (timeline, sink) = (machine.timeline(), Arc::clone(&seen));
        machine.spawn(async move {
            for _ in 0..3 {
                tokio::time::sleep(Duration::from_millis(4)).await;
                sink.lock().push(timeline.now().as_millis());
            }
        });
        machine.run_until(Duration::from_millis(5002));
        assert!(seen.lock().is_empty());
        machine.run_until(Duration::from_millis(5010));
        assert_eq!(*seen.lock(), [5004, 5008]);
    }

    #[test]
    fn a_paused_machine_wakes_up_in_the_future_before_its_timers_tell() {
        let mut machine = Machine::boot(Duration::ZERO);
        let (sender, mut receiver) = mpsc::unbounded_channel::<()>();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (timeline, sink) = (machine.timeline(), Arc::clone(&seen));
        machine.spawn(async move {
            tokio::select! {
                biased;
                _ = receiver.recv() => sink.lock().push(("message", timeline.now().as_millis())),
                () = tokio::time::sleep(Duration::from_millis(10)) => sink.lock().push(("timer", timeline.now().as_millis())),
            }
        });
        machine.run_until(Duration::from_millis(2));
        sender.send(()).unwrap();
        machine.leap(Duration::from_millis(100));
        machine.run_until(Duration::from_millis(102));
        assert_eq!(*seen.lock(), [("message", 100)]);
    }
}
