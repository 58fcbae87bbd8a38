//! ApiVersions (18), versions 0–4: what this broker serves (KIP-35, KIP-511).
//!
//! An unknown version is answered in version 0 with UNSUPPORTED_VERSION and the list, so that a newer client can step down.
//! Produce is advertised from version 0 on, as by Apache Kafka (KAFKA-18659): librdkafka takes features away otherwise.
//! Versions 0 to 2 are then answered with UNSUPPORTED_VERSION.
//!
//! Features are listed from version 4 on: the clients of version 3 take no feature whose lowest level is 0.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::api_versions_response::ApiVersion;
use kafka_protocol::messages::{ApiVersionsRequest, ApiVersionsResponse};

use super::{RequestContext, SUPPORTED, features};
use crate::node::Node;
use crate::wire::{Answer, Refusal};

pub async fn handle(
    _node: &Arc<Node>,
    ctx: &RequestContext,
    request: ApiVersionsRequest,
) -> ApiVersionsResponse {
    let named = [&request.client_software_name, &request.client_software_version];
    if ctx.version >= 3 && !named.into_iter().all(|name| is_software_name(name)) {
        return ApiVersionsResponse::default().with_error_code(ctx.fail(ResponseError::InvalidRequest));
    }
    // Bindings give their own name, and a version such as "2.16.1-rdkafka-2.16.0".
    if named.into_iter().any(|name| name.contains("rdkafka")) {
        ctx.peer.is_librdkafka.store(true, Ordering::Relaxed);
    }
    let response = ApiVersionsResponse::default().with_api_keys(keys());
    if ctx.version < 4 {
        return response;
    }
    response.with_supported_features(features::supported()).with_finalized_features_epoch(0)
}

/// The answer to a version that is newer than this broker.
pub fn unsupported_version(ctx: &RequestContext) -> Result<Answer, Refusal> {
    let response = ApiVersionsResponse::default()
        .with_error_code(ctx.fail(ResponseError::UnsupportedVersion))
        .with_api_keys(keys());
    Answer::encode(ctx.correlation_id, 0, &response)
}

fn keys() -> Vec<ApiVersion> {
    let version = |(key, range): &(kafka_protocol::messages::ApiKey, _)| {
        let range: &kafka_protocol::protocol::VersionRange = range;
        ApiVersion::default()
            .with_api_key(*key as i16)
            .with_min_version(range.min)
            .with_max_version(range.max)
    };
    SUPPORTED.iter().map(version).collect()
}

/// `[a-zA-Z0-9](?:[a-zA-Z0-9\-.]*[a-zA-Z0-9])?`
fn is_software_name(name: &str) -> bool {
    let edge = |b: Option<u8>| b.is_some_and(|b| b.is_ascii_alphanumeric());
    let bytes = name.as_bytes();
    edge(bytes.first().copied())
        && edge(bytes.last().copied())
        && bytes.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn software_names_follow_kip_511() {
        for good in ["apache-kafka-java", "librdkafka", "2.4.0", "a"] {
            assert!(is_software_name(good), "{good}");
        }
        for bad in ["", "-a", "a-", "a b", "a_b", "ü"] {
            assert!(!is_software_name(bad), "{bad}");
        }
    }
}
