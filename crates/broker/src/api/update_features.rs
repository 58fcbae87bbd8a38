//! UpdateFeatures (57), versions 0–2: the levels of features (KIP-584, KIP-778, KIP-1022).
//!
//! Every feature has one level here, 0. Setting it to that changes nothing and succeeds; another level is INVALID_UPDATE_VERSION, and then
//! nothing of the request is done, as by Apache Kafka.

use std::sync::Arc;

use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::update_features_request::FeatureUpdateKey;
use kafka_protocol::messages::update_features_response::UpdatableFeatureResult;
use kafka_protocol::messages::{UpdateFeaturesRequest, UpdateFeaturesResponse};

use super::{RequestContext, features, message_bytes};
use crate::node::Node;

pub async fn handle(
    node: &Arc<Node>,
    ctx: &RequestContext,
    request: UpdateFeaturesRequest,
) -> UpdateFeaturesResponse {
    let refused = request.feature_updates.iter().find_map(|update| refusal(node, update));
    if let Some(why) = refused {
        let message =
            format!("The update failed for all features since the following feature had an error: {why}");
        return UpdateFeaturesResponse::default()
            .with_error_code(ctx.fail(ResponseError::InvalidUpdateVersion))
            .with_error_message(Some(message_bytes(&message)));
    }
    let done = UpdateFeaturesResponse::default().with_error_message(None);
    if ctx.version >= 2 {
        return done;
    }
    let result = |update: &FeatureUpdateKey| {
        UpdatableFeatureResult::default().with_feature(update.feature.clone()).with_error_message(None)
    };
    done.with_results(request.feature_updates.iter().map(result).collect())
}

fn refusal(node: &Node, update: &FeatureUpdateKey) -> Option<String> {
    let (feature, level) = (update.feature.as_str(), update.max_version_level);
    let invalid = |why: &str| {
        let id = node.config.node_id;
        Some(format!("Invalid update version {level} for feature {feature}. Local controller {id} {why}"))
    };
    match level {
        _ if !features::is_known(feature) => invalid("does not support this feature."),
        features::LEVEL => None,
        _ => invalid("only supports versions 0-0"),
    }
}
