//! What happens when nothing happens.

use super::*;

#[test]
fn a_silent_member_is_removed_after_its_session_timeout() {
    let (mut c, ids) = Cluster::stable(&["a", "b"]);
    c.advance_alive(9_000, &[&ids[0]]);
    assert_eq!(c.group.state(), GroupState::Stable);
    c.advance(1_000);
    assert_eq!(c.group.state(), GroupState::PreparingRebalance);
    assert_eq!(c.heartbeat(&ids[1]), Err(GroupError::UnknownMember));
    assert_eq!(c.heartbeat(&ids[0]), Err(GroupError::RebalanceInProgress));
}

#[test]
fn heartbeats_are_checked() {
    let (mut c, ids) = Cluster::stable(&["a"]);
    let identity = |id: &MemberId, instance: Option<&str>, generation| MemberIdentity {
        member_id: id.clone(),
        instance_id: instance.map(InstanceId::from),
        generation: Generation(generation),
    };
    assert_eq!(c.heartbeat_with(identity(&ids[0], None, 1)), Ok(()));
    assert_eq!(c.heartbeat_with(identity(&ids[0], None, 2)), Err(GroupError::IllegalGeneration));
    assert_eq!(c.heartbeat_with(identity(&ids[0], Some("i"), 1)), Err(GroupError::UnknownMember));
    assert_eq!(c.heartbeat_with(identity(&"x".into(), None, 1)), Err(GroupError::UnknownMember));
}

#[test]
fn a_promised_id_is_forgotten_after_the_session_timeout() {
    let mut c = Cluster::new();
    let token = c.join(join_request("a"));
    let id = c.join_reply(token).member_id;
    c.advance(10_000);
    assert!(c.group.is_idle());
    let token = c.join(JoinRequest { member_id: id, ..join_request("a") });
    assert_eq!(c.join_error(token), GroupError::UnknownMember);
}

#[test]
fn a_forgotten_id_no_longer_holds_up_the_rebalance() {
    let (mut c, ids) = Cluster::stable(&["a"]);
    c.join(JoinRequest { uuid: Uuid::from_u128(77), ..join_request("b") });
    let rejoin = c.rejoin_request(&ids[0]);
    let a = c.join(rejoin);
    c.advance(9_999);
    assert!(c.waits(a));
    c.advance(1);
    assert_eq!(c.joined(a).members.len(), 1);
}

#[test]
fn a_waiting_member_keeps_its_session_until_it_is_answered() {
    let (mut c, ids) = Cluster::stable(&["a", "b"]);
    let rejoin = c.rejoin_request(&ids[0]);
    let a = c.join(rejoin);
    c.advance_alive(50_000, &[&ids[1]]);
    assert!(c.waits(a));
    c.advance_alive(10_000, &[&ids[1]]);
    assert_eq!(c.joined(a).generation, Generation(2));
    c.advance(9_999);
    assert_eq!(c.heartbeat(&ids[0]), Ok(()), "the session began anew with the answer");
}

#[test]
fn a_new_member_that_waits_for_five_minutes_is_told_to_try_again() {
    let mut c = Cluster::new();
    let patient = JoinRequest { rebalance_timeout_ms: 1_000_000, ..join_request("a") };
    let ids = c.form(vec![patient]);
    let newcomer = c.join_fully(join_request("b"));
    c.advance_alive(299_000, &[&ids[0]]);
    assert!(c.waits(newcomer));
    c.advance_alive(1_000, &[&ids[0]]);
    assert_eq!(c.join_error(newcomer), GroupError::UnknownMember);
}

#[test]
fn members_that_do_not_sync_within_the_rebalance_timeout_are_out() {
    let mut c = Cluster::new();
    let tokens = [c.join_fully(join_request("a")), c.join_fully(join_request("b"))];
    c.tick();
    let ids: Vec<MemberId> = tokens.iter().map(|token| c.join_reply(*token).member_id).collect();
    c.sync(&ids[0], vec![]);
    assert_eq!(c.group.state(), GroupState::Stable);
    c.advance_alive(60_000, &[&ids[0], &ids[1]]);
    assert_eq!(c.group.state(), GroupState::PreparingRebalance);
    assert_eq!(c.heartbeat(&ids[1]), Err(GroupError::UnknownMember));
    assert_eq!(c.heartbeat(&ids[0]), Err(GroupError::RebalanceInProgress));
}

#[test]
fn a_leader_that_never_syncs_loses_its_place() {
    let mut c = Cluster::new();
    let tokens = [c.join_fully(join_request("a")), c.join_fully(join_request("b"))];
    c.tick();
    let ids: Vec<MemberId> = tokens.iter().map(|token| c.join_reply(*token).member_id).collect();
    let waiting = c.sync(&ids[1], vec![]);
    c.advance_alive(60_000, &[&ids[0]]);
    assert_eq!(c.sync_reply(waiting), Err(GroupError::RebalanceInProgress));
    assert_eq!(c.group.leader(), Some(&ids[1]));
}

#[test]
fn members_that_want_no_waiting_at_all_do_not_spin() {
    let mut c = Cluster::new();
    let hasty = |name: &str| JoinRequest { rebalance_timeout_ms: -1, ..static_request(name) };
    c.form(vec![hasty("a"), hasty("b")]);
    let leader = c.group.leader().cloned().expect("a leader");
    c.join(JoinRequest { member_id: leader, ..hasty("a") });
    c.advance(60_000);
    assert_eq!(c.group.state(), GroupState::Empty);
}

#[test]
fn many_members_whose_sessions_end_together_take_no_time_by_their_square() {
    let mut c = Cluster::new();
    let requests = (0..20_000).map(|i| JoinRequest {
        uuid: Uuid::from_u128(i),
        requires_known_member_id: false,
        ..join_request("a")
    });
    for request in requests {
        c.join(request);
    }
    c.tick();
    assert_eq!((c.group.state(), c.group.member_count()), (GroupState::CompletingRebalance, 20_000));
    let began = std::time::Instant::now();
    c.now_ms += 10_000;
    c.tick();
    assert_eq!(c.group.member_count(), 0);
    // Below a second in a debug build; where each of them looked at all others, minutes.
    assert!(began.elapsed().as_secs() < 15, "{:?}", began.elapsed());
}

#[test]
fn reasons_of_clients_are_cut_and_few_are_named() {
    let (mut c, ids) = Cluster::stable(&["a", "b", "c", "d", "e", "f", "g", "h"]);
    let leaving = |id: &MemberId| LeavingMember {
        member_id: id.clone(),
        instance_id: None,
        reason: Some("ä".repeat(10_000)),
    };
    let token = c.token();
    c.step(Event::Leave { token, members: ids[..7].iter().map(leaving).collect() });
    let reason = c.rebalances.last().expect("it rebalances");
    assert!(reason.len() < 2_000 && reason.ends_with(", 2 more left"), "{} bytes", reason.len());
}
