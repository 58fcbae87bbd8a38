//! The issuer of access tokens (OpenID Connect, OAuth 2.1): finds its keys, keeps them, and fetches them anew when they are
//! rotated.
//!
//! Invariant: keys are fetched when there are none that are fresh, and when a token names one that is not known; in either
//! case not more often than every [`FETCH_SPACING`], whoever sends what.
//! Invariant: while the issuer cannot be reached, the keys of the last time are used for [`KEPT_AT_MOST`] and no longer.

use std::sync::Arc;
use std::time::Duration;

use hyper::{StatusCode, Uri};
use jsonwebtoken::jwk::Jwk;
use parking_lot::RwLock;
use serde::Deserialize;
use serde_json::Value;
use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::http_get::{HttpClient, Limits, Unavailable};
use crate::jwt::{Expected, Key, Unverified, Wrong};
use crate::{Denied, Principal, verifier};

/// Keys are looked at again after this.
const FRESH_FOR: Duration = Duration::from_secs(600);
const KEPT_AT_MOST: Duration = Duration::from_secs(3600);
/// Between two attempts to fetch.
const FETCH_SPACING: Duration = Duration::from_secs(5);
const LIMITS: Limits = Limits { timeout: Duration::from_secs(3), max_bytes: 256 << 10 };
const MAX_KEYS: usize = 100;

/// Where the issuer is, and what its tokens must say.
#[derive(Clone, Debug)]
pub struct IssuerConfig {
    pub expected: Expected,
    /// None: where the issuer's own metadata say.
    pub jwks: Option<Uri>,
}

/// See the file's comment.
#[derive(Debug)]
pub struct Issuer {
    config: IssuerConfig,
    http: HttpClient,
    keys: RwLock<Option<Arc<Fetched>>>,
    /// Held while keys are fetched, with when that was last tried, and what came of it.
    attempt: Mutex<Option<Attempt>>,
}

#[derive(Debug)]
struct Fetched {
    keys: Vec<Key>,
    at: Instant,
}

#[derive(Debug)]
struct Attempt {
    at: Instant,
    failure: Option<Unavailable>,
}

/// The part of OpenID Connect Discovery 1.0 and RFC 8414 that is needed.
#[derive(Deserialize)]
struct Discovered {
    issuer: String,
    jwks_uri: String,
}

impl Issuer {
    pub fn new(config: IssuerConfig, http: HttpClient) -> Self {
        verifier::install();
        Self { config, http, keys: RwLock::default(), attempt: Mutex::default() }
    }

    /// Whom a token stands for.
    pub async fn principal(&self, token: &str) -> Result<Principal, Denied> {
        let invalid = |Wrong(why)| Denied::Invalid(why);
        let token = Unverified::read(token).map_err(invalid)?;
        let keys = self.keys_for(&token).await.map_err(Denied::Unavailable)?;
        token.verify(&token.candidates(&keys.keys), &self.config.expected).map_err(invalid)
    }

    /// Keys that are fresh, and have one for the token if the issuer has.
    async fn keys_for(&self, token: &Unverified<'_>) -> Result<Arc<Fetched>, Unavailable> {
        let seen = self.keys.read().clone();
        if let Some(keys) = &seen
            && keys.at.elapsed() < FRESH_FOR
            && !token.candidates(&keys.keys).is_empty()
        {
            return Ok(Arc::clone(keys));
        }
        let failure = self.refresh(seen.as_ref()).await.err();
        let keys = self.keys.read().clone();
        keys.filter(|keys| keys.at.elapsed() < KEPT_AT_MOST)
            .ok_or_else(|| failure.unwrap_or_else(|| Unavailable::new("the issuer has no keys")))
    }

    /// Fetches the keys, unless somebody else did since `seen`, or tried a moment ago.
    async fn refresh(&self, seen: Option<&Arc<Fetched>>) -> Result<(), Unavailable> {
        let mut attempt = self.attempt.lock().await;
        let is_newer = match (self.keys.read().as_ref(), seen) {
            (Some(keys), Some(seen)) => !Arc::ptr_eq(keys, seen),
            (keys, None) => keys.is_some(),
            (None, Some(_)) => false,
        };
        if is_newer {
            return Ok(());
        }
        if let Some(last) = attempt.as_ref().filter(|last| last.at.elapsed() < FETCH_SPACING) {
            return last.failure.clone().map_or(Ok(()), Err);
        }
        let at = Instant::now();
        let fetched = self.fetch().await;
        let failure = fetched.as_ref().err().cloned();
        *attempt = Some(Attempt { at: Instant::now(), failure });
        match fetched {
            Ok(keys) => {
                tracing::debug!(keys = keys.len(), issuer = %self.config.expected.issuer, "keys of the issuer fetched");
                *self.keys.write() = Some(Arc::new(Fetched { keys, at }));
                Ok(())
            }
            Err(error) => {
                tracing::warn!(%error, issuer = %self.config.expected.issuer, "the keys of the issuer cannot be fetched");
                Err(error)
            }
        }
    }

