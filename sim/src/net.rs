//! The network between clients and brokers: streams of bytes with latency, that can fall silent or break.
//!
//! The services' machine carries the bytes, so that what a broker wrote before it died may still arrive.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use kafscale_broker::{Accepted, Transport};
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, ReadHalf, WriteHalf, duplex, split};
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::time::{sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::faults::Faults;

pub const KAFKA_PORT: u16 = 9092;
const BUFFER_BYTES: usize = 256 << 10;
const LATENCY_MS: (u64, u64) = (1, 4);

type Incoming = Accepted<ReadHalf<DuplexStream>, WriteHalf<DuplexStream>>;
type Half = (ReadHalf<DuplexStream>, WriteHalf<DuplexStream>);

#[derive(Debug)]
struct Listening {
    sender: mpsc::UnboundedSender<Incoming>,
    /// Breaks all connections of this process.
    broken: CancellationToken,
}

#[derive(Debug, Clone)]
pub struct Network {
    services: Handle,
    faults: Faults,
    listening: Arc<Mutex<BTreeMap<i32, Listening>>>,
}

/// The host name that a broker advertises.
pub fn host_of(node: i32) -> String {
    format!("broker-{node}")
}

fn node_of(host: &str) -> Option<i32> {
    host.strip_prefix("broker-")?.parse().ok()
}

impl Network {
    pub fn new(services: Handle, faults: Faults) -> Network {
        Network { services, faults, listening: Arc::default() }
    }

    pub fn listen(&self, node: i32) -> SimListener {
        // Bounded by the connections that clients of the simulation open.
        let (sender, incoming) = mpsc::unbounded_channel();
        let listening = Listening { sender, broken: CancellationToken::new() };
        self.listening.lock().insert(node, listening);
        SimListener { incoming: Arc::new(tokio::sync::Mutex::new(incoming)), node }
    }

    pub fn unlisten(&self, node: i32) {
        if let Some(listening) = self.listening.lock().remove(&node) {
            listening.broken.cancel();
        }
    }

    /// Breaks every connection of a broker, which goes on.
    pub fn reset(&self, node: i32) {
        if let Some(listening) = self.listening.lock().get_mut(&node) {
            std::mem::take(&mut listening.broken).cancel();
        }
    }

    /// Connects a client. To be called on the services' machine.
    pub async fn connect(&self, host: &str, client: u32) -> io::Result<DuplexStream> {
        let node = node_of(host).ok_or(io::ErrorKind::AddrNotAvailable)?;
        sleep(self.faults.latency(LATENCY_MS.0, LATENCY_MS.1)).await;
        self.faults.audible(node).await;
        let (near, far) = (duplex(BUFFER_BYTES), duplex(BUFFER_BYTES));
        let broken = {
            let mut listening = self.listening.lock();
            let listening = listening.get_mut(&node).ok_or(io::ErrorKind::ConnectionRefused)?;
            let (input, output) = split(far.0);
            let peer = SocketAddr::from(([10, 0, (client >> 8) as u8, client as u8], 40_000));
            let accepted = Accepted { input, output, peer };
            listening.sender.send(accepted).map_err(|_| io::ErrorKind::ConnectionRefused)?;
            listening.broken.clone()
        };
        let ((client_in, client_out), (broker_in, broker_out)) = (split(near.1), split(far.1));
        self.carry((client_in, broker_out), node, broken.clone());
        self.carry((broker_in, client_out), node, broken);
        Ok(near.0)
    }

    /// Carries bytes one way until the connection ends.
    fn carry(&self, (mut from, mut to): Half, node: i32, broken: CancellationToken) {
        let faults = self.faults.clone();
        self.services.spawn(async move {
            let (sender, mut on_the_way) = mpsc::channel::<(tokio::time::Instant, Vec<u8>)>(1024);
            let latency = faults.latency(LATENCY_MS.0, LATENCY_MS.1);
            let take = async {
                let mut buffer = vec![0; 16 << 10];
                while let Ok(n @ 1..) = from.read(&mut buffer).await {
                    let due = tokio::time::Instant::now() + latency;
                    if sender.send((due, buffer[..n].to_vec())).await.is_err() {
                        break;
                    }
                }
                drop(sender);
            };
            let give = async {
                while let Some((due, bytes)) = on_the_way.recv().await {
                    sleep_until(due).await;
                    faults.audible(node).await;
                    if to.write_all(&bytes).await.is_err() {
                        return;
                    }
                }
                // A silent peer does not hear that the other one has gone either.
                faults.audible(node).await;
                let _ = to.shutdown().await;
            };
            broken.run_until_cancelled(async { tokio::join!(take, give) }).await;
        });
    }
}

/// Where a broker accepts connections.
#[derive(Debug, Clone)]
pub struct SimListener {
    incoming: Arc<tokio::sync::Mutex<mpsc::UnboundedReceiver<Incoming>>>,
    node: i32,
}

impl Transport for SimListener {
    type Input = ReadHalf<DuplexStream>;
    type Output = WriteHalf<DuplexStream>;

    async fn accept(&mut self) -> io::Result<Accepted<Self::Input, Self::Output>> {
        let mut incoming = self.incoming.lock().await;
        match incoming.recv().await {
            Some(accepted) => Ok(accepted),
            // The network is gone with the process.
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(SocketAddr::from(([10, 1, 0, self.node as u8], KAFKA_PORT)))
    }
}

/// How long a client tries to connect.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
