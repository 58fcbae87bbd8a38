//! Requests that are held up on the way for longer than leases last, and carried out when nobody expects them any more: in the buffers of
//! a connection that is cut, which the kernel sends when the link is back, whether or not the process still lives; or in the queue of a
//! service that is slow. It carries out whatever arrives.
//!
//! Meanwhile something happens to the sender, so that others take over what it had. The request arrives after a while, or just when
//! somebody else comes to a certain step, which finds gaps that are shorter than any lease.

use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};

use crate::faults::{Answer, Faults};
use crate::nemesis::Plight;
use crate::rng::Rng;

/// Nothing is held up for longer.
pub const HELD_UP_MAX: Duration = Duration::from_secs(25);

/// Requests that change something; twice those that are guarded against coming late.
const STEPS: &[&str] = &[
    "write offsets",
    "write offsets",
    "write groups",
    "write groups",
    "write partitions",
    "write partitions",
    "write coordinators",
    "write assignments",
    "write chains",
    "write brokers",
    "write controller",
    "write topics",
    "write producer-ids",
    "put chain object",
    "put segment",
    "delete chain object",
    "delete segment",
    "keep lease",
    "revoke lease",
];

/// What somebody else does who takes something over, before it is served.
const TAKEOVERS: &[&str] =
    &["write assignments", "write coordinators", "read partitions", "list chain object", "list offsets"];

/// What it may do next.
const OCCASIONS: &[&str] = &[
    "list chains",
    "read partitions",
    "get chain object",
    "put chain object",
    "put segment",
    "put segment",
    "write partitions",
    "write offsets",
    "write groups",
    "delete chain object",
];

/// When a request that was held up arrives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Arrival {
    After(Duration),
    /// When processes on other hosts have taken the one step and then take the other.
    With(&'static str, &'static str),
}

/// The `nth` request of a kind is to be held up, counted over all processes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HoldUp {
    pub step: &'static str,
    pub nth: u32,
    pub arrival: Arrival,
    /// How long the sender waits for an answer; `None`: until there is one.
    pub patience: Option<Duration>,
    /// What becomes of the sender meanwhile.
    pub plight: Plight,
}

impl HoldUp {
    pub fn draw(rng: &mut Rng) -> HoldUp {
        let plight = Plight::draw(rng);
        let arrival = match rng.per_mille(500) {
            true => Arrival::With(one_of(rng, TAKEOVERS), one_of(rng, OCCASIONS)),
            false => Arrival::After(rng.ms(500, HELD_UP_MAX.as_millis() as u64)),
        };
        // Whoever sleeps finds the answer when it wakes up, however late that is.
        let sleeps = matches!(plight, Plight::Stopped(_)) && rng.per_mille(500);
        HoldUp {
            step: one_of(rng, STEPS),
            nth: rng.between(1, 3) as u32,
            arrival,
            patience: (!sleeps).then_some(rng.ms(1500, 4000)),
            plight,
        }
    }
}

fn one_of(rng: &mut Rng, steps: &[&'static str]) -> &'static str {
    steps[rng.below(steps.len() as u64) as usize]
}

/// Carries out a request of a process when its time has come.
pub async fn carry_out<T>(
    faults: Faults,
    host: i32,
    HoldUp { arrival, patience, .. }: HoldUp,
    apply: impl Fn() -> T,
    answer: oneshot::Sender<Result<T, Answer>>,
) {
    let arrives = async {
        match arrival {
            Arrival::After(time) => sleep(time).await,
            Arrival::With(first, then) => {
                let taken = async {
                    faults.step_of_another(first, host).await;
                    faults.step_of_another(then, host).await;
                };
                let _ = timeout(HELD_UP_MAX, taken).await;
            }
        }
    };
    tokio::pin!(arrives);
    let in_time = match patience {
        Some(patience) => timeout(patience, &mut arrives).await.is_ok(),
        None => {
            (&mut arrives).await;
            true
        }
    };
    if in_time {
        // The process may have died.
        let _ = answer.send(Ok(apply()));
    } else {
        let _ = answer.send(Err(Answer::Timeout));
        arrives.await;
        drop(apply());
    }
    faults.arrived();
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;
    use crate::faults::Doomed;
    use crate::machine::Machine;

    /// One that is held up for 5 seconds, or until the steps `first` and `then`, and waits `patience` for its answer.
    struct Held {
        faults: Faults,
        machine: Machine,
        done: Arc<AtomicU32>,
        answered: oneshot::Receiver<Result<u32, Answer>>,
    }

    fn hold(arrival: Arrival, patience: Option<Duration>) -> Held {
        let (faults, machine) = (Faults::new(Rng::new(1)), Machine::boot(Duration::ZERO));
        faults.set_hold_up(HoldUp { step: "write offsets", nth: 2, arrival, patience, plight: Plight::Well });
        assert_eq!(faults.hold_up("write offsets"), None, "only the second one");
        let hold_up = faults.hold_up("write offsets").unwrap();
        let done = Arc::new(AtomicU32::new(0));
        let count = Arc::clone(&done);
        let apply = move || count.fetch_add(1, Ordering::Relaxed);
        let (answer, answered) = oneshot::channel();
        machine.spawn(carry_out(faults.clone(), 1, hold_up, apply, answer));
        Held { faults, machine, done, answered }
    }

    #[test]
    fn what_is_held_up_is_carried_out_after_its_sender_gave_up() {
        let mut held = hold(Arrival::After(Duration::from_secs(5)), Some(Duration::from_secs(2)));
        held.machine.run_until(Duration::from_secs(4));
        assert_eq!(held.answered.try_recv(), Ok(Err(Answer::Timeout)));
        assert_eq!(held.done.load(Ordering::Relaxed), 0);
        assert!(held.faults.is_anything_held_up());
        held.machine.run_until(Duration::from_secs(6));
        assert_eq!(held.done.load(Ordering::Relaxed), 1);
        assert!(!held.faults.is_anything_held_up());
    }

    #[test]
    fn whoever_sleeps_finds_the_answer() {
        let mut held = hold(Arrival::After(Duration::from_secs(5)), None);
        held.machine.run_until(Duration::from_secs(6));
        assert_eq!(held.answered.try_recv(), Ok(Ok(0)));
    }

    #[test]
    fn it_arrives_with_the_steps_of_others() {
        let mut held = hold(Arrival::With("write assignments", "put segment"), None);
        let mut seconds = 0;
        let mut step = |step, host| {
            assert_eq!(held.faults.step(step, host), Doomed::No);
            seconds += 1;
            held.machine.run_until(Duration::from_secs(seconds));
            held.done.load(Ordering::Relaxed)
        };
        assert_eq!(step("list chains", 2), 0);
        assert_eq!(step("put segment", 2), 0, "out of turn");
        assert_eq!(step("write assignments", 1), 0, "by the sender itself");
        assert_eq!(step("write assignments", 2), 0);
        assert_eq!(step("put segment", 3), 1);
    }
}
