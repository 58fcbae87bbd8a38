//! What DescribeGroups and ListGroups show of a group.

use bytes::Bytes;

use super::ids::{InstanceId, MemberId};
use super::members::Member;
use super::{Group, GroupState};

/// Classic groups are listed as this type (KIP-848).
pub const GROUP_TYPE: &str = "classic";

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupView {
    pub state: GroupState,
    /// Empty for a group that only stores offsets.
    pub protocol_type: String,
    /// The chosen protocol; only known while the group is stable.
    pub protocol_name: String,
    pub members: Vec<MemberView>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberView {
    pub member_id: MemberId,
    pub instance_id: Option<InstanceId>,
    pub client_id: String,
    pub client_host: String,
    /// Empty while the group rebalances, as the assignment is.
    pub metadata: Bytes,
    pub assignment: Bytes,
}

impl Group {
    pub fn view(&self) -> GroupView {
        let stable = self.state == GroupState::Stable;
        let protocol = self.protocol_name.as_deref().filter(|_| stable).unwrap_or_default();
        let member = |m: &Member| MemberView {
            member_id: m.id.clone(),
            instance_id: m.instance_id.clone(),
            client_id: m.client_id.clone(),
            client_host: m.client_host.clone(),
            metadata: if stable { m.metadata(protocol) } else { Bytes::new() },
            assignment: if stable { m.assignment.clone() } else { Bytes::new() },
        };
        GroupView {
            state: self.state,
            protocol_type: self.protocol_type().to_owned(),
            protocol_name: protocol.to_owned(),
            members: self.members.iter().map(member).collect(),
        }
    }

    /// Empty for a group that only stores offsets.
    pub fn protocol_type(&self) -> &str {
        self.protocol_type.as_deref().unwrap_or_default()
    }
}
