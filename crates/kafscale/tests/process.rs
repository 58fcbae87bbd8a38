//! The binary as a process: what it prints, how it exits, how it starts, stops and refuses to start.

#![expect(clippy::unwrap_used, reason = "a test ends where its world is not as expected")]

mod common;

use std::io::{BufRead as _, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

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
    let cases: [(&[&str], &str); 12] = [
        (&["broker", "--store", "s3://"], "is no bucket"),
        (&["broker", "--meta", "etcd://127.0.0.1"], "has no port"),
        (&["broker", "--etcd-username", "kafscale"], "--etcd-password"),
        (&["broker", "--store", "memory:"], "must both be memory:"),
        (&["broker", "--lisen", "127.0.0.1:1"], "--listen"),
        (&["broker", "--config", "no-such-file.toml"], "no-such-file.toml"),
        (&["broker", "--log-level", "a=b=c"], "--log-level"),
        (&["broker", "--log-level", "loud"], "use off, error, warn, info, debug or trace"),
        (&["broker", "--log-level", "info,kafscale_storag=debug"], "kafscale_meta, kafscale_storage, and of"),
        (&["broker", "--node-id", "-1"], "--node-id must be 0 or more"),
        (&["broker", "--num-partitions", "six"], "`six` is not a whole number"),
        (&["broker", "--listen", "127.0.0.1:99999"], "the port must be between 0 and 65535"),
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
fn health_waits_for_no_server_that_answers_a_byte_at_a_time() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/readyz", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        let mut stream = listener.accept().unwrap().0;
        for byte in b"HTTP/1.1 200 OK\r\n\r\n".iter().cycle() {
            if stream.write_all(&[*byte]).is_err() {
                return;
            }
            std::thread::sleep(Duration::from_millis(500));
        }
    });
    let from = Instant::now();
    let (health, _, err) = output(&["health", &url]);
    assert_eq!(health.status.code(), Some(1), "{err}");
    assert!(err.contains("no complete answer within 5 s"), "{err}");
    assert!(from.elapsed() < Duration::from_secs(10), "it took {:?}", from.elapsed());
}

#[test]
fn health_says_that_a_hung_server_does_not_answer() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (health, _, err) = output(&["health", &format!("http://{}/readyz", listener.local_addr().unwrap())]);
    assert_eq!(health.status.code(), Some(1), "{err}");
    assert!(err.contains("/readyz: no answer in 3 s"), "{err}");
}

#[test]
fn no_start_waits_for_a_pipe_that_nobody_writes_to() {
    let dir = tempfile::tempdir().unwrap();
    let (pipe, log) = (dir.path().join("pipe"), dir.path().join("audit"));
    for path in [&pipe, &dir.path().join("audit.head")] {
        rustix::fs::mkfifoat(rustix::fs::CWD, path, rustix::fs::Mode::RWXU).unwrap();
    }
    std::fs::write(&log, "").unwrap();
    drop(Process::start(&["broker"], &dir.path().join("data")));
    let (pipe, log) = (pipe.to_str().unwrap(), log.to_str().unwrap());
    let meta = format!("file://{}", dir.path().join("data").display());
    let mcp = ["mcp", "--meta", &meta, "--mcp-http-addr", "127.0.0.1:0"];
    let cases: [&[&str]; 6] = [
        &["broker", "--config", pipe],
        &["verify", "--store", "s3://b/p", "--s3-access-key-id", "k", "--s3-secret-access-key-file", pipe],
        &["mcp", "--mcp-auth-token-file", pipe],
        &["mcp", "--mcp-auth-token", "a-long-token", "--mcp-tls-cert-file", pipe, "--mcp-tls-key-file", pipe],
        &["mcp", "--mcp-auth-token", "a-long-token", "--mcp-audit-log", log],
        &["audit", "verify", pipe],
    ];
    for args in cases {
        let args = if args[0] == "mcp" { [&mcp[..], &args[1..]].concat() } else { args.to_vec() };
        let from = Instant::now();
        let (ended, _, err) = output(&args);
        assert!(!ended.status.success(), "{args:?}: {err}");
        let told = err.contains("not a regular file") || err.contains("not read within 5 s");
        assert!(told && from.elapsed() < Duration::from_secs(15), "{args:?}: {err}");
    }
}

/// Something like an S3 server that answers every request with the same status, which may be changed.
fn store_that_answers(status: &Arc<Mutex<&'static str>>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let status = Arc::clone(status);
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let _ = stream.read(&mut [0; 64 << 10]);
            let status = *status.lock().unwrap();
            let _ = write!(stream, "HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        }
    });
    address
}

