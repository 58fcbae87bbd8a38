//! Static membership (KIP-345, KIP-814).

use super::*;

fn stable() -> (Cluster, Vec<MemberId>) {
    let mut c = Cluster::new();
    let ids = c.form(vec![static_request("a"), static_request("b")]);
    (c, ids)
}

fn come_back(c: &mut Cluster, instance: &str) -> Token {
    c.join(JoinRequest { uuid: Uuid::from_u128(999), ..static_request(instance) })
}

#[test]
fn a_follower_that_comes_back_takes_over_without_a_rebalance() {
    let (mut c, ids) = stable();
    let token = come_back(&mut c, "b");
    let new_id = c.join_reply(token).member_id;
    let joined = c.joined(token);
    assert_ne!(new_id, ids[1]);
    assert_eq!((joined.generation, joined.leader.clone()), (Generation(1), ids[0].clone()));
    assert!(joined.members.is_empty() && !joined.skip_assignment);
    assert_eq!(c.group.state(), GroupState::Stable);
    let sync = c.sync(&new_id, vec![]);
    let assignment = c.sync_reply(sync).map(|synced| synced.assignment);
    assert_eq!(assignment, Ok(Bytes::from(format!("part-of-{}", ids[1]))), "the old id's partitions");
    let written: Vec<MemberId> =
        c.last_snapshot.iter().flat_map(|s| &s.members).map(|m| m.member_id.clone()).collect();
    assert_eq!(written, [ids[0].clone(), new_id]);
}

#[test]
fn the_old_id_is_fenced() {
    let (mut c, ids) = stable();
    come_back(&mut c, "b");
    let identity = MemberIdentity {
        member_id: ids[1].clone(),
        instance_id: Some("b".into()),
        generation: Generation(1),
    };
    assert_eq!(c.heartbeat_with(identity.clone()), Err(GroupError::FencedInstance));
    assert_eq!(c.group.check_commit(&identity, c.now_ms), Err(GroupError::FencedInstance));
    let token = c.join(JoinRequest { member_id: ids[1].clone(), ..static_request("b") });
    assert_eq!(c.join_error(token), GroupError::FencedInstance);
    let leaving = LeavingMember { member_id: ids[1].clone(), instance_id: Some("b".into()), reason: None };
    assert_eq!(c.leave_with(leaving), Err(GroupError::FencedInstance));
}

#[test]
fn a_leader_that_comes_back_is_told_to_keep_the_assignment() {
    let (mut c, _) = stable();
    let token = come_back(&mut c, "a");
    let joined = c.joined(token);
    assert!(joined.skip_assignment);
    assert_eq!(joined.leader, c.join_reply(token).member_id);
    assert_eq!(joined.members.len(), 2);

    // Before version 9 there are no words for it: it is shown another leader.
    let (mut c, ids) = stable();
    let old =
        JoinRequest { uuid: Uuid::from_u128(999), supports_skip_assignment: false, ..static_request("a") };
    let token = c.join(old);
    let joined = c.joined(token);
    assert!(!joined.skip_assignment && joined.members.is_empty());
    assert_eq!(joined.leader, ids[0]);
    assert_eq!(c.group.leader(), Some(&c.join_reply(token).member_id));
}

#[test]
fn coming_back_with_another_choice_of_protocol_forces_a_rebalance() {
    let mut c = Cluster::new();
    let both = |name: &str, first: &str, second: &str| JoinRequest {
        protocols: vec![protocol(first, ""), protocol(second, "")],
        uuid: Uuid::from_u128(5),
        ..static_request(name)
    };
    c.form(vec![both("a", "range", "sticky")]);
    let changed = JoinRequest { uuid: Uuid::from_u128(6), ..both("a", "sticky", "range") };
    let token = c.join(changed);
    assert_eq!(c.joined(token).generation, Generation(2));
    assert_eq!(c.joined(token).protocol_name.as_deref(), Some("sticky"));
}

