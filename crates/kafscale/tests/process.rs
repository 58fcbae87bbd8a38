//! The binary as a process: what it prints, how it exits, how it starts, stops and refuses to start.

#![expect(clippy::unwrap_used, reason = "a test ends where its world is not as expected")]

mod common;

use std::io::BufRead as _;
use std::net::TcpStream;
use std::process::Stdio;

use common::{Process, kafscale, output};
use rustix::process::{Pid, Signal, kill_process};

const FREE_PORTS: [&str; 4] = ["--listen", "127.0.0.1:0", "--metrics-listen", "127.0.0.1:0"];

#[test]
fn help_and_version_succeed_and_teach() {
    let (version, out, _) = output(&["--version"]);
    assert!(version.status.success());
    assert_eq!(out.trim(), concat!("kafscale ", env!("CARGO_PKG_VERSION")));
    let (help, out, _) = output(&["--help"]);
    assert!(help.status.success());
    for expected in ["Examples:", "kafscale demo", "Where to look next:", "docs/configuration.md"] {
        assert!(out.contains(expected), "{expected} is missing from:\n{out}");
    }
    let (help, out, _) = output(&["broker", "--help"]);
    assert!(help.status.success());
    for expected in ["Network:", "Consumer groups:", "KAFSCALE_WAL_MAX_BYTES", "[default: 127.0.0.1:9092]"] {
        assert!(out.contains(expected), "{expected} is missing from:\n{out}");
    }
}

#[test]
fn every_shell_gets_completions() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let (completions, out, err) = output(&["completions", shell]);
        assert!(completions.status.success(), "{shell}: {err}");
        assert!(out.contains("metrics-listen"), "{shell}");
    }
}

#[test]
fn wrong_settings_exit_with_2_and_name_the_setting() {
    let cases: [(&[&str], &str); 7] = [
        (&["broker", "--store", "s3://"], "is no bucket"),
        (&["broker", "--meta", "etcd://127.0.0.1"], "has no port"),
        (&["broker", "--etcd-username", "kafscale"], "--etcd-password"),
        (&["broker", "--store", "memory:"], "must both be memory:"),
        (&["broker", "--lisen", "127.0.0.1:1"], "--listen"),
        (&["broker", "--config", "no-such-file.toml"], "no-such-file.toml"),
        (&["broker", "--log-level", "a=b=c"], "--log-level"),
    ];
    for (args, expected) in cases {
        let (output, _, err) = output(args);
        assert_eq!(output.status.code(), Some(2), "{args:?}: {err}");
        assert!(err.contains(expected), "{args:?}: {err}");
    }
}

#[test]
fn variables_are_settings_and_flags_are_stronger() {
    let data = tempfile::tempdir().unwrap();
    let mut command = kafscale(&["broker"]);
    command.env("KAFSCALE_DATA_DIR", data.path()).env("KAFSCALE_LISTEN", "127.0.0.1:1");
    let broker = Process::spawn(command);
    assert!(TcpStream::connect(&broker.kafka).is_ok());
    assert!(data.path().join("VERSION").exists(), "the directory is the one of the variable");
    assert_eq!(broker.stop(Signal::TERM), Some(0));
}

#[test]
fn both_stop_signals_stop_cleanly_and_a_restart_follows() {
    let data = tempfile::tempdir().unwrap();
    for signal in [Signal::TERM, Signal::INT, Signal::TERM] {
        let broker = Process::start(&["broker"], data.path());
        assert!(TcpStream::connect(&broker.kafka).is_ok());
        let (status, log) = broker.stop_with_log(signal);
        assert_eq!(status, Some(0), "{log}");
        assert!(log.contains("stopping cleanly"), "{log}");
    }
}

#[test]
fn metrics_and_health_are_served() {
    let data = tempfile::tempdir().unwrap();
    let broker = Process::start(&["broker"], data.path());
    let (status, metrics) = broker.get("/metrics");
    assert!(status.contains("200"), "{status}");
    assert!(metrics.contains("kafscale_broker_uptime_seconds"), "{metrics}");
    for path in ["/healthz", "/readyz"] {
        let (status, body) = broker.get(path);
        assert!(status.contains("200"), "{path}: {status} {body}");
    }
    assert_eq!(broker.stop(Signal::TERM), Some(0));
}

