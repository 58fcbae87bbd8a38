//! What was typed at the prompt before, kept in a file of the user's.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;

use kafscale_meta::files::read_small_text;

const LINES_MAX: usize = 1_000;
const FILE_BYTES_MAX: u64 = 4 << 20;

#[derive(Debug, Default)]
pub struct History {
    lines: Vec<String>,
    path: Option<PathBuf>,
}

impl History {
    /// That of the user who runs this: `$XDG_STATE_HOME/kafscale/sql_history`. Where it cannot be
    /// kept, it lasts as long as the prompt.
    pub fn open() -> History {
        let state = std::env::var_os("XDG_STATE_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
        let home = || Some(PathBuf::from(std::env::var_os("HOME")?).join(".local/state"));
        History::at(state.or_else(home).map(|dir| dir.join("kafscale/sql_history")))
    }

    fn at(path: Option<PathBuf>) -> History {
        let text = path.as_deref().and_then(|path| read_small_text(path, FILE_BYTES_MAX).ok());
        let mut lines: Vec<String> = text.unwrap_or_default().lines().map(str::to_owned).collect();
        lines.drain(..lines.len().saturating_sub(LINES_MAX));
        History { lines, path }
    }

    pub fn lines(&self) -> &[String] {
        &self.lines
    }

    pub fn add(&mut self, line: &str) {
        if line.trim().is_empty() || self.lines.last().is_some_and(|last| last == line) {
            return;
        }
        self.lines.push(line.to_owned());
        let beyond = self.lines.len().saturating_sub(LINES_MAX);
        self.lines.drain(..beyond);
        if self.save(line, beyond > 0).is_none() {
            self.path = None;
        }
    }

    /// Adds a line to the file, or writes all of it anew.
    fn save(&self, line: &str, anew: bool) -> Option<()> {
        let path = self.path.as_deref()?;
        std::fs::create_dir_all(path.parent()?).ok()?;
        let options = &mut OpenOptions::new();
        options.create(true).mode(0o600);
        if anew {
            let mut file = options.write(true).truncate(true).open(path).ok()?;
            return file.write_all((self.lines.join("\n") + "\n").as_bytes()).ok();
        }
        options.append(true).open(path).ok()?.write_all(format!("{line}\n").as_bytes()).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn history_is_kept_and_bounded() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("deep/history");
        let mut history = History::at(Some(path.clone()));
        for i in 0..LINES_MAX + 5 {
            history.add(&format!("SELECT {i};"));
            history.add(&format!("SELECT {i};"));
        }
        history.add("  ");
        let again = History::at(Some(path));
        assert_eq!(again.lines().len(), LINES_MAX);
        assert_eq!(again.lines(), history.lines());
        assert_eq!(again.lines()[0], "SELECT 5;");
    }
}
