//! The `kafscale-analytics` binary: arguments to validated settings to run.

use std::process::ExitCode;

use clap::{Args as _, FromArgMatches as _};
use kafscale_settings::failure::Failure;
use kafscale_settings::sql::{EXAMPLES, SqlArgs};

fn main() -> ExitCode {
    match dispatch() {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

fn dispatch() -> Result<(), Failure> {
    let command = clap::Command::new("kafscale sql")
        .version(env!("CARGO_PKG_VERSION"))
        .about("Query topics with SQL, from psql and other clients of PostgreSQL, without loading a broker")
        .after_help(EXAMPLES);
    let command = SqlArgs::augment_args(command).mut_args(|arg| arg.hide_env(true));
    let args = SqlArgs::from_arg_matches(&command.try_get_matches()?)?;
    kafscale_sql::run::run(&args)
}
