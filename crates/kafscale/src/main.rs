//! The kafscale binary: arguments -> validated config -> run.
//!
//! Nothing below this crate reads the environment, the command line or a settings file.

mod audit;
mod cli;
mod clock;
mod command_line;
mod config;
mod config_docs;
mod demo;
mod hangup;
mod health;
mod limits;
mod logging;
mod mcp;
mod node;
mod refused;
mod restore;
mod run;
mod runtime;
mod set_store;
mod settings_file;
mod sql;
mod stop;
mod verify;
mod waiting;

use std::ffi::OsString;
use std::io::Write as _;
use std::process::ExitCode;

use clap::FromArgMatches as _;
use kafscale_settings::{backend, failure, refusals, s3, units};

use crate::cli::{BrokerArgs, Cli, Command, LoggingArgs};
use crate::config::Config;
use crate::failure::Failure;
use crate::run::Beside;

fn main() -> ExitCode {
    match dispatch() {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

fn read_command_line(read: settings_file::Read) -> Result<(Cli, clap::Command), Failure> {
    let args: Vec<OsString> = std::env::args_os().collect();
    let (matches, command) = settings_file::parse(cli::command, &args, read)?;
    Ok((Cli::from_arg_matches(&matches)?, command))
}

/// For a process that runs already: its settings file may have changed.
fn reread() -> Result<LoggingArgs, Failure> {
    let (cli, _) = read_command_line(settings_file::read_again)?;
    let logging = cli.command.logging();
    Ok(logging.expect("only what runs until it is stopped reads its settings again").clone())
}

fn dispatch() -> Result<(), Failure> {
    let (cli, known) = read_command_line(settings_file::read_once)?;
    match cli.command {
        Command::Demo(args) => {
            let orders_per_second = (!args.no_workload).then_some(args.orders_per_second);
            start(args.broker, Beside::Demo { orders_per_second }, known)
        }
        Command::Broker(args) => start(*args, Beside::Nothing, known),
        Command::Mcp(command) => mcp::run(*command, reread),
        Command::Workload(args) => demo::run_workload_alone(&args, reread),
        Command::Health(command) => print_all(health::run(command)?.as_bytes()),
        Command::Audit { command } => audit::run(&command),
        Command::Restore(args) => print_all(restore::run(&args)?.as_bytes()),
        Command::SetStore(args) => print_all(set_store::run(&args)?.as_bytes()),
        Command::Sql(args) => sql::run(&args, std::env::args_os()),
        Command::Perimeter(_) => sql::run_perimeter(std::env::args_os()),
        Command::Verify(args) => print_all(verify::run(&args)?.as_bytes()),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut cli::command(), "kafscale", &mut script);
            print_all(&script)
        }
        Command::ConfigDocs => print_all(config_docs::tables(&cli::command()).as_bytes()),
    }
}

fn start(args: BrokerArgs, beside: Beside, known: clap::Command) -> Result<(), Failure> {
    let config = Config::from_args(args, limits::host_name)?;
    let names = std::env::vars_os().filter_map(|(name, _)| name.into_string().ok());
    let warnings = settings_file::misspelt_variables(&known, names);
    drop(known);
    run::run(config, beside, warnings, reread)
}

/// A reader that has seen enough (`| head`) is no failure.
fn print_all(bytes: &[u8]) -> Result<(), Failure> {
    match std::io::stdout().write_all(bytes) {
        Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => Err(Failure::runtime(e.to_string())),
        Ok(()) | Err(_) => Ok(()),
    }
}
