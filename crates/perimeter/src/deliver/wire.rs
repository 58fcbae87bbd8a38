//! As much of Kafka's protocol as writing a batch takes: Metadata v4, InitProducerId v1 and Produce v7, which every broker since Apache
//! Kafka 1.0 answers, and none of which has tagged fields.
//!
//! Invariant: an answer is bounded before it is read, and a length in it is checked against what is there.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

const CLIENT_ID: &str = "kafscale-perimeter";
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
const ANSWER_MAX_BYTES: usize = 4 << 20;
/// Each is a topic, a partition or a broker.
const ITEMS_MAX: i32 = 100_000;
const PRODUCE: (i16, i16) = (0, 7);
const METADATA: (i16, i16) = (3, 4);
const INIT_PRODUCER_ID: (i16, i16) = (22, 1);

/// Why a broker did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    #[error("the connection to the broker: {0}")]
    Io(#[from] io::Error),
    #[error("the broker's answer makes no sense")]
    Answer,
    /// The code of Kafka's protocol.
    #[error("{request} was refused with error {code}")]
    Refused { request: &'static str, code: i16 },
}

impl WireError {
    /// Whether another try may succeed.
    pub fn is_retriable(&self) -> bool {
        match self {
            WireError::Io(_) => true,
            WireError::Answer => false,
            // Leaders and coordinators that move, and a disk or a network that does not answer in time.
            WireError::Refused { code, .. } => {
                matches!(code, 3 | 5 | 6 | 7 | 8 | 13 | 14 | 15 | 16 | 19 | 20 | 56 | 74 | 75)
            }
        }
    }
}

/// Who leads the partitions of a topic.
#[derive(Debug, PartialEq, Eq)]
pub struct Topic {
    /// By partition: the address of its leader, where there is one.
    pub leaders: Vec<Option<(String, u16)>>,
}

/// A producer's id, and its epoch.
#[derive(Debug, Clone, Copy)]
pub struct Producer {
    pub id: i64,
    pub epoch: i16,
}

#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    correlation_id: i32,
}

impl Connection {
    pub async fn open(address: (&str, u16)) -> Result<Connection, WireError> {
        let stream = tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(address)).await;
        let stream = stream.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
        stream.set_nodelay(true)?;
        Ok(Connection { stream, correlation_id: 0 })
    }

    /// Finds the leaders of a topic, which is not made where it is not there.
    pub async fn topic(&mut self, name: &str) -> Result<Topic, WireError> {
        let mut body = Vec::new();
        body.extend(1_i32.to_be_bytes());
        put_text(&mut body, name);
        body.push(0);
        let answer = self.call(METADATA, &body).await?;
        topic(&mut Reader(&answer)).ok_or(WireError::Answer)?
    }

    pub async fn producer(&mut self) -> Result<Producer, WireError> {
        let mut body = Vec::new();
        body.extend((-1_i16).to_be_bytes());
        body.extend(60_000_i32.to_be_bytes());
        let answer = self.call(INIT_PRODUCER_ID, &body).await?;
        let mut answer = Reader(&answer);
        let read = (|| {
            answer.i32()?;
            Some((answer.i16()?, answer.i64()?, answer.i16()?))
        })();
        let (code, id, epoch) = read.ok_or(WireError::Answer)?;
        check("InitProducerId", code)?;
        Ok(Producer { id, epoch })
    }

    /// Writes a batch to a partition that the broker leads, with acks=all, and gives its first offset. None: an earlier attempt had
    /// written it.
    pub async fn produce(
        &mut self,
        topic: &str,
        partition: i32,
        batch: &[u8],
    ) -> Result<Option<i64>, WireError> {
        let mut body = Vec::with_capacity(batch.len() + 100);
        body.extend((-1_i16).to_be_bytes());
        body.extend((-1_i16).to_be_bytes());
        body.extend(10_000_i32.to_be_bytes());
        body.extend(1_i32.to_be_bytes());
        put_text(&mut body, topic);
        body.extend(1_i32.to_be_bytes());
        body.extend(partition.to_be_bytes());
        body.extend(i32::try_from(batch.len()).map_err(|_| WireError::Answer)?.to_be_bytes());
        body.extend(batch);
        let answer = self.call(PRODUCE, &body).await?;
        let mut answer = Reader(&answer);
        let read = (|| {
            answer.i32()?;
            answer.text()?;
            answer.i32()?;
            answer.i32()?;
            Some((answer.i16()?, answer.i64()?))
        })();
        /// DUPLICATE_SEQUENCE_NUMBER
        const WRITTEN_BEFORE: i16 = 46;
        match read.ok_or(WireError::Answer)? {
            (WRITTEN_BEFORE, _) => Ok(None),
            (code, offset) => check("Produce", code).map(|()| Some(offset)),
        }
    }

    async fn call(&mut self, (api, version): (i16, i16), body: &[u8]) -> Result<Vec<u8>, WireError> {
        self.correlation_id += 1;
        let mut frame = Vec::with_capacity(body.len() + 40);
        frame.extend([0; 4]);
        frame.extend(api.to_be_bytes());
        frame.extend(version.to_be_bytes());
        frame.extend(self.correlation_id.to_be_bytes());
        put_text(&mut frame, CLIENT_ID);
        frame.extend(body);
        let size = u32::try_from(frame.len() - 4).map_err(|_| WireError::Answer)?;
        frame[..4].copy_from_slice(&size.to_be_bytes());
        self.stream.write_all(&frame).await?;
        let size = self.stream.read_u32().await? as usize;
        if !(4..=ANSWER_MAX_BYTES).contains(&size) {
            return Err(WireError::Answer);
        }
        let mut answer = vec![0; size];
        self.stream.read_exact(&mut answer).await?;
        match answer.split_first_chunk::<4>() {
            Some((id, rest)) if i32::from_be_bytes(*id) == self.correlation_id => Ok(rest.to_vec()),
            _ => Err(WireError::Answer),
        }
    }
}

