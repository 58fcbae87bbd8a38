//! A few threads of low priority that do one job after the other.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Once};

use parking_lot::{Condvar, Mutex};
use tokio::sync::oneshot;

type Job = Box<dyn FnOnce() + Send>;

#[derive(Default)]
struct Queue {
    /// Bounded by the turns that jobs hold.
    jobs: Mutex<VecDeque<Job>>,
    arrived: Condvar,
}

pub struct Threads {
    name: &'static str,
    count: usize,
    nice: i32,
    started: Once,
    queue: Arc<Queue>,
}

impl Threads {
    /// They start with the first job.
    pub fn new(name: &'static str, count: usize, nice: i32) -> Threads {
        Threads { name, count, nice, started: Once::new(), queue: Arc::default() }
    }

    /// Runs a job, and lets go of `held` after it. `None` if it panicked. A job that nobody waits for is not begun.
    pub async fn run<H, T>(&self, held: H, work: impl FnOnce() -> T + Send + 'static) -> Option<T>
    where
        H: Send + 'static,
        T: Send + 'static,
    {
        self.started.call_once(|| self.start());
        let (sender, receiver) = oneshot::channel();
        let job: Job = Box::new(move || {
            if !sender.is_closed() {
                // A panic was reported by the hook; here it only must not end the thread.
                if let Ok(done) = catch_unwind(AssertUnwindSafe(work)) {
                    let _ = sender.send(done);
                }
            }
            drop(held);
        });
        self.queue.jobs.lock().push_back(job);
        self.queue.arrived.notify_one();
        receiver.await.ok()
    }

    fn start(&self) {
        for n in 0..self.count {
            let (queue, nice) = (Arc::clone(&self.queue), self.nice);
            let named = std::thread::Builder::new().name(format!("{}-{n}", self.name));
            let started = named.spawn(move || {
                lower_priority(nice);
                serve(&queue);
            });
            if let Err(error) = started {
                assert!(n > 0, "no thread for work can be started: {error}");
                tracing::warn!(%error, "there are fewer threads for work than processors");
            }
        }
    }
}

fn serve(queue: &Queue) -> ! {
    loop {
        let job = {
            let mut jobs = queue.jobs.lock();
            loop {
                match jobs.pop_front() {
                    Some(job) => break job,
                    None => queue.arrived.wait(&mut jobs),
                }
            }
        };
        job();
    }
}

/// On Linux a priority is a thread's own, although POSIX has it as the process's.
#[cfg(target_os = "linux")]
fn lower_priority(nice: i32) {
    // Not allowed is no reason not to work.
    let _ = rustix::process::setpriority_process(None, nice);
}

#[cfg(not(target_os = "linux"))]
fn lower_priority(_nice: i32) {}
