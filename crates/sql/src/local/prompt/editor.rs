//! A line that is edited on the terminal: moving, history, completion.

use std::io::{self, Read, Write};

use termion::event::Key;
use termion::input::TermRead as _;
use termion::raw::IntoRawMode as _;

use super::complete::{Completer, word_at_end};
use super::history::History;

/// Candidates that are listed.
const LISTED_MAX: usize = 60;
/// Of a terminal that does not say how wide it is, or says what cannot be.
const COLUMNS: usize = 80;
const COLUMNS_MIN: usize = 20;

/// What its user has typed.
#[derive(Debug, PartialEq, Eq)]
pub enum Input {
    Line(String),
    /// Ctrl-C: whatever was typed is not wanted.
    Cleared,
    /// Ctrl-D.
    End,
}

pub struct Editor {
    history: History,
    completer: Completer,
}

impl Editor {
    pub fn new(history: History, completer: Completer) -> Editor {
        Editor { history, completer }
    }

    /// A line behind `prompt`. `before` are the lines of the statement that came before.
    pub fn read(&mut self, prompt: &str, before: &str) -> io::Result<Input> {
        let mut out = io::stdout().into_raw_mode()?;
        let columns = termion::terminal_size().map_or(0, |(columns, _)| usize::from(columns));
        let columns = if columns < COLUMNS_MIN { COLUMNS } else { columns };
        let Editor { history, completer } = self;
        let mut complete = |text: &str| completer.candidates(&format!("{before}\n{text}"));
        let input = read_keys(io::stdin(), &mut out, prompt, columns, history.lines(), &mut complete)?;
        if let Input::Line(line) = &input {
            history.add(line);
        }
        Ok(input)
    }
}

/// The line, and where in it the cursor stands, in characters.
#[derive(Debug, Default)]
struct Line {
    text: Vec<char>,
    at: usize,
}

impl Line {
    fn of(text: &str) -> Line {
        let text: Vec<char> = text.chars().collect();
        Line { at: text.len(), text }
    }

    fn insert(&mut self, text: &str) {
        for c in text.chars().filter(|c| !c.is_control()) {
            self.text.insert(self.at, c);
            self.at += 1;
        }
    }

    fn before(&self) -> String {
        self.text[..self.at].iter().collect()
    }

    /// Where the word before the cursor begins.
    fn word_start(&self) -> usize {
        let before = &self.text[..self.at];
        let space = before.iter().rposition(|c| !c.is_whitespace()).map_or(0, |at| at + 1);
        before[..space].iter().rposition(|c| c.is_whitespace()).map_or(0, |at| at + 1)
    }

    fn delete(&mut self, from: usize, to: usize) {
        self.text.drain(from..to);
        self.at = from;
    }

    /// `false`: the key means nothing here.
    fn press(&mut self, key: Key) -> bool {
        let end = self.text.len();
        match key {
            Key::Char(c) => self.insert(&c.to_string()),
            Key::Left | Key::Ctrl('b') => self.at = self.at.saturating_sub(1),
            Key::Right | Key::Ctrl('f') => self.at = (self.at + 1).min(end),
            Key::Home | Key::Ctrl('a') => self.at = 0,
            Key::End | Key::Ctrl('e') => self.at = end,
            Key::Backspace | Key::Ctrl('h') if self.at > 0 => self.delete(self.at - 1, self.at),
            Key::Delete | Key::Ctrl('d') if self.at < end => self.delete(self.at, self.at + 1),
            Key::Ctrl('k') => self.text.truncate(self.at),
            Key::Ctrl('u') => self.delete(0, self.at),
            Key::Ctrl('w') => self.delete(self.word_start(), self.at),
            _ => return false,
        }
        true
    }
}

/// Reads keys until the line is whole.
fn read_keys(
    keys: impl Read,
    out: &mut impl Write,
    prompt: &str,
    columns: usize,
    history: &[String],
    complete: &mut dyn FnMut(&str) -> Vec<String>,
) -> io::Result<Input> {
    let mut line = Line::default();
    // Behind the newest one is what is being typed.
    let (mut place, mut typed) = (history.len(), String::new());
    draw(out, prompt, columns, &line)?;
    for key in keys.keys() {
        match key? {
            Key::Char('\n' | '\r') => {
                write!(out, "\r\n")?;
                out.flush()?;
                return Ok(Input::Line(line.text.iter().collect()));
            }
            Key::Ctrl('c') => {
                write!(out, "^C\r\n")?;
                out.flush()?;
                return Ok(Input::Cleared);
            }
            Key::Ctrl('d') if line.text.is_empty() => {
                write!(out, "\r\n")?;
                out.flush()?;
                return Ok(Input::End);
            }
            Key::Char('\t') => completed(out, &mut line, complete)?,
            Key::Up | Key::Ctrl('p') if place > 0 => {
                if place == history.len() {
                    typed = line.text.iter().collect();
                }
                place -= 1;
                line = Line::of(&history[place]);
            }
            Key::Down | Key::Ctrl('n') if place < history.len() => {
                place += 1;
                line = Line::of(history.get(place).unwrap_or(&typed));
            }
            key => {
                line.press(key);
            }
        }
        draw(out, prompt, columns, &line)?;
    }
    Ok(Input::End)
}

