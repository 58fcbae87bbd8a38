//! Incremental fetch sessions (KIP-227): a consumer names its partitions once, then only what changes, and hears only of
//! partitions that changed.
//!
//! The cache is bounded in sessions and in the partitions that all of them remember. A fetch that finds no room is answered
//! without a session, and the consumer goes on with full requests.

use std::collections::HashMap;
use std::time::Duration;

use parking_lot::Mutex;
use rand::Rng;
use tokio::time::Instant;

use crate::wire::TopicRef;

/// `min.incremental.fetch.session.eviction.ms`
const EVICTION_AGE: Duration = Duration::from_secs(120);
/// Partitions that all sessions may remember, for each slot. A partition takes about a hundred bytes.
const PARTITIONS_PER_SLOT: usize = 1000;
/// A session with more partitions that cannot be fetched is ended, so that it remembers hardly more than there is: a small request is
/// about all that its session remembers.
const FAILED_MAX: usize = 1000;
/// The epoch of a request that asks for a new session.
pub const EPOCH_INITIAL: i32 = 0;
/// The epoch of a request that wants no session.
pub const EPOCH_FINAL: i32 = -1;

/// A partition of a session.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PartitionKey {
    pub topic: TopicRef,
    pub index: i32,
}

/// What a consumer asks of a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PartitionRequest {
    pub fetch_offset: i64,
    pub max_bytes: i32,
    pub current_leader_epoch: i32,
}

/// What a consumer was told last of a partition; -1 for nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Told {
    high_watermark: i64,
    log_start_offset: i64,
}

/// What became of a partition in a fetch, as far as the session must know.
#[derive(Debug, Clone, Copy)]
pub struct Outcome {
    pub failed: bool,
    pub has_records: bool,
    pub high_watermark: i64,
    pub log_start_offset: i64,
}

/// Why a request with a session cannot go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SessionError {
    NotFound,
    InvalidEpoch,
    /// A session uses either topic names or topic ids.
    TopicIds,
}

/// What a session knows of a partition.
#[derive(Debug)]
struct Remembered {
    request: PartitionRequest,
    told: Told,
    /// Partitions are served in the order of their turns. Kept here rather than in the order of the map, so that taking a partition out
    /// and putting it last takes no longer the more there are.
    turn: u64,
}

#[derive(Debug)]
struct Session {
    next_epoch: i32,
    next_turn: u64,
    uses_topic_ids: bool,
    partitions: HashMap<PartitionKey, Remembered>,
    created: Instant,
    last_used: Instant,
}

/// The sessions of a broker.
#[derive(Debug)]
pub struct FetchSessions {
    slots: usize,
    cache: Mutex<Cache>,
}

#[derive(Debug, Default)]
struct Cache {
    sessions: HashMap<i32, Session>,
    partitions_total: usize,
}

/// What one Fetch request is about.
#[derive(Debug)]
pub struct FetchPlan {
    pub kind: PlanKind,
    pub partitions: Vec<(PartitionKey, PartitionRequest)>,
}

/// How a response relates to a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PlanKind {
    Sessionless,
    /// Answer everything, and remember it in a new session.
    New,
    /// Answer what changed since this session's last response.
    Incremental {
        id: i32,
        epoch: i32,
    },
}

/// The session fields and the changes of a Fetch request.
#[derive(Debug)]
pub struct SessionRequest {
    pub id: i32,
    pub epoch: i32,
    pub uses_topic_ids: bool,
    pub partitions: Vec<(PartitionKey, PartitionRequest)>,
    pub forgotten: Vec<PartitionKey>,
}

fn epoch_after(epoch: i32) -> i32 {
    match epoch {
        ..0 => EPOCH_FINAL,
        i32::MAX => 1,
        _ => epoch + 1,
    }
}

impl FetchSessions {
    pub fn new(slots: usize) -> FetchSessions {
        FetchSessions { slots, cache: Mutex::default() }
    }

