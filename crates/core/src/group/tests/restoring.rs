//! A group after a restart of its coordinator.

use super::*;

fn restart(c: &Cluster, config: GroupConfig) -> Cluster {
    let snapshot = c.last_snapshot.clone().expect("a group that was written");
    let now_ms = c.now_ms + 5_000;
    let mut restarted = Cluster::of(Group::restore(snapshot, config, now_ms));
    restarted.now_ms = now_ms;
    restarted
}

#[test]
fn living_members_go_on_without_a_rebalance() {
    let (c, ids) = Cluster::stable(&["a", "b"]);
    let mut c = restart(&c, GroupConfig::default());
    assert_eq!(c.group.state(), GroupState::Stable);
    assert_eq!(c.group.leader(), Some(&ids[0]));
    c.advance(9_999);
    assert_eq!(c.heartbeat(&ids[0]), Ok(()));
    let rejoin = c.rejoin_request(&ids[1]);
    let token = c.join(rejoin);
    assert_eq!(c.joined(token).generation, Generation(1));
    let sync = c.sync(&ids[1], vec![]);
    let assignment = c.sync_reply(sync).map(|synced| synced.assignment);
    assert_eq!(assignment, Ok(Bytes::from(format!("part-of-{}", ids[1]))));
}

#[test]
fn members_that_died_meanwhile_time_out() {
    let (c, ids) = Cluster::stable(&["a", "b"]);
    let mut c = restart(&c, GroupConfig::default());
    c.advance_alive(10_000, &[&ids[0]]);
    assert_eq!(c.group.member_count(), 1);
    assert_eq!(c.group.state(), GroupState::PreparingRebalance);
}

#[test]
fn a_group_beyond_a_lowered_limit_sheds_members() {
    let (c, ids) = Cluster::stable(&["a", "b"]);
    let mut c = restart(&c, GroupConfig { max_size: 1, ..GroupConfig::default() });
    assert_eq!(c.heartbeat(&ids[0]), Err(GroupError::RebalanceInProgress));
    let first = c.join(JoinRequest { member_id: ids[1].clone(), ..join_request("b") });
    let second = c.join(JoinRequest { member_id: ids[0].clone(), ..join_request("a") });
    assert_eq!(c.join_error(second), GroupError::MaxSizeReached);
    assert_eq!(c.joined(first).members.len(), 1);
}

#[test]
fn an_emptied_group_is_restored_empty() {
    let (mut c, ids) = Cluster::stable(&["a"]);
    c.leave(&ids[0]).expect("left");
    let c = restart(&c, GroupConfig::default());
    assert_eq!(c.group.state(), GroupState::Empty);
    assert_eq!(c.group.generation(), Generation(2));
    assert_eq!(c.group.protocol_type(), "consumer");
    assert!(c.group.is_idle());
}

#[test]
fn a_snapshot_that_makes_no_sense_is_an_empty_group() {
    let (c, _) = Cluster::stable(&["a", "b"]);
    let good = c.last_snapshot.clone().expect("written");
    let mut other_protocol = good.clone();
    other_protocol.protocol_name = Some("sticky".into());
    let mut twice = good.clone();
    twice.members[1].member_id = twice.members[0].member_id.clone();
    let mut no_leader = good;
    no_leader.leader = Some("stranger".into());
    for (snapshot, members) in [(other_protocol, 0), (twice, 1), (no_leader, 2)] {
        let group = Group::restore(snapshot, GroupConfig::default(), 0);
        assert_eq!(group.member_count(), members);
        assert_eq!(group.leader().is_some(), members > 0);
    }
}
