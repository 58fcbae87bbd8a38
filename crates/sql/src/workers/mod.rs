//! More than one machine: plans of large queries are divided, and their parts done by workers (ADR 0037).
//!
//! [`spread`] decides which plans go to workers and has datafusion-distributed divide them, [`exec`] is such a plan as
//! one step, and [`codec`] makes bytes of its parts, with their [`topics`]. A worker is reached over [`channel`], which
//! begins with a [`handshake`] and speaks in [`frames`] and the words of [`wire`]; rows go as [`batches`]. [`server`] is
//! the worker, which has [`tasks`], each a [`task`].
//!
//! Invariant: who has planned a query has taken its snapshot; workers read these ranges of these topics and nothing else.
//!
//! Invariant: rows are never missing in silence. A stream that does not say that it is complete ends the query with an
//! error (08006).

mod batches;
pub mod channel;
mod codec;
mod exec;
mod frames;
pub mod handshake;
pub mod server;
pub mod spread;
pub mod task;
mod tasks;
mod topics;
mod wire;

use std::path::Path;
use std::sync::Arc;

use kafscale_meta::files::read_small;
use kafscale_meta::records::{Record as _, StoreRecord};
use kafscale_settings::failure::Failure;
use kafscale_settings::sql::WorkerSettings;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore};
use tokio_rustls::TlsConnector;
use url::Url;

use self::channel::Peers;
use self::handshake::Identity;
use self::spread::Workers;
use crate::catalog::Cluster;

/// More is no certificate.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// How this process knows workers, and they it.
pub async fn peers(cluster: &Cluster, settings: &WorkerSettings) -> Result<Arc<Peers>, Failure> {
    let metadata = cluster.scanner.metadata();
    let key = metadata.keys().store();
    let failed = |e: kafscale_meta::Error| Failure::runtime(e.to_string());
    let record = metadata.store().get(&key).await.map_err(failed)?;
    let store = match record {
        Some(found) => StoreRecord::decode(&key, &found.value).map_err(failed)?.store_id,
        None => "a store without an id".to_owned(),
    };
    let identity = Identity::new(format!("{store} {}", metadata.keys().root()), settings.secret.as_deref());
    let tls = settings.ca_file.as_deref().map(connector).transpose()?;
    Ok(Arc::new(Peers { identity, tls }))
}

/// The workers of a server, if it has any.
pub async fn workers(cluster: &Cluster, settings: &WorkerSettings) -> Result<Option<Arc<Workers>>, Failure> {
    if settings.addresses.is_empty() {
        return Ok(None);
    }
    let url = |address: &String| {
        let url = Url::parse(&format!("tcp://{address}"));
        url.map_err(|e| Failure::usage(format!("--workers {address}: {e}")))
    };
    let addresses = settings.addresses.iter().map(url).collect::<Result<Vec<_>, _>>()?;
    let peers = peers(cluster, settings).await?;
    for (worker, why) in channel::reachable(&peers, &addresses).await.1 {
        let worker = channel::shown(&worker);
        tracing::warn!(worker, %why, "a worker cannot be used now; it is tried again for each large query");
    }
    Ok(Some(Arc::new(Workers { addresses, peers, min_bytes: settings.min_bytes })))
}

/// Trusts the authorities of a file and no others.
fn connector(file: &Path) -> Result<TlsConnector, Failure> {
    let failed = |why: String| Failure::usage(format!("--workers-ca-file {}: {why}", file.display()));
    let pem = read_small(file, MAX_FILE_BYTES).map_err(|e| failed(e.to_string()))?;
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        let certificate = certificate.map_err(|e| failed(e.to_string()))?;
        roots.add(certificate).map_err(|e| failed(e.to_string()))?;
    }
    if roots.is_empty() {
        return Err(failed("it holds no certificate in PEM form".to_owned()));
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| failed(e.to_string()))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}
