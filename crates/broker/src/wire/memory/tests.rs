//! Shares of request memory: what they allow, and that they are given back.

use std::net::IpAddr;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use proptest::prelude::*;

use super::*;

const MIB: usize = 1 << 20;

fn memory(total: usize, largest: usize) -> Arc<RequestMemory> {
    Arc::new(RequestMemory::new(total, largest))
}

fn peer(n: u8) -> Requester {
    Requester::Peer(IpAddr::from([10, 0, 0, n]))
}

/// Takes as much as may be had.
fn fill(account: &Arc<Account>) -> Charge {
    let mut charge = account.charge();
    while charge.try_grow(1, MIB).is_some() {}
    charge
}

fn is_ready(waiting: &mut Pin<Box<impl Future<Output = ()>>>) -> bool {
    matches!(waiting.as_mut().poll(&mut Context::from_waker(Waker::noop())), Poll::Ready(()))
}

#[test]
fn one_peer_leaves_room_for_the_others() {
    let memory = memory(512 * MIB, 100 * MIB);
    let shared = 412 * MIB;
    let greedy: Vec<_> = (0..50).map(|_| memory.account(peer(1))).collect();
    let _held: Vec<_> = greedy.iter().map(fill).collect();
    assert!(memory.used_bytes() <= shared / 2, "one peer takes half at most: {}", memory.used_bytes());
    let mut honest = memory.account(peer(2)).charge();
    assert_eq!(honest.try_grow(5 * MIB, 5 * MIB), Some(5 * MIB));
}

/// The request that is given up when `account` waits for so much.
fn given_up_for(account: &Arc<Account>, bytes: usize, charges: &mut Vec<Charge>) -> Option<Charge> {
    let mut charge = account.charge();
    if charge.try_grow(bytes, bytes).is_some() {
        return None;
    }
    // Somebody else has the turn.
    let other = account.memory.account(peer(250));
    let mut turn = other.charge();
    assert!(is_ready(&mut Box::pin(turn.wait(512 * MIB))));
    assert!(!is_ready(&mut Box::pin(charge.wait(bytes))), "there is room");
    let at = charges.iter().position(|held| held.account.of.evicted.load(Relaxed))?;
    let victim = charges.remove(at);
    Some(victim)
}

#[test]
fn the_largest_connection_of_a_peer_makes_way_for_its_other_ones() {
    let memory = memory(512 * MIB, 100 * MIB);
    let accounts: Vec<_> = (0..20).map(|_| memory.account(peer(1))).collect();
    let mut held: Vec<_> = accounts[..19].iter().map(fill).collect();
    let largest = held[0].bytes();
    let victim = given_up_for(&accounts[19], SMALL_BYTES, &mut held).expect("nothing was free");
    assert_eq!(victim.bytes(), largest);
    drop(victim);
    assert!(accounts[19].charge().try_grow(5 * MIB, 5 * MIB).is_some());
}

#[test]
fn the_largest_of_many_peers_makes_way_for_one_who_has_nothing() {
    let memory = memory(512 * MIB, 100 * MIB);
    let accounts: Vec<_> = (0..60).map(|n| memory.account(peer(n))).collect();
    let mut held: Vec<_> = accounts.iter().map(fill).collect();
    let honest = memory.account(peer(200));
    let victim = given_up_for(&honest, SMALL_BYTES, &mut held).expect("nothing was free");
    assert!(victim.bytes() > 100 * MIB);
    drop(victim);
    assert!(honest.charge().try_grow(5 * MIB, 5 * MIB).is_some());
}

#[test]
fn nothing_makes_way_for_a_large_request() {
    let memory = memory(512 * MIB, 100 * MIB);
    let accounts: Vec<_> = (0..60).map(|n| memory.account(peer(n))).collect();
    let mut held: Vec<_> = accounts.iter().map(fill).collect();
    assert!(given_up_for(&memory.account(peer(200)), SMALL_BYTES + 1, &mut held).is_none());
    assert_eq!(held.len(), 60);
}

