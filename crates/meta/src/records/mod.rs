//! What is kept in the metadata store: one file per record type, with its keys, its encoding and who writes it when.
//!
//! Keys are `/kafscale/{cluster}/...`; arbitrary strings in them (group ids, topic names) are percent-encoded, which is
//! injective, so that no name can collide with another one or leave its place.
//!
//! Values are JSON objects with a version: `{"v":1,...}`. A reader refuses a higher version and says so, and ignores
//! fields that it does not know, so that a field may be added within a version. Bytes are base64.

mod assignment;
mod audit_anchor;
mod broker;
mod broker_config;
mod chain;
mod cluster;
mod codec;
mod controller;
mod coordinator;
mod deleted_topic;
mod group;
mod history;
mod incarnation_base;
mod member;
mod offset;
mod outdated;
mod partition;
mod producer_ids;
mod producers;
mod store_identity;
mod topic;
mod trace;
mod wal_end;

pub use assignment::{AssignmentRecord, PartitionAssignment};
pub use audit_anchor::AuditAnchorRecord;
pub use broker::{BrokerRecord, ListenerRecord};
pub use broker_config::{BrokerConfigRecord, ConfigScope};
pub use chain::ChainRecord;
pub use cluster::ClusterRecord;
pub use codec::{Keyspace, Record, uuid_from_text, uuid_to_text};
pub use controller::ControllerRecord;
pub use coordinator::{COORDINATOR_SLOTS, CoordinatorRecord};
pub use deleted_topic::DeletedTopicRecord;
pub use group::{GroupMember, GroupProtocol, GroupRecord};
pub use history::{HistoryEntry, HistoryKind, HistoryRecord};
pub use incarnation_base::IncarnationBaseRecord;
pub use member::{LostRecord, MemberRecord, PreviousRecord};
pub use offset::{OffsetKey, OffsetRecord};
pub use outdated::OutdatedRecord;
pub use partition::{PartitionRecord, SegmentRecord};
pub use producer_ids::{PRODUCER_ID_BLOCK, ProducerIdsRecord};
pub use producers::{ProducerBatch, ProducerEntry, ProducersRecord};
pub use store_identity::StoreRecord;
pub use topic::TopicRecord;
pub use trace::TraceRecord;
pub use wal_end::WalEndRecord;
