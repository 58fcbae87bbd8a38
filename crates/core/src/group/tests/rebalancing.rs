//! When a rebalance begins, how long it waits, and who is still in when it ends.

use super::*;

#[test]
fn the_first_rebalance_waits_for_more_members() {
    let mut c = Cluster::with(GroupConfig::default());
    let a = c.join_fully(join_request("a"));
    c.advance(2_999);
    assert!(c.waits(a));
    c.advance(1);
    assert_eq!(c.joined(a).members.len(), 1);
}

#[test]
fn every_newcomer_extends_the_first_rebalance_once() {
    let mut c = Cluster::with(GroupConfig::default());
    let a = c.join_fully(join_request("a"));
    c.advance(2_000);
    let b = c.join_fully(join_request("b"));
    c.advance(3_999);
    assert!(c.waits(a), "extended to 6 s");
    c.advance(1);
    assert_eq!(c.joined(a).members.len(), 2);
    assert_eq!(c.joined(b).generation, Generation(1));
}

#[test]
fn the_first_rebalance_is_extended_up_to_the_rebalance_timeout() {
    let mut c = Cluster::with(GroupConfig::default());
    let short = |client: &str| JoinRequest { rebalance_timeout_ms: 8_000, ..join_request(client) };
    let first = c.join_fully(short("a"));
    let mut ended_after_ms = 0;
    while c.waits(first) {
        c.join_fully(short("b"));
        c.advance(500);
        ended_after_ms += 500;
    }
    assert_eq!(ended_after_ms, 8_000, "3 s, 3 s more, and the 2 s that remained");
}

#[test]
fn a_newcomer_sends_the_others_into_a_rebalance() {
    let (mut c, ids) = Cluster::stable(&["a", "b"]);
    let newcomer = c.join_fully(join_request("c"));
    assert_eq!(c.group.state(), GroupState::PreparingRebalance);
    assert_eq!(c.heartbeat(&ids[0]), Err(GroupError::RebalanceInProgress));
    let requests: Vec<JoinRequest> = ids.iter().map(|id| c.rejoin_request(id)).collect();
    let tokens: Vec<Token> = requests.into_iter().map(|request| c.join(request)).collect();
    assert_eq!(c.joined(newcomer).generation, Generation(2));
    assert_eq!(c.joined(tokens[0]).members.len(), 3);
    assert_eq!(c.joined(tokens[1]).leader, ids[0]);
}

#[test]
fn members_that_do_not_rejoin_in_time_are_out() {
    let (mut c, ids) = Cluster::stable(&["a", "b"]);
    let newcomer = c.join_fully(join_request("c"));
    let rejoin = c.rejoin_request(&ids[1]);
    let b = c.join(rejoin);
    c.advance_alive(59_000, &[&ids[0]]);
    assert!(c.waits(b));
    c.advance_alive(1_000, &[&ids[0]]);
    assert_eq!(c.joined(b).leader, ids[1], "the leader did not come, so the next member leads");
    assert_eq!(c.joined(b).members.len(), 2);
    assert_eq!(c.joined(newcomer).generation, Generation(2));
    assert_eq!(c.heartbeat(&ids[0]), Err(GroupError::UnknownMember));
}

#[test]
fn the_rebalance_waits_for_the_most_patient_member() {
    let mut c = Cluster::new();
    let patient = JoinRequest { rebalance_timeout_ms: 200_000, ..join_request("b") };
    let ids = c.form(vec![join_request("a"), patient]);
    let newcomer = c.join_fully(join_request("c"));
    c.advance_alive(199_000, &[&ids[0], &ids[1]]);
    assert!(c.waits(newcomer));
    c.advance(1_000);
    assert_eq!(c.joined(newcomer).members.len(), 1);
}

#[test]
fn a_rebalance_waits_for_members_that_were_promised_an_id() {
    let (mut c, ids) = Cluster::stable(&["a"]);
    let promised = c.join(JoinRequest { uuid: Uuid::from_u128(77), ..join_request("b") });
    let id = c.join_reply(promised).member_id;
    let rejoin = c.rejoin_request(&ids[0]);
    let a = c.join(rejoin);
    assert!(c.waits(a), "b has its id and will be back");
    let b = c.join(JoinRequest { member_id: id, ..join_request("b") });
    assert_eq!(c.joined(a).members.len(), 2);
    assert_eq!(c.joined(b).generation, Generation(2));
}

#[test]
fn the_leader_and_changed_members_force_a_rebalance() {
    let (mut c, ids) = Cluster::stable(&["a", "b"]);
    let rejoin = c.rejoin_request(&ids[0]);
    let leader = c.join(rejoin);
    assert!(c.waits(leader));
    assert_eq!(c.group.state(), GroupState::PreparingRebalance);

    let (mut c, ids) = Cluster::stable(&["a", "b"]);
    let changed = JoinRequest { protocols: vec![protocol("range", "other")], ..c.rejoin_request(&ids[1]) };
    let follower = c.join(changed);
    assert!(c.waits(follower));
    assert_eq!(c.group.state(), GroupState::PreparingRebalance);
}

#[test]
fn a_changed_member_interrupts_a_rebalance_that_completes() {
    let mut c = Cluster::new();
    let tokens = [c.join_fully(join_request("a")), c.join_fully(join_request("b"))];
    c.tick();
    let ids: Vec<MemberId> = tokens.iter().map(|token| c.join_reply(*token).member_id).collect();
    let sync = c.sync(&ids[1], vec![]);
    let changed = JoinRequest { protocols: vec![protocol("range", "other")], ..c.rejoin_request(&ids[0]) };
    c.join(changed);
    assert_eq!(c.sync_reply(sync), Err(GroupError::RebalanceInProgress));
    assert_eq!(c.group.state(), GroupState::PreparingRebalance);
}

#[test]
fn a_member_that_leaves_starts_a_rebalance_and_the_last_empties_the_group() {
    let (mut c, ids) = Cluster::stable(&["a", "b"]);
    assert_eq!(c.leave(&ids[0]), Ok(()));
    assert_eq!(c.group.state(), GroupState::PreparingRebalance);
    assert_eq!(c.group.leader(), Some(&ids[1]));
    assert_eq!(c.leave(&ids[1]), Ok(()));
    assert_eq!(c.group.state(), GroupState::Empty);
    assert_eq!(c.group.generation(), Generation(2));
    let snapshot = c.last_snapshot.clone().expect("an empty group is written");
    assert!(snapshot.members.is_empty());
    assert_eq!(snapshot.protocol_type.as_deref(), Some("consumer"));
    assert!(c.group.is_idle());
    assert_eq!(c.leave(&ids[1]), Err(GroupError::UnknownMember));
}

#[test]
fn a_promised_member_can_leave() {
    let mut c = Cluster::new();
    let token = c.join(join_request("a"));
    let id = c.join_reply(token).member_id;
    assert_eq!(c.leave(&id), Ok(()));
    assert!(c.group.is_idle());
}

#[test]
fn leaving_answers_what_the_member_waits_for() {
    let (mut c, ids) = Cluster::stable(&["a", "b"]);
    let rejoin = c.rejoin_request(&ids[0]);
    let join = c.join(rejoin);
    assert_eq!(c.leave(&ids[0]), Ok(()));
    assert_eq!(c.join_error(join), GroupError::UnknownMember);
}

#[test]
fn an_emptied_group_goes_on_counting_generations() {
    let (mut c, ids) = Cluster::stable(&["a"]);
    c.leave(&ids[0]).expect("left");
    c.form(vec![join_request("b")]);
    assert_eq!(c.group.generation(), Generation(3));
}
