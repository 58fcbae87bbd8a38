//! Scenarios named after the rule that they show, driven through [`Cluster`], and random ones in `random.rs`.

mod deletion;
mod joining;
mod offsets;
mod random;
mod rebalancing;
mod restoring;
mod static_members;
mod syncing;
mod timeouts;

use std::collections::HashMap;

use bytes::Bytes;
use uuid::Uuid;

use super::*;

#[derive(Debug, Clone)]
enum Reply {
    Join(JoinReply),
    Sync(Result<Synced, GroupError>),
    Heartbeat(Result<(), GroupError>),
    Leave(Result<Vec<LeftMember>, GroupError>),
}

/// A group with its driver: collects replies, and either answers writes at once or keeps them for the test.
struct Cluster {
    group: Group,
    now_ms: i64,
    next_token: u64,
    replies: HashMap<Token, Reply>,
    /// None: every write succeeds at once.
    held_writes: Option<Vec<(PersistId, GroupSnapshot)>>,
    last_snapshot: Option<GroupSnapshot>,
    rebalances: Vec<String>,
}

/// A JoinGroup of version 9 with one protocol, to be changed by the test.
fn join_request(client: &str) -> JoinRequest {
    JoinRequest {
        member_id: MemberId::unknown(),
        instance_id: None,
        client_id: client.into(),
        client_host: "/127.0.0.1".into(),
        uuid: Uuid::nil(),
        session_timeout_ms: 10_000,
        rebalance_timeout_ms: 60_000,
        protocol_type: "consumer".into(),
        protocols: vec![protocol("range", client)],
        requires_known_member_id: true,
        supports_skip_assignment: true,
        reason: None,
    }
}

fn static_request(instance: &str) -> JoinRequest {
    JoinRequest { instance_id: Some(instance.into()), ..join_request(instance) }
}

fn protocol(name: &str, metadata: &str) -> Protocol {
    Protocol { name: name.into(), metadata: Bytes::copy_from_slice(metadata.as_bytes()) }
}

/// Consumer metadata that subscribes to the topics.
fn subscription(topics: &[&str]) -> Bytes {
    let mut bytes = vec![0, 0];
    bytes.extend((topics.len() as i32).to_be_bytes());
    for topic in topics {
        bytes.extend((topic.len() as i16).to_be_bytes());
        bytes.extend(topic.as_bytes());
    }
    bytes.into()
}

impl Cluster {
    fn new() -> Cluster {
        Cluster::with(GroupConfig { initial_rebalance_delay_ms: 0, ..GroupConfig::default() })
    }

    fn with(config: GroupConfig) -> Cluster {
        Cluster::of(Group::new(config, 0))
    }

    fn of(group: Group) -> Cluster {
        Cluster {
            group,
            now_ms: 0,
            next_token: 0,
            replies: HashMap::new(),
            held_writes: None,
            last_snapshot: None,
            rebalances: Vec::new(),
        }
    }

    /// A stable group of dynamic members, the first of them the leader; returns their ids.
    fn stable(clients: &[&str]) -> (Cluster, Vec<MemberId>) {
        let mut cluster = Cluster::new();
        let requests = clients.iter().map(|client| join_request(client)).collect();
        let ids = cluster.form(requests);
        (cluster, ids)
    }

    /// Joins all, completes the rebalance and syncs, with the assignment `part-of-{id}` for each.
    fn form(&mut self, requests: Vec<JoinRequest>) -> Vec<MemberId> {
        let tokens: Vec<Token> = requests.into_iter().map(|request| self.join_fully(request)).collect();
        self.tick();
        let ids: Vec<MemberId> = tokens.iter().map(|token| self.join_reply(*token).member_id).collect();
        self.sync_all(&ids);
        assert_eq!(self.group.state(), GroupState::Stable);
        ids
    }

    fn sync_all(&mut self, ids: &[MemberId]) {
        let leader = self.group.leader().cloned().expect("a leader");
        let assignments: Vec<(MemberId, Bytes)> =
            ids.iter().map(|id| (id.clone(), format!("part-of-{id}").into())).collect();
        let tokens: Vec<Token> = ids
            .iter()
            .map(|id| {
                let given = if *id == leader { assignments.clone() } else { Vec::new() };
                self.sync(id, given)
            })
            .collect();
        for (id, token) in ids.iter().zip(tokens) {
            let synced = self.sync_reply(token).expect("an assignment");
            assert_eq!(synced.assignment, Bytes::from(format!("part-of-{id}")));
        }
    }

    fn token(&mut self) -> Token {
        self.next_token += 1;
        Token(self.next_token)
    }

    fn step(&mut self, event: Event) {
        let effects = self.group.step(event, self.now_ms);
        self.collect(effects);
    }

