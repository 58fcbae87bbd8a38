//! Brings the decision and the outcome of a call together, which stand in lines of their own, and a kept result with the query
//! that made it.
//!
//! Bounded: decisions whose outcome has not come, and handles, are remembered up to a number; calls in flight at once are fewer.

use std::collections::{HashMap, VecDeque};

use kafscale_observe::audit::{Event, Walked};

use super::access::{Access, Came};

/// A server works on 32 calls at once; those that a crash ended stay until others push them out.
const DECISIONS_MAX: usize = 256;
/// A handle lasts an hour.
const HANDLES_MAX: usize = 10_000;
/// What outcomes of decisions are called until they come.
const DECIDED: &str = "decided";

#[derive(Debug, PartialEq, Eq)]
struct Key {
    principal: String,
    peer: Option<String>,
    session: Option<String>,
    request_id: Option<String>,
    tool: Option<String>,
    arguments: Option<String>,
}

impl Key {
    fn of(event: &Event) -> Key {
        Key {
            principal: event.principal.clone(),
            peer: event.peer.clone(),
            session: event.session.clone(),
            request_id: event.request_id.clone(),
            tool: event.tool.clone(),
            arguments: event.arguments_sha256.clone(),
        }
    }
}

#[derive(Debug, Default)]
pub struct Pairing {
    decided: VecDeque<(Key, Access)>,
    /// By principal and name: the tables that the result is of.
    handles: HashMap<(String, String), Vec<String>>,
    oldest_handles: VecDeque<(String, String)>,
}

impl Pairing {
    /// Takes the next line. What is whole with it goes to `tell`, and what will not become whole any more.
    pub fn take(&mut self, walked: &Walked<'_>, tell: &mut dyn FnMut(Access)) {
        let event = walked.event;
        let mut access = Access::of(walked.seq(), event);
        if !access.counts(event) {
            return;
        }
        let key = Key::of(event);
        if event.outcome == DECIDED {
            self.decided.push_back((key, access));
            if self.decided.len() > DECISIONS_MAX
                && let Some((_, oldest)) = self.decided.pop_front()
            {
                tell(without_outcome(oldest));
            }
            return;
        }
        // The newest: a decision without an outcome is of a server that was killed.
        if let Some(at) = self.decided.iter().rposition(|(decided, _)| *decided == key)
            && let Some((_, decision)) = self.decided.remove(at)
        {
            access = access.with_decision(decision);
        }
        self.follow_handles(&mut access);
        tell(access);
    }

    /// Decisions that have no outcome.
    pub fn finish(self, tell: &mut dyn FnMut(Access)) {
        for (_, decision) in self.decided {
            tell(without_outcome(decision));
        }
    }

    /// A result that was kept is of the tables of its query, when its principal takes it up again.
    fn follow_handles(&mut self, access: &mut Access) {
        let key = |name: &str| (access.principal.clone(), name.to_owned());
        let statement = access.statement.as_deref().unwrap_or_default();
        let words = statement.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        let named =
            words.filter(|word| word.starts_with("h_")).filter_map(|word| self.handles.get(&key(word)));
        let mut tables: Vec<String> = named.flatten().cloned().collect();
        let handle = access.handle.as_deref().filter(|_| access.tool == "query").map(key);
        tables.append(&mut access.tables);
        tables.sort();
        tables.dedup();
        access.tables = tables;
        let Some(handle) = handle else { return };
        if self.handles.insert(handle.clone(), access.tables.clone()).is_none() {
            self.oldest_handles.push_back(handle);
        }
        if self.oldest_handles.len() > HANDLES_MAX
            && let Some(oldest) = self.oldest_handles.pop_front()
        {
            self.handles.remove(&oldest);
        }
    }
}

/// One that was denied needs no outcome to be so.
fn without_outcome(mut decision: Access) -> Access {
    if decision.came == Came::Unanswered {
        decision.why = Some("the log has no outcome of it, so that no answer left".to_owned());
    }
    decision
}
