//! The prompt of `kafscale sql -i`: statements over several lines, each answered when its semicolon
//! is there, and a few words of our own.

mod complete;
mod editor;
mod history;

use std::io::{self, BufRead as _, IsTerminal as _, Write as _};
use std::sync::Arc;

use kafscale_settings::failure::Failure;
use kafscale_settings::sql::{AnswerArgs, Format};
use tokio::signal::unix::{SignalKind, signal};

use self::complete::Completer;
use self::editor::{Editor, Input};
use self::history::History;
use super::answer::AnswerError;
use super::{answer_one, error_text};
use crate::engine::Engine;
use crate::statement::{is_whole, parse_all};

const HELP: &str = "\
  SELECT …;          answers; a statement ends with a semicolon, and may have several lines
  \\d                 topics
  \\d TOPIC           its columns
  \\f FORMAT          form of answers: table, csv, json, ndjson
  \\?                 this
  \\q                 ends, as does Ctrl-D

Tab completes names of topics, columns and keywords. The arrows up and down bring back what was asked before.
Ctrl-C clears what is typed, and ends the statement that runs.";

/// Answers until its user ends it.
pub async fn run(engine: Arc<Engine>, args: &AnswerArgs) -> Result<(), Failure> {
    if args.format.is_binary() {
        return Err(Failure::usage("--format arrow and parquet are for --command; a prompt shows text"));
    }
    let mut prompt = Prompt { engine: Arc::clone(&engine), format: args.format, pending: String::new() };
    if !io::stdin().is_terminal() {
        return prompt.run_lines().await;
    }
    println!("KafScale SQL. \\? for help, \\q to end.");
    let mut editor = Editor::new(History::open(), Completer::new(engine));
    loop {
        let (text, before) = (prompt.text(), prompt.pending.clone());
        // The terminal is waited for in a thread of its own.
        let read = tokio::task::spawn_blocking(move || {
            let input = editor.read(text, &before);
            (editor, input)
        });
        let (back, input) = read.await.map_err(|e| Failure::runtime(e.to_string()))?;
        editor = back;
        match input.map_err(|e| Failure::runtime(format!("the terminal: {e}")))? {
            Input::Line(line) => {
                if !prompt.take(&line).await {
                    break;
                }
            }
            Input::Cleared => prompt.pending.clear(),
            Input::End => break,
        }
    }
    Ok(())
}

struct Prompt {
    engine: Arc<Engine>,
    format: Format,
    /// Lines of a statement whose semicolon has not come.
    pending: String,
}

impl Prompt {
    /// What stands before a line.
    fn text(&self) -> &'static str {
        if self.pending.is_empty() { "kafscale=> " } else { "kafscale-> " }
    }

    /// Where nobody types: lines of a file or a pipe.
    async fn run_lines(&mut self) -> Result<(), Failure> {
        for line in io::stdin().lock().lines() {
            let line = line.map_err(|e| Failure::runtime(format!("standard input: {e}")))?;
            if !self.take(&line).await {
                return Ok(());
            }
        }
        if !self.pending.trim().is_empty() {
            self.take(";").await;
        }
        Ok(())
    }

    /// Takes a line. `false`: it was the last one.
    async fn take(&mut self, line: &str) -> bool {
        if self.pending.is_empty() && line.trim_start().starts_with('\\') {
            return self.command(line.trim()).await;
        }
        if !self.pending.is_empty() {
            self.pending.push('\n');
        }
        self.pending.push_str(line);
        if is_whole(&self.pending) {
            let text = std::mem::take(&mut self.pending);
            self.answer(&text).await;
        }
        true
    }

    async fn command(&mut self, line: &str) -> bool {
        let (word, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        let topic = rest.trim().trim_end_matches(';').trim();
        match (word, topic) {
            ("\\q", _) => return false,
            ("\\?" | "\\h", _) => println!("{HELP}"),
            ("\\d" | "\\dt" | "\\d+", "") => self.answer("SHOW TOPICS").await,
            ("\\d" | "\\dt" | "\\d+", topic) => self.answer(&format!("DESCRIBE {topic}")).await,
            ("\\f", "table") => self.format = Format::Table,
            ("\\f", "csv") => self.format = Format::Csv,
            ("\\f", "json") => self.format = Format::Json,
            ("\\f", "ndjson") => self.format = Format::Ndjson,
            ("\\f", _) => eprintln!("\\f needs table, csv, json or ndjson"),
            _ => eprintln!("{word} is not known; \\? lists what is"),
        }
        true
    }

    async fn answer(&self, text: &str) {
        let statements = match parse_all(text) {
            Ok(statements) => statements,
            Err(error) => return eprintln!("ERROR:  {}", error_text(&error)),
        };
        for statement in statements {
            let answering = answer_one(&self.engine, statement, self.format, None);
            let answered = tokio::select! {
                answered = answering => answered,
                () = interrupted() => return eprintln!("cancelled"),
            };
            match answered {
                Ok(()) => {}
                Err(AnswerError::Sql(error)) => eprintln!("ERROR:  {}", error_text(&error)),
                Err(error) => eprintln!("ERROR:  {error}"),
            }
            let _ = io::stdout().flush();
        }
    }
}

/// Returns at Ctrl-C.
async fn interrupted() {
    match signal(SignalKind::interrupt()) {
        Ok(mut interrupt) => {
            interrupt.recv().await;
        }
        Err(_) => std::future::pending().await,
    }
}
