//! What one connection keeps on the server: its prepared statements and portals, and how many bytes
//! they take. They are estimates, on the high side.

use std::collections::HashMap;

use crate::error::SqlError;

/// Of one connection.
const HELD_BYTES_MAX: usize = 64 << 20;
/// A portal may have a query that waits, with rows that nobody has fetched yet.
pub const PORTAL_BYTES: usize = 32 << 10;
pub const STATEMENT_BYTES: usize = 2 << 10;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Statement,
    Portal,
}

#[derive(Debug, Default)]
pub struct Held {
    statements: HashMap<String, usize>,
    portals: HashMap<String, usize>,
    bytes: usize,
}

impl Held {
    fn of(&mut self, kind: Kind) -> &mut HashMap<String, usize> {
        match kind {
            Kind::Statement => &mut self.statements,
            Kind::Portal => &mut self.portals,
        }
    }

    /// In the place of what had this name.
    pub fn add(&mut self, kind: Kind, name: &str, bytes: usize) -> Result<(), SqlError> {
        self.remove(kind, name);
        if self.bytes.saturating_add(bytes) > HELD_BYTES_MAX {
            let message = format!(
                "the prepared statements and portals of this connection would take more than {} MiB; close some",
                HELD_BYTES_MAX >> 20
            );
            return Err(SqlError::State { code: "53200", message });
        }
        self.bytes += bytes;
        self.of(kind).insert(name.to_owned(), bytes);
        Ok(())
    }

    pub fn remove(&mut self, kind: Kind, name: &str) {
        self.bytes -= self.of(kind).remove(name).unwrap_or_default();
    }

    /// Takes all of a kind. Gives their names.
    pub fn clear(&mut self, kind: Kind) -> Vec<String> {
        let taken = std::mem::take(self.of(kind));
        self.bytes -= taken.values().sum::<usize>();
        taken.into_keys().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_held_is_bounded_and_given_back() {
        let mut held = Held::default();
        for at in 0..16 {
            held.add(Kind::Portal, &format!("p{at}"), 4 << 20).unwrap();
        }
        assert_eq!(held.add(Kind::Statement, "s", 1).unwrap_err().code(), "53200");
        // One in the place of another takes no more.
        held.add(Kind::Portal, "p0", 4 << 20).unwrap();
        held.remove(Kind::Portal, "p1");
        held.remove(Kind::Portal, "p1");
        held.add(Kind::Statement, "s", 4 << 20).unwrap();
        assert_eq!(held.clear(Kind::Portal).len(), 15);
        assert_eq!((held.bytes, held.clear(Kind::Statement)), (4 << 20, vec!["s".to_owned()]));
        assert_eq!(held.bytes, 0);
    }
}
