//! One connection: requests out, answers in, in order; several requests may be under way.

use std::collections::VecDeque;

use bytes::{BufMut, Bytes, BytesMut};
use kafka_protocol::messages::{RequestHeader, ResponseHeader};
use kafka_protocol::protocol::{Decodable, Encodable, HeaderVersion, Request};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

use super::{CallError, text};

#[derive(Debug)]
pub struct Connection {
    stream: DuplexStream,
    client: u32,
    next_id: i32,
    /// Correlation ids that were not answered yet.
    open: VecDeque<i32>,
    /// An exchange was given up in the middle, or failed.
    broken: bool,
}

impl Connection {
    pub fn new(stream: DuplexStream, client: u32) -> Connection {
        Connection { stream, client, next_id: 0, open: VecDeque::new(), broken: false }
    }

    pub fn is_broken(&self) -> bool {
        self.broken
    }

    pub async fn call<R: Request>(&mut self, request: &R, version: i16) -> Result<R::Response, CallError> {
        self.send(request, version).await?;
        self.receive::<R>(version).await
    }

    /// Sends a request. An error leaves open whether the broker has got it.
    pub async fn send<R: Request>(&mut self, request: &R, version: i16) -> Result<(), CallError> {
        let id = self.send_unanswered(request, version).await?;
        self.open.push_back(id);
        Ok(())
    }

    /// Sends a request that gets no answer.
    pub async fn send_unanswered<R: Request>(&mut self, request: &R, version: i16) -> Result<i32, CallError> {
        let id = self.next_id;
        self.next_id += 1;
        let mut frame = BytesMut::new();
        frame.put_i32(0);
        RequestHeader::default()
            .with_request_api_key(R::KEY)
            .with_request_api_version(version)
            .with_correlation_id(id)
            .with_client_id(Some(text(&format!("client-{}", self.client))))
            .encode(&mut frame, R::header_version(version))
            .and_then(|()| request.encode(&mut frame, version))
            .expect("a request of the simulation can be encoded");
        let size = frame.len() as i32 - 4;
        frame[..4].copy_from_slice(&size.to_be_bytes());
        // Until it is whole: whoever gives up in the middle leaves half a frame.
        self.broken = true;
        self.stream.write_all(&frame).await.map_err(|_| CallError::Unknown)?;
        self.broken = false;
        Ok(id)
    }

    /// The answer to the oldest request that is not answered.
    pub async fn receive<R: Request>(&mut self, version: i16) -> Result<R::Response, CallError> {
        self.broken = true;
        let mut frame = self.frame().await.map_err(|_| CallError::Unknown)?;
        self.broken = false;
        let header_version = <R::Response as HeaderVersion>::header_version(version);
        let header =
            ResponseHeader::decode(&mut frame, header_version).expect("a broker's header is well formed");
        assert_eq!(
            Some(header.correlation_id),
            self.open.pop_front(),
            "answers come in the order of requests"
        );
        let response = R::Response::decode(&mut frame, version).expect("a broker's answer is well formed");
        assert!(frame.is_empty(), "nothing follows an answer");
        Ok(response)
    }

    async fn frame(&mut self) -> std::io::Result<Bytes> {
        let size = self.stream.read_i32().await?;
        let mut frame = BytesMut::zeroed(size as usize);
        self.stream.read_exact(&mut frame).await?;
        Ok(frame.freeze())
    }
}
