//! Random events against the invariants of the group, whatever clients do and in whatever order.

use std::collections::HashSet;

use proptest::prelude::*;

use super::*;

#[derive(Debug, Clone)]
enum Action {
    Join { who: usize, known: bool, protocol: bool, is_static: bool },
    Sync { who: usize, stale: bool },
    Heartbeat { who: usize },
    Leave { who: usize },
    Write { succeeds: bool },
    Pass { ms: i64 },
    Restart,
}

fn action() -> impl Strategy<Value = Action> {
    let who = 0..4_usize;
    prop_oneof![
        6 => (who.clone(), any::<bool>(), any::<bool>(), any::<bool>())
            .prop_map(|(who, known, protocol, is_static)| Action::Join { who, known, protocol, is_static }),
        6 => (who.clone(), prop::bool::weighted(0.1)).prop_map(|(who, stale)| Action::Sync { who, stale }),
        3 => who.clone().prop_map(|who| Action::Heartbeat { who }),
        1 => who.prop_map(|who| Action::Leave { who }),
        5 => prop::bool::weighted(0.8).prop_map(|succeeds| Action::Write { succeeds }),
        3 => (0..20_000_i64).prop_map(|ms| Action::Pass { ms }),
        1 => Just(Action::Restart),
    ]
}

/// Four clients which remember the member ids that they were told, right or wrong.
struct Run {
    cluster: Cluster,
    ids: Vec<MemberId>,
    asked: HashSet<Token>,
    asked_by: HashMap<Token, usize>,
    generation: Generation,
}

impl Run {
    fn new() -> Run {
        let mut cluster = Cluster::with(GroupConfig { max_size: 3, ..GroupConfig::default() });
        cluster.held_writes = Some(Vec::new());
        Run {
            cluster,
            ids: vec![MemberId::unknown(); 4],
            asked: HashSet::new(),
            asked_by: HashMap::new(),
            generation: Generation(0),
        }
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Join { who, known, protocol: other, is_static } => {
                let base = if is_static { static_request("s") } else { join_request("d") };
                let name = if other { "sticky" } else { "range" };
                let protocols = vec![protocol(name, "x"), protocol("common", "x")];
                let member_id = if known { self.ids[who].clone() } else { MemberId::unknown() };
                let uuid = Uuid::from_u128(u128::from(self.cluster.next_token + 1));
                let token = self.cluster.join(JoinRequest { member_id, protocols, uuid, ..base });
                self.asked.insert(token);
                self.asked_by.insert(token, who);
            }
            Action::Sync { who, stale } => {
                let id = self.ids[who].clone();
                let generation = Generation(self.cluster.group.generation().0 - i32::from(stale));
                let request = SyncRequest {
                    member_id: id.clone(),
                    instance_id: None,
                    generation,
                    protocol_type: None,
                    protocol_name: None,
                    assignments: vec![(id, "x".into())],
                };
                let token = self.cluster.sync_with(request);
                self.asked.insert(token);
            }
            Action::Heartbeat { who } => {
                let _ = self.cluster.heartbeat(&self.ids[who].clone());
            }
            Action::Leave { who } => {
                let _ = self.cluster.leave(&self.ids[who].clone());
            }
            Action::Write { succeeds } => {
                self.cluster.finish_writes(if succeeds { Ok(()) } else { Err(PersistError::Retry) });
            }
            Action::Pass { ms } => self.cluster.advance(ms),
            Action::Restart => self.restart(),
        }
        self.learn_ids();
        self.check();
    }

    fn restart(&mut self) {
        self.cluster.step(Event::Unload);
        assert!(self.asked.iter().all(|token| !self.cluster.waits(*token)), "unloading answers everyone");
        let config = self.cluster.group.config;
        let group = match self.cluster.last_snapshot.clone() {
            Some(snapshot) => Group::restore(snapshot, config, self.cluster.now_ms),
            None => Group::new(config, self.cluster.now_ms),
        };
        // What was not written may be lost, so the generation may fall back.
        self.generation = group.generation();
        self.cluster.group = group;
        self.cluster.held_writes = Some(Vec::new());
    }

    fn learn_ids(&mut self) {
        for (token, who) in &self.asked_by {
            if let Some(Reply::Join(reply)) = self.cluster.replies.get(token) {
                self.ids[*who] = reply.member_id.clone();
            }
        }
        self.asked_by.retain(|token, _| self.cluster.waits(*token));
    }

    fn check(&mut self) {
        let group = &self.cluster.group;
        assert!(group.generation() >= self.generation, "the generation never decreases");
        self.generation = group.generation();
        match group.leader() {
            Some(leader) => assert!(group.members.contains(leader), "the leader is a member"),
            None => assert!(group.members.is_empty(), "members have a leader"),
        }
        let waiting: HashSet<Token> =
            group.members.iter().flat_map(|m| m.awaiting_join.into_iter().chain(m.awaiting_sync)).collect();
        let unanswered = self.asked.iter().filter(|token| self.cluster.waits(**token)).copied().collect();
        assert_eq!(waiting, unanswered, "every token waits in one place or was answered");
        assert_eq!(group.weight_bytes() == 0, group.members.is_empty() && group.pending_joins.is_empty());
        let empty = matches!(group.state(), GroupState::Empty);
        assert!(!empty || group.members.is_empty(), "an empty group has no members");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn invariants_hold_whatever_happens(actions in prop::collection::vec(action(), 1..120)) {
        let mut run = Run::new();
        for action in actions {
            run.act(action);
        }
        // Without heartbeats, and with writes that succeed, everyone is gone in the end.
        for _ in 0..50 {
            run.cluster.finish_writes(Ok(()));
            run.cluster.advance(60_000);
        }
        run.check();
        prop_assert_eq!(run.cluster.group.state(), GroupState::Empty);
        prop_assert!(run.cluster.group.is_idle());
        prop_assert!(run.asked.iter().all(|token| !run.cluster.waits(*token)));
    }
}