    /// Finds out what a request is about (`FetchManager.newContext` of Apache Kafka).
    pub fn plan(&self, request: SessionRequest, now: Instant) -> Result<FetchPlan, SessionError> {
        let mut cache = self.cache.lock();
        if request.epoch == EPOCH_INITIAL || request.epoch == EPOCH_FINAL {
            cache.remove(request.id);
            let sessionless = request.epoch == EPOCH_FINAL;
            let kind = if sessionless { PlanKind::Sessionless } else { PlanKind::New };
            return Ok(FetchPlan { kind, partitions: request.partitions });
        }
        let room = (self.slots * PARTITIONS_PER_SLOT).saturating_sub(cache.partitions_total);
        let session = cache.sessions.get_mut(&request.id).ok_or(SessionError::NotFound)?;
        if session.next_epoch != request.epoch {
            return Err(SessionError::InvalidEpoch);
        }
        if session.uses_topic_ids != request.uses_topic_ids {
            return Err(SessionError::TopicIds);
        }
        if request.partitions.len() > room {
            cache.remove(request.id);
            return Err(SessionError::NotFound);
        }
        let before = session.partitions.len();
        session.update(request.partitions, &request.forgotten);
        let after = session.partitions.len();
        session.last_used = now;
        session.next_epoch = epoch_after(request.epoch);
        let partitions = session.in_order();
        let epoch = session.next_epoch;
        cache.partitions_total = cache.partitions_total + after - before;
        if partitions.is_empty() {
            cache.remove(request.id);
            return Ok(FetchPlan { kind: PlanKind::Sessionless, partitions });
        }
        Ok(FetchPlan { kind: PlanKind::Incremental { id: request.id, epoch }, partitions })
    }

    /// Remembers the answered partitions in a new session. 0 when there is no room for one.
    pub fn create(
        &self,
        uses_topic_ids: bool,
        answered: impl ExactSizeIterator<Item = (PartitionKey, PartitionRequest, Outcome)>,
        now: Instant,
    ) -> i32 {
        let size = answered.len();
        if size == 0 {
            return 0;
        }
        let mut failed = 0;
        let remember = |(turn, (key, request, outcome)): (usize, (_, _, Outcome))| {
            failed += usize::from(outcome.failed);
            (key, Remembered { request, told: outcome.told(), turn: turn as u64 })
        };
        let partitions: HashMap<_, _> = answered.enumerate().map(remember).collect();
        let mut cache = self.cache.lock();
        if failed > FAILED_MAX || !cache.make_room(self.slots, partitions.len(), now) {
            return 0;
        }
        let id = loop {
            let id = rand::rng().random_range(1..=i32::MAX);
            if !cache.sessions.contains_key(&id) {
                break id;
            }
        };
        cache.partitions_total += partitions.len();
        let session = Session {
            next_epoch: epoch_after(EPOCH_INITIAL),
            next_turn: size as u64,
            uses_topic_ids,
            partitions,
            created: now,
            last_used: now,
        };
        cache.sessions.insert(id, session);
        id
    }

    /// Chooses what an incremental response tells: what has records, failed or moved. Partitions with records go to the
    /// end of the session's order, so that none of them keeps others waiting.
    ///
    /// Gives for each outcome, in order, whether it is told.
    pub fn select(
        &self,
        id: i32,
        epoch: i32,
        outcomes: &[(PartitionKey, Outcome)],
    ) -> Result<Vec<bool>, SessionError> {
        let mut cache = self.cache.lock();
        let session = cache.sessions.get_mut(&id).ok_or(SessionError::NotFound)?;
        if session.next_epoch != epoch {
            return Err(SessionError::InvalidEpoch);
        }
        let told = outcomes.iter().map(|(key, outcome)| session.tell(key, *outcome)).collect();
        if outcomes.iter().filter(|(_, outcome)| outcome.failed).count() > FAILED_MAX {
            cache.remove(id);
        }
        Ok(told)
    }

    /// Sessions in the cache, and the partitions that they remember.
    pub fn usage(&self) -> (usize, usize) {
        let cache = self.cache.lock();
        (cache.sessions.len(), cache.partitions_total)
    }
}

impl Outcome {
    fn told(&self) -> Told {
        // After an error the next good answer must be told, whatever it is.
        let high_watermark = if self.failed { -1 } else { self.high_watermark };
        Told { high_watermark, log_start_offset: self.log_start_offset }
    }
}

impl Session {
    fn update(&mut self, changed: Vec<(PartitionKey, PartitionRequest)>, forgotten: &[PartitionKey]) {
        for (key, request) in changed {
            let turn = self.next_turn;
            self.next_turn += 1;
            let told = Told { high_watermark: -1, log_start_offset: -1 };
            self.partitions.entry(key).or_insert(Remembered { request, told, turn }).request = request;
        }
        for key in forgotten {
            self.partitions.remove(key);
        }
    }

