//! How many connections each address has (`max.connections.per.ip`), so that one peer cannot take all of them.
//!
//! An IPv6 host usually has a whole /64 network to itself: its addresses count together. IPv4 addresses that an IPv6 socket shows in
//! mapped form count as what they are.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use parking_lot::Mutex;

/// The connections of all addresses.
#[derive(Debug, Default)]
pub struct Addresses {
    counts: Mutex<HashMap<IpAddr, usize>>,
}

/// A connection that counts, until this is dropped.
#[derive(Debug)]
pub struct Counted {
    addresses: Arc<Addresses>,
    of: IpAddr,
}

impl Addresses {
    /// Counts a connection. `None` when its address has `limit` of them, or more.
    pub fn admit(self: &Arc<Self>, address: IpAddr, limit: usize) -> Option<Counted> {
        let of = counted_as(address);
        let mut counts = self.counts.lock();
        let count = counts.entry(of).or_default();
        if *count >= limit {
            if *count == 0 {
                counts.remove(&of);
            }
            return None;
        }
        *count += 1;
        Some(Counted { addresses: Arc::clone(self), of })
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let mut counts = self.addresses.counts.lock();
        if let Some(count) = counts.get_mut(&self.of) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.of);
            }
        }
    }
}

fn counted_as(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) if !v6.is_loopback() => {
            let [a, b, c, d, ..] = v6.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn an_address_has_its_share_and_gives_it_back() {
        let addresses = Arc::new(Addresses::default());
        let first = addresses.admit(ip("10.0.0.1"), 2).unwrap();
        let _second = addresses.admit(ip("::ffff:10.0.0.1"), 2).unwrap();
        assert!(addresses.admit(ip("10.0.0.1"), 2).is_none());
        assert!(addresses.admit(ip("10.0.0.1"), 3).is_some(), "more are allowed now");
        assert!(addresses.admit(ip("10.0.0.2"), 2).is_some());
        drop(first);
        assert!(addresses.admit(ip("10.0.0.1"), 1).is_none(), "fewer are allowed now");
        assert!(addresses.admit(ip("10.0.0.1"), 2).is_some());
        assert_eq!(addresses.counts.lock().len(), 1, "nothing is left of an address that is gone");
    }

    #[test]
    fn a_network_of_ipv6_counts_as_one() {
        let addresses = Arc::new(Addresses::default());
        let _first = addresses.admit(ip("2001:db8:1:2::3"), 1).unwrap();
        assert!(addresses.admit(ip("2001:db8:1:2:ffff::4"), 1).is_none());
        assert!(addresses.admit(ip("2001:db8:1:3::3"), 1).is_some());
    }
}