/// A port that nobody has, for now.
fn free_address() -> String {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
}

#[test]
fn a_start_waits_for_a_throttled_store_and_ends_where_waiting_does_not_help() {
    let data = tempfile::tempdir().unwrap();
    let status = Arc::new(Mutex::new("503 Slow Down"));
    let (endpoint, metrics) = (format!("http://{}", store_that_answers(&status)), free_address());
    let dir = data.path().to_str().unwrap();
    let mut broker = Process::spawn_beside(
        &[
            &["broker", "--listen", "127.0.0.1:0", "--metrics-listen", &metrics, "--data-dir", dir][..],
            &["--store", "s3://bucket/prefix", "--s3-endpoint", &endpoint],
            &["--s3-access-key-id", "key", "--s3-secret-access-key", "secret"],
        ]
        .concat(),
    );
    broker.metrics = metrics;
    let line = broker.wait_for("waiting for the object store; trying again until it is there");
    assert!(line.to_string().contains("503"), "{line}");
    let (ready, body) = broker.get("/readyz");
    assert!(ready.contains("503") && body.contains("waiting for the object store"), "{ready} {body}");
    assert!(broker.get("/healthz").0.contains("200"));
    *status.lock().unwrap() = "403 Forbidden";
    let (code, log) = broker.end();
    assert_eq!(code, Some(1), "{log}");
    assert!(log.contains("refuses the credentials"), "{log}");
}

#[test]
fn a_start_waits_for_an_etcd_that_is_away_and_can_be_stopped() {
    let data = tempfile::tempdir().unwrap();
    let (metrics, etcd) = (free_address(), format!("etcd://{}", free_address()));
    let dir = data.path().to_str().unwrap();
    let mut broker = Process::spawn_beside(
        &[
            &["broker", "--listen", "127.0.0.1:0", "--metrics-listen", &metrics, "--data-dir", dir][..],
            &["--meta", &etcd, "--etcd-request-timeout", "500ms"],
        ]
        .concat(),
    );
    broker.metrics = metrics;
    broker.wait_for("waiting for the metadata store; trying again until it is there");
    let (ready, body) = broker.get("/readyz");
    assert!(ready.contains("503") && body.contains("waiting for the metadata store"), "{ready} {body}");
    let (code, log) = broker.stop_with_log(Signal::TERM);
    assert_eq!(code, Some(0), "{log}");
}

#[test]
fn a_data_directory_in_use_is_refused() {
    let data = tempfile::tempdir().unwrap();
    let broker = Process::start(&["broker"], data.path());
    let dir = data.path().to_str().unwrap();
    let (second, _, err) = output(&[&["broker", "--data-dir", dir][..], &FREE_PORTS].concat());
    assert_eq!(second.status.code(), Some(1), "{err}");
    let expected = format!("the data directory {dir} is in use by another kafscale process");
    assert!(err.contains(&expected) && err.contains("choose another --data-dir"), "{err}");
    // Commands that have no such flag do not advise it.
    let meta = format!("file://{dir}");
    let s3 = ["--store", "s3://bucket", "--s3-region", "x", "--meta", &meta];
    for (args, way_out) in [
        (&["mcp", "--meta", &meta, "--stdio"][..], "start it with --mcp-http-addr"),
        (&["restore", "--data-dir", dir], "stop that one first"),
        (&[&["set-store"][..], &s3].concat(), "stop that one first"),
    ] {
        let (refused, _, err) = output(args);
        assert_eq!(refused.status.code(), Some(1), "{args:?}: {err}");
        assert!(err.contains(&expected) && err.contains(way_out), "{args:?}: {err}");
        assert!(!err.contains("choose another --data-dir"), "{args:?}: {err}");
    }
    assert!(include_str!("../../../docs/operations.md").contains("is in use by another kafscale process"));
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
    for dir in [file.clone(), file.join("data")] {
        let dir = dir.to_str().unwrap();
        let (output, _, err) = output(&[&["broker", "--data-dir", dir][..], &FREE_PORTS].concat());
        assert_eq!(output.status.code(), Some(1), "{err}");
        assert!(err.contains(&format!("--data-dir {dir}")), "{err}");
        assert!(err.contains(&format!("{} is a file", file.display())), "{err}");
    }
}

