//! Connections to a Kafka broker over plain TCP: frames out as they are given, frames in without a copy.
//!
//! A client of this crate must cost far less than the broker that it measures. So requests that are sent often are encoded
//! once, sent as bytes, and answered in order on their connection; correlation ids are therefore all the same. Everything else goes
//! through [`Connection::call`].

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use bytes::{Bytes, BytesMut};
use kafka_protocol::ResponseError;
use kafka_protocol::messages::{ApiVersionsRequest, RequestHeader, ResponseHeader};
use kafka_protocol::protocol::{
    Decodable, HeaderVersion, Request, StrBytes, encode_request_header_into_buffer,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};

const FRAME_MAX_BYTES: usize = 256 << 20;
const READ_BYTES: usize = 64 << 10;
const ANSWER_TIMEOUT: Duration = Duration::from_secs(120);

/// The highest version of each request that is spoken. None of these is flexible or knows topic ids: old brokers, new ones and
/// rivals all take them, and they are the cheapest to read.
fn spoken(key: i16) -> i16 {
    const SPOKEN: [(i16, i16); 11] =
        [(0, 7), (1, 11), (2, 5), (3, 8), (8, 7), (10, 2), (11, 5), (12, 3), (14, 3), (19, 4), (37, 1)];
    SPOKEN.iter().find(|(api, _)| *api == key).map_or(0, |(_, version)| *version)
}

/// The versions that a broker offers, by API key.
#[derive(Debug, Clone)]
pub struct Versions(Arc<HashMap<i16, (i16, i16)>>);

impl Versions {
    /// The version to speak of `R`.
    pub fn of<R: Request>(&self) -> Result<i16> {
        let (least, most) =
            self.0.get(&R::KEY).copied().context(format!("API key {} is not offered", R::KEY))?;
        let version = most.min(spoken(R::KEY));
        ensure!(version >= least, "API key {}: offered from version {least}, spoken up to {version}", R::KEY);
        Ok(version)
    }
}

/// A request as it goes over the wire, its size in front.
pub fn encode<R: Request>(request: &R, version: i16) -> Result<Bytes> {
    let header = RequestHeader::default()
        .with_request_api_key(R::KEY)
        .with_request_api_version(version)
        .with_client_id(Some(StrBytes::from_static_str("kafscale-bench")));
    let mut frame = BytesMut::zeroed(4);
    encode_request_header_into_buffer(&mut frame, &header)?;
    request.encode(&mut frame, version)?;
    let size = u32::try_from(frame.len() - 4).context("a request of 4 GiB")?;
    frame[..4].copy_from_slice(&size.to_be_bytes());
    Ok(frame.freeze())
}

/// The response in a frame.
pub fn decode<R: Decodable + HeaderVersion>(mut frame: Bytes, version: i16) -> Result<R> {
    ResponseHeader::decode(&mut frame, R::header_version(version))?;
    R::decode(&mut frame, version)
}

/// An error code as a result.
pub fn check(code: i16) -> Result<()> {
    match ResponseError::try_from_code(code) {
        None => Ok(()),
        Some(error) => bail!("the broker answers {error:?}"),
    }
}

/// The answers of a connection, one frame after the other.
#[derive(Debug)]
pub struct Frames {
    half: OwnedReadHalf,
    buffer: BytesMut,
}

impl Frames {
    /// The next frame without its size. Its memory is used again once the frame is dropped.
    pub async fn next(&mut self) -> Result<Bytes> {
        self.fill(4).await?;
        let size = u32::from_be_bytes(self.buffer[..4].try_into()?) as usize;
        ensure!(size <= FRAME_MAX_BYTES, "a frame of {size} bytes");
        self.fill(4 + size).await?;
        let mut frame = self.buffer.split_to(4 + size).freeze();
        Ok(frame.split_off(4))
    }

    async fn fill(&mut self, size: usize) -> Result<()> {
        while self.buffer.len() < size {
            self.buffer.reserve((size - self.buffer.len()).max(READ_BYTES));
            ensure!(self.half.read_buf(&mut self.buffer).await? > 0, "the broker closed the connection");
        }
        Ok(())
    }
}

/// One connection; its halves may be used apart.
#[derive(Debug)]
pub struct Connection {
    pub writer: OwnedWriteHalf,
    pub frames: Frames,
    pub versions: Versions,
}

impl Connection {
    /// Connects and asks for the versions.
    pub async fn open(broker: &str) -> Result<Self> {
        let mut connection = Self::open_as(broker, Versions(Arc::default())).await?;
        let answer = connection.call_at(&ApiVersionsRequest::default(), 0).await?;
        check(answer.error_code)?;
        let offered = answer.api_keys.iter().map(|api| (api.api_key, (api.min_version, api.max_version)));
        connection.versions = Versions(Arc::new(offered.collect()));
        Ok(connection)
    }

    /// Connects to a broker whose versions are known.
    pub async fn open_as(broker: &str, versions: Versions) -> Result<Self> {
        let stream = TcpStream::connect(broker).await.context(format!("connecting to {broker}"))?;
        stream.set_nodelay(true)?;
        let (half, writer) = stream.into_split();
        Ok(Self { writer, frames: Frames { half, buffer: BytesMut::new() }, versions })
    }

    /// Sends a request and waits for its answer.
    pub async fn call<R: Request>(&mut self, request: &R) -> Result<R::Response> {
        let version = self.versions.of::<R>()?;
        self.call_at(request, version).await
    }

    async fn call_at<R: Request>(&mut self, request: &R, version: i16) -> Result<R::Response> {
        self.writer.write_all(&encode(request, version)?).await?;
        let frame = tokio::time::timeout(ANSWER_TIMEOUT, self.frames.next())
            .await
            .context(format!("no answer to API key {}", R::KEY))??;
        decode::<R::Response>(frame, version)
    }
}
