//! What a client that is not let in is told: `WWW-Authenticate` (RFC 6750) and where to get a token (RFC 9728).

use hyper::Uri;
use serde_json::{Value, json};

use crate::{Denied, Scope};

const METADATA_PATH: &str = "/.well-known/oauth-protected-resource";

/// How clients reach this server, and who gives out tokens for it.
#[derive(Clone, Debug)]
pub struct Resource {
    /// As clients give it when they ask for a token (RFC 8707), to the letter.
    pub name: String,
    /// The same.
    pub public_url: Uri,
    pub issuer: String,
    /// What the server is, for people.
    pub title: &'static str,
    /// What a token for it must allow.
    pub scope: Scope,
}

impl Resource {
    /// The document at the metadata's address.
    pub fn metadata(&self) -> Value {
        json!({
            "resource": self.name,
            "authorization_servers": [self.issuer],
            "scopes_supported": [self.scope.name()],
            "bearer_methods_supported": ["header"],
            "resource_name": self.title,
        })
    }

    /// Where that is: between the host and the path of the resource (RFC 9728, section 3).
    fn metadata_url(&self) -> String {
        let path = self.public_url.path().trim_end_matches('/');
        let (scheme, authority) = (self.public_url.scheme_str(), self.public_url.authority());
        let authority = authority.map(ToString::to_string).unwrap_or_default();
        format!("{}://{authority}{METADATA_PATH}{path}", scheme.unwrap_or("https"))
    }
}

/// The paths under which the metadata are served: also below a path that a proxy may have removed.
pub const METADATA_PATHS: [&str; 2] = [METADATA_PATH, "/.well-known/oauth-protected-resource/{*path}"];

/// `WWW-Authenticate` for a token that is missing or wrong.
pub fn unauthorized(denied: &Denied, scope: Scope, resource: Option<&Resource>) -> String {
    match denied {
        // Without a token only the way to one is told (RFC 6750, section 3.1).
        Denied::Missing | Denied::Unavailable(_) => challenge(&[("scope", scope.name())], resource),
        Denied::Invalid(why) => {
            challenge(&[("error", "invalid_token"), ("error_description", *why)], resource)
        }
    }
}

/// `WWW-Authenticate` for a token that does not allow what was asked.
pub fn insufficient_scope(scope: Scope, resource: Option<&Resource>) -> String {
    challenge(&[("error", "insufficient_scope"), ("scope", scope.name())], resource)
}

/// `WWW-Authenticate` for a request that carries a token in a wrong place.
pub fn invalid_request(resource: Option<&Resource>) -> String {
    challenge(&[("error", "invalid_request")], resource)
}

fn challenge(parameters: &[(&str, &str)], resource: Option<&Resource>) -> String {
    let mut challenge = "Bearer realm=\"kafscale\"".to_owned();
    let url = resource.map(Resource::metadata_url);
    let metadata = url.as_deref().map(|url| ("resource_metadata", url));
    for (name, value) in parameters.iter().copied().chain(metadata) {
        challenge.push_str(&format!(", {name}=\"{value}\""));
    }
    challenge
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_is_told_where_to_get_a_token() {
        let name = "https://mcp.example/kafka/mcp".to_owned();
        let public_url = name.parse().unwrap();
        let (title, scope) = ("KafScale MCP server", Scope::Observe);
        let resource = Resource { name, public_url, issuer: "https://id".into(), title, scope };
        assert_eq!(
            unauthorized(&Denied::Missing, scope, Some(&resource)),
            "Bearer realm=\"kafscale\", scope=\"observe\", \
             resource_metadata=\"https://mcp.example/.well-known/oauth-protected-resource/kafka/mcp\""
        );
        assert_eq!(
            unauthorized(&Denied::Invalid("the token has expired"), scope, None),
            "Bearer realm=\"kafscale\", error=\"invalid_token\", error_description=\"the token has expired\""
        );
        assert_eq!(resource.metadata()["resource"], "https://mcp.example/kafka/mcp");
    }
}
