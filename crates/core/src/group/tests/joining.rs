//! Who may join, and with which id.

use super::*;

#[test]
fn dynamic_member_must_come_back_with_its_id() {
    let mut c = Cluster::new();
    let token = c.join(join_request("a"));
    let reply = c.join_reply(token);
    assert_eq!(reply.result, Err(GroupError::MemberIdRequired));
    assert_eq!(reply.member_id.as_str(), format!("a-{}", Uuid::nil()));
    assert_eq!(c.group.state(), GroupState::Empty);
    let token = c.join(JoinRequest { member_id: reply.member_id.clone(), ..join_request("a") });
    c.tick();
    assert_eq!(c.joined(token).leader, reply.member_id);
}

#[test]
fn a_member_id_has_no_more_than_the_beginning_of_a_long_client_id() {
    let mut c = Cluster::new();
    let token = c.join(join_request(&"é".repeat(16_000)));
    assert_eq!(c.join_reply(token).member_id.as_str(), format!("{}-{}", "é".repeat(124), Uuid::nil()));
}

#[test]
fn old_clients_and_static_members_get_in_at_once() {
    let old = JoinRequest { requires_known_member_id: false, ..join_request("a") };
    for request in [old, static_request("a")] {
        let mut c = Cluster::new();
        let token = c.join(request);
        c.tick();
        let reply = c.join_reply(token);
        assert_eq!(reply.member_id.as_str(), format!("a-{}", Uuid::nil()));
        assert_eq!(c.joined(token).generation, Generation(1));
    }
}

#[test]
fn only_the_leader_learns_the_members() {
    let mut c = Cluster::new();
    let a = c.join_fully(join_request("a"));
    let b = c.join_fully(join_request("b"));
    c.tick();
    let (leader, follower) = (c.joined(a), c.joined(b));
    let names: Vec<&[u8]> = leader.members.iter().map(|m| &m.metadata[..]).collect();
    assert_eq!(names, [b"a", b"b"]);
    assert!(follower.members.is_empty());
    assert_eq!(follower.leader, c.join_reply(a).member_id);
    assert_eq!(follower.protocol_name.as_deref(), Some("range"));
    assert_eq!(follower.protocol_type.as_deref(), Some("consumer"));
}

#[test]
fn requests_that_cannot_join_are_refused() {
    let unknown = |request: JoinRequest| JoinRequest { member_id: "stranger".into(), ..request };
    let cases: Vec<(&str, JoinRequest, GroupError)> = vec![
        (
            "session too short",
            JoinRequest { session_timeout_ms: 5_999, ..join_request("x") },
            GroupError::InvalidSessionTimeout,
        ),
        (
            "session too long",
            JoinRequest { session_timeout_ms: 1_800_001, ..join_request("x") },
            GroupError::InvalidSessionTimeout,
        ),
        ("unknown member", unknown(join_request("x")), GroupError::UnknownMember),
        ("unknown instance", unknown(static_request("x")), GroupError::UnknownMember),
        (
            "other protocol type",
            JoinRequest { protocol_type: "connect".into(), ..join_request("x") },
            GroupError::InconsistentProtocol,
        ),
        (
            "no common protocol",
            JoinRequest { protocols: vec![protocol("sticky", "")], ..join_request("x") },
            GroupError::InconsistentProtocol,
        ),
        (
            "no protocol",
            JoinRequest { protocols: vec![], ..join_request("x") },
            GroupError::InconsistentProtocol,
        ),
    ];
    for (name, request, error) in cases {
        let (mut c, _) = Cluster::stable(&["a"]);
        let token = c.join(request);
        assert_eq!(c.join_error(token), error, "{name}");
        assert_eq!(c.group.state(), GroupState::Stable, "{name}");
    }
}

#[test]
fn an_empty_group_wants_a_protocol_and_a_type() {
    let no_type = JoinRequest { protocol_type: String::new(), ..join_request("a") };
    let no_protocol = JoinRequest { protocols: vec![], ..join_request("a") };
    for request in [no_type, no_protocol] {
        let mut c = Cluster::new();
        let token = c.join(request);
        assert_eq!(c.join_error(token), GroupError::InconsistentProtocol);
        assert!(c.group.is_idle());
    }
}

#[test]
fn the_protocol_with_most_votes_among_those_that_all_support_wins() {
    let offers =
        |names: &[&str]| -> Vec<Protocol> { names.iter().map(|name| protocol(name, name)).collect() };
    let cases: &[(&[&[&str]], &str)] = &[
        (&[&["range", "sticky"], &["sticky", "range"], &["sticky", "range"]], "sticky"),
        (&[&["range", "sticky"], &["sticky", "range"]], "range"),
        (&[&["new", "range"], &["range"], &["new", "range"]], "range"),
        (&[&["range", "range", "sticky"], &["sticky"]], "sticky"),
    ];
    for (members, winner) in cases {
        let mut c = Cluster::new();
        let tokens: Vec<Token> = members
            .iter()
            .map(|names| c.join_fully(JoinRequest { protocols: offers(names), ..join_request("m") }))
            .collect();
        c.tick();
        for token in tokens {
            assert_eq!(c.joined(token).protocol_name.as_deref(), Some(*winner), "{members:?}");
        }
    }
}