    async fn fetch(&self) -> Result<Vec<Key>, Unavailable> {
        let jwks = match &self.config.jwks {
            Some(uri) => uri.clone(),
            None => self.discover().await?,
        };
        let body = self.get(&jwks).await?;
        #[derive(Deserialize)]
        struct KeySet {
            keys: Vec<Value>,
        }
        let set: KeySet = serde_json::from_slice(&body)
            .map_err(|e| Unavailable::new(format!("{jwks} answered no key set: {e}")))?;
        // A key of a kind that is not known is none for us.
        let known = set.keys.into_iter().take(MAX_KEYS).filter_map(|key| serde_json::from_value(key).ok());
        let keys: Vec<Key> = known.filter_map(|jwk: Jwk| Key::of(&jwk)).collect();
        match keys.is_empty() {
            true => Err(Unavailable::new(format!("{jwks} has no key that can be used"))),
            false => Ok(keys),
        }
    }

    /// Where the keys are: OpenID Connect's place first, then that of RFC 8414.
    async fn discover(&self) -> Result<Uri, Unavailable> {
        let issuer = &self.config.expected.issuer;
        let not_usable =
            |what: &str| Unavailable::new(format!("the issuer's {what} is not a usable address"));
        let [openid, oauth] = discovery_uris(issuer).ok_or_else(|| not_usable("name"))?;
        let body = match self.http.fetch(&openid, "application/json", LIMITS).await? {
            (status, body) if status.is_success() => body,
            (StatusCode::NOT_FOUND, _) => self.get(&oauth).await?,
            (status, _) => return Err(Unavailable::new(format!("{openid} answered {status}"))),
        };
        let found: Discovered = serde_json::from_slice(&body)
            .map_err(|e| Unavailable::new(format!("the issuer's metadata cannot be read: {e}")))?;
        // Otherwise one issuer could speak for another (RFC 8414, section 3.3).
        if found.issuer != *issuer {
            return Err(Unavailable::new("the issuer's metadata name another issuer"));
        }
        trusted_uri(&found.jwks_uri).ok_or_else(|| not_usable("jwks_uri"))
    }

    async fn get(&self, uri: &Uri) -> Result<bytes::Bytes, Unavailable> {
        let got = self.http.get(uri, "application/json", LIMITS).await;
        got.map_err(|why| Unavailable::new(format!("{uri}: {why}")))
    }
}

/// An address that is worth trusting: over TLS, or on this machine.
pub fn trusted_uri(text: &str) -> Option<Uri> {
    let uri: Uri = text.parse().ok()?;
    let host = uri.host()?.trim_matches(['[', ']']);
    let is_local =
        host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback());
    match uri.scheme_str()? {
        "https" => Some(uri),
        "http" if is_local => Some(uri),
        _ => None,
    }
}

fn discovery_uris(issuer: &str) -> Option<[Uri; 2]> {
    let base = issuer.trim_end_matches('/');
    let uri: Uri = base.parse().ok()?;
    let (scheme, authority) = (uri.scheme_str()?, uri.authority()?);
    let path = uri.path().trim_end_matches('/');
    Some([
        format!("{base}/.well-known/openid-configuration").parse().ok()?,
        format!("{scheme}://{authority}/.well-known/oauth-authorization-server{path}").parse().ok()?,
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_are_where_the_standards_say() {
        let uris = |issuer| discovery_uris(issuer).unwrap().map(|uri| uri.to_string());
        assert_eq!(
            uris("https://id.example/realms/main"),
            [
                "https://id.example/realms/main/.well-known/openid-configuration",
                "https://id.example/.well-known/oauth-authorization-server/realms/main",
            ]
        );
        assert_eq!(
            uris("https://id.example/"),
            [
                "https://id.example/.well-known/openid-configuration",
                "https://id.example/.well-known/oauth-authorization-server",
            ]
        );
    }

    #[test]
    fn without_tls_only_this_machine_is_trusted() {
        for (text, trusted) in [
            ("https://id.example", true),
            ("http://127.0.0.1:9000/x", true),
            ("http://[::1]:9000", true),
            ("http://localhost", true),
            ("http://id.example", false),
            ("http://127.0.0.1.example", false),
            ("file:///etc/passwd", false),
            ("id.example", false),
        ] {
            assert_eq!(trusted_uri(text).is_some(), trusted, "{text}");
        }
    }
}
