//! Producer ids: taken from the metadata store in blocks, handed out one by one.

use std::ops::Range;

use kafscale_core::ids::ProducerId;
use kafscale_meta::Metadata;
use tokio::sync::Mutex;

/// Hands out producer ids, none of them twice in the life of the cluster.
#[derive(Debug)]
pub struct ProducerIds {
    metadata: Metadata,
    block: Mutex<Range<i64>>,
}

impl ProducerIds {
    pub fn new(metadata: Metadata) -> ProducerIds {
        ProducerIds { metadata, block: Mutex::new(0..0) }
    }

    pub async fn next(&self) -> Result<ProducerId, kafscale_meta::Error> {
        // The lock is held over the request for a block, so that a crowd of producers takes one block and not many.
        let mut block = self.block.lock().await;
        loop {
            if let Some(id) = block.next() {
                return Ok(ProducerId(id));
            }
            *block = self.metadata.allocate_producer_id_block().await?;
        }
    }
}
