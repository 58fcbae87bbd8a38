//! Requests that ApiVersions does not list, from clients that do not ask: answered in the form of their API where Apache Kafka
//! does so, so that a client learns why instead of seeing its connection closed.
//!
//! - Transactions (KIP-98), consumer groups of the new protocol (KIP-848), share groups (KIP-932), client metrics
//!   (KIP-714), changes of quotas and SCRAM users: UNSUPPORTED_VERSION.
//! - SASL: ILLEGAL_SASL_STATE, as on a listener without it.
//! - Delegation tokens: DELEGATION_TOKEN_AUTH_DISABLED.
//!
//! What only brokers and controllers send each other closes the connection, as does an API that nobody knows.

use std::sync::atomic::Ordering;

use bytes::Bytes;
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::{
    AddOffsetsToTxnRequest, AddOffsetsToTxnResponse, AddPartitionsToTxnRequest, AddPartitionsToTxnResponse,
    AlterClientQuotasRequest, AlterClientQuotasResponse, AlterUserScramCredentialsRequest,
    AlterUserScramCredentialsResponse, ApiKey, ConsumerGroupDescribeRequest, ConsumerGroupDescribeResponse,
    ConsumerGroupHeartbeatRequest, ConsumerGroupHeartbeatResponse, CreateDelegationTokenRequest,
    CreateDelegationTokenResponse, DescribeDelegationTokenRequest, DescribeDelegationTokenResponse,
    EndTxnRequest, EndTxnResponse, ExpireDelegationTokenRequest, ExpireDelegationTokenResponse,
    GetTelemetrySubscriptionsRequest, GetTelemetrySubscriptionsResponse, PushTelemetryRequest,
    PushTelemetryResponse, RenewDelegationTokenRequest, RenewDelegationTokenResponse,
    SaslAuthenticateRequest, SaslAuthenticateResponse, SaslHandshakeRequest, SaslHandshakeResponse,
    ShareAcknowledgeRequest, ShareAcknowledgeResponse, ShareFetchRequest, ShareFetchResponse,
    ShareGroupDescribeRequest, ShareGroupDescribeResponse, ShareGroupHeartbeatRequest,
    ShareGroupHeartbeatResponse, TxnOffsetCommitRequest, TxnOffsetCommitResponse,
};
use kafka_protocol::messages::{
    add_partitions_to_txn_request as add_partitions, add_partitions_to_txn_response as partitions_added,
    alter_client_quotas_response as quotas_altered, alter_user_scram_credentials_response as scram_altered,
    consumer_group_describe_response as group_described,
    share_group_describe_response as share_group_described, txn_offset_commit_response as offsets_committed,
};
use kafka_protocol::protocol::{Request, StrBytes};

use super::RequestContext;
use crate::wire::{self, Answer, Refusal};

/// What whoever asks for a transaction is told, where there is a place for it.
pub const NO_TRANSACTIONS: &str = "Transactions are not supported by this broker yet.";

/// The code for whoever begins a transaction by asking for its coordinator or a producer id: clients say that it is not supported. librdkafka asks
/// again until its timeout on any code that is not about authorization; it gets one, and the message beside it says why.
pub fn no_transactions(ctx: &RequestContext) -> ResponseError {
    if ctx.peer.is_librdkafka.load(Ordering::Relaxed) {
        ResponseError::TransactionalIdAuthorizationFailed
    } else {
        ResponseError::UnsupportedVersion
    }
}

/// The code of all refusals of one request, and how often the request is refused.
struct Refused<'a> {
    ctx: &'a RequestContext,
    error: ResponseError,
}

impl Refused<'_> {
    /// Counts the refusal.
    fn code(&self) -> i16 {
        self.ctx.fail(self.error)
    }
}

fn text(message: &'static str) -> Option<StrBytes> {
    Some(StrBytes::from_static_str(message))
}

