//! The `kafscale-analytics` binary: arguments to validated settings to run. `kafscale sql` and `kafscale perimeter` start it.

use std::os::unix::process::CommandExt as _;
use std::process::{Command as Process, ExitCode};

use clap::{Args as _, Command, FromArgMatches as _};
use kafscale_meter::Metered;
use kafscale_settings::failure::Failure;
use kafscale_settings::perimeter::{self, PerimeterArgs};
use kafscale_settings::sql::{EXAMPLES, SqlArgs};

/// What each statement holds is counted where it is allocated (docs/adr/0036).
#[global_allocator]
static ALLOCATOR: Metered = Metered;

/// The role without which the program answers SQL, as it did before there was another.
const PERIMETER: &str = "perimeter";

/// How many heaps the C library keeps, which is read when the process starts.
const HEAPS: &str = "MALLOC_ARENA_MAX";

fn main() -> ExitCode {
    with_one_heap();
    match dispatch() {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

/// Starts this program anew with one heap, unless somebody has said how many. Queries allocate large buffers on one thread and
/// free them on others: with a heap for each thread, a sort took twice its memory limit, and no less time.
fn with_one_heap() {
    if cfg!(target_env = "gnu") && std::env::var_os(HEAPS).is_none() {
        let mut line = std::env::args_os();
        let (name, Ok(program)) = (line.next(), std::env::current_exe()) else { return };
        // It returns only where it does not work, and then this process goes on as it is.
        let _ = Process::new(&program).arg0(name.unwrap_or_default()).args(line).env(HEAPS, "1").exec();
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
