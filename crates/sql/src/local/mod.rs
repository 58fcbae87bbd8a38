//! Answers for whoever has started this process: to `--command`, or at a prompt.

pub mod answer;
mod output;
mod plain;
mod progress;
pub mod prompt;

use std::io::{self, IsTerminal as _, Write as _};
use std::path::Path;
use std::sync::Arc;

use futures_util::StreamExt as _;
use kafscale_settings::failure::Failure;
use kafscale_settings::sql::{AnswerArgs, Format};

use self::answer::AnswerError;
use self::output::Output;
use self::progress::Progress;
use crate::engine::Engine;
use crate::error::SqlError;
use crate::running::Running;
use crate::statement::{QueryText, Statement, parse_all};

/// Answers all statements of a text.
pub async fn answer_all(engine: &Engine, text: &str, args: &AnswerArgs) -> Result<(), Failure> {
    let statements = parse_all(text).map_err(|error| failure(&error))?;
    check(&statements, args)?;
    for statement in statements {
        match answer_one(engine, statement, args.format, args.output.as_deref()).await {
            Err(error) if error.is_closed() => return Ok(()),
            Err(AnswerError::Sql(error)) => return Err(failure(&error)),
            Err(error) => return Err(Failure::runtime(error.to_string())),
            Ok(()) => {}
        }
    }
    Ok(())
}

fn failure(error: &SqlError) -> Failure {
    Failure::runtime(error_text(error))
}

pub fn error_text(error: &SqlError) -> String {
    let hint = error.hint().map(|hint| format!("\nhint: {hint}")).unwrap_or_default();
    format!("{error}{hint}")
}

/// Refuses what cannot be written in one piece.
fn check(statements: &[Statement], args: &AnswerArgs) -> Result<(), Failure> {
    let is_binary = args.format.is_binary();
    let has_rows =
        |statement: &&Statement| matches!(statement, Statement::Query(_) | Statement::Explain { .. });
    if (is_binary || args.output.is_some()) && statements.iter().filter(has_rows).count() > 1 {
        return Err(Failure::usage("--command: one statement is answered in a file, as Arrow or as Parquet"));
    }
    let is_endless = statements.iter().any(Statement::is_endless);
    if args.output.is_some() && is_endless {
        return Err(Failure::usage("--output: FOLLOW has no end, and the file would never be there"));
    }
    if args.format == Format::Parquet && is_endless {
        return Err(Failure::usage(
            "--format parquet: FOLLOW has no end, and without it nothing can be read",
        ));
    }
    if is_binary && args.output.is_none() && io::stdout().is_terminal() {
        return Err(Failure::usage("--format arrow and parquet are not for a terminal; add --output FILE"));
    }
    Ok(())
}

/// Answers a statement, and says on standard error what was read.
pub async fn answer_one(
    engine: &Engine,
    statement: Statement,
    format: Format,
    output: Option<&Path>,
) -> Result<(), AnswerError> {
    let query = match statement {
        Statement::Query(query) => query,
        Statement::Explain { query, analyze } => {
            let mut out = Output::open(output)?;
            for line in explain(engine, &query, analyze).await? {
                writeln!(out, "{line}")?;
            }
            return Ok(out.finish()?);
        }
        Statement::Copy(_) | Statement::Declare(_) | Statement::Fetch(_) | Statement::Close(_) => {
            let why = "COPY and cursors are for clients of the server".to_owned();
            return Err(SqlError::Unsupported(why).into());
        }
        Statement::Set(_)
        | Statement::Show(_)
        | Statement::ResetAll
        | Statement::Begin
        | Statement::Commit { .. }
        | Statement::Rollback { .. }
        | Statement::Savepoint(_)
        | Statement::Release(_)
        | Statement::RollbackTo(_)
        | Statement::Deallocate(_)
        | Statement::DiscardAll
        | Statement::Nothing(_) => return Ok(()),
    };
    let at_once = query.follow.is_some();
    let running = start(engine, &query).await?;
    let asked = Arc::clone(&running.query);
    let mut out = Output::open(output)?;
    {
        // Rows on the terminal would be mixed up with it.
        let is_apart = output.is_some() || format == Format::Table || !io::stdout().is_terminal();
        let _progress = is_apart.then(|| Progress::show(&running.plan, &asked));
        answer::write(running, format, &mut out, at_once).await?;
    }
    out.finish()?;
    for notice in asked.notices() {
        let _ = writeln!(io::stderr(), "{notice}");
    }
    Ok(())
}

async fn start(engine: &Engine, query: &QueryText) -> Result<Running, SqlError> {
    let planner = engine.begin(query);
    let plan = planner.plan().await?;
    planner.run(plan, None).await
}

async fn explain(engine: &Engine, query: &QueryText, analyze: bool) -> Result<Vec<String>, SqlError> {
    let planner = engine.begin(query);
    let plan = planner.plan().await?;
    if !analyze {
        return planner.explain(plan, None).await;
    }
    let mut running = planner.run(plan, None).await?;
    while let Some(batch) = running.rows.next().await {
        batch?;
    }
    Ok(Running::measured(&*running.plan))
}