#[test]
fn what_has_arrived_is_not_given_up() {
    let memory = memory(512 * MIB, 100 * MIB);
    let accounts: Vec<_> = (0..60).map(|n| memory.account(peer(n))).collect();
    let mut held: Vec<_> = accounts.iter().map(fill).collect();
    held[0].arrived();
    let second = held[1].bytes();
    let victim = given_up_for(&memory.account(peer(200)), SMALL_BYTES, &mut held).expect("nothing was free");
    assert_eq!(victim.bytes(), second);
}

#[tokio::test(start_paused = true)]
async fn halves_of_large_requests_do_not_wait_for_each_other_for_ever() {
    let memory = memory(116 * MIB, 100 * MIB);
    let accounts: Vec<_> = (0..10).map(|n| memory.account(peer(n))).collect();
    let mut charges: Vec<Option<Charge>> = accounts.iter().map(|account| Some(fill(account))).collect();
    for _ in 0..100 {
        for slot in &mut charges {
            let Some(charge) = slot else { continue };
            while charge.bytes() < 100 * MIB && charge.try_grow(MIB, MIB).is_some() {}
            if charge.bytes() >= 100 * MIB {
                charge.arrived();
                *slot = None;
            } else {
                let _ = is_ready(&mut Box::pin(charge.wait(MIB)));
            }
        }
    }
    assert!(charges.iter().all(Option::is_none), "some wait for ever");
    assert_eq!(memory.used_bytes(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_turn_that_takes_long_is_overdue_once_others_wait() {
    let memory = memory(116 * MIB, 100 * MIB);
    let (slow, other) = (memory.account(peer(1)), memory.account(peer(2)));
    let mut slow = fill(&slow);
    assert!(is_ready(&mut Box::pin(slow.wait(50 * MIB))), "nobody else waits");
    tokio::time::advance(2 * TURN_MAX).await;
    assert!(!slow.is_overdue(), "nobody is kept waiting");
    let mut next = fill(&other);
    let mut waiting = Box::pin(next.wait(50 * MIB));
    assert!(!is_ready(&mut waiting));
    assert!(slow.is_overdue());
    drop(slow);
    assert!(is_ready(&mut waiting), "the turn went on");
}

#[tokio::test]
async fn who_waits_goes_on_when_memory_comes_back() {
    let memory = memory(116 * MIB, 100 * MIB);
    let accounts: Vec<_> = (0..4).map(|n| memory.account(peer(n))).collect();
    let (mut first, mut second) = (fill(&accounts[0]), fill(&accounts[1]));
    // The turn goes to one who waits for much.
    assert!(is_ready(&mut Box::pin(first.wait(90 * MIB))));
    let mut third = accounts[2].charge();
    let mut waiting = Box::pin(third.wait(8 * MIB));
    assert!(!is_ready(&mut waiting));
    second.shrink_to(0);
    assert!(is_ready(&mut waiting));
    drop(waiting);
    assert!(third.try_grow(8 * MIB, 8 * MIB).is_some());
}

proptest! {
    /// Whatever is done in whatever order, the budget is kept and everything comes back.
    #[test]
    fn nothing_is_lost_and_the_budget_is_kept(
        steps in proptest::collection::vec((0usize..6, 0usize..5, 0usize..40), 1..200),
    ) {
        let memory = memory(64 * MIB, 32 * MIB);
        let accounts: Vec<_> = (0..6).map(|n| memory.account(peer(n as u8 / 2))).collect();
        let mut charges: Vec<Charge> = accounts.iter().map(Account::charge).collect();
        for (at, what, mib) in steps {
            match what {
                0 | 1 => drop(charges[at].try_grow(1, mib * MIB)),
                2 => charges[at].shrink_to(mib * MIB),
                3 => drop(is_ready(&mut Box::pin(charges[at].wait(MIB)))),
                _ => charges[at] = accounts[at].charge(),
            }
            let sum: usize = charges.iter().map(Charge::bytes).sum();
            prop_assert_eq!(memory.used_bytes(), sum);
            prop_assert!(sum <= 64 * MIB || what != 0, "{} bytes", sum);
        }
        drop((charges, accounts));
        let state = memory.state.lock();
        prop_assert_eq!((state.used, state.parties.len(), state.waiting.len()), (0, 0, 0));
        prop_assert_eq!((state.holders, state.connections.len(), state.evicting), (0, 0, None));
        prop_assert!(state.turn.is_none());
    }
}
