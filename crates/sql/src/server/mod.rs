//! The server for clients of PostgreSQL: connections, each with its own session ([`handler`]).
//!
//! The protocol itself is the crate `pgwire`'s. Here are its ends: who may connect ([`startup`], [`scram`], [`users`], [`tls`]), what a
//! statement is answered with ([`handler`], [`session`]), and in which form ([`rows`], [`parameters`]). A statement ends when its client
//! asks for that, when its time is over, and when its client is gone ([`stop`]).

mod arrays;
mod bodies;
mod commands;
mod copy;
mod cursors;
mod handler;
mod held;
mod inferred;
mod messages;
mod nul;
mod numeric;
mod parameters;
mod rows;
mod scram;
mod sending;
pub mod session;
mod startup;
mod statements;
mod stop;
pub mod text;
mod tls;
mod transactions;
mod users;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use kafscale_settings::failure::Failure;
use kafscale_settings::refusals::cannot_listen;
use kafscale_settings::sql::ServerArgs;
use pgwire::api::ConnectionManager;
use pgwire::tokio::TlsAcceptor;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::audit::Audit;
use crate::engine::Engine;
use handler::Connection;
use users::Users;

/// After a connection could not be accepted.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);
/// Connections that are refused at the same time with a reason; more are closed without.
const MOST_REFUSALS: usize = 64;
const REFUSAL_TIME: Duration = Duration::from_secs(2);
/// What a client may ask before it begins, and how long its beginning may be (the protocol's chapter on message formats).
const SSL_REQUEST: u32 = 80_877_103;
const GSSENC_REQUEST: u32 = 80_877_104;
const MOST_STARTUP_BYTES: u64 = 10_000;
/// What the server says it is, for clients that ask for features by version.
pub const SERVER_VERSION: &str = "15.8";

/// The settings of a session that nobody has changed.
pub fn default_session() -> session::Session {
    session::Session::default()
}

/// What all connections share.
pub struct Shared {
    pub engine: Arc<Engine>,
    pub users: Option<Arc<Users>>,
    pub cancels: Arc<ConnectionManager>,
    pub audit: Option<Arc<Audit>>,
}

/// A server that listens.
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
    tls: Option<TlsAcceptor>,
    shared: Arc<Shared>,
    places: Arc<Semaphore>,
}

/// How TLS is served, if it is.
pub fn tls_acceptor(args: &ServerArgs) -> Result<Option<TlsAcceptor>, Failure> {
    match (&args.tls_cert_file, &args.tls_key_file) {
        (Some(cert), Some(key)) => {
            Ok(Some(tls::acceptor(cert, key).map_err(|e| Failure::usage(e.to_string()))?))
        }
        _ => Ok(None),
    }
}

impl Server {
    pub async fn bind(
        args: &ServerArgs,
        engine: Arc<Engine>,
        audit: Option<Arc<Audit>>,
    ) -> Result<Server, Failure> {
        let failed = |e: io::Error| Failure::runtime(cannot_listen(args.listen.0, &e, "--listen"));
        let users = args.users_file.as_deref().map(Users::load).transpose();
        let users = users.map_err(|e| Failure::usage(e.to_string()))?;
        let tls = tls_acceptor(args)?;
        let listener = TcpListener::bind(args.listen.0).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let places = Arc::new(Semaphore::new(usize::try_from(args.max_connections).unwrap_or(usize::MAX)));
        let (users, cancels) = (users.map(Arc::new), Arc::new(ConnectionManager::new()));
        let shared = Arc::new(Shared { engine, users, cancels, audit });
        Ok(Server { listener, address, tls, shared, places })
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until it is dropped; then all connections end.
    pub async fn serve(self) {
        let mut connections = JoinSet::new();
        let refusals = Arc::new(Semaphore::new(MOST_REFUSALS));
        loop {
            while connections.try_join_next().is_some() {}
            match self.listener.accept().await {
                Ok((stream, peer)) => {
                    let Ok(place) = Arc::clone(&self.places).try_acquire_owned() else {
                        if let Ok(place) = Arc::clone(&refusals).try_acquire_owned() {
                            connections.spawn(async move {
                                let _place = place;
                                refuse(stream).await;
                            });
                        }
                        continue;
                    };
                    let (shared, tls) = (Arc::clone(&self.shared), self.tls.clone());
                    connections.spawn(async move {
                        let _place = place;
                        if let Err(error) = serve(stream, peer, tls, shared).await {
                            tracing::debug!(%peer, %error, "a connection broke off");
                        }
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "a client could not connect");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
}

async fn serve(
    stream: TcpStream,
    peer: SocketAddr,
    tls: Option<TlsAcceptor>,
    shared: Arc<Shared>,
) -> io::Result<()> {
    let connection = Arc::new(Connection::new(&shared, peer, stop::Socket::of(&stream)?));
    messages::process(stream, tls, connection).await
}

/// Says why, once the client has said who it is: earlier it would not understand.
async fn refuse(mut stream: TcpStream) {
    let said = async {
        // It may ask for TLS first, and for GSSAPI.
        for _ in 0..3 {
            let (length, code) = (stream.read_u32().await?, stream.read_u32().await?);
            if [SSL_REQUEST, GSSENC_REQUEST].contains(&code) {
                stream.write_all(b"N").await?;
                continue;
            }
            let rest = u64::from(length.saturating_sub(8)).min(MOST_STARTUP_BYTES);
            tokio::io::copy(&mut (&mut stream).take(rest), &mut tokio::io::sink()).await?;
            break;
        }
        let fields = b"SFATAL\0VFATAL\0C53300\0Mtoo many connections (--max-connections)\0\0";
        let length = u32::try_from(fields.len() + 4).expect("it is short").to_be_bytes();
        stream.write_all(&[&b"E"[..], &length, fields].concat()).await?;
        stream.shutdown().await
    };
    let _: Result<io::Result<()>, _> = tokio::time::timeout(REFUSAL_TIME, said).await;
}
