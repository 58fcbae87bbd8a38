//! A server of another kind than observation, over a real socket: what its tools are told of a call, and what the audit log gets.

#![expect(clippy::unwrap_used, reason = "a test ends where its world is not as expected")]

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use kafscale_agent::answer::ToolError;
use kafscale_agent::audit::{Anchor, Decision, verify};
use kafscale_agent::identity::{IdentitySettings, Scope};
use kafscale_agent::schemars::{self, JsonSchema};
use kafscale_agent::{
    About, Call, EdgeConfig, EdgeSettings, JsonObject, Limits, Prepared, Server, Service, Tool,
    ToolAnnotations,
};
use kafscale_core::clock::Clock;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_util::sync::CancellationToken;

#[derive(Debug)]
struct Noon;

impl Clock for Noon {
    fn now_ms(&self) -> i64 {
        1_800_000_000_000
    }
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Ask {
    what: String,
}

#[derive(Debug, Serialize, JsonSchema)]
struct Told {
    who: String,
    purpose: Option<String>,
    masked: usize,
}

fn object(value: Value) -> JsonObject {
    serde_json::from_value(value).unwrap()
}

/// Decides, writes that down, does it, and tells what the answer was shaped by.
async fn ask(call: Call, ask: Ask, done: Arc<AtomicUsize>) -> Result<Told, ToolError> {
    let purpose = call.meta.get("example/purpose").and_then(Value::as_str).map(str::to_owned);
    if ask.what == "secrets" {
        call.line.decide(Decision::Deny, object(json!({"policy": "forbid-secrets"}))).await?;
        return Err(ToolError::Denied("denied: secrets are for nobody".to_owned()));
    }
    call.line.decide(Decision::Allow, object(json!({"policy": "permit", "purpose": purpose}))).await?;
    done.fetch_add(1, Ordering::SeqCst);
    call.line.add(object(json!({"masked": 3})));
    Ok(Told { who: call.principal.name.to_string(), purpose, masked: 3 })
}

fn service(done: &Arc<AtomicUsize>) -> Service {
    let done = Arc::clone(done);
    let annotations = ToolAnnotations::new().read_only(true);
    let about = About { name: "ask", title: "Ask", description: "Asks for something.", annotations };
    Service {
        name: "other",
        title: "Another server",
        version: "0",
        instructions: "Ask.",
        tools: vec![Tool::new(about, move |call, arguments| ask(call, arguments, Arc::clone(&done)))],
        resources: None,
        prompts: &[],
        limits: Limits::default(),
    }
}

async fn prepare(log: Option<PathBuf>, done: &Arc<AtomicUsize>) -> Prepared {
    let identity = IdentitySettings::new("KAFSCALE_OTHER", "other server", Scope::Observe);
    let mut settings = EdgeSettings::new(identity, SocketAddr::from(([127, 0, 0, 1], 0)));
    settings.audit_log = log;
    let anchor = |log: &Path| Anchor::File(log.with_extension("anchor"));
    let config = EdgeConfig::new(settings).unwrap();
    let stop = CancellationToken::new();
    Prepared::new(config, service(done), anchor, Arc::new(Noon), stop).await.unwrap()
}

async fn serve(log: Option<PathBuf>, done: &Arc<AtomicUsize>) -> Server {
    prepare(log, done).await.serve().await.unwrap()
}

async fn request(server: &Server, method: &str, mut params: Value) -> Value {
    let meta = json!({
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientInfo": {"name": "test", "version": "1"},
        "io.modelcontextprotocol/clientCapabilities": {},
        "example/purpose": "billing",
    });
    params["_meta"] = meta;
    let name = params["name"].as_str().map(|name| format!("mcp-name: {name}\r\n")).unwrap_or_default();
    let body = json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).to_string();
    let head = format!(
        "POST /mcp HTTP/1.1\r\nhost: {}\r\nconnection: close\r\ncontent-type: application/json\r\n\
         accept: application/json\r\nmcp-protocol-version: 2026-07-28\r\nmcp-method: {method}\r\n{name}\
         content-length: {}\r\n\r\n",
        server.addr(),
        body.len()
    );
    let mut stream = tokio::net::TcpStream::connect(server.addr()).await.unwrap();
    stream.write_all((head + &body).as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    serde_json::from_str(body).unwrap_or_else(|e| panic!("{e}: {head}\n{body}"))
}

async fn call(server: &Server, what: &str) -> Value {
    let params = json!({"name": "ask", "arguments": {"what": what}});
    request(server, "tools/call", params).await["result"].take()
}

fn lines(log: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(log).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_decision_is_in_the_log_before_the_answer_and_its_outcome_after() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("audit.jsonl");
    let done = Arc::new(AtomicUsize::new(0));
    let server = serve(Some(log.clone()), &done).await;
    let told = call(&server, "sums").await;
    assert_eq!(told["structuredContent"], json!({"who": "anonymous", "purpose": "billing", "masked": 3}));
    let denied = call(&server, "secrets").await;
    assert_eq!(
        (&denied["isError"], denied["content"][0]["text"].as_str().unwrap()),
        (&json!(true), "denied: secrets are for nobody")
    );
    let lines = lines(&log);
    let told: Vec<_> = lines.iter().map(|l| (&l["decision"], &l["outcome"], &l["details"])).collect();
    assert_eq!(
        told,
        [
            (&json!("allow"), &json!("decided"), &json!({"policy": "permit", "purpose": "billing"})),
            (&json!("allow"), &json!("ok"), &json!({"masked": 3})),
            (&json!("deny"), &json!("decided"), &json!({"policy": "forbid-secrets"})),
            (&json!("deny"), &json!("denied"), &Value::Null),
        ]
    );
    assert_eq!(lines[0]["arguments"], json!({"what": "sums"}));
    server.shutdown().await;
    assert_eq!(verify(&log).unwrap().lines, 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_line_nothing_is_done() {
    let dir = tempfile::tempdir().unwrap();
    let (log, anchor) = (dir.path().join("audit.jsonl"), dir.path().join("audit.anchor"));
    let done = Arc::new(AtomicUsize::new(0));
    let server = serve(Some(log.clone()), &done).await;
    call(&server, "sums").await;
    server.shutdown().await;
    // The next server finds out that the log was shortened only when it runs: its anchor cannot be read at first.
    let first = std::fs::read_to_string(&log).unwrap().lines().next().unwrap().to_owned() + "\n";
    std::fs::write(&log, first).unwrap();
    std::fs::remove_file(log.with_extension("jsonl.head")).unwrap();
    std::fs::rename(&anchor, dir.path().join("kept")).unwrap();
    std::fs::create_dir(&anchor).unwrap();
    let prepared = prepare(Some(log), &done).await;
    std::fs::remove_dir(&anchor).unwrap();
    std::fs::rename(dir.path().join("kept"), &anchor).unwrap();
    let server = prepared.serve().await.unwrap();
    let mut refused = call(&server, "sums").await;
    while refused["isError"] != true {
        tokio::task::yield_now().await;
        refused = call(&server, "sums").await;
    }
    let before = done.load(Ordering::SeqCst);
    let refused = call(&server, "sums").await;
    assert!(refused["content"][0]["text"].as_str().unwrap().starts_with("refused: the audit log"));
    assert_eq!(done.load(Ordering::SeqCst), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_server_does_not_offer_it_does_not_claim() {
    let server = serve(None, &Arc::default()).await;
    let about = request(&server, "server/discover", json!({})).await;
    let capabilities = about["result"]["capabilities"].as_object().unwrap();
    assert_eq!(capabilities.keys().collect::<Vec<_>>(), ["tools"]);
    let listed = request(&server, "resources/list", json!({})).await;
    assert_eq!(listed["error"]["code"], -32601);
    let completed =
        json!({"ref": {"type": "ref/resource", "uri": "test://{a}"}, "argument": {"name": "a", "value": ""}});
    assert_eq!(request(&server, "completion/complete", completed).await["error"]["code"], -32601);
}
