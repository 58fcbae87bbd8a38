//! Consumer groups over real sockets: members, rebalances, what is shown of groups.

use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::join_group_request::JoinGroupRequestProtocol;
use kafka_protocol::messages::leave_group_request::MemberIdentity;
use kafka_protocol::messages::sync_group_request::SyncGroupRequestAssignment;
use kafka_protocol::messages::{
    BrokerId, DeleteGroupsRequest, DescribeGroupsRequest, FindCoordinatorRequest, GroupId, HeartbeatRequest,
    JoinGroupRequest, JoinGroupResponse, LeaveGroupRequest, ListGroupsRequest, SyncGroupRequest,
    SyncGroupResponse,
};

use crate::client::{Client, text};
use crate::harness::Harness;

/// A broker whose groups do not wait for more members at first.
pub async fn broker() -> Harness {
    Harness::start_with(|config| config.coordinator.group.initial_rebalance_delay_ms = 0).await
}

pub fn group_id(group: &str) -> GroupId {
    GroupId(text(group))
}

/// Consumer metadata that subscribes to the topics.
pub fn subscription(topics: &[&str]) -> bytes::Bytes {
    let mut bytes = vec![0, 0];
    bytes.extend((topics.len() as i32).to_be_bytes());
    for topic in topics {
        bytes.extend((topic.len() as i16).to_be_bytes());
        bytes.extend(topic.as_bytes());
    }
    bytes.extend((-1i32).to_be_bytes());
    bytes.into()
}

pub fn join_request(group: &str, member: &str) -> JoinGroupRequest {
    let range =
        JoinGroupRequestProtocol::default().with_name(text("range")).with_metadata(subscription(&["orders"]));
    JoinGroupRequest::default()
        .with_group_id(group_id(group))
        .with_member_id(text(member))
        .with_session_timeout_ms(10_000)
        .with_rebalance_timeout_ms(30_000)
        .with_protocol_type(text("consumer"))
        .with_protocols(vec![range])
}

/// Version 0 has no field for the rebalance timeout.
fn join_of_version(version: i16, group: &str, member: &str) -> JoinGroupRequest {
    let request = join_request(group, member);
    if version == 0 { request.with_rebalance_timeout_ms(-1) } else { request }
}

fn code(error: ResponseError) -> i16 {
    error.code()
}

impl Client {
    /// Joins, coming back with the id when one is given first.
    pub async fn join(&mut self, version: i16, request: JoinGroupRequest) -> JoinGroupResponse {
        let response = self.call(version, &request).await;
        if response.error_code != code(ResponseError::MemberIdRequired) {
            return response;
        }
        let request = request.with_member_id(response.member_id);
        self.call(version, &request).await
    }

