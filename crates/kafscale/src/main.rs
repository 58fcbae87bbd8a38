//! The kafscale binary: arguments -> validated config -> run.
//!
//! Nothing below this crate reads the environment, the command line or a settings file.

mod backend;
mod cli;
mod clock;
mod config;
mod config_docs;
mod demo;
mod failure;
mod health;
mod limits;
mod logging;
mod mcp;
mod node;
mod restore;
mod run;
mod s3;
mod settings_file;
mod units;

use std::ffi::OsString;
use std::io::Write as _;
use std::process::ExitCode;

use clap::FromArgMatches as _;

use crate::cli::{BrokerArgs, Cli, Command};
use crate::config::Config;
use crate::failure::Failure;
use crate::run::Beside;

fn main() -> ExitCode {
    match dispatch() {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

fn dispatch() -> Result<(), Failure> {
    let args: Vec<OsString> = std::env::args_os().collect();
    let cli = Cli::from_arg_matches(&settings_file::parse(cli::command, &args)?)?;
    match cli.command {
        Command::Demo(args) => {
            let orders_per_second = (!args.no_workload).then_some(args.orders_per_second);
            start(args.broker, Beside::Demo { orders_per_second })
        }
        Command::Broker(args) => start(*args, Beside::Nothing),
        Command::Mcp(command) => mcp::run(*command),
        Command::Workload(args) => demo::run_workload_alone(&args),
        Command::Health(command) => print_all(health::run(&command)?.as_bytes()),
        Command::Audit { command } => print_all(mcp::audit(&command)?.as_bytes()),
        Command::Restore(args) => print_all(restore::run(&args)?.as_bytes()),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut cli::command(), "kafscale", &mut script);
            print_all(&script)
        }
        Command::ConfigDocs => print_all(config_docs::tables(&cli::command()).as_bytes()),
    }
}

fn start(args: BrokerArgs, beside: Beside) -> Result<(), Failure> {
    let config = Config::from_args(args, limits::host_name)?;
    let names = std::env::vars_os().filter_map(|(name, _)| name.into_string().ok());
    let warnings = settings_file::misspelt_variables(&cli::command(), names);
    run::run(config, beside, warnings)
}

/// A reader that has seen enough (`| head`) is no failure.
fn print_all(bytes: &[u8]) -> Result<(), Failure> {
    match std::io::stdout().write_all(bytes) {
        Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => Err(Failure::runtime(e.to_string())),
        Ok(()) | Err(_) => Ok(()),
    }
}