    fn collect(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            let (token, reply) = match effect {
                Effect::ReplyJoin { token, reply } => (token, Reply::Join(reply)),
                Effect::ReplySync { token, result } => (token, Reply::Sync(result)),
                Effect::ReplyHeartbeat { token, result } => (token, Reply::Heartbeat(result)),
                Effect::ReplyLeave { token, result } => (token, Reply::Leave(result)),
                Effect::RebalanceStarted { reason, .. } => {
                    self.rebalances.push(reason);
                    continue;
                }
                Effect::Persist { id, snapshot } => {
                    self.last_snapshot = Some(snapshot.clone());
                    match &mut self.held_writes {
                        Some(held) => held.push((id, snapshot)),
                        None => self.step(Event::Persisted { id, outcome: Ok(()) }),
                    }
                    continue;
                }
            };
            assert!(self.replies.insert(token, reply).is_none(), "{token:?} is answered once");
        }
    }

    /// Sends a join; with MEMBER_ID_REQUIRED it comes back with the id, as clients do.
    fn join_fully(&mut self, mut request: JoinRequest) -> Token {
        request.uuid = Uuid::from_u128(u128::from(self.next_token + 1));
        let token = self.join(request.clone());
        match self.replies.get(&token) {
            Some(Reply::Join(JoinReply { member_id, result: Err(GroupError::MemberIdRequired) })) => {
                request.member_id = member_id.clone();
                self.join(request)
            }
            _ => token,
        }
    }

    fn join(&mut self, request: JoinRequest) -> Token {
        let token = self.token();
        self.step(Event::Join { token, request });
        token
    }

    fn sync(&mut self, id: &MemberId, assignments: Vec<(MemberId, Bytes)>) -> Token {
        let request = SyncRequest {
            member_id: id.clone(),
            instance_id: None,
            generation: self.group.generation(),
            protocol_type: None,
            protocol_name: None,
            assignments,
        };
        self.sync_with(request)
    }

    fn sync_with(&mut self, request: SyncRequest) -> Token {
        let token = self.token();
        self.step(Event::Sync { token, request });
        token
    }

    fn heartbeat(&mut self, id: &MemberId) -> Result<(), GroupError> {
        let generation = self.group.generation();
        self.heartbeat_with(MemberIdentity { member_id: id.clone(), instance_id: None, generation })
    }

    fn heartbeat_with(&mut self, identity: MemberIdentity) -> Result<(), GroupError> {
        let token = self.token();
        self.step(Event::Heartbeat { token, identity });
        match self.replies.get(&token) {
            Some(Reply::Heartbeat(result)) => *result,
            other => panic!("{other:?}"),
        }
    }

    fn leave(&mut self, id: &MemberId) -> Result<(), GroupError> {
        self.leave_with(LeavingMember { member_id: id.clone(), instance_id: None, reason: None })
    }

    fn leave_with(&mut self, member: LeavingMember) -> Result<(), GroupError> {
        let token = self.token();
        self.step(Event::Leave { token, members: vec![member] });
        match self.replies.get(&token) {
            Some(Reply::Leave(Ok(left))) => left[0].result,
            other => panic!("{other:?}"),
        }
    }

    fn tick(&mut self) {
        self.step(Event::Tick);
        let next = self.group.next_deadline_ms();
        assert!(next.is_none_or(|at| at > self.now_ms), "no deadline is left in the past");
    }

    /// Lets time pass, stopping at every deadline on the way.
    fn advance(&mut self, ms: i64) {
        let end = self.now_ms + ms;
        while let Some(at) = self.group.next_deadline_ms().filter(|at| *at <= end) {
            self.now_ms = self.now_ms.max(at);
            self.tick();
        }
        self.now_ms = end;
    }

    /// Lets time pass while these members heartbeat every second.
    fn advance_alive(&mut self, ms: i64, alive: &[&MemberId]) {
        for _ in 0..ms / 1_000 {
            self.advance(1_000);
            for id in alive {
                let _ = self.heartbeat(id);
            }
        }
    }

    fn finish_writes(&mut self, outcome: Result<(), PersistError>) {
        let held = self.held_writes.as_mut().map(std::mem::take).unwrap_or_default();
        for (id, _) in held {
            self.step(Event::Persisted { id, outcome });
        }
    }

    fn waits(&self, token: Token) -> bool {
        !self.replies.contains_key(&token)
    }

    fn join_reply(&self, token: Token) -> JoinReply {
        match self.replies.get(&token) {
            Some(Reply::Join(reply)) => reply.clone(),
            other => panic!("{token:?}: {other:?}"),
        }
    }

    fn joined(&self, token: Token) -> Joined {
        self.join_reply(token).result.expect("joined")
    }

    fn join_error(&self, token: Token) -> GroupError {
        self.join_reply(token).result.expect_err("refused")
    }

    fn sync_reply(&self, token: Token) -> Result<Synced, GroupError> {
        match self.replies.get(&token) {
            Some(Reply::Sync(result)) => result.clone(),
            other => panic!("{token:?}: {other:?}"),
        }
    }

    /// A join of a known member with the metadata that [`Cluster::stable`] gave it.
    fn rejoin_request(&self, id: &MemberId) -> JoinRequest {
        let client = id.as_str().split('-').next().unwrap_or_default();
        JoinRequest { member_id: id.clone(), ..join_request(client) }
    }
}
