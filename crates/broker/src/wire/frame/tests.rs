//! How requests come off a socket: whole, in pieces, too slowly, without memory.

use std::net::IpAddr;

use bytes::Bytes;
use kafscale_storage::Requester;
use proptest::prelude::*;
use tokio::io::{AsyncWriteExt, DuplexStream, duplex};

use super::super::RequestMemory;
use super::*;

const MIB: usize = 1 << 20;

struct Peer {
    memory: Arc<RequestMemory>,
    output: DuplexStream,
    frames: FrameReader<DuplexStream>,
}

fn peer_of(memory: &Arc<RequestMemory>, n: u8) -> Peer {
    let (output, input) = duplex(16 << 10);
    let account = memory.account(Requester::Peer(IpAddr::from([10, 0, 0, n])));
    let frames = FrameReader::new(input, 100 * MIB, Duration::from_secs(600), account);
    Peer { memory: Arc::clone(memory), output, frames }
}

fn peer() -> Peer {
    peer_of(&Arc::new(RequestMemory::new(164 * MIB, 100 * MIB)), 1)
}

fn frame(api: ApiKey, body: usize) -> Bytes {
    let mut out = BytesMut::new();
    out.put_i32(10 + body as i32);
    out.put_i16(api as i16);
    out.put_i16(7);
    out.put_i32(42);
    out.put_i16(-1);
    out.extend((0..body).map(|n| n as u8));
    out.freeze()
}

#[tokio::test(start_paused = true)]
async fn a_frame_is_charged_as_its_bytes_arrive() {
    let Peer { memory, mut output, mut frames } = peer();
    let whole = frame(ApiKey::Produce, 50 * MIB);
    let reading = tokio::spawn(async move { frames.next().await.map(|frame| (frame, frames)) });
    for (from, to) in [(0, 12), (12, 14), (14, 100_000), (100_000, 3 * MIB)] {
        output.write_all(&whole[from..to]).await.unwrap();
        tokio::time::sleep(Duration::from_millis(1)).await;
        assert_eq!(memory.used_bytes(), to - 12, "after {to} bytes");
    }
    output.write_all(&whole[3 * MIB..]).await.unwrap();
    let (read, frames) = reading.await.unwrap().unwrap();
    assert_eq!(read.body, whole[14..]);
    assert_eq!(memory.used_bytes(), whole.len() - 12);
    drop(read);
    assert_eq!(memory.used_bytes(), 0);
    drop(frames);
}

