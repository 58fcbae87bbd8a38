//! The name of a chain in an object store, and of the objects in it: `wal/{node_id}/{incarnation}/{seq}`, each with 20 digits,
//! so that a listing is in the order of the chain.

use object_store::path::Path;

/// Where all chains are.
pub const CHAINS: &str = "wal";

/// The chain of one broker process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChainId {
    pub node_id: i32,
    pub incarnation: u64,
}

impl ChainId {
    /// Where its objects are.
    pub fn directory(&self) -> Path {
        Path::from(format!("{CHAINS}/{:020}/{:020}", self.node_id, self.incarnation))
    }

    pub fn object(&self, seq: u64) -> Path {
        Path::from(format!("{CHAINS}/{:020}/{:020}/{seq:020}", self.node_id, self.incarnation))
    }

    /// The chain and the number of an object; `None` for a path that is no such object.
    pub fn parse(path: &Path) -> Option<(ChainId, u64)> {
        let mut parts = path.as_ref().split('/');
        if parts.next() != Some(CHAINS) {
            return None;
        }
        let mut number = || parts.next().filter(|digits| digits.len() == 20).and_then(|d| d.parse().ok());
        let (node_id, incarnation, seq) = (number()?, number()?, number()?);
        let id = ChainId { node_id: i32::try_from(node_id).ok()?, incarnation };
        (id.object(seq) == *path).then_some((id, seq))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back_and_nothing_else_is_a_name() {
        let id = ChainId { node_id: 7, incarnation: u64::MAX };
        let path = id.object(12);
        assert_eq!(path.as_ref(), "wal/00000000000000000007/18446744073709551615/00000000000000000012");
        assert_eq!(ChainId::parse(&path), Some((id, 12)));
        for other in ["wal/7/1/2", "topics/a", "wal/00000000000000000007/00000000000000000001", "wal"] {
            assert_eq!(ChainId::parse(&Path::from(other)), None, "{other}");
        }
        assert_eq!(ChainId::parse(&Path::from(format!("{path}/1"))), None);
    }
}