/// The answer to a request of an API that is not offered. `None` closes the connection.
pub fn answer(ctx: &RequestContext, body: Bytes) -> Option<Result<Answer, Refusal>> {
    let error = match ctx.api {
        ApiKey::SaslHandshake | ApiKey::SaslAuthenticate => ResponseError::IllegalSaslState,
        ApiKey::CreateDelegationToken
        | ApiKey::RenewDelegationToken
        | ApiKey::ExpireDelegationToken
        | ApiKey::DescribeDelegationToken => ResponseError::DelegationTokenAuthDisabled,
        _ => ResponseError::UnsupportedVersion,
    };
    let refused = Refused { ctx, error };
    match ctx.api {
        ApiKey::AddPartitionsToTxn => refuse(&refused, body, add_partitions_to_txn),
        ApiKey::AddOffsetsToTxn => refuse(&refused, body, |r, _: AddOffsetsToTxnRequest| {
            AddOffsetsToTxnResponse::default().with_error_code(r.code())
        }),
        ApiKey::EndTxn => {
            refuse(&refused, body, |r, _: EndTxnRequest| EndTxnResponse::default().with_error_code(r.code()))
        }
        ApiKey::TxnOffsetCommit => refuse(&refused, body, txn_offset_commit),
        _ => groups(&refused, &body).or_else(|| security(&refused, &body)).or_else(|| others(&refused, body)),
    }
}

/// Groups of protocols that are not there.
fn groups(refused: &Refused<'_>, body: &Bytes) -> Option<Result<Answer, Refusal>> {
    let body = body.clone();
    match refused.ctx.api {
        ApiKey::ConsumerGroupHeartbeat => refuse(refused, body, |r, _: ConsumerGroupHeartbeatRequest| {
            ConsumerGroupHeartbeatResponse::default().with_error_code(r.code())
        }),
        ApiKey::ConsumerGroupDescribe => refuse(refused, body, |r, q: ConsumerGroupDescribeRequest| {
            let group =
                |id| group_described::DescribedGroup::default().with_group_id(id).with_error_code(r.code());
            ConsumerGroupDescribeResponse::default().with_groups(q.group_ids.into_iter().map(group).collect())
        }),
        ApiKey::ShareGroupHeartbeat => refuse(refused, body, |r, _: ShareGroupHeartbeatRequest| {
            ShareGroupHeartbeatResponse::default().with_error_code(r.code())
        }),
        ApiKey::ShareGroupDescribe => refuse(refused, body, |r, q: ShareGroupDescribeRequest| {
            let group = |id| {
                share_group_described::DescribedGroup::default().with_group_id(id).with_error_code(r.code())
            };
            ShareGroupDescribeResponse::default().with_groups(q.group_ids.into_iter().map(group).collect())
        }),
        ApiKey::ShareFetch => refuse(refused, body, |r, _: ShareFetchRequest| {
            ShareFetchResponse::default().with_error_code(r.code())
        }),
        ApiKey::ShareAcknowledge => refuse(refused, body, |r, _: ShareAcknowledgeRequest| {
            ShareAcknowledgeResponse::default().with_error_code(r.code())
        }),
        _ => None,
    }
}

/// SASL and delegation tokens.
fn security(refused: &Refused<'_>, body: &Bytes) -> Option<Result<Answer, Refusal>> {
    let body = body.clone();
    match refused.ctx.api {
        ApiKey::SaslHandshake => refuse(refused, body, |r, _: SaslHandshakeRequest| {
            SaslHandshakeResponse::default().with_error_code(r.code())
        }),
        ApiKey::SaslAuthenticate => refuse(refused, body, |r, _: SaslAuthenticateRequest| {
            let message = text("This listener does not authenticate with SASL.");
            SaslAuthenticateResponse::default().with_error_code(r.code()).with_error_message(message)
        }),
        ApiKey::CreateDelegationToken => refuse(refused, body, |r, _: CreateDelegationTokenRequest| {
            CreateDelegationTokenResponse::default().with_error_code(r.code())
        }),
        ApiKey::RenewDelegationToken => refuse(refused, body, |r, _: RenewDelegationTokenRequest| {
            RenewDelegationTokenResponse::default().with_error_code(r.code())
        }),
        ApiKey::ExpireDelegationToken => refuse(refused, body, |r, _: ExpireDelegationTokenRequest| {
            ExpireDelegationTokenResponse::default().with_error_code(r.code())
        }),
        ApiKey::DescribeDelegationToken => refuse(refused, body, |r, _: DescribeDelegationTokenRequest| {
            DescribeDelegationTokenResponse::default().with_error_code(r.code())
        }),
        _ => None,
    }
}

