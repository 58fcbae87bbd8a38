//! `kafscale health`: asks a process of this program whether it is well, for container engines and service managers whose
//! image has no HTTP client.
//!
//! It speaks just enough HTTP for that: one request, one status line, and a limit on the time and the bytes of it.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{TcpStream, ToSocketAddrs as _};
use std::sync::mpsc;
use std::time::Duration;

use clap::Args;

use crate::failure::Failure;

/// A process that cannot say how it is within this time is not well.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(3);
const ANSWER_MAX_BYTES: u64 = 4096;
/// All of it: names that are looked up, both default addresses, and an answer that comes a byte at a time.
const RUN_TIMEOUT: Duration = Duration::from_secs(5);

/// A broker, and an MCP server, on their default ports.
const DEFAULT_URLS: [&str; 2] = ["http://127.0.0.1:9093/readyz", "http://127.0.0.1:8090/healthz"];

#[derive(Debug, Clone, Args)]
pub struct HealthCommand {
    /// What to ask [default: /readyz of a broker on port 9093, or else /healthz of an MCP server on port 8090]
    #[arg(value_name = "http://HOST:PORT/PATH")]
    url: Option<String>,
}

/// What a well process says. A failure is exit status 1, with the reason.
pub fn run(command: HealthCommand) -> Result<String, Failure> {
    let (told, answer) = mpsc::channel();
    // Not every step can be given a limit of its own. A thread that is left behind ends with the process.
    std::thread::spawn(move || {
        _ = told.send(ask_one(&command));
    });
    let within = RUN_TIMEOUT.as_secs();
    let silent = |_| Err(Failure::runtime(format!("no complete answer within {within} s")));
    answer.recv_timeout(RUN_TIMEOUT).unwrap_or_else(silent)
}

fn ask_one(command: &HealthCommand) -> Result<String, Failure> {
    if let Some(url) = &command.url {
        let (host_port, path) = split(url)?;
        let stream = connect(host_port).map_err(|e| Failure::runtime(format!("{url}: {}", described(&e))))?;
        return ask(stream, url, host_port, path);
    }
    for url in DEFAULT_URLS {
        let (host_port, path) = split(url)?;
        if let Ok(stream) = connect(host_port) {
            return ask(stream, url, host_port, path);
        }
    }
    Err(Failure::runtime(format!("nothing answers on {}", DEFAULT_URLS.join(" or "))))
}

fn split(url: &str) -> Result<(&str, &str), Failure> {
    let rest = url
        .strip_prefix("http://")
        .ok_or_else(|| Failure::usage(format!("`{url}` is not of the form http://HOST:PORT/PATH")))?;
    let path = rest.find('/').unwrap_or(rest.len());
    Ok((&rest[..path], if path == rest.len() { "/" } else { &rest[path..] }))
}

fn connect(host_port: &str) -> std::io::Result<TcpStream> {
    let mut last = std::io::Error::other("the name has no address");
    for address in host_port.to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, ANSWER_TIMEOUT) {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// A read that takes too long fails as one that would block.
fn described(error: &std::io::Error) -> String {
    match error.kind() {
        ErrorKind::WouldBlock | ErrorKind::TimedOut => format!("no answer in {} s", ANSWER_TIMEOUT.as_secs()),
        _ => error.to_string(),
    }
}

fn ask(mut stream: TcpStream, url: &str, host_port: &str, path: &str) -> Result<String, Failure> {
    let mut answer = Vec::new();
    stream
        .set_read_timeout(Some(ANSWER_TIMEOUT))
        .and_then(|()| {
            write!(stream, "GET {path} HTTP/1.1\r\nHost: {host_port}\r\nConnection: close\r\n\r\n")?;
            stream.take(ANSWER_MAX_BYTES).read_to_end(&mut answer)
        })
        .map_err(|e| Failure::runtime(format!("{url}: {}", described(&e))))?;
    let answer = String::from_utf8_lossy(&answer);
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let status = head.lines().next().unwrap_or_default();
    if status.split(' ').nth(1) == Some("200") {
        Ok(format!("{url}: {}\n", body.trim()))
    } else {
        Err(Failure::runtime(format!("{url}: {status}: {}", body.trim())))
    }
}
