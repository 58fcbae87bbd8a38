//! The token file: one principal per line, `NAME SCOPE[,SCOPE] sha256:HEX`, where HEX is the SHA-256 of the token's text.
//! Empty lines and lines that begin with `#` are skipped. Two lines may have the same name, so that a token can be changed
//! without a gap.

use std::path::{Path, PathBuf};

use kafscale_meta::files::read_small_text;
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

use crate::principal::{Principal, Scope};

/// More tokens are no file for people to keep.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// What stands before the name of a principal that is a program, for rules that tell programs from people.
const KINDS: [&str; 2] = ["Agent:", "Service:"];

pub type TokenHash = [u8; 32];

/// The known tokens.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tokens {
    pub(super) named: Vec<NamedToken>,
    /// The token of the variable, whose principal is called `default`, and what it allows.
    pub(super) fixed: Option<(TokenHash, Scope)>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct NamedToken {
    name: String,
    scopes: Vec<Scope>,
    hash: TokenHash,
}

/// What is wrong with a token file.
#[derive(Debug, thiserror::Error)]
pub enum TokenFileError {
    #[error("token file {}: {error}", path.display())]
    Unreadable { path: PathBuf, error: std::io::Error },
    #[error("token file {}, line {line}: {why}; expected NAME SCOPE[,SCOPE] sha256:HEX", path.display())]
    Line { path: PathBuf, line: usize, why: &'static str },
    #[error("token file {} holds no token", path.display())]
    Empty { path: PathBuf },
}

impl Tokens {
    pub fn hash(token: &str) -> TokenHash {
        Sha256::digest(token.as_bytes()).into()
    }

    /// Reads a token file.
    pub fn read(path: &Path) -> Result<Self, TokenFileError> {
        let unreadable = |error| TokenFileError::Unreadable { path: path.to_owned(), error };
        let text = read_small_text(path, MAX_FILE_BYTES).map_err(unreadable)?;
        let mut named = Vec::new();
        for (index, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let wrong = |why| TokenFileError::Line { path: path.to_owned(), line: index + 1, why };
            named.push(parse(line).map_err(wrong)?);
        }
        if named.is_empty() {
            return Err(TokenFileError::Empty { path: path.to_owned() });
        }
        Ok(Self { named, fixed: None })
    }

    /// The principal of a token. Every known token is compared, so that the time tells nothing.
    pub fn principal(&self, token: &str) -> Option<Principal> {
        let given = Self::hash(token);
        let mut found = None;
        for known in &self.named {
            if bool::from(known.hash.ct_eq(&given)) {
                found = Some(Principal::new(known.name.as_str(), known.scopes.clone()));
            }
        }
        if let Some((fixed, scope)) = self.fixed
            && bool::from(fixed.ct_eq(&given))
        {
            found = Some(Principal::new("default", vec![scope]));
        }
        found
    }
}

fn parse(line: &str) -> Result<NamedToken, &'static str> {
    let mut fields = line.split_whitespace();
    let (Some(name), Some(scopes), Some(hash), None) =
        (fields.next(), fields.next(), fields.next(), fields.next())
    else {
        return Err("not three fields");
    };
    let plain = KINDS.iter().find_map(|kind| name.strip_prefix(kind)).unwrap_or(name);
    let is_of_names = |b: u8| b.is_ascii_alphanumeric() || b"._-@".contains(&b);
    if plain.is_empty() || plain.len() > 100 || !plain.bytes().all(is_of_names) {
        return Err(
            "a name holds at most 100 letters, digits, '.', '_', '-' and '@', behind Agent: or Service: for a program",
        );
    }
    let scopes: Option<Vec<Scope>> = scopes.split(',').map(Scope::parse).collect();
    let scopes = scopes.ok_or("a scope is observe or mutate")?;
    let hash =
        hash.strip_prefix("sha256:").and_then(unhex).ok_or("the hash is not sha256: and 64 hex digits")?;
    Ok(NamedToken { name: name.to_owned(), scopes, hash })
}

fn unhex(text: &str) -> Option<TokenHash> {
    let mut hash = TokenHash::default();
    if text.len() != 2 * hash.len() || !text.is_ascii() {
        return None;
    }
    for (byte, digits) in hash.iter_mut().zip(text.as_bytes().chunks(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
    }
    Some(hash)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Tokens, String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tokens");
        std::fs::write(&path, text).unwrap();
        Tokens::read(&path).map_err(|e| e.to_string())
    }

    #[test]
    fn lines_are_principals() {
        // printf %s secret | sha256sum
        let hash = "2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b";
        let tokens =
            read(&format!("# people\n\nana observe sha256:{hash}\nAgent:bot observe,mutate sha256:{hash}\n"))
                .unwrap();
        let principal = tokens.principal("secret").unwrap();
        assert!(principal.may(Scope::Mutate));
        assert!(tokens.principal("Secret").is_none());
    }

    #[test]
    fn a_pipe_is_refused_and_not_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tokens");
        assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success());
        let error = Tokens::read(&path).unwrap_err().to_string();
        assert!(error.contains("it is not a regular file"), "{error}");
    }

    #[test]
    fn what_is_no_line_is_said_with_its_number() {
        for (text, why) in [
            ("", "holds no token"),
            ("ana observe", "line 1: not three fields"),
            ("\nana admin sha256:00", "line 2: a scope is observe or mutate"),
            ("ana observe sha256:00", "64 hex digits"),
            ("ana observe md5:00", "64 hex digits"),
            ("a/b observe sha256:00", "a name holds"),
            ("oidc:ana observe sha256:00", "a name holds"),
            ("Agent: observe sha256:00", "a name holds"),
            ("Agent:a:b observe sha256:00", "a name holds"),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.contains(why), "{error}");
        }
    }
}
