//! What an access token of the issuer must be, and whom it stands for. RFC 7519 and 9068, with the advice of RFC 8725.
//!
//! Invariant: the issuer, the audience and an expiry are required. Only signatures with a private key of the issuer count.

use std::fmt;

use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::jwk::{Jwk, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey, Header, Validation};
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::{Principal, Scope, names, verifier};

/// Clocks differ.
const LEEWAY_S: u64 = 30;
/// More is no token that anybody sends in a header.
const MAX_TOKEN_BYTES: usize = 16 << 10;
const MAX_NAME_CHARS: usize = 200;
/// Keys that are tried for a token that does not name its key.
const MAX_TRIED_KEYS: usize = 8;

/// What is wrong with a token, in the characters that RFC 6750 allows in `error_description`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wrong(pub &'static str);

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

/// Who may say what in a token.
#[derive(Clone, Debug)]
pub struct Expected {
    pub issuer: String,
    pub audiences: Vec<String>,
}

/// A key of the issuer.
#[derive(Debug)]
pub struct Key {
    id: Option<String>,
    /// None: any of its kind.
    algorithm: Option<Algorithm>,
    key: DecodingKey,
}

/// A token whose header could be read. Nothing of it is proven yet.
#[derive(Debug)]
pub struct Unverified<'a> {
    text: &'a str,
    header: Header,
}

/// The claims that matter here. Everything else is checked by the library.
#[derive(Debug, Deserialize)]
struct Claims {
    /// One text (RFC 7519, section 4.1.1). The library is content with a list that holds the right one among others.
    iss: Value,
    sub: Option<String>,
    client_id: Option<String>,
    /// The same, in the words of OpenID Connect.
    azp: Option<String>,
    scope: Option<Value>,
    /// The same, in the words of some providers.
    scp: Option<Value>,
    roles: Option<Value>,
    /// The token is bound to a key of its holder (RFC 7800).
    cnf: Option<Value>,
}

/// Whether it looks like a JWT and not like a token of the file.
pub fn is_jwt(token: &str) -> bool {
    token.bytes().filter(|byte| *byte == b'.').count() == 2
}

impl Key {
    /// A key of a key set; None if no token can be signed with it here.
    pub fn of(jwk: &Jwk) -> Option<Self> {
        if matches!(jwk.common.public_key_use, Some(PublicKeyUse::Encryption)) {
            return None;
        }
        let algorithm = jwk.common.key_algorithm.map(|algorithm| algorithm.to_string().parse());
        let algorithm: Option<Algorithm> = algorithm.transpose().ok()?;
        if algorithm.is_some_and(|algorithm| !verifier::is_accepted(algorithm)) {
            return None;
        }
        let key = DecodingKey::from_jwk(jwk).ok()?;
        let usable = key.family().algorithms().iter().any(|algorithm| verifier::is_accepted(*algorithm));
        usable.then(|| Self { id: jwk.common.key_id.clone(), algorithm, key })
    }
}

impl<'a> Unverified<'a> {
    pub fn read(text: &'a str) -> Result<Self, Wrong> {
        if text.len() > MAX_TOKEN_BYTES {
            return Err(Wrong("the token is too long"));
        }
        let header = jsonwebtoken::decode_header(text)
            .map_err(|_| Wrong("the token is not a JWT that can be read"))?;
        if !verifier::is_accepted(header.alg) {
            return Err(Wrong("the token is not signed with an algorithm that is accepted"));
        }
        // RFC 7515, section 4.1.11: what has to be understood is not.
        if header.crit.is_some() {
            return Err(Wrong("the token has critical headers that are not known"));
        }
        let kind = header.typ.as_deref().map(|typ| typ.trim_start_matches("application/"));
        if !kind.is_none_or(|kind| kind.eq_ignore_ascii_case("jwt") || kind.eq_ignore_ascii_case("at+jwt")) {
            return Err(Wrong("the token is not an access token"));
        }
        Ok(Self { text, header })
    }

    /// Those keys that may have signed it.
    pub fn candidates<'k>(&self, keys: &'k [Key]) -> Vec<&'k Key> {
        let fits = |key: &&Key| {
            let named = self.header.kid.is_none() || key.id.is_none() || key.id == self.header.kid;
            let alg = self.header.alg;
            named && key.key.family() == alg.family() && key.algorithm.is_none_or(|of_key| of_key == alg)
        };
        keys.iter().filter(fits).take(MAX_TRIED_KEYS).collect()
    }

    /// Verifies the token with the keys that may have signed it.
    pub fn verify(&self, candidates: &[&Key], expected: &Expected) -> Result<Principal, Wrong> {
        let mut validation = Validation::new(self.header.alg);
        validation.leeway = LEEWAY_S;
        validation.validate_nbf = true;
        validation.set_issuer(&[&expected.issuer]);
        validation.set_audience(&expected.audiences);
        validation.set_required_spec_claims(&["exp", "iss", "aud"]);
        let mut wrong = Wrong("the token is signed with no key of the issuer");
        for candidate in candidates {
            match jsonwebtoken::decode::<Map<String, Value>>(self.text, &candidate.key, &validation) {
                Ok(token) => return principal(token.claims, &expected.issuer),
                Err(error) => match error.kind() {
                    ErrorKind::InvalidSignature => {}
                    other => wrong = why(other),
                },
            }
        }
        Err(wrong)
    }
}

fn why(error: &ErrorKind) -> Wrong {
    Wrong(match error {
        ErrorKind::ExpiredSignature => "the token has expired",
        ErrorKind::ImmatureSignature => "the token is not valid yet",
        ErrorKind::InvalidAudience => "the token is for another audience",
        ErrorKind::InvalidIssuer => "the token is of another issuer",
        ErrorKind::MissingRequiredClaim(_) => "the token lacks exp, iss or aud",
        _ => "the token cannot be verified",
    })
}

fn principal(all: Map<String, Value>, issuer: &str) -> Result<Principal, Wrong> {
    let claims = serde_json::from_value::<Claims>(Value::Object(all.clone()));
    let claims = claims.map_err(|_| Wrong("the token cannot be verified"))?;
    if claims.iss.as_str() != Some(issuer) {
        return Err(Wrong("the token is of another issuer"));
    }
    // To take it for a bearer token would undo what it is bound for (RFC 9449, section 7.1).
    if claims.cnf.is_some() {
        return Err(Wrong("the token is bound to a key, which is not supported"));
    }
    let client = claims.client_id.or(claims.azp);
    let name =
        claims.sub.or_else(|| client.clone()).ok_or(Wrong("the token names neither sub nor client_id"))?;
    let granted: Vec<Scope> =
        [claims.scope, claims.scp, claims.roles].iter().flatten().flat_map(scopes).collect();
    // A colon cannot be in the names of a token file, so that nobody takes the name of somebody there.
    let name = format!("oidc:{}", names::text(&name, MAX_NAME_CHARS));
    let client = client.map(|client| names::text(&client, MAX_NAME_CHARS).into());
    Ok(Principal::new(name, granted).with(client, all))
}

/// Words with blanks between, or a list.
fn scopes(claim: &Value) -> Vec<Scope> {
    match claim {
        Value::String(words) => words.split_whitespace().filter_map(Scope::parse).collect(),
        Value::Array(list) => list.iter().filter_map(Value::as_str).filter_map(Scope::parse).collect(),
        _ => Vec::new(),
    }
}