#[test]
fn an_address_of_another_machine_is_told_from_one_in_use() {
    let data = tempfile::tempdir().unwrap();
    let dir = data.path().to_str().unwrap();
    // An address for documentation (RFC 5737), which no machine has.
    let elsewhere = "192.0.2.7:1";
    for flag in ["--listen", "--metrics-listen"] {
        let other = if flag == "--listen" { "--metrics-listen" } else { "--listen" };
        let (refused, _, err) = output(&["broker", "--data-dir", dir, flag, elsewhere, other, "127.0.0.1:0"]);
        assert_eq!(refused.status.code(), Some(1), "{err}");
        let expected = format!("this machine has no address 192.0.2.7; use 127.0.0.1 or 0.0.0.0 with {flag}");
        assert!(err.contains(&expected), "{err}");
    }
    let mcp = ["--mcp-http-addr", elsewhere, "--mcp-auth-token", "a-token-that-is-long-enough-for-anyone"];
    let (refused, _, err) = output(&[&["broker", "--data-dir", dir][..], &FREE_PORTS, &mcp].concat());
    assert_eq!(refused.status.code(), Some(1), "{err}");
    assert!(err.contains("0.0.0.0 with --mcp-http-addr"), "{err}");
}

#[test]
fn the_log_tells_what_clients_are_told() {
    let data = tempfile::tempdir().unwrap();
    let dir = data.path().to_str().unwrap();
    let args =
        [&["broker", "--data-dir", dir, "--advertise", "kafka.example:9092"][..], &FREE_PORTS].concat();
    let mut broker = Process::spawn_beside(&args);
    let serving = broker.wait_for("serving the Kafka protocol");
    assert_eq!(serving["advertised"], "kafka.example:9092");
    assert_eq!(broker.stop(Signal::TERM), Some(0));
}

#[test]
fn readers_make_nothing() {
    let parent = tempfile::tempdir().unwrap();
    let nowhere = parent.path().join("nowhere");
    let (path, url) = (nowhere.to_str().unwrap(), format!("file://{}", nowhere.display()));
    let store = ["--store", "s3://bucket", "--s3-region", "x"];
    let cases: [&[&str]; 8] = [
        &["mcp", "--meta", &url, "--mcp-http-addr", "127.0.0.1:0"],
        &["mcp", "--meta", &url, "--stdio"],
        &["audit", "verify", path],
        &["restore", "--data-dir", path],
        &["restore", "--data-dir", path, "--dry-run"],
        &["restore", "--store", &url, "--meta", &url],
        &[&["set-store", "--meta", &url][..], &store].concat(),
        &["health", "http://127.0.0.1:1/readyz"],
    ];
    for args in cases {
        let (refused, _, err) = output(args);
        assert!(!refused.status.success(), "{args:?}: {err}");
        assert!(std::fs::read_dir(parent.path()).unwrap().next().is_none(), "{args:?} made something");
    }
    // Nor in a directory that is there, and empty.
    std::fs::create_dir(&nowhere).unwrap();
    for args in [&["restore", "--data-dir", path][..], &["restore", "--store", &url, "--meta", &url]] {
        let (refused, _, err) = output(args);
        assert!(err.contains("is not the data directory of a broker"), "{args:?}: {err}");
        assert_eq!(refused.status.code(), Some(1));
        assert!(std::fs::read_dir(&nowhere).unwrap().next().is_none(), "{args:?} made something");
    }
}

#[test]
fn a_hangup_reads_the_log_level_anew_and_ends_nothing() {
    let data = tempfile::tempdir().unwrap();
    let settings = data.path().join("settings.toml");
    std::fs::write(&settings, "log-level = \"info\"\n").unwrap();
    let mut command = kafscale(&["broker", "--config", settings.to_str().unwrap()]);
    command.arg("--data-dir").arg(data.path().join("data"));
    let mut broker = Process::spawn(command);
    for (text, expected) in [
        ("log-level = \"debug\"\n", "SIGHUP: the log level was read anew; other settings need a restart"),
        ("log-level = \"loud\"\n", "SIGHUP: the settings cannot be read; everything stays as it was"),
        ("log-level = \"info\"\n", "SIGHUP: the log level was read anew; other settings need a restart"),
    ] {
        std::fs::write(&settings, text).unwrap();
        broker.signal(Signal::HUP);
        broker.wait_for(expected);
        assert!(TcpStream::connect(&broker.kafka).is_ok());
    }
    // A pipe that nobody writes to holds nobody up.
    std::fs::remove_file(&settings).unwrap();
    rustix::fs::mkfifoat(rustix::fs::CWD, &settings, rustix::fs::Mode::RWXU).unwrap();
    broker.signal(Signal::HUP);
    let refused = broker.wait_for("SIGHUP: the settings cannot be read; everything stays as it was");
    assert!(refused["why"].as_str().unwrap().contains("it is not a regular file"), "{refused}");
    assert_eq!(broker.get("/healthz").0, "HTTP/1.1 200 OK");
    assert_eq!(broker.stop(Signal::TERM), Some(0));
}

