//! An etcd server as a child process, and administration that the store itself does not need.

use std::{
    io::{BufRead, BufReader},
    net::TcpListener,
    path::Path,
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex, Weak},
};

use prost::Message;
use tempfile::TempDir;

use super::super::{EtcdStore, client::Repeat, proto, to_i64};
use crate::Revision;

/// A running etcd with one member. Killed when dropped.
#[derive(Debug)]
pub struct EtcdServer {
    process: Child,
    client_port: u16,
    peer_port: u16,
    tls: Vec<String>,
    dir: TempDir,
}

impl Drop for EtcdServer {
    fn drop(&mut self) {
        self.kill();
    }
}

impl EtcdServer {
    /// The server that tests share that only use keys of their own.
    pub fn shared() -> Arc<Self> {
        static SHARED: Mutex<Weak<EtcdServer>> = Mutex::new(Weak::new());
        let mut shared = SHARED.lock().unwrap();
        if let Some(running) = shared.upgrade() {
            return running;
        }
        let started = Arc::new(Self::start_blocking(Vec::new()));
        *shared = Arc::downgrade(&started);
        started
    }

    /// A server of one's own.
    pub async fn start() -> Self {
        Self::start_with(Vec::new()).await
    }

    /// A server with more arguments, for TLS.
    pub async fn start_with(tls: Vec<String>) -> Self {
        tokio::task::spawn_blocking(move || Self::start_blocking(tls)).await.unwrap()
    }

    fn start_blocking(tls: Vec<String>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        // Another process can take a port before etcd does: then there are others.
        for _ in 0..5 {
            let (client_port, peer_port) = (free_port(), free_port());
            if let Some(process) = spawn(dir.path(), client_port, peer_port, &tls) {
                return Self { process, client_port, peer_port, tls, dir };
            }
        }
        panic!("etcd does not start");
    }

    pub fn url(&self) -> String {
        let scheme = if self.tls.is_empty() { "etcd" } else { "etcds" };
        format!("{scheme}://127.0.0.1:{}", self.client_port)
    }

    pub fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    /// Starts the server again on its data and its ports.
    pub async fn restart(&mut self) {
        let (dir, tls) = (self.dir.path().to_owned(), self.tls.clone());
        let (client_port, peer_port) = (self.client_port, self.peer_port);
        let spawned = tokio::task::spawn_blocking(move || spawn(&dir, client_port, peer_port, &tls));
        self.process = spawned.await.unwrap().expect("etcd starts again");
    }

    /// Stops all of its threads until [`EtcdServer::wake`].
    pub fn freeze(&self) {
        self.signal("STOP");
        let stat = format!("/proc/{}/stat", self.process.id());
        // There is no event for this; it takes as long as a thread takes to notice.
        while !std::fs::read_to_string(&stat).unwrap().contains(") T ") {
            std::thread::yield_now();
        }
    }

    pub fn wake(&self) {
        self.signal("CONT");
    }

    fn signal(&self, name: &str) {
        let pid = self.process.id().to_string();
        assert!(Command::new("kill").args(["-s", name, &pid]).status().unwrap().success());
    }
}

/// Starts etcd and waits until it serves. `None` if it ended instead.
fn spawn(dir: &Path, client_port: u16, peer_port: u16, tls: &[String]) -> Option<Child> {
    let scheme = if tls.is_empty() { "http" } else { "https" };
    let (client, peer) =
        (format!("{scheme}://127.0.0.1:{client_port}"), format!("http://127.0.0.1:{peer_port}"));
    let spawned = Command::new("etcd")
        .args(["--name=m", "--unsafe-no-fsync", &format!("--data-dir={}", dir.display())])
        .args([format!("--listen-client-urls={client}"), format!("--advertise-client-urls={client}")])
        .args([format!("--listen-peer-urls={peer}"), format!("--initial-advertise-peer-urls={peer}")])
        .arg(format!("--initial-cluster=m={peer}"))
        .args(tls)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn();
    let mut process = spawned.unwrap_or_else(|e| {
        panic!("these tests need `etcd` in the PATH ({e}): install Debian's package etcd-server, or run tests/setup")
    });
    let mut lines = BufReader::new(process.stderr.take().unwrap()).lines().map_while(Result::ok);
    if !lines.any(|line| line.contains("ready to serve client requests")) {
        process.wait().unwrap();
        return None;
    }
    // It must be able to go on writing its log.
    std::thread::spawn(move || lines.for_each(drop));
    Some(process)
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

#[derive(Clone, PartialEq, Eq, Message)]
struct CompactionRequest {
    #[prost(int64, tag = "1")]
    revision: i64,
}

/// The name of a user or role, and what goes with it.
#[derive(Clone, PartialEq, Eq, Message)]
struct Pair {
    #[prost(string, tag = "1")]
    first: String,
    #[prost(string, tag = "2")]
    second: String,
}

/// For answers in which nothing is of interest.
#[derive(Clone, PartialEq, Eq, Message)]
struct Done {}

#[derive(Clone, PartialEq, Eq, Message)]
struct GrantPermission {
    #[prost(string, tag = "1")]
    role: String,
    #[prost(message, optional, tag = "2")]
    permission: Option<Permission>,
}

#[derive(Clone, PartialEq, Eq, Message)]
struct Permission {
    /// 2 is reading and writing.
    #[prost(int32, tag = "1")]
    kind: i32,
    #[prost(bytes = "bytes", tag = "2")]
    key: bytes::Bytes,
    #[prost(bytes = "bytes", tag = "3")]
    range_end: bytes::Bytes,
}

async fn call<Q: Message + Clone + 'static>(store: &EtcdStore, path: &'static str, question: Q) {
    let _: Done = store.client.unary(path, question, Repeat::OnlyIfUnsent).await.unwrap();
}

/// Forgets what was before a revision.
pub async fn compact(store: &EtcdStore, revision: Revision) {
    let question = CompactionRequest { revision: to_i64(revision).unwrap() };
    call(store, "/etcdserverpb.KV/Compact", question).await;
}

/// Makes the user `root`, and one who may do what is below a prefix, and switches authentication on.
pub async fn enable_auth(store: &EtcdStore, root_password: &str, user: [&str; 2], prefix: &str) {
    let pair = |first: &str, second: &str| Pair { first: first.to_owned(), second: second.to_owned() };
    for (name, password) in [("root", root_password), (user[0], user[1])] {
        call(store, "/etcdserverpb.Auth/UserAdd", pair(name, password)).await;
        call(store, "/etcdserverpb.Auth/RoleAdd", pair(name, "")).await;
        call(store, "/etcdserverpb.Auth/UserGrantRole", pair(name, name)).await;
    }
    let (key, range_end) = store.keyspace.prefix_range(prefix);
    let permission = Some(Permission { kind: 2, key, range_end });
    let question = GrantPermission { role: user[0].to_owned(), permission };
    call(store, "/etcdserverpb.Auth/RoleGrantPermission", question).await;
    call(store, "/etcdserverpb.Auth/AuthEnable", proto::LeaseRevokeResponse {}).await;
}
