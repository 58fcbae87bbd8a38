//! OffsetFetch (9), versions 1–9: how far groups have come; all topics when none are named, several groups since version 8
//! (KIP-709).
//!
//! A partition without a committed offset has -1, and so has every partition of an unknown group. As there are no
//! transactions, every committed offset is stable (KIP-447).
//!
//! Differs from Apache Kafka: a group or partition that is named several times is answered once. Groups whose offsets do not fit into the
//! memory for one answer are refused with POLICY_VIOLATION. An offset that was committed for an earlier topic of the same name is not returned.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::offset_fetch_request::OffsetFetchRequestGroup;
use kafka_protocol::messages::offset_fetch_response::{
    OffsetFetchResponseGroup, OffsetFetchResponsePartition, OffsetFetchResponsePartitions,
    OffsetFetchResponseTopic, OffsetFetchResponseTopics,
};
use kafka_protocol::messages::{GroupId, OffsetFetchRequest, OffsetFetchResponse, TopicName};
use kafka_protocol::protocol::StrBytes;
use kafscale_core::group::GroupError;
use kafscale_core::group::offsets::{CommittedOffset, CommittedOffsets};
use kafscale_core::ids::TopicId;

use super::answer_size::STRUCTURE_BYTES;
use super::group_error::code_of;
use super::{BUILT_HERE_MAX_BYTES, RequestContext, breathe, str_bytes};
use crate::node::Node;

/// The partitions of a topic, with their committed offsets.
type Found = (TopicName, Vec<(i32, Option<CommittedOffset>)>);

/// What is asked for: partitions by topic, or all that there are.
type Asked = Option<Vec<(TopicName, Vec<i32>)>>;

/// The memory for one partition in an answer, its texts aside.
const PARTITION_BYTES: usize = 256;

/// Why nothing is said of a group.
enum Refused {
    Group(GroupError),
    TooLarge,
}

impl From<GroupError> for Refused {
    fn from(error: GroupError) -> Refused {
        Refused::Group(error)
    }
}

impl Refused {
    fn code(&self) -> ResponseError {
        match self {
            Refused::Group(error) => code_of(*error),
            Refused::TooLarge => ResponseError::PolicyViolation,
        }
    }
}

pub async fn handle(
    node: &Arc<Node>,
    ctx: &RequestContext,
    request: OffsetFetchRequest,
) -> OffsetFetchResponse {
    if ctx.version >= 8 {
        let asked = distinct_groups(request.groups);
        let fits = make_room(node, ctx, asked.iter().map(|(group, asked)| (group.as_str(), asked))).await;
        let mut groups = Vec::with_capacity(asked.len());
        let mut done = 0;
        for ((group, asked), fits) in asked.into_iter().zip(fits) {
            breathe(&mut done).await;
            let describe = |found: Vec<Found>| found.into_iter().map(topic).collect::<Vec<_>>();
            let found = match fits {
                Some(bytes) => fetch(node, ctx, &group, asked, bytes, describe).await,
                None => Err(Refused::TooLarge),
            };
            let answer = OffsetFetchResponseGroup::default().with_group_id(group);
            groups.push(match found {
                Ok(topics) => {
                    done += 1 + topics.iter().map(|topic| topic.partitions.len()).sum::<usize>();
                    answer.with_topics(topics)
                }
                Err(refused) => answer.with_error_code(ctx.fail(refused.code())),
            });
        }
        return OffsetFetchResponse::default().with_groups(groups);
    }
    let asked = request.topics.map(|topics| topics.into_iter().map(|t| (t.name, t.partition_indexes)));
    let asked = asked.map(distinct_topics);
    let fits = make_room(node, ctx, std::iter::once((request.group_id.as_str(), &asked))).await;
    let describe = |found: Vec<Found>| found.into_iter().map(|t| old_topic(t, 0)).collect::<Vec<_>>();
    let found = match fits.first().copied().flatten() {
        Some(bytes) => fetch(node, ctx, &request.group_id, asked.clone(), bytes, describe).await,
        None => Err(Refused::TooLarge),
    };
    match found {
        Ok(topics) => OffsetFetchResponse::default().with_topics(topics),
        Err(refused) => {
            let code = ctx.fail(refused.code());
            if ctx.version >= 2 {
                return OffsetFetchResponse::default().with_error_code(code);
            }
            // Version 1 has no place for an error but the partitions.
            let unknown = |(name, partitions): (TopicName, Vec<i32>)| {
                old_topic((name, partitions.into_iter().map(|p| (p, None)).collect()), code)
            };
            let topics = asked.unwrap_or_default().into_iter().map(unknown).collect();
            OffsetFetchResponse::default().with_topics(topics)
        }
    }
}

