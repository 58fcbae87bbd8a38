//! Secrets of collections: where the configuration says that they are, and reading them from there.
//!
//! Invariant: a secret is never written in the configuration, and its type never prints it. Only [`Secret::expose`] gives it.

use std::fmt;
use std::io::{self, Read as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use kafscale_meta::files::open_regular;
use kafscale_settings::s3::process_variables;
use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, Visitor};
use tokio::io::AsyncReadExt as _;
use tokio::process::Command;
use tokio::sync::Mutex;

/// No password, token or key is longer.
const MAX_BYTES: u64 = 64 << 10;
/// A command that asks a vault has so long.
pub const COMMAND_TIMEOUT: Duration = Duration::from_secs(10);
/// What to write in the place of a secret.
const FORMS: &str = "{ env = \"NAME\" }, { file = \"PATH\" } or { command = [\"program\", \"argument\"] }";

/// A password, a token or a key. It prints as dots.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Arc<str>);

impl Secret {
    pub fn new(text: &str) -> Secret {
        Secret(text.into())
    }

    /// For the one call that hands it to the source. Never to be formatted.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("…")
    }
}

/// Where a secret is.
#[derive(Clone, PartialEq, Eq)]
pub enum SecretSource {
    /// A variable of the process.
    Env(String),
    /// A file that only its owner may read. A relative path begins at the directory of the configuration.
    File(PathBuf),
    /// A program and its arguments, which writes the secret to its standard output.
    Command(Vec<String>),
}

impl fmt::Display for SecretSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SecretSource::Env(name) => write!(f, "the variable {name}"),
            SecretSource::File(path) => write!(f, "the file {}", path.display()),
            // Not its arguments, which may be tokens.
            SecretSource::Command(words) => {
                write!(f, "the command {}", words.first().map_or("", String::as_str))
            }
        }
    }
}

impl fmt::Debug for SecretSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl<'de> Deserialize<'de> for SecretSource {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<SecretSource, D::Error> {
        deserializer.deserialize_any(SourceVisitor)
    }
}

struct SourceVisitor;

fn literal<E: serde::de::Error>() -> E {
    E::custom(format!("a secret must not stand in the file itself; write where it is: {FORMS}"))
}

/// Whatever stands in the place of the table may be the secret, and is not repeated.
impl<'de> Visitor<'de> for SourceVisitor {
    type Value = SecretSource;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(FORMS)
    }

    fn visit_str<E: serde::de::Error>(self, _: &str) -> Result<SecretSource, E> {
        Err(literal())
    }

    fn visit_i64<E: serde::de::Error>(self, _: i64) -> Result<SecretSource, E> {
        Err(literal())
    }

    fn visit_u64<E: serde::de::Error>(self, _: u64) -> Result<SecretSource, E> {
        Err(literal())
    }

    fn visit_f64<E: serde::de::Error>(self, _: f64) -> Result<SecretSource, E> {
        Err(literal())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<SecretSource, A::Error> {
        let wanted = || A::Error::custom(format!("a secret is one of: {FORMS}"));
        let key: String = map.next_key()?.ok_or_else(wanted)?;
        let source = match key.as_str() {
            "env" => SecretSource::Env(map.next_value()?),
            "file" => SecretSource::File(map.next_value()?),
            "command" => SecretSource::Command(map.next_value()?),
            _ => return Err(wanted()),
        };
        let is_empty = match &source {
            SecretSource::Env(name) => name.is_empty(),
            SecretSource::File(path) => path.as_os_str().is_empty(),
            SecretSource::Command(words) => words.first().is_none_or(String::is_empty),
        };
        match map.next_key::<String>()? {
            None if !is_empty => Ok(source),
            _ => Err(wanted()),
        }
    }
}

/// Why there is no secret. None of these holds one.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    #[error("the variable {0}, which should hold the secret, is not set")]
    NoVariable(String),
    #[error("the file {}, which should hold the secret, cannot be read: {source}", path.display())]
    Unreadable { path: PathBuf, source: io::Error },
    #[error("the file {} holds a secret, and others than its owner may read or write it (mode {mode:04o}): chmod 600 {}", path.display(), path.display())]
    Exposed { path: PathBuf, mode: u32 },
    #[error("the file {} holds a secret, and belongs to the user {owner}, who is neither this program's user nor root", path.display())]
    OfAnother { path: PathBuf, owner: u32 },
    #[error("the command {program}, which should print the secret, cannot be run: {source}")]
    NotRun { program: String, source: io::Error },
    #[error("the command {program}, which should print the secret, ended with {status}")]
    Failed { program: String, status: ExitStatus },
    #[error("the command {program}, which should print the secret, did not end within {limit:?}")]
    Late { program: String, limit: Duration },
    #[error("{0} has more than {MAX_BYTES} bytes, which is no secret")]
    TooLong(SecretSource),
    #[error("{0} holds no text in UTF-8")]
    NotText(SecretSource),
    #[error("{0} is empty")]
    Empty(SecretSource),
}

