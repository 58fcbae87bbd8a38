//! `kafscale sql` and `kafscale perimeter`: start `kafscale-analytics`, which has the query engine and is built by itself.

use std::env::consts::EXE_SUFFIX;
use std::ffi::OsString;
use std::io::ErrorKind;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::Command;

use kafscale_settings::sql::SqlArgs;

use crate::failure::Failure;

const PROGRAM: &str = "kafscale-analytics";

/// Becomes the other program; returns only where that does not work. `line` is this process's command line.
pub fn run(args: &SqlArgs, line: impl Iterator<Item = OsString>) -> Result<(), Failure> {
    args.source()?;
    args.check()?;
    become_analytics(line.skip_while(|word| word != "sql").skip(1))
}

/// The same for the perimeter, which checks its arguments itself.
pub fn run_perimeter(line: impl Iterator<Item = OsString>) -> Result<(), Failure> {
    become_analytics(line.skip_while(|word| word != "perimeter"))
}

fn become_analytics(arguments: impl Iterator<Item = OsString>) -> Result<(), Failure> {
    let program = beside_this_program().unwrap_or_else(|| PROGRAM.into());
    let error = Command::new(&program).args(arguments).exec();
    Err(Failure::runtime(match error.kind() {
        ErrorKind::NotFound => format!(
            "there is no {PROGRAM} beside this program or on PATH; it is built by itself, with `make analytics`, or with its demo: \
             `make demo-sql`"
        ),
        _ => format!("{} cannot be started: {error}", program.display()),
    }))
}

fn beside_this_program() -> Option<PathBuf> {
    let beside = std::env::current_exe().ok()?.with_file_name(format!("{PROGRAM}{EXE_SUFFIX}"));
    beside.is_file().then_some(beside)
}
