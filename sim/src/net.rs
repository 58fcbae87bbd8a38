//! The network between clients and brokers: streams of bytes with latency, that can fall silent or break.
//!
//! The services' machine carries the bytes, so that what a broker wrote before it died may still arrive.
//!
//! Each process runs on a host of its own. Host n has the broker with that number; a second process with the number of one that lives
//! is on another host.

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

/// Above the hosts that brokers usually have.
const TWINS: i32 = 100;

/// Where a second process with the number of a broker runs.
pub fn twin_of(node: i32) -> i32 {
    TWINS + node
}

/// The number of the broker that runs on a host.
pub fn node_on(host: i32) -> i32 {
    host % TWINS
}

/// The name of a host, which its broker advertises.
pub fn host_name(host: i32) -> String {
    format!("broker-{host}")
}

fn host_of(name: &str) -> Option<i32> {
    name.strip_prefix("broker-")?.parse().ok()
}

impl Network {
    pub fn new(services: Handle, faults: Faults) -> Network {
        Network { services, faults, listening: Arc::default() }
    }

    pub fn listen(&self, host: i32) -> SimListener {
        // Bounded by the connections that clients of the simulation open.
        let (sender, incoming) = mpsc::unbounded_channel();
        let listening = Listening { sender, broken: CancellationToken::new() };
        self.listening.lock().insert(host, listening);
        SimListener { incoming: Arc::new(tokio::sync::Mutex::new(incoming)), host }
    }

    pub fn unlisten(&self, host: i32) {
        if let Some(listening) = self.listening.lock().remove(&host) {
            listening.broken.cancel();
        }
    }

    /// Breaks every connection of a broker, which goes on.
    pub fn reset(&self, host: i32) {
        if let Some(listening) = self.listening.lock().get_mut(&host) {
            std::mem::take(&mut listening.broken).cancel();
        }
    }

    /// Connects a client. To be called on the services' machine.
    pub async fn connect(&self, name: &str, client: u32) -> io::Result<DuplexStream> {
        let host = host_of(name).ok_or(io::ErrorKind::AddrNotAvailable)?;
        sleep(self.faults.latency(LATENCY_MS.0, LATENCY_MS.1)).await;
        self.faults.audible(host).await;
        let (near, far) = (duplex(BUFFER_BYTES), duplex(BUFFER_BYTES));
        let broken = {
            let mut listening = self.listening.lock();
            let listening = listening.get_mut(&host).ok_or(io::ErrorKind::ConnectionRefused)?;
            let (input, output) = split(far.0);
            let peer = SocketAddr::from(([10, 0, (client >> 8) as u8, client as u8], 40_000));
            let accepted = Accepted { input, output, peer };
            listening.sender.send(accepted).map_err(|_| io::ErrorKind::ConnectionRefused)?;
            listening.broken.clone()
        };
        let ((client_in, client_out), (broker_in, broker_out)) = (split(near.1), split(far.1));
        self.carry((client_in, broker_out), host, broken.clone());
        self.carry((broker_in, client_out), host, broken);
        Ok(near.0)
    }

    /// Carries bytes one way until the connection ends.
    fn carry(&self, (mut from, mut to): Half, host: i32, broken: CancellationToken) {
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
                    faults.audible(host).await;
                    if to.write_all(&bytes).await.is_err() {
                        return;
                    }
                }
                // A silent peer does not hear that the other one has gone either.
                faults.audible(host).await;
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
    host: i32,
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
        Ok(SocketAddr::from(([10, 1, 0, self.host as u8], KAFKA_PORT)))
    }
}

/// How long a client tries to connect.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