#[test]
fn a_full_group_refuses_newcomers_and_keeps_its_members() {
    let mut c =
        Cluster::with(GroupConfig { max_size: 2, initial_rebalance_delay_ms: 0, ..GroupConfig::default() });
    let ids = c.form(vec![join_request("a"), join_request("b")]);
    let token = c.join(join_request("c"));
    assert_eq!(c.join_error(token), GroupError::MaxSizeReached);
    assert_eq!(c.group.state(), GroupState::Stable);
    let rejoin = c.rejoin_request(&ids[1]);
    let token = c.join(rejoin);
    assert_eq!(c.joined(token).generation, Generation(1));
}

#[test]
fn the_last_to_join_a_rebalance_of_a_full_group_is_refused() {
    let mut c = Cluster::with(GroupConfig {
        max_size: 2,
        initial_rebalance_delay_ms: 3_000,
        ..GroupConfig::default()
    });
    let joins: Vec<Token> = ["a", "b", "c"].iter().map(|client| c.join_fully(join_request(client))).collect();
    assert_eq!(c.join_error(joins[2]), GroupError::MaxSizeReached);
    c.advance(6_000);
    assert_eq!(c.joined(joins[0]).members.len(), 2);
}

#[test]
fn ids_given_out_are_limited_in_number() {
    let mut c = Cluster::with(GroupConfig { max_pending_members: 2, ..GroupConfig::default() });
    let errors: Vec<GroupError> = (0..3)
        .map(|i| {
            let token = c.join(JoinRequest { uuid: Uuid::from_u128(i), ..join_request("a") });
            c.join_error(token)
        })
        .collect();
    let required = GroupError::MemberIdRequired;
    assert_eq!(errors, [required, required, GroupError::MaxSizeReached]);
}

#[test]
fn a_lost_join_reply_is_repeated_while_the_rebalance_completes() {
    let mut c = Cluster::new();
    let a = c.join_fully(join_request("a"));
    let b = c.join_fully(join_request("b"));
    c.tick();
    for (token, members) in [(a, 2), (b, 0)] {
        let id = c.join_reply(token).member_id;
        let rejoin = c.rejoin_request(&id);
        let again = c.join(rejoin);
        assert_eq!(c.joined(again).members.len(), members);
        assert_eq!(c.joined(again).generation, Generation(1));
    }
    assert_eq!(c.group.state(), GroupState::CompletingRebalance);
}

#[test]
fn a_follower_that_joins_a_stable_group_unchanged_gets_the_current_generation() {
    let (mut c, ids) = Cluster::stable(&["a", "b"]);
    let rejoin = c.rejoin_request(&ids[1]);
    let token = c.join(rejoin);
    let joined = c.joined(token);
    assert_eq!((joined.generation, joined.leader, joined.members), (Generation(1), ids[0].clone(), vec![]));
    assert_eq!(c.group.state(), GroupState::Stable);
}

#[test]
fn a_repeated_join_replaces_the_one_that_waits() {
    let (mut c, ids) = Cluster::stable(&["a", "b"]);
    let rejoin = c.rejoin_request(&ids[0]);
    let first = c.join(rejoin.clone());
    let second = c.join(rejoin);
    assert_eq!(c.join_error(first), GroupError::RebalanceInProgress);
    assert!(c.waits(second));
}

#[test]
fn the_client_s_reason_is_told_to_the_log() {
    let (mut c, ids) = Cluster::stable(&["a"]);
    let token = c.join(JoinRequest { reason: Some("topic grew".into()), ..c.rejoin_request(&ids[0]) });
    assert_eq!(c.joined(token).generation, Generation(2));
    assert!(c.rebalances.last().is_some_and(|reason| reason.contains("topic grew")), "{:?}", c.rebalances);
}

#[test]
fn a_dead_group_sends_everyone_to_find_the_coordinator() {
    let (mut c, ids) = Cluster::stable(&["a", "b"]);
    let rejoin = c.rejoin_request(&ids[0]);
    let waiting = c.join(rejoin.clone());
    c.step(Event::Unload);
    assert_eq!(c.join_error(waiting), GroupError::NotCoordinator);
    let token = c.join(rejoin);
    assert_eq!(c.join_error(token), GroupError::CoordinatorNotAvailable);
    assert_eq!(c.heartbeat(&ids[0]), Err(GroupError::CoordinatorNotAvailable));
    assert_eq!(c.group.next_deadline_ms(), None);
}

#[test]
fn a_member_offers_no_more_protocols_than_a_thousand() {
    let mut c = Cluster::new();
    let offering = |count: usize| JoinRequest {
        protocols: (0..count).map(|i| protocol(&i.to_string(), "")).collect(),
        requires_known_member_id: false,
        ..join_request("a")
    };
    let token = c.join(offering(1001));
    assert_eq!(c.join_error(token), GroupError::InconsistentProtocol);
    let token = c.join(offering(1000));
    c.tick();
    assert_eq!(c.joined(token).generation, Generation(1));
}
