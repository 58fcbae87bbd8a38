//! One HTTP GET with a limit on the time and on the size of the answer. A connection per request: a scrape every few
//! seconds, and keys of an issuer every few minutes, do not need more.
//!
//! Invariant: redirects are not followed: a server that is asked cannot make this one ask others.

use std::fmt;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, LengthLimitError, Limited};
use hyper::header::{ACCEPT, HOST, USER_AGENT};
use hyper::{Request, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::tls::{self, TlsError};

/// Something could not be found out, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unavailable {
    why: Arc<str>,
    refused: bool,
}

impl Unavailable {
    pub fn new(why: impl Into<String>) -> Self {
        Self { why: Arc::from(why.into()), refused: false }
    }

    fn connecting(error: &std::io::Error) -> Self {
        let refused = error.kind() == std::io::ErrorKind::ConnectionRefused;
        Self { refused, ..Self::new(format!("cannot connect: {error}")) }
    }

    /// Whether the host is there, and nobody listens at the address.
    pub fn is_refused(&self) -> bool {
        self.refused
    }
}

impl fmt::Display for Unavailable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.why)
    }
}

impl std::error::Error for Unavailable {}

/// What is asked for, and how much of it is taken.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub timeout: Duration,
    pub max_bytes: usize,
}

/// See the file's comment. Clones share what they trust.
#[derive(Clone, Default)]
pub struct HttpClient {
    /// Loaded when the first `https` address is asked: reading the system's authorities takes a while.
    tls: Arc<OnceLock<Result<Arc<ClientConfig>, TlsError>>>,
}

impl fmt::Debug for HttpClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HttpClient")
    }
}

impl HttpClient {
    /// Trusts the authorities in a file, or those of the system.
    pub fn new(ca_file: Option<&Path>) -> Result<Self, TlsError> {
        let client = Self::default();
        if let Some(file) = ca_file {
            let trusted = tls::client_config(Some(file))?;
            let _ = client.tls.set(Ok(trusted));
        }
        Ok(client)
    }

    /// Fetches `http://host[:port]/path`, or `https://`. Anything but success is an error.
    pub async fn get(&self, uri: &Uri, accept: &str, limits: Limits) -> Result<Bytes, Unavailable> {
        let (status, body) = self.fetch(uri, accept, limits).await?;
        match status.is_success() {
            true => Ok(body),
            false => Err(Unavailable::new(format!("answered {status}"))),
        }
    }

    /// The same, for a caller who can do something with a failure. The body is empty then.
    pub async fn fetch(
        &self,
        uri: &Uri,
        accept: &str,
        limits: Limits,
    ) -> Result<(StatusCode, Bytes), Unavailable> {
        match tokio::time::timeout(limits.timeout, self.request(uri, accept, limits.max_bytes)).await {
            Ok(answer) => answer,
            Err(_) => {
                let ms = limits.timeout.as_millis();
                Err(Unavailable::new(format!("no complete answer within {ms} ms")))
            }
        }
    }

    async fn request(
        &self,
        uri: &Uri,
        accept: &str,
        max_bytes: usize,
    ) -> Result<(StatusCode, Bytes), Unavailable> {
        let authority = uri.authority().ok_or_else(|| Unavailable::new("the address has no host"))?;
        let is_https = uri.scheme_str() == Some("https");
        let host = authority.host().trim_matches(['[', ']']);
        let port = authority.port_u16().unwrap_or(if is_https { 443 } else { 80 });
        let stream = TcpStream::connect((host, port)).await.map_err(|e| Unavailable::connecting(&e))?;
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        let request = Request::get(path)
            .header(HOST, authority.as_str())
            .header(ACCEPT, accept)
            .header(USER_AGENT, concat!("kafscale/", env!("CARGO_PKG_VERSION")))
            .body(Empty::<Bytes>::new())
            .map_err(|e| Unavailable::new(format!("the address is not usable: {e}")))?;
        if !is_https {
            return exchange(stream, request, max_bytes).await;
        }
        let name = ServerName::try_from(host.to_owned())
            .map_err(|e| Unavailable::new(format!("the address is not usable: {e}")))?;
        let tls = TlsConnector::from(self.trusted()?).connect(name, stream).await;
        exchange(tls.map_err(|e| Unavailable::new(format!("TLS failed: {e}")))?, request, max_bytes).await
    }

    fn trusted(&self) -> Result<Arc<ClientConfig>, Unavailable> {
        let trusted = self.tls.get_or_init(|| tls::client_config(None));
        trusted.clone().map_err(|e| Unavailable::new(e.to_string()))
    }
}

async fn exchange<S>(
    stream: S,
    request: Request<Empty<Bytes>>,
    max_bytes: usize,
) -> Result<(StatusCode, Bytes), Unavailable>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let failed = |e: hyper::Error| Unavailable::new(format!("HTTP failed: {e}"));
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(failed)?;
    let exchange = async {
        let response = sender.send_request(request).await.map_err(failed)?;
        let status = response.status();
        if !status.is_success() {
            return Ok((status, Bytes::new()));
        }
        let body =
            Limited::new(response.into_body(), max_bytes).collect().await.map_err(|e| match e
                .downcast_ref::<LengthLimitError>()
            {
                Some(_) => Unavailable::new(format!("the answer is larger than {max_bytes} bytes")),
                None => Unavailable::new(format!("the answer broke off: {e}")),
            })?;
        Ok((status, body.to_bytes()))
    };
    tokio::pin!(connection, exchange);
    // The connection does the IO that the exchange waits for; it ends by itself only when the server hangs up.
    tokio::select! {
        answer = &mut exchange => answer,
        ended = &mut connection => match ended {
            Ok(()) => exchange.await,
            Err(e) => Err(failed(e)),
        },
    }
}
