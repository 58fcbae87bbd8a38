//! A broker's process, as the services around it see it, and the requests that it sends them.
//!
//! A request is carried out by the service's machine, whatever becomes of the process that sent it: a crash in the middle leaves open
//! whether it takes effect, and a request that its sender has given up may still do so.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::time::sleep;

use crate::faults::{Answer, Doomed, Fate, Faults, Phase, Service};
use crate::held_up::{self, HoldUp};
use crate::history::Event;
use crate::machine::Timeline;
use crate::nemesis;
use crate::net::node_on;
use crate::world::{Command, Surroundings};

/// One start of one broker.
#[derive(Debug, Clone)]
pub struct Process {
    /// The number of the broker.
    pub node: i32,
    /// Where the process runs.
    pub host: i32,
    around: Surroundings,
    /// The machine of the services.
    services: Handle,
    dead: Arc<AtomicBool>,
    /// Its metadata is not that of the store.
    is_foreign: bool,
    timeline: Timeline,
}

impl Process {
    pub fn new(host: i32, around: Surroundings, services: Handle, timeline: Timeline) -> Process {
        let is_foreign = around.metadata.is_misplaced();
        Process { node: node_on(host), host, around, services, dead: Arc::default(), is_foreign, timeline }
    }

    /// Takes note of what no process may do whose metadata is not that of the store.
    pub fn note_if_foreign(&self, what: impl FnOnce() -> String) {
        if self.is_foreign {
            let event = Event::Foreign { node: self.host, what: what() };
            self.around.history.note_at(self.timeline.now(), event);
        }
    }

    /// Takes note of what this process, which may be gone by now, has changed although it is another one's. By the clock of the services.
    pub fn note_trespass(&self, what: String) {
        self.around.history.note(Event::Trespass { node: self.host, what });
    }

    pub fn is_foreign(&self) -> bool {
        self.is_foreign
    }

    pub fn faults(&self) -> &Faults {
        &self.around.faults
    }

    pub fn services(&self) -> &Handle {
        &self.services
    }

    /// Dies here: what else its tasks attempt until the end of the window does not happen.
    async fn die(&self, step: &str, phase: Phase) -> ! {
        self.condemn(step, phase);
        std::future::pending::<()>().await;
        unreachable!("a process that died does not go on")
    }

    fn condemn(&self, step: &str, phase: Phase) {
        if !self.dead.swap(true, Ordering::Relaxed) {
            self.around.orders.give(Command::Crash { host: self.host, at: format!("{step}/{phase:?}") });
        }
    }

    /// Sends a request. The error is what the caller hears instead of an outcome.
    pub async fn request<T: Send + 'static>(
        &self,
        service: Service,
        step: &str,
        conditional: bool,
        apply: impl Fn() -> T + Send + 'static,
    ) -> Result<T, Answer> {
        if self.dead.load(Ordering::Relaxed) {
            std::future::pending::<()>().await;
        }
        let doomed = self.faults().step(step, self.host);
        if doomed == Doomed::At(Phase::Before) {
            self.die(step, Phase::Before).await;
        }
        let fate = self.faults().fate(service, self.host, conditional);
        let (answer, answered) = oneshot::channel();
        match self.faults().hold_up(step) {
            None => drop(self.services.spawn(carry_out(fate, apply, answer))),
            Some(hold_up) => self.hold_up(hold_up, apply, answer),
        }
        match doomed {
            Doomed::At(Phase::UnderWay) => self.die(step, Phase::UnderWay).await,
            Doomed::At(phase) => {
                let _ = answered.await;
                self.die(step, phase).await
            }
            Doomed::No => answered.await.unwrap_or(Err(Answer::Timeout)),
        }
    }
}

impl Process {
    /// Sends a request that arrives later than anybody expects, and lets happen to this process what is to happen meanwhile.
    fn hold_up<T: Send + 'static>(
        &self,
        hold_up: HoldUp,
        apply: impl Fn() -> T + Send + 'static,
        answer: oneshot::Sender<Result<T, Answer>>,
    ) {
        let (around, host) = (self.around.clone(), self.host);
        let plight = hold_up.plight.clone();
        let late = held_up::carry_out(around.faults.clone(), host, hold_up.clone(), apply, answer);
        self.services.spawn(late);
        self.services.spawn(async move {
            around.history.note(Event::Nemesis { what: format!("broker {host}: {hold_up:?}") });
            nemesis::suffer(&around, host, plight).await;
        });
    }
}

async fn carry_out<T>(fate: Fate, apply: impl Fn() -> T, answer: oneshot::Sender<Result<T, Answer>>) {
    let mut slept = Duration::ZERO;
    let mut outcome = None;
    let mut answer = Some(answer);
    // By time; the application first where it coincides with the answer.
    let mut due = [
        fate.applied_after.map(|at| (at, 0)),
        Some((fate.answered_after, 1)),
        fate.again_after.map(|at| (at, 2)),
    ];
    due.sort_unstable_by_key(|event| event.unwrap_or((Duration::MAX, 3)));
    for (at, what) in due.into_iter().flatten() {
        sleep(at - slept).await;
        slept = at;
        match what {
            0 => outcome = Some(apply()),
            1 => {
                let heard = match fate.answer {
                    Answer::Outcome => outcome.take().ok_or(Answer::Timeout),
                    failed => Err(failed),
                };
                if let Some(answer) = answer.take() {
                    // The process may have died.
                    let _ = answer.send(heard);
                }
            }
            _ => drop(apply()),
        }
    }
}
