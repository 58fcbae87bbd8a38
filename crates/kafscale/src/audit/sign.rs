//! Signed heads of an audit log: `kafscale audit sign` writes down, with a key that no server has, where a log that holds ends now;
//! `kafscale audit verify --heads` finds later that a line up to there was changed or is missing, whoever could write the log, its
//! head and its anchor.
//!
//! A heads file has a line for each signing, `NUMBER HASH TIME ed25519 SIGNATURE`. Signed is [`PREFIX`] with the first three. Keys are
//! Ed25519 (RFC 8032) in PEM, as OpenSSL writes them: PKCS #8 (RFC 8410) and SubjectPublicKeyInfo.
//!
//! Invariant: nothing is signed unless the log holds, and holds every line that was signed before.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Write as _};
use std::ops::ControlFlow;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use kafscale_core::clock::Clock as _;
use kafscale_core::utc;
use kafscale_meta::files::read_small_text;
use kafscale_observe::audit::{self, Verified, Violation};
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};

use crate::clock::SystemClock;

const PREFIX: &str = "kafscale-audit-head-v1";
const ALGORITHM: &str = "ed25519";
/// What stands before the 32 bytes of a key (RFC 8410, section 4).
const SPKI_PREFIX: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];
const KEY_BYTES_MAX: u64 = 16 << 10;
/// About 300,000 signings.
const HEADS_BYTES_MAX: u64 = 64 << 20;
const FILE_MODE: u32 = 0o644;

