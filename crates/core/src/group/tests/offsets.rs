//! Who may commit, and when offsets expire.

use super::super::offsets::{CommittedOffset, CommittedOffsets};
use super::*;
use crate::ids::{Offset, TopicId};

const DAY_MS: i64 = 24 * 3_600_000;
const RETENTION_MS: i64 = 7 * DAY_MS;

fn identity(id: &str, generation: i32) -> MemberIdentity {
    MemberIdentity { member_id: id.into(), instance_id: None, generation: Generation(generation) }
}

#[test]
fn an_empty_group_takes_commits_from_outside() {
    let mut group = Group::new(GroupConfig::default(), 0);
    assert_eq!(group.check_commit(&identity("", -1), 0), Ok(()));
    assert_eq!(group.check_commit(&identity("anyone", -1), 0), Ok(()));
    assert_eq!(group.check_commit(&identity("anyone", 3), 0), Err(GroupError::UnknownMember));
}

#[test]
fn a_group_with_members_takes_commits_only_from_them() {
    let (mut c, ids) = Cluster::stable(&["a", "b"]);
    let a = ids[0].as_str();
    let cases = [
        (identity("", -1), Err(GroupError::UnknownMember)),
        (identity(a, -1), Err(GroupError::IllegalGeneration)),
        (identity("x", 1), Err(GroupError::UnknownMember)),
        (identity(a, 0), Err(GroupError::IllegalGeneration)),
        (identity(a, 2), Err(GroupError::IllegalGeneration)),
        (identity(a, 1), Ok(())),
    ];
    for (identity, expected) in cases {
        assert_eq!(c.group.check_commit(&identity, 0), expected, "{identity:?}");
    }
    c.join_fully(join_request("c"));
    assert_eq!(c.group.state(), GroupState::PreparingRebalance);
    assert_eq!(c.group.check_commit(&identity(a, 1), 0), Ok(()), "before it rejoins");
}

#[test]
fn a_member_between_join_and_assignment_cannot_commit() {
    let mut c = Cluster::new();
    let token = c.join_fully(join_request("a"));
    c.tick();
    let id = c.join_reply(token).member_id;
    assert_eq!(c.group.check_commit(&identity(id.as_str(), 1), 0), Err(GroupError::RebalanceInProgress));
}

#[test]
fn a_commit_is_as_good_as_a_heartbeat() {
    let (mut c, ids) = Cluster::stable(&["a"]);
    c.advance(9_000);
    c.group.check_commit(&identity(ids[0].as_str(), 1), c.now_ms).expect("a member's commit");
    c.advance(9_000);
    assert_eq!(c.group.state(), GroupState::Stable);
}

fn committed(commit_time_ms: i64, expires_at_ms: Option<i64>) -> CommittedOffset {
    CommittedOffset {
        offset: Offset(1),
        topic_id: TopicId(Uuid::nil()),
        leader_epoch: None,
        metadata: String::new(),
        commit_time_ms,
        expires_at_ms,
    }
}

fn expired(group: &Group, offsets: &CommittedOffsets, now_ms: i64) -> Vec<(String, i32)> {
    let expired = group.expired_offsets(offsets, now_ms, RETENTION_MS);
    expired.into_iter().map(|(topic, partition)| (topic.to_string(), partition)).collect()
}

#[test]
fn offsets_of_an_emptied_group_expire_after_it_became_empty() {
    let (mut c, ids) = Cluster::stable(&["a"]);
    let mut offsets = CommittedOffsets::default();
    offsets.insert("orders", 0, committed(0, None));
    c.now_ms = 30 * DAY_MS;
    assert_eq!(expired(&c.group, &offsets, c.now_ms), []);
    c.leave(&ids[0]).expect("left");
    assert_eq!(expired(&c.group, &offsets, c.now_ms + RETENTION_MS - 1), []);
    assert_eq!(expired(&c.group, &offsets, c.now_ms + RETENTION_MS), [("orders".into(), 0)]);
}

#[test]
fn offsets_of_a_simple_consumer_expire_after_their_commit() {
    let group = Group::new(GroupConfig::default(), 0);
    let mut offsets = CommittedOffsets::default();
    offsets.insert("orders", 0, committed(0, None));
    offsets.insert("orders", 1, committed(DAY_MS, None));
    assert_eq!(expired(&group, &offsets, RETENTION_MS), [("orders".into(), 0)]);
}

#[test]
fn consumers_at_work_lose_offsets_of_topics_that_they_no_longer_read() {
    let mut c = Cluster::new();
    let protocols = vec![Protocol { name: "range".into(), metadata: subscription(&["orders"]) }];
    c.form(vec![JoinRequest { protocols, ..join_request("a") }]);
    let mut offsets = CommittedOffsets::default();
    offsets.insert("orders", 0, committed(0, None));
    offsets.insert("payments", 3, committed(0, None));
    assert_eq!(expired(&c.group, &offsets, RETENTION_MS), [("payments".into(), 3)]);
    assert_eq!(expired(&c.group, &offsets, RETENTION_MS - 1), []);
}

#[test]
fn a_retention_of_the_client_s_own_holds() {
    let group = Group::new(GroupConfig::default(), 0);
    let mut offsets = CommittedOffsets::default();
    offsets.insert("orders", 0, committed(0, Some(5_000)));
    assert_eq!(expired(&group, &offsets, 4_999), []);
    assert_eq!(expired(&group, &offsets, 5_000), [("orders".into(), 0)]);
}

#[test]
fn the_offsets_map_forgets_empty_topics() {
    let mut offsets = CommittedOffsets::default();
    offsets.insert("a", 1, committed(0, None));
    offsets.insert("a", 0, committed(0, None));
    assert_eq!((offsets.len(), offsets.partitions("a", TopicId(Uuid::nil()))), (2, vec![0, 1]));
    assert!(offsets.get("a", 2).is_none() && offsets.get("b", 0).is_none());
    assert!(offsets.remove("a", 0).is_some() && offsets.remove("a", 0).is_none());
    assert!(offsets.remove("a", 1).is_some());
    assert!(offsets.is_empty() && offsets.topics().next().is_none());
}

#[test]
fn the_id_of_the_group_is_a_part_of_what_each_offset_takes() {
    let mut offsets = CommittedOffsets::of_group(&"g".repeat(3_700));
    let growth = offsets.growth_bytes([("orders", 0, &committed(0, None))].into_iter());
    offsets.insert("orders", 0, committed(0, None));
    assert!(offsets.weight_bytes() > 3_700 && growth == offsets.weight_bytes());
    offsets.insert("orders", 0, committed(1, None));
    assert_eq!(offsets.weight_bytes(), growth);
    offsets.remove("orders", 0);
    assert_eq!(offsets.weight_bytes(), 0);
}
