//! DeleteGroups and OffsetDelete.

use super::*;

#[test]
fn only_an_empty_group_can_be_deleted() {
    let (mut c, ids) = Cluster::stable(&["a"]);
    assert_eq!(c.group.check_delete(), Err(GroupError::NonEmpty));
    let rejoin = c.rejoin_request(&ids[0]);
    c.join(rejoin);
    assert_eq!(c.group.check_delete(), Err(GroupError::NonEmpty), "while it rebalances");
    c.leave(&ids[0]).expect("left");
    assert_eq!(c.group.check_delete(), Ok(()));
    c.step(Event::Unload);
    assert_eq!(c.group.check_delete(), Err(GroupError::NotFound));
}

fn group_of(protocol_type: &str, metadata: Bytes) -> Cluster {
    let mut c = Cluster::new();
    let protocols = vec![Protocol { name: "range".into(), metadata }];
    c.form(vec![JoinRequest { protocol_type: protocol_type.into(), protocols, ..join_request("a") }]);
    c
}

#[test]
fn offsets_of_subscribed_topics_are_not_deleted() {
    let c = group_of("consumer", subscription(&["orders"]));
    assert_eq!(c.group.check_offset_delete(), Ok(()));
    assert!(c.group.is_subscribed_to("orders"));
    assert!(!c.group.is_subscribed_to("payments"));
}

#[test]
fn a_subscription_that_cannot_be_read_covers_every_topic() {
    let c = group_of("consumer", Bytes::from("\x7fnonsense"));
    assert!(c.group.is_subscribed_to("orders"));
}

#[test]
fn offsets_of_other_protocols_are_deleted_only_without_members() {
    let mut c = group_of("connect", subscription(&["orders"]));
    assert_eq!(c.group.check_offset_delete(), Err(GroupError::NonEmpty));
    assert!(!c.group.is_subscribed_to("orders"));
    c.advance(100_000);
    assert_eq!(c.group.check_offset_delete(), Ok(()));
}
