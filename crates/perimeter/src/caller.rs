//! On whose behalf a request is, and what for: what rules decide on, and what the audit log says of it.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Caller {
    /// As the tokens or the issuer of tokens name it, such as `alice`.
    pub principal: String,
    pub groups: Vec<String>,
    /// The program that acts: the client of the token, or what it calls itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub agent: Option<String>,
    /// The person for whom the principal acts, where the token says so (`act`, RFC 8693).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on_behalf_of: Option<String>,
    /// What the answer is for, in the caller's words. Empty where none was given.
    pub purpose: String,
    /// Other claims of the token.
    #[serde(skip_serializing_if = "Map::is_empty")]
    pub claims: Map<String, Value>,
}

impl Caller {
    /// Whoever checks or labels collections from the command line.
    pub fn operator() -> Caller {
        Caller { principal: "operator".to_owned(), ..Caller::default() }
    }
}
