//! How a server is reached: its limits in time and connections, TLS, and a pool of connections.
//! Common to all kinds of servers.
//!
//! Invariants: TLS verifies the server's certificate and its name; off loopback nothing is sent
//! without TLS unless the configuration says so. No more connections are open than the
//! configuration allows, those included that are being ended, but for the moment in which one says
//! so.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kafscale_meta::files::read_small;
use kafscale_settings::units::Span;
use parking_lot::Mutex;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore};
use serde::{Deserialize, Deserializer, de};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

const MAX_CA_BYTES: u64 = 4 << 20;
/// A connection that nobody used for so long is closed.
const IDLE_MAX: Duration = Duration::from_secs(300);

/// Settings of each kind of server, beside those of its own.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// For a new connection: address, TLS and login.
    pub connect: Duration,
    /// For each answer of the source, and for a place among its connections.
    pub answer: Duration,
    /// So old may be what is known of its tables.
    pub refresh: Duration,
    pub connections: usize,
}

pub const CONNECT_DEFAULT: Duration = Duration::from_secs(5);
pub const ANSWER_DEFAULT: Duration = Duration::from_secs(30);
pub const REFRESH_DEFAULT: Duration = Duration::from_secs(60);
pub const CONNECTIONS_DEFAULT: usize = 8;
const CONNECTIONS_MAX: usize = 1_000;

/// A time as people write it: `500ms`, `30s`. Zero is none.
pub fn span<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    let text = String::deserialize(deserializer)?;
    let Span(span) = Span::from_str(&text).map_err(de::Error::custom)?;
    match span.is_zero() {
        true => Err(de::Error::custom("a time above zero is needed")),
        false => Ok(Some(span)),
    }
}

/// The number of connections of a pool.
pub fn connections<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<usize>, D::Error> {
    let count = usize::deserialize(deserializer)?;
    match (1..=CONNECTIONS_MAX).contains(&count) {
        true => Ok(Some(count)),
        false => Err(de::Error::custom(format!("between 1 and {CONNECTIONS_MAX} connections are possible"))),
    }
}

/// How the configuration writes what is told apart as [`Security`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Tls {
    /// The certificate must be of an authority that is trusted, and of the host.
    VerifyFull,
    Off,
}

/// Whether a connection is encrypted, and whom it trusts.
#[derive(Debug, Clone)]
pub enum Security {
    Plain,
    Tls(Arc<ClientConfig>),
}

#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("the authorities in {} cannot be read", path.display())]
    Unreadable { path: PathBuf, source: std::io::Error },
    #[error("{} holds no certificate that can be used", path.display())]
    NoCertificate { path: PathBuf },
    #[error("the system trusts no authority; name one by `tls_ca_file`")]
    NoAuthorities,
    #[error("no version of TLS is possible")]
    Versions(#[source] rustls::Error),
}

impl Security {
    /// `base` is the directory of the configuration.
    pub fn of(
        host: &str,
        tls: Option<Tls>,
        ca_file: Option<&Path>,
        base: &Path,
    ) -> Result<Security, TlsError> {
        let wanted = match tls {
            Some(tls) => tls,
            None if ca_file.is_none() && is_local(host) => Tls::Off,
            None => Tls::VerifyFull,
        };
        match wanted {
            Tls::Off => Ok(Security::Plain),
            Tls::VerifyFull => Ok(Security::Tls(client_config(ca_file.map(|path| base.join(path)))?)),
        }
    }
}

/// Whether nothing that is sent there leaves the machine.
pub fn is_local(host: &str) -> bool {
    let address = host.trim_start_matches('[').trim_end_matches(']');
    host.starts_with('/') || host == "localhost" || address.parse().is_ok_and(|ip: IpAddr| ip.is_loopback())
}

fn client_config(ca_file: Option<PathBuf>) -> Result<Arc<ClientConfig>, TlsError> {
    let mut roots = RootCertStore::empty();
    match ca_file {
        Some(path) => {
            let unreadable = |source| TlsError::Unreadable { path: path.clone(), source };
            let pem = read_small(&path, MAX_CA_BYTES).map_err(unreadable)?;
            for certificate in CertificateDer::pem_slice_iter(&pem) {
                let added = certificate.ok().and_then(|certificate| roots.add(certificate).ok());
                added.ok_or_else(|| TlsError::NoCertificate { path: path.clone() })?;
            }
            if roots.is_empty() {
                return Err(TlsError::NoCertificate { path });
            }
        }
        // Some of the system's may be unreadable; whoever they vouch for is then refused.
        None => _ = roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs),
    }
    if roots.is_empty() {
        return Err(TlsError::NoAuthorities);
    }
    let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(TlsError::Versions)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(config))
}

