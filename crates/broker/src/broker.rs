//! Starting and stopping the Kafka edge.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use kafscale_core::clock::Clock;
use kafscale_storage::Log;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::config::{Advertised, BrokerConfig};
use crate::fetch_sessions::FetchSessions;
use crate::metrics::Metrics;
use crate::node::Node;
use crate::server;
use crate::topics::Topics;

/// A running broker. Dropping it stops nothing: call [`Broker::shutdown`].
#[derive(Debug)]
pub struct Broker {
    node: Arc<Node>,
    kafka_addr: SocketAddr,
    server: JoinHandle<()>,
}

/// Why a broker does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("cannot listen on {address}: {error}")]
    Listen { address: SocketAddr, error: io::Error },
    #[error("request_memory_bytes is {have}, but a single request may need {need}")]
    RequestMemory { have: usize, need: usize },
}

impl Broker {
    /// Binds the listeners and serves. The log must be open and must host the topics of this broker.
    pub async fn start(config: BrokerConfig, log: Log, clock: Arc<dyn Clock>) -> Result<Broker, StartError> {
        let need = config.socket_request_max_bytes.max(crate::wire::DECODING_MAX_BYTES);
        if config.request_memory_bytes < need {
            return Err(StartError::RequestMemory { have: config.request_memory_bytes, need });
        }
        let address = config.listen;
        let listener = server::bind(address).map_err(|error| StartError::Listen { address, error })?;
        let kafka_addr = listener.local_addr().map_err(|error| StartError::Listen { address, error })?;
        let advertised = config.advertised.clone().unwrap_or_else(|| reachable(kafka_addr));
        let node = Arc::new(Node {
            request_memory: Arc::new(Semaphore::new(config.request_memory_bytes)),
            response_memory: Arc::new(Semaphore::new(config.response_memory_bytes)),
            stopping: CancellationToken::new(),
            topics: Topics::default(),
            fetch_sessions: FetchSessions::new(config.fetch_session_slots),
            metrics: Arc::new(Metrics::new(Instant::now())),
            advertised,
            config,
            log,
            clock,
        });
        let server = tokio::spawn(server::run(Arc::clone(&node), listener));
        info!(%kafka_addr, advertised = ?node.advertised, "serving the Kafka protocol");
        Ok(Broker { node, kafka_addr, server })
    }

    /// Where the Kafka protocol is served.
    pub fn kafka_addr(&self) -> SocketAddr {
        self.kafka_addr
    }

    /// Stops accepting, answers what was asked within the drain timeout, and ends. The log is the caller's to shut down.
    pub async fn shutdown(self) {
        self.node.stopping.cancel();
        if let Err(error) = self.server.await {
            tracing::error!(%error, "the server task failed");
        }
    }
}

/// An address to advertise when none was configured: nobody can connect to "any address".
fn reachable(bound: SocketAddr) -> Advertised {
    let host = if bound.ip().is_unspecified() { "localhost".to_owned() } else { bound.ip().to_string() };
    Advertised { host, port: bound.port() }
}