#[test]
fn health_is_asked_for_without_another_program() {
    let data = tempfile::tempdir().unwrap();
    let broker = Process::start(&["broker"], data.path());
    let url = format!("http://{}", broker.metrics);
    for (path, status) in [("/readyz", 0), ("/healthz", 0), ("/no-such-page", 1)] {
        let (health, out, err) = output(&["health", &format!("{url}{path}")]);
        assert_eq!(health.status.code(), Some(status), "{path}: {out}{err}");
    }
    assert_eq!(broker.stop(Signal::TERM), Some(0));
    let (gone, _, err) = output(&["health", &format!("{url}/readyz")]);
    assert_eq!(gone.status.code(), Some(1), "{err}");
    let (wrong, _, err) = output(&["health", "localhost:9093"]);
    assert_eq!(wrong.status.code(), Some(2), "{err}");
}

#[test]
fn a_data_directory_in_use_is_refused() {
    let data = tempfile::tempdir().unwrap();
    let broker = Process::start(&["broker"], data.path());
    let dir = data.path().to_str().unwrap();
    let (second, _, err) = output(&[&["broker", "--data-dir", dir][..], &FREE_PORTS].concat());
    assert_eq!(second.status.code(), Some(1), "{err}");
    assert!(err.contains("in use by another") && err.contains(dir), "{err}");
    assert_eq!(broker.stop(Signal::TERM), Some(0));
}

#[test]
fn a_data_directory_of_a_newer_version_is_refused() {
    let data = tempfile::tempdir().unwrap();
    std::fs::write(data.path().join("VERSION"), "4000000000\n").unwrap();
    let dir = data.path().to_str().unwrap();
    let (output, _, err) = output(&[&["broker", "--data-dir", dir][..], &FREE_PORTS].concat());
    assert_eq!(output.status.code(), Some(1), "{err}");
    assert!(err.contains("format version 4000000000") && err.contains(dir), "{err}");
}

#[test]
fn a_port_in_use_is_refused_by_its_flag() {
    let (data, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let broker = Process::start(&["broker"], data.path());
    let dir = other.path().to_str().unwrap();
    for (flag, free) in [("--listen", "--metrics-listen"), ("--metrics-listen", "--listen")] {
        let args = ["broker", "--data-dir", dir, flag, &broker.kafka, free, "127.0.0.1:0"];
        let (second, _, err) = output(&args);
        assert_eq!(second.status.code(), Some(1), "{err}");
        assert!(err.contains(&broker.kafka) && err.contains(flag), "{err}");
    }
    assert_eq!(broker.stop(Signal::TERM), Some(0));
}

#[test]
fn a_data_directory_that_cannot_be_made_is_refused() {
    let data = tempfile::tempdir().unwrap();
    let file = data.path().join("a-file");
    std::fs::write(&file, "not a directory").unwrap();
    let dir = file.join("data");
    let dir = dir.to_str().unwrap();
    let (output, _, err) = output(&[&["broker", "--data-dir", dir][..], &FREE_PORTS].concat());
    assert_eq!(output.status.code(), Some(1), "{err}");
    assert!(err.contains(dir), "{err}");
}

#[test]
fn memory_backends_say_loudly_that_nothing_is_kept() {
    let data = tempfile::tempdir().unwrap();
    let mut child = kafscale(&["broker", "--store", "memory:", "--meta", "memory:"])
        .args(FREE_PORTS)
        .current_dir(data.path())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut log = std::io::BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok);
    assert!(log.any(|line| line.contains("NOTHING IS KEPT")));
    assert!(log.any(|line| line.contains("ready")));
    assert!(std::fs::read_dir(data.path()).unwrap().next().is_none(), "something was written");
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    log.for_each(drop);
    assert_eq!(child.wait().unwrap().code(), Some(0));
}