/// Connections that wait for their next use, and places for so many as there may be.
#[derive(Debug)]
pub struct Pool<C> {
    places: Arc<Semaphore>,
    idle: Mutex<Vec<(C, Instant)>>,
}

/// A place in the pool, and the connection that was left there.
#[derive(Debug)]
pub struct Place<C> {
    pub permit: OwnedSemaphorePermit,
    pub idle: Option<C>,
}

impl<C> Pool<C> {
    pub fn new(size: usize) -> Pool<C> {
        Pool { places: Arc::new(Semaphore::new(size)), idle: Mutex::default() }
    }

    /// None: all were taken for so long.
    pub async fn place(&self, limit: Duration) -> Option<Place<C>> {
        let permit = tokio::time::timeout(limit, Arc::clone(&self.places).acquire_owned()).await.ok()?;
        let permit = permit.expect("it is never closed");
        let mut idle = self.idle.lock();
        idle.retain(|(_, since)| since.elapsed() < IDLE_MAX);
        Some(Place { permit, idle: idle.pop().map(|(connection, _)| connection) })
    }

    pub fn put_back(&self, connection: C, permit: OwnedSemaphorePermit) {
        self.idle.lock().push((connection, Instant::now()));
        drop(permit);
    }
}

/// What is known of a source for a while. Whoever asks first after that asks the source, and the
/// others wait for its answer.
#[derive(Debug)]
pub struct Known<T> {
    age_max: Duration,
    found: tokio::sync::Mutex<Option<(Instant, T)>>,
}

impl<T: Clone> Known<T> {
    pub fn new(age_max: Duration) -> Known<T> {
        Known { age_max, found: tokio::sync::Mutex::default() }
    }

    pub async fn get<E>(&self, find: impl Future<Output = Result<T, E>>) -> Result<T, E> {
        let mut found = self.found.lock().await;
        if let Some((at, known)) = &*found
            && at.elapsed() < self.age_max
        {
            return Ok(known.clone());
        }
        let fresh = find.await?;
        *found = Some((Instant::now(), fresh.clone()));
        Ok(fresh)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_stays_on_the_machine_is_plain_by_itself() {
        let base = Path::new("/nowhere");
        for host in ["localhost", "127.0.0.1", "127.1.2.3", "::1", "[::1]", "/run/postgresql"] {
            assert!(matches!(Security::of(host, None, None, base), Ok(Security::Plain)), "{host}");
        }
        for host in ["db.example", "10.0.0.1", "localhost.example", "0.0.0.0", "fe80::1"] {
            let of_ca = Security::of(host, None, Some(Path::new("ca.pem")), base);
            assert!(matches!(of_ca, Err(TlsError::Unreadable { .. })), "{host}");
            assert!(!matches!(Security::of(host, None, None, base), Ok(Security::Plain)), "{host}");
            assert!(matches!(Security::of(host, Some(Tls::Off), None, base), Ok(Security::Plain)), "{host}");
        }
    }

    #[tokio::test]
    async fn a_pool_gives_no_more_places_than_it_has() {
        let pool = Pool::new(1);
        let place = pool.place(Duration::from_secs(1)).await.expect("the first");
        assert!(place.idle.is_none());
        assert!(pool.place(Duration::from_millis(1)).await.is_none());
        pool.put_back("connection", place.permit);
        assert_eq!(pool.place(Duration::from_secs(1)).await.and_then(|place| place.idle), Some("connection"));
    }

    #[tokio::test]
    async fn what_is_known_is_not_asked_for_again() {
        let known = Known::new(Duration::from_secs(60));
        assert_eq!(known.get(async { Err::<i32, _>("down") }).await, Err("down"));
        assert_eq!(known.get(async { Ok::<_, &str>(1) }).await, Ok(1));
        assert_eq!(known.get(async { Ok::<_, &str>(2) }).await, Ok(1));
    }
}
