//! Which connections a small server keeps when more come than it has room for: those of MCP and of metrics and health.
//!
//! A connection is *waiting* while its peer owes it a request: before the first one, within a head that has not arrived whole, and
//! between two requests. It is *busy* while a request is answered. When the table is full, a newcomer takes the place of a waiting
//! connection: the oldest one of the peer that has most of them. So somebody who opens connections and sends nothing, or half a line,
//! loses his own; who sends a request at once is served before his turn comes.
//!
//! Invariant: there are never more than `max` connections, and a busy one is never closed for another.
//! Left to others: time limits, and how many requests one peer may keep busy.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv6Addr};

/// A connection of the table. Never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionId(u64);

/// See the file's comment. `T` is how the owner closes a connection.
#[derive(Debug)]
pub struct ConnectionTable<T> {
    max: usize,
    open: BTreeMap<ConnectionId, Open<T>>,
    /// Grows with every change, so that what waits is in an order.
    turn: u64,
}

#[derive(Debug)]
struct Open<T> {
    peer: IpAddr,
    /// Since which turn it waits; `None` while it is busy.
    waiting_since: Option<u64>,
    handle: T,
}

/// What became of a newcomer.
#[derive(Debug, PartialEq, Eq)]
pub enum Admission<T> {
    /// It is in the table; the connection whose place it took, if it took one, is to be closed.
    Admitted { id: ConnectionId, evicted: Option<T> },
    /// Every connection is busy.
    Full,
}

impl<T> ConnectionTable<T> {
    pub fn new(max: usize) -> Self {
        Self { max, open: BTreeMap::new(), turn: 0 }
    }

    /// Takes in a new connection, which waits.
    pub fn admit(&mut self, address: IpAddr, handle: T) -> Admission<T> {
        let mut evicted = None;
        if self.open.len() >= self.max {
            let Some(victim) = self.victim() else { return Admission::Full };
            evicted = self.open.remove(&victim).map(|open| open.handle);
        }
        self.turn += 1;
        let id = ConnectionId(self.turn);
        let open = Open { peer: peer_of(address), waiting_since: Some(self.turn), handle };
        self.open.insert(id, open);
        Admission::Admitted { id, evicted }
    }

    /// A request of the connection is answered from now on. `false`: the connection was given up, and is not to be served.
    pub fn busy(&mut self, id: ConnectionId) -> bool {
        self.open.get_mut(&id).map(|open| open.waiting_since = None).is_some()
    }

    /// The answer is out; the next request is waited for.
    pub fn waiting(&mut self, id: ConnectionId) {
        self.turn += 1;
        if let Some(open) = self.open.get_mut(&id) {
            open.waiting_since = Some(self.turn);
        }
    }

    /// The connection has ended.
    pub fn leave(&mut self, id: ConnectionId) {
        self.open.remove(&id);
    }

    pub fn len(&self) -> usize {
        self.open.len()
    }

    pub fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    fn victim(&self) -> Option<ConnectionId> {
        let waiting =
            || self.open.iter().filter_map(|(id, open)| Some((open.waiting_since?, *id, open.peer)));
        let mut of_peer: HashMap<IpAddr, usize> = HashMap::new();
        for (_, _, peer) in waiting() {
            *of_peer.entry(peer).or_default() += 1;
        }
        let most = of_peer.values().copied().max()?;
        waiting().filter(|(_, _, peer)| of_peer[peer] == most).min().map(|(_, id, _)| id)
    }
}

/// Who is behind an address: a host of IPv6 has as many addresses as it likes, out of the 64 bits of its own.
pub fn peer_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => address.into(),
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ip(last: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, last])
    }

    fn admit(table: &mut ConnectionTable<u32>, address: IpAddr, handle: u32) -> (ConnectionId, Option<u32>) {
        match table.admit(address, handle) {
            Admission::Admitted { id, evicted } => (id, evicted),
            Admission::Full => panic!("there is room or somebody waits"),
        }
    }

    #[test]
    fn a_newcomer_takes_the_place_of_the_oldest_that_waits() {
        let mut table = ConnectionTable::new(2);
        let (first, none) = admit(&mut table, ip(1), 1);
        assert_eq!(none, None);
        admit(&mut table, ip(1), 2);
        assert!(table.busy(first));
        assert_eq!(admit(&mut table, ip(1), 3).1, Some(2));
        table.waiting(first);
        assert_eq!(admit(&mut table, ip(1), 4).1, Some(3), "the first one waits for a shorter time");
        assert_eq!(admit(&mut table, ip(1), 5).1, Some(1));
        assert!(!table.busy(first), "it was given up");
    }

    #[test]
    fn who_holds_most_loses_first() {
        let mut table = ConnectionTable::new(4);
        admit(&mut table, ip(1), 1);
        for handle in 2..=4 {
            admit(&mut table, ip(2), handle);
        }
        assert_eq!(admit(&mut table, ip(3), 5).1, Some(2));
        assert_eq!(admit(&mut table, ip(4), 6).1, Some(3));
        assert_eq!(admit(&mut table, ip(5), 7).1, Some(1), "all peers have one: the oldest goes");
    }

    #[test]
    fn nobody_is_closed_while_busy() {
        let mut table = ConnectionTable::new(1);
        let (id, _) = admit(&mut table, ip(1), 1);
        table.busy(id);
        assert_eq!(table.admit(ip(2), 2), Admission::Full);
        table.leave(id);
        assert!(matches!(table.admit(ip(2), 2), Admission::Admitted { evicted: None, .. }));
    }

    #[test]
    fn the_addresses_of_one_host_are_one_peer() {
        let of = |text: &str| peer_of(text.parse().unwrap());
        assert_eq!(of("2001:db8::1"), of("2001:db8::ffff:1"));
        assert_ne!(of("2001:db8::1"), of("2001:db8:0:1::1"));
        assert_eq!(of("::ffff:10.0.0.1"), of("10.0.0.1"));
    }

    proptest! {
        #[test]
        fn the_table_is_bounded_and_busy_ones_stay(
            steps in proptest::collection::vec((0_u8..4, 0_u8..3, 0_usize..40), 1..200),
        ) {
            let mut table = ConnectionTable::new(5);
            let (mut ids, mut busy) = (Vec::new(), std::collections::BTreeSet::new());
            for (step, peer, which) in steps {
                let id = ids.get(which % ids.len().max(1)).copied();
                match (step, id) {
                    (0, _) => if let Admission::Admitted { id, .. } = table.admit(ip(peer), peer) { ids.push(id) },
                    (1, Some(id)) => if table.busy(id) { busy.insert(id); },
                    (2, Some(id)) => { table.waiting(id); busy.remove(&id); },
                    (_, Some(id)) => { table.leave(id); busy.remove(&id); },
                    (_, None) => {}
                }
                prop_assert!(table.len() <= 5);
                prop_assert!(busy.iter().all(|id| table.open.contains_key(id)));
            }
        }
    }
}
