//! LeaveGroup: members that say goodbye, and static members that an administrator removes (KIP-345, KIP-571).

use super::event::{Effect, GroupError, LeavingMember, LeftMember};
use super::ids::{MemberId, Token};
use super::join::reason_of_client;
use super::{Group, GroupState, NAMED_MAX, Turn};

impl Group {
    pub(super) fn leave(&mut self, token: Token, members: Vec<LeavingMember>, turn: &mut Turn) {
        if self.state == GroupState::Dead {
            let result = Err(GroupError::CoordinatorNotAvailable);
            return turn.effects.push(Effect::ReplyLeave { token, result });
        }
        let (mut reasons, mut more) = (Vec::new(), 0);
        let mut left = Vec::with_capacity(members.len());
        for member in members {
            let result = self.leave_one(&member, turn);
            if result.is_ok() && reasons.len() < NAMED_MAX {
                let reason = reason_of_client(member.reason.as_deref());
                reasons.push(format!("{} left (client reason: {reason})", member.member_id));
            } else if result.is_ok() {
                more += 1;
            }
            left.push(LeftMember { member_id: member.member_id, instance_id: member.instance_id, result });
        }
        turn.effects.push(Effect::ReplyLeave { token, result: Ok(left) });
        if reasons.is_empty() {
            return;
        }
        if more > 0 {
            reasons.push(format!("{more} more left"));
        }
        match self.state {
            GroupState::Stable | GroupState::CompletingRebalance => {
                self.rebalance_or_complete(&reasons.join(", "), turn);
            }
            GroupState::PreparingRebalance => self.maybe_complete_join(turn),
            GroupState::Empty | GroupState::Dead => {}
        }
    }

    fn leave_one(&mut self, leaving: &LeavingMember, turn: &mut Turn) -> Result<(), GroupError> {
        let id = if leaving.member_id.is_unknown() {
            self.static_member(leaving)?
        } else {
            if !self.pending_joins.contains(&leaving.member_id) {
                self.members.check(&leaving.member_id, leaving.instance_id.as_ref())?;
            }
            leaving.member_id.clone()
        };
        self.remove_member(&id, turn);
        Ok(())
    }

    /// An administrator knows a static member by its instance id alone.
    fn static_member(&self, leaving: &LeavingMember) -> Result<MemberId, GroupError> {
        let instance = leaving.instance_id.as_ref().ok_or(GroupError::UnknownMember)?;
        self.members.instance(instance).cloned().ok_or(GroupError::UnknownMember)
    }
}
