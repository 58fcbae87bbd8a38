//! The Kafka error code of every reason for which a group refuses a request.

use kafka_protocol::error::ResponseError;
use kafscale_core::group::GroupError;

pub fn code_of(error: GroupError) -> ResponseError {
    match error {
        GroupError::CoordinatorNotAvailable => ResponseError::CoordinatorNotAvailable,
        GroupError::NotCoordinator => ResponseError::NotCoordinator,
        GroupError::Loading => ResponseError::CoordinatorLoadInProgress,
        GroupError::InvalidGroupId => ResponseError::InvalidGroupId,
        GroupError::UnknownMember => ResponseError::UnknownMemberId,
        GroupError::IllegalGeneration => ResponseError::IllegalGeneration,
        GroupError::RebalanceInProgress => ResponseError::RebalanceInProgress,
        GroupError::InconsistentProtocol => ResponseError::InconsistentGroupProtocol,
        GroupError::FencedInstance => ResponseError::FencedInstanceId,
        GroupError::MemberIdRequired => ResponseError::MemberIdRequired,
        GroupError::InvalidSessionTimeout => ResponseError::InvalidSessionTimeout,
        GroupError::MaxSizeReached => ResponseError::GroupMaxSizeReached,
        GroupError::NonEmpty => ResponseError::NonEmptyGroup,
        GroupError::NotFound => ResponseError::GroupIdNotFound,
        GroupError::SubscribedToTopic => ResponseError::GroupSubscribedToTopic,
        // What Apache Kafka answers when the record of a commit is too large for its log. Consumers give up on it.
        GroupError::OffsetsTooLarge => ResponseError::InvalidCommitOffsetSize,
        // What Apache Kafka answers when the record of a group is too large for its log.
        GroupError::TooLarge => ResponseError::UnknownServerError,
    }
}
