//! Entry points for fuzzers: what a peer sends, as far as it can be read without a broker.

use bytes::BytesMut;

use crate::api;
use crate::wire;

/// Reads one frame, without the length in front, as a connection would: header, then body. Whether it is accepted does not
/// matter; that this returns does, and that it takes no more memory than the frame may.
pub fn request_frame(frame: &[u8]) -> bool {
    let Ok((api, version, body)) = wire::split_frame(BytesMut::from(frame)) else { return false };
    api::is_supported(api, version) && api::decode_only(api, version, body).is_ok()
}

#[cfg(test)]
mod tests {
    use bytes::BufMut;
    use kafka_protocol::messages::{
        ApiKey, CreateTopicsRequest, FetchRequest, JoinGroupRequest, MetadataRequest, OffsetCommitRequest,
    };
    use kafka_protocol::protocol::Request;
    use proptest::prelude::*;

    use super::*;

    fn framed(api: i16, version: i16, body: &[u8]) -> BytesMut {
        let mut frame = BytesMut::new();
        frame.put_i16(api);
        frame.put_i16(version);
        frame.put_i32(1);
        frame.put_i16(-1);
        let flexible = ApiKey::try_from(api).is_ok_and(|key| key.request_header_version(version) >= 2);
        if flexible {
            frame.put_u8(0);
        }
        frame.put_slice(body);
        frame
    }

    fn every_version() -> Vec<(i16, i16)> {
        let versions = |(key, range): &(ApiKey, kafka_protocol::protocol::VersionRange)| {
            let key = *key as i16;
            (range.min..=range.max).map(move |version| (key, version)).collect::<Vec<_>>()
        };
        api::SUPPORTED.iter().flat_map(versions).collect()
    }

    /// Bytes as they are likely to stand in a request: small counts and lengths more often than large ones.
    fn body() -> impl Strategy<Value = Vec<u8>> {
        let byte = prop_oneof![4 => 0u8..4, 2 => any::<u8>(), 1 => Just(0xff)];
        proptest::collection::vec(byte, 0..120)
    }

    fn check_mutations<Q: Request>(request: &Q, at: usize, with: u8) {
        for version in Q::VERSIONS.min..=Q::VERSIONS.max {
            let mut body = BytesMut::new();
            if request.encode(&mut body, version).is_err() {
                continue;
            }
            if api::is_supported(ApiKey::try_from(Q::KEY).unwrap(), version) {
                assert!(request_frame(&framed(Q::KEY, version, &body)), "version {version} of {}", Q::KEY);
            }
            for length in 0..body.len() {
                request_frame(&framed(Q::KEY, version, &body[..length]));
            }
            if !body.is_empty() {
                let at = at % body.len();
                body[at] = with;
            }
            request_frame(&framed(Q::KEY, version, &body));
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn any_body_is_read_or_refused(body in body(), which in any::<prop::sample::Index>()) {
            let all = every_version();
            let (api, version) = all[which.index(all.len())];
            request_frame(&framed(api, version, &body));
        }

        #[test]
        fn any_frame_is_read_or_refused(frame in proptest::collection::vec(any::<u8>(), 0..60)) {
            request_frame(&frame);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]

        #[test]
        fn changed_and_cut_off_requests_are_read_or_refused(at in any::<usize>(), with in any::<u8>()) {
            check_mutations(&FetchRequest::default(), at, with);
            check_mutations(&MetadataRequest::default(), at, with);
            check_mutations(&CreateTopicsRequest::default(), at, with);
            check_mutations(&JoinGroupRequest::default(), at, with);
            check_mutations(&OffsetCommitRequest::default(), at, with);
        }
    }
}