impl SecretSource {
    /// Reads the secret. `base` is the directory of the configuration.
    pub async fn read(&self, base: &Path) -> Result<Secret, SecretError> {
        let bytes = match self {
            SecretSource::Env(name) => {
                let found = process_variables().find(|(known, _)| known == name);
                found.ok_or_else(|| SecretError::NoVariable(name.clone()))?.1.into_bytes()
            }
            SecretSource::File(path) => {
                let path = base.join(path);
                let read = tokio::task::spawn_blocking(move || of_file(&path));
                read.await.unwrap_or_else(|e| {
                    Err(SecretError::Unreadable { path: base.to_owned(), source: io::Error::other(e) })
                })?
            }
            SecretSource::Command(words) => of_command(words, base, COMMAND_TIMEOUT).await?,
        };
        if bytes.len() as u64 > MAX_BYTES {
            return Err(SecretError::TooLong(self.clone()));
        }
        let text = String::from_utf8(bytes).map_err(|_| SecretError::NotText(self.clone()))?;
        match text.trim_end_matches(['\r', '\n']) {
            "" => Err(SecretError::Empty(self.clone())),
            secret => Ok(Secret::new(secret)),
        }
    }
}

fn of_file(path: &Path) -> Result<Vec<u8>, SecretError> {
    let unreadable = |source| SecretError::Unreadable { path: path.to_owned(), source };
    let file = open_regular(path).map_err(unreadable)?;
    let found = file.metadata().map_err(unreadable)?;
    // Of the open file, so that it cannot be exchanged in between.
    let mode = found.permissions().mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(SecretError::Exposed { path: path.to_owned(), mode });
    }
    let owner = found.uid();
    if owner != 0 && owner != rustix::process::geteuid().as_raw() {
        return Err(SecretError::OfAnother { path: path.to_owned(), owner });
    }
    let mut bytes = Vec::new();
    file.take(MAX_BYTES + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    Ok(bytes)
}

async fn of_command(words: &[String], base: &Path, limit: Duration) -> Result<Vec<u8>, SecretError> {
    let Some((program, arguments)) = words.split_first() else { return Ok(Vec::new()) };
    let not_run = |source| SecretError::NotRun { program: program.clone(), source };
    let mut child = Command::new(program)
        .args(arguments)
        .current_dir(base)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        // What it says there may hold the secret.
        .stderr(Stdio::null())
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .map_err(not_run)?;
    let group = child.id().and_then(|id| rustix::process::Pid::from_raw(i32::try_from(id).ok()?));
    let output = child.stdout.take();
    let run = async {
        let mut bytes = Vec::new();
        if let Some(output) = output {
            output.take(MAX_BYTES + 1).read_to_end(&mut bytes).await?;
        }
        if bytes.len() as u64 > MAX_BYTES {
            return Ok((bytes, None));
        }
        Ok::<_, io::Error>((bytes, Some(child.wait().await?)))
    };
    let ended = tokio::time::timeout(limit, run).await;
    let status = match &ended {
        Ok(Ok((_, status))) => *status,
        Ok(Err(_)) | Err(_) => None,
    };
    // Not only the child: a shell leaves its own children behind.
    if let (None, Some(group)) = (status, group) {
        let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
    }
    let (bytes, status) =
        ended.map_err(|_| SecretError::Late { program: program.clone(), limit })?.map_err(not_run)?;
    match status {
        Some(status) if !status.success() => Err(SecretError::Failed { program: program.clone(), status }),
        _ => Ok(bytes),
    }
}

/// A secret that is read when it is first needed, kept, and read again when the source refuses it: it may have been exchanged.
#[derive(Debug)]
pub struct SecretSlot {
    source: SecretSource,
    base: PathBuf,
    known: Mutex<Option<Secret>>,
}

impl SecretSlot {
    /// `base` is the directory of the configuration.
    pub fn new(source: SecretSource, base: &Path) -> SecretSlot {
        SecretSlot { source, base: base.to_owned(), known: Mutex::default() }
    }

    pub async fn get(&self) -> Result<Secret, SecretError> {
        let mut known = self.known.lock().await;
        if let Some(secret) = &*known {
            return Ok(secret.clone());
        }
        let secret = self.source.read(&self.base).await?;
        *known = Some(secret.clone());
        Ok(secret)
    }