    pub async fn sync(
        &mut self,
        version: i16,
        group: &str,
        joined: &JoinGroupResponse,
        assignments: &[(&str, &'static str)],
    ) -> SyncGroupResponse {
        let assignment = |(member, part): &(&str, &'static str)| {
            SyncGroupRequestAssignment::default()
                .with_member_id(text(member))
                .with_assignment(bytes::Bytes::from_static(part.as_bytes()))
        };
        let mut request = SyncGroupRequest::default()
            .with_group_id(group_id(group))
            .with_generation_id(joined.generation_id)
            .with_member_id(joined.member_id.clone())
            .with_assignments(assignments.iter().map(assignment).collect());
        if version >= 5 {
            request =
                request.with_protocol_type(Some(text("consumer"))).with_protocol_name(Some(text("range")));
        }
        self.call(version, &request).await
    }

    pub async fn heartbeat(&mut self, version: i16, group: &str, joined: &JoinGroupResponse) -> i16 {
        let request = HeartbeatRequest::default()
            .with_group_id(group_id(group))
            .with_generation_id(joined.generation_id)
            .with_member_id(joined.member_id.clone());
        self.call(version, &request).await.error_code
    }

    pub async fn leave(&mut self, version: i16, group: &str, member: &str) -> i16 {
        let request = LeaveGroupRequest::default().with_group_id(group_id(group));
        if version < 3 {
            return self.call(version, &request.with_member_id(text(member))).await.error_code;
        }
        let leaving = MemberIdentity::default().with_member_id(text(member));
        let response = self.call(version, &request.with_members(vec![leaving])).await;
        assert_eq!(response.error_code, 0);
        response.members[0].error_code
    }

    /// Joins and syncs as the only member, with the newest versions.
    pub async fn become_only_member(&mut self, group: &str) -> JoinGroupResponse {
        let joined = self.join(9, join_request(group, "")).await;
        assert_eq!(joined.error_code, 0);
        let synced = self.sync(5, group, &joined, &[(&joined.member_id, "everything")]).await;
        assert_eq!((synced.error_code, synced.assignment.as_ref()), (0, &b"everything"[..]));
        joined
    }

    async fn state(&mut self, version: i16, group: &str) -> (i16, String) {
        let request = DescribeGroupsRequest::default().with_groups(vec![group_id(group)]);
        let group = self.call(version, &request).await.groups.remove(0);
        (group.error_code, group.group_state.to_string())
    }
}

#[tokio::test]
async fn a_member_can_speak_any_version() {
    let broker = broker().await;
    let mut client = broker.client().await;
    for version in 0..=9 {
        let group = format!("v{version}");
        let joined = client.join(version, join_of_version(version, &group, "")).await;
        assert_eq!((joined.error_code, joined.generation_id), (0, 1), "version {version}");
        assert_eq!(joined.leader, joined.member_id);
        assert_eq!(joined.protocol_name.as_deref(), Some("range"));
        assert_eq!(joined.members.len(), 1);
        let synced = client.sync(version.min(5), &group, &joined, &[(&joined.member_id, "x")]).await;
        assert_eq!((synced.error_code, synced.assignment.as_ref()), (0, &b"x"[..]));
        assert_eq!(client.heartbeat(version.min(4), &group, &joined).await, 0);
        assert_eq!(client.state(version.min(6), &group).await, (0, "Stable".into()));
        assert_eq!(client.leave(version.min(5), &group, &joined.member_id).await, 0);
        assert_eq!(client.state(version.min(6), &group).await, (0, "Empty".into()));
        let request = DeleteGroupsRequest::default().with_groups_names(vec![group_id(&group)]);
        assert_eq!(client.call(version.min(2), &request).await.results[0].error_code, 0);
    }
    broker.stop().await;
}

#[tokio::test]
async fn errors_can_be_said_in_any_version() {
    let broker = broker().await;
    let mut client = broker.client().await;
    for version in 0..=9 {
        let joined = client.call(version, &join_of_version(version, "g", "stranger")).await;
        assert_eq!(joined.error_code, code(ResponseError::UnknownMemberId));
        let synced = client.sync(version.min(5), "g", &joined, &[]).await;
        assert_eq!(synced.error_code, code(ResponseError::UnknownMemberId));
        let heartbeat = client.heartbeat(version.min(4), "g", &joined).await;
        assert_eq!(heartbeat, code(ResponseError::UnknownMemberId));
        let left = client.leave(version.min(5), "g", "stranger").await;
        assert_eq!(left, code(ResponseError::UnknownMemberId));
    }
    for (request, error) in [
        (join_request("", ""), ResponseError::InvalidGroupId),
        (join_request("g", "").with_session_timeout_ms(1), ResponseError::InvalidSessionTimeout),
        (join_request("g", "").with_protocols(vec![]), ResponseError::InconsistentGroupProtocol),
    ] {
        assert_eq!(client.call(9, &request).await.error_code, code(error));
    }
    assert_eq!(client.state(6, "g").await, (code(ResponseError::GroupIdNotFound), "Dead".into()));
    assert_eq!(client.state(5, "g").await, (0, "Dead".into()));
    broker.stop().await;
}

#[tokio::test]
async fn metadata_that_no_group_can_hold_is_refused() {
    let broker = broker().await;
    let mut client = broker.client().await;
    let heavy = JoinGroupRequestProtocol::default()
        .with_name(text("range"))
        .with_metadata(bytes::Bytes::from(vec![0; 1 << 20]));
    let response = client.call(9, &join_request("g", "").with_protocols(vec![heavy])).await;
    assert_eq!(response.error_code, code(ResponseError::UnknownServerError));
    client.become_only_member("g").await;
    broker.stop().await;
}

#[tokio::test]
async fn two_members_share_the_work_and_the_second_takes_over() {
    let broker = broker().await;
    let (mut first, mut second) = (broker.client().await, broker.client().await);
    let alone = first.become_only_member("g").await;

    let request = join_request("g", "");
    let given = second.call(9, &request).await;
    second.send(9, &request.clone().with_member_id(given.member_id.clone())).await;
    while first.heartbeat(4, "g", &alone).await == 0 {}
    let leader = first.join(9, join_request("g", &alone.member_id)).await;
    let follower = second.receive::<JoinGroupRequest>(9, second.correlation_id()).await;
    assert_eq!((leader.generation_id, follower.generation_id), (2, 2));
    assert_eq!((leader.members.len(), follower.members.len()), (2, 0));
    assert_eq!(follower.leader, leader.member_id);

    let parts = [(leader.member_id.as_str(), "left"), (follower.member_id.as_str(), "right")];
    assert_eq!(first.sync(5, "g", &leader, &parts).await.assignment, "left");
    assert_eq!(second.sync(5, "g", &follower, &[]).await.assignment, "right");

    assert_eq!(first.leave(5, "g", &leader.member_id).await, 0);
    assert_eq!(second.heartbeat(4, "g", &follower).await, code(ResponseError::RebalanceInProgress));
    let taken_over = second.join(9, join_request("g", &follower.member_id)).await;
    assert_eq!((taken_over.generation_id, taken_over.members.len()), (3, 1));
    assert_eq!(taken_over.leader, follower.member_id);
    broker.stop().await;
}

#[tokio::test]
async fn a_static_member_comes_back_without_a_rebalance() {
    let broker = broker().await;
    let mut client = broker.client().await;
    let request = join_request("g", "").with_group_instance_id(Some(text("worker-1")));
    let joined = client.call(9, &request).await;
    client.sync(5, "g", &joined, &[(&joined.member_id, "all")]).await;
    let back = client.call(9, &request).await;
    assert_eq!((back.error_code, back.generation_id, back.skip_assignment), (0, 1, true));
    assert_ne!(back.member_id, joined.member_id);
    assert_eq!(client.sync(5, "g", &back, &[]).await.assignment, "all");
    let old = HeartbeatRequest::default()
        .with_group_id(group_id("g"))
        .with_generation_id(1)
        .with_member_id(joined.member_id)
        .with_group_instance_id(Some(text("worker-1")));
    assert_eq!(client.call(4, &old).await.error_code, code(ResponseError::FencedInstanceId));
    broker.stop().await;
}

#[tokio::test]
async fn stopping_the_broker_does_not_wait_for_members_that_wait() {
    let broker = broker().await;
    let (mut first, mut second) = (broker.client().await, broker.client().await);
    first.become_only_member("g").await;
    // A member of an old version needs no second request.
    second.send(3, &join_request("g", "")).await;
    while first.state(6, "g").await.1 == "Stable" {}
    broker.stop().await;
    let response = second.receive::<JoinGroupRequest>(3, second.correlation_id()).await;
    assert_eq!(response.error_code, code(ResponseError::NotCoordinator));
}

#[tokio::test]
async fn groups_are_described_with_their_members() {
    let broker = broker().await;
    let mut client = broker.client().await;
    let joined = client.become_only_member("g").await;
    let request = DescribeGroupsRequest::default()
        .with_groups(vec![group_id("g")])
        .with_include_authorized_operations(true);
    let group = client.call(6, &request).await.groups.remove(0);
    assert_eq!((group.protocol_type.as_str(), group.protocol_data.as_str()), ("consumer", "range"));
    assert_eq!(group.authorized_operations, 3400);
    let member = &group.members[0];
    assert_eq!(member.member_id, joined.member_id);
    assert_eq!((member.client_id.as_str(), member.client_host.as_str()), ("test-client", "/127.0.0.1"));
    assert_eq!(member.member_metadata, subscription(&["orders"]));
    assert_eq!(member.member_assignment, "everything");
    let group = client.call(0, &DescribeGroupsRequest::default().with_groups(vec![group_id("g")])).await;
    assert_eq!(group.groups[0].members.len(), 1);
    broker.stop().await;
}

/// Texts of newer versions have any length, those of older ones 32,767 bytes.
#[tokio::test]
async fn no_member_has_texts_that_answers_of_old_versions_have_no_room_for() {
    let broker = broker().await;
    let mut client = broker.client().await;
    client.become_only_member("honest").await;
    let instance = |bytes| join_request("long", "").with_group_instance_id(Some(text(&"i".repeat(bytes))));
    let mut named = join_request("long", "");
    named.protocols[0].name = text(&"n".repeat(40_000));
    let typed = join_request("long", "").with_protocol_type(text(&"t".repeat(40_000)));
    for (version, request) in [(5, instance(32_740)), (9, instance(250)), (9, named), (9, typed)] {
        let joined = client.call(version, &request).await;
        assert_eq!(joined.error_code, code(ResponseError::InvalidRequest), "version {version}");
    }
    let joined = client.call(9, &instance(249)).await;
    assert_eq!((joined.error_code, joined.member_id.len()), (0, 249 + 37));
    let both = DescribeGroupsRequest::default().with_groups(vec![group_id("honest"), group_id("long")]);
    for version in 0..=6 {
        let groups = client.call(version, &both).await.groups;
        let members: Vec<usize> = groups.iter().map(|group| group.members.len()).collect();
        assert_eq!(members, [1, 1], "version {version}");
    }
    broker.stop().await;
}

#[tokio::test]
async fn groups_are_listed_by_state_and_type() {
    let broker = broker().await;
    let mut client = broker.client().await;
    client.become_only_member("active").await;
    let joined = client.become_only_member("left").await;
    assert_eq!(client.leave(5, "left", &joined.member_id).await, 0);
    type Filter<'a> = (i16, &'a [&'a str], &'a [&'a str], &'a [&'a str]);
    let filters: &[Filter<'_>] = &[
        (0, &[], &[], &["active", "left"]),
        (3, &[], &[], &["active", "left"]),
        (4, &["Stable"], &[], &["active"]),
        (5, &["stable", "empty"], &["Classic"], &["active", "left"]),
        (5, &["Empty"], &[], &["left"]),
        (5, &[], &["consumer"], &[]),
    ];
    for (version, states, types, expected) in filters {
        let request = ListGroupsRequest::default()
            .with_states_filter(states.iter().map(|s| text(s)).collect())
            .with_types_filter(types.iter().map(|t| text(t)).collect());
        let groups = client.call(*version, &request).await.groups;
        let names: Vec<&str> = groups.iter().map(|g| g.group_id.as_str()).collect();
        assert_eq!(names, *expected, "version {version} {states:?} {types:?}");
        if *version == 5 {
            assert!(groups.iter().all(|g| g.group_type.as_str() == "classic" && !g.group_state.is_empty()));
        }
    }
    broker.stop().await;
}

#[tokio::test]
async fn only_groups_without_members_are_deleted() {
    let broker = broker().await;
    let mut client = broker.client().await;
    let joined = client.become_only_member("g").await;
    let request = DeleteGroupsRequest::default().with_groups_names(vec![group_id("g"), group_id("none")]);
    let results = client.call(2, &request).await.results;
    let codes: Vec<i16> = results.iter().map(|r| r.error_code).collect();
    assert_eq!(codes, [code(ResponseError::NonEmptyGroup), code(ResponseError::GroupIdNotFound)]);
    client.leave(5, "g", &joined.member_id).await;
    assert_eq!(client.call(2, &request).await.results[0].error_code, 0);
    assert!(client.call(5, &ListGroupsRequest::default()).await.groups.is_empty());
    broker.stop().await;
}

#[tokio::test]
async fn the_coordinator_is_found_in_any_version() {
    let broker = broker().await;
    let mut client = broker.client().await;
    let port = i32::from(broker.broker.kafka_addr().port());
    for version in 0..=3 {
        let found = client.call(version, &FindCoordinatorRequest::default().with_key(text("g"))).await;
        assert_eq!((found.error_code, found.node_id, found.port), (0, BrokerId(1), port));
    }
    for version in 4..=6 {
        let request = FindCoordinatorRequest::default().with_coordinator_keys(vec![text("a"), text("b")]);
        let found = client.call(version, &request).await.coordinators;
        assert_eq!((found.len(), found[1].key.as_str(), found[1].port), (2, "b", port));
    }
    let request = FindCoordinatorRequest::default().with_key_type(1);
    let refused = client.call(3, &request.clone().with_key(text("tx"))).await;
    assert_eq!(refused.error_code, code(ResponseError::UnsupportedVersion));
    assert!(refused.error_message.is_some_and(|m| m.contains("not supported")));
    let refused = client.call(6, &request.with_coordinator_keys(vec![text("tx")])).await;
    assert_eq!(refused.coordinators[0].error_code, code(ResponseError::UnsupportedVersion));
    broker.stop().await;
}

#[tokio::test]
async fn members_that_wait_do_not_hold_the_memory_for_requests() {
    let broker = Harness::start_with(|config| {
        // The least that a broker starts with.
        config.socket_request_max_bytes = 16 << 20;
        config.request_memory_bytes = (128 + 16) << 20;
        config.coordinator.group.initial_rebalance_delay_ms = 60_000;
    })
    .await;
    let mut waiting = Vec::new();
    for i in 0..40 {
        let heavy = JoinGroupRequestProtocol::default()
            .with_name(text("range"))
            .with_metadata(bytes::Bytes::from(vec![0; 100 << 10]));
        let request = join_request(&format!("g{i}"), "").with_protocols(vec![heavy]);
        let mut client = broker.client().await;
        client.send(3, &request).await;
        waiting.push(client);
    }
    let mut client = broker.client().await;
    while client.call(5, &ListGroupsRequest::default()).await.groups.len() < waiting.len() {}
    broker.stop().await;
}
