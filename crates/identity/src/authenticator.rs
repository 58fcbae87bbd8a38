//! Finds the principal of a request by its `Authorization` header.
//!
//! Invariant: a token's text is not kept; only its SHA-256 is, and it is compared in constant time against every known one.
//! Invariant: without any authentication configured there is one principal, `anonymous`, and the server listens on loopback
//! only ([`config`](crate::config)).

use std::path::PathBuf;

use parking_lot::RwLock;
use tokio_util::sync::CancellationToken;

use crate::follow::follow;
use crate::http_get::Unavailable;
use crate::issuer::Issuer;
use crate::jwt;
use crate::principal::{Principal, Scope};
use crate::tokens::{TokenFileError, Tokens};

/// Why a request is not let in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Denied {
    /// There is no bearer token.
    Missing,
    /// There is one, but it is not known, malformed or expired: in words for the client.
    Invalid(&'static str),
    /// It cannot be found out now.
    Unavailable(Unavailable),
}

/// See the file's comment.
#[derive(Debug)]
pub struct Authenticator {
    /// What callers may do whose token says nothing about it: the token of the variable, and everybody where nothing is
    /// configured.
    scope: Scope,
    tokens: Option<RwLock<Tokens>>,
    file: Option<PathBuf>,
    issuer: Option<Issuer>,
}

impl Authenticator {
    /// Lets everybody in, until it is given something to go by.
    pub fn open(scope: Scope) -> Self {
        Self { scope, tokens: None, file: None, issuer: None }
    }

    /// Knows one token, or those of a file, or both.
    pub fn with_tokens(
        scope: Scope,
        token: Option<&str>,
        file: Option<PathBuf>,
    ) -> Result<Self, TokenFileError> {
        let mut tokens = match &file {
            Some(path) => Tokens::read(path)?,
            None => Tokens::default(),
        };
        tokens.fixed = token.map(|token| (Tokens::hash(token), scope));
        Ok(Self { scope, tokens: Some(RwLock::new(tokens)), file, issuer: None })
    }

    /// Knows the access tokens of an issuer as well.
    pub fn and_issuer(mut self, issuer: Issuer) -> Self {
        self.issuer = Some(issuer);
        self
    }

    /// The principal of a request, by its Authorization header.
    pub async fn principal(&self, authorization: Option<&str>) -> Result<Principal, Denied> {
        if self.tokens.is_none() && self.issuer.is_none() {
            return Ok(Principal::new("anonymous", vec![self.scope]));
        }
        let header = authorization.ok_or(Denied::Missing)?;
        let (scheme, token) = header.split_once(' ').unwrap_or((header, ""));
        if !scheme.eq_ignore_ascii_case("bearer") {
            return Err(Denied::Missing);
        }
        let token = token.trim();
        if let Some(principal) = self.tokens.as_ref().and_then(|tokens| tokens.read().principal(token)) {
            return Ok(principal);
        }
        match &self.issuer {
            Some(issuer) if jwt::is_jwt(token) => issuer.principal(token).await,
            Some(_) | None => Err(Denied::Invalid("the token is not known")),
        }
    }

    /// Follows the token file until `stop`. A file that cannot be read leaves the tokens as they were.
    pub async fn reload(&self, stop: CancellationToken) {
        let (Some(tokens), Some(path)) = (&self.tokens, self.file.clone()) else { return };
        let read = move || Tokens::read(&path);
        follow("the token file", stop, read, |read| {
            let mut current = tokens.write();
            let is_new = current.named != read.named;
            current.named = read.named;
            is_new
        })
        .await;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use sha2::{Digest as _, Sha256};

    use super::*;

    fn hex(token: &str) -> String {
        Sha256::digest(token).iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[tokio::test]
    async fn a_fixed_token_lets_its_holder_in() {
        let auth = Authenticator::with_tokens(Scope::Observe, Some("local-dev-token"), None).unwrap();
        let principal = auth.principal(Some("Bearer local-dev-token")).await.unwrap();
        assert!(principal.may(Scope::Observe) && !principal.may(Scope::Mutate));
        assert!(auth.principal(Some("bearer  local-dev-token ")).await.is_ok());
        let unknown = Denied::Invalid("the token is not known");
        for (header, denied) in [
            (None, Denied::Missing),
            (Some("Basic bG9jYWw6"), Denied::Missing),
            (Some("Bearer"), unknown.clone()),
            (Some("Bearer "), unknown.clone()),
            (Some("Bearer local-dev-toke"), unknown.clone()),
            (Some("Bearer local-dev-token2"), unknown.clone()),
        ] {
            assert_eq!(auth.principal(header).await.unwrap_err(), denied, "{header:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_changed_file_is_followed_and_a_broken_one_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tokens");
        let write = |token: &str| {
            std::fs::write(&path, format!("agent observe sha256:{}\n", hex(token))).unwrap();
        };
        write("first-token");
        let auth = Arc::new(Authenticator::with_tokens(Scope::Observe, None, Some(path.clone())).unwrap());
        let stop = CancellationToken::new();
        let reloading = tokio::spawn({
            let (auth, stop) = (Arc::clone(&auth), stop.clone());
            async move { auth.reload(stop).await }
        });
        let lets_in = async |token: &str| auth.principal(Some(&format!("Bearer {token}"))).await.is_ok();
        assert!(lets_in("first-token").await && !lets_in("second-token").await);
        write("second-token");
        tokio::time::sleep(2 * crate::follow::INTERVAL).await;
        assert!(!lets_in("first-token").await && lets_in("second-token").await);
        std::fs::write(&path, "agent observe what").unwrap();
        tokio::time::sleep(2 * crate::follow::INTERVAL).await;
        assert!(lets_in("second-token").await);
        stop.cancel();
        reloading.await.unwrap();
    }
}
