//! The rules of placement, for any cluster; and the cases that people look at first.

use proptest::{collection::vec, prelude::*};

use super::*;

const DEAD: Incarnation = Incarnation { node_id: NodeId(100), epoch: 1 };
/// Not registered, and nobody has sealed its chain yet.
const UNCERTAIN: Incarnation = Incarnation { node_id: NodeId(101), epoch: 2 };

fn members(count: i32) -> Members {
    let live = (0..count).map(|node_id| (NodeId(node_id), 10 + u64::try_from(node_id).unwrap())).collect();
    Members { live, gone: [DEAD].into() }
}

fn nth(members: &Members, n: usize) -> Incarnation {
    let (&node_id, &epoch) = members.live.iter().nth(n % members.live.len()).unwrap();
    Incarnation { node_id, epoch }
}

fn owned(owner: Incarnation) -> Slot {
    Slot { owner: Some(owner), leader_epoch: LeaderEpoch(4), release: false }
}

/// Any cluster of 1 to 6 brokers, with topics in any state.
fn any_cluster() -> impl Strategy<Value = (Members, Vec<Vec<Slot>>)> {
    let slot = (0_usize..10, -1..50_i32, any::<bool>());
    (1..7_i32, vec(vec(slot, 0..40), 0..8)).prop_map(|(count, topics)| {
        let members = members(count);
        let slot = |(owner, epoch, release): (usize, i32, bool)| {
            let owner = match owner {
                7 => None,
                8 => Some(DEAD),
                9 => Some(UNCERTAIN),
                n => Some(nth(&members, n)),
            };
            Slot { owner, leader_epoch: LeaderEpoch(epoch), release: release && owner.is_some() }
        };
        let topics = topics.into_iter().map(|topic| topic.into_iter().map(slot).collect()).collect();
        (members, topics)
    })
}

fn run(topics: &mut [Vec<Slot>], members: &Members, releasing_max: usize) -> Placement {
    let groups: Vec<&[Slot]> = topics.iter().map(Vec::as_slice).collect();
    let placement = place(&groups, members, releasing_max);
    for change in &placement.changes {
        topics[change.group][change.index] = change.slot;
    }
    placement
}

/// Every live owner lets go what it was asked for.
fn let_go(topics: &mut [Vec<Slot>], members: &Members) {
    for slot in topics.iter_mut().flatten().filter(|slot| slot.release) {
        if slot.owner.is_some_and(|owner| members.is_live(owner)) {
            *slot = Slot { owner: None, release: false, ..*slot };
        }
    }
}

fn spread(topics: &[Vec<Slot>], members: &Members) -> usize {
    let mut loads = Loads::new(members.live.iter().map(|(&node_id, &epoch)| Incarnation { node_id, epoch }));
    for topic in topics {
        loads.add_group(topic);
    }
    loads.spread()
}

