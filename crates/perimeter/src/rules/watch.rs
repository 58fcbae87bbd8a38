//! Rules that are exchanged while the program runs: files are read again each second, and when the
//! operator says so.
//!
//! Invariant: there are always rules. Files that cannot be used, or that somebody is just writing,
//! change nothing; that they cannot be used is part of the state, until they can. A rule that is gone
//! from the files holds until somebody says that this is meant.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use super::error::{RulesError, Source};
use super::file::KeySource;
use super::load::{Rulebook, Texts};

const INTERVAL: Duration = Duration::from_secs(1);
/// Of the rules that would be lost.
const MOST_TOLD: usize = 5;

/// What is made of rules that are in the files no more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Losses {
    /// An operator has asked for what is in the files.
    Meant,
    /// Nobody has: a file may have been cut.
    Refused,
}

/// Gives the bytes of a key. It may wait.
pub type KeyReader = Box<dyn Fn(&KeySource) -> Result<Vec<u8>, Source> + Send + Sync>;

/// The rules as of now.
pub struct Rules {
    policies: PathBuf,
    rules: PathBuf,
    read_key: KeyReader,
    now: Mutex<Now>,
    /// Held while files are read and used, or what is older could replace what is newer.
    turn: Mutex<()>,
}

struct Now {
    book: Arc<Rulebook>,
    /// Why what is in the files now is not used.
    broken: Option<String>,
    /// What was found the last time, and whether it has been tried.
    seen: Found,
    tried: bool,
}

/// The hash of what the files hold, or why they cannot be read.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Found {
    Texts(String),
    Nothing(String),
}

/// For health, and for answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RulesState {
    /// Of the rules that hold.
    pub hash: String,
    /// Why what is in the files now is not used: the rules that hold are older.
    pub broken: Option<String>,
}

impl fmt::Debug for Rules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rules")
            .field("policies", &self.policies)
            .field("rules", &self.rules)
            .finish_non_exhaustive()
    }
}

impl Rules {
    /// Reads the rules with which the program starts. It may wait for keys.
    pub fn open(policies: PathBuf, rules: PathBuf, read_key: KeyReader) -> Result<Rules, RulesError> {
        let texts = Texts::read(&policies, &rules)?;
        let book = Arc::new(Rulebook::of(&texts, &read_key)?);
        let seen = Found::Texts(texts.hash());
        let now = Mutex::new(Now { book, broken: None, seen, tried: true });
        Ok(Rules { policies, rules, read_key, now, turn: Mutex::default() })
    }

    /// The rules that hold. A request keeps those that it began with.
    pub fn current(&self) -> Arc<Rulebook> {
        self.now.lock().book.clone()
    }

    pub fn state(&self) -> RulesState {
        let now = self.now.lock();
        RulesState { hash: now.book.hash().to_owned(), broken: now.broken.clone() }
    }

    /// Reads the files and the keys again, whether they changed or not: for SIGHUP, after a key was
    /// exchanged or a rule was taken away. It may wait.
    pub fn reload(&self) -> RulesState {
        let _turn = self.turn.lock();
        let read = Texts::read(&self.policies, &self.rules);
        self.now.lock().seen = found(&read);
        self.take(read, Losses::Meant);
        self.state()
    }

    /// Looks whether the files have changed. What is found is used when it is found twice: an
    /// editor may be writing. It may wait.
    pub fn look(&self) {
        let _turn = self.turn.lock();
        let read = Texts::read(&self.policies, &self.rules);
        let found = found(&read);
        {
            let mut now = self.now.lock();
            if now.seen != found {
                (now.seen, now.tried) = (found, false);
                return;
            }
            if now.tried {
                return;
            }
        }
        self.take(read, Losses::Refused);
    }

    fn take(&self, read: Result<Texts, RulesError>, losses: Losses) {
        // Not under the lock: keys may take their time.
        let loaded = read.and_then(|texts| Rulebook::of(&texts, &self.read_key));
        let loaded = loaded.and_then(|book| match losses {
            Losses::Meant => Ok(book),
            Losses::Refused => without_losses(&self.current(), book),
        });
        let mut now = self.now.lock();
        now.tried = true;
        match loaded {
            Ok(book) => {
                let warnings = book.warnings().len();
                tracing::info!(
                    rules = book.hash(),
                    before = now.book.hash(),
                    warnings,
                    "the rules are exchanged"
                );
                (now.book, now.broken) = (Arc::new(book), None);
            }
            Err(error) => {
                let hash = now.book.hash();
                tracing::error!(%error, rules = hash, "the rules cannot be used; those from before hold on");
                now.broken = Some(error.to_string());
            }
        }
    }

    /// Looks each second, until `stop`.
    pub async fn watch(self: Arc<Self>, stop: CancellationToken) {
        while stop.run_until_cancelled(tokio::time::sleep(INTERVAL)).await.is_some() {
            let rules = self.clone();
            // A panic of one look must not end the others.
            if let Err(error) = tokio::task::spawn_blocking(move || rules.look()).await {
                tracing::error!(%error, "the rules could not be looked at");
            }
        }
    }
}

