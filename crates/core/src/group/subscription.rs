//! Reads the topics out of the consumers' own metadata (`ConsumerProtocolSubscription` and `ConsumerProtocolAssignment`,
//! versions 0 to 3), which the coordinator otherwise passes on unread.
//!
//! Only the prefix that all versions share is read: a version, then the topics. The bytes come from clients and may be
//! anything; what cannot be read is None.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use super::Group;

/// The topics that the members of a group read, as sorted hashes of their names: members may name hundreds of thousands in a request, and
/// what each takes has to stay below what it took there. Where two names have one hash, an offset is kept for longer than need be.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct SubscribedTopics(Box<[u64]>);

impl SubscribedTopics {
    fn contains(&self, topic: &str) -> bool {
        self.0.binary_search(&hash_of(topic)).is_ok()
    }

    /// What it takes in memory.
    pub fn weight_bytes(&self) -> usize {
        size_of_val(&*self.0)
    }
}

fn hash_of(topic: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    topic.hash(&mut hasher);
    hasher.finish()
}

impl Group {
    /// Whether the group's consumers read the topic. A consumer group whose subscriptions cannot be read is taken to be
    /// subscribed to everything, so that its offsets are not deleted under it.
    pub fn is_subscribed_to(&self, topic: &str) -> bool {
        match &self.subscribed_topics {
            Some(topics) => topics.contains(topic),
            None => self.uses_consumer_protocol(),
        }
    }

    pub(super) fn read_subscribed_topics(&self) -> Option<SubscribedTopics> {
        if !self.uses_consumer_protocol() {
            return None;
        }
        if self.members.is_empty() {
            return Some(SubscribedTopics::default());
        }
        let protocol = self.protocol_name.as_deref()?;
        let mut hashes = Vec::new();
        for member in self.members.iter() {
            each_subscribed_topic(&member.metadata(protocol), |topic| hashes.push(hash_of(topic)))?;
        }
        hashes.sort_unstable();
        hashes.dedup();
        Some(SubscribedTopics(hashes.into()))
    }
}

/// Acts on the topics of a `ConsumerProtocolSubscription`, one after the other; `None` when they cannot be read to their end.
fn each_subscribed_topic(metadata: &[u8], mut act: impl FnMut(&str)) -> Option<()> {
    let mut reader = Reader(metadata);
    reader.version()?;
    for _ in 0..reader.count()? {
        act(reader.string()?);
    }
    Some(())
}

/// The partitions of a `ConsumerProtocolAssignment`, by topic.
pub fn assigned_partitions(assignment: &[u8]) -> Option<BTreeMap<String, Vec<i32>>> {
    let mut reader = Reader(assignment);
    reader.version()?;
    let topics = reader.count()?;
    let mut assigned = BTreeMap::new();
    for _ in 0..topics {
        let topic = reader.string()?.to_owned();
        let partitions = reader.count()?;
        let partitions: Option<Vec<i32>> = (0..partitions).map(|_| reader.int32()).collect();
        assigned.insert(topic, partitions?);
    }
    Some(assigned)
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
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

    fn string(&mut self) -> Option<&'a str> {
        let length = usize::try_from(self.int16()?).ok()?;
        std::str::from_utf8(self.take(length)?).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn subscribed_topics(metadata: &[u8]) -> Option<Vec<String>> {
        let mut topics = Vec::new();
        each_subscribed_topic(metadata, |topic| topics.push(topic.to_owned()))?;
        Some(topics)
    }

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
