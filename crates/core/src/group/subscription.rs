//! Reads the topics out of the consumers' own metadata (`ConsumerProtocolSubscription` and `ConsumerProtocolAssignment`,
//! versions 0 to 3), which the coordinator otherwise passes on unread.
//!
//! Only the prefix that all versions share is read: a version, then the topics. The bytes come from clients and may be
//! anything; what cannot be read is None.

use std::collections::{BTreeMap, BTreeSet};

use super::Group;

impl Group {
    /// Whether the group's consumers read the topic. A consumer group whose subscriptions cannot be read is taken to be
    /// subscribed to everything, so that its offsets are not deleted under it.
    pub fn is_subscribed_to(&self, topic: &str) -> bool {
        match &self.subscribed_topics {
            Some(topics) => topics.contains(topic),
            None => self.uses_consumer_protocol(),
        }
    }

    pub(super) fn read_subscribed_topics(&self) -> Option<BTreeSet<String>> {
        if !self.uses_consumer_protocol() {
            return None;
        }
        if self.members.is_empty() {
            return Some(BTreeSet::new());
        }
        let protocol = self.protocol_name.as_deref()?;
        let mut topics = BTreeSet::new();
        for member in self.members.iter() {
            topics.extend(subscribed_topics(&member.metadata(protocol))?);
        }
        Some(topics)
    }
}

/// The topics of a `ConsumerProtocolSubscription`.
pub fn subscribed_topics(metadata: &[u8]) -> Option<Vec<String>> {
    let mut reader = Reader(metadata);
    reader.version()?;
    let count = reader.count()?;
    (0..count).map(|_| reader.string()).collect()
}

/// The partitions of a `ConsumerProtocolAssignment`, by topic.
pub fn assigned_partitions(assignment: &[u8]) -> Option<BTreeMap<String, Vec<i32>>> {
    let mut reader = Reader(assignment);
    reader.version()?;
    let topics = reader.count()?;
    let mut assigned = BTreeMap::new();
    for _ in 0..topics {
        let topic = reader.string()?;
        let partitions = reader.count()?;
        let partitions: Option<Vec<i32>> = (0..partitions).map(|_| reader.int32()).collect();
        assigned.insert(topic, partitions?);
    }
    Some(assigned)
}

struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn take(&mut self, length: usize) -> Option<&[u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    fn int16(&mut self) -> Option<i16> {
        self.take(2)?.try_into().ok().map(i16::from_be_bytes)
    }

    fn int32(&mut self) -> Option<i32> {
        self.take(4)?.try_into().ok().map(i32::from_be_bytes)
    }

    fn version(&mut self) -> Option<i16> {
        self.int16().filter(|version| *version >= 0)
    }

    /// The length of an array. Each element takes two bytes or more, which bounds what a lie about it can cost.
    fn count(&mut self) -> Option<usize> {
        let count = usize::try_from(self.int32()?).ok()?;
        (count <= self.0.len() / 2).then_some(count)
    }

    fn string(&mut self) -> Option<String> {
        let length = usize::try_from(self.int16()?).ok()?;
        std::str::from_utf8(self.take(length)?).ok().map(str::to_owned)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn reads_the_topics_of_every_version() {
        let topics: &[u8] = b"\0\0\0\x02\0\x01a\0\x02bc";
        for (version, rest) in
            [(0, &b"\xff\xff\xff\xff"[..]), (1, b"\0\0\0\0\0\0\0\0"), (3, b"anything"), (9, b"")]
        {
            let metadata = [&[0, version], topics, rest].concat();
            assert_eq!(
                subscribed_topics(&metadata),
                Some(vec!["a".into(), "bc".into()]),
                "version {version}"
            );
        }
    }

    #[test]
    fn reads_the_partitions_of_an_assignment() {
        let assignment = b"\0\x01\0\0\0\x01\0\x01a\0\0\0\x02\0\0\0\x05\0\0\0\x07\xff\xff\xff\xff";
        assert_eq!(assigned_partitions(assignment), Some(BTreeMap::from([("a".into(), vec![5, 7])])));
    }

    #[test]
    fn bytes_that_are_no_subscription_are_none() {
        let cases: &[&[u8]] = &[
            b"",
            b"\0",
            b"\xff\xff\0\0\0\0",
            b"\0\0\x7f\xff\xff\xff",
            b"\0\0\xff\xff\xff\xff",
            b"\0\0\0\0\0\x01\0\x05abc",
            b"\0\0\0\0\0\x01\0\x02\xff\xfe",
        ];
        for bytes in cases {
            assert_eq!(subscribed_topics(bytes), None, "{bytes:?}");
        }
    }

    proptest! {
        #[test]
        fn hostile_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = subscribed_topics(&bytes);
            let _ = assigned_partitions(&bytes);
        }
    }
}