fn without_losses(now: &Rulebook, new: Rulebook) -> Result<Rulebook, RulesError> {
    let lost = now.lost_in(&new);
    match lost.len() {
        0 => Ok(new),
        1..=MOST_TOLD => Err(RulesError::Loses { what: lost.join(", ") }),
        all => {
            let what = format!("{} and {} more", lost[..MOST_TOLD].join(", "), all - MOST_TOLD);
            Err(RulesError::Loses { what })
        }
    }
}

fn found(read: &Result<Texts, RulesError>) -> Found {
    match read {
        Ok(texts) => Found::Texts(texts.hash()),
        Err(error) => Found::Nothing(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const PERMIT: &str = "permit (principal, action, resource);";

    fn rules(dir: &std::path::Path) -> Rules {
        fs::create_dir(dir.join("policies")).unwrap();
        fs::write(dir.join("policies/a.cedar"), PERMIT).unwrap();
        fs::write(dir.join("rules.toml"), "").unwrap();
        let read_key: KeyReader = Box::new(|_| Ok(vec![7; 32]));
        Rules::open(dir.join("policies"), dir.join("rules.toml"), read_key).unwrap()
    }

    #[test]
    fn files_that_changed_are_used_once_they_stand_still() {
        let dir = tempfile::tempdir().unwrap();
        let rules = rules(dir.path());
        let first = rules.state();
        let kept = rules.current();
        fs::write(dir.path().join("policies/b.cedar"), "forbid (principal, action, resource);").unwrap();
        rules.look();
        assert_eq!(rules.state(), first);
        rules.look();
        let second = rules.state();
        assert_ne!(second.hash, first.hash);
        // Whoever began with the old ones has them.
        assert_eq!(kept.hash(), first.hash);
        rules.look();
        assert_eq!(rules.state(), second);
    }

    #[test]
    fn broken_rules_keep_the_old_ones_and_say_so() {
        let dir = tempfile::tempdir().unwrap();
        let rules = rules(dir.path());
        let first = rules.state();
        let file = dir.path().join("rules.toml");
        let look = || (0..2).for_each(|_| rules.look());
        for (text, expected) in [("[[obligation]]\n", "names neither"), ("x = 1", "x"), ("= ", "line 1")] {
            fs::write(&file, text).unwrap();
            look();
            let state = rules.state();
            assert_eq!(state.hash, first.hash);
            assert!(state.broken.as_ref().is_some_and(|why| why.contains(expected)), "{state:?}");
        }
        fs::write(&file, "").unwrap();
        look();
        assert_eq!(rules.state(), first);
        fs::remove_file(dir.path().join("policies/a.cedar")).unwrap();
        look();
        assert!(rules.state().broken.is_some_and(|why| why.contains("no file")), "no policies are no rules");
        fs::write(dir.path().join("policies/a.cedar"), PERMIT).unwrap();
        assert_eq!(rules.reload(), first);
    }

    #[test]
    fn rules_that_lose_something_wait_for_somebody_to_say_so() {
        let dir = tempfile::tempdir().unwrap();
        let rules = rules(dir.path());
        let file = dir.path().join("rules.toml");
        let look = || (0..2).for_each(|_| rules.look());
        let one = "[[obligation]]\nid = \"few\"\ntable = \"*\"\nmax_rows = 5\n";
        fs::write(&file, format!("{one}[[obligation]]\nid = \"less\"\ntable = \"*\"\nmax_bytes = 50\n"))
            .unwrap();
        look();
        let whole = rules.state();
        assert_eq!(whole.broken, None);
        for (text, lost) in [("", "`few`, the obligation `less`"), (one, "the obligation `less`;")] {
            fs::write(&file, text).unwrap();
            look();
            let state = rules.state();
            assert_eq!(state.hash, whole.hash);
            assert!(state.broken.as_ref().is_some_and(|why| why.contains(lost)), "{state:?}");
        }
        let state = rules.reload();
        assert!(state.broken.is_none() && state.hash != whole.hash, "{state:?}");
        assert_eq!(rules.current().hash(), state.hash);
    }

    #[test]
    fn a_reload_reads_keys_again() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("a.cedar"), PERMIT).unwrap();
        let text = "[keys.k]\nenv = \"K\"\n[[obligation]]\ntable = \"*\"\nmask = { hash = \"k\" }";
        fs::write(dir.path().join("rules.toml"), text).unwrap();
        let length = Arc::new(Mutex::new(32));
        let given = length.clone();
        let read_key: KeyReader = Box::new(move |_| Ok(vec![7; *given.lock()]));
        let rules = Rules::open(dir.path().join("a.cedar"), dir.path().join("rules.toml"), read_key).unwrap();
        *length.lock() = 1;
        (0..3).for_each(|_| rules.look());
        assert_eq!(rules.state().broken, None);
        assert!(rules.reload().broken.is_some_and(|why| why.contains("can be guessed")));
    }

    #[tokio::test]
    async fn watching_ends_when_told() {
        let dir = tempfile::tempdir().unwrap();
        let rules = Arc::new(rules(dir.path()));
        let stop = CancellationToken::new();
        stop.cancel();
        rules.watch(stop).await;
    }
}