/// Goes as far as all candidates agree, and lists them where that is not one.
fn completed(
    out: &mut impl Write,
    line: &mut Line,
    complete: &mut dyn FnMut(&str) -> Vec<String>,
) -> io::Result<()> {
    let before = line.before();
    let begun = word_at_end(&before).chars().count();
    let found = complete(&before);
    let Some(common) = common_beginning(&found) else { return Ok(()) };
    if common.chars().count() > begun || found.len() == 1 {
        line.delete(line.at - begun, line.at);
        line.insert(&common);
        if found.len() == 1 && !common.ends_with('(') {
            line.insert(" ");
        }
        return Ok(());
    }
    let listed = found.iter().take(LISTED_MAX).cloned().collect::<Vec<_>>().join("  ");
    let more = if found.len() > LISTED_MAX { "  …" } else { "" };
    write!(out, "\r\n{listed}{more}\r\n")
}

fn common_beginning(names: &[String]) -> Option<String> {
    let mut common: Vec<char> = names.first()?.chars().collect();
    for name in &names[1..] {
        let same = common.iter().zip(name.chars()).take_while(|(a, b)| **a == *b).count();
        common.truncate(same);
    }
    Some(common.into_iter().collect())
}

/// Draws the part of the line around the cursor that fits on one line of the terminal.
fn draw(out: &mut impl Write, prompt: &str, columns: usize, line: &Line) -> io::Result<()> {
    let room = columns.saturating_sub(prompt.len() + 1).max(1);
    let from = line.at.saturating_sub(room);
    let shown: String = line.text.iter().skip(from).take(room).collect();
    write!(out, "\r{prompt}{shown}{}\r", termion::clear::UntilNewline)?;
    let right = u16::try_from(prompt.len() + line.at - from).unwrap_or(u16::MAX);
    write!(out, "{}", termion::cursor::Right(right))?;
    out.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What becomes of keys, and what stood on the terminal.
    fn typed(keys: &str, history: &[&str]) -> (Input, String) {
        let history: Vec<String> = history.iter().map(|line| (*line).to_owned()).collect();
        let mut complete = |text: &str| match word_at_end(text) {
            "ord" => vec!["order_lines".to_owned(), "orders".to_owned()],
            "orders" => vec!["orders".to_owned()],
            "order" => vec!["order_lines".to_owned(), "orders".to_owned()],
            _ => Vec::new(),
        };
        let mut out = Vec::new();
        let input = read_keys(keys.as_bytes(), &mut out, "> ", 80, &history, &mut complete).unwrap();
        (input, String::from_utf8(out).unwrap())
    }

    #[test]
    fn keys_edit_the_line() {
        for (keys, line) in [
            ("SELECT 1;\r", "SELECT 1;"),
            ("SELEKT\x7f\x7fCT 1\r", "SELECT 1"),
            ("b\x01a\x05c\r", "abc"),
            ("ac\x1b[Db\r", "abc"),
            ("one two  three\x17\r", "one two  "),
            ("gone\x15kept\r", "kept"),
            ("kept gone\x1b[D\x1b[D\x1b[D\x1b[D\x0b\r", "kept "),
            ("grüße\r", "grüße"),
        ] {
            assert_eq!(typed(keys, &[]).0, Input::Line(line.to_owned()), "{keys:?}");
        }
        assert_eq!(typed("abc\x03", &[]).0, Input::Cleared);
        assert_eq!(typed("\x04", &[]).0, Input::End);
    }

    #[test]
    fn arrows_bring_back_what_was_typed() {
        let history = ["first", "second"];
        assert_eq!(typed("\x1b[A\r", &history).0, Input::Line("second".into()));
        assert_eq!(typed("\x1b[A\x1b[A\x1b[A\r", &history).0, Input::Line("first".into()));
        assert_eq!(typed("new\x1b[A\x1b[B\r", &history).0, Input::Line("new".into()));
    }

    #[test]
    fn tab_completes_as_far_as_it_is_clear() {
        assert_eq!(typed("FROM ord\ts\t\r", &[]).0, Input::Line("FROM orders ".into()));
        let (input, shown) = typed("FROM ord\t\t\r", &[]);
        assert_eq!(input, Input::Line("FROM order".into()));
        assert!(shown.contains("order_lines  orders"), "{shown}");
        assert_eq!(typed("x\t\r", &[]).0, Input::Line("x".into()));
    }

    #[test]
    fn a_long_line_is_shown_around_its_end() {
        let mut out = Vec::new();
        draw(&mut out, "> ", 12, &Line::of("0123456789abcdef")).unwrap();
        assert!(String::from_utf8(out).unwrap().contains("> 789abcdef"));
    }
}
