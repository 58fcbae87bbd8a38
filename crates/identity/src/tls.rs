//! TLS: the certificate that the listener shows, followed while its files change, and whom this server trusts when it asks
//! others.
//!
//! Invariant: a certificate and a key that do not belong together are never served; connections that are open keep the
//! certificate that they began with.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use kafscale_meta::files::read_small;
use parking_lot::Mutex;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use sha2::{Digest as _, Sha256};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use crate::follow::follow;

/// More is no certificate.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// Why TLS cannot be had.
#[derive(Clone, Debug, thiserror::Error)]
pub enum TlsError {
    #[error("{}: {error}", path.display())]
    Unreadable { path: PathBuf, error: Arc<std::io::Error> },
    #[error("{} holds no certificate in PEM form", path.display())]
    NoCertificate { path: PathBuf },
    #[error("{} holds no private key in PEM form", path.display())]
    NoKey { path: PathBuf },
    #[error("the certificate in {} cannot be served with the key in {}: {error}", cert.display(), key.display())]
    Unusable { cert: PathBuf, key: PathBuf, error: rustls::Error },
    #[error("the authorities in {} cannot be used: {error}", path.display())]
    Authority { path: PathBuf, error: rustls::Error },
    #[error(
        "the system has no certificate authorities; name a file of them in the settings (such as --mcp-ca-file)"
    )]
    NoAuthorities,
    #[error("TLS: {0}")]
    Provider(rustls::Error),
}

/// What the listener shows.
#[derive(Debug)]
pub struct ServerTls {
    cert: PathBuf,
    key: PathBuf,
    current: Mutex<Loaded>,
}

#[derive(Debug)]
struct Loaded {
    config: Arc<ServerConfig>,
    /// Of both files.
    digest: [u8; 32],
}

impl ServerTls {
    pub fn load(cert: &Path, key: &Path) -> Result<Self, TlsError> {
        let current = Mutex::new(Loaded::read(cert, key)?);
        Ok(Self { cert: cert.to_owned(), key: key.to_owned(), current })
    }

    /// For a connection that begins now.
    pub fn acceptor(&self) -> TlsAcceptor {
        Arc::clone(&self.current.lock().config).into()
    }

    /// Follows both files until `stop`.
    pub async fn follow(&self, stop: CancellationToken) {
        let (cert, key) = (self.cert.clone(), self.key.clone());
        let read = move || Loaded::read(&cert, &key);
        follow("the TLS certificate", stop, read, |read| {
            let mut current = self.current.lock();
            let is_new = read.digest != current.digest;
            if is_new {
                *current = read;
            }
            is_new
        })
        .await;
    }
}

impl Loaded {
    fn read(cert: &Path, key: &Path) -> Result<Self, TlsError> {
        let (cert_pem, key_pem) = (read(cert)?, read(key)?);
        let chain = certificates(cert, &cert_pem)?;
        let no_key = |_| TlsError::NoKey { path: key.to_owned() };
        let private = PrivateKeyDer::from_pem_slice(&key_pem).map_err(no_key)?;
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(TlsError::Provider)?
            .with_no_client_auth()
            .with_single_cert(chain, private)
            .map_err(|error| TlsError::Unusable { cert: cert.to_owned(), key: key.to_owned(), error })?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        let digest =
            Sha256::new().chain_update(&cert_pem).chain_update([0_u8]).chain_update(&key_pem).finalize();
        Ok(Self { config: Arc::new(config), digest: digest.into() })
    }
}

/// What a client trusts: the authorities in a file, or those of the system.
pub fn client_config(ca_file: Option<&Path>) -> Result<Arc<ClientConfig>, TlsError> {
    let mut roots = RootCertStore::empty();
    match ca_file {
        Some(path) => {
            for certificate in certificates(path, &read(path)?)? {
                roots
                    .add(certificate)
                    .map_err(|error| TlsError::Authority { path: path.to_owned(), error })?;
            }
        }
        None => {
            // Some of the system's may be unreadable; whoever they vouch for is then refused.
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
    }
    if roots.is_empty() {
        return Err(TlsError::NoAuthorities);
    }
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(TlsError::Provider)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    read_small(path, MAX_FILE_BYTES)
        .map_err(|error| TlsError::Unreadable { path: path.to_owned(), error: Arc::new(error) })
}

fn certificates(path: &Path, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let none = || TlsError::NoCertificate { path: path.to_owned() };
    let chain: Vec<_> = CertificateDer::pem_slice_iter(pem).collect::<Result<_, _>>().map_err(|_| none())?;
    if chain.is_empty() { Err(none()) } else { Ok(chain) }
}
