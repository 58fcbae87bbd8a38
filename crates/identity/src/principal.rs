//! A caller who is known, and what each scope of a token allows.

use std::sync::Arc;

use serde_json::{Map, Value};

/// What a token lets its holder do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Call the tools that read the state of a cluster.
    Observe,
    /// Reserved: no tool writes.
    Mutate,
}

impl Scope {
    pub fn name(self) -> &'static str {
        match self {
            Self::Observe => "observe",
            Self::Mutate => "mutate",
        }
    }

    pub fn parse(name: &str) -> Option<Self> {
        [Self::Observe, Self::Mutate].into_iter().find(|scope| scope.name() == name)
    }
}

/// Who calls. Clones are cheap.
#[derive(Clone, Debug)]
pub struct Principal {
    pub name: Arc<str>,
    /// The program that acts for it, where the issuer says so.
    pub client: Option<Arc<str>>,
    /// The claims of its verified access token. Empty for a token of a file or of a variable.
    pub claims: Arc<Map<String, Value>>,
    scopes: Vec<Scope>,
}

impl Principal {
    pub fn new(name: impl Into<Arc<str>>, scopes: Vec<Scope>) -> Self {
        Self { name: name.into(), client: None, claims: Arc::default(), scopes }
    }

    /// The same, acted for by a program, and with the claims of its token.
    pub fn with(self, client: Option<Arc<str>>, claims: Map<String, Value>) -> Self {
        Self { client, claims: Arc::new(claims), ..self }
    }

    pub fn may(&self, scope: Scope) -> bool {
        self.scopes.contains(&scope)
    }

    /// The values of a claim: one text, or each text of a list. The name may be a JSON pointer, such as `/realm_access/roles`,
    /// since some issuers nest their groups.
    pub fn claim(&self, name: &str) -> impl Iterator<Item = &str> {
        let found = match name.split_once('/') {
            Some(("", rest)) => {
                let (first, deeper) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
                self.claims.get(first).and_then(|value| value.pointer(deeper))
            }
            Some(_) | None => self.claims.get(name),
        };
        let list = found.and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        found.and_then(Value::as_str).into_iter().chain(list.iter().filter_map(Value::as_str))
    }

    /// The groups that the issuer says the caller is in.
    pub fn groups(&self) -> impl Iterator<Item = &str> {
        self.claim("groups")
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn claims_are_found_by_name_or_by_pointer() {
        let claims = json!({
            "groups": ["ops", 7, "data"], "team": "payments", "https://id.example/teams": "b",
            "realm_access": {"roles": ["reader"]},
        });
        let Value::Object(claims) = claims else { panic!("claims are an object") };
        let principal = Principal::new("oidc:a", vec![Scope::Observe]).with(None, claims);
        let claim = |name| principal.claim(name).collect::<Vec<_>>();
        assert_eq!(principal.groups().collect::<Vec<_>>(), ["ops", "data"]);
        assert_eq!(claim("team"), ["payments"]);
        assert_eq!(claim("https://id.example/teams"), ["b"]);
        assert_eq!(claim("/realm_access/roles"), ["reader"]);
        assert_eq!(claim("/realm_access"), [""; 0]);
        assert_eq!(claim("/team"), ["payments"]);
        assert_eq!(claim("/team/x"), [""; 0]);
        assert_eq!(claim("other"), [""; 0]);
    }
}
