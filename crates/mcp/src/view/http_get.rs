//! One HTTP GET with a limit on the time and on the size of the answer. A connection per request: a scrape every few
//! seconds does not need more.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, LengthLimitError, Limited};
use hyper::header::{ACCEPT, HOST, USER_AGENT};
use hyper::{Request, Uri};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::Unavailable;

/// Fetches `uri`, which is plain `http://host[:port]/path`.
pub async fn get(uri: &Uri, timeout: Duration, max_bytes: usize) -> Result<Bytes, Unavailable> {
    match tokio::time::timeout(timeout, request(uri, max_bytes)).await {
        Ok(answer) => answer,
        Err(_) => Err(Unavailable::new(format!("no complete answer within {} ms", timeout.as_millis()))),
    }
}

async fn request(uri: &Uri, max_bytes: usize) -> Result<Bytes, Unavailable> {
    let authority = uri.authority().ok_or_else(|| Unavailable::new("the address has no host"))?;
    let address = (authority.host().trim_matches(['[', ']']), authority.port_u16().unwrap_or(80));
    let stream =
        TcpStream::connect(address).await.map_err(|e| Unavailable::new(format!("cannot connect: {e}")))?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|e| Unavailable::new(format!("HTTP failed: {e}")))?;
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let request = Request::get(path)
        .header(HOST, authority.as_str())
        .header(ACCEPT, "text/plain;version=0.0.4")
        .header(USER_AGENT, concat!("kafscale-mcp/", env!("CARGO_PKG_VERSION")))
        .body(Empty::<Bytes>::new())
        .map_err(|e| Unavailable::new(format!("the address is not usable: {e}")))?;
    let exchange = async {
        let response =
            sender.send_request(request).await.map_err(|e| Unavailable::new(format!("HTTP failed: {e}")))?;
        if !response.status().is_success() {
            return Err(Unavailable::new(format!("answered {}", response.status())));
        }
        let body =
            Limited::new(response.into_body(), max_bytes).collect().await.map_err(|e| match e
                .downcast_ref::<LengthLimitError>()
            {
                Some(_) => Unavailable::new(format!("the answer is larger than {max_bytes} bytes")),
                None => Unavailable::new(format!("the answer broke off: {e}")),
            })?;
        Ok(body.to_bytes())
    };
    tokio::pin!(connection, exchange);
    // The connection does the IO that the exchange waits for; it ends by itself only when the server hangs up.
    tokio::select! {
        answer = &mut exchange => answer,
        ended = &mut connection => match ended {
            Ok(()) => exchange.await,
            Err(e) => Err(Unavailable::new(format!("HTTP failed: {e}"))),
        },
    }
}
