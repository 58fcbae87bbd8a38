//! Many seeds, each in a process of its own, some at a time; and what they came across all together.

use std::collections::BTreeMap;
use std::io::Read;
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// A simulation that takes so much longer than others hangs.
const PATIENCE_MS: u64 = 180_000;
const LOOK_MS: u64 = 4;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    All,
    Twice,
    UntilFailure,
}

/// What one process said.
#[derive(Debug, Default)]
struct Said {
    digest: String,
    events: u64,
    simulated_ms: u64,
    violations: Vec<String>,
}

#[derive(Debug, Default)]
struct Totals {
    passed: usize,
    failed: Vec<(u64, String, Vec<String>)>,
    events: u64,
    simulated_ms: u64,
    steps: BTreeMap<String, (u64, u64)>,
    faults: BTreeMap<String, u64>,
}

/// Seeds with their names: lines of `SEED NAME...`; the rest of a line after `#` is a comment.
pub fn named(path: &str) -> Result<Vec<(u64, String)>, String> {
    let text = std::fs::read_to_string(path).map_err(|error| error.to_string())?;
    let lines = text.lines().map(|line| line.split('#').next().unwrap_or_default().trim());
    lines
        .filter(|line| !line.is_empty())
        .map(|line| {
            let (seed, name) = line.split_once(' ').ok_or_else(|| format!("no name: {line}"))?;
            let seed = seed.parse().map_err(|_| format!("no seed: {line}"))?;
            Ok((seed, name.trim().to_owned()))
        })
        .collect()
}

/// Runs all seeds, tells which failed and how to run those alone, and closes with the sum.
pub fn run(seeds: Vec<(u64, String)>, mode: Mode, jobs: usize) -> ExitCode {
    let (next, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
    let totals = Mutex::new(Totals::default());
    let began = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..jobs.clamp(1, seeds.len().max(1)) {
            scope.spawn(|| {
                while let Some((seed, name)) = seeds.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                    let violations = try_seed(*seed, mode, &totals);
                    let mut totals = totals.lock().unwrap_or_else(PoisonError::into_inner);
                    if violations.is_empty() {
                        totals.passed += 1;
                        continue;
                    }
                    tell(*seed, name, &violations);
                    totals.failed.push((*seed, name.clone(), violations));
                    stop.fetch_or(mode == Mode::UntilFailure, Ordering::Relaxed);
                }
            });
        }
    });
    let totals = totals.into_inner().unwrap_or_else(PoisonError::into_inner);
    summary(&totals, began.elapsed().as_secs_f64());
    if totals.failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn try_seed(seed: u64, mode: Mode, totals: &Mutex<Totals>) -> Vec<String> {
    let first = match ask(seed, Some(totals)) {
        Ok(said) => said,
        Err(why) => return vec![why],
    };
    let mut violations = first.violations;
    if mode == Mode::Twice {
        match ask(seed, None) {
            Ok(second) if second.digest != first.digest => {
                violations.push("two runs of this seed have different histories".into());
            }
            Ok(_) => {}
            Err(why) => violations.push(why),
        }
    }
    let mut totals = totals.lock().unwrap_or_else(PoisonError::into_inner);
    totals.events += first.events;
    totals.simulated_ms += first.simulated_ms;
    violations
}

fn tell(seed: u64, name: &str, violations: &[String]) {
    let name = if name.is_empty() { String::new() } else { format!(" ({name})") };
    println!("seed {seed}{name} failed:");
    for violation in violations {
        println!("    {violation}");
    }
    println!("    alone, with all that happened: kafscale-sim run {seed} --trace --history history.txt");
}

/// Runs one seed in a process.
fn ask(seed: u64, totals: Option<&Mutex<Totals>>) -> Result<Said, String> {
    let program = std::env::current_exe().map_err(|error| error.to_string())?;
    let mut command = Command::new(program);
    command
        .args(["run", &seed.to_string()])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|error| format!("cannot start a simulation: {error}"))?;
    let stdout = child.stdout.take().map(read_all);
    let stderr = child.stderr.take().map(read_all);
    let ended = wait(&mut child);
    let text = |reader: Option<std::thread::JoinHandle<String>>| {
        reader.and_then(|reader| reader.join().ok()).unwrap_or_default()
    };
    let (stdout, stderr) = (text(stdout), text(stderr));
    ended?;
    let said = parse(&stdout, totals);
    if said.digest.is_empty() {
        let end: Vec<&str> = stderr.lines().take(12).collect();
        return Err(format!("the simulation ended without a result: {}", end.join(" | ")));
    }
    Ok(said)
}

fn read_all(mut from: impl Read + Send + 'static) -> std::thread::JoinHandle<String> {
    std::thread::spawn(move || {
        let mut text = Vec::new();
        let _ = from.read_to_end(&mut text);
        String::from_utf8_lossy(&text).into_owned()
    })
}

fn wait(child: &mut Child) -> Result<(), String> {
    for _ in 0..PATIENCE_MS / LOOK_MS {
        if child.try_wait().map_err(|error| error.to_string())?.is_some() {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(LOOK_MS));
    }
    let _ = child.kill();
    let _ = child.wait();
    Err("the simulation hangs".into())
}

fn parse(stdout: &str, totals: Option<&Mutex<Totals>>) -> Said {
    let mut said = Said::default();
    let mut totals = totals.map(|totals| totals.lock().unwrap_or_else(PoisonError::into_inner));
    for (what, rest) in stdout.lines().filter_map(|line| line.split_once(' ')) {
        let words: Vec<&str> = rest.splitn(3, ' ').collect();
        match (what, words.as_slice()) {
            ("digest", [digest]) => said.digest = (*digest).to_owned(),
            ("events", [events]) => said.events = events.parse().unwrap_or(0),
            ("simulated", [ms]) => said.simulated_ms = ms.parse().unwrap_or(0),
            ("violation", _) => said.violations.push(rest.to_owned()),
            ("step", [taken, deaths, step]) => {
                if let Some(totals) = &mut totals {
                    let sum = totals.steps.entry((*step).to_owned()).or_default();
                    sum.0 += taken.parse().unwrap_or(0);
                    sum.1 += deaths.parse().unwrap_or(0);
                }
            }
            ("fault", [count, ..]) => {
                if let (Some(totals), Some((_, name))) = (&mut totals, rest.split_once(' ')) {
                    *totals.faults.entry(name.to_owned()).or_default() += count.parse::<u64>().unwrap_or(0);
                }
            }
            _ => {}
        }
    }
    said
}

fn summary(totals: &Totals, seconds: f64) {
    println!("requests of brokers, and deaths at them:");
    for (step, (taken, deaths)) in &totals.steps {
        println!("    {taken:>10} {deaths:>6}  {step}");
    }
    println!("faults:");
    for (fault, count) in &totals.faults {
        println!("    {count:>10}         {fault}");
    }
    let simulated = totals.simulated_ms / 1000;
    println!("{} events, {simulated} s simulated in {seconds:.0} s", totals.events);
    if !totals.failed.is_empty() {
        let seeds: Vec<String> = totals.failed.iter().map(|(seed, ..)| seed.to_string()).collect();
        println!("failed seeds: {}", seeds.join(" "));
    }
    println!("{} passed, {} failed", totals.passed, totals.failed.len());
}
