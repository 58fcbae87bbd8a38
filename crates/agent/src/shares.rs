//! Shares of something bounded: so many for everybody together, and fewer for each principal, so that one cannot take all. Nor can a
//! few: a principal has no more than are left for others, as with [`places`](crate::places).
//!
//! Invariant: what is taken is counted until its [`Share`] is dropped, and nothing is kept of a principal that holds none.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use parking_lot::Mutex;

/// See the file's comment.
#[derive(Debug)]
pub struct Shares {
    /// In the plural, for whoever is refused.
    what: &'static str,
    all_max: usize,
    of_each_max: usize,
    taken: Mutex<HashMap<Arc<str>, usize>>,
}

/// Why there is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Full {
    /// This principal has its share.
    OfPrincipal { what: &'static str, max: usize },
    /// All principals together have all there is.
    Altogether { what: &'static str, max: usize },
}

impl fmt::Display for Full {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OfPrincipal { what, max } => write!(f, "this principal has {max} {what} open already"),
            Self::Altogether { what, max } => write!(f, "{max} {what} are open already, of all principals"),
        }
    }
}

impl std::error::Error for Full {}

/// One of what is shared; given back when it is dropped.
#[derive(Debug)]
pub struct Share {
    of: Arc<Shares>,
    principal: Arc<str>,
}

impl Shares {
    pub fn new(what: &'static str, all_max: usize, of_each_max: usize) -> Arc<Self> {
        Arc::new(Self { what, all_max, of_each_max, taken: Mutex::default() })
    }

    pub fn take(self: &Arc<Self>, principal: &Arc<str>) -> Result<Share, Full> {
        let mut taken = self.taken.lock();
        let own = taken.get(principal).copied().unwrap_or(0);
        let left = self.all_max.saturating_sub(taken.values().sum());
        if left == 0 {
            return Err(Full::Altogether { what: self.what, max: self.all_max });
        }
        if own >= self.of_each_max.min(left) {
            return Err(Full::OfPrincipal { what: self.what, max: own });
        }
        taken.insert(Arc::clone(principal), own + 1);
        Ok(Share { of: Arc::clone(self), principal: Arc::clone(principal) })
    }
}

impl Share {
    pub fn principal(&self) -> &Arc<str> {
        &self.principal
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut taken = self.of.taken.lock();
        match taken.get_mut(&self.principal) {
            Some(own) if *own > 1 => *own -= 1,
            Some(_) | None => drop(taken.remove(&self.principal)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_principal_cannot_take_everything() {
        let shares = Shares::new("sessions", 7, 3);
        let [ana, bot, eve, dan, kim] = ["ana", "bot", "eve", "dan", "kim"].map(Arc::<str>::from);
        let mut held: Vec<Share> = (0..3).map(|_| shares.take(&ana).unwrap()).collect();
        let full = shares.take(&ana).unwrap_err();
        assert_eq!(full.to_string(), "this principal has 3 sessions open already");
        // No more than are left for others.
        held.extend((0..2).map(|_| shares.take(&bot).unwrap()));
        let full = shares.take(&bot).unwrap_err();
        assert_eq!(full.to_string(), "this principal has 2 sessions open already");
        held.extend([shares.take(&eve).unwrap(), shares.take(&dan).unwrap()]);
        let full = shares.take(&kim).unwrap_err();
        assert_eq!(full.to_string(), "7 sessions are open already, of all principals");
        held.pop();
        assert!(shares.take(&kim).is_ok());
        drop(held);
        assert!(shares.taken.lock().is_empty());
    }
}
