//! A number with where it comes from, or with why it is unknown. An unknown number is null, never 0.

use rmcp::schemars::JsonSchema;
use serde::Serialize;

/// A figure.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[schemars(crate = "rmcp::schemars")]
pub struct Figure {
    pub value: Option<f64>,
    /// The metric that it was computed from.
    pub source: &'static str,
    /// How old the newest reading is.
    pub age_ms: u64,
    /// Why the value is null.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

impl Figure {
    pub fn new(source: &'static str, age_ms: u64, value: Result<f64, String>) -> Self {
        match value {
            Ok(value) if value.is_finite() => {
                Self { value: Some(rounded(value)), source, age_ms, reason: None }
            }
            Ok(_) => {
                Self { value: None, source, age_ms, reason: Some("the brokers report no number".into()) }
            }
            Err(reason) => {
                Self { value: None, source, age_ms, reason: Some(super::names::text(&reason, 300)) }
            }
        }
    }
}

/// Three decimals are more than a rate is good for; whole numbers stay exact.
pub fn rounded(value: f64) -> f64 {
    if value.fract() == 0.0 { value } else { (value * 1000.0).round() / 1000.0 }
}