fn check(request: &'static str, code: i16) -> Result<(), WireError> {
    if code == 0 { Ok(()) } else { Err(WireError::Refused { request, code }) }
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    // Names of topics and of this client, and no longer texts, are written.
    out.extend((text.len() as u16).to_be_bytes());
    out.extend(text.as_bytes());
}

/// None: the answer ends before it should.
fn topic(answer: &mut Reader<'_>) -> Option<Result<Topic, WireError>> {
    answer.i32()?;
    let mut brokers = Vec::new();
    for _ in 0..answer.count()? {
        let node = answer.i32()?;
        let (host, port) = (answer.text()??, answer.i32()?);
        answer.text()?;
        brokers.push((node, (host, u16::try_from(port).ok()?)));
    }
    answer.text()?;
    answer.i32()?;
    answer.count()?;
    let code = answer.i16()?;
    if let Err(error) = check("Metadata", code) {
        return Some(Err(error));
    }
    answer.text()?;
    answer.take(1)?;
    let mut partitions = Vec::new();
    for _ in 0..answer.count()? {
        answer.i16()?;
        let (index, leader) = (answer.i32()?, answer.i32()?);
        for _ in 0..2 {
            let replicas = usize::try_from(answer.count()?).ok()?;
            answer.take(replicas.checked_mul(4)?)?;
        }
        let address = brokers.iter().find(|(node, _)| *node == leader).map(|(_, address)| address.clone());
        partitions.push((index, address));
    }
    partitions.sort();
    let leaders = partitions.into_iter().map(|(_, address)| address).collect();
    Some(Ok(Topic { leaders }))
}

/// Reads an answer. None: it ends before that.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn i16(&mut self) -> Option<i16> {
        Some(i16::from_be_bytes(self.take(2)?.try_into().ok()?))
    }

    fn i32(&mut self) -> Option<i32> {
        Some(i32::from_be_bytes(self.take(4)?.try_into().ok()?))
    }

    fn i64(&mut self) -> Option<i64> {
        Some(i64::from_be_bytes(self.take(8)?.try_into().ok()?))
    }

    fn count(&mut self) -> Option<i32> {
        self.i32().filter(|count| (0..=ITEMS_MAX).contains(count))
    }

    /// The inner None is a text that is null.
    fn text(&mut self) -> Option<Option<String>> {
        match self.i16()? {
            ..0 => Some(None),
            length => {
                let bytes = self.take(usize::try_from(length).ok()?)?;
                Some(Some(String::from_utf8(bytes.to_vec()).ok()?))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_that_is_cut_off_is_none() {
        let mut answer = vec![0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 7, 0, 1, b'a', 0, 0, 0x23, 0x84, 0xff, 0xff];
        answer.extend([0xff, 0xff, 0, 0, 0, 7, 0, 0, 0, 1, 0, 0, 0, 1, b't', 0, 0, 0, 0, 1]);
        answer.extend([0, 0, 0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 1, 0, 0, 0, 7, 0, 0, 0, 1, 0, 0, 0, 7]);
        let read = topic(&mut Reader(&answer)).unwrap().unwrap();
        assert_eq!(read, Topic { leaders: vec![Some(("a".to_owned(), 9092))] });
        for length in 0..answer.len() {
            assert!(topic(&mut Reader(&answer[..length])).is_none(), "{length}");
        }
    }
}
