//! Runs simulations: one seed in this process, or many seeds, each in a process of its own.

mod many;

use std::fmt::Write as _;
use std::process::ExitCode;

use kafscale_sim::scenario::Options;
use kafscale_sim::{checker, history, scenario};
use sha2::{Digest, Sha256};

const USAGE: &str = "\
usage: kafscale-sim run SEED [--trace] [--history FILE]    one seed; --trace tells all that the program logs
       kafscale-sim many FIRST COUNT [JOBS]                seeds in a row
       kafscale-sim twice FIRST COUNT [JOBS]               each seed twice: the histories must be the same, byte by byte
       kafscale-sim named FILE [JOBS]                      seeds that once failed, by their names
       kafscale-sim first FIRST COUNT [JOBS]               seeds in a row up to the first that fails";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["run", seed, rest @ ..] => match seed.parse() {
            Ok(seed) => run_alone(seed, rest),
            Err(_) => usage(),
        },
        [command @ ("many" | "twice" | "first"), first, count, rest @ ..] => {
            let (Ok(first), Ok(count)) = (first.parse::<u64>(), count.parse::<u64>()) else { return usage() };
            let seeds = (first..first + count).map(|seed| (seed, String::new())).collect();
            let mode = match *command {
                "twice" => many::Mode::Twice,
                "first" => many::Mode::UntilFailure,
                _ => many::Mode::All,
            };
            many::run(seeds, mode, jobs(rest))
        }
        ["named", file, rest @ ..] => match many::named(file) {
            Ok(seeds) => many::run(seeds, many::Mode::All, jobs(rest)),
            Err(why) => {
                eprintln!("{file}: {why}");
                ExitCode::from(2)
            }
        },
        _ => usage(),
    }
}

fn usage() -> ExitCode {
    eprintln!("{USAGE}");
    ExitCode::from(2)
}

fn jobs(rest: &[&str]) -> usize {
    let asked = rest.first().and_then(|jobs| jobs.parse().ok());
    asked.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from))
}

fn run_alone(seed: u64, flags: &[&str]) -> ExitCode {
    let trace = flags.contains(&"--trace");
    let history = flags.windows(2).find(|pair| pair[0] == "--history").map(|pair| pair[1].to_owned());
    if trace {
        // Before the seed, and on this thread: a trace must not use up what the simulation is given.
        tracing_subscriber::fmt()
            .with_max_level(tracing::Level::DEBUG)
            .with_writer(std::io::stderr)
            .with_ansi(false)
            .without_time()
            .init();
    }
    kafscale_sim_entropy::seed(seed);
    // A thread asks for the keys of its hash maps once: a new thread asks the source that was just seeded.
    let simulation = std::thread::spawn(move || simulate(seed, history.as_deref()));
    simulation.join().unwrap_or(ExitCode::FAILURE)
}

fn simulate(seed: u64, to: Option<&str>) -> ExitCode {
    let outcome = scenario::run(seed, Options::default());
    let text = history::to_text(&outcome.entries);
    if let Some(path) = to
        && let Err(error) = std::fs::write(path, &text)
    {
        eprintln!("{path}: {error}");
        return ExitCode::FAILURE;
    }
    let violations = checker::check(&outcome.entries);
    let digest = Sha256::digest(&text).iter().fold(String::new(), |mut hex, byte| {
        let _ = write!(hex, "{byte:02x}");
        hex
    });
    println!("seed {seed}");
    println!("digest {digest}");
    println!("events {}", outcome.entries.len());
    println!("simulated {}", outcome.simulated.as_millis());
    for (step, (taken, deaths)) in &outcome.steps {
        println!("step {taken} {deaths} {step}");
    }
    for (fault, count) in &outcome.injected {
        println!("fault {count} {fault}");
    }
    for violation in &violations {
        println!("violation {violation}");
    }
    if violations.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
