//! The binary as a process: what it prints, how it exits, how it starts, stops and refuses to start.
#![expect(clippy::unwrap_used, reason = "a test ends where its world is not as expected")]

use std::io::{BufRead, BufReader, Lines};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, ChildStderr, Command, Output, Stdio};

use rustix::process::{Pid, Signal, kill_process};

/// A command whose settings come from its arguments alone.
fn kafscale(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kafscale"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("KAFSCALE_") {
            command.env_remove(name);
        }
    }
    command.args(args).stdin(Stdio::null());
    command
}

fn output(args: &[&str]) -> (Output, String, String) {
    let output = kafscale(args).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    (output, out, err)
}

/// A broker on ports of its own.
struct Broker {
    child: Child,
    log: Lines<BufReader<ChildStderr>>,
    kafka: String,
}

impl Broker {
    fn start(args: &[&str], data_dir: &Path) -> Self {
        let mut child = kafscale(args)
            .args(["--listen", "127.0.0.1:0", "--metrics-listen", "127.0.0.1:0", "--log-format", "json"])
            .arg("--data-dir")
            .arg(data_dir)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut log = BufReader::new(child.stderr.take().unwrap()).lines();
        let ready = wait_for(&mut log, "ready");
        let text = |name: &str| ready[name].as_str().unwrap().to_owned();
        Self { child, log, kafka: text("kafka") }
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    fn stop(mut self, signal: Signal) -> Option<i32> {
        self.signal(signal);
        // Read to the end, so that the process cannot wait for its reader.
        self.log.by_ref().for_each(drop);
        self.child.wait().unwrap().code()
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        // Only a test that failed leaves it running.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Reads JSON log lines until one has this message.
fn wait_for(log: &mut Lines<BufReader<ChildStderr>>, message: &str) -> serde_json::Value {
    let mut seen = String::new();
    for line in log.map_while(Result::ok) {
        seen.push_str(&line);
        seen.push('\n');
        match serde_json::from_str::<serde_json::Value>(&line) {
            Ok(fields) if fields["message"] == message => return fields,
            Ok(_) | Err(_) => {}
        }
    }
    panic!("the process ended without the line `{message}`:\n{seen}");
}

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
    let cases: [(&[&str], &str); 6] = [
        (&["broker", "--store", "s3://bucket/prefix"], "S3 storage is not in this build"),
        (&["broker", "--meta", "etcd://127.0.0.1:2379"], "etcd metadata is not in this build"),
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
fn both_stop_signals_stop_cleanly_and_a_restart_follows() {
    let data = tempfile::tempdir().unwrap();
    for signal in [Signal::TERM, Signal::INT, Signal::TERM] {
        let broker = Broker::start(&["broker"], data.path());
        assert!(TcpStream::connect(&broker.kafka).is_ok());
        assert_eq!(broker.stop(signal), Some(0), "{signal:?}");
    }
}

#[test]
fn a_data_directory_in_use_is_refused() {
    let data = tempfile::tempdir().unwrap();
    let broker = Broker::start(&["broker"], data.path());
    let dir = data.path().to_str().unwrap();
    let (second, _, err) =
        output(&["broker", "--data-dir", dir, "--listen", "127.0.0.1:0", "--metrics-listen", "127.0.0.1:0"]);
    assert_eq!(second.status.code(), Some(1), "{err}");
    assert!(err.contains("in use by another") && err.contains(dir), "{err}");
    assert_eq!(broker.stop(Signal::TERM), Some(0));
}

#[test]
fn a_port_in_use_is_refused_by_name() {
    let (data, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let broker = Broker::start(&["broker"], data.path());
    let dir = other.path().to_str().unwrap();
    let args = ["broker", "--data-dir", dir, "--listen", &broker.kafka];
    let (second, _, err) = output(&args);
    assert_eq!(second.status.code(), Some(1), "{err}");
    assert!(err.contains(&broker.kafka) && err.contains("--listen"), "{err}");
    assert_eq!(broker.stop(Signal::TERM), Some(0));
}

#[test]
fn a_data_directory_that_cannot_be_made_is_refused() {
    let data = tempfile::tempdir().unwrap();
    let file = data.path().join("a-file");
    std::fs::write(&file, "not a directory").unwrap();
    let dir = file.join("data");
    let dir = dir.to_str().unwrap();
    let (output, _, err) =
        output(&["broker", "--data-dir", dir, "--listen", "127.0.0.1:0", "--metrics-listen", "127.0.0.1:0"]);
    assert_eq!(output.status.code(), Some(1), "{err}");
    assert!(err.contains(dir), "{err}");
}

#[test]
fn memory_backends_say_loudly_that_nothing_is_kept() {
    let data = tempfile::tempdir().unwrap();
    let mut child = kafscale(&["broker", "--store", "memory:", "--meta", "memory:", "--log-format", "json"])
        .args(["--listen", "127.0.0.1:0", "--metrics-listen", "127.0.0.1:0"])
        .current_dir(data.path())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut log = BufReader::new(child.stderr.take().unwrap()).lines();
    let first = log.next().unwrap().unwrap();
    assert!(first.contains("NOTHING IS KEPT"), "{first}");
    wait_for(&mut log, "ready");
    assert!(std::fs::read_dir(data.path()).unwrap().next().is_none(), "something was written");
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    log.for_each(drop);
    assert_eq!(child.wait().unwrap().code(), Some(0));
}
