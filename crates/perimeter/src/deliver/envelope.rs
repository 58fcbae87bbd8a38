//! The ACP envelope (docs/acp.md) of an answer that is written to a topic: each of its records has it in the header `acp`.

use std::collections::BTreeSet;

use kafscale_agent::JsonObject;
use serde::Serialize;
use serde_json::Value;

use crate::answer::ComputedFrom;
use crate::caller::Caller;

pub const HEADER: &str = "acp";
/// Where a request has what it says of itself.
pub const META_KEY: &str = "io.kafscale/acp";
const VERSION: u32 = 1;
const CONSENTS_MAX: usize = 32;
const TEXT_MAX_BYTES: usize = 256;

#[derive(Debug, Clone, Serialize)]
pub struct Envelope<'a> {
    v: u32,
    principal: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    agent: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    on_behalf_of: Option<&'a str>,
    #[serde(skip_serializing_if = "str::is_empty")]
    purpose: &'a str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    consent: Vec<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    trace: Option<&'a str>,
    policy_version: &'a str,
    labels: BTreeSet<&'a str>,
    obligations: &'a [String],
    provenance: &'a [ComputedFrom],
    complete: bool,
    delivery: &'a str,
    pub attempt: u32,
}

/// What an answer has of its own.
#[derive(Debug, Clone, Copy)]
pub struct Made<'a> {
    pub rules_hash: &'a str,
    pub labels: &'a [BTreeSet<String>],
    /// In words.
    pub obligations: &'a [String],
    /// As the caller may know it.
    pub provenance: &'a [ComputedFrom],
    pub is_complete: bool,
    /// Of this answer alone.
    pub delivery: &'a str,
}

impl<'a> Envelope<'a> {
    /// `meta` is what the request says of itself.
    pub fn new(caller: &'a Caller, meta: &'a JsonObject, made: Made<'a>) -> Envelope<'a> {
        let said = meta.get(META_KEY);
        let trace = meta.get("traceparent").or_else(|| said?.get("trace")).and_then(Value::as_str);
        let consent = said.and_then(|said| said.get("consent")).and_then(Value::as_array);
        let consent = consent.into_iter().flatten().filter_map(Value::as_str);
        Envelope {
            v: VERSION,
            principal: &caller.principal,
            agent: caller.agent.as_deref(),
            on_behalf_of: caller.on_behalf_of.as_deref(),
            purpose: &caller.purpose,
            consent: consent.filter(|text| text.len() <= TEXT_MAX_BYTES).take(CONSENTS_MAX).collect(),
            trace: trace.filter(|trace| is_traceparent(trace)),
            policy_version: made.rules_hash,
            labels: made.labels.iter().flatten().map(String::as_str).collect(),
            obligations: made.obligations,
            provenance: made.provenance,
            complete: made.is_complete,
            delivery: made.delivery,
            attempt: 1,
        }
    }
}

/// W3C Trace Context: a version, a trace, a span and flags.
fn is_traceparent(text: &str) -> bool {
    let parts: Vec<&str> = text.split('-').collect();
    let is_hex = |text: &str| text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    parts.iter().map(|part| part.len()).eq([2, 32, 16, 2])
        && parts[0] == "00"
        && parts.iter().all(|p| is_hex(p))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_the_caller_says_is_bounded_and_the_server_says_the_rest() {
        let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let meta = json!({ META_KEY: {
            "trace": trace, "principal": "somebody else", "labels": [], "consent": ["c1", "x".repeat(300), 5]
        } });
        let caller =
            Caller { principal: "ada".to_owned(), purpose: "research".to_owned(), ..Caller::default() };
        let labels = [BTreeSet::from(["pii.name".to_owned()]), BTreeSet::new()];
        let obligations = ["clinic.patients: 1 columns masked (name hashed)".to_owned()];
        let made = Made {
            rules_hash: "ab",
            labels: &labels,
            obligations: &obligations,
            provenance: &[],
            is_complete: true,
            delivery: "d",
        };
        let envelope = Envelope::new(&caller, meta.as_object().unwrap(), made);
        assert_eq!(
            serde_json::to_value(&envelope).unwrap(),
            json!({
                "v": 1, "principal": "ada", "purpose": "research", "consent": ["c1"], "trace": trace, "policy_version": "ab",
                "labels": ["pii.name"], "obligations": obligations, "provenance": [], "complete": true, "delivery": "d", "attempt": 1
            })
        );
        for wrong in ["00-4bf9-00f0-01", "", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-0\n"] {
            assert!(!is_traceparent(wrong));
        }
    }
}
