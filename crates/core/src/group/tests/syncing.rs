//! SyncGroup, and that an assignment is only sent once it is written.

use super::*;

fn completing() -> (Cluster, Vec<MemberId>) {
    let mut c = Cluster::new();
    let tokens = [c.join_fully(join_request("a")), c.join_fully(join_request("b"))];
    c.tick();
    let ids = tokens.iter().map(|token| c.join_reply(*token).member_id).collect();
    (c, ids)
}

#[test]
fn followers_wait_for_the_leader_and_missing_assignments_are_empty() {
    let (mut c, ids) = completing();
    let b = c.sync(&ids[1], vec![]);
    assert!(c.waits(b));
    let a = c.sync(&ids[0], vec![(ids[0].clone(), "all".into()), ("stranger".into(), "x".into())]);
    assert_eq!(c.sync_reply(a).map(|synced| synced.assignment), Ok("all".into()));
    assert_eq!(c.sync_reply(b).map(|synced| synced.assignment), Ok(Bytes::new()));
    let snapshot = c.last_snapshot.clone().expect("written");
    assert_eq!(snapshot.members.len(), 2);
    assert_eq!(snapshot.members[0].assignment, Bytes::from("all"));
}

#[test]
fn a_late_follower_gets_its_assignment_from_the_stable_group() {
    let (mut c, ids) = completing();
    c.sync(&ids[0], vec![(ids[1].clone(), "late".into())]);
    assert_eq!(c.group.state(), GroupState::Stable);
    let b = c.sync(&ids[1], vec![]);
    let synced = c.sync_reply(b).expect("synced");
    assert_eq!(synced.assignment, Bytes::from("late"));
    assert_eq!(synced.protocol_name.as_deref(), Some("range"));
}

#[test]
fn assignments_are_sent_only_after_the_write() {
    let (mut c, ids) = completing();
    c.held_writes = Some(Vec::new());
    let tokens = [c.sync(&ids[1], vec![]), c.sync(&ids[0], vec![(ids[1].clone(), "x".into())])];
    assert!(tokens.iter().all(|token| c.waits(*token)));
    assert_eq!(c.group.state(), GroupState::CompletingRebalance);
    assert_eq!(c.heartbeat(&ids[1]), Ok(()));
    c.finish_writes(Ok(()));
    assert_eq!(c.group.state(), GroupState::Stable);
    assert_eq!(c.sync_reply(tokens[0]).map(|synced| synced.assignment), Ok("x".into()));
}

#[test]
fn a_failed_write_sends_the_members_to_rejoin() {
    for (failure, error) in [
        (PersistError::Retry, GroupError::CoordinatorNotAvailable),
        (PersistError::Fenced, GroupError::NotCoordinator),
    ] {
        let (mut c, ids) = completing();
        c.held_writes = Some(Vec::new());
        let tokens = [c.sync(&ids[1], vec![]), c.sync(&ids[0], vec![])];
        c.finish_writes(Err(failure));
        for token in tokens {
            assert_eq!(c.sync_reply(token), Err(error));
        }
        assert_eq!(c.group.state(), GroupState::PreparingRebalance);
    }
}

#[test]
fn a_write_that_a_rebalance_has_overtaken_changes_nothing() {
    let (mut c, ids) = completing();
    c.held_writes = Some(Vec::new());
    let leader = c.sync(&ids[0], vec![]);
    c.join_fully(join_request("c"));
    assert_eq!(c.sync_reply(leader), Err(GroupError::RebalanceInProgress));
    c.finish_writes(Ok(()));
    assert_eq!(c.group.state(), GroupState::PreparingRebalance);
}

#[test]
fn a_leader_that_repeats_itself_cannot_change_the_assignment() {
    let (mut c, ids) = completing();
    c.held_writes = Some(Vec::new());
    let first = c.sync(&ids[0], vec![(ids[0].clone(), "first".into())]);
    let second = c.sync(&ids[0], vec![(ids[0].clone(), "second".into())]);
    assert_eq!(c.sync_reply(first), Err(GroupError::RebalanceInProgress));
    assert_eq!(c.held_writes.as_ref().map(Vec::len), Some(1));
    c.finish_writes(Ok(()));
    assert_eq!(c.sync_reply(second).map(|synced| synced.assignment), Ok("first".into()));
}

#[test]
fn syncs_that_do_not_fit_the_group_are_refused() {
    let (mut c, ids) = completing();
    let good = SyncRequest {
        member_id: ids[1].clone(),
        instance_id: None,
        generation: Generation(1),
        protocol_type: Some("consumer".into()),
        protocol_name: Some("range".into()),
        assignments: vec![],
    };
    let cases = [
        (SyncRequest { member_id: "x".into(), ..good.clone() }, GroupError::UnknownMember),
        (SyncRequest { instance_id: Some("x".into()), ..good.clone() }, GroupError::UnknownMember),
        (SyncRequest { generation: Generation(0), ..good.clone() }, GroupError::IllegalGeneration),
        (SyncRequest { generation: Generation(2), ..good.clone() }, GroupError::IllegalGeneration),
        (
            SyncRequest { protocol_type: Some("connect".into()), ..good.clone() },
            GroupError::InconsistentProtocol,
        ),
        (
            SyncRequest { protocol_name: Some("sticky".into()), ..good.clone() },
            GroupError::InconsistentProtocol,
        ),
    ];
    for (request, error) in cases {
        let token = c.sync_with(request);
        assert_eq!(c.sync_reply(token), Err(error));
    }
    let token = c.sync_with(good);
    assert!(c.waits(token));
}

#[test]
fn a_sync_during_the_joins_is_told_to_rejoin() {
    let (mut c, ids) = Cluster::stable(&["a", "b"]);
    c.join_fully(join_request("c"));
    let token = c.sync(&ids[0], vec![]);
    assert_eq!(c.sync_reply(token), Err(GroupError::RebalanceInProgress));
}

#[test]
fn views_show_members_fully_only_when_stable() {
    let (mut c, ids) = completing();
    let view = c.group.view();
    assert_eq!((view.state, view.protocol_name.as_str()), (GroupState::CompletingRebalance, ""));
    assert!(view.members.iter().all(|m| m.metadata.is_empty() && m.assignment.is_empty()));
    c.sync_all(&ids);
    let view = c.group.view();
    assert_eq!((view.state.name(), view.protocol_name.as_str()), ("Stable", "range"));
    assert_eq!(view.protocol_type, "consumer");
    let member = &view.members[1];
    assert_eq!((member.client_id.as_str(), member.client_host.as_str()), ("b", "/127.0.0.1"));
    assert_eq!(member.metadata, Bytes::from("b"));
    assert_eq!(member.assignment, Bytes::from(format!("part-of-{}", ids[1])));
}
