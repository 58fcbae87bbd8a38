//! One connection to a Kafka broker: requests out, responses back, at versions that both sides know.
//!
//! The demo's client is an ordinary client: it speaks to the broker over TCP and has no other way in. It is as
//! small as a client can be: one request at a time, plain text.

use std::collections::HashMap;
use std::ops::RangeInclusive;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use kafka_protocol::ResponseError;
use kafka_protocol::messages::{ApiVersionsRequest, RequestHeader, ResponseHeader};
use kafka_protocol::protocol::{
    Decodable, HeaderVersion, Request, StrBytes, encode_request_header_into_buffer,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, ToSocketAddrs};

/// Longer than any answer that a healthy broker may hold back (a rebalance).
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
const FRAME_MAX_BYTES: usize = 64 << 20;

/// Why a call failed. `Refused` leaves the connection usable; after the others it is thrown away.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error("connection to the broker: {0}")]
    Io(#[from] std::io::Error),
    #[error("no answer to {0} in time")]
    Timeout(&'static str),
    #[error("the broker's answer makes no sense: {0}")]
    Protocol(String),
    #[error("{request} was refused: {error}")]
    Refused { request: &'static str, error: ResponseError },
}

impl ClientError {
    pub fn code(&self) -> Option<ResponseError> {
        match self {
            Self::Refused { error, .. } => Some(*error),
            Self::Io(_) | Self::Timeout(_) | Self::Protocol(_) => None,
        }
    }
}

/// Turns a Kafka error code into a result.
pub fn check(request: &'static str, code: i16) -> Result<(), ClientError> {
    match ResponseError::try_from_code(code) {
        None => Ok(()),
        Some(error) => Err(ClientError::Refused { request, error }),
    }
}

pub struct Connection {
    stream: TcpStream,
    client_id: StrBytes,
    next_correlation_id: i32,
    /// By API key: the highest version that the broker offers.
    offered: HashMap<i16, i16>,
}

impl Connection {
    pub async fn open(broker: impl ToSocketAddrs, client_id: &'static str) -> Result<Self, ClientError> {
        let connecting = tokio::time::timeout(ANSWER_TIMEOUT, TcpStream::connect(broker));
        let stream = connecting.await.map_err(|_| ClientError::Timeout("a connection"))??;
        stream.set_nodelay(true)?;
        let client_id = StrBytes::from_static_str(client_id);
        let mut connection = Self { stream, client_id, next_correlation_id: 0, offered: HashMap::new() };
        let request = ApiVersionsRequest::default()
            .with_client_software_name(StrBytes::from_static_str("kafscale-demo"))
            .with_client_software_version(StrBytes::from_static_str(env!("CARGO_PKG_VERSION")));
        let answer = connection.call_at("ApiVersions", request, 3).await?;
        check("ApiVersions", answer.error_code)?;
        connection.offered = answer.api_keys.iter().map(|api| (api.api_key, api.max_version)).collect();
        Ok(connection)
    }

    /// Sends a request at the highest version that the broker offers within `versions`, and waits for its answer.
    pub async fn call<R: Request>(
        &mut self,
        name: &'static str,
        request: R,
        versions: RangeInclusive<i16>,
    ) -> Result<R::Response, ClientError> {
        let offered = self.offered.get(&R::KEY).copied().unwrap_or(-1);
        let version = offered.min(*versions.end());
        if version < *versions.start() {
            return Err(ClientError::Refused { request: name, error: ResponseError::UnsupportedVersion });
        }
        self.call_at(name, request, version).await
    }

    async fn call_at<R: Request>(
        &mut self,
        name: &'static str,
        request: R,
        version: i16,
    ) -> Result<R::Response, ClientError> {
        let exchange = async {
            let correlation_id = self.send(&request, version).await?;
            let frame = self.receive().await?;
            decode::<R::Response>(frame, version, correlation_id)
        };
        tokio::time::timeout(ANSWER_TIMEOUT, exchange).await.map_err(|_| ClientError::Timeout(name))?
    }

    async fn send<R: Request>(&mut self, request: &R, version: i16) -> Result<i32, ClientError> {
        let correlation_id = self.next_correlation_id;
        self.next_correlation_id = correlation_id.wrapping_add(1);
        let header = RequestHeader::default()
            .with_request_api_key(R::KEY)
            .with_request_api_version(version)
            .with_correlation_id(correlation_id)
            .with_client_id(Some(self.client_id.clone()));
        let mut frame = BytesMut::zeroed(4);
        encode_request_header_into_buffer(&mut frame, &header)
            .and_then(|()| request.encode(&mut frame, version))
            .map_err(|e| ClientError::Protocol(e.to_string()))?;
        let size = u32::try_from(frame.len() - 4).expect("requests of the demo are far below 4 GiB");
        frame[..4].copy_from_slice(&size.to_be_bytes());
        self.stream.write_all(&frame).await?;
        Ok(correlation_id)
    }

    async fn receive(&mut self) -> Result<Bytes, ClientError> {
        let size = self.stream.read_u32().await? as usize;
        if size > FRAME_MAX_BYTES {
            return Err(ClientError::Protocol(format!("a frame of {size} bytes")));
        }
        let mut frame = BytesMut::zeroed(size);
        self.stream.read_exact(&mut frame).await?;
        Ok(frame.freeze())
    }
}

fn decode<R: Decodable + HeaderVersion>(
    mut frame: Bytes,
    version: i16,
    correlation_id: i32,
) -> Result<R, ClientError> {
    let malformed = |e: &dyn std::fmt::Display| ClientError::Protocol(e.to_string());
    let header = ResponseHeader::decode(&mut frame, R::header_version(version)).map_err(|e| malformed(&e))?;
    if header.correlation_id != correlation_id {
        return Err(ClientError::Protocol(format!(
            "answer {} instead of {correlation_id}",
            header.correlation_id
        )));
    }
    R::decode(&mut frame, version).map_err(|e| malformed(&e))
}