/// Each group once: with all partitions that are asked for, wherever it is named.
fn distinct_groups(groups: Vec<OffsetFetchRequestGroup>) -> Vec<(GroupId, Asked)> {
    let mut places: HashMap<GroupId, usize> = HashMap::new();
    let mut distinct: Vec<(GroupId, Asked)> = Vec::new();
    for group in groups {
        let asked =
            group.topics.map(|topics| topics.into_iter().map(|t| (t.name, t.partition_indexes)).collect());
        match places.get(&group.group_id).and_then(|place| distinct.get_mut(*place)) {
            Some((_, merged)) => {
                *merged = merged.take().zip(asked).map(|(mut all, more): (Vec<_>, Vec<_>)| {
                    all.extend(more);
                    all
                });
            }
            None => {
                places.insert(group.group_id.clone(), distinct.len());
                distinct.push((group.group_id, asked));
            }
        }
    }
    distinct
        .into_iter()
        .map(|(group, asked)| (group, asked.map(|topics| distinct_topics(topics.into_iter()))))
        .collect()
}

/// Each partition once, by topic.
fn distinct_topics(topics: impl Iterator<Item = (TopicName, Vec<i32>)>) -> Vec<(TopicName, Vec<i32>)> {
    let mut places: HashMap<TopicName, usize> = HashMap::new();
    let mut distinct: Vec<(TopicName, Vec<i32>)> = Vec::new();
    for (name, partitions) in topics {
        match places.get(&name).and_then(|place| distinct.get_mut(*place)) {
            Some((_, all)) => all.extend(partitions),
            None => {
                places.insert(name.clone(), distinct.len());
                distinct.push((name, partitions));
            }
        }
    }
    for (_, partitions) in &mut distinct {
        partitions.sort_unstable();
        partitions.dedup();
    }
    distinct
}

/// Makes room for what the groups have committed, and says of each group what it takes, if it fits.
async fn make_room<'a>(
    node: &Node,
    ctx: &RequestContext,
    asked: impl Iterator<Item = (&'a str, &'a Asked)>,
) -> Vec<Option<usize>> {
    let (max_bytes, mut bytes) = (ctx.answer_max_bytes(node), 0);
    let fits = asked.map(|(group, asked)| {
        // A group that is not coordinated here takes nothing.
        let needed = node.coordinator.offsets(group, |offsets| needed_bytes(offsets, asked)).unwrap_or(0);
        let topics = asked.as_ref().map_or(0, Vec::len);
        let needed = needed + STRUCTURE_BYTES * (1 + topics);
        let fits = bytes + needed <= max_bytes;
        if fits {
            bytes += needed;
        } else {
            ctx.note_refused_answer(node, bytes + needed);
        }
        fits.then_some(needed)
    });
    let fits = fits.collect();
    // That there is enough was just made sure of.
    let _ = ctx.make_room(node, bytes).await;
    fits
}

/// What the offsets take that are asked for.
fn needed_bytes(offsets: &CommittedOffsets, asked: &Asked) -> usize {
    let of = |committed: &CommittedOffset| PARTITION_BYTES + 2 * committed.metadata.len();
    match asked {
        None => offsets.iter().map(|(topic, _, committed)| of(committed) + topic.len()).sum(),
        Some(topics) => {
            let found = topics.iter().flat_map(|(name, partitions)| {
                partitions.iter().map(|partition| offsets.get(name, *partition))
            });
            found.map(|committed| committed.map_or(PARTITION_BYTES, of)).sum()
        }
    }
}

