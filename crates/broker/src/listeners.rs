//! The addresses that a broker listens on, and those that it tells clients to connect to.
//!
//! The main listener is there always; others have names. A client that came in by a listener is told the addresses that brokers have for a
//! listener of that name, so that those inside a network and those outside of it each get what they can reach.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::TcpListener;

use crate::broker::StartError;
use crate::config::{Advertised, BrokerConfig, ListenerConfig};
use crate::server;
use crate::transport::Transport;

/// The name of the main listener, as Apache Kafka calls it when nothing is configured.
pub const MAIN_LISTENER: &str = "PLAINTEXT";

/// Where a broker is reached by one of its listeners.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    pub listener: Arc<str>,
    pub host: String,
    pub port: u16,
}

/// Sources of connections, in place before the broker registers, so that their ports are known.
#[derive(Debug)]
pub struct Listeners<T> {
    bound: Vec<Bound<T>>,
}

#[derive(Debug)]
pub struct Bound<T> {
    pub transport: T,
    pub address: SocketAddr,
    pub endpoint: Endpoint,
}

impl Listeners<TcpListener> {
    /// Binds the main listener and the further ones. What comes in waits until the broker serves.
    pub fn bind(config: &BrokerConfig) -> Result<Self, StartError> {
        let main = ListenerConfig {
            name: MAIN_LISTENER.to_owned(),
            listen: config.listen,
            advertised: config.advertised.clone(),
        };
        let all = std::iter::once(&main).chain(&config.more_listeners);
        let bind = |listener: &ListenerConfig| {
            let failed = |error| StartError::Listen { address: listener.listen, error };
            let transport = server::bind(listener.listen).map_err(failed)?;
            let advertised = listener.advertised.clone();
            Bound::new(transport, &listener.name, advertised).map_err(failed)
        };
        Ok(Self { bound: all.map(bind).collect::<Result<_, _>>()? })
    }
}

impl<T: Transport> Listeners<T> {
    /// The main listener alone, on whatever brings connections. What the configuration says of listening does not hold then.
    pub fn on(transport: T, advertised: Option<Advertised>) -> io::Result<Self> {
        Ok(Self { bound: vec![Bound::new(transport, MAIN_LISTENER, advertised)?] })
    }

    /// Where clients are told to connect; the main listener first.
    pub fn endpoints(&self) -> Vec<Endpoint> {
        self.bound.iter().map(|bound| bound.endpoint.clone()).collect()
    }

    /// Where connections are accepted; the main listener first.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.bound.iter().map(|bound| bound.address).collect()
    }

    pub fn into_bound(self) -> Vec<Bound<T>> {
        self.bound
    }
}

impl<T: Transport> Bound<T> {
    fn new(transport: T, name: &str, advertised: Option<Advertised>) -> io::Result<Self> {
        let address = transport.local_addr()?;
        let Advertised { host, port } = advertised.unwrap_or_else(|| reachable(address));
        // Port 0 stands for the port that the listener got.
        let port = if port == 0 { address.port() } else { port };
        Ok(Self { transport, address, endpoint: Endpoint { listener: name.into(), host, port } })
    }
}

/// An address to advertise when none was configured: nobody can connect to "any address".
fn reachable(bound: SocketAddr) -> Advertised {
    let host = if bound.ip().is_unspecified() { "localhost".to_owned() } else { bound.ip().to_string() };
    Advertised { host, port: bound.port() }
}
