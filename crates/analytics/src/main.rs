//! The `kafscale-analytics` binary: arguments to validated settings to run. `kafscale sql` and `kafscale perimeter` start it.

use std::process::ExitCode;

use clap::{Args as _, Command, FromArgMatches as _};
use kafscale_settings::failure::Failure;
use kafscale_settings::perimeter::{self, PerimeterArgs};
use kafscale_settings::sql::{EXAMPLES, SqlArgs};

/// The role without which the program answers SQL, as it did before there was another.
const PERIMETER: &str = "perimeter";

fn main() -> ExitCode {
    match dispatch() {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

fn dispatch() -> Result<(), Failure> {
    let mut line = std::env::args_os();
    let program = line.next();
    match line.next() {
        Some(role) if role == PERIMETER => {
            let command = Command::new("kafscale perimeter")
                .about("Let agents work on data collections under rules, with filtered and audited answers")
                .after_help(perimeter::EXAMPLES);
            let command = PerimeterArgs::augment_args(named(command));
            let args = PerimeterArgs::from_arg_matches(
                &command.try_get_matches_from(program.into_iter().chain(line))?,
            )?;
            kafscale_perimeter::run::run(&args)
        }
        first => {
            let command = Command::new("kafscale sql")
                .about("Query topics with SQL, from psql and other clients of PostgreSQL, without loading a broker")
                .after_help(EXAMPLES);
            let command = SqlArgs::augment_args(named(command)).mut_args(|arg| arg.hide_env(true));
            let all = program.into_iter().chain(first).chain(line);
            kafscale_sql::run::run(&SqlArgs::from_arg_matches(&command.try_get_matches_from(all)?)?)
        }
    }
}

fn named(command: Command) -> Command {
    command.version(env!("CARGO_PKG_VERSION"))
}
