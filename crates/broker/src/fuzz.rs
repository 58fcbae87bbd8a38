//! Entry points for fuzzers: what a peer sends, as far as it can be read without a broker.

use bytes::{BufMut, BytesMut};
use kafka_protocol::messages::ApiKey;

use crate::api;
use crate::wire;

/// Reads one frame, without the length in front, as a connection would: header, then body. Whether it is accepted does not
/// matter; that this returns does, and that it takes no more memory than the frame may.
pub fn request_frame(frame: &[u8]) -> bool {
    let Ok((api, version, body)) = wire::split_frame(BytesMut::from(frame)) else { return false };
    api::is_supported(api, version) && api::decode_only(api, version, body).is_ok()
}

/// Frames to begin with: a request of each API in each version.
pub fn seeds() -> Vec<Vec<u8>> {
    let frame = |(api, version, body): (ApiKey, i16, BytesMut)| framed(api as i16, version, &body);
    api::samples().into_iter().map(frame).collect()
}

fn framed(api: i16, version: i16, body: &[u8]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(body.len() + 11);
    frame.put_i16(api);
    frame.put_i16(version);
    frame.put_i32(1);
    frame.put_i16(-1); // no client id
    if ApiKey::try_from(api).is_ok_and(|key| key.request_header_version(version) >= 2) {
        frame.put_u8(0); // no tagged fields
    }
    frame.put_slice(body);
    frame
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Bytes as they are likely to stand in a request: small counts and lengths more often than large ones.
    fn body() -> impl Strategy<Value = Vec<u8>> {
        let byte = prop_oneof![4 => 0u8..4, 2 => any::<u8>(), 1 => Just(0xff)];
        proptest::collection::vec(byte, 0..120)
    }

    #[test]
    fn every_version_has_a_sample_that_is_accepted() {
        let samples = api::samples();
        for (key, range) in api::SUPPORTED {
            for version in range.min.max(if *key == ApiKey::Produce { 3 } else { 0 })..=range.max {
                let sample = samples.iter().find(|(api, v, _)| (api, *v) == (key, version));
                let (_, _, body) = sample.unwrap_or_else(|| panic!("{key:?} {version} has no sample"));
                assert!(request_frame(&framed(*key as i16, version, body)), "{key:?} {version}");
            }
        }
    }

    #[test]
    fn a_request_that_is_cut_off_is_refused() {
        for (api, version, body) in api::samples() {
            for length in 0..body.len() {
                let frame = framed(api as i16, version, &body[..length]);
                assert!(!request_frame(&frame), "{api:?} {version} at {length} of {}", body.len());
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(3000))]

        #[test]
        fn any_body_is_read_or_refused(body in body(), which in any::<prop::sample::Index>()) {
            let samples = api::samples();
            let (api, version, _) = samples[which.index(samples.len())];
            request_frame(&framed(api as i16, version, &body));
        }

        #[test]
        fn any_frame_is_read_or_refused(frame in proptest::collection::vec(any::<u8>(), 0..60)) {
            request_frame(&frame);
        }

        #[test]
        fn a_changed_request_is_read_or_refused(
            which in any::<prop::sample::Index>(),
            changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        ) {
            let seeds = seeds();
            let mut frame = seeds[which.index(seeds.len())].clone();
            for (at, with) in changes {
                let at = at.index(frame.len());
                frame[at] = with;
            }
            request_frame(&frame);
        }
    }
}