    fn in_order(&self) -> Vec<(PartitionKey, PartitionRequest)> {
        let mut remembered: Vec<_> = self.partitions.iter().collect();
        remembered.sort_unstable_by_key(|(_, remembered)| remembered.turn);
        remembered.into_iter().map(|(key, remembered)| (key.clone(), remembered.request)).collect()
    }

    fn tell(&mut self, key: &PartitionKey, outcome: Outcome) -> bool {
        let Some(remembered) = self.partitions.get_mut(key) else { return false };
        let news = outcome.told();
        let changed = outcome.failed || outcome.has_records || remembered.told != news;
        remembered.told = news;
        if outcome.has_records {
            remembered.turn = self.next_turn;
            self.next_turn += 1;
        }
        changed
    }
}

impl Cache {
    fn remove(&mut self, id: i32) {
        if let Some(session) = self.sessions.remove(&id) {
            self.partitions_total -= session.partitions.len();
        }
    }

    /// Evicts by Apache Kafka's rules: a session that was not used for long, or an old one that is smaller than the new.
    fn make_room(&mut self, slots: usize, size: usize, now: Instant) -> bool {
        let partitions_max = slots * PARTITIONS_PER_SLOT;
        if size > partitions_max {
            return false;
        }
        while self.sessions.len() >= slots || self.partitions_total + size > partitions_max {
            let stalest = self.sessions.iter().min_by_key(|(_, s)| s.last_used);
            let stale = stalest.filter(|(_, s)| now.duration_since(s.last_used) > EVICTION_AGE);
            let old = self.sessions.iter().filter(|(_, s)| now.duration_since(s.created) > EVICTION_AGE);
            let small =
                old.min_by_key(|(_, s)| s.partitions.len()).filter(|(_, s)| s.partitions.len() < size);
            match stale.or(small).map(|(id, _)| *id) {
                Some(id) => self.remove(id),
                None => return false,
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use kafka_protocol::protocol::StrBytes;

    use super::*;

    fn key(index: i32) -> PartitionKey {
        PartitionKey { topic: TopicRef::Name(StrBytes::from_static_str("t")), index }
    }

    fn ask(offset: i64) -> PartitionRequest {
        PartitionRequest { fetch_offset: offset, max_bytes: 100, current_leader_epoch: -1 }
    }

    fn outcome(high_watermark: i64, has_records: bool) -> Outcome {
        Outcome { failed: false, has_records, high_watermark, log_start_offset: 0 }
    }

    fn request(id: i32, epoch: i32, indexes: &[i32]) -> SessionRequest {
        let partitions = indexes.iter().map(|i| (key(*i), ask(0))).collect();
        SessionRequest { id, epoch, uses_topic_ids: false, partitions, forgotten: Vec::new() }
    }

    fn create(sessions: &FetchSessions, count: i32, now: Instant) -> i32 {
        let all: Vec<_> = (0..count).map(|i| (key(i), ask(0), outcome(5, false))).collect();
        sessions.create(false, all.into_iter(), now)
    }

    #[test]
    fn only_changes_are_told() {
        let (sessions, now) = (FetchSessions::new(10), Instant::now());
        let id = create(&sessions, 3, now);
        let plan = sessions.plan(request(id, 1, &[]), now).unwrap();
        assert_eq!(plan.partitions.len(), 3);
        let PlanKind::Incremental { epoch, .. } = plan.kind else { panic!("{plan:?}") };
        let failed = Outcome { failed: true, ..outcome(5, false) };
        let outcomes = [(key(0), outcome(5, true)), (key(1), outcome(5, false)), (key(2), failed)];
        assert_eq!(sessions.select(id, epoch, &outcomes), Ok(vec![true, false, true]));
        // What had records now comes last; what failed is told again once it is well.
        let plan = sessions.plan(request(id, 2, &[]), now).unwrap();
        let order: Vec<_> = plan.partitions.iter().map(|(k, _)| k.index).collect();
        assert_eq!(order, [1, 2, 0]);
        assert_eq!(sessions.select(id, 3, &[(key(2), outcome(5, false))]), Ok(vec![true]));
    }

    #[test]
    fn epochs_and_ids_must_match() {
        let (sessions, now) = (FetchSessions::new(10), Instant::now());
        let id = create(&sessions, 1, now);
        let plan = |request| sessions.plan(request, now).map(|p| p.kind);
        assert_eq!(plan(request(0, 1, &[])), Err(SessionError::NotFound));
        assert_eq!(plan(request(id, 2, &[])), Err(SessionError::InvalidEpoch));
        let ids = SessionRequest { uses_topic_ids: true, ..request(id, 1, &[]) };
        assert_eq!(plan(ids), Err(SessionError::TopicIds));
        assert_eq!(plan(request(id, 1, &[1])), Ok(PlanKind::Incremental { id, epoch: 2 }));
        assert_eq!(plan(request(id, EPOCH_FINAL, &[1])), Ok(PlanKind::Sessionless));
        assert_eq!(plan(request(id, 2, &[])), Err(SessionError::NotFound));
        assert_eq!(sessions.usage(), (0, 0));
    }

    #[test]
    fn a_session_without_partitions_ends() {
        let (sessions, now) = (FetchSessions::new(10), Instant::now());
        let id = create(&sessions, 1, now);
        let forget = SessionRequest { forgotten: vec![key(0)], ..request(id, 1, &[]) };
        assert_eq!(sessions.plan(forget, now).unwrap().kind, PlanKind::Sessionless);
        assert_eq!(sessions.usage(), (0, 0));
    }

    #[test]
    fn a_full_cache_evicts_only_what_is_old() {
        let (sessions, start) = (FetchSessions::new(2), Instant::now());
        let (a, b) = (create(&sessions, 1, start), create(&sessions, 5, start));
        assert!(a > 0 && b > 0);
        assert_eq!(create(&sessions, 1, start), 0, "nothing is old yet");
        let later = start + EVICTION_AGE + Duration::from_secs(1);
        sessions.plan(request(a, 1, &[]), later).unwrap();
        sessions.plan(request(b, 1, &[]), later).unwrap();
        assert_eq!(create(&sessions, 1, later), 0, "both were used, and none is smaller");
        assert!(create(&sessions, 2, later) > 0, "the small old one gives way");
        assert_eq!(sessions.plan(request(a, 2, &[]), later).unwrap_err(), SessionError::NotFound);
    }

    #[test]
    fn many_partitions_are_forgotten_and_put_last_without_moving_the_others() {
        let (sessions, now) = (FetchSessions::new(300), Instant::now());
        let id = create(&sessions, 200_000, now);
        let outcomes: Vec<_> = (0..200_000).map(|i| (key(i), outcome(6, true))).collect();
        let began = std::time::Instant::now();
        sessions.plan(request(id, 1, &[]), now).unwrap();
        assert_eq!(sessions.select(id, 2, &outcomes), Ok(vec![true; 200_000]));
        let forgotten = (1..200_000).map(key).collect();
        let plan = sessions.plan(SessionRequest { forgotten, ..request(id, 2, &[]) }, now).unwrap();
        assert_eq!(plan.partitions, [(key(0), ask(0))]);
        // In a debug build about a second; where each of them moved all others, minutes.
        assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    }

    #[test]
    fn a_session_of_what_is_not_there_ends() {
        let (sessions, now) = (FetchSessions::new(300), Instant::now());
        let failed = Outcome { failed: true, ..outcome(-1, false) };
        let all: Vec<_> = (0..1001).map(|i| (key(i), ask(0), failed)).collect();
        assert_eq!(sessions.create(false, all.into_iter(), now), 0);
        let id = create(&sessions, 1, now);
        let added: Vec<_> = (1..1002).collect();
        sessions.plan(request(id, 1, &added), now).unwrap();
        let outcomes: Vec<_> = added.iter().map(|i| (key(*i), failed)).collect();
        assert_eq!(sessions.select(id, 2, &outcomes), Ok(vec![true; 1001]));
        assert_eq!(sessions.plan(request(id, 2, &[]), now).unwrap_err(), SessionError::NotFound);
        assert_eq!(sessions.usage(), (0, 0));
    }

    #[test]
    fn remembered_partitions_are_bounded() {
        let (sessions, now) = (FetchSessions::new(1), Instant::now());
        assert_eq!(create(&sessions, 1001, now), 0);
        let id = create(&sessions, 999, now);
        assert_eq!(sessions.plan(request(id, 1, &[5000, 5001]), now).unwrap_err(), SessionError::NotFound);
    }
}