/// What a group has committed, as `describe` tells it; `bytes` is what that takes.
async fn fetch<T: Send + 'static>(
    node: &Arc<Node>,
    ctx: &RequestContext,
    group: &str,
    asked: Asked,
    bytes: usize,
    describe: impl FnOnce(Vec<Found>) -> T + Send + 'static,
) -> Result<T, Refused> {
    let doubtful = node.coordinator.offsets(group, |offsets| doubtful(node, offsets, asked.as_ref()))?;
    let mut ids = HashMap::new();
    for name in doubtful {
        let stored =
            node.metadata.load_topic(&name).await.map_err(|_| GroupError::CoordinatorNotAvailable)?;
        ids.insert(name, stored.map(|read| TopicId(read.record.topic_id)));
    }
    let (node, group) = (Arc::clone(node), group.to_owned());
    let look = move || {
        let current = |name: &str, committed: &CommittedOffset| match ids.get(name) {
            Some(id) => *id == Some(committed.topic_id),
            None => true,
        };
        let found = node.coordinator.offsets(&group, |offsets| match asked {
            Some(topics) => {
                let look_up = |(name, partitions)| look_up(offsets, current, name, partitions);
                topics.into_iter().map(look_up).collect()
            }
            None => all(offsets, current),
        });
        found.map(describe)
    };
    let found = if bytes > BUILT_HERE_MAX_BYTES {
        ctx.beside(look).await.map_err(|_| GroupError::CoordinatorNotAvailable)?
    } else {
        look()
    };
    Ok(found?)
}

/// Topics with offsets that were not committed for the topic that this broker knows by that name: it is another one of the same
/// name, or the committer's has not come in here yet. To take the one for the other would send consumers back to where they
/// once began.
fn doubtful(
    node: &Node,
    offsets: &CommittedOffsets,
    asked: Option<&Vec<(TopicName, Vec<i32>)>>,
) -> Vec<Arc<str>> {
    let asked: Option<HashSet<&str>> =
        asked.map(|asked| asked.iter().map(|(topic, _)| topic.as_str()).collect());
    let is_asked = |name: &str| asked.as_ref().is_none_or(|asked| asked.contains(name));
    let differs = |name: &str, partitions: &BTreeMap<i32, CommittedOffset>| {
        let known = node.topics.get(name);
        known.is_some_and(|topic| partitions.values().any(|committed| committed.topic_id != topic.id))
    };
    let topics = offsets.topics().filter(|(name, partitions)| is_asked(name) && differs(name, partitions));
    topics.map(|(name, _)| Arc::clone(name)).collect()
}

fn look_up(
    offsets: &CommittedOffsets,
    current: impl Fn(&str, &CommittedOffset) -> bool,
    name: TopicName,
    partitions: Vec<i32>,
) -> Found {
    let committed = |p: i32| offsets.get(&name, p).filter(|committed| current(&name, committed)).cloned();
    let found = partitions.into_iter().map(|p| (p, committed(p))).collect();
    (name, found)
}

fn all(offsets: &CommittedOffsets, current: impl Fn(&str, &CommittedOffset) -> bool) -> Vec<Found> {
    let topic = |(name, partitions): (&Arc<str>, &BTreeMap<i32, CommittedOffset>)| {
        let current = partitions.iter().filter(|(_, committed)| current(name, committed));
        let found: Vec<_> = current.map(|(p, c)| (*p, Some(c.clone()))).collect();
        (TopicName(str_bytes(name)), found)
    };
    offsets.topics().map(topic).filter(|(_, found)| !found.is_empty()).collect()
}

fn topic((name, partitions): Found) -> OffsetFetchResponseTopics {
    let partition = |(index, committed): (i32, Option<CommittedOffset>)| {
        let (offset, epoch, metadata) = values(committed);
        OffsetFetchResponsePartitions::default()
            .with_partition_index(index)
            .with_committed_offset(offset)
            .with_committed_leader_epoch(epoch)
            .with_metadata(Some(metadata))
    };
    OffsetFetchResponseTopics::default()
        .with_name(name)
        .with_partitions(partitions.into_iter().map(partition).collect())
}

fn old_topic((name, partitions): Found, error_code: i16) -> OffsetFetchResponseTopic {
    let partition = |(index, committed): (i32, Option<CommittedOffset>)| {
        let (offset, epoch, metadata) = values(committed);
        OffsetFetchResponsePartition::default()
            .with_partition_index(index)
            .with_committed_offset(offset)
            .with_committed_leader_epoch(epoch)
            .with_metadata(Some(metadata))
            .with_error_code(error_code)
    };
    OffsetFetchResponseTopic::default()
        .with_name(name)
        .with_partitions(partitions.into_iter().map(partition).collect())
}

/// Offset, leader epoch and note, as they are on the wire.
fn values(committed: Option<CommittedOffset>) -> (i64, i32, StrBytes) {
    match committed {
        Some(c) => {
            (c.offset.0, c.leader_epoch.map_or(-1, |epoch| epoch.0), StrBytes::from_string(c.metadata))
        }
        None => (-1, -1, StrBytes::default()),
    }
}