    /// After the source has refused `refused`: another secret, if there is one by now. None: trying again is of no use.
    pub async fn after_refusal(&self, refused: &Secret) -> Result<Option<Secret>, SecretError> {
        let mut known = self.known.lock().await;
        // Somebody else may have been here first.
        if let Some(secret) = known.as_ref().filter(|secret| *secret != refused) {
            return Ok(Some(secret.clone()));
        }
        let secret = self.source.read(&self.base).await?;
        *known = Some(secret.clone());
        Ok((secret != *refused).then_some(secret))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[derive(Debug, serde::Deserialize)]
    struct Holder {
        password: SecretSource,
    }

    fn source(text: &str) -> Result<SecretSource, String> {
        basic_toml::from_str::<Holder>(text).map(|holder| holder.password).map_err(|e| e.to_string())
    }

    fn private(path: &Path, text: &str) {
        fs::write(path, text).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
    }

    #[test]
    fn a_secret_in_the_file_itself_is_refused_and_not_repeated() {
        for text in ["password = \"hunter2\"", "password = 20222", "password = { value = \"hunter2\" }"] {
            let error = source(text).unwrap_err();
            assert!(error.contains("{ env = \"NAME\" }"), "{error}");
            assert!(!error.contains("hunter2") && !error.contains("20222"), "{error}");
        }
        for text in [
            "password = {}",
            "password = { env = \"\" }",
            "password = { command = [] }",
            "password = { env = \"A\", file = \"b\" }",
        ] {
            assert!(source(text).unwrap_err().contains("a secret is one of"), "{text}");
        }
        assert_eq!(source("password = { env = \"A\" }"), Ok(SecretSource::Env("A".to_owned())));
    }

    #[test]
    fn a_secret_does_not_print() {
        let (secret, command) =
            (Secret::new("hunter2"), SecretSource::Command(vec!["vault".into(), "hunter2".into()]));
        let text = format!("{secret} {secret:?} {command} {command:?}");
        assert!(!text.contains("hunter2"), "{text}");
        assert_eq!(secret.expose(), "hunter2");
    }

    #[tokio::test]
    async fn files_that_others_may_read_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("password");
        private(&path, "hunter2\n");
        let source = SecretSource::File("password".into());
        assert_eq!(source.read(dir.path()).await.unwrap().expose(), "hunter2");
        for mode in [0o640, 0o604, 0o620, 0o644] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            let error = source.read(dir.path()).await.unwrap_err();
            assert!(matches!(error, SecretError::Exposed { .. }), "{mode:o}: {error}");
            assert!(error.to_string().contains("chmod 600"), "{error}");
        }
        for (text, expected) in [("", "is empty"), ("\n", "is empty")] {
            private(&path, text);
            assert!(source.read(dir.path()).await.unwrap_err().to_string().contains(expected));
        }
        private(&path, &"x".repeat(65 << 10));
        assert!(matches!(source.read(dir.path()).await, Err(SecretError::TooLong(_))));
        let none = SecretSource::File("none".into()).read(dir.path()).await.unwrap_err();
        assert!(matches!(none, SecretError::Unreadable { .. }), "{none}");
    }

    #[tokio::test]
    async fn commands_are_bounded_in_time_and_output() {
        let dir = tempfile::tempdir().unwrap();
        let shell = |script: &str| SecretSource::Command(vec!["sh".into(), "-c".into(), script.into()]);
        let read = async |script: &str| shell(script).read(dir.path()).await;
        assert_eq!(read("echo hunter2").await.unwrap().expose(), "hunter2");
        let error = read("echo hunter2; echo hunter2 >&2; exit 3").await.unwrap_err();
        assert!(matches!(error, SecretError::Failed { .. }), "{error}");
        assert!(!error.to_string().contains("hunter2"), "{error}");
        // Without an end: it is killed once it has written too much.
        assert!(matches!(read("yes").await, Err(SecretError::TooLong(_))));
        let missing = SecretSource::Command(vec!["no-such-program".into()]).read(dir.path()).await;
        assert!(matches!(missing, Err(SecretError::NotRun { .. })));
    }

    #[tokio::test]
    async fn a_command_that_hangs_is_given_up() {
        let dir = tempfile::tempdir().unwrap();
        let command = ["sh", "-c", "sleep 1000 & echo $! > child; wait"].map(str::to_owned);
        let given_up = of_command(&command, dir.path(), Duration::from_millis(500)).await;
        assert!(matches!(given_up, Err(SecretError::Late { .. })));
        // Nor does its child go on.
        let child = fs::read_to_string(dir.path().join("child")).unwrap();
        let gone = || !Path::new("/proc").join(child.trim()).join("exe").exists();
        for _ in 0..100 {
            if gone() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("the child {child} goes on");
    }

    #[tokio::test]
    async fn a_refused_secret_is_read_again() {
        let dir = tempfile::tempdir().unwrap();
        private(&dir.path().join("password"), "old");
        let slot = SecretSlot::new(SecretSource::File("password".into()), dir.path());
        let old = slot.get().await.unwrap();
        assert_eq!(slot.after_refusal(&old).await.unwrap(), None);
        private(&dir.path().join("password"), "new");
        assert_eq!(slot.get().await.unwrap(), old);
        let new = slot.after_refusal(&old).await.unwrap().unwrap();
        assert_eq!((new.expose(), slot.get().await.unwrap().expose()), ("new", "new"));
        // Another connection that still had the old one need not read it once more.
        fs::remove_file(dir.path().join("password")).unwrap();
        assert_eq!(slot.after_refusal(&old).await.unwrap(), Some(new));
    }
}
