//! A server of HTTP for tests that does what it is told, however wrong.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

#[derive(Debug, Clone, Default)]
pub struct Asked {
    pub method: String,
    /// Path and query.
    pub target: String,
    /// With their names in lower case.
    pub headers: Vec<(String, String)>,
    pub body: String,
}

impl Asked {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str())
    }

    pub fn parameter(&self, name: &str) -> Option<String> {
        let url = reqwest::Url::parse(&format!("http://localhost{}", self.target)).expect("it is an address");
        url.query_pairs().find(|(found, _)| found == name).map(|(_, value)| value.into_owned())
    }
}

/// What is sent back before the connection ends.
pub enum Answer {
    Bytes(Vec<u8>),
    /// The first bytes, and then these again and again, with a pause between them.
    Endless(Vec<u8>, Vec<u8>, Duration),
}

pub fn json(body: &str) -> Answer {
    with_status("200 OK", "", body)
}

/// `headers` end each with a line break.
pub fn with_status(status: &str, headers: &str, body: &str) -> Answer {
    let head = format!(
        "HTTP/1.1 {status}\r\ncontent-type: application/json\r\n{headers}content-length: {}\r\nconnection: close\r\n\r\n",
        body.len()
    );
    Answer::Bytes([head.as_bytes(), body.as_bytes()].concat())
}

/// It ends when this is dropped.
pub struct TestServer {
    pub port: u16,
    asked: Arc<Mutex<Vec<Asked>>>,
    task: JoinHandle<()>,
}

impl Drop for TestServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl TestServer {
    pub async fn start(answer: impl Fn(&Asked) -> Answer + Send + Sync + 'static) -> TestServer {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
        let port = listener.local_addr().expect("it has an address").port();
        let (asked, answer) = (Arc::<Mutex<Vec<Asked>>>::default(), Arc::new(answer));
        let seen = Arc::clone(&asked);
        let task = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (answer, seen) = (Arc::clone(&answer), Arc::clone(&seen));
                connections.spawn(async move {
                    let _ = serve(stream, &*answer, &seen).await;
                });
            }
        });
        TestServer { port, asked, task }
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// What was asked since the last time.
    pub fn asked(&self) -> Vec<Asked> {
        std::mem::take(&mut *self.asked.lock())
    }
}

async fn serve(
    mut stream: TcpStream,
    answer: &(impl Fn(&Asked) -> Answer + Send + Sync),
    seen: &Mutex<Vec<Asked>>,
) -> std::io::Result<()> {
    let mut bytes = Vec::new();
    let end = loop {
        let mut more = [0; 4096];
        let read = stream.read(&mut more).await?;
        if read == 0 {
            return Ok(());
        }
        bytes.extend_from_slice(&more[..read]);
        if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            break end + 4;
        }
    };
    let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
    let mut lines = head.lines();
    let mut first = lines.next().unwrap_or_default().split(' ');
    let mut asked = Asked {
        method: first.next().unwrap_or_default().to_owned(),
        target: first.next().unwrap_or_default().to_owned(),
        ..Asked::default()
    };
    let header = |line: &str| line.split_once(": ").map(|(n, v)| (n.to_ascii_lowercase(), v.to_owned()));
    asked.headers = lines.filter_map(header).collect();
    let length: usize = asked.header("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
    let mut body = bytes[end..].to_vec();
    while body.len() < length {
        let mut more = vec![0; length - body.len()];
        let read = stream.read(&mut more).await?;
        body.extend_from_slice(&more[..read]);
    }
    asked.body = String::from_utf8_lossy(&body).into_owned();
    let given = answer(&asked);
    seen.lock().push(asked);
    match given {
        Answer::Bytes(bytes) => stream.write_all(&bytes).await?,
        Answer::Endless(first, again, pause) => {
            stream.write_all(&first).await?;
            loop {
                stream.write_all(&again).await?;
                tokio::time::sleep(pause).await;
            }
        }
    }
    stream.shutdown().await
}