#[derive(Debug, thiserror::Error)]
pub enum SignError {
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: std::io::Error },
    #[error("{}: others than its owner may read it (chmod 600)", path.display())]
    Exposed { path: PathBuf },
    #[error("{} is no {what} key of Ed25519 in PEM", path.display())]
    Key { path: PathBuf, what: &'static str },
    #[error("{}, line {line}: {why}", path.display())]
    Head { path: PathBuf, line: usize, why: &'static str },
    #[error("the log does not hold: {0}")]
    Log(#[from] Violation),
    #[error("line {0} of the log is not the one that was signed")]
    Changed(u64),
    #[error("line {expected} was signed, and the log has {lines}: its end is missing, or it was begun anew")]
    Shortened { expected: u64, lines: u64 },
}

/// By number: the hash of the line.
type Heads = BTreeMap<u64, String>;

/// Adds a signed head to `heads`, unless the newest is of the last line already, and says what it did.
pub fn sign(log: &Path, key: &Path, heads: &Path) -> Result<String, SignError> {
    let pair = private_key(key)?;
    let signed = match read(heads, pair.public_key().as_ref()) {
        Err(SignError::Io { source, .. }) if source.kind() == ErrorKind::NotFound => Heads::new(),
        read => read?,
    };
    let verified = verify_with(log, &signed)?;
    let Verified { lines, last_hash, .. } = &verified;
    if *lines == 0 || signed.contains_key(lines) {
        return Ok(format!("{}: no line since the last signing\n", log.display()));
    }
    let said = format!("{lines} {last_hash} {}", utc::seconds(SystemClock.now_ms()));
    let signature = STANDARD.encode(pair.sign(format!("{PREFIX} {said}").as_bytes()));
    let line = format!("{said} {ALGORITHM} {signature}\n");
    let failed = |source| SignError::Io { path: heads.to_owned(), source };
    let mut file =
        std::fs::OpenOptions::new().append(true).create(true).mode(FILE_MODE).open(heads).map_err(failed)?;
    file.write_all(line.as_bytes()).and_then(|()| file.sync_all()).map_err(failed)?;
    Ok(format!("{}: {lines} lines hold; line {lines} was signed\n", log.display()))
}

/// Verifies a log, and that it has every line that was signed. Also gives how many were.
pub fn verify(log: &Path, heads: &Path, public_key: &Path) -> Result<(Verified, usize), SignError> {
    let signed = read(heads, &read_public_key(public_key)?)?;
    let verified = verify_with(log, &signed)?;
    Ok((verified, signed.len()))
}

fn verify_with(log: &Path, signed: &Heads) -> Result<Verified, SignError> {
    let verified = audit::verify(log)?;
    if let Some((expected, _)) = signed.last_key_value().filter(|(newest, _)| **newest > verified.lines) {
        return Err(SignError::Shortened { expected: *expected, lines: verified.lines });
    }
    let mut changed = None;
    audit::read(log, verified.lines, |walked| match signed.get(&walked.seq()) {
        Some(hash) if hash != walked.sha256() => {
            changed = Some(walked.seq());
            ControlFlow::Break(())
        }
        Some(_) | None => ControlFlow::Continue(()),
    })?;
    changed.map_or(Ok(verified), |line| Err(SignError::Changed(line)))
}

/// All heads of a file, each with a good signature.
fn read(path: &Path, public_key: &[u8]) -> Result<Heads, SignError> {
    let text = text(path, HEADS_BYTES_MAX)?;
    let key = UnparsedPublicKey::new(&ED25519, public_key);
    let mut heads = Heads::new();
    for (index, line) in text.lines().enumerate() {
        let wrong = |why| SignError::Head { path: path.to_owned(), line: index + 1, why };
        let parts: Vec<&str> = line.split(' ').collect();
        let [number, hash, _, ALGORITHM, signature] = parts[..] else {
            return Err(wrong("it is no signed head"));
        };
        let said = &line[..line.len() - ALGORITHM.len() - signature.len() - 2];
        let signature = STANDARD.decode(signature).map_err(|_| wrong("its signature is no base64"))?;
        key.verify(format!("{PREFIX} {said}").as_bytes(), &signature)
            .map_err(|_| wrong("its signature is not of this key"))?;
        let number = number.parse().map_err(|_| wrong("it has no number"))?;
        heads.insert(number, hash.to_owned());
    }
    Ok(heads)
}

fn text(path: &Path, most: u64) -> Result<String, SignError> {
    read_small_text(path, most).map_err(|source| SignError::Io { path: path.to_owned(), source })
}

fn private_key(path: &Path) -> Result<Ed25519KeyPair, SignError> {
    let mode =
        std::fs::metadata(path).map_err(|source| SignError::Io { path: path.to_owned(), source })?.mode();
    if mode & 0o077 != 0 {
        return Err(SignError::Exposed { path: path.to_owned() });
    }
    let wrong = || SignError::Key { path: path.to_owned(), what: "private" };
    let der = pem(&text(path, KEY_BYTES_MAX)?, "PRIVATE KEY").ok_or_else(wrong)?;
    // OpenSSL leaves the public key out.
    Ed25519KeyPair::from_pkcs8_maybe_unchecked(&der).map_err(|_| wrong())
}

fn read_public_key(path: &Path) -> Result<Vec<u8>, SignError> {
    let wrong = || SignError::Key { path: path.to_owned(), what: "public" };
    let der = pem(&text(path, KEY_BYTES_MAX)?, "PUBLIC KEY").ok_or_else(wrong)?;
    let key = der.strip_prefix(&SPKI_PREFIX).filter(|key| key.len() == 32).ok_or_else(wrong)?;
    Ok(key.to_owned())
}

/// What stands between the lines of a PEM block (RFC 7468).
fn pem(text: &str, label: &str) -> Option<Vec<u8>> {
    let (_, rest) = text.split_once(&format!("-----BEGIN {label}-----"))?;
    let (inside, _) = rest.split_once(&format!("-----END {label}-----"))?;
    let digits: String = inside.chars().filter(|c| !c.is_ascii_whitespace()).collect();
    STANDARD.decode(digits).ok()
}

#[cfg(test)]
mod tests {
    use kafscale_observe::audit::{AuditLog, Event};
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    // Of `openssl genpkey -algorithm ed25519` and `openssl pkey -pubout`; RFC 8410, section 10.3, has the first.
    const PRIVATE: &str = "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhC\n-----END PRIVATE KEY-----\n";
    const PUBLIC: &str = "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=\n-----END PUBLIC KEY-----\n";

    struct Place(tempfile::TempDir);

    impl Place {
        fn new() -> Place {
            let place = Place(tempfile::tempdir().unwrap());
            std::fs::write(place.at("private"), PRIVATE).unwrap();
            std::fs::set_permissions(place.at("private"), std::fs::Permissions::from_mode(0o600)).unwrap();
            std::fs::write(place.at("public"), PUBLIC).unwrap();
            place
        }

        fn at(&self, name: &str) -> PathBuf {
            self.0.path().join(name)
        }

        async fn write(&self, principals: &[&str]) {
            let log = AuditLog::open(&self.at("log")).unwrap();
            for principal in principals {
                log.append(Event::new(0, principal, "http")).await.unwrap();
            }
        }

        fn sign(&self) -> Result<String, SignError> {
            sign(&self.at("log"), &self.at("private"), &self.at("heads"))
        }

        fn verify(&self) -> Result<(Verified, usize), SignError> {
            verify(&self.at("log"), &self.at("heads"), &self.at("public"))
        }
    }

    #[tokio::test]
    async fn what_was_signed_is_found_again_and_nothing_else_is_signed() {
        let place = Place::new();
        place.write(&["ana", "bob"]).await;
        assert!(place.sign().unwrap().contains("line 2 was signed"));
        assert!(place.sign().unwrap().contains("no line since"));
        place.write(&["eve"]).await;
        assert!(place.sign().unwrap().contains("line 3 was signed"));
        let (verified, heads) = place.verify().unwrap();
        assert_eq!((verified.lines, heads), (3, 2));

        // Somebody with the log, its head and its anchor writes all of them anew.
        let forge = |principals: &'static [&str]| {
            std::fs::remove_file(place.at("log")).unwrap();
            std::fs::remove_file(place.at("log.head")).unwrap();
            place.write(principals)
        };
        forge(&["ana", "bob", "bob", "ana"]).await;
        assert!(matches!(place.verify(), Err(SignError::Changed(2 | 3))), "{:?}", place.verify());
        forge(&["ana"]).await;
        assert!(matches!(place.verify(), Err(SignError::Shortened { expected: 3, lines: 1 })));
        assert!(place.sign().is_err());
        assert_eq!(std::fs::read_to_string(place.at("heads")).unwrap().lines().count(), 2);
    }

    #[tokio::test]
    async fn a_head_of_another_key_or_with_another_text_is_refused() {
        let place = Place::new();
        place.write(&["ana", "bob"]).await;
        place.sign().unwrap();
        let good = std::fs::read_to_string(place.at("heads")).unwrap();
        for (from, to) in [("2 ", "1 "), ("ed25519", "rsa"), ("T", "U"), ("\n", "\nx"), ("==", "")] {
            std::fs::write(place.at("heads"), good.replacen(from, to, 1)).unwrap();
            assert!(
                matches!(place.verify(), Err(SignError::Head { .. })),
                "{from} to {to}: {:?}",
                place.verify()
            );
        }
        std::fs::write(place.at("heads"), &good).unwrap();
        let other = PUBLIC.replace("Gb9E", "Gb9F");
        std::fs::write(place.at("public"), other).unwrap();
        assert!(matches!(place.verify(), Err(SignError::Head { .. })));
        for no_key in ["", PRIVATE, "-----BEGIN PUBLIC KEY-----\nMCow\n-----END PUBLIC KEY-----"] {
            std::fs::write(place.at("public"), no_key).unwrap();
            assert!(matches!(place.verify(), Err(SignError::Key { .. })), "{no_key}");
        }
        std::fs::set_permissions(place.at("private"), std::fs::Permissions::from_mode(0o644)).unwrap();
        assert!(matches!(place.sign(), Err(SignError::Exposed { .. })));
    }
}