proptest! {
    #[test]
    fn only_what_has_no_owner_gets_another_one_and_epochs_grow_by_one(
        (members, before) in any_cluster(), releasing_max in 0_usize..200,
    ) {
        let mut after = before.clone();
        run(&mut after, &members, releasing_max);
        for (old, new) in before.iter().flatten().zip(after.iter().flatten()) {
            match old.owner {
                Some(owner) if owner != DEAD => {
                    prop_assert_eq!((new.owner, new.leader_epoch), (old.owner, old.leader_epoch));
                    prop_assert!(new.release || !old.release, "a request is not taken back");
                    prop_assert!(members.is_live(owner) || new == old, "who is uncertain is left alone");
                }
                Some(_) | None => {
                    prop_assert!(members.is_live(new.owner.unwrap()));
                    prop_assert_eq!(new.leader_epoch.0, old.leader_epoch.0 + 1);
                    prop_assert!(!new.release);
                }
            }
        }
    }

    #[test]
    fn releases_are_limited(( members, mut topics) in any_cluster(), releasing_max in 0_usize..30) {
        let asked = |topics: &[Vec<Slot>]| {
            topics.iter().flatten().filter(|s| s.release && s.owner.is_some_and(|o| members.is_live(o))).count()
        };
        let before = asked(&topics);
        let placement = run(&mut topics, &members, releasing_max);
        prop_assert_eq!(placement.releasing, asked(&topics));
        prop_assert!(placement.releasing <= before.max(releasing_max));
    }

    #[test]
    fn the_load_becomes_even_and_then_nothing_moves((members, mut topics) in any_cluster()) {
        let mut rounds = 0;
        while { run(&mut topics, &members, 10); spread(&topics, &members) > 1
            || topics.iter().flatten().any(|s| s.release && s.owner != Some(UNCERTAIN)) } {
            let_go(&mut topics, &members);
            rounds += 1;
            prop_assert!(rounds < 200, "it does not end");
        }
        prop_assert_eq!(run(&mut topics, &members, 10).changes, []);
    }

    #[test]
    fn no_more_moves_than_needed(loads in vec(0_usize..40, 1..6)) {
        let members = members(i32::try_from(loads.len()).unwrap());
        let mut topics = vec![Vec::new()];
        for (n, load) in loads.iter().enumerate() {
            topics[0].extend(vec![owned(nth(&members, n)); *load]);
        }
        let total: usize = loads.iter().sum();
        let (floor, above) = (total / loads.len(), total % loads.len());
        let mut sorted = loads.clone();
        sorted.sort_unstable_by_key(|load| std::cmp::Reverse(*load));
        let target = |n: usize| floor + usize::from(n < above);
        let needed: usize = sorted.iter().enumerate().map(|(n, load)| load.saturating_sub(target(n))).sum();
        prop_assert_eq!(run(&mut topics, &members, usize::MAX).changes.len(), needed);
    }

    #[test]
    fn new_slots_go_evenly_to_live_brokers(count in 0_usize..100, brokers in 1..7_i32) {
        let members = members(brokers);
        let mut loads = Loads::new(members.live.iter().map(|(&node_id, &epoch)| Incarnation { node_id, epoch }));
        let mut group = loads.add_group(&[]);
        let slots = loads.place_new(&mut group, count);
        prop_assert!(spread(std::slice::from_ref(&slots), &members) <= 1);
        prop_assert!(slots.iter().all(|s| s.leader_epoch.0 == 0 && members.is_live(s.owner.unwrap())));
    }
}

#[test]
fn a_dead_brokers_partitions_are_spread_over_the_others_topic_by_topic() {
    let members = members(2);
    let topic = || vec![owned(nth(&members, 0)), owned(nth(&members, 1)), owned(DEAD), owned(DEAD)];
    let mut topics: Vec<Vec<Slot>> = (0..100).map(|_| topic()).collect();
    run(&mut topics, &members, 0);
    for topic in &topics {
        assert_eq!(spread(std::slice::from_ref(topic), &members), 0, "{topic:?}");
    }
}

#[test]
fn a_broker_that_joins_gets_its_share_by_releases() {
    let members = members(3);
    let mut topics: Vec<Vec<Slot>> = (0..30).map(|n| vec![owned(nth(&members, n % 2)); 3]).collect();
    let placement = run(&mut topics, &members, 100);
    assert_eq!((placement.changes.len(), placement.spread), (30, 0));
    assert!(placement.changes.iter().all(|change| change.slot.release));
    let_go(&mut topics, &members);
    run(&mut topics, &members, 100);
    assert_eq!(spread(&topics, &members), 0);
}

#[test]
fn a_restarted_broker_owns_nothing_of_its_predecessor() {
    let predecessor = Incarnation { node_id: NodeId(0), epoch: 3 };
    let members = Members { gone: [predecessor].into(), ..members(1) };
    let mut topics = vec![vec![owned(predecessor); 3]];
    run(&mut topics, &members, 0);
    assert!(topics[0].iter().all(|slot| slot.owner == Some(nth(&members, 0)) && slot.leader_epoch.0 == 5));
}

#[test]
fn without_brokers_nothing_changes() {
    let members = Members { gone: [DEAD].into(), ..Members::default() };
    assert_eq!(place(&[&[owned(DEAD)]], &members, 10), Placement::default());
    let mut none = Loads::default();
    let slots = none.clone().place_new(&mut none, 2);
    assert!(slots.iter().all(|slot| slot.owner.is_none()));
}