/// Changes of quotas and SCRAM users, client metrics.
fn others(refused: &Refused<'_>, body: Bytes) -> Option<Result<Answer, Refusal>> {
    match refused.ctx.api {
        ApiKey::AlterClientQuotas => refuse(refused, body, |r, q: AlterClientQuotasRequest| {
            let altered = |entry: kafka_protocol::messages::alter_client_quotas_request::EntryData| {
                let entity = |e: kafka_protocol::messages::alter_client_quotas_request::EntityData| {
                    quotas_altered::EntityData::default()
                        .with_entity_type(e.entity_type)
                        .with_entity_name(e.entity_name)
                };
                quotas_altered::EntryData::default()
                    .with_error_code(r.code())
                    .with_entity(entry.entity.into_iter().map(entity).collect())
            };
            AlterClientQuotasResponse::default().with_entries(q.entries.into_iter().map(altered).collect())
        }),
        ApiKey::AlterUserScramCredentials => {
            refuse(refused, body, |r, q: AlterUserScramCredentialsRequest| {
                let users =
                    q.deletions.into_iter().map(|d| d.name).chain(q.upsertions.into_iter().map(|u| u.name));
                let result = |user| {
                    scram_altered::AlterUserScramCredentialsResult::default()
                        .with_user(user)
                        .with_error_code(r.code())
                };
                AlterUserScramCredentialsResponse::default().with_results(users.map(result).collect())
            })
        }
        ApiKey::GetTelemetrySubscriptions => {
            refuse(refused, body, |r, _: GetTelemetrySubscriptionsRequest| {
                GetTelemetrySubscriptionsResponse::default().with_error_code(r.code())
            })
        }
        ApiKey::PushTelemetry => refuse(refused, body, |r, _: PushTelemetryRequest| {
            PushTelemetryResponse::default().with_error_code(r.code())
        }),
        _ => None,
    }
}

/// Decodes a request and encodes its refusal. A version that is not known closes the connection.
fn refuse<Q: Request>(
    refused: &Refused<'_>,
    body: Bytes,
    response: impl FnOnce(&Refused<'_>, Q) -> Q::Response,
) -> Option<Result<Answer, Refusal>> {
    let known = Q::VERSIONS;
    if !(known.min..=known.max).contains(&refused.ctx.version) {
        return None;
    }
    let decoded = wire::decode::<Q>(body, refused.ctx.version);
    Some(decoded.and_then(|request| refused.ctx.answer(&response(refused, request))))
}

fn add_partitions_to_txn(
    refused: &Refused<'_>,
    request: AddPartitionsToTxnRequest,
) -> AddPartitionsToTxnResponse {
    let topic = |topic: add_partitions::AddPartitionsToTxnTopic| {
        let partition = |index| {
            partitions_added::AddPartitionsToTxnPartitionResult::default()
                .with_partition_index(index)
                .with_partition_error_code(refused.code())
        };
        partitions_added::AddPartitionsToTxnTopicResult::default()
            .with_name(topic.name)
            .with_results_by_partition(topic.partitions.into_iter().map(partition).collect())
    };
    if refused.ctx.version < 4 {
        let topics = request.v3_and_below_topics.into_iter().map(topic).collect();
        return AddPartitionsToTxnResponse::default().with_results_by_topic_v3_and_below(topics);
    }
    AddPartitionsToTxnResponse::default().with_error_code(refused.code())
}

fn txn_offset_commit(refused: &Refused<'_>, request: TxnOffsetCommitRequest) -> TxnOffsetCommitResponse {
    let topics = request.topics.into_iter().map(|topic| {
        let partitions = topic.partitions.into_iter().map(|partition| {
            offsets_committed::TxnOffsetCommitResponsePartition::default()
                .with_partition_index(partition.partition_index)
                .with_error_code(refused.code())
        });
        let partitions = partitions.collect();
        offsets_committed::TxnOffsetCommitResponseTopic::default()
            .with_name(topic.name)
            .with_partitions(partitions)
    });
    TxnOffsetCommitResponse::default().with_topics(topics.collect())
}