#[tokio::test(start_paused = true)]
async fn decoding_is_charged_when_a_frame_has_arrived() {
    let Peer { memory, mut output, mut frames } = peer();
    output.write_all(&frame(ApiKey::Metadata, 1000)).await.unwrap();
    let read = frames.next().await.unwrap();
    assert_eq!(memory.used_bytes(), 1002 + 7 * 1010);
    drop(read);
    assert_eq!(memory.used_bytes(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_peer_below_the_minimum_rate_is_given_up() {
    let Peer { memory, mut output, mut frames } = peer();
    let began = Instant::now();
    let reading = tokio::spawn(async move { frames.next().await });
    output.write_all(&frame(ApiKey::Produce, 90 * MIB)[..1000]).await.unwrap();
    while output.write_all(&[0; 100]).await.is_ok() {
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    assert!(matches!(reading.await.unwrap(), Err(FrameError::Stalled)));
    assert!(began.elapsed() < Duration::from_secs(40), "{:?}", began.elapsed());
    assert_eq!(memory.used_bytes(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_peer_above_the_minimum_rate_may_take_its_time() {
    let Peer { mut output, mut frames, .. } = peer();
    let whole = frame(ApiKey::Produce, 10 * MIB);
    let reading = tokio::spawn(async move { frames.next().await });
    for part in whole.chunks(100 << 10) {
        output.write_all(part).await.unwrap();
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    assert_eq!(reading.await.unwrap().unwrap().body, whole[14..]);
}

#[tokio::test(start_paused = true)]
async fn large_requests_of_many_peers_all_arrive() {
    let memory = Arc::new(RequestMemory::new(116 * MIB, 100 * MIB));
    let whole = frame(ApiKey::Produce, 60 * MIB);
    let mut arriving = tokio::task::JoinSet::new();
    for n in 0..6 {
        let Peer { mut output, mut frames, .. } = peer_of(&memory, n);
        let whole = whole.clone();
        arriving.spawn(async move {
            let send = async {
                output.write_all(&whole).await.unwrap();
            };
            let (read, ()) = tokio::join!(frames.next(), send);
            read.unwrap().body.len()
        });
    }
    while let Some(length) = arriving.join_next().await {
        assert_eq!(length.unwrap(), 60 * MIB);
    }
    assert_eq!(memory.used_bytes(), 0);
}

#[tokio::test(start_paused = true)]
async fn whoever_stalls_with_the_turn_loses_it() {
    let memory = Arc::new(RequestMemory::new(116 * MIB, 100 * MIB));
    let whole = frame(ApiKey::Produce, 90 * MIB);
    let mut stalling = Vec::new();
    for n in 0..3 {
        let Peer { mut output, mut frames, .. } = peer_of(&memory, n);
        let half = whole.slice(..40 * MIB);
        let reading = tokio::spawn(async move { frames.next().await });
        stalling.push((reading, tokio::spawn(async move { output.write_all(&half).await.map(|()| output) })));
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    let Peer { mut output, mut frames, .. } = peer_of(&memory, 9);
    let sending = tokio::spawn(async move { output.write_all(&frame(ApiKey::Produce, 50 * MIB)).await });
    assert_eq!(frames.next().await.unwrap().body.len(), 50 * MIB);
    sending.await.unwrap().unwrap();
    for (reading, sending) in stalling {
        reading.abort();
        sending.abort();
    }
}

#[tokio::test(start_paused = true)]
async fn a_frame_that_gets_no_memory_is_given_up() {
    let memory = Arc::new(RequestMemory::new(116 * MIB, 100 * MIB));
    let holder = memory.account(Requester::Peer(IpAddr::from([10, 0, 0, 7])));
    // A request that is being handled, by the turn, and takes long.
    let mut held = holder.charge();
    while held.try_grow(1, MIB).is_some() {}
    held.wait(90 * MIB).await;
    held.try_grow(90 * MIB, 90 * MIB).expect("it has the turn");
    held.arrived();
    let Peer { mut output, mut frames, .. } = peer_of(&memory, 1);
    let sending = tokio::spawn(async move { output.write_all(&frame(ApiKey::Produce, MIB)).await });
    assert!(matches!(frames.next().await, Err(FrameError::NoMemory)));
    drop(frames);
    assert!(sending.await.unwrap().is_err(), "the connection is closed");
}

proptest! {
    /// However a stream is cut into parts, the same frames come out of it.
    #[test]
    fn frames_do_not_depend_on_how_they_arrive(
        bodies in proptest::collection::vec(0usize..40_000, 1..4),
        parts in proptest::collection::vec(1usize..20_000, 1..20),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let Peer { memory, mut output, mut frames } = peer();
            let stream: Vec<u8> =
                bodies.iter().flat_map(|body| frame(ApiKey::Produce, *body).to_vec()).collect();
            tokio::spawn(async move {
                let mut rest = &stream[..];
                for part in parts.iter().cycle() {
                    if rest.is_empty() {
                        break;
                    }
                    let (now, later) = rest.split_at((*part).min(rest.len()));
                    output.write_all(now).await.unwrap();
                    tokio::time::sleep(Duration::from_millis(1)).await;
                    rest = later;
                }
            });
            for body in bodies {
                let read = frames.next().await.unwrap();
                assert_eq!(read.body, frame(ApiKey::Produce, body)[14..]);
            }
            assert!(matches!(frames.next().await, Err(FrameError::Closed)));
            assert_eq!(memory.used_bytes(), 0);
        });
    }
}
