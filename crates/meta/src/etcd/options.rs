//! How to reach an etcd cluster: what its address leaves open. Read from files once, when the store is opened.

use std::{
    fmt,
    path::{Path, PathBuf},
    time::Duration,
};

use tonic::transport::{Certificate, ClientTlsConfig, Identity};

use crate::{Error, Result, files, url::EtcdUrl};

/// How long one attempt to connect to a member may take.
pub const DEFAULT_CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a request may take, with all of its attempts.
pub const DEFAULT_REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// More is no certificate.
const MAX_PEM_BYTES: u64 = 1 << 20;

/// Options of [`crate::EtcdStore`].
#[derive(Clone, Debug)]
pub struct EtcdOptions {
    /// For a cluster with authentication enabled.
    pub credentials: Option<Credentials>,
    /// For an address that begins with `etcds://`.
    pub tls: TlsOptions,
    pub connect_timeout: Duration,
    pub request_timeout: Duration,
}

impl Default for EtcdOptions {
    fn default() -> Self {
        Self {
            credentials: None,
            tls: TlsOptions::default(),
            connect_timeout: DEFAULT_CONNECT_TIMEOUT,
            request_timeout: DEFAULT_REQUEST_TIMEOUT,
        }
    }
}

/// A user of etcd.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    pub username: String,
    pub password: String,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("username", &self.username).finish_non_exhaustive()
    }
}

/// PEM files for TLS.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsOptions {
    /// The authorities that sign the members' certificates; the system's if there is none.
    pub ca_file: Option<PathBuf>,
    /// The certificate with which this client proves who it is, and its key.
    pub identity: Option<(PathBuf, PathBuf)>,
}

impl TlsOptions {
    /// Reads the files. `None` for an address without TLS, for which no file must be given: it would look protected.
    pub(super) async fn load(&self, url: &EtcdUrl) -> Result<Option<ClientTlsConfig>> {
        if !url.tls {
            if *self == Self::default() {
                return Ok(None);
            }
            return Err(Error::invalid(format!(
                "{url} is an address without TLS, but TLS files were given: write etcds:// for TLS"
            )));
        }
        let mut config = ClientTlsConfig::new();
        config = match &self.ca_file {
            Some(file) => config.ca_certificate(Certificate::from_pem(read(file).await?)),
            None => config.with_native_roots(),
        };
        if let Some((certificate, key)) = &self.identity {
            config = config.identity(Identity::from_pem(read(certificate).await?, read(key).await?));
        }
        Ok(Some(config))
    }
}

async fn read(file: &Path) -> Result<Vec<u8>> {
    let read = {
        let file = file.to_owned();
        tokio::task::spawn_blocking(move || files::read_small(&file, MAX_PEM_BYTES)).await
    };
    match read {
        Ok(Ok(pem)) => Ok(pem),
        Ok(Err(error)) => Err(Error::invalid(format!("the TLS file {}: {error}", file.display()))),
        Err(error) => Err(Error::invalid(format!("the TLS file {}: {error}", file.display()))),
    }
}