#[test]
fn an_idle_broker_that_waits_for_no_client_loses_nothing() {
    let data = tempfile::tempdir().unwrap();
    let broker = Process::start(&["broker", "--drain-timeout", "0s"], data.path());
    let (status, log) = broker.stop_with_log(Signal::TERM);
    assert_eq!(status, Some(0), "{log}");
    assert!(!log.contains("WARN"), "{log}");
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

/// An address where every request is answered with 403.
fn denying_store() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            std::thread::spawn(move || {
                let mut reader = std::io::BufReader::new(&stream);
                let (mut line, mut size) = (String::new(), 0);
                while reader.read_line(&mut line).is_ok_and(|read| read > 2) {
                    let lower = line.to_ascii_lowercase();
                    if let Some(length) = lower.strip_prefix("content-length:") {
                        size = length.trim().parse().unwrap();
                    }
                    line.clear();
                }
                let _ = reader.read_exact(&mut vec![0; size]);
                let answer = "HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
                let _ = (&stream).write_all(answer.as_bytes());
            });
        }
    });
    address
}

#[test]
fn a_store_that_could_not_be_used_is_not_recorded() {
    let (data, store) = (tempfile::tempdir().unwrap(), format!("http://{}", denying_store()));
    let meta = format!("file://{}", data.path().display());
    for bucket in ["s3://mistyped", "s3://right"] {
        let began = std::time::Instant::now();
        let mut command = kafscale(&["broker", "--store", bucket, "--meta", &meta, "--s3-endpoint", &store]);
        command.args(FREE_PORTS).args(["--s3-access-key-id", "id", "--s3-secret-access-key", "secret"]);
        let output = command.output().unwrap();
        let err = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{err}");
        assert!(err.contains("refuses the credentials") && !err.contains("keep the log in"), "{err}");
        assert!(began.elapsed() < std::time::Duration::from_secs(20), "it does not wait for its predecessor");
    }
}

#[test]
fn lost_metadata_is_refused_and_the_named_command_brings_it_back() {
    let data = tempfile::tempdir().unwrap();
    let mut broker = Process::start(&["demo"], data.path());
    broker.wait_for("the sample workload is running");
    assert_eq!(broker.stop(Signal::TERM), Some(0));
    std::fs::remove_file(data.path().join("meta/kafscale.redb")).unwrap();
    let dir = data.path().to_str().unwrap();
    let (refused, _, err) = output(&[&["broker", "--data-dir", dir][..], &FREE_PORTS].concat());
    assert_eq!(refused.status.code(), Some(1), "{err}");
    let (_, command) = err.split_once("kafscale restore --store ").expect(&err);
    let args: Vec<&str> =
        ["restore", "--store"].into_iter().chain(command.lines().next().unwrap().split(' ')).collect();
    let (restored, out, err) = output(&args);
    assert!(restored.status.success(), "{err}");
    assert!(out.contains("restored orders:") && out.contains("brokers can be started"), "{out}");
    let (again, _, err) = output(&["restore", "--data-dir", dir]);
    assert!(again.status.code() == Some(1) && err.contains("--replace"), "{err}");
    assert_eq!(Process::start(&["broker"], data.path()).stop(Signal::TERM), Some(0));
}

#[test]
fn an_audit_log_that_was_shortened_is_refused_before_any_client_is_served() {
    let data = tempfile::tempdir().unwrap();
    let (log, head) = (data.path().join("audit.jsonl"), data.path().join("audit.jsonl.head"));
    std::fs::write(&log, "").unwrap();
    let named = format!("{:020} {}\n", 2, "0".repeat(64));
    std::fs::write(&head, &named).unwrap();
    let (directory, audit) = (data.path().join("data"), log.to_str().unwrap());
    let mut args = vec!["broker", "--data-dir", directory.to_str().unwrap()];
    args.extend(FREE_PORTS);
    args.extend(["--mcp-http-addr", "127.0.0.1:0", "--mcp-audit-log", audit]);
    let (refused, _, err) = output(&args);
    assert_eq!(refused.status.code(), Some(1), "{err}");
    assert!(err.contains("the end is missing"), "{err}");
    assert!(!err.contains("serving the Kafka protocol"), "{err}");
    assert_eq!(std::fs::read_to_string(&head).unwrap(), named);
}