#[test]
fn coming_back_while_the_leader_assigns_starts_over() {
    let mut c = Cluster::new();
    let tokens = [c.join(static_request("a")), c.join(static_request("b"))];
    c.tick();
    let ids: Vec<MemberId> = tokens.iter().map(|token| c.join_reply(*token).member_id).collect();
    let sync = c.sync(&ids[1], vec![]);
    let token = come_back(&mut c, "b");
    assert_eq!(c.sync_reply(sync), Err(GroupError::FencedInstance));
    assert!(c.waits(token));
    assert_eq!(c.group.state(), GroupState::PreparingRebalance);
}

#[test]
fn coming_back_during_the_joins_fences_the_one_that_waits() {
    let (mut c, ids) = stable();
    let waiting = c.join(JoinRequest { member_id: ids[0].clone(), ..static_request("a") });
    assert!(c.waits(waiting));
    let token = come_back(&mut c, "a");
    assert_eq!(c.join_error(waiting), GroupError::FencedInstance);
    assert!(c.waits(token));
    let b = c.join(JoinRequest { member_id: ids[1].clone(), ..static_request("b") });
    assert_eq!(c.joined(token).generation, Generation(2));
    assert_eq!(c.joined(b).generation, Generation(2));
}

#[test]
fn the_new_id_waits_for_its_write_and_is_taken_back_when_that_fails() {
    let (mut c, ids) = stable();
    c.held_writes = Some(Vec::new());
    let token = come_back(&mut c, "b");
    assert!(c.waits(token));
    c.finish_writes(Err(PersistError::Retry));
    assert_eq!(c.join_error(token), GroupError::CoordinatorNotAvailable);
    let identity = MemberIdentity {
        member_id: ids[1].clone(),
        instance_id: Some("b".into()),
        generation: Generation(1),
    };
    assert_eq!(c.heartbeat_with(identity), Ok(()));
}

#[test]
fn a_rebalance_during_the_write_answers_the_join_itself() {
    let (mut c, ids) = stable();
    c.held_writes = Some(Vec::new());
    let token = come_back(&mut c, "b");
    let leader = c.join(JoinRequest { member_id: ids[0].clone(), ..static_request("a") });
    assert_eq!(c.joined(token).generation, Generation(2));
    assert_eq!(c.joined(leader).members.len(), 2);
    c.finish_writes(Err(PersistError::Retry));
    assert_eq!(c.group.state(), GroupState::CompletingRebalance);
}

#[test]
fn an_administrator_removes_a_static_member_by_its_instance() {
    let (mut c, _) = stable();
    let leaving = |instance: Option<&str>| LeavingMember {
        member_id: MemberId::unknown(),
        instance_id: instance.map(InstanceId::from),
        reason: None,
    };
    assert_eq!(c.leave_with(leaving(Some("x"))), Err(GroupError::UnknownMember));
    assert_eq!(c.leave_with(leaving(None)), Err(GroupError::UnknownMember));
    assert_eq!(c.leave_with(leaving(Some("b"))), Ok(()));
    assert_eq!(c.group.member_count(), 1);
    assert_eq!(c.group.state(), GroupState::PreparingRebalance);
}

#[test]
fn a_static_member_that_does_not_rejoin_keeps_its_place_until_it_fails_to_sync() {
    let mut c = Cluster::new();
    let quick = JoinRequest { rebalance_timeout_ms: 2_000, ..static_request("a") };
    let b = JoinRequest { rebalance_timeout_ms: 2_000, ..static_request("b") };
    let ids = c.form(vec![quick.clone(), b]);
    let token = c.join(JoinRequest { member_id: ids[0].clone(), ..quick });
    c.advance(2_000);
    assert_eq!(c.joined(token).members.len(), 2, "b has not rejoined and still counts");
    c.sync(&ids[0], vec![]);
    c.advance_alive(2_000, &[&ids[0]]);
    assert_eq!(c.group.member_count(), 1);
    assert_eq!(c.group.state(), GroupState::PreparingRebalance);
}
