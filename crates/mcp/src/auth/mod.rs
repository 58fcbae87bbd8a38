//! Who calls: bearer tokens from a variable or a file, and what each may do.
//!
//! Invariant: a token's text is not kept; only its SHA-256 is, and it is compared in constant time against every known one.
//! Invariant: without any authentication configured there is one principal, `anonymous`, and the server listens on loopback
//! only (`config`).

mod tokens;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::RwLock;
use tokio_util::sync::CancellationToken;

pub use tokens::{TokenFileError, Tokens, hex};

/// How often the token file is looked at.
const RELOAD_INTERVAL: Duration = Duration::from_secs(2);

/// What a principal may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Call the tools that read.
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

/// Who calls.
#[derive(Clone, Debug)]
pub struct Principal {
    pub name: Arc<str>,
    scopes: Vec<Scope>,
}

impl Principal {
    pub fn new(name: impl Into<Arc<str>>, scopes: Vec<Scope>) -> Self {
        Self { name: name.into(), scopes }
    }

    pub fn may(&self, scope: Scope) -> bool {
        self.scopes.contains(&scope)
    }
}

/// Why a request is not let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Denied {
    /// There is no bearer token.
    Missing,
    /// There is one, but it is not known, malformed or expired.
    Invalid,
}

/// See the file's comment.
#[derive(Debug)]
pub struct Authenticator {
    /// None: everybody is let in.
    tokens: Option<RwLock<Tokens>>,
    file: Option<PathBuf>,
}

impl Authenticator {
    /// Lets everybody in.
    pub fn open() -> Self {
        Self { tokens: None, file: None }
    }

    /// Knows one token, or those of a file, or both.
    pub fn with_tokens(token: Option<&str>, file: Option<PathBuf>) -> Result<Self, TokenFileError> {
        let mut tokens = match &file {
            Some(path) => Tokens::read(path)?,
            None => Tokens::default(),
        };
        tokens.fixed = token.map(Tokens::hash);
        Ok(Self { tokens: Some(RwLock::new(tokens)), file })
    }

    /// The principal of a request, by its Authorization header.
    pub fn principal(&self, authorization: Option<&str>) -> Result<Principal, Denied> {
        let Some(tokens) = &self.tokens else {
            return Ok(Principal::new("anonymous", vec![Scope::Observe]));
        };
        let header = authorization.ok_or(Denied::Missing)?;
        let (scheme, token) = header.split_once(' ').ok_or(Denied::Invalid)?;
        if !scheme.eq_ignore_ascii_case("bearer") {
            return Err(Denied::Missing);
        }
        tokens.read().principal(token.trim()).ok_or(Denied::Invalid)
    }

    /// Follows the token file until `stop`. A file that cannot be read leaves the tokens as they were.
    pub async fn reload(&self, stop: CancellationToken) {
        let (Some(tokens), Some(path)) = (&self.tokens, &self.file) else { return };
        let mut broken = false;
        while stop.run_until_cancelled(tokio::time::sleep(RELOAD_INTERVAL)).await.is_some() {
            match Tokens::read(path) {
                Ok(read) => {
                    let mut current = tokens.write();
                    if current.named != read.named {
                        tracing::info!(file = %path.display(), tokens = read.named.len(), "token file reloaded");
                        current.named = read.named;
                    }
                    broken = false;
                }
                Err(error) if !broken => {
                    tracing::error!(%error, "the token file cannot be read; the tokens stay as they were");
                    broken = true;
                }
                Err(_) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fixed_token_lets_its_holder_in() {
        let auth = Authenticator::with_tokens(Some("local-dev-token"), None).unwrap();
        let principal = auth.principal(Some("Bearer local-dev-token")).unwrap();
        assert!(principal.may(Scope::Observe) && !principal.may(Scope::Mutate));
        assert!(auth.principal(Some("bearer  local-dev-token ")).is_ok());
        for (header, denied) in [
            (None, Denied::Missing),
            (Some("Basic bG9jYWw6"), Denied::Missing),
            (Some("Bearer"), Denied::Invalid),
            (Some("Bearer "), Denied::Invalid),
            (Some("Bearer local-dev-toke"), Denied::Invalid),
            (Some("Bearer local-dev-token2"), Denied::Invalid),
        ] {
            assert_eq!(auth.principal(header).unwrap_err(), denied, "{header:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_changed_file_is_followed_and_a_broken_one_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tokens");
        let write = |token: &str| {
            std::fs::write(&path, format!("agent observe sha256:{}\n", tokens::hex(&Tokens::hash(token))))
                .unwrap();
        };
        write("first-token");
        let auth = Arc::new(Authenticator::with_tokens(None, Some(path.clone())).unwrap());
        let stop = CancellationToken::new();
        let reloading = tokio::spawn({
            let (auth, stop) = (Arc::clone(&auth), stop.clone());
            async move { auth.reload(stop).await }
        });
        let lets_in = |token: &str| auth.principal(Some(&format!("Bearer {token}"))).is_ok();
        assert!(lets_in("first-token") && !lets_in("second-token"));
        write("second-token");
        tokio::time::sleep(2 * RELOAD_INTERVAL).await;
        assert!(!lets_in("first-token") && lets_in("second-token"));
        std::fs::write(&path, "agent observe what").unwrap();
        tokio::time::sleep(2 * RELOAD_INTERVAL).await;
        assert!(lets_in("second-token"));
        stop.cancel();
        reloading.await.unwrap();
    }
}
