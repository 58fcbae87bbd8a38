//! What `kafscale demo` prints once it is ready: what is where, and the first commands to try.

use std::net::SocketAddr;

use crate::config::Config;
use crate::mcp::DEMO_TOKEN;

pub fn banner(
    config: &Config,
    kafka: SocketAddr,
    metrics: SocketAddr,
    mcp: Option<SocketAddr>,
    has_workload: bool,
) -> String {
    let version = env!("CARGO_PKG_VERSION");
    let data = if config.forgets() { "kept in memory only".to_owned() } else { config.store.to_string() };
    let workload = if has_workload { WORKLOAD } else { "" };
    let topic = if has_workload { "orders" } else { "my-topic" };
    let agents = mcp.map(|mcp| agents(config, mcp)).unwrap_or_default();
    let host_port = format!("{}:{}", reachable(kafka), kafka.port());
    format!(
        "\
KafScale {version} is running.

  Kafka      {host_port}
  Metrics    http://{metrics}/metrics   (also /healthz, /readyz)
{agents}  Data       {data}
{workload}
Try it:
  kcat -b {host_port} -L
  echo 'hello' | kcat -b {host_port} -t my-topic -P
  kcat -b {host_port} -t {topic} -C -o beginning -c 5
  pip install confluent-kafka
  python3 -c 'from confluent_kafka import Consumer as C; c = C({{\"bootstrap.servers\": \"{host_port}\", \"group.id\": \"me\", \"auto.offset.reset\": \"earliest\"}}); c.subscribe([\"{topic}\"]); print(c.poll(10).value())'
  curl -s http://{metrics}/metrics | grep kafscale_consumer_group_lag

Stop with Ctrl-C. Start again to go on with the same data.
Documentation: {DOCUMENTATION}
"
    )
}

/// How an AI agent finds the MCP server. A token that the user chose is not printed.
fn agents(config: &Config, mcp: SocketAddr) -> String {
    let chosen = config.mcp.mcp_auth_token.is_some() || config.mcp.mcp_auth_token_file.is_some();
    let token = if chosen { "YOUR_TOKEN" } else { DEMO_TOKEN };
    let url = format!("http://{}:{}/mcp", reachable(mcp), mcp.port());
    format!(
        "  AI agents  {url}   (Authorization: Bearer {token})
             an MCP client is told:
             {{ \"mcpServers\": {{ \"kafscale\": {{ \"type\": \"http\", \"url\": \"{url}\",
               \"headers\": {{ \"Authorization\": \"Bearer {token}\" }} }} }} }}
"
    )
}

const DOCUMENTATION: &str = concat!(env!("CARGO_PKG_REPOSITORY"), "/tree/main/docs");

const WORKLOAD: &str = "
Sample workload:
  topics     orders (6 partitions), payments (4 partitions): JSON, a few records a second
  groups     orders, payments-worker keep up; analytics is paused, more than 10,000 records behind
";

/// A wildcard address is not one to connect to.
fn reachable(addr: SocketAddr) -> String {
    match addr {
        _ if addr.ip().is_unspecified() => "127.0.0.1".to_owned(),
        SocketAddr::V4(v4) => v4.ip().to_string(),
        SocketAddr::V6(v6) => format!("[{}]", v6.ip()),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::cli::{Cli, Command};

    #[test]
    fn the_banner_has_what_a_newcomer_pastes() {
        let cli = Cli::try_parse_from(["kafscale", "broker"]).unwrap();
        let Command::Broker(args) = cli.command else { panic!("not a broker") };
        let config = Config::from_args(*args, || "host".into()).unwrap();
        let address = |port| SocketAddr::from(([127, 0, 0, 1], port));
        let text = banner(&config, address(9092), address(9093), Some(address(8090)), true);
        let (from, to) = (text.find("{ \"mcpServers\"").unwrap(), text.find("  Data ").unwrap());
        let client: serde_json::Value = serde_json::from_str(&text[from..to]).unwrap();
        let server = &client["mcpServers"]["kafscale"];
        assert_eq!(server["url"], "http://127.0.0.1:8090/mcp");
        assert_eq!(server["headers"]["Authorization"], format!("Bearer {DEMO_TOKEN}"));
        let install = text.find("pip install confluent-kafka").unwrap();
        assert!(install < text.find("python3 -c").unwrap(), "{text}");
        assert!(text.contains("Documentation: https://"), "{text}");
    }
}
