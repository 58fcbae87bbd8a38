//! The binary as a child process: started on ports of its own, watched through its log, stopped by signal.

#![allow(dead_code, reason = "each test program uses a part")]

use std::io::{BufRead, BufReader, Lines, Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, ChildStderr, Command, Output, Stdio};

use rustix::process::{Pid, Signal, kill_process};

/// A command whose settings come from its arguments alone.
pub fn kafscale(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kafscale"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("KAFSCALE_") {
            command.env_remove(name);
        }
    }
    command.args(args).stdin(Stdio::null());
    command
}

/// Runs to the end: the result, standard output, standard error.
pub fn output(args: &[&str]) -> (Output, String, String) {
    let output = kafscale(args).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    (output, out, err)
}

/// A broker or a demo that is ready.
pub struct Process {
    child: Child,
    log: Lines<BufReader<ChildStderr>>,
    /// Addresses that were bound.
    pub kafka: String,
    pub metrics: String,
}

impl Process {
    pub fn start(args: &[&str], data_dir: &Path) -> Self {
        let mut command = kafscale(args);
        command.arg("--data-dir").arg(data_dir);
        Self::spawn(command)
    }

    /// Starts a command and waits until it is ready.
    pub fn spawn(mut command: Command) -> Self {
        command.args(["--listen", "127.0.0.1:0", "--metrics-listen", "127.0.0.1:0"]);
        let mut process = Self::logging_json(command);
        let ready = process.wait_for("ready");
        process.kafka = ready["kafka"].as_str().unwrap().to_owned();
        process.metrics = ready["metrics"].as_str().unwrap().to_owned();
        process
    }

    /// Starts a role that listens to nobody.
    pub fn spawn_beside(args: &[&str]) -> Self {
        Self::logging_json(kafscale(args))
    }

    /// The same, of a command that was made elsewhere.
    pub fn spawn_beside_with(command: Command) -> Self {
        Self::logging_json(command)
    }

    fn logging_json(mut command: Command) -> Self {
        command.args(["--log-format", "json"]).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let log = BufReader::new(child.stderr.take().unwrap()).lines();
        Self { child, log, kafka: String::new(), metrics: String::new() }
    }

    /// Reads JSON log lines until one has this message.
    pub fn wait_for(&mut self, message: &str) -> serde_json::Value {
        let mut seen = String::new();
        for line in self.log.by_ref().map_while(Result::ok) {
            seen.push_str(&line);
            seen.push('\n');
            match serde_json::from_str::<serde_json::Value>(&line) {
                Ok(fields) if fields["message"] == message => return fields,
                Ok(_) | Err(_) => {}
            }
        }
        panic!("the process ended without the line `{message}`:\n{seen}");
    }

    /// The status line and the body of an answer of the metrics listener.
    pub fn get(&self, path: &str) -> (String, String) {
        let mut stream = TcpStream::connect(&self.metrics).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.lines().next().unwrap_or_default().to_owned(), body.to_owned())
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Stops the process and gives its exit status and the rest of its log.
    pub fn stop_with_log(mut self, signal: Signal) -> (Option<i32>, String) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
        // Read to the end, so that the process cannot wait for its reader.
        let log: Vec<String> = self.log.by_ref().map_while(Result::ok).collect();
        (self.child.wait().unwrap().code(), log.join("\n"))
    }

    /// Waits until it ends by itself.
    pub fn end(mut self) -> (Option<i32>, String) {
        let log: Vec<String> = self.log.by_ref().map_while(Result::ok).collect();
        (self.child.wait().unwrap().code(), log.join("\n"))
    }

    pub fn stop(self, signal: Signal) -> Option<i32> {
        self.stop_with_log(signal).0
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Only a test that failed leaves it running.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
