//! A frame that a peer sent to the Kafka port: the header, then the body of any API in any version that is served.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|frame: &[u8]| {
    kafscale_broker::fuzz::request_frame(frame);
});
