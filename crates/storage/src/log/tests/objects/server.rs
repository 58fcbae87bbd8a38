//! The same over a real S3 server, SeaweedFS, as tests/setup installs it. Where that is missing, the suite says so and is skipped; it
//! fails where CI=true.

use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use super::*;
use crate::store::s3::{S3Config, S3Credentials};

const BUCKET: &str = "kafscale";

struct Server {
    process: Child,
    port: u16,
    _dir: tempfile::TempDir,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn program() -> Option<PathBuf> {
    let cache = std::env::var_os("KAFSCALE_TEST_CACHE").map(PathBuf::from);
    let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache/kafscale-tests"));
    let program = cache.or_else(home)?.join("seaweedfs/bin/weed");
    program.exists().then_some(program)
}

fn free_ports(count: usize) -> Vec<u16> {
    let listeners: Vec<_> = (0..count).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    listeners.iter().map(|listener| listener.local_addr().unwrap().port()).collect()
}

impl Server {
    async fn start() -> Option<Server> {
        let Some(program) = program() else {
            assert!(std::env::var("CI").as_deref() != Ok("true"), "SeaweedFS is missing; run tests/setup");
            eprintln!("!!! SKIPPED: SeaweedFS is missing; run tests/setup !!!");
            return None;
        };
        let dir = tempfile::tempdir().unwrap();
        let names = [
            "-s3.port",
            "-s3.port.grpc",
            "-s3.port.iceberg",
            "-s3.port.lance",
            "-master.port",
            "-master.port.grpc",
            "-filer.port",
            "-filer.port.grpc",
            "-volume.port",
            "-admin.port",
            "-admin.port.grpc",
        ];
        let ports = free_ports(names.len());
        let log = std::fs::File::create(dir.path().join("log")).unwrap();
        let process = Command::new(program)
            .arg("mini")
            .args(["-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-webdav=false", "-admin.ui=false"])
            .args(["-master.telemetry=false", &format!("-bucket={BUCKET}")])
            .arg(format!("-dir={}", dir.path().display()))
            .arg(format!("-filer.localSocket={}", dir.path().join("filer.sock").display()))
            .args(names.iter().zip(&ports).map(|(name, port)| format!("{name}={port}")))
            .env("AWS_ACCESS_KEY_ID", "key")
            .env("AWS_SECRET_ACCESS_KEY", "secret")
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        let server = Server { process, port: ports[0], _dir: dir };
        let deadline = tokio::time::Instant::now() + Duration::from_secs(120);
        while !server.is_ready().await {
            assert!(tokio::time::Instant::now() < deadline, "SeaweedFS does not start");
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        Some(server)
    }

    async fn is_ready(&self) -> bool {
        let store = crate::store::s3::open(&self.config("ready")).unwrap();
        crate::store::verify::verify(&*store, "ready").await.is_ok()
    }

    fn config(&self, prefix: &str) -> S3Config {
        S3Config {
            prefix: prefix.to_owned(),
            endpoint: Some(format!("http://127.0.0.1:{}", self.port)),
            credentials: Some(S3Credentials {
                access_key_id: "key".into(),
                secret_access_key: "secret".into(),
                session_token: None,
            }),
            ..S3Config::new(BUCKET)
        }
    }

    fn cluster(&self, prefix: &str) -> Cluster {
        let mut cluster = Cluster::new();
        cluster.config.store = StoreUrl::S3(Box::new(self.config(prefix)));
        cluster
    }
}

#[tokio::test]
async fn the_chain_works_on_a_real_server() {
    let Some(server) = Server::start().await else { return };
    takeover(&server).await;
    one_chain_has_one_writer(&server).await;
    collection(&server).await;
    what_is_wrong_is_told(&server).await;
}

async fn takeover(server: &Server) {
    let mut cluster = server.cluster("takeover");
    cluster.config.tail_cache_bytes = 0;
    let first = cluster.owner(1, 0).await;
    let mut wrote = vec![Vec::new(); 3];
    for i in 0..60u8 {
        append(&partition(&first, i32::from(i % 3)), 7, i).await;
        wrote[usize::from(i % 3)].push((7, i));
    }
    assert_eq!(read_all(&partition(&first, 0), 0).await, expected(&wrote[0]), "read back from the chain");
    let second = cluster.broker(2).await;
    seal(&second, &first).await;
    assert!(second.acquire(hosted(1)).await.iter().all(|(_, outcome)| *outcome == Ok(())));
    for (i, wrote) in wrote.iter().enumerate() {
        assert_eq!(read_all(&partition(&second, i as i32), 0).await, expected(wrote));
    }
    assert_eq!(append_from(&partition(&first, 0), 1, 1, None).await, Err(AppendError::Fenced));
    append(&partition(&second, 0), 1, 99).await;
    second.seal_own(STOP_WITHIN).await.unwrap();
    let third = cluster.owner(1, 2).await;
    wrote[0].push((1, 99));
    assert_eq!(read_all(&partition(&third, 0), 0).await, expected(&wrote[0]));
    let stats = third.stats();
    assert!(stats.gets.latency.count > 0 && stats.puts.failures == 0, "{stats:?}");
    third.shutdown().await;
}

/// Two processes that believe to be the same incarnation.
async fn one_chain_has_one_writer(server: &Server) {
    let mut cluster = server.cluster("one-writer");
    let first = cluster.owner(1, 0).await;
    let second =
        Log::open(first.shared.config.clone(), cluster.meta.clone(), Cluster::keys(), cluster.clock.clone())
            .await
            .unwrap();
    second.acquire(hosted(0)).await;
    let (p, q) = (partition(&first, 0), partition(&second, 0));
    let (a, b) = tokio::join!(append_from(&p, 1, 1, None), append_from(&q, 1, 2, None));
    let fenced = Err(AppendError::Fenced);
    assert!(
        (a == Ok(Offset(0)) && b == fenced) || (b == Ok(Offset(0)) && a == fenced),
        "one wins and one is fenced: {a:?} {b:?}"
    );
}

async fn collection(server: &Server) {
    let mut cluster = server.cluster("collection");
    let first = cluster.owner(1, 0).await;
    for i in 0..40 {
        append(&partition(&first, i % 3), 5, i as u8).await;
    }
    let second = cluster.broker(2).await;
    seal(&second, &first).await;
    second.acquire(hosted(1)).await;
    let from = tokio::time::Instant::now();
    while cluster.record(&first).await.is_some() {
        assert!(from.elapsed() < Duration::from_secs(60), "the dead chain is not collected");
        tokio::time::sleep(Duration::from_millis(100)).await;
        second.collect().await.unwrap();
    }
    let listed: Vec<_> =
        second.shared.store.list(Some(&chain(&first).directory())).try_collect().await.unwrap();
    assert!(listed.len() == 17 && listed.iter().all(|o| o.size == 96), "{listed:?}");
    assert_eq!(append_from(&partition(&first, 0), 1, 1, None).await, Err(AppendError::Fenced));
    assert_eq!(partition(&second, 0).offsets().high_watermark, Offset(70));
}

async fn what_is_wrong_is_told(server: &Server) {
    let reason = async |change: fn(&mut S3Config)| {
        let mut config = server.config("wrong");
        change(&mut config);
        let error = crate::probe(&StoreUrl::S3(Box::new(config)), "wrong").await.unwrap_err();
        (error.may_pass(), error.to_string())
    };
    let secret: fn(&mut S3Config) =
        |config| config.credentials.as_mut().unwrap().secret_access_key = "no".into();
    let (may_pass, denied) = reason(secret).await;
    assert!(!may_pass && denied.contains("refuses the credentials"), "{denied}");
    let (may_pass, away) = reason(|config| config.endpoint = Some("http://127.0.0.1:9".into())).await;
    assert!(may_pass && away.contains("does not answer") && away.contains("127.0.0.1:9"), "{away}");
}
